//! Stored events with their bodies, a page at a time: those of one session, or those of the whole table.

use aws_sdk_dynamodb::types::{AttributeValue, ConsumedCapacity, ReturnConsumedCapacity};
use unith_events::timestamp::Timestamp;

use crate::{
    item::EventItem,
    session::{from_item, to_item, units},
    store::{EventStore, Item, Operation, SCAN_PAGE, StoreError},
    stream::ItemKey,
};

/// Some of the events that were asked for.
#[derive(Debug)]
pub struct EventPage {
    /// Those of one session are in the order in which they happened.
    pub events: Vec<EventItem>,
    /// How many items have the key of an event and are not one, e.g. because somebody edited them.
    pub invalid: u64,
    /// How many items DynamoDB read, those that were filtered out included.
    pub read: u64,
    /// What the page cost, in read units.
    pub read_units: f64,
    /// The key after which the next page begins; `None` if this is the last one.
    pub next: Option<ItemKey>,
}

/// When the deliveries of events reached `receive`. Both ends belong to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
}

/// The first and last instants of the years that a [`Timestamp`] holds, as texts.
const EARLIEST: &str = "0000-01-01T00:00:00.000Z";
const LATEST: &str = "9999-12-31T23:59:59.999Z";

impl EventStore {
    /// Reads a page of the events in the partition `pk` of a session, from the key `after` on. The read is consistent.
    ///
    /// # Errors
    /// The table did not return them.
    pub async fn events_of_session(&self, pk: &str, after: Option<&ItemKey>) -> Result<EventPage, StoreError> {
        let query = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk AND begins_with(sk, :event)")
            .expression_attribute_values(":pk", text(pk))
            .expression_attribute_values(":event", text("EVENT#"))
            .set_exclusive_start_key(after.map(to_item))
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .consistent_read(true);
        let page = Box::pin(query.send()).await.map_err(|error| self.failed(Operation::QUERY_SESSION, &error))?;
        let (read, capacity) = (page.scanned_count, page.consumed_capacity);
        Ok(EventPage::new(page.items, page.last_evaluated_key.as_ref(), read, capacity.as_ref()))
    }

    /// Reads a page of the events of the table that were `received` in a range, from the key `after` on.
    ///
    /// The order of sessions is DynamoDB's own; the events of one session are in the order in which they happened. Events that
    /// were stored in the last second may be missing.
    ///
    /// # Errors
    /// The table did not return them.
    pub async fn scan_events(&self, received: Received, after: Option<&ItemKey>) -> Result<EventPage, StoreError> {
        let instant = |at: Option<Timestamp>, default: &str| text(at.map_or(default.to_owned(), |at| at.to_string()));
        let scan = self
            .client
            .scan()
            .table_name(&self.table)
            .filter_expression(
                "begins_with(pk, :session) AND begins_with(sk, :event) AND received_at BETWEEN :from AND :to",
            )
            .expression_attribute_values(":session", text("SESSION#"))
            .expression_attribute_values(":event", text("EVENT#"))
            .expression_attribute_values(":from", instant(received.from, EARLIEST))
            .expression_attribute_values(":to", instant(received.to, LATEST))
            .limit(SCAN_PAGE)
            .set_exclusive_start_key(after.map(to_item))
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let page = Box::pin(scan.send()).await.map_err(|error| self.failed(Operation::SCAN_EVENTS, &error))?;
        let (read, capacity) = (page.scanned_count, page.consumed_capacity);
        Ok(EventPage::new(page.items, page.last_evaluated_key.as_ref(), read, capacity.as_ref()))
    }
}

impl EventPage {
    fn new(items: Option<Vec<Item>>, last: Option<&Item>, read: i32, capacity: Option<&ConsumedCapacity>) -> Self {
        let items = items.unwrap_or_default().into_iter().map(serde_dynamo::from_item);
        let (events, invalid): (Vec<_>, Vec<_>) = items.partition(Result::is_ok);
        Self {
            events: events.into_iter().flatten().collect(),
            invalid: invalid.len() as u64,
            read: u64::try_from(read).unwrap_or_default(),
            read_units: units(capacity),
            next: last.and_then(from_item),
        }
    }
}

fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}
