//! `provision`: brings UNITH's side to the declared state, keeps it there, rotates keys, and removes it all again.
//!
//! It runs as a CloudFormation custom resource ([`cloudformation`]), by hand ([`command`]) and on a schedule, which is
//! the command `apply`. What always holds: every step can be repeated; a run that died is completed by the next one; no
//! subscription is live before its key can be read; no key, token or password is logged or answered.

pub mod cloudformation;
pub mod command;
pub mod config;
pub mod declared;
pub mod plan;
pub mod register;
pub mod remove;
pub mod ring;
pub mod run;
pub mod self_test;
pub mod status;
pub mod unith;

use std::sync::Arc;

use aws_sdk_secretsmanager::Client as Secrets;
use lambda_support::{
    env::{Env, EnvError},
    log,
    secret::SecretError,
};
use serde_json::Value;
use tokio::time::Instant;
use unith_events::timestamp::Timestamp;

use crate::{
    config::{Allowed, ConfigError, Credentials, NoCredentials, Settings},
    ring::{Guard, RingStore, read_secret},
    run::{Boxed, Run, Timing, Who},
    unith::{UnithClient, UnithError},
};

/// The function: its environment and its clients, set up once.
pub struct Provisioner {
    env: Env,
    secrets: Result<Secrets, EnvError>,
    http: reqwest::Client,
    pace: Timing,
    log: Log,
}

/// Where a run's line goes.
type Log = Box<dyn Fn(&Value) + Send + Sync>;

/// A run that could not begin.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A variable.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// What the variables allow cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The base URL.
    #[error(transparent)]
    UnithClient(#[from] UnithError),
    /// The credentials secret cannot be read.
    #[error("the credentials secret `{secret}` could not be read: {cause}; see UNITH_CREDENTIALS_SECRET")]
    Unreadable {
        /// The secret.
        secret: String,
        /// The SDK's error with its causes.
        cause: SecretError,
    },
    /// It holds something else.
    #[error("the credentials secret `{secret}` holds no credentials: {cause}")]
    NoCredentials {
        /// The secret.
        secret: String,
        /// What was expected.
        cause: NoCredentials,
    },
}

/// An invocation that failed, and is to show as failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// CloudFormation could not be answered.
    #[error(transparent)]
    NotAnswered(#[from] cloudformation::NotAnswered),
    /// A command that cannot be carried out.
    #[error(transparent)]
    Command(#[from] command::CommandError),
}

impl Provisioner {
    /// A provisioner with this environment, which is read anew by each run: a missing variable must not keep a
    /// CloudFormation request from being answered, and neither must what keeps the clients from being made.
    #[must_use]
    pub fn new(env: Env, secrets: Result<Secrets, EnvError>) -> Self {
        Self { env, secrets, http: unith::http_client(), pace: Timing::default(), log: Box::new(log::write_line) }
    }

    /// With its runs' lines going elsewhere than to standard output.
    #[must_use]
    pub fn with_log(mut self, log: impl Fn(&Value) + Send + Sync + 'static) -> Self {
        self.log = Box::new(log);
        self
    }

    /// With other waits than the defaults.
    #[must_use]
    pub fn with_pace(mut self, pace: Timing) -> Self {
        self.pace = pace;
        self
    }

    /// Carries out whatever `input` is, before `deadline`.
    pub async fn handle(self: &Arc<Self>, input: Value, deadline: Instant) -> Result<Value, Failure> {
        // Boxed: what is inlined into each other here is deeper than the compiler looks.
        if input.get("ResponseURL").is_some() || input.get("RequestType").is_some() {
            let handled: Boxed<'_, _> = Box::pin(cloudformation::handle(self, input, deadline));
            return Ok(handled.await?);
        }
        let handled: Boxed<'_, _> = Box::pin(command::handle(self, &input, deadline));
        Ok(handled.await?)
    }

    /// The clients of a run that ends at `deadline`. Commands are the run of `OWNER`, asked for now; `who` may say
    /// otherwise.
    pub async fn run(&self, deadline: Instant, who: impl FnOnce(&mut Who)) -> Result<Run, SetupError> {
        let settings = Settings::from_env(&self.env)?;
        let allowed = Allowed::from_env(&self.env)?;
        let secrets = self.secrets.clone()?;
        let mut own = Who { owner: settings.owner, takes_over: false, issued_at: Timestamp::now() };
        who(&mut own);
        let started = Instant::now();
        // What CloudFormation has just allowed, IAM refuses for some seconds.
        let denied_until = if own.takes_over { deadline.min(started + self.pace.denied_for) } else { started };
        let credentials = credentials(&secrets, &settings.credentials_secret, denied_until).await?;
        let guard = own.owner.clone().map(|owner| Guard { owner, issued_at: own.issued_at });
        Ok(Run {
            unith: UnithClient::new(self.http.clone(), &settings.api_url, credentials, deadline)?,
            ring: RingStore::new(secrets, settings.keys_secret).denied_until(denied_until).guarded(guard),
            pace: self.pace,
            who: own,
            allowed,
            started,
        })
    }

    /// Whether nothing of this owner's, or of nobody's on these heads, is in the ring, or no ring was ever named.
    async fn knows_nothing_of(&self, owner: Option<&str>, head_ids: &[String]) -> bool {
        let Some(keys_secret) = self.env.optional("UNITH_KEYS_SECRET") else { return true };
        let Ok(secrets) = self.secrets.clone() else { return false };
        let denied_until = Instant::now() + self.pace.denied_for;
        let ring = RingStore::new(secrets, keys_secret.to_owned()).denied_until(denied_until).read().await;
        ring.is_ok_and(|ring| {
            let is_own = |key: &unith_events::key_ring::RingKey| key.owner.is_none() || key.owner.as_deref() == owner;
            owner.is_none_or(|owner| ring.heads_of(owner).is_empty())
                && head_ids.iter().all(|head_id| !ring.of_head(head_id).iter().any(is_own))
        })
    }
}

async fn credentials(secrets: &Secrets, secret: &str, denied_until: Instant) -> Result<Credentials, SetupError> {
    let name = || secret.to_owned();
    let value = read_secret(secrets, secret, denied_until).await;
    let value = value.map_err(|cause| SetupError::Unreadable { secret: name(), cause })?;
    Credentials::parse(&value.text).map_err(|cause| SetupError::NoCredentials { secret: name(), cause })
}
