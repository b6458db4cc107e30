//! A message of a queue: its content, which does not change, and what its receivers have done with it.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use unith_events::timestamp::Timestamp;

use super::{
    error::{Kind, SqsError},
    fifo::Place,
};
use crate::{clients::ACCESS_KEY, random::uuid};

const MAX_ATTRIBUTES: usize = 10;

/// A message as the owner of the queue sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    pub id: String,
    pub body: String,
    pub attributes: BTreeMap<String, Attribute>,
    pub receive_count: u32,
    pub is_visible: bool,
    /// Of a FIFO queue: the message group.
    pub group: Option<String>,
    /// Of a FIFO queue.
    pub deduplication_id: Option<String>,
}

/// A message attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Attribute {
    /// `String`, `Number` or `Binary`, and possibly a label of the sender's own behind a full stop.
    pub data_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub string_value: Option<String>,
    /// In base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary_value: Option<String>,
}

/// What a sender gave, and what SQS made of it.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) id: String,
    body: String,
    attributes: BTreeMap<String, Attribute>,
    sent_at: Timestamp,
    /// Of a FIFO queue.
    pub(super) place: Option<Place>,
}

#[derive(Debug)]
pub(super) struct Message {
    pub(super) content: Content,
    pub(super) sent: Instant,
    pub(super) visible_at: Instant,
    pub(super) received_at: Option<Instant>,
    pub(super) receive_count: u32,
    first_received_at: Option<Timestamp>,
    /// The number of receipt handles so far. The last one is valid.
    handles: u32,
    /// Whether the next deletion has no effect.
    pub(super) loses_delete: bool,
    /// Whether the next response has it twice.
    pub(super) comes_twice: bool,
}

/// A message for a receiver.
#[derive(Debug)]
pub(super) struct Received {
    content: Content,
    handle: String,
    receive_count: u32,
    first_received_at: Timestamp,
}

impl Attribute {
    /// The bytes that count towards the size of a message: name, type and value.
    pub(super) fn size(&self, name: &str) -> usize {
        let value = self.value().map_or(0, |(_, value)| value.len());
        name.len() + self.data_type.len() + value
    }

    /// The kind of value in the digest, and the value. `None` for a value that does not fit the type.
    fn value(&self) -> Option<(u8, Vec<u8>)> {
        let value = match (self.data_type.split('.').next()?, &self.string_value, &self.binary_value) {
            ("String" | "Number", Some(text), None) => (1, text.clone().into_bytes()),
            ("Binary", None, Some(text)) => (2, BASE64.decode(text).ok()?),
            _ => return None,
        };
        (!value.1.is_empty()).then_some(value)
    }
}

impl Content {
    pub(super) fn new(body: String, attributes: BTreeMap<String, Attribute>) -> Result<Self, SqsError> {
        if body.is_empty() {
            return Err(Kind::InvalidParameter.because("The request must contain the parameter MessageBody."));
        }
        if attributes.len() > MAX_ATTRIBUTES {
            let message =
                format!("Number of message attributes [{}] exceeds the allowed maximum [10].", attributes.len());
            return Err(Kind::InvalidParameter.because(message));
        }
        for (name, attribute) in &attributes {
            if !is_attribute_name(name) {
                return Err(Kind::InvalidParameter.because(format!("The message attribute name `{name}` is invalid.")));
            }
            if attribute.value().is_none() {
                let message = format!("The message attribute `{name}` must have a non-empty value that fits its type.");
                return Err(Kind::InvalidParameter.because(message));
            }
        }
        let texts = attributes.values().filter_map(|attribute| attribute.string_value.as_ref());
        if let Some(c) = texts.chain([&body]).flat_map(|text| text.chars()).find(|c| !is_allowed(*c)) {
            let message = format!(
                "Invalid characters found: {}. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF",
                c.escape_unicode()
            );
            return Err(Kind::InvalidMessageContents.because(message));
        }
        Ok(Self { id: uuid(fastrand::u128(..)), body, attributes, sent_at: Timestamp::now(), place: None })
    }

    /// The MD5 over the attributes, as the SQS developer guide defines it. `None` without attributes.
    fn digest_of_attributes<'a>(&self, names: impl Iterator<Item = &'a String>) -> Option<String> {
        let mut bytes = Vec::new();
        let field = |bytes: &mut Vec<u8>, value: &[u8]| {
            bytes.extend(u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend(value);
        };
        for name in names {
            let attribute = self.attributes.get(name)?;
            let (kind, value) = attribute.value()?;
            field(&mut bytes, name.as_bytes());
            field(&mut bytes, attribute.data_type.as_bytes());
            bytes.push(kind);
            field(&mut bytes, &value);
        }
        (!bytes.is_empty()).then(|| md5_hex(&bytes))
    }
}

impl Message {
    pub(super) fn new(content: Content, sent: Instant, visible_at: Instant) -> Self {
        Self {
            content,
            sent,
            visible_at,
            received_at: None,
            receive_count: 0,
            first_received_at: None,
            handles: 0,
            loses_delete: false,
            comes_twice: false,
        }
    }

