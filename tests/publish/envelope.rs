//! What consumers get of an event.

use event_store::item::Via;
use sandbox::eventbridge::PublishedEvent;
use serde_json::{Value, json};
use tests::{
    publish_harness::{END, PublishHarness, RECEIVED_AT, START, TIMEOUT, WARNING, event_item, event_item_of},
    snapshot::redacted,
};

#[tokio::test]
async fn an_event_is_published_with_its_metadata_and_its_body_byte_for_byte() {
    let harness = PublishHarness::start().await;
    let body = r#" {"head_id":"h", "a":1.00,"b":"\u00e9\/","c":[1E2,-0],"a":2 }"#;
    let occurred_at = "2026-01-15T09:57:33.250Z";
    let item = event_item_of("h", "s", "Handed_over", occurred_at, body.as_bytes(), Some(Via::Redrive));
    let id = item.event_id.to_string();
    let record = harness.store_item(item).await;
    assert_eq!(harness.deliver(&[record]).await, None);
    let event = harness.published().remove(0);
    assert_eq!((event.source.as_str(), event.detail_type.as_str()), ("unith.webhooks", "HANDED_OVER"));
    assert_eq!(event.time.to_string(), "2026-01-15T09:57:33.000Z");
    let data = event.detail.split_once(r#""data":"#).unwrap().1;
    assert_eq!(data.strip_suffix('}').unwrap(), body.trim(), "no byte of the body differs");
    let expected = json!({
        "id": id, "version": 1, "head_id": "h", "session_id": "s", "occurred_at": occurred_at, "received_at": RECEIVED_AT,
        "via": "redrive", "test": false, "replay": null,
    });
    assert_eq!(event.detail()["metadata"], expected);
    assert_eq!(event.detail().as_object().unwrap().keys().collect::<Vec<_>>(), ["data", "metadata"]);
}

#[tokio::test]
async fn an_end_carries_the_summary_of_its_session() {
    let harness = PublishHarness::start().await;
    let mut records = Vec::new();
    for (event_type, second) in [(START, 0), (WARNING, 30), (TIMEOUT, 45), (END, 45)] {
        records.push(harness.store("s", event_type, &format!("2026-01-15T09:57:{second:02}Z")).await);
    }
    assert_eq!(harness.deliver(&records).await, None);
    let events = harness.published();
    let types: Vec<_> = events.iter().map(|event| event.detail_type.as_str()).collect();
    assert_eq!(types, [START, WARNING, TIMEOUT, END]);
    assert!(events[..3].iter().all(|event| event.detail().get("session").is_none()));
    let event: Value = serde_json::from_str(&events[3].to_json()).unwrap();
    insta::assert_json_snapshot!(redacted(event, &["/id"]));
}

#[tokio::test]
async fn a_summary_has_the_events_that_are_stored_and_not_those_of_the_batch() {
    let harness = PublishHarness::start().await;
    harness.store("s", START, "2026-01-15T09:57:00Z").await;
    let end = harness.store("s", END, "2026-01-15T09:58:00Z").await;
    harness.deliver(&[end]).await;
    let detail = harness.published()[0].detail();
    assert_eq!((&detail["session"]["n"], &detail["session"]["duration_ms"]), (&json!(2), &json!(60_000)), "{detail}");
}

#[tokio::test]
async fn a_self_test_is_published_as_a_test_and_not_folded() {
    let harness = PublishHarness::start().await;
    let records = [
        harness.store("self-test:1", END, "2026-01-15T09:57:00Z").await,
        harness.store("self-testing", END, "2026-01-15T09:57:00Z").await,
    ];
    assert_eq!(harness.deliver(&records).await, None);
    let mut details: Vec<_> = harness.published().iter().map(PublishedEvent::detail).collect();
    details.sort_by_key(|detail| detail["metadata"]["session_id"].to_string());
    assert_eq!((&details[0]["metadata"]["test"], details[0].get("session")), (&json!(true), None));
    assert_eq!((&details[1]["metadata"]["test"], &details[1]["session"]["n"]), (&json!(false), &json!(1)));
}

#[tokio::test]
async fn a_body_that_some_consumer_cannot_read_comes_as_a_text() {
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100), "]".repeat(100));
    for body in ["\u{feff}{}", r#"{"a":"\ud83d"}"#, r#"{"a":1e999}"#, r#"{"a":9223372036854775808}"#, &deep] {
        let harness = PublishHarness::start().await;
        let item = event_item_of("h", "s", START, "2026-01-15T09:57:00Z", body.as_bytes(), None);
        let record = harness.store_item(item).await;
        assert_eq!(harness.deliver(&[record]).await, None, "{body:.40}");
        let detail = harness.published()[0].detail();
        assert_eq!((&detail["data"], detail["body"].as_str()), (&Value::Null, Some(body)));
        assert_eq!(harness.failures(), Vec::<Value>::new());
    }
}

#[tokio::test]
async fn a_body_that_is_not_utf_8_comes_in_base64() {
    let harness = PublishHarness::start().await;
    let item = event_item_of("h", "s", START, "2026-01-15T09:57:00Z", b"{\0\xff}", None);
    let record = harness.store_item(item).await;
    assert_eq!(harness.deliver(&[record]).await, None);
    let detail = harness.published()[0].detail();
    assert_eq!((&detail["data"], &detail["body_b64"]), (&Value::Null, &json!("ewD/fQ==")));
}

#[tokio::test]
async fn ids_of_any_characters_are_published_as_they_are() {
    let harness = PublishHarness::start().await;
    let (head, session, event_type) = ("a\"#%b", "ü\u{ffff}😀", "t\"\\ÿ\u{2028}");
    let record = harness.store_item(event_item(head, session, event_type, "2026-01-15T09:57:00Z")).await;
    assert_eq!(harness.deliver(&[record]).await, None);
    let event = harness.published().remove(0);
    let metadata = &event.detail()["metadata"];
    assert_eq!((&metadata["head_id"], &metadata["session_id"]), (&json!(head), &json!(session)));
    assert_eq!(event.detail_type, "T\"\\ÿ\u{2028}", "upper case is that of ASCII");
}
