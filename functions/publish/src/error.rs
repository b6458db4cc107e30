//! Why a record is not done.

use event_store::{
    failure_queue::FailureQueueError,
    store::{StoreError, StoreFault},
    stream::InvalidImage,
};

use crate::{
    bus::BusError,
    outlet::{EntryError, RequestError},
    packing::MAX_BYTES,
};

/// Why a record is not done.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Image(#[from] InvalidImage),
    #[error("the event has {0} bytes: a request takes fewer than {MAX_BYTES}")]
    TooLarge(usize),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Entry(#[from] EntryError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("{0}; {1}")]
    NotReported(Box<PublishError>, FailureQueueError),
    #[error("held back: an earlier event of its session is not published")]
    SessionHeld,
    #[error("not tried: {0} failed at an earlier event of the batch")]
    Untried(&'static str),
    #[error("not tried: the time of the invocation is nearly up")]
    OutOfTime,
    #[error("held back: {0}")]
    Bus(BusError),
}

impl PublishError {
    /// Whether the events of other sessions that need the table would fail too.
    pub fn is_of_the_table(&self) -> bool {
        match self {
            Self::Store(error) => !matches!(error.fault, StoreFault::HotKey | StoreFault::InvalidItem),
            _ => false,
        }
    }

    /// Whether it is the record's own failure, and not that of another one or of the whole batch.
    pub fn is_own(&self) -> bool {
        !matches!(self, Self::SessionHeld | Self::Untried(_) | Self::OutOfTime | Self::Bus(_))
    }
}
