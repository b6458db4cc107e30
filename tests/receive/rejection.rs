//! A forged request gets a 401 that explains nothing, and leaves nothing behind but a log line.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::json;
use tests::{
    delivery::{HEAD, KEY, event, sign},
    gateway_event::http_api_event,
    key_ring::{active, ring},
    receive_harness::ReceiveHarness,
};
use unith_events::signature::SharedKey;

#[tokio::test]
async fn every_forged_request_gets_the_same_401_and_stores_nothing() {
    let harness = ReceiveHarness::without_ring().await;
    let mut retiring = active(HEAD, "0f3c5d7e9a1b2c4d");
    retiring["state"] = "retiring".into();
    harness.set_ring(&ring(&[active(HEAD, KEY), retiring, active("another-head", "another-heads-key")])).await;
    let receiver = harness.receiver().await;

    let body = event(&json!({}));
    let good = sign(&body, KEY);
    let tampered = event(&json!({"public_org_id": "evil"}));
    let cases: Vec<(&str, Vec<u8>, Option<String>, &str)> = vec![
        ("no header", body.clone(), None, "no signature header (X-Signature-256)"),
        ("empty", body.clone(), Some(String::new()), "the signature header is malformed"),
        ("not hex", body.clone(), Some("z".repeat(64)), "the signature header is malformed"),
        ("too short", body.clone(), Some(good[..62].to_owned()), "the signature header is malformed"),
        ("too long", body.clone(), Some(format!("{good}00")), "the signature header is malformed"),
        ("other algorithm", body.clone(), Some(format!("sha1={good}")), "the signature header is malformed"),
        ("twice, joined", body.clone(), Some(format!("{good},{good}")), "the signature header is malformed"),
        (
            "twice, joined with a space",
            body.clone(),
            Some(format!("{good}, {good}")),
            "the signature header is malformed",
        ),
        ("zeros", body.clone(), Some("0".repeat(64)), "3 keys tried, none matches"),
        ("wrong key", body.clone(), Some(sign(&body, "wrong")), "3 keys tried, none matches"),
        ("tampered body", tampered, Some(good.clone()), "3 keys tried, none matches"),
        ("one byte more", [body.as_slice(), b"\n"].concat(), Some(good.clone()), "3 keys tried, none matches"),
        (
            "another head's key",
            body.clone(),
            Some(sign(&body, "another-heads-key")),
            "signed with a key of head another-head, but the event names head 8eab5b23-024a-45cb-a0e1-9d3ffd6c9610",
        ),
        (
            "another head's key, and not an event",
            event(&json!({"timestamp": null})),
            Some(sign(&event(&json!({"timestamp": null})), "another-heads-key")),
            "signed with a key of head another-head, but the event names head 8eab5b23-024a-45cb-a0e1-9d3ffd6c9610",
        ),
        // An HMAC without a key, which our own code refuses to make.
        (
            "empty key",
            body.clone(),
            Some("9c363f7898a5bcf54f614e4fc29cedf35872fb0570b49786e9988ad0106a2c9b".into()),
            "3 keys tried, none matches",
        ),
    ];

    let mut undecodable = http_api_event(b"no base64", Some(&good));
    undecodable["isBase64Encoded"] = true.into();
    let to_every_cause = receiver.invoke(&undecodable).await;
    assert_eq!(to_every_cause.status, 401);
    for (name, body, signature, reason) in cases {
        let response = receiver.post(&body, signature.as_deref()).await;
        assert_eq!(response.to_value(), to_every_cause.to_value(), "{name}");
        assert_eq!(response.text, r#"{"type":"about:blank","title":"Unauthorized","status":401}"#, "{name}");
        let names: Vec<_> = response.headers.keys().map(String::as_str).collect();
        assert_eq!(names, ["cache-control", "content-type"], "{name}");
        assert!(response.reason().starts_with(reason), "{name}: {}", response.reason());
        assert_eq!(response.log["outcome"], "rejected", "{name}");
    }
    assert!(harness.table.items().await.is_empty());
}

#[tokio::test]
async fn a_signature_by_the_hex_decoded_key_is_diagnosed_and_rejected() {
    let harness = ReceiveHarness::new().await;
    // The sender decodes the key of the ring as hex, and signs with these bytes.
    let text = "a key as text";
    let digits = hex::encode(text);
    harness.set_ring(&ring(&[active(HEAD, &digits)])).await;
    let body = event(&json!({}));
    let response = harness.receiver().await.deliver(&body, text).await;
    assert_eq!(response.status, 401);
    let expected = format!("would match if the key were read as hex (head {HEAD})");
    assert!(response.reason().starts_with(&expected), "{}", response.reason());
    assert!(harness.table.items().await.is_empty());
}

#[tokio::test]
async fn every_encoding_of_the_right_signature_is_accepted() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let body = event(&json!({}));
    let signature = SharedKey::parse(KEY).unwrap().sign(&body).to_hex();
    let base64 = BASE64.encode(hex::decode(&signature).unwrap());
    for header in [signature.to_uppercase(), format!("sha256={signature}"), base64, signature] {
        assert_eq!(receiver.post(&body, Some(&header)).await.status, 200, "{header}");
    }
    assert_eq!(harness.table.items().await.len(), 1);
}

#[tokio::test]
async fn neither_response_nor_log_line_holds_a_body_key_or_signature() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let body = event(&json!({"private": "what the user said"}));
    let good = sign(&body, KEY);
    for signature in [Some(good.as_str()), Some("0".repeat(64).as_str()), None] {
        let response = receiver.invoke(&http_api_event(&body, signature)).await;
        let shown = format!("{} {} {:?}", response.log, response.text, response.headers);
        for secret in ["what the user said", KEY, &good, &"0".repeat(64)] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
