//! Measures the candidates side by side: `cargo run --release -p bench`.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use bench::{
    candidate::{Candidate, NAMES},
    cores::Cores,
    machine::Machine,
    report::Report,
    rounds::{Bench, Settings},
};
use clap::Parser;

/// Runs Lambda functions as execution environments, and measures them side by side.
///
/// `bench/prepare` builds them first. In each round every candidate has a turn: one environment gets one event, another
/// gets many. All responses are checked and all items counted. A difference fails the run.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Turns per candidate
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// Events in the long run of a turn
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u16).range(2..))]
    events: u16,

    /// Run the candidates on this core, and everything else on the others
    #[arg(long, value_name = "CORE")]
    pin: Option<usize>,

    /// Measure these candidates alone, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,

    /// Measure another candidate with the receiver's contract; can be repeated
    #[arg(long, value_name = "NAME=COMMAND")]
    command: Vec<String>,

    /// The binary of the candidate `receive`
    #[arg(long, value_name = "PATH", default_value = "target/lambda/receive/bootstrap")]
    receive: PathBuf,

    /// Use a key ring in Secrets Manager, with the candidates that can read it
    #[arg(long)]
    key_ring: bool,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let target = Path::new("target");
    let folder = target.join("bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be created", folder.display()))?;
    let candidates = candidates(arguments, target)?;
    let settings = Settings {
        rounds: arguments.rounds.into(),
        events: arguments.events.into(),
        pin: arguments.pin,
        key_ring: arguments.key_ring,
    };
    // Threads inherit their cores, so this comes before any thread is started.
    let cores = Cores::split(arguments.pin)?;
    let folder = std::path::absolute(&folder)?;
    let measured = Bench { folder: &folder, cores: &cores, settings }
        .rounds(&candidates, |round, name| print_progress(round, settings.rounds, name));
    if std::io::stderr().is_terminal() {
        anstream::eprint!("\r{:40}\r", "");
    }
    let report = Report { machine: Machine::this(), settings, candidates: measured? };
    if arguments.json {
        anstream::println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        anstream::print!("{}", report.table());
    }
    Ok(())
}

fn candidates(arguments: &Arguments, target: &Path) -> anyhow::Result<Vec<Candidate>> {
    let named = |name: &str| Candidate::named(name, target, &arguments.receive);
    let mut candidates = if arguments.only.is_empty() {
        NAMES.into_iter().map(named).collect::<Result<Vec<_>, _>>()?
    } else {
        arguments.only.iter().map(|name| named(name)).collect::<Result<Vec<_>, _>>()?
    };
    for command in &arguments.command {
        candidates.push(Candidate::command(command)?);
    }
    if arguments.key_ring {
        let without_ring = candidates.iter().find(|candidate| !candidate.reads_key_ring);
        if let Some(without_ring) = without_ring.filter(|without_ring| arguments.only.contains(&without_ring.name)) {
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
