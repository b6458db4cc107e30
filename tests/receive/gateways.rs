//! The gateways that lead to the function, each with its complete event, and events that no gateway sends.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::{Value, json};
use tests::{
    delivery::{KEY, event, sign},
    gateway_event::{Gateway, RECORDED, http_api_event, recorded},
    receive_harness::ReceiveHarness,
};

#[tokio::test]
async fn all_recorded_gateway_events_deliver_the_same_event() {
    for (name, _) in RECORDED {
        let harness = ReceiveHarness::new().await;
        let response = harness.receiver().await.invoke(&recorded(name)).await;
        assert_eq!(response.outcome(), (200, "stored".into()), "{name}: {}", response.log);
        assert_eq!(response.json()["event_id"], "82b261c4eb653e535c0deda1ac8351d7", "{name}");
        assert_eq!(response.headers["content-type"], "application/json", "{name}");
    }
}

#[tokio::test]
async fn every_gateway_gets_a_401_for_a_missing_signature_and_a_405_for_another_method() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    for (name, _) in RECORDED {
        let mut unsigned = recorded(name);
        for headers in ["headers", "multiValueHeaders"] {
            if let Some(headers) = unsigned[headers].as_object_mut() {
                headers.retain(|name, _| !name.eq_ignore_ascii_case("x-signature-256"));
            }
        }
        let response = receiver.invoke(&unsigned).await;
        assert_eq!((response.status, response.reason()), (401, "no signature header (X-Signature-256)"), "{name}");

        let mut get = recorded(name);
        get["httpMethod"] = "GET".into();
        if name != "rest-api-1.0" {
            get["requestContext"]["http"]["method"] = "GET".into();
        }
        let response = receiver.invoke(&get).await;
        assert_eq!((response.status, response.headers["allow"].as_str()), (405, "POST"), "{name}");
    }
}

#[tokio::test]
async fn the_signature_header_is_found_in_any_case() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let body = event(&json!({}));
    for name in ["x-signature-256", "X-Signature-256", "X-SIGNATURE-256"] {
        for gateway in Gateway::ALL {
            let mut request = gateway.event(&body, None);
            request["headers"][name] = sign(&body, KEY).into();
            assert_eq!(receiver.invoke(&request).await.status, 200, "{gateway:?} {name}");
        }
    }
}

#[tokio::test]
async fn a_repeated_signature_is_rejected_in_either_payload() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let good = sign(&event(&json!({})), KEY);

    for gateway in Gateway::ALL {
        let joined = gateway.event(&event(&json!({})), Some(&format!("{good},{good}")));
        let response = receiver.invoke(&joined).await;
        assert_eq!(response.status, 401, "{gateway:?}");
        assert!(response.reason().starts_with("the signature header is malformed"), "{}", response.reason());
    }

    let mut listed = recorded("rest-api-1.0");
    let once = listed["headers"]["X-Signature-256"].clone();
    listed["multiValueHeaders"]["X-Signature-256"] = json!([once, once]);
    let response = receiver.invoke(&listed).await;
    assert_eq!((response.status, response.reason()), (401, "the signature header came 2 times"));
    assert!(harness.table.items().await.is_empty());
}

#[tokio::test]
async fn a_rest_event_may_have_its_headers_in_one_form_alone() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    for absent in ["headers", "multiValueHeaders"] {
        let mut request = recorded("rest-api-1.0");
        request[absent] = Value::Null;
        assert_eq!(receiver.invoke(&request).await.status, 200, "without {absent}");
    }
}

