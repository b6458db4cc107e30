//! Writing the key ring: read, change, swap in if nobody else did meanwhile, read back.
//!
//! Secrets Manager has no conditional put, but it takes a `ClientRequestToken` once: with the token derived from the
//! version that was read, the second of two runs on the same version is refused, and starts over. Somebody who writes in
//! the console uses no such token: that is found out behind the write, by the version it replaced, and their text is
//! taken for the one to change.
//!
//! What always holds: what we do not know in the document (entries, members, the spelling of numbers) is kept as it is; a
//! retiring key past its `until` is dropped with the next write; a run whose owner was deleted meanwhile writes nothing.

use std::{
    collections::BTreeMap,
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
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use unith_events::{
    ids::WebhookId,
    json::Object,
    key_ring::{KeyRing, KeyState, RingKey},
    signature::{SharedKey, trimmed},
    timestamp::Timestamp,
};

/// How often a change is begun anew because somebody else was first.
const MAX_ROUNDS: u32 = 20;
/// How often a written ring is looked for before we say that it cannot be read back.
const READ_BACKS: u32 = 20;
const READ_BACK_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE_MS: u64 = 150;
/// How often a permission is asked for that may be about to come.
const DENIED_PAUSE: Duration = Duration::from_millis(500);
/// The largest ring a run makes. Secrets Manager takes 65,536 bytes; the rest is room for what others write.
pub const MAX_RING_BYTES: usize = 60_000;
/// How long it is remembered that a resource was deleted: no run lasts longer, and no request comes later.
const DELETION_IS_KEPT: time::Duration = time::Duration::hours(24);

/// The key-ring secret.
#[derive(Debug, Clone)]
pub struct RingStore {
    client: Client,
    secret: String,
    /// Whether it was there in this run: what is not there later was deleted meanwhile.
    was_there: Arc<AtomicBool>,
    /// When the owner had been deleted by the first look at the ring.
    first_mark: Arc<OnceLock<Option<Timestamp>>>,
    guard: Option<Guard>,
    /// Until when a refusal by IAM is not believed.
    denied_until: Instant,
}

/// Whose run it is, and when it was asked for: it must write nothing if that owner was deleted later than that.
#[derive(Debug, Clone)]
pub struct Guard {
    /// The resource, e.g. `UnithWebhook@6a5b1f00-…`.
    pub owner: String,
    /// When the run was asked for.
    pub issued_at: Timestamp,
}

/// The ring could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RingError {
    /// Secrets Manager refused.
    #[error("the key ring `{secret}` could not be {what}: {cause}{hint}")]
    Failed {
        /// The secret.
        secret: String,
        /// `read` or `written`.
        what: &'static str,
        /// The SDK's error with its causes.
        cause: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// The secret is not there any more, or about to be deleted.
    #[error("deleted meanwhile: the key ring `{secret}` is gone: {cause}")]
    Gone {
        /// The secret.
        secret: String,
        /// The SDK's error with its causes.
        cause: String,
    },
    /// The secret was not there in this run.
    #[error("the key ring `{secret}` does not exist: {cause}; create the secret, or see UNITH_KEYS_SECRET")]
    Missing {
        /// The secret.
        secret: String,
        /// The SDK's error with its causes.
        cause: String,
    },
    /// The secret holds something else.
    #[error("the secret `{secret}` is not a key ring ({cause}); it is left as it is: empty it, or name another one")]
    NoRing {
        /// The secret.
        secret: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The resource that this run is for was deleted.
    #[error("deleted meanwhile: {owner} was deleted at {at}, after this run was asked for")]
    DeletedMeanwhile {
        /// The resource.
        owner: String,
        /// When its deletion was asked for.
        at: Timestamp,
    },
    /// The ring would not fit.
    #[error(
        "the key ring would have {bytes} bytes, and the limit is {MAX_RING_BYTES}: look after fewer heads, or wait until retired keys are dropped"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Somebody else wrote, again and again.
    #[error(
        "the key ring `{secret}` was changed by somebody else {MAX_ROUNDS} times in a row; run this again. If that does \
         not help, an older version was made the current one: put its text back as a new version"
    )]
    Contended {
        /// The secret.
        secret: String,
    },
    /// It was written, and is not there.
    #[error("the key ring `{secret}` was written, but cannot be read back yet; run this again")]
    NotReadBack {
        /// The secret.
        secret: String,
    },
}

