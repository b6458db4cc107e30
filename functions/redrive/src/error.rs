//! Why a message is not done.

use event_store::store::{StoreError, StoreFault};
use unith_events::{spill::InvalidMessage, verify::VerifyError};

/// A message whose handling panics as often as this becomes a dead letter.
const PANICS: u32 = 5;

/// Why a message is not done.
#[derive(Debug, thiserror::Error)]
pub enum RedriveError {
    #[error(transparent)]
    Invalid(#[from] InvalidMessage),
    #[error(transparent)]
    WrongHead(#[from] VerifyError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("not tried: the table did not take an earlier message of the batch")]
    Untried,
    #[error("not tried: the time of the invocation is nearly up")]
    OutOfTime,
    #[error("handling the message panicked")]
    Panicked,
}

impl RedriveError {
    /// Whether the messages after it would fail too.
    pub fn is_of_the_table(&self) -> bool {
        match self {
            Self::Store(error) => !matches!(error.fault, StoreFault::HotKey | StoreFault::InvalidItem),
            Self::Untried => true,
            Self::Invalid(_) | Self::WrongHead(_) | Self::OutOfTime | Self::Panicked => false,
        }
    }

    /// Whether the message, which was received `receive_count` times, is given up.
    pub fn is_final(&self, receive_count: u32) -> bool {
        match self {
            Self::Invalid(_) | Self::WrongHead(_) => true,
            Self::Panicked => receive_count >= PANICS,
            Self::Store(_) | Self::Untried | Self::OutOfTime => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_message_that_can_never_succeed_is_given_up() {
        for receive_count in [1, 4, 5, 1_000] {
            assert!(RedriveError::Invalid(InvalidMessage::Hash).is_final(receive_count));
            assert!(!RedriveError::Untried.is_final(receive_count));
            assert_eq!(RedriveError::Panicked.is_final(receive_count), receive_count >= 5);
        }
    }
}
