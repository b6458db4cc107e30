//! The environment and the clients of the function, from which each run gets its own.

use aws_sdk_secretsmanager::Client as Secrets;
use lambda_support::{
    env::{Env, EnvError},
    log,
    secret::SecretError,
    secret_id,
};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;
use unith_events::{ids::HeadId, key_ring::RingKey, timestamp::Timestamp};

use crate::{
    config::{Allowed, ConfigError, Credentials, NoCredentials, api_url},
    reconciler::{Reconciler, Requester, Timing},
    ring::{Guard, RingStore, read_secret},
    run_log::{Metrics, RunLine},
    unith::{UnithClient, http_client},
};

const DEFAULT_METRICS_NAMESPACE: &str = "UnithWebhooks";

/// The function: its environment and its clients.
///
/// Each run reads the environment anew, and no client stops the start: a CloudFormation request gets a response even if
/// a variable is missing.
pub struct Provisioner {
    pub(crate) env: Env,
    secrets: Result<Secrets, EnvError>,
    pub(crate) http: reqwest::Client,
    timing: Timing,
    log: Log,
}

/// Writes the log line of a run.
type Log = Box<dyn Fn(&Value) + Send + Sync>;

/// A run that could not begin.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Env(#[from] EnvError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the credentials secret `{secret}` could not be read: {cause}; see UNITH_CREDENTIALS_SECRET")]
    Unreadable { secret: String, cause: SecretError },
    #[error("the credentials secret `{secret}` holds no credentials: {cause}")]
    NoCredentials { secret: String, cause: NoCredentials },
}

impl Provisioner {
    pub fn new(env: Env, secrets: Result<Secrets, EnvError>) -> Self {
        Self { env, secrets, http: http_client(), timing: Timing::default(), log: Box::new(log::write_line) }
    }

    /// Sends log lines to `log` instead of standard output.
    pub fn with_log(mut self, log: impl Fn(&Value) + Send + Sync + 'static) -> Self {
        self.log = Box::new(log);
        self
    }

    pub fn with_timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// The requester of commands and the schedule: `OWNER`.
    pub fn owner(&self, issued_at: Timestamp) -> Requester {
        Requester { owner: self.env.optional("OWNER").map(str::to_owned), takes_over: false, issued_at }
    }

    /// The clients of a run that ends at `deadline`.
    pub async fn reconciler(&self, requester: Requester, deadline: Instant) -> Result<Reconciler, SetupError> {
        let api_url = api_url(&self.env)?;
        let meaning = "the secret with the UNITH account's e-mail and secretKey";
        let credentials_secret = secret_id::required(&self.env, "UNITH_CREDENTIALS_SECRET", meaning)?;
        let meaning = "the key-ring secret, which this function writes";
        let keys_secret = secret_id::required(&self.env, "UNITH_KEYS_SECRET", meaning)?;
        let allowed = Allowed::from_env(&self.env)?;
        let secrets = self.secrets.clone()?;
        let started = Instant::now();
        // IAM denies for some seconds what CloudFormation has just allowed.
        let denied_until = if requester.takes_over { deadline.min(started + self.timing.denied_for) } else { started };
        let credentials = credentials(&secrets, credentials_secret, denied_until).await?;
        let guard = requester.owner.clone().map(|owner| Guard { owner, issued_at: requester.issued_at });
        Ok(Reconciler {
            unith: UnithClient::new(self.http.clone(), api_url, credentials, deadline),
            ring: RingStore::new(secrets, keys_secret, denied_until, guard),
            timing: self.timing,
            requester,
            allowed,
            started,
        })
    }

    /// Whether the ring has no entry of this owner, and none of these heads that this owner or nobody owns. True if no
    /// ring was ever named.
    pub(crate) async fn knows_nothing_of(&self, owner: Option<&str>, head_ids: &[HeadId]) -> bool {
        let Some(keys_secret) = self.env.optional("UNITH_KEYS_SECRET") else { return true };
        let Ok(secrets) = self.secrets.clone() else { return false };
        let denied_until = Instant::now() + self.timing.denied_for;
        let ring = RingStore::new(secrets, keys_secret, denied_until, None).read().await;
        ring.is_ok_and(|ring| {
            let is_own = |key: &RingKey| key.owner.is_none() || key.owner.as_deref() == owner;
            owner.is_none_or(|owner| ring.heads_of(Some(owner)).is_empty())
                && head_ids.iter().all(|head_id| !ring.of_head(head_id).iter().any(is_own))
        })
    }

    /// The metrics of a run; `None` if `METRICS_NAMESPACE` is empty.
    pub(crate) fn metrics(&self, drift: usize, failed: usize) -> Option<Metrics> {
        let namespace = self.env.raw("METRICS_NAMESPACE").unwrap_or(DEFAULT_METRICS_NAMESPACE).trim();
        (!namespace.is_empty()).then(|| Metrics::new(namespace, drift, failed))
    }

    /// Logs a run.
    pub(crate) fn log_run(&self, ok: bool, event: &impl Serialize, metrics: Option<Metrics>) {
        (self.log)(&serde_json::to_value(RunLine::new(ok, event, metrics)).unwrap_or_default());
    }
}

async fn credentials(secrets: &Secrets, secret: &str, denied_until: Instant) -> Result<Credentials, SetupError> {
    let name = || secret.to_owned();
    let value = read_secret(secrets, secret, denied_until).await;
    let value = value.map_err(|cause| SetupError::Unreadable { secret: name(), cause })?;
    Credentials::parse(&value.text).map_err(|cause| SetupError::NoCredentials { secret: name(), cause })
}
