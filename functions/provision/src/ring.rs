//! The key ring's secret: read, compare-and-swap, read back.
//!
//! Secrets Manager has no conditional put, but it accepts a `ClientRequestToken` once. The token is derived from the
//! version that was read, so the second of two runs on the same version is refused, and starts over. A writer in the
//! console uses no such token: the version that ours replaced then shows the edit, and the change is made once more on
//! that text.
//!
//! Invariants:
//! - A change is reported as done only after it was read back.
//! - A run whose owner was deleted meanwhile writes nothing.

use std::{
    future::Future,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_sdk_secretsmanager::{Client, error::ProvideErrorMetadata, operation::put_secret_value::PutSecretValueError};
use lambda_support::{
    aws, errors,
    secret::{self, Secret, SecretError},
};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use unith_events::{key_ring::document::RingDocument, timestamp::Timestamp};

/// How often a change is started over because of another writer.
const MAX_ROUNDS: u32 = 20;
/// How often a written ring is read before it counts as not readable.
const READ_BACKS: u32 = 20;
const READ_BACK_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE_MS: u64 = 150;
const DENIED_PAUSE: Duration = Duration::from_millis(500);
/// The largest ring that a run writes. Secrets Manager takes 65,536 bytes; the rest is left for other writers.
pub const MAX_RING_BYTES: usize = 60_000;

/// The key ring's secret, as one run sees it.
#[derive(Debug, Clone)]
pub struct RingStore {
    client: Client,
    secret: String,
    /// Whether the secret existed during this run: if it is missing later, it was deleted meanwhile.
    existed: Arc<AtomicBool>,
    /// When the owner had been deleted, by the first reading.
    first_mark: Arc<OnceLock<Option<Timestamp>>>,
    guard: Option<Guard>,
    /// Until when a refusal by IAM is retried.
    denied_until: Instant,
}

/// Stops a run that was requested before its owner was deleted.
#[derive(Debug, Clone)]
pub struct Guard {
    /// The resource, e.g. `UnithWebhook@6a5b1f00-…`.
    pub owner: String,
    /// When the run was requested.
    pub issued_at: Timestamp,
}

/// The ring could not be read or written. `cause` is the SDK's error with its causes.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RingError {
    #[error("the key ring `{secret}` could not be {what}: {cause}")]
    Failed {
        secret: String,
        /// `read` or `written`.
        what: &'static str,
        cause: String,
    },
    #[error("deleted meanwhile: the key ring `{secret}` is gone: {cause}")]
    Gone { secret: String, cause: String },
    #[error("the key ring `{secret}` does not exist: {cause}; create the secret, or correct UNITH_KEYS_SECRET")]
    Missing { secret: String, cause: String },
    #[error("secret `{secret}` is not a valid key ring: {cause}; empty it, or name another one in UNITH_KEYS_SECRET")]
    Invalid { secret: String, cause: String },
    #[error("deleted meanwhile: {owner} was deleted at {at}, after this run was requested")]
    DeletedMeanwhile { owner: String, at: Timestamp },
    #[error(
        "the key ring would have {bytes} bytes, and the limit is {MAX_RING_BYTES}; name fewer heads, or run this again \
         when retired keys have expired"
    )]
    TooLarge { bytes: usize },
    #[error(
        "the key ring `{secret}` could not be written: another writer changed it {MAX_ROUNDS} times in a row; run this \
         again, and if that does not help, put the text of the current version back as a new version"
    )]
    Contended { secret: String },
    #[error("the key ring `{secret}` was written, but cannot be read back yet; run this again")]
    NotReadBack { secret: String },
}

impl RingError {
    /// Whether the ring is absent, so that nothing in it is ours.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Missing { .. } | Self::Invalid { .. })
    }

    /// Whether the run's owner or ring was deleted meanwhile.
    pub fn is_deletion(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::DeletedMeanwhile { .. })
    }
}

/// The document that is to be changed.
#[derive(Default)]
struct Current {
    document: RingDocument,
    version: Option<String>,
    /// Whether our own version is the current one by now, so that this text has to be written even if it is unchanged.
    is_replaced: bool,
}

impl RingStore {
    /// The ring in `secret`, a name or an ARN. Until `denied_until`, what IAM denies is retried.
    pub fn new(client: Client, secret: &str, denied_until: Instant, guard: Option<Guard>) -> Self {
        let secret = secret.to_owned();
        Self { client, secret, existed: Arc::default(), first_mark: Arc::default(), guard, denied_until }
    }

