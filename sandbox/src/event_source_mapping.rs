//! A simulated event source mapping: it polls a queue, invokes a function with batches, and deletes what succeeded.
//!
//! A message is deleted only if the function returned in time and its response does not name the message. Everything else
//! leaves it in the queue, where it becomes visible again after its visibility time-out.
//!
//! | response | what is deleted |
//! |---|---|
//! | `null`, `{}`, or a null or empty list `batchItemFailures` | the batch |
//! | `{"batchItemFailures": [{"itemIdentifier": "<message id>"}]}` | the batch without the named messages |
//! | an unknown, empty or missing id, or a response of another shape | nothing |
//! | an error, a panic, a time-out | nothing |
//!
//! Unlike Lambda, it polls with one poller, does not slow down after failures, and takes a response with unknown members
//! for one of another shape.

use std::{collections::BTreeSet, fmt::Display, future::Future, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use aws_sdk_sqs::{
    Client,
    types::{
        DeleteMessageBatchRequestEntry, Message, MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use fastrand::Rng;
use serde_json::{Map, Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::mapping::{function::Function, payload::fitting, response::named};

/// The largest number of messages in one response of SQS.
const MAX_RECEIVE: usize = 10;
/// The longest long poll, in seconds.
const LONG_POLL: u32 = 20;

/// The configuration of a mapping.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The largest number of messages per batch, at most 10,000.
    pub batch_size: usize,
    /// How many seconds a batch that is not full waits for more messages. More than ten messages need at least one.
    pub batch_window: u32,
    /// `MaximumConcurrency`: 2 to 1,000.
    pub max_concurrency: usize,
    /// `FunctionResponseTypes: [ReportBatchItemFailures]`. Without it, any response is a success of the whole batch.
    pub report_batch_item_failures: bool,
    /// The time-out of the function, in real time.
    pub timeout: Duration,
    /// How long a second of long polls and of `batch_window` takes: the same as at the queue.
    pub second: Duration,
    pub faults: Faults,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            batch_size: MAX_RECEIVE,
            batch_window: 0,
            max_concurrency: 10,
            report_batch_item_failures: true,
            timeout: Duration::from_secs(30),
            second: Duration::from_secs(1),
            faults: Faults::default(),
        }
    }
}

/// The faults of a mapping. [`crate::sqs::Faults`] has those of the queue.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub seed: u64,
    /// The share of invocations, between 0 and 1, that begin to run only when they have timed out, as those of a frozen
    /// environment do. The batch has failed then, and the function handles it late.
    pub late_invocations: f64,
}

/// What a mapping has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Invocations that ended or timed out.
    pub invocations: usize,
    /// Invocations whose whole batch failed.
    pub failed_invocations: usize,
    /// Messages that were deleted.
    pub deleted: usize,
    /// Messages that were left in the queue.
    pub returned: usize,
}

/// A running mapping. Dropping it stops the poller and the function's invocations.
#[derive(Debug)]
pub struct EventSourceMapping {
    progress: watch::Receiver<Progress>,
    _poller: JoinSet<()>,
}

struct Mapping {
    client: Client,
    queue_url: String,
    queue_arn: String,
    settings: Settings,
    function: Function,
    progress: watch::Sender<Progress>,
}

impl EventSourceMapping {
    /// Polls the queue at `queue_url` and invokes `handler` with events of SQS. The client needs time for long polls.
    pub async fn start<F, E>(
        client: Client,
        queue_url: &str,
        settings: Settings,
        handler: impl Fn(Value) -> F + Send + Sync + 'static,
    ) -> anyhow::Result<Self>
    where
        F: Future<Output = Result<Value, E>> + Send + 'static,
        E: Display,
    {
        ensure!((1..=10_000).contains(&settings.batch_size), "a batch has 1 to 10,000 messages");
        ensure!(
            settings.batch_size <= MAX_RECEIVE || settings.batch_window > 0,
            "batches of more than 10 messages need a window of at least 1 s"
        );
        ensure!((2..=1_000).contains(&settings.max_concurrency), "the maximum concurrency is 2 to 1,000");
        let attributes = client.get_queue_attributes().queue_url(queue_url);
        let attributes = attributes.attribute_names(QueueAttributeName::QueueArn).send().await?;
        let queue_arn = attributes.attributes().and_then(|all| all.get(&QueueAttributeName::QueueArn)).cloned();
        let (sender, progress) = watch::channel(Progress::default());
        let mapping = Mapping {
            client,
            queue_url: queue_url.to_owned(),
            queue_arn: queue_arn.with_context(|| format!("queue `{queue_url}` has no ARN"))?,
            settings,
            function: Function::new(handler, settings.timeout),
            progress: sender,
        };
        Ok(Self { progress, _poller: JoinSet::from_iter([poll(Arc::new(mapping))]) })
    }

    /// What it has done so far.
    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Waits until `holds` is true for what it has done.
    pub async fn wait_for(&self, holds: impl FnMut(&Progress) -> bool) {
        // The sender lives as long as the poller.
        let _ = self.progress.clone().wait_for(holds).await;
    }
}

async fn poll(mapping: Arc<Mapping>) {
    let permits = Arc::new(Semaphore::new(mapping.settings.max_concurrency));
    let mut random = Rng::with_seed(mapping.settings.faults.seed);
    let mut invocations = JoinSet::new();
    let mut waiting = Vec::new();
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let batch = mapping.batch(&mut waiting).await;
        let is_late = random.f64() < mapping.settings.faults.late_invocations;
        invocations.spawn(Arc::clone(&mapping).invoke(batch, is_late, permit));
        while invocations.try_join_next().is_some() {}
    }
}

