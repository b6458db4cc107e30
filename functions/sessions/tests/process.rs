//! The real binary under a real Runtime API: how it starts, and that it handles a batch and a command.
//!
//! `SESSIONS_BINARY` names another build of it, e.g. the deployed one.

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
    runtime_api::RuntimeApi,
    sessions_harness::{END, START, SessionsHarness},
    wait::{PATIENCE, within},
};
use tokio::process::Command;

fn command() -> Command {
    tests::process::command("SESSIONS_BINARY", env!("CARGO_BIN_EXE_sessions"))
}

#[tokio::test]
async fn an_invalid_variable_fails_the_start_with_one_line_that_names_it() {
    let harness = SessionsHarness::start().await;
    for (name, value, problem) in [
        ("TABLE_NAME", "", "TABLE_NAME is not set: it is the name of the DynamoDB table of events"),
        (
            "SESSIONS_TABLE_NAME",
            harness.table.name.as_str(),
            "TABLE_NAME and SESSIONS_TABLE_NAME name the same table: sessions have a table of their own",
        ),
        (
            "FAILURE_QUEUE_URL",
            "failures",
            "FAILURE_QUEUE_URL is `failures`: expected the URL of an SQS queue, \
             https://sqs.<region>.amazonaws.com/<account>/<name>",
        ),
        ("AWS_REGION", "", "AWS_REGION is not set: it is the region of the table and the secrets"),
    ] {
        let mut command = command();
        command.envs(harness.env()).env("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9").env(name, value);
        let output = within(PATIENCE, command.output()).await.unwrap();
        let lines = lines(&output);
        assert!(!output.status.success());
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0]["message"], format!("sessions cannot start: {problem}"));
    }
}

#[tokio::test]
async fn a_batch_and_a_command_are_handled_and_leave_their_lines() {
    let harness = SessionsHarness::start().await;
    let mut records = Vec::new();
    for (event_type, occurred_at) in [(START, "2026-01-15T10:00:00Z"), (END, "2026-01-15T10:01:00Z")] {
        records.push(harness.store("s", event_type, occurred_at).await);
    }
    let mut poison = records[0].clone();
    poison["dynamodb"]["Keys"]["pk"]["S"] = json!("SESSION#h");
    records.push(poison);
    let mut api = RuntimeApi::start().await;
    let mut command = command();
    let mut process = command.envs(harness.env()).envs(lambda_variables(&api, "sessions")).spawn().unwrap();
    let invocation = within(PATIENCE, api.invoke(json!({"Records": records}).to_string())).await.unwrap();
    assert_eq!(invocation.json(), json!({"batchItemFailures": []}));
    assert_eq!(harness.rows().await, harness.expected_rows().await);
    assert_eq!(harness.poison().len(), 1);
    let list = json!({"action": "list", "head_id": "h", "state": "ended"}).to_string();
    let report = within(PATIENCE, api.invoke(list)).await.unwrap().json();
    assert_eq!(report["sessions"][0]["duration_ms"], 60_000, "{report}");
    process.start_kill().unwrap();
    let lines = lines(&within(PATIENCE, process.wait_with_output()).await.unwrap());
    let messages: Vec<_> = lines.iter().map(|line| line["message"].as_str().unwrap_or_default()).collect();
    assert_eq!(messages, ["session given up", "batch done", "command done"], "{lines:?}");
}
