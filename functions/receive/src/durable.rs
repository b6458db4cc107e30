//! Where a verified delivery is kept: in the table, or in the spill queue while the table does not take it.

use std::{
    future::Future,
    pin::{Pin, pin},
    time::Duration,
};

use event_store::{
    ingest::{Arrival, Outcome},
    spill_queue::SpillQueue,
    store::{EventStore, StoreError, StoreFault},
};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::warn;
use unith_events::{
    event::{Event, ParseError},
    spill::{SpillMessage, SpillReason},
    timestamp::Timestamp,
    verify::Verified,
};

use crate::{
    breaker::{Admission, Breaker},
    error::ReceiveError,
};

/// The part of a response's time that is kept for the queue.
const QUEUE_TIME: Duration = Duration::from_millis(600);
/// With less time than this the table is not asked.
const LEAST_TIME: Duration = Duration::from_millis(700);
/// The time for all attempts, and for the queue. A table that got less of it has not failed.
const FULL_TIME: Duration = Duration::from_millis(1_350);
/// A warm-up that takes longer is left to the first delivery.
const WARM_UP_WITHIN: Duration = Duration::from_secs(1);
const WRITING: &str = "writing to the table";

/// The table and, if there is one, the queue behind it.
#[derive(Debug)]
pub struct DurableStore {
    table: EventStore,
    queue: Option<SpillQueue>,
    breaker: Breaker,
}

/// Where a delivery is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// The table decided.
    Ingested(Outcome),
    /// In the queue: `redrive` will store it.
    Spilled {
        /// Why the table did not take it.
        reason: SpillReason,
        /// The same in a sentence, for the log.
        table: String,
    },
}

impl Kept {
    /// The word for it in responses and logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Ingested(outcome) => outcome.as_str(),
            Self::Spilled { .. } => "accepted",
        }
    }
}

impl DurableStore {
    /// Without a queue, a delivery that the table does not take is refused.
    pub fn new(table: EventStore, queue: Option<SpillQueue>, breaker: Breaker) -> Self {
        Self { table, queue, breaker }
    }

    /// Opens the connection to the table, and one to the queue if the table cannot be written to.
    pub async fn warm_up(&self) {
        match timeout(WARM_UP_WITHIN, self.table.warm_up()).await {
            Ok(Ok(())) => return,
            // Many environments that start together write to one key.
            Ok(Err(error)) if error.fault == StoreFault::HotKey => return,
            Ok(Err(error)) => warn!("the warm-up write failed: {error}"),
            Err(_) => warn!(
                "the warm-up write took longer than {} ms: the first deliveries may be answered late",
                WARM_UP_WITHIN.as_millis()
            ),
        }
        if let Some(queue) = &self.queue {
            self.breaker.failed(Admission::Normal, Instant::now());
            let _ = timeout(WARM_UP_WITHIN, queue.warm_up()).await;
        }
    }

    /// Keeps a verified body, of which `event` was parsed, before `due`. An `Ok` is durable.
    ///
    /// # Errors
    /// The table did not take it in time, nor did the queue.
    pub async fn keep(
        &self,
        verified: &Verified<'_>,
        event: &Result<Event, ParseError>,
        received_at: Timestamp,
        due: Instant,
        trace: Option<&str>,
    ) -> Result<Kept, ReceiveError> {
        // Pinned in its place: moving the SDK's large future costs more than a timer.
        let ingesting = pin!(self.table.ingest(verified, event, Arrival::direct(received_at)));
        let Some(queue) = &self.queue else {
            let outcome = timeout_at(due, ingesting).await.map_err(|_| ReceiveError::OutOfTime { step: WRITING })?;
            return Ok(Kept::Ingested(outcome?));
        };
        // That needs no table, so it must not depend on the breaker.
        if let Some(outcome) = event.as_ref().ok().and_then(|event| self.table.expired(event, received_at)) {
            return Ok(Kept::Ingested(outcome));
        }
        let (reason, table) = match self.ingest_unless_open(ingesting, due).await {
            Ok(outcome) => return Ok(Kept::Ingested(outcome)),
            Err(refused) => refused,
        };
        let message = SpillMessage::new(verified, received_at, reason, trace.map(str::to_owned));
        match timeout_at(due, queue.send(&message)).await {
            Ok(Ok(())) => Ok(Kept::Spilled { reason, table }),
            Ok(Err(queue)) => Err(ReceiveError::NotSpilled { table, queue: queue.to_string() }),
            Err(_) => Err(ReceiveError::NotSpilled { table, queue: "the queue did not respond in time".to_owned() }),
        }
    }

    /// The outcome, or why the table did not decide, for the message and for the log.
    async fn ingest_unless_open(
        &self,
        ingesting: Pin<&mut impl Future<Output = Result<Outcome, StoreError>>>,
        due: Instant,
    ) -> Result<Outcome, (SpillReason, String)> {
        let now = Instant::now();
        let left = due.saturating_duration_since(now);
        if left < LEAST_TIME {
            return Err((SpillReason::Timeout, "too little time is left to ask the table".to_owned()));
        }
        let is_full = left >= FULL_TIME;
        let Some(admission) = self.breaker.admits(now, is_full) else {
            return Err((SpillReason::Breaker, "the table failed a moment ago, and is not asked yet".to_owned()));
        };
        let (failed, refused) = match timeout_at(due.checked_sub(QUEUE_TIME).unwrap_or(due), ingesting).await {
            Ok(Ok(outcome)) => {
                self.breaker.succeeded(admission);
                return Ok(outcome);
            }
            Ok(Err(error)) => {
                // One hot session says nothing about the others, but that the table responds.
                let is_hot = error.fault == StoreFault::HotKey;
                if is_hot {
                    self.breaker.succeeded(admission);
                }
                (!is_hot, (reason(error.fault), error.to_string()))
            }
            Err(_) => (is_full, (SpillReason::Timeout, format!("out of time while {WRITING}"))),
        };
        if failed {
            self.breaker.failed(admission, Instant::now());
        }
        Err(refused)
    }
}

fn reason(fault: StoreFault) -> SpillReason {
    match fault {
        StoreFault::Throttled | StoreFault::HotKey => SpillReason::Throttled,
        StoreFault::Timeout => SpillReason::Timeout,
        StoreFault::Unavailable | StoreFault::InvalidItem => SpillReason::Unavailable,
        StoreFault::Denied => SpillReason::Denied,
        StoreFault::Missing => SpillReason::Missing,
    }
}
