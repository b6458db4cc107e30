//! The real binary under a real Runtime API: how it starts, fails, panics and stops.
//!
//! `RECEIVE_BINARY` names another build of it, e.g. the deployed one.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a failed assumption should stop the test where it is, in helpers too"
)]

use std::{
    cell::Cell,
    collections::BTreeSet,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{
    delivery::{KEY, event, sign},
    gateway_event::http_api_event,
    key_ring::RING_SECRET,
    process::{lambda_variables, lines},
    proxy::Fault,
    receive_harness::ReceiveHarness,
    runtime_api::RuntimeApi,
    secrets::{SECRET_ACCESS_KEY, SESSION_TOKEN, Secrets},
    table::{Table, text},
    wait::{PATIENCE, within},
};
use tokio::process::{Child, Command};

const UNITH_ATTEMPTS: usize = 4;

fn command(env: &[(&str, &str)]) -> Command {
    let mut command = tests::process::command("RECEIVE_BINARY", env!("CARGO_BIN_EXE_receive"));
    command.envs(env.iter().copied());
    command
}

/// Runs a process to its end. It may not show its key, nor the beginning of one.
async fn run(env: &[(&str, &str)]) -> Output {
    let output = within(PATIENCE, command(env).output()).await.unwrap();
    let known = Secrets::of_role();
    for (_, value) in env.iter().filter(|(name, _)| *name == "UNITH_SHARED_KEY") {
        known.add_key(value);
    }
    known.assert_absent_in_process(&output);
    output
}

/// A function that runs against a Runtime API and a table, with the guide's key in its environment.
struct Function {
    api: RuntimeApi,
    table: Table,
    process: Child,
    /// What it may not show.
    known: Secrets,
}

impl Function {
    async fn start() -> Self {
        Self::start_on(Table::create().await).await
    }

    async fn start_on(table: Table) -> Self {
        let (api, process) = start(&table).await;
        let known = Secrets::of_role();
        known.add_key(KEY);
        Self { api, table, process, known }
    }

    /// The HTTP status of the response to an event.
    async fn invoke(&mut self, event: &Value) -> Value {
        self.known.add_all(&Secrets::of_gateway_event(event));
        self.invoke_bytes(event.to_string().into_bytes()).await
    }

    /// The same for an event that need not be JSON, or text.
    async fn invoke_bytes(&mut self, event: Vec<u8>) -> Value {
        let invocation = within(PATIENCE, self.api.invoke(event)).await.unwrap();
        self.known.assert_absent("a response", &String::from_utf8_lossy(&invocation.response));
        invocation.json()["statusCode"].clone()
    }

    async fn terminate(self) -> Output {
        let pid = self.process.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let output = within(PATIENCE, self.process.wait_with_output()).await.unwrap();
        self.known.assert_absent_in_process(&output);
        output
    }
}

/// A process that waits for an event, and its Runtime API.
async fn start(table: &Table) -> (RuntimeApi, Child) {
    start_with(table, &[("UNITH_SHARED_KEY", KEY)], Stdio::piped()).await
}

/// The same with these keys, and with another place for the log.
async fn start_with(table: &Table, keys: &[(&str, &str)], log: Stdio) -> (RuntimeApi, Child) {
    let mut api = RuntimeApi::start().await;
    let mut command = command(&[
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY),
        ("AWS_SESSION_TOKEN", SESSION_TOKEN),
        ("AWS_ENDPOINT_URL_DYNAMODB", table.proxy.url()),
        ("TABLE_NAME", &table.name),
        ("RETENTION_DAYS", "0"),
    ]);
    let process =
        command.envs(lambda_variables(&api, "receive")).envs(keys.iter().copied()).stdout(log).spawn().unwrap();
    within(PATIENCE, api.wait_for_poll()).await.unwrap();
    (api, process)
}

fn delivery(session: &str) -> Value {
    let body = event(&json!({"session_id": session}));
    http_api_event(&body, Some(&sign(&body, KEY)))
}

