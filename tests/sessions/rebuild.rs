//! The command `rebuild`.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use event_store::retention::Retention;
use serde_json::{Value, json};
use tests::{
    proxy::Fault,
    sessions_harness::{END, START, SessionsHarness, WARNING, event_item},
    table::Item,
    wait::{PATIENCE, until, within},
};

/// So many sessions of two events, the bodies of which have so many bytes.
async fn store(harness: &SessionsHarness, sessions: usize, body: usize) {
    for session in 0..sessions {
        for (event_type, occurred_at) in [(START, "2026-01-15T10:00:00Z"), (END, "2026-01-15T10:01:00Z")] {
            let mut item: Item =
                event_item("h", &session.to_string(), event_type, occurred_at, Retention::Forever).into();
            item.insert("body".into(), AttributeValue::S("x".repeat(body)));
            harness.put(&harness.table.name, item).await;
        }
    }
}

async fn rebuild(harness: &SessionsHarness, input: &Value) -> Value {
    let mut command = json!({"action": "rebuild"});
    command.as_object_mut().unwrap().extend(input.as_object().unwrap().clone());
    harness.invoke(command).await.unwrap()
}

/// Makes the row of the session `s` one of another set of events, which the guard would keep.
async fn tamper(harness: &SessionsHarness, name: &str, value: AttributeValue) {
    let mut item = harness.items().await.into_iter().find(|item| item["session_id"].as_s().unwrap() == "s").unwrap();
    item.insert(name.into(), value);
    harness.put(&harness.sessions_table, item).await;
}

#[tokio::test]
async fn a_rebuild_writes_the_rows_that_are_missing_or_stale_and_reports_its_cost() {
    let harness = SessionsHarness::start().await;
    store(&harness, 30, 10).await;
    harness.store("self-test:1", "SELF_TEST", "2026-01-15T10:00:00Z").await;
    let report = rebuild(&harness, &json!({})).await;
    insta::assert_json_snapshot!(report);
    let expected: Vec<_> = harness.expected_rows().await;
    let expected: Vec<_> = expected.into_iter().filter(|row| !row.session_id.is_self_test()).collect();
    assert_eq!(harness.rows().await, expected);
    let line = harness.lines().last().unwrap().clone();
    assert_eq!((&line["action"], &line["result"]), (&json!("rebuild"), &report));
    let late = harness.store("7", WARNING, "2026-01-15T10:02:00Z").await;
    let report = rebuild(&harness, &json!({})).await;
    assert_eq!((&report["written"], &report["unchanged"], &report["ok"]), (&json!(1), &json!(29), &json!(true)));
    assert_eq!(harness.deliver(&[late]).await, None);
    assert_eq!(harness.counts()["unchanged"], 1);
}

#[tokio::test]
async fn a_rebuild_goes_on_from_its_cursor_however_short_its_calls_are() {
    let harness = SessionsHarness::start().await;
    // 2 MB: sessions span pages.
    store(&harness, 10, 100_000).await;
    let (mut input, mut limit, mut calls, mut sessions) = (json!({"action": "rebuild"}), Duration::ZERO, 0, 0);
    loop {
        let report = harness.invoke_within(input.clone(), limit).await.unwrap();
        calls += 1;
        sessions += report["sessions"].as_u64().unwrap();
        if report["ok"] == false {
            // A call without any progress has no cursor, and is not a success.
            assert_eq!(report["error"], "the time of the invocation is nearly up");
            assert_eq!(report["cursor"], input.get("cursor").cloned().unwrap_or_default());
        } else if report["cursor"].is_null() {
            break;
        }
        input["cursor"] = report["cursor"].clone();
        limit += Duration::from_millis(15);
    }
    assert!(calls > 1, "the first call had no time");
    assert_eq!(sessions, 10, "each session is folded once");
    assert_eq!(harness.rows().await, harness.expected_rows().await);
}

#[tokio::test]
async fn a_table_that_fails_ends_the_rebuild_at_the_session_to_go_on_with() {
    // A throttled partition too: it takes the session a while later.
    for (fault, error) in
        [(Fault::access_denied(), "the function's role needs"), (Fault::hot_key(), "ThrottlingException")]
    {
        let harness = SessionsHarness::start().await;
        store(&harness, 20, 10).await;
        // The scan, and some sessions.
        harness.table.proxy.set(fault.after(1 + 8));
        let report = rebuild(&harness, &json!({})).await;
        assert_eq!((&report["ok"], &report["failed"]), (&json!(false), &json!(0)));
        assert!(report["error"].as_str().unwrap().contains(error), "{report}");
        harness.table.proxy.clear();
        let next = rebuild(&harness, &json!({"cursor": report["cursor"]})).await;
        assert_eq!((&next["ok"], &next["cursor"]), (&json!(true), &Value::Null));
        assert_eq!(report["sessions"].as_u64().unwrap() + next["sessions"].as_u64().unwrap(), 20);
        assert_eq!(harness.rows().await, harness.expected_rows().await);
    }
}

