//! The CloudFormation custom resource.
//!
//! A custom resource that does not respond blocks its stack for up to an hour.
//!
//! Invariants:
//! - Every request gets a response with a reason before the function's own time ends, whatever happens: a malformed
//!   request, a missing variable, UNITH down or slow, a panic.

mod request;
pub mod response;

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use unith_events::timestamp::Timestamp;

pub use self::request::SERVICE_TIMEOUT_S;
use self::{
    request::{Request, RequestError, declared},
    response::{Data, Outcome, Response, ResponseError},
};
use crate::{
    config::{Allowed, ConfigError},
    declared::{Declared, Heads},
    provisioner::Provisioner,
    reconciler::{Leaving, Mode, Reconciler, Task},
    remove::{Purpose, Removal, Removed},
    report::{HeadReport, all_ok},
};

/// The time that is kept for sending the response, retries included.
const TIME_TO_RESPOND: Duration = Duration::from_secs(8);
/// How long before it would be cut off a run ends by itself.
const TIME_TO_END: Duration = Duration::from_millis(1_500);

/// The log of a request.
#[derive(Serialize)]
struct Handled<'r> {
    request_type: &'r str,
    stack_id: &'r str,
    reason: &'r str,
}

/// Carries out a request and sends the response, before `deadline`.
pub async fn handle(
    provisioner: &Arc<Provisioner>,
    input: &Value,
    deadline: Instant,
) -> Result<Response, ResponseError> {
    let (request, malformed) = Request::parse(input);
    let outcome = match malformed {
        Some(error) => Outcome::failure(format!("the request cannot be read: {error}")),
        None => carry_out_in_time(provisioner, &request, deadline).await,
    };
    Response::new(&request, outcome).send(&provisioner.http, &request.response_url, deadline).await
}

async fn carry_out_in_time(provisioner: &Arc<Provisioner>, request: &Request, deadline: Instant) -> Outcome {
    let now = Instant::now();
    let respond_until = request.time_left(Timestamp::now()).map_or(deadline, |left| deadline.min(now + left));
    let work_until = respond_until.checked_sub(TIME_TO_RESPOND).unwrap_or(respond_until).max(now);
    // A run that ends by itself reports more than one that is cut off.
    let run_until = work_until.checked_sub(TIME_TO_END).unwrap_or(work_until);
    // A panic ends the task, and not the invocation.
    let mut work = tokio::spawn({
        let (provisioner, request) = (Arc::clone(provisioner), request.clone());
        async move { carry_out(&provisioner, &request, run_until).await }
    });
    match timeout_at(work_until, &mut work).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Outcome::failure("an error in provision itself: see the function's log"),
        Err(_) => {
            // The run must not continue after the response.
            work.abort();
            let _ = work.await;
            cut_off(request)
        }
    }
}

fn cut_off(request: &Request) -> Outcome {
    if request.request_type == "Delete" && request.force_delete() {
        return Outcome::success("UNITH or Secrets Manager is slow; the rest is left there, since ForceDelete is set");
    }
    Outcome::failure(
        "the run's time expired: UNITH or Secrets Manager is slow; what was done stays, and the next run completes it",
    )
}

/// Carries out a request, and logs it.
async fn carry_out(provisioner: &Provisioner, request: &Request, deadline: Instant) -> Outcome {
    let outcome = outcome_of(provisioner, request, deadline).await;
    let Request { request_type, stack_id, .. } = request;
    // The alarm on scheduled runs starts to count with a deployment.
    let is_deployed = outcome.ok && request_type != "Delete";
    let metrics = if is_deployed { provisioner.metrics(0, 0) } else { None };
    provisioner.log_run(outcome.ok, &Handled { request_type, stack_id, reason: &outcome.reason }, metrics);
    outcome
}

async fn outcome_of(provisioner: &Provisioner, request: &Request, deadline: Instant) -> Outcome {
    let arrived_at = Timestamp::now();
    if request.time_left(arrived_at).is_some_and(|left| left.is_zero()) {
        // CloudFormation may have rolled back what this requests.
        return Outcome::failure(format!(
            "this request is so old that CloudFormation gave up on it after {SERVICE_TIMEOUT_S} s: nothing was done"
        ));
    }
    match request.request_type.as_str() {
        // ForceDelete is for operators without access to UNITH.
        "Update" if request.changes_only_force_delete() => {
            Outcome::success("ForceDelete is noted; nothing else changed, and UNITH was not called")
        }
        "Create" | "Update" => apply(provisioner, request, arrived_at, deadline)
            .await
            .unwrap_or_else(|error| Outcome::failure(error.to_string())),
        "Delete" => remove(provisioner, request, arrived_at, deadline).await,
        other => Outcome::failure(RequestError::Type(other.to_owned()).to_string()),
    }
}

