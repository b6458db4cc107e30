//! Messages that are returned to the queue: which ones, and for how long they stay invisible.

use std::time::Duration;

use sandbox::queues::REDRIVE_TIMEOUT;
use serde_json::{Value, json};
use tests::{delivery::event, proxy::Fault, redrive_harness::RedriveHarness};

async fn spill_sessions(harness: &RedriveHarness, count: usize) {
    for session in 0..count {
        harness.spill(&event(&json!({"session_id": session.to_string()}))).await;
    }
}

fn outcomes(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["outcome"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_table_that_fails_costs_one_message_its_attempts_and_returns_the_whole_batch() {
    for (fault, reason) in [
        (Fault::throttled(), "the table is throttled"),
        (Fault::aws_error("ResourceNotFoundException"), "check TABLE_NAME and AWS_REGION"),
        (Fault::access_denied(), "the function's role needs dynamodb:PutItem on the table"),
        (Fault::status(500), "did not take the event"),
        (Fault::refuse(), "did not take the event"),
        (Fault::hang(), "did not take the event: request has timed out"),
    ] {
        let harness = RedriveHarness::start().await;
        spill_sessions(&harness, 3).await;
        harness.table.proxy.set(fault.clone());
        let lines = harness.deliver().await;
        assert_eq!(outcomes(&lines), ["returned"; 3], "{fault:?}");
        assert!(lines[0]["reason"].as_str().unwrap().contains(reason), "{fault:?}: {}", lines[0]);
        for line in &lines[1..] {
            assert_eq!(line["reason"], "not tried: the table did not take an earlier message of the batch");
        }
        assert!(harness.table.proxy.requests() <= 4, "{fault:?}: the attempts of one message");

        harness.table.proxy.clear();
        harness.sqs.pass_time(Duration::from_mins(1));
        let lines = harness.deliver().await;
        assert_eq!(outcomes(&lines), ["stored"; 3], "{fault:?}");
        assert_eq!(lines[0]["receive_count"], 2);
        assert_eq!((harness.table.items().await.len(), harness.spilled()), (3, vec![]), "{fault:?}");
    }
}

#[tokio::test]
async fn the_messages_before_the_one_at_which_the_table_fails_are_done() {
    let harness = RedriveHarness::start().await;
    harness.spill(b"no event").await;
    harness.send("not a message").await;
    spill_sessions(&harness, 3).await;
    harness.table.proxy.set(Fault::access_denied().after(2).times(1));
    let expected = ["quarantined", "dead_letter", "stored", "returned", "returned"];
    assert_eq!(outcomes(&harness.deliver().await), expected);
    harness.sqs.pass_time(Duration::from_mins(1));
    assert_eq!(outcomes(&harness.deliver().await), ["stored", "stored"]);
    assert_eq!((harness.table.items().await.len(), harness.spilled()), (4, vec![]));
}

#[tokio::test]
async fn a_hot_session_fails_its_own_message_alone() {
    let harness = RedriveHarness::start().await;
    spill_sessions(&harness, 3).await;
    harness.table.proxy.set(Fault::hot_key().times(4));
    let lines = harness.deliver().await;
    assert_eq!(outcomes(&lines), ["returned", "stored", "stored"]);
    let reason = lines[0]["reason"].as_str().unwrap();
    assert!(reason.ends_with("one session gets more events than a partition takes"), "{reason}");
    assert_eq!((harness.table.items().await.len(), harness.spilled().len()), (2, 1));
}

#[tokio::test]
async fn a_returned_message_stays_invisible_twice_as_long_each_time() {
    let harness = RedriveHarness::start().await;
    harness.spill(&event(&json!({}))).await;
    harness.table.proxy.set(Fault::access_denied());
    let second = Duration::from_secs(1);
    // 30 s × 2^n up to 30 min, and the random numbers of the harness take off 20 %.
    for (n, seconds) in [24, 48, 96, 192, 384, 768, 1_440, 1_440].into_iter().enumerate() {
        assert_eq!(harness.deliver().await[0]["receive_count"], n + 1);
        let delay = Duration::from_secs(seconds);
        harness.sqs.pass_time(delay.saturating_sub(second));
        assert!(!harness.spilled()[0].is_visible, "{seconds}");
        harness.sqs.pass_time(second);
        assert!(harness.spilled()[0].is_visible, "{seconds}");
    }
}

#[tokio::test]
async fn a_message_whose_visibility_cannot_be_changed_is_returned_anyway() {
    let harness = RedriveHarness::start().await;
    spill_sessions(&harness, 2).await;
    harness.table.proxy.set(Fault::access_denied());
    harness.sqs_proxy.set(Fault::access_denied());
    assert_eq!(outcomes(&harness.deliver().await), ["returned"; 2]);
    harness.table.proxy.clear();
    // The queue's own time-out.
    harness.sqs.pass_time(6 * REDRIVE_TIMEOUT);
    assert_eq!(outcomes(&harness.deliver().await), ["stored"; 2]);
}

#[tokio::test]
async fn messages_that_do_not_fit_into_the_invocation_are_returned() {
    let harness = RedriveHarness::start().await;
    spill_sessions(&harness, 2).await;
    let lines = harness.deliver_within(Duration::ZERO).await;
    assert_eq!(outcomes(&lines), ["returned"; 2]);
    assert_eq!(lines[0]["reason"], "not tried: the time of the invocation is nearly up");
    harness.sqs.pass_time(Duration::from_mins(1));
    assert_eq!(outcomes(&harness.deliver().await), ["stored"; 2]);
}

#[tokio::test]
async fn an_empty_batch_has_an_empty_response_and_other_events_are_errors() {
    let harness = RedriveHarness::start().await;
    assert_eq!(harness.invoke(json!({"Records": []})).await.unwrap(), json!({"batchItemFailures": []}));
    let stream = json!({"Records": [{"eventSource": "aws:dynamodb", "dynamodb": {"NewImage": {"body": {"S": "{}"}}}}]});
    for (input, expected) in [
        (stream, "the records of the event are not messages of SQS: check the function's event source"),
        (json!({"Records": 7}), "the records of the event are not messages of SQS: check the function's event source"),
        (json!({"source": "aws.events"}), "this is neither a batch of messages nor a command: missing field `action`"),
    ] {
        let error = harness.invoke(input).await.unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
