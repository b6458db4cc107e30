//! The key ring: the shared keys a delivery may be signed with, as the Secrets Manager secret holds them.
//!
//! ```json
//! {"keys": [{"head_id": "8eab5b23-…", "webhook_id": 4, "key": "cbaab87d…", "state": "active", "since": "2026-01-16T09:56:12Z"},
//!           {"head_id": "8eab5b23-…", "webhook_id": 3, "key": "0f3c…", "state": "retiring", "until": "2026-01-16T11:00:00Z"}]}
//! ```
//!
//! A secret made by hand may also be the bare key, or `{"sharedKey": "…"}`; such a key is valid for any head.
//!
//! Reading is lenient per entry and strict per document: an unusable entry is left out and reported, so that one bad
//! entry does not take the others down. A document of another shape is an error, and never a key.
//!
//! [`KeyRing`] is the document as receivers read it; [`document::RingDocument`] is the same document to be changed.

pub mod document;

use std::borrow::Cow;

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
    pub key: SharedKey,
    /// The head whose events it signs; `None` if it is valid for any head.
    pub head_id: Option<HeadId>,
    /// UNITH's id of the webhook it came with, where known.
    pub webhook_id: Option<WebhookId>,
    /// Whether the entry has a `webhook_id`, which is `null` until UNITH lists the webhook. `provision` manages such
    /// entries and leaves all others alone.
    pub is_managed: bool,
    pub state: KeyState,
    /// When it entered the ring, where known.
    pub since: Option<Timestamp>,
    /// The instant at which it expires.
    pub until: Option<Timestamp>,
    /// The resource that manages the webhook, e.g. `UnithWebhook@6a5b1f00-…`.
    pub owner: Option<String>,
    /// The resource that managed it before, until that one is deleted.
    pub previous_owner: Option<String>,
    /// Whether the webhook was registered while its head's events were on: UNITH never delivers to another one.
    pub made_while_on: bool,
}

/// Where a key is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    Active,
    /// Replaced by a newer one, and still valid for what was signed before.
    Retiring,
}

impl KeyState {
    /// The word in the secret and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Retiring => "retiring",
        }
    }
}

/// A secret that is not a valid key ring.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyRingError {
    #[error("the secret is empty")]
    Empty,
    #[error(r#"the secret is neither {{"keys":[…]}} nor {{"sharedKey":"…"}} nor a bare key"#)]
    Shape,
    #[error("the secret names its head by another member than `head_id`")]
    OtherHeadMember,
    #[error("the secret's `head_id` is not a head's id; leave the member out to allow any head")]
    HeadId,
    #[error("the key in the secret cannot be used: {0}")]
    Key(#[from] InvalidKey),
    #[error("a member's name in the secret is not Unicode text")]
    MemberName,
    #[error("the secret's `deleted` is not a list")]
    Deleted,
}

/// A secret's text in one of its forms, not yet read further.
struct Parsed<'t> {
    /// The members beside the keys.
    document: Object<'t>,
    content: Content<'t>,
}

enum Content<'t> {
    /// A bare key, or a document with a `sharedKey`.
    Key(Box<RingKey>),
    Entries(Vec<&'t RawValue>),
}

impl<'t> Parsed<'t> {
    fn new(secret: &'t str) -> Result<Self, KeyRingError> {
        let secret = trimmed(secret);
        if secret.is_empty() {
            return Err(KeyRingError::Empty);
        }
        if !secret.starts_with('{') {
            let is_word = !secret.starts_with(['[', '"']) && !secret.contains(char::is_whitespace);
            let key = if is_word { SharedKey::parse(secret)? } else { return Err(KeyRingError::Shape) };
            return Ok(Self { document: Object::default(), content: Content::Key(Box::new(RingKey::new(key, None))) });
        }
        let document = Object::parse(secret).map_err(|_| KeyRingError::Shape)?;
        let content = match (present(&document, "keys"), present(&document, "sharedKey")) {
            (None, Some(key)) => {
                let key = Zeroizing::new(json::text(key).ok_or(KeyRingError::Shape)?.into_owned());
                let key = SharedKey::parse(&key)?;
                let head_id = head_of(&document).map_err(|error| match error {
                    InvalidEntry::OtherHeadMember => KeyRingError::OtherHeadMember,
                    _ => KeyRingError::HeadId,
                })?;
                Content::Key(Box::new(RingKey::new(key, head_id)))
            }
            (Some(keys), None) => Content::Entries(serde_json::from_str(keys.get()).map_err(|_| KeyRingError::Shape)?),
            // With both, either reading could be the wrong one.
            _ => return Err(KeyRingError::Shape),
        };
        Ok(Self { document, content })
    }
}

