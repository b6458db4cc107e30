//! One message of the spill queue: its outcome, its item and its line.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use sandbox::queues::REDRIVE_TIMEOUT;
use serde_json::{Value, json};
use tests::{
    delivery::{KEY, event},
    log::VARYING,
    proxy::Fault,
    receive_harness::ReceiveHarness,
    redrive_harness::{RECEIVED_AT, RedriveHarness, spilled},
    snapshot::redacted,
    table::text,
};

/// Outcome, level and metrics of a line.
fn summary(line: &Value) -> (&str, &str, Vec<&str>) {
    let metrics = line["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().unwrap();
    let names = metrics.iter().map(|metric| metric["Name"].as_str().unwrap()).collect();
    (line["outcome"].as_str().unwrap(), line["level"].as_str().unwrap(), names)
}

#[tokio::test]
async fn a_spilled_delivery_is_stored_with_the_time_it_came_and_the_way_it_took() {
    let harness = RedriveHarness::start().await;
    let body = event(&json!({}));
    harness.spill(&body).await;
    let lines = harness.deliver().await;
    assert_eq!(summary(&lines[0]), ("stored", "INFO", vec!["Redriven"]));
    let items = harness.table.items().await;
    assert_eq!(items.len(), 1);
    assert_eq!((text(&items[0], "received_at"), text(&items[0], "via")), (RECEIVED_AT, "redrive"));
    assert_eq!(text(&items[0], "body").as_bytes(), body);
    assert_eq!((harness.spilled(), harness.dead_letters()), (vec![], vec![]));
}

#[tokio::test]
async fn a_stored_event_leaves_a_complete_line() {
    let harness = RedriveHarness::start().await;
    harness.spill(&event(&json!({}))).await;
    let line = harness.deliver().await.remove(0);
    insta::assert_json_snapshot!(redacted(line, &VARYING));
}

/// The function that spills and the one that redrives agree on the event.
#[tokio::test]
async fn a_delivery_that_receive_spills_is_the_same_event_after_it_was_redriven() {
    let harness = RedriveHarness::start().await;
    let receive = ReceiveHarness::new()
        .await
        .with("TABLE_NAME", harness.table.name.clone())
        .with("AWS_ENDPOINT_URL_DYNAMODB", harness.table.proxy.url())
        .with("AWS_ENDPOINT_URL_SQS", harness.sqs.url())
        .with("SPILL_QUEUE_URL", harness.queues.spill_url.clone());
    let body = event(&json!({}));
    harness.table.proxy.set(Fault::status(500));
    let response = receive.receiver().await.deliver(&body, KEY).await;
    assert_eq!(response.outcome(), (202, "accepted".into()));
    harness.table.proxy.clear();
    assert_eq!(harness.deliver().await[0]["outcome"], "stored");
    let again = receive.receiver().await.deliver(&body, KEY).await;
    assert_eq!(again.outcome(), (200, "duplicate".into()));
    assert_eq!(again.log.get("Conflict"), None);
    assert_eq!(harness.table.items().await.len(), 1);
}

#[tokio::test]
async fn a_message_that_comes_twice_is_stored_once() {
    let harness = RedriveHarness::start().await;
    for _ in 0..2 {
        harness.spill(&event(&json!({}))).await;
    }
    let lines = harness.deliver().await;
    assert_eq!(summary(&lines[0]), ("stored", "INFO", vec!["Redriven"]));
    assert_eq!(summary(&lines[1]), ("duplicate", "INFO", vec!["RedriveDuplicate"]));
    assert_eq!(lines[0]["event_id"], lines[1]["event_id"]);
    assert_eq!((harness.table.items().await.len(), harness.spilled()), (1, vec![]));
}

#[tokio::test]
async fn an_event_with_other_content_is_quarantined_on_the_day_it_came() {
    let harness = RedriveHarness::start().await;
    let variant = event(&json!({"public_org_id": "other"}));
    harness.spill(&event(&json!({}))).await;
    harness.spill(&variant).await;
    let lines = harness.deliver().await;
    assert_eq!(summary(&lines[1]), ("duplicate", "WARN", vec!["RedriveDuplicate", "RedriveConflict"]));
    let quarantined = harness.table.items().await.remove(0);
    assert_eq!((text(&quarantined, "pk"), text(&quarantined, "kind")), ("QUARANTINE#2026-01-15", "conflict"));
    assert_eq!(text(&quarantined, "body").as_bytes(), variant);
    assert_eq!(harness.spilled(), vec![]);
}

#[tokio::test]
async fn a_body_that_is_not_an_event_is_quarantined_on_the_day_it_came() {
    let harness = RedriveHarness::start().await;
    harness.spill(b"no event").await;
    let lines = harness.deliver().await;
    assert_eq!(summary(&lines[0]), ("quarantined", "WARN", vec!["RedriveQuarantined"]));
    assert_eq!(lines[0]["reason"], "the body is not JSON");
    let quarantined = harness.table.items().await.remove(0);
    assert_eq!((text(&quarantined, "pk"), text(&quarantined, "kind")), ("QUARANTINE#2026-01-15", "unreadable"));
    assert_eq!(text(&quarantined, "received_at"), RECEIVED_AT);
    assert_eq!(harness.spilled(), vec![]);
}

/// The event source mapping may fail to delete a message, and SQS may deliver one twice.
#[tokio::test]
async fn a_body_that_comes_again_is_quarantined_and_counted_once() {
    let harness = RedriveHarness::start().await;
    let counted = |lines: &[Value]| lines.iter().filter(|line| line.get("RedriveQuarantined").is_some()).count();
    harness.spill(b"no event").await;
    let records = harness.receive().await;
    harness.invoke(json!({"Records": records})).await.unwrap();
    assert_eq!(counted(&[harness.last_line()]), 1);
    harness.sqs.pass_time(6 * REDRIVE_TIMEOUT);
    // The first message, and a second delivery of the same body.
    harness.send(&spilled(b"no event").to_json().replace(RECEIVED_AT, "2026-01-15T09:57:35.000Z")).await;
    let lines = harness.deliver().await;
    assert_eq!((lines.len(), counted(&lines)), (2, 0), "{lines:?}");
    assert!(lines.iter().all(|line| line["outcome"] == "quarantined"), "{lines:?}");
    assert_eq!((harness.table.items().await.len(), harness.spilled()), (1, vec![]));

    // The SDK meets its own write here, so nobody has counted it.
    harness.spill(b"another").await;
    harness.table.proxy.set(Fault::drop_response().times(1));
    assert_eq!(counted(&harness.deliver().await), 1);
    assert_eq!(harness.table.items().await.len(), 2);
}

#[tokio::test]
async fn a_self_test_is_stored_and_logged_and_not_counted() {
    let harness = RedriveHarness::start().await;
    harness.spill(&event(&json!({"session_id": "self-test:1"}))).await;
    let line = harness.deliver().await.remove(0);
    assert_eq!(summary(&line), ("stored", "INFO", vec![]));
    assert_eq!((&line["session_id"], harness.table.items().await.len()), (&json!("self-test:1"), 1));
}

/// It was within its retention when it was spilled.
#[tokio::test]
async fn an_event_that_is_past_its_retention_by_now_is_done_and_not_stored() {
    let harness = RedriveHarness::start().await.with("RETENTION_DAYS", "1");
    harness.spill(&event(&json!({}))).await;
    let lines = harness.deliver().await;
    assert_eq!(summary(&lines[0]), ("expired", "INFO", vec!["RedriveExpired"]));
    assert_eq!((harness.table.items().await.len(), harness.spilled()), (0, vec![]));
}

#[tokio::test]
async fn a_message_that_can_never_be_stored_is_a_dead_letter_with_its_reason() {
    let json = spilled(&event(&json!({}))).to_json();
    for (from, to, reason) in [
        ("{", "<", "the message is not a spilled delivery: not JSON at line 1 column 1"),
        (r#""v":1"#, r#""v":2"#, "the message has version 2, expected 1"),
        (r#""body_b64":""#, r#""body_b64":"?"#, "the message's body is not base64"),
        (r#""body_sha256":""#, r#""body_sha256":"0"#, "the message's body does not have its SHA-256"),
        (
            r#""head":"8eab"#,
            r#""head":"other"#,
            "signed with a key of head other5b23-024a-45cb-a0e1-9d3ffd6c9610, \
             but the event names head 8eab5b23-024a-45cb-a0e1-9d3ffd6c9610",
        ),
    ] {
        let harness = RedriveHarness::start().await;
        let changed = json.replacen(from, to, 1);
        assert_ne!(changed, json);
        harness.send(&changed).await;
        harness.spill(&event(&json!({}))).await;
        let lines = harness.deliver().await;
        assert_eq!(summary(&lines[0]), ("dead_letter", "ERROR", vec!["DeadLettered"]), "{reason}");
        assert_eq!(lines[0]["reason"], reason);
        assert_eq!(lines[1]["outcome"], "stored", "the next message is not affected");
        let letter = harness.dead_letters().remove(0);
        assert_eq!(letter.body, changed);
        assert_eq!(letter.attributes["reason"].string_value.as_deref(), Some(reason));
        assert_eq!(harness.spilled(), vec![]);
    }
}

#[tokio::test]
async fn a_line_never_repeats_the_text_of_a_message() {
    let harness = RedriveHarness::start().await;
    let body = event(&json!({"public_org_id": "a-secret"}));
    let json = spilled(&body).to_json();
    for text in [
        "a-secret",
        r#"{"v":"a-secret"}"#,
        &json.replace("timeout", "a-secret"),
        &json.replace("\"v\":1", "\"v\":9"),
        &json,
    ] {
        harness.send(text).await;
    }
    for line in harness.deliver().await {
        let line = line.to_string();
        assert!(!line.contains("a-secret") && !line.contains(&BASE64.encode(&body)[..20]), "{line}");
    }
    for letter in harness.dead_letters() {
        assert!(!letter.attributes["reason"].string_value.as_ref().unwrap().contains("a-secret"), "{letter:?}");
    }
}

#[tokio::test]
async fn a_dead_letter_that_its_queue_does_not_take_is_returned() {
    let harness = RedriveHarness::start().await;
    harness.send("not a message").await;
    harness.sqs_proxy.set(Fault::status(500).times(2));
    let lines = harness.deliver().await;
    assert_eq!(summary(&lines[0]), ("returned", "WARN", vec!["RedriveReturned"]));
    let reason = lines[0]["reason"].as_str().unwrap();
    assert!(reason.contains("not JSON") && reason.contains("did not take the dead letter"), "{reason}");
    assert_eq!((harness.spilled().len(), harness.dead_letters()), (1, vec![]));
}