impl RingError {
    /// Whether there is no ring, so that nothing in it is ours.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Missing { .. } | Self::NoRing { .. })
    }

    /// Whether what the run was for is gone.
    #[must_use]
    pub fn is_deletion(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::DeletedMeanwhile { .. })
    }
}

impl RingStore {
    /// The ring in `secret`, a name or an ARN.
    #[must_use]
    pub fn new(client: Client, secret: String) -> Self {
        let denied_until = Instant::now();
        Self { client, secret, was_there: Arc::default(), first_mark: Arc::default(), guard: None, denied_until }
    }

    /// The same ring, for a run that asks again until then where IAM refuses.
    #[must_use]
    pub fn denied_until(self, denied_until: Instant) -> Self {
        Self { denied_until, ..self }
    }

    /// The same ring, for a run that ends where its owner was deleted.
    #[must_use]
    pub fn guarded(&self, guard: Option<Guard>) -> Self {
        Self { guard, ..self.clone() }
    }

    /// The document that is current. A secret that has no value yet is an empty ring; one that is not there at all fails
    /// when it is written.
    pub async fn read(&self) -> Result<Document, RingError> {
        match read_secret(&self.client, &self.secret, self.denied_until).await {
            Ok(secret) => {
                self.was_there.store(true, Ordering::Relaxed);
                self.document(&secret)
            }
            Err(SecretError::Missing { is_deleted: false, .. }) if !self.was_there.load(Ordering::Relaxed) => {
                Ok(Document::default())
            }
            Err(SecretError::Missing { cause, .. }) => Err(self.not_there(cause)),
            Err(SecretError::NotText) => Err(self.no_ring(SecretError::NotText.to_string())),
            Err(SecretError::Denied(cause) | SecretError::Failed(cause)) => Err(self.failed("read", cause, "")),
        }
    }

    /// The same, if the run's owner is still there.
    pub async fn read_guarded(&self) -> Result<Document, RingError> {
        let document = self.read().await?;
        self.check_guard(&document)?;
        Ok(document)
    }

    fn document(&self, secret: &Secret) -> Result<Document, RingError> {
        Document::parse(&secret.text, secret.version.clone()).map_err(|cause| self.no_ring(cause))
    }

    fn check_guard(&self, document: &Document) -> Result<(), RingError> {
        let Some(guard) = &self.guard else { return Ok(()) };
        let mark = document.deleted_at(&guard.owner);
        let first = *self.first_mark.get_or_init(|| mark);
        // CloudFormation's times have whole seconds: a mark that appears during the run may be as late as the run, and one
        // that was there before is earlier.
        let appeared = |at: &Timestamp| Some(*at) != first && *at >= guard.issued_at.whole_second();
        match mark.filter(|at| *at > guard.issued_at || appeared(at)) {
            Some(at) => Err(RingError::DeletedMeanwhile { owner: guard.owner.clone(), at }),
            None => Ok(()),
        }
    }

