//! The CloudFormation custom resource: brings about what its properties declare, and always answers.
//!
//! A custom resource that does not answer hangs its stack for up to an hour, so whatever happens (nonsense in, a
//! variable missing, UNITH down or slow, a panic) an answer is sent before the function's own time is over, with a reason
//! that helps. The `PhysicalResourceId` depends on the stack and the logical id alone: it never changes, so CloudFormation
//! never deletes "the old one".

use std::{sync::Arc, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use unith_events::timestamp::Timestamp;

use crate::{
    Provisioner,
    command::{extend_with_owned, gone_heads, heads_of},
    config::{Allowed, ConfigError},
    declared::{Declared, Heads, Subscriptions, WebhookUrl},
    remove::{Purpose, Removal},
    ring::RingError,
    run::{HeadReport, Leaving, Mode, Task, Who, all_well},
};

/// How long CloudFormation waits for an answer, in seconds: the template's `ServiceTimeout`.
pub const SERVICE_TIMEOUT_S: i64 = 660;
/// What is kept of the function's time for sending the answer, retries included.
const TIME_TO_ANSWER: Duration = Duration::from_secs(8);
/// How long before being cut off a run ends by itself.
const TIME_TO_END: Duration = Duration::from_millis(1_500);
/// CloudFormation takes 4,096 bytes in all; ids and the like need the rest.
const REASON_CHARACTERS: usize = 1_200;
const MAX_ANSWER_BYTES: usize = 4_000;
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);

/// A request's envelope. Every field may be missing: an answer is owed all the same.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(clippy::struct_field_names, reason = "CloudFormation's own names")]
struct Request {
    request_type: String,
    #[serde(rename = "ResponseURL")]
    response_url: String,
    stack_id: String,
    request_id: String,
    logical_resource_id: String,
    physical_resource_id: Option<String>,
    resource_properties: Map<String, Value>,
    old_resource_properties: Map<String, Value>,
}

/// What a request asks to be wrong with.
#[derive(Debug, thiserror::Error)]
enum BadRequest {
    #[error("the property {name} is {value}: expected {expected}")]
    Property { name: &'static str, value: String, expected: &'static str },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the request type is `{0}`: expected Create, Update or Delete")]
    Type(String),
}

/// What an answer says.
#[derive(Debug, Default)]
struct Answer {
    failed: bool,
    reason: String,
    data: Map<String, Value>,
}

impl Answer {
    fn failure(reason: impl Into<String>) -> Self {
        Self { failed: true, reason: reason.into(), data: Map::new() }
    }

    fn success(reason: impl Into<String>) -> Self {
        Self { failed: false, reason: reason.into(), data: Map::new() }
    }
}

/// The answer could not be delivered, or there is nowhere to deliver it to.
#[derive(Debug, thiserror::Error)]
pub enum NotAnswered {
    /// No address.
    #[error("a CloudFormation request without a ResponseURL cannot be answered")]
    NoAddress,
    /// CloudFormation did not take it.
    #[error("CloudFormation's ResponseURL did not take the answer ({answer}): {cause}")]
    Refused {
        /// What it would have said.
        answer: String,
        /// Why it did not arrive.
        cause: String,
    },
}

/// Carries out a request and answers it, before `deadline`.
pub async fn handle(provisioner: &Arc<Provisioner>, input: Value, deadline: Instant) -> Result<Value, NotAnswered> {
    let (request, malformed) = read(&input);
    let patience = patience(&request, Timestamp::now()).map_or(deadline, |left| deadline.min(Instant::now() + left));
    let work_until = patience.checked_sub(TIME_TO_ANSWER).unwrap_or(patience).max(Instant::now());
    let answer = if let Some(error) = malformed {
        Answer::failure(format!("the request cannot be read: {error}"))
    } else {
        // A task of its own, so that a panic ends there and is answered. The run ends a little before that, by itself,
        // which tells more than being cut off.
        let (provisioner, wanted) = (Arc::clone(provisioner), request.clone());
        let run_until = work_until.checked_sub(TIME_TO_END).unwrap_or(work_until);
        let mut work = tokio::spawn(async move { carry_out(&provisioner, &wanted, run_until).await });
        match tokio::time::timeout_at(work_until, &mut work).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Answer::failure("an error in provision itself: see the function's log"),
            Err(_) => {
                // It must not go on behind an answer that says it failed.
                work.abort();
                let _ = work.await;
                cut_off(&request)
            }
        }
    };
    send(provisioner, &request, answer, deadline).await
}

