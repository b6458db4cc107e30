//! Writing the key ring: read, change, swap in if nobody else did meanwhile, read back.
//!
//! Secrets Manager has no conditional put, but it takes a `ClientRequestToken` once: with the token derived from the
//! version that was read, the second of two writers on the same version is refused, and starts over.
//!
//! What always holds: what we do not know in the document (entries, fields) is kept as it is; a retiring key past its
//! `until` is dropped with the next write.

use std::time::Duration;

use aws_sdk_secretsmanager::{Client, error::ProvideErrorMetadata, operation::put_secret_value::PutSecretValueError};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use shared::{
    aws,
    key_ring::{KeyRing, KeyState, RingKey, trimmed},
    signature::SharedKey,
    timestamp::Timestamp,
};

/// How often a change is begun anew because somebody else was first.
const MAX_ROUNDS: u32 = 20;
/// How often a written ring is looked for before we say that it cannot be read back.
const READ_BACKS: u32 = 20;
const READ_BACK_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE_MS: u64 = 150;

/// The key-ring secret.
#[derive(Debug, Clone)]
pub struct RingStore {
    client: Client,
    secret: String,
}

/// The ring's document as it was read.
#[derive(Clone)]
pub struct Document {
    fields: Map<String, Value>,
    version: Option<String>,
}

/// The ring could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// Secrets Manager refused.
    #[error("the key ring `{secret}` could not be {what}: {cause}")]
    Failed {
        /// The secret.
        secret: String,
        /// `read` or `written`.
        what: &'static str,
        /// Whether it is because the secret is not there, or about to be deleted.
        gone: bool,
        /// The SDK's error with its causes.
        cause: String,
    },
    /// The secret holds something else.
    #[error("the secret `{secret}` is no key ring ({cause}); it is left as it is: empty it, or name another one")]
    NoRing {
        /// The secret.
        secret: String,
        /// What is wrong with it.
        cause: String,
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

impl RingStore {
    /// The ring in `secret`, a name or an ARN.
    #[must_use]
    pub fn new(client: Client, secret: String) -> Self {
        Self { client, secret }
    }

    /// The document that is current.
    pub async fn read(&self) -> Result<Document, RingError> {
        let value = match self.client.get_secret_value().secret_id(&self.secret).send().await {
            Ok(value) => value,
            // A secret that has no value yet is an empty ring; one that is not there at all fails when it is written.
            Err(error) if error.code() == Some("ResourceNotFoundException") => {
                return Ok(Document { fields: empty(), version: None });
            }
            Err(error) => return Err(self.failed("read", &error)),
        };
        let text = value.secret_string().unwrap_or_default();
        let fields = parse(text).map_err(|cause| RingError::NoRing { secret: self.secret.clone(), cause })?;
        Ok(Document { fields, version: value.version_id().map(str::to_owned) })
    }

    /// Changes the ring with `change`, which is given what is there and may be called several times; a second call must
    /// find nothing left to do. Done when what was written can be read, or when there was nothing to change.
    pub async fn change(&self, now: Timestamp, change: impl Fn(&mut Document)) -> Result<(), RingError> {
        for _ in 0..MAX_ROUNDS {
            let before = self.read().await?;
            let Some(after) = before.changed(now, &change) else { return Ok(()) };
            let token = token_after(before.version.as_deref());
            let text = Value::Object(after.fields).to_string();
            let put = self.client.put_secret_value().secret_id(&self.secret).secret_string(text);
            match put.client_request_token(token).send().await {
                Ok(_) => return self.read_back(now, change).await,
                Err(error) => match error.as_service_error() {
                    Some(PutSecretValueError::ResourceExistsException(_)) => {}
                    _ => return Err(self.failed("written", &error)),
                },
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..LONGEST_PAUSE_MS))).await;
        }
        Err(RingError::Contended { secret: self.secret.clone() })
    }

    /// The same for a ring that may be gone, or about to be: then there is nothing to take out of it.
    pub async fn change_if_there(&self, now: Timestamp, change: impl Fn(&mut Document)) -> Result<(), RingError> {
        match self.change(now, change).await {
            Err(RingError::Failed { gone: true, .. }) => Ok(()),
            result => result,
        }
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

    fn failed<E>(&self, what: &'static str, error: &E) -> RingError
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let gone = matches!(error.code(), Some("ResourceNotFoundException" | "InvalidRequestException"));
        RingError::Failed { secret: self.secret.clone(), what, gone, cause: aws::causes(error) }
    }
}

/// The token of whatever comes after `version`: 32 hex digits.
fn token_after(version: Option<&str>) -> String {
    let mut token = hex::encode(Sha256::digest(format!("after {}", version.unwrap_or("nothing"))));
    token.truncate(32);
    token
}

