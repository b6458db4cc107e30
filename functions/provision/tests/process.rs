//! The real binary under a real Runtime API: what it reports and writes, and that none of it is secret.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed assumption should stop the test where it is, in helpers too"
)]

use sandbox::{
    clients::REGION,
    platform::account::{EMAIL, HEAD_ID},
};
use serde_json::json;
use tests::{
    process::{lambda_variables, lines},
    provision_harness::ProvisionHarness,
    runtime_api::RuntimeApi,
    secrets::{SECRET_ACCESS_KEY, SESSION_TOKEN},
    wait::{PATIENCE, within},
};

#[tokio::test]
async fn commands_are_reported_and_logged_without_secrets() {
    let harness = ProvisionHarness::start().await;
    let mut api = RuntimeApi::start().await;
    let mut command = tests::process::command("PROVISION_BINARY", env!("CARGO_BIN_EXE_provision"));
    command.envs(harness.env()).envs(lambda_variables(&api, "provision")).envs([
        ("AWS_REGION", REGION),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY),
        ("AWS_SESSION_TOKEN", SESSION_TOKEN),
        ("AWS_ENDPOINT_URL_SECRETS_MANAGER", harness.secrets_proxy.url()),
    ]);
    let mut process = command.spawn().unwrap();
    let mut report = async |action: &str| {
        let invocation = within(PATIENCE, api.invoke(json!({"action": action}).to_string())).await.unwrap();
        harness.record(String::from_utf8_lossy(&invocation.response));
        invocation.json()
    };
    for action in ["apply", "status"] {
        let report = report(action).await;
        assert_eq!((&report["ok"], &report["heads"][0]["head_id"]), (&json!(true), &json!(HEAD_ID)), "{report}");
    }
    harness.set_credentials(&json!({"email": EMAIL, "secretKey": "wrong-and-secret"})).await;
    assert_eq!(report("apply").await["ok"], false);
    process.start_kill().unwrap();
    let output = within(PATIENCE, process.wait_with_output()).await.unwrap();
    harness.known.assert_absent_in_process(&output);
    for written in [&output.stdout, &output.stderr] {
        harness.record(String::from_utf8_lossy(written));
    }
    let lines = lines(&output);
    let commands = lines.iter().filter(|line| line["action"].is_string());
    let actions: Vec<_> = commands.map(|line| line["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["apply", "status", "apply"], "{lines:?}");
}
