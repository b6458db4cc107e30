//! One real publisher, its table, its bus and its queues behind proxies, and a stream that the test delivers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_sdk_dynamodb::types::AttributeValue;
use event_store::{
    item::{EventItem, Via},
    retention::Retention,
};
use lambda_support::{aws, env::Env};
use publish::{
    config::{Config, Timing},
    handler::{HandlerError, Publisher},
};
use sandbox::{
    clients::{ACCESS_KEY, REGION, eventbridge_client, sqs_client},
    eventbridge::{EventBridge, Faults, PublishedEvent, bus_arn},
    queues::{FAILURE_QUEUE, Queues},
    server::listen,
    services::EVENT_BUS,
    sqs::{Settings, Sqs, StoredMessage},
};
use serde_json::{Value, json};
use tokio::time::Instant;
use unith_events::{
    event::{Event, Identity},
    timestamp::Timestamp,
};

use crate::{
    log,
    proxy::Proxy,
    secrets::{SECRET_ACCESS_KEY, SESSION_TOKEN, Secrets},
    stream_record::inserted,
    table::{Item, Table},
    wait::PATIENCE,
};

/// The id of each invocation.
pub const REQUEST_ID: &str = "request-1";
/// When the deliveries of the tests reached `receive`.
pub const RECEIVED_AT: &str = "2026-01-15T10:00:00.000Z";
/// The name of the ordered queue.
pub const ORDERED_QUEUE: &str = "unith-ordered.fifo";

pub const START: &str = "START_CONVERSATION";
pub const WARNING: &str = "INACTIVITY_WARNING";
pub const TIMEOUT: &str = "TIMEOUT_CONVERSATION";
pub const END: &str = "END_CONVERSATION";

/// The table, the bus, the queues and the environment of the function.
pub struct PublishHarness {
    /// The events table, behind a proxy.
    pub table: Table,
    pub eventbridge: EventBridge,
    /// The proxy through which the function reaches it.
    pub bus_proxy: Proxy,
    /// The SQS that holds the on-failure queue and the ordered queue.
    pub sqs: Sqs,
    /// The proxy through which the function reaches it.
    pub sqs_proxy: Proxy,
    /// The URL of the ordered queue. The function does not use it unless a test sets its variable.
    pub ordered_url: String,
    /// A client of the event bus that bypasses the proxy.
    pub bus_client: aws_sdk_eventbridge::Client,
    /// The intervals of later publishers: short ones.
    pub timing: Timing,
    env: BTreeMap<&'static str, String>,
    sequence_number: AtomicU64,
    known: Secrets,
    log_lines: Arc<Mutex<Vec<Value>>>,
}

impl PublishHarness {
    /// An empty table, a bus and empty queues.
    pub async fn start() -> Self {
        Self::start_with(Faults::default()).await
    }

