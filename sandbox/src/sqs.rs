//! A simulated SQS: standard queues over HTTP, as strict as AWS documents them.
//!
//! It has the operations that the functions, the event source mapping and the tests use. The crate `winterbaume-sqs` does
//! not replace it: it accepts messages of any size and any characters, ignores the retention and a visibility of 0, deletes
//! by old receipt handles, and depends on `chrono` and the SSO clients, which `deny.toml` bans.
//!
//! Standard queues deliver at least once. [`Faults`] makes the two cases frequent that are rare at AWS: a message that is
//! received again although it was deleted, and a message that is in one response twice.

mod error;
mod message;
mod queue;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State as Shared},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::post,
};
use fastrand::Rng;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::Notify,
    time::{Instant, timeout},
};

pub use self::message::{Attribute, StoredMessage};
use self::{
    error::{Kind, SqsError},
    message::{Content, Message},
    queue::{Attributes, Queue},
};
use crate::{
    clients::{ACCOUNT, REGION},
    server::ServerHandle,
};

/// The largest message and the largest batch, in bytes of bodies and attributes.
pub const MAX_MESSAGE_SIZE: usize = 1_048_576;
/// A message may come with six bytes of JSON per byte.
const MAX_REQUEST_SIZE: usize = 8 * MAX_MESSAGE_SIZE;
const MAX_BATCH: usize = 10;
/// Twelve hours, in seconds.
const MAX_VISIBILITY: u32 = 43_200;
const MAX_WAIT: u32 = 20;

/// A simulated SQS on loopback. Its queues are in memory.
#[derive(Debug)]
pub struct Sqs {
    server: ServerHandle,
    state: Arc<State>,
}

/// The pace and the faults of an SQS.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a second of its visibility, retention, delays and long polls takes.
    pub second: Duration,
    pub faults: Faults,
}

impl Default for Settings {
    fn default() -> Self {
        Self { second: Duration::from_secs(1), faults: Faults::default() }
    }
}

/// How often a standard queue delivers a message more than once. Shares are between 0 and 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub seed: u64,
    /// The share of messages whose first deletion has no effect.
    pub lost_deletes: f64,
    /// The share of messages that are twice in the first response.
    pub duplicates: f64,
}

#[derive(Debug)]
struct State {
    contents: Mutex<Contents>,
    /// Notifies of every change to a message.
    changed: Notify,
}

#[derive(Debug)]
struct Contents {
    url: String,
    settings: Settings,
    random: Rng,
    /// How far the clock is ahead, see [`Sqs::pass_time`].
    ahead: Duration,
    queues: BTreeMap<String, Queue>,
    calls: HashMap<String, usize>,
}

impl Sqs {
    /// Serves an SQS without queues.
    pub fn serve(listener: TcpListener, settings: Settings) -> io::Result<Self> {
        let contents = Contents {
            url: format!("http://{}", listener.local_addr()?),
            settings,
            random: Rng::with_seed(settings.faults.seed),
            ahead: Duration::ZERO,
            queues: BTreeMap::new(),
            calls: HashMap::new(),
        };
        let state = Arc::new(State { contents: Mutex::new(contents), changed: Notify::new() });
        let router = Router::new()
            .route("/", post(operation))
            .layer(DefaultBodyLimit::max(MAX_REQUEST_SIZE))
            .with_state(Arc::clone(&state));
        Ok(Self { server: ServerHandle::router(listener, router)?, state })
    }

    /// The endpoint.
    #[must_use]
    pub fn url(&self) -> &str {
        self.server.url()
    }

    /// The number of requests for an operation, e.g. `SendMessage`.
    #[must_use]
    pub fn calls(&self, operation: &str) -> usize {
        self.state.lock().calls.get(operation).copied().unwrap_or_default()
    }

    /// The messages of a queue in the order in which they came, visible or not. A queue that does not exist has none.
    #[must_use]
    pub fn messages(&self, queue: &str) -> Vec<StoredMessage> {
        self.state.lock().messages(queue)
    }

