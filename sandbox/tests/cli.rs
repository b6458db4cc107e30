//! The sandbox as a newcomer meets it: on the command line.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop right there, in its helpers too"
)]

use std::{
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    process::{Child, Command},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_mins(1);

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(arguments: &[&str]) -> Output {
    timeout(PATIENCE, command(arguments).output()).await.expect("it ends by itself").unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A path of this test run alone, removed before use.
fn scratch(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

#[tokio::test]
async fn once_plays_the_demo_in_the_kits_style_and_is_content() {
    plays_the_demo(&[], "kit").await;
    plays_the_demo(&["--style", "kit"], "kit").await;
}

#[tokio::test]
async fn once_plays_the_demo_in_the_guides_style_and_is_content() {
    plays_the_demo(&["--style", "guide"], "guide").await;
}

async fn plays_the_demo(arguments: &[&str], style: &str) {
    let output = run(&[&["--once", "--seed", "1"], arguments].concat()).await;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{told}{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        &format!("in the {style} style (--style {style} --seed 1 plays the same again)"),
        "200 stored",
        "200 duplicate",
        "401 Unauthorized",
        "overtakes the one before it",
        "All as it must be.",
    ] {
        assert!(told.contains(part), "{part:?} is missing in:\n{told}");
    }
    assert!(!told.contains('\u{1b}'), "colours outside a terminal");
}

#[tokio::test]
async fn the_style_shows_in_what_is_stored() {
    for (style, timestamp, start) in [
        ("kit", r#""timestamp":"2026-01-15 09:57:33""#, r#""event_type":"start_conversation""#),
        ("guide", r#""timestamp":"2026-01-15T09:57:33Z""#, r#""event_type":"START_CONVERSATION""#),
    ] {
        let output = run(&["--once", "--json", "--conversations", "1", "--seed", "3", "--style", style]).await;
        let told = lines(&output);
        assert_eq!((&told[0]["type"], &told[0]["style"]), (&"demo".into(), &style.into()));
        let stored = told.iter().find(|line| line["type"] == "stored").unwrap();
        let body = stored["body"].as_str().unwrap();
        assert!(body.contains(timestamp) && body.contains(start), "{style}: {body}");
        assert_eq!(stored["event_type"], "START_CONVERSATION", "{style}: it is stored in upper case");
    }
}

#[tokio::test]
async fn a_seed_plays_the_same_again() {
    let arguments = ["--once", "--json", "--conversations", "4", "--seed"];
    let play = async |seed| run(&[arguments.as_slice(), &[seed]].concat()).await;
    let (one, same, other) = (play("11").await, play("11").await, play("12").await);
    assert_eq!(lines(&one), lines(&same));
    assert_ne!(lines(&one), lines(&other));
    let told = lines(&one);
    let verdict = told.last().unwrap();
    assert_eq!((&verdict["type"], &verdict["ok"]), (&"verdict".into(), &true.into()));
    let stored = told.iter().filter(|line| line["type"] == "stored").count();
    assert_eq!(verdict["stored"], stored);
    let sessions: std::collections::BTreeSet<_> =
        told.iter().filter(|line| line["type"] == "stored").map(|line| line["session_id"].to_string()).collect();
    assert_eq!(sessions.len(), 4);
}

#[tokio::test]
async fn one_conversation_has_all_the_mishaps() {
    let output = run(&["--once", "--json", "--conversations", "1", "--seed", "3"]).await;
    let verdict = lines(&output).pop().unwrap();
    let counts = (&verdict["ok"], &verdict["duplicates"], &verdict["refused"]);
    assert_eq!(counts, (&true.into(), &1.into(), &2.into()));
}

#[tokio::test]
async fn data_in_a_file_is_there_the_next_time() {
    let file = scratch("data");
    let arguments = ["--once", "--json", "--seed", "21", "--data", file.to_str().unwrap()];
    let first = run(&arguments).await;
    let second = run(&arguments).await;
    let (first, second) = (lines(&first).pop().unwrap(), lines(&second).pop().unwrap());
    assert_eq!((&first["ok"], &second["ok"]), (&true.into(), &true.into()));
    assert_eq!(first["stored"], second["stored"]);
    assert_eq!(second["duplicates"], second["delivered"], "all of it was known");
    let _ = std::fs::remove_file(file);
}

#[tokio::test]
async fn a_busy_port_gives_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for option in ["--port", "--dynamodb-port", "--secrets-manager-port", "--unith-port"] {
        let output = run(&["--once", option, &port]).await;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{option}");
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.starts_with(&format!("error: port {port} for ")) && told.contains("choose another one"), "{told}");
    }
}

#[tokio::test]
async fn bad_arguments_are_refused() {
    for arguments in
        [vec!["--conversations", "0"], vec!["--once", "--services-only"], vec!["--seed", "x"], vec!["--style", "x"]]
    {
        assert_eq!(run(&arguments).await.status.code(), Some(2), "{arguments:?}");
    }
}

#[tokio::test]
async fn services_only_tells_the_functions_environment() {
    let file = scratch("env");
    let arguments = ["--services-only", "--json", "--style", "guide", "--env-file", file.to_str().unwrap()];
    let mut child = command(&arguments).spawn().unwrap();
    let told = first_line(&mut child).await;
    assert_eq!(told["style"], "guide");
    let written = std::fs::read_to_string(&file).unwrap();
    let environment = told["environment"].as_object().unwrap();
    assert!(environment.contains_key("TABLE_NAME") && environment.contains_key("AWS_ENDPOINT_URL_DYNAMODB"));
    assert_eq!(environment["OWNER"], format!("UnithWebhook@{}", sandbox::STACK_GUID));
    for (name, value) in environment {
        assert!(written.lines().any(|line| line == format!("{name}={}", value.as_str().unwrap())), "{name}");
    }
    interrupt(child).await;
    let _ = std::fs::remove_file(file);
}

#[tokio::test]
async fn it_serves_on_until_ctrl_c_and_then_ends_cleanly() {
    let mut child = command(&["--json", "--seed", "5"]).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    let mut lines = BufReader::new(stdout).lines();
    let serving = loop {
        let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().expect("it goes on");
        let value: Value = serde_json::from_str(&line).unwrap();
        if value["type"] == "serving" {
            break value;
        }
    };
    let unith = serving["services"]["unith"].as_str().unwrap();
    let answer = provision::unith::http_client().post(format!("{unith}/_sandbox/conversations")).send().await.unwrap();
    let told: Value = answer.json().await.unwrap();
    let deliveries = told["deliveries"].as_array().unwrap();
    assert!(deliveries.len() >= 2, "{told}");
    assert!(deliveries.iter().all(|delivery| delivery["answer"] == "200 stored"), "{told}");
    interrupt(child).await;
}

async fn first_line(child: &mut Child) -> Value {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    serde_json::from_str(&line).unwrap()
}

async fn interrupt(mut child: Child) {
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let status = timeout(PATIENCE, child.wait()).await.expect("it ends").unwrap();
    assert_eq!(status.code(), Some(0));
}
