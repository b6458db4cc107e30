//! The ways a request reaches a Lambda function, each with its complete event.

use serde_json::{Value, json};
use tests::{KEY, World, event, http_api_event, sign};

fn fixture(name: &str) -> Value {
    let text = match name {
        "http-api-2.0" => include_str!("../fixtures/http-api-2.0.json"),
        "http-api-2.0-base64" => include_str!("../fixtures/http-api-2.0-base64.json"),
        "rest-api-1.0" => include_str!("../fixtures/rest-api-1.0.json"),
        "function-url" => include_str!("../fixtures/function-url.json"),
        _ => panic!("no fixture {name}"),
    };
    serde_json::from_str(text).unwrap()
}

const ALL: [&str; 4] = ["http-api-2.0", "http-api-2.0-base64", "rest-api-1.0", "function-url"];

#[tokio::test]
async fn every_gateway_delivers_the_same_event() {
    for name in ALL {
        let world = World::new().await;
        let answer = world.receiver().await.invoke(&fixture(name)).await;
        assert_eq!(answer.word(), (200, "stored".into()), "{name}: {}", answer.record);
        assert_eq!(answer.json()["event_id"], "82b261c4eb653e535c0deda1ac8351d7", "{name}");
        assert_eq!(answer.headers["content-type"], "application/json", "{name}");
    }
}

#[tokio::test]
async fn every_gateway_is_told_what_is_wrong() {
    let world = World::new().await;
    let receiver = world.receiver().await;
    for name in ALL {
        let mut unsigned = fixture(name);
        for headers in ["headers", "multiValueHeaders"] {
            if let Some(headers) = unsigned[headers].as_object_mut() {
                headers.retain(|name, _| !name.eq_ignore_ascii_case("x-signature-256"));
            }
        }
        let answer = receiver.invoke(&unsigned).await;
        assert_eq!((answer.status, answer.reason()), (401, "no signature header (X-Signature-256)"), "{name}");

        let mut get = fixture(name);
        get["httpMethod"] = "GET".into();
        if name != "rest-api-1.0" {
            get["requestContext"]["http"]["method"] = "GET".into();
        }
        let answer = receiver.invoke(&get).await;
        assert_eq!((answer.status, answer.headers["allow"].as_str()), (405, "POST"), "{name}");
    }
}

#[tokio::test]
async fn header_names_come_in_any_case() {
    let world = World::new().await;
    let receiver = world.receiver().await;
    let body = event(&json!({}));
    for name in ["x-signature-256", "X-Signature-256", "X-SIGNATURE-256"] {
        let mut request = http_api_event(&body, None);
        request["headers"][name] = sign(&body, KEY).into();
        assert_eq!(receiver.invoke(&request).await.status, 200, "{name}");
    }
}

#[tokio::test]
async fn a_repeated_signature_is_malformed_in_either_payload() {
    let world = World::new().await;
    let receiver = world.receiver().await;
    let good = sign(&event(&json!({})), KEY);

    let joined = http_api_event(&event(&json!({})), Some(&format!("{good},{good}")));
    let answer = receiver.invoke(&joined).await;
    assert_eq!(answer.status, 401);
    assert!(answer.reason().starts_with("the signature header is malformed"), "{}", answer.reason());

    let mut listed = fixture("rest-api-1.0");
    let once = listed["headers"]["X-Signature-256"].clone();
    listed["multiValueHeaders"]["X-Signature-256"] = json!([once, once]);
    let answer = receiver.invoke(&listed).await;
    assert_eq!((answer.status, answer.reason()), (401, "the signature header came 2 times"));
    assert!(world.table.items().await.is_empty());
}

#[tokio::test]
async fn a_rest_event_may_have_its_headers_in_one_form_only() {
    let world = World::new().await;
    let receiver = world.receiver().await;
    for absent in ["headers", "multiValueHeaders"] {
        let mut request = fixture("rest-api-1.0");
        request[absent] = Value::Null;
        assert_eq!(receiver.invoke(&request).await.status, 200, "without {absent}");
    }
}

#[tokio::test]
async fn a_named_stage_is_not_part_of_the_path() {
    let world = World::new().await;
    let receiver = world.receiver().await;
    let mut staged = fixture("http-api-2.0");
    staged["requestContext"]["stage"] = "prod".into();
    staged["rawPath"] = "/prod/webhooks/head-events".into();
    assert_eq!(receiver.invoke(&staged).await.status, 200);
    // A custom domain leaves the stage out.
    staged["rawPath"] = "/webhooks/head-events".into();
    assert_eq!(receiver.invoke(&staged).await.status, 200);
    staged["rawPath"] = "/production/webhooks/head-events".into();
    assert_eq!(receiver.invoke(&staged).await.status, 404);
}

#[tokio::test]
async fn the_base_path_of_a_custom_domain_is_not_part_of_the_path() {
    let world = World::new().await;
    let receiver = world.receiver().await;
    let mut mapped = fixture("rest-api-1.0");
    mapped["path"] = "/unith/webhooks/head-events".into();
    assert_eq!(receiver.invoke(&mapped).await.status, 200);
    mapped["path"] = "/webhooks/head-events/more".into();
    assert_eq!(receiver.invoke(&mapped).await.status, 404);
}

#[tokio::test]
async fn a_query_does_not_matter_whatever_it_is() {
    let world = World::new().await;
    let receiver = world.receiver().await;
    for query in ["a=1", "a=b c", "<>\"", "%"] {
        for name in ALL {
            let mut request = fixture(name);
            request["rawQueryString"] = query.into();
            assert_eq!(receiver.invoke(&request).await.status, 200, "{name} {query}");
        }
    }
}