/// For how long CloudFormation waits yet; zero if it has given up. `None` if the request does not say when it was made.
fn patience(request: &Request, now: Timestamp) -> Option<Duration> {
    let age = now.since(issued_at(&request.response_url)?);
    Some(Duration::try_from(time::Duration::seconds(SERVICE_TIMEOUT_S) - age).unwrap_or_default())
}

/// The answer for a run that had to be cut off.
fn cut_off(request: &Request) -> Answer {
    if request.request_type == "Delete" && flag(&request.resource_properties, "ForceDelete", false).unwrap_or(false) {
        return Answer::success("UNITH or Secrets Manager is slow; what is left there is left, as ForceDelete says");
    }
    Answer::failure(
        "not done in time: UNITH or Secrets Manager is slow; what was done stays, and the next try completes it",
    )
}

/// The envelope, as far as it can be read, and what is wrong with it.
fn read(input: &Value) -> (Request, Option<String>) {
    match Request::deserialize(input) {
        Ok(request) => (request, None),
        Err(error) => {
            let text = |name: &str| input.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let request = Request {
                request_type: text("RequestType"),
                response_url: text("ResponseURL"),
                stack_id: text("StackId"),
                request_id: text("RequestId"),
                logical_resource_id: text("LogicalResourceId"),
                ..Request::default()
            };
            (request, Some(error.to_string()))
        }
    }
}

async fn carry_out(provisioner: &Provisioner, request: &Request, deadline: Instant) -> Answer {
    let answer = answer_for(provisioner, request, deadline).await;
    let fields = [
        ("request_type", request.request_type.as_str().into()),
        ("stack_id", request.stack_id.as_str().into()),
        ("reason", answer.reason.as_str().into()),
    ];
    // What was deployed is as declared: with that begins what the alarm of the schedule looks at.
    let is_looked_after = !answer.failed && request.request_type != "Delete";
    let metrics = if is_looked_after { provisioner.metrics(0, 0) } else { None };
    provisioner.log_line(!answer.failed, fields.into_iter().chain(metrics.into_iter().flatten()));
    answer
}

async fn answer_for(provisioner: &Provisioner, request: &Request, deadline: Instant) -> Answer {
    let arrived_at = Timestamp::now();
    if patience(request, arrived_at).is_some_and(|left| left.is_zero()) {
        // It has gone on without us, and may have rolled back what this asks for.
        return Answer::failure(format!(
            "this request is so old that CloudFormation gave up on it after {SERVICE_TIMEOUT_S} s: nothing was done"
        ));
    }
    match request.request_type.as_str() {
        "Update" if only_force_delete_changed(request) => {
            // Whoever sets it may have no way to UNITH any more: that is what it is for.
            Answer::success("ForceDelete is noted; nothing else changed, and UNITH was not asked")
        }
        "Create" | "Update" => match bring_about(provisioner, request, arrived_at, deadline).await {
            Ok(answer) => answer,
            Err(error) => Answer::failure(error.to_string()),
        },
        "Delete" => remove(provisioner, request, arrived_at, deadline).await,
        other => Answer::failure(BadRequest::Type(other.to_owned()).to_string()),
    }
}

fn only_force_delete_changed(request: &Request) -> bool {
    let without = |properties: &Map<String, Value>| {
        let mut properties = properties.clone();
        properties.remove("ForceDelete");
        properties
    };
    let (new, old) = (&request.resource_properties, &request.old_resource_properties);
    new.get("ForceDelete") != old.get("ForceDelete") && without(new) == without(old)
}

/// The resource that a request is about, and when CloudFormation asked.
fn who(request: &Request, arrived_at: Timestamp) -> Who {
    let stack = request.stack_id.rsplit('/').next().unwrap_or_default();
    let owner = format!("{}@{stack}", request.logical_resource_id);
    let issued_at = issued_at(&request.response_url).unwrap_or(arrived_at);
    Who { owner: Some(owner), takes_over: true, issued_at }
}

/// When a presigned URL was signed: `X-Amz-Date=20260116T095612Z`.
fn issued_at(response_url: &str) -> Option<Timestamp> {
    let url = reqwest::Url::parse(response_url).ok()?;
    let (_, date) = url.query_pairs().find(|(name, _)| name.eq_ignore_ascii_case("x-amz-date"))?;
    let part = |from: usize, to: usize| date.get(from..to);
    let (day, time) = (part(0, 8)?, part(9, 15)?);
    let text = format!(
        "{}-{}-{}T{}:{}:{}Z",
        day.get(..4)?,
        day.get(4..6)?,
        day.get(6..)?,
        time.get(..2)?,
        time.get(2..4)?,
        time.get(4..)?
    );
    (part(8, 9)? == "T" && date.len() == 16).then(|| Timestamp::parse(&text))?
}

