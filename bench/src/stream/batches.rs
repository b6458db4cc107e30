//! The batches of one shard of the stream: conversations of START, warning, time-out and END.
//!
//! Invariants: the same mix and numbers give the same batches. The records of a conversation are in order.

use std::time::Duration;

use ::tests::{stream_record::inserted, table::Item};
use anyhow::Context;
use event_store::{item::EventItem, retention::Retention};
use serde_json::json;
use unith_events::{
    event::Event, event_type::EventType, key_ring::KeyRing, signature::SharedKey, timestamp::Timestamp, verify::verify,
};
use workload::delivery::{HEAD, KEY};

/// The events of a conversation, and the seconds from its start.
const CONVERSATION: [(EventType, u64); 4] = [
    (EventType::StartConversation, 0),
    (EventType::InactivityWarning, 30),
    (EventType::TimeoutConversation, 45),
    (EventType::EndConversation, 45),
];
/// When the first conversation starts.
const START: &str = "2026-01-15T09:57:00Z";
/// How long a delivery takes.
const DELIVERED_AFTER: Duration = Duration::from_millis(412);
/// Sequence numbers of real streams are as long.
const FIRST_SEQUENCE_NUMBER: u64 = 10_000_000_000_000_000_000;

/// Which records come together in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// Each record of a batch is of another conversation: a conversation takes longer than a batch. This needs four batches.
    Live,
    /// The four records of a conversation follow each other closely, as after an outage.
    Backlog,
    /// Each record comes alone: events are rare.
    Single,
}

/// A batch.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The events that its records are about.
    pub items: Vec<Item>,
    /// The event that Lambda hands over, as JSON.
    pub event: String,
}

/// What the records of all batches come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub records: usize,
    pub conversations: usize,
    /// Conversations with their END.
    pub ended: usize,
}

/// The batches of `records` records, each of `batch_size` but the last.
pub fn batches(mix: Mix, batch_size: usize, records: usize) -> anyhow::Result<(Vec<Batch>, Totals)> {
    let places = places(mix, batch_size, records);
    let count = |of: EventType| places.iter().filter(|place| place.kind == of).count();
    let totals = Totals {
        records: places.len(),
        conversations: count(EventType::StartConversation),
        ended: count(EventType::EndConversation),
    };
    let items = places.iter().map(item).collect::<anyhow::Result<Vec<_>>>()?;
    let batches = items.chunks(batch_size).zip((FIRST_SEQUENCE_NUMBER..).step_by(batch_size));
    let batches = batches.map(|(items, first)| {
        let records: Vec<_> = items.iter().zip(first..).map(|(item, number)| inserted(item, number)).collect();
        Batch { items: items.to_vec(), event: json!({"Records": records}).to_string() }
    });
    Ok((batches.collect(), totals))
}

/// An event of a conversation.
#[derive(Debug, Clone, Copy)]
struct Place {
    conversation: usize,
    kind: EventType,
    seconds: u64,
}

/// The events in the order of the stream. Each conversation starts one place after the one before it, and its events are a
/// whole batch apart, or one place.
fn places(mix: Mix, batch_size: usize, records: usize) -> Vec<Place> {
    let apart = if mix == Mix::Live { batch_size } else { 1 };
    let conversations = 0..records.div_ceil(CONVERSATION.len());
    let mut places: Vec<_> = conversations
        .flat_map(|conversation| {
            let events = CONVERSATION.into_iter().enumerate();
            events.map(move |(index, (kind, seconds))| {
                ((conversation + index * apart, index), Place { conversation, kind, seconds })
            })
        })
        .collect();
    places.sort_by_key(|(order, _)| *order);
    places.into_iter().map(|(_, place)| place).take(records).collect()
}

/// The item that `receive` makes of the delivery of an event.
fn item(place: &Place) -> anyhow::Result<Item> {
    let occurred_at =
        Timestamp::parse(START).context("the start is not an instant")?.plus(Duration::from_secs(place.seconds));
    let body = json!({
        "timestamp": occurred_at.to_string().replace(".000Z", "Z"), "head_id": HEAD,
        "session_id": format!("f47ac10b-58cc-4372-a567-{:012x}", place.conversation),
        "public_head_id": "jane-15326", "public_org_id": "acme", "event_type": place.kind.as_str(),
    });
    let body = body.to_string();
    let signature = SharedKey::parse(KEY)?.sign(body.as_bytes());
    let received_at = occurred_at.plus(DELIVERED_AFTER);
    let ring = KeyRing::parse(KEY)?;
    let event = Event::parse(&verify(body.as_bytes(), &signature, &ring, received_at)?)?;
    Ok(EventItem::new(&event, body.as_bytes(), received_at, None, Retention::Days(365)).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use event_store::stream::{StreamEvent, StreamRecord};
    use std::collections::HashMap;

    fn records(mix: Mix, batch_size: usize, records: usize) -> Vec<Vec<StreamRecord>> {
        let (batches, _) = batches(mix, batch_size, records).unwrap();
        batches.iter().map(|batch| serde_json::from_str::<StreamEvent>(&batch.event).unwrap().records).collect()
    }

    #[test]
    fn records_are_those_of_whole_conversations_in_order() {
        for mix in [Mix::Live, Mix::Backlog] {
            let (_, totals) = batches(mix, 10, 80).unwrap();
            assert_eq!(totals, Totals { records: 80, conversations: 20, ended: 20 });
            let mut conversations: HashMap<String, Vec<String>> = HashMap::new();
            for record in records(mix, 10, 80).iter().flatten() {
                let event = record.event().unwrap();
                assert!(record.is_new_event());
                conversations.entry(event.pk).or_default().push(event.event_type);
            }
            let expected = CONVERSATION.map(|(kind, _)| kind.as_str().to_owned());
            assert!(conversations.len() == 20 && conversations.values().all(|types| *types == expected));
        }
    }

    #[test]
    fn a_live_batch_has_one_record_per_conversation_and_a_backlog_has_most_of_them_whole() {
        let conversations = |mix| {
            let batches = records(mix, 20, 80);
            let keys = batches.iter().map(|batch| {
                let keys = batch.iter().map(|record| record.key().unwrap().pk);
                keys.collect::<std::collections::BTreeSet<_>>().len()
            });
            keys.collect::<Vec<_>>()
        };
        assert_eq!(conversations(Mix::Live), [20, 20, 20, 20]);
        // Five whole ones, and at each end three that are in the batch before or after too.
        assert!(conversations(Mix::Backlog).iter().all(|conversations| *conversations <= 5 + 2 * 3));
    }

    #[test]
    fn a_run_can_end_within_a_conversation() {
        let (batches, totals) = batches(Mix::Live, 100, 1).unwrap();
        assert_eq!((batches.len(), totals), (1, Totals { records: 1, conversations: 1, ended: 0 }));
    }
}
