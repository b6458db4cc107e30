//! Measures the candidates side by side: `cargo run --release -p bench`.

use std::{
    fmt::Display,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use bench::{
    candidate::{Candidate, NAMES},
    cores::Cores,
    machine::Machine,
    report::{Figures, Report},
    rounds::{Bench, Measured, Settings},
    stream::{
        reader::{self, Reader},
        rounds::{StreamBench, StreamSettings},
    },
};
use clap::{Args, Parser, Subcommand};
use serde::Serialize;

/// Runs Lambda functions as execution environments, and measures them side by side.
///
/// `bench/prepare` builds them first. In each round every candidate has a turn: one environment gets one event, another
/// gets many. All responses are checked and all items counted. A difference fails the run.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    receivers: ReceiverArguments,
}

#[derive(Debug, Subcommand)]
enum Other {
    /// Measure `publish` and `sessions` with batches of the table's stream
    Stream(StreamArguments),
}

/// The options of every measurement.
#[derive(Debug, Args)]
struct Common {
    /// Run the candidates on this core, and everything else on the others
    #[arg(long, value_name = "CORE")]
    pin: Option<usize>,

    /// Measure these candidates alone, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ReceiverArguments {
    /// Turns per candidate
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// Events in the long run of a turn
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u16).range(2..))]
    events: u16,

    #[command(flatten)]
    common: Common,

    /// Measure another candidate with the receiver's contract; can be repeated
    #[arg(long, value_name = "NAME=COMMAND")]
    command: Vec<String>,

    /// The binary of the candidate `receive`
    #[arg(long, value_name = "PATH", default_value = "target/lambda/receive/bootstrap")]
    receive: PathBuf,

    /// Use a key ring in Secrets Manager, with the candidates that can read it
    #[arg(long)]
    key_ring: bool,
}

#[derive(Debug, Args)]
struct StreamArguments {
    /// Turns per candidate
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// Records in the long run of a turn: at least four batches of `sessions`
    #[arg(long, value_name = "N", default_value_t = 4_000, value_parser = clap::value_parser!(u16).range(4_000..))]
    records: u16,

    #[command(flatten)]
    common: Common,

    /// The binary of `publish`
    #[arg(long, value_name = "PATH", default_value = "target/lambda/publish/bootstrap")]
    publish: PathBuf,

    /// The binary of `sessions`
    #[arg(long, value_name = "PATH", default_value = "target/lambda/sessions/bootstrap")]
    sessions: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.other {
        Some(Other::Stream(arguments)) => measure_stream(&arguments),
        None => measure_receivers(&arguments.receivers),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure_receivers(arguments: &ReceiverArguments) -> anyhow::Result<()> {
    let target = Path::new("target");
    let folder = &folder(target)?;
    let candidates = candidates(arguments, target)?;
    let settings = Settings {
        rounds: arguments.rounds.into(),
        events: arguments.events.into(),
        pin: arguments.common.pin,
        key_ring: arguments.key_ring,
    };
    // Threads inherit their cores, so this comes before any thread is started.
    let cores = &Cores::split(settings.pin)?;
    let measured = Bench { folder, cores, settings }
        .rounds(&candidates, |round, name| print_progress(round, settings.rounds, name));
    print_report(&arguments.common, settings, measured)
}

fn measure_stream(arguments: &StreamArguments) -> anyhow::Result<()> {
    let StreamArguments { rounds, records, common, publish, sessions } = arguments;
    let folder = &folder(Path::new("target"))?;
    let names = if common.only.is_empty() { reader::NAMES.map(str::to_owned).to_vec() } else { common.only.clone() };
    let readers =
        names.iter().map(|name| Reader::named(name, publish, sessions)).collect::<anyhow::Result<Vec<_>>>()?;
    let settings = StreamSettings { rounds: (*rounds).into(), records: (*records).into(), pin: common.pin };
    // As above.
    let cores = &Cores::split(settings.pin)?;
    let measured = StreamBench { folder, cores, settings }
        .rounds(&readers, |round, name| print_progress(round, settings.rounds, name));
    print_report(common, settings, measured)
}

/// The folder for files of the run.
fn folder(target: &Path) -> anyhow::Result<PathBuf> {
    let folder = target.join("bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be created", folder.display()))?;
    Ok(std::path::absolute(&folder)?)
}

fn print_report<S: Display + Serialize, T: Figures>(
    common: &Common,
    settings: S,
    measured: anyhow::Result<Vec<Measured<T>>>,
) -> anyhow::Result<()> {
    if std::io::stderr().is_terminal() {
        anstream::eprint!("\r{:40}\r", "");
    }
    let report = Report { machine: Machine::this(), settings, candidates: measured? };
    if common.json {
        anstream::println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        anstream::print!("{}", report.table());
    }
    Ok(())
}

fn candidates(arguments: &ReceiverArguments, target: &Path) -> anyhow::Result<Vec<Candidate>> {
    let named = |name: &str| Candidate::named(name, target, &arguments.receive);
    let mut candidates = if arguments.common.only.is_empty() {
        NAMES.into_iter().map(named).collect::<Result<Vec<_>, _>>()?
    } else {
        arguments.common.only.iter().map(|name| named(name)).collect::<Result<Vec<_>, _>>()?
    };
    for command in &arguments.command {
        candidates.push(Candidate::command(command)?);
    }
    if arguments.key_ring {
        let without_ring = candidates.iter().find(|candidate| !candidate.reads_key_ring);
        if let Some(without_ring) =
            without_ring.filter(|without_ring| arguments.common.only.contains(&without_ring.name))
        {
            bail!("{} cannot read a key ring: remove it from --only, or run without --key-ring", without_ring.name);
        }
        candidates.retain(|candidate| candidate.reads_key_ring);
    }
    Ok(candidates)
}

fn print_progress(round: usize, rounds: usize, name: &str) {
    if std::io::stderr().is_terminal() {
        anstream::eprint!("\r{:40}\rround {round} of {rounds}: {name}", "");
    }
}
