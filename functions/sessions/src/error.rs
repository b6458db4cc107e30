//! Why the summary of a session is not up to date.

use event_store::store::{StoreError, StoreFault};

/// Why the summary of a session is not up to date.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The events table did not return the events.
    #[error(transparent)]
    Read(StoreError),
    /// The sessions table did not take the row.
    #[error(transparent)]
    Write(StoreError),
    #[error("none of the session's {0} items can be read as an event")]
    Unreadable(usize),
    #[error("not tried: a table failed at another session")]
    Untried,
    #[error("the time of the invocation is nearly up")]
    OutOfTime,
    #[error("folding the session panicked")]
    Panicked,
    #[error("the row changed during every attempt to rebuild it; try again")]
    Contended,
}

impl SessionError {
    /// Whether other sessions would fail too.
    pub fn is_of_the_table(&self) -> bool {
        match self {
            Self::Read(error) | Self::Write(error) => !self.is_final() && !matches!(error.fault, StoreFault::HotKey),
            Self::Untried => true,
            Self::Unreadable(_) | Self::OutOfTime | Self::Panicked | Self::Contended => false,
        }
    }

    /// Whether no retry can help: the session would block its shard.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Write(error) => error.fault == StoreFault::InvalidItem,
            Self::Unreadable(_) | Self::Panicked => true,
            // A key that the events table refuses comes from its own stream: the function reads another table.
            Self::Read(_) | Self::Untried | Self::OutOfTime | Self::Contended => false,
        }
    }
}
