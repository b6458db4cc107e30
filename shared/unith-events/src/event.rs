//! The event: what a verified body says, and which event it is.
//!
//! UNITH's JSON is known here and nowhere else. There is no event id on the wire, so an event is what it says: two
//! deliveries are the same event when head, session, type and instant are the same.
//!
//! Only what an event needs is read: head, session, type and instant, by the names that UNITH's guide and its developer
//! kit use. The rest of the body lives on in the stored body, and cannot make an event unreadable.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};

use crate::{
    ids::{MAX_ID_BYTES, is_id_of},
    json::{self, Name, NotAnObject, Object},
    key_ring::KeyState,
    timestamp::Timestamp,
    verify::{OtherHead, Verified},
};

/// The longest an event's type may be, in bytes.
pub const MAX_TYPE_BYTES: usize = 128;

const EVENT_ID_DIGITS: usize = 32;

/// A field of the event by its names: of those that are there, the first one that is a string counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    names: &'static [&'static str],
    max_bytes: usize,
}

const HEAD_ID: Field = Field { names: &["head_id"], max_bytes: MAX_ID_BYTES };
const SESSION_ID: Field = Field { names: &["session_id", "sessionId"], max_bytes: MAX_ID_BYTES };
const EVENT_TYPE: Field = Field { names: &["event_type", "event"], max_bytes: MAX_TYPE_BYTES };
const TIMESTAMP: Field = Field { names: &["timestamp"], max_bytes: usize::MAX };
const IDENTITY: [Field; 4] = [HEAD_ID, SESSION_ID, EVENT_TYPE, TIMESTAMP];

/// A conversation event as UNITH delivered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// 32 hex digits that are the same for every delivery of the event; see [`Identity::event_id`].
    pub event_id: String,
    /// The state of the key that signed it.
    pub signed_by: KeyState,
    /// Head, session, type and instant.
    pub identity: Identity,
    /// The type: in upper case where it is one that UNITH names, as it came otherwise.
    pub event_type: String,
    /// The public id of the head, e.g. `jane-15326`, where the body has one that can be stored.
    pub public_head_id: Option<String>,
    /// The public id of the organisation, e.g. `acme`, where the body has one that can be stored.
    pub public_org_id: Option<String>,
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

    /// Where the type stands among events of the same instant, of which UNITH sends whole seconds: a conversation starts
    /// before anything else happens in it, and ends last, after the time-out that ends it.
    #[must_use]
    pub fn rank(&self) -> u8 {
        match self.event_type.as_str() {
            "START_CONVERSATION" => 1,
            "INACTIVITY_WARNING" => 2,
            "TIMEOUT_CONVERSATION" => 4,
            "END_CONVERSATION" => 5,
            _ => 3,
        }
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
    Unreadable(#[from] UnreadableBody),
}

/// An authentic body that is not an event, and what could be read of it all the same.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{reason}")]
pub struct UnreadableBody {
    /// What is wrong with it.
    pub reason: Unreadable,
    /// The head it names.
    pub head_id: Option<String>,
    /// The session it names.
    pub session_id: Option<String>,
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
    #[error("the field {0} is missing")]
    Missing(Field),
    /// A field of the event is no string.
    #[error("the field {0} is not a string")]
    NotAString(Field),
    /// A string that is not text: half of a surrogate pair stands in it.
    #[error("the field {0} is not Unicode text")]
    NotUnicode(Field),
    /// An id that cannot be one.
    #[error("the field {0} does not have 1 to {max} bytes without control characters", max = .0.max_bytes)]
    BadId(Field),
    /// An instant that cannot be one.
    #[error("the field {0} is not an ISO 8601 date and time")]
    BadTimestamp(Field),
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.names.iter().enumerate() {
            let or = if index == 0 { "" } else { " (or " };
            write!(f, "{or}`{name}`")?;
        }
        f.write_str(if self.names.len() > 1 { ")" } else { "" })
    }
}

impl Field {
    /// The member that counts: the first one that is a string, or else the first one that is there at all.
    fn value<'t>(self, fields: &Object<'t>) -> Option<&'t RawValue> {
        let mut there = self.names.iter().filter_map(|name| fields.get(name));
        let first = there.clone().next();
        there.find(|value| json::is_string(value)).or(first)
    }

    fn text<'t>(self, fields: &Object<'t>) -> Result<Cow<'t, str>, Unreadable> {
        let value = self.value(fields).ok_or(Unreadable::Missing(self))?;
        if !json::is_string(value) {
            return Err(Unreadable::NotAString(self));
        }
        json::text(value).ok_or(Unreadable::NotUnicode(self))
    }

    fn id(self, fields: &Object<'_>) -> Result<String, Unreadable> {
        let text = self.text(fields)?;
        if is_id_of(&text, self.max_bytes) { Ok(text.into_owned()) } else { Err(Unreadable::BadId(self)) }
    }

    fn instant(self, fields: &Object<'_>) -> Result<Timestamp, Unreadable> {
        Timestamp::parse(&self.text(fields)?).ok_or(Unreadable::BadTimestamp(self))
    }
}

