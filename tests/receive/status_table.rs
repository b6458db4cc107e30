//! Every status the receiver responds with, and the item that each leaves in the table.

use event_store::item::body_sha256;
use receive::gateway::MAX_BODY_BYTES;
use serde_json::{Value, json};
use tests::{
    delivery::{HEAD, KEY, SESSION, event, sign},
    gateway_event::http_api_event,
    key_ring::{active, ring},
    receive_harness::{ReceiveHarness, Response},
    snapshot::redacted,
    table::{Item, text},
};
use unith_events::timestamp::Timestamp;

/// An item as JSON, with a placeholder for its body, which is in either spelling, and for times of this run.
fn snapshot(item: &Item) -> Value {
    let item: Value = serde_dynamo::from_item(item.clone()).unwrap();
    redacted(item, &["/body", "/body_sha256", "/received_at"])
}

/// Compares a whole response with the snapshot of its status.
fn assert_problem(response: &Response, status: u16) {
    insta::assert_json_snapshot!(format!("problem_{status}"), response.to_value());
}

#[tokio::test]
async fn a_new_event_is_stored_with_every_attribute() {
    let harness = ReceiveHarness::new().await.with("RETENTION_DAYS", "3650");
    let body = event(&json!({"more": {"kept": true}}));
    let response = harness.receiver().await.deliver(&body, KEY).await;
    insta::assert_json_snapshot!("stored_response", response.to_value());

    let items = harness.table.items().await;
    let [item] = items.as_slice() else { panic!("{items:?}") };
    insta::assert_json_snapshot!("item_of_an_event", snapshot(item));
    assert_eq!(text(item, "body").as_bytes(), body);
    assert_eq!(text(item, "body_sha256"), body_sha256(&body));
    assert!(Timestamp::parse(text(item, "received_at")).is_some());
    // TTL counts from the event, and needs a number.
    let expires_at = Timestamp::parse(text(item, "occurred_at")).unwrap().epoch_seconds() + 3650 * 86_400;
    assert_eq!(item["expires_at"].as_n().unwrap(), &expires_at.to_string());
}

#[tokio::test]
async fn without_retention_nothing_expires() {
    let harness = ReceiveHarness::new().await;
    let body = event(&json!({"timestamp": "1999-12-31T23:59:59Z"}));
    assert_eq!(harness.receiver().await.deliver(&body, KEY).await.outcome(), (200, "stored".into()));
    assert!(!harness.table.items().await[0].contains_key("expires_at"));
}

#[tokio::test]
async fn a_repeated_event_is_a_duplicate() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let body = event(&json!({}));
    let first = receiver.deliver(&body, KEY).await;
    let second = receiver.deliver(&body, KEY).await;
    assert_eq!(first.outcome(), (200, "stored".into()));
    assert_eq!(second.outcome(), (200, "duplicate".into()));
    assert_eq!(first.json()["event_id"], second.json()["event_id"]);
    assert_eq!(harness.table.items().await.len(), 1);
}

#[tokio::test]
async fn an_expired_event_is_not_stored() {
    let harness = ReceiveHarness::new().await.with("RETENTION_DAYS", "1");
    let response = harness.receiver().await.deliver(&event(&json!({"timestamp": "2020-01-01T00:00:00Z"})), KEY).await;
    assert_eq!(response.outcome(), (200, "expired".into()));
    assert_eq!(response.json()["event_id"].as_str().unwrap().len(), 32);
    assert!(harness.table.items().await.is_empty());
}

#[tokio::test]
async fn an_authentic_body_that_is_not_an_event_is_quarantined() {
    let harness = ReceiveHarness::new().await.with("RETENTION_DAYS", "30");
    let receiver = harness.receiver().await;
    let (both, head, neither) = ((HEAD, SESSION), (HEAD, ""), ("", ""));
    for (body, reason, named) in [
        (b"not json".to_vec(), "the body is not JSON", neither),
        (b"[]".to_vec(), "the body is not a JSON object", neither),
        (Vec::new(), "the body is not JSON", neither),
        (event(&json!({"session_id": null})), "the field `session_id` (or `sessionId`) is missing", head),
        (event(&json!({"event_type": 7})), "the field `event_type` (or `event`) is not a string", both),
        (event(&json!({"timestamp": "soon"})), "the field `timestamp` is not an ISO 8601 date and time", both),
        (event(&json!({"timestamp": "2026-08-31"})), "the field `timestamp` is not an ISO 8601 date and time", both),
        (
            event(&json!({"session_id": "a\nb"})),
            "the field `session_id` (or `sessionId`) does not have 1 to 256 bytes without control characters",
            head,
        ),
    ] {
        let response = receiver.deliver(&body, KEY).await;
        assert_eq!(response.status, 202, "{reason}");
        assert_eq!(response.json(), json!({"status": "quarantined", "reason": reason}));
        let items = harness.table.items().await;
        let item = items.iter().find(|item| text(item, "sk") == body_sha256(&body)).unwrap();
        assert_eq!(text(item, "pk"), format!("QUARANTINE#{}", Timestamp::now().day()));
        assert_eq!(text(item, "body").as_bytes(), body);
        assert_eq!(text(item, "reason"), reason);
        assert_eq!((text(item, "kind"), text(item, "key_head")), ("unreadable", HEAD));
        assert_eq!((text(item, "head_id"), text(item, "session_id")), named, "{reason}");
        assert!(item.contains_key("expires_at") && Timestamp::parse(text(item, "received_at")).is_some());
        let names = usize::from(!named.0.is_empty()) + usize::from(!named.1.is_empty());
        assert_eq!(item.len(), 8 + names, "{item:?}");
    }
}

