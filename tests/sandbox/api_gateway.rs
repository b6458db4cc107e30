//! The front does what API Gateway does.

use std::{collections::BTreeMap, sync::Arc};

use sandbox::{
    api_gateway::{ApiGateway, Function},
    server::listen,
};
use serde_json::{Value, json};

/// A function that answers with the event it was given.
fn echo() -> Function {
    Arc::new(|event, context| {
        Box::pin(async move {
            let event: Value = serde_json::from_str(&event).unwrap();
            let body = json!({"event": event, "request_id": context.request_id}).to_string();
            Ok(json!({"statusCode": 200, "headers": {"content-type": "application/json"}, "body": body}))
        })
    })
}

async fn front() -> ApiGateway {
    let panics: Function = Arc::new(|_, _| Box::pin(async { panic!("on purpose") }));
    let fails: Function = Arc::new(|_, _| Box::pin(async { Err("on purpose".to_owned()) }));
    let nonsense: Function = Arc::new(|_, _| Box::pin(async { Ok(json!("nonsense")) }));
    let routes: BTreeMap<String, Function> =
        [("POST /echo", echo()), ("POST /panics", panics), ("POST /fails", fails), ("POST /nonsense", nonsense)]
            .map(|(route, function)| (route.to_owned(), function))
            .into();
    ApiGateway::serve(listen("the front", 0).await.unwrap(), routes).unwrap()
}

async fn post(
    front: &ApiGateway,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<reqwest::Body>,
) -> (u16, Value) {
    let mut request = provision::unith::http_client().post(format!("{}{path}", front.url())).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn a_request_becomes_an_event_of_payload_2() {
    let front = front().await;
    let headers = [("content-type", "application/json"), ("X-Twice", "a"), ("X-Twice", "b")];
    let (status, answer) = post(&front, "/echo?a=1", &headers, r#"{"a": 1}"#).await;
    assert_eq!(status, 200);
    let event = &answer["event"];
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
    assert_eq!(answer["request_id"].as_str().unwrap().len(), 36);
}

#[tokio::test]
async fn what_is_not_text_comes_in_base64() {
    let front = front().await;
    for (content_type, body, encoded, expected) in [
        ("application/json; charset=utf-8", b"text".to_vec(), false, "text"),
        ("text/plain", b"text".to_vec(), false, "text"),
        ("application/octet-stream", b"text".to_vec(), true, "dGV4dA=="),
        ("application/x-www-form-urlencoded", b"text".to_vec(), true, "dGV4dA=="),
        ("application/json", vec![0xff], true, "/w=="),
    ] {
        let (_, answer) = post(&front, "/echo", &[("content-type", content_type)], body).await;
        let event = &answer["event"];
        assert_eq!((&event["isBase64Encoded"], &event["body"]), (&json!(encoded), &json!(expected)), "{content_type}");
    }
}

#[tokio::test]
async fn what_has_no_route_or_fails_is_answered_as_the_gateway_does() {
    let front = front().await;
    let error = (500, json!({"message": "Internal Server Error"}));
    assert_eq!(post(&front, "/other", &[], "").await, (404, json!({"message": "Not Found"})));
    for path in ["/panics", "/fails", "/nonsense"] {
        assert_eq!(post(&front, path, &[], "").await, error, "{path}");
    }
    let get = provision::unith::http_client().get(format!("{}/echo", front.url())).send().await.unwrap();
    assert_eq!(get.status().as_u16(), 404, "no route for this method");
    let (status, _) = post(&front, "/echo", &[], vec![b'x'; 10 * 1024 * 1024 + 1]).await;
    assert_eq!(status, 413);
}
