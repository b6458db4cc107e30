//! A simulated event source mapping of a DynamoDB stream: it reads the stream and invokes a function with batches.
//!
//! It reads the real records through the API of DynamoDB Streams, and treats them as Lambda does:
//!
//! | response | what happens to the batch |
//! |---|---|
//! | `null`, `{}`, or a null or empty list `batchItemFailures` | it is done |
//! | `{"batchItemFailures": [{"itemIdentifier": "<sequence number>"}]}` | it is done up to the lowest number named; the rest is retried |
//! | an unknown, empty or missing number, or a response of another shape | it is split, or retried |
//! | an error, a panic, a time-out | it is split, or retried |
//!
//! A shard waits for its batch until the batch is done or discarded. A batch is split if
//! `bisect_batch_on_function_error` is set, which uses up no retry. Records are discarded when they are too old, or when
//! their retries are used up; a message about them goes to the on-failure destination. The time-out of an invocation does
//! not stop the function: it finishes beside the retry, and its response is ignored.
//!
//! The embedded DynamoDB has one shard and trims no records. The mapping divides the shard by a hash of the partition key
//! into virtual shards, and ignores records that were older than 24 h when it read them, as DynamoDB would have trimmed them.
//!
//! Unlike Lambda, it does not need a checkpoint to survive a restart: a new mapping starts at its starting position. It
//! takes a response with unknown members for one of another shape. [`Faults`] are harder than those of Lambda.
//!
//! Sources: [batching and polling](https://docs.aws.amazon.com/lambda/latest/dg/with-ddb.html),
//! [parameters](https://docs.aws.amazon.com/lambda/latest/dg/services-ddb-params.html),
//! [partial batch responses](https://docs.aws.amazon.com/lambda/latest/dg/services-ddb-batchfailurereporting.html),
//! [discarded records](https://docs.aws.amazon.com/lambda/latest/dg/services-dynamodb-errors.html),
//! [filters](https://docs.aws.amazon.com/lambda/latest/dg/invocation-eventfiltering.html).

mod batch;
mod destination;
mod filter;
mod progress;
mod reader;
mod record;
mod settings;
mod shard;

use std::{fmt::Display, future::Future, sync::Arc};

use aws_sdk_dynamodbstreams::Client;
use fastrand::Rng;
use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

pub use self::{
    filter::FilterCriteria,
    progress::{Progress, StreamError},
    settings::{Clock, Faults, OnFailure, Settings, StartingPosition},
};
use self::{
    progress::{State, Tracker},
    reader::{Reader, Stream},
    shard::Shard,
};
use crate::mapping::function::Function;

/// A running mapping. Dropping it stops the reader and the function's invocations.
pub struct StreamMapping {
    state: watch::Receiver<State>,
    _tasks: JoinSet<()>,
}

impl StreamMapping {
    /// Reads the stream of `table` and invokes `handler` with events of the stream.
    ///
    /// Records that are written after it returned are read, whatever the starting position is.
    pub async fn start<F, E>(
        client: Client,
        table: &str,
        settings: Settings,
        handler: impl Fn(Value) -> F + Send + Sync + 'static,
    ) -> anyhow::Result<Self>
    where
        F: Future<Output = Result<Value, E>> + Send + 'static,
        E: Display,
    {
        settings.validate()?;
        let filters = settings.filters.parse()?;
        let stream = Stream::open(client, table, settings.starting_position).await?;
        let function = Arc::new(Function::new(handler, settings.timeout));
        let settings = Arc::new(settings);
        let shards = settings.shards * settings.parallelization_factor;
        let tracker = Tracker::new(shards);
        let mut seeds = Rng::with_seed(settings.faults.seed);
        let (mut senders, mut tasks) = (Vec::new(), JoinSet::new());
        for index in 0..shards {
            let (sender, records) = mpsc::unbounded_channel();
            senders.push(sender);
            let (settings, function) = (Arc::clone(&settings), Arc::clone(&function));
            let shard =
                Shard::new(index, records, stream.position(), settings, function, tracker.clone(), seeds.fork());
            tasks.spawn(shard.run());
        }
        let state = tracker.subscribe();
        tasks.spawn(Reader { stream, filters, shards: senders, settings, tracker }.run());
        Ok(Self { state, _tasks: tasks })
    }

    /// What it has done so far.
    pub fn progress(&self) -> Progress {
        self.state.borrow().progress
    }

    /// Waits until `holds` is true for what it has done.
    pub async fn wait_for(&self, mut holds: impl FnMut(&Progress) -> bool) -> Result<(), StreamError> {
        self.wait(|state| holds(&state.progress)).await
    }

    /// Waits until each record that is in the stream now is done or discarded.
    pub async fn wait_until_caught_up(&self) -> Result<(), StreamError> {
        let polls = self.state.borrow().polls;
        self.wait(|state| state.has_seen_end_after(polls)).await?;
        let read: Vec<_> = self.state.borrow().shards.iter().map(|shard| shard.read).collect();
        self.wait(|state| state.shards.iter().zip(&read).all(|(shard, read)| shard.settled >= *read)).await
    }

    /// Waits until it has nothing left to do: no record waits, none comes again, and no late invocation still runs.
    ///
    /// There may be no such moment while records are written.
    pub async fn wait_until_idle(&self) -> Result<(), StreamError> {
        let polls = self.state.borrow().polls;
        self.wait(|state| state.has_seen_end_after(polls) && state.is_idle()).await
    }

    async fn wait(&self, mut holds: impl FnMut(&State) -> bool) -> Result<(), StreamError> {
        let mut state = self.state.clone();
        // The senders live as long as the tasks.
        let state =
            state.wait_for(|state| state.error.is_some() || holds(state)).await.map_err(|_| StreamError::stopped())?;
        state.error.clone().map_or(Ok(()), Err)
    }
}