impl Event {
    /// Reads a verified body, and sees to it that the key that signed it may speak for the head it names.
    ///
    /// # Errors
    /// A body about another head than the key's, or one that is not an event.
    pub fn parse(verified: &Verified<'_>) -> Result<Self, NoEvent> {
        let unreadable = |reason| UnreadableBody { reason, head_id: None, session_id: None };
        let fields = object(verified.body()).map_err(unreadable)?;
        // Before anything else is read: a body about another head must be refused, however well or badly it is made.
        // What cannot be a head's id names no head, and is none of another one's.
        let head = HEAD_ID.id(&fields).ok();
        let signed_by = head.map_or(Ok(verified.key_state()), |head| verified.speaks_for(&head))?;
        let event = Self::read(&fields, signed_by).map_err(|reason| UnreadableBody {
            reason,
            head_id: HEAD_ID.id(&fields).ok(),
            session_id: SESSION_ID.id(&fields).ok(),
        })?;
        Ok(event)
    }

    fn read(fields: &Object<'_>, signed_by: KeyState) -> Result<Self, Unreadable> {
        let event_type = EVENT_TYPE.id(fields)?;
        let identity = Identity {
            head_id: HEAD_ID.id(fields)?,
            session_id: SESSION_ID.id(fields)?,
            event_type: event_type.to_ascii_uppercase(),
            occurred_at: TIMESTAMP.instant(fields)?,
        };
        // Nice to have, and no reason to refuse an event.
        let public = |name| fields.text(name).filter(|id| id.len() <= MAX_ID_BYTES).map(Cow::into_owned);
        Ok(Self {
            signed_by,
            event_id: identity.event_id(),
            event_type: if is_known(&identity.event_type) { identity.event_type.clone() } else { event_type },
            public_head_id: public("public_head_id"),
            public_org_id: public("public_org_id"),
            identity,
        })
    }
}

/// Whether UNITH names this type (in upper case).
fn is_known(event_type: &str) -> bool {
    matches!(event_type, "START_CONVERSATION" | "END_CONVERSATION" | "INACTIVITY_WARNING" | "TIMEOUT_CONVERSATION")
}

/// Whether two bodies of one event say the same: equal in every member that is not part of its identity. Order, white
/// space, aliases and the spelling of an instant do not matter; what an instant says below a millisecond does. `false`
/// where either body is not an object.
#[must_use]
pub fn same_content(one: &[u8], other: &[u8]) -> bool {
    one == other || Content::of(one).is_some_and(|content| Content::of(other).is_some_and(|other| content == other))
}

/// What a body says beside its identity.
#[derive(PartialEq)]
struct Content<'b> {
    members: BTreeMap<Name<'b>, Member<'b>>,
    /// The digits of the instant that its identity leaves out.
    beyond_milliseconds: String,
}

/// A value, which is compared by what it means where that can be held, and by its text otherwise.
struct Member<'b>(&'b RawValue);

impl PartialEq for Member<'_> {
    fn eq(&self, other: &Self) -> bool {
        let value = |member: &Self| {
            let text = member.0.get();
            if is_held_exactly(text) { serde_json::from_str::<Value>(text).ok() } else { None }
        };
        self.0.get() == other.0.get() || value(self).is_some_and(|own| Some(own) == value(other))
    }
}

/// Whether a `Value` says all that a JSON text says: it rounds numbers of more than 15 digits, and has a meaning of its own
/// for one name.
fn is_held_exactly(text: &str) -> bool {
    let (mut in_string, mut escaped, mut digits) = (false, false, 0);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'0'..=b'9' if !in_string => digits += 1,
            b'.' => {}
            _ => digits = 0,
        }
        if digits > 15 && !in_string {
            return false;
        }
    }
    !text.contains("$serde_json::private")
}

