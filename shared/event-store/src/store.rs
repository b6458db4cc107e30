//! The events table: conditional writes.
//!
//! One event is one conditional put: no lock, no marker of work in progress, no second request.
//!
//! Invariants: the item of an event is written once and never changed. A write that is reported as done is durable.

use std::collections::HashMap;

use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::put_item::PutItemError,
    types::{AttributeValue, ReturnValuesOnConditionCheckFailure, ThrottlingReason},
};
use lambda_support::errors::causes;
use serde::Serialize;
use unith_events::{content::same_content, event::Event, timestamp::Timestamp};

use crate::{
    item::{EventItem, QuarantineItem, Quarantined},
    keys::{PK, SK},
    retention::Retention,
};

const IF_ABSENT: &str = "attribute_not_exists(pk)";
/// A condition that holds neither for an item that exists nor for one that does not.
const NEVER: &str = "attribute_exists(pk) AND attribute_not_exists(pk)";
/// The partition of the warm-up write: within those that the function's role may write.
const WARM_UP: &str = "SESSION#warm-up";

type Item = HashMap<String, AttributeValue>;

/// The result of writing an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// It was absent.
    Stored,
    /// It was present with the same content. A retry of the SDK that meets its own first write ends here too.
    Duplicate,
    /// It was present with other content. The stored one stays.
    Conflict,
}

/// The table did not take an item.
#[derive(Debug, thiserror::Error)]
#[error("table `{table}` did not take the {item}: {cause}{hint}", hint = .fault.hint())]
pub struct StoreError {
    table: String,
    item: &'static str,
    cause: String,
    /// What kind of failure it is.
    pub fault: StoreFault,
}

/// Why the table did not take an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFault {
    /// The table, or the account's request rate, is throttled.
    Throttled,
    /// The item's key range is throttled: one hot session. Other sessions can be written.
    HotKey,
    /// No response in time.
    Timeout,
    /// No connection, or a server error.
    Unavailable,
    /// IAM or KMS denies the write.
    Denied,
    /// There is no such table.
    Missing,
    /// The table can never take this item.
    InvalidItem,
}

impl StoreFault {
    fn of(error: &SdkError<PutItemError>) -> Self {
        match error {
            SdkError::TimeoutError(_) => Self::Timeout,
            SdkError::DispatchFailure(failure) if failure.is_timeout() => Self::Timeout,
            SdkError::ServiceError(service) => match service.err() {
                PutItemError::ProvisionedThroughputExceededException(error)
                    if is_hot_key(error.throttling_reasons()) =>
                {
                    Self::HotKey
                }
                PutItemError::ThrottlingException(error) if is_hot_key(error.throttling_reasons()) => Self::HotKey,
                error => match error.code() {
                    Some("ProvisionedThroughputExceededException" | "ThrottlingException" | "RequestLimitExceeded") => {
                        Self::Throttled
                    }
                    Some("ResourceNotFoundException") => Self::Missing,
                    Some("ValidationException") => Self::InvalidItem,
                    _ if service.raw().status().is_client_error() => Self::Denied,
                    _ => Self::Unavailable,
                },
            },
            _ => Self::Unavailable,
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::Missing => "; there is no such table in this account and region: check TABLE_NAME and AWS_REGION",
            Self::Denied => "; the function's role needs dynamodb:PutItem on the table",
            Self::Throttled => "; the table is throttled: check its capacity mode and limits",
            Self::HotKey => "; one session gets more events than a partition takes",
            Self::Timeout | Self::Unavailable | Self::InvalidItem => "",
        }
    }
}

fn is_hot_key(reasons: &[ThrottlingReason]) -> bool {
    reasons.iter().filter_map(ThrottlingReason::reason).any(|reason| reason.contains("KeyRange"))
}

/// The table of events and quarantined bodies. Clones share one client.
#[derive(Debug, Clone)]
pub struct EventStore {
    client: Client,
    table: String,
    retention: Retention,
}

/// What a conditional put found.
enum Written {
    New,
    /// The item that was present, if the table shows it: AWS does, some emulators do not.
    Present(Option<Item>),
}

impl EventStore {
    /// The table called `table`. Items live for `retention`.
    #[must_use]
    pub fn new(client: Client, table: String, retention: Retention) -> Self {
        Self { client, table, retention }
    }

