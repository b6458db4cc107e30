//! The one line each request leaves behind: the log and, with its `_aws` block, the CloudWatch metrics.
//!
//! What always holds: no body, key, token or signature is in it; ids are in it only once the body that named them was
//! verified.

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::Number;
use std::time::Instant;
use tracing::Level;
use unith_events::{
    event::{Event, UnreadableBody},
    key_ring::KeyState,
    timestamp::Timestamp,
};

use crate::{
    answer::{Accepted, Kept, Refusal},
    delivery::Delivery,
};

const SERVICE: &str = "receive";
const UNAVAILABLE: &str = "unavailable";

/// What is known of a request, filled in as it becomes known.
#[derive(Debug, Serialize)]
pub struct Record {
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
    event_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    head_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
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
    #[serde(skip)]
    key_refetched: bool,
    #[serde(skip)]
    received_at: Timestamp,
    #[serde(skip)]
    started: Instant,
    #[serde(skip)]
    table_asked_at: Option<Instant>,
}

impl Record {
    /// Begins the record of a delivery.
    #[must_use]
    pub fn begin(delivery: &Delivery) -> Self {
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
            key_refetched: false,
            received_at: delivery.received_at,
            started: Instant::now(),
            table_asked_at: None,
        }
    }

    /// The key that signed.
    pub fn verified_by(&mut self, state: KeyState) {
        self.key_state = Some(state.as_str());
    }

    /// The ring was fetched once more for this request.
    pub fn key_ring_refetched(&mut self) {
        self.key_refetched = true;
    }

    /// The event that was read.
    pub fn about(&mut self, event: &Event) {
        self.event_id = Some(event.event_id.clone());
        self.head_id = Some(event.identity.head_id.clone());
        self.session_id = Some(event.identity.session_id.clone());
        self.event_type = Some(event.event_type.clone());
        let lag = self.received_at.since(event.identity.occurred_at).whole_milliseconds();
        self.lag_ms = i64::try_from(lag).ok();
    }

    /// What could be read of a verified body that is not an event; `key_head` is the head whose key signed it.
    pub fn about_unreadable(&mut self, body: &UnreadableBody, key_head: Option<&str>) {
        self.head_id = body.head_id.as_deref().or(key_head).map(str::to_owned);
        self.session_id.clone_from(&body.session_id);
    }

    /// The table is being asked.
    pub fn table_asked(&mut self) {
        self.table_asked_at = Some(Instant::now());
    }

    /// The table has answered, or failed to.
    pub fn table_answered(&mut self) {
        if let Some(asked_at) = self.table_asked_at.take() {
            self.store_ms = Some(self.store_ms.unwrap_or_default() + milliseconds(asked_at));
        }
    }

    /// What a request that ran out of time was waiting for.
    #[must_use]
    pub fn pending_step(&self) -> &'static str {
        if self.table_asked_at.is_some() { "writing to the table" } else { "reading the key ring" }
    }

    /// Completes the record with what became of the delivery; `namespace` is where its metrics go.
    pub fn finish(&mut self, result: &Result<Accepted, Refusal>, namespace: Option<&str>) {
        let (level, outcome, reason) = match result {
            Ok(accepted) => match accepted {
                Accepted::Quarantined { reason, .. } => (Level::WARN, accepted.word(), Some(reason.to_string())),
                Accepted::Duplicate { conflict: Some(_), .. } => {
                    let reason = "the stored event says something else: this variant is quarantined".to_owned();
                    (Level::WARN, accepted.word(), Some(reason))
                }
                _ => (Level::INFO, accepted.word(), None),
            },
            Err(refusal) if refusal.is_ours() => (Level::ERROR, UNAVAILABLE, Some(refusal.to_string())),
            Err(refusal) if refusal.is_unauthorized() => (Level::WARN, "rejected", Some(refusal.to_string())),
            Err(refusal) => (Level::WARN, "bad_request", Some(refusal.to_string())),
        };
        // A request that ran out of time was cut off while it waited.
        self.table_answered();
        let now = Timestamp::now();
        self.timestamp = now.to_string();
        self.level = level.as_str();
        self.outcome = outcome;
        self.message = format!("delivery {outcome}");
        self.reason = reason;
        self.total_ms = milliseconds(self.started);
        self.metrics = namespace.map(|namespace| Metrics {
            namespace: namespace.to_owned(),
            at_ms: now.epoch_milliseconds(),
            values: self.metric_values(result),
        });
    }

    fn metric_values(&self, result: &Result<Accepted, Refusal>) -> Vec<Metric> {
        let outcome = match result {
            Ok(Accepted::Stored { .. }) => Some("Stored"),
            Ok(Accepted::Duplicate { .. }) => Some("Duplicate"),
            Ok(Accepted::Expired { .. }) => Some("Expired"),
            Ok(Accepted::Quarantined { .. }) => None,
            Err(refusal) if refusal.is_ours() => Some("Unavailable"),
            Err(refusal) if refusal.is_unauthorized() => Some("Rejected"),
            Err(_) => Some("BadRequest"),
        };
        let conflict = matches!(result, Ok(Accepted::Duplicate { conflict: Some(_), .. }));
        // A body that comes again is in quarantine once; a variant is a conflict, which has an alarm of its own.
        let quarantined = matches!(result, Ok(Accepted::Quarantined { kept: Kept::New, .. }));
        let counted = [
            outcome,
            conflict.then_some("Conflict"),
            quarantined.then_some("Quarantined"),
            (self.key_state == Some(KeyState::Retiring.as_str())).then_some("RetiringKeyUsed"),
            self.key_refetched.then_some("KeyRefetch"),
        ];
        let counts = counted.into_iter().flatten().map(Metric::count);
        let store = self.store_ms.and_then(Number::from_f64).map(|ms| Metric::milliseconds("StoreMilliseconds", ms));
        // A clock ahead of ours is not an early delivery.
        let lag = self.lag_ms.map(|ms| Metric::milliseconds("DeliveryLagMilliseconds", ms.max(0).into()));
        counts.chain(store).chain(lag).collect()
    }

    /// Why it could not be decided, if that is what became of it.
    #[must_use]
    pub fn unavailable(&self) -> Option<&str> {
        self.reason.as_deref().filter(|_| self.outcome == UNAVAILABLE)
    }

    /// Whether the line is written at `level`. One that carries metrics always is: they would be lost with it.
    #[must_use]
    pub fn is_wanted_at(&self, level: Level) -> bool {
        self.metrics.is_some() || self.level.parse::<Level>().is_ok_and(|own| own <= level)
    }
}

