//! The key ring: the shared keys a delivery may be signed with, as the Secrets Manager secret holds them.
//!
//! ```json
//! {"keys": [{"head_id": "8eab5b23-…", "webhook_id": 4, "key": "cbaab87d…", "state": "active", "since": "2026-01-16T09:56:12Z"},
//!           {"head_id": "8eab5b23-…", "webhook_id": 3, "key": "0f3c…", "state": "retiring", "until": "2026-01-16T11:00:00Z"}]}
//! ```
//!
//! A secret made by hand may also be the bare key, or `{"sharedKey": "…"}`; such a key is good for any head.
//!
//! Reading is lenient by entry and strict by document: an entry that cannot be used is left out and reported, so that
//! one bad entry does not take the others down; a document of another shape is an error, and never a key.

use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use zeroize::Zeroizing;

use crate::{signature::SharedKey, timestamp::Timestamp};

/// The keys of one secret, in its order.
#[derive(Debug, Clone, Default)]
pub struct KeyRing {
    keys: Vec<RingKey>,
    left_out: Vec<String>,
}

/// One entry of the ring.
#[derive(Debug, Clone)]
pub struct RingKey {
    /// The key.
    pub key: SharedKey,
    /// The head whose events it signs; `None` where it is good for any head.
    pub head_id: Option<String>,
    /// UNITH's id of the webhook it came with, where known.
    pub webhook_id: Option<String>,
    /// Whether a rotation is taking it out of use.
    pub state: KeyState,
    /// Since when it is in the ring, where known.
    pub since: Option<Timestamp>,
    /// The instant from which it is not used any more.
    pub until: Option<Timestamp>,
}

/// Where a key is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// In use.
    Active,
    /// Replaced by a newer one, and still good for what was signed before.
    Retiring,
}

impl KeyState {
    /// The word the secret and the log use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Retiring => "retiring",
        }
    }
}

/// A secret that is no key ring.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyRingError {
    /// Nothing but white space.
    #[error("the secret is empty")]
    Empty,
    /// Another document, or no key.
    #[error(r#"the secret is neither {{"keys":[…]}} nor {{"sharedKey":"…"}} nor a bare key"#)]
    Shape,
}

/// The document, its entries still text: no key is copied into memory that is not wiped.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    keys: Option<Vec<&'a RawValue>>,
    #[serde(rename = "sharedKey")]
    shared_key: Option<Zeroizing<String>>,
}

/// An entry as it may stand in the secret. Unknown fields are somebody else's and do not matter here.
#[derive(Deserialize)]
struct Entry {
    key: Option<Zeroizing<String>>,
    head_id: Option<String>,
    webhook_id: Option<Value>,
    state: Option<String>,
    since: Option<String>,
    until: Option<String>,
}

impl KeyRing {
    /// A ring of one key that is good for any head.
    #[must_use]
    pub fn of_one(key: SharedKey) -> Self {
        let key = RingKey { key, head_id: None, webhook_id: None, state: KeyState::Active, since: None, until: None };
        Self { keys: vec![key], left_out: Vec::new() }
    }

    /// Reads a secret's text in any of the three forms.
    pub fn parse(secret: &str) -> Result<Self, KeyRingError> {
        let secret = trimmed(secret);
        if secret.is_empty() {
            return Err(KeyRingError::Empty);
        }
        if !secret.starts_with('{') {
            return if is_bare_key(secret) { Self::by_hand(secret) } else { Err(KeyRingError::Shape) };
        }
        let document: Document<'_> = serde_json::from_str(secret).map_err(|_| KeyRingError::Shape)?;
        let entries = match (document.keys, document.shared_key) {
            (None, Some(key)) => return Self::by_hand(key.trim()),
            (Some(entries), None) => entries,
            // Which one counts? Whoever wrote the other one would wonder.
            _ => return Err(KeyRingError::Shape),
        };
        let mut ring = Self::default();
        for (index, entry) in entries.into_iter().enumerate() {
            match read_entry(entry.get()) {
                Ok(key) => ring.keys.push(key),
                Err(reason) => ring.left_out.push(format!("entry {index} of the key ring is left out: {reason}")),
            }
        }
        Ok(ring)
    }

    fn by_hand(key: &str) -> Result<Self, KeyRingError> {
        SharedKey::new(key).map(Self::of_one).map_err(|_| KeyRingError::Empty)
    }

    /// All keys, also those past their `until`.
    #[must_use]
    pub fn keys(&self) -> &[RingKey] {
        &self.keys
    }

    /// What was left out and why, a sentence an entry, for the log.
    #[must_use]
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }
}

