//! The key ring in use: fixed by the environment, or fetched from Secrets Manager and kept for a while.
//!
//! What always holds: a ring that was read once is used until a newer one was read, however long Secrets Manager is
//! down. The official caching client does not do this, and would bring a second TLS stack with it.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration as StdDuration,
};

use aws_sdk_secretsmanager::Client;
use lambda_support::secret::{self, SecretError};
use time::Duration;
use tokio::sync::Mutex;
use tracing::{info, warn};
use unith_events::{
    key_ring::{KeyRing, KeyRingError},
    timestamp::Timestamp,
};

/// How often at most a mismatch leads to another fetch, and a ring that is old.
const REFETCH_PAUSE: Duration = Duration::seconds(10);
/// How soon after a failed fetch a mismatch leads to another one: within UNITH's retries.
const RETRY_PAUSE: Duration = Duration::seconds(2);
/// What a fetch may take of an answer's 4 s: enough is left to write the event.
const FETCH_WITHIN: StdDuration = StdDuration::from_millis(1_500);

/// The key ring could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Secrets Manager did not give it.
    #[error("the key ring `{secret}` could not be read: {cause}{hint}")]
    Fetch {
        /// The secret.
        secret: String,
        /// The SDK's error with its causes.
        cause: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// Secrets Manager took too long.
    #[error("the key ring `{secret}` could not be read within {} ms", FETCH_WITHIN.as_millis())]
    OutOfTime {
        /// The secret.
        secret: String,
    },
    /// It was tried a moment ago, and is not tried again yet.
    #[error("no key of the ring at hand matches, and the key ring `{secret}` could not be read a moment ago")]
    Recently {
        /// The secret.
        secret: String,
    },
    /// The secret is something else.
    #[error("the key ring `{secret}` is not one: {cause}")]
    NoRing {
        /// The secret.
        secret: String,
        /// What is wrong with it.
        cause: KeyRingError,
    },
}

/// Where the handler gets its keys from.
#[derive(Debug)]
pub enum Keys {
    /// One ring for good.
    Fixed(Arc<KeyRing>),
    /// A ring that is fetched.
    Secret(SecretRing),
}

/// A ring in Secrets Manager.
#[derive(Debug)]
pub struct SecretRing {
    client: Client,
    secret: String,
    cache_for: Duration,
    cached: RwLock<Option<Cached>>,
    /// Held while fetching, so that one fetch serves all who wait for it.
    fetching: Mutex<Attempts>,
}

#[derive(Debug, Clone)]
struct Cached {
    ring: Arc<KeyRing>,
    fetched_at: Timestamp,
}

#[derive(Debug, Default)]
struct Attempts {
    failed_at: Option<Timestamp>,
    after_mismatch_at: Option<Timestamp>,
}

impl Keys {
    /// The ring to verify with at `now`. An error only where none was ever read.
    pub async fn ring(&self, now: Timestamp) -> Result<Arc<KeyRing>, KeysError> {
        match self {
            Self::Fixed(ring) => Ok(Arc::clone(ring)),
            Self::Secret(secret) => secret.ring(now).await,
        }
    }

    /// A newer ring than `seen`, which had no key for a signature; `None` if it was too early to look for one. An error
    /// where the last look failed: then nobody knows whether the signature is wrong.
    pub async fn newer_than(&self, seen: &Arc<KeyRing>, now: Timestamp) -> Result<Option<Arc<KeyRing>>, KeysError> {
        match self {
            Self::Fixed(_) => Ok(None),
            Self::Secret(secret) => secret.newer_than(seen, now).await,
        }
    }
}

impl SecretRing {
    /// The ring in `secret` (a name or an ARN), fetched again when it is older than `cache_for`.
    #[must_use]
    pub fn new(client: Client, secret: String, cache_for: Duration) -> Self {
        Self { client, secret, cache_for, cached: RwLock::default(), fetching: Mutex::default() }
    }

