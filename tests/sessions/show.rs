//! The command `show`.

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};
use tests::{
    proxy::Fault,
    sessions_harness::{END, START, SessionsHarness},
};

async fn show(harness: &SessionsHarness, session: &str) -> Value {
    harness.invoke(json!({"action": "show", "head_id": "h", "session_id": session})).await.unwrap()
}

#[tokio::test]
async fn a_session_is_shown_with_its_whole_summary() {
    let harness = SessionsHarness::start().await;
    let start = harness.store("s", START, "2026-01-15T10:59:59Z").await;
    assert_eq!(harness.deliver(&[start]).await, None);
    insta::assert_json_snapshot!(show(&harness, "s").await);
    let request = harness.table.proxy.last_request();
    assert!(request.contains(r#""ConsistentRead":true"#), "{request}");
    harness.set_now("2026-01-15T11:59:59Z");
    assert_eq!(show(&harness, "s").await["session"]["lost"], false);
    let end = harness.store("s", END, "2026-01-15T11:00:00Z").await;
    assert_eq!(harness.deliver(&[end]).await, None);
    harness.set_now("2026-01-16T12:00:00Z");
    let session = &show(&harness, "s").await["session"];
    assert_eq!((&session["lost"], &session["state"]), (&json!(false), &json!("ended")));
}

#[tokio::test]
async fn a_session_that_is_not_there_is_not_found() {
    let harness = SessionsHarness::start().await;
    let report = show(&harness, "none").await;
    let expected = json!({"action": "show", "ok": true, "head_id": "h", "session_id": "none", "status": "not_found"});
    assert_eq!(report, expected);
    assert_eq!(harness.lines().last().unwrap()["result"], expected);
}

#[tokio::test]
async fn a_row_of_another_form_and_a_table_that_fails_are_reported() {
    let harness = SessionsHarness::start().await;
    let start = harness.store("s", START, "2026-01-15T10:00:00Z").await;
    assert_eq!(harness.deliver(&[start]).await, None);
    let mut item = harness.items().await[0].clone();
    item.insert("n".into(), AttributeValue::S("many".into()));
    harness.put(&harness.sessions_table, item).await;
    let report = show(&harness, "s").await;
    assert_eq!((&report["ok"], &report["status"]), (&json!(false), &json!("unreadable")));
    harness.table.proxy.set(Fault::throttled());
    let report = show(&harness, "s").await;
    assert_eq!((&report["ok"], report.get("status")), (&json!(false), None));
    assert!(report["error"].as_str().unwrap().contains("the table is throttled"), "{report}");
}
