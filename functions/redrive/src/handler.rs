//! The handler: the path of a message, step by step.

use std::ops::RangeInclusive;

use event_store::{
    ingest::{Arrival, Outcome},
    item::Via,
    spill_queue::SpillQueue,
    store::EventStore,
};
use lambda_support::{
    aws::{self, SdkConfig},
    batch_response::BatchResponse,
    log,
};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;
use tracing::{Level, warn};
use unith_events::{
    event::Event,
    spill::{Source, SpillMessage},
    timestamp::Timestamp,
};

use crate::{
    backoff::{self, JITTER},
    batch::Batch,
    command::{Command, CommandError},
    config::Config,
    error::RedriveError,
    fate::Fate,
    message_log::{Facts, MessageLog},
    queues::Queues,
    sqs_event::{SqsEvent, SqsMessage},
};

/// The function: its table and its queues, set up once and shared by all invocations.
pub struct Redriver {
    store: EventStore,
    spill_queue: SpillQueue,
    queues: Queues,
    metrics_namespace: Option<String>,
    log_level: Level,
    random: fn(RangeInclusive<u32>) -> u32,
    write_line: Box<dyn Fn(&Value) + Send + Sync>,
}

/// An invocation that fails.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    #[error("the records of the event are not messages of SQS: check the function's event source")]
    Records,
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl Redriver {
    /// A redriver as `config` says. `random` returns a number from a range.
    pub fn new(config: Config, aws: &SdkConfig, random: fn(RangeInclusive<u32>) -> u32) -> Self {
        let queues = Queues::new(aws::sqs(aws), config.spill_queue_url.clone(), config.dead_letter_queue_url);
        Self {
            store: EventStore::new(aws::dynamodb(aws), config.table_name, config.retention),
            spill_queue: SpillQueue::new(aws.clone(), config.spill_queue_url),
            queues,
            metrics_namespace: config.metrics_namespace,
            log_level: config.log_level,
            random,
            write_line: Box::new(log::write_line),
        }
    }

    /// Sends log lines to `write_line` instead of standard output.
    pub fn with_log(mut self, write_line: impl Fn(&Value) + Send + Sync + 'static) -> Self {
        self.write_line = Box::new(write_line);
        self
    }

    /// Handles one invocation: a batch of messages, or a command. Nothing new begins after `deadline`.
    ///
    /// # Errors
    /// An event that is neither, or a command that cannot be carried out.
    pub async fn handle(&self, input: Value, request_id: &str, deadline: Instant) -> Result<Value, HandlerError> {
        let response = if input.get("Records").is_some() {
            let event = serde_json::from_value(input).map_err(|_| HandlerError::Records)?;
            serde_json::to_value(self.handle_batch(event, request_id, deadline).await)
        } else {
            let report = Command::parse(input)?.run(&self.store, &self.spill_queue, deadline).await;
            self.write(&report.log_line(request_id));
            serde_json::to_value(report)
        };
        Ok(response.unwrap_or_default())
    }

    async fn handle_batch(&self, event: SqsEvent, request_id: &str, deadline: Instant) -> BatchResponse {
        let (mut batch, mut response) = (Batch::new(deadline), BatchResponse::default());
        for message in &event.messages {
            let started = Instant::now();
            let mut facts = Facts::default();
            let fate = match batch.attempt(self.ingest(message, &mut facts)).await {
                Ok(outcome) => Fate::Ingested(outcome),
                Err(error) => self.give_up_or_return(message, &error).await,
            };
            if let Fate::Returned { .. } = fate {
                response.fail(&message.message_id);
            }
            let namespace = self.metrics_namespace.as_deref();
            let line = MessageLog::new(request_id, message, facts, &fate, started.elapsed(), namespace);
            if line.is_wanted_at(self.log_level) {
                self.write(&line);
            }
        }
        response
    }

    /// Takes a message to its outcome, on the path of a delivery.
    async fn ingest(&self, message: &SqsMessage, facts: &mut Facts) -> Result<Outcome, RedriveError> {
        let spilled = SpillMessage::parse(&message.body)?;
        let SpillMessage { received_at, source, .. } = spilled;
        facts.source = Some(source);
        facts.trace_id.clone_from(&spilled.trace);
        let verified = spilled.verified()?;
        let event = facts.event.insert(Event::parse(&verified));
        let is_first = message.receive_count() == 1;
        let arrival = Arrival { received_at, now: Timestamp::now(), via: Some(via(source)), is_first };
        let outcome = self.store.ingest(&verified, event, arrival).await?;
        if source == Source::Quarantine && matches!(outcome, Outcome::Stored { .. } | Outcome::Duplicate { .. }) {
            self.store.delete_unreadable_body(verified.body(), received_at).await?;
        }
        Ok(outcome)
    }

    /// Sends a message that can never be stored to the dead letters. Returns any other one to the queue, and one that did
    /// not get there.
    async fn give_up_or_return(&self, message: &SqsMessage, error: &RedriveError) -> Fate {
        let mut reason = error.to_string();
        if error.is_final(message.receive_count()) {
            match self.queues.send_dead_letter(message, &reason).await {
                Ok(()) => return Fate::DeadLetter { reason },
                Err(error) => reason = format!("{reason}; {error}"),
            }
        }
        let delay = backoff::delay(message.receive_count(), (self.random)(JITTER));
        if let Err(error) = self.queues.delay(message, delay).await {
            warn!("{error}; it is visible again after the queue's own time-out");
        }
        Fate::Returned { reason }
    }

    fn write(&self, line: &impl Serialize) {
        (self.write_line)(&serde_json::to_value(line).unwrap_or_default());
    }
}

fn via(source: Source) -> Via {
    match source {
        Source::Receive => Via::Redrive,
        Source::Quarantine => Via::Quarantine,
    }
}
