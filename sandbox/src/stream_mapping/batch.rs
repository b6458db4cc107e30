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
