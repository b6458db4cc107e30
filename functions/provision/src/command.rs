//! Commands: `{"action": "status"}` and its like, by hand or on a schedule. What is left out comes from the environment.
//!
//! A command's result says per head how it went, and `ok` only if all went well. A schedule event is the command
//! `apply`, whose failure is the invocation's failure, since nobody reads its result.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shared::timestamp::Timestamp;
use tokio::time::Instant;

use crate::{
    Provisioner, SetupError,
    config::{ConfigError, declared, heads},
    declared::Declared,
    run::Run,
    self_test::self_test,
};

const SERVICE: &str = "provision";
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
        "this is no command: {0}; expected {{\"action\": \"plan\" | \"apply\" | \"status\" | \"enable\" | \"disable\" | \
         \"rotate\" | \"remove\" | \"self-test\", \"head_ids\": […]}}, a schedule event or a CloudFormation request"
    )]
    NoCommand(String),
    /// The declared state.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The clients.
    #[error(transparent)]
    Setup(#[from] SetupError),
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
    let command = if scheduled {
        Command { action: Action::Apply, head_ids: None }
    } else {
        Command::deserialize(input).map_err(|error| CommandError::NoCommand(error.to_string()))?
    };
    let mut declared = declared(&provisioner.env)?;
    if let Some(head_ids) = &command.head_ids {
        declared.head_ids = heads(head_ids.iter().map(String::as_str))?;
    }
    if declared.head_ids.is_empty() {
        return Err(ConfigError::NoHeads.into());
    }
    let run = provisioner.run(deadline).await?;
    // The calls to UNITH end by themselves before that; the waits for the key ring may add up.
    let in_time = tokio::time::timeout_at(deadline, carry_out(provisioner, command.action, &run, &declared)).await;
    let Ok(result) = in_time else {
        let reason = CommandError::OutOfTime.to_string().into();
        provisioner.log_line(false, [("action", command.action.to_string().into()), ("reason", reason)]);
        return Err(CommandError::OutOfTime);
    };
    provisioner.log_run(command.action, &result, scheduled);
    let ok = result.get("ok").and_then(Value::as_bool).unwrap_or_default();
    if scheduled && !ok { Err(CommandError::Scheduled(result)) } else { Ok(result) }
}

/// Events of `EventBridge` rules say where they come from.
fn is_schedule(input: &Value) -> bool {
    let source = input.get("source").and_then(Value::as_str).unwrap_or_default();
    input.get("action").is_none() && (source == "aws.events" || source == "aws.scheduler")
}

async fn carry_out(provisioner: &Provisioner, action: Action, run: &Run, declared: &Declared) -> Value {
    let mut reports = Vec::new();
    if action == Action::Rotate {
        reports.extend(run.rotate(declared).await.into_iter().map(|report| json!(report)));
    } else {
        for (index, head_id) in declared.head_ids.iter().enumerate() {
            let run = &run.share(declared.head_ids.len() - index);
            reports.push(match action {
                Action::Status => json!(run.status(declared, head_id).await),
                Action::Plan => plan_report(run, declared, head_id).await,
                Action::Apply => json!(run.apply(declared, head_id).await),
                Action::Enable => json!(run.enable(declared, head_id).await),
                Action::Disable => json!(run.disable(head_id).await),
                Action::Remove => json!(run.remove(declared.webhook_url.as_str(), head_id).await),
                Action::SelfTest | Action::Rotate => test_report(provisioner, run, declared, head_id, index == 0).await,
            });
        }
    }
    // A plan that has something to do is a plan all the same; a status that differs is not well.
    let ok = reports.iter().all(|report| report["ok"] == true);
    json!({"action": action, "ok": ok, "webhook_url": declared.webhook_url.as_str(), "heads": reports})
}

async fn plan_report(run: &Run, declared: &Declared, head_id: &str) -> Value {
    let status = run.status(declared, head_id).await;
    let always = if declared.enable_events { "switch the head's events on" } else { "switch the head's events off" };
    match status.error {
        None => json!({"head_id": head_id, "ok": true, "steps": status.drift, "always": always}),
        Some(error) => json!({"head_id": head_id, "ok": false, "error": error}),
    }
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
    fn log_run(&self, action: Action, result: &Value, scheduled: bool) {
        let heads = result["heads"].as_array().cloned().unwrap_or_default();
        let failed = heads.iter().filter(|head| !head["error"].is_null()).count();
        let drift: usize = heads.iter().filter_map(|head| Some(head["done"].as_array()?.len())).sum();
        let ok = result["ok"] == true;
        let namespace = self.env.raw("METRICS_NAMESPACE").unwrap_or(DEFAULT_METRICS_NAMESPACE).trim();
        let measured = scheduled && !namespace.is_empty();
        let fields = [("action", action.to_string().into()), ("result", result.clone())];
        let metrics = [
            ("Service", SERVICE.into()),
            ("Drift", drift.into()),
            ("StepFailed", failed.into()),
            ("_aws", declaration(namespace)),
        ];
        self.log_line(ok, fields.into_iter().chain(metrics.into_iter().filter(|_| measured)));
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