fn milliseconds(since: Instant) -> f64 {
    // Whole microseconds: more digits are noise.
    (since.elapsed().as_secs_f64() * 1e6).round() / 1e3
}

#[derive(Debug)]
struct Metric {
    name: &'static str,
    unit: &'static str,
    value: Number,
}

impl Metric {
    fn count(name: &'static str) -> Self {
        Self { name, unit: "Count", value: 1.into() }
    }

    fn milliseconds(name: &'static str, value: Number) -> Self {
        Self { name, unit: "Milliseconds", value }
    }
}

/// CloudWatch's embedded metric format: the block that declares the metrics, and their values beside it.
#[derive(Debug)]
struct Metrics {
    namespace: String,
    at_ms: i64,
    values: Vec<Metric>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Declaration<'a> {
    timestamp: i64,
    cloud_watch_metrics: [Directive<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Directive<'a> {
    namespace: &'a str,
    dimensions: [[&'static str; 1]; 1],
    metrics: Vec<MetricName>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MetricName {
    name: &'static str,
    unit: &'static str,
}

impl Serialize for Metrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let metrics = self.values.iter().map(|metric| MetricName { name: metric.name, unit: metric.unit }).collect();
        let directive = Directive { namespace: &self.namespace, dimensions: [["Service"]], metrics };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("Service", SERVICE)?;
        for metric in &self.values {
            map.serialize_entry(metric.name, &metric.value)?;
        }
        map.serialize_entry("_aws", &Declaration { timestamp: self.at_ms, cloud_watch_metrics: [directive] })?;
        map.end()
    }
}
