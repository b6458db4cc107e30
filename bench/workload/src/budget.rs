//! The budget: the most that the receiver may cost, in figures that are the same on a busy machine as on a quiet one.
//!
//! callgrind counts the instructions. It has no SHA instructions and counts those of the portable code instead, so compare a
//! count with other counts, not with a clock.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    crates::{Crates, FUNCTIONS, ensure_success},
    size::Size,
};

/// Events counted. A second run with one event measures the start of the program, which is subtracted.
const EVENTS: u64 = 1_000;

/// The figures: measured, or their limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// From a gateway event's JSON to the response's JSON, including the write to the table as an HTTP request.
    pub instructions_per_event: u64,
    /// The same without the write: verify, parse, respond, log.
    pub instructions_before_the_table: u64,
    /// The size of the binary.
    pub receive_bytes: u64,
    /// The size of its zip.
    pub receive_zip_bytes: u64,
    /// The number of crates that `receive` is made of, itself included.
    pub receive_crates: u64,
}

/// A figure and its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// The name in the budget file.
    pub name: &'static str,
    /// The measured value.
    pub measured: u64,
    /// The greatest allowed value.
    pub limit: u64,
}

impl Line {
    /// Whether the value exceeds the limit.
    pub fn is_over(&self) -> bool {
        self.measured > self.limit
    }
}

impl Figures {
    /// Reads the limits.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read(path).with_context(|| format!("the budget {} cannot be read", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is not a budget", path.display()))
    }

    /// Measures the deployed binary `receive`, and `program`, which is this one.
    pub fn measure(receive: &Path, program: &Path) -> anyhow::Result<Self> {
        ensure!(receive.exists(), "{} does not exist: run `cargo lambda build --release`", receive.display());
        let size = Size::of(receive)?;
        Ok(Self {
            instructions_per_event: instructions_per_event(program, "stored")?,
            instructions_before_the_table: instructions_per_event(program, "expired")?,
            receive_bytes: size.bytes,
            receive_zip_bytes: size.zip_bytes,
            receive_crates: u64::try_from(Crates::of_receive(FUNCTIONS)?.count())?,
        })
    }

    /// Pairs these figures with `limits`.
    pub fn beside(&self, limits: &Self) -> [Line; 5] {
        let line = |name, of: fn(&Self) -> u64| Line { name, measured: of(self), limit: of(limits) };
        [
            line("instructions_per_event", |figures| figures.instructions_per_event),
            line("instructions_before_the_table", |figures| figures.instructions_before_the_table),
            line("receive_bytes", |figures| figures.receive_bytes),
            line("receive_zip_bytes", |figures| figures.receive_zip_bytes),
            line("receive_crates", |figures| figures.receive_crates),
        ]
    }
}

fn instructions_per_event(program: &Path, path: &str) -> anyhow::Result<u64> {
    let one = instructions(program, path, 1)?;
    let many = instructions(program, path, 1 + EVENTS)?;
    ensure!(many > one, "callgrind counted {many} instructions for {} events and {one} for one", 1 + EVENTS);
    Ok((many - one) / EVENTS)
}

fn instructions(program: &Path, path: &str, events: u64) -> anyhow::Result<u64> {
    let counts = std::env::temp_dir().join(format!("callgrind.{}.{path}.{events}", std::process::id()));
    let mut command = Command::new("valgrind");
    command.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", counts.display()));
    command.arg(program).args(["per-event", "--path", path, &events.to_string()]);
    let output = command.output().context("valgrind cannot be started: run `apt-get install valgrind`")?;
    ensure_success(&output, "valgrind")?;
    let text = fs::read_to_string(&counts).context("callgrind wrote no counts")?;
    fs::remove_file(&counts)?;
    total(&text).context("callgrind's counts have no total")
}

/// callgrind's file ends with `totals: <instructions>`.
fn total(counts: &str) -> Option<u64> {
    counts.lines().rev().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_of_the_repository_can_be_read() {
        Figures::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../budget.json"))).unwrap();
    }

    #[test]
    fn only_a_figure_above_its_limit_is_over_budget() {
        let limits = Figures {
            instructions_per_event: 10,
            instructions_before_the_table: 10,
            receive_bytes: 10,
            receive_zip_bytes: 10,
            receive_crates: 10,
        };
        let measured = Figures { receive_bytes: 11, receive_crates: 9, ..limits };
        let over: Vec<_> = measured.beside(&limits).into_iter().filter(Line::is_over).map(|line| line.name).collect();
        assert_eq!(over, ["receive_bytes"]);
    }

    #[test]
    fn the_total_is_read_from_callgrinds_file() {
        assert_eq!(total("version: 1\nsummary: 5\nfn=(1)\n1 2\n\ntotals: 123456\n"), Some(123_456));
        assert_eq!(total("version: 1\n"), None);
    }
}
