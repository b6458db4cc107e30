//! Batches of the stream: which rows they write, and which records are sent again.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use event_store::retention::Retention;
use serde_json::{Value, json};
use tests::{
    proxy::Fault,
    sessions_harness::{END, START, SessionsHarness, TIMEOUT, WARNING, event_item, sequence_number},
    snapshot::redacted,
    table::Item,
};

/// One event of each of so many sessions.
async fn sessions(harness: &SessionsHarness, count: usize) -> Vec<Value> {
    let mut records = Vec::new();
    for session in 0..count {
        records.push(harness.store(&session.to_string(), START, "2026-01-15T10:00:00Z").await);
    }
    records
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

#[tokio::test]
async fn each_session_of_a_batch_has_one_row_with_the_fold_of_all_its_events() {
    let harness = SessionsHarness::start().await.with_retention(Retention::Days(365));
    let mut records = Vec::new();
    for (head, session, event_type, occurred_at) in [
        ("h#1", "s", START, "2026-01-15T10:00:00Z"),
        ("h#1", "s", WARNING, "2026-01-15T10:01:00Z"),
        ("h#1", "s%", END, "2026-01-15T10:02:00Z"),
        ("h#1", "s", TIMEOUT, "2026-01-15T10:02:00Z"),
        ("h#1", "s", END, "2026-01-15T10:02:00Z"),
        ("h", "s", START, "2026-01-15T11:00:00.250Z"),
    ] {
        records.push(harness.store_for(head, session, event_type, occurred_at).await);
    }
    // The stream has a part of them. The table is the truth.
    assert_eq!(harness.deliver(&[records[4].clone(), records[5].clone(), records[1].clone()]).await, None);
    let rows = harness.rows().await;
    let expected = harness.expected_rows().await;
    assert_eq!(rows, expected.into_iter().filter(|row| row.session_id == "s").collect::<Vec<_>>());
    let item = serde_dynamo::from_item::<_, Value>(harness.items().await[1].clone()).unwrap();
    insta::assert_json_snapshot!(item);
    assert_eq!(harness.deliver(&records).await, None);
    assert_eq!(harness.rows().await, harness.expected_rows().await);
    let counts = harness.counts();
    assert_eq!([&counts["records"], &counts["updated"], &counts["unchanged"]], [6, 1, 2]);
}

#[tokio::test]
async fn a_batch_leaves_one_complete_line() {
    let harness = SessionsHarness::start().await;
    let records = sessions(&harness, 2).await;
    assert_eq!(harness.deliver(&records).await, None);
    let lines = harness.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    insta::assert_json_snapshot!(redacted(lines[0].clone(), &["/timestamp", "/total_ms", "/_aws/Timestamp"]));
}

#[tokio::test]
async fn records_that_are_no_new_events_and_those_of_self_tests_are_done() {
    let harness = SessionsHarness::start().await;
    let fixture: Value = serde_json::from_str(include_str!("../fixtures/dynamodb-stream.json")).unwrap();
    let mut records = vec![fixture["Records"][1].clone(), fixture["Records"][3].clone()];
    records.push(harness.store("self-test:1", "SELF_TEST", "2026-01-15T10:00:00Z").await);
    assert_eq!(harness.deliver(&records).await, None);
    assert!(harness.rows().await.is_empty() && harness.poison().is_empty());
    assert_eq!((harness.counts()["skipped"].clone(), harness.table.proxy.requests()), (json!(3), 0));
}

#[tokio::test]
async fn a_session_of_which_no_event_is_left_gets_no_row() {
    let harness = SessionsHarness::start().await;
    let record = harness.store("s", START, "2026-01-15T10:00:00Z").await;
    harness.expire(&record).await;
    assert_eq!(harness.deliver(&[record]).await, None);
    assert!(harness.items().await.is_empty());
    assert_eq!(harness.counts()["gone"], 1);
}

#[tokio::test]
async fn a_table_that_fails_costs_some_attempts_and_returns_the_batch_from_its_first_record_on() {
    for (fault, reason) in [
        (Fault::throttled(), "the table is throttled"),
        (Fault::aws_error("ResourceNotFoundException"), "check TABLE_NAME and AWS_REGION"),
        (Fault::access_denied(), "the function's role needs dynamodb:Query on the table"),
        (Fault::status(500), "did not return the events of the session"),
        (Fault::refuse(), "did not return the events of the session"),
        (Fault::hang(), "request has timed out"),
    ] {
        let harness = SessionsHarness::start().await;
        let records = sessions(&harness, 30).await;
        harness.table.proxy.set(fault.clone());
        assert_eq!(harness.deliver(&records).await, Some(sequence_number(&records[0])), "{fault:?}");
        let lines = harness.lines();
        assert!(lines[0]["reason"].as_str().unwrap().contains(reason), "{fault:?}: {}", lines[0]);
        let counts = harness.counts();
        assert_eq!(counts["failed"], 30, "{fault:?}");
        assert!(counts["untried"].as_u64().unwrap() >= 22, "{fault:?}: {counts}");
        assert!(harness.table.proxy.requests() <= 8 * 4, "{fault:?}: the attempts of eight sessions");
        harness.table.proxy.clear();
        assert_eq!(harness.deliver(&records).await, None, "{fault:?}");
        assert_eq!(harness.rows().await, harness.expected_rows().await, "{fault:?}");
    }
}

#[tokio::test]
async fn a_row_that_is_not_written_fails_its_session() {
    for (fault, reason) in [
        (Fault::aws_error("ResourceNotFoundException"), "check SESSIONS_TABLE_NAME and AWS_REGION"),
        (Fault::access_denied(), "the function's role needs dynamodb:PutItem on the table"),
    ] {
        let harness = SessionsHarness::start().await;
        let records = sessions(&harness, 1).await;
        harness.table.proxy.set(fault.after(1));
        assert_eq!(harness.deliver(&records).await, Some(sequence_number(&records[0])));
        let line = &harness.lines()[0];
        assert!(line["reason"].as_str().unwrap().ends_with(reason), "{line}");
        assert_eq!(
            (&line["head_id"], &line["session_id"], &line["outcome"]),
            (&json!("h"), &json!("0"), &json!("failed"))
        );
    }
}

#[tokio::test]
async fn a_throttled_key_range_fails_its_session_alone() {
    let harness = SessionsHarness::start().await;
    let records = sessions(&harness, 20).await;
    harness.table.proxy.set(Fault::hot_key());
    assert_eq!(harness.deliver(&records).await, Some(sequence_number(&records[0])));
    // Each of them was tried: a hot session says nothing about another one.
    assert_eq!((harness.counts()["failed"].clone(), harness.counts()["untried"].clone()), (json!(20), json!(0)));
    assert!(harness.lines()[0]["reason"].as_str().unwrap().contains("one session gets more events"));
}

#[tokio::test]
async fn the_least_sequence_number_that_failed_is_returned_as_a_number() {
    let harness = SessionsHarness::start().await;
    let mut records = sessions(&harness, 3).await;
    for (record, number) in records.iter_mut().zip(["100000000000000000001", "99999999999999999999", "100"]) {
        record["dynamodb"]["SequenceNumber"] = json!(number);
    }
    harness.table.proxy.set(Fault::access_denied());
    assert_eq!(harness.deliver(&records[..2]).await.as_deref(), Some("99999999999999999999"));
    assert_eq!(harness.deliver(&records).await.as_deref(), Some("100"));
    // The records of one session fail from the first one on.
    let mut same = vec![records[0].clone(), records[0].clone()];
    same[0]["dynamodb"]["SequenceNumber"] = json!("1000");
    same[1]["dynamodb"]["SequenceNumber"] = json!("999");
    assert_eq!(harness.deliver(&same).await.as_deref(), Some("999"));
}

#[tokio::test]
async fn a_batch_that_does_not_fit_into_the_invocation_is_returned() {
    let harness = SessionsHarness::start().await;
    let records = sessions(&harness, 3).await;
    assert_eq!(harness.deliver_within(&records, Duration::ZERO).await, Some(sequence_number(&records[0])));
    assert_eq!(harness.lines()[0]["reason"], "the time of the invocation is nearly up");
    // A table that hangs does not hold the invocation beyond its time.
    harness.table.proxy.set(Fault::hang());
    let limit = Duration::from_millis(100);
    assert_eq!(harness.deliver_within(&records, limit).await, Some(sequence_number(&records[0])));
    assert_eq!(harness.lines()[0]["reason"], "the time of the invocation is nearly up");
}

#[tokio::test]
async fn a_poison_record_goes_to_the_on_failure_queue_and_does_not_block_its_shard() {
    let harness = SessionsHarness::start().await;
    let mut records = sessions(&harness, 2).await;
    let (mut odd, mut keyless) = (records[0].clone(), records[0].clone());
    odd["dynamodb"]["Keys"]["pk"]["S"] = json!("SESSION#h#%");
    keyless["dynamodb"]["Keys"] = json!({"id": {"N": "1"}});
    // A session that somebody edited: none of its items is an event.
    let sk = "EVENT#2026-01-15T10:00:00.000Z#1#START_CONVERSATION";
    let edited =
        Item::from([("pk", "SESSION#h#edited"), ("sk", sk), ("event_id", "e1")].map(|(n, v)| (n.into(), text(v))));
    records.extend([odd, keyless, harness.put(&harness.table.name, edited).await]);
    assert_eq!(harness.deliver(&records).await, None);
    assert_eq!(harness.rows().await.len(), 2);
    assert_eq!([&harness.counts()["poison"], &harness.counts()["updated"]], [3, 2]);
    let mut poison = harness.poison();
    poison.sort_by_key(|message| message["pk"].to_string());
    let id = event_item("h", "0", START, "2026-01-15T10:00:00Z", Retention::Forever).event_id;
    assert_eq!(
        poison,
        [
            json!({"pk": "", "sk": "", "event_id": id, "reason": "the record has no key of this table"}),
            json!({"pk": "SESSION#h#%", "sk": sk, "event_id": id, "reason": "the partition key is not that of a session"}),
            json!({"pk": "SESSION#h#edited", "sk": sk, "event_id": "e1",
                "reason": "none of the session's 1 items can be read as an event"}),
        ]
    );
    let levels: Vec<_> = harness.lines().into_iter().map(|line| line["level"].clone()).collect();
    assert_eq!(levels, ["ERROR", "ERROR", "ERROR", "INFO"]);
}

#[tokio::test]
async fn a_row_that_the_table_can_never_take_is_poison() {
    let harness = SessionsHarness::start().await;
    let records = sessions(&harness, 1).await;
    harness.table.proxy.set(Fault::aws_error("ValidationException").after(1));
    assert_eq!(harness.deliver(&records).await, None);
    let poison = harness.poison();
    assert_eq!(poison[0]["pk"], "SESSION#h#0");
    assert!(poison[0]["reason"].as_str().unwrap().contains("did not take the summary"), "{poison:?}");
    // A key that the events table refuses comes from another table's stream: nothing is given up.
    harness.table.proxy.set(Fault::aws_error("ValidationException"));
    assert_eq!(harness.deliver(&records).await, Some(sequence_number(&records[0])));
    assert_eq!(harness.poison().len(), 1);
}

#[tokio::test]
async fn poison_that_the_on_failure_queue_does_not_take_fails() {
    let harness = SessionsHarness::start().await;
    let mut records = sessions(&harness, 3).await;
    for record in &mut records[1..] {
        record["dynamodb"]["Keys"]["pk"]["S"] = json!("SESSION#h#%");
    }
    harness.sqs_proxy.set(Fault::access_denied());
    assert_eq!(harness.deliver(&records).await, Some(sequence_number(&records[1])));
    assert_eq!((harness.rows().await.len(), harness.counts()["failed"].clone()), (1, json!(2)));
    assert_eq!(harness.sqs_proxy.requests(), 1, "a queue that failed is not asked again in this batch");
    assert_eq!(harness.counts()["untried"], 1);
    harness.sqs_proxy.clear();
    assert_eq!(harness.deliver(&records).await, None);
    assert_eq!(harness.poison().len(), 2);
}

#[tokio::test]
async fn poison_behind_a_record_that_fails_is_not_sent_again_and_again() {
    let harness = SessionsHarness::start().await;
    let mut records = sessions(&harness, 3).await;
    for poison in [0, 2] {
        records[poison]["dynamodb"]["Keys"]["pk"]["S"] = json!(format!("SESSION#{poison}"));
    }
    harness.table.proxy.set(Fault::access_denied());
    assert_eq!(harness.deliver(&records).await, Some(sequence_number(&records[1])));
    // Lambda sends the batch again from the record that failed.
    for _ in 0..3 {
        assert_eq!(harness.deliver(&records[1..]).await, Some(sequence_number(&records[1])));
    }
    assert_eq!(harness.poison().len(), 1);
    harness.table.proxy.clear();
    assert_eq!(harness.deliver(&records[1..]).await, None);
    let poison: Vec<_> = harness.poison().iter().map(|message| message["pk"].clone()).collect();
    assert_eq!(poison, ["SESSION#0", "SESSION#2"]);
}

#[tokio::test]
async fn unreadable_items_are_left_out_of_a_summary_with_a_warning() {
    let harness = SessionsHarness::start().await;
    let record = harness.store("s", START, "2026-01-15T10:00:00Z").await;
    let expected = harness.expected_rows().await;
    let mut edited: Item = event_item("h", "s", END, "2026-01-15T10:05:00Z", Retention::Forever).into();
    edited.insert("received_at".into(), text("soon"));
    harness.put(&harness.table.name, edited).await;
    assert_eq!(harness.deliver(&[record]).await, None);
    assert_eq!(harness.rows().await, expected);
    let line = &harness.lines()[0];
    assert_eq!((&line["level"], &line["outcome"]), (&json!("WARN"), &json!("incomplete")));
    assert_eq!(line["reason"], "1 items of the session are not events, and are left out of its summary");
}

#[tokio::test]
async fn an_empty_batch_has_an_empty_response_and_other_events_are_errors() {
    let harness = SessionsHarness::start().await;
    assert_eq!(harness.invoke(json!({"Records": []})).await.unwrap(), json!({"batchItemFailures": []}));
    let sqs = json!({"Records": [{"messageId": "1", "body": "{}", "eventSource": "aws:sqs"}]});
    let records = "the records of the event are not changes of a DynamoDB table: check the function's event source";
    for (input, expected) in [
        (sqs, records),
        (json!({"Records": 7}), records),
        (json!({"source": "aws.events"}), "this is neither a batch of a stream nor a command: missing field `action`"),
        (json!({"action": "replay"}), "this is neither a batch of a stream nor a command: unknown variant `replay`"),
    ] {
        let error = harness.invoke(input).await.unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