    /// The same ring without a guard: a removal is what leaves the mark.
    pub fn unguarded(&self) -> Self {
        Self { guard: None, ..self.clone() }
    }

    /// Reads the ring. A secret that has no value yet is an empty ring; one that does not exist fails when it is
    /// written.
    pub async fn read(&self) -> Result<RingDocument, RingError> {
        Ok(self.read_current().await?.document)
    }

    /// Reads the ring, unless the run's owner was deleted.
    pub async fn read_guarded(&self) -> Result<RingDocument, RingError> {
        let document = self.read().await?;
        self.check_guard(&document)?;
        Ok(document)
    }

    async fn read_current(&self) -> Result<Current, RingError> {
        match read_secret(&self.client, &self.secret, self.denied_until).await {
            Ok(secret) => {
                self.existed.store(true, Ordering::Relaxed);
                self.parse(&secret)
            }
            Err(SecretError::Missing { is_deleted: false, .. }) if !self.existed.load(Ordering::Relaxed) => {
                Ok(Current::default())
            }
            Err(SecretError::Missing { cause, .. }) => Err(self.missing(cause)),
            Err(error @ SecretError::NotText) => Err(self.invalid(&error)),
            Err(SecretError::Denied(cause) | SecretError::Failed(cause)) => Err(self.failed("read", cause)),
        }
    }

    fn parse(&self, secret: &Secret) -> Result<Current, RingError> {
        let document = RingDocument::parse(&secret.text).map_err(|cause| self.invalid(&cause))?;
        Ok(Current { document, version: secret.version.clone(), is_replaced: false })
    }

    fn check_guard(&self, document: &RingDocument) -> Result<(), RingError> {
        let Some(guard) = &self.guard else { return Ok(()) };
        let mark = document.deleted_at(&guard.owner);
        let first = *self.first_mark.get_or_init(|| mark);
        // CloudFormation's times have whole seconds: a mark that appears during the run may be as late as the run's own
        // second, and one that was there before is earlier.
        let has_appeared = |at: &Timestamp| Some(*at) != first && *at >= guard.issued_at.whole_second();
        match mark.filter(|at| *at > guard.issued_at || has_appeared(at)) {
            Some(at) => Err(RingError::DeletedMeanwhile { owner: guard.owner.clone(), at }),
            None => Ok(()),
        }
    }

    /// Changes the ring, and waits until the change can be read. Returns whether the ring had entries before.
    ///
    /// `change` may be called several times; a second call on its own result must change nothing. The caller limits the
    /// size.
    pub async fn change(&self, now: Timestamp, change: impl Fn(&mut RingDocument)) -> Result<bool, RingError> {
        let mut edited = None;
        for _ in 0..MAX_ROUNDS {
            let before = match edited.take() {
                Some(edited) => edited,
                None => self.read_current().await?,
            };
            self.check_guard(&before.document)?;
            let had_keys = !before.document.is_empty();
            let after = before.document.changed(now, &change);
            let Some(after) = after.or_else(|| before.is_replaced.then(|| before.document.clone())) else {
                return Ok(had_keys);
            };
            let token = token_after(before.version.as_deref());
            let put = self.client.put_secret_value().secret_id(&self.secret).secret_string(after.to_text());
            let put = put.client_request_token(&token);
            match until_allowed(self.denied_until, aws::is_denied, || put.clone().send()).await {
                Ok(_) => {
                    edited = self.edited_meanwhile(&before, token).await;
                    if edited.is_none() {
                        self.read_back(now, change).await?;
                        return Ok(had_keys);
                    }
                    tracing::warn!(
                        secret = self.secret.as_str(),
                        "the key ring was edited in the console during this run; the edit is kept"
                    );
                }
                Err(error) => match error.as_service_error() {
                    Some(PutSecretValueError::ResourceExistsException(_)) => {}
                    _ => return Err(self.not_written(&error)),
                },
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..LONGEST_PAUSE_MS))).await;
        }
        Err(RingError::Contended { secret: self.secret.clone() })
    }

    /// A version that was written between our reading and our writing: the one that ours replaced is then not the one
    /// that was read.
    async fn edited_meanwhile(&self, before: &Current, token: String) -> Option<Current> {
        let previous = secret::read_previous(&self.client, &self.secret).await.ok()??;
        let version = previous.version.as_ref()?;
        if *version == token || Some(version) == before.version.as_ref() {
            return None;
        }
        Some(Current { version: Some(token), is_replaced: true, ..self.parse(&previous).ok()? })
    }

    /// Waits until the current version has the change in it, as receivers read it.
    async fn read_back(&self, now: Timestamp, change: impl Fn(&mut RingDocument)) -> Result<(), RingError> {
        for _ in 0..READ_BACKS {
            if self.read().await?.changed(now, &change).is_none() {
                return Ok(());
            }
            tokio::time::sleep(READ_BACK_PAUSE).await;
        }
        Err(RingError::NotReadBack { secret: self.secret.clone() })
    }

    fn not_written<E>(&self, error: &E) -> RingError
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let cause = errors::causes(error);
        match error.code() {
            Some("ResourceNotFoundException" | "InvalidRequestException") => self.missing(cause),
            Some("LimitExceededException") => {
                let limit =
                    "a secret keeps 100 versions, and none is dropped before it is 24 h old; run this again later";
                self.failed("written", format!("{cause}: {limit}"))
            }
            _ => self.failed("written", cause),
        }
    }

    fn failed(&self, what: &'static str, cause: String) -> RingError {
        RingError::Failed { secret: self.secret.clone(), what, cause }
    }

    fn missing(&self, cause: String) -> RingError {
        let (secret, existed) = (self.secret.clone(), self.existed.load(Ordering::Relaxed));
        if existed { RingError::Gone { secret, cause } } else { RingError::Missing { secret, cause } }
    }

    fn invalid(&self, cause: &impl ToString) -> RingError {
        RingError::Invalid { secret: self.secret.clone(), cause: cause.to_string() }
    }
}

