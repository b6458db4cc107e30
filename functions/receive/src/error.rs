//! Why a delivery is not accepted.
//!
//! The reason goes to the log. The sender learns the status alone, from [`response`](crate::response).

use event_store::store::StoreError;
use unith_events::verify::VerifyError;

use crate::{delivery::RequestError, key_store::KeyStoreError};

/// Why a delivery is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Verify(VerifyError),
    #[error("{0}: has `provision` run?")]
    NoUsableKey(VerifyError),
    #[error(transparent)]
    Keys(#[from] KeyStoreError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{table}; {queue}")]
    NotSpilled {
        /// Why the table did not take it.
        table: String,
        /// Why the queue did not take it.
        queue: String,
    },
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
