//! The table: its items' keys and attributes, and the writes that fill it.
//!
//! An event is written with one conditional put: no lock, no in-progress state, no second trip. What always holds: an
//! item of an event is written once and never changed; a write reported as done is durable.

use std::{borrow::Cow, collections::HashMap};

use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::put_item::PutItemError,
    primitives::Blob,
    types::{AttributeValue, ReturnValuesOnConditionCheckFailure},
};
use sha2::{Digest, Sha256};
use time::Duration;

use lambda_support::errors;
use unith_events::{
    event::{Event, Identity, same_content},
    timestamp::Timestamp,
};

/// Partition key of every item.
pub const PK: &str = "pk";
/// Sort key of every item.
pub const SK: &str = "sk";
/// The attribute DynamoDB's time to live looks at; seconds since 1970.
pub const EXPIRES_AT: &str = "expires_at";
/// The raw body: a string, or binary where it is not UTF-8.
pub const BODY: &str = "body";

/// The partition all events of one session share, sorted in the order in which they happened.
#[must_use]
pub fn session_pk(head_id: &str, session_id: &str) -> String {
    format!("SESSION#{}#{}", escaped(head_id), escaped(session_id))
}

/// The sort key of an event within its session: its instant, and where its type stands among those of one instant.
#[must_use]
pub fn event_sk(identity: &Identity) -> String {
    format!("EVENT#{}#{}#{}", identity.occurred_at, identity.rank(), escaped(&identity.event_type))
}

/// An id as it stands in a key, where `#` separates the parts.
fn escaped(id: &str) -> Cow<'_, str> {
    if id.contains(['%', '#']) { id.replace('%', "%25").replace('#', "%23").into() } else { id.into() }
}

/// The partition of the bodies quarantined on a day (UTC).
#[must_use]
pub fn quarantine_pk(received_at: Timestamp) -> String {
    format!("QUARANTINE#{}", received_at.day())
}

/// How long items live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// For ever.
    Forever,
    /// This many days.
    Days(u16),
}

impl Retention {
    /// `0` is for ever.
    #[must_use]
    pub fn from_days(days: u16) -> Self {
        if days == 0 { Self::Forever } else { Self::Days(days) }
    }

    /// When what happened or came at `start` is to go, in seconds since 1970; `None` for never.
    #[must_use]
    pub fn expires_at(self, start: Timestamp) -> Option<i64> {
        match self {
            Self::Forever => None,
            Self::Days(days) => Some(start.plus(Duration::days(days.into())).epoch_seconds()),
        }
    }

    /// Whether what happened at `start` should be gone already.
    #[must_use]
    pub fn is_over(self, start: Timestamp, now: Timestamp) -> bool {
        self.expires_at(start).is_some_and(|expires_at| expires_at <= now.epoch_seconds())
    }
}

/// What the table made of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was new.
    Stored,
    /// It was there, saying the same. An SDK retry that meets its own first write ends here too.
    Duplicate,
    /// It was there, saying something else. The stored one stays.
    Conflict,
}

/// Why a body is kept aside, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Quarantined<'a> {
    /// What it is.
    pub kind: QuarantineKind,
    /// What is wrong with it, in a sentence.
    pub reason: &'a str,
    /// The head its key is bound to.
    pub key_head: Option<&'a str>,
    /// The head it names.
    pub head_id: Option<&'a str>,
    /// The session it names.
    pub session_id: Option<&'a str>,
}

/// What a quarantined body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuarantineKind {
    /// Not an event we can read.
    Unreadable,
    /// An event that is stored already, with other content.
    Conflict,
}

impl QuarantineKind {
    /// The word in the item.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Conflict => "conflict",
        }
    }
}

/// The table did not take an item.
#[derive(Debug, thiserror::Error)]
#[error("table `{table}` did not take the {what}: {cause}{hint}")]
pub struct StoreError {
    table: String,
    what: &'static str,
    cause: String,
    hint: &'static str,
    #[source]
    source: Box<SdkError<PutItemError>>,
}

/// The table events are stored in.
#[derive(Debug, Clone)]
pub struct Table {
    client: Client,
    name: String,
    retention: Retention,
    takes: Takes,
}

/// Which items a table takes.
#[derive(Debug, Clone, Copy)]
enum Takes {
    New,
    Nothing,
}

/// A condition no item meets, be it there or not.
const NEVER: &str = "attribute_exists(pk) AND attribute_not_exists(pk)";

