//! Gateway events: the JSON that a Lambda function gets for a POST to the webhook.
//!
//! The shapes are recorded in `tests/fixtures`, complete as AWS sends them. `bench/workload` compiles this file too.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "an unusable fixture is a defect of the repository"
)]

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

/// The recorded events: file name and text.
///
/// Each carries the event of UNITH's guide, signed with the key of UNITH's guide.
pub const RECORDED: [(&str, &str); 5] = [
    ("http-api-2.0", include_str!("../fixtures/http-api-2.0.json")),
    ("http-api-2.0-kit", include_str!("../fixtures/http-api-2.0-kit.json")),
    ("http-api-2.0-base64", include_str!("../fixtures/http-api-2.0-base64.json")),
    ("rest-api-1.0", include_str!("../fixtures/rest-api-1.0.json")),
    ("function-url", include_str!("../fixtures/function-url.json")),
];

/// What stands between UNITH and the function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gateway {
    /// An HTTP API of API Gateway: payload 2.0.
    HttpApi,
    /// A REST API of API Gateway: payload 1.0.
    RestApi,
    /// A Lambda function URL: payload 2.0.
    FunctionUrl,
}

impl Gateway {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::HttpApi, Self::RestApi, Self::FunctionUrl];

    /// The event for a POST of `body`, base64-encoded if it is not UTF-8.
    pub fn event(self, body: &[u8], signature: Option<&str>) -> Value {
        let mut event = recorded(match self {
            Self::HttpApi => "http-api-2.0",
            Self::RestApi => "rest-api-1.0",
            Self::FunctionUrl => "function-url",
        });
        let (text, is_base64_encoded) = match std::str::from_utf8(body) {
            Ok(text) => (text.to_owned(), false),
            Err(_) => (BASE64.encode(body), true),
        };
        event["body"] = text.into();
        event["isBase64Encoded"] = is_base64_encoded.into();
        // REST APIs keep the case of header names, and list the values too.
        let name = if self == Self::RestApi { "X-Signature-256" } else { "x-signature-256" };
        for (member, value) in [("headers", json!(signature)), ("multiValueHeaders", json!([signature]))] {
            let Some(headers) = event.get_mut(member).and_then(Value::as_object_mut) else { continue };
            headers.remove(name);
            if signature.is_some() {
                headers.insert(name.to_owned(), value);
            }
        }
        event
    }
}

/// A recorded event by the name of its file.
pub fn recorded(name: &str) -> Value {
    let (_, text) = RECORDED.iter().find(|(recorded, _)| *recorded == name).expect("the event is recorded");
    serde_json::from_str(text).expect("the fixture is JSON")
}

/// The event of an HTTP API, the gateway that the template deploys.
pub fn http_api_event(body: &[u8], signature: Option<&str>) -> Value {
    Gateway::HttpApi.event(body, signature)
}
