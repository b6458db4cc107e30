//! `workload guard` checks the receiver's budget. `workload per-event` is the program that callgrind counts.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use lambda_support::log;
use workload::{
    budget::{Figures, Line},
    crates::{BENCH, Crates, FUNCTIONS},
    delivery::Deliveries,
    offline::{self, Path},
};

/// The receiver's cost in instructions, bytes and crates.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure, compare with the budget, and fail if a figure is above its limit; needs valgrind
    Guard {
        /// The deployed binary
        #[arg(long, value_name = "PATH", default_value = "target/lambda/receive/bootstrap")]
        receive: PathBuf,
        /// The limits
        #[arg(long, value_name = "PATH", default_value = "bench/budget.json")]
        budget: PathBuf,
    },
    /// Take one delivery along the receiver's path repeatedly, without a network
    PerEvent {
        /// Number of repetitions
        events: usize,
        /// Last step of the path
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
    Crates::of_receive(FUNCTIONS)?.ensure_within(&Crates::of_receive(BENCH)?)?;
    let lines = Figures::measure(receive, &std::env::current_exe()?)?.beside(&limits);
    anstream::println!("{:<32} {:>12} {:>12}", "", "measured", "at most");
    for line in &lines {
        let verdict = if line.is_over() { "  over budget" } else { "" };
        anstream::println!("{:<32} {:>12} {:>12}{verdict}", line.name, line.measured, line.limit);
    }
    if lines.iter().any(Line::is_over) {
        anstream::eprintln!(
            "error: over budget: reduce the cost, or raise the limit in {} and give the reason",
            budget.display()
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn per_event(path: Path, events: usize) -> anyhow::Result<ExitCode> {
    let deliveries = Deliveries::of("per-event", 1)?;
    let delivery = deliveries.iter().next().context("no delivery")?;
    // One thread, as the function has. Without a network, it needs no I/O driver.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        let mut receiver = offline::receiver_without_network(path, log::write_line)?;
        for _ in 0..events {
            receiver.invoke(delivery.event.as_bytes()).await?;
        }
        Ok(ExitCode::SUCCESS)
    })
}
