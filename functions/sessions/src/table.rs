//! The sessions table.
//!
//! Invariants: [`put_if_newer`](SessionsTable::put_if_newer) replaces a summary only by one with a later last event, or with
//! the same last event and more events. So the order in which concurrent writers finish does not matter. Of an oversized session
//! it may: `docs/sessions.md` has that limit.

use std::{collections::HashMap, ops::AddAssign};

use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    operation::{
        delete_item::DeleteItemError,
        put_item::{PutItemError, builders::PutItemFluentBuilder},
    },
    types::{AttributeValue, ReturnConsumedCapacity},
};
use event_store::{
    keys::{PK, SK, SessionKey},
    session::units,
    store::{Operation, StoreError},
};
use serde::Serialize;

use crate::item::{INDEX, IndexedSession, ROW, SessionItem};

const VARIABLE: &str = "SESSIONS_TABLE_NAME";
const PUT: Operation = Operation::new("take the summary", "dynamodb:PutItem").on_table_of(VARIABLE);
const GET: Operation = Operation::new("return the session", "dynamodb:GetItem").on_table_of(VARIABLE);
const DELETE: Operation = Operation::new("delete the session", "dynamodb:DeleteItem").on_table_of(VARIABLE);
const QUERY: Operation = Operation::new("list the sessions", "dynamodb:Query").on_table_of(VARIABLE);

/// `(last_event_at, n)` orders the sets of events that a session goes through. The summary of a set is written over that of a
/// smaller one, and over one that older rules made of the same set.
const IF_NEWER: &str = "attribute_not_exists(pk) OR (attribute_not_exists(oversized) AND (last_event_at < :l OR \
     (last_event_at = :l AND (n < :n OR (n = :n AND fold_version < :v)))))";
/// The first events of an oversized session are as many whichever they are. An earlier one that arrives late pushes the
/// last one out, and `last_event_at` back.
const IF_NEWER_OF_OVERSIZED: &str = "attribute_not_exists(pk) OR attribute_not_exists(oversized) OR \
     last_event_at > :l OR (last_event_at = :l AND fold_version <= :v)";
const IF_ABSENT: &str = "attribute_not_exists(pk)";
const IF_PRESENT: &str = "attribute_exists(pk)";
const IF_SAME: &str = "last_event_at = :l AND n = :n AND fold_version = :v";

/// The key of a row in the index.
pub type RowKey = Item;
type Item = HashMap<String, AttributeValue>;

/// The sessions table. Clones share one client.
#[derive(Debug, Clone)]
pub struct SessionsTable {
    client: Client,
    name: String,
}

/// The capacity units that calls consumed, those of the index included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Units {
    pub read: f64,
    pub write: f64,
}

impl AddAssign for Units {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.write += other.write;
    }
}

/// The result of a conditional write.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// Whether the condition held.
    pub is_done: bool,
    pub write_units: f64,
}

/// The row of a session, as it was read.
#[derive(Debug, Clone)]
pub enum Row {
    Absent,
    Present(Box<SessionItem>),
    /// It has another form, e.g. because somebody edited it.
    Unreadable,
}

/// A part of a partition of the index, the last one first.
#[derive(Debug, Clone)]
pub struct Range<'r> {
    pub partition: &'r str,
    /// The least sort key; it belongs to the range.
    pub from: &'r str,
    /// The greatest sort key; it belongs to the range.
    pub to: &'r str,
    /// The key of the row at which an earlier read ended.
    pub before: Option<RowKey>,
    /// How many rows are read at most.
    pub limit: i32,
}

/// Rows of the index, the last one first.
#[derive(Debug)]
pub struct Rows {
    pub sessions: Vec<IndexedSession>,
    /// How many rows have another form, e.g. because somebody edited them.
    pub invalid: usize,
    /// The key of the last row that was read; `None` if the range has no further one.
    pub next: Option<RowKey>,
}

impl SessionsTable {
    /// The table called `name`.
    pub fn new(client: Client, name: String) -> Self {
        Self { client, name }
    }

    /// Writes a row unless the present one is as new: that is success too.
    ///
    /// # Errors
    /// The table did not take it.
    pub async fn put_if_newer(&self, item: &SessionItem) -> Result<Written, StoreError> {
        let condition = if item.summary.oversized { IF_NEWER_OF_OVERSIZED } else { IF_NEWER };
        let put = self.put(item)?.condition_expression(condition);
        let put = put.expression_attribute_values(":l", last_event_at(item));
        let put = put.expression_attribute_values(":v", fold_version(item));
        let put = if item.summary.oversized { put } else { put.expression_attribute_values(":n", n(item)) };
        self.written(put).await
    }

    /// Writes a row over the one that was `seen`. The result says whether that is still the present one.
    ///
    /// # Errors
    /// The table did not take it.
    pub async fn replace(&self, seen: &Row, item: &SessionItem) -> Result<Written, StoreError> {
        let put = self.put(item)?.condition_expression(seen.condition());
        self.written(put.set_expression_attribute_values(seen.values())).await
    }

