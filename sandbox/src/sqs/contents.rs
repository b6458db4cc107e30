//! The queues, and the operations on them.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
    time::Duration,
};

use fastrand::Rng;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    MAX_BATCH, MAX_MESSAGE_SIZE, MAX_VISIBILITY, MAX_WAIT, Settings,
    error::{Kind, SqsError},
    fifo::{self, Place},
    message::{self, Content, Message, StoredMessage},
    queue::{self, Attributes, Queue},
    request::{
        Batch, ChangeVisibility, CreateQueue, Delete, Entry, GetQueueAttributes, GetQueueUrl, OfQueue, ReceiveMessage,
        Send, parse,
    },
};
use crate::clients::{ACCOUNT, REGION};

#[derive(Debug)]
pub(super) struct Contents {
    url: String,
    settings: Settings,
    random: Rng,
    /// How far the clock is ahead, see [`super::Sqs::pass_time`].
    pub(super) ahead: Duration,
    queues: BTreeMap<String, Queue>,
    /// The number of requests for each operation.
    pub(super) calls: HashMap<String, usize>,
}

impl Contents {
    /// An SQS at `url` without queues.
    pub(super) fn new(url: String, settings: Settings) -> Self {
        Self {
            url,
            settings,
            random: Rng::with_seed(settings.faults.seed),
            ahead: Duration::ZERO,
            queues: BTreeMap::new(),
            calls: HashMap::new(),
        }
    }

    /// Carries out an operation. [`super::receive`] has the one that may wait.
    pub(super) fn call(&mut self, operation: &str, body: &[u8]) -> Result<Value, SqsError> {
        match operation {
            "CreateQueue" => self.create_queue(parse(body)?),
            "GetQueueUrl" => self.get_queue_url(&parse(body)?),
            "GetQueueAttributes" => self.get_queue_attributes(&parse(body)?),
            "SendMessage" => self.on_queue(body, Self::send),
            "DeleteMessage" => self.on_queue(body, Self::delete),
            "ChangeMessageVisibility" => self.on_queue(body, Self::change_visibility),
            "SendMessageBatch" => {
                let batch: Batch<Send> = parse(body)?;
                let size: usize = batch.entries.iter().map(|entry| entry.parameters.size()).sum();
                if size > MAX_MESSAGE_SIZE {
                    let message = format!("Batch requests cannot be longer than {MAX_MESSAGE_SIZE} bytes.");
                    return Err(Kind::BatchRequestTooLong.because(message));
                }
                self.batch(batch, Self::send)
            }
            "DeleteMessageBatch" => self.batch(parse(body)?, Self::delete),
            "ChangeMessageVisibilityBatch" => self.batch(parse(body)?, Self::change_visibility),
            _ => Err(Kind::UnknownOperation.because(format!("the sandbox has no operation `{operation}`"))),
        }
    }

    fn on_queue<T: DeserializeOwned>(
        &mut self,
        body: &[u8],
        carry_out: impl FnOnce(&mut Self, &str, T) -> Result<Value, SqsError>,
    ) -> Result<Value, SqsError> {
        let OfQueue { queue_url, parameters } = parse(body)?;
        let name = self.name(&queue_url)?;
        carry_out(self, &name, parameters)
    }

    /// Carries out each entry. An entry that fails does not affect the others.
    fn batch<T>(
        &mut self,
        batch: Batch<T>,
        mut carry_out: impl FnMut(&mut Self, &str, T) -> Result<Value, SqsError>,
    ) -> Result<Value, SqsError> {
        let name = self.name(&batch.queue_url)?;
        check_ids(&batch.entries)?;
        let (mut successful, mut failed) = (Vec::new(), Vec::new());
        for Entry { id, parameters } in batch.entries {
            match carry_out(self, &name, parameters) {
                Ok(mut result) => {
                    if let Some(members) = result.as_object_mut() {
                        members.insert("Id".to_owned(), id.into());
                    }
                    successful.push(result);
                }
                Err(error) => failed.push(json!({
                    "Id": id, "SenderFault": true, "Code": error.kind.query_code(), "Message": error.message,
                })),
            }
        }
        Ok(json!({"Successful": successful, "Failed": failed}))
    }

    fn create_queue(&mut self, request: CreateQueue) -> Result<Value, SqsError> {
        let CreateQueue { queue_name: name, attributes } = request;
        let is_valid = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let stem = name.strip_suffix(fifo::SUFFIX).unwrap_or(&name);
        if !(1..=80).contains(&name.len()) || stem.is_empty() || !stem.chars().all(is_valid) {
            let message = "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length";
            return Err(Kind::InvalidParameter.because(message));
        }
        let attributes = Attributes::parse(&attributes)?;
        if attributes.is_fifo != name.ends_with(fifo::SUFFIX) {
            let message = "The name of a FIFO queue can only include alphanumeric characters, hyphens, or underscores, must end with .fifo suffix and be 1 to 80 in length.";
            return Err(Kind::InvalidParameter.because(message));
        }
        if let Some(redrive) = &attributes.redrive
            && !self.queues.values().any(|queue| queue.arn == redrive.dead_letter_target_arn)
        {
            return Err(Kind::InvalidParameter.because("the dead-letter queue of RedrivePolicy does not exist"));
        }
        let url = self.queue_url(&name);
        let queue = self.queues.entry(name.clone()).or_insert_with(|| Queue::new(arn(&name), attributes.clone()));
        if queue.attributes != attributes {
            let message = "A queue already exists with the same name and a different value for an attribute.";
            return Err(Kind::QueueNameExists.because(message));
        }
        Ok(json!({"QueueUrl": url}))
    }