#[tokio::test]
async fn a_named_stage_is_not_part_of_the_path() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let mut staged = recorded("http-api-2.0");
    staged["requestContext"]["stage"] = "prod".into();
    staged["rawPath"] = "/prod/webhooks/head-events".into();
    assert_eq!(receiver.invoke(&staged).await.status, 200);
    // A custom domain leaves the stage out.
    staged["rawPath"] = "/webhooks/head-events".into();
    assert_eq!(receiver.invoke(&staged).await.status, 200);
    staged["routeKey"] = "$default".into();
    staged["requestContext"]["routeKey"] = "$default".into();
    staged["requestContext"]["http"]["path"] = "/prod/webhooks/head-events".into();
    for (path, status) in [
        ("/prod/webhooks/head-events", 200),
        ("/webhooks/head-events", 200),
        ("/production/webhooks/head-events", 404),
        ("/prod/webhooks/head-events/x", 404),
        ("/prodwebhooks/head-events", 404),
    ] {
        staged["rawPath"] = path.into();
        staged["requestContext"]["http"]["path"] = path.into();
        assert_eq!(receiver.invoke(&staged).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn the_base_path_of_a_custom_domain_is_not_part_of_the_path() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let mut mapped = recorded("rest-api-1.0");
    mapped["path"] = "/unith/webhooks/head-events".into();
    assert_eq!(receiver.invoke(&mapped).await.status, 200);
    mapped["resource"] = "/other".into();
    mapped["requestContext"]["resourcePath"] = "/other".into();
    mapped["requestContext"]["path"] = "/unith/webhooks/head-events".into();
    assert_eq!(receiver.invoke(&mapped).await.status, 404);
}

/// A recorded event with members set by their pointers; missing parents are created.
fn with(name: &str, members: &[(&str, Value)]) -> Value {
    let mut event = recorded(name);
    for (pointer, value) in members {
        let mut place = &mut event;
        for part in pointer.trim_start_matches('/').split('/') {
            if !place.is_object() {
                *place = json!({});
            }
            place = &mut place[part];
        }
        *place = value.clone();
    }
    event
}

#[tokio::test]
async fn the_webhook_is_found_behind_every_kind_of_route() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let any = json!("$default");
    let http = |path: &str, more: &[(&str, Value)]| {
        let base = [
            ("/routeKey", any.clone()),
            ("/requestContext/routeKey", any.clone()),
            ("/rawPath", path.into()),
            ("/requestContext/http/path", path.into()),
        ];
        with("http-api-2.0", &[base.as_slice(), more].concat())
    };
    let rest = |resource: &str, path: &str, more: &[(&str, Value)]| {
        let base = [
            ("/resource", resource.into()),
            ("/requestContext/resourcePath", resource.into()),
            ("/path", path.into()),
            ("/requestContext/path", path.into()),
        ];
        with("rest-api-1.0", &[base.as_slice(), more].concat())
    };
    let proxy = |value: &str| [("/pathParameters/proxy", json!(value))];
    for (name, event) in [
        ("a trailing slash", http("/webhooks/head-events/", &[])),
        ("a route for any method", http("/x", &[("/routeKey", json!("ANY /webhooks/head-events"))])),
        ("a stage called webhooks", http("/webhooks/head-events", &[("/requestContext/stage", json!("webhooks"))])),
        (
            "that stage in the path",
            http("/webhooks/webhooks/head-events", &[("/requestContext/stage", json!("webhooks"))]),
        ),
        (
            "a greedy route",
            http(
                "/v1/webhooks/head-events",
                &[&[("/routeKey", json!("POST /v1/{proxy+}"))][..], &proxy("webhooks/head-events")].concat(),
            ),
        ),
        (
            "a greedy route of another name",
            http(
                "/v1/webhooks/head-events",
                &[("/routeKey", json!("ANY /v1/{rest+}")), ("/pathParameters/rest", json!("webhooks/head-events/"))],
            ),
        ),
        (
            "payload 1.0, $default and a named stage",
            rest(
                "$default",
                "/prod/webhooks/head-events",
                &[("/version", json!("1.0")), ("/requestContext/stage", json!("prod"))],
            ),
        ),
        (
            "a proxy resource behind a base path",
            rest("/{proxy+}", "/unith/webhooks/head-events", &proxy("webhooks/head-events")),
        ),
        (
            "a proxy resource with the beginning of the path, behind a base path",
            rest("/webhooks/{proxy+}", "/unith/webhooks/head-events", &proxy("head-events")),
        ),
        (
            "a route with a parameter in it",
            http(
                "/x",
                &[("/routeKey", json!("POST /webhooks/{name}")), ("/pathParameters/name", json!("head-events"))],
            ),
        ),
        ("a REST API's trailing slash", rest("/x", "/webhooks/head-events/", &[])),
    ] {
        let response = receiver.invoke(&event).await;
        assert_eq!(response.status, 200, "{name}: {}", response.log);
    }
    for (name, event) in [
        ("another path", http("/webhooks/other", &[])),
        ("another proxied path", http("/v1/webhooks/head-events", &proxy("head-events"))),
        (
            "a parameter that is not greedy",
            http("/x", &[("/routeKey", json!("POST /{id}")), ("/pathParameters/id", json!("webhooks/head-events"))]),
        ),
        ("another resource", rest("/x", "/x", &[])),
    ] {
        assert_eq!(receiver.invoke(&event).await.status, 404, "{name}");
    }
}

