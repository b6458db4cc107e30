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

use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::{
    ids::{HeadId, WebhookId},
    json::{self, Object},
    signature::{InvalidKey, SharedKey, trimmed},
    timestamp::Timestamp,
};

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
    pub head_id: Option<HeadId>,
    /// UNITH's id of the webhook it came with, where known.
    pub webhook_id: Option<WebhookId>,
    /// Whether a rotation is taking it out of use.
    pub state: KeyState,
    /// Since when it is in the ring, where known.
    pub since: Option<Timestamp>,
    /// The instant from which it is not used any more.
    pub until: Option<Timestamp>,
    /// The resource that looks after the webhook, e.g. `UnithWebhook@6a5b1f00-…`.
    pub owner: Option<String>,
    /// The resource that did so before, until that one is deleted.
    pub previous_owner: Option<String>,
    /// Whether the webhook was registered while its head's events were on: UNITH never delivers to another one.
    pub made_while_on: bool,
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

/// A secret that is not a key ring.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyRingError {
    /// Nothing but white space.
    #[error("the secret is empty")]
    Empty,
    /// Another document, or no key.
    #[error(r#"the secret is neither {{"keys":[…]}} nor {{"sharedKey":"…"}} nor a bare key"#)]
    Shape,
    /// It names a head by another member than `head_id`, so that its key must not be taken for one of any head.
    #[error("the secret names its head by another member than `head_id`")]
    OtherHeadMember,
    /// It names a head that cannot be one.
    #[error("the secret's `head_id` is not a head's id; leave the member out to allow any head")]
    HeadId,
    /// The one key it holds cannot be one.
    #[error("the key in the secret cannot be used: {0}")]
    Key(#[from] InvalidKey),
}

impl KeyRing {
    /// A ring of one key that is good for any head.
    #[must_use]
    pub fn of_one(key: SharedKey) -> Self {
        let key = RingKey {
            key,
            head_id: None,
            webhook_id: None,
            state: KeyState::Active,
            since: None,
            until: None,
            owner: None,
            previous_owner: None,
            made_while_on: false,
        };
        Self { keys: vec![key], left_out: Vec::new() }
    }

