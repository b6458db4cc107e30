//! The items of the events table, as types: one schema for every function that reads or writes them.

use std::{collections::HashMap, fmt, hash::BuildHasher};

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use unith_events::{
    event::Event,
    ids::{EventId, HeadId, SessionId},
    timestamp::Timestamp,
};

use crate::{
    keys::{event_sk, quarantine_pk, session_pk},
    retention::Retention,
};

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventItem {
    /// See [`session_pk`].
    pub pk: String,
    /// See [`event_sk`].
    pub sk: String,
    /// The same for every delivery of the event.
    pub event_id: EventId,
    /// In upper case if UNITH names it, as it was sent otherwise.
    pub event_type: String,
    /// UTC, in milliseconds.
    pub occurred_at: Timestamp,
    pub head_id: HeadId,
    pub session_id: SessionId,
    /// E.g. `jane-15326`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_head_id: Option<String>,
    /// E.g. `acme`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_org_id: Option<String>,
    /// When the delivery reached `receive`.
    pub received_at: Timestamp,
    /// The body as UNITH sent it.
    pub body: Body,
    /// See [`body_sha256`].
    pub body_sha256: String,
    /// Seconds since 1970; absent for an item that is kept for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// Absent for an event that came straight from `receive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
}

/// The way of an event that did not come straight from `receive`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// `redrive`, after it was spilled.
    Redrive,
    /// `redrive`, after it was quarantined and retried.
    Quarantine,
}

impl Via {
    /// The word in the item.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redrive => "redrive",
            Self::Quarantine => "quarantine",
        }
    }
}

impl EventItem {
    /// The item of `event`, delivered as `body`.
    pub fn new(event: &Event, body: &[u8], received_at: Timestamp, via: Option<Via>, retention: Retention) -> Self {
        let identity = &event.identity;
        Self {
            pk: session_pk(&identity.head_id, &identity.session_id),
            sk: event_sk(identity),
            event_id: event.event_id.clone(),
            event_type: event.event_type.clone(),
            occurred_at: identity.occurred_at,
            head_id: identity.head_id.clone(),
            session_id: identity.session_id.clone(),
            public_head_id: event.public_head_id.clone(),
            public_org_id: event.public_org_id.clone(),
            received_at,
            body: Body::new(body),
            body_sha256: body_sha256(body),
            expires_at: retention.expires_at(identity.occurred_at),
            via,
        }
    }
}

