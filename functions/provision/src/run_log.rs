//! The log line of a run.

use serde::Serialize;
use serde_json::{Value, json};
use unith_events::timestamp::Timestamp;

const SERVICE: &str = "provision";

/// One line per run: the members of `event`, and the metrics if the run leaves any.
#[derive(Serialize)]
pub(crate) struct RunLine<'l, E> {
    timestamp: String,
    level: &'static str,
    message: &'static str,
    #[serde(flatten)]
    event: &'l E,
    #[serde(flatten)]
    metrics: Option<Metrics>,
}

/// Metrics in CloudWatch's embedded metric format.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Metrics {
    service: &'static str,
    /// The number of steps that a run took, without those for new heads.
    drift: usize,
    /// The number of heads that failed.
    step_failed: usize,
    #[serde(rename = "_aws")]
    declaration: Value,
}

impl<'l, E> RunLine<'l, E> {
    pub(crate) fn new(ok: bool, event: &'l E, metrics: Option<Metrics>) -> Self {
        let (level, message) = if ok { ("INFO", "run done") } else { ("ERROR", "run failed") };
        Self { timestamp: Timestamp::now().to_string(), level, message, event, metrics }
    }
}

impl Metrics {
    pub(crate) fn new(namespace: &str, drift: usize, step_failed: usize) -> Self {
        let declaration = json!({
            "Timestamp": Timestamp::now().epoch_milliseconds(),
            "CloudWatchMetrics": [{
                "Namespace": namespace, "Dimensions": [["Service"]],
                "Metrics": [{"Name": "Drift", "Unit": "Count"}, {"Name": "StepFailed", "Unit": "Count"}],
            }],
        });
        Self { service: SERVICE, drift, step_failed, declaration }
    }
}
