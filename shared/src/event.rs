//! The event: what a verified body says, and which event it is.
//!
//! UNITH's JSON is known here and nowhere else. There is no event id on the wire, so an event is what it says: two
//! deliveries are the same event when head, session, type and instant are the same.

use std::fmt::Write as _;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::{
    key_ring::KeyState,
    timestamp::Timestamp,
    verify::{OtherHead, Verified},
};

/// The longest an id may be, in bytes.
pub const MAX_ID_BYTES: usize = 128;

const EVENT_ID_DIGITS: usize = 32;
const IDENTITY_FIELDS: [&str; 4] = ["timestamp", "head_id", "session_id", "event_type"];

/// A conversation event as UNITH delivered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// 32 hex digits that are the same for every delivery of the event; see [`Identity::event_id`].
    pub event_id: String,
    /// The state of the key that signed it.
    pub signed_by: KeyState,
    /// Head, session, type and instant.
    pub identity: Identity,
    /// The type: UNITH's own spelling where it is a known one, as it came otherwise.
    pub event_type: String,
    /// The public id of the head, e.g. `jane-15326`.
    pub public_head_id: String,
    /// The public id of the organisation, e.g. `acme`.
    pub public_org_id: String,
}

/// What makes an event the event it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Internal UUID of the digital human.
    pub head_id: String,
    /// The conversation.
    pub session_id: String,
    /// The type in upper case, e.g. `START_CONVERSATION`.
    pub event_type: String,
    /// When it happened.
    pub occurred_at: Timestamp,
}

impl Identity {
    /// The first 32 hex digits of SHA-256 over head, session, type and instant, each as `<byte length>:<text>,`.
    #[must_use]
    pub fn event_id(&self) -> String {
        let mut text = String::with_capacity(192);
        for part in [&self.head_id, &self.session_id, &self.event_type, &self.occurred_at.to_string()] {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{}:{part},", part.len());
        }
        let mut digits = hex::encode(Sha256::digest(text));
        digits.truncate(EVENT_ID_DIGITS);
        digits
    }
}