fn empty() -> Map<String, Value> {
    Map::from_iter([("keys".to_owned(), Value::Array(Vec::new()))])
}

/// The document in a secret's text. The forms a secret made by hand may have become a ring with that one key.
fn parse(text: &str) -> Result<Map<String, Value>, String> {
    let text = trimmed(text);
    if text.is_empty() || text == "{}" {
        return Ok(empty());
    }
    let ring = KeyRing::parse(text).map_err(|error| error.to_string())?;
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) if fields.get("keys").is_some_and(Value::is_array) => Ok(fields),
        _ => {
            let by_hand = ring.keys().iter().map(|entry| json!({"key": entry.key.expose(), "state": "active"}));
            Ok(Map::from_iter([("keys".to_owned(), by_hand.collect())]))
        }
    }
}

impl Document {
    /// The document after a change, without keys whose time is over; `None` if that is what it is already.
    fn changed(&self, now: Timestamp, change: &impl Fn(&mut Self)) -> Option<Self> {
        let mut after = self.clone();
        change(&mut after);
        after.prune(now);
        (after.fields != self.fields).then_some(after)
    }

    /// The entries of a head that came with a webhook: the ones this function looks after.
    #[must_use]
    pub fn of_head(&self, head_id: &str) -> Vec<RingKey> {
        let entries: Vec<_> = self.entries().filter(|entry| is_of_head(entry, head_id)).cloned().collect();
        let ring = KeyRing::parse(&json!({"keys": entries}).to_string()).unwrap_or_default();
        ring.keys().to_vec()
    }

    /// Puts a webhook's key in as active. Another key that was there for it goes, and stays good until `until`.
    pub fn put_active(&mut self, head_id: &str, webhook_id: &str, key: &SharedKey, now: Timestamp, until: Timestamp) {
        let is_it = |entry: &Value| {
            is_of_webhook(entry, head_id, webhook_id) && entry.get("key").and_then(Value::as_str) == Some(key.expose())
        };
        let known = self.entries().find(|entry| is_it(entry)).and_then(Value::as_object);
        let mut entry = known.cloned().unwrap_or_default();
        if !entry.contains_key("since") {
            entry.insert("since".to_owned(), now.to_string().into());
        }
        entry.insert("head_id".to_owned(), head_id.into());
        entry
            .insert("webhook_id".to_owned(), webhook_id.parse::<u64>().map_or_else(|_| webhook_id.into(), Value::from));
        entry.insert("key".to_owned(), key.expose().into());
        entry.insert("state".to_owned(), KeyState::Active.as_str().into());
        entry.remove("until");
        let entry = Value::Object(entry);
        if !self.entries().filter(|entry| is_it(entry)).eq([&entry]) {
            self.retain(|entry| !is_it(entry));
            self.push(entry);
        }
        self.retire_where(until, |entry| is_of_webhook(entry, head_id, webhook_id) && !is_it(entry));
    }

    /// Lets a webhook's key go out of use at `until`; a key that was going already keeps its time.
    pub fn retire(&mut self, head_id: &str, webhook_id: &str, until: Timestamp) {
        self.retire_where(until, |entry| is_of_webhook(entry, head_id, webhook_id));
    }

    fn retire_where(&mut self, until: Timestamp, goes: impl Fn(&Value) -> bool) {
        for entry in self.entries_mut().filter(|entry| goes(entry)) {
            if entry.get("state").and_then(Value::as_str) == Some(KeyState::Retiring.as_str()) {
                continue;
            }
            if let Some(fields) = entry.as_object_mut() {
                fields.insert("state".to_owned(), KeyState::Retiring.as_str().into());
                fields.insert("until".to_owned(), until.to_string().into());
            }
        }
    }

    /// Takes all of a head's keys out that came with a webhook.
    pub fn remove_head(&mut self, head_id: &str) {
        self.retain(|entry| !is_of_head(entry, head_id));
    }

    fn prune(&mut self, now: Timestamp) {
        self.retain(|entry| {
            let retiring = entry.get("state").and_then(Value::as_str) == Some(KeyState::Retiring.as_str());
            let until = entry.get("until").and_then(Value::as_str).and_then(Timestamp::parse);
            !(retiring && until.is_some_and(|until| until <= now))
        });
    }

    fn entries(&self) -> impl Iterator<Item = &Value> {
        self.fields.get("keys").and_then(Value::as_array).into_iter().flatten()
    }

    fn entries_mut(&mut self) -> impl Iterator<Item = &mut Value> {
        self.fields.get_mut("keys").and_then(Value::as_array_mut).into_iter().flatten()
    }

