//! `workload guard`: is the receiver within its budget? `workload per-event`: what callgrind counts.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use lambda_support::log;
use workload::{
    budget::Figures,
    delivery::Deliveries,
    offline::{self, Path},
};

/// What the receiver costs in instructions, bytes and crates.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure, and compare with the budget; fails where something is above it. Needs valgrind
    Guard {
        /// The deployed binary
        #[arg(long, value_name = "PATH", default_value = "target/lambda/receive/bootstrap")]
        receive: PathBuf,
        /// The limits
        #[arg(long, value_name = "PATH", default_value = "bench/budget.json")]
        budget: PathBuf,
    },
    /// Take one delivery along the receiver's path, again and again, without a network
    PerEvent {
        /// How often
        events: usize,
        /// How far
        #[arg(long, value_enum, default_value_t = Path::Stored)]
        path: Path,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Guard { receive, budget } => guard(&receive, &budget),
        Command::PerEvent { events, path } => per_event(path, events),
    };
    result.unwrap_or_else(|error| {
        anstream::eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn guard(receive: &std::path::Path, budget: &std::path::Path) -> anyhow::Result<ExitCode> {
    let limits = Figures::read(budget)?;
    let lines = Figures::measure(receive, &std::env::current_exe()?)?.beside(&limits);
    anstream::println!("{:<32} {:>12} {:>12}", "", "measured", "at most");
    for line in &lines {
        let verdict = if line.is_over() { "  over budget" } else { "" };
        anstream::println!("{:<32} {:>12} {:>12}{verdict}", line.name, line.measured, line.limit);
    }
    if lines.iter().any(workload::budget::Line::is_over) {
        anstream::eprintln!("error: over budget: save what was added, or raise {} and say why", budget.display());
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn per_event(path: Path, events: usize) -> anyhow::Result<ExitCode> {
    let deliveries = Deliveries::of("per-event", 1)?;
    let delivery = deliveries.iter().next().context("no delivery")?;
    // One thread and no clock, as the function runs; without a network there is no I/O to drive.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        let mut receiving = offline::receiving(path, log::write_line)?;
        for _ in 0..events {
            receiving.take(delivery.event.as_bytes()).await?;
        }
        Ok(ExitCode::SUCCESS)
    })
}
