//! The machine that the figures were measured on.

use std::fs;

use serde::Serialize;

/// A description of this machine.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The CPU's model.
    pub cpu: String,
    /// The number of cores that this system sees.
    pub cores: usize,
    /// The release of the kernel.
    pub kernel: String,
}

impl Machine {
    /// Reads the description from `/proc`.
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

/// The first `model name`. ARM has none.
fn model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_model_is_read_if_there_is_one() {
        assert_eq!(model("processor\t: 0\nmodel name\t: Some CPU\n").as_deref(), Some("Some CPU"));
        assert_eq!(model("processor\t: 0\nBogoMIPS\t: 50\n"), None);
    }
}
