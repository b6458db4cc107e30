//! Commands such as `{"action": "status"}`, by hand or by a schedule. The environment completes their input.
//!
//! A command's report has a result per head, and `ok` only if all succeeded. A schedule event is the command `apply`;
//! if it does not succeed the invocation fails, since nobody reads its report.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use unith_events::timestamp::Timestamp;

use crate::{
    config::{Allowed, ConfigError, declared},
    declared::{Declared, Heads},
    provisioner::{Provisioner, SetupError},
    reconciler::{HeadsError, Mode, Reconciler, Task},
    remove::{Purpose, Removal},
    report::{HeadReport, all_ok},
    ring::RingError,
    self_test::{HeadSelfTest, self_test},
    status::{HeadPlan, HeadStatus},
};

/// How long before the deadline a run ends by itself.
const TIME_TO_END: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Reports what `apply` would do.
    Plan,
    Apply,
    Status,
    /// Applies with events on.
    Enable,
    /// Switches events off; the registrations stay.
    Disable,
    /// Replaces the keys.
    Rotate,
    Remove,
    /// Delivers a signed and a wrongly signed event to the webhook.
    SelfTest,
}

#[derive(Debug, Deserialize)]
struct Command {
    action: Action,
    head_ids: Option<Vec<String>>,
}

/// The result of a command.
#[derive(Debug, Serialize)]
pub struct CommandReport {
    action: Action,
    ok: bool,
    webhook_url: String,
    heads: HeadResults,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// The results per head, by kind of command.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum HeadResults {
    Changed(Vec<HeadReport>),
    Status(Vec<HeadStatus>),
    Plan(Vec<HeadPlan>),
    SelfTest(Vec<HeadSelfTest>),
}

impl HeadResults {
    fn are_none(&self) -> bool {
        matches!(self, Self::Changed(reports) if reports.is_empty())
    }
}

/// A command that could not begin, or a scheduled one that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(
        "this is not a command: {0}; expected {{\"action\": \"plan\" | \"apply\" | \"status\" | \"enable\" | \"disable\" | \
         \"rotate\" | \"remove\" | \"self-test\", \"head_ids\": […]}}, a schedule event or a CloudFormation request"
    )]
    Unknown(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Heads(#[from] HeadsError),
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("the run's time expired; what was done stays, and the next run completes it")]
    OutOfTime,
    #[error("the scheduled run did not succeed: {0}")]
    Scheduled(String),
}

/// The log of a command.
#[derive(Serialize)]
struct CommandLine<'r> {
    action: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'r CommandReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Carries out a command or a schedule event, and logs it. The line of a schedule event has metrics.
pub async fn handle(
    provisioner: &Provisioner,
    input: &Value,
    deadline: Instant,
) -> Result<CommandReport, CommandError> {
    let is_scheduled = is_schedule(input);
    let action = if is_scheduled { "apply".into() } else { input.get("action").cloned().unwrap_or_default() };
    let log = |ok, result, reason, (drift, failed)| {
        let metrics = if is_scheduled { provisioner.metrics(drift, failed) } else { None };
        provisioner.log_run(ok, &CommandLine { action, result, reason }, metrics);
    };
    match run(provisioner, input, is_scheduled, deadline).await {
        Ok(report) => {
            log(report.ok, Some(&report), None, report.drift_and_failures());
            if is_scheduled && !report.ok {
                return Err(CommandError::Scheduled(serde_json::to_string(&report).unwrap_or_default()));
            }
            Ok(report)
        }
        Err(error) => {
            log(false, None, Some(error.to_string()), (0, 1));
            Err(error)
        }
    }
}

/// A rule of `EventBridge` or its scheduler sends the event.
fn is_schedule(input: &Value) -> bool {
    let source = input.get("source").and_then(Value::as_str);
    input.get("action").is_none() && matches!(source, Some("aws.events" | "aws.scheduler"))
}