async fn apply(
    provisioner: &Provisioner,
    request: &Request,
    arrived_at: Timestamp,
    deadline: Instant,
) -> Result<Outcome, RequestError> {
    let declared = &declared(&request.resource_properties)?;
    if declared.heads.is_empty() {
        return Err(ConfigError::NoHeads.into());
    }
    let allowed = Allowed::from_env(&provisioner.env)?;
    allowed.check_url(&declared.webhook_url)?;
    allowed.check_heads(&declared.heads)?;
    let run = provisioner.reconciler(request.requester(arrived_at), deadline).await?;
    let heads = run.heads_of(&declared.heads).await?;
    let is_all = declared.heads == Heads::All;
    let gone = if is_all { run.gone_heads(&heads).await } else { Vec::new() };
    let mut task = Task { declared, heads, mode: Mode::Apply, leaving: Vec::new(), gone, is_all };
    // Old properties that are invalid left nothing behind.
    if let Ok(old) = self::declared(&request.old_resource_properties) {
        task.leaving = leaving(&run, &old, &task).await?;
    }
    let reports = run.reconcile(&task).await;
    let data = Data { webhook_url: Some(declared.webhook_url.as_str().to_owned()), heads: Some(task.heads.len()) };
    Ok(Outcome { data, ..summary(&reports, is_all) })
}

/// The heads and URLs of the old properties that the new ones do not declare.
async fn leaving(run: &Reconciler, old: &Declared, new: &Task<'_>) -> Result<Vec<Leaving>, RequestError> {
    let mut heads = old.heads.named();
    if old.heads == Heads::All {
        heads = run.with_owned(heads).await?;
    }
    let is_moved = !old.webhook_url.is(new.declared.webhook_url.as_str());
    let leaving = heads.into_iter().filter(|head| !new.gone.contains(head)).map(|head_id| {
        let is_whole = !new.heads.contains(&head_id);
        Leaving { head_id, url: old.webhook_url.clone(), is_whole }
    });
    Ok(leaving.filter(|leaving| leaving.is_whole || is_moved).collect())
}

async fn remove(provisioner: &Provisioner, request: &Request, arrived_at: Timestamp, deadline: Instant) -> Outcome {
    let (requester, force) = (request.requester(arrived_at), request.force_delete());
    let declared = declared(&request.resource_properties);
    let heads = declared.as_ref().map(|declared| declared.heads.named()).unwrap_or_default();
    let removed = async {
        let declared = declared?;
        let run = provisioner.reconciler(requester.clone(), deadline).await?;
        let removal = Removal {
            url: &declared.webhook_url,
            heads: run.with_owned(heads.clone()).await?,
            purpose: Purpose::Deletion { force },
            deleted_at: Some(requester.issued_at),
        };
        Ok(run.remove(&removal).await?)
    };
    match removed.await {
        Ok(removed) => outcome_of_removal(removed, force),
        Err(error) if force => Outcome::success(format!("nothing was removed at UNITH: {error}")),
        Err(error @ RequestError::Ring(_)) => Outcome::failure(with_hint(&error)),
        // This may be the rollback of a creation that failed for the same reason.
        Err(error) if provisioner.knows_nothing_of(requester.owner.as_deref(), &heads).await => {
            Outcome::success(format!("nothing to remove: the ring has no key of this resource ({error})"))
        }
        Err(error) => Outcome::failure(with_hint(&error)),
    }
}

fn outcome_of_removal(removed: Removed, force: bool) -> Outcome {
    let mut outcome = summary(&removed.reports, false);
    if let Some(error) = removed.no_ring {
        outcome.reason = format!("{}; {error}, so it is not known what was ours", outcome.reason);
    }
    let is_failure = !outcome.ok && !force;
    if let Err(error) = removed.written {
        // Keys of webhooks that are gone verify nothing.
        outcome.reason = format!("{}; the keys stay in the ring: {error}", outcome.reason);
    }
    if is_failure { Outcome::failure(with_hint(&outcome.reason)) } else { Outcome::success(outcome.reason) }
}

fn with_hint(reason: &dyn std::fmt::Display) -> String {
    format!(
        "{reason}; to delete the stack without UNITH, set ForceDelete to true first, or, now that deleting has failed, \
         delete it again and retain this resource"
    )
}

/// A summary of the reports in one sentence.
fn summary(reports: &[HeadReport], is_all: bool) -> Outcome {
    let failures: Vec<_> = reports
        .iter()
        .filter_map(|report| Some(format!("head {}: {}", report.head_id, report.error.as_ref()?)))
        .collect();
    let done: usize = reports.iter().map(|report| report.done.len()).sum();
    let mut reason = if failures.is_empty() {
        format!("{} heads looked after, {done} steps", reports.len())
    } else {
        format!("{} of {} heads failed. {}", failures.len(), reports.len(), failures.join("; "))
    };
    for report in reports {
        for note in &report.notes {
            reason = format!("{reason}; head {}: {note}", report.head_id);
        }
    }
    let ok = all_ok(reports, is_all, |report| (report.ok, report.is_refused));
    Outcome { ok, ..Outcome::failure(reason) }
}
