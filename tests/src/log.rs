//! The fields and metrics of the functions' log lines, and the lines of `tracing`.
//!
//! Every line of every test is checked against these lists, and so are the dashboard and the runbooks' queries.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

/// What was traced in this process so far.
static TRACED: Mutex<String> = Mutex::new(String::new());

/// The fields of the functions' lines.
pub const FIELDS: [&str; 24] = [
    "timestamp",
    "level",
    "message",
    "request_id",
    "trace_id",
    "outcome",
    "reason",
    "event_id",
    "head_id",
    "session_id",
    "event_type",
    "key_state",
    "lag_ms",
    "store_ms",
    "total_ms",
    "action",
    "result",
    "request_type",
    "stack_id",
    "message_id",
    "receive_count",
    "sequence_number",
    "source",
    "Service",
];

/// The metrics in the lines, each with the service that reports it.
pub const METRICS: [(&str, &str); 33] = [
    ("receive", "Stored"),
    ("receive", "Duplicate"),
    ("receive", "Rejected"),
    ("receive", "BadRequest"),
    ("receive", "Quarantined"),
    ("receive", "Expired"),
    ("receive", "Conflict"),
    ("receive", "Unavailable"),
    ("receive", "RetiringKeyUsed"),
    ("receive", "KeyRefetch"),
    ("receive", "StoreMilliseconds"),
    ("receive", "DeliveryLagMilliseconds"),
    ("receive", "Spilled"),
    ("receive", "SpillFailed"),
    ("redrive", "Redriven"),
    ("redrive", "RedriveDuplicate"),
    ("redrive", "RedriveExpired"),
    ("redrive", "RedriveConflict"),
    ("redrive", "RedriveQuarantined"),
    ("redrive", "RedriveReturned"),
    ("redrive", "DeadLettered"),
    ("publish", "Published"),
    ("publish", "PublishPoison"),
    ("publish", "PublishHeld"),
    ("publish", "PublishRetried"),
    ("publish", "BusMissing"),
    ("publish", "Replayed"),
    ("sessions", "SessionsUpdated"),
    ("sessions", "SessionsUnchanged"),
    ("sessions", "SessionsFailed"),
    ("sessions", "SessionsPoison"),
    ("provision", "Drift"),
    ("provision", "StepFailed"),
];

/// The members of a line that differ between runs, for [`redacted`](crate::snapshot::redacted).
pub const VARYING: [&str; 9] = [
    "/timestamp",
    "/request_id",
    "/message_id",
    "/lag_ms",
    "/store_ms",
    "/total_ms",
    "/StoreMilliseconds",
    "/DeliveryLagMilliseconds",
    "/_aws/Timestamp",
];

/// Keeps the lines that the functions' subscriber would write, from now on.
pub fn capture() {
    lambda_support::log::init_with(tracing::Level::INFO, |line| {
        traced().push_str(&String::from_utf8_lossy(line));
    });
}

/// The end of the lines so far.
pub fn position() -> usize {
    traced().len()
}

/// The lines from `position` on, those of other tests in this process included.
pub fn traced_since(position: usize) -> String {
    traced().get(position..).unwrap_or_default().to_owned()
}

fn traced() -> MutexGuard<'static, String> {
    TRACED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Panics if a line has a field, or declares a metric, that is not listed here.
pub fn assert_known(line: &Value) {
    let service = line["Service"].as_str().unwrap_or_default();
    let is_metric = |name: &str| METRICS.contains(&(service, name));
    for name in line.as_object().unwrap().keys() {
        let known = FIELDS.contains(&name.as_str()) || is_metric(name) || name == "_aws";
        assert!(
            known,
            "unknown field `{name}`: add it to tests/src/log.rs, the dashboard and the runbooks, or remove it: {line}"
        );
    }
    for directive in line["_aws"]["CloudWatchMetrics"].as_array().into_iter().flatten() {
        assert_eq!(directive["Dimensions"], serde_json::json!([["Service"]]), "{line}");
        for metric in directive["Metrics"].as_array().unwrap() {
            assert!(is_metric(metric["Name"].as_str().unwrap()), "{line}");
        }
    }
}
