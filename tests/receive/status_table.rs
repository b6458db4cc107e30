//! Every row of the design's status table but the spill's, to the letter.

use event_store::store::body_sha256;
use serde_json::json;
use tests::{HEAD, KEY, ReceiveHarness, SESSION, active, event, http_api_event, ring, sign, text};
use unith_events::timestamp::Timestamp;

#[tokio::test]
async fn a_new_event_is_stored_with_every_attribute() {
    let world = ReceiveHarness::new().await.with("RETENTION_DAYS", "3650");
    let body = event(&json!({"more": {"kept": true}}));
    let answer = world.receiver().await.deliver(&body, KEY).await;

    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.text, r#"{"status":"stored","event_id":"82b261c4eb653e535c0deda1ac8351d7"}"#);

    let items = world.table.items().await;
    let [item] = items.as_slice() else { panic!("{items:?}") };
    let occurred_at = "2026-01-15T09:57:33.000Z";
    for (name, value) in [
        ("pk", format!("SESSION#{HEAD}#{SESSION}").as_str()),
        ("sk", "EVENT#2026-01-15T09:57:33.000Z#1#START_CONVERSATION"),
        ("event_id", "82b261c4eb653e535c0deda1ac8351d7"),
        ("event_type", "START_CONVERSATION"),
        ("occurred_at", occurred_at),
        ("head_id", HEAD),
        ("session_id", SESSION),
        ("public_head_id", "jane-15326"),
        ("public_org_id", "acme"),
        ("body", std::str::from_utf8(&body).unwrap()),
        ("body_sha256", &body_sha256(&body)),
    ] {
        assert_eq!(text(item, name), value, "{name}");
    }
    let expires_at = Timestamp::parse(occurred_at).unwrap().epoch_seconds() + 3650 * 86_400;
    assert_eq!(item["expires_at"].as_n().unwrap(), &expires_at.to_string());
    assert!(Timestamp::parse(text(item, "received_at")).is_some());
    assert_eq!(item.len(), 13, "{item:?}");
}

#[tokio::test]
async fn without_retention_nothing_expires() {
    let world = ReceiveHarness::new().await;
    let body = event(&json!({"timestamp": "1999-12-31T23:59:59Z"}));
    assert_eq!(world.receiver().await.deliver(&body, KEY).await.word(), (200, "stored".into()));
    assert!(!world.table.items().await[0].contains_key("expires_at"));
}

#[tokio::test]
async fn an_event_that_came_before_is_a_duplicate() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    let body = event(&json!({}));
    let first = receiver.deliver(&body, KEY).await;
    let second = receiver.deliver(&body, KEY).await;
    assert_eq!(first.word(), (200, "stored".into()));
    assert_eq!(second.word(), (200, "duplicate".into()));
    assert_eq!(first.json()["event_id"], second.json()["event_id"]);
    assert_eq!(world.table.items().await.len(), 1);
}

#[tokio::test]
async fn an_event_whose_time_is_over_is_not_stored() {
    let world = ReceiveHarness::new().await.with("RETENTION_DAYS", "1");
    let answer = world.receiver().await.deliver(&event(&json!({"timestamp": "2020-01-01T00:00:00Z"})), KEY).await;
    assert_eq!(answer.word(), (200, "expired".into()));
    assert_eq!(answer.json()["event_id"].as_str().unwrap().len(), 32);
    assert!(world.table.items().await.is_empty());
}

#[tokio::test]
async fn an_authentic_body_that_is_no_event_is_quarantined() {
    let world = ReceiveHarness::new().await.with("RETENTION_DAYS", "30");
    let receiver = world.receiver().await;
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
        let answer = receiver.deliver(&body, KEY).await;
        assert_eq!(answer.status, 202, "{reason}");
        assert_eq!(answer.json(), json!({"status": "quarantined", "reason": reason}));
        let items = world.table.items().await;
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
async fn a_quarantined_body_that_comes_again_is_kept_and_counted_once() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    let body = event(&json!({"timestamp": "soon"}));
    let first = receiver.deliver(&body, KEY).await;
    let before = world.table.items().await;
    let again = receiver.deliver(&body, KEY).await;
    assert_eq!((first.status, again.status, &first.text), (202, 202, &again.text));
    assert_eq!((&first.record["Quarantined"], again.record.get("Quarantined")), (&json!(1), None));
    assert_eq!(world.table.items().await, before, "it is not written again");

    receiver.deliver(&event(&json!({})), KEY).await;
    let variant = event(&json!({"public_org_id": "other"}));
    let (first, again) = (receiver.deliver(&variant, KEY).await, receiver.deliver(&variant, KEY).await);
    // A variant is a conflict, whenever it comes, and has that alarm.
    for answer in [&first, &again] {
        assert_eq!((&answer.record["Conflict"], answer.record.get("Quarantined")), (&json!(1), None));
    }
    let items = world.table.items().await;
    let kept = items.iter().find(|item| text(item, "sk") == body_sha256(&variant)).unwrap();
    let named = ["kind", "key_head", "head_id", "session_id"].map(|name| text(kept, name));
    assert_eq!(named, ["conflict", HEAD, HEAD, SESSION]);
}

