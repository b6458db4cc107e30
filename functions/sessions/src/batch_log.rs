//! The lines of a batch: one of its own, the CloudWatch metrics included, and one per session that needs attention.
//!
//! Invariants: they hold no body.

use std::time::Duration;

use event_store::keys::SessionKey;
use lambda_support::{
    log::{self, milliseconds},
    metrics::{Metric, Metrics},
};
use serde::Serialize;
use tracing::Level;
use unith_events::{
    ids::{HeadId, SessionId},
    timestamp::Timestamp,
};

use crate::updater::Outcome;

const SERVICE: &str = "sessions";

/// How many records and sessions of a batch had which fate.
#[derive(Debug, Default, Serialize)]
pub struct Counts {
    pub records: usize,
    /// Records that ask for no work.
    pub skipped: usize,
    pub updated: usize,
    /// Sessions whose row was as new as their events, or newer.
    pub unchanged: usize,
    /// Sessions of which no event is left.
    pub gone: usize,
    /// Sessions that Lambda sends again, and records whose key the on-failure queue did not take.
    pub failed: usize,
    /// Those of them that were not tried, because a table failed at another session or an earlier record failed.
    pub untried: usize,
    /// Records and sessions whose key was sent to the on-failure queue.
    pub poison: usize,
}

impl Counts {
    /// Counts a session that was folded.
    pub fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Updated | Outcome::Deleted => self.updated += 1,
            Outcome::Unchanged => self.unchanged += 1,
            Outcome::Gone => self.gone += 1,
        }
    }
}

/// The line of a batch.
#[derive(Debug, Serialize)]
pub struct BatchLog<'r> {
    timestamp: String,
    level: &'static str,
    message: &'static str,
    request_id: &'r str,
    result: &'r Counts,
    total_ms: f64,
    #[serde(flatten)]
    metrics: Option<Metrics>,
}

impl<'r> BatchLog<'r> {
    /// The line of a batch that took `total`. Its metrics go to `namespace`.
    pub fn new(request_id: &'r str, counts: &'r Counts, total: Duration, namespace: Option<&str>) -> Self {
        let now = Timestamp::now();
        let (level, message) =
            if counts.failed == 0 { (Level::INFO, "batch done") } else { (Level::WARN, "batch done in part") };
        let values = [
            ("SessionsUpdated", counts.updated),
            ("SessionsUnchanged", counts.unchanged),
            ("SessionsFailed", counts.failed),
            ("SessionsPoison", counts.poison),
        ];
        let values = values.into_iter().filter(|(_, count)| *count > 0);
        let values: Vec<_> = values.map(|(name, count)| Metric::counts(name, count as u64)).collect();
        let namespace = namespace.filter(|_| !values.is_empty());
        Self {
            timestamp: now.to_string(),
            level: level.as_str(),
            message,
            request_id,
            result: counts,
            total_ms: milliseconds(total),
            metrics: namespace.map(|namespace| Metrics::new(namespace, SERVICE, now, values)),
        }
    }

    /// Whether the line is written at `level`.
    pub fn is_wanted_at(&self, level: Level) -> bool {
        log::is_wanted(self.level, self.metrics.is_some(), level)
    }
}

/// The line of a session or record that needs attention.
#[derive(Debug, Serialize)]
pub struct SessionLog<'r> {
    timestamp: String,
    level: &'static str,
    message: &'static str,
    request_id: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    head_id: Option<&'r HeadId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'r SessionId>,
    outcome: &'static str,
    reason: String,
}

impl<'r> SessionLog<'r> {
    /// A session that Lambda sends again, or a record whose key the on-failure queue did not take.
    pub fn failed(request_id: &'r str, key: Option<&'r SessionKey>, reason: String) -> Self {
        Self::new(Level::WARN, "session failed", request_id, key, "failed", reason)
    }

    /// A session or record whose key was sent to the on-failure queue.
    pub fn poison(request_id: &'r str, key: Option<&'r SessionKey>, reason: String) -> Self {
        Self::new(Level::ERROR, "session given up", request_id, key, "poison", reason)
    }

    /// A session of which some items are not events.
    pub fn incomplete(request_id: &'r str, key: &'r SessionKey, invalid: usize) -> Self {
        let reason = format!("{invalid} items of the session are not events, and are left out of its summary");
        Self::new(Level::WARN, "session folded in part", request_id, Some(key), "incomplete", reason)
    }

    fn new(
        level: Level,
        message: &'static str,
        request_id: &'r str,
        key: Option<&'r SessionKey>,
        outcome: &'static str,
        reason: String,
    ) -> Self {
        let (head_id, session_id) = (key.map(|key| &key.head_id), key.map(|key| &key.session_id));
        let timestamp = Timestamp::now().to_string();
        Self { timestamp, level: level.as_str(), message, request_id, head_id, session_id, outcome, reason }
    }

    /// Whether the line is written at `level`.
    pub fn is_wanted_at(&self, level: Level) -> bool {
        log::is_wanted(self.level, false, level)
    }
}
