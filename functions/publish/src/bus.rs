//! The event bus in EventBridge, and whether it exists.
//!
//! `PutEvents` to a bus that does not exist succeeds, and the events are lost. So the bus is looked up before the first event,
//! and again once the last look is a minute old. A bus that was created anew since then has lost what was sent before.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_sdk_eventbridge::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::describe_event_bus::DescribeEventBusError,
    primitives::DateTime,
};
use event_store::item::EventItem;
use lambda_support::{
    aws::{self, SdkConfig, is_denied},
    errors::causes,
};
use serde::Serialize;
use tokio::time::Instant;
use unith_events::{ids::HeadId, timestamp::Timestamp};

use crate::{
    bus_event::BusEvent,
    outlet::{EntryError, EntryFault, RequestError, Sent},
};

/// The attempts of a request. Entries that fail in a request that succeeds are retried elsewhere.
const ATTEMPTS: u32 = 3;

/// An event bus.
#[derive(Debug)]
pub struct Bus {
    client: Client,
    arn: String,
    check_every: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When it was last seen to exist.
    seen: Option<Instant>,
    /// When the bus that was last seen was created.
    created: Option<DateTime>,
    /// What it took since.
    unconfirmed: Option<Unconfirmed>,
}

/// The events that a bus took since it was last seen: the filter of a replay that publishes them again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unconfirmed {
    /// The least `received_at`.
    pub from: Timestamp,
    /// The greatest `received_at`.
    pub to: Timestamp,
    pub head_ids: BTreeSet<HeadId>,
    pub events: u64,
}

/// Why it is not certain that the bus exists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    #[error("event bus `{arn}` does not exist: create it, then replay what was published in the minute before")]
    Missing {
        arn: String,
        /// What it took since it was last seen, and lost if it was deleted before.
        unconfirmed: Option<Unconfirmed>,
    },
    #[error("event bus `{arn}` was deleted and created again: replay what was published in the minute before")]
    Replaced {
        arn: String,
        /// What it took since the earlier bus was last seen.
        unconfirmed: Unconfirmed,
    },
    #[error(
        "whether event bus `{arn}` exists cannot be checked: {cause}; the function's role needs events:DescribeEventBus on it"
    )]
    Denied { arn: String, cause: String },
    #[error("whether event bus `{arn}` exists cannot be checked: {cause}")]
    Unknown { arn: String, cause: String },
}

impl BusError {
    /// What the bus may have lost.
    pub fn unconfirmed(&self) -> Option<&Unconfirmed> {
        match self {
            Self::Missing { unconfirmed, .. } => unconfirmed.as_ref(),
            Self::Replaced { unconfirmed, .. } => Some(unconfirmed),
            Self::Denied { .. } | Self::Unknown { .. } => None,
        }
    }
}

impl Bus {
    pub const NAME: &str = "the event bus";

    /// The bus with this ARN. An attempt of a request takes `attempt_timeout` at most.
    pub fn new(aws: &SdkConfig, arn: String, attempt_timeout: Duration, check_every: Duration) -> Self {
        let config = aws::with_attempts(aws, ATTEMPTS, attempt_timeout);
        let config = aws_sdk_eventbridge::config::Builder::from(&config).retry_partition(aws::without_retry_quota());
        Self { client: Client::from_conf(config.build()), arn, check_every, state: Mutex::default() }
    }

    /// Makes sure that the bus exists, unless that was seen a short while ago.
    ///
    /// # Errors
    /// It does not exist, or that cannot be checked: the next call checks again. Or it was created anew, and has lost events.
    pub async fn confirm(&self) -> Result<(), BusError> {
        if self.state().seen.is_some_and(|seen| seen.elapsed() < self.check_every) {
            return Ok(());
        }
        let arn = self.arn.clone();
        match Box::pin(self.client.describe_event_bus().name(&self.arn).send()).await {
            Ok(bus) => {
                let now = State { seen: Some(Instant::now()), created: bus.creation_time, unconfirmed: None };
                let before = std::mem::replace(&mut *self.state(), now);
                let is_other = before.created.is_some() && before.created != bus.creation_time;
                let lost = before.unconfirmed.filter(|_| is_other);
                lost.map_or(Ok(()), |unconfirmed| Err(BusError::Replaced { arn, unconfirmed }))
            }
            Err(error) => {
                let mut state = self.state();
                state.seen = None;
                Err(match error.as_service_error() {
                    Some(DescribeEventBusError::ResourceNotFoundException(_)) => {
                        BusError::Missing { arn, unconfirmed: state.unconfirmed.take() }
                    }
                    Some(service) if is_denied(service) => BusError::Denied { arn, cause: causes(&error) },
                    _ => BusError::Unknown { arn, cause: causes(&error) },
                })
            }
        }
    }

    /// Notes that the bus took an event.
    pub fn took(&self, item: &EventItem) {
        let at = item.received_at;
        let mut state = self.state();
        let unconfirmed = state.unconfirmed.get_or_insert_with(|| Unconfirmed {
            from: at,
            to: at,
            head_ids: BTreeSet::new(),
            events: 0,
        });
        (unconfirmed.from, unconfirmed.to) = (unconfirmed.from.min(at), unconfirmed.to.max(at));
        unconfirmed.head_ids.insert(item.head_id.clone());
        unconfirmed.events += 1;
    }

    pub(crate) async fn put(&self, events: &[&BusEvent]) -> Sent {
        let entries = events.iter().map(|event| event.entry(&self.arn)).collect();
        let response = Box::pin(self.client.put_events().set_entries(Some(entries)).send()).await;
        let results = response.map_err(|error| self.request_error(&error))?.entries.unwrap_or_default();
        let mut results = results.into_iter().map(|entry| match (entry.error_code, entry.event_id) {
            (Some(code), _) => Err(entry_error(&code, entry.error_message.as_deref().unwrap_or_default())),
            (None, Some(_)) => Ok(()),
            (None, None) => Err(entry_error("InternalFailure", "the response has no event id")),
        });
        let missing = || Err(entry_error("InternalFailure", "the response has no result"));
        Ok(events.iter().map(|_| results.next().unwrap_or_else(missing)).collect())
    }

    fn request_error<E: ProvideErrorMetadata + std::error::Error + 'static>(
        &self,
        error: &SdkError<E>,
    ) -> RequestError {
        let (code, status) = match error {
            SdkError::ServiceError(service) => (service.err().code(), Some(service.raw().status().as_u16())),
            _ => (None, None),
        };
        let is_refused = matches!(code, Some("ValidationException" | "SerializationException")) || status == Some(413);
        let mut cause = causes(error);
        if code == Some("AccessDeniedException") {
            cause = format!("{cause}; the function's role needs events:PutEvents on {}", self.arn);
        }
        RequestError { outlet: Self::NAME, is_refused, cause }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The codes of entries: <https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEventsResultEntry.html>
fn entry_error(code: &str, message: &str) -> EntryError {
    let fault = match code {
        "MalformedDetail" | "InvalidArgument" => EntryFault::Malformed,
        "AccessDeniedException"
        | "InvalidAccountIdException"
        | "NotAuthorizedForSourceException"
        | "NotAuthorizedForDetailTypeException" => EntryFault::Denied,
        // Unknown codes too: a record that is held back is not lost.
        _ => EntryFault::Transient,
    };
    EntryError { outlet: Bus::NAME, fault, cause: format!("{code}: {message}") }
}
