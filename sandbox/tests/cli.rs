//! The command line of the sandbox.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop right there, in its helpers too"
)]

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use sandbox::{
    clients::secrets_client,
    http_client::http_client,
    platform::account::{FIRST_SHARED_KEY, SECRET_KEY},
    services::{CREDENTIALS_SECRET, KEYS_SECRET},
    stack::STACK_GUID,
};
use serde_json::Value;
use tests::{delivery::sign, secrets::Secrets};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    process::{Child, Command},
    time::timeout,
};

/// The limit of every wait.
const LIMIT: Duration = Duration::from_mins(1);

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs it to its end. It prints bodies that it has stored, and nothing else that is secret.
async fn run(arguments: &[&str]) -> Output {
    let output = timeout(LIMIT, command(arguments).output()).await.expect("the sandbox does not exit").unwrap();
    let known = Secrets::default();
    known.add_issued(SECRET_KEY);
    known.add_key(FIRST_SHARED_KEY);
    known.assert_absent_in_process(&output);
    output
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A path of this test run. No file is there.
fn scratch(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

#[tokio::test]
async fn once_plays_the_demo_in_the_style_of_the_kit_and_exits_with_0() {
    plays_the_demo(&[], "kit").await;
    plays_the_demo(&["--style", "kit"], "kit").await;
}

#[tokio::test]
async fn once_plays_the_demo_in_the_style_of_the_guide_and_exits_with_0() {
    plays_the_demo(&["--style", "guide"], "guide").await;
}

async fn plays_the_demo(arguments: &[&str], style: &str) {
    let output = run(&[&["--once", "--seed", "1"], arguments].concat()).await;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        &format!("in the {style} style (--style {style} --seed 1 plays the same again)"),
        "200 stored",
        "200 duplicate",
        "401 Unauthorized",
        "overtakes the event before it",
        "The table is unavailable.",
        "202 accepted",
        "The table is available again.",
        "redrive\n",
        "OK: the table holds exactly the expected events.",
        "Sessions, from the function sessions",
        "Events on the bus unith, from the function publish",
        "with the session's summary",
        "OK: the bus and the table of sessions match them.",
    ] {
        assert!(stdout.contains(part), "{part:?} is missing in:\n{stdout}");
    }
    assert!(!stdout.contains('\u{1b}'), "colours outside a terminal");
}

#[tokio::test]
async fn a_stored_body_is_in_the_style_of_the_delivery() {
    for (style, timestamp, start) in [
        ("kit", r#""timestamp":"2026-01-15 09:57:33""#, r#""event_type":"start_conversation""#),
        ("guide", r#""timestamp":"2026-01-15T09:57:33Z""#, r#""event_type":"START_CONVERSATION""#),
    ] {
        let output = run(&["--once", "--json", "--conversations", "1", "--seed", "3", "--style", style]).await;
        let lines = lines(&output);
        assert_eq!((&lines[0]["type"], &lines[0]["style"]), (&"demo".into(), &style.into()));
        let stored = lines.iter().find(|line| line["type"] == "stored").unwrap();
        let body = stored["body"].as_str().unwrap();
        assert!(body.contains(timestamp) && body.contains(start), "{style}: {body}");
        let signature = sign(body.as_bytes(), FIRST_SHARED_KEY);
        assert!(!String::from_utf8_lossy(&output.stdout).contains(&signature), "{style}: the signature is printed");
        assert_eq!(stored["event_type"], "START_CONVERSATION", "{style}: the stored type is in upper case");
    }
}

#[tokio::test]
async fn a_seed_plays_the_same_conversations_again() {
    let arguments = ["--once", "--json", "--conversations", "4", "--seed"];
    let play = async |seed| run(&[arguments.as_slice(), &[seed]].concat()).await;
    let (one, same, other) = (play("11").await, play("11").await, play("12").await);
    assert_eq!(lines(&one), lines(&same));
    assert_ne!(lines(&one), lines(&other));
    let lines = lines(&one);
    let verdict = lines.last().unwrap();
    assert_eq!((&verdict["type"], &verdict["ok"]), (&"verdict".into(), &true.into()));
    let stored: Vec<_> = lines.iter().filter(|line| line["type"] == "stored").collect();
    assert_eq!(verdict["stored"], stored.len());
    let sessions: BTreeSet<_> = stored.iter().map(|line| line["session_id"].to_string()).collect();
    assert_eq!(sessions.len(), 4);
    let of = |kind: &str| lines.iter().filter(|line| line["type"] == kind).collect::<Vec<_>>();
    let (rows, published) = (of("session"), of("bus_event"));
    assert_eq!((&verdict["sessions"], &verdict["published"]), (&rows.len().into(), &published.len().into()));
    let ended: BTreeSet<_> =
        rows.iter().filter(|row| row["state"] == "ended").map(|row| row["session_id"].to_string()).collect();
    assert_eq!(ended, sessions, "every conversation of the demo ends");
    let ids = |lines: &[&Value], pointer: &str| {
        lines.iter().map(|line| line.pointer(pointer).unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&published, "/detail/metadata/id"), ids(&stored, "/event_id"));
}

#[tokio::test]
async fn a_single_conversation_has_all_incidents() {
    let output = run(&["--once", "--json", "--conversations", "1", "--seed", "3"]).await;
    let lines = lines(&output);
    let verdict = lines.last().unwrap();
    let counts = (&verdict["ok"], &verdict["duplicates"], &verdict["refused"]);
    assert_eq!(counts, (&true.into(), &1.into(), &2.into()));
    let accepted = lines.iter().filter(|line| line["outcome"] == "accepted").count();
    assert_eq!(verdict["accepted"], accepted);
    assert_eq!(verdict["delivered"], accepted + 1, "the table is available for the first event only");
    let via: Vec<_> = lines.iter().filter(|line| line["type"] == "stored").map(|line| &line["via"]).collect();
    assert!(via[0].is_null() && via[1..].iter().all(|via| *via == "redrive"), "{via:?}");
    let states: Vec<_> = lines.iter().filter(|line| line["type"] == "outage").map(|line| &line["state"]).collect();
    assert_eq!(states, ["begins", "ends"]);
}

#[tokio::test]
async fn data_in_a_file_is_there_in_the_next_run() {
    let file = scratch("data");
    let arguments = ["--once", "--json", "--seed", "21", "--data", file.to_str().unwrap()];
    let first = run(&arguments).await;
    let second = run(&arguments).await;
    let (first, second) = (lines(&first).pop().unwrap(), lines(&second).pop().unwrap());
    assert_eq!((&first["ok"], &second["ok"]), (&true.into(), &true.into()));
    assert_eq!(first["stored"], second["stored"]);
    let count = |name: &str| second[name].as_u64().unwrap();
    assert_eq!(count("duplicates") + count("accepted"), count("delivered"), "every event was stored before");
    let _ = std::fs::remove_file(file);
}

#[tokio::test]
async fn a_port_in_use_fails_with_one_line_that_names_the_port() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for option in
        ["--port", "--dynamodb-port", "--secrets-manager-port", "--sqs-port", "--eventbridge-port", "--unith-port"]
    {
        let output = run(&["--once", option, &port]).await;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{option}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        let start = format!("error: cannot listen on port {port} for ");
        assert!(stderr.starts_with(&start) && stderr.contains("choose another port"), "{stderr}");
    }
}

#[tokio::test]
async fn invalid_arguments_exit_with_2() {
    for arguments in
        [vec!["--conversations", "0"], vec!["--once", "--services-only"], vec!["--seed", "x"], vec!["--style", "x"]]
    {
        assert_eq!(run(&arguments).await.status.code(), Some(2), "{arguments:?}");
    }
}

#[tokio::test]
async fn services_only_prints_and_writes_the_environment_of_the_functions() {
    let file = scratch("env");
    let arguments = ["--services-only", "--json", "--style", "guide", "--env-file", file.to_str().unwrap()];
    let mut child = command(&arguments).spawn().unwrap();
    let line = first_line(&mut child).await;
    assert_eq!(line["style"], "guide");
    let written = std::fs::read_to_string(&file).unwrap();
    let environment = line["environment"].as_object().unwrap();
    for name in [
        "TABLE_NAME",
        "SPILL_QUEUE_URL",
        "DEAD_LETTER_QUEUE_URL",
        "FAILURE_QUEUE_URL",
        "EVENT_BUS_ARN",
        "SESSIONS_TABLE_NAME",
        "AWS_ENDPOINT_URL_DYNAMODB",
        "AWS_ENDPOINT_URL_SECRETS_MANAGER",
        "AWS_ENDPOINT_URL_SQS",
    ] {
        assert!(environment.contains_key(name), "{name}");
    }
    assert_eq!(environment["AWS_ENDPOINT_URL_SQS"], line["services"]["sqs"]);
    assert_eq!(environment["OWNER"], format!("UnithWebhook@{STACK_GUID}"));
    for (name, value) in environment {
        assert!(written.lines().any(|line| line == format!("{name}={}", value.as_str().unwrap())), "{name}");
    }
    interrupt(child).await;
    let _ = std::fs::remove_file(file);
}

#[tokio::test]
async fn the_sandbox_serves_until_ctrl_c_and_then_exits_with_0() {
    let mut child = command(&["--json", "--seed", "5"]).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    let mut lines = BufReader::new(stdout).lines();
    let mut printed = String::new();
    let serving = loop {
        let line = timeout(LIMIT, lines.next_line()).await.unwrap().unwrap().expect("the output ends too early");
        printed.push_str(&line);
        let value: Value = serde_json::from_str(&line).unwrap();
        if value["type"] == "serving" {
            break value;
        }
    };
    let unith = serving["services"]["unith"].as_str().unwrap();
    let request = http_client().unwrap().post(format!("{unith}/_sandbox/conversations")).timeout(LIMIT);
    let played: Value = request.send().await.unwrap().json().await.unwrap();
    let deliveries = played["deliveries"].as_array().unwrap();
    assert!(deliveries.len() >= 2, "{played}");
    assert!(deliveries.iter().all(|delivery| delivery["response"] == "200 stored"), "{played}");

    // Nothing it prints is in the key ring or in the credentials.
    let known = Secrets::default();
    let client = secrets_client(serving["services"]["secrets_manager"].as_str().unwrap()).unwrap();
    for name in [KEYS_SECRET, CREDENTIALS_SECRET] {
        let secret = client.get_secret_value().secret_id(name).send().await.unwrap();
        known.add_document(secret.secret_string().unwrap());
    }
    interrupt(child).await;
    while let Some(line) = timeout(LIMIT, lines.next_line()).await.unwrap().unwrap() {
        printed.push_str(&line);
    }
    known.assert_absent("the output", &printed);
}

async fn first_line(child: &mut Child) -> Value {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = timeout(LIMIT, lines.next_line()).await.unwrap().unwrap().unwrap();
    serde_json::from_str(&line).unwrap()
}

async fn interrupt(mut child: Child) {
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let status = timeout(LIMIT, child.wait()).await.expect("the sandbox does not exit").unwrap();
    assert_eq!(status.code(), Some(0));
}
