//! A bus that does not exist, or whose existence cannot be checked. `PutEvents` to a missing bus succeeds.

use std::{collections::BTreeSet, time::Duration};

use sandbox::services::EVENT_BUS;
use serde_json::{Value, json};
use tests::{
    proxy::Fault,
    publish_harness::{PublishHarness, RECEIVED_AT, REQUEST_ID, START, number},
    wait::PATIENCE,
};
use tokio::time::Instant;

async fn delete_bus(harness: &PublishHarness) {
    harness.bus_client.delete_event_bus().name(EVENT_BUS).send().await.unwrap();
}

async fn create_bus(harness: &PublishHarness) {
    harness.bus_client.create_event_bus().name(EVENT_BUS).send().await.unwrap();
}

async fn stored(harness: &PublishHarness, sessions: &[&str]) -> Vec<Value> {
    let mut records = Vec::new();
    for session in sessions {
        records.push(harness.store(session, START, "2026-01-15T09:00:00Z").await);
    }
    records
}

#[tokio::test]
async fn nothing_is_acknowledged_while_the_bus_does_not_exist() {
    let harness = PublishHarness::start().await;
    delete_bus(&harness).await;
    let records = stored(&harness, &["a", "b"]).await;
    let publisher = harness.publisher();
    for _ in 0..2 {
        assert_eq!(harness.deliver_to(&publisher, &records).await, Some(number(&records[0])));
        let line = harness.last_line();
        assert_eq!(
            (&line["level"], &line["BusMissing"], &line["PublishHeld"]),
            (&json!("ERROR"), &json!(1), &json!(2))
        );
        let message = "batch held back: the event bus does not exist";
        assert_eq!((&line["message"], line["result"].get("replay")), (&json!(message), None), "nothing was published");
    }
    assert_eq!(harness.eventbridge.calls("PutEvents"), 0);
    create_bus(&harness).await;
    assert_eq!(harness.deliver_to(&publisher, &records).await, None);
    assert_eq!(harness.published().len(), 2);
}

#[tokio::test]
async fn what_was_published_since_the_last_look_is_reported_as_a_range_to_replay() {
    let harness = PublishHarness::start().await;
    let publisher = harness.publisher();
    // The bus is deleted right after the look of the first batch: the proxy gives the answer of a moment before.
    delete_bus(&harness).await;
    harness.bus_proxy.set(Fault::status(200).times(1));
    let lost = stored(&harness, &["b", "c"]).await;
    assert_eq!(harness.deliver_to(&publisher, &lost).await, None, "PutEvents succeeded");
    assert_eq!(harness.published(), vec![], "and the events are lost");

    let held = stored(&harness, &["d"]).await;
    assert_eq!(harness.deliver_to(&publisher, &held).await, Some(number(&held[0])));
    let line = harness.last_line();
    let replay = json!({"from": RECEIVED_AT, "to": RECEIVED_AT, "head_ids": ["h"], "events": 2});
    assert_eq!((&line["result"]["replay"], &line["BusMissing"]), (&replay, &json!(1)), "{line}");
    assert!(line["reason"].as_str().unwrap().ends_with("replay what was published in the minute before"), "{line}");

    create_bus(&harness).await;
    assert_eq!(harness.deliver_to(&publisher, &held).await, None);
    let (from, to, head_ids) = (&replay["from"], &replay["to"], &replay["head_ids"]);
    let command = json!({"action": "replay", "from": from, "to": to, "head_ids": head_ids, "apply": true});
    let report = harness.invoke(command).await.unwrap();
    assert_eq!((&report["ok"], &report["published"]), (&json!(true), &json!(3)), "those of that time: {report}");
    let sessions = harness.published().into_iter().map(|event| event.detail()["metadata"]["session_id"].clone());
    let sessions: BTreeSet<_> = sessions.map(|session| session.as_str().unwrap().to_owned()).collect();
    assert_eq!(sessions.into_iter().collect::<Vec<_>>(), ["b", "c", "d"], "nothing is lost");
}

/// An environment may get no records while the bus is missing. In a replay, it looks for the bus too.
#[tokio::test]
async fn what_was_published_to_a_bus_that_was_created_anew_since_is_reported_as_a_range_to_replay() {
    let harness = PublishHarness::start().await;
    let replay = json!({"from": RECEIVED_AT, "to": RECEIVED_AT, "head_ids": ["h"], "events": 2});
    for is_batch in [true, false] {
        let publisher = harness.publisher();
        let sessions: [_; 3] = std::array::from_fn(|number| format!("{is_batch}-{number}"));
        let [first, second, third] = sessions.each_ref().map(String::as_str);
        assert_eq!(harness.deliver_to(&publisher, &stored(&harness, &[first, second]).await).await, None);
        delete_bus(&harness).await;
        create_bus(&harness).await;
        let records = stored(&harness, &[third]).await;
        if is_batch {
            assert_eq!(harness.deliver_to(&publisher, &records).await, Some(number(&records[0])));
            let line = harness.last_line();
            assert_eq!((&line["level"], &line["BusMissing"]), (&json!("ERROR"), &json!(1)), "{line}");
            assert_eq!(line["message"], "batch held back: the event bus was created again");
            assert_eq!(line["result"]["replay"], replay, "{line}");
        } else {
            let command = json!({"action": "replay", "head_id": "h", "session_id": third, "apply": true});
            let report = publisher.handle(command, REQUEST_ID, Instant::now() + PATIENCE).await.unwrap();
            assert_eq!((&report["ok"], &report["replay"]), (&json!(false), &replay), "{report}");
        }
        assert_eq!(harness.deliver_to(&publisher, &records).await, None, "it is reported once");
    }
}