async fn run(
    provisioner: &Provisioner,
    input: &Value,
    is_scheduled: bool,
    deadline: Instant,
) -> Result<CommandReport, CommandError> {
    let arrived_at = Timestamp::now();
    let Command { action, head_ids } = if is_scheduled {
        Command { action: Action::Apply, head_ids: None }
    } else {
        Command::deserialize(input).map_err(|error| CommandError::Unknown(error.to_string()))?
    };
    let mut declared = declared(&provisioner.env)?;
    if let Some(head_ids) = &head_ids {
        declared.heads = Heads::parse(head_ids.iter().map(String::as_str)).map_err(ConfigError::from)?;
    }
    if declared.heads.is_empty() {
        return Err(ConfigError::NoHeads.into());
    }
    // The ring, and not the variables, says what may be removed.
    if action != Action::Remove {
        Allowed::from_env(&provisioner.env)?.check_heads(&declared.heads)?;
    }
    // A schedule event may arrive later than it was due.
    let due_at = input.get("time").and_then(Value::as_str).and_then(Timestamp::parse).filter(|_| is_scheduled);
    let issued_at = due_at.map_or(arrived_at, |due_at| due_at.min(arrived_at));
    // A run that ends by itself reports more than one that is cut off. The waits for the key ring may add up to more.
    let run_until = deadline.checked_sub(TIME_TO_END).unwrap_or(deadline);
    let run = provisioner.reconciler(provisioner.owner(issued_at), run_until).await?;
    let is_narrowed = head_ids.is_some();
    let carried_out = timeout_at(deadline, carry_out(provisioner, &run, action, &declared, is_narrowed)).await;
    let (ok, heads) = carried_out.map_err(|_| CommandError::OutOfTime)??;
    // Nothing that was removed must not read like a removal.
    let note = (action == Action::Remove && heads.are_none()).then(|| {
        let whose = run.requester.owner.as_ref().map_or("without an owner".to_owned(), |owner| format!("of {owner}"));
        format!("nothing was removed: the key ring does not have an entry {whose}")
    });
    Ok(CommandReport { action, ok, webhook_url: declared.webhook_url.as_str().to_owned(), heads, note })
}

/// Carries out a command; `is_narrowed` if it names its heads, so that it is not about all that is declared.
async fn carry_out(
    provisioner: &Provisioner,
    run: &Reconciler,
    action: Action,
    declared: &Declared,
    is_narrowed: bool,
) -> Result<(bool, HeadResults), CommandError> {
    let is_all = declared.heads == Heads::All;
    let heads = if action == Action::Remove { Vec::new() } else { run.heads_of(&declared.heads).await? };
    Ok(match action {
        Action::Remove => changed(remove(run, declared, is_narrowed).await?, false),
        Action::Status => {
            let statuses = run.status(declared, &heads).await;
            let ok = all_ok(&statuses, is_all, |status| (status.ok, status.is_refused));
            (ok, HeadResults::Status(statuses))
        }
        Action::Plan => {
            let statuses = run.status(declared, &heads).await;
            let plans: Vec<_> = statuses.into_iter().map(|status| HeadPlan::new(status, is_all)).collect();
            (plans.iter().all(|plan| plan.ok), HeadResults::Plan(plans))
        }
        Action::SelfTest => {
            // In the sandbox the public name does not lead to this deployment.
            let url = provisioner.env.optional("SELF_TEST_URL").unwrap_or(declared.webhook_url.as_str());
            let mut tests = Vec::new();
            for head_id in &heads {
                tests.push(self_test(&provisioner.http, &run.ring, url, head_id, tests.is_empty()).await);
            }
            (tests.iter().all(|test| test.ok), HeadResults::SelfTest(tests))
        }
        Action::Disable => changed(run.disable(&heads).await, is_all),
        Action::Apply | Action::Enable | Action::Rotate => {
            let gone = if is_all && !is_narrowed { run.gone_heads(&heads).await } else { Vec::new() };
            let enable_events = declared.enable_events || action == Action::Enable;
            let declared = &Declared { enable_events, ..declared.clone() };
            let mode = if action == Action::Rotate { Mode::Rotate } else { Mode::Apply };
            let task = Task { declared, heads, mode, leaving: Vec::new(), gone, is_all };
            changed(run.reconcile(&task).await, is_all)
        }
    })
}

fn changed(reports: Vec<HeadReport>, is_all: bool) -> (bool, HeadResults) {
    (all_ok(&reports, is_all, |report| (report.ok, report.is_refused)), HeadResults::Changed(reports))
}

/// Removes what is ours on the named heads, or on all that are declared or in the ring.
async fn remove(run: &Reconciler, declared: &Declared, is_narrowed: bool) -> Result<Vec<HeadReport>, RingError> {
    let heads = match &declared.heads {
        // The heads in the ring, and not those that the account has now.
        Heads::All => run.own_heads().await?,
        Heads::Named(heads) if is_narrowed => heads.clone(),
        Heads::Named(heads) => run.with_owned(heads.clone()).await?,
    };
    let removal = Removal {
        url: &declared.webhook_url,
        heads,
        purpose: Purpose::Command,
        // A run in flight must not bring back what is removed.
        deleted_at: (!is_narrowed).then_some(run.requester.issued_at),
    };
    let mut removed = run.remove(&removal).await?;
    if let Err(error) = removed.written {
        for report in removed.reports.iter_mut().filter(|report| report.ok) {
            (report.ok, report.error) = (false, Some(error.to_string()));
        }
    }
    Ok(removed.reports)
}

impl CommandReport {
    /// The number of steps, without those for new heads, and of heads that failed.
    fn drift_and_failures(&self) -> (usize, usize) {
        let HeadResults::Changed(reports) = &self.heads else { return (0, 0) };
        let drifted = reports.iter().filter(|report| !report.is_new);
        let failed = reports.iter().filter(|report| report.error.is_some());
        (drifted.map(|report| report.done.len()).sum(), failed.count())
    }
}