#[tokio::test]
async fn an_invalid_variable_fails_the_start_with_one_line_that_names_it() {
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
async fn each_invocation_leaves_one_log_line() {
    let mut function = Function::start().await;
    assert_eq!(function.invoke(&delivery("one")).await, 200);
    assert_eq!(function.invoke(&delivery("one")).await, 200);
    assert_eq!(function.invoke(&http_api_event(b"forged", None)).await, 401);
    assert_eq!(function.table.items().await.len(), 1);

    let output = function.terminate().await;
    let outcomes: Vec<_> = lines(&output).iter().map(|line| line["outcome"].clone()).collect();
    assert_eq!(outcomes, ["stored", "duplicate", "rejected"]);
    let line = &lines(&output)[0];
    assert_eq!(line["request_id"], "00000000-0000-0000-0000-000000000001");
    assert_eq!(line["trace_id"], "1-67891233-abcdef012345678912345678");
}

#[tokio::test]
async fn a_table_that_cannot_be_written_to_is_reported_at_start() {
    let mut table = Table::create().await;
    table.name = "missing".into();
    let function = Function::start_on(table).await;
    let lines = lines(&function.terminate().await);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let message = line["message"].as_str().unwrap();
    let start = "the warm-up write failed: table `missing` did not take the warm-up write: ";
    assert!(
        line["level"] == "WARN" && message.starts_with(start) && message.ends_with("check TABLE_NAME and AWS_REGION")
    );
}

#[tokio::test]
async fn a_write_that_succeeds_on_retry_leaves_one_log_line() {
    let mut function = Function::start().await;
    function.table.proxy.set(Fault::status(500).times(1));
    assert_eq!(function.invoke(&delivery("retried")).await, 200);
    let lines = lines(&function.terminate().await);
    assert_eq!((lines.len(), &lines[0]["outcome"]), (1, &json!("stored")), "{lines:?}");
}

#[tokio::test]
async fn events_that_no_gateway_sends_get_a_response_and_the_next_event_is_served() {
    let mut function = Function::start().await;
    let mut no_base64 = delivery("broken");
    no_base64["isBase64Encoded"] = true.into();
    let mut odd_scheme = delivery("scheme");
    odd_scheme["headers"]["x-forwarded-proto"] = "https,http".into();
    odd_scheme["headers"]["host"] = "[".into();
    odd_scheme["requestContext"]["timeEpoch"] = "soon".into();
    let other = [(json!({"source": "aws.events"}), 404), (json!(null), 404), (json!([1]), 404), (json!("text"), 404)];
    for (event, expected) in [(no_base64, 401), (odd_scheme, 200)].into_iter().chain(other) {
        assert_eq!(function.invoke(&event).await, expected, "{event}");
    }
    for text in ["", "{", "{\"a\": \"\\ud83d\", \"b\": 1e999}", "\u{feff}{}", "[[[[[[[["] {
        assert_eq!(function.invoke_bytes(text.into()).await, 404, "{text}");
    }
    assert_eq!(function.invoke_bytes(vec![0xff, 0xfe, b'{']).await, 404);
    assert_eq!(function.invoke(&delivery("next")).await, 200);
    let lines = lines(&function.terminate().await);
    assert!(lines.iter().all(|line| line["outcome"].is_string()), "{lines:?}");
}

#[tokio::test]
async fn an_unusable_key_fails_the_start_and_is_not_logged() {
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

/// `KILL_DELIVERIES` sets how many deliveries are made, `KILL_SEED` when the function is killed.
#[tokio::test]
async fn a_delivery_that_got_a_2xx_is_stored_once_however_often_the_function_is_killed() {
    let variable = |name: &str, default| std::env::var(name).map_or(default, |value| value.parse::<u64>().unwrap());
    let (count, mut random) = (variable("KILL_DELIVERIES", 60), fastrand::Rng::with_seed(variable("KILL_SEED", 1)));
    let table = Table::create().await;
    let (mut acknowledged, kills, mut running) = (BTreeSet::new(), Cell::new(0), None);
    for number in 0..count {
        let session = format!("session-{number}");
        let event = delivery(&session).to_string();
        for _ in 0..UNITH_ATTEMPTS {
            let (mut api, mut process) = match running.take() {
                Some(running) => running,
                None => start(&table).await,
            };
            // The moments of a delivery: before it is read, while it is written, while it is answered, and after.
            let killed = random.u8(0..3) == 0;
            let moment = Duration::from_micros(random.u64(0..2_000));
            let kill = async {
                tokio::time::sleep(if killed { moment } else { PATIENCE }).await;
                kills.set(kills.get() + 1);
                process.kill().await.unwrap();
            };
            let before = kills.get();
            let invocation = tokio::select! {
                invocation = api.invoke(event.clone()) => Some(invocation.unwrap()),
                () = kill => None,
            };
            // The response may arrive while the process is dying.
            if kills.get() == before {
                running = Some((api, process));
            }
            if let Some(invocation) = invocation {
                assert_eq!(invocation.json()["statusCode"], 200);
                acknowledged.insert(session);
                break;
            }
        }
    }
    let items = table.items().await;
    let stored: BTreeSet<_> = items.iter().map(|item| text(item, "session_id").to_owned()).collect();
    assert_eq!(stored.len(), items.len(), "an event is stored once");
    assert!(acknowledged.is_subset(&stored), "lost: {:?}", acknowledged.difference(&stored));
    assert!(kills.get() > 0, "the function was never killed");
    let (kills, acknowledged, stored) = (kills.get(), acknowledged.len(), stored.len());
    println!("{count} deliveries, {kills} kills: {acknowledged} got a 200, {stored} are stored, 0 lost");
}

/// `FORGERIES` sets how many deliveries are made. The figure for the CPU is that of the deployed function if
/// `RECEIVE_BINARY` names it.
#[tokio::test]
async fn a_flood_of_forgeries_reads_the_key_ring_once_per_ten_seconds() {
    let count: u32 = std::env::var("FORGERIES").map_or(300, |value| value.parse().unwrap());
    let harness = ReceiveHarness::new().await;
    let keys = [("UNITH_KEYS_SECRET", RING_SECRET), ("AWS_ENDPOINT_URL_SECRETS_MANAGER", harness.secrets.url())];
    let started = Instant::now();
    // Nobody reads the log, and a pipe that is full would stop the function.
    let (mut api, process) = start_with(&harness.table, &keys, Stdio::null()).await;
    let body = event(&json!({}));
    let forgery = http_api_event(&body, Some(&sign(&body, "forged"))).to_string();
    let refused = async |api: &mut RuntimeApi| {
        let invocation = within(PATIENCE, api.invoke(forgery.clone())).await.unwrap();
        assert_eq!(invocation.json()["statusCode"], 401);
    };
    // The first one reads the ring once more.
    refused(&mut api).await;
    let before = cpu_time(&process);
    for _ in 0..count {
        refused(&mut api).await;
    }
    let cpu = cpu_time(&process).zip(before).map(|(after, before)| after.saturating_sub(before) / count);
    let cpu = cpu.map_or("an unknown time".to_owned(), |cpu| format!("{:.3} ms", cpu.as_secs_f64() * 1_000.0));
    let (reads, passed) = (harness.ring_fetches(), started.elapsed());
    println!("{count} forgeries in {passed:.1?}: {cpu} of CPU each, {reads} calls of Secrets Manager");
    // One at the start, one for the first forgery, and one in each further 10 s.
    assert!((2..=2 + passed.as_secs() / 10).contains(&u64::try_from(reads).unwrap()), "{reads} in {passed:?}");
    assert!(harness.table.items().await.is_empty());
}

/// The CPU that a process of one thread has used so far; `None` on a system that is not Linux.
fn cpu_time(process: &Child) -> Option<Duration> {
    let schedstat = std::fs::read_to_string(format!("/proc/{}/schedstat", process.id()?)).ok()?;
    Some(Duration::from_nanos(schedstat.split(' ').next()?.parse().ok()?))
}
