//! Metrics in CloudWatch's embedded metric format (EMF): a log line that carries them needs no API call.
//!
//! Format: <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::Number;
use unith_events::timestamp::Timestamp;

use crate::env::Env;

const DEFAULT_NAMESPACE: &str = "UnithWebhooks";

/// Reads `METRICS_NAMESPACE`; `None` if it is set and empty, for no metrics.
pub fn namespace(env: &Env) -> Option<String> {
    let namespace = env.raw("METRICS_NAMESPACE").unwrap_or(DEFAULT_NAMESPACE).trim();
    (!namespace.is_empty()).then(|| namespace.to_owned())
}

/// A metric and its value.
#[derive(Debug)]
pub struct Metric {
    name: &'static str,
    unit: &'static str,
    value: Number,
}

impl Metric {
    /// One occurrence.
    pub fn count(name: &'static str) -> Self {
        Self::counts(name, 1)
    }

    /// This many occurrences.
    pub fn counts(name: &'static str, count: u64) -> Self {
        Self { name, unit: "Count", value: count.into() }
    }

    /// A time in milliseconds.
    pub fn milliseconds(name: &'static str, value: Number) -> Self {
        Self { name, unit: "Milliseconds", value }
    }
}

/// The metrics of one log line, to be flattened into it. Their one dimension is `Service`.
#[derive(Debug)]
pub struct Metrics {
    namespace: String,
    service: &'static str,
    at: Timestamp,
    values: Vec<Metric>,
}

impl Metrics {
    /// Metrics of `service` in `namespace`, measured `at`.
    pub fn new(namespace: &str, service: &'static str, at: Timestamp, values: Vec<Metric>) -> Self {
        Self { namespace: namespace.to_owned(), service, at, values }
    }
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
        map.serialize_entry("Service", self.service)?;
        for metric in &self.values {
            map.serialize_entry(metric.name, &metric.value)?;
        }
        let timestamp = self.at.epoch_milliseconds();
        map.serialize_entry("_aws", &Declaration { timestamp, cloud_watch_metrics: [directive] })?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_empty_namespace_switches_metrics_off() {
        let read = |pairs: &[(&str, &str)]| namespace(&pairs.iter().copied().collect());
        assert_eq!(read(&[]).as_deref(), Some("UnithWebhooks"));
        assert_eq!(read(&[("METRICS_NAMESPACE", " Mine ")]).as_deref(), Some("Mine"));
        assert_eq!(read(&[("METRICS_NAMESPACE", "")]), None);
    }

    #[test]
    fn a_line_declares_its_metrics_and_has_their_values_beside() {
        let at = Timestamp::parse("2026-01-15T09:57:33Z").unwrap();
        let values = vec![Metric::count("Stored"), Metric::milliseconds("StoreMilliseconds", 7.into())];
        let line = serde_json::to_value(Metrics::new("UnithWebhooks", "receive", at, values)).unwrap();
        let expected = json!({
            "Service": "receive", "Stored": 1, "StoreMilliseconds": 7,
            "_aws": {"Timestamp": 1_768_471_053_000_i64, "CloudWatchMetrics": [{
                "Namespace": "UnithWebhooks", "Dimensions": [["Service"]],
                "Metrics": [{"Name": "Stored", "Unit": "Count"}, {"Name": "StoreMilliseconds", "Unit": "Milliseconds"}],
            }]},
        });
        assert_eq!(line, expected);
    }
}
