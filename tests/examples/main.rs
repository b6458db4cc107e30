//! The programs in `examples/`, against the embedded services.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed assumption should stop the test where it is, in helpers too"
)]

mod events;

use serde_json::json;
use tests::{
    delivery::{HEAD, KEY, SESSION, event},
    receive_harness::ReceiveHarness,
    sessions_harness::{END, START, SessionsHarness, TIMEOUT},
};

#[expect(dead_code, reason = "its `main` belongs to the program")]
#[path = "../../examples/list_sessions.rs"]
mod list_sessions;
#[expect(dead_code, reason = "its `main` belongs to the program")]
#[path = "../../examples/react_to_stream.rs"]
mod react_to_stream;
#[expect(dead_code, reason = "its `main` belongs to the program")]
#[path = "../../examples/read_session.rs"]
mod read_session;

#[tokio::test]
async fn read_session_prints_the_events_of_one_session_in_order() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    for (session, timestamp, event_type) in [
        (SESSION, "2026-01-15 10:00:10", "end_conversation"),
        ("another-session", "2026-01-15 09:58:00", "start_conversation"),
        (SESSION, "2026-01-15 09:57:33", "start_conversation"),
    ] {
        let body = event(&json!({"session_id": session, "timestamp": timestamp, "event_type": event_type}));
        assert_eq!(receiver.deliver(&body, KEY).await.outcome(), (200, "stored".into()));
    }
    let mut out = Vec::new();
    let (head, session) = (HEAD.parse().unwrap(), SESSION.parse().unwrap());
    read_session::print_session(&harness.table.client, &harness.table.name, &head, &session, &mut out).await.unwrap();
    insta::assert_snapshot!(String::from_utf8(out).unwrap());
}

#[tokio::test]
async fn list_sessions_prints_the_last_sessions_of_one_head() {
    let harness = SessionsHarness::start().await;
    let mut records = Vec::new();
    for n in 10..35 {
        let (session, start) = (format!("session-{n}"), format!("2026-01-15T10:{n}:00Z"));
        records.push(harness.store(&session, START, &start).await);
        for event_type in [TIMEOUT, END].into_iter().skip(n % 3) {
            records.push(harness.store(&session, event_type, &format!("2026-01-15T11:00:{n}Z")).await);
        }
    }
    records.push(harness.store_for("another-head", "session", START, "2026-01-15T10:59:00Z").await);
    assert_eq!(harness.deliver(&records).await, None);
    let (mut out, head) = (Vec::new(), "h".parse().unwrap());
    let table = &harness.sessions_table;
    list_sessions::print_last_sessions(&harness.table.client, table, &head, &mut out).await.unwrap();
    insta::assert_snapshot!(String::from_utf8(out).unwrap());
}

fn stream_event() -> serde_json::Value {
    serde_json::from_str(include_str!("../fixtures/dynamodb-stream.json")).unwrap()
}

#[test]
fn react_to_stream_prints_the_conversations_that_ended() {
    let mut out = Vec::new();
    let response = react_to_stream::handle(serde_json::from_value(stream_event()).unwrap(), &mut out);
    assert_eq!(json!(response), json!({"batchItemFailures": []}));
    insta::assert_snapshot!(String::from_utf8(out).unwrap());
}

#[test]
fn react_to_stream_reports_the_first_record_that_failed() {
    let mut event = stream_event();
    event["Records"][2]["dynamodb"]["NewImage"]["occurred_at"] = json!({"S": "soon"});
    let mut out = Vec::new();
    let response = react_to_stream::handle(serde_json::from_value(event).unwrap(), &mut out);
    assert_eq!(json!(response), json!({"batchItemFailures": [{"itemIdentifier": "100000000000000000003"}]}));
    assert!(out.is_empty());
}
