//! The real binary under a real Runtime API: how it starts, and that it handles a batch.
//!
//! `REDRIVE_BINARY` names another build of it, e.g. the deployed one.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed assumption should stop the test where it is, in helpers too"
)]

use serde_json::json;
use tests::{
    delivery::event,
    process::{lambda_variables, lines},
    redrive_harness::RedriveHarness,
    runtime_api::RuntimeApi,
    secrets::Secrets,
    wait::{PATIENCE, within},
};
use tokio::process::Command;

fn command() -> Command {
    tests::process::command("REDRIVE_BINARY", env!("CARGO_BIN_EXE_redrive"))
}

#[tokio::test]
async fn an_invalid_variable_fails_the_start_with_one_line_that_names_it() {
    let harness = RedriveHarness::start().await;
    for (name, value, problem) in [
        ("TABLE_NAME", "", "TABLE_NAME is not set: it is the name of the DynamoDB table"),
        (
            "SPILL_QUEUE_URL",
            "spill",
            "SPILL_QUEUE_URL is `spill`: expected the URL of an SQS queue, \
             https://sqs.<region>.amazonaws.com/<account>/<name>",
        ),
        (
            "DEAD_LETTER_QUEUE_URL",
            "",
            "DEAD_LETTER_QUEUE_URL is not set: it is the queue of messages that can never be stored",
        ),
        ("AWS_REGION", "", "AWS_REGION is not set: it is the region of the table and the secrets"),
    ] {
        let mut command = command();
        command.envs(harness.env()).env("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9").env(name, value);
        let output = within(PATIENCE, command.output()).await.unwrap();
        harness.known.assert_absent_in_process(&output);
        let lines = lines(&output);
        assert!(!output.status.success());
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0]["message"], format!("redrive cannot start: {problem}"));
    }
}

#[tokio::test]
async fn a_batch_is_handled_and_each_message_leaves_a_line() {
    let harness = RedriveHarness::start().await;
    harness.spill(&event(&json!({}))).await;
    harness.send("not a message").await;
    let mut api = RuntimeApi::start().await;
    let mut command = command();
    let mut process = command.envs(harness.env()).envs(lambda_variables(&api, "redrive")).spawn().unwrap();
    let event = json!({"Records": harness.receive().await});
    harness.known.add_all(&Secrets::of_sqs_event(&event));
    let invocation = within(PATIENCE, api.invoke(event.to_string())).await.unwrap();
    assert_eq!(invocation.json(), json!({"batchItemFailures": []}));
    assert_eq!((harness.table.items().await.len(), harness.dead_letters().len()), (1, 1));
    process.start_kill().unwrap();
    let output = within(PATIENCE, process.wait_with_output()).await.unwrap();
    harness.known.assert_absent_in_process(&output);
    let lines = lines(&output);
    let outcomes: Vec<_> = lines.iter().map(|line| line["outcome"].as_str().unwrap_or_default()).collect();
    assert_eq!(outcomes, ["stored", "dead_letter"], "{lines:?}");
}
