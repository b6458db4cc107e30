//! The event: what a verified body contains, and which event it is.
//!
//! UNITH sends no event id. Two deliveries are the same event when head, session, type and instant are equal.

use std::{borrow::Cow, fmt::Write as _};

use sha2::{Digest, Sha256};

use crate::{
    body::{EVENT_TYPE, InvalidEvent, TIMESTAMP, head_id, session_id},
    event_type::{EventType, rank},
    ids::{EventId, HeadId, MAX_ID_BYTES, SessionId},
    json::Object,
    timestamp::Timestamp,
    verify::Verified,
};

const EVENT_ID_DIGITS: usize = 32;

/// A conversation event as UNITH delivered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The same for every delivery of the event; see [`Identity::event_id`].
    pub event_id: EventId,
    /// Head, session, type and instant.
    pub identity: Identity,
    /// The type: in upper case if it is an [`EventType`], as it was sent otherwise.
    pub event_type: String,
    /// The public id of the head, e.g. `jane-15326`, if the body has one that can be stored.
    pub public_head_id: Option<String>,
    /// The public id of the organisation, e.g. `acme`, if the body has one that can be stored.
    pub public_org_id: Option<String>,
}

/// The four fields that identify an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    pub head_id: HeadId,
    pub session_id: SessionId,
    /// The type in upper case, e.g. `START_CONVERSATION`.
    pub event_type: String,
    /// When it happened.
    pub occurred_at: Timestamp,
}

impl Identity {
    /// The first 32 hex digits of SHA-256 over head, session, type and instant, each as `<byte length>:<text>,`.
    pub fn event_id(&self) -> EventId {
        let mut text = String::with_capacity(192);
        let instant = self.occurred_at.to_string();
        for part in [self.head_id.as_str(), self.session_id.as_str(), &self.event_type, &instant] {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{}:{part},", part.len());
        }
        let mut digits = hex::encode(Sha256::digest(text));
        digits.truncate(EVENT_ID_DIGITS);
        EventId(digits)
    }

    /// The position of the event among those of one instant; see [`rank`].
    pub fn rank(&self) -> u8 {
        rank(&self.event_type)
    }
}

/// A verified body that is not an event, and the ids that could be read of it.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{reason}")]
pub struct ParseError {
    /// The first fault.
    pub reason: InvalidEvent,
    pub head_id: Option<HeadId>,
    pub session_id: Option<SessionId>,
}

impl Event {
    /// Reads a verified body.
    ///
    /// # Errors
    /// A body that is not an event. It is authentic, so it is kept, not refused.
    pub fn parse(verified: &Verified<'_>) -> Result<Self, ParseError> {
        match verified.members() {
            Ok(members) => Self::read(members).map_err(|reason| ParseError {
                reason,
                head_id: head_id(members).ok(),
                session_id: session_id(members).ok(),
            }),
            Err(reason) => Err(ParseError { reason: *reason, head_id: None, session_id: None }),
        }
    }

