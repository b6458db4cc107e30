//! The command that retries quarantined bodies, and what becomes of them.

use std::time::Duration;

use event_store::item::QuarantineKind;
use serde_json::{Value, json};
use tests::{
    delivery::event,
    proxy::Fault,
    redrive_harness::{RECEIVED_AT, REQUEST_ID, RedriveHarness},
    table::text,
};
use unith_events::{spill::SpillMessage, timestamp::Timestamp};

const REASON: &str = "the field `timestamp` is not an instant";

fn command(changes: &Value) -> Value {
    let mut command = json!({"action": "retry-quarantine", "day": "2026-01-15"});
    for (name, value) in changes.as_object().unwrap() {
        command[name] = value.clone();
    }
    command
}

async fn retry(harness: &RedriveHarness, changes: Value) -> Value {
    harness.invoke(command(&changes)).await.unwrap()
}

/// The number of quarantined items.
async fn quarantined(harness: &RedriveHarness) -> usize {
    harness.table.items().await.iter().filter(|item| text(item, "pk").starts_with("QUARANTINE#")).count()
}

fn session(id: &str) -> Vec<u8> {
    event(&json!({"session_id": id}))
}

/// Two readable bodies, one of them for another reason, one unreadable, one of another head, one that conflicts.
async fn filled() -> RedriveHarness {
    let harness = RedriveHarness::start().await;
    harness.quarantine(&session("a"), REASON).await;
    harness.quarantine(&session("b"), "another reason").await;
    harness.quarantine(b"no event", REASON).await;
    harness.quarantine(&event(&json!({"head_id": "other"})), REASON).await;
    harness.quarantine_as(QuarantineKind::Conflict, &session("c"), REASON).await;
    harness
}

#[tokio::test]
async fn a_dry_run_counts_and_changes_nothing() {
    let harness = filled().await;
    let report = retry(&harness, json!({})).await;
    let expected = json!({
        "action": "retry-quarantine", "ok": true, "day": "2026-01-15", "reason": null, "apply": false,
        "examined": 4, "readable": 2, "sent": 0, "unreadable": 1, "other_head": 1, "invalid": 0, "cursor": null,
    });
    assert_eq!(report, expected);
    let line = harness.last_line();
    assert_eq!((&line["result"], &line["request_id"]), (&expected, &json!(REQUEST_ID)));
    assert_eq!((line["level"].as_str(), line["message"].as_str()), (Some("INFO"), Some("command done")));
    assert_eq!((quarantined(&harness).await, harness.spilled()), (5, vec![]));
}

#[tokio::test]
async fn bodies_of_one_reason_and_day_can_be_chosen() {
    let harness = filled().await;
    let report = retry(&harness, json!({"reason": REASON})).await;
    assert_eq!((&report["examined"], &report["readable"]), (&json!(3), &json!(1)), "{report}");
    let report = retry(&harness, json!({"day": "2026-01-16"})).await;
    assert_eq!((&report["examined"], &report["ok"]), (&json!(0), &json!(true)), "{report}");
}

#[tokio::test]
async fn an_applied_retry_stores_the_events_and_deletes_their_items() {
    let harness = filled().await;
    let report = retry(&harness, json!({"apply": true})).await;
    assert_eq!((&report["readable"], &report["sent"]), (&json!(2), &json!(2)), "{report}");
    assert_eq!(quarantined(&harness).await, 5, "nothing is deleted before its event is stored");
    let lines = harness.deliver().await;
    for line in &lines {
        assert_eq!((&line["outcome"], &line["source"]), (&json!("stored"), &json!("quarantine")), "{line}");
    }
    let items = harness.table.items().await;
    let events: Vec<_> = items.iter().filter(|item| text(item, "pk").starts_with("SESSION#")).collect();
    assert_eq!((lines.len(), events.len(), quarantined(&harness).await), (2, 2, 3));
    for event in events {
        assert_eq!((text(event, "via"), text(event, "received_at")), ("quarantine", RECEIVED_AT));
    }
}

#[tokio::test]
async fn a_duplicate_is_deleted_from_quarantine() {
    let harness = RedriveHarness::start().await;
    harness.spill(&session("a")).await;
    harness.deliver().await;
    harness.quarantine(&session("a"), REASON).await;
    retry(&harness, json!({"apply": true})).await;
    assert_eq!(harness.deliver().await[0]["outcome"], "duplicate");
    assert_eq!(quarantined(&harness).await, 0);
}

