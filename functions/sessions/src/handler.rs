//! The handler: a batch of the stream, step by step, or a command.

use event_store::{
    failure_queue::FailureQueue,
    keys::SessionKey,
    retention::Retention,
    store::EventStore,
    stream::{StreamEvent, StreamRecord},
};
use futures_util::{StreamExt, stream};
use lambda_support::{
    aws::{self, SdkConfig},
    batch_response::BatchResponse,
    log,
};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;
use tracing::Level;
use unith_events::timestamp::Timestamp;

use crate::{
    batch::{Batch, ChangedSession, Failures, PoisonRecord, poison},
    batch_log::{BatchLog, Counts, SessionLog},
    command::{Command, CommandError},
    config::Config,
    error::SessionError,
    gate::{CONCURRENCY, Gate},
    table::SessionsTable,
    updater::{Folded, Updater},
};

/// The function: its tables and its queue, set up once and shared by all invocations.
pub struct SessionUpdater {
    updater: Updater,
    failure_queue: FailureQueue,
    metrics_namespace: Option<String>,
    log_level: Level,
    clock: Box<dyn Fn() -> Timestamp + Send + Sync>,
    write_line: Box<dyn Fn(&Value) + Send + Sync>,
}

/// An invocation that fails.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    #[error("the records of the event are not changes of a DynamoDB table: check the function's event source")]
    Records,
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl SessionUpdater {
    /// A function as `config` says.
    pub fn new(config: Config, aws: &SdkConfig) -> Self {
        let client = aws::patient_dynamodb(aws);
        // It writes no events, so their retention does not matter here.
        let events = EventStore::new(client.clone(), config.table_name, Retention::Forever);
        Self {
            updater: Updater { events, sessions: SessionsTable::new(client, config.sessions_table_name) },
            failure_queue: FailureQueue::new(aws.clone(), config.failure_queue_url),
            metrics_namespace: config.metrics_namespace,
            log_level: config.log_level,
            clock: Box::new(Timestamp::now),
            write_line: Box::new(log::write_line),
        }
    }

    /// Sends log lines to `write_line` instead of standard output.
    pub fn with_log(mut self, write_line: impl Fn(&Value) + Send + Sync + 'static) -> Self {
        self.write_line = Box::new(write_line);
        self
    }

    /// Decides by `clock` instead of the system's which sessions are lost.
    pub fn with_clock(mut self, clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        self.clock = Box::new(clock);
        self
    }

    /// Handles one invocation: a batch of the stream, or a command. Work ends at `deadline`.
    ///
    /// # Errors
    /// An event that is neither, or a command that cannot be carried out.
    pub async fn handle(&self, input: Value, request_id: &str, deadline: Instant) -> Result<Value, HandlerError> {
        let response = if input.get("Records").is_some() {
            let event = serde_json::from_value(input).map_err(|_| HandlerError::Records)?;
            serde_json::to_value(self.handle_batch(&event, request_id, deadline).await)
        } else {
            let report = Command::parse(input)?.run(&self.updater, (self.clock)(), deadline).await?;
            self.write(&report.log_line(request_id));
            serde_json::to_value(report)
        };
        Ok(response.unwrap_or_default())
    }

    async fn handle_batch(&self, event: &StreamEvent, request_id: &str, deadline: Instant) -> BatchResponse {
        let (started, gate, batch) = (Instant::now(), Gate::new(deadline), Batch::of(&event.records));
        let mut run = Run::new(request_id);
        run.counts = Counts { records: event.records.len(), skipped: batch.skipped, ..Counts::default() };
        run.poison
            .extend(batch.poison.iter().map(|PoisonRecord { record, reason }| (*record, None, (*reason).to_owned())));
        let (gate, updater) = (&gate, &self.updater);
        let changed = batch.sessions.iter();
        // Collected first, so that the future is `Send`.
        let work: Vec<_> =
            changed.map(|session| async move { (session, gate.attempt(updater.update(&session.key)).await) }).collect();
        let mut results = stream::iter(work).buffer_unordered(CONCURRENCY);
        while let Some((session, result)) = results.next().await {
            self.finish(&mut run, session, result);
        }
        self.give_up_poison(&mut run, gate).await;
        let line = BatchLog::new(request_id, &run.counts, started.elapsed(), self.metrics_namespace.as_deref());
        if line.is_wanted_at(self.log_level) {
            self.write(&line);
        }
        let mut response = BatchResponse::default();
        if let Some(least) = run.failures.least() {
            response.fail(least.as_str());
        }
        response
    }

    /// Counts and logs the result of a session.
    fn finish<'r>(&self, run: &mut Run<'r>, session: &'r ChangedSession<'r>, result: Result<Folded, SessionError>) {
        let ChangedSession { key, record } = session;
        match result {
            Ok(Folded { outcome, invalid, .. }) => {
                run.counts.add(outcome);
                if invalid > 0 {
                    self.write_if_wanted(&SessionLog::incomplete(run.request_id, key, invalid));
                }
            }
            Err(error) if error.is_final() => run.poison.push((record, Some(key), error.to_string())),
            Err(SessionError::Untried) => run.fail_untried(record),
            Err(error) => {
                run.fail(record);
                self.write_if_wanted(&SessionLog::failed(run.request_id, Some(key), error.to_string()));
            }
        }
    }

    /// Sends the keys of poison to the on-failure queue. If the queue does not take one, its record fails.
    ///
    /// A record behind one that failed comes again, and waits for that: an outage must not fill the queue with repetitions.
    async fn give_up_poison(&self, run: &mut Run<'_>, gate: &Gate) {
        let mut all = std::mem::take(&mut run.poison);
        all.sort_by_key(|(record, ..)| record.position());
        for (record, key, reason) in all {
            if gate.is_late() || run.failures.least().is_some_and(|least| least < record.position()) {
                run.fail_untried(record);
                continue;
            }
            let sent = self.failure_queue.send(&poison(record, reason.clone())).await;
            self.write_if_wanted(&match sent {
                Ok(()) => {
                    run.counts.poison += 1;
                    SessionLog::poison(run.request_id, key, reason)
                }
                Err(error) => {
                    run.fail(record);
                    SessionLog::failed(run.request_id, key, format!("{reason}; {error}"))
                }
            });
        }
    }

    fn write_if_wanted(&self, line: &SessionLog<'_>) {
        if line.is_wanted_at(self.log_level) {
            self.write(line);
        }
    }

    fn write(&self, line: &impl Serialize) {
        (self.write_line)(&serde_json::to_value(line).unwrap_or_default());
    }
}

/// A batch under way.
struct Run<'r> {
    request_id: &'r str,
    counts: Counts,
    failures: Failures<'r>,
    /// Records that no retry can help, and why. A session's has its key.
    poison: Vec<(&'r StreamRecord, Option<&'r SessionKey>, String)>,
}

impl<'r> Run<'r> {
    fn new(request_id: &'r str) -> Self {
        Self { request_id, counts: Counts::default(), failures: Failures::default(), poison: Vec::new() }
    }

    fn fail(&mut self, record: &'r StreamRecord) {
        self.counts.failed += 1;
        self.failures.add(record);
    }

    fn fail_untried(&mut self, record: &'r StreamRecord) {
        self.counts.untried += 1;
        self.fail(record);
    }
}