async fn bring_about(
    provisioner: &Provisioner,
    request: &Request,
    arrived_at: Timestamp,
    deadline: Instant,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let declared = declared(&request.resource_properties)?;
    if declared.heads.is_empty() {
        return Err(BadRequest::from(ConfigError::NoHeads).into());
    }
    let allowed = Allowed::from_env(&provisioner.env)?;
    allowed.check_url(&declared.webhook_url)?;
    allowed.check_heads(&declared.heads)?;
    let run = provisioner.run(deadline, |own| *own = who(request, arrived_at)).await?;
    let heads = heads_of(&run, &declared.heads).await?;
    let is_all = declared.heads == Heads::All;
    let gone = if is_all { gone_heads(&run, &heads).await } else { Vec::new() };
    // What the old properties had and the new ones have not goes last, and only if all else went well: an update that
    // fails is rolled back, to what must still be there. Old properties that were never good for anything left nothing.
    let mut leaving = Vec::new();
    if let Ok(old) = self::declared(&request.old_resource_properties) {
        let mut old_heads = old.heads.named();
        if old.heads == Heads::All {
            extend_with_owned(&run, &mut old_heads).await?;
        }
        let is_moved = !old.webhook_url.is(declared.webhook_url.as_str());
        for head_id in old_heads.into_iter().filter(|head| !gone.contains(head)) {
            let is_whole = !heads.contains(&head_id);
            if is_whole || is_moved {
                leaving.push(Leaving { head_id, url: old.webhook_url.clone(), is_whole });
            }
        }
    }
    let count = heads.len();
    let reports = run.reconcile(Task { declared: &declared, heads, mode: Mode::Apply, leaving, gone, is_all }).await;
    let mut answer = summary(&reports, is_all);
    answer.data.insert("WebhookUrl".to_owned(), declared.webhook_url.as_str().into());
    answer.data.insert("Heads".to_owned(), count.into());
    Ok(answer)
}

async fn remove(provisioner: &Provisioner, request: &Request, arrived_at: Timestamp, deadline: Instant) -> Answer {
    let properties = &request.resource_properties;
    let own = who(request, arrived_at);
    let force = flag(properties, "ForceDelete", false).unwrap_or(false);
    // With properties like these nothing was created; but an earlier version of them may have been good.
    let declared = match declared(properties) {
        Ok(declared) => declared,
        Err(error) if force || provisioner.knows_nothing_of(own.owner.as_deref(), &[]).await => {
            return Answer::success(format!("nothing to remove: {error}"));
        }
        Err(error) => return Answer::failure(with_hint(&error.to_string())),
    };
    // What `*` stood for before is in the ring.
    let mut heads = declared.heads.named();
    let run = match provisioner.run(deadline, |run| *run = own.clone()).await {
        Ok(run) => run,
        Err(error) if force => return Answer::success(format!("nothing was removed at UNITH: {error}")),
        // Without configuration or credentials this may be the rollback of what was never created: the ring knows.
        Err(error) => {
            let nothing_known = provisioner.knows_nothing_of(own.owner.as_deref(), &heads).await;
            return if nothing_known {
                Answer::success(format!("nothing to remove: none of the heads has a key in the ring ({error})"))
            } else {
                Answer::failure(with_hint(&error.to_string()))
            };
        }
    };
    let unreadable = |error: &RingError| {
        let reason = error.to_string();
        if force {
            Answer::success(format!("nothing was removed at UNITH: {reason}"))
        } else {
            Answer::failure(with_hint(&reason))
        }
    };
    if let Err(error) = extend_with_owned(&run, &mut heads).await {
        return unreadable(&error);
    }
    let removal = Removal {
        deleted_at: Some(run.who.issued_at),
        force,
        ..Removal::new(&declared.webhook_url, heads, Purpose::Deletion)
    };
    let removed = match run.remove(removal).await {
        Ok(removed) => removed,
        Err(error) => return unreadable(&error),
    };
    let mut answer = summary(&removed.reports, false);
    if let Some(error) = removed.no_ring {
        answer.reason = format!("{}; {error}, so it is not known what was ours", answer.reason);
    }
    if answer.failed && force {
        // What is left at UNITH is left there on request.
        answer = Answer::success(answer.reason);
    }
    if let Err(error) = removed.written {
        // UNITH's side is what matters: keys of webhooks that are gone verify nothing any more.
        answer.reason = format!("{}; the keys stay in the ring: {error}", answer.reason);
    }
    if answer.failed {
        answer.reason = with_hint(&answer.reason);
    }
    answer
}