    fn get_queue_url(&self, request: &GetQueueUrl) -> Result<Value, SqsError> {
        if !self.queues.contains_key(&request.queue_name) {
            return Err(no_queue());
        }
        Ok(json!({"QueueUrl": self.queue_url(&request.queue_name)}))
    }

    fn get_queue_attributes(&mut self, request: &GetQueueAttributes) -> Result<Value, SqsError> {
        let (now, second, name) = (self.now(), self.settings.second, self.name(&request.queue_url)?);
        let mut all = self.queue(&name)?.describe(now, second);
        let names = &request.attribute_names;
        if let Some(unknown) = names.iter().find(|name| *name != "All" && !all.contains_key(name.as_str())) {
            return Err(Kind::InvalidAttributeName.because(format!("Unknown Attribute {unknown}.")));
        }
        all.retain(|name, _| names.iter().any(|wanted| wanted == "All" || wanted == name));
        Ok(json!({"Attributes": all}))
    }

    fn send(&mut self, name: &str, request: Send) -> Result<Value, SqsError> {
        let (now, settings) = (self.now(), self.settings);
        let max_size = self.queue(name)?.attributes.max_message_size;
        let (size, delay) = (request.size(), request.delay_seconds);
        let place = self.place(name, &request)?;
        if let Some(place) = &place {
            let deduplication = &mut self.queue(name)?.deduplication;
            if let Some(response) = deduplication.earlier(&place.deduplication_id, now, settings.second) {
                return Ok(response);
            }
        }
        let mut content = Content::new(request.message_body, request.message_attributes)?;
        if size > max_size {
            let message =
                format!("One or more parameters are invalid. Reason: Message must be shorter than {max_size} bytes.");
            return Err(Kind::InvalidParameter.because(message));
        }
        let delay = delay.unwrap_or(self.queue(name)?.attributes.delay);
        queue::check_range("DelaySeconds", delay, 0..=queue::MAX_DELAY)
            .map_err(|message| Kind::InvalidParameter.because(message))?;
        content.place.clone_from(&place);
        let mut message = Message::new(content, now, now + settings.second * delay);
        message.loses_delete = place.is_none() && self.random.f64() < settings.faults.lost_deletes;
        message.comes_twice = place.is_none() && self.random.f64() < settings.faults.duplicates;
        let response = message.sent();
        let queue = self.queue(name)?;
        queue.messages.push(message);
        if let Some(place) = place {
            queue.deduplication.remember(place.deduplication_id, now, response.clone());
        }
        Ok(response)
    }

    /// The place of a message in a FIFO queue; `None` in a standard one, which takes a group and ignores it here.
    fn place(&mut self, name: &str, request: &Send) -> Result<Option<Place>, SqsError> {
        let queue = self.queue(name)?;
        if !queue.attributes.is_fifo {
            let has_id = request.message_deduplication_id.is_some();
            return if has_id { Err(fifo::not_for_this_type("MessageDeduplicationId")) } else { Ok(None) };
        }
        let (group, deduplication_id) = fifo::ids(request, queue.attributes.is_content_based)?;
        let sequence_number = queue.deduplication.next_sequence_number();
        Ok(Some(Place { group, deduplication_id, sequence_number }))
    }

    /// How long a long poll waits.
    pub(super) fn wait(&self, request: &ReceiveMessage) -> Result<Duration, SqsError> {
        let name = self.name(&request.queue_url)?;
        let default = self.queues.get(&name).map_or(0, |queue| queue.attributes.receive_wait);
        let seconds = request.wait_time_seconds.unwrap_or(default);
        if seconds > MAX_WAIT {
            return Err(out_of_range("WaitTimeSeconds", seconds, MAX_WAIT));
        }
        Ok(self.settings.second * seconds)
    }

    /// Messages for a receiver and, if there are none, the time until one becomes visible.
    pub(super) fn receive(&mut self, request: &ReceiveMessage) -> Result<(Vec<Value>, Option<Duration>), SqsError> {
        let (now, second, name) = (self.now(), self.settings.second, self.name(&request.queue_url)?);
        let max = request.max_number_of_messages.unwrap_or(1);
        if !(1..=MAX_BATCH).contains(&max) {
            return Err(out_of_range("MaxNumberOfMessages", max, MAX_BATCH));
        }
        let queue = self.queue(&name)?;
        queue.expire(now, second);
        let visibility = request.visibility_timeout.unwrap_or(queue.attributes.visibility);
        if visibility > MAX_VISIBILITY {
            return Err(out_of_range("VisibilityTimeout", visibility, MAX_VISIBILITY));
        }
        let (messages, dead) = queue.receive(&name, max, now, now + second * visibility);
        let described = messages.into_iter().map(|received| {
            let system = request.attribute_names.iter().chain(&request.message_system_attribute_names);
            received.describe(system, &request.message_attribute_names)
        });
        let described = described.collect();
        let next_in = queue.next_visible_in(now);
        let target = queue.attributes.redrive.as_ref().map(|redrive| redrive.dead_letter_target_arn.clone());
        if let Some(target) = self.queues.values_mut().find(|queue| Some(&queue.arn) == target.as_ref()) {
            target.messages.extend(dead);
        }
        Ok((described, next_in))
    }

