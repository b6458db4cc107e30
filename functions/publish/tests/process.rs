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

use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tests::{
    publish_harness::{PublishHarness, START},
    runtime_api::RuntimeApi,
    wait::{PATIENCE, until, within},
};
use tokio::process::Command;

fn command() -> Command {
    let binary = std::env::var("PUBLISH_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_publish").to_owned());
    let mut command = Command::new(binary);
    command.env_clear().stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
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
    let lambda = [
        ("AWS_LAMBDA_RUNTIME_API", api.address()),
        ("AWS_LAMBDA_FUNCTION_NAME", "publish"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
    ];
    let mut process = command.envs(harness.env()).envs(lambda).spawn().unwrap();
    within(PATIENCE, until(async || harness.eventbridge.calls("DescribeEventBus") == 1)).await;
    let event = json!({"Records": records}).to_string();
    let invocation = within(PATIENCE, api.invoke(event)).await.unwrap();
    assert_eq!(invocation.json(), json!({"batchItemFailures": []}));
    assert_eq!((harness.published().len(), harness.eventbridge.calls("DescribeEventBus")), (2, 1));
    process.start_kill().unwrap();
    let lines = lines(&within(PATIENCE, process.wait_with_output()).await.unwrap());
    assert_eq!((lines.len(), &lines[0]["Published"]), (1, &json!(2)), "{lines:?}");
}