fn with_hint(reason: &str) -> String {
    format!(
        "{reason}; to delete the stack without UNITH, set ForceDelete to true first, or, now that deleting has failed, \
         delete it again and retain this resource"
    )
}

/// One sentence of what was done, or of what was not.
fn summary(reports: &[HeadReport], is_all: bool) -> Answer {
    let failures: Vec<_> = reports
        .iter()
        .filter_map(|report| Some(format!("head {}: {}", report.head_id, report.error.as_ref()?)))
        .collect();
    let failed = !all_well(reports, is_all, |report| (report.ok, report.is_refused));
    let done: usize = reports.iter().map(|report| report.done.len()).sum();
    let mut reason = if failures.is_empty() {
        format!("{} heads looked after, {done} steps", reports.len())
    } else {
        format!("{} of {} heads failed. {}", failures.len(), reports.len(), failures.join("; "))
    };
    for note in reports.iter().flat_map(|report| report.notes.iter().map(|note| (&report.head_id, note))) {
        reason = format!("{reason}; head {}: {}", note.0, note.1);
    }
    Answer { failed, reason, data: Map::new() }
}

fn declared(properties: &Map<String, Value>) -> Result<Declared, BadRequest> {
    let url = properties.get("WebhookUrl").and_then(Value::as_str).unwrap_or_default();
    let ids: Vec<&str> = match properties.get("HeadIds") {
        Some(Value::Array(ids)) if ids.iter().all(Value::is_string) => ids.iter().filter_map(Value::as_str).collect(),
        // A comma-delimited parameter that was passed on as it is.
        Some(Value::String(ids)) => ids.split(',').collect(),
        None => Vec::new(),
        Some(other) => {
            let value = other.to_string();
            return Err(BadRequest::Property { name: "HeadIds", value, expected: "a list of head ids" });
        }
    };
    Ok(Declared {
        webhook_url: WebhookUrl::parse(url).map_err(ConfigError::from)?,
        heads: Heads::parse(ids.into_iter()).map_err(ConfigError::from)?,
        subscriptions: Subscriptions {
            start_conversation: flag(properties, "StartConversation", true)?,
            end_conversation: flag(properties, "EndConversation", true)?,
            timeout_conversation: flag(properties, "TimeoutConversation", true)?,
            inactivity_warning: flag(properties, "InactivityWarning", true)?,
        },
        enable_events: flag(properties, "EnableEvents", true)?,
    })
}

/// A boolean, or its string: CloudFormation makes strings of them.
fn flag(properties: &Map<String, Value>, name: &'static str, default: bool) -> Result<bool, BadRequest> {
    match properties.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(on)) => Ok(*on),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(other) => Err(BadRequest::Property { name, value: other.to_string(), expected: "true or false" }),
    }
}

async fn send(
    provisioner: &Provisioner,
    request: &Request,
    answer: Answer,
    deadline: Instant,
) -> Result<Value, NotAnswered> {
    if request.response_url.is_empty() {
        return Err(NotAnswered::NoAddress);
    }
    let body = body(request, answer);
    let text = body.to_string();
    let put = || async {
        let response = provisioner
            .http
            .put(&request.response_url)
            .timeout(ATTEMPT_TIMEOUT)
            // The presigned URL is signed for no content type at all.
            .header("content-type", "")
            .body(text.clone())
            .send()
            .await
            .map_err(|error| lambda_support::errors::causes(&error.without_url()))?;
        let status = response.status();
        if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
    };
    // A stack waits for this: it is tried for as long as there is time.
    let backoff = ExponentialBuilder::default()
        .with_jitter()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(2))
        .without_max_times();
    let sent = tokio::time::timeout_at(deadline, put.retry(backoff)).await;
    match sent.unwrap_or_else(|_| Err("it does not answer".to_owned())) {
        Ok(()) => Ok(body),
        Err(cause) => Err(NotAnswered::Refused { answer: text, cause }),
    }
}

