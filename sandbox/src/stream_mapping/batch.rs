//! A batch, and what follows from how its invocation ended.
//!
//! Sources: <https://docs.aws.amazon.com/lambda/latest/dg/services-ddb-batchfailurereporting.html>,
//! <https://docs.aws.amazon.com/lambda/latest/dg/services-dynamodb-errors.html>

use std::{collections::BTreeSet, mem, sync::Arc, time::Duration};

use serde_json::Value;
use unith_events::timestamp::Timestamp;

use super::{record::Record, settings::Settings};
use crate::mapping::response::named;

/// Records of a shard in their order, and how their invocations ended so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Batch {
    pub(super) records: Vec<Arc<Record>>,
    /// Whether the function has handled these records before.
    pub(super) is_repeat: bool,
    /// Invocations that the function ran in, those of the batches that this one is a part of included.
    pub(super) invocations: u32,
    /// The last end of an invocation.
    pub(super) last_end: Option<End>,
    /// Retries that are used up.
    retries: u32,
}

/// How an invocation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Success,
    /// The record at this place and those after it are to be retried.
    PartialFailure(usize),
    Failure,
}

/// What follows.
#[derive(Debug, Default)]
pub(super) struct Next {
    /// The first records: those that the function handled.
    pub(super) processed: Vec<Arc<Record>>,
    /// What is to be delivered then, in this order.
    pub(super) retries: Vec<Batch>,
    /// The batch has used up its retries.
    pub(super) exhausted: Option<Batch>,
}

impl Batch {
    pub(super) fn new(records: Vec<Arc<Record>>) -> Self {
        Self { records, ..Self::default() }
    }

    /// A batch of records that the function has handled before.
    pub(super) fn repeat(records: Vec<Arc<Record>>) -> Self {
        Self { is_repeat: true, ..Self::new(records) }
    }

    /// How an invocation with this batch ended. `None` stands for one that failed.
    pub(super) fn end(&self, response: Option<Value>, settings: &Settings) -> End {
        let numbers = || self.records.iter().map(|record| record.sequence_number.as_str());
        let Some(response) = response else { return End::Failure };
        if !settings.report_batch_item_failures {
            return End::Success;
        }
        let Some(failed) = named(response, &numbers().collect::<BTreeSet<_>>()) else { return End::Failure };
        // Records are in the order of their numbers: the first one that is named has the lowest.
        numbers().position(|number| failed.contains(number)).map_or(End::Success, End::PartialFailure)
    }

    /// What follows from the end of an invocation.
    ///
    /// A split uses up no retry. A partial failure is a split at the record that failed, unless it was the first one.
    pub(super) fn after(mut self, end: End, settings: &Settings) -> Next {
        self.invocations += 1;
        self.last_end = Some(end);
        let rest = match end {
            End::Success => Vec::new(),
            End::PartialFailure(first) => self.records.split_off(first),
            End::Failure => mem::take(&mut self.records),
        };
        let processed = mem::replace(&mut self.records, rest);
        if self.records.is_empty() {
            return Next { processed, ..Next::default() };
        }
        if settings.bisect_batch_on_function_error {
            if !processed.is_empty() {
                return Next { processed, retries: vec![self], ..Next::default() };
            }
            if end == End::Failure && self.records.len() > 1 {
                let half = self.records.len().div_ceil(2);
                return Next { retries: self.split(half).into(), ..Next::default() };
            }
        }
        if settings.maximum_retry_attempts.is_some_and(|most| self.retries >= most) {
            return Next { processed, exhausted: Some(self), ..Next::default() };
        }
        self.retries += 1;
        Next { processed, retries: vec![self], ..Next::default() }
    }

    /// The first `count` records, and the others.
    pub(super) fn split(mut self, count: usize) -> [Self; 2] {
        let rest = self.records.split_off(count.min(self.records.len()));
        let rest = Self { records: rest, ..self.clone() };
        [self, rest]
    }