#[tokio::test]
async fn a_repeated_body_is_quarantined_and_counted_once() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let body = event(&json!({"timestamp": "soon"}));
    let first = receiver.deliver(&body, KEY).await;
    let before = harness.table.items().await;
    let again = receiver.deliver(&body, KEY).await;
    assert_eq!((first.status, again.status, &first.text), (202, 202, &again.text));
    assert_eq!((&first.log["Quarantined"], again.log.get("Quarantined")), (&json!(1), None));
    assert_eq!(harness.table.items().await, before, "the item is not written again");

    receiver.deliver(&event(&json!({})), KEY).await;
    let variant = event(&json!({"public_org_id": "other"}));
    let (first, again) = (receiver.deliver(&variant, KEY).await, receiver.deliver(&variant, KEY).await);
    // A variant counts as a conflict each time, and conflicts have their own alarm.
    for response in [&first, &again] {
        assert_eq!((&response.log["Conflict"], response.log.get("Quarantined")), (&json!(1), None));
    }
    let items = harness.table.items().await;
    let kept = items.iter().find(|item| text(item, "sk") == body_sha256(&variant)).unwrap();
    let named = ["kind", "key_head", "head_id", "session_id"].map(|name| text(kept, name));
    assert_eq!(named, ["conflict", HEAD, HEAD, SESSION]);
}

#[tokio::test]
async fn a_body_that_is_not_utf_8_is_quarantined_as_bytes() {
    let harness = ReceiveHarness::new().await;
    harness.set_ring(KEY).await;
    let body = [0xff, 0xfe, 0x00, 0x80];
    let response = harness.receiver().await.deliver(&body, KEY).await;
    assert_eq!(response.json(), json!({"status": "quarantined", "reason": "the body is not UTF-8"}));
    let items = harness.table.items().await;
    assert_eq!(items[0]["body"].as_b().unwrap().as_ref(), body);
    assert!(!items[0].contains_key("key_head"), "the key is not bound to a head");
}

#[tokio::test]
async fn the_largest_body_is_stored_and_a_larger_one_gets_a_413() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let padding = MAX_BODY_BYTES - event(&json!({"padding": ""})).len();
    let largest = event(&json!({"padding": "x".repeat(padding)}));
    assert_eq!(largest.len(), MAX_BODY_BYTES);
    assert_eq!(receiver.deliver(&largest, KEY).await.outcome(), (200, "stored".into()));

    let larger = event(&json!({"padding": "x".repeat(padding + 1)}));
    let response = receiver.deliver(&larger, KEY).await;
    assert_problem(&response, 413);
    assert_eq!(response.reason(), "the body has 262145 bytes, the limit is 262144");
    assert_eq!(harness.table.items().await.len(), 1);
}

#[tokio::test]
async fn other_paths_get_a_404_and_other_methods_a_405() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let body = event(&json!({}));
    let signed = http_api_event(&body, Some(&sign(&body, KEY)));
    for path in
        ["/", "/webhooks", "/webhooks/head-events/x", "/Webhooks/head-events", "//webhooks/head-events", "//[x", "/é\n"]
    {
        let mut request = signed.clone();
        for pointer in ["/rawPath", "/routeKey", "/requestContext/routeKey", "/requestContext/http/path"] {
            *request.pointer_mut(pointer).unwrap() = path.into();
        }
        let response = receiver.invoke(&request).await;
        assert_problem(&response, 404);
        assert_eq!((&response.log["outcome"], &response.log["BadRequest"]), (&json!("bad_request"), &json!(1)));
        assert!(response.reason().starts_with("no such path: `/"), "{path}: {}", response.reason());
    }
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let mut request = signed.clone();
        request["requestContext"]["http"]["method"] = method.into();
        let response = receiver.invoke(&request).await;
        assert_problem(&response, 405);
        assert_eq!((response.log.get("Rejected"), &response.log["BadRequest"]), (None, &json!(1)), "{method}");
    }
    assert!(harness.table.items().await.is_empty());
}

#[tokio::test]
async fn without_a_usable_key_every_request_gets_a_503() {
    let body = event(&json!({}));
    let no_secret = ReceiveHarness::without_ring().await;
    let empty_ring = ReceiveHarness::without_ring().await;
    empty_ring.set_ring(&ring(&[])).await;
    let other_document = ReceiveHarness::without_ring().await;
    other_document.set_ring("{}").await;
    let unusable = ReceiveHarness::without_ring().await;
    unusable.set_ring(r#"{"sharedKey": "cbaab87d"}"#).await;
    let all_expired = ReceiveHarness::without_ring().await;
    let mut expired = active(HEAD, KEY);
    expired["until"] = "2026-01-17T00:00:00Z".into();
    all_expired.set_ring(&ring(&[expired])).await;

    for (harness, reason) in [
        (no_secret, "the key ring `ring` could not be read"),
        (empty_ring, "the key ring has no usable key (0 expired): has `provision` run?"),
        (other_document, "secret `ring` is not a valid key ring"),
        (unusable, "secret `ring` is not a valid key ring: the key in the secret cannot be used: it has 8 characters"),
        (all_expired, "the key ring has no usable key (1 expired), one of those signed this"),
    ] {
        let response = harness.receiver().await.deliver(&body, KEY).await;
        assert_problem(&response, 503);
        assert!(response.reason().starts_with(reason), "{}", response.reason());
        assert!(harness.table.items().await.is_empty());
    }
}