impl KeyRing {
    /// A ring of one key that is valid for any head.
    pub fn of_one(key: SharedKey) -> Self {
        Self { keys: vec![RingKey::new(key, None)], left_out: Vec::new() }
    }

    /// Reads a secret's text in any of the three forms.
    pub fn parse(secret: &str) -> Result<Self, KeyRingError> {
        let entries = match Parsed::new(secret)?.content {
            Content::Key(key) => return Ok(Self { keys: vec![*key], left_out: Vec::new() }),
            Content::Entries(entries) => entries,
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

    /// All keys, expired ones included.
    pub fn keys(&self) -> &[RingKey] {
        &self.keys
    }

    /// One sentence per entry that was left out, for the log.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }
}

/// Why an entry cannot be used. No message repeats the key.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum InvalidEntry {
    #[error("it is not an object")]
    NotAnObject,
    #[error("a member's name in it is not Unicode text")]
    MemberName,
    #[error("it has no `key`")]
    NoKey,
    #[error("its `key` is not a string")]
    KeyType,
    #[error("its `key` cannot be used: {0}")]
    Key(#[from] InvalidKey),
    #[error("its `head_id` is not a string with a head's id; leave the member out to allow any head")]
    HeadId,
    #[error("it names its head by another member than `head_id`")]
    OtherHeadMember,
    #[error("its `state` is neither `active` nor `retiring`")]
    State,
    #[error("its `until` is not an ISO 8601 date and time")]
    Until,
}

impl RingKey {
    fn new(key: SharedKey, head_id: Option<HeadId>) -> Self {
        Self {
            key,
            head_id,
            webhook_id: None,
            is_managed: false,
            state: KeyState::Active,
            since: None,
            until: None,
            owner: None,
            previous_owner: None,
            made_while_on: false,
        }
    }

    /// Reads one entry of the document. Unknown members are ignored, except for one that seems to bind the key to a
    /// head: without it, the key would be valid for every head.
    ///
    /// A name that is not Unicode text cannot be written back. A key beside it could never be retired, so it is not used.
    pub fn parse(entry: &str) -> Result<Self, InvalidEntry> {
        let entry = Object::parse(entry).map_err(|_| InvalidEntry::NotAnObject)?;
        if entry.names().any(|name| str::from_utf8(name).is_err()) {
            return Err(InvalidEntry::MemberName);
        }
        let key = present(&entry, "key").ok_or(InvalidEntry::NoKey)?;
        let key = Zeroizing::new(json::text(key).ok_or(InvalidEntry::KeyType)?.into_owned());
        let head_id = head_of(&entry)?;
        // A key that ends at an unknown instant is not used.
        let instant = |until| json::text(until).and_then(|until| Timestamp::parse(&until)).ok_or(InvalidEntry::Until);
        let until = present(&entry, "until").map(instant).transpose()?;
        // A state of some other name may mean that the key was revoked.
        let state = match present(&entry, "state").map(|state| json::text(state).ok_or(InvalidEntry::State)) {
            None => KeyState::Active,
            Some(state) => match state?.as_ref() {
                "active" => KeyState::Active,
                "retiring" => KeyState::Retiring,
                _ => return Err(InvalidEntry::State),
            },
        };
        let text = |name| entry.text(name).map(Cow::into_owned);
        let webhook_id = entry.get("webhook_id");
        Ok(Self {
            webhook_id: webhook_id.and_then(WebhookId::from_json),
            is_managed: webhook_id.is_some(),
            state,
            since: entry.text("since").as_deref().and_then(Timestamp::parse),
            until,
            owner: text("owner"),
            previous_owner: text("previous_owner"),
            made_while_on: entry.get("made_while_on").is_some_and(|value| value.get() == "true"),
            ..Self::new(SharedKey::parse(&key)?, head_id)
        })
    }

    /// Whether it may verify anything at `now`.
    pub fn usable(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// Whether this is the entry of webhook `id`.
    pub fn is_of_webhook(&self, id: &WebhookId) -> bool {
        self.webhook_id.as_ref() == Some(id)
    }

    /// Whether this entry has the text of `key`. Not in constant time: both sides are ours.
    pub fn has_key(&self, key: &SharedKey) -> bool {
        self.key.expose() == key.expose()
    }
}

/// A member's value, unless it is `null`.
fn present<'t>(document: &Object<'t>, name: &str) -> Option<&'t RawValue> {
    document.get(name).filter(|value| value.get() != "null")
}

/// The head that a document binds its key to; `None` if it binds it to no head.
fn head_of(document: &Object<'_>) -> Result<Option<HeadId>, InvalidEntry> {
    let id = |head| json::text(head).and_then(|head| HeadId::new(head).ok()).ok_or(InvalidEntry::HeadId);
    let head_id = document.get("head_id").map(id).transpose()?;
    let is_other = |name: &[u8]| name != b"head_id" && may_name_a_head(name, head_id.is_some());
    if document.names().any(is_other) { Err(InvalidEntry::OtherHeadMember) } else { Ok(head_id) }
}

/// Whether a member may be meant to bind a key to a head.
///
/// With a `head_id` beside it, only another spelling of that; without one, any name with `head` in it.
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
    fn a_ring_is_read_with_all_its_members() {
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
    fn a_secret_made_in_the_console_is_read() {
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

    #[test]
    fn a_secret_that_names_a_head_is_not_valid_for_every_head() {
        let listed = format!(r#"{{"id": 4, "headId": "h1", "webhookUrl": "https://a.example", "sharedKey": "{KEY}"}}"#);
        assert_eq!(KeyRing::parse(&listed).unwrap_err(), KeyRingError::OtherHeadMember);
        let bound = KeyRing::parse(&format!(r#"{{"head_id": "h1", "sharedKey": "{KEY}"}}"#)).unwrap();
        assert_eq!(bound.keys()[0].head_id.as_deref(), Some("h1"));
        let empty = format!(r#"{{"head_id": "", "sharedKey": "{KEY}"}}"#);
        assert_eq!(KeyRing::parse(&empty).unwrap_err(), KeyRingError::HeadId);
    }

    #[test]
    fn no_other_document_is_read_as_a_key() {
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
    fn an_invalid_entry_is_left_out_and_reported() {
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
            (format!(r#"{{{key}, "\ud800": 1}}"#), "a member's name in it is not Unicode text"),
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

        /// A key that is bound to a head in any spelling is not valid for another head.
        #[test]
        fn no_entry_that_names_a_head_is_valid_for_every_head(name in "[hH][eE][aA][dD][_ -]?[iI][dD]", head in "[a-z]{1,8}", more in "[a-z]{1,6}") {
            let entry = format!(r#"{{"key": "{KEY}", "{name}": "{head}", "x{more}": {{"{more}": 1}}}}"#);
            match RingKey::parse(&entry) {
                Ok(entry) => prop_assert_eq!((name.as_str(), entry.head_id), ("head_id", Some(head.parse().unwrap()))),
                Err(error) => prop_assert_eq!(error, InvalidEntry::OtherHeadMember),
            }
        }
    }
}
