//! CPU affinity: the core of the measured process, and the cores of the host.

use anyhow::{Context, ensure};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The calling thread. The threads and processes that it starts inherit its cores.
const THIS_THREAD: Pid = Pid::from_raw(0);

/// One core for the measured process and all others for the host, or no split.
#[derive(Debug)]
pub struct Cores(Option<Split>);

#[derive(Debug)]
struct Split {
    measured: CpuSet,
    host: CpuSet,
}

impl Cores {
    /// Reserves the core `pin`, and moves this thread off it. Call it before any other thread is started.
    pub fn split(pin: Option<usize>) -> anyhow::Result<Self> {
        let Some(pin) = pin else { return Ok(Self(None)) };
        let all = sched_getaffinity(THIS_THREAD).context("the cores of this process cannot be read")?;
        let (mut measured, mut host) = (CpuSet::new(), CpuSet::new());
        for core in (0..CpuSet::count()).filter(|core| all.is_set(*core).unwrap_or(false)) {
            if core == pin { measured.set(core)? } else { host.set(core)? }
        }
        ensure!(measured != CpuSet::new(), "--pin {pin}: this process may not run on core {pin}");
        ensure!(host != CpuSet::new(), "--pin {pin}: no other core is left for the host");
        sched_setaffinity(THIS_THREAD, &host).context("the host cannot be kept off the measured core")?;
        Ok(Self(Some(Split { measured, host })))
    }

    /// Runs `start` so that the process it starts runs on the reserved core from its first instruction.
    pub fn on_measured<T>(&self, start: impl FnOnce() -> T) -> anyhow::Result<T> {
        let Some(Split { measured, host }) = &self.0 else { return Ok(start()) };
        sched_setaffinity(THIS_THREAD, measured).context("the measured core cannot be used")?;
        let started = start();
        sched_setaffinity(THIS_THREAD, host).context("the host cannot be kept off the measured core")?;
        Ok(started)
    }
}