    async fn ring(&self, now: Timestamp) -> Result<Arc<KeyRing>, KeysError> {
        let before = self.cached();
        if let Some(fresh) = before.as_ref().filter(|cached| self.is_fresh(cached, now)) {
            return Ok(Arc::clone(&fresh.ring));
        }
        let mut attempts = self.fetching.lock().await;
        let cached = self.cached();
        let (Some(stale), looked) = (&cached, attempts.failed_at) else { return self.fetch(&mut attempts).await };
        // Whoever held the lock before may have fetched it, or tried to.
        let is_newer = before.is_none_or(|before| !Arc::ptr_eq(&before.ring, &stale.ring));
        if is_newer || looked.is_some_and(|failed_at| within(REFETCH_PAUSE, failed_at, now)) {
            return Ok(Arc::clone(&stale.ring));
        }
        let stale = Arc::clone(&stale.ring);
        // Cut off, it counts as failed, so that the next delivery is verified with the ring that is there.
        attempts.failed_at = Some(now);
        Ok(self.fetch(&mut attempts).await.unwrap_or(stale))
    }

    async fn newer_than(&self, seen: &Arc<KeyRing>, now: Timestamp) -> Result<Option<Arc<KeyRing>>, KeysError> {
        let mut attempts = self.fetching.lock().await;
        if let Some(cached) = self.cached().filter(|cached| !Arc::ptr_eq(&cached.ring, seen)) {
            return Ok(Some(cached.ring));
        }
        // Whether there is a newer ring, nobody knows as long as it cannot be read.
        if attempts.failed_at.is_some_and(|failed_at| within(RETRY_PAUSE, failed_at, now)) {
            return Err(KeysError::Recently { secret: self.secret.clone() });
        }
        // The ring at hand may have been read for this very delivery.
        let is_new = self.cached().is_some_and(|cached| cached.fetched_at > now);
        let looked = attempts.after_mismatch_at.is_some_and(|looked_at| within(REFETCH_PAUSE, looked_at, now));
        if looked && attempts.failed_at.is_none() {
            return Ok(None);
        }
        attempts.after_mismatch_at = Some(now);
        if is_new {
            return Ok(None);
        }
        // Cut off, it counts as failed: a signature must not be called wrong by a ring that was not read.
        attempts.failed_at = Some(now);
        self.fetch(&mut attempts).await.map(Some)
    }

    fn cached(&self) -> Option<Cached> {
        self.cached.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_fresh(&self, cached: &Cached, now: Timestamp) -> bool {
        let age = now.since(cached.fetched_at);
        // A negative age is a clock that was set back; a ring from the future could stay for ever.
        !age.is_negative() && age < self.cache_for
    }

    async fn fetch(&self, attempts: &mut Attempts) -> Result<Arc<KeyRing>, KeysError> {
        let result = match tokio::time::timeout(FETCH_WITHIN, self.read()).await {
            Ok(result) => result,
            Err(_) => Err(KeysError::OutOfTime { secret: self.secret.clone() }),
        };
        match result {
            Ok(ring) => {
                for entry in ring.left_out() {
                    warn!(secret = self.secret.as_str(), "{entry}");
                }
                info!(secret = self.secret.as_str(), keys = ring.keys().len() as u64, "key ring read");
                let ring = Arc::new(ring);
                let cached = Cached { ring: Arc::clone(&ring), fetched_at: Timestamp::now() };
                *self.cached.write().unwrap_or_else(PoisonError::into_inner) = Some(cached);
                attempts.failed_at = None;
                Ok(ring)
            }
            Err(error) => {
                let kept =
                    if self.cached().is_some() { "the ring read before stays in use" } else { "there is no ring" };
                warn!("{error}; {kept}");
                attempts.failed_at = Some(Timestamp::now());
                Err(error)
            }
        }
    }

    async fn read(&self) -> Result<KeyRing, KeysError> {
        let name = || self.secret.clone();
        let secret = secret::read(&self.client, &self.secret).await.map_err(|error| {
            let hint = match error {
                SecretError::Missing { .. } => {
                    "; there is no such secret with a value in this account and region: see UNITH_KEYS_SECRET and AWS_REGION"
                }
                SecretError::Denied(_) => {
                    "; the function's role needs secretsmanager:GetSecretValue on it (and kms:Decrypt, under a key of your own)"
                }
                SecretError::Failed(_) | SecretError::NotText => "",
            };
            KeysError::Fetch { secret: name(), cause: error.to_string(), hint }
        })?;
        KeyRing::parse(&secret.text).map_err(|cause| KeysError::NoRing { secret: name(), cause })
    }
}

fn within(pause: Duration, then: Timestamp, now: Timestamp) -> bool {
    let since = now.since(then);
    // Then may be a little later than now: a request that waited for a fetch carries the time at which it came.
    since.abs() < pause
}
