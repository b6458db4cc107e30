//! The function's configuration, from environment variables.

use event_store::retention::Retention;
use lambda_support::{
    env::{Env, EnvError},
    log, metrics, queue_url,
};
use tracing::Level;

/// The function's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `TABLE_NAME`
    pub table_name: String,
    /// `RETENTION_DAYS`
    pub retention: Retention,
    /// `SPILL_QUEUE_URL`
    pub spill_queue_url: String,
    /// `DEAD_LETTER_QUEUE_URL`
    pub dead_letter_queue_url: String,
    /// `LOG_LEVEL`
    pub log_level: Level,
    /// `METRICS_NAMESPACE`; `None` for no metrics.
    pub metrics_namespace: Option<String>,
}

impl Config {
    /// Reads the variables.
    ///
    /// # Errors
    /// The first one that is missing or invalid.
    pub fn from_env(env: &Env) -> Result<Self, EnvError> {
        let spill = "the queue of deliveries that the table did not take";
        let dead_letters = "the queue of messages that can never be stored";
        Ok(Self {
            table_name: env.required("TABLE_NAME", "the name of the DynamoDB table")?.to_owned(),
            retention: Retention::from_env(env)?,
            spill_queue_url: queue_url::required(env, "SPILL_QUEUE_URL", spill)?,
            dead_letter_queue_url: queue_url::required(env, "DEAD_LETTER_QUEUE_URL", dead_letters)?,
            log_level: log::level(env)?,
            metrics_namespace: metrics::namespace(env),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUIRED: [(&str, &str); 4] = [
        ("AWS_REGION", "eu-west-1"),
        ("TABLE_NAME", "events"),
        ("SPILL_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/spill"),
        ("DEAD_LETTER_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/dead"),
    ];

    fn read(changes: &[(&str, &str)]) -> Result<Config, String> {
        Config::from_env(&REQUIRED.iter().chain(changes).copied().collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn unset_variables_have_the_defaults_of_the_reference() {
        let config = read(&[]).unwrap();
        assert_eq!((config.retention, config.log_level), (Retention::Days(365), Level::INFO));
        assert_eq!(config.metrics_namespace.as_deref(), Some("UnithWebhooks"));
    }

    #[test]
    fn every_error_names_its_variable() {
        for (change, expected) in [
            (("TABLE_NAME", ""), "TABLE_NAME is not set: it is the name of the DynamoDB table"),
            (
                ("SPILL_QUEUE_URL", ""),
                "SPILL_QUEUE_URL is not set: it is the queue of deliveries that the table did not take",
            ),
            (
                ("DEAD_LETTER_QUEUE_URL", ""),
                "DEAD_LETTER_QUEUE_URL is not set: it is the queue of messages that can never be stored",
            ),
            (
                ("DEAD_LETTER_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/123456789012/dead"),
                "DEAD_LETTER_QUEUE_URL is `https://sqs.us-east-1.amazonaws.com/123456789012/dead`: \
                 expected a queue in the function's own region, over https",
            ),
            (
                ("RETENTION_DAYS", "-1"),
                "RETENTION_DAYS is `-1`: expected a whole number of days from 0 (for ever) to 37000",
            ),
            (("LOG_LEVEL", "loud"), "LOG_LEVEL is `loud`: expected error, warn or info"),
        ] {
            assert_eq!(read(&[change]).unwrap_err(), expected);
        }
    }
}
