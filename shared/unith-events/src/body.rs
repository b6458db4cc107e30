//! The members of a delivery's body that make an event, by every name UNITH uses for them.
//!
//! UNITH's guide and UNITH's developer kit spell deliveries differently, and both are read. All other members stay in the
//! raw body and cannot make an event unreadable.

use std::{borrow::Cow, fmt};

use serde_json::value::RawValue;

use crate::{
    ids::{HeadId, MAX_ID_BYTES, SessionId, is_id_of},
    json::{self, NotAnObject, Object},
    timestamp::Timestamp,
};

/// The longest type of an event, in bytes.
pub const MAX_TYPE_BYTES: usize = 128;

/// A field of the event by its names. Of those that are present the first one that is a string counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    pub(crate) names: &'static [&'static str],
    max_bytes: usize,
}

pub(crate) const HEAD_ID: Field = Field { names: &["head_id"], max_bytes: MAX_ID_BYTES };
pub(crate) const SESSION_ID: Field = Field { names: &["session_id", "sessionId"], max_bytes: MAX_ID_BYTES };
pub(crate) const EVENT_TYPE: Field = Field { names: &["event_type", "event"], max_bytes: MAX_TYPE_BYTES };
pub(crate) const TIMESTAMP: Field = Field { names: &["timestamp"], max_bytes: usize::MAX };
/// The fields that identify an event.
pub(crate) const IDENTITY: [Field; 4] = [HEAD_ID, SESSION_ID, EVENT_TYPE, TIMESTAMP];

/// Why an authentic body is not an event. The message repeats nothing of the body.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum InvalidEvent {
    #[error("the body is not UTF-8")]
    NotUtf8,
    #[error("the body is not JSON")]
    NotJson,
    #[error("the body is not a JSON object")]
    NotAnObject,
    #[error("the field {0} is missing")]
    Missing(Field),
    #[error("the field {0} is not a string")]
    NotAString(Field),
    #[error("the field {0} is not Unicode text")]
    NotUnicode(Field),
    #[error("the field {0} does not have 1 to {max} bytes without control characters", max = .0.max_bytes)]
    InvalidId(Field),
    #[error("the table cannot take an item with these ids")]
    NotStorable,
    #[error("the field {0} is not an ISO 8601 date and time")]
    InvalidTimestamp(Field),
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
    fn value<'t>(self, members: &Object<'t>) -> Option<&'t RawValue> {
        let mut present = self.names.iter().filter_map(|name| members.get(name));
        let first = present.clone().next();
        present.find(|value| json::is_string(value)).or(first)
    }

    pub(crate) fn text<'t>(self, members: &Object<'t>) -> Result<Cow<'t, str>, InvalidEvent> {
        let value = self.value(members).ok_or(InvalidEvent::Missing(self))?;
        if !json::is_string(value) {
            return Err(InvalidEvent::NotAString(self));
        }
        json::text(value).ok_or(InvalidEvent::NotUnicode(self))
    }

    pub(crate) fn id(self, members: &Object<'_>) -> Result<String, InvalidEvent> {
        let text = self.text(members)?;
        if is_id_of(&text, self.max_bytes) { Ok(text.into_owned()) } else { Err(InvalidEvent::InvalidId(self)) }
    }

    pub(crate) fn instant(self, members: &Object<'_>) -> Result<Timestamp, InvalidEvent> {
        Timestamp::parse(&self.text(members)?).ok_or(InvalidEvent::InvalidTimestamp(self))
    }
}

/// Reads the members of a body. A byte order mark at its start is skipped.
pub(crate) fn members(body: &[u8]) -> Result<Object<'_>, InvalidEvent> {
    let text = std::str::from_utf8(body).map_err(|_| InvalidEvent::NotUtf8)?;
    Object::parse(text.strip_prefix('\u{feff}').unwrap_or(text)).map_err(|error| match error {
        NotAnObject::NotJson => InvalidEvent::NotJson,
        NotAnObject::OtherValue => InvalidEvent::NotAnObject,
    })
}

pub(crate) fn head_id(members: &Object<'_>) -> Result<HeadId, InvalidEvent> {
    HeadId::new(HEAD_ID.text(members)?).map_err(|_| InvalidEvent::InvalidId(HEAD_ID))
}

pub(crate) fn session_id(members: &Object<'_>) -> Result<SessionId, InvalidEvent> {
    SessionId::new(SESSION_ID.text(members)?).map_err(|_| InvalidEvent::InvalidId(SESSION_ID))
}
