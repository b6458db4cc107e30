//! The handler: a batch of the stream, or a command.

use event_store::{
    failure_queue::FailureQueue,
    retention::Retention,
    store::EventStore,
    stream::{ItemKey, SequenceNumber, StreamEvent, StreamRecord},
};
use lambda_support::{
    aws::{self, SdkConfig},
    batch_response::BatchResponse,
    log::{self, EventFields},
};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;
use tracing::{Level, error};

use crate::{
    bus::Bus,
    command::{Command, CommandError},
    config::Config,
    error::PublishError,
    lines::{BatchLine, Counts, RecordLine, event_fields},
    ordered_queue::OrderedQueue,
    outlet::Outlet,
    pipeline::{Outcome, Pipeline},
    progress::Progress,
    rounds::{Fate, Job},
};

/// The function: its table, its outlets and its on-failure queue, set up once and shared by all invocations.
pub struct Publisher {
    pipeline: Pipeline,
    progress: Progress,
    metrics_namespace: Option<String>,
    log_level: Level,
    write_line: Box<dyn Fn(&Value) + Send + Sync>,
}

/// An invocation that fails.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    #[error("the records of the event are not those of a DynamoDB stream: check the function's event source")]
    Records,
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// A record of a new event, for the log and the response.
struct Place<'r> {
    at: SequenceNumber<'r>,
    key: ItemKey,
    /// Empty if the item is not an event.
    event: EventFields,
}

impl Publisher {
    /// A publisher as `config` says.
    pub fn new(config: Config, aws: &SdkConfig) -> Self {
        let timing = config.timing;
        let attempt = timing.attempt_timeout;
        let bus = config.event_bus_arn.map(|arn| Outlet::Bus(Bus::new(aws, arn, attempt, timing.check_bus_every)));
        let queue = config.ordered_queue_url.map(|url| Outlet::Queue(OrderedQueue::new(aws, url, attempt)));
        let pipeline = Pipeline {
            // It writes nothing, so no item lives for the retention.
            store: EventStore::new(aws::patient_dynamodb(aws), config.table_name, Retention::Forever),
            outlets: bus.into_iter().chain(queue).collect(),
            failure_queue: FailureQueue::new(aws.clone(), config.failure_queue_url),
            timing,
        };
        Self {
            pipeline,
            progress: Progress::default(),
            metrics_namespace: config.metrics_namespace,
            log_level: config.log_level,
            write_line: Box::new(log::write_line),
        }
    }

    /// Sends log lines to `write_line` instead of standard output.
    pub fn with_log(mut self, write_line: impl Fn(&Value) + Send + Sync + 'static) -> Self {
        self.write_line = Box::new(write_line);
        self
    }

    /// Checks whether the bus exists, during init. A failure is logged, and left to the first batch.
    pub async fn warm_up(&self) {
        if let Err(error) = self.pipeline.confirm_bus().await {
            error!("{error}");
        }
    }

    /// Handles one invocation: a batch of the stream, or a command. Nothing new begins after `deadline`.
    ///
    /// # Errors
    /// An event that is neither, or a command that cannot be carried out.
    pub async fn handle(&self, input: Value, request_id: &str, deadline: Instant) -> Result<Value, HandlerError> {
        let response = if input.get("Records").is_some() {
            let event = serde_json::from_value(input).map_err(|_| HandlerError::Records)?;
            serde_json::to_value(self.handle_batch(event, request_id, deadline).await)
        } else {
            let command = Command::parse(input)?;
            let report = command.run(&self.pipeline, request_id, deadline, |line| self.write(&line)).await;
            self.write(&report.log_line(request_id, self.metrics_namespace.as_deref()));
            serde_json::to_value(report)
        };
        Ok(response.unwrap_or_default())
    }

    async fn handle_batch(&self, event: StreamEvent, request_id: &str, deadline: Instant) -> BatchResponse {
        let started = Instant::now();
        let records = event.records.len();
        let (places, jobs): (Vec<_>, Vec<_>) = event.records.iter().filter_map(|record| self.job(record)).unzip();
        let outcome = self.pipeline.publish(jobs, None, deadline).await;
        let fates = places.iter().zip(&outcome.fates).map(|(place, (fate, _))| (place, fate));
        let held_from =
            fates.clone().filter(|(_, fate)| matches!(fate, Fate::Held(_))).map(|(place, _)| place.at).min();
        self.remember(&places, &outcome, held_from);

        let mut counts = count(fates.clone().map(|(_, fate)| fate));
        (counts.records, counts.retried) = (records as u64, outcome.retried);
        counts.ignored = (records - places.len()) as u64;
        for line in fates.filter_map(|(place, fate)| record_line(request_id, place, fate)) {
            if line.is_wanted_at(self.log_level) {
                self.write(&line);
            }
        }
        let namespace = self.metrics_namespace.as_deref();
        let bus_error = outcome.bus_error.as_ref();
        let line = BatchLine::new(
            request_id,
            counts,
            held_from.map(SequenceNumber::as_str),
            bus_error,
            started.elapsed(),
            namespace,
        );
        if line.is_wanted_at(self.log_level) {
            self.write(&line);
        }
        let mut response = BatchResponse::default();
        if let Some(lowest) = held_from {
            response.fail(lowest.as_str());
        }
        response
    }

    /// What is to be done with a record; `None` if it is not that of a new event.
    fn job<'r>(&self, record: &'r StreamRecord) -> Option<(Place<'r>, Job)> {
        let key = record.key().filter(|_| record.is_new_event())?;
        let item = record.event();
        let (event_id, taken) = (record.event_id().map(str::to_owned), self.progress.of(&key));
        let event = item.as_ref().map(event_fields).unwrap_or_default();
        let place = Place { at: record.position(), key: key.clone(), event };
        Some((place, Job { key, event_id, item, taken }))
    }

    /// Remembers what outlets took of the records that come again.
    fn remember(&self, places: &[Place<'_>], outcome: &Outcome, held_from: Option<SequenceNumber<'_>>) {
        let comes_again = |place: &Place<'_>| held_from.is_some_and(|from| from <= place.at);
        let taken = places.iter().zip(&outcome.fates).filter(|(place, (_, taken))| *taken > 0 && comes_again(place));
        self.progress.replace(taken.map(|(place, (_, taken))| (place.key.clone(), *taken)));
    }

    fn write(&self, line: &impl Serialize) {
        (self.write_line)(&serde_json::to_value(line).unwrap_or_default());
    }
}

/// Counts of fates.
pub(crate) fn count<'f>(fates: impl Iterator<Item = &'f Fate>) -> Counts {
    fates.fold(Counts::default(), |mut counts, fate| {
        match fate {
            Fate::Published => counts.published += 1,
            Fate::DoneBefore => counts.done_before += 1,
            Fate::Poison(_) => counts.poison += 1,
            Fate::Held(_) => counts.held += 1,
        }
        counts
    })
}

fn record_line<'r>(request_id: &'r str, place: &'r Place<'_>, fate: &Fate) -> Option<RecordLine<'r>> {
    let (number, event) = (Some(place.at.as_str()), &place.event);
    match fate {
        Fate::Poison(why) => Some(RecordLine::poison(request_id, number, event, why)),
        Fate::Held(why) if PublishError::is_own(why) => Some(RecordLine::held(request_id, number, event, why)),
        Fate::Held(_) | Fate::Published | Fate::DoneBefore => None,
    }
}