/// Anyone can send such values through a gateway, and `lambda_http` alone would panic at them.
#[tokio::test]
async fn odd_values_in_the_rest_of_an_event_do_not_matter() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    for (name, _) in RECORDED {
        for (pointer, value) in [
            ("/headers/x-forwarded-proto", json!("https,http")),
            ("/headers/X-Forwarded-Proto", json!("\u{7f}")),
            ("/headers/host", json!("a b:c:d/[")),
            ("/multiValueHeaders/Host", json!(["[", 7])),
            ("/headers/x-odd", json!({"a": [1]})),
            ("/headers/ a:b", json!("x")),
            ("/requestContext/domainName", json!("[")),
            ("/requestContext/authorizer", json!(7)),
            ("/requestContext/identity", json!([])),
            ("/requestContext/accountId", json!(7)),
            ("/requestContext/timeEpoch", json!("soon")),
            ("/requestContext/requestTimeEpoch", json!(1e300)),
            ("/requestContext/http/protocol", json!([])),
            ("/queryStringParameters", json!([1])),
            ("/multiValueQueryStringParameters", json!("x")),
            ("/stageVariables", json!(true)),
            ("/pathParameters", json!("x")),
            ("/cookies", json!(5)),
            ("/isBase64Encoded", recorded(name)["isBase64Encoded"].to_string().into()),
        ] {
            let response = receiver.invoke(&with(name, &[(pointer, value.clone())])).await;
            assert_eq!(response.status, 200, "{name} {pointer} {value}: {}", response.log);
        }
    }
}

#[tokio::test]
async fn base64_is_decoded_in_every_spelling_and_invalid_base64_is_rejected() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let body = [event(&json!({"more": "???>>>"})), b"  ".to_vec()].concat();
    let strict = BASE64.encode(&body);
    let mut lines = strict.clone();
    lines.insert_str(20, "\r\n");
    let unpadded = strict.trim_end_matches('=').to_owned();
    for text in [strict.clone(), lines, unpadded, strict.replace('+', "-").replace('/', "_")] {
        let mut request = http_api_event(b"", Some(&sign(&body, KEY)));
        request["body"] = text.as_str().into();
        request["isBase64Encoded"] = true.into();
        assert_eq!(receiver.invoke(&request).await.status, 200, "{text}");
    }
    for (text, encoded) in [(json!("a{b"), true), (json!("abcde"), true), (json!({"a": 1}), false), (json!(7), true)] {
        let mut request = http_api_event(b"", Some(&sign(b"", KEY)));
        request["body"] = text.clone();
        request["isBase64Encoded"] = encoded.into();
        let response = receiver.invoke(&request).await;
        assert_eq!(response.text, r#"{"type":"about:blank","title":"Unauthorized","status":401}"#, "{text}");
        assert!(response.reason().starts_with("the body cannot be decoded"), "{}", response.reason());
    }
}

