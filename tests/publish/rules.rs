//! What is done with records: the four rules, outages, and what a batch leaves in the log.

use std::{collections::BTreeSet, time::Duration};

use publish::config::Timing;
use serde_json::{Value, json};
use tests::{
    log::VARYING,
    proxy::Fault,
    publish_harness::{END, PublishHarness, START, WARNING, number},
    snapshot::redacted,
    wait::PATIENCE,
};

const NINE: &str = "2026-01-15T09:00:00Z";

/// Events of these sessions, in this order, each a second after the one before.
async fn stored(harness: &PublishHarness, sessions: &[&str]) -> Vec<Value> {
    let mut records = Vec::new();
    for (second, session) in sessions.iter().enumerate() {
        records.push(harness.store(session, WARNING, &format!("2026-01-15T09:00:{second:02}Z")).await);
    }
    records
}

/// Session and second of each event on the bus.
fn on_bus(harness: &PublishHarness) -> Vec<(String, i64)> {
    let events = harness.published().into_iter();
    events
        .map(|event| {
            let session = event.detail()["metadata"]["session_id"].as_str().unwrap().to_owned();
            (session, event.time.epoch_seconds() % 60)
        })
        .collect()
}

fn of(harness: &PublishHarness, session: &str) -> Vec<i64> {
    on_bus(harness).into_iter().filter(|(own, _)| own == session).map(|(_, second)| second).collect()
}

