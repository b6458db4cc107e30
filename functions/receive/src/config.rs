//! The function's configuration, from environment variables.

use std::time::Duration;

use event_store::retention::Retention;
use lambda_support::{
    env::{Env, EnvError},
    log, metrics, queue_url, secret_id,
};
use tracing::Level;
use unith_events::signature::SharedKey;

use crate::breaker::Periods;

const DEFAULT_KEY_CACHE_SECONDS: u32 = 300;

/// The function's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `TABLE_NAME`
    pub table_name: String,
    /// `UNITH_SHARED_KEY` or `UNITH_KEYS_SECRET`
    pub keys: KeySource,
    /// `SPILL_QUEUE_URL`; `None` for no spilling.
    pub spill_queue_url: Option<String>,
    /// How long the table is not asked after a failure. No variable sets it.
    pub breaker_periods: Periods,
    /// `RETENTION_DAYS`
    pub retention: Retention,
    /// `LOG_LEVEL`
    pub log_level: Level,
    /// `METRICS_NAMESPACE`; `None` for no metrics.
    pub metrics_namespace: Option<String>,
}

/// Where keys come from.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// One key, valid for any head.
    Fixed(SharedKey),
    /// A key ring in Secrets Manager.
    Secret {
        /// `UNITH_KEYS_SECRET`: a name or an ARN.
        id: String,
        /// `KEY_CACHE_SECONDS`: how long a fetched ring is used.
        cache_for: Duration,
    },
}

impl Config {
    /// Reads the variables. The error is about the first one that is missing, contradictory or invalid.
    pub fn from_env(env: &Env) -> Result<Self, EnvError> {
        Ok(Self {
            table_name: env.required("TABLE_NAME", "the name of the DynamoDB table")?.to_owned(),
            keys: KeySource::from_env(env)?,
            spill_queue_url: queue_url::optional(env, "SPILL_QUEUE_URL")?,
            breaker_periods: Periods::default(),
            retention: Retention::from_env(env)?,
            log_level: log::level(env)?,
            metrics_namespace: metrics::namespace(env),
        })
    }
}

impl KeySource {
    fn from_env(env: &Env) -> Result<Self, EnvError> {
        let cache_seconds = env.parsed("KEY_CACHE_SECONDS", DEFAULT_KEY_CACHE_SECONDS, "a whole number of seconds")?;
        match (env.optional("UNITH_SHARED_KEY"), secret_id::optional(env, "UNITH_KEYS_SECRET")?) {
            (Some(_), Some(_)) => Err(EnvError::Contradiction(
                "UNITH_SHARED_KEY and UNITH_KEYS_SECRET are both set: set exactly one of them",
            )),
            (None, None) => Err(EnvError::Contradiction(
                "neither UNITH_SHARED_KEY nor UNITH_KEYS_SECRET is set: set exactly one of them",
            )),
            (Some(key), None) => SharedKey::parse(key)
                .map(Self::Fixed)
                .map_err(|error| EnvError::Unusable { name: "UNITH_SHARED_KEY", problem: error.to_string() }),
            (None, Some(id)) => {
                Ok(Self::Secret { id: id.to_owned(), cache_for: Duration::from_secs(cache_seconds.into()) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "cbaab87d1cce6d79baad8e9e2607feb3";

    fn read(pairs: &[(&str, &str)]) -> Result<Config, String> {
        Config::from_env(&pairs.iter().copied().collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn unset_variables_have_the_defaults_of_the_reference() {
        let config = read(&[("TABLE_NAME", "events"), ("UNITH_KEYS_SECRET", "ring")]).unwrap();
        assert_eq!(config.retention, Retention::Days(365));
        assert_eq!(config.log_level, Level::INFO);
        assert_eq!(config.metrics_namespace.as_deref(), Some("UnithWebhooks"));
        let KeySource::Secret { id, cache_for } = config.keys else { panic!() };
        assert_eq!((id.as_str(), cache_for), ("ring", Duration::from_mins(5)));
    }

    #[test]
    fn a_value_that_is_not_a_key_stops_the_start_and_is_not_shown() {
        let expected = "; a shared key has 16 to 256 characters of A-Z a-z 0-9 + / = _ . -";
        for (value, problem) in [
            ("{{resolve:secretsmanager:unith}}", "it is a reference that was not resolved"),
            ("arn:aws:secretsmanager:eu-west-1:123456789012:secret:unith", "it is an ARN, not what the ARN names"),
            (r#"{"sharedKey": "cbaab87d1cce6d79baad8e9e2607feb3"}"#, "it is a JSON document, not a key"),
            (r#""cbaab87d1cce6d79baad8e9e2607feb3""#, "it is in quotation marks"),
            ("cbaab87d", "it has 8 characters"),
        ] {
            let error = read(&[("TABLE_NAME", "t"), ("UNITH_SHARED_KEY", value)]).unwrap_err();
            assert_eq!(error, format!("UNITH_SHARED_KEY cannot be used: {problem}{expected}"));
        }
        let config = read(&[("TABLE_NAME", "t"), ("UNITH_SHARED_KEY", &format!("\u{feff}{KEY}\n"))]).unwrap();
        assert!(matches!(config.keys, KeySource::Fixed(key) if key.expose() == KEY));
    }

    #[test]
    fn a_key_in_place_of_the_id_of_a_secret_stops_the_start_and_is_not_shown() {
        let error = read(&[("TABLE_NAME", "t"), ("UNITH_KEYS_SECRET", KEY)]).unwrap_err();
        assert!(error.starts_with("UNITH_KEYS_SECRET cannot be used: it is a key") && !error.contains(KEY), "{error}");
    }

    #[test]
    fn every_error_names_its_variable() {
        let table = ("TABLE_NAME", "t");
        let key = ("UNITH_SHARED_KEY", KEY);
        for (pairs, expected) in [
            (vec![key], "TABLE_NAME is not set: it is the name of the DynamoDB table"),
            (vec![table], "neither UNITH_SHARED_KEY nor UNITH_KEYS_SECRET is set: set exactly one of them"),
            (
                vec![table, ("UNITH_SHARED_KEY", "")],
                "neither UNITH_SHARED_KEY nor UNITH_KEYS_SECRET is set: set exactly one of them",
            ),
            (
                vec![table, key, ("UNITH_KEYS_SECRET", "s")],
                "UNITH_SHARED_KEY and UNITH_KEYS_SECRET are both set: set exactly one of them",
            ),
            (
                vec![table, key, ("RETENTION_DAYS", "-1")],
                "RETENTION_DAYS is `-1`: expected a whole number of days from 0 (for ever) to 37000",
            ),
            (
                vec![table, key, ("RETENTION_DAYS", "40000")],
                "RETENTION_DAYS is `40000`: expected a whole number of days from 0 (for ever) to 37000",
            ),
            (
                vec![table, key, ("KEY_CACHE_SECONDS", "5m")],
                "KEY_CACHE_SECONDS is `5m`: expected a whole number of seconds",
            ),
            (vec![table, key, ("LOG_LEVEL", "loud")], "LOG_LEVEL is `loud`: expected error, warn or info"),
            (
                vec![table, key, ("SPILL_QUEUE_URL", "https://q")],
                "SPILL_QUEUE_URL is `https://q`: expected the URL of an SQS queue, https://sqs.<region>.amazonaws.com/<account>/<name>",
            ),
        ] {
            assert_eq!(read(&pairs).unwrap_err(), expected);
        }
    }
}