impl Mapping {
    /// The next batch. Messages that it has no room for stay in `waiting`.
    async fn batch(&self, waiting: &mut Vec<Message>) -> Vec<Message> {
        let Settings { batch_size, batch_window, second, .. } = self.settings;
        while waiting.is_empty() {
            waiting.extend(self.receive(batch_size, LONG_POLL).await);
        }
        let window_ends = Instant::now() + second * batch_window;
        loop {
            let room = batch_size.saturating_sub(waiting.len());
            let seconds_left = window_ends.saturating_duration_since(Instant::now()).div_duration_f64(second).ceil();
            if room == 0 || seconds_left == 0.0 || self.fitting(waiting) < waiting.len() {
                break;
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 1 and 20")]
            let wait = seconds_left.clamp(1.0, LONG_POLL.into()) as u32;
            waiting.extend(self.receive(room, wait).await);
        }
        let rest = waiting.split_off(self.fitting(waiting).min(batch_size));
        std::mem::replace(waiting, rest)
    }

    /// How many of the messages fit into one event; at least one.
    fn fitting(&self, messages: &[Message]) -> usize {
        fitting(messages.iter().map(|message| self.record(message).to_string().len()))
    }

    /// Receives messages. After a failure it pauses for a second.
    async fn receive(&self, max: usize, wait: u32) -> Vec<Message> {
        let request = self
            .client
            .receive_message()
            .queue_url(&self.queue_url)
            .max_number_of_messages(i32::try_from(max.min(MAX_RECEIVE)).unwrap_or(1))
            .wait_time_seconds(i32::try_from(wait).unwrap_or(0))
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All");
        let Ok(response) = request.send().await else {
            sleep(self.settings.second).await;
            return Vec::new();
        };
        response.messages.unwrap_or_default()
    }

    async fn invoke(self: Arc<Self>, batch: Vec<Message>, is_late: bool, permit: OwnedSemaphorePermit) {
        let records: Vec<_> = batch.iter().map(|message| self.record(message)).collect();
        let event = json!({"Records": records});
        let (response, late) = if is_late {
            sleep(self.settings.timeout).await;
            (None, Some(self.function.invoke_late(event, Duration::ZERO)))
        } else {
            self.function.invoke(event).await
        };
        self.settle(&batch, response).await;
        drop(permit);
        if let Some(late) = late {
            late.finish().await;
        }
    }

    /// Deletes the messages of a batch that succeeded. `None` stands for an invocation that failed.
    async fn settle(&self, batch: &[Message], response: Option<Value>) {
        let ids: BTreeSet<_> = batch.iter().filter_map(Message::message_id).collect();
        let failed = match response {
            Some(_) if !self.settings.report_batch_item_failures => Some(BTreeSet::new()),
            Some(response) => named(response, &ids),
            None => None,
        };
        let has_succeeded = |message: &&Message| {
            failed.as_ref().is_some_and(|failed| !failed.contains(message.message_id().unwrap_or_default()))
        };
        let succeeded: Vec<_> = batch.iter().filter(has_succeeded).collect();
        for messages in succeeded.chunks(MAX_RECEIVE) {
            let entry = |(index, message): (usize, &&Message)| {
                let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
                entry.receipt_handle(message.receipt_handle().unwrap_or_default()).build().ok()
            };
            let entries = messages.iter().enumerate().filter_map(entry).collect();
            // A message that is not deleted comes again.
            let delete = self.client.delete_message_batch().queue_url(&self.queue_url);
            let _ = delete.set_entries(Some(entries)).send().await;
        }
        self.progress.send_modify(|progress| {
            progress.invocations += 1;
            progress.failed_invocations += usize::from(failed.is_none());
            progress.deleted += succeeded.len();
            progress.returned += batch.len() - succeeded.len();
        });
    }

    /// A message as a record of Lambda's event.
    fn record(&self, message: &Message) -> Value {
        let system = message.attributes().into_iter().flatten();
        let attributes: Map<_, _> =
            system.map(|(name, value)| (name.as_str().to_owned(), value.as_str().into())).collect();
        let own = message.message_attributes().into_iter().flatten();
        let message_attributes: Map<_, _> = own.map(|(name, value)| (name.clone(), attribute(value))).collect();
        let mut record = json!({
            "messageId": message.message_id(),
            "receiptHandle": message.receipt_handle(),
            "body": message.body(),
            "attributes": attributes,
            "messageAttributes": message_attributes,
            "md5OfBody": message.md5_of_body(),
            "eventSource": "aws:sqs",
            "eventSourceARN": self.queue_arn,
            "awsRegion": self.queue_arn.split(':').nth(3),
        });
        if let (Some(members), Some(digest)) = (record.as_object_mut(), message.md5_of_message_attributes()) {
            members.insert("md5OfMessageAttributes".to_owned(), digest.into());
        }
        record
    }
}

fn attribute(value: &MessageAttributeValue) -> Value {
    let mut attribute = json!({"stringListValues": [], "binaryListValues": [], "dataType": value.data_type()});
    let text = value.string_value().map(|text| ("stringValue", text.to_owned()));
    let binary = value.binary_value().map(|binary| ("binaryValue", BASE64.encode(binary)));
    if let (Some(members), Some((name, value))) = (attribute.as_object_mut(), text.or(binary)) {
        members.insert(name.to_owned(), value.into());
    }
    attribute
}
