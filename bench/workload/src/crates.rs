//! The crates that `receive` is made of, as the lock file of a workspace resolves them.

use std::{
    collections::BTreeSet,
    process::{Command, Output},
};

use anyhow::{Context, bail};

/// The manifest of the functions' workspace, from the root of the repository.
pub const FUNCTIONS: &str = "Cargo.toml";
/// The manifest of the workspace that measures them.
pub const BENCH: &str = "bench/Cargo.toml";

/// Crates as `<name> v<version>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crates(BTreeSet<String>);

impl Crates {
    /// Reads the crates of `receive`, itself included, from the workspace of `manifest`.
    pub fn of_receive(manifest: &str) -> anyhow::Result<Self> {
        let mut command = Command::new("cargo");
        command.args(["tree", "--locked", "--manifest-path", manifest]);
        command.args(["--package", "receive", "--edges", "normal", "--prefix", "none"]);
        let output = command.output().context("cargo cannot be started")?;
        ensure_success(&output, &format!("cargo tree of {manifest}"))?;
        Ok(Self::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Lines are `<name> v<version> …`. A repeated line ends with a mark.
    fn parse(tree: &str) -> Self {
        let name_and_version = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        Self(tree.lines().map(name_and_version).filter(|line| !line.is_empty()).collect())
    }

    /// The number of crates; each version of a crate counts.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Fails unless all of these crates are in `bench` too. It may have more: its other members enable more features.
    pub fn ensure_within(&self, bench: &Self) -> anyhow::Result<()> {
        let missing: Vec<_> = self.0.difference(&bench.0).filter_map(|name| name.split_once(" v")).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let update = |(name, version): &(&str, &str)| {
            format!("\n  cargo update --manifest-path {BENCH} {name} --precise {version}")
        };
        bail!(
            "bench/Cargo.lock has other versions than Cargo.lock of crates that `receive` is made of; run{}",
            missing.iter().map(update).collect::<String>()
        )
    }
}

/// Fails with the standard error of a command that failed.
pub(crate) fn ensure_success(output: &Output, command: &str) -> anyhow::Result<()> {
    if !output.status.success() {
        bail!("{command} failed ({}):\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_counts_once_per_version() {
        let tree = "a v1.0.0 (/a)\nb v1.0.0\nb v2.0.0\n\nb v1.0.0 (*)\nc v1.0.0 (proc-macro)\n";
        assert_eq!(Crates::parse(tree).count(), 4);
    }

    #[test]
    fn another_version_is_named_with_the_command_that_sets_it() {
        let functions = Crates::parse("a v1.0.0\nb v1.0.0\n");
        functions.ensure_within(&Crates::parse("a v1.0.0\nb v1.0.0\nc v1.0.0\n")).unwrap();
        let error = functions.ensure_within(&Crates::parse("a v1.0.1\nb v1.0.0\n")).unwrap_err().to_string();
        assert!(error.ends_with("; run\n  cargo update --manifest-path bench/Cargo.toml a --precise 1.0.0"), "{error}");
    }
}
