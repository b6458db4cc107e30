//! The key ring in use: fixed by the environment, or fetched from Secrets Manager and cached.
//!
//! Invariants: a ring that was read once is used until a newer one is read, however long Secrets Manager is down. AWS's own
//! caching client does not do this, and would bring a second TLS stack.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use aws_sdk_secretsmanager::Client;
use lambda_support::secret::{self, SecretError};
use tokio::sync::Mutex;
use tracing::{info, warn};
use unith_events::{
    key_ring::{KeyRing, KeyRingError},
    signature::Signature,
    timestamp::Timestamp,
    verify::{Verified, VerifyError, verify},
};

/// The pause between two refreshes for signatures that no key matches, and between two for a stale ring.
const REFRESH_PAUSE: Duration = Duration::from_secs(10);
/// The pause after a failed fetch, for a signature that no key matches: shorter than UNITH's retries.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// The part of a response's 4 s that a fetch may take: enough is left to write the event.
const FETCH_WITHIN: Duration = Duration::from_millis(1_500);

/// The key ring is not available.
#[derive(Debug, thiserror::Error)]
pub enum KeyStoreError {
    #[error("the key ring `{secret}` could not be read: {cause}{hint}")]
    Fetch { secret: String, cause: String, hint: &'static str },
    #[error("the key ring `{secret}` could not be read within {} ms", FETCH_WITHIN.as_millis())]
    OutOfTime { secret: String },
    #[error("no key of the cached ring matches, and the key ring `{secret}` could not be read a moment ago")]
    Recently { secret: String },
    #[error("secret `{secret}` is not a valid key ring: {cause}")]
    Invalid { secret: String, cause: KeyRingError },
}

/// Where the handler gets its keys from.
#[derive(Debug)]
pub enum KeyStore {
    /// One ring that never changes.
    Fixed(Arc<KeyRing>),
    /// A ring in Secrets Manager.
    Secret(CachedKeyRing),
}

/// The result of verifying a body.
#[derive(Debug)]
pub struct Verification<'b> {
    /// The authentic body, or why no key vouches for it.
    pub result: Result<Verified<'b>, VerifyError>,
    /// Whether the ring was fetched once more for it.
    pub refreshed: bool,
}

/// A ring in Secrets Manager, and the copy of it that is in use.
#[derive(Debug)]
pub struct CachedKeyRing {
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

impl KeyStore {
    /// Verifies a body that came at `now`. If no key vouches for it, the cached ring may be older than the last rotation: it is
    /// refreshed, and the body is verified once more.
    ///
    /// # Errors
    /// No ring to verify with, or no way to know whether there is a newer one.
    pub async fn verify<'b>(
        &self,
        body: &'b [u8],
        signature: &Signature,
        now: Timestamp,
    ) -> Result<Verification<'b>, KeyStoreError> {
        let ring = self.ring(now).await?;
        let result = verify(body, signature, &ring, now);
        if result.is_err()
            && let Some(newer) = self.refresh(&ring, now).await?
        {
            return Ok(Verification { result: verify(body, signature, &newer, now), refreshed: true });
        }
        Ok(Verification { result, refreshed: false })
    }

    /// The ring to verify with at `now`.
    ///
    /// # Errors
    /// No ring was ever read.
    pub async fn ring(&self, now: Timestamp) -> Result<Arc<KeyRing>, KeyStoreError> {
        match self {
            Self::Fixed(ring) => Ok(Arc::clone(ring)),
            Self::Secret(secret) => secret.ring(now).await,
        }
    }

    /// A newer ring than `seen`; `None` if a refresh is not due yet.
    async fn refresh(&self, seen: &Arc<KeyRing>, now: Timestamp) -> Result<Option<Arc<KeyRing>>, KeyStoreError> {
        match self {
            Self::Fixed(_) => Ok(None),
            Self::Secret(secret) => secret.refresh(seen, now).await,
        }
    }
}

impl CachedKeyRing {
    /// The ring in `secret`, a name or an ARN. It is fetched again when it is older than `cache_for`.
    pub fn new(client: Client, secret: String, cache_for: Duration) -> Self {
        Self { client, secret, cache_for, cached: RwLock::default(), fetching: Mutex::default() }
    }

