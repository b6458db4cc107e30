//! The command `replay`.

use std::{collections::BTreeSet, time::Duration};

use event_store::item::{EventItem, QuarantineItem, QuarantineKind, Quarantined};
use event_store::retention::Retention;
use publish::config::Timing;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tests::{
    proxy::Fault,
    publish_harness::{END, PublishHarness, REQUEST_ID, START, WARNING, event_item},
};
use tokio::time::Instant;
use unith_events::timestamp::Timestamp;

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

/// An event that reached `receive` in this minute after ten.
fn received(head: &str, session: &str, event_type: &str, minute: u32) -> EventItem {
    let item = event_item(head, session, event_type, &format!("2026-01-15T09:{minute:02}:00Z"));
    EventItem { received_at: at(&format!("2026-01-15T10:{minute:02}:00Z")), ..item }
}

/// Two sessions of the head `h`, one of another head, a self-test, a quarantined body and an item that is not an event.
async fn filled() -> PublishHarness {
    let harness = PublishHarness::start().await;
    for item in [
        received("h", "a", START, 0),
        received("h", "a", WARNING, 1),
        received("h", "a", END, 2),
        received("h", "b", START, 1),
        received("h", "b", "Handed_over", 2),
        received("other", "c", START, 2),
        received("h", "self-test:1", START, 1),
    ] {
        harness.store_item(item).await;
    }
    let quarantined = Quarantined {
        kind: QuarantineKind::Unreadable,
        reason: "the body is not JSON".to_owned(),
        key_head: None,
        head_id: Some("h".parse().unwrap()),
        session_id: Some("a".parse().unwrap()),
    };
    let item = QuarantineItem::new(quarantined, b"no event", at("2026-01-15T10:01:00Z"), Retention::Forever);
    harness.put(serde_dynamo::to_item(item).unwrap()).await;
    let mut broken: tests::table::Item = received("h", "broken", START, 1).into();
    broken.remove("event_id");
    harness.put(broken).await;
    harness
}

/// A command with these members.
fn command(members: &Value) -> Value {
    let mut command = json!({"action": "replay"});
    for (name, value) in members.as_object().unwrap() {
        command[name] = value.clone();
    }
    command
}

async fn replay(harness: &PublishHarness, members: Value) -> Value {
    harness.invoke(command(&members)).await.unwrap()
}

/// Session and type of what reached the bus.
fn on_bus(harness: &PublishHarness) -> BTreeSet<(String, String)> {
    let events = harness.published().into_iter();
    events
        .map(|event| {
            let session = event.detail()["metadata"]["session_id"].as_str().unwrap().to_owned();
            (session, event.detail_type)
        })
        .collect()
}

fn set<const N: usize>(events: [(&str, &str); N]) -> BTreeSet<(String, String)> {
    events.into_iter().map(|(session, event_type)| (session.to_owned(), event_type.to_owned())).collect()
}

#[tokio::test]
async fn a_dry_run_reports_what_matches_and_what_it_costs_and_publishes_nothing() {
    let harness = filled().await;
    let report = replay(&harness, json!({"from": "2026-01-15T10:01:00Z", "reason": "a test"})).await;
    let units = report["read_units"].as_f64().unwrap();
    assert!(units > 0.0, "{report}");
    assert_eq!(report["id"].as_str().unwrap().len(), 32);
    let expected = json!({
        "action": "replay", "ok": true, "apply": false, "id": report["id"], "reason": "a test", "read": 9,
        "read_units": units, "matching": 5, "billed_events": 5, "published": 0, "poison": 0, "invalid": 1, "cursor": null,
    });
    assert_eq!(report, expected);
    let line = harness.last_line();
    assert_eq!((&line["result"], &line["request_id"]), (&expected, &json!(REQUEST_ID)));
    assert_eq!((line["message"].as_str(), line.get("Replayed")), (Some("command done"), None));
    assert_eq!(harness.eventbridge.calls("PutEvents"), 0);
}

#[tokio::test]
async fn one_session_is_replayed_in_order_with_the_replay_in_its_metadata() {
    let harness = filled().await;
    let members = json!({"head_id": "h", "session_id": "a", "reason": "lost by a rule", "apply": true});
    let report = replay(&harness, members).await;
    assert_eq!((&report["ok"], &report["published"], &report["cursor"]), (&json!(true), &json!(3), &Value::Null));
    let events = harness.published();
    let types: Vec<_> = events.iter().map(|event| event.detail_type.as_str()).collect();
    assert_eq!(types, [START, WARNING, END]);
    for (minute, event) in events.iter().enumerate() {
        assert_eq!(event.time.to_string(), format!("2026-01-15T09:{minute:02}:00.000Z"), "the original one");
        let replay = &event.detail()["metadata"]["replay"];
        assert_eq!((&replay["id"], &replay["reason"]), (&report["id"], &json!("lost by a rule")));
        assert!(at(replay["at"].as_str().unwrap()) > at("2026-01-15T12:00:00Z"), "{replay}");
    }
    assert_eq!(events[2].detail()["session"]["n"], 3, "an END has its summary");
    assert_eq!(harness.last_line()["Replayed"], 3);
}