#[tokio::test]
async fn sessions_that_fail_alone_are_named_and_do_not_hold_up_the_others() {
    let harness = SessionsHarness::start().await;
    store(&harness, 3, 10).await;
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let edited = [("pk", "SESSION#h#edited"), ("sk", "EVENT#1")].map(|(name, value)| (name.into(), text(value)));
    harness.put(&harness.table.name, Item::from(edited)).await;
    let report = rebuild(&harness, &json!({})).await;
    assert_eq!((&report["ok"], &report["written"], &report["failed"]), (&json!(false), &json!(3), &json!(1)));
    assert_eq!(report["cursor"], Value::Null);
    let reason = "none of the session's 1 items can be read as an event";
    assert_eq!(report["failures"], json!([{"head_id": "h", "session_id": "edited", "reason": reason}]));
}

#[tokio::test]
async fn one_session_is_rebuilt_whatever_its_row_says_and_deleted_with_its_last_event() {
    let harness = SessionsHarness::start().await;
    let start = harness.store("s", START, "2026-01-15T10:00:00Z").await;
    let end = harness.store("s", END, "2026-01-15T10:01:00Z").await;
    let other = harness.store("other", START, "2026-01-15T10:00:00Z").await;
    assert_eq!(harness.deliver(&[start.clone(), other]).await, None);
    let one = json!({"head_id": "h", "session_id": "s"});
    let number = |n: u32| AttributeValue::N(n.to_string());
    for (name, value) in [("n", number(9)), ("fold_version", number(9)), ("n", AttributeValue::S("many".into()))] {
        tamper(&harness, name, value).await;
        // The guard keeps such a row.
        assert_eq!(harness.deliver(std::slice::from_ref(&start)).await, None);
        assert_eq!(harness.counts()["unchanged"], 1);
        let report = rebuild(&harness, &one).await;
        assert_eq!((&report["ok"], &report["written"], &report["sessions"]), (&json!(true), &json!(1), &json!(1)));
        assert_eq!(harness.rows().await, harness.expected_rows().await, "{name}");
    }
    assert_eq!(rebuild(&harness, &one).await["unchanged"], 1);
    // Some of its events are erased, then all of them.
    harness.expire(&end).await;
    assert_eq!(rebuild(&harness, &one).await["written"], 1);
    assert_eq!(harness.rows().await, harness.expected_rows().await);
    harness.expire(&start).await;
    let report = rebuild(&harness, &one).await;
    assert_eq!((&report["deleted"], &report["ok"]), (&json!(1), &json!(true)));
    assert_eq!(harness.rows().await, harness.expected_rows().await);
    let report = rebuild(&harness, &one).await;
    assert_eq!((&report["deleted"], &report["written"], &report["sessions"]), (&json!(0), &json!(0), &json!(1)));
}

#[tokio::test]
async fn the_rebuild_of_one_session_does_not_undo_an_update_that_overtakes_it() {
    // The second row cannot be read.
    for warnings in [AttributeValue::N("9".into()), AttributeValue::S("many".into())] {
        let harness = SessionsHarness::start().await;
        let start = harness.store("s", START, "2026-01-15T10:00:00Z").await;
        assert_eq!(harness.deliver(&[start]).await, None);
        tamper(&harness, "warnings", warnings).await;
        // It reads the row and the events, and its write is held up on the way.
        let before = harness.table.proxy.requests();
        harness.table.proxy.set(Fault::delay(Duration::from_millis(400)).after(2).times(1));
        let rebuild = harness.invoke(json!({"action": "rebuild", "head_id": "h", "session_id": "s"}));
        let update = async {
            within(PATIENCE, until(async || harness.table.proxy.requests() == before + 3)).await;
            let end = harness.store("s", END, "2026-01-15T10:01:00Z").await;
            harness.deliver(&[end]).await
        };
        let (report, failed) = tokio::join!(rebuild, update);
        assert_eq!((&report.unwrap()["ok"], failed), (&json!(true), None));
        assert_eq!(harness.rows().await, harness.expected_rows().await);
    }
}
