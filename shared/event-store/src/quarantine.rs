//! Quarantined bodies that could not be read as events: reading them, and deleting those that have become events since.

use aws_sdk_dynamodb::{operation::delete_item::DeleteItemError, types::AttributeValue};
use unith_events::timestamp::Timestamp;

use crate::{
    item::{QuarantineItem, body_sha256},
    keys::{PK, SK, quarantine_pk},
    store::{EventStore, Item, Operation, StoreError},
};

/// Some of the bodies that were quarantined on a day.
#[derive(Debug)]
pub struct Page {
    /// In the order of their hashes.
    pub items: Vec<QuarantineItem>,
    /// How many items are not of this kind, e.g. because somebody edited them.
    pub invalid: u64,
    /// The hash after which the next page begins; `None` if this is the last one.
    pub next: Option<String>,
}

impl EventStore {
    /// Reads a page of the unreadable bodies that came on the day of `day`, from the hash `after` on.
    ///
    /// With a `reason`, only bodies that were quarantined for exactly that reason.
    ///
    /// # Errors
    /// The table did not return them.
    pub async fn unreadable_bodies(
        &self,
        day: Timestamp,
        reason: Option<&str>,
        after: Option<&str>,
    ) -> Result<Page, StoreError> {
        let filter = if reason.is_some() { "kind = :kind AND reason = :reason" } else { "kind = :kind" };
        let mut query = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk")
            .filter_expression(filter)
            .expression_attribute_values(":pk", text(quarantine_pk(day)))
            .expression_attribute_values(":kind", text("unreadable"))
            .consistent_read(true);
        if let Some(reason) = reason {
            query = query.expression_attribute_values(":reason", text(reason));
        }
        if let Some(after) = after {
            query = query.set_exclusive_start_key(Some(key(day, after)));
        }
        let page = Box::pin(query.send()).await.map_err(|error| self.failed(Operation::QUERY, &error))?;
        let next = page.last_evaluated_key.as_ref().and_then(|key| key.get(SK)?.as_s().ok()).cloned();
        let read = page.items.unwrap_or_default().into_iter().map(serde_dynamo::from_item);
        let (items, invalid): (Vec<_>, Vec<_>) = read.partition(Result::is_ok);
        Ok(Page { items: items.into_iter().flatten().collect(), invalid: invalid.len() as u64, next })
    }

    /// Deletes an unreadable body that came at `received_at` from quarantine.
    ///
    /// The body's hash is part of the key, so no other body is deleted. One that is absent, or that is kept for a conflict,
    /// stays as it is.
    ///
    /// # Errors
    /// The table did not delete it.
    pub async fn delete_unreadable_body(&self, body: &[u8], received_at: Timestamp) -> Result<(), StoreError> {
        let delete = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(key(received_at, &body_sha256(body))))
            .condition_expression("kind = :kind")
            .expression_attribute_values(":kind", text("unreadable"));
        match Box::pin(delete.send()).await {
            Ok(_) => Ok(()),
            Err(error) => match error.as_service_error() {
                Some(DeleteItemError::ConditionalCheckFailedException(_)) => Ok(()),
                _ => Err(self.failed(Operation::DELETE, &error)),
            },
        }
    }
}

fn key(day: Timestamp, hash: &str) -> Item {
    Item::from([(PK.to_owned(), text(quarantine_pk(day))), (SK.to_owned(), text(hash))])
}

fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}