#[tokio::test]
async fn what_was_published_before_the_last_look_is_not_reported() {
    let harness = PublishHarness::start().await;
    let publisher = harness.publisher();
    for sessions in [&["a", "b"][..], &["c"]] {
        assert_eq!(harness.deliver_to(&publisher, &stored(&harness, sessions).await).await, None);
    }
    delete_bus(&harness).await;
    let held = stored(&harness, &["d"]).await;
    for reported in [json!(1), Value::Null] {
        assert_eq!(harness.deliver_to(&publisher, &held).await, Some(number(&held[0])));
        assert_eq!(harness.last_line()["result"]["replay"]["events"], reported, "once, and that of `c` alone");
    }
}

#[tokio::test]
async fn a_bus_that_is_deleted_within_a_batch_acknowledges_nothing_of_it() {
    let harness = PublishHarness::start().await;
    let records = stored(&harness, &["b", "a"]).await;
    let later = harness.store("a", "OTHER", "2026-01-15T09:00:01Z").await;
    let records = [records[0].clone(), records[1].clone(), later];
    // The first look and the first request succeed, the second look finds nothing.
    harness.bus_proxy.set(Fault::aws_error("ResourceNotFoundException").after(2).times(1));
    let publisher = harness.publisher();
    assert_eq!(harness.deliver_to(&publisher, &records).await, Some(number(&records[0])));
    let line = harness.last_line();
    assert_eq!((&line["PublishHeld"], &line["result"]["replay"]["events"]), (&json!(3), &json!(2)), "{line}");
    assert_eq!(harness.deliver_to(&publisher, &records).await, None);
    assert_eq!(harness.published().len(), 5, "two of them twice");
}

/// Of an event that waits for the second outlet, the first one may have lost what it took.
#[tokio::test]
async fn an_event_that_waits_for_the_queue_is_sent_to_the_bus_again_after_the_bus_was_missing() {
    for is_deleted_within_a_batch in [false, true] {
        let harness = PublishHarness::start().await.with_ordered_queue();
        let publisher = harness.publisher();
        let records = stored(&harness, &["a"]).await;
        if is_deleted_within_a_batch {
            // The first look succeeds, although the bus is gone, and so does the request. The second look finds nothing.
            delete_bus(&harness).await;
            harness.bus_proxy.set(Fault::status(200).times(1));
        } else {
            harness.sqs_proxy.set(Fault::status(500));
            assert_eq!(harness.deliver_to(&publisher, &records).await, Some(number(&records[0])));
            assert_eq!(harness.published().len(), 1);
            harness.sqs_proxy.clear();
            delete_bus(&harness).await;
        }
        assert_eq!(harness.deliver_to(&publisher, &records).await, Some(number(&records[0])));
        assert_eq!(harness.last_line()["BusMissing"], 1);
        let before = harness.published().len();
        create_bus(&harness).await;
        assert_eq!(harness.deliver_to(&publisher, &records).await, None);
        assert_eq!((harness.published().len() - before, harness.ordered().len()), (1, 1));
    }
}

#[tokio::test]
async fn a_bus_that_cannot_be_checked_holds_everything_back_with_a_sentence() {
    for (fault, reason) in [
        (Fault::access_denied(), "the function's role needs events:DescribeEventBus on it"),
        (Fault::status(500), "cannot be checked"),
        (Fault::aws_error("ThrottlingException"), "cannot be checked"),
        (Fault::refuse(), "cannot be checked"),
    ] {
        let harness = PublishHarness::start().await;
        let records = stored(&harness, &["a", "b"]).await;
        harness.bus_proxy.set(fault.clone());
        assert_eq!(harness.deliver(&records).await, Some(number(&records[0])), "{fault:?}");
        let line = harness.last_line();
        assert!(line["reason"].as_str().unwrap().contains(reason), "{fault:?}: {line}");
        assert_eq!((&line["level"], line.get("BusMissing")), (&json!("ERROR"), None), "{fault:?}");
        assert_eq!(harness.eventbridge.calls("PutEvents"), 0, "{fault:?}");
    }
}

#[tokio::test]
async fn the_bus_is_looked_up_at_start_and_once_the_last_look_is_old() {
    let harness = PublishHarness::start().await;
    let looks = || harness.eventbridge.calls("DescribeEventBus");
    let records = stored(&harness, &["a", "b"]).await;
    let mut timing = harness.timing;
    timing.check_bus_every = Duration::from_mins(1);
    harness.deliver(&records).await;
    assert_eq!(looks(), 1, "one round, one look");
    let patient = harness.publisher_with(timing);
    patient.warm_up().await;
    for _ in 0..5 {
        harness.deliver_to(&patient, &records).await;
    }
    assert_eq!(looks(), 2, "one at start");
}

#[tokio::test]
async fn a_failure_at_start_is_left_to_the_first_batch() {
    let harness = PublishHarness::start().await;
    delete_bus(&harness).await;
    let publisher = harness.publisher();
    publisher.warm_up().await;
    create_bus(&harness).await;
    let records = stored(&harness, &["a"]).await;
    assert_eq!(harness.deliver_to(&publisher, &records).await, None);
    assert_eq!(harness.published().len(), 1);
}