    /// How long items live.
    #[must_use]
    pub fn retention(&self) -> Retention {
        self.retention
    }

    /// Sends a write whose condition can never hold: it opens the connection, and shows whether the table can be written to.
    ///
    /// It costs one write unit.
    ///
    /// # Errors
    /// The table cannot be written to.
    pub async fn warm_up(&self) -> Result<(), StoreError> {
        let key = |text: &str| AttributeValue::S(text.to_owned());
        let item = Item::from([(PK.to_owned(), key(WARM_UP)), (SK.to_owned(), key("WARM-UP"))]);
        self.put(item, NEVER, "warm-up write").await.map(drop)
    }

    /// Writes an event and its raw `body` if it is absent.
    pub(crate) async fn put_event(
        &self,
        event: &Event,
        body: &[u8],
        received_at: Timestamp,
    ) -> Result<Put, StoreError> {
        let item = EventItem::new(event, body, received_at, self.retention);
        match self.put(self.attributes(&item, "event")?, IF_ABSENT, "event").await? {
            Written::New => Ok(Put::Stored),
            Written::Present(stored) => Ok(compare(stored.as_ref(), body)),
        }
    }

    /// Writes a body that is kept aside, once per day. The result is whether it is new.
    pub(crate) async fn quarantine(
        &self,
        body: &[u8],
        quarantined: Quarantined,
        received_at: Timestamp,
    ) -> Result<bool, StoreError> {
        const WHAT: &str = "quarantined body";
        let item = QuarantineItem::new(quarantined, body, received_at, self.retention);
        match self.put(self.attributes(&item, WHAT)?, IF_ABSENT, WHAT).await? {
            Written::New => Ok(true),
            // The SDK may meet its own write, whose response was lost: then it is new.
            Written::Present(stored) => {
                let stored_at = stored.as_ref().and_then(|item| item.get("received_at"));
                Ok(stored_at == Some(&AttributeValue::S(received_at.to_string())))
            }
        }
    }

    fn attributes(&self, item: &impl Serialize, what: &'static str) -> Result<Item, StoreError> {
        serde_dynamo::to_item(item).map_err(|error| self.error(what, error.to_string(), StoreFault::InvalidItem))
    }

    async fn put(&self, item: Item, condition: &str, what: &'static str) -> Result<Written, StoreError> {
        let put = self.client.put_item().table_name(&self.table).set_item(Some(item)).condition_expression(condition);
        // The item that is present comes with the refusal, which saves reading it to compare.
        let put = put.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        // Boxed, because the SDK's future is large and every one around it is moved.
        match Box::pin(put.send()).await {
            Ok(_) => Ok(Written::New),
            Err(error) => match error.as_service_error() {
                Some(PutItemError::ConditionalCheckFailedException(refusal)) => {
                    Ok(Written::Present(refusal.item().cloned()))
                }
                _ => Err(self.error(what, causes(&error), StoreFault::of(&error))),
            },
        }
    }

    fn error(&self, item: &'static str, cause: String, fault: StoreFault) -> StoreError {
        StoreError { table: self.table.clone(), item, cause, fault }
    }
}

fn compare(stored: Option<&Item>, body: &[u8]) -> Put {
    let Some(item) = stored else { return Put::Duplicate };
    let same = match item.get("body") {
        Some(AttributeValue::S(stored)) => same_content(stored.as_bytes(), body),
        Some(AttributeValue::B(stored)) => same_content(stored.as_ref(), body),
        _ => false,
    };
    if same { Put::Duplicate } else { Put::Conflict }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_dynamodb::primitives::Blob;

    #[test]
    fn the_stored_body_decides_between_duplicate_and_conflict() {
        let item = |body| Item::from([("body".to_owned(), body)]);
        let text = |text: &str| AttributeValue::S(text.to_owned());
        assert_eq!(compare(None, b"{}"), Put::Duplicate);
        assert_eq!(compare(Some(&item(text("{ }"))), b"{}"), Put::Duplicate);
        assert_eq!(compare(Some(&item(text(r#"{"a":1}"#))), b"{}"), Put::Conflict);
        assert_eq!(compare(Some(&item(AttributeValue::B(Blob::new(b"{}")))), b"{}"), Put::Duplicate);
        assert_eq!(compare(Some(&Item::new()), b"{}"), Put::Conflict);
    }
}