    /// Deletes the row of a session that was `seen`. The result says whether that was still the present one.
    ///
    /// # Errors
    /// The table did not delete it.
    pub async fn delete(&self, key: &SessionKey, seen: &Row) -> Result<Written, StoreError> {
        let delete = self
            .client
            .delete_item()
            .table_name(&self.name)
            .set_key(Some(row_key(key)))
            .condition_expression(seen.condition())
            .set_expression_attribute_values(seen.values())
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        match Box::pin(delete.send()).await {
            Ok(deleted) => Ok(Written::done(units(deleted.consumed_capacity()))),
            Err(error) if is_refused(&error, DeleteItemError::is_conditional_check_failed_exception) => {
                Ok(Written::refused())
            }
            Err(error) => Err(StoreError::new(&self.name, DELETE, &error)),
        }
    }

    /// Reads the row of a session, and the read units of that. The read is consistent.
    ///
    /// # Errors
    /// The table did not return it.
    pub async fn get(&self, key: &SessionKey) -> Result<(Row, f64), StoreError> {
        let get = self
            .client
            .get_item()
            .table_name(&self.name)
            .set_key(Some(row_key(key)))
            .consistent_read(true)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let got = Box::pin(get.send()).await.map_err(|error| StoreError::new(&self.name, GET, &error))?;
        let read_units = units(got.consumed_capacity());
        let row =
            got.item.map_or(Row::Absent, |item| serde_dynamo::from_item(item).map_or(Row::Unreadable, Row::Present));
        Ok((row, read_units))
    }

    /// Reads rows of the index, the last one first. The index may be some moments behind the table.
    ///
    /// # Errors
    /// The table did not return them.
    pub async fn query(&self, range: Range<'_>) -> Result<Rows, StoreError> {
        let query = self
            .client
            .query()
            .table_name(&self.name)
            .index_name(INDEX)
            .key_condition_expression("gpk = :partition AND gsk BETWEEN :from AND :to")
            .expression_attribute_values(":partition", text(range.partition))
            .expression_attribute_values(":from", text(range.from))
            .expression_attribute_values(":to", text(range.to))
            .scan_index_forward(false)
            .set_exclusive_start_key(range.before)
            .limit(range.limit);
        let page = Box::pin(query.send()).await.map_err(|error| StoreError::new(&self.name, QUERY, &error))?;
        let items = page.items.unwrap_or_default().into_iter().map(serde_dynamo::from_item);
        let (sessions, invalid): (Vec<_>, Vec<_>) = items.partition(Result::is_ok);
        Ok(Rows {
            sessions: sessions.into_iter().flatten().collect(),
            invalid: invalid.len(),
            next: page.last_evaluated_key,
        })
    }

    fn put(&self, item: &SessionItem) -> Result<PutItemFluentBuilder, StoreError> {
        let item: Item =
            serde_dynamo::to_item(item).map_err(|error| StoreError::invalid_item(&self.name, PUT, &error))?;
        Ok(self.client.put_item().table_name(&self.name).set_item(Some(item)))
    }

    async fn written(&self, put: PutItemFluentBuilder) -> Result<Written, StoreError> {
        let put = put.return_consumed_capacity(ReturnConsumedCapacity::Total);
        match Box::pin(put.send()).await {
            Ok(put) => Ok(Written::done(units(put.consumed_capacity()))),
            Err(error) if is_refused(&error, PutItemError::is_conditional_check_failed_exception) => {
                Ok(Written::refused())
            }
            Err(error) => Err(StoreError::new(&self.name, PUT, &error)),
        }
    }
}

impl Written {
    fn done(write_units: f64) -> Self {
        Self { is_done: true, write_units }
    }

    /// DynamoDB does not report the units of a refused write. It is one per KB of the present item, and a row is smaller.
    fn refused() -> Self {
        Self { is_done: false, write_units: 1.0 }
    }
}

impl Row {
    /// The condition under which it is still the present one.
    fn condition(&self) -> &'static str {
        match self {
            Self::Absent => IF_ABSENT,
            Self::Present(_) => IF_SAME,
            Self::Unreadable => IF_PRESENT,
        }
    }

    fn values(&self) -> Option<Item> {
        let Self::Present(item) = self else { return None };
        let values = [(":l", last_event_at(item)), (":n", n(item)), (":v", fold_version(item))];
        Some(values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

fn row_key(key: &SessionKey) -> Item {
    Item::from([(PK.to_owned(), text(&key.pk())), (SK.to_owned(), text(ROW))])
}

fn is_refused<E>(error: &SdkError<E>, is_condition: fn(&E) -> bool) -> bool {
    error.as_service_error().is_some_and(is_condition)
}

fn last_event_at(item: &SessionItem) -> AttributeValue {
    text(&item.summary.last_event_at.to_string())
}

fn n(item: &SessionItem) -> AttributeValue {
    AttributeValue::N(item.summary.n.to_string())
}

fn fold_version(item: &SessionItem) -> AttributeValue {
    AttributeValue::N(item.summary.fold_version.to_string())
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}