/// Metrics of a line, each with its value.
fn metrics(line: &Value) -> Vec<(&str, u64)> {
    let metrics = line["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().unwrap();
    let names = metrics.iter().map(|metric| metric["Name"].as_str().unwrap());
    names.map(|name| (name, line[name].as_u64().unwrap())).collect()
}

#[tokio::test]
async fn two_events_of_a_session_are_never_in_one_request_and_those_of_others_share_one() {
    let harness = PublishHarness::start().await;
    let records = stored(&harness, &["a", "b", "a", "c", "a", "b"]).await;
    assert_eq!(harness.deliver(&records).await, None);
    assert_eq!((of(&harness, "a"), of(&harness, "b"), of(&harness, "c")), (vec![0, 2, 4], vec![1, 5], vec![3]));
    let events = harness.published();
    let requests: BTreeSet<_> = events.iter().map(|event| event.request).collect();
    assert_eq!((events.len(), requests.len()), (6, 3), "three rounds of one request");
}

#[tokio::test]
async fn a_failed_entry_is_retried_before_anything_later_of_its_session() {
    let harness = PublishHarness::start().await;
    let records = stored(&harness, &["a", "b", "a", "a"]).await;
    let mut failures = 0;
    harness.eventbridge.fail_entries(move |event| {
        let fails = event.detail()["metadata"]["session_id"] == "a" && failures < 6;
        failures += u32::from(fails);
        fails.then_some(if failures % 2 == 0 { "InternalFailure" } else { "ThrottlingException" })
    });
    // The first event fails four times, the second one twice.
    let harness = harness.with_timing(|timing: &mut Timing| timing.entry_tries = 7);
    assert_eq!(harness.deliver(&records).await, None);
    assert_eq!((of(&harness, "a"), of(&harness, "b")), (vec![0, 2, 3], vec![1]));
    assert_eq!(metrics(&harness.last_line()), [("Published", 4), ("PublishRetried", 6)]);
}

#[tokio::test]
async fn a_session_whose_entry_still_fails_is_held_back_and_the_others_are_published() {
    let harness = PublishHarness::start().await;
    let records = stored(&harness, &["b", "a", "b", "a", "c", "a", "b"]).await;
    harness
        .eventbridge
        .fail_entries(|event| (event.detail()["metadata"]["session_id"] == "a").then_some("ThrottlingException"));
    assert_eq!(harness.deliver(&records).await, Some(number(&records[1])), "the lowest one");
    assert_eq!((of(&harness, "a"), of(&harness, "b"), of(&harness, "c")), (vec![], vec![0, 2, 6], vec![4]));
    let lines = harness.lines();
    assert_eq!(lines.len(), 2, "one line for the record that failed, one for the batch: {lines:?}");
    assert_eq!((&lines[0]["outcome"], &lines[0]["session_id"]), (&json!("held"), &json!("a")));
    let reason = "the event bus did not take the event: ThrottlingException: injected by the sandbox";
    assert_eq!((&lines[0]["reason"], &lines[0]["sequence_number"]), (&json!(reason), &json!(number(&records[1]))));
    assert_eq!(metrics(&lines[1]), [("Published", 4), ("PublishHeld", 3), ("PublishRetried", 4)]);

    harness.eventbridge.clear_faults();
    assert_eq!(harness.deliver(&records[1..]).await, None);
    assert_eq!(of(&harness, "a"), [1, 3, 5]);
}

/// Sequence numbers are decimal numbers of up to 40 digits.
#[tokio::test]
async fn the_lowest_sequence_number_is_the_least_number_and_not_the_first_text() {
    let harness = PublishHarness::start().await;
    let mut records = stored(&harness, &["a", "b"]).await;
    records[0]["dynamodb"]["SequenceNumber"] = json!("99999999999999999999999");
    records[1]["dynamodb"]["SequenceNumber"] = json!("100000000000000000000000");
    harness.bus_proxy.set(Fault::access_denied().after(1));
    assert_eq!(harness.deliver(&records).await.as_deref(), Some("99999999999999999999999"));
    records.reverse();
    assert_eq!(harness.deliver(&records).await.as_deref(), Some("99999999999999999999999"));
}

#[tokio::test]
async fn records_that_are_not_new_events_are_done() {
    let harness = PublishHarness::start().await;
    let mut event = harness.store("s", START, NINE).await;
    let mut quarantined = event.clone();
    quarantined["dynamodb"]["Keys"]["pk"] = json!({"S": "QUARANTINE#2026-01-15"});
    let mut other = event.clone();
    other["dynamodb"]["Keys"]["sk"] = json!({"S": "SUMMARY"});
    event["eventName"] = json!("MODIFY");
    let mut removed = event.clone();
    removed["eventName"] = json!("REMOVE");
    removed["dynamodb"].as_object_mut().unwrap().remove("NewImage");
    assert_eq!(harness.deliver(&[event, quarantined, other, removed]).await, None);
    assert_eq!((harness.published().len(), harness.failures().len()), (0, 0));
    let line = harness.last_line();
    assert_eq!((&line["result"]["ignored"], metrics(&line)), (&json!(4), vec![]), "{line}");
}

#[tokio::test]
async fn an_outage_of_the_bus_holds_everything_back_and_costs_one_request_its_attempts() {
    for (fault, reason) in [
        (Fault::status(500), "the event bus did not take the request"),
        (Fault::aws_error("ThrottlingException"), "the event bus did not take the request"),
        (Fault::refuse(), "the event bus did not take the request"),
        (Fault::hang(), "request has timed out"),
        (
            Fault::access_denied(),
            "the function's role needs events:PutEvents on arn:aws:events:us-east-1:123456789012:",
        ),
    ] {
        let harness = PublishHarness::start().await;
        // The proxy knows no difference between the look and the request, so there is one look, at start.
        let check_bus_every = Duration::from_mins(1);
        let attempt_timeout = if reason.contains("timed out") { Duration::from_secs(1) } else { PATIENCE };
        let timing = Timing { check_bus_every, attempt_timeout, ..harness.timing };
        let records = stored(&harness, &["a", "a", "b"]).await;
        let publisher = harness.publisher_with(timing);
        publisher.warm_up().await;
        let before = harness.bus_proxy.requests();
        harness.bus_proxy.set(fault.clone());
        assert_eq!(harness.deliver_to(&publisher, &records).await, Some(number(&records[0])), "{fault:?}");
        assert!(harness.bus_proxy.requests() <= before + 3, "{fault:?}");
        let line = harness.lines().remove(0);
        assert!(line["reason"].as_str().unwrap().contains(reason), "{fault:?}: {line}");
        assert_eq!(metrics(&harness.last_line()), [("PublishHeld", 3)], "{fault:?}");

        harness.bus_proxy.clear();
        assert_eq!(harness.deliver(&records).await, None, "{fault:?}");
        assert_eq!((of(&harness, "a"), of(&harness, "b")), (vec![0, 1], vec![2]), "{fault:?}");
    }
}

/// The response is lost, so the event may have been published: it is published again.
#[tokio::test]
async fn an_event_whose_response_is_lost_is_published_again() {
    let harness = PublishHarness::start().await;
    let records = stored(&harness, &["a", "a"]).await;
    harness.bus_proxy.set(Fault::drop_response().after(1).times(1));
    assert_eq!(harness.deliver(&records).await, None);
    assert_eq!(of(&harness, "a"), [0, 0, 1]);
}

#[tokio::test]
async fn an_end_whose_session_cannot_be_read_is_held_back_with_its_session() {
    for (fault, reason) in [
        (Fault::throttled(), "the table is throttled"),
        (Fault::status(500), "did not return the events of the session"),
        (Fault::access_denied(), "the function's role needs dynamodb:Query on the table"),
    ] {
        let harness = PublishHarness::start().await;
        let records = [
            harness.store("a", START, "2026-01-15T09:00:00Z").await,
            harness.store("a", END, "2026-01-15T09:00:01Z").await,
            harness.store("b", START, "2026-01-15T09:00:02Z").await,
            harness.store("a", START, "2026-01-15T09:00:03Z").await,
            harness.store("b", END, "2026-01-15T09:00:04Z").await,
        ];
        harness.table.proxy.set(fault.clone());
        assert_eq!(harness.deliver(&records).await, Some(number(&records[1])), "{fault:?}");
        assert_eq!((of(&harness, "a"), of(&harness, "b")), (vec![0], vec![2]), "{fault:?}");
        let line = harness.lines().remove(0);
        assert!(line["reason"].as_str().unwrap().contains(reason), "{fault:?}: {line}");

        harness.table.proxy.clear();
        assert_eq!(harness.deliver(&records[1..]).await, None, "{fault:?}");
        assert_eq!((of(&harness, "a"), of(&harness, "b")), (vec![0, 1, 3], vec![2, 2, 4]), "{fault:?}");
    }
}

/// A table that is out is not asked for each END of the batch.
#[tokio::test]
async fn a_table_that_fails_once_is_not_asked_again_in_the_batch() {
    let harness = PublishHarness::start().await;
    let mut records = Vec::new();
    for session in 0..20 {
        records.push(harness.store(&session.to_string(), END, NINE).await);
    }
    harness.table.proxy.set(Fault::access_denied());
    assert_eq!(harness.deliver(&records).await, Some(number(&records[0])));
    assert!(harness.table.proxy.requests() <= 10, "those under way: {}", harness.table.proxy.requests());
    assert_eq!(metrics(&harness.last_line()), [("PublishHeld", 20)]);
}

#[tokio::test]
async fn what_was_published_is_not_published_again_while_one_session_is_held_back() {
    let harness = PublishHarness::start().await;
    let publisher = harness.publisher();
    let records = [
        harness.store("a", END, "2026-01-15T09:00:00Z").await,
        harness.store("b", START, "2026-01-15T09:00:01Z").await,
        harness.store("c", START, "2026-01-15T09:00:02Z").await,
    ];
    harness.table.proxy.set(Fault::access_denied());
    for _ in 0..3 {
        assert_eq!(harness.deliver_to(&publisher, &records).await, Some(number(&records[0])));
    }
    assert_eq!(on_bus(&harness), [("b".to_owned(), 1), ("c".to_owned(), 2)]);
    assert_eq!(harness.last_line()["result"]["done_before"], 2);
    harness.table.proxy.clear();
    assert_eq!(harness.deliver_to(&publisher, &records).await, None);
    assert_eq!(on_bus(&harness).len(), 3);
    // The batch is acknowledged, so this is another delivery: at least once.
    assert_eq!(harness.deliver_to(&publisher, &records).await, None);
    assert_eq!(on_bus(&harness).len(), 6);
}

#[tokio::test]
async fn events_that_do_not_fit_into_the_invocation_are_held_back() {
    let harness = PublishHarness::start().await;
    let records = stored(&harness, &["a", "b"]).await;
    let publisher = harness.publisher();
    let held = harness.deliver_within(&publisher, &records, Duration::ZERO).await;
    assert_eq!((held, on_bus(&harness)), (Some(number(&records[0])), vec![]));
    assert_eq!(harness.lines().len(), 1, "no line per record");
    assert_eq!(harness.deliver_to(&publisher, &records).await, None);
}

#[tokio::test]
async fn a_batch_leaves_a_complete_line_without_bodies() {
    let harness = PublishHarness::start().await;
    let records = stored(&harness, &["a", "b", "a"]).await;
    harness.deliver(&records).await;
    assert_eq!(harness.lines().len(), 1);
    insta::assert_json_snapshot!(redacted(harness.last_line(), &VARYING));
}

#[tokio::test]
async fn an_empty_batch_has_an_empty_response_and_other_events_are_errors() {
    let harness = PublishHarness::start().await;
    assert_eq!(harness.invoke(json!({"Records": []})).await.unwrap(), json!({"batchItemFailures": []}));
    let expected = "the records of the event are not those of a DynamoDB stream: check the function's event source";
    for input in [json!({"Records": 7}), json!({"Records": [{"messageId": "m", "body": "{}"}]})] {
        assert_eq!(harness.invoke(input).await.unwrap_err().to_string(), expected);
    }
    let error = harness.invoke(json!({"source": "aws.events"})).await.unwrap_err().to_string();
    assert!(error.starts_with("this is neither a batch of a stream nor a command: missing field `action`"), "{error}");
}