#[tokio::test]
async fn a_conflict_an_expired_event_and_an_unreadable_body_stay_in_quarantine() {
    let harness = RedriveHarness::start().await;
    harness.spill(&event(&json!({"session_id": "a", "public_org_id": "other"}))).await;
    harness.deliver().await;
    harness.quarantine(&session("a"), REASON).await;
    retry(&harness, json!({"apply": true})).await;
    let line = harness.deliver().await.remove(0);
    assert_eq!((&line["outcome"], &line["RedriveConflict"]), (&json!("duplicate"), &json!(1)), "{line}");
    assert_eq!((quarantined(&harness).await, harness.spilled()), (1, vec![]));

    let harness = RedriveHarness::start().await.with("RETENTION_DAYS", "1");
    harness.quarantine(&session("a"), REASON).await;
    retry(&harness, json!({"apply": true})).await;
    assert_eq!(harness.deliver().await[0]["outcome"], "expired");
    assert_eq!((quarantined(&harness).await, harness.spilled()), (1, vec![]));

    // A message that a newer build sent, and that this one cannot read.
    let harness = RedriveHarness::start().await;
    harness.quarantine(b"no event", REASON).await;
    let received_at = Timestamp::parse(RECEIVED_AT).unwrap();
    harness.send(&SpillMessage::of_quarantined(b"no event".to_vec(), None, received_at).to_json()).await;
    let line = harness.deliver().await.remove(0);
    assert_eq!((&line["outcome"], line.get("RedriveQuarantined")), (&json!("quarantined"), None), "{line}");
    assert_eq!((quarantined(&harness).await, harness.spilled()), (1, vec![]));
}

#[tokio::test]
async fn a_body_that_is_kept_for_a_conflict_is_not_deleted() {
    let harness = RedriveHarness::start().await;
    harness.quarantine(&session("a"), REASON).await;
    retry(&harness, json!({"apply": true})).await;
    harness.quarantine_as(QuarantineKind::Conflict, &session("a"), "differs").await;
    assert_eq!(harness.deliver().await[0]["outcome"], "stored");
    assert_eq!(quarantined(&harness).await, 1);
}

#[tokio::test]
async fn an_item_that_could_not_be_deleted_is_deleted_with_the_next_receive() {
    let harness = RedriveHarness::start().await;
    harness.quarantine(&session("a"), REASON).await;
    harness.spill(&session("a")).await;
    harness.deliver().await;
    retry(&harness, json!({"apply": true})).await;
    // The first request finds the event, and the second one deletes the item.
    harness.table.proxy.set(Fault::access_denied().after(1));
    let line = harness.deliver().await.remove(0);
    assert_eq!(line["outcome"], "returned", "{line}");
    let reason = line["reason"].as_str().unwrap();
    assert!(reason.ends_with("the function's role needs dynamodb:DeleteItem on the table"), "{reason}");
    assert_eq!(quarantined(&harness).await, 1);
    harness.table.proxy.clear();
    harness.sqs.pass_time(Duration::from_mins(1));
    assert_eq!(harness.deliver().await[0]["outcome"], "duplicate");
    assert_eq!(quarantined(&harness).await, 0);
}

#[tokio::test]
async fn a_call_whose_time_is_up_goes_on_from_its_cursor() {
    let harness = filled().await;
    let (mut cursor, mut examined, mut calls) = (Value::Null, 0, 0);
    loop {
        let command = command(&json!({"apply": true, "cursor": cursor}));
        let report = harness.invoke_within(command, Duration::ZERO).await.unwrap();
        examined += report["examined"].as_u64().unwrap();
        calls += 1;
        cursor = report["cursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!((examined, calls, harness.spilled().len()), (4, 5, 2));
}

/// A page of a query holds 1 MiB.
#[tokio::test]
async fn all_pages_of_a_day_are_retried() {
    let harness = RedriveHarness::start().await;
    for session in 0..6 {
        let large = event(&json!({"session_id": session.to_string(), "text": "x".repeat(250_000)}));
        harness.quarantine(&large, REASON).await;
    }
    let before = harness.table.proxy.requests();
    let report = retry(&harness, json!({"apply": true})).await;
    assert_eq!((&report["sent"], &report["cursor"]), (&json!(6), &Value::Null), "{report}");
    assert!(harness.table.proxy.requests() >= before + 2, "it took one page");
    assert_eq!(harness.spilled().len(), 6);
}

#[tokio::test]
async fn a_failure_is_reported_with_the_cursor_of_what_was_done() {
    let harness = filled().await;
    harness.sqs_proxy.set(Fault::access_denied());
    let report = retry(&harness, json!({"apply": true})).await;
    assert_eq!((&report["ok"], &report["sent"]), (&json!(false), &json!(0)), "{report}");
    assert!(report["error"].as_str().unwrap().contains("did not take the message"), "{report}");
    assert_eq!(harness.last_line()["level"], "ERROR");
    harness.sqs_proxy.clear();
    let rest = retry(&harness, json!({"apply": true, "cursor": report["cursor"]})).await;
    assert_eq!((&rest["ok"], &rest["sent"]), (&json!(true), &json!(2)), "{rest}");
    let examined = |report: &Value| report["examined"].as_u64().unwrap();
    assert_eq!(examined(&report) + examined(&rest), 4);

    harness.table.proxy.set(Fault::access_denied());
    let report = retry(&harness, json!({})).await;
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("did not return the quarantined bodies"), "{error}");
    assert!(error.ends_with("the function's role needs dynamodb:Query on the table"), "{error}");
}
