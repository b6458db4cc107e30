//! The events table: conditional writes.
//!
//! One event is one conditional put: no lock, no marker of work in progress, no second request.
//!
//! Invariants: the item of an event is written once and never changed. A write that is reported as done is durable.

use std::collections::HashMap;

use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::{
        delete_item::DeleteItemError,
        get_item::GetItemError,
        put_item::{PutItemError, PutItemOutput, builders::PutItemFluentBuilder},
        query::QueryError,
        scan::ScanError,
    },
    types::{AttributeValue, ReturnValuesOnConditionCheckFailure, ThrottlingReason},
};
use lambda_support::errors::causes;
use unith_events::{content::same_content, event::Event, timestamp::Timestamp};

use crate::{
    ingest::Arrival,
    item::{EventItem, QuarantineItem, Quarantined, Via},
    keys::{PK, SK},
    retention::Retention,
};

const IF_ABSENT: &str = "attribute_not_exists(pk)";
/// A condition that holds neither for an item that exists nor for one that does not.
const NEVER: &str = "attribute_exists(pk) AND attribute_not_exists(pk)";
/// The partition of the warm-up write: within those that the function's role may write.
const WARM_UP: &str = "SESSION#warm-up";

/// The most items of a page of a scan. As many events are about the 1 MB that DynamoDB reads at most.
pub(crate) const SCAN_PAGE: i32 = 1_000;

pub(crate) type Item = HashMap<String, AttributeValue>;

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

/// The table did not carry out an operation.
#[derive(Debug, thiserror::Error)]
#[error("table `{table}` did not {}: {cause}{}", .operation.text, .fault.hint(.operation))]
pub struct StoreError {
    table: String,
    operation: Operation,
    cause: String,
    /// What kind of failure it is.
    pub fault: StoreFault,
}

impl StoreError {
    /// The error of an `operation` that DynamoDB did not carry out on `table`.
    pub fn new<E>(table: &str, operation: Operation, error: &SdkError<E>) -> Self
    where
        E: ThrottledError + std::error::Error + 'static,
    {
        Self { table: table.to_owned(), operation, cause: causes(error), fault: StoreFault::of(error) }
    }

    /// The error of an item of `table` that does not fit its type.
    pub fn invalid_item(table: &str, operation: Operation, error: &serde_dynamo::Error) -> Self {
        Self { table: table.to_owned(), operation, cause: error.to_string(), fault: StoreFault::InvalidItem }
    }
}

/// An operation on a table.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    text: &'static str,
    permission: &'static str,
    variable: &'static str,
}

impl Operation {
    const WARM_UP: Self = Self::put("take the warm-up write");
    const PUT_EVENT: Self = Self::put("take the event");
    const QUARANTINE: Self = Self::put("take the quarantined body");
    pub(crate) const QUERY: Self = Self::new("return the quarantined bodies", "dynamodb:Query");
    pub(crate) const QUERY_SESSION: Self = Self::new("return the events of the session", "dynamodb:Query");
    pub(crate) const SCAN_EVENTS: Self = Self::new("return its events", "dynamodb:Scan");
    pub(crate) const SCAN_KEYS: Self = Self::new("return the keys of its events", "dynamodb:Scan");
    pub(crate) const DELETE: Self = Self::new("delete the quarantined body", "dynamodb:DeleteItem");

    /// An operation that needs `permission`. The `text` completes the sentence "the table did not …".
    pub const fn new(text: &'static str, permission: &'static str) -> Self {
        Self { text, permission, variable: "TABLE_NAME" }
    }

    /// The same on the table that another `variable` than `TABLE_NAME` names.
    pub const fn on_table_of(self, variable: &'static str) -> Self {
        Self { variable, ..self }
    }

    const fn put(text: &'static str) -> Self {
        Self::new(text, "dynamodb:PutItem")
    }
}

/// Why the table did not carry out an operation.
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
    /// IAM or KMS denies it.
    Denied,
    /// The table does not exist.
    Missing,
    /// The table can never take this item.
    InvalidItem,
}

impl StoreFault {
    fn of<E: ThrottledError>(error: &SdkError<E>) -> Self {
        match error {
            SdkError::TimeoutError(_) => Self::Timeout,
            SdkError::DispatchFailure(failure) if failure.is_timeout() => Self::Timeout,
            SdkError::ServiceError(service) if is_hot_key(service.err().reasons()) => Self::HotKey,
            SdkError::ServiceError(service) => match service.err().code() {
                Some("ProvisionedThroughputExceededException" | "ThrottlingException" | "RequestLimitExceeded") => {
                    Self::Throttled
                }
                Some("ResourceNotFoundException") => Self::Missing,
                Some("ValidationException") => Self::InvalidItem,
                _ if service.raw().status().is_client_error() => Self::Denied,
                _ => Self::Unavailable,
            },
            _ => Self::Unavailable,
        }
    }

