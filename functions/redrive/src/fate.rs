//! What became of a message.

use event_store::ingest::Outcome;

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The table decided, and the message is done.
    Ingested(Outcome),
    /// The message goes back to the queue.
    Returned {
        /// Why it is not done.
        reason: String,
    },
    /// The message is among the dead letters.
    DeadLetter {
        /// Why it can never be stored.
        reason: String,
    },
}

impl Fate {
    /// The word for it in logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Ingested(outcome) => outcome.as_str(),
            Self::Returned { .. } => "returned",
            Self::DeadLetter { .. } => "dead_letter",
        }
    }
}