    fn retain(&mut self, keep: impl Fn(&Value) -> bool) {
        if let Some(entries) = self.fields.get_mut("keys").and_then(Value::as_array_mut) {
            entries.retain(keep);
        }
    }

    fn push(&mut self, entry: Value) {
        if let Some(entries) = self.fields.get_mut("keys").and_then(Value::as_array_mut) {
            entries.push(entry);
        }
    }
}

/// An id as text, whether it stands there as text or as a number.
fn id_of(entry: &Value, name: &str) -> Option<String> {
    let id = entry.get(name)?;
    id.as_str().map(str::to_owned).or_else(|| id.as_u64().map(|id| id.to_string()))
}

fn is_of_head(entry: &Value, head_id: &str) -> bool {
    entry.get("webhook_id").is_some_and(|id| !id.is_null()) && id_of(entry, "head_id").as_deref() == Some(head_id)
}

fn is_of_webhook(entry: &Value, head_id: &str, webhook_id: &str) -> bool {
    is_of_head(entry, head_id) && id_of(entry, "webhook_id").as_deref() == Some(webhook_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-16T10:00:00Z";

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn document(text: &str) -> Document {
        Document { fields: parse(text).unwrap(), version: None }
    }

    fn key(text: &str) -> SharedKey {
        SharedKey::new(text).unwrap()
    }

    #[test]
    fn what_is_not_ours_is_kept() {
        let mut ring = document(
            r#"{"keys": [{"key": "by hand"}, {"head_id": "h", "key": "no webhook"}, "odd",
                {"head_id": "other", "webhook_id": 1, "key": "k", "note": "theirs"}], "version": 7}"#,
        );
        let before = ring.fields.clone();
        ring.put_active("h", "4", &key("k4"), at(NOW), at("2026-03-01T00:00:00Z"));
        ring.retire("h", "4", at("2026-01-16T11:00:00Z"));
        ring.remove_head("h");
        ring.prune(at("2027-01-01T00:00:00Z"));
        assert_eq!(ring.fields, before);
    }

    #[test]
    fn an_entry_is_put_retired_and_dropped() {
        let mut ring = document("");
        ring.put_active("h", "4", &key("k4"), at(NOW), at("2026-03-01T00:00:00Z"));
        ring.put_active("h", "4", &key("k4"), at("2026-02-01T00:00:00Z"), at("2026-03-01T00:00:00Z"));
        let expected = json!({"head_id": "h", "webhook_id": 4, "key": "k4", "state": "active", "since": "2026-01-16T10:00:00.000Z"});
        assert_eq!(ring.entries().collect::<Vec<_>>(), [&expected], "the same key again is no change");

        let mut renewed = ring.clone();
        renewed.put_active("h", "4", &key("new"), at(NOW), at("2026-01-16T10:15:00Z"));
        let states: Vec<_> =
            renewed.of_head("h").iter().map(|entry| (entry.key.expose().to_owned(), entry.state)).collect();
        assert_eq!(states, [("k4".to_owned(), KeyState::Retiring), ("new".to_owned(), KeyState::Active)]);

        ring.retire("h", "4", at("2026-01-16T10:15:00Z"));
        ring.retire("h", "4", at("2026-01-16T12:00:00Z"));
        let [entry] = ring.of_head("h").try_into().unwrap();
        assert_eq!((entry.state, entry.until), (KeyState::Retiring, Some(at("2026-01-16T10:15:00Z"))));
        ring.prune(at("2026-01-16T10:14:59Z"));
        assert_eq!(ring.entries().count(), 1);
        ring.prune(at("2026-01-16T10:15:00Z"));
        assert_eq!(ring.entries().count(), 0);
    }

    #[test]
    fn secrets_made_by_hand_become_rings_and_nonsense_stays() {
        for text in ["cbaab87d", r#"{"sharedKey": "cbaab87d"}"#] {
            let ring = document(text);
            assert_eq!(ring.entries().collect::<Vec<_>>(), [&json!({"key": "cbaab87d", "state": "active"})]);
        }
        let marked = document("\u{feff}{\"keys\": [{\"head_id\": \"h\", \"webhook_id\": 4, \"key\": \"k\"}]}");
        assert_eq!(marked.of_head("h").len(), 1, "a byte-order mark changes nothing");
        assert!(parse(r#"{"password": "x"}"#).is_err());
        assert_eq!(parse("{}").unwrap(), empty());
    }

    #[test]
    fn a_token_belongs_to_the_version_it_follows() {
        assert_eq!(token_after(Some("a")), token_after(Some("a")));
        assert_ne!(token_after(Some("a")), token_after(Some("b")));
        assert_ne!(token_after(None), token_after(Some("a")));
        assert_eq!(token_after(None).len(), 32);
    }
}
