//! The machine that was measured on: no figure means anything without it.

use std::fs;

use serde::Serialize;

/// What it is.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The CPU's model.
    pub cpu: String,
    /// Its cores, as this system sees them.
    pub cores: usize,
    /// The kernel.
    pub kernel: String,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cores = read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count();
        Self {
            cpu: model(&read("/proc/cpuinfo")).unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// The first `model name`; there is none on ARM.
fn model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_read_where_there_is_one() {
        assert_eq!(model("processor\t: 0\nmodel name\t: Some CPU\n").as_deref(), Some("Some CPU"));
        assert_eq!(model("processor\t: 0\nBogoMIPS\t: 50\n"), None);
    }
}
