//! What a mapping has done, to be waited for.

use std::sync::Arc;

use tokio::sync::watch;

/// What a mapping has done so far. Every record that was read is filtered, trimmed, processed, discarded, or waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Invocations that ended or timed out, and those that failed before the function ran.
    pub invocations: usize,
    /// Invocations whose whole batch failed.
    pub failed_invocations: usize,
    /// Invocations that handled a first part of their batch.
    pub partial_failures: usize,
    /// Invocations that timed out and have not finished yet.
    pub late: usize,
    /// Invocations that timed out and have finished since.
    pub finished_late: usize,
    /// Records that were read.
    pub read: usize,
    /// Records that match no filter.
    pub filtered: usize,
    /// Records that were older than 24 h when they were read.
    pub trimmed: usize,
    /// Records that the function handled.
    pub processed: usize,
    /// Records that were too old or failed too often.
    pub discarded: usize,
    /// Records that are or were delivered again after the function had handled them.
    pub redelivered: usize,
}

/// The mapping cannot go on: the stream is gone, or returned what it never should.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the mapping stopped: {0}")]
pub struct StreamError(Arc<str>);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) progress: Progress,
    pub(super) shards: Vec<ShardState>,
    /// How many times the reader began to look for records.
    pub(super) polls: u64,
    /// The last of these polls that saw the end of the stream.
    end_seen_by: u64,
    /// Records that are to be delivered again.
    repeats: usize,
    pub(super) error: Option<StreamError>,
}

/// How many records a shard got, and how many are processed or discarded: always the first ones.
#[derive(Debug, Default, Clone)]
pub(super) struct ShardState {
    pub(super) read: usize,
    pub(super) settled: usize,
}

/// Writes the state. All parts of a mapping share it.
#[derive(Debug, Clone)]
pub(super) struct Tracker(watch::Sender<State>);

/// What became of a page of records.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) filtered: usize,
    pub(super) trimmed: usize,
    /// The shards of the others.
    pub(super) shards: Vec<usize>,
}

/// How records are settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    Processed,
    Discarded,
}

impl StreamError {
    pub(super) fn new(error: &anyhow::Error) -> Self {
        Self(format!("{error:#}").into())
    }

    pub(super) fn stopped() -> Self {
        Self("its tasks ended".into())
    }
}

impl State {
    /// Whether a poll that began after the first `polls` has seen the end of the stream.
    pub(super) fn has_seen_end_after(&self, polls: u64) -> bool {
        self.end_seen_by > polls
    }

    pub(super) fn is_idle(&self) -> bool {
        self.repeats == 0 && self.progress.late == 0 && self.shards.iter().all(|shard| shard.settled == shard.read)
    }
}

impl Tracker {
    pub(super) fn new(shards: usize) -> Self {
        Self(watch::Sender::new(State { shards: vec![ShardState::default(); shards], ..State::default() }))
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<State> {
        self.0.subscribe()
    }

    pub(super) fn poll(&self) {
        self.0.send_modify(|state| state.polls += 1);
    }

    /// The records of the poll that was last begun.
    pub(super) fn page(&self, page: &Page, is_end: bool) {
        self.0.send_modify(|state| {
            state.progress.read += page.filtered + page.trimmed + page.shards.len();
            state.progress.filtered += page.filtered;
            state.progress.trimmed += page.trimmed;
            for index in &page.shards {
                if let Some(shard) = state.shards.get_mut(*index) {
                    shard.read += 1;
                }
            }
            if is_end {
                state.end_seen_by = state.polls;
            }
        });
    }

    pub(super) fn invocation(&self, change: impl FnOnce(&mut Progress)) {
        self.0.send_modify(|state| {
            state.progress.invocations += 1;
            change(&mut state.progress);
        });
    }

    /// A late invocation begins.
    pub(super) fn late_begins(&self) {
        self.0.send_modify(|state| state.progress.late += 1);
    }

    pub(super) fn late_ends(&self) {
        self.0.send_modify(|state| {
            state.progress.late -= 1;
            state.progress.finished_late += 1;
        });
    }

    pub(super) fn settle(&self, shard: usize, records: usize, how: Settled) {
        self.0.send_modify(|state| {
            match how {
                Settled::Processed => state.progress.processed += records,
                Settled::Discarded => state.progress.discarded += records,
            }
            if let Some(shard) = state.shards.get_mut(shard) {
                shard.settled += records;
            }
        });
    }

    /// Records that were settled are to be delivered again.
    pub(super) fn repeat(&self, records: usize) {
        self.0.send_modify(|state| {
            state.progress.redelivered += records;
            state.repeats += records;
        });
    }

    pub(super) fn settle_repeats(&self, records: usize) {
        self.0.send_modify(|state| state.repeats -= records);
    }

    pub(super) fn fail(&self, error: &anyhow::Error) {
        self.0.send_modify(|state| state.error = Some(StreamError::new(error)));
    }
}
