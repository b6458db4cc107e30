//! The log lines of a batch: one for the batch, with the metrics, and one for each record that failed itself.
//!
//! Invariants: no line holds a body.

use std::time::Duration;

use event_store::item::EventItem;
use lambda_support::{
    log::{self, EventFields, milliseconds},
    metrics::{Metric, Metrics},
};
use serde::Serialize;
use tracing::Level;
use unith_events::timestamp::Timestamp;

use crate::{
    bus::{BusError, Unconfirmed},
    error::PublishError,
};

pub const SERVICE: &str = "publish";

/// How many records of a batch came to each end.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub records: u64,
    /// Records that are not new events.
    pub ignored: u64,
    pub published: u64,
    /// Records that were done in an earlier delivery of the batch.
    pub done_before: u64,
    pub poison: u64,
    pub held: u64,
    /// How often an entry was sent again.
    pub retried: u64,
}

/// The line of a batch.
#[derive(Debug, Serialize)]
pub struct BatchLine<'r> {
    timestamp: String,
    level: &'static str,
    message: &'static str,
    request_id: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    result: BatchResult<'r>,
    total_ms: f64,
    #[serde(flatten)]
    metrics: Option<Metrics>,
}

#[derive(Debug, Serialize)]
struct BatchResult<'r> {
    #[serde(flatten)]
    counts: Counts,
    /// The lowest sequence number that was held back.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_from: Option<&'r str>,
    /// What may be lost, as the filter of a replay.
    #[serde(skip_serializing_if = "Option::is_none")]
    replay: Option<&'r Unconfirmed>,
}

impl<'r> BatchLine<'r> {
    /// The line of a batch that took `total`. Its metrics go to `namespace`.
    pub fn new(
        request_id: &'r str,
        counts: Counts,
        held_from: Option<&'r str>,
        bus_error: Option<&'r BusError>,
        total: Duration,
        namespace: Option<&str>,
    ) -> Self {
        let now = Timestamp::now();
        let (level, message) = match (bus_error, counts.held) {
            (Some(BusError::Missing { .. }), _) => (Level::ERROR, "batch held back: the event bus does not exist"),
            (Some(BusError::Replaced { .. }), _) => (Level::ERROR, "batch held back: the event bus was created again"),
            (Some(_), _) => (Level::ERROR, "batch held back: the event bus cannot be checked"),
            (None, 0) => (Level::INFO, "batch published"),
            (None, _) => (Level::WARN, "batch published in part"),
        };
        let is_missing = matches!(bus_error, Some(BusError::Missing { .. } | BusError::Replaced { .. }));
        let values = [
            ("Published", counts.published),
            ("PublishPoison", counts.poison),
            ("PublishHeld", counts.held),
            ("PublishRetried", counts.retried),
            ("BusMissing", is_missing.into()),
        ];
        let values = values.into_iter().filter(|(_, count)| *count > 0);
        let values = values.map(|(name, count)| Metric::counts(name, count)).collect();
        Self {
            timestamp: now.to_string(),
            level: level.as_str(),
            message,
            request_id,
            reason: bus_error.map(ToString::to_string),
            result: BatchResult { counts, held_from, replay: bus_error.and_then(BusError::unconfirmed) },
            total_ms: milliseconds(total),
            metrics: namespace.map(|namespace| Metrics::new(namespace, SERVICE, now, values)),
        }
    }

    /// Whether the line is written at `level`.
    pub fn is_wanted_at(&self, level: Level) -> bool {
        log::is_wanted(self.level, self.metrics.is_some(), level)
    }
}

/// The fields of a line that say which event it is about.
pub fn event_fields(item: &EventItem) -> EventFields {
    EventFields {
        event_id: Some(item.event_id.clone()),
        head_id: Some(item.head_id.clone()),
        session_id: Some(item.session_id.clone()),
        event_type: Some(item.event_type.clone()),
    }
}

/// The line of a record that failed itself.
#[derive(Debug, Serialize)]
pub struct RecordLine<'r> {
    timestamp: String,
    level: &'static str,
    message: &'static str,
    request_id: &'r str,
    outcome: &'static str,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence_number: Option<&'r str>,
    #[serde(flatten)]
    event: &'r EventFields,
}

impl<'r> RecordLine<'r> {
    /// The line of a record that is poison.
    pub fn poison(request_id: &'r str, place: Option<&'r str>, event: &'r EventFields, why: &PublishError) -> Self {
        let message = "record cannot be published: the on-failure queue has its key";
        Self::new((Level::ERROR, message, "poison"), request_id, place, event, why)
    }

    /// The line of a record that is held back.
    pub fn held(request_id: &'r str, place: Option<&'r str>, event: &'r EventFields, why: &PublishError) -> Self {
        Self::new((Level::WARN, "record held back", "held"), request_id, place, event, why)
    }

    fn new(
        (level, message, outcome): (Level, &'static str, &'static str),
        request_id: &'r str,
        sequence_number: Option<&'r str>,
        event: &'r EventFields,
        why: &PublishError,
    ) -> Self {
        Self {
            timestamp: Timestamp::now().to_string(),
            level: level.as_str(),
            message,
            request_id,
            outcome,
            reason: why.to_string(),
            sequence_number,
            event,
        }
    }

    /// Whether the line is written at `level`.
    pub fn is_wanted_at(&self, level: Level) -> bool {
        log::is_wanted(self.level, false, level)
    }
}
