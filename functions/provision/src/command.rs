//! Commands: `{"action": "status"}` and its like, by hand or on a schedule. What is left out comes from the environment.
//!
//! A command's result says per head how it went, and `ok` only if all went well. A schedule event is the command
//! `apply`, whose failure is the invocation's failure, since nobody reads its result.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use unith_events::timestamp::Timestamp;

use crate::{
    Provisioner, SetupError,
    config::{Allowed, ConfigError, declared},
    declared::{Declared, Heads},
    remove::{Purpose, Removal},
    ring::RingError,
    run::{HeadReport, Mode, Run, RunError, Task, all_well, each},
    self_test::self_test,
    unith::UnithError,
};

const SERVICE: &str = "provision";
/// How long before being cut off a run ends by itself.
const TIME_TO_END: Duration = Duration::from_secs(1);
const DEFAULT_METRICS_NAMESPACE: &str = "UnithWebhooks";

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Say what `apply` would do.
    Plan,
    /// Bring the declared state about.
    Apply,
    /// Say how things are.
    Status,
    /// Switch the heads' events on.
    Enable,
    /// Switch the heads' events off; the registrations stay.
    Disable,
    /// Replace the keys.
    Rotate,
    /// Take away what is ours.
    Remove,
    /// Send a signed and a wrongly signed event to the webhook.
    SelfTest,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plan => "plan",
            Self::Apply => "apply",
            Self::Status => "status",
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Rotate => "rotate",
            Self::Remove => "remove",
            Self::SelfTest => "self-test",
        })
    }
}

#[derive(Debug, Deserialize)]
struct Command {
    action: Action,
    head_ids: Option<Vec<String>>,
}

/// A command that could not begin.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It is none.
    #[error(
        "this is not a command: {0}; expected {{\"action\": \"plan\" | \"apply\" | \"status\" | \"enable\" | \"disable\" | \
         \"rotate\" | \"remove\" | \"self-test\", \"head_ids\": […]}}, a schedule event or a CloudFormation request"
    )]
    NoCommand(String),
    /// The declared state.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The clients.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The account's heads cannot be looked up.
    #[error(transparent)]
    Heads(#[from] UnithError),
    /// The ring cannot be read, and says what is ours.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The account has no head.
    #[error("UNITH lists no head for this account, and `*` stands for all of them: is it the right account?")]
    NoHeadListed,
    /// The time was over first.
    #[error("the time for this run is over; what was done stays, and the next run completes it")]
    OutOfTime,
    /// A scheduled run that did not bring everything about.
    #[error("the scheduled run did not bring everything about: {0}")]
    Scheduled(Value),
}

/// Carries out a command, or a schedule event's `apply`.
pub async fn handle(provisioner: &Provisioner, input: &Value, deadline: Instant) -> Result<Value, CommandError> {
    let scheduled = is_schedule(input);
    let result = handle_command(provisioner, input, scheduled, deadline).await;
    if let Err(error) = result.as_ref()
        && !matches!(error, CommandError::Scheduled(_))
    {
        // One that did not come to its heads has no line yet; and that it ran must show.
        let action = if scheduled { json!(Action::Apply) } else { input["action"].clone() };
        let metrics = if scheduled { provisioner.metrics(0, 1) } else { None };
        let fields = [("action", action), ("reason", error.to_string().into())];
        provisioner.log_line(false, fields.into_iter().chain(metrics.into_iter().flatten()));
    }
    result
}

async fn handle_command(
    provisioner: &Provisioner,
    input: &Value,
    scheduled: bool,
    deadline: Instant,
) -> Result<Value, CommandError> {
    let arrived_at = Timestamp::now();
    let command = if scheduled {
        Command { action: Action::Apply, head_ids: None }
    } else {
        Command::deserialize(input).map_err(|error| CommandError::NoCommand(error.to_string()))?
    };
    let mut declared = declared(&provisioner.env)?;
    let is_narrowed = command.head_ids.is_some();
    if let Some(head_ids) = &command.head_ids {
        declared.heads = Heads::parse(head_ids.iter().map(String::as_str)).map_err(ConfigError::from)?;
    }
    if declared.heads.is_empty() {
        return Err(ConfigError::NoHeads.into());
    }
    // What is removed is what the ring says is ours, whatever the variables say by now.
    if command.action != Action::Remove {
        Allowed::from_env(&provisioner.env)?.check_heads(&declared.heads)?;
    }
    // A schedule's event says when it was due; it may come late.
    let due_at = input.get("time").and_then(Value::as_str).and_then(Timestamp::parse).filter(|_| scheduled);
    let issued_at = due_at.map_or(arrived_at, |due_at| due_at.min(arrived_at));
    // A run that ends by itself says more than one that is cut off.
    let run_until = deadline.checked_sub(TIME_TO_END).unwrap_or(deadline);
    let run = provisioner.run(run_until, |who| who.issued_at = issued_at).await?;
    let asked = Asked { action: command.action, declared: &declared, is_narrowed };
    // The calls to UNITH end by themselves before that; the waits for the key ring may add up.
    let in_time = tokio::time::timeout_at(deadline, carry_out(provisioner, &run, &asked)).await;
    let done = in_time.map_err(|_| CommandError::OutOfTime)??;
    provisioner.log_run(command.action, &done, scheduled);
    let ok = done.result.get("ok").and_then(Value::as_bool).unwrap_or_default();
    if scheduled && !ok { Err(CommandError::Scheduled(done.result)) } else { Ok(done.result) }
}

