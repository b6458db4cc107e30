//! The function's configuration, from environment variables.

use std::time::Duration;

use lambda_support::{
    env::{Env, EnvError},
    log, metrics, queue_url,
};
use tracing::Level;

const BUS: &str = "EVENT_BUS_ARN";
const ORDERED_QUEUE: &str = "ORDERED_QUEUE_URL";
const FAILURE_QUEUE: &str = "FAILURE_QUEUE_URL";
/// The end of the name of a FIFO queue.
const FIFO: &str = ".fifo";

/// The function's configuration. At least one of bus and ordered queue is set.
#[derive(Debug, Clone)]
pub struct Config {
    /// `TABLE_NAME`
    pub table_name: String,
    /// `EVENT_BUS_ARN`
    pub event_bus_arn: Option<String>,
    /// `ORDERED_QUEUE_URL`
    pub ordered_queue_url: Option<String>,
    /// `FAILURE_QUEUE_URL`
    pub failure_queue_url: String,
    /// `LOG_LEVEL`
    pub log_level: Level,
    /// `METRICS_NAMESPACE`; `None` for no metrics.
    pub metrics_namespace: Option<String>,
    pub timing: Timing,
}

/// Intervals and limits. No variable sets them; tests and the sandbox shorten them.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How old the last look at the bus may be.
    pub check_bus_every: Duration,
    /// The longest attempt of a request to an outlet.
    pub attempt_timeout: Duration,
    /// The pause before an entry is sent the second time. It doubles with each try.
    pub first_pause: Duration,
    /// How often an entry is sent within one invocation.
    pub entry_tries: u32,
    /// The time per event of a replay.
    pub replay_event_every: Duration,
    /// The longest call of a replay.
    pub longest_replay_call: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            check_bus_every: Duration::from_mins(1),
            attempt_timeout: Duration::from_secs(2),
            first_pause: Duration::from_millis(200),
            entry_tries: 5,
            replay_event_every: Duration::from_millis(20),
            longest_replay_call: Duration::from_mins(10),
        }
    }
}

impl Config {
    /// Reads the variables.
    ///
    /// # Errors
    /// The first one that is missing or invalid.
    pub fn from_env(env: &Env) -> Result<Self, EnvError> {
        let config = Self {
            table_name: env.required("TABLE_NAME", "the name of the DynamoDB table")?.to_owned(),
            event_bus_arn: event_bus_arn(env)?,
            ordered_queue_url: queue_url::optional(env, ORDERED_QUEUE)?,
            failure_queue_url: queue_url::required(
                env,
                FAILURE_QUEUE,
                "the queue of records that cannot be published",
            )?,
            log_level: log::level(env)?,
            metrics_namespace: metrics::namespace(env),
            timing: Timing::default(),
        };
        if config.event_bus_arn.is_none() && config.ordered_queue_url.is_none() {
            let problem =
                "EVENT_BUS_ARN and ORDERED_QUEUE_URL are not set: set one of them or both, or nothing is published";
            return Err(EnvError::Contradiction(problem));
        }
        if let Some(url) = config.ordered_queue_url.as_deref().filter(|url| !url.ends_with(FIFO)) {
            let expected = "the URL of a FIFO queue, which ends in .fifo";
            return Err(EnvError::Invalid { name: ORDERED_QUEUE, value: url.to_owned(), expected });
        }
        if config.failure_queue_url.ends_with(FIFO) {
            let expected = "a standard queue: Lambda does not send to FIFO queues";
            return Err(EnvError::Invalid { name: FAILURE_QUEUE, value: config.failure_queue_url, expected });
        }
        Ok(config)
    }
}

/// The ARN of an event bus in the function's own region.
fn event_bus_arn(env: &Env) -> Result<Option<String>, EnvError> {
    let Some(arn) = env.optional(BUS) else { return Ok(None) };
    let invalid = |expected| Err(EnvError::Invalid { name: BUS, value: arn.to_owned(), expected });
    let parts: Vec<_> = arn.splitn(6, ':').collect();
    let &["arn", partition, service, region, account, resource] = parts.as_slice() else {
        return invalid(EXPECTED_BUS);
    };
    if service == "eventsv2" {
        let problem = format!(
            "`{arn}` is an ordered bus of EventBridge's new API, which PutEvents does not reach; name an event bus, \
             arn:…:events:…:event-bus/…, and use ORDERED_QUEUE_URL for a consumer that needs order"
        );
        return Err(EnvError::Unusable { name: BUS, problem });
    }
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "/.-_".contains(c));
    let is_bus = resource.strip_prefix("event-bus/").is_some_and(is_name);
    if !partition.starts_with("aws") || service != "events" || !is_account || !is_bus {
        return invalid(EXPECTED_BUS);
    }
    if Some(region) != env.optional("AWS_REGION").or_else(|| env.optional("AWS_DEFAULT_REGION")) {
        return invalid("an event bus in the function's own region");
    }
    Ok(Some(arn.to_owned()))
}

