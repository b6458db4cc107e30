//! The events of a session, as the fold needs them, and the sessions of the table.

use aws_sdk_dynamodb::types::{AttributeValue, ConsumedCapacity, ReturnConsumedCapacity};
use unith_events::session::{MAX_EVENTS, SessionEvent};

use crate::{
    keys::{PK, SK},
    store::{EventStore, Item, Operation, SCAN_PAGE, StoreError},
    stream::ItemKey,
};

/// What the fold needs. The body is read too, and paid for, but not sent.
const ATTRIBUTES: &str = "event_type, occurred_at, received_at, public_head_id, public_org_id, expires_at";

/// The events of a session.
#[derive(Debug, Default)]
pub struct SessionEvents {
    /// In the order in which they happened; one more than [`MAX_EVENTS`] at most.
    pub events: Vec<SessionEvent>,
    /// How many items are not events, e.g. because somebody edited them.
    pub invalid: usize,
    /// The read units that the query consumed.
    pub read_units: f64,
}

/// Some of the table's keys.
#[derive(Debug)]
pub struct KeyPage {
    /// Of events. Those of one session follow each other, on this page and the next ones.
    pub keys: Vec<ItemKey>,
    /// How many items were read.
    pub items_read: u64,
    /// The read units that the scan consumed.
    pub read_units: f64,
    /// The key after which the next page begins; `None` if this is the last one.
    pub next: Option<ItemKey>,
}

impl EventStore {
    /// Reads the events in the partition `pk` of a session: see [`read_session`](Self::read_session).
    ///
    /// An item that is not an event is left out, and counted in the second part of the result.
    ///
    /// # Errors
    /// The table did not return them.
    pub async fn session_events(&self, pk: &str) -> Result<(Vec<SessionEvent>, usize), StoreError> {
        let session = self.read_session(pk).await?;
        Ok((session.events, session.invalid))
    }

    /// Reads the events in the partition `pk` of a session.
    ///
    /// The read is consistent: it has every event that was stored before.
    ///
    /// # Errors
    /// The table did not return them.
    pub async fn read_session(&self, pk: &str) -> Result<SessionEvents, StoreError> {
        let limit = MAX_EVENTS + 1;
        let (mut session, mut next) = (SessionEvents::default(), None);
        loop {
            let query = self
                .client
                .query()
                .table_name(&self.table)
                .key_condition_expression("pk = :pk AND begins_with(sk, :event)")
                .projection_expression(ATTRIBUTES)
                .expression_attribute_values(":pk", AttributeValue::S(pk.to_owned()))
                .expression_attribute_values(":event", AttributeValue::S("EVENT#".to_owned()))
                .limit(i32::try_from(limit - session.events.len()).unwrap_or(i32::MAX))
                .set_exclusive_start_key(next)
                .consistent_read(true)
                .return_consumed_capacity(ReturnConsumedCapacity::Total);
            let page = Box::pin(query.send()).await.map_err(|error| self.failed(Operation::QUERY_SESSION, &error))?;
            session.read_units += units(page.consumed_capacity.as_ref());
            for item in page.items.unwrap_or_default() {
                match serde_dynamo::from_item(item) {
                    Ok(event) => session.events.push(event),
                    Err(_) => session.invalid += 1,
                }
            }
            next = page.last_evaluated_key.filter(|_| session.events.len() < limit);
            if next.is_none() {
                return Ok(session);
            }
        }
    }

    /// Reads a page of the keys of all events, from the key `after` on.
    ///
    /// The read costs as much as one of whole items. It may miss an event that was stored a moment ago.
    ///
    /// # Errors
    /// The table did not return them.
    pub async fn event_keys(&self, after: Option<&ItemKey>) -> Result<KeyPage, StoreError> {
        let scan = self
            .client
            .scan()
            .table_name(&self.table)
            .filter_expression("begins_with(pk, :session) AND begins_with(sk, :event)")
            .expression_attribute_values(":session", AttributeValue::S("SESSION#".to_owned()))
            .expression_attribute_values(":event", AttributeValue::S("EVENT#".to_owned()))
            .projection_expression("pk, sk")
            .limit(SCAN_PAGE)
            .set_exclusive_start_key(after.map(to_item))
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let page = Box::pin(scan.send()).await.map_err(|error| self.failed(Operation::SCAN_KEYS, &error))?;
        Ok(KeyPage {
            items_read: u64::try_from(page.scanned_count).unwrap_or_default(),
            read_units: units(page.consumed_capacity.as_ref()),
            next: page.last_evaluated_key.as_ref().and_then(from_item),
            keys: page.items.unwrap_or_default().iter().filter_map(from_item).collect(),
        })
    }
}

/// The units of a response.
pub fn units(consumed: Option<&ConsumedCapacity>) -> f64 {
    consumed.and_then(|consumed| consumed.capacity_units).unwrap_or_default()
}

pub(crate) fn to_item(key: &ItemKey) -> Item {
    let text = |text: &str| AttributeValue::S(text.to_owned());
    Item::from([(PK.to_owned(), text(&key.pk)), (SK.to_owned(), text(&key.sk))])
}

pub(crate) fn from_item(item: &Item) -> Option<ItemKey> {
    let part = |name| Some(item.get(name)?.as_s().ok()?.clone());
    Some(ItemKey { pk: part(PK)?, sk: part(SK)? })
}