#[tokio::test]
async fn a_body_that_is_no_text_is_quarantined_as_bytes() {
    let world = ReceiveHarness::new().await;
    world.set_ring(KEY).await;
    let body = [0xff, 0xfe, 0x00, 0x80];
    let answer = world.receiver().await.deliver(&body, KEY).await;
    assert_eq!(answer.json(), json!({"status": "quarantined", "reason": "the body is not UTF-8"}));
    let items = world.table.items().await;
    assert_eq!(items[0]["body"].as_b().unwrap().as_ref(), body);
    assert!(!items[0].contains_key("key_head"), "the key is bound to no head");
}

#[tokio::test]
async fn the_largest_body_is_kept_and_a_larger_one_refused() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    let padding = receive::MAX_BODY_BYTES - event(&json!({"padding": ""})).len();
    let largest = event(&json!({"padding": "x".repeat(padding)}));
    assert_eq!(largest.len(), receive::MAX_BODY_BYTES);
    assert_eq!(receiver.deliver(&largest, KEY).await.word(), (200, "stored".into()));

    let larger = event(&json!({"padding": "x".repeat(padding + 1)}));
    let answer = receiver.deliver(&larger, KEY).await;
    assert_eq!(answer.status, 413);
    assert_eq!(answer.json(), json!({"type": "about:blank", "title": "Payload Too Large", "status": 413}));
    assert_eq!(answer.reason(), "the body has 262145 bytes, the limit is 262144");
    assert_eq!(world.table.items().await.len(), 1);
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    let body = event(&json!({}));
    let signed = http_api_event(&body, Some(&sign(&body, KEY)));
    for path in
        ["/", "/webhooks", "/webhooks/head-events/x", "/Webhooks/head-events", "//webhooks/head-events", "//[x", "/é\n"]
    {
        let mut request = signed.clone();
        for pointer in ["/rawPath", "/routeKey", "/requestContext/routeKey", "/requestContext/http/path"] {
            *request.pointer_mut(pointer).unwrap() = path.into();
        }
        let answer = receiver.invoke(&request).await;
        assert_eq!(answer.json(), json!({"type": "about:blank", "title": "Not Found", "status": 404}), "{path}");
        assert_eq!((&answer.record["outcome"], &answer.record["BadRequest"]), (&json!("bad_request"), &json!(1)));
        assert!(answer.reason().starts_with("no such path: `/"), "{}", answer.reason());
    }
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let mut request = signed.clone();
        request["requestContext"]["http"]["method"] = method.into();
        let answer = receiver.invoke(&request).await;
        assert_eq!(answer.json(), json!({"type": "about:blank", "title": "Method Not Allowed", "status": 405}));
        assert_eq!(answer.headers["allow"], "POST", "{method}");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!((answer.record.get("Rejected"), &answer.record["BadRequest"]), (None, &json!(1)));
    }
    assert!(world.table.items().await.is_empty());
}

#[tokio::test]
async fn without_any_key_it_is_unavailable() {
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

    for (world, reason) in [
        (no_secret, "the key ring `ring` could not be read"),
        (empty_ring, "the key ring has no usable key (0 expired): has `provision` run?"),
        (other_document, "the key ring `ring` is not one"),
        (unusable, "the key ring `ring` is not one: the key in the secret cannot be used: it has 8 characters"),
        (all_expired, "the key ring has no usable key (1 expired), one of those signed this"),
    ] {
        let answer = world.receiver().await.deliver(&body, KEY).await;
        assert_eq!(answer.json(), json!({"type": "about:blank", "title": "Service Unavailable", "status": 503}));
        assert_eq!(answer.headers["retry-after"], "2");
        assert!(answer.reason().starts_with(reason), "{}", answer.reason());
        assert!(world.table.items().await.is_empty());
    }
}
