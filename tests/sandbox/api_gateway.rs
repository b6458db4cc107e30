//! The simulated API Gateway does what an HTTP API of AWS does.

use std::{collections::BTreeMap, sync::Arc};

use sandbox::{
    api_gateway::{ApiGateway, Function},
    http_client::http_client,
    server::listen,
};
use serde_json::{Value, json};

use crate::within_limit;

/// A function that responds with its event.
fn echo() -> Function {
    Arc::new(|event, context| {
        Box::pin(async move {
            let event: Value = serde_json::from_str(&event).unwrap();
            let body = json!({"event": event, "request_id": context.request_id}).to_string();
            Ok(json!({"statusCode": 200, "headers": {"content-type": "application/json"}, "body": body}))
        })
    })
}

async fn start() -> ApiGateway {
    let panics: Function = Arc::new(|_, _| Box::pin(async { panic!("on purpose") }));
    let fails: Function = Arc::new(|_, _| Box::pin(async { Err("on purpose".to_owned()) }));
    let nonsense: Function = Arc::new(|_, _| Box::pin(async { Ok(json!("nonsense")) }));
    let routes: BTreeMap<String, Function> =
        [("POST /echo", echo()), ("POST /panics", panics), ("POST /fails", fails), ("POST /nonsense", nonsense)]
            .map(|(route, function)| (route.to_owned(), function))
            .into();
    ApiGateway::serve(listen("API Gateway", 0).await.unwrap(), routes).unwrap()
}

async fn post(
    gateway: &ApiGateway,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<reqwest::Body>,
) -> (u16, Value) {
    let mut request = http_client().unwrap().post(format!("{}{path}", gateway.url())).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = within_limit(request.send()).await.unwrap();
    (response.status().as_u16(), within_limit(response.json()).await.unwrap())
}

#[tokio::test]
async fn a_request_becomes_an_event_of_payload_2() {
    let gateway = start().await;
    let headers = [("content-type", "application/json"), ("X-Twice", "a"), ("X-Twice", "b")];
    let (status, response) = post(&gateway, "/echo?a=1", &headers, r#"{"a": 1}"#).await;
    assert_eq!(status, 200);
    let event = &response["event"];
    for (pointer, value) in [
        ("/version", json!("2.0")),
        ("/routeKey", json!("POST /echo")),
        ("/rawPath", json!("/echo")),
        ("/rawQueryString", json!("a=1")),
        ("/headers/x-twice", json!("a,b")),
        ("/requestContext/http/method", json!("POST")),
        ("/requestContext/stage", json!("$default")),
        ("/body", json!(r#"{"a": 1}"#)),
        ("/isBase64Encoded", json!(false)),
    ] {
        assert_eq!(event.pointer(pointer), Some(&value), "{pointer}");
    }
    assert_eq!(response["request_id"].as_str().unwrap().len(), 36);
}

#[tokio::test]
async fn a_body_that_is_not_text_is_encoded_in_base64() {
    let gateway = start().await;
    for (content_type, body, encoded, expected) in [
        ("application/json; charset=utf-8", b"text".to_vec(), false, "text"),
        ("text/plain", b"text".to_vec(), false, "text"),
        ("application/octet-stream", b"text".to_vec(), true, "dGV4dA=="),
        ("application/x-www-form-urlencoded", b"text".to_vec(), true, "dGV4dA=="),
        ("application/json", vec![0xff], true, "/w=="),
    ] {
        let (_, response) = post(&gateway, "/echo", &[("content-type", content_type)], body).await;
        let event = &response["event"];
        assert_eq!((&event["isBase64Encoded"], &event["body"]), (&json!(encoded), &json!(expected)), "{content_type}");
    }
}

#[tokio::test]
async fn missing_routes_failures_and_large_bodies_get_the_responses_of_api_gateway() {
    let gateway = start().await;
    let error = (500, json!({"message": "Internal Server Error"}));
    assert_eq!(post(&gateway, "/other", &[], "").await, (404, json!({"message": "Not Found"})));
    for path in ["/panics", "/fails", "/nonsense"] {
        assert_eq!(post(&gateway, path, &[], "").await, error, "{path}");
    }
    let get = http_client().unwrap().get(format!("{}/echo", gateway.url()));
    let response = within_limit(get.send()).await.unwrap();
    assert_eq!(response.status().as_u16(), 404, "there is a route for POST only");
    let (status, _) = post(&gateway, "/echo", &[], vec![b'x'; 10 * 1024 * 1024 + 1]).await;
    assert_eq!(status, 413);
}
