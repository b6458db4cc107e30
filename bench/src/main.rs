//! `cargo run --release -p bench`: the candidates, measured side by side.

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
/// `bench/prepare` builds them first. Each round gives every candidate a turn: an environment that gets one event, and
/// one that gets many. All answers are checked and all items counted; anything wrong fails the run.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// How often each candidate has its turn
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// The events of a turn's long run
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u16).range(2..))]
    events: u16,

    /// Run the candidates on this core, and the rest on the others
    #[arg(long, value_name = "CORE")]
    pin: Option<usize>,

    /// Only these candidates, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,

    /// Another candidate, with the receiver's contract; can be given several times
    #[arg(long, value_name = "NAME=COMMAND")]
    command: Vec<String>,

    /// The binary of the candidate `receive`
    #[arg(long, value_name = "PATH", default_value = "target/lambda/receive/bootstrap")]
    receive: PathBuf,

    /// Have keys fetched from Secrets Manager, by the candidates that can
    #[arg(long)]
    key_ring: bool,

    /// Tell in one JSON document
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
    std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let candidates = candidates(arguments, target)?;
    let settings = Settings {
        rounds: arguments.rounds.into(),
        events: arguments.events.into(),
        pin: arguments.pin,
        key_ring: arguments.key_ring,
    };
    // Before any thread is started: they inherit where they may run.
    let cores = Cores::split(arguments.pin)?;
    let folder = std::path::absolute(&folder)?;
    let measured = Bench { folder: &folder, cores: &cores, settings }
        .rounds(&candidates, |round, name| tell_progress(round, settings.rounds, name));
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
        let unable = candidates.iter().find(|candidate| !candidate.takes_key_ring);
        if let Some(unable) = unable.filter(|unable| arguments.only.contains(&unable.name)) {
            bail!("{} takes its key from the environment alone: leave it out of --only with --key-ring", unable.name);
        }
        candidates.retain(|candidate| candidate.takes_key_ring);
    }
    Ok(candidates)
}

fn tell_progress(round: usize, rounds: usize, name: &str) {
    if std::io::stderr().is_terminal() {
        anstream::eprint!("\r{:40}\rround {round} of {rounds}: {name}", "");
    }
}