    /// The response to its sender.
    pub(super) fn sent(&self) -> Value {
        let Content { id, body, attributes, place, .. } = &self.content;
        let mut response = json!({"MessageId": id, "MD5OfMessageBody": md5_hex(body.as_bytes())});
        if let (Some(members), Some(place)) = (response.as_object_mut(), place) {
            members.insert("SequenceNumber".to_owned(), place.sequence_number.clone().into());
        }
        if let (Some(members), Some(digest)) =
            (response.as_object_mut(), self.content.digest_of_attributes(attributes.keys()))
        {
            members.insert("MD5OfMessageAttributes".to_owned(), digest.into());
        }
        response
    }

    /// Gives it to a receiver, and hides it from others until `visible_at`.
    pub(super) fn receive(&mut self, queue: &str, now: Instant, visible_at: Instant) -> Received {
        self.receive_count += 1;
        self.received_at = Some(now);
        self.visible_at = visible_at;
        let first_received_at = *self.first_received_at.get_or_insert_with(Timestamp::now);
        self.received(queue, first_received_at)
    }

    /// The same message once more in a response that already has it, with another handle.
    pub(super) fn repeat(&mut self, queue: &str) -> Option<Received> {
        self.first_received_at.map(|first| self.received(queue, first))
    }

    fn received(&mut self, queue: &str, first_received_at: Timestamp) -> Received {
        self.handles += 1;
        let handle = BASE64.encode(format!("{queue} {} {}", self.content.id, self.handles));
        Received { content: self.content.clone(), handle, receive_count: self.receive_count, first_received_at }
    }

    /// The message group, in a FIFO queue.
    pub(super) fn group(&self) -> Option<&str> {
        self.content.place.as_ref().map(|place| place.group.as_str())
    }

    pub(super) fn is_last_handle(&self, serial: u32) -> bool {
        self.handles == serial
    }

    pub(super) fn stored(&self, now: Instant) -> StoredMessage {
        let Content { id, body, attributes, place, .. } = self.content.clone();
        let (group, deduplication_id) = place.map(|place| (place.group, place.deduplication_id)).unzip();
        let (receive_count, is_visible) = (self.receive_count, self.visible_at <= now);
        StoredMessage { id, body, attributes, receive_count, is_visible, group, deduplication_id }
    }
}

impl Received {
    /// The message in a response, with the system attributes and the message attributes that the receiver asks for.
    pub(super) fn describe<'a>(&self, system: impl Iterator<Item = &'a String>, names: &[String]) -> Value {
        let Content { id, body, attributes, sent_at, place } = &self.content;
        let mut all = BTreeMap::from([
            ("ApproximateFirstReceiveTimestamp", self.first_received_at.epoch_milliseconds().to_string()),
            ("ApproximateReceiveCount", self.receive_count.to_string()),
            ("SenderId", ACCESS_KEY.to_owned()),
            ("SentTimestamp", sent_at.epoch_milliseconds().to_string()),
        ]);
        if let Some(Place { group, deduplication_id, sequence_number }) = place.clone() {
            let of_fifo = [("MessageGroupId", group), ("MessageDeduplicationId", deduplication_id)];
            all.extend(of_fifo.into_iter().chain([("SequenceNumber", sequence_number)]));
        }
        let wanted: Vec<_> = system.collect();
        let wants = |name: &str| wanted.iter().any(|wanted| *wanted == "All" || *wanted == name);
        let system: Map<_, _> = all
            .into_iter()
            .filter(|(name, _)| wants(name))
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        let attributes: BTreeMap<_, _> =
            attributes.iter().filter(|(name, _)| names.iter().any(|wanted| is_wanted(wanted, name))).collect();
        let mut message =
            json!({"MessageId": id, "ReceiptHandle": self.handle, "MD5OfBody": md5_hex(body.as_bytes()), "Body": body});
        if let Some(members) = message.as_object_mut() {
            if let Some(digest) = self.content.digest_of_attributes(attributes.keys().copied()) {
                members.insert("MD5OfMessageAttributes".to_owned(), digest.into());
                members.insert("MessageAttributes".to_owned(), json!(attributes));
            }
            if !system.is_empty() {
                members.insert("Attributes".to_owned(), system.into());
            }
        }
        message
    }
}

/// The message and the serial number of a receipt handle. A handle of another queue is invalid.
pub(super) fn parse_handle(queue: &str, handle: &str) -> Result<(String, u32), SqsError> {
    let text = BASE64.decode(handle).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let parsed = text.as_deref().and_then(|text| {
        let (id, serial) = text.strip_prefix(queue)?.strip_prefix(' ')?.split_once(' ')?;
        Some((id.to_owned(), serial.parse().ok()?))
    });
    parsed.ok_or_else(|| {
        Kind::ReceiptHandleIsInvalid
            .because(format!("The input receipt handle \"{handle}\" is not a valid receipt handle."))
    })
}

/// Whether a receiver that asks for `wanted` gets the attribute `name`: all, a prefix such as `reason.*`, or one name.
fn is_wanted(wanted: &str, name: &str) -> bool {
    match wanted.strip_suffix(".*") {
        Some(prefix) => name.starts_with(prefix),
        None => wanted == "All" || wanted == name,
    }
}

fn is_attribute_name(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    (1..=256).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && !(name.starts_with('.') || name.ends_with('.') || name.contains(".."))
        && !(lower.starts_with("aws.") || lower.starts_with("amazon."))
}

/// The characters that a message may have: those of XML 1.0.
fn is_allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{fffd}' | '\u{10000}'..)
}

fn md5_hex(bytes: &[u8]) -> String {
    format!("{:x}", md5::compute(bytes))
}