#[tokio::test]
async fn a_range_is_replayed_by_arrival_head_and_type_without_self_tests() {
    let all = [("a", START), ("a", WARNING), ("a", END), ("b", START), ("b", "HANDED_OVER"), ("c", START)];
    for (members, expected) in [
        (json!({"from": "2026-01-15T00:00:00Z"}), set(all)),
        (json!({"to": "2026-01-15T10:00:00Z"}), set([("a", START)])),
        (json!({"from": "2026-01-15T10:01:00Z", "to": "2026-01-15T10:01:00Z"}), set([("a", WARNING), ("b", START)])),
        (json!({"head_ids": ["other", "h"], "types": ["end_conversation"]}), set([("a", END)])),
        (json!({"types": ["HANDED_OVER"]}), set([("b", "HANDED_OVER")])),
        (json!({"head_ids": ["other"]}), set([("c", START)])),
        (json!({"from": "2026-01-15T11:00:00Z"}), set([])),
    ] {
        let harness = filled().await;
        let mut members = members;
        members["apply"] = json!(true);
        let report = replay(&harness, members.clone()).await;
        assert_eq!(
            (&report["ok"], report["published"].as_u64()),
            (&json!(true), Some(expected.len() as u64)),
            "{report}"
        );
        assert_eq!(on_bus(&harness), expected, "{members}");
    }
}

#[tokio::test]
async fn a_self_test_is_replayed_if_its_session_is_named() {
    let harness = filled().await;
    let report = replay(&harness, json!({"head_id": "h", "session_id": "self-test:1", "apply": true})).await;
    assert_eq!((&report["published"], &harness.published()[0].detail()["metadata"]["test"]), (&json!(1), &json!(true)));
}

