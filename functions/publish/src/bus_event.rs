//! The bus event: what consumers get of an event.

use aws_sdk_eventbridge::{primitives::DateTime, types::PutEventsRequestEntry};
use event_store::item::{EventItem, Via};
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use unith_events::{
    event_type::EventType,
    ids::{HeadId, SessionId},
    session::SessionSummary,
    timestamp::Timestamp,
};

use crate::body::BodyMembers;

/// The source of all bus events.
pub const SOURCE: &str = "unith.webhooks";
/// The version of the metadata. New members do not change it.
const VERSION: u32 = 1;
/// The bytes that an entry's `Time` counts for.
const TIME_BYTES: usize = 14;

/// A bus event, ready for all outlets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusEvent {
    detail_type: String,
    time: Timestamp,
    detail: String,
    is_copied: bool,
    /// The message group in an ordered queue: the hash of the session's partition.
    pub group: String,
    /// The id by which an ordered queue recognises the event.
    pub deduplication_id: String,
}

/// The replay that an event is published for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replay {
    /// The same in all calls of one replay.
    pub id: String,
    pub reason: Option<String>,
    /// When its first call began.
    pub at: Timestamp,
}

#[derive(Serialize)]
struct Detail<'e> {
    metadata: Metadata<'e>,
    #[serde(flatten)]
    body: BodyMembers<'e>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'e SessionSummary>,
}

#[derive(Serialize)]
struct Metadata<'e> {
    id: &'e str,
    version: u32,
    head_id: &'e HeadId,
    session_id: &'e SessionId,
    occurred_at: Timestamp,
    received_at: Timestamp,
    via: &'static str,
    test: bool,
    replay: Option<&'e Replay>,
}

impl BusEvent {
    /// The bus event of a stored event. The body is a text if `as_text` says so.
    pub fn new(item: &EventItem, session: Option<&SessionSummary>, replay: Option<&Replay>, as_text: bool) -> Self {
        let body = BodyMembers::new(&item.body, as_text);
        let is_copied = body.is_copied();
        let metadata = Metadata {
            id: item.event_id.as_str(),
            version: VERSION,
            head_id: &item.head_id,
            session_id: &item.session_id,
            occurred_at: item.occurred_at,
            received_at: item.received_at,
            via: item.via.map_or("receive", Via::as_str),
            test: item.session_id.is_self_test(),
            replay,
        };
        // It is made of texts, numbers and valid JSON. An empty detail would be refused as malformed.
        let detail = serde_json::to_string(&Detail { metadata, body, session }).unwrap_or_default();
        let event_id = item.event_id.as_str();
        Self {
            detail_type: item.event_type.to_ascii_uppercase(),
            time: item.occurred_at.whole_second(),
            detail,
            is_copied,
            group: hash(&item.pk),
            deduplication_id: replay.map_or(event_id.to_owned(), |replay| hash(&format!("{event_id},{}", replay.id))),
        }
    }

    /// Whether the body is in it as it came, and could be sent as a text instead.
    pub fn is_copied(&self) -> bool {
        self.is_copied
    }

    /// The entry for a request.
    pub fn entry(&self, bus_arn: &str) -> PutEventsRequestEntry {
        PutEventsRequestEntry::builder()
            .event_bus_name(bus_arn)
            .source(SOURCE)
            .detail_type(&self.detail_type)
            .time(DateTime::from_secs(self.time.epoch_seconds()))
            .detail(&self.detail)
            .build()
    }

    /// The bytes of the entry that count towards EventBridge's limit.
    ///
    /// Rule: <https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-putevents.html#eb-putevent-size>
    pub fn entry_size(&self) -> usize {
        SOURCE.len() + self.detail_type.len() + self.detail.len() + TIME_BYTES
    }

    /// The event as one JSON text, with the members that EventBridge delivers too.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "kebab-case")]
        struct Json<'e> {
            source: &'static str,
            detail_type: &'e str,
            time: String,
            detail: Option<&'e RawValue>,
        }
        let json = Json {
            source: SOURCE,
            detail_type: &self.detail_type,
            time: self.time.to_string().replace(".000Z", "Z"),
            detail: serde_json::from_str(&self.detail).ok(),
        };
        serde_json::to_string(&json).unwrap_or_default()
    }
}

/// Whether the event carries its session's summary: the END of a session that is not a self-test.
pub fn carries_summary(item: &EventItem) -> bool {
    item.event_type.eq_ignore_ascii_case(EventType::EndConversation.as_str()) && !item.session_id.is_self_test()
}

fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}