    async fn ring(&self, now: Timestamp) -> Result<Arc<KeyRing>, KeyStoreError> {
        let before = self.cached();
        if let Some(fresh) = before.as_ref().filter(|cached| self.is_fresh(cached, now)) {
            return Ok(Arc::clone(&fresh.ring));
        }
        let mut attempts = self.fetching.lock().await;
        let cached = self.cached();
        let (Some(stale), looked) = (&cached, attempts.failed_at) else { return self.fetch(&mut attempts).await };
        // The holder of the lock before may have fetched it, or tried to.
        let is_newer = before.is_none_or(|before| !Arc::ptr_eq(&before.ring, &stale.ring));
        if is_newer || looked.is_some_and(|failed_at| within(REFRESH_PAUSE, failed_at, now)) {
            return Ok(Arc::clone(&stale.ring));
        }
        let stale = Arc::clone(&stale.ring);
        // If this is cut off, it counts as failed: the next delivery is verified with the stale ring.
        attempts.failed_at = Some(now);
        Ok(self.fetch(&mut attempts).await.unwrap_or(stale))
    }

    async fn refresh(&self, seen: &Arc<KeyRing>, now: Timestamp) -> Result<Option<Arc<KeyRing>>, KeyStoreError> {
        let mut attempts = self.fetching.lock().await;
        if let Some(cached) = self.cached().filter(|cached| !Arc::ptr_eq(&cached.ring, seen)) {
            return Ok(Some(cached.ring));
        }
        // While it cannot be read, whether there is a newer ring is not known.
        if attempts.failed_at.is_some_and(|failed_at| within(RETRY_PAUSE, failed_at, now)) {
            return Err(KeyStoreError::Recently { secret: self.secret.clone() });
        }
        // The cached ring may have been read for this very delivery.
        let is_new = self.cached().is_some_and(|cached| cached.fetched_at > now);
        let looked = attempts.after_mismatch_at.is_some_and(|looked_at| within(REFRESH_PAUSE, looked_at, now));
        if looked && attempts.failed_at.is_none() {
            return Ok(None);
        }
        attempts.after_mismatch_at = Some(now);
        if is_new {
            return Ok(None);
        }
        // If this is cut off, it counts as failed: a ring that was not read must not call a signature wrong.
        attempts.failed_at = Some(now);
        self.fetch(&mut attempts).await.map(Some)
    }

    fn cached(&self) -> Option<Cached> {
        self.cached.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_fresh(&self, cached: &Cached, now: Timestamp) -> bool {
        // A ring from the future, after a clock was set back, would stay for ever.
        now.checked_since(cached.fetched_at).is_some_and(|age| age < self.cache_for)
    }

    async fn fetch(&self, attempts: &mut Attempts) -> Result<Arc<KeyRing>, KeyStoreError> {
        let result = match tokio::time::timeout(FETCH_WITHIN, self.read()).await {
            Ok(result) => result,
            Err(_) => Err(KeyStoreError::OutOfTime { secret: self.secret.clone() }),
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
                let fallback =
                    if self.cached().is_some() { "the cached ring stays in use" } else { "no ring is cached" };
                warn!("{error}; {fallback}");
                attempts.failed_at = Some(Timestamp::now());
                Err(error)
            }
        }
    }

    async fn read(&self) -> Result<KeyRing, KeyStoreError> {
        let name = || self.secret.clone();
        let secret = secret::read(&self.client, &self.secret).await.map_err(|error| {
            let hint = match error {
                SecretError::Missing { .. } => {
                    "; there is no such secret with a value in this account and region: check UNITH_KEYS_SECRET and AWS_REGION"
                }
                SecretError::Denied(_) => {
                    "; the function's role needs secretsmanager:GetSecretValue on it (and kms:Decrypt with a key of your own)"
                }
                SecretError::Failed(_) | SecretError::NotText => "",
            };
            KeyStoreError::Fetch { secret: name(), cause: error.to_string(), hint }
        })?;
        KeyRing::parse(&secret.text).map_err(|cause| KeyStoreError::Invalid { secret: name(), cause })
    }
}

fn within(pause: Duration, then: Timestamp, now: Timestamp) -> bool {
    // `then` may be a little later than `now`: a request that waited for a fetch carries the time at which it came.
    now.since(then).max(then.since(now)) < pause
}