impl Table {
    /// The table `name`, written to through `client`; items live for `retention`.
    #[must_use]
    pub fn new(client: Client, name: String, retention: Retention) -> Self {
        Self { client, name, retention, takes: Takes::New }
    }

    /// How long items live.
    #[must_use]
    pub fn retention(&self) -> Retention {
        self.retention
    }

    /// The same table, written to under a condition that nothing meets: it takes no item. What is written is answered as
    /// if it were there. Retention is for ever, so that every event is asked about.
    #[must_use]
    pub fn refusing(&self) -> Self {
        Self { takes: Takes::Nothing, retention: Retention::Forever, ..self.clone() }
    }

    /// Writes an event and its raw `body`, if it is not there yet.
    pub async fn put_event(&self, event: &Event, body: &[u8], received_at: Timestamp) -> Result<Put, StoreError> {
        let request = self
            .client
            .put_item()
            .table_name(&self.name)
            .set_item(Some(self.event_item(event, body, received_at)))
            .condition_expression(self.condition())
            // The item that is there comes back with the refusal, which saves reading it to compare.
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match request.send().await {
            Ok(_) => Ok(Put::Stored),
            Err(error) => match error.as_service_error() {
                Some(PutItemError::ConditionalCheckFailedException(refusal)) => Ok(compare(refusal.item(), body)),
                _ => Err(self.error("event", error)),
            },
        }
    }

    /// Keeps an authentic body that is not an event, or contradicts one. The same body is kept once a day; whether it
    /// was new is the result.
    pub async fn quarantine(
        &self,
        body: &[u8],
        quarantined: &Quarantined<'_>,
        received_at: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut item = HashMap::from([
            (PK.to_owned(), string(quarantine_pk(received_at))),
            (SK.to_owned(), string(body_sha256(body))),
            ("kind".to_owned(), string(quarantined.kind.as_str())),
            ("reason".to_owned(), string(quarantined.reason)),
            ("received_at".to_owned(), string(received_at.to_string())),
            (BODY.to_owned(), body_attribute(body)),
        ]);
        let named = [
            ("key_head", quarantined.key_head),
            ("head_id", quarantined.head_id),
            ("session_id", quarantined.session_id),
        ];
        item.extend(named.into_iter().filter_map(|(name, id)| Some((name.to_owned(), string(id?)))));
        item.extend(self.expiry(received_at));
        let request = self.client.put_item().table_name(&self.name).set_item(Some(item));
        let request = request.condition_expression(self.condition());
        match request.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld).send().await
        {
            Ok(_) => Ok(true),
            Err(error) => match error.as_service_error() {
                // The SDK may meet its own write, whose response was lost: that one was new.
                Some(PutItemError::ConditionalCheckFailedException(refusal)) => {
                    let stored = refusal.item().and_then(|item| item.get("received_at"));
                    Ok(stored == Some(&string(received_at.to_string())))
                }
                _ => Err(self.error("quarantined body", error)),
            },
        }
    }

    fn condition(&self) -> &'static str {
        match self.takes {
            Takes::New => "attribute_not_exists(pk)",
            Takes::Nothing => NEVER,
        }
    }

    fn event_item(&self, event: &Event, body: &[u8], received_at: Timestamp) -> HashMap<String, AttributeValue> {
        let id = &event.identity;
        let mut item = HashMap::from([
            (PK.to_owned(), string(session_pk(&id.head_id, &id.session_id))),
            (SK.to_owned(), string(event_sk(id))),
            ("event_id".to_owned(), string(&event.event_id)),
            ("event_type".to_owned(), string(&event.event_type)),
            ("occurred_at".to_owned(), string(id.occurred_at.to_string())),
            ("head_id".to_owned(), string(&id.head_id)),
            ("session_id".to_owned(), string(&id.session_id)),
            ("received_at".to_owned(), string(received_at.to_string())),
            (BODY.to_owned(), body_attribute(body)),
            ("body_sha256".to_owned(), string(body_sha256(body))),
        ]);
        let public = [("public_head_id", &event.public_head_id), ("public_org_id", &event.public_org_id)];
        item.extend(public.into_iter().filter_map(|(name, id)| Some((name.to_owned(), string(id.as_deref()?)))));
        item.extend(self.expiry(id.occurred_at));
        item
    }

    fn expiry(&self, start: Timestamp) -> Option<(String, AttributeValue)> {
        let expires_at = self.retention.expires_at(start)?;
        Some((EXPIRES_AT.to_owned(), AttributeValue::N(expires_at.to_string())))
    }

    fn error(&self, what: &'static str, source: SdkError<PutItemError>) -> StoreError {
        let hint = match source.code() {
            Some("ResourceNotFoundException") => {
                "; there is no such table in this account and region: see TABLE_NAME and AWS_REGION"
            }
            Some("AccessDeniedException") => "; the function's role needs dynamodb:PutItem on the table",
            Some("ProvisionedThroughputExceededException" | "ThrottlingException" | "RequestLimitExceeded") => {
                "; the table is throttled: see its capacity mode and limits"
            }
            _ => "",
        };
        let cause = errors::causes(&source);
        StoreError { table: self.name.clone(), what, cause, hint, source: Box::new(source) }
    }
}