impl<H: BuildHasher + Default> From<EventItem> for HashMap<String, AttributeValue, H> {
    /// The attributes as `serde_dynamo` would make them, without its copies: this is done for every event (ADR 0018).
    fn from(item: EventItem) -> Self {
        let texts = [
            ("pk", Some(item.pk)),
            ("sk", Some(item.sk)),
            ("event_id", Some(item.event_id.into())),
            ("event_type", Some(item.event_type)),
            ("occurred_at", Some(item.occurred_at.to_string())),
            ("head_id", Some(item.head_id.into())),
            ("session_id", Some(item.session_id.into())),
            ("public_head_id", item.public_head_id),
            ("public_org_id", item.public_org_id),
            ("received_at", Some(item.received_at.to_string())),
            ("body_sha256", Some(item.body_sha256)),
            ("via", item.via.map(|via| via.as_str().to_owned())),
        ];
        let texts = texts.into_iter().filter_map(|(name, text)| Some((name, AttributeValue::S(text?))));
        let body = match item.body {
            Body::Text(text) => AttributeValue::S(text),
            Body::Binary(bytes) => AttributeValue::B(Blob::new(bytes)),
        };
        let expires_at = item.expires_at.map(|at| ("expires_at", AttributeValue::N(at.to_string())));
        texts.chain([("body", body)]).chain(expires_at).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// An authentic body that is kept aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineItem {
    /// See [`quarantine_pk`].
    pub pk: String,
    /// See [`body_sha256`].
    pub sk: String,
    /// Why it is kept aside.
    pub kind: QuarantineKind,
    /// The same in a sentence.
    pub reason: String,
    /// The head its key is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_head: Option<HeadId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_id: Option<HeadId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// When the delivery reached `receive`.
    pub received_at: Timestamp,
    /// The body as UNITH sent it.
    pub body: Body,
    /// Seconds since 1970; absent for an item that is kept for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

/// Why a body is kept aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuarantineKind {
    /// It is not an event.
    Unreadable,
    /// It is an event that is stored already, with other content.
    Conflict,
}

/// What is known of a body that is kept aside.
#[derive(Debug, Clone)]
pub struct Quarantined {
    /// Why it is kept aside.
    pub kind: QuarantineKind,
    /// The same in a sentence.
    pub reason: String,
    /// The head its key is bound to.
    pub key_head: Option<HeadId>,
    pub head_id: Option<HeadId>,
    pub session_id: Option<SessionId>,
}

impl QuarantineItem {
    /// The item of `body`.
    pub fn new(quarantined: Quarantined, body: &[u8], received_at: Timestamp, retention: Retention) -> Self {
        let Quarantined { kind, reason, key_head, head_id, session_id } = quarantined;
        Self {
            pk: quarantine_pk(received_at),
            sk: body_sha256(body),
            kind,
            reason,
            key_head,
            head_id,
            session_id,
            received_at,
            body: Body::new(body),
            expires_at: retention.expires_at(received_at),
        }
    }
}

/// A raw body: a string attribute, or a binary one where it is not UTF-8. `Debug` shows its size alone.
#[derive(Clone, PartialEq, Eq)]
pub enum Body {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Binary(Vec<u8>),
}

impl Body {
    /// Takes the bytes as they are.
    pub fn new(bytes: &[u8]) -> Self {
        std::str::from_utf8(bytes).map_or_else(|_| Self::Binary(bytes.to_vec()), |text| Self::Text(text.to_owned()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.as_bytes().len())
    }
}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Binary(bytes) => serializer.serialize_bytes(bytes),
        }
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Body;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or binary attribute")
            }

            fn visit_str<E>(self, text: &str) -> Result<Body, E> {
                Ok(Body::Text(text.to_owned()))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Body, E> {
                Ok(Body::Binary(bytes.to_vec()))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// The SHA-256 of a body in lower-case hex.
pub fn body_sha256(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use unith_events::event::Identity;

    type Item = HashMap<String, AttributeValue>;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn event(public_org_id: Option<&str>) -> Event {
        let identity = Identity {
            head_id: "h".parse().unwrap(),
            session_id: "s".parse().unwrap(),
            event_type: "HANDED_OVER".into(),
            occurred_at: at("2026-01-15T09:57:33Z"),
        };
        Event {
            event_id: identity.event_id(),
            event_type: "Handed_over".into(),
            identity,
            public_head_id: None,
            public_org_id: public_org_id.map(str::to_owned),
        }
    }

    #[test]
    fn items_are_read_back_as_they_were_written() {
        for (body, retention) in [(&b"{}"[..], Retention::Forever), (&[0xff, 0x00], Retention::Days(1))] {
            for (public, via) in [(None, None), (Some("acme"), Some(Via::Redrive))] {
                let item = EventItem::new(&event(public), body, at("2026-01-15T09:57:34Z"), via, retention);
                let stored: Item = serde_dynamo::to_item(&item).unwrap();
                assert_eq!(Item::from(item.clone()), stored, "by hand as by serde_dynamo");
                assert_eq!(serde_dynamo::from_item::<_, EventItem>(stored).unwrap(), item);
            }
            let quarantined = Quarantined {
                kind: QuarantineKind::Unreadable,
                reason: "the body is not JSON".into(),
                key_head: Some("h".parse().unwrap()),
                head_id: None,
                session_id: None,
            };
            let item = QuarantineItem::new(quarantined, body, at("2026-01-15T09:57:34Z"), retention);
            let stored: Item = serde_dynamo::to_item(&item).unwrap();
            assert_eq!(serde_dynamo::from_item::<_, QuarantineItem>(stored).unwrap(), item);
        }
    }

    #[test]
    fn attributes_have_the_types_of_the_reference() {
        let item = EventItem::new(&event(None), b"\xff", at("2026-01-15T09:57:34Z"), None, Retention::Days(1));
        let stored: Item = serde_dynamo::to_item(&item).unwrap();
        assert_eq!(stored["expires_at"], AttributeValue::N("1768557453".into()));
        assert_eq!(stored["occurred_at"], AttributeValue::S("2026-01-15T09:57:33.000Z".into()));
        assert!(stored["body"].is_b() && !stored.contains_key("public_org_id"), "{stored:?}");
        assert!(!stored.contains_key("via"), "{stored:?}");
        let via = Some(Via::Quarantine);
        let item = EventItem::new(&event(None), b"{}", at("2026-01-15T09:57:34Z"), via, Retention::Forever);
        let stored: Item = serde_dynamo::to_item(&item).unwrap();
        assert_eq!(stored["body"], AttributeValue::S("{}".into()));
        assert_eq!(stored["via"], AttributeValue::S("quarantine".into()));
        assert!(!stored.contains_key("expires_at"));
    }
}