#[tokio::test]
async fn a_call_whose_time_is_up_goes_on_from_its_cursor_with_the_same_id() {
    let harness = PublishHarness::start().await;
    for session in 0..5 {
        for minute in 0..7 {
            harness.store_item(received("h", &session.to_string(), WARNING, minute)).await;
        }
    }
    let (mut cursor, mut ids, mut calls, mut published) = (Value::Null, BTreeSet::new(), 0, 0);
    loop {
        let command = command(&json!({"head_ids": ["h"], "apply": true, "cursor": cursor}));
        let report = harness.invoke_within(command, Duration::ZERO).await.unwrap();
        assert_eq!(report["ok"], true, "{report}");
        calls += 1;
        published += report["published"].as_u64().unwrap();
        ids.insert(report["id"].as_str().unwrap().to_owned());
        cursor = report["cursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!(
        (published, calls, ids.len(), harness.published().len()),
        (35, 5, 1, 35),
        "ten events a call, and the end"
    );
    let replays = harness.published().into_iter().map(|event| event.detail()["metadata"]["replay"].to_string());
    assert_eq!(replays.collect::<BTreeSet<_>>().len(), 1, "one id and one instant");
}

#[tokio::test]
async fn a_cursor_of_another_command_is_refused() {
    let harness = PublishHarness::start().await;
    for minute in 0..12 {
        harness.store_item(received("h", "a", WARNING, minute)).await;
    }
    let dry = json!({"head_id": "h", "session_id": "a"});
    let report = harness.invoke_within(command(&dry), Duration::ZERO).await.unwrap();
    assert_eq!((&report["matching"], report["cursor"].is_string()), (&json!(10), true), "{report}");
    for (name, value) in [("apply", json!(true)), ("session_id", json!("b")), ("reason", json!("r"))] {
        let mut other = command(&dry);
        other["cursor"] = report["cursor"].clone();
        other[name] = value;
        let error = harness.invoke(other).await.unwrap_err().to_string();
        assert!(error.starts_with("the cursor belongs to another command"), "{name}: {error}");
    }
    let mut own = command(&dry);
    own["cursor"] = report["cursor"].clone();
    assert_eq!(harness.invoke(own).await.unwrap()["matching"], 2);
}

/// A page of a scan holds 1 MiB.
#[tokio::test]
async fn all_pages_are_replayed() {
    for members in [json!({"head_ids": ["h"]}), json!({"head_id": "h", "session_id": "a"})] {
        let harness = PublishHarness::start().await;
        for minute in 0..6 {
            let large = format!("{{\"text\":\"{}\"}}", "x".repeat(250_000));
            let mut item = received("h", "a", WARNING, minute);
            item.body = event_store::item::Body::new(large.as_bytes());
            harness.store_item(item).await;
        }
        let before = harness.table.proxy.requests();
        let mut members = members;
        members["apply"] = json!(true);
        let report = replay(&harness, members).await;
        assert_eq!((&report["published"], &report["cursor"]), (&json!(6), &Value::Null), "{report}");
        assert_eq!(report["billed_events"], 24, "four for each 250 KB: {report}");
        assert!(harness.table.proxy.requests() >= before + 2, "it took one page");
    }
}

#[tokio::test]
async fn events_are_replayed_at_a_steady_pace() {
    let harness = PublishHarness::start().await;
    let pace = Duration::from_millis(10);
    let harness = harness.with_timing(|timing: &mut Timing| timing.replay_event_every = pace);
    for minute in 0..30 {
        harness.store_item(received("h", "a", WARNING, minute)).await;
    }
    let started = Instant::now();
    let report = replay(&harness, json!({"head_ids": ["h"], "apply": true})).await;
    assert_eq!(report["published"], 30);
    // The first ten are published at once.
    assert!(started.elapsed() >= 20 * pace, "{:?}", started.elapsed());
    assert_eq!(Timing::default().replay_event_every * 50, Duration::from_secs(1));
}

#[tokio::test]
async fn a_failure_stops_the_replay_with_the_cursor_of_what_is_done() {
    let harness = PublishHarness::start().await;
    for minute in 0..25 {
        harness.store_item(received("h", "a", WARNING, minute)).await;
    }
    harness
        .eventbridge
        .fail_entries(|event| (event.time.to_string().as_str() > "2026-01-15T09:13").then_some("InternalFailure"));
    let members = json!({"head_id": "h", "session_id": "a", "apply": true});
    let report = replay(&harness, members.clone()).await;
    assert_eq!((&report["ok"], &report["published"]), (&json!(false), &json!(13)), "{report}");
    assert!(report["error"].as_str().unwrap().contains("InternalFailure"), "{report}");
    assert_eq!((&harness.last_line()["level"], &harness.last_line()["Replayed"]), (&json!("ERROR"), &json!(13)));

    harness.eventbridge.clear_faults();
    let mut next = members;
    next["cursor"] = report["cursor"].clone();
    let rest = replay(&harness, next).await;
    assert_eq!((&rest["ok"], &rest["published"], &rest["id"]), (&json!(true), &json!(12), &report["id"]), "{rest}");
    assert_eq!(harness.published().len(), 25, "nothing twice, and nothing left out");
}

#[tokio::test]
async fn nothing_is_replayed_to_a_bus_that_does_not_exist_or_from_a_table_that_fails() {
    let harness = filled().await;
    harness.bus_client.delete_event_bus().name(sandbox::services::EVENT_BUS).send().await.unwrap();
    let members = json!({"head_ids": ["h"], "apply": true});
    let report = replay(&harness, members.clone()).await;
    assert_eq!((&report["ok"], &report["published"], &report["cursor"]), (&json!(false), &json!(0), &Value::Null));
    assert!(report["error"].as_str().unwrap().contains("does not exist"), "{report}");

    for (members, permission) in
        [(members, "dynamodb:Scan"), (json!({"head_id": "h", "session_id": "a"}), "dynamodb:Query")]
    {
        let harness = filled().await;
        harness.table.proxy.set(Fault::access_denied());
        let report = replay(&harness, members).await;
        let error = report["error"].as_str().unwrap();
        assert!(error.ends_with(&format!("the function's role needs {permission} on the table")), "{error}");
    }
}

#[tokio::test]
async fn an_event_that_can_never_be_published_is_counted_and_reported() {
    let harness = filled().await;
    harness.eventbridge.fail_entries(|event| (event.detail_type == WARNING).then_some("MalformedDetail"));
    let report = replay(&harness, json!({"head_id": "h", "session_id": "a", "apply": true})).await;
    let counts = (&report["ok"], &report["published"], &report["poison"], &report["matching"]);
    assert_eq!(counts, (&json!(true), &json!(2), &json!(1), &json!(3)), "{report}");
    assert_eq!((harness.failures().len(), &harness.lines()[0]["outcome"]), (1, &json!("poison")));
}

#[tokio::test]
async fn a_replay_reaches_the_ordered_queue_with_ids_of_its_own() {
    let harness = filled().await.with_ordered_queue();
    let members = json!({"head_id": "h", "session_id": "a", "apply": true});
    let report = replay(&harness, members).await;
    let messages = harness.ordered();
    assert_eq!(messages.len(), 3);
    for message in messages {
        let body: Value = serde_json::from_str(&message.body).unwrap();
        let (event, replay) = (body["detail"]["metadata"]["id"].as_str().unwrap(), report["id"].as_str().unwrap());
        let expected = hex::encode(Sha256::digest(format!("{event},{replay}")));
        assert_eq!(message.deduplication_id, Some(expected));
    }
}
