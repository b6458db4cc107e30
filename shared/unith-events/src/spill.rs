//! The queue message of a delivery that the table did not take: a verified body on its way to `redrive`.
//!
//! It holds no key and no signature. Its body is base64, because SQS refuses some characters.
//!
//! Invariants: a message is made of a [`Verified`], or of a quarantined body, which was one. It becomes a `Verified` again by
//! [`SpillMessage::verified`], the one way beside verification. So whoever may send to the queue may store events.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    ids::HeadId,
    json::without_noncharacters,
    timestamp::Timestamp,
    verify::{Verified, VerifyError},
};

const VERSION: u32 = 1;

/// A verified body, and when it came.
#[derive(Clone, PartialEq, Eq)]
pub struct SpillMessage {
    body: Vec<u8>,
    /// When the delivery reached `receive`.
    pub received_at: Timestamp,
    head: Option<HeadId>,
    /// Why the table did not take it.
    pub reason: SpillReason,
    /// X-Ray's trace id of the delivery.
    pub trace: Option<String>,
    /// What sent the message.
    pub source: Source,
}

/// Why the table did not take a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpillReason {
    /// The table or the account's request rate is throttled.
    Throttled,
    /// No response in time.
    Timeout,
    /// No connection, or a server error.
    Unavailable,
    /// IAM or KMS denies the write.
    Denied,
    /// The table does not exist.
    Missing,
    /// The circuit breaker is open: the table was not asked.
    Breaker,
    /// The body could not be read as an event when it came, and was quarantined.
    Unreadable,
}

/// What sends messages to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// `receive`, for a delivery.
    Receive,
    /// The command that retries quarantined bodies.
    Quarantine,
}

/// Why a message can never become an event.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum InvalidMessage {
    #[error("the message is not a spilled delivery: {problem} at line {line} column {column}")]
    Shape {
        /// In a few words.
        problem: &'static str,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    #[error("the message has version {0}, expected {VERSION}")]
    Version(u32),
    #[error("the message's body is not base64")]
    Base64,
    #[error("the message's body does not have its SHA-256")]
    Hash,
}

#[derive(Serialize, Deserialize)]
struct Document {
    v: u32,
    body_b64: String,
    body_sha256: String,
    received_at: Timestamp,
    head: Option<HeadId>,
    reason: SpillReason,
    #[serde(default)]
    trace: Option<String>,
    source: Source,
}

impl SpillMessage {
    /// The message of a delivery that the table did not take for `reason`.
    pub fn new(verified: &Verified<'_>, received_at: Timestamp, reason: SpillReason, trace: Option<String>) -> Self {
        let (body, head) = (verified.body().to_vec(), verified.key_head().cloned());
        Self { body, received_at, head, reason, trace, source: Source::Receive }
    }

    /// The message that retries a quarantined body, whose key was bound to `head`.
    pub fn of_quarantined(body: Vec<u8>, head: Option<HeadId>, received_at: Timestamp) -> Self {
        Self { body, received_at, head, reason: SpillReason::Unreadable, trace: None, source: Source::Quarantine }
    }

    /// The message's JSON.
    pub fn to_json(&self) -> String {
        let document = Document {
            v: VERSION,
            body_b64: BASE64.encode(&self.body),
            body_sha256: hex::encode(Sha256::digest(&self.body)),
            received_at: self.received_at,
            head: self.head.clone(),
            reason: self.reason,
            trace: self.trace.clone(),
            source: self.source,
        };
        // Strings and numbers always serialise.
        without_noncharacters(serde_json::to_string(&document).unwrap_or_default())
    }

    /// Reads a message's JSON.
    ///
    /// # Errors
    /// A message that can never become an event.
    pub fn parse(json: &str) -> Result<Self, InvalidMessage> {
        #[derive(Deserialize)]
        struct Versioned {
            v: u32,
        }
        let Versioned { v } = serde_json::from_str(json).map_err(shape)?;
        if v != VERSION {
            return Err(InvalidMessage::Version(v));
        }
        let document: Document = serde_json::from_str(json).map_err(shape)?;
        let body = BASE64.decode(&document.body_b64).map_err(|_| InvalidMessage::Base64)?;
        if hex::encode(Sha256::digest(&body)) != document.body_sha256 {
            return Err(InvalidMessage::Hash);
        }
        let Document { received_at, head, reason, trace, source, .. } = document;
        Ok(Self { body, received_at, head, reason, trace, source })
    }