    fn hint(self, operation: &Operation) -> String {
        let Operation { permission, variable, .. } = operation;
        match self {
            Self::Missing => {
                format!("; the table does not exist in this account and region: check {variable} and AWS_REGION")
            }
            Self::Denied => format!("; the function's role needs {permission} on the table"),
            Self::Throttled => "; the table is throttled: check its capacity mode and limits".into(),
            Self::HotKey => "; one session gets more events than a partition takes".into(),
            Self::Timeout | Self::Unavailable | Self::InvalidItem => String::new(),
        }
    }
}

/// An error of an operation, with the reasons of throttling if that is what it is.
pub trait ThrottledError: ProvideErrorMetadata {
    /// Empty for any other error.
    fn reasons(&self) -> &[ThrottlingReason];
}

macro_rules! throttled_error {
    ($($error:ident),*) => {$(
        impl ThrottledError for $error {
            fn reasons(&self) -> &[ThrottlingReason] {
                match self {
                    Self::ProvisionedThroughputExceededException(error) => error.throttling_reasons(),
                    Self::ThrottlingException(error) => error.throttling_reasons(),
                    _ => &[],
                }
            }
        }
    )*};
}

throttled_error!(PutItemError, DeleteItemError, GetItemError, QueryError, ScanError);

fn is_hot_key(reasons: &[ThrottlingReason]) -> bool {
    reasons.iter().filter_map(ThrottlingReason::reason).any(|reason| reason.contains("KeyRange"))
}

/// The table of events and quarantined bodies. Clones share one client.
#[derive(Debug, Clone)]
pub struct EventStore {
    pub(crate) client: Client,
    pub(crate) table: String,
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
    pub fn new(client: Client, table: String, retention: Retention) -> Self {
        Self { client, table, retention }
    }

    /// How long items live.
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
        self.written(Box::pin(self.put(item, NEVER).send()).await, Operation::WARM_UP).map(drop)
    }

    /// Writes an event and its raw `body` if it is absent.
    pub(crate) async fn put_event(
        &self,
        event: &Event,
        body: &[u8],
        received_at: Timestamp,
        via: Option<Via>,
    ) -> Result<Put, StoreError> {
        let item = EventItem::new(event, body, received_at, via, self.retention);
        match self.written(Box::pin(self.put(item.into(), IF_ABSENT).send()).await, Operation::PUT_EVENT)? {
            Written::New => Ok(Put::Stored),
            Written::Present(stored) => Ok(compare(stored.as_ref(), body)),
        }
    }

    /// Writes a body that is kept aside, once per day. The result is whether it is new.
    pub(crate) async fn quarantine(
        &self,
        body: &[u8],
        quarantined: Quarantined,
        Arrival { received_at, is_first, .. }: Arrival,
    ) -> Result<bool, StoreError> {
        let item = QuarantineItem::new(quarantined, body, received_at, self.retention);
        let item = serde_dynamo::to_item(item)
            .map_err(|error| StoreError::invalid_item(&self.table, Operation::QUARANTINE, &error))?;
        match self.written(Box::pin(self.put(item, IF_ABSENT).send()).await, Operation::QUARANTINE)? {
            Written::New => Ok(true),
            // The SDK may meet its own write, whose response was lost: then it is new. A message that comes again has the same
            // time, and may meet the write of an earlier try, which was counted.
            Written::Present(stored) => {
                let stored_at = stored.as_ref().and_then(|item| item.get("received_at"));
                Ok(is_first && stored_at == Some(&AttributeValue::S(received_at.to_string())))
            }
        }
    }

    fn put(&self, item: Item, condition: &str) -> PutItemFluentBuilder {
        let put = self.client.put_item().table_name(&self.table).set_item(Some(item)).condition_expression(condition);
        // The item that is present comes with the refusal, which saves reading it to compare.
        put.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    /// What a conditional put found. Callers box its future, because it is large and every one around it is moved.
    fn written(
        &self,
        result: Result<PutItemOutput, SdkError<PutItemError>>,
        operation: Operation,
    ) -> Result<Written, StoreError> {
        match result {
            Ok(_) => Ok(Written::New),
            Err(error) => match error.as_service_error() {
                Some(PutItemError::ConditionalCheckFailedException(refusal)) => {
                    Ok(Written::Present(refusal.item().cloned()))
                }
                _ => Err(self.failed(operation, &error)),
            },
        }
    }

    /// The error of an operation that DynamoDB did not carry out.
    pub(crate) fn failed<E>(&self, operation: Operation, error: &SdkError<E>) -> StoreError
    where
        E: ThrottledError + std::error::Error + 'static,
    {
        StoreError::new(&self.table, operation, error)
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