    /// The number of its first records that are older than `limit`.
    pub(super) fn expired(&self, now: Timestamp, limit: Duration) -> usize {
        let is_expired = |record: &&Arc<Record>| now.checked_since(record.created_at).is_some_and(|age| age > limit);
        self.records.iter().take_while(is_expired).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILING: [End; 3] = [End::Failure, End::PartialFailure(0), End::PartialFailure(2)];

    fn batch(count: i64) -> Batch {
        let record = |second: i64| {
            let created_at = Timestamp::from_epoch_milliseconds(second * 1_000).unwrap();
            Arc::new(Record { sequence_number: second.to_string(), created_at, json: String::new() })
        };
        Batch::new((0..count).map(record).collect())
    }

    fn numbers(batch: &Batch) -> Vec<&str> {
        batch.records.iter().map(|record| record.sequence_number.as_str()).collect()
    }

    #[test]
    fn only_the_first_records_expire_and_only_when_they_are_older_than_the_limit() {
        let now = Timestamp::from_epoch_milliseconds(10_000).unwrap();
        for (limit, expected) in [(11, 0), (10, 0), (9, 1), (7, 3), (0, 4)] {
            assert_eq!(batch(4).expired(now, Duration::from_secs(limit)), expected, "{limit}");
        }
        let before = Timestamp::from_epoch_milliseconds(-1_000).unwrap();
        assert_eq!(batch(4).expired(before, Duration::ZERO), 0, "records of the future are new");
    }

    #[test]
    fn nothing_of_a_batch_gets_lost_or_doubled_whatever_its_end() {
        for bisect_batch_on_function_error in [false, true] {
            for maximum_retry_attempts in [None, Some(0), Some(1)] {
                let settings =
                    Settings { bisect_batch_on_function_error, maximum_retry_attempts, ..Settings::default() };
                for end in FAILING.into_iter().chain([End::Success]) {
                    let Next { processed, retries, exhausted } = batch(5).after(end, &settings);
                    let processed = Batch::new(processed);
                    let parts = std::iter::once(&processed).chain(&retries).chain(&exhausted);
                    let all: Vec<_> = parts.flat_map(numbers).collect();
                    assert_eq!(all, ["0", "1", "2", "3", "4"], "{end:?}");
                    assert!(
                        retries.iter().chain(&exhausted).all(|part| part.invocations == 1 && !part.records.is_empty())
                    );
                }
            }
        }
    }

    #[test]
    fn a_batch_is_exhausted_after_one_invocation_and_its_retries() {
        let settings = Settings { maximum_retry_attempts: Some(2), ..Settings::default() };
        for end in [End::Failure, End::PartialFailure(0)] {
            let (mut next, mut invocations) = (batch(3), 0);
            let exhausted = loop {
                invocations += 1;
                let after = next.after(end, &settings);
                match after.exhausted {
                    Some(exhausted) => break exhausted,
                    None => next = after.retries.into_iter().next().unwrap(),
                }
            };
            assert_eq!((invocations, exhausted.invocations, exhausted.records.len()), (3, 3, 3), "{end:?}");
        }
    }

    #[test]
    fn a_split_uses_up_no_retry() {
        let settings =
            Settings { maximum_retry_attempts: Some(0), bisect_batch_on_function_error: true, ..Settings::default() };
        let next = batch(3).after(End::Failure, &settings);
        assert_eq!(next.retries.iter().map(numbers).collect::<Vec<_>>(), [vec!["0", "1"], vec!["2"]]);
        let next = batch(3).after(End::PartialFailure(1), &settings);
        assert_eq!(next.retries.iter().map(numbers).collect::<Vec<_>>(), [["1", "2"]]);
        assert!(batch(1).after(End::Failure, &settings).exhausted.is_some());
        assert!(batch(3).after(End::PartialFailure(0), &settings).exhausted.is_some());
    }
}