/// Reads a secret; until `denied_until`, what IAM denies is retried.
pub(crate) async fn read_secret(client: &Client, id: &str, denied_until: Instant) -> Result<Secret, SecretError> {
    let is_denied = |error: &SecretError| matches!(error, SecretError::Denied(_));
    until_allowed(denied_until, is_denied, || secret::read(client, id)).await
}

/// Retries a call that IAM denies: new permissions take some seconds to take effect.
async fn until_allowed<T, E, F: Future<Output = Result<T, E>>>(
    until: Instant,
    is_denied: impl Fn(&E) -> bool,
    call: impl Fn() -> F,
) -> Result<T, E> {
    loop {
        match call().await {
            Err(error) if is_denied(&error) && Instant::now() + DENIED_PAUSE < until => {
                tokio::time::sleep(DENIED_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// The request token of the version after `version`: 32 hex digits.
fn token_after(version: Option<&str>) -> String {
    let mut token = hex::encode(Sha256::digest(format!("after {}", version.unwrap_or("nothing"))));
    token.truncate(32);
    token
}

#[cfg(test)]
mod tests {
    use unith_events::{ids::WebhookId, key_ring::document::NewKey, signature::SharedKey};

    use super::*;

    #[test]
    fn a_request_token_depends_on_the_version_and_has_32_to_64_characters() {
        assert_ne!(token_after(None), token_after(Some("x")));
        assert_eq!(token_after(Some("x")), token_after(Some("x")));
        assert!((32..=64).contains(&token_after(None).len()));
    }

    #[test]
    fn the_ring_of_a_hundred_heads_fits_during_a_rotation() {
        let mut ring = RingDocument::default();
        let now = Timestamp::parse("2026-01-16T10:00:00Z").unwrap();
        for head in 0..100 {
            let head_id = format!("8eab5b23-024a-45cb-a0e1-9d3ffd6c9{head:03}");
            let ids = [1_000_000 + head, 2_000_000 + head].map(WebhookId::from_number);
            for id in &ids {
                let new = NewKey {
                    head_id: head_id.parse().unwrap(),
                    webhook_id: Some(id.clone()),
                    key: SharedKey::parse(&"0".repeat(32)).unwrap(),
                    owner: Some("UnithWebhook@8d0b9a60-f2b1-11f0-9c2e-0a1b2c3d4e5f".into()),
                    previous_owner: None,
                    made_while_on: true,
                };
                ring.put_active(&new, now, now);
            }
            ring.retire(&head_id, &ids[0], now);
        }
        assert!(ring.bytes() < MAX_RING_BYTES, "{}", ring.bytes());
    }
}