    /// Changes the ring with `change`, which is given what is there and may be called several times; a second call must
    /// find nothing left to do. Done when what was written can be read, or when there was nothing to change. The size
    /// after the change is the caller's to see to; Secrets Manager refuses what it does not take.
    ///
    /// Whether there were keys in the ring before is the result.
    ///
    /// # Errors
    /// A ring that cannot be read or written, or one whose owner was deleted.
    pub async fn change(&self, now: Timestamp, change: impl Fn(&mut Document)) -> Result<bool, RingError> {
        let mut theirs = None;
        for _ in 0..MAX_ROUNDS {
            let before = match theirs.take() {
                Some(document) => document,
                None => self.read().await?,
            };
            self.check_guard(&before)?;
            let had_keys = !before.is_empty();
            let Some(after) = before.changed(now, &change) else { return Ok(had_keys) };
            let token = token_after(before.version.as_deref());
            let put = self.client.put_secret_value().secret_id(&self.secret).secret_string(after.to_text());
            let put = put.client_request_token(&token);
            match until_allowed(self.denied_until, aws::is_denied, || put.clone().send()).await {
                Ok(_) => {
                    theirs = self.written_meanwhile(&before, &token).await;
                    if theirs.is_none() {
                        self.read_back(now, change).await?;
                        return Ok(had_keys);
                    }
                    tracing::warn!(
                        secret = self.secret.as_str(),
                        "the key ring was edited by hand during this run; the edit is kept"
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

    /// What somebody wrote between our reading and our writing, without a token like ours: the version that ours replaced
    /// is then not the one that was read. Our change is made once more, on theirs.
    async fn written_meanwhile(&self, before: &Document, token: &str) -> Option<Document> {
        let previous = secret::read_previous(&self.client, &self.secret).await.ok()??;
        let version = previous.version.as_deref()?;
        if version == token || Some(version) == before.version.as_deref() {
            return None;
        }
        let mut document = self.document(&previous).ok()?;
        document.version = Some(token.to_owned());
        document.is_replaced = true;
        Some(document)
    }

    /// Waits until what is current has the change in it; receivers read the same.
    async fn read_back(&self, now: Timestamp, change: impl Fn(&mut Document)) -> Result<(), RingError> {
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
            Some("ResourceNotFoundException" | "InvalidRequestException") => self.not_there(cause),
            Some("LimitExceededException") => {
                let hint =
                    "; a secret keeps 100 versions, and none is dropped before it is 24 h old: run this again later";
                self.failed("written", cause, hint)
            }
            _ => self.failed("written", cause, ""),
        }
    }

    fn failed(&self, what: &'static str, cause: String, hint: &'static str) -> RingError {
        RingError::Failed { secret: self.secret.clone(), what, cause, hint }
    }

    fn not_there(&self, cause: String) -> RingError {
        let secret = self.secret.clone();
        if self.was_there.load(Ordering::Relaxed) {
            RingError::Gone { secret, cause }
        } else {
            RingError::Missing { secret, cause }
        }
    }

    fn no_ring(&self, cause: String) -> RingError {
        RingError::NoRing { secret: self.secret.clone(), cause }
    }
}

/// Reads a secret; until then, again where IAM refuses.
pub(crate) async fn read_secret(client: &Client, id: &str, denied_until: Instant) -> Result<Secret, SecretError> {
    let is_denied = |error: &SecretError| matches!(error, SecretError::Denied(_));
    until_allowed(denied_until, is_denied, || secret::read(client, id)).await
}

/// Asks again while IAM refuses: for some seconds after a change of permissions it refuses what it allows from then on.
async fn until_allowed<T, E, F: Future<Output = Result<T, E>>>(
    until: Instant,
    is_denied: impl Fn(&E) -> bool,
    ask: impl Fn() -> F,
) -> Result<T, E> {
    loop {
        match ask().await {
            Err(error) if is_denied(&error) && Instant::now() + DENIED_PAUSE < until => {
                tokio::time::sleep(DENIED_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// The token of whatever comes after `version`: 32 hex digits.
fn token_after(version: Option<&str>) -> String {
    let mut token = hex::encode(Sha256::digest(format!("after {}", version.unwrap_or("nothing"))));
    token.truncate(32);
    token
}

/// The ring's document as it was read. It holds keys, so it has no `Debug`.
#[derive(Clone, Default)]
pub struct Document {
    members: BTreeMap<String, Box<RawValue>>,
    entries: Vec<Entry>,
    deletions: Vec<Box<RawValue>>,
    version: Option<String>,
    /// Whether another version is current by now, so that also an unchanged text has to be written.
    is_replaced: bool,
}

/// An entry: its text, and what it says where it can be used.
#[derive(Clone)]
struct Entry {
    json: Box<RawValue>,
    key: Option<RingKey>,
}

/// A key to be put into the ring.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// The head it is for.
    pub head_id: String,
    /// The webhook it came with; `None` for one that UNITH does not list yet.
    pub webhook_id: Option<WebhookId>,
    /// The key.
    pub key: SharedKey,
    /// Who looks after the webhook.
    pub owner: Option<String>,
    /// Who did before, and may have it back.
    pub previous_owner: Option<String>,
    /// Whether it was registered while the head's events were on.
    pub made_while_on: bool,
}

impl Entry {
    fn new(json: Box<RawValue>) -> Self {
        let key = RingKey::parse(json.get()).ok();
        Self { json, key }
    }

    /// Changes members; one that is set to `None` goes. What is not an object stays as it is.
    fn set<'m>(&mut self, members: impl IntoIterator<Item = (&'m str, Option<Box<RawValue>>)>) {
        let Ok(mut own) = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(self.json.get()) else { return };
        for (name, value) in members {
            match value {
                Some(value) => own.insert(name.to_owned(), value),
                None => own.remove(name),
            };
        }
        if let Some(json) = raw(&own) {
            *self = Self::new(json);
        }
    }

    fn is_of(&self, head_id: &str) -> bool {
        self.key
            .as_ref()
            .is_some_and(|key| is_looked_after(key, self.json.get()) && key.head_id.as_deref() == Some(head_id))
    }

    fn is_of_webhook(&self, head_id: &str, id: Option<&WebhookId>) -> bool {
        self.is_of(head_id) && self.key.as_ref().is_some_and(|key| key.webhook_id.as_ref() == id)
    }
}

/// Whether an entry came with a webhook, be it one without an id yet. Keys that somebody put in by hand have none.
fn is_looked_after(key: &RingKey, json: &str) -> bool {
    key.webhook_id.is_some() || Object::parse(json).is_ok_and(|entry| entry.get("webhook_id").is_some())
}

fn raw(value: &impl Serialize) -> Option<Box<RawValue>> {
    to_raw_value(value).ok()
}

impl Document {
    /// The document in a secret's text. The forms a secret made by hand may have become a ring with that one key.
    fn parse(text: &str, version: Option<String>) -> Result<Self, String> {
        let text = trimmed(text);
        if text.is_empty() || text == "{}" {
            return Ok(Self { version, ..Self::default() });
        }
        let ring = KeyRing::parse(text).map_err(|error| error.to_string())?;
        let mut members: BTreeMap<String, Box<RawValue>> = if text.starts_with('{') {
            serde_json::from_str(text).map_err(|_| "a member's name is not Unicode text".to_owned())?
        } else {
            BTreeMap::new()
        };
        let list = |value: Option<Box<RawValue>>| {
            let value = value.filter(|value| value.get() != "null");
            value.map(|value| serde_json::from_str::<Vec<Box<RawValue>>>(value.get())).transpose()
        };
        let entries = list(members.remove("keys")).map_err(|_| "its `keys` is not a list")?.unwrap_or_else(|| {
            members.retain(|name, _| name != "sharedKey" && name != "head_id");
            let entry = |key: &RingKey| {
                let mut entry = BTreeMap::from([("key", key.key.expose()), ("state", KeyState::Active.as_str())]);
                entry.extend(key.head_id.as_deref().map(|head_id| ("head_id", head_id)));
                raw(&entry)
            };
            ring.keys().iter().filter_map(entry).collect()
        });
        let deletions = list(members.remove("deleted")).map_err(|_| "its `deleted` is not a list")?.unwrap_or_default();
        let entries = entries.into_iter().map(Entry::new).collect();
        Ok(Self { members, entries, deletions, version, is_replaced: false })
    }

    fn to_text(&self) -> String {
        let mut members: BTreeMap<&str, Box<RawValue>> =
            self.members.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        members
            .extend(raw(&self.entries.iter().map(|entry| &entry.json).collect::<Vec<_>>()).map(|keys| ("keys", keys)));
        if !self.deletions.is_empty() {
            members.extend(raw(&self.deletions).map(|deleted| ("deleted", deleted)));
        }
        serde_json::to_string(&members).unwrap_or_default()
    }

    /// Its size as it would be written, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.to_text().len()
    }

    /// The document after a change, without keys whose time is over; `None` if that is what it is already.
    fn changed(&self, now: Timestamp, change: &impl Fn(&mut Self)) -> Option<Self> {
        let mut after = self.clone();
        change(&mut after);
        after.prune(now);
        (self.is_replaced || after.to_text() != self.to_text()).then_some(after)
    }

    /// How large it would be after a change.
    #[must_use]
    pub fn bytes_after(&self, now: Timestamp, change: impl Fn(&mut Self)) -> usize {
        self.changed(now, &change).as_ref().unwrap_or(self).bytes()
    }

    /// Whether there is any key in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All keys that can be used or could be.
    pub fn keys(&self) -> impl Iterator<Item = &RingKey> {
        self.entries.iter().filter_map(|entry| entry.key.as_ref())
    }

    /// The entries of a head that came with a webhook: the ones this function looks after.
    #[must_use]
    pub fn of_head(&self, head_id: &str) -> Vec<RingKey> {
        self.entries.iter().filter(|entry| entry.is_of(head_id)).filter_map(|entry| entry.key.clone()).collect()
    }

    /// The heads of the entries that a resource looks after, each once.
    #[must_use]
    pub fn heads_of(&self, owner: &str) -> Vec<String> {
        let mut heads: Vec<String> = Vec::new();
        for key in self.keys().filter(|key| key.owner.as_deref() == Some(owner)) {
            heads.extend(key.head_id.clone().map(String::from).filter(|head| !heads.contains(head)));
        }
        heads
    }

    /// Puts a webhook's key in as active. Another key that was there for it is kept as retiring until `until`, and an
    /// entry with this key for a webhook that was not listed becomes this one.
    pub fn put_active(&mut self, new: &NewKey, now: Timestamp, until: Timestamp) {
        let has_key = |entry: &Entry| entry.key.as_ref().is_some_and(|key| key.key.expose() == new.key.expose());
        let id = new.webhook_id.as_ref();
        let is_it = |entry: &Entry| {
            has_key(entry) && (entry.is_of_webhook(&new.head_id, id) || entry.is_of_webhook(&new.head_id, None))
        };
        self.retire_where(until, |entry| id.is_some() && entry.is_of_webhook(&new.head_id, id) && !has_key(entry));
        let at = self.entries.iter().position(is_it).unwrap_or_else(|| {
            self.entries.extend(raw(&BTreeMap::<&str, &str>::new()).map(Entry::new));
            self.entries.len() - 1
        });
        let Some(entry) = self.entries.get_mut(at) else { return };
        let since = entry.key.as_ref().and_then(|key| key.since).unwrap_or(now);
        entry.set([
            ("since", raw(&since.to_string())),
            ("head_id", raw(&new.head_id)),
            ("webhook_id", id.map_or_else(|| raw(&None::<u8>), |id| Some(id.as_json().to_owned()))),
            ("key", raw(&new.key.expose())),
            ("state", raw(&KeyState::Active.as_str())),
            ("until", None),
            ("owner", new.owner.as_ref().and_then(raw)),
            ("previous_owner", new.previous_owner.as_ref().and_then(raw)),
            ("made_while_on", raw(&new.made_while_on)),
        ]);
        let mut is_first = true;
        // The same key twice for one webhook says nothing more.
        self.entries.retain(|entry| !is_it(entry) || std::mem::take(&mut is_first));
    }

    /// Says who looks after a webhook now, and who did before.
    pub fn set_owner(&mut self, head_id: &str, id: &WebhookId, owner: Option<&str>, previous_owner: Option<&str>) {
        for entry in self.entries.iter_mut().filter(|entry| entry.is_of_webhook(head_id, Some(id))) {
            entry.set([
                ("owner", owner.as_ref().and_then(raw)),
                ("previous_owner", previous_owner.as_ref().and_then(raw)),
            ]);
        }
    }

    /// Gives back what `owner` took over from others, and forgets that others took over from `owner`: that is what its
    /// deletion means to those entries.
    pub fn hand_over_from(&mut self, owner: &str) {
        for entry in &mut self.entries {
            let Some(key) = entry.key.clone() else { continue };
            match (key.owner.as_deref(), key.previous_owner.as_deref()) {
                (Some(own), Some(previous)) if own == owner => {
                    entry.set([("owner", raw(&previous)), ("previous_owner", None)]);
                }
                (_, Some(previous)) if previous == owner => entry.set([("previous_owner", None)]),
                _ => {}
            }
        }
    }

    /// Lets a webhook's key go out of use at `until`; a key that was going already keeps its time.
    pub fn retire(&mut self, head_id: &str, id: &WebhookId, until: Timestamp) {
        self.retire_where(until, |entry| entry.is_of_webhook(head_id, Some(id)));
    }

    /// The same for the keys of registrations that never came to be listed, but for this one.
    pub fn retire_unlisted(&mut self, head_id: &str, but: &str, until: Timestamp) {
        let is_other = |entry: &Entry| entry.key.as_ref().is_some_and(|key| key.key.expose() != but);
        self.retire_where(until, |entry| entry.is_of_webhook(head_id, None) && is_other(entry));
    }

    fn retire_where(&mut self, until: Timestamp, goes: impl Fn(&Entry) -> bool) {
        for entry in self.entries.iter_mut().filter(|entry| goes(entry)) {
            if entry.key.as_ref().is_some_and(|key| key.state == KeyState::Active) {
                entry.set([("state", raw(&KeyState::Retiring.as_str())), ("until", raw(&until.to_string()))]);
            }
        }
    }

    /// Takes a head's keys out for which `goes` says so. Those that came with no webhook stay.
    pub fn remove(&mut self, head_id: &str, goes: impl Fn(&RingKey) -> bool) {
        self.entries.retain(|entry| !(entry.is_of(head_id) && entry.key.as_ref().is_some_and(&goes)));
    }

    /// When `owner` was deleted, if that is remembered.
    #[must_use]
    pub fn deleted_at(&self, owner: &str) -> Option<Timestamp> {
        self.deletions
            .iter()
            .filter_map(|deletion| deletion_of(deletion))
            .filter(|(own, _)| own == owner)
            .map(|(_, at)| at)
            .max()
    }

    /// Remembers that `owner` was deleted; an earlier deletion does not make a later one forgotten.
    pub fn mark_deleted(&mut self, owner: &str, at: Timestamp) {
        if self.deleted_at(owner).is_some_and(|known| known >= at) {
            return;
        }
        self.unmark_deleted(owner, at);
        self.deletions.extend(raw(&BTreeMap::from([("owner", owner.to_owned()), ("at", at.to_string())])));
    }

    /// Forgets a deletion of `owner` that is not later than `by`: it was created anew then.
    pub fn unmark_deleted(&mut self, owner: &str, by: Timestamp) {
        self.deletions.retain(|deletion| deletion_of(deletion).is_none_or(|(own, at)| own != owner || at > by));
    }

    fn prune(&mut self, now: Timestamp) {
        let is_over = |key: &RingKey| key.state == KeyState::Retiring && key.until.is_some_and(|until| until <= now);
        self.entries.retain(|entry| !entry.key.as_ref().is_some_and(is_over));
        let is_kept = |at: Timestamp| now.since(at) < DELETION_IS_KEPT;
        self.deletions.retain(|deletion| deletion_of(deletion).is_none_or(|(_, at)| is_kept(at)));
    }
}

fn deletion_of(deletion: &RawValue) -> Option<(String, Timestamp)> {
    let deletion = Object::parse(deletion.get()).ok()?;
    Some((deletion.text("owner")?.into_owned(), Timestamp::parse(&deletion.text("at")?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: &str = "2026-01-16T10:00:00Z";
    const K1: &str = "cbaab87d1cce6d79baad8e9e2607feb3";
    const K2: &str = "0f3c5d7e9a1b2c4d6e8f0a1b2c3d4e5f";

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn document(text: &str) -> Document {
        Document::parse(text, None).unwrap()
    }

    fn id(json: &str) -> WebhookId {
        WebhookId::from_json(&RawValue::from_string(json.to_owned()).unwrap()).unwrap()
    }

    fn new(webhook_id: Option<&str>, key: &str) -> NewKey {
        NewKey {
            head_id: "h".into(),
            webhook_id: webhook_id.map(id),
            key: SharedKey::parse(key).unwrap(),
            owner: Some("W@1".into()),
            previous_owner: None,
            made_while_on: true,
        }
    }

    fn entries(ring: &Document) -> Value {
        serde_json::from_str::<Value>(&ring.to_text()).unwrap()["keys"].clone()
    }

    #[test]
    fn what_is_not_ours_is_kept_to_the_letter() {
        let text = format!(
            r#"{{"keys":[{{"key":"{K1}"}},{{"head_id":"h","key":"{K1}"}},"odd",{{"key":"short"}},{{"head_id":"other","webhook_id":1,"key":"{K1}","note":1e999}}],"version":12345678901234567890123}}"#
        );
        let mut ring = document(&text);
        ring.put_active(&new(Some("4"), K2), at(NOW), at("2026-03-01T00:00:00Z"));
        ring.retire("h", &id("4"), at("2026-01-16T11:00:00Z"));
        ring.remove("h", |_| true);
        ring.mark_deleted("W@1", at("2026-01-01T00:00:00Z"));
        ring.prune(at("2027-01-01T00:00:00Z"));
        assert_eq!(ring.to_text(), text);
    }

    #[test]
    fn an_entry_is_put_retired_and_dropped() {
        let mut ring = document("");
        ring.put_active(&new(Some("4"), K1), at(NOW), at("2026-03-01T00:00:00Z"));
        ring.put_active(&new(Some("4"), K1), at("2026-02-01T00:00:00Z"), at("2026-03-01T00:00:00Z"));
        let expected = json!([{
            "head_id": "h", "webhook_id": 4, "key": K1, "state": "active", "since": "2026-01-16T10:00:00.000Z",
            "owner": "W@1", "made_while_on": true,
        }]);
        assert_eq!(entries(&ring), expected, "the same key again is no change");

        let mut renewed = ring.clone();
        renewed.put_active(&new(Some("4"), K2), at(NOW), at("2026-01-16T10:15:00Z"));
        let states: Vec<_> =
            renewed.of_head("h").iter().map(|entry| (entry.key.expose().to_owned(), entry.state)).collect();
        assert_eq!(states, [(K1.to_owned(), KeyState::Retiring), (K2.to_owned(), KeyState::Active)]);

        ring.retire("h", &id("4"), at("2026-01-16T10:15:00Z"));
        ring.retire("h", &id("4"), at("2026-01-16T12:00:00Z"));
        let [entry] = ring.of_head("h").try_into().unwrap();
        assert_eq!((entry.state, entry.until), (KeyState::Retiring, Some(at("2026-01-16T10:15:00Z"))));
        ring.prune(at("2026-01-16T10:14:59Z"));
        assert_eq!(ring.entries.len(), 1);
        ring.prune(at("2026-01-16T10:15:00Z"));
        assert_eq!(ring.entries.len(), 0);
    }

    #[test]
    fn an_id_keeps_its_spelling_in_the_ring() {
        for spelling in ["4", r#""000123""#, "123456789012345678901234567890"] {
            let mut ring = document("");
            ring.put_active(&new(Some(spelling), K1), at(NOW), at(NOW));
            assert!(ring.to_text().contains(&format!("\"webhook_id\":{spelling}}}")), "{}", ring.to_text());
            ring.put_active(&new(Some(spelling), K1), at(NOW), at(NOW));
            assert_eq!(ring.entries.len(), 1, "{spelling}");
        }
    }

    #[test]
    fn a_registration_without_an_id_gets_one_when_it_is_listed() {
        let mut ring = document("");
        ring.put_active(&new(None, K1), at(NOW), at(NOW));
        assert_eq!((entries(&ring)[0]["webhook_id"].is_null(), ring.of_head("h").len()), (true, 1));
        ring.put_active(&new(Some("4"), K1), at("2026-01-17T10:00:00Z"), at(NOW));
        assert_eq!((ring.entries.len(), entries(&ring)[0]["webhook_id"].clone()), (1, json!(4)));
        assert_eq!(entries(&ring)[0]["since"], "2026-01-16T10:00:00.000Z");
        let mut never = document("");
        never.put_active(&new(None, K1), at(NOW), at(NOW));
        never.retire_unlisted("h", K1, at("2026-01-16T10:15:00Z"));
        assert_eq!(entries(&never)[0]["state"], "active");
        never.retire_unlisted("h", K2, at("2026-01-16T10:15:00Z"));
        assert_eq!(entries(&never)[0]["state"], "retiring");
    }

    #[test]
    fn a_deletion_hands_over_what_was_taken_over() {
        let mut ring = document("");
        let taken = NewKey { previous_owner: Some("Old@1".into()), ..new(Some("4"), K1) };
        ring.put_active(&taken, at(NOW), at(NOW));
        let mut old_is_deleted = ring.clone();
        old_is_deleted.hand_over_from("Old@1");
        let owners = |ring: &Document| ring.of_head("h").pop().map(|key| (key.owner, key.previous_owner)).unwrap();
        assert_eq!(owners(&old_is_deleted), (Some("W@1".into()), None));
        ring.hand_over_from("W@1");
        assert_eq!(owners(&ring), (Some("Old@1".into()), None));
        ring.hand_over_from("W@1");
        assert_eq!(owners(&ring), (Some("Old@1".into()), None));
    }

    #[test]
    fn a_deletion_is_remembered_for_a_day_and_forgotten_by_a_later_creation() {
        let mut ring = document(r#"{"keys": [], "deleted": [{"owner": "W@1", "at": "soon"}]}"#);
        let (first, second) = (at("2026-01-16T09:00:00Z"), at("2026-01-16T09:30:00Z"));
        ring.mark_deleted("W@1", second);
        ring.mark_deleted("W@1", first);
        assert_eq!((ring.deleted_at("W@1"), ring.deleted_at("W@2")), (Some(second), None));
        ring.unmark_deleted("W@1", first);
        assert_eq!(ring.deleted_at("W@1"), Some(second), "it was asked for before that");
        let mut created = ring.clone();
        created.unmark_deleted("W@1", second);
        assert_eq!(created.deleted_at("W@1"), None);
        ring.prune(at("2026-01-17T09:29:59Z"));
        assert_eq!(ring.deleted_at("W@1"), Some(second));
        ring.prune(at("2026-01-17T09:30:00Z"));
        assert_eq!(ring.deleted_at("W@1"), None);
        assert!(ring.to_text().contains("soon"), "what is not ours is kept");
    }

    #[test]
    fn secrets_made_by_hand_become_rings_and_nonsense_stays() {
        for text in [K1.to_owned(), format!(r#"{{"sharedKey": "{K1}"}}"#)] {
            assert_eq!(entries(&document(&text)), json!([{"key": K1, "state": "active"}]));
        }
        let noted = document(&format!(r#"{{"sharedKey": "{K1}", "head_id": "h", "note": 1e999}}"#));
        let expected = format!(r#"{{"keys":[{{"head_id":"h","key":"{K1}","state":"active"}}],"note":1e999}}"#);
        assert_eq!(noted.to_text(), expected);
        let marked = format!("\u{feff}{{\"keys\": [{{\"head_id\": \"h\", \"webhook_id\": 4, \"key\": \"{K1}\"}}]}}");
        assert_eq!(document(&marked).of_head("h").len(), 1, "a byte-order mark changes nothing");
        assert!(Document::parse(r#"{"password": "x"}"#, None).is_err());
        assert_eq!(entries(&document("{}")), json!([]));
        assert_eq!(entries(&document(" \n")), json!([]));
    }

    #[test]
    fn tokens_differ_by_version_and_are_as_long_as_the_service_wants() {
        assert_ne!(token_after(None), token_after(Some("x")));
        assert_eq!(token_after(Some("x")), token_after(Some("x")));
        assert!((32..=64).contains(&token_after(None).len()));
    }

    /// A hundred heads, each with a key in use and one that goes, fit.
    #[test]
    fn the_ring_of_a_hundred_heads_fits_while_all_are_rotated() {
        let mut ring = document("");
        for head in 0..100 {
            for (number, key) in [(1_000_000 + head, K1), (2_000_000 + head, K2)] {
                let owner = "UnithWebhook@8d0b9a60-f2b1-11f0-9c2e-0a1b2c3d4e5f".to_owned();
                let new = NewKey {
                    head_id: format!("8eab5b23-024a-45cb-a0e1-9d3ffd6c9{head:03}"),
                    owner: Some(owner),
                    ..new(Some(&number.to_string()), key)
                };
                ring.put_active(&new, at(NOW), at(NOW));
            }
            ring.retire(
                &format!("8eab5b23-024a-45cb-a0e1-9d3ffd6c9{head:03}"),
                &id(&(1_000_000 + head).to_string()),
                at(NOW),
            );
        }
        assert!(ring.bytes() < MAX_RING_BYTES, "{}", ring.bytes());
    }
}