    /// The same with faults of EventBridge.
    pub async fn start_with(faults: Faults) -> Self {
        let table = Table::create().await;
        let eventbridge = EventBridge::serve(listen("EventBridge", 0).await.unwrap(), faults).unwrap();
        let bus_proxy = Proxy::start(eventbridge.url()).await;
        let bus_client = eventbridge_client(eventbridge.url()).unwrap();
        bus_client.create_event_bus().name(EVENT_BUS).send().await.unwrap();
        let sqs = Sqs::serve(listen("SQS", 0).await.unwrap(), Settings::default()).unwrap();
        let sqs_proxy = Proxy::start(sqs.url()).await;
        let sqs_client = sqs_client(sqs.url()).unwrap();
        let queues = Queues::create(&sqs_client).await.unwrap();
        let ordered = sqs_client.create_queue().queue_name(ORDERED_QUEUE);
        let ordered = ordered.attributes(aws_sdk_sqs::types::QueueAttributeName::FifoQueue, "true").send().await;
        let env = BTreeMap::from([
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY.to_owned()),
            ("AWS_SESSION_TOKEN", SESSION_TOKEN.to_owned()),
            ("AWS_ENDPOINT_URL_DYNAMODB", table.proxy.url().to_owned()),
            ("AWS_ENDPOINT_URL_EVENTBRIDGE", bus_proxy.url().to_owned()),
            ("AWS_ENDPOINT_URL_SQS", sqs_proxy.url().to_owned()),
            ("TABLE_NAME", table.name.clone()),
            ("EVENT_BUS_ARN", bus_arn(EVENT_BUS)),
            ("FAILURE_QUEUE_URL", queues.failure_url),
        ]);
        let timing = Timing {
            check_bus_every: Duration::ZERO,
            // A busy machine must not time out: only a test of time-outs may.
            attempt_timeout: PATIENCE,
            first_pause: Duration::from_millis(1),
            replay_event_every: Duration::ZERO,
            ..Timing::default()
        };
        Self {
            table,
            eventbridge,
            bus_proxy,
            sqs,
            sqs_proxy,
            ordered_url: ordered.unwrap().queue_url.unwrap(),
            bus_client,
            timing,
            env,
            sequence_number: AtomicU64::new(1),
            known: Secrets::of_role(),
            log_lines: Arc::default(),
        }
    }

    /// Sets a variable of all later publishers.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.insert(name, value.into());
        self
    }

    /// Publishes to the ordered queue too.
    pub fn with_ordered_queue(self) -> Self {
        let url = self.ordered_url.clone();
        self.with("ORDERED_QUEUE_URL", url)
    }

    /// Changes the intervals of later publishers.
    pub fn with_timing(mut self, change: impl FnOnce(&mut Timing)) -> Self {
        change(&mut self.timing);
        self
    }

    /// The function's variables.
    pub fn env(&self) -> &BTreeMap<&'static str, String> {
        &self.env
    }

    /// The function after a cold start, before it looks for the bus.
    pub fn publisher(&self) -> Publisher {
        self.publisher_with(self.timing)
    }

    /// The same with other intervals.
    pub fn publisher_with(&self, timing: Timing) -> Publisher {
        let env: Env = self.env.clone().into_iter().collect();
        let lines = Arc::clone(&self.log_lines);
        let log = move |line: &Value| {
            log::assert_known(line);
            lines.lock().unwrap().push(line.clone());
        };
        let config = Config { timing, ..Config::from_env(&env).unwrap() };
        Publisher::new(config, &aws::config(&env).unwrap()).with_log(log)
    }

    /// Stores an event of the head `h`, as `receive` does. The result is its record in the stream.
    pub async fn store(&self, session: &str, event_type: &str, occurred_at: &str) -> Value {
        self.store_item(event_item("h", session, event_type, occurred_at)).await
    }

    /// Stores an event. The result is its record in the stream.
    pub async fn store_item(&self, item: EventItem) -> Value {
        self.put(item.into()).await
    }

    /// Writes any item. The result is its record in the stream.
    pub async fn put(&self, item: Item) -> Value {
        let put = self.table.client.put_item().table_name(&self.table.name).set_item(Some(item.clone()));
        put.send().await.unwrap();
        self.record(&item)
    }

    /// The record of an item that is not stored.
    pub fn record(&self, item: &Item) -> Value {
        inserted(item, self.sequence_number.fetch_add(1, Ordering::Relaxed))
    }

    /// Invokes a new environment of the function with these records. The result is the sequence number that its response
    /// names.
    pub async fn deliver(&self, records: &[Value]) -> Option<String> {
        self.deliver_to(&self.publisher(), records).await
    }

    /// The same with an environment that may have had batches before.
    pub async fn deliver_to(&self, publisher: &Publisher, records: &[Value]) -> Option<String> {
        self.deliver_within(publisher, records, PATIENCE).await
    }

    /// The same in an invocation that should end after `limit`.
    pub async fn deliver_within(&self, publisher: &Publisher, records: &[Value], limit: Duration) -> Option<String> {
        let response = self.handle(publisher, json!({"Records": records}), limit).await.unwrap();
        let failures = response["batchItemFailures"].as_array().unwrap();
        assert!(failures.len() <= 1, "{response}");
        failures.first().map(|failure| failure["itemIdentifier"].as_str().unwrap().to_owned())
    }

    /// Invokes a new environment of the function.
    pub async fn invoke(&self, input: Value) -> Result<Value, HandlerError> {
        self.invoke_within(input, PATIENCE).await
    }

    /// The same in an invocation that should end after `limit`.
    pub async fn invoke_within(&self, input: Value, limit: Duration) -> Result<Value, HandlerError> {
        self.handle(&self.publisher(), input, limit).await
    }

    /// Result and log are searched for secrets, the bodies of the records included.
    async fn handle(&self, publisher: &Publisher, input: Value, limit: Duration) -> Result<Value, HandlerError> {
        self.log_lines.lock().unwrap().clear();
        let (position, secrets) = (log::position(), Secrets::of_stream_event(&input));
        secrets.add_all(&self.known);
        let result = publisher.handle(input, REQUEST_ID, Instant::now() + limit).await;
        secrets.assert_absent_in_invocation(&result, &self.lines(), position);
        result
    }

    /// The lines of the last invocation.
    pub fn lines(&self) -> Vec<Value> {
        self.log_lines.lock().unwrap().clone()
    }

    /// The last line of the last invocation: that of the batch, or of the command.
    pub fn last_line(&self) -> Value {
        self.lines().pop().unwrap_or_default()
    }

    /// The events that reached the bus, in order.
    pub fn published(&self) -> Vec<PublishedEvent> {
        self.eventbridge.events(EVENT_BUS)
    }

    /// The messages of the on-failure queue, as JSON.
    pub fn failures(&self) -> Vec<Value> {
        let messages = self.sqs.messages(FAILURE_QUEUE).into_iter();
        messages.map(|message| serde_json::from_str(&message.body).unwrap()).collect()
    }

    /// The messages of the ordered queue.
    pub fn ordered(&self) -> Vec<StoredMessage> {
        self.sqs.messages(ORDERED_QUEUE)
    }
}

/// The item of an event that reached `receive` at [`RECEIVED_AT`]. Its body is UNITH's, in the guide's spelling.
pub fn event_item(head: &str, session: &str, event_type: &str, occurred_at: &str) -> EventItem {
    let body = json!({"timestamp": occurred_at, "head_id": head, "session_id": session, "event_type": event_type});
    event_item_of(head, session, event_type, occurred_at, body.to_string().as_bytes(), None)
}

/// The same with any body, and the way it came.
pub fn event_item_of(
    head: &str,
    session: &str,
    event_type: &str,
    occurred_at: &str,
    body: &[u8],
    via: Option<Via>,
) -> EventItem {
    let identity = Identity {
        head_id: head.parse().unwrap(),
        session_id: session.parse().unwrap(),
        event_type: event_type.to_ascii_uppercase(),
        occurred_at: at(occurred_at),
    };
    let event = Event {
        event_id: identity.event_id(),
        event_type: event_type.to_owned(),
        identity,
        public_head_id: Some("jane-15326".to_owned()),
        public_org_id: None,
    };
    EventItem::new(&event, body, at(RECEIVED_AT), via, Retention::Forever)
}

/// The sequence number of a record.
pub fn number(record: &Value) -> String {
    record["dynamodb"]["SequenceNumber"].as_str().unwrap().to_owned()
}

/// A string attribute.
pub fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}
