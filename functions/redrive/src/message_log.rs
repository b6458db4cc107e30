//! The one line that each message leaves: the log and, with its `_aws` block, the CloudWatch metrics.
//!
//! Invariants: it holds no body. It holds ids only of bodies that were verified.

use std::time::Duration;

use event_store::ingest::Outcome;
use lambda_support::{
    log::{self, EventFields, milliseconds},
    metrics::{Metric, Metrics},
};
use serde::Serialize;
use tracing::Level;
use unith_events::{
    event::{Event, ParseError},
    spill::Source,
    timestamp::Timestamp,
};

use crate::{fate::Fate, sqs_event::SqsMessage};

const SERVICE: &str = "redrive";

/// What the handler learned of a message, up to the step at which it ended.
#[derive(Debug, Default)]
pub struct Facts {
    /// What sent it.
    pub source: Option<Source>,
    /// X-Ray's trace id of the delivery.
    pub trace_id: Option<String>,
    /// The event, or the ids that could be read of a body that is not one.
    pub event: Option<Result<Event, ParseError>>,
}

/// The line of a message.
#[derive(Debug, Serialize)]
pub struct MessageLog {
    timestamp: String,
    level: &'static str,
    message: String,
    request_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    message_id: String,
    receive_count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(flatten)]
    event: EventFields,
    total_ms: f64,
    #[serde(flatten)]
    metrics: Option<Metrics>,
}

impl MessageLog {
    /// The line of a message that took `total`. Its metrics go to `namespace`.
    pub fn new(
        request_id: &str,
        message: &SqsMessage,
        facts: Facts,
        fate: &Fate,
        total: Duration,
        namespace: Option<&str>,
    ) -> Self {
        let now = Timestamp::now();
        let (level, reason) = verdict(fate);
        let event = facts.event.map(EventFields::from).unwrap_or_default();
        let counts = counted(fate, facts.source, event.is_self_test()).iter().copied().map(Metric::count).collect();
        Self {
            timestamp: now.to_string(),
            level: level.as_str(),
            message: format!("message {}", fate.as_str()),
            request_id: request_id.to_owned(),
            trace_id: facts.trace_id,
            message_id: message.message_id.clone(),
            receive_count: message.receive_count(),
            source: facts.source,
            outcome: fate.as_str(),
            reason,
            event,
            total_ms: milliseconds(total),
            metrics: namespace.map(|namespace| Metrics::new(namespace, SERVICE, now, counts)),
        }
    }

    /// Whether the line is written at `level`.
    pub fn is_wanted_at(&self, level: Level) -> bool {
        log::is_wanted(self.level, self.metrics.is_some(), level)
    }
}

/// Level and reason.
fn verdict(fate: &Fate) -> (Level, Option<String>) {
    match fate {
        Fate::Ingested(outcome) => {
            let reason = outcome.reason();
            (if reason.is_some() { Level::WARN } else { Level::INFO }, reason)
        }
        Fate::Returned { reason } => (Level::WARN, Some(reason.clone())),
        Fate::DeadLetter { reason } => (Level::ERROR, Some(reason.clone())),
    }
}

/// The metrics that count a message. A conflict is also a duplicate. A body that comes again is in quarantine once. A stored
/// self-test is not counted, since it says nothing about UNITH.
fn counted(fate: &Fate, source: Option<Source>, is_self_test: bool) -> &'static [&'static str] {
    match fate {
        Fate::Ingested(outcome) => match outcome {
            Outcome::Stored { .. } if is_self_test => &[],
            Outcome::Stored { .. } => &["Redriven"],
            Outcome::Duplicate { .. } => &["RedriveDuplicate"],
            Outcome::Conflict { .. } => &["RedriveDuplicate", "RedriveConflict"],
            Outcome::Expired { .. } => &["RedriveExpired"],
            Outcome::Quarantined { is_new: true, .. } if source != Some(Source::Quarantine) => &["RedriveQuarantined"],
            Outcome::Quarantined { .. } => &[],
        },
        Fate::Returned { .. } => &["RedriveReturned"],
        Fate::DeadLetter { .. } => &["DeadLettered"],
    }
}
