//! One execution environment: a process, started and asked as Lambda does, and what it used.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};
use tokio::runtime::Runtime;

use crate::{
    candidate::Candidate,
    cores::Cores,
    output::Output,
    runtime_api::{Answer, Poll, RuntimeApi},
};

/// A process that runs a function. It is idle, its long poll waiting, whenever nobody waits for it.
pub struct Environment {
    child: Child,
    api: RuntimeApi,
    output: Option<Output>,
    poll: Option<Poll>,
    init: Duration,
    cpu_before: Duration,
}

/// What an environment used in its life.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    /// User and system time of the process and those it waited for.
    pub cpu: Duration,
    /// The most memory it had resident, in KiB.
    pub peak_kib: u64,
}

impl Environment {
    /// Starts `candidate` with these variables and Lambda's own, and waits for its first long poll.
    pub fn start(
        candidate: &Candidate,
        variables: &[(&'static str, String)],
        cores: &Cores,
        runtime: &Runtime,
    ) -> anyhow::Result<Self> {
        let api = RuntimeApi::start(runtime)?;
        let (reader, writer) = std::io::pipe()?;
        let mut command = Command::new(&candidate.program);
        command.args(&candidate.arguments).current_dir(&candidate.folder).stdin(Stdio::null());
        command.env_clear().envs(lambda_variables(candidate, api.address())).envs(variables.iter().cloned());
        command.stdout(writer.try_clone()?).stderr(writer);
        let cpu_before = cpu_of_children()?;
        let spawned_at = Instant::now();
        let child = cores.on_measured(|| command.spawn())?;
        let child = child.with_context(|| format!("{} cannot be started", candidate.program.display()))?;
        // It holds our ends of the pipe: the output would never be over.
        drop(command);
        let output = Some(Output::read(reader));
        let mut environment = Self { child, api, output, poll: None, init: Duration::ZERO, cpu_before };
        environment.wait_for_poll().map_err(|error| environment.with_last_words(error, "before its first poll"))?;
        environment.init = environment.poll.as_ref().map(|poll| poll.at - spawned_at).unwrap_or_default();
        Ok(environment)
    }

    /// From the start of the process to its first long poll.
    #[must_use]
    pub fn init(&self) -> Duration {
        self.init
    }

    /// Hands it an event, and waits for the answer and for its next long poll.
    pub fn invoke(&mut self, event: &str) -> anyhow::Result<Answer> {
        let poll = self.poll.take().context("the function is not waiting for an event")?;
        let child = &mut self.child;
        let answer = self.api.invoke(poll, event.to_owned(), || still_runs(child));
        let answer = answer.map_err(|error| self.with_last_words(error, "with an event"))?;
        self.wait_for_poll().map_err(|error| self.with_last_words(error, "after an event"))?;
        Ok(answer)
    }

    /// Ends it, as idle as it is.
    pub fn end(mut self) -> anyhow::Result<Used> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let peak_kib = peak_kib(&status).context("the process has no VmHWM")?;
        self.stop();
        Ok(Used { cpu: cpu_of_children()?.saturating_sub(self.cpu_before), peak_kib })
    }

    fn wait_for_poll(&mut self) -> anyhow::Result<()> {
        let child = &mut self.child;
        self.poll = Some(self.api.poll(|| still_runs(child))?);
        Ok(())
    }

    /// An error, with the last the function said.
    fn with_last_words(&mut self, error: anyhow::Error, when: &str) -> anyhow::Error {
        self.stop();
        let said = self.output.take().map(Output::end).unwrap_or_default();
        error.context(format!("the function went wrong {when}; the last it said:\n{}\n", said.trim_end()))
    }

    fn stop(&mut self) {
        // It may have ended by itself; waiting for it is what makes its CPU time ours to read.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What Lambda sets, but for the variables of its own logging and tracing.
fn lambda_variables(candidate: &Candidate, runtime_api: &str) -> Vec<(&'static str, String)> {
    let fixed = [
        ("AWS_LAMBDA_FUNCTION_NAME", "receive"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/receive"),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/01/15/[$LATEST]0123456789abcdef0123456789abcdef"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
        ("LANG", "en_US.UTF-8"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("TZ", ":UTC"),
        ("_HANDLER", "bootstrap"),
    ];
    let mut variables: Vec<_> = fixed.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
    // As long as real ones are: it is sent, and signed, with every request.
    variables.push(("AWS_SESSION_TOKEN", "IQoJb3JpZ2luX2Vj".repeat(60)));
    variables.push(("AWS_LAMBDA_RUNTIME_API", runtime_api.to_owned()));
    variables.push(("LAMBDA_TASK_ROOT", candidate.folder.display().to_string()));
    variables
}

fn still_runs(child: &mut Child) -> anyhow::Result<()> {
    match child.try_wait()? {
        Some(status) => bail!("the process ended ({status})"),
        None => Ok(()),
    }
}

/// User and system time of all children that were waited for. Environments run one at a time, and nothing else is
/// started meanwhile, so the difference is one environment's.
fn cpu_of_children() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let duration = |time: TimeVal| {
        Duration::from_secs(time.tv_sec().unsigned_abs()) + Duration::from_micros(time.tv_usec().unsigned_abs())
    };
    Ok(duration(usage.user_time()) + duration(usage.system_time()))
}

fn peak_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_from_the_kernels_words() {
        assert_eq!(peak_kib("VmPeak:\t  9000 kB\nVmHWM:\t    5432 kB\nVmRSS:\t 1 kB\n"), Some(5432));
        assert_eq!(peak_kib("State:\tZ (zombie)\n"), None);
        assert!(peak_kib(&fs::read_to_string("/proc/self/status").unwrap()).unwrap() > 0);
    }
}
