//! Ids as types: a head's, a session's, an event's, a webhook's.

use std::{borrow::Borrow, fmt, ops::Deref, str::FromStr};

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::json;

/// The longest id of a head or a session, in bytes.
pub const MAX_ID_BYTES: usize = 256;

/// A text that cannot be an id.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("expected 1 to {MAX_ID_BYTES} bytes without control characters")]
pub struct InvalidId;

/// Whether a text has 1 to `max_bytes` bytes and no control characters: C0, DEL, C1.
pub fn is_id_of(text: &str, max_bytes: usize) -> bool {
    (1..=max_bytes).contains(&text.len()) && !text.contains(char::is_control)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// Takes 1 to 256 bytes of UTF-8 without control characters.
            ///
            /// # Errors
            /// Any other text.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidId> {
                let text = text.into();
                if is_id_of(&text, MAX_ID_BYTES) { Ok(Self(text)) } else { Err(InvalidId) }
            }

            /// The id as UNITH sends it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.0 == *other
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

id! {
    /// The internal id of a digital human, e.g. `8eab5b23-024a-45cb-a0e1-9d3ffd6c9610`.
    HeadId
}
id! {
    /// The id of a conversation.
    SessionId
}

impl SessionId {
    /// The beginning of the ids of sessions that no user had: `provision` sends their events to test the webhook.
    pub const SELF_TEST: &str = "self-test:";

    /// Whether it is the session of a self-test. It is stored, but not a conversation.
    pub fn is_self_test(&self) -> bool {
        self.starts_with(Self::SELF_TEST)
    }
}

/// The id of an event: 32 hex digits that are the same for every delivery of it.
///
/// UNITH sends none; [`Identity::event_id`](crate::event::Identity::event_id) derives it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EventId(pub(crate) String);

impl EventId {
    /// The 32 hex digits, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<EventId> for String {
    fn from(id: EventId) -> Self {
        id.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// UNITH's id of a webhook, with the JSON type and the spelling it came with: `4`, `"000004"`, `"b7e2…"`.
#[derive(Clone)]
pub struct WebhookId {
    json: Box<RawValue>,
    text: String,
}

impl WebhookId {
    /// Takes a number, or a string that is not empty.
    pub fn from_json(json: &RawValue) -> Option<Self> {
        let text = match json.get().bytes().next()? {
            b'"' => json::text(json)?.into_owned(),
            b'-' | b'0'..=b'9' => json.get().to_owned(),
            _ => return None,
        };
        (!text.is_empty()).then(|| Self { json: json.to_owned(), text })
    }

    /// A number.
    pub fn from_number(number: u32) -> Self {
        let text = number.to_string();
        // A number is JSON: the fallback is never used.
        let json = RawValue::from_string(text.clone()).unwrap_or_else(|_| RawValue::NULL.to_owned());
        Self { json, text }
    }

    /// The id in the spelling that UNITH's paths use.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The JSON value it came as.
    pub fn as_json(&self) -> &RawValue {
        &self.json
    }
}

impl Serialize for WebhookId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json.serialize(serializer)
    }
}

impl PartialEq for WebhookId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for WebhookId {}

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.json.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_a_webhook_keeps_its_spelling() {
        let id = |json: &str| WebhookId::from_json(&RawValue::from_string(json.to_owned()).unwrap());
        for json in ["4", r#""000123""#, "123456789012345678901234567890", r#""b7e2-1""#] {
            assert_eq!(id(json).unwrap().as_json().get(), json);
        }
        assert_eq!(id("4"), id(r#""4""#), "whether it is a number or a string, it is the same webhook");
        assert_ne!(id("123"), id(r#""000123""#));
        for json in ["null", "true", "{}", "[]", r#""""#] {
            assert_eq!(id(json), None, "{json}");
        }
    }

    #[test]
    fn an_id_has_1_to_256_bytes_without_control_characters() {
        for text in ["h", "jäne", &"x".repeat(256)] {
            assert_eq!(HeadId::new(text).unwrap(), text);
        }
        for text in ["", "a\nb", "a\u{7f}", "a\u{85}", &"x".repeat(257)] {
            assert_eq!(SessionId::new(text), Err(InvalidId), "{text:?}");
        }
    }

    #[test]
    fn the_session_of_a_self_test_has_its_prefix() {
        let is_self_test = |id: &str| SessionId::new(id).unwrap().is_self_test();
        assert!(is_self_test("self-test:") && is_self_test("self-test:f47ac10b"));
        assert!(!is_self_test("self-test") && !is_self_test("a self-test:") && !is_self_test("Self-test:1"));
    }
}