#[tokio::test]
async fn a_signature_that_is_not_a_header_value_is_rejected() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    for value in [json!("a\nb"), json!(7), json!({}), json!("\u{0}"), json!("é"), json!([])] {
        let mut request = http_api_event(&event(&json!({})), None);
        request["headers"]["x-signature-256"] = value.clone();
        assert_eq!(receiver.invoke(&request).await.status, 401, "{value}");
    }
    let mut twice = http_api_event(&event(&json!({})), Some(&sign(&event(&json!({})), KEY)));
    twice["headers"]["X-Signature-256"] = "x".into();
    let response = receiver.invoke(&twice).await;
    assert_eq!((response.status, response.reason()), (401, "the signature header came 2 times"));
}

/// Any JSON, in place of an object, a text or a number.
fn odd_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "(/[a-z{}+$]{0,8}){0,4}".prop_map(Value::from),
        Just(json!("/webhooks/head-events")),
        Just(json!("POST")),
        Just(json!("1.0")),
        Just(json!(true)),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("\\PC{0,8}|x-signature-256|http|method", inner, 0..4)
                .prop_map(|map| map.into_iter().collect()),
        ]
    })
}

const PLACES: [&str; 22] = [
    "/version",
    "/routeKey",
    "/rawPath",
    "/rawQueryString",
    "/headers",
    "/headers/host",
    "/headers/x-signature-256",
    "/multiValueHeaders",
    "/multiValueHeaders/X-Signature-256",
    "/requestContext",
    "/requestContext/http",
    "/requestContext/http/method",
    "/requestContext/stage",
    "/requestContext/timeEpoch",
    "/resource",
    "/path",
    "/httpMethod",
    "/pathParameters",
    "/body",
    "/isBase64Encoded",
    "/stageVariables",
    "/requestContext/identity",
];

#[derive(Debug, Clone)]
enum OddEvent {
    Changed(usize, Vec<(usize, Value)>, bool),
    Other(Value),
}

/// Every event gets a response, and a 2xx only if its item is in the table.
#[test]
fn no_event_fails_an_invocation_or_gets_a_2xx_for_nothing() {
    let events = prop_oneof![
        6 => (0..RECORDED.len(), prop::collection::vec((0..PLACES.len(), odd_json()), 0..4), any::<bool>())
            .prop_map(|(name, changes, signed)| OddEvent::Changed(name, changes, signed)),
        1 => odd_json().prop_map(OddEvent::Other),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (harness, receiver) = runtime.block_on(async {
        let harness = ReceiveHarness::new().await;
        let receiver = harness.receiver().await;
        (harness, receiver)
    });
    let config = ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() };
    let accepted = std::cell::Cell::new(0);
    let result = TestRunner::new(config).run(&events, |odd| {
        let event = match &odd {
            OddEvent::Other(event) => event.clone(),
            OddEvent::Changed(name, changes, signed) => {
                let mut members: Vec<_> =
                    changes.iter().map(|(place, value)| (PLACES[*place], value.clone())).collect();
                if !signed {
                    members.push(("/headers/x-signature-256", Value::Null));
                    members.push(("/headers/X-Signature-256", Value::Null));
                    members.push(("/multiValueHeaders", Value::Null));
                }
                with(RECORDED[*name].0, &members)
            }
        };
        let response = runtime.block_on(receiver.invoke(&event));
        let is_signed = matches!(odd, OddEvent::Changed(_, _, true));
        match response.status {
            200 | 202 => {
                prop_assert!(is_signed, "{}", event);
                accepted.set(accepted.get() + 1);
                let items = runtime.block_on(harness.table.items());
                prop_assert_eq!(items.len(), 1, "all fixtures are one event: {}", event);
            }
            401 | 404 | 405 | 413 => {}
            status => prop_assert!(false, "{}: {}", status, event),
        }
        Ok(())
    });
    result.unwrap();
    assert!(accepted.get() > 100, "only {} events were accepted", accepted.get());
}

#[tokio::test]
async fn query_strings_do_not_matter() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    for query in ["a=1", "a=b c", "<>\"", "%"] {
        for (name, _) in RECORDED {
            let mut request = recorded(name);
            request["rawQueryString"] = query.into();
            assert_eq!(receiver.invoke(&request).await.status, 200, "{name} {query}");
        }
    }
}
