//! One execution environment: a process that is started and invoked as Lambda does, and the resources it used.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ::tests::runtime_api::{Invocation, RuntimeApi, RuntimeApiError};
use anyhow::{Context, bail};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};
use tokio::{
    runtime::{Handle, Runtime},
    time::{Interval, MissedTickBehavior, interval_at},
};

use crate::{candidate::Function, cores::Cores, output::Output};

/// Longer than any step of a function takes.
const PATIENCE: Duration = Duration::from_mins(1);
/// The time between two checks that the process still runs, while the host waits for it.
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// A process that runs a function. Between two calls it is idle, and its long poll waits.
pub struct Environment {
    process: Process,
    api: RuntimeApi,
    output: Option<Output>,
    init: Duration,
    cpu_before: Duration,
}

/// The resources that an environment used from start to end.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    /// User and system time of the process and of the children it waited for.
    pub cpu: Duration,
    /// Peak resident memory, in KiB.
    pub peak_kib: u64,
}

impl Environment {
    /// Starts `function` with these variables and Lambda's own, and waits for its first long poll.
    pub fn start(
        function: &Function,
        variables: &[(&'static str, String)],
        cores: &Cores,
        runtime: &Runtime,
    ) -> anyhow::Result<Self> {
        let api = runtime.block_on(RuntimeApi::start_with(function.timeout));
        let (reader, writer) = std::io::pipe()?;
        let mut command = Command::new(&function.program);
        command.args(&function.arguments).current_dir(&function.folder).stdin(Stdio::null());
        command.env_clear().envs(lambda_variables(function, api.address())).envs(variables.iter().cloned());
        command.stdout(writer.try_clone()?).stderr(writer);
        let cpu_before = cpu_of_children()?;
        let spawned_at = Instant::now();
        let child = cores.on_measured(|| command.spawn())?;
        let child = child.with_context(|| format!("{} cannot be started", function.program.display()))?;
        // The command holds our ends of the pipe, so the output would never end.
        drop(command);
        let output = Some(Output::read(reader));
        let process = Process::new(child, runtime);
        let mut environment = Self { process, api, output, init: Duration::ZERO, cpu_before };
        let polled_at = environment.wait_for_poll();
        environment.init = environment.with_last_output(polled_at, "before its first poll")? - spawned_at;
        Ok(environment)
    }

    /// From the start of the process to its first long poll.
    pub fn init(&self) -> Duration {
        self.init
    }

    /// Invokes the function with an event, and waits for its next long poll too.
    pub fn invoke(&mut self, event: &str) -> anyhow::Result<Invocation> {
        let invocation = self.process.wait("respond to an event", self.api.invoke(event.to_owned()));
        let invocation = self.with_last_output(invocation, "with an event")?;
        let polled_at = self.wait_for_poll();
        self.with_last_output(polled_at, "after an event")?;
        Ok(invocation)
    }

    /// Kills the idle process.
    pub fn end(mut self) -> anyhow::Result<Used> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.child.id()))?;
        let peak_kib = peak_kib(&status).context("the process has no VmHWM")?;
        self.process.stop();
        Ok(Used { cpu: cpu_of_children()?.saturating_sub(self.cpu_before), peak_kib })
    }

    fn wait_for_poll(&mut self) -> anyhow::Result<Instant> {
        self.process.wait("ask for an event", self.api.wait_for_poll())
    }

    /// Adds the last output of the function to an error.
    fn with_last_output<T>(&mut self, result: anyhow::Result<T>, when: &str) -> anyhow::Result<T> {
        result.map_err(|error| {
            self.process.stop();
            let output = self.output.take().map(Output::end).unwrap_or_default();
            error.context(format!("the function failed {when}; its last output:\n{}\n", output.trim_end()))
        })
    }
}

/// The function's process; it is killed when this is dropped.
struct Process {
    child: Child,
    runtime: Handle,
    /// One timer for all waits: a new one per event would wake the host's threads while it is measured.
    check: Interval,
}

impl Process {
    fn new(child: Child, runtime: &Runtime) -> Self {
        let _context = runtime.enter();
        let mut check = interval_at(tokio::time::Instant::now() + CHECK_EVERY, CHECK_EVERY);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { child, runtime: runtime.handle().clone(), check }
    }

    /// Waits until the function takes a step. Fails if its process ends first, or if that takes too long.
    fn wait<T>(&mut self, step: &str, taken: impl Future<Output = Result<T, RuntimeApiError>>) -> anyhow::Result<T> {
        let Self { child, runtime, check } = self;
        let started = Instant::now();
        runtime.block_on(async {
            tokio::pin!(taken);
            loop {
                tokio::select! {
                    biased;
                    result = &mut taken => return Ok(result?),
                    _ = check.tick() => {}
                }
                if let Some(status) = child.try_wait()? {
                    bail!("the process ended ({status})");
                }
                if started.elapsed() > PATIENCE {
                    bail!("the function did not {step} within {} s", PATIENCE.as_secs());
                }
            }
        })
    }

    fn stop(&mut self) {
        // It may have ended by itself. Its CPU time can be read once it was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Lambda's own variables, without those of its logging and tracing.
fn lambda_variables(function: &Function, runtime_api: &str) -> Vec<(&'static str, String)> {
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
    // Every request sends and signs the token, so it is as long as a real one.
    variables.push(("AWS_SESSION_TOKEN", "IQoJb3JpZ2luX2Vj".repeat(60)));
    variables.push(("AWS_LAMBDA_RUNTIME_API", runtime_api.to_owned()));
    variables.push(("LAMBDA_TASK_ROOT", function.folder.display().to_string()));
    variables
}

/// User and system time of all children that were waited for.
///
/// Environments run one at a time and nothing else is started meanwhile, so the difference is the time of one environment.
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
    fn peak_memory_is_read_from_the_status_of_a_process() {
        assert_eq!(peak_kib("VmPeak:\t  9000 kB\nVmHWM:\t    5432 kB\nVmRSS:\t 1 kB\n"), Some(5432));
        assert_eq!(peak_kib("State:\tZ (zombie)\n"), None);
        assert!(peak_kib(&fs::read_to_string("/proc/self/status").unwrap()).unwrap() > 0);
    }

    #[test]
    fn an_ended_process_ends_every_wait() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut process = Process::new(Command::new("true").spawn().unwrap(), &runtime);
        let error = process.wait::<()>("ask for an event", std::future::pending()).unwrap_err();
        assert_eq!(error.to_string(), "the process ended (exit status: 0)");
    }
}