fn compare(stored: Option<&HashMap<String, AttributeValue>>, body: &[u8]) -> Put {
    // Some emulators refuse without showing the item; then all that is known is that the event is there.
    let Some(item) = stored else { return Put::Duplicate };
    let same = match item.get(BODY) {
        Some(AttributeValue::S(stored)) => same_content(stored.as_bytes(), body),
        Some(AttributeValue::B(stored)) => same_content(stored.as_ref(), body),
        _ => false,
    };
    if same { Put::Duplicate } else { Put::Conflict }
}

/// Lower-case hex of the body's SHA-256.
#[must_use]
pub fn body_sha256(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

fn string(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn body_attribute(body: &[u8]) -> AttributeValue {
    std::str::from_utf8(body).map_or_else(|_| AttributeValue::B(Blob::new(body)), string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_designs() {
        let occurred_at = Timestamp::parse("2026-01-15T09:57:33Z").unwrap();
        let identity = Identity {
            head_id: "h".into(),
            session_id: "s".into(),
            event_type: "START_CONVERSATION".into(),
            occurred_at,
        };
        assert_eq!(session_pk("h", "s"), "SESSION#h#s");
        assert_eq!(event_sk(&identity), "EVENT#2026-01-15T09:57:33.000Z#1#START_CONVERSATION");
        let odd = Identity { event_type: "A#B%".into(), ..identity };
        assert_eq!(event_sk(&odd), "EVENT#2026-01-15T09:57:33.000Z#3#A%23B%25");
        assert_eq!(quarantine_pk(occurred_at), "QUARANTINE#2026-01-15");
    }

    /// A `#` in an id must not make it another id: both parts can be read back.
    #[test]
    fn ids_are_escaped_in_keys() {
        assert_eq!(session_pk("a#b", "50%#"), "SESSION#a%23b#50%25%23");
        let pairs = [("a#b", "c"), ("a", "b#c"), ("a%23b", "c"), ("a", "b%23c"), ("a%2523b", "c")];
        let keys: std::collections::BTreeSet<_> = pairs.map(|(head, session)| session_pk(head, session)).into();
        assert_eq!(keys.len(), pairs.len());
    }

    #[test]
    fn retention_counts_from_the_start_and_zero_is_for_ever() {
        let start = Timestamp::parse("2026-01-15T09:57:33Z").unwrap();
        let end = start.plus(Duration::days(1));
        assert_eq!(Retention::from_days(0).expires_at(start), None);
        assert!(!Retention::from_days(0).is_over(start, end));
        let day = Retention::from_days(1);
        assert_eq!(day.expires_at(start), Some(end.epoch_seconds()));
        assert!(!day.is_over(start, start));
        assert!(day.is_over(start, end));
    }

    #[test]
    fn what_is_there_decides_between_duplicate_and_conflict() {
        let item = |body| HashMap::from([(BODY.to_owned(), body)]);
        assert_eq!(compare(None, b"{}"), Put::Duplicate);
        assert_eq!(compare(Some(&item(string("{ }"))), b"{}"), Put::Duplicate);
        assert_eq!(compare(Some(&item(string(r#"{"a":1}"#))), b"{}"), Put::Conflict);
        assert_eq!(compare(Some(&item(AttributeValue::B(Blob::new(b"{}")))), b"{}"), Put::Duplicate);
        assert_eq!(compare(Some(&HashMap::new()), b"{}"), Put::Conflict);
    }
}