/// Why a verified body gives no event.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoEvent {
    /// It speaks of a head whose key did not sign it: no better than unsigned.
    #[error(transparent)]
    OtherHead(#[from] OtherHead),
    /// It is authentic and not an event we can read: to be kept, not refused.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

/// What is wrong with an authentic body. Safe to show to anyone: it repeats nothing of the body.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum Unreadable {
    /// Not text.
    #[error("the body is not UTF-8")]
    NotUtf8,
    /// Not JSON.
    #[error("the body is not JSON")]
    NotJson,
    /// JSON, but no object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// A field of the event is not there.
    #[error("the field `{0}` is missing")]
    Missing(&'static str),
    /// A field of the event is no string.
    #[error("the field `{0}` is not a string")]
    NotAString(&'static str),
    /// An id that cannot be one.
    #[error("the field `{0}` is not 1 to 128 characters of A-Z a-z 0-9 . _ : -")]
    BadId(&'static str),
    /// An instant that cannot be one.
    #[error("the field `timestamp` is not an RFC 3339 instant")]
    BadTimestamp,
}

impl Event {
    /// Reads a verified body, and sees to it that the key that signed it may speak for the head it names.
    ///
    /// Fields we do not know are left alone: they live on in the stored body.
    pub fn parse(verified: &Verified<'_>) -> Result<Self, NoEvent> {
        let fields = object(verified.body())?;
        // Before anything else is read: a body about another head must be refused, however well or badly it is made.
        let head = fields.get("head_id").and_then(Value::as_str);
        let signed_by = head.map_or(Ok(verified.key_state()), |head| verified.speaks_for(head))?;
        let id = |name| id(&fields, name).map(str::to_owned);
        let event_type = id("event_type")?;
        let identity = Identity {
            head_id: id("head_id")?,
            session_id: id("session_id")?,
            event_type: event_type.to_ascii_uppercase(),
            occurred_at: Timestamp::parse(text(&fields, "timestamp")?).ok_or(Unreadable::BadTimestamp)?,
        };
        Ok(Self {
            signed_by,
            event_id: identity.event_id(),
            event_type: if is_known(&identity.event_type) { identity.event_type.clone() } else { event_type },
            public_head_id: id("public_head_id")?,
            public_org_id: id("public_org_id")?,
            identity,
        })
    }
}

/// Whether UNITH's guide names this type (in upper case).
fn is_known(event_type: &str) -> bool {
    matches!(event_type, "START_CONVERSATION" | "END_CONVERSATION" | "INACTIVITY_WARNING" | "TIMEOUT_CONVERSATION")
}

/// Whether two bodies of one event say the same: equal in every field that is not part of its identity. Order, white
/// space and the spelling of an instant do not matter. `false` where either body is no object.
#[must_use]
pub fn same_content(one: &[u8], other: &[u8]) -> bool {
    let beside_identity = |body| {
        let mut fields = object(body).ok()?;
        for name in IDENTITY_FIELDS {
            fields.remove(name);
        }
        Some(fields)
    };
    one == other || beside_identity(one).is_some_and(|fields| beside_identity(other) == Some(fields))
}

fn object(body: &[u8]) -> Result<Map<String, Value>, Unreadable> {
    let text = std::str::from_utf8(body).map_err(|_| Unreadable::NotUtf8)?;
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Unreadable::NotAnObject),
        Err(_) => Err(Unreadable::NotJson),
    }
}

fn text<'f>(fields: &'f Map<String, Value>, name: &'static str) -> Result<&'f str, Unreadable> {
    fields.get(name).ok_or(Unreadable::Missing(name))?.as_str().ok_or(Unreadable::NotAString(name))
}

fn id<'f>(fields: &'f Map<String, Value>, name: &'static str) -> Result<&'f str, Unreadable> {
    let text = text(fields, name)?;
    if is_id(text) { Ok(text) } else { Err(Unreadable::BadId(name)) }
}

/// Whether a text may be an id: 1 to 128 characters of `A-Z a-z 0-9 . _ : -`.
#[must_use]
pub fn is_id(text: &str) -> bool {
    let fits = (1..=MAX_ID_BYTES).contains(&text.len());
    fits && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{key_ring::KeyRing, signature::SharedKey, verify::verify};
    use proptest::prelude::*;
    use serde_json::json;

    fn parse_under(ring: &str, key: &str, body: &[u8]) -> Result<Event, NoEvent> {
        let signature = SharedKey::new(key).unwrap().sign(body);
        let now = Timestamp::parse("2026-01-16T10:00:00Z").unwrap();
        Event::parse(&verify(body, &signature, &KeyRing::parse(ring).unwrap(), now).unwrap())
    }

    fn parse(body: &[u8]) -> Result<Event, NoEvent> {
        parse_under("key", "key", body)
    }

    fn guide() -> Value {
        json!({
            "timestamp": "2026-01-15T09:57:33Z",
            "head_id": "8eab5b23-024a-45cb-a0e1-9d3ffd6c9610",
            "session_id": "f47ac10b-58cc-4372-a567-0e02b2c3d479",
            "public_head_id": "jane-15326",
            "public_org_id": "acme",
            "event_type": "START_CONVERSATION",
        })
    }

    fn with(field: &str, value: Value) -> Vec<u8> {
        let mut body = guide();
        body[field] = value;
        body.to_string().into_bytes()
    }

    /// `printf %s '36:8eab5b23-024a-45cb-a0e1-9d3ffd6c9610,36:f47ac10b-58cc-4372-a567-0e02b2c3d479,18:START_CONVERSATION,24:2026-01-15T09:57:33.000Z,' | sha256sum | cut -c1-32`
    #[test]
    fn the_guides_event() {
        let event = parse(guide().to_string().as_bytes()).unwrap();
        assert_eq!(event.event_id, "82b261c4eb653e535c0deda1ac8351d7");
        assert_eq!(event.identity.occurred_at.to_string(), "2026-01-15T09:57:33.000Z");
        assert_eq!((event.event_type.as_str(), event.public_head_id.as_str()), ("START_CONVERSATION", "jane-15326"));
    }

    #[test]
    fn the_same_event_said_otherwise_has_the_same_id() {
        let id = parse(guide().to_string().as_bytes()).unwrap().event_id;
        for (field, value) in [
            ("event_type", "start_conversation"),
            ("timestamp", "2026-01-15T10:57:33.0004+01:00"),
            ("public_org_id", "other"),
        ] {
            assert_eq!(parse(&with(field, value.into())).unwrap().event_id, id, "{field}");
        }
        for (field, value) in [
            ("event_type", "END_CONVERSATION"),
            ("timestamp", "2026-01-15T09:57:33.001Z"),
            ("head_id", "x"),
            ("session_id", "x"),
        ] {
            assert_ne!(parse(&with(field, value.into())).unwrap().event_id, id, "{field}");
        }
    }

    #[test]
    fn a_known_type_is_spelled_as_the_guide_does_an_unknown_one_as_it_came() {
        let known = parse(&with("event_type", "End_Conversation".into())).unwrap();
        assert_eq!(
            (known.event_type.as_str(), known.identity.event_type.as_str()),
            ("END_CONVERSATION", "END_CONVERSATION")
        );
        let unknown = parse(&with("event_type", "Handed.Over".into())).unwrap();
        assert_eq!((unknown.event_type.as_str(), unknown.identity.event_type.as_str()), ("Handed.Over", "HANDED.OVER"));
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let long = "x".repeat(129);
        let cases: Vec<(Vec<u8>, Unreadable)> = vec![
            (vec![0xff, 0xfe], Unreadable::NotUtf8),
            (Vec::new(), Unreadable::NotJson),
            (b"{\"head_id\": ".to_vec(), Unreadable::NotJson),
            (b"[1]".to_vec(), Unreadable::NotAnObject),
            (b"{}".to_vec(), Unreadable::Missing("event_type")),
            (with("session_id", Value::Null), Unreadable::NotAString("session_id")),
            (with("head_id", json!(7)), Unreadable::NotAString("head_id")),
            (with("head_id", json!("")), Unreadable::BadId("head_id")),
            (with("session_id", json!("a#b")), Unreadable::BadId("session_id")),
            (with("session_id", json!(long)), Unreadable::BadId("session_id")),
            (with("event_type", json!("START CONVERSATION")), Unreadable::BadId("event_type")),
            (with("public_org_id", json!("Ünith")), Unreadable::BadId("public_org_id")),
            (with("timestamp", json!("yesterday")), Unreadable::BadTimestamp),
            (with("timestamp", json!(1_768_471_053)), Unreadable::NotAString("timestamp")),
        ];
        for (body, reason) in cases {
            assert_eq!(parse(&body).unwrap_err(), NoEvent::Unreadable(reason), "{}", String::from_utf8_lossy(&body));
        }
        for field in guide().as_object().unwrap().keys() {
            let mut body = guide();
            body.as_object_mut().unwrap().remove(field);
            let Err(NoEvent::Unreadable(Unreadable::Missing(missing))) = parse(body.to_string().as_bytes()) else {
                panic!("{field}")
            };
            assert_eq!(missing, field);
        }
    }

    #[test]
    fn another_heads_key_is_refused_before_the_rest_is_read() {
        let ring = r#"{"keys": [{"head_id": "mine", "key": "key"}]}"#;
        let other = NoEvent::OtherHead(OtherHead { key_head: "mine".into(), event_head: "yours".into() });
        assert_eq!(parse_under(ring, "key", &with("head_id", json!("yours"))).unwrap_err(), other);
        assert_eq!(parse_under(ring, "key", br#"{"head_id": "yours"}"#).unwrap_err(), other);
        assert!(parse_under(ring, "key", &with("head_id", json!("mine"))).is_ok());
    }

    #[test]
    fn content_is_compared_by_what_it_says() {
        let one = guide().to_string();
        let spaced = serde_json::to_string_pretty(&guide()).unwrap();
        assert!(same_content(one.as_bytes(), spaced.as_bytes()));
        assert!(same_content(one.as_bytes(), &with("timestamp", json!("2026-01-15T10:57:33+01:00"))));
        assert!(!same_content(one.as_bytes(), &with("public_org_id", json!("other"))));
        assert!(!same_content(one.as_bytes(), &with("new_field", json!(1))));
        assert!(!same_content(one.as_bytes(), b"not json"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&body);
        }

        #[test]
        fn parsing_never_panics_on_json(field in "timestamp|head_id|session_id|event_type|public_org_id", value in "\\PC{0,140}") {
            let _ = parse(&with(&field, json!(value)));
        }

        /// No two different identities run together into one text: lengths keep the parts apart.
        #[test]
        fn different_identities_have_different_ids(a in "[a-c:,.0-9]{1,6}", b in "[a-c:,.0-9]{1,6}", c in "[a-c:,.0-9]{1,6}", d in "[a-c:,.0-9]{1,6}") {
            let at = Timestamp::parse("2026-01-15T09:57:33Z").unwrap();
            let identity = |head: &str, session: &str| Identity {
                head_id: head.into(), session_id: session.into(), event_type: "E".into(), occurred_at: at,
            };
            let (one, other) = (identity(&a, &b), identity(&c, &d));
            prop_assert_eq!(one == other, one.event_id() == other.event_id());
        }
    }
}