    /// Deletes a message. With an old receipt handle it succeeds and deletes nothing.
    fn delete(&mut self, name: &str, request: Delete) -> Result<Value, SqsError> {
        let Delete { receipt_handle: handle } = request;
        let (id, serial) = message::parse_handle(name, &handle)?;
        let messages = &mut self.queue(name)?.messages;
        let is_meant = |message: &Message| message.content.id == id && message.is_last_handle(serial);
        if let Some(index) = messages.iter().position(is_meant)
            && let Some(message) = messages.get_mut(index)
            && !std::mem::take(&mut message.loses_delete)
        {
            messages.remove(index);
        }
        Ok(json!({}))
    }

    fn change_visibility(&mut self, name: &str, request: ChangeVisibility) -> Result<Value, SqsError> {
        let (now, second) = (self.now(), self.settings.second);
        let ChangeVisibility { receipt_handle: handle, visibility_timeout: seconds } = request;
        let (id, serial) = message::parse_handle(name, &handle)?;
        if seconds > MAX_VISIBILITY {
            return Err(out_of_range("VisibilityTimeout", seconds, MAX_VISIBILITY));
        }
        let queue = self.queue(name)?;
        queue.expire(now, second);
        let is_meant = |message: &&mut Message| message.content.id == id && message.is_last_handle(serial);
        let Some(message) = queue.messages.iter_mut().find(is_meant) else {
            let reason = "Message does not exist or is not available for visibility timeout change.";
            let message = format!("Value {handle} for parameter ReceiptHandle is invalid. Reason: {reason}");
            return Err(Kind::InvalidParameter.because(message));
        };
        if message.visible_at <= now {
            return Err(Kind::MessageNotInflight.because("the message is not in flight"));
        }
        let visible_at = now + second * seconds;
        if visible_at > message.received_at.unwrap_or(now) + second * MAX_VISIBILITY {
            let message = "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]";
            return Err(Kind::InvalidParameter.because(message));
        }
        message.visible_at = visible_at;
        Ok(json!({}))
    }

    pub(super) fn messages(&mut self, name: &str) -> Vec<StoredMessage> {
        let (now, second) = (self.now(), self.settings.second);
        let Some(queue) = self.queues.get_mut(name) else { return Vec::new() };
        queue.expire(now, second);
        queue.messages.iter().map(|message| message.stored(now)).collect()
    }

    fn now(&self) -> Instant {
        Instant::now() + self.ahead
    }

    fn queue_url(&self, name: &str) -> String {
        format!("{}/{ACCOUNT}/{name}", self.url)
    }

    /// The name in the URL of a queue. The host counts for nothing: a caller may reach this server through a proxy.
    fn name(&self, url: &str) -> Result<String, SqsError> {
        let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map(|(_, path)| path);
        let name = path.and_then(|path| path.strip_prefix(ACCOUNT)?.strip_prefix('/'));
        name.filter(|name| self.queues.contains_key(*name)).map(str::to_owned).ok_or_else(no_queue)
    }

    fn queue(&mut self, name: &str) -> Result<&mut Queue, SqsError> {
        self.queues.get_mut(name).ok_or_else(no_queue)
    }
}

fn arn(name: &str) -> String {
    format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{name}")
}

fn no_queue() -> SqsError {
    Kind::QueueDoesNotExist.because("The specified queue does not exist.")
}

fn out_of_range(name: &str, value: impl Display, max: impl Display) -> SqsError {
    let message = format!("Value {value} for parameter {name} is invalid. Reason: Must be at most {max}, if provided.");
    Kind::InvalidParameter.because(message)
}

fn check_ids<T>(entries: &[Entry<T>]) -> Result<(), SqsError> {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if entries.is_empty() {
        return Err(Kind::EmptyBatchRequest.because("There should be at least one entry in the request."));
    }
    if entries.len() > MAX_BATCH {
        return Err(Kind::TooManyEntriesInBatchRequest.because("Maximum number of entries per request are 10."));
    }
    for (index, Entry { id, .. }) in entries.iter().enumerate() {
        if !(1..=80).contains(&id.len()) || !id.chars().all(is_valid) {
            let message = "A batch entry id can only contain alphanumeric characters, hyphens and underscores.";
            return Err(Kind::InvalidBatchEntryId.because(message));
        }
        if entries.iter().skip(index + 1).any(|other| other.id == *id) {
            return Err(Kind::BatchEntryIdsNotDistinct.because(format!("Id {id} repeated.")));
        }
    }
    Ok(())
}