    /// Reads a secret's text in any of the three forms.
    ///
    /// # Errors
    /// A secret of another shape, or one whose only key cannot be a key.
    pub fn parse(secret: &str) -> Result<Self, KeyRingError> {
        let secret = trimmed(secret);
        if secret.is_empty() {
            return Err(KeyRingError::Empty);
        }
        if !secret.starts_with('{') {
            let is_word = !secret.starts_with(['[', '"']) && !secret.contains(char::is_whitespace);
            return if is_word { Ok(Self::of_one(SharedKey::parse(secret)?)) } else { Err(KeyRingError::Shape) };
        }
        let document = Object::parse(secret).map_err(|_| KeyRingError::Shape)?;
        let present = |name| document.get(name).filter(|value| value.get() != "null");
        let entries: Vec<&RawValue> = match (present("keys"), present("sharedKey")) {
            (None, Some(key)) => {
                let key = Zeroizing::new(json::text(key).ok_or(KeyRingError::Shape)?.into_owned());
                let mut ring = Self::of_one(SharedKey::parse(&key)?);
                // As UNITH shows a webhook, it is one head's.
                let head_id = head_of(&document).map_err(|error| match error {
                    InvalidEntry::OtherHeadMember => KeyRingError::OtherHeadMember,
                    _ => KeyRingError::HeadId,
                })?;
                ring.keys.iter_mut().for_each(|key| key.head_id.clone_from(&head_id));
                return Ok(ring);
            }
            (Some(keys), None) => serde_json::from_str(keys.get()).map_err(|_| KeyRingError::Shape)?,
            // Which one counts? Whoever wrote the other one would wonder.
            _ => return Err(KeyRingError::Shape),
        };
        let mut ring = Self::default();
        for (index, entry) in entries.into_iter().enumerate() {
            match RingKey::parse(entry.get()) {
                Ok(key) => ring.keys.push(key),
                Err(reason) => ring.left_out.push(format!("entry {index} of the key ring is left out: {reason}")),
            }
        }
        Ok(ring)
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

/// Why an entry cannot be used. No message repeats the key.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum InvalidEntry {
    /// It is another JSON value.
    #[error("it is not an object")]
    NotAnObject,
    /// There is no key in it.
    #[error("it has no `key`")]
    NoKey,
    /// What stands where the key should stand is not a string.
    #[error("its `key` is not a string")]
    KeyType,
    /// The key cannot be one.
    #[error("its `key` cannot be used: {0}")]
    Key(#[from] InvalidKey),
    /// It is bound to a head that has no name.
    #[error("its `head_id` is not a string with a head's id; leave the member out to allow any head")]
    HeadId,
    /// It is bound to a head by a member that has another name.
    #[error("it names its head by another member than `head_id`")]
    OtherHeadMember,
    /// Nobody knows whether it is in use.
    #[error("its `state` is neither `active` nor `retiring`")]
    State,
    /// Nobody knows when it ends.
    #[error("its `until` is not an ISO 8601 date and time")]
    Until,
}

impl RingKey {
    /// Reads one entry of the document. Members that are not known are somebody else's and do not matter, but for one
    /// that seems to bind the key to a head: taken for nothing, it would make the key valid for every head.
    ///
    /// # Errors
    /// An entry whose key must not be used.
    pub fn parse(entry: &str) -> Result<Self, InvalidEntry> {
        let entry = Object::parse(entry).map_err(|_| InvalidEntry::NotAnObject)?;
        let present = |name| entry.get(name).filter(|value| value.get() != "null");
        let key = present("key").ok_or(InvalidEntry::NoKey)?;
        let key = Zeroizing::new(json::text(key).ok_or(InvalidEntry::KeyType)?.into_owned());
        let head_id = head_of(&entry)?;
        let until = match present("until") {
            // Not knowing when a key ends, we do not use it.
            Some(until) => {
                let until = json::text(until).and_then(|until| Timestamp::parse(&until));
                Some(until.ok_or(InvalidEntry::Until)?)
            }
            None => None,
        };
        // One that was revoked, say, must not be taken for one in use.
        let state =
            match present("state").map(|state| json::text(state).ok_or(InvalidEntry::State)).transpose()?.as_deref() {
                None | Some("active") => KeyState::Active,
                Some("retiring") => KeyState::Retiring,
                Some(_) => return Err(InvalidEntry::State),
            };
        let text = |name| entry.text(name).map(std::borrow::Cow::into_owned);
        Ok(Self {
            key: SharedKey::parse(&key)?,
            head_id,
            webhook_id: entry.get("webhook_id").and_then(WebhookId::from_json),
            state,
            since: entry.text("since").as_deref().and_then(Timestamp::parse),
            until,
            owner: text("owner"),
            previous_owner: text("previous_owner"),
            made_while_on: entry.get("made_while_on").is_some_and(|value| value.get() == "true"),
        })
    }
}

/// The head that a document binds its key to; `None` where it binds it to none.
fn head_of(document: &Object<'_>) -> Result<Option<HeadId>, InvalidEntry> {
    let head_id = match document.get("head_id") {
        None => None,
        Some(head) => Some(json::text(head).and_then(|head| HeadId::new(head).ok()).ok_or(InvalidEntry::HeadId)?),
    };
    let is_other = |name: &[u8]| name != b"head_id" && may_name_a_head(name, head_id.is_some());
    if document.names().any(is_other) { Err(InvalidEntry::OtherHeadMember) } else { Ok(head_id) }
}

/// Whether a member's name may be meant to bind a key to a head: another spelling of `head_id`, or, where that is not
/// there, anything that speaks of a head.
fn may_name_a_head(name: &[u8], is_bound: bool) -> bool {
    let letters: Vec<_> = name.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase).collect();
    if is_bound {
        matches!(letters.as_slice(), b"head" | b"heads" | b"headid" | b"headids")
    } else {
        letters.windows(4).any(|letters| letters == b"head")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    const KEY: &str = "cbaab87d1cce6d79baad8e9e2607feb3";
    const OLD_KEY: &str = "0f3c5d7e9a1b2c4d6e8f0a1b2c3d4e5f";

    #[test]
    fn reads_a_ring() {
        let ring = KeyRing::parse(&format!(
            r#"{{"keys": [
                {{"head_id": "h1", "webhook_id": 4, "key": "{KEY}", "state": "active", "since": "2026-01-16T09:56:12Z",
                  "owner": "Webhook@6a5b", "previous_owner": "Old@6a5b", "made_while_on": true, "new": 1e999}},
                {{"head_id": "h1", "webhook_id": "0003", "key": "{OLD_KEY}\n", "state": "retiring", "until": "2026-01-16T11:00:00Z"}}],
              "more": true}}"#
        ))
        .unwrap();
        let [active, retiring] = ring.keys() else { panic!("{ring:?}") };
        assert_eq!((active.key.expose(), active.state), (KEY, KeyState::Active));
        assert_eq!(active.webhook_id.as_ref().map(|id| (id.as_str(), id.as_json().get())), Some(("4", "4")));
        assert_eq!(
            (active.owner.as_deref(), active.previous_owner.as_deref()),
            (Some("Webhook@6a5b"), Some("Old@6a5b"))
        );
        assert!(active.made_while_on && !retiring.made_while_on);
        assert_eq!((retiring.key.expose(), retiring.state), (OLD_KEY, KeyState::Retiring));
        assert_eq!(
            retiring.webhook_id.as_ref().map(|id| (id.as_str(), id.as_json().get())),
            Some(("0003", r#""0003""#))
        );
        assert!(active.usable(at("2099-01-01T00:00:00Z")));
        assert!(retiring.usable(at("2026-01-16T10:59:59.999Z")));
        assert!(!retiring.usable(at("2026-01-16T11:00:00Z")));
        assert!(ring.left_out().is_empty());
    }

    #[test]
    fn reads_secrets_made_in_console() {
        for secret in [
            KEY.to_owned(),
            format!(" {KEY}\n"),
            format!("\u{feff}{KEY}"),
            format!("\u{feff}{{\"sharedKey\": \"{KEY}\"}}"),
            format!(r#"{{"sharedKey": "{KEY}"}}"#),
            format!(r#"{{"sharedKey": "{KEY}\n", "keys": null}}"#),
        ] {
            let ring = KeyRing::parse(&secret).unwrap();
            assert_eq!(ring.keys().len(), 1, "{secret}");
            assert_eq!((ring.keys()[0].key.expose(), &ring.keys()[0].head_id), (KEY, &None), "{secret}");
        }
    }

    /// As UNITH lists it, a webhook and its key are one head's.
    #[test]
    fn a_secret_that_speaks_of_a_head_is_not_good_for_all() {
        let listed = format!(r#"{{"id": 4, "headId": "h1", "webhookUrl": "https://a.example", "sharedKey": "{KEY}"}}"#);
        assert_eq!(KeyRing::parse(&listed).unwrap_err(), KeyRingError::OtherHeadMember);
        let bound = KeyRing::parse(&format!(r#"{{"head_id": "h1", "sharedKey": "{KEY}"}}"#)).unwrap();
        assert_eq!(bound.keys()[0].head_id.as_deref(), Some("h1"));
        let empty = format!(r#"{{"head_id": "", "sharedKey": "{KEY}"}}"#);
        assert_eq!(KeyRing::parse(&empty).unwrap_err(), KeyRingError::HeadId);
    }

    #[test]
    fn no_other_document_becomes_a_key() {
        for secret in [
            "{}",
            "{\"keys\": [",
            r#"{"keys": "k"}"#,
            r#"["k"]"#,
            r#""cbaab87d1cce6d79baad8e9e2607feb3""#,
            r#"{"sharedKey": 5}"#,
            r#"{"sharedKey": "cbaab87d1cce6d79baad8e9e2607feb3", "keys": []}"#,
            "keys: [cbaab87d1cce6d79baad8e9e2607feb3]",
            "two words",
        ] {
            assert_eq!(KeyRing::parse(secret).unwrap_err(), KeyRingError::Shape, "{secret}");
        }
        for secret in ["", " \n", "\u{feff}"] {
            assert_eq!(KeyRing::parse(secret).unwrap_err(), KeyRingError::Empty, "{secret:?}");
        }
        for secret in
            ["null", "true", r#"{"sharedKey": ""}"#, "{{resolve:x}}", "arn:aws:secretsmanager:eu-west-1:1:secret:x"]
        {
            let error = KeyRing::parse(secret).unwrap_err();
            assert!(matches!(error, KeyRingError::Key(_) | KeyRingError::Shape), "{secret}: {error}");
            assert!(!error.to_string().contains("resolve") && !error.to_string().contains("eu-west"), "{error}");
        }
    }

    #[test]
    fn a_bad_entry_is_left_out_and_named() {
        let key = format!(r#""key": "{KEY}""#);
        let cases = [
            (r#"{"head_id": "h"}"#.to_owned(), "it has no `key`"),
            (r#"{"key": ""}"#.to_owned(), "its `key` cannot be used: it is empty"),
            (r#"{"key": 5}"#.to_owned(), "its `key` is not a string"),
            (r#"{"key": "short"}"#.to_owned(), "its `key` cannot be used: it has 5 characters"),
            (format!(r#"{{{key}, "head_id": ""}}"#), "its `head_id` is not a string with a head's id"),
            (format!(r#"{{{key}, "head_id": null}}"#), "its `head_id` is not a string with a head's id"),
            (format!(r#"{{{key}, "head_id": 7}}"#), "its `head_id` is not a string with a head's id"),
            (format!(r#"{{{key}, "headId": "h"}}"#), "it names its head by another member than `head_id`"),
            (format!(r#"{{{key}, "head": "h"}}"#), "it names its head by another member than `head_id`"),
            (format!(r#"{{{key}, "HEAD-ID": "h", "head_id": "h"}}"#), "it names its head by another member"),
            (format!(r#"{{{key}, "public_head_id": "jane-15326"}}"#), "it names its head by another member"),
            (format!(r#"{{{key}, "headUuid": "h"}}"#), "it names its head by another member"),
            (format!(r#"{{{key}, "head_id": "h\n"}}"#), "its `head_id` is not a string with a head's id"),
            (format!(r#"{{{key}, "state": "revoked"}}"#), "its `state` is neither `active` nor `retiring`"),
            (format!(r#"{{{key}, "state": 1}}"#), "its `state` is neither `active` nor `retiring`"),
            (format!(r#"{{{key}, "until": "soon"}}"#), "its `until` is not an ISO 8601 date and time"),
            ("7".to_owned(), "it is not an object"),
        ];
        let entries: Vec<_> = cases.iter().map(|(entry, _)| entry.as_str()).collect();
        let ring = KeyRing::parse(&format!(r#"{{"keys": [{}, {{{key}}}]}}"#, entries.join(","))).unwrap();
        assert_eq!(ring.keys().len(), 1);
        assert_eq!(ring.keys()[0].key.expose(), KEY);
        assert_eq!(ring.left_out().len(), cases.len());
        for (index, (entry, reason)) in cases.iter().enumerate() {
            let expected = format!("entry {index} of the key ring is left out: {reason}");
            assert!(ring.left_out()[index].starts_with(&expected), "{entry}: {}", ring.left_out()[index]);
        }
        let noted = format!(r#"{{{key}, "head_id": "h", "public_head_id": "jane-15326", "header": 1}}"#);
        assert_eq!(RingKey::parse(&noted).unwrap().head_id.as_deref(), Some("h"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in r#"\PC*|[{}\[\]":,a-z]{0,60}"#) {
            let _ = KeyRing::parse(&text);
        }

        /// Whatever an entry says besides, a key that is bound to a head in any spelling is not valid for another.
        #[test]
        fn no_entry_that_speaks_of_a_head_is_good_for_all(name in "[hH][eE][aA][dD][_ -]?[iI][dD]", head in "[a-z]{1,8}", more in "[a-z]{1,6}") {
            let entry = format!(r#"{{"key": "{KEY}", "{name}": "{head}", "x{more}": {{"{more}": 1}}}}"#);
            match RingKey::parse(&entry) {
                Ok(entry) => prop_assert_eq!((name.as_str(), entry.head_id), ("head_id", Some(head.parse().unwrap()))),
                Err(error) => prop_assert_eq!(error, InvalidEntry::OtherHeadMember),
            }
        }
    }
}