    fn read(members: &Object<'_>) -> Result<Self, InvalidEvent> {
        let sent_type = EVENT_TYPE.id(members)?;
        let identity = Identity {
            head_id: head_id(members)?,
            session_id: session_id(members)?,
            event_type: sent_type.to_ascii_uppercase(),
            occurred_at: TIMESTAMP.instant(members)?,
        };
        let is_known = identity.event_type.parse::<EventType>().is_ok();
        let public = |name| members.text(name).filter(|id| id.len() <= MAX_ID_BYTES).map(Cow::into_owned);
        Ok(Self {
            event_id: identity.event_id(),
            event_type: if is_known { identity.event_type.clone() } else { sent_type },
            public_head_id: public("public_head_id"),
            public_org_id: public("public_org_id"),
            identity,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        body::{HEAD_ID, IDENTITY, SESSION_ID},
        content::same_content,
        key_ring::KeyRing,
        signature::SharedKey,
        verify::verify,
    };
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const KEY: &str = "cbaab87d1cce6d79baad8e9e2607feb3";

    fn parse(body: &[u8]) -> Result<Event, ParseError> {
        let signature = SharedKey::parse(KEY).unwrap().sign(body);
        let now = Timestamp::parse("2026-01-16T10:00:00Z").unwrap();
        Event::parse(&verify(body, &signature, &KeyRing::parse(KEY).unwrap(), now).unwrap())
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
    fn an_event_in_the_guides_spelling_is_read() {
        let event = parse(guide().to_string().as_bytes()).unwrap();
        assert_eq!(event.event_id.as_str(), "82b261c4eb653e535c0deda1ac8351d7");
        assert_eq!(event.identity.occurred_at.to_string(), "2026-01-15T09:57:33.000Z");
        let public = (event.public_head_id.as_deref(), event.public_org_id.as_deref());
        assert_eq!((event.event_type.as_str(), public), ("START_CONVERSATION", (Some("jane-15326"), Some("acme"))));
    }

    /// The kit's spelling on the wire, and the other names that its receiver reads.
    #[test]
    fn the_kits_spelling_makes_the_same_event() {
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
    fn an_event_has_the_same_id_in_every_spelling() {
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
    fn a_known_type_is_stored_in_upper_case_and_an_unknown_one_as_sent() {
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
        assert_eq!(session(r#""sessionId":"b","session_id":"a""#), Ok("a".parse().unwrap()));
        assert_eq!(session(r#""session_id":null,"sessionId":"b""#), Ok("b".parse().unwrap()));
        assert_eq!(session(r#""session_id":7,"sessionId":"b""#), Ok("b".parse().unwrap()));
        assert_eq!(session(r#""session_id":"a","session_id":"b""#), Ok("b".parse().unwrap()));
        assert_eq!(session(r#""session_id":"a","session_\u0069d":"b""#), Ok("b".parse().unwrap()));
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
    fn ids_of_any_form_are_read() {
        let longest = "x".repeat(256);
        for id in ["{user}::{org}::{head}::{00001}", "a@b/c#d e%", "😀", " ", "Ünith", &longest] {
            let event = parse(&with("session_id", json!(id))).unwrap();
            assert_eq!(event.identity.session_id, *id);
            assert_eq!(parse(&with("head_id", json!(id))).unwrap().identity.head_id, *id);
        }
        let event = parse(&with("event_type", json!("handed over ß"))).unwrap();
        assert_eq!(
            (event.identity.event_type.as_str(), event.identity.rank()),
            ("HANDED OVER ß", 3),
            "ASCII upper case"
        );
    }

    #[test]
    fn a_public_id_that_cannot_be_stored_is_left_out() {
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
    fn a_body_that_is_not_an_event_has_a_reason() {
        let (long, long_type) = ("x".repeat(257), "x".repeat(129));
        let two_bytes = "é".repeat(129);
        let cases: Vec<(Vec<u8>, InvalidEvent)> = vec![
            (vec![0xff, 0xfe], InvalidEvent::NotUtf8),
            (Vec::new(), InvalidEvent::NotJson),
            (b"{\"head_id\": ".to_vec(), InvalidEvent::NotJson),
            (b"[1]".to_vec(), InvalidEvent::NotAnObject),
            (b"{}".to_vec(), InvalidEvent::Missing(EVENT_TYPE)),
            (with("session_id", Value::Null), InvalidEvent::NotAString(SESSION_ID)),
            (with("head_id", json!(7)), InvalidEvent::NotAString(HEAD_ID)),
            (with("head_id", json!("")), InvalidEvent::InvalidId(HEAD_ID)),
            (with("session_id", json!("a\u{0}b")), InvalidEvent::InvalidId(SESSION_ID)),
            (with("session_id", json!("a\u{7f}b")), InvalidEvent::InvalidId(SESSION_ID)),
            (with("session_id", json!("a\u{9f}b")), InvalidEvent::InvalidId(SESSION_ID)),
            (with("session_id", json!(long)), InvalidEvent::InvalidId(SESSION_ID)),
            (with("head_id", json!(two_bytes)), InvalidEvent::InvalidId(HEAD_ID)),
            (with("event_type", json!(long_type)), InvalidEvent::InvalidId(EVENT_TYPE)),
            (with("event_type", json!("START\nCONVERSATION")), InvalidEvent::InvalidId(EVENT_TYPE)),
            (with("timestamp", json!("yesterday")), InvalidEvent::InvalidTimestamp(TIMESTAMP)),
            (with("timestamp", json!("2026-01-15")), InvalidEvent::InvalidTimestamp(TIMESTAMP)),
            (with("timestamp", json!(1_768_471_053)), InvalidEvent::NotAString(TIMESTAMP)),
        ];
        for (body, expected) in cases {
            let error = parse(&body).unwrap_err();
            assert_eq!(error.reason, expected, "{}", String::from_utf8_lossy(&body));
        }
        for field in IDENTITY {
            let mut body = guide();
            body.as_object_mut().unwrap().remove(field.names[0]);
            let error = parse(body.to_string().as_bytes()).unwrap_err();
            assert_eq!(error.reason, InvalidEvent::Missing(field));
            let named = (error.head_id.is_some(), error.session_id.is_some());
            assert_eq!(named, (field != HEAD_ID, field != SESSION_ID), "{field}");
        }
    }

    #[test]
    fn ranks_order_the_events_of_one_second() {
        let rank = |event_type: &str| parse(&with("event_type", json!(event_type))).unwrap().identity.rank();
        let order =
            ["start_conversation", "INACTIVITY_WARNING", "Something_New", "timeout_conversation", "END_CONVERSATION"];
        assert_eq!(order.map(rank), [1, 2, 3, 4, 5]);
    }

    /// JSON values, some of which a parser of values cannot read.
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

        /// Members that are not read change neither the event nor its identity.
        #[test]
        fn members_that_are_not_read_do_not_matter(members in proptest::collection::vec(("[a-z]{3,9}", odd_value()), 0..5), first in any::<bool>()) {
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

        /// The rule for ids holds in every field that is one.
        #[test]
        fn ids_follow_their_rule(id in "\\PC{0,300}|[\\x00-\\x20a\u{80}-\u{a0}]{0,4}") {
            let fits = (1..=256).contains(&id.len()) && !id.chars().any(|c| c < ' ' || ('\u{7f}'..='\u{9f}').contains(&c));
            prop_assert_eq!(parse(&with("session_id", json!(id))).is_ok(), fits, "{:?}", id);
            prop_assert_eq!(parse(&with("head_id", json!(id))).is_ok(), fits, "{:?}", id);
            let fits = fits && id.len() <= 128;
            prop_assert_eq!(parse(&with("event_type", json!(id))).is_ok(), fits, "{:?}", id);
        }

        /// Lengths keep the parts of an identity apart.
        #[test]
        fn different_identities_have_different_ids(a in "[a-c:,.0-9]{1,6}", b in "[a-c:,.0-9]{1,6}", c in "[a-c:,.0-9]{1,6}", d in "[a-c:,.0-9]{1,6}") {
            let at = Timestamp::parse("2026-01-15T09:57:33Z").unwrap();
            let identity = |head: &str, session: &str| Identity {
                head_id: head.parse().unwrap(), session_id: session.parse().unwrap(), event_type: "E".into(), occurred_at: at,
            };
            let (one, other) = (identity(&a, &b), identity(&c, &d));
            prop_assert_eq!(one == other, one.event_id() == other.event_id());
        }
    }
}
