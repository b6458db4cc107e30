//! The real binary under the real Runtime API: how it starts, fails, panics and stops.
//!
//! `RECEIVE_BINARY` names another build of it, e.g. the one that is deployed.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop right there, in its helpers too"
)]

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tests::{
    KEY, Table, event, http_api_event,
    proxy::Fault,
    runtime_api::{Outcome, RuntimeApi},
    sign,
};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

/// Longer than anything here takes, shorter than a stuck test run.
const PATIENCE: Duration = Duration::from_secs(30);

fn command(env: &[(&str, &str)]) -> Command {
    let binary = std::env::var("RECEIVE_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_receive").to_owned());
    let mut command = Command::new(binary);
    command.env_clear().envs(env.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(env: &[(&str, &str)]) -> Output {
    timeout(PATIENCE, command(env).output()).await.unwrap().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
}

/// A function that runs against a Runtime API and a table, with the guide's key in its environment.
struct Running {
    api: RuntimeApi,
    table: Table,
    process: Child,
}

impl Running {
    async fn start() -> Self {
        Self::start_on(Table::create().await).await
    }

    async fn start_on(table: Table) -> Self {
        let api = RuntimeApi::start().await;
        let process = command(&[
            ("AWS_LAMBDA_RUNTIME_API", api.address()),
            ("AWS_LAMBDA_FUNCTION_NAME", "receive"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_ENDPOINT_URL_DYNAMODB", table.proxy.url()),
            ("TABLE_NAME", &table.name),
            ("UNITH_SHARED_KEY", KEY),
            ("RETENTION_DAYS", "0"),
        ]);
        let mut process = process;
        let process = process.spawn().unwrap();
        timeout(PATIENCE, api.asked()).await.expect("the function asks for its first invocation");
        Self { api, table, process }
    }

    async fn invoke(&self, event: Value) -> Outcome {
        timeout(PATIENCE, self.api.queue(&event)).await.unwrap().unwrap()
    }

    async fn terminate(mut self) -> Output {
        self.send_terminate();
        let deadline = timeout(PATIENCE, self.process.wait()).await;
        deadline.expect("it stops").unwrap();
        self.process.wait_with_output().await.unwrap()
    }

    fn send_terminate(&mut self) {
        let pid = self.process.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }
}

fn delivery(session: &str) -> Value {
    let body = event(&json!({"session_id": session}));
    http_api_event(&body, Some(&sign(&body, KEY)))
}

fn status(outcome: &Outcome) -> &Value {
    let Outcome::Response(response) = outcome else { panic!("{outcome:?}") };
    &response["statusCode"]
}

#[tokio::test]
async fn a_wrong_variable_stops_the_start_with_one_line_that_names_it() {
    let api = ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9");
    let (region, table, key) =
        (("AWS_REGION", "eu-west-1"), ("TABLE_NAME", "t"), ("UNITH_SHARED_KEY", "a-key-that-could-be-one"));
    for (env, expected) in [
        (vec![api, region, key], "receive cannot start: TABLE_NAME is not set: it is the name of the DynamoDB table"),
        (
            vec![api, region, table, key, ("UNITH_KEYS_SECRET", "s")],
            "receive cannot start: UNITH_SHARED_KEY and UNITH_KEYS_SECRET are both set: set exactly one of them",
        ),
        (
            vec![api, table, key],
            "receive cannot start: AWS_REGION is not set: it is the region of the table and the secrets",
        ),
        (
            vec![api, region, table, key, ("AWS_CA_BUNDLE", "/no/such.pem")],
            "receive cannot start: AWS_CA_BUNDLE is `/no/such.pem`: expected a readable file of PEM certificates",
        ),
        (
            vec![region, table, key],
            "receive cannot start: AWS_LAMBDA_RUNTIME_API is not set: it is set by Lambda, which starts this program; \
             on your machine use `cargo lambda watch`",
        ),
    ] {
        let output = run(&env).await;
        assert_eq!(output.status.code(), Some(1), "{expected}");
        let lines = lines(&output);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!((&lines[0]["level"], &lines[0]["message"]), (&json!("ERROR"), &json!(expected)));
        assert!(!String::from_utf8_lossy(&output.stdout).contains("a-key-that"), "a key in the log");
    }
}

#[tokio::test]
async fn it_serves_logs_a_line_each_and_stops_on_sigterm() {
    let function = Running::start().await;
    assert_eq!(*status(&function.invoke(delivery("one")).await), 200);
    assert_eq!(*status(&function.invoke(delivery("one")).await), 200);
    assert_eq!(*status(&function.invoke(http_api_event(b"forged", None)).await), 401);
    assert_eq!(function.table.items().await.len(), 1);

    let output = function.terminate().await;
    assert_eq!(output.status.code(), Some(0));
    let outcomes: Vec<_> = lines(&output).iter().map(|line| line["outcome"].clone()).collect();
    assert_eq!(outcomes, ["stored", "duplicate", "rejected"]);
    let line = &lines(&output)[0];
    assert_eq!(line["request_id"], "00000000-0000-0000-0000-000000000001");
    assert_eq!(line["trace_id"], "1-67891233-abcdef012345678912345678");
}

#[tokio::test]
async fn a_table_that_cannot_be_written_to_is_warned_of_at_the_start() {
    let mut table = Table::create().await;
    table.name = "missing".into();
    let function = Running::start_on(table).await;
    let lines = lines(&function.terminate().await);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let message = line["message"].as_str().unwrap();
    let start = "a delivery that was rehearsed could not be stored: table `missing` did not take the event: ";
    assert!(
        line["level"] == "WARN" && message.starts_with(start) && message.ends_with("see TABLE_NAME and AWS_REGION")
    );
}

#[tokio::test]
async fn a_retry_that_succeeds_is_no_fault_and_leaves_one_line() {
    let function = Running::start().await;
    let before = function.table.proxy.requests();
    function.table.proxy.set(Fault::Answer(500, "{}".to_owned()));
    let outcome = function.api.queue(&delivery("retried"));
    while function.table.proxy.requests() == before {
        tokio::task::yield_now().await;
    }
    function.table.proxy.set(Fault::None);
    assert_eq!(*status(&timeout(PATIENCE, outcome).await.unwrap().unwrap()), 200);
    let lines = lines(&function.terminate().await);
    assert_eq!((lines.len(), &lines[0]["outcome"]), (1, &json!("stored")), "{lines:?}");
}

/// What no gateway sends, and what anyone can send through one: no invocation fails for it.
#[tokio::test]
async fn what_is_no_request_of_a_gateway_is_answered_and_the_next_one_is_served() {
    let function = Running::start().await;
    let mut no_base64 = delivery("broken");
    no_base64["isBase64Encoded"] = true.into();
    let mut odd_scheme = delivery("scheme");
    odd_scheme["headers"]["x-forwarded-proto"] = "https,http".into();
    odd_scheme["headers"]["host"] = "[".into();
    odd_scheme["requestContext"]["timeEpoch"] = "soon".into();
    let other = [(json!({"source": "aws.events"}), 404), (json!(null), 404), (json!([1]), 404), (json!("text"), 404)];
    for (event, expected) in [(no_base64, 401), (odd_scheme, 200)].into_iter().chain(other) {
        assert_eq!(*status(&function.invoke(event.clone()).await), expected, "{event}");
    }
    for frame in ["", "{", "{\"a\": \"\\ud83d\", \"b\": 1e999}", "\u{feff}{}", "[[[[[[[["] {
        assert_eq!(*status(&timeout(PATIENCE, function.api.queue_text(frame)).await.unwrap().unwrap()), 404, "{frame}");
    }
    let bytes = function.api.queue_bytes(vec![0xff, 0xfe, b'{']);
    assert_eq!(*status(&timeout(PATIENCE, bytes).await.unwrap().unwrap()), 404);
    assert_eq!(*status(&function.invoke(delivery("next")).await), 200);
    let lines = lines(&function.terminate().await);
    assert!(lines.iter().all(|line| line["outcome"].is_string()), "{lines:?}");
}

#[tokio::test]
async fn a_key_that_cannot_be_one_stops_the_start_and_is_not_shown() {
    let api = ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9");
    let (region, table) = (("AWS_REGION", "eu-west-1"), ("TABLE_NAME", "t"));
    for value in
        ["{{resolve:secretsmanager:unith}}", r#"{"sharedKey":"cbaab87d1cce6d79"}"#, "\"cbaab87d1cce6d79\"", "cbaab87d"]
    {
        let output = run(&[api, region, table, ("UNITH_SHARED_KEY", value)]).await;
        assert_eq!(output.status.code(), Some(1), "{value}");
        let lines = lines(&output);
        let message = lines[0]["message"].as_str().unwrap();
        assert!(message.starts_with("receive cannot start: UNITH_SHARED_KEY cannot be used: it "), "{message}");
        assert!(
            !String::from_utf8_lossy(&output.stdout).contains("cbaab87d") && !message.contains("secretsmanager"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn sigterm_lets_the_invocation_in_flight_finish() {
    let mut function = Running::start().await;
    let before = function.table.proxy.requests();
    function.table.proxy.set(Fault::Delay(Duration::from_millis(400)));
    let outcome = function.api.queue(&delivery("in-flight"));
    while function.table.proxy.requests() == before {
        tokio::task::yield_now().await;
    }
    function.send_terminate();
    let outcome = timeout(PATIENCE, outcome).await.unwrap().expect("it is answered before the process ends");
    assert_eq!(*status(&outcome), 200);
    let ended = timeout(PATIENCE, function.process.wait()).await.expect("it stops").unwrap();
    assert_eq!(ended.code(), Some(0));
    assert_eq!(function.table.items().await.len(), 1);
}
