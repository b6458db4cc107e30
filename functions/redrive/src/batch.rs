//! The messages of one batch, in turn: once the table fails, or the time is up, the rest is not tried.

use std::{future::Future, panic::AssertUnwindSafe};

use futures_util::FutureExt;
use tokio::time::Instant;

use crate::error::RedriveError;

/// A batch under way.
#[derive(Debug)]
pub struct Batch {
    table_failed: bool,
    until: Instant,
}

impl Batch {
    /// A batch whose last message begins before `until`.
    pub fn new(until: Instant) -> Self {
        Self { table_failed: false, until }
    }

    /// Does the `work` of the next message, unless the table failed at an earlier one. A panic fails this message alone.
    ///
    /// # Errors
    /// The work's own, or it was not done, or it panicked.
    pub async fn attempt<T>(&mut self, work: impl Future<Output = Result<T, RedriveError>>) -> Result<T, RedriveError> {
        if self.table_failed {
            return Err(RedriveError::Untried);
        }
        if Instant::now() >= self.until {
            return Err(RedriveError::OutOfTime);
        }
        // No state outlives the message's own, which is dropped.
        let result = AssertUnwindSafe(work).catch_unwind().await.unwrap_or(Err(RedriveError::Panicked));
        self.table_failed = result.as_ref().is_err_and(RedriveError::is_of_the_table);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;
    use unith_events::spill::InvalidMessage;

    /// What the work of a message comes to. `Untried` stands for every failure of the table.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Work {
        Succeeds,
        IsInvalid,
        Panics,
        FindsNoTable,
    }

    fn result(work: Work) -> Result<(), RedriveError> {
        match work {
            Work::Succeeds => Ok(()),
            Work::IsInvalid => Err(RedriveError::Invalid(InvalidMessage::Hash)),
            Work::Panics => panic!("a bug"),
            Work::FindsNoTable => Err(RedriveError::Untried),
        }
    }

    fn works() -> impl Strategy<Value = Vec<Work>> {
        let any = prop_oneof![
            3 => Just(Work::Succeeds), 1 => Just(Work::IsInvalid), 1 => Just(Work::Panics), 1 => Just(Work::FindsNoTable)
        ];
        proptest::collection::vec(any, 0..=10)
    }

    proptest! {
        #[test]
        fn messages_are_tried_until_the_table_fails_and_no_other_failure_touches_the_next(messages in works()) {
            let (mut batch, mut tried) = (Batch::new(Instant::now() + Duration::from_mins(1)), Vec::new());
            for &message in &messages {
                let work = async {
                    tried.push(message);
                    result(message)
                };
                let result = batch.attempt(work).now_or_never().unwrap();
                if tried.contains(&Work::FindsNoTable) {
                    prop_assert!(matches!(result, Err(RedriveError::Untried)));
                } else {
                    prop_assert_eq!(result.is_ok(), message == Work::Succeeds);
                }
                prop_assert_eq!(matches!(result, Err(RedriveError::Panicked)), tried.last() == Some(&Work::Panics));
            }
            let failed_at = messages.iter().position(|message| *message == Work::FindsNoTable);
            prop_assert_eq!(tried, &messages[..failed_at.map_or(messages.len(), |at| at + 1)]);
        }
    }
}
