//! The real binary under a real Runtime API: how it starts, and that it handles a batch.
//!
//! `PUBLISH_BINARY` names another build of it, e.g. the deployed one.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed assumption should stop the test where it is, in helpers too"
)]

use serde_json::json;
use tests::{
    process::{lambda_variables, lines},
    publish_harness::{PublishHarness, START},
    runtime_api::RuntimeApi,
    wait::{PATIENCE, until, within},
};
use tokio::process::Command;

fn command() -> Command {
    tests::process::command("PUBLISH_BINARY", env!("CARGO_BIN_EXE_publish"))
}

#[tokio::test]
async fn an_invalid_variable_fails_the_start_with_one_line_that_names_it() {
    let harness = PublishHarness::start().await;
    for (name, value, problem) in [
        ("TABLE_NAME", "", "TABLE_NAME is not set: it is the name of the DynamoDB table"),
        (
            "EVENT_BUS_ARN",
            "",
            "EVENT_BUS_ARN and ORDERED_QUEUE_URL are not set: set one of them or both, or nothing is published",
        ),
        (
            "EVENT_BUS_ARN",
            "unith",
            "EVENT_BUS_ARN is `unith`: expected the ARN of an event bus, \
             arn:aws:events:<region>:<account>:event-bus/<name>",
        ),
        ("FAILURE_QUEUE_URL", "", "FAILURE_QUEUE_URL is not set: it is the queue of records that cannot be published"),
        (
            "AWS_REGION",
            "eu-west-1",
            "EVENT_BUS_ARN is `arn:aws:events:us-east-1:123456789012:event-bus/unith`: \
             expected an event bus in the function's own region",
        ),
    ] {
        let mut command = command();
        command.envs(harness.env()).env("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9").env(name, value);
        let output = within(PATIENCE, command.output()).await.unwrap();
        let lines = lines(&output);
        assert!(!output.status.success());
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0]["message"], format!("publish cannot start: {problem}"));
    }
}

#[tokio::test]
async fn a_batch_is_published_after_the_bus_was_looked_up_at_start() {
    let harness = PublishHarness::start().await;
    let records = [
        harness.store("a", START, "2026-01-15T09:00:00Z").await,
        harness.store("b", START, "2026-01-15T09:00:00Z").await,
    ];
    let mut api = RuntimeApi::start().await;
    let mut command = command();
    let mut process = command.envs(harness.env()).envs(lambda_variables(&api, "publish")).spawn().unwrap();
    within(PATIENCE, until(async || harness.eventbridge.calls("DescribeEventBus") == 1)).await;
    let event = json!({"Records": records}).to_string();
    let invocation = within(PATIENCE, api.invoke(event)).await.unwrap();
    assert_eq!(invocation.json(), json!({"batchItemFailures": []}));
    assert_eq!((harness.published().len(), harness.eventbridge.calls("DescribeEventBus")), (2, 1));
    process.start_kill().unwrap();
    let lines = lines(&within(PATIENCE, process.wait_with_output()).await.unwrap());
    assert_eq!((lines.len(), &lines[0]["Published"]), (1, &json!(2)), "{lines:?}");
}
