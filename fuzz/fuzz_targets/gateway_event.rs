//! The event of a gateway, which anyone can send.

#![no_main]

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use lambda_http::{Request, RequestExt, http::Uri, request::LambdaRequest};
use libfuzzer_sys::fuzz_target;
use receive::{
    delivery::{Delivery, RequestError},
    gateway::{MAX_BODY_BYTES, WEBHOOK_PATH, neutral},
};
use serde_json::{Value, value::RawValue};
use unith_events::timestamp::Timestamp;

fuzz_target!(|text: &str| {
    let Ok(event) = serde_json::from_str::<&RawValue>(text) else { return };
    let request = neutral(event);
    let (method, path) = method_and_path(&request);
    // `lambda_http` panics at what it cannot read.
    let request = Request::from(request);
    assert_eq!(request.method().as_str(), method);
    assert_eq!(request.raw_http_path(), path);
    let now = Timestamp::parse("2026-01-15T09:57:34Z").expect("an instant");
    let delivery = Delivery::from_request(request, now);
    let expected = expected_body(text);
    match delivery.signed_body() {
        Ok((body, signature, received_at)) => {
            assert_eq!((method.as_str(), path.as_str(), received_at), ("POST", WEBHOOK_PATH, now));
            assert!(body.len() <= MAX_BODY_BYTES);
            if let Some(expected) = expected {
                assert_eq!(body, expected);
            }
            let shown = format!("{delivery:?}");
            assert!(!shown.contains(&signature.to_hex()));
        }
        Err(RequestError::NotFound { path: shown }) => {
            assert_eq!(shown, path);
            assert!(shown.len() <= 1 + 3 * 200 && shown.parse::<Uri>().is_ok(), "{shown}");
            assert!(shown.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~/%".contains(&byte)), "{shown}");
        }
        Err(RequestError::MethodNotAllowed) => assert!(method != "POST" && path == WEBHOOK_PATH),
        Err(RequestError::TooLarge { bytes }) => assert!(bytes > MAX_BODY_BYTES),
        Err(RequestError::UndecodableBody) => assert_eq!(expected, None),
        Err(_) => assert_eq!((method.as_str(), path.as_str()), ("POST", WEBHOOK_PATH)),
    }
});

fn method_and_path(request: &LambdaRequest) -> (String, String) {
    let (method, path) = match request {
        LambdaRequest::ApiGatewayV1(request) => (&request.http_method, &request.path),
        LambdaRequest::ApiGatewayV2(request) => (&request.request_context.http.method, &request.raw_path),
        other => panic!("not a request of API Gateway: {other:?}"),
    };
    (method.to_string(), path.clone().expect("a path"))
}

/// The body by another reading of the event. `None` if that is stricter than ours.
fn expected_body(event: &str) -> Option<Vec<u8>> {
    let event: Value = serde_json::from_str(event).ok()?;
    let body = match event.get("body") {
        None | Some(Value::Null) => return Some(Vec::new()),
        Some(body) => body.as_str()?,
    };
    match event.get("isBase64Encoded") {
        Some(Value::Bool(true)) => BASE64.decode(body).ok(),
        Some(Value::String(flag)) if flag.eq_ignore_ascii_case("true") => BASE64.decode(body).ok(),
        None | Some(Value::Bool(false) | Value::Null) => Some(body.as_bytes().to_vec()),
        Some(_) => None,
    }
}
