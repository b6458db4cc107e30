//! The outlets: where published events go.

use crate::{bus::Bus, bus_event::BusEvent, ordered_queue::OrderedQueue};

/// An outlet.
#[derive(Debug)]
pub enum Outlet {
    Bus(Bus),
    Queue(OrderedQueue),
}

/// What an outlet's failure to take an entry means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryFault {
    /// It may take it the next time.
    Transient,
    /// It will never take it.
    Malformed,
    /// It takes it once somebody changed something.
    Denied,
}

/// An outlet did not take an entry of a request that succeeded otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{outlet} did not take the event: {cause}")]
pub struct EntryError {
    pub outlet: &'static str,
    pub fault: EntryFault,
    pub cause: String,
}

/// A request failed, with all its entries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{outlet} did not take the request: {cause}")]
pub struct RequestError {
    pub outlet: &'static str,
    /// Whether the outlet refused what was sent, and not the sender: one entry may be the reason.
    pub is_refused: bool,
    pub cause: String,
}

/// The results of a request's entries, in their order.
pub type Sent = Result<Vec<Result<(), EntryError>>, RequestError>;

impl Outlet {
    /// Its name, in words that begin the sentence "… did not take the event".
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bus(_) => Bus::NAME,
            Self::Queue(_) => OrderedQueue::NAME,
        }
    }

    /// The bytes of an event that count towards the limit of a request.
    pub fn size(&self, event: &BusEvent) -> usize {
        match self {
            Self::Bus(_) => event.entry_size(),
            Self::Queue(_) => OrderedQueue::message(event).len(),
        }
    }

    /// Sends up to ten events of different sessions.
    pub async fn send(&self, events: &[&BusEvent]) -> Sent {
        match self {
            Self::Bus(bus) => bus.put(events).await,
            Self::Queue(queue) => queue.send(events).await,
        }
    }
}
