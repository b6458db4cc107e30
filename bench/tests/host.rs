//! The bench end to end: a real function in its own process, with its services behind TLS, and functions that fail.

#![allow(clippy::unwrap_used, reason = "a failed assumption should stop the test where it is, in helpers too")]

use std::path::{Path, PathBuf};

use bench::{
    candidate::{Candidate, Contract},
    cores::Cores,
    rounds::{Bench, Measured, Settings},
};
use lambda_support::{aws, env::Env};
use receive::{config::Config, handler::Receiver, runtime};

/// The `main` of the function that the tests start: they run this very binary.
#[tokio::test]
#[ignore = "not a test: the other tests start it, with the environment of a function"]
async fn function() {
    let env = Env::from_process();
    if env.optional("AWS_LAMBDA_RUNTIME_API").is_none() {
        return; // a run of all ignored tests
    }
    let aws = aws::config(&env).unwrap();
    let receiver = Receiver::new(Config::from_env(&env).unwrap(), &aws);
    runtime::run(receiver.into()).await.unwrap();
}

fn receiver() -> Candidate {
    Candidate {
        name: "function".into(),
        arguments: ["--ignored", "--exact", "function", "--nocapture"].map(str::to_owned).to_vec(),
        folder: PathBuf::from("/"),
        artifact: Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"),
        program: std::env::current_exe().unwrap(),
        contract: Contract::Receiver,
        reads_key_ring: true,
    }
}

fn shell(script: &str) -> Candidate {
    Candidate { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()], ..receiver() }
}

/// Runs one round, with its files in a folder called `test`.
fn round(test: &str, candidate: Candidate, key_ring: bool) -> Result<Vec<Measured>, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    std::fs::create_dir_all(&folder).unwrap();
    let cores = Cores::split(None).unwrap();
    let settings = Settings { rounds: 1, events: 12, pin: None, key_ring };
    Bench { folder: &folder, cores: &cores, settings }
        .rounds(&[candidate], |_, _| ())
        .map_err(|error| format!("{error:#}"))
}

#[test]
fn a_function_that_keeps_the_contract_is_measured() {
    for key_ring in [false, true] {
        let measured = round("keeps", receiver(), key_ring).unwrap();
        let turn = measured[0].turns[0];
        assert!(turn.init_ms > 0.0 && turn.first_event_ms > 0.0 && turn.cold_cpu_ms > 0.0, "{turn:?}");
        assert!(turn.p50_ms > 0.0 && turn.p99_ms >= turn.p50_ms && turn.peak_mib > 1.0, "{turn:?}");
        assert!((turn.cold_ms - turn.init_ms - turn.first_event_ms).abs() < 0.01, "{turn:?}");
    }
}

#[test]
fn a_wrong_response_fails_the_run_and_the_event_is_named() {
    let function = receiver();
    let program = function.program.display();
    let other_key = format!("UNITH_SHARED_KEY=another-key-than-ours exec {program} {}", function.arguments.join(" "));
    let error = round("response", shell(&other_key), false).unwrap_err();
    let start = "function, round 1: event 1 of 1 got a wrong response: expected 200 stored, got {\"statusCode\":401";
    assert!(error.starts_with(start), "{error}");
}

#[test]
fn a_function_that_does_not_trust_the_authority_stores_nothing() {
    let function = receiver();
    let roots = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/lambda-support/src/roots/amazon-root-ca-1.pem");
    let program = function.program.display();
    let other_roots = format!("AWS_CA_BUNDLE={roots} exec {program} {}", function.arguments.join(" "));
    let error = round("authority", shell(&other_roots), false).unwrap_err();
    assert!(error.contains("expected 200 stored, got {\"statusCode\":503"), "{error}");
}

#[test]
fn a_surplus_item_fails_the_run() {
    let error = round("surplus", Candidate { contract: Contract::Nothing, ..receiver() }, false).unwrap_err();
    assert!(error.ends_with("table function-1-cold holds 1 items, expected 0"), "{error}");
}

#[test]
fn a_missing_item_fails_the_run() {
    let contract = Contract::ReceiverWithIdempotencyTable;
    let error = round("items", Candidate { contract, ..receiver() }, false).unwrap_err();
    assert!(error.starts_with("function, round 1: table function-1-cold-idempotency holds 0 items"), "{error}");
}

#[test]
fn the_last_output_of_a_function_that_ends_is_shown() {
    let error = round("ends", shell("echo the key is missing; exit 3"), false).unwrap_err();
    assert!(error.contains("before its first poll") && error.contains("the key is missing"), "{error}");
    assert!(error.ends_with("the process ended (exit status: 3)"), "{error}");
}

#[test]
fn a_missing_program_is_named() {
    let error = round("missing", Candidate { program: "/no/such/program".into(), ..receiver() }, false).unwrap_err();
    assert!(error.contains("/no/such/program cannot be started"), "{error}");
}