/// What is asked for.
struct Asked<'a> {
    action: Action,
    declared: &'a Declared,
    /// Whether the command names heads, so that it is not about all that is declared.
    is_narrowed: bool,
}

/// What was done: the result as it is answered, and how much of it nobody had declared.
struct Done {
    result: Value,
    drift: usize,
}

/// Events of `EventBridge` rules say where they come from.
fn is_schedule(input: &Value) -> bool {
    let source = input.get("source").and_then(Value::as_str).unwrap_or_default();
    input.get("action").is_none() && (source == "aws.events" || source == "aws.scheduler")
}

/// The heads that are meant; those of `*` as they are now.
pub(crate) async fn heads_of(run: &Run, heads: &Heads) -> Result<Vec<String>, CommandError> {
    match heads {
        Heads::Named(ids) => Ok(ids.clone()),
        Heads::All => {
            let heads = run.unith.heads().await?;
            if heads.is_empty() { Err(CommandError::NoHeadListed) } else { Ok(heads) }
        }
    }
}

/// The heads that are looked after and that the account does not have any more: their keys are all there is left of them.
/// None are unknown as long as the account does not answer.
pub(crate) async fn gone_heads(run: &Run, listed: &[String]) -> Vec<String> {
    let Some(owner) = &run.who.owner else { return Vec::new() };
    let Ok(ring) = run.ring.read().await else { return Vec::new() };
    let gone: Vec<_> = ring.heads_of(owner).into_iter().filter(|head| !listed.contains(head)).collect();
    if gone.is_empty() || run.unith.account().await.is_err() { Vec::new() } else { gone }
}

async fn carry_out(provisioner: &Provisioner, run: &Run, asked: &Asked<'_>) -> Result<Done, CommandError> {
    let declared = asked.declared;
    let is_all = declared.heads == Heads::All;
    let done = match asked.action {
        Action::Remove => reported(remove(run, asked).await?, false),
        Action::Status => statuses(run.status(declared, &heads_of(run, &declared.heads).await?).await, is_all),
        Action::Plan => {
            let statuses = run.status(declared, &heads_of(run, &declared.heads).await?).await;
            let heads: Vec<_> = statuses
                .into_iter()
                .map(|status| match status.error {
                    None => json!({
                        "head_id": status.head_id, "ok": true, "events_on": status.events_on, "steps": status.drift,
                    }),
                    Some(error) => json!({
                        "head_id": status.head_id, "ok": is_all && status.is_refused, "error": error,
                    }),
                })
                .collect();
            // A plan that has something to do is a plan all the same.
            Reports { ok: heads.iter().all(|head| head["ok"] == true), heads, drift: 0 }
        }
        Action::Apply | Action::Enable | Action::Rotate => {
            let heads = heads_of(run, &declared.heads).await?;
            let gone = if is_all && !asked.is_narrowed { gone_heads(run, &heads).await } else { Vec::new() };
            let enable_events = declared.enable_events || asked.action == Action::Enable;
            let declared = &Declared { enable_events, ..declared.clone() };
            let mode = if asked.action == Action::Rotate { Mode::Rotate } else { Mode::Apply };
            reported(run.reconcile(Task { declared, heads, mode, leaving: Vec::new(), gone, is_all }).await, is_all)
        }
        Action::Disable => {
            let heads = heads_of(run, &declared.heads).await?;
            reported(each(heads.iter().map(|head_id| Box::pin(run.disable(head_id)) as _)).await, is_all)
        }
        Action::SelfTest => {
            let heads = heads_of(run, &declared.heads).await?;
            let mut reports = Vec::new();
            for (index, head_id) in heads.iter().enumerate() {
                reports.push(test_report(provisioner, run, declared, head_id, index == 0).await);
            }
            Reports { ok: reports.iter().all(|report| report["ok"] == true), heads: reports, drift: 0 }
        }
    };
    let url = declared.webhook_url.as_str();
    let result = json!({"action": asked.action, "ok": done.ok, "webhook_url": url, "heads": done.heads});
    Ok(Done { result, drift: done.drift })
}

/// How the heads went.
struct Reports {
    heads: Vec<Value>,
    ok: bool,
    drift: usize,
}

fn reported(reports: Vec<HeadReport>, is_all: bool) -> Reports {
    let ok = all_well(&reports, is_all, |report| (report.ok, report.is_refused));
    // A head that the account has got since the last run is nobody's drift.
    let drift = reports.iter().filter(|report| !(is_all && report.is_new)).map(|report| report.done.len()).sum();
    Reports { ok, heads: reports.into_iter().map(|report| json!(report)).collect(), drift }
}

