//! Why a delivery is not accepted.
//!
//! The reason goes to the log. The sender learns the status alone, from [`response`](crate::response).

use event_store::store::StoreError;
use unith_events::verify::VerifyError;

use crate::{delivery::RequestError, key_store::KeyStoreError};

/// Why a delivery is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The request is not a delivery that could be verified.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// No key vouches for the body.
    #[error(transparent)]
    Verify(VerifyError),
    /// The key ring is there, and has no usable key.
    #[error("{0}: has `provision` run?")]
    NoUsableKey(VerifyError),
    /// The key ring is not available.
    #[error(transparent)]
    Keys(#[from] KeyStoreError),
    /// The table did not take the item.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Neither the table nor the queue took it.
    #[error("{table}; {queue}")]
    NotSpilled {
        /// Why the table did not take it.
        table: String,
        /// Why the queue did not take it.
        queue: String,
    },
    /// The response was due first.
    #[error("out of time while {step}")]
    OutOfTime {
        /// The step that was not done.
        step: &'static str,
    },
}

impl From<VerifyError> for ReceiveError {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::NoUsableKey { .. } => Self::NoUsableKey(error),
            _ => Self::Verify(error),
        }
    }
}