const EXPECTED_BUS: &str = "the ARN of an event bus, arn:aws:events:<region>:<account>:event-bus/<name>";

#[cfg(test)]
mod tests {
    use super::*;

    const BUS_ARN: &str = "arn:aws:events:eu-west-1:123456789012:event-bus/unith";
    const REQUIRED: [(&str, &str); 4] = [
        ("AWS_REGION", "eu-west-1"),
        ("TABLE_NAME", "events"),
        ("EVENT_BUS_ARN", BUS_ARN),
        ("FAILURE_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/failures"),
    ];

    fn read(changes: &[(&str, &str)]) -> Result<Config, String> {
        Config::from_env(&REQUIRED.iter().chain(changes).copied().collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn one_outlet_is_enough() {
        let config = read(&[]).unwrap();
        assert_eq!((config.event_bus_arn.as_deref(), config.ordered_queue_url), (Some(BUS_ARN), None));
        assert_eq!((config.log_level, config.metrics_namespace.as_deref()), (Level::INFO, Some("UnithWebhooks")));
        let queue = "https://sqs.eu-west-1.amazonaws.com/123456789012/ordered.fifo";
        let config = read(&[("EVENT_BUS_ARN", ""), ("ORDERED_QUEUE_URL", queue)]).unwrap();
        assert_eq!((config.event_bus_arn, config.ordered_queue_url.as_deref()), (None, Some(queue)));
        for arn in [
            "arn:aws:events:eu-west-1:123456789012:event-bus/default",
            "arn:aws-cn:events:eu-west-1:123456789012:event-bus/a/b.c-d_e",
        ] {
            assert_eq!(read(&[("EVENT_BUS_ARN", arn)]).unwrap().event_bus_arn.as_deref(), Some(arn));
        }
    }

    #[test]
    fn every_error_names_its_variable() {
        let bus = |value: &str| format!("EVENT_BUS_ARN is `{value}`: expected {EXPECTED_BUS}");
        let rule = "arn:aws:events:eu-west-1:123456789012:rule/unith";
        let archive = "arn:aws:events:eu-west-1:123456789012:event-bus/";
        let ordered = "arn:aws:eventsv2:eu-west-1:123456789012:event-bus/unith";
        let elsewhere = "arn:aws:events:us-east-1:123456789012:event-bus/unith";
        let standard = "https://sqs.eu-west-1.amazonaws.com/123456789012/ordered";
        let fifo = "https://sqs.eu-west-1.amazonaws.com/123456789012/failures.fifo";
        for (change, expected) in [
            (("TABLE_NAME", ""), "TABLE_NAME is not set: it is the name of the DynamoDB table".to_owned()),
            (
                ("EVENT_BUS_ARN", ""),
                "EVENT_BUS_ARN and ORDERED_QUEUE_URL are not set: set one of them or both, or nothing is published"
                    .to_owned(),
            ),
            (("EVENT_BUS_ARN", "unith"), bus("unith")),
            (("EVENT_BUS_ARN", rule), bus(rule)),
            (("EVENT_BUS_ARN", archive), bus(archive)),
            (
                ("EVENT_BUS_ARN", ordered),
                format!(
                    "EVENT_BUS_ARN cannot be used: `{ordered}` is an ordered bus of EventBridge's new API, which PutEvents does \
                     not reach; name an event bus, arn:…:events:…:event-bus/…, and use ORDERED_QUEUE_URL for a consumer that \
                     needs order"
                ),
            ),
            (
                ("EVENT_BUS_ARN", elsewhere),
                format!("EVENT_BUS_ARN is `{elsewhere}`: expected an event bus in the function's own region"),
            ),
            (
                ("ORDERED_QUEUE_URL", standard),
                format!("ORDERED_QUEUE_URL is `{standard}`: expected the URL of a FIFO queue, which ends in .fifo"),
            ),
            (
                ("FAILURE_QUEUE_URL", ""),
                "FAILURE_QUEUE_URL is not set: it is the queue of records that cannot be published".to_owned(),
            ),
            (
                ("FAILURE_QUEUE_URL", fifo),
                format!(
                    "FAILURE_QUEUE_URL is `{fifo}`: expected a standard queue: Lambda does not send to FIFO queues"
                ),
            ),
            (("LOG_LEVEL", "loud"), "LOG_LEVEL is `loud`: expected error, warn or info".to_owned()),
        ] {
            assert_eq!(read(&[change]).unwrap_err(), expected);
        }
    }
}
