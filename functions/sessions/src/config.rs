//! The function's configuration, from environment variables.

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
    /// `SESSIONS_TABLE_NAME`
    pub sessions_table_name: String,
    /// `FAILURE_QUEUE_URL`
    pub failure_queue_url: String,
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
        let config = Self {
            table_name: env.required("TABLE_NAME", "the name of the DynamoDB table of events")?.to_owned(),
            sessions_table_name: env
                .required("SESSIONS_TABLE_NAME", "the name of the DynamoDB table of sessions")?
                .to_owned(),
            failure_queue_url: queue_url::required(
                env,
                "FAILURE_QUEUE_URL",
                "the queue of records that no retry can help",
            )?,
            log_level: log::level(env)?,
            metrics_namespace: metrics::namespace(env),
        };
        if config.table_name == config.sessions_table_name {
            return Err(EnvError::Contradiction(
                "TABLE_NAME and SESSIONS_TABLE_NAME name the same table: sessions have a table of their own",
            ));
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUIRED: [(&str, &str); 4] = [
        ("AWS_REGION", "eu-west-1"),
        ("TABLE_NAME", "events"),
        ("SESSIONS_TABLE_NAME", "sessions"),
        ("FAILURE_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/failures"),
    ];

    fn read(changes: &[(&str, &str)]) -> Result<Config, String> {
        Config::from_env(&REQUIRED.iter().chain(changes).copied().collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn unset_variables_have_the_defaults_of_the_reference() {
        let config = read(&[]).unwrap();
        assert_eq!(config.log_level, Level::INFO);
        assert_eq!(config.metrics_namespace.as_deref(), Some("UnithWebhooks"));
    }

    #[test]
    fn every_error_names_its_variable() {
        for (change, expected) in [
            (("TABLE_NAME", ""), "TABLE_NAME is not set: it is the name of the DynamoDB table of events"),
            (
                ("SESSIONS_TABLE_NAME", ""),
                "SESSIONS_TABLE_NAME is not set: it is the name of the DynamoDB table of sessions",
            ),
            (
                ("SESSIONS_TABLE_NAME", "events"),
                "TABLE_NAME and SESSIONS_TABLE_NAME name the same table: sessions have a table of their own",
            ),
            (
                ("FAILURE_QUEUE_URL", ""),
                "FAILURE_QUEUE_URL is not set: it is the queue of records that no retry can help",
            ),
            (
                ("FAILURE_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/123456789012/failures"),
                "FAILURE_QUEUE_URL is `https://sqs.us-east-1.amazonaws.com/123456789012/failures`: \
                 expected a queue in the function's own region, over https",
            ),
            (("LOG_LEVEL", "loud"), "LOG_LEVEL is `loud`: expected error, warn or info"),
        ] {
            assert_eq!(read(&[change]).unwrap_err(), expected);
        }
    }
}
