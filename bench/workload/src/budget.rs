//! The budget: what the receiver may cost at most, as figures that are the same on a busy machine as on a quiet one.
//!
//! Instructions are counted by callgrind, which knows no SHA instructions and so counts those of the portable code: a
//! figure to compare with itself, not with a clock.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::size::Size;

/// Events counted; the start of the program is taken off by a second run with one event.
const EVENTS: u64 = 1_000;

/// The figures, measured ones or the most they may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// From a gateway event's JSON to the answer's JSON, the write to the table as an HTTP request included.
    pub instructions_per_event: u64,
    /// The same without the write: verified, parsed, answered, logged.
    pub instructions_before_the_table: u64,
    /// The size of the binary.
    pub receive_bytes: u64,
    /// The size of its zip.
    pub receive_zip_bytes: u64,
    /// The crates it is made of, itself included.
    pub receive_crates: u64,
}

/// One of the figures, beside its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Its name in the file.
    pub name: &'static str,
    /// What it is.
    pub measured: u64,
    /// The most it may be.
    pub limit: u64,
}

impl Line {
    /// Whether it is more than it may be.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.measured > self.limit
    }
}

impl Figures {
    /// Reads the limits.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read(path).with_context(|| format!("the budget {} cannot be read", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no budget", path.display()))
    }

    /// Measures: `receive` is the deployed binary, `program` this one.
    pub fn measure(receive: &Path, program: &Path) -> anyhow::Result<Self> {
        ensure!(receive.exists(), "{} is not there: cargo build --release -p receive", receive.display());
        let size = Size::of(receive)?;
        Ok(Self {
            instructions_per_event: instructions_per_event(program, "stored")?,
            instructions_before_the_table: instructions_per_event(program, "expired")?,
            receive_bytes: size.bytes,
            receive_zip_bytes: size.zip_bytes,
            receive_crates: crates()?,
        })
    }

    /// These figures beside `limits`.
    #[must_use]
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
    let output = command.output().context("valgrind cannot be started: apt-get install valgrind")?;
    succeeded(&output, "valgrind")?;
    let text = fs::read_to_string(&counts).context("callgrind left no counts")?;
    fs::remove_file(&counts)?;
    total(&text).context("callgrind's counts have no total")
}

/// The line `totals: <instructions>` that ends callgrind's file.
fn total(counts: &str) -> Option<u64> {
    counts.lines().rev().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

fn crates() -> anyhow::Result<u64> {
    let mut command = Command::new("cargo");
    command.args(["tree", "--locked", "--package", "receive", "--edges", "normal", "--prefix", "none"]);
    let output = command.output().context("cargo cannot be started")?;
    succeeded(&output, "cargo tree")?;
    Ok(u64::try_from(distinct(&String::from_utf8_lossy(&output.stdout)))?)
}

/// Lines are `<name> v<version> …`; one that was shown before is marked at its end.
fn distinct(tree: &str) -> usize {
    let name_and_version = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    tree.lines().map(name_and_version).filter(|line| !line.is_empty()).collect::<BTreeSet<_>>().len()
}

fn succeeded(output: &Output, what: &str) -> anyhow::Result<()> {
    if !output.status.success() {
        bail!("{what} failed ({}):\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_in_the_repository_is_a_budget() {
        Figures::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../budget.json"))).unwrap();
    }

    #[test]
    fn only_what_is_above_its_limit_is_over() {
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
    fn callgrinds_total_is_found() {
        assert_eq!(total("version: 1\nsummary: 5\nfn=(1)\n1 2\n\ntotals: 123456\n"), Some(123_456));
        assert_eq!(total("version: 1\n"), None);
    }

    #[test]
    fn a_crate_counts_once_and_its_versions_each() {
        assert_eq!(distinct("a v1.0.0 (/a)\nb v1.0.0\nb v2.0.0\n\nb v1.0.0 (*)\nc v1.0.0 (proc-macro)\n"), 4);
    }
}