fn body(request: &Request, mut answer: Answer) -> Value {
    if answer.reason.chars().count() > REASON_CHARACTERS {
        answer.reason =
            answer.reason.chars().take(REASON_CHARACTERS).chain("… (see the function's log)".chars()).collect();
    }
    let physical_id = request.physical_resource_id.clone().unwrap_or_else(|| {
        let stack = request.stack_id.rsplit('/').next().unwrap_or_default();
        format!("unith-webhook:{}:{stack}", request.logical_resource_id)
    });
    let mut body = json!({
        "Status": if answer.failed { "FAILED" } else { "SUCCESS" },
        "Reason": answer.reason,
        "PhysicalResourceId": physical_id,
        "StackId": request.stack_id,
        "RequestId": request.request_id,
        "LogicalResourceId": request.logical_resource_id,
        "Data": answer.data,
    });
    // Long ids could still exceed what CloudFormation takes; it needs the status more than the rest.
    for field in ["Data", "Reason"] {
        if body.to_string().len() > MAX_ANSWER_BYTES
            && let Some(fields) = body.as_object_mut()
        {
            fields.insert(field.to_owned(), if field == "Data" { json!({}) } else { "see the function's log".into() });
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(physical_id: Option<&str>) -> Request {
        Request {
            stack_id: "arn:aws:cloudformation:eu-west-1:123456789012:stack/my-stack/6a5b".to_owned(),
            logical_resource_id: "Webhook".to_owned(),
            physical_resource_id: physical_id.map(str::to_owned),
            ..Request::default()
        }
    }

    #[test]
    fn the_physical_id_depends_on_stack_and_logical_id_alone() {
        let id = |request: &Request| body(request, Answer::success(""))["PhysicalResourceId"].clone();
        assert_eq!(id(&request(None)), "unith-webhook:Webhook:6a5b");
        assert_eq!(id(&request(Some("as it was"))), "as it was");
    }

    #[test]
    fn an_answer_is_never_longer_than_cloudformation_takes() {
        let long = "ü".repeat(5_000);
        let mut answer = Answer::failure(long.as_str());
        answer.data.insert("WebhookUrl".to_owned(), long.clone().into());
        let text = body(&request(None), answer).to_string();
        assert!(text.len() < 4_096, "{}", text.len());
        assert!(text.contains("see the function's log"));
    }

    #[test]
    fn a_presigned_url_says_when_it_was_signed() {
        let url = |query: &str| format!("https://cloudformation-custom-resource-response.s3.amazonaws.com/x?{query}");
        let signed = url("X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20260116T095612Z&X-Amz-Expires=7200");
        assert_eq!(issued_at(&signed), Timestamp::parse("2026-01-16T09:56:12Z"));
        for query in [
            "",
            "X-Amz-Date=",
            "X-Amz-Date=20260116",
            "X-Amz-Date=20260116x095612Z",
            "X-Amz-Date=é0260116T095612Z",
            "Expires=1",
        ] {
            assert_eq!(issued_at(&url(query)), None, "{query}");
        }
        assert_eq!(issued_at("nonsense"), None);
    }

    #[test]
    fn properties_come_as_strings_too() {
        let properties = |value: Value| value.as_object().cloned().unwrap();
        let declared = declared(&properties(json!({
            "ServiceToken": "arn:…", "WebhookUrl": "https://a.example/x", "HeadIds": ["a", "b", "a"],
            "EndConversation": "false", "InactivityWarning": false, "EnableEvents": "FALSE",
        })))
        .unwrap();
        assert_eq!(declared.heads, Heads::Named(vec!["a".to_owned(), "b".to_owned()]));
        assert!(!declared.subscriptions.end_conversation && !declared.subscriptions.inactivity_warning);
        assert!(declared.subscriptions.start_conversation && !declared.enable_events);
        let url = json!("https://a.example/x");
        for (bad, reason) in [
            (
                json!({"WebhookUrl": "http://a.example"}),
                "the webhook URL `http://a.example` cannot be registered: UNITH delivers to https URLs only",
            ),
            (json!({"WebhookUrl": url, "HeadIds": 7}), "the property HeadIds is 7: expected a list of head ids"),
            (
                json!({"WebhookUrl": url, "EnableEvents": "yes"}),
                "the property EnableEvents is \"yes\": expected true or false",
            ),
        ] {
            assert_eq!(super::declared(&properties(bad)).unwrap_err().to_string(), reason);
        }
    }
}
