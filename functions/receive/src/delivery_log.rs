//! The one line that each request leaves: the log and, with its `_aws` block, the CloudWatch metrics.
//!
//! Invariants: it holds no body, key, token or signature. It holds ids only after the body that names them was verified.

use std::time::{Duration, Instant};

use event_store::{ingest::Outcome, store::StoreError};
use lambda_support::metrics::{Metric, Metrics};
use serde::Serialize;
use serde_json::Number;
use tracing::Level;
use unith_events::{
    event::{Event, ParseError},
    ids::{EventId, HeadId, SessionId},
    key_ring::KeyState,
    timestamp::Timestamp,
    verify::Verified,
};

use crate::{delivery::Delivery, error::ReceiveError};

const SERVICE: &str = "receive";

/// The facts of a request, filled in as they become known.
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
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    head_id: Option<HeadId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<SessionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store_ms: Option<f64>,
    total_ms: f64,
    #[serde(flatten)]
    metrics: Option<Metrics>,
    /// Whether the key ring was fetched once more for this request.
    #[serde(skip)]
    pub key_ring_refreshed: bool,
    #[serde(skip)]
    received_at: Timestamp,
    #[serde(skip)]
    started: Instant,
}

impl DeliveryLog {
    /// Starts the clock.
    #[must_use]
    pub fn start(delivery: &Delivery) -> Self {
        Self {
            timestamp: String::new(),
            level: "INFO",
            message: String::new(),
            request_id: delivery.request_id.clone(),
            trace_id: delivery.trace_id.clone(),
            outcome: "",
            reason: None,
            event_id: None,
            head_id: None,
            session_id: None,
            event_type: None,
            key_state: None,
            lag_ms: None,
            store_ms: None,
            total_ms: 0.0,
            metrics: None,
            key_ring_refreshed: false,
            received_at: delivery.received_at,
            started: Instant::now(),
        }
    }

    /// Notes the key that signed the body.
    pub fn verified(&mut self, verified: &Verified<'_>) {
        self.key_state = Some(verified.key_state().as_str());
        self.head_id = verified.key_head().cloned();
    }

    /// Notes the event, or the ids that could be read of a body that is not one.
    pub fn parsed(&mut self, event: &Result<Event, ParseError>) {
        match event {
            Ok(event) => {
                let identity = &event.identity;
                self.event_id = Some(event.event_id.clone());
                self.head_id = Some(identity.head_id.clone());
                self.session_id = Some(identity.session_id.clone());
                self.event_type = Some(event.event_type.clone());
                let lag = self.received_at.since(identity.occurred_at).whole_milliseconds();
                self.lag_ms = i64::try_from(lag).ok();
            }
            Err(error) => {
                if error.head_id.is_some() {
                    self.head_id.clone_from(&error.head_id);
                }
                self.session_id.clone_from(&error.session_id);
            }
        }
    }

    /// Notes how long the table took, if it was asked.
    pub fn ingested(&mut self, took: Duration, result: &Result<Result<Outcome, StoreError>, ReceiveError>) {
        if !matches!(result, Ok(Ok(Outcome::Expired { .. }))) {
            self.store_ms = Some(milliseconds(took));
        }
    }

    /// Completes the line. Its metrics go to `namespace`.
    pub fn finish(&mut self, result: &Result<Outcome, ReceiveError>, namespace: Option<&str>) {
        let (level, outcome, reason) = match result {
            Ok(outcome @ Outcome::Quarantined { reason, .. }) => {
                (Level::WARN, outcome.as_str(), Some(reason.to_string()))
            }
            Ok(outcome @ Outcome::Conflict { .. }) => {
                let reason = "differs from the stored event: this variant is in quarantine".to_owned();
                (Level::WARN, outcome.as_str(), Some(reason))
            }
            Ok(outcome) => (Level::INFO, outcome.as_str(), None),
            Err(error) if error.is_server_error() => (Level::ERROR, "unavailable", Some(error.to_string())),
            Err(error) if error.is_unauthorized() => (Level::WARN, "rejected", Some(error.to_string())),
            Err(error) => (Level::WARN, "bad_request", Some(error.to_string())),
        };
        let now = Timestamp::now();
        self.timestamp = now.to_string();
        self.level = level.as_str();
        self.outcome = outcome;
        self.message = format!("delivery {outcome}");
        self.reason = reason;
        self.total_ms = milliseconds(self.started.elapsed());
        self.metrics = namespace.map(|namespace| Metrics::new(namespace, SERVICE, now, self.metric_values(result)));
    }

    fn metric_values(&self, result: &Result<Outcome, ReceiveError>) -> Vec<Metric> {
        // A conflict is also a duplicate. A body that comes again is in quarantine once.
        let outcome: &[&'static str] = match result {
            Ok(Outcome::Stored { .. }) => &["Stored"],
            Ok(Outcome::Duplicate { .. }) => &["Duplicate"],
            Ok(Outcome::Conflict { .. }) => &["Duplicate", "Conflict"],
            Ok(Outcome::Expired { .. }) => &["Expired"],
            Ok(Outcome::Quarantined { is_new, .. }) => {
                if *is_new {
                    &["Quarantined"]
                } else {
                    &[]
                }
            }
            Err(error) if error.is_server_error() => &["Unavailable"],
            Err(error) if error.is_unauthorized() => &["Rejected"],
            Err(_) => &["BadRequest"],
        };
        let retiring = self.key_state == Some(KeyState::Retiring.as_str());
        let others = [(retiring, "RetiringKeyUsed"), (self.key_ring_refreshed, "KeyRefetch")];
        let others = others.into_iter().filter(|(counts, _)| *counts).map(|(_, name)| name);
        let counts = outcome.iter().copied().chain(others).map(Metric::count);
        let store = self.store_ms.and_then(Number::from_f64).map(|ms| Metric::milliseconds("StoreMilliseconds", ms));
        // A clock ahead of ours does not make a delivery early.
        let lag = self.lag_ms.map(|ms| Metric::milliseconds("DeliveryLagMilliseconds", ms.max(0).into()));
        counts.chain(store).chain(lag).collect()
    }

    /// Whether the line is written at `level`. One that carries metrics always is: they would be lost with it.
    #[must_use]
    pub fn is_wanted_at(&self, level: Level) -> bool {
        self.metrics.is_some() || self.level.parse::<Level>().is_ok_and(|own| own <= level)
    }
}

/// Whole microseconds: more digits are noise.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