    /// The body as it was verified.
    ///
    /// # Errors
    /// It names another head than the one its key was bound to.
    pub fn verified(&self) -> Result<Verified<'_>, VerifyError> {
        Verified::of_spilled(&self.body, self.head.as_ref())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn shape(error: serde_json::Error) -> InvalidMessage {
    let problem = if error.is_data() { "a member is missing or has another type" } else { "not JSON" };
    InvalidMessage::Shape { problem, line: error.line(), column: error.column() }
}

impl fmt::Debug for SpillMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpillMessage")
            .field("bytes", &self.body.len())
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Event, key_ring::KeyRing, signature::SharedKey, verify::verify};
    use proptest::prelude::*;

    const KEY: &str = "cbaab87d1cce6d79baad8e9e2607feb3";
    const BODY: &[u8] = br#"{"head_id":"h","session_id":"s","event":"E","timestamp":"2026-01-15 09:57:33"}"#;

    fn spilled(body: &[u8], head: Option<&str>) -> SpillMessage {
        let bound = head.map(|head| format!(r#", "head_id": "{head}""#)).unwrap_or_default();
        let ring = KeyRing::parse(&format!(r#"{{"keys": [{{"key": "{KEY}"{bound}}}]}}"#)).unwrap();
        let signature = SharedKey::parse(KEY).unwrap().sign(body);
        let now = Timestamp::parse("2026-01-15T09:57:34Z").unwrap();
        let verified = verify(body, &signature, &ring, now).unwrap();
        SpillMessage::new(&verified, now, SpillReason::Timeout, Some("1-2-3".to_owned()))
    }

    #[test]
    fn a_spilled_delivery_is_the_same_event_when_it_comes_back() {
        let json = spilled(BODY, Some("h")).to_json();
        let expected = serde_json::json!({
            "v": 1, "body_b64": BASE64.encode(BODY), "body_sha256": hex::encode(Sha256::digest(BODY)),
            "received_at": "2026-01-15T09:57:34.000Z", "head": "h", "reason": "timeout", "trace": "1-2-3",
            "source": "receive",
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), expected);
        assert!(!json.contains(KEY));
        let read = SpillMessage::parse(&json).unwrap();
        let event = Event::parse(&read.verified().unwrap()).unwrap();
        assert_eq!((event.identity.head_id.as_str(), event.identity.session_id.as_str()), ("h", "s"));
    }

    #[test]
    fn a_message_that_can_never_become_an_event_is_an_error() {
        let json = spilled(BODY, None).to_json();
        let changed = |from: &str, to: &str| {
            assert!(json.contains(from), "{from}");
            SpillMessage::parse(&json.replace(from, to)).unwrap_err()
        };
        assert_eq!(changed(r#""v":1"#, r#""v":2"#), InvalidMessage::Version(2));
        assert_eq!(changed(r#""body_b64":""#, r#""body_b64":"?"#), InvalidMessage::Base64);
        assert_eq!(changed(r#""body_b64":""#, r#""body_b64":"e30=","was":""#), InvalidMessage::Hash);
        let other = changed("\"timeout\"", "\"mood\"").to_string();
        assert!(other.starts_with(
            "the message is not a spilled delivery: a member is missing or has another type at line 1 column "
        ));
        assert!(!other.contains("mood"), "{other}");
        for (json, problem) in
            [("{}", "a member is missing or has another type at line 1 column 2"), ("", "not JSON at line 1 column 0")]
        {
            let error = SpillMessage::parse(json).unwrap_err().to_string();
            assert_eq!(error, format!("the message is not a spilled delivery: {problem}"));
        }
    }

    #[test]
    fn a_quarantined_body_is_retried_with_the_time_it_came_and_the_head_of_its_key() {
        let received_at = Timestamp::parse("2026-01-15T09:57:34Z").unwrap();
        let message =
            |head: &str| SpillMessage::of_quarantined(BODY.to_vec(), Some(head.parse().unwrap()), received_at);
        let read = SpillMessage::parse(&message("h").to_json()).unwrap();
        assert_eq!((read.source, read.reason), (Source::Quarantine, SpillReason::Unreadable));
        assert_eq!(read.received_at, received_at);
        assert_eq!(read.verified().unwrap().body(), BODY);
        assert!(message("other").verified().is_err());
    }

    #[test]
    fn a_message_speaks_for_the_head_of_its_key_only() {
        let json = spilled(BODY, Some("h")).to_json().replace(r#""head":"h""#, r#""head":"other""#);
        let error = SpillMessage::parse(&json).unwrap().verified().unwrap_err().to_string();
        assert_eq!(error, "signed with a key of head other, but the event names head h");
    }

    proptest! {
        #[test]
        fn every_body_comes_back_as_it_was(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let message = spilled(&body, None);
            let read = SpillMessage::parse(&message.to_json()).unwrap();
            prop_assert_eq!(&read, &message);
            prop_assert_eq!(read.verified().unwrap().body(), &body[..]);
        }

        #[test]
        fn a_message_has_only_characters_that_sqs_takes(head in "[a\u{e000}\u{fffd}\u{fffe}\u{ffff}\u{10ffff}]{1,9}") {
            let body = format!(r#"{{"head_id":"{head}"}}"#);
            let message = spilled(body.as_bytes(), Some(&head));
            let json = message.to_json();
            let refused = json.chars().any(|c| ('\u{fffe}'..='\u{ffff}').contains(&c));
            prop_assert!(!refused);
            prop_assert_eq!(SpillMessage::parse(&json).unwrap(), message);
        }

        #[test]
        fn parsing_never_panics(json in "\\PC{0,200}") {
            let _ = SpillMessage::parse(&json);
        }
    }
}