impl RingKey {
    /// Whether it may verify anything at `now`.
    #[must_use]
    pub fn usable(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// A secret's text without the space around it, and without the byte-order mark that some editors begin a file with.
#[must_use]
pub fn trimmed(secret: &str) -> &str {
    secret.trim_start_matches('\u{feff}').trim()
}

/// Whether a text may be a key that somebody stored as it is: one word, and none of JSON's own.
fn is_bare_key(text: &str) -> bool {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=._-".contains(&b));
    plain && !["null", "true", "false"].contains(&text)
}

fn read_entry(entry: &str) -> Result<RingKey, &'static str> {
    let entry: Entry = serde_json::from_str(entry).map_err(|_| "it is no object, or a field has the wrong type")?;
    let key = entry.key.ok_or("it has no `key`")?;
    // A bound key that lost its binding to an empty string must not become good for every head.
    if entry.head_id.as_deref() == Some("") {
        return Err("its `head_id` is empty");
    }
    let until = match entry.until {
        // Not knowing when a key ends, we do not use it.
        Some(text) => Some(Timestamp::parse(&text).ok_or("its `until` is no RFC 3339 instant")?),
        None => None,
    };
    Ok(RingKey {
        key: SharedKey::new(key.as_str()).map_err(|_| "its `key` is empty")?,
        head_id: entry.head_id,
        webhook_id: entry.webhook_id.map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned)),
        // A state we do not know says nothing against the key; `until` does that.
        state: if entry.state.as_deref() == Some("retiring") { KeyState::Retiring } else { KeyState::Active },
        since: entry.since.as_deref().and_then(Timestamp::parse),
        until,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn reads_a_ring() {
        let ring = KeyRing::parse(
            r#"{"keys": [
                {"head_id": "h1", "webhook_id": 4, "key": "k4", "state": "active", "since": "2026-01-16T09:56:12Z", "new": 1},
                {"head_id": "h1", "webhook_id": "3", "key": "k3", "state": "retiring", "until": "2026-01-16T11:00:00Z"}],
              "more": true}"#,
        )
        .unwrap();
        let [active, retiring] = ring.keys() else { panic!("{ring:?}") };
        assert_eq!(
            (active.key.expose(), active.state, active.webhook_id.as_deref()),
            ("k4", KeyState::Active, Some("4"))
        );
        assert_eq!(
            (retiring.key.expose(), retiring.state, retiring.webhook_id.as_deref()),
            ("k3", KeyState::Retiring, Some("3"))
        );
        assert!(active.usable(at("2099-01-01T00:00:00Z")));
        assert!(retiring.usable(at("2026-01-16T10:59:59.999Z")));
        assert!(!retiring.usable(at("2026-01-16T11:00:00Z")));
        assert!(ring.left_out().is_empty());
    }

    #[test]
    fn reads_secrets_made_by_hand() {
        for secret in [
            "cbaab87d",
            " cbaab87d\n",
            "\u{feff}cbaab87d",
            "\u{feff}{\"sharedKey\": \"cbaab87d\"}",
            r#"{"sharedKey": "cbaab87d"}"#,
            r#"{"sharedKey": "cbaab87d\n"}"#,
        ] {
            let ring = KeyRing::parse(secret).unwrap();
            assert_eq!(ring.keys().len(), 1, "{secret}");
            assert_eq!((ring.keys()[0].key.expose(), &ring.keys()[0].head_id), ("cbaab87d", &None), "{secret}");
        }
    }

    #[test]
    fn no_other_document_becomes_a_key() {
        for (secret, error) in [
            ("", KeyRingError::Empty),
            (" \n", KeyRingError::Empty),
            (r#"{"sharedKey": ""}"#, KeyRingError::Empty),
            ("{}", KeyRingError::Shape),
            ("{\"keys\": [", KeyRingError::Shape),
            (r#"{"keys": "k"}"#, KeyRingError::Shape),
            (r#"["k"]"#, KeyRingError::Shape),
            (r#""k""#, KeyRingError::Shape),
            (r#"{"sharedKey": 5}"#, KeyRingError::Shape),
            (r#"{"sharedKey": "k", "keys": []}"#, KeyRingError::Shape),
            ("null", KeyRingError::Shape),
            ("true", KeyRingError::Shape),
            ("keys: [k]", KeyRingError::Shape),
            ("two words", KeyRingError::Shape),
        ] {
            assert_eq!(KeyRing::parse(secret).unwrap_err(), error, "{secret}");
        }
    }

    #[test]
    fn a_bad_entry_is_left_out_and_named() {
        let ring = KeyRing::parse(
            r#"{"keys": [{"head_id": "h"}, {"key": ""}, {"key": 5}, {"key": "k", "head_id": ""}, {"key": "k", "until": "soon"}, 7,
                         {"key": "good"}]}"#,
        )
        .unwrap();
        assert_eq!(ring.keys().len(), 1);
        assert_eq!(ring.keys()[0].key.expose(), "good");
        assert_eq!(ring.left_out().len(), 6);
        assert_eq!(ring.left_out()[1], "entry 1 of the key ring is left out: its `key` is empty");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in r#"\PC*|[{}\[\]":,a-z]{0,60}"#) {
            let _ = KeyRing::parse(&text);
        }
    }
}
