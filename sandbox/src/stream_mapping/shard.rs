//! A shard: one batch at a time, in the order of its records.

use std::{collections::VecDeque, sync::Arc};

use anyhow::Context;
use fastrand::Rng;
use tokio::{
    sync::mpsc::UnboundedReceiver,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use super::{
    batch::{Batch, End, Next},
    destination::{Condition, message},
    progress::{Settled, Tracker},
    reader::{Position, RETENTION},
    record::{Record, event},
    settings::Settings,
};
use crate::{
    mapping::{
        function::{Function, LateInvocation},
        payload::fitting,
    },
    random::uuid,
};

/// The last batches that a shard can go back to.
const MAX_REWIND: usize = 4;
/// The back-off doubles at most this often.
const MAX_DOUBLINGS: u32 = 5;

/// A shard, or the part of one that has batches of its own.
pub(super) struct Shard {
    index: usize,
    position: Position,
    settings: Arc<Settings>,
    function: Arc<Function>,
    tracker: Tracker,
    random: Rng,
    /// The share of the longest pause that this shard's pauses have at most.
    slowness: f64,
    records: UnboundedReceiver<Arc<Record>>,
    /// Records that are in no batch yet.
    waiting: VecDeque<Arc<Record>>,
    /// Batches that are to be delivered before the waiting records, the next one last.
    pending: Vec<Batch>,
    /// The last batches that were processed.
    history: VecDeque<Vec<Arc<Record>>>,
    /// The failures since the last success.
    failures: u32,
    late: JoinSet<()>,
}

impl Shard {
    pub(super) fn new(
        index: usize,
        records: UnboundedReceiver<Arc<Record>>,
        position: Position,
        settings: Arc<Settings>,
        function: Arc<Function>,
        tracker: Tracker,
        mut random: Rng,
    ) -> Self {
        Self {
            index,
            position,
            settings,
            function,
            tracker,
            slowness: random.f64(),
            random,
            records,
            waiting: VecDeque::new(),
            pending: Vec::new(),
            history: VecDeque::new(),
            failures: 0,
            late: JoinSet::new(),
        }
    }

    /// Processes batches until the mapping is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let batch = match self.pending.pop() {
                Some(batch) => batch,
                None => match self.next_batch().await {
                    Some(batch) => batch,
                    None => return,
                },
            };
            if let Err(error) = self.process(batch).await {
                return self.tracker.fail(&error);
            }
            while self.late.try_join_next().is_some() {}
        }
    }

    /// The next batch of new records: as soon as it is full, or when its window ends.
    async fn next_batch(&mut self) -> Option<Batch> {
        let Settings { batch_size, batch_window, second, .. } = *self.settings;
        if self.waiting.is_empty() {
            self.waiting.push_back(self.records.recv().await?);
        }
        let window_ends = Instant::now() + second * batch_window;
        loop {
            while self.waiting.len() < batch_size
                && let Ok(record) = self.records.try_recv()
            {
                self.waiting.push_back(record);
            }
            let is_full = self.waiting.len() >= batch_size || self.fitting() < self.waiting.len();
            if is_full || Instant::now() >= window_ends {
                break;
            }
            match timeout_at(window_ends, self.records.recv()).await {
                Ok(Some(record)) => self.waiting.push_back(record),
                Ok(None) | Err(_) => break,
            }
        }
        let mut count = self.fitting().min(batch_size);
        if self.hits(self.settings.faults.cuts) {
            count = self.random.usize(1..=count);
        }
        Some(Batch::new(self.waiting.drain(..count).collect()))
    }

    /// How many of the waiting records fit into one event.
    fn fitting(&self) -> usize {
        fitting(self.waiting.iter().map(|record| record.json.len())).min(self.waiting.len())
    }

    /// Delivers a batch once, and puts what is left of it into `pending`.
    async fn process(&mut self, batch: Batch) -> anyhow::Result<()> {
        let limit = self.settings.maximum_record_age.unwrap_or(RETENTION).min(RETENTION);
        let expired = batch.expired((self.settings.clock)(), limit);
        let [expired, batch] = batch.split(expired);
        if !expired.records.is_empty() {
            self.discard(&expired, Condition::RecordAgeExceeded).await;
        }
        if batch.records.is_empty() {
            return Ok(());
        }
        let batch = self.cut(batch);
        self.pause().await;
        let Some(end) = self.invoke(&batch).await? else {
            // The function did not run: that is not a failure of the batch, and uses up no retry.
            self.pending.push(batch);
            self.back_off().await;
            return Ok(());
        };
        let is_repeat = batch.is_repeat;
        let Next { processed, retries, exhausted } = batch.after(end, &self.settings);
        self.pending.extend(retries.into_iter().rev());
        let count = processed.len();
        if !is_repeat {
            // Before the records are settled: there must be no moment at which nothing is left to do.
            self.remember(processed);
            if end == End::Success && self.hits(self.settings.faults.rewinds) {
                self.rewind();
            }
        }
        self.settle(count, is_repeat, Settled::Processed);
        if let Some(exhausted) = exhausted {
            self.discard(&exhausted, Condition::RetryAttemptsExhausted).await;
        }
        if end == End::Success {
            self.failures = 0;
        } else {
            self.back_off().await;
        }
        Ok(())
    }

    /// Invokes the function. `None` if it failed before the function ran.
    async fn invoke(&mut self, batch: &Batch) -> anyhow::Result<Option<End>> {
        let faults = self.settings.faults;
        if self.hits(faults.throttled) {
            self.tracker.invocation(|progress| progress.failed_invocations += 1);
            return Ok(None);
        }
        let records = batch.records.iter().map(AsRef::as_ref);
        let event = event(records).context("the records of a batch are not JSON")?;
        let (response, late) = if self.hits(faults.late_invocations) {
            let delay = faults.late_by.mul_f64(self.random.f64());
            (None, Some(self.function.invoke_late(event, delay)))
        } else {
            self.function.invoke(event).await
        };
        if let Some(late) = late {
            self.finish_late(late);
        }
        let mut end = batch.end(response, &self.settings);
        if end == End::Success && self.hits(faults.lost_responses) {
            end = End::Failure;
        }
        if end == End::Success && self.hits(faults.partial_failures) {
            end = End::PartialFailure(self.random.usize(0..batch.records.len()));
        }
        self.tracker.invocation(|progress| match end {
            End::Success => {}
            End::PartialFailure(_) => progress.partial_failures += 1,
            End::Failure => progress.failed_invocations += 1,
        });
        Ok(Some(end))
    }

    fn finish_late(&mut self, late: LateInvocation) {
        self.tracker.late_begins();
        let tracker = self.tracker.clone();
        self.late.spawn(async move {
            late.finish().await;
            tracker.late_ends();
        });
    }

    /// Gives records up. The shard waits until the destination has the message about them.
    async fn discard(&mut self, batch: &Batch, condition: Condition) {
        if let Some(destination) = &self.settings.on_failure {
            let request_id = uuid(self.random.u128(..));
            let now = (self.settings.clock)();
            let name = &self.settings.function_name;
            let message = message(batch, condition, &self.position, name, &request_id, now).to_string();
            let send = || {
                let request = destination.client.send_message().queue_url(&destination.queue_url);
                request.message_body(&message).send()
            };
            while send().await.is_err() {
                sleep(self.settings.back_off).await;
            }
        }
        self.settle(batch.records.len(), batch.is_repeat, Settled::Discarded);
    }

    fn settle(&self, records: usize, is_repeat: bool, how: Settled) {
        if is_repeat {
            self.tracker.settle_repeats(records);
        } else {
            self.tracker.settle(self.index, records, how);
        }
    }

    /// Keeps processed records for a rewind.
    fn remember(&mut self, processed: Vec<Arc<Record>>) {
        if self.settings.faults.rewinds > 0.0 && !processed.is_empty() {
            self.history.push_back(processed);
            self.history.drain(..self.history.len().saturating_sub(MAX_REWIND));
        }
    }

    /// Goes back by some batches: a fault.
    fn rewind(&mut self) {
        let batches = self.random.usize(1..=self.history.len().max(1));
        for records in self.history.iter().rev().take(batches) {
            self.tracker.repeat(records.len());
            self.pending.push(Batch::repeat(records.clone()));
        }
    }

    /// Delivers a first part of a batch alone: a fault.
    fn cut(&mut self, batch: Batch) -> Batch {
        let count = batch.records.len();
        if batch.invocations == 0 || count < 2 || !self.hits(self.settings.faults.cuts) {
            return batch;
        }
        let [first, rest] = batch.split(self.random.usize(1..count));
        self.pending.push(rest);
        first
    }

    /// Waits before an invocation: a fault.
    async fn pause(&mut self) {
        let longest = self.settings.faults.pauses;
        if !longest.is_zero() {
            sleep(longest.mul_f64(self.slowness * self.random.f64())).await;
        }
    }

    async fn back_off(&mut self) {
        sleep(self.settings.back_off * 2_u32.pow(self.failures.min(MAX_DOUBLINGS))).await;
        self.failures = self.failures.saturating_add(1);
    }

    fn hits(&mut self, share: f64) -> bool {
        self.random.f64() < share
    }
}
