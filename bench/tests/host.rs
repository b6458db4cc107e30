//! The bench end to end: a real function in its own process, with its services behind TLS, and functions that fail.

#![allow(clippy::unwrap_used, reason = "a failed assumption should stop the test where it is, in helpers too")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bench::{
    candidate::{Candidate, Contract, Function},
    cores::Cores,
    rounds::{Bench, Measured, Settings, Turn},
    stream::{
        reader::{NAMES, Reader},
        rounds::{StreamBench, StreamSettings, StreamTurn},
    },
};
use lambda_runtime::{Error, LambdaEvent, Runtime, service_fn};
use lambda_support::{aws, deadline::deadline, env::Env};
use publish::handler::Publisher;
use receive::{config::Config, handler::Receiver, runtime};
use serde_json::Value;
use sessions::handler::SessionUpdater;

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

/// The `main` of the function `publish`.
#[tokio::test]
#[ignore = "not a test: the other tests start it, with the environment of a function"]
async fn publish_function() {
    let env = Env::from_process();
    if env.optional("AWS_LAMBDA_RUNTIME_API").is_none() {
        return; // a run of all ignored tests
    }
    let publisher =
        Arc::new(Publisher::new(publish::config::Config::from_env(&env).unwrap(), &aws::config(&env).unwrap()));
    let handler = service_fn(move |LambdaEvent { payload, context }: LambdaEvent<Value>| {
        let publisher = Arc::clone(&publisher);
        async move {
            let until = deadline(context.deadline, Duration::ZERO, Duration::from_mins(1));
            publisher.handle(payload, &context.request_id, until).await.map_err(Error::from)
        }
    });
    Runtime::new(handler).run().await.unwrap();
}

/// The `main` of the function `sessions`.
#[tokio::test]
#[ignore = "not a test: the other tests start it, with the environment of a function"]
async fn sessions_function() {
    let env = Env::from_process();
    if env.optional("AWS_LAMBDA_RUNTIME_API").is_none() {
        return; // a run of all ignored tests
    }
    let config = sessions::config::Config::from_env(&env).unwrap();
    let updater = Arc::new(SessionUpdater::new(config, &aws::config(&env).unwrap()));
    let handler = service_fn(move |LambdaEvent { payload, context }: LambdaEvent<Value>| {
        let updater = Arc::clone(&updater);
        async move {
            let until = deadline(context.deadline, Duration::ZERO, Duration::from_mins(1));
            updater.handle(payload, &context.request_id, until).await.map_err(Error::from)
        }
    });
    Runtime::new(handler).run().await.unwrap();
}

fn receiver() -> Candidate {
    let function = this_binary("function");
    Candidate { name: "function".into(), function, contract: Contract::Receiver, reads_key_ring: true }
}

/// This binary, as the function that is the ignored test called `test`.
fn this_binary(test: &str) -> Function {
    Function {
        arguments: ["--ignored", "--exact", test, "--nocapture"].map(str::to_owned).to_vec(),
        folder: PathBuf::from("/"),
        artifact: Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"),
        ..Function::binary(&std::env::current_exe().unwrap(), Duration::from_mins(1))
    }
}

fn shell(script: &str) -> Candidate {
    let function =
        Function { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()], ..receiver().function };
    Candidate { function, ..receiver() }
}

/// Runs one round, with its files in a folder called `test`.
fn round(test: &str, candidate: Candidate, key_ring: bool) -> Result<Vec<Measured<Turn>>, String> {
    let folder = folder(test);
    let cores = Cores::split(None).unwrap();
    let settings = Settings { rounds: 1, events: 12, pin: None, key_ring };
    Bench { folder: &folder, cores: &cores, settings }
        .rounds(&[candidate], |_, _| ())
        .map_err(|error| format!("{error:#}"))
}

fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// One of [`NAMES`], with the functions of this binary.
fn reader(name: &str) -> Reader {
    let this = std::env::current_exe().unwrap();
    let test = if name.starts_with("publish") { "publish_function" } else { "sessions_function" };
    Reader { function: this_binary(test), ..Reader::named(name, &this, &this).unwrap() }
}

/// Runs one round of some records, with its files in a folder called `test`.
fn stream_round(test: &str, reader: Reader) -> Result<Vec<Measured<StreamTurn>>, String> {
    let cores = Cores::split(None).unwrap();
    let settings = StreamSettings { rounds: 1, records: 120, pin: None };
    StreamBench { folder: &folder(test), cores: &cores, settings }
        .rounds(&[reader], |_, _| ())
        .map_err(|error| format!("{error:#}"))
}

#[test]
fn readers_of_the_stream_are_measured() {
    for name in NAMES {
        let measured = stream_round("reads", reader(name)).unwrap();
        let turn = measured[0].turns[0];
        assert!(turn.init_ms > 0.0 && turn.first_record_ms > 0.0 && turn.cold_cpu_ms > 0.0, "{turn:?}");
        assert!(turn.record_cpu_ms > 0.0 && turn.batch_p50_ms > 0.0 && turn.records_per_s > 0.0, "{turn:?}");
    }
}

#[test]
fn a_record_that_fails_ends_the_run() {
    let function = this_binary("publish_function");
    let other = "arn:aws:events:us-east-1:123456789012:event-bus/other";
    let script = format!("EVENT_BUS_ARN={other} exec {} {}", function.program.display(), function.arguments.join(" "));
    let error = stream_round("bus", Reader { function: shell(&script).function, ..reader("publish") }).unwrap_err();
    let start =
        "publish, round 1: batch 1 of 1 got a wrong response: expected no failures, got {\"batchItemFailures\":[{";
    assert!(error.starts_with(start), "{error}");
}

#[test]
fn a_missing_message_ends_the_run() {
    let ordered = Reader { job: reader("publish-ordered").job, ..reader("publish") };
    let function = this_binary("publish_function");
    let script =
        format!("unset ORDERED_QUEUE_URL; exec {} {}", function.program.display(), function.arguments.join(" "));
    let error = stream_round("queue", Reader { function: shell(&script).function, ..ordered }).unwrap_err();
    assert_eq!(error, "publish, round 1: 0 messages are in the ordered queue, expected 1");
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
    let function = receiver().function;
    let program = function.program.display();
    let other_key = format!("UNITH_SHARED_KEY=another-key-than-ours exec {program} {}", function.arguments.join(" "));
    let error = round("response", shell(&other_key), false).unwrap_err();
    let start = "function, round 1: event 1 of 1 got a wrong response: expected 200 stored, got {\"statusCode\":401";
    assert!(error.starts_with(start), "{error}");
}

#[test]
fn a_function_that_does_not_trust_the_authority_stores_nothing() {
    let function = receiver().function;
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
    let function = Function { program: "/no/such/program".into(), ..receiver().function };
    let error = round("missing", Candidate { function, ..receiver() }, false).unwrap_err();
    assert!(error.contains("/no/such/program cannot be started"), "{error}");
}