    /// Waits until `holds` is true for the messages of a queue. It looks after every change to a message.
    pub async fn wait_for(&self, queue: &str, mut holds: impl FnMut(&[StoredMessage]) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.state.changed.notified());
            changed.as_mut().enable();
            if holds(&self.messages(queue)) {
                return;
            }
            changed.await;
        }
    }

    /// Puts the clock forward by this time: messages become visible or expire.
    pub fn pass_time(&self, by: Duration) {
        self.state.lock().ahead += by;
        self.state.changed.notify_waiters();
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn operation(Shared(state): Shared<Arc<State>>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let name = target.strip_prefix("AmazonSQS.").unwrap_or_default();
    *state.lock().calls.entry(name.to_owned()).or_default() += 1;
    let result = match name {
        "ReceiveMessage" => receive(&state, &body).await,
        _ => state.lock().call(name, &body),
    };
    state.changed.notify_waiters();
    let content_type = [(CONTENT_TYPE, "application/x-amz-json-1.0")];
    match result {
        Ok(response) => (content_type, response.to_string()).into_response(),
        Err(error) => {
            let query_error = [("x-amzn-query-error", error.kind.query_error())];
            let body = json!({"__type": format!("com.amazonaws.sqs#{}", error.kind.shape()), "message": error.message});
            (StatusCode::BAD_REQUEST, content_type, query_error, body.to_string()).into_response()
        }
    }
}

/// Receives messages. A long poll waits until there is one, or until its time is up.
async fn receive(state: &State, body: &[u8]) -> Result<Value, SqsError> {
    let request: ReceiveMessage = parse(body)?;
    let wait = request.wait(&state.lock())?;
    let due = Instant::now() + wait;
    loop {
        let mut changed = std::pin::pin!(state.changed.notified());
        changed.as_mut().enable();
        let (messages, next_in) = state.lock().receive(&request)?;
        let remaining = due.saturating_duration_since(Instant::now());
        if messages.is_empty() && !remaining.is_zero() {
            let _ = timeout(next_in.map_or(remaining, |next_in| next_in.min(remaining)), changed).await;
            continue;
        }
        return Ok(if messages.is_empty() { json!({}) } else { json!({"Messages": messages}) });
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, SqsError> {
    serde_json::from_slice(body).map_err(|error| Kind::InvalidParameter.because(error.to_string()))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateQueue {
    queue_name: String,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetQueueUrl {
    queue_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetQueueAttributes {
    queue_url: String,
    #[serde(default)]
    attribute_names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReceiveMessage {
    queue_url: String,
    max_number_of_messages: Option<usize>,
    visibility_timeout: Option<u32>,
    wait_time_seconds: Option<u32>,
    /// The former name of `MessageSystemAttributeNames`.
    #[serde(default)]
    attribute_names: Vec<String>,
    #[serde(default)]
    message_system_attribute_names: Vec<String>,
    #[serde(default)]
    message_attribute_names: Vec<String>,
}

/// An operation on one message of a queue.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OfQueue<T> {
    queue_url: String,
    #[serde(flatten)]
    parameters: T,
}

/// The same for up to ten messages.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Batch<T> {
    queue_url: String,
    #[serde(default = "Vec::new")]
    entries: Vec<Entry<T>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry<T> {
    id: String,
    #[serde(flatten)]
    parameters: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Send {
    message_body: String,
    delay_seconds: Option<u32>,
    #[serde(default)]
    message_attributes: BTreeMap<String, Attribute>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Delete {
    receipt_handle: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChangeVisibility {
    receipt_handle: String,
    visibility_timeout: u32,
}

impl Contents {
    fn call(&mut self, operation: &str, body: &[u8]) -> Result<Value, SqsError> {
        match operation {
            "CreateQueue" => self.create_queue(parse(body)?),
            "GetQueueUrl" => self.get_queue_url(&parse(body)?),
            "GetQueueAttributes" => self.get_queue_attributes(&parse(body)?),
            "SendMessage" => {
                let OfQueue { queue_url, parameters } = parse(body)?;
                let name = self.name(&queue_url)?;
                self.send(&name, parameters)
            }
            "DeleteMessage" => {
                let OfQueue { queue_url, parameters } = parse(body)?;
                let name = self.name(&queue_url)?;
                self.delete(&name, &parameters)
            }
            "ChangeMessageVisibility" => {
                let OfQueue { queue_url, parameters } = parse(body)?;
                let name = self.name(&queue_url)?;
                self.change_visibility(&name, &parameters)
            }
            "SendMessageBatch" => {
                let batch: Batch<Send> = parse(body)?;
                let size: usize = batch.entries.iter().map(|entry| entry.parameters.size()).sum();
                if size > MAX_MESSAGE_SIZE {
                    let message = format!("Batch requests cannot be longer than {MAX_MESSAGE_SIZE} bytes.");
                    return Err(Kind::BatchRequestTooLong.because(message));
                }
                self.batch(batch, Self::send)
            }
            "DeleteMessageBatch" => self.batch(parse(body)?, |contents, name, entry| contents.delete(name, &entry)),
            "ChangeMessageVisibilityBatch" => {
                self.batch(parse(body)?, |contents, name, entry| contents.change_visibility(name, &entry))
            }
            _ => Err(Kind::UnknownOperation.because(format!("the sandbox has no operation `{operation}`"))),
        }
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
        if !(1..=80).contains(&name.len()) || !name.chars().all(is_valid) {
            let message = "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length";
            return Err(Kind::InvalidParameter.because(message));
        }
        let attributes = Attributes::parse(&attributes)?;
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
        let content = Content::new(request.message_body, request.message_attributes)?;
        if size > max_size {
            let message =
                format!("One or more parameters are invalid. Reason: Message must be shorter than {max_size} bytes.");
            return Err(Kind::InvalidParameter.because(message));
        }
        let delay = delay.unwrap_or(self.queue(name)?.attributes.delay);
        queue::check_range("DelaySeconds", delay, 0..=queue::MAX_DELAY)
            .map_err(|message| Kind::InvalidParameter.because(message))?;
        let mut message = Message::new(content, now, now + settings.second * delay);
        message.loses_delete = self.random.f64() < settings.faults.lost_deletes;
        message.comes_twice = self.random.f64() < settings.faults.duplicates;
        let response = message.sent();
        self.queue(name)?.messages.push(message);
        Ok(response)
    }

    /// Messages for a receiver and, if there are none, the time until one becomes visible.
    fn receive(&mut self, request: &ReceiveMessage) -> Result<(Vec<Value>, Option<Duration>), SqsError> {
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
    fn delete(&mut self, name: &str, request: &Delete) -> Result<Value, SqsError> {
        let (id, serial) = message::parse_handle(name, &request.receipt_handle)?;
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

    fn change_visibility(&mut self, name: &str, request: &ChangeVisibility) -> Result<Value, SqsError> {
        let (now, second) = (self.now(), self.settings.second);
        let (id, serial) = message::parse_handle(name, &request.receipt_handle)?;
        let seconds = request.visibility_timeout;
        if seconds > MAX_VISIBILITY {
            return Err(out_of_range("VisibilityTimeout", seconds, MAX_VISIBILITY));
        }
        let queue = self.queue(name)?;
        queue.expire(now, second);
        let is_meant = |message: &&mut Message| message.content.id == id && message.is_last_handle(serial);
        let Some(message) = queue.messages.iter_mut().find(is_meant) else {
            let reason = "Message does not exist or is not available for visibility timeout change.";
            let handle = &request.receipt_handle;
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

    fn messages(&mut self, name: &str) -> Vec<StoredMessage> {
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

impl ReceiveMessage {
    /// How long a long poll waits.
    fn wait(&self, contents: &Contents) -> Result<Duration, SqsError> {
        let name = contents.name(&self.queue_url)?;
        let default = contents.queues.get(&name).map_or(0, |queue| queue.attributes.receive_wait);
        let seconds = self.wait_time_seconds.unwrap_or(default);
        if seconds > MAX_WAIT {
            return Err(out_of_range("WaitTimeSeconds", seconds, MAX_WAIT));
        }
        Ok(contents.settings.second * seconds)
    }
}

impl Send {
    fn size(&self) -> usize {
        self.message_body.len() + self.message_attributes.iter().map(|(name, value)| value.size(name)).sum::<usize>()
    }
}

fn arn(name: &str) -> String {
    format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{name}")
}

fn no_queue() -> SqsError {
    Kind::QueueDoesNotExist.because("The specified queue does not exist.")
}

fn out_of_range(name: &str, value: impl std::fmt::Display, max: impl std::fmt::Display) -> SqsError {
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