fn statuses(statuses: Vec<crate::status::HeadStatus>, is_all: bool) -> Reports {
    let ok = all_well(&statuses, is_all, |status| (status.ok, status.is_refused));
    Reports { ok, heads: statuses.into_iter().map(|status| json!(status)).collect(), drift: 0 }
}

/// Removes what is ours on the named heads, or on all that are declared or in the ring.
async fn remove(run: &Run, asked: &Asked<'_>) -> Result<Vec<HeadReport>, RingError> {
    // Never from a new list: what is not in the ring was never looked after.
    let mut heads = asked.declared.heads.named();
    if !asked.is_narrowed || asked.declared.heads == Heads::All {
        extend_with_owned(run, &mut heads).await?;
    }
    let removal = Removal {
        // A run that is under way must not bring back what is taken away.
        deleted_at: (!asked.is_narrowed).then_some(run.who.issued_at),
        ..Removal::new(&asked.declared.webhook_url, heads, Purpose::Command)
    };
    let removed = run.remove(removal).await?;
    let mut reports = removed.reports;
    if let Err(error) = removed.written {
        let message = error.to_string();
        for report in reports.iter_mut().filter(|report| report.ok) {
            let failed =
                HeadReport::new(&report.head_id, std::mem::take(&mut report.done), &Err(RunError::Ring(error.clone())));
            *report = HeadReport { error: Some(message.clone()), ..failed };
        }
    }
    Ok(reports)
}

/// Adds the heads of the ring's entries that this run's owner looks after.
///
/// # Errors
/// A ring that cannot be read.
pub(crate) async fn extend_with_owned(run: &Run, heads: &mut Vec<String>) -> Result<(), RingError> {
    let Some(owner) = &run.who.owner else { return Ok(()) };
    let ring = match run.ring.read().await {
        Err(error) if error.is_absence() => return Ok(()),
        ring => ring?,
    };
    let new: Vec<_> = ring.heads_of(owner).into_iter().filter(|head| !heads.contains(head)).collect();
    heads.extend(new);
    Ok(())
}

async fn test_report(provisioner: &Provisioner, run: &Run, declared: &Declared, head_id: &str, forge: bool) -> Value {
    // Where the public name does not lead to this deployment (the sandbox), the test has to be told where it is.
    let url = provisioner.env.optional("SELF_TEST_URL").unwrap_or(declared.webhook_url.as_str());
    match self_test(&provisioner.http, &run.ring, url, head_id, forge).await {
        Ok(report) => json!(report),
        Err(error) => json!({"head_id": head_id, "ok": false, "error": error.to_string()}),
    }
}

impl Provisioner {
    /// One line a run; that of a scheduled one, whose result nobody reads, with metrics: how much had to be changed, and
    /// how many heads could not be looked after.
    fn log_run(&self, action: Action, done: &Done, scheduled: bool) {
        let result = &done.result;
        let heads = result["heads"].as_array().cloned().unwrap_or_default();
        let failed = heads.iter().filter(|head| !head["error"].is_null()).count();
        let ok = result["ok"] == true;
        let fields = [("action", action.to_string().into()), ("result", result.clone())];
        let metrics = if scheduled { self.metrics(done.drift, failed) } else { None };
        self.log_line(ok, fields.into_iter().chain(metrics.into_iter().flatten()));
    }

    /// The metrics of a run, as they stand in its line; `None` if there is no namespace for them.
    pub(crate) fn metrics(&self, drift: usize, failed: usize) -> Option<[(&'static str, Value); 4]> {
        let namespace = self.env.raw("METRICS_NAMESPACE").unwrap_or(DEFAULT_METRICS_NAMESPACE).trim();
        (!namespace.is_empty()).then(|| {
            [
                ("Service", SERVICE.into()),
                ("Drift", drift.into()),
                ("StepFailed", failed.into()),
                ("_aws", declaration(namespace)),
            ]
        })
    }

    /// Writes one line about a run.
    pub(crate) fn log_line(&self, ok: bool, fields: impl IntoIterator<Item = (&'static str, Value)>) {
        let (level, message) = if ok { ("INFO", "run done") } else { ("ERROR", "run not done") };
        let always: [(_, Value); 3] =
            [("timestamp", Timestamp::now().to_string().into()), ("level", level.into()), ("message", message.into())];
        let line: Map<_, _> = always.into_iter().chain(fields).map(|(name, value)| (name.to_owned(), value)).collect();
        (self.log)(&line.into());
    }
}

/// CloudWatch's embedded metric format: the block that declares the metrics beside it.
fn declaration(namespace: &str) -> Value {
    json!({
        "Timestamp": Timestamp::now().epoch_milliseconds(),
        "CloudWatchMetrics": [{
            "Namespace": namespace, "Dimensions": [["Service"]],
            "Metrics": [{"Name": "Drift", "Unit": "Count"}, {"Name": "StepFailed", "Unit": "Count"}],
        }],
    })
}
