//! The one line that each request leaves: the log and, with its `_aws` block, the CloudWatch metrics.
//!
//! Invariants: it holds no body, key, token or signature. It holds ids only after the body that names them was verified.

use std::time::Duration;

use event_store::ingest::Outcome;
use lambda_support::{
    log::{self, EventFields, milliseconds},
    metrics::{Metric, Metrics},
};
use serde::Serialize;
use serde_json::Number;
use tracing::Level;
use unith_events::{
    event::{Event, ParseError},
    ids::HeadId,
    key_ring::KeyState,
    timestamp::Timestamp,
};

use crate::{delivery::Delivery, durable::Kept, error::ReceiveError};

const SERVICE: &str = "receive";

/// What the handler learned of a request, up to the step at which it ended.
#[derive(Debug, Default)]
pub struct Facts {
    /// Whether the key ring was fetched once more for it.
    pub key_ring_refreshed: bool,
    /// The state of the key that signed it.
    pub key_state: Option<KeyState>,
    /// The head that this key is bound to.
    pub key_head: Option<HeadId>,
    /// The event, or the ids that could be read of a body that is not one.
    pub event: Option<Result<Event, ParseError>>,
    /// How long ingestion took.
    pub store_time: Option<Duration>,
}

/// The line of a request.
#[derive(Debug, Serialize)]
pub struct DeliveryLog {
    timestamp: String,
    level: &'static str,
    message: String,
    request_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(flatten)]
    event: EventFields,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store_ms: Option<f64>,
    total_ms: f64,
    #[serde(flatten)]
    metrics: Option<Metrics>,
}

impl DeliveryLog {
    /// The line of a request that took `total`. Its metrics go to `namespace`.
    pub fn new(
        delivery: &Delivery,
        facts: Facts,
        result: &Result<Kept, ReceiveError>,
        total: Duration,
        namespace: Option<&str>,
    ) -> Self {
        let now = Timestamp::now();
        let (level, outcome, reason) = verdict(result);
        // An expired event is not written to the table, and a spilled one not in that time.
        let store_time = facts
            .store_time
            .filter(|_| !matches!(result, Ok(Kept::Ingested(Outcome::Expired { .. }) | Kept::Spilled { .. })));
        let occurred_at = facts.event.as_ref().and_then(|event| Some(event.as_ref().ok()?.identity.occurred_at));
        let lag_ms = occurred_at.map(|at| delivery.received_at.epoch_milliseconds() - at.epoch_milliseconds());
        let mut event = facts.event.map(EventFields::from).unwrap_or_default();
        event.head_id = event.head_id.or(facts.key_head);
        let store_ms = store_time.map(milliseconds);
        let retiring_key = facts.key_state == Some(KeyState::Retiring);
        let others = [(retiring_key, "RetiringKeyUsed"), (facts.key_ring_refreshed, "KeyRefetch")];
        let others = others.into_iter().filter(|(counts, _)| *counts).map(|(_, name)| name);
        let counts = counted(result, event.is_self_test()).iter().copied().chain(others).map(Metric::count);
        let store = store_ms.and_then(Number::from_f64).map(|ms| Metric::milliseconds("StoreMilliseconds", ms));
        // A clock ahead of ours does not make a delivery early.
        let lag = lag_ms.map(|ms| Metric::milliseconds("DeliveryLagMilliseconds", ms.max(0).into()));
        let values = counts.chain(store).chain(lag).collect();
        Self {
            timestamp: now.to_string(),
            level: level.as_str(),
            message: format!("delivery {outcome}"),
            request_id: delivery.request_id.clone(),
            trace_id: delivery.trace_id.clone(),
            outcome,
            reason,
            event,
            key_state: facts.key_state.map(KeyState::as_str),
            lag_ms,
            store_ms,
            total_ms: milliseconds(total),
            metrics: namespace.map(|namespace| Metrics::new(namespace, SERVICE, now, values)),
        }
    }

    /// Whether the line is written at `level`.
    pub fn is_wanted_at(&self, level: Level) -> bool {
        log::is_wanted(self.level, self.metrics.is_some(), level)
    }
}

/// Level, outcome and reason.
fn verdict(result: &Result<Kept, ReceiveError>) -> (Level, &'static str, Option<String>) {
    match result {
        Ok(kept) => {
            let reason = match kept {
                Kept::Ingested(outcome) => outcome.reason(),
                Kept::Spilled { table, .. } => Some(format!("spilled to the queue: {table}")),
            };
            (if reason.is_some() { Level::WARN } else { Level::INFO }, kept.as_str(), reason)
        }
        Err(error) if error.is_server_error() => (Level::ERROR, "unavailable", Some(error.to_string())),
        Err(error) if error.is_unauthorized() => (Level::WARN, "rejected", Some(error.to_string())),
        Err(error) => (Level::WARN, "bad_request", Some(error.to_string())),
    }
}

/// The metrics that count a result. A conflict is also a duplicate. A body that comes again is in quarantine once. A stored
/// self-test is not counted, since it says nothing about UNITH.
fn counted(result: &Result<Kept, ReceiveError>, is_self_test: bool) -> &'static [&'static str] {
    match result {
        Ok(Kept::Ingested(outcome)) => match outcome {
            Outcome::Stored { .. } if is_self_test => &[],
            Outcome::Stored { .. } => &["Stored"],
            Outcome::Duplicate { .. } => &["Duplicate"],
            Outcome::Conflict { .. } => &["Duplicate", "Conflict"],
            Outcome::Expired { .. } => &["Expired"],
            Outcome::Quarantined { is_new: true, .. } => &["Quarantined"],
            Outcome::Quarantined { is_new: false, .. } => &[],
        },
        Ok(Kept::Spilled { .. }) => &["Spilled"],
        Err(ReceiveError::NotSpilled { .. }) => &["Unavailable", "SpillFailed"],
        Err(error) if error.is_server_error() => &["Unavailable"],
        Err(error) if error.is_unauthorized() => &["Rejected"],
        Err(_) => &["BadRequest"],
    }
}