impl<'b> Content<'b> {
    fn of(body: &'b [u8]) -> Option<Self> {
        let fields = object(body).ok()?;
        let instant = TIMESTAMP.text(&fields).ok();
        let beyond = instant.as_deref().and_then(Timestamp::parse_exact).map(|(_, beyond)| beyond.to_owned());
        let identity =
            |name: &Name<'_>| IDENTITY.iter().any(|field| field.names.iter().any(|own| *name.0 == *own.as_bytes()));
        // Of a repeated member the last stays.
        let members = fields.members().filter(|(name, _)| !identity(name)).map(|(name, value)| (name, Member(value)));
        Some(Self { members: members.collect(), beyond_milliseconds: beyond.unwrap_or_default() })
    }
}

fn object(body: &[u8]) -> Result<Object<'_>, Unreadable> {
    let text = std::str::from_utf8(body).map_err(|_| Unreadable::NotUtf8)?;
    Object::parse(text.strip_prefix('\u{feff}').unwrap_or(text)).map_err(|error| match error {
        NotAnObject::NotJson => Unreadable::NotJson,
        NotAnObject::OtherValue => Unreadable::NotAnObject,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{key_ring::KeyRing, signature::SharedKey, verify::verify};
    use proptest::prelude::*;
    use serde_json::json;

    const KEY: &str = "cbaab87d1cce6d79baad8e9e2607feb3";

    fn parse_under(ring: &str, key: &str, body: &[u8]) -> Result<Event, NoEvent> {
        let signature = SharedKey::parse(key).unwrap().sign(body);
        let now = Timestamp::parse("2026-01-16T10:00:00Z").unwrap();
        Event::parse(&verify(body, &signature, &KeyRing::parse(ring).unwrap(), now).unwrap())
    }

    fn parse(body: &[u8]) -> Result<Event, NoEvent> {
        parse_under(KEY, KEY, body)
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
        let public = (event.public_head_id.as_deref(), event.public_org_id.as_deref());
        assert_eq!((event.event_type.as_str(), public), ("START_CONVERSATION", (Some("jane-15326"), Some("acme"))));
    }

    /// As UNITH's developer kit shows a delivery on the wire; and in the names its receiver also reads.
    #[test]
    fn the_kits_spelling_is_the_same_event() {
        let spelled = guide().to_string();
        let guide = parse(spelled.as_bytes()).unwrap();
        let kit = |type_name: &str, session_name: &str| {
            json!({
                "timestamp": "2026-01-15 09:57:33", "head_id": "8eab5b23-024a-45cb-a0e1-9d3ffd6c9610",
                session_name: "f47ac10b-58cc-4372-a567-0e02b2c3d479", type_name: "start_conversation",
                "public_head_id": "jane-15326", "public_org_id": "acme",
            })
            .to_string()
        };
        for type_name in ["event_type", "event"] {
            for session_name in ["session_id", "sessionId"] {
                let body = kit(type_name, session_name);
                assert_eq!(parse(body.as_bytes()).unwrap(), guide, "{body}");
                assert!(same_content(body.as_bytes(), spelled.as_bytes()), "{body}");
            }
        }
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
    fn of_two_spellings_the_first_listed_string_counts_and_of_a_repeated_member_the_last() {
        let session = |members: &str| {
            let body = format!(r#"{{"head_id":"h","event":"E","timestamp":"2026-01-15 09:57:33",{members}}}"#);
            parse(body.as_bytes()).map(|event| event.identity.session_id).map_err(|error| error.to_string())
        };
        assert_eq!(session(r#""sessionId":"b","session_id":"a""#), Ok("a".to_owned()));
        assert_eq!(session(r#""session_id":null,"sessionId":"b""#), Ok("b".to_owned()));
        assert_eq!(session(r#""session_id":7,"sessionId":"b""#), Ok("b".to_owned()));
        assert_eq!(session(r#""session_id":"a","session_id":"b""#), Ok("b".to_owned()));
        assert_eq!(session(r#""session_id":"a","session_\u0069d":"b""#), Ok("b".to_owned()));
        assert_eq!(
            session(r#""session_id":7,"sessionId":8"#).unwrap_err(),
            "the field `session_id` (or `sessionId`) is not a string"
        );
        assert_eq!(session(r#""x":7"#).unwrap_err(), "the field `session_id` (or `sessionId`) is missing");
        assert_eq!(
            session(r#""session_id":"\ud83d","sessionId":"b""#).unwrap_err(),
            "the field `session_id` (or `sessionId`) is not Unicode text"
        );
    }

    #[test]
    fn ids_are_what_a_platform_may_make_of_them() {
        let longest = "x".repeat(256);
        for id in ["{user}::{org}::{head}::{00001}", "a@b/c#d e%", "😀", " ", "Ünith", &longest] {
            let event = parse(&with("session_id", json!(id))).unwrap();
            assert_eq!(event.identity.session_id, id);
            assert_eq!(parse(&with("head_id", json!(id))).unwrap().identity.head_id, id);
        }
        let event = parse(&with("event_type", json!("handed over ß"))).unwrap();
        assert_eq!(
            (event.identity.event_type.as_str(), event.identity.rank()),
            ("HANDED OVER ß", 3),
            "ASCII upper case"
        );
    }

    #[test]
    fn public_ids_are_taken_where_they_can_be_and_never_missed() {
        let public = |value: Value| parse(&with("public_org_id", value)).unwrap().public_org_id;
        let (longest, too_long) = ("x".repeat(256), "x".repeat(257));
        assert_eq!(public(json!("Acme & Söhne\n")), Some("Acme & Söhne\n".to_owned()));
        assert_eq!(public(json!(longest)), Some(longest));
        for value in [json!(too_long), json!(7), json!(null), json!({}), json!(["a"])] {
            assert_eq!(public(value.clone()), None, "{value}");
        }
        let broken = String::from_utf8(with("public_org_id", json!("x"))).unwrap().replace("\"x\"", "\"\\ud83d\"");
        assert_eq!(parse(broken.as_bytes()).unwrap().public_org_id, None);
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let (long, long_type) = ("x".repeat(257), "x".repeat(129));
        let two_bytes = "é".repeat(129);
        let cases: Vec<(Vec<u8>, Unreadable)> = vec![
            (vec![0xff, 0xfe], Unreadable::NotUtf8),
            (Vec::new(), Unreadable::NotJson),
            (b"{\"head_id\": ".to_vec(), Unreadable::NotJson),
            (b"[1]".to_vec(), Unreadable::NotAnObject),
            (b"{}".to_vec(), Unreadable::Missing(EVENT_TYPE)),
            (with("session_id", Value::Null), Unreadable::NotAString(SESSION_ID)),
            (with("head_id", json!(7)), Unreadable::NotAString(HEAD_ID)),
            (with("head_id", json!("")), Unreadable::BadId(HEAD_ID)),
            (with("session_id", json!("a\u{0}b")), Unreadable::BadId(SESSION_ID)),
            (with("session_id", json!("a\u{7f}b")), Unreadable::BadId(SESSION_ID)),
            (with("session_id", json!("a\u{9f}b")), Unreadable::BadId(SESSION_ID)),
            (with("session_id", json!(long)), Unreadable::BadId(SESSION_ID)),
            (with("head_id", json!(two_bytes)), Unreadable::BadId(HEAD_ID)),
            (with("event_type", json!(long_type)), Unreadable::BadId(EVENT_TYPE)),
            (with("event_type", json!("START\nCONVERSATION")), Unreadable::BadId(EVENT_TYPE)),
            (with("timestamp", json!("yesterday")), Unreadable::BadTimestamp(TIMESTAMP)),
            (with("timestamp", json!("2026-01-15")), Unreadable::BadTimestamp(TIMESTAMP)),
            (with("timestamp", json!(1_768_471_053)), Unreadable::NotAString(TIMESTAMP)),
        ];
        for (body, expected) in cases {
            let NoEvent::Unreadable(error) = parse(&body).unwrap_err() else { panic!("{expected}") };
            assert_eq!(error.reason, expected, "{}", String::from_utf8_lossy(&body));
        }
        for field in IDENTITY {
            let mut body = guide();
            body.as_object_mut().unwrap().remove(field.names[0]);
            let NoEvent::Unreadable(error) = parse(body.to_string().as_bytes()).unwrap_err() else { panic!("{field}") };
            assert_eq!(error.reason, Unreadable::Missing(field));
            let named = (error.head_id.is_some(), error.session_id.is_some());
            assert_eq!(named, (field != HEAD_ID, field != SESSION_ID), "{field}");
        }
    }

    #[test]
    fn events_of_one_second_are_in_the_order_in_which_they_happen() {
        let rank = |event_type: &str| parse(&with("event_type", json!(event_type))).unwrap().identity.rank();
        let order =
            ["start_conversation", "INACTIVITY_WARNING", "Something_New", "timeout_conversation", "END_CONVERSATION"];
        assert_eq!(order.map(rank), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn another_heads_key_is_refused_before_the_rest_is_read() {
        let ring = &format!(r#"{{"keys": [{{"head_id": "mine", "key": "{KEY}"}}]}}"#);
        let other = NoEvent::OtherHead(OtherHead { key_head: "mine".into(), event_head: "yours".into() });
        assert_eq!(parse_under(ring, KEY, &with("head_id", json!("yours"))).unwrap_err(), other);
        for no_head in [json!(""), json!("a\nb"), json!(7), json!("x".repeat(257))] {
            let error = parse_under(ring, KEY, &with("head_id", no_head.clone())).unwrap_err();
            assert!(matches!(error, NoEvent::Unreadable(_)), "{no_head}");
        }
        assert_eq!(parse_under(ring, KEY, br#"{"head_id": "yours"}"#).unwrap_err(), other);
        assert!(parse_under(ring, KEY, &with("head_id", json!("mine"))).is_ok());
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
        assert!(same_content(one.as_bytes(), format!("\u{feff} {one}").as_bytes()));
        for (timestamp, same) in [
            ("2026-01-15T09:57:33.0000Z", true),
            ("2026-01-15 09:57:33,000", true),
            ("2026-01-15T09:57:33.0001Z", false),
            ("2026-01-15T09:57:33.000000000001Z", false),
        ] {
            assert_eq!(same_content(one.as_bytes(), &with("timestamp", json!(timestamp))), same, "{timestamp}");
        }
    }

    #[test]
    fn members_that_no_type_holds_are_compared_by_their_text() {
        let with = |member: &str| format!(r#"{{"head_id":"h","m":{member}}}"#).into_bytes();
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        for (one, other, same) in [
            ("1e400", "1e400", true),
            ("1e400", "1e401", false),
            (r#""\ud83d""#, r#""\ud83d""#, true),
            (r#""\ud83d""#, r#""\ud83e""#, false),
            (&deep, &deep, true),
            (&deep, "[]", false),
            ("[1, 2]", "[1,2]", true),
            (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#, true),
            (r#""\u0061""#, r#""a""#, true),
            ("18446744073709551616", "18446744073709551617", false),
            ("0.12345678901234567", "0.12345678901234568", false),
            ("1.0", "1.00", true),
            (r#"{"$serde_json::private::RawValue":"1"}"#, "1", false),
            (r#""9999999999999999999""#, r#""99999999999999999\u00399""#, true),
        ] {
            assert_eq!(same_content(&with(one), &with(other)), same, "{one:.20} {other:.20}");
        }
    }

    /// JSON that a parser of values chokes on, and some that it does not.
    fn odd_value() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(r#""\ud83d""#.to_owned()),
            Just(r#"{"\udc00":1}"#.to_owned()),
            "[1-9][0-9]{300,400}",
            "-?[1-9][eE][+-]?[0-9]{4,9}",
            (1_usize..600).prop_map(|depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth))),
            (1_usize..300).prop_map(|depth| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth))),
            any::<i64>().prop_map(|number| number.to_string()),
            "\\PC{0,20}".prop_map(|text| json!(text).to_string()),
        ]
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

        /// Whatever stands in members nobody reads, the event is read, is the same one, and is its own duplicate.
        #[test]
        fn members_nobody_reads_do_not_matter(members in proptest::collection::vec(("[a-z]{3,9}", odd_value()), 0..5), first in any::<bool>()) {
            let mut more = String::new();
            for (name, value) in &members {
                let _ = write!(more, "\"x_{name}\":{value},");
            }
            let event = guide().to_string();
            let inner = event.trim_matches(['{', '}']);
            let body = if first { format!("{{{more}{inner}}}") } else { format!("{{{inner},{}}}", more + "\"end\":0") };
            let read = parse(body.as_bytes()).unwrap();
            prop_assert_eq!(read, parse(event.as_bytes()).unwrap());
            prop_assert!(same_content(body.as_bytes(), format!(" {body}").as_bytes()), "{}", body);
        }

        /// Every text is an id or is refused by the rule, in every place an id stands.
        #[test]
        fn ids_follow_their_rule(id in "\\PC{0,300}|[\\x00-\\x20a\u{80}-\u{a0}]{0,4}") {
            let fits = (1..=256).contains(&id.len()) && !id.chars().any(|c| c < ' ' || ('\u{7f}'..='\u{9f}').contains(&c));
            prop_assert_eq!(parse(&with("session_id", json!(id))).is_ok(), fits, "{:?}", id);
            prop_assert_eq!(parse(&with("head_id", json!(id))).is_ok(), fits, "{:?}", id);
            let fits = fits && id.len() <= 128;
            prop_assert_eq!(parse(&with("event_type", json!(id))).is_ok(), fits, "{:?}", id);
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
