//! The real function `sessions`, its two tables and its queue behind proxies, and a stream that the test delivers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use event_store::{item::EventItem, keys::SessionKey, retention::Retention};
use lambda_support::{aws, env::Env};
use sandbox::{
    clients::{ACCESS_KEY, REGION, sqs_client},
    dynamodb::create_sessions_table,
    queues::{FAILURE_QUEUE, Queues},
    server::listen,
    sqs::{Settings, Sqs},
};
use serde_json::{Value, json};
use sessions::{
    config::Config,
    handler::{HandlerError, SessionUpdater},
    item::SessionItem,
};
use tokio::time::Instant;
use unith_events::{
    event::{Event, Identity},
    session::{SessionEvent, fold},
    timestamp::Timestamp,
};

use crate::{
    log,
    proxy::Proxy,
    secrets::{SECRET_ACCESS_KEY, SESSION_TOKEN, Secrets},
    stream_record::inserted,
    table::{Item, SCAN_PAGE, Table, text},
    wait::PATIENCE,
};

/// The id of each invocation.
pub const REQUEST_ID: &str = "request-1";
/// The time at which commands decide which sessions are lost, unless a test sets another one.
pub const NOW: &str = "2026-01-15T12:00:00Z";

pub const START: &str = "START_CONVERSATION";
pub const WARNING: &str = "INACTIVITY_WARNING";
pub const TIMEOUT: &str = "TIMEOUT_CONVERSATION";
pub const END: &str = "END_CONVERSATION";

/// The tables, the queue and the environment of the function.
pub struct SessionsHarness {
    /// The events table. The function reaches both tables through its proxy.
    pub table: Table,
    /// The name of the sessions table.
    pub sessions_table: String,
    /// The SQS that holds the on-failure queue.
    pub sqs: Sqs,
    /// The proxy through which the function reaches it.
    pub sqs_proxy: Proxy,
    env: BTreeMap<&'static str, String>,
    retention: Retention,
    sequence_number: AtomicU64,
    now: Arc<Mutex<Timestamp>>,
    known: Secrets,
    log_lines: Arc<Mutex<Vec<Value>>>,
}

impl SessionsHarness {
    /// Empty tables and an empty queue. Events are kept for ever.
    pub async fn start() -> Self {
        Self::start_on(Table::create().await).await
    }

    /// The same with this table of events.
    pub async fn start_on(table: Table) -> Self {
        let sessions_table = table.name.replace("events", "sessions");
        create_sessions_table(&table.client, &sessions_table).await.unwrap();
        let sqs = Sqs::serve(listen("SQS", 0).await.unwrap(), Settings::default()).unwrap();
        let sqs_proxy = Proxy::start(sqs.url()).await;
        let queues = Queues::create(&sqs_client(sqs.url()).unwrap()).await.unwrap();
        let env = BTreeMap::from([
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY.to_owned()),
            ("AWS_SESSION_TOKEN", SESSION_TOKEN.to_owned()),
            ("AWS_ENDPOINT_URL_DYNAMODB", table.proxy.url().to_owned()),
            ("AWS_ENDPOINT_URL_SQS", sqs_proxy.url().to_owned()),
            ("TABLE_NAME", table.name.clone()),
            ("SESSIONS_TABLE_NAME", sessions_table.clone()),
            ("FAILURE_QUEUE_URL", queues.failure_url),
        ]);
        let now = Arc::new(Mutex::new(at(NOW)));
        Self {
            table,
            sessions_table,
            sqs,
            sqs_proxy,
            env,
            retention: Retention::Forever,
            sequence_number: AtomicU64::new(1),
            now,
            known: Secrets::of_role(),
            log_lines: Arc::default(),
        }
    }

    /// Lets later events expire.
    pub fn with_retention(self, retention: Retention) -> Self {
        Self { retention, ..self }
    }

    /// The function's variables.
    pub fn env(&self) -> &BTreeMap<&'static str, String> {
        &self.env
    }

    /// Sets the time of later commands.
    pub fn set_now(&self, now: &str) {
        *self.now.lock().unwrap() = at(now);
    }

    /// Stores an event of the head `h`, as `receive` does. The result is its record in the stream.
    pub async fn store(&self, session: &str, event_type: &str, occurred_at: &str) -> Value {
        self.store_for("h", session, event_type, occurred_at).await
    }

    /// The same for another head.
    pub async fn store_for(&self, head: &str, session: &str, event_type: &str, occurred_at: &str) -> Value {
        let item: Item = event_item(head, session, event_type, occurred_at, self.retention).into();
        self.put(&self.table.name, item).await
    }

    /// Writes any item. The result is its record in the stream.
    pub async fn put(&self, table: &str, item: Item) -> Value {
        self.table.client.put_item().table_name(table).set_item(Some(item.clone())).send().await.unwrap();
        inserted(&item, self.sequence_number.fetch_add(1, Ordering::Relaxed))
    }

    /// Deletes an item of the events table, as its time to live or an erasure does.
    pub async fn expire(&self, record: &Value) {
        let key = |name: &str| aws_sdk_dynamodb::types::AttributeValue::S(record_key(record, name));
        let delete = self.table.client.delete_item().table_name(&self.table.name);
        delete.key("pk", key("pk")).key("sk", key("sk")).send().await.unwrap();
    }

    /// Invokes the function with these records. The result is the sequence number from which on they failed.
    pub async fn deliver(&self, records: &[Value]) -> Option<String> {
        self.deliver_within(records, PATIENCE).await
    }

    /// The same in an invocation that should end after `limit`.
    pub async fn deliver_within(&self, records: &[Value], limit: Duration) -> Option<String> {
        failed_from(&self.invoke_within(json!({"Records": records}), limit).await.unwrap())
    }

    /// Invokes the function.
    pub async fn invoke(&self, input: Value) -> Result<Value, HandlerError> {
        self.invoke_within(input, PATIENCE).await
    }

    /// The same in an invocation that should end after `limit`. Result and log are searched for secrets, the bodies of the
    /// records included.
    pub async fn invoke_within(&self, input: Value, limit: Duration) -> Result<Value, HandlerError> {
        self.log_lines.lock().unwrap().clear();
        let (position, secrets) = (log::position(), Secrets::of_stream_event(&input));
        secrets.add_all(&self.known);
        let result = self.updater().handle(input, REQUEST_ID, Instant::now() + limit).await;
        secrets.assert_absent_in_invocation(&result, &self.lines(), position);
        result
    }

    /// The function after a cold start.
    pub fn updater(&self) -> SessionUpdater {
        let env: Env = self.env.clone().into_iter().collect();
        let lines = Arc::clone(&self.log_lines);
        let log = move |line: &Value| {
            log::assert_known(line);
            lines.lock().unwrap().push(line.clone());
        };
        let now = Arc::clone(&self.now);
        let updater = SessionUpdater::new(Config::from_env(&env).unwrap(), &aws::config(&env).unwrap());
        updater.with_log(log).with_clock(move || *now.lock().unwrap())
    }

    /// The lines of the last invocation. The last one is that of the batch or command.
    pub fn lines(&self) -> Vec<Value> {
        self.log_lines.lock().unwrap().clone()
    }

    /// The counts of the last batch.
    pub fn counts(&self) -> Value {
        self.lines().last().unwrap()["result"].clone()
    }

    /// All items of the sessions table, in the order of their keys.
    pub async fn items(&self) -> Vec<Item> {
        let scan = self.table.client.scan().table_name(&self.sessions_table).consistent_read(true).limit(SCAN_PAGE);
        let mut items = scan.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await.unwrap();
        items.sort_by_key(|item| text(item, "pk").to_owned());
        items
    }

    /// The same as types.
    pub async fn rows(&self) -> Vec<SessionItem> {
        self.items().await.into_iter().map(|item| serde_dynamo::from_item(item).unwrap()).collect()
    }

    /// The rows that the events table's items make, in the order of their keys.
    pub async fn expected_rows(&self) -> Vec<SessionItem> {
        let mut sessions: BTreeMap<String, Vec<SessionEvent>> = BTreeMap::new();
        for item in self.table.items().await {
            let pk = text(&item, "pk").to_owned();
            sessions.entry(pk).or_default().push(serde_dynamo::from_item(item).unwrap());
        }
        let row =
            |(pk, events): (String, Vec<_>)| Some(SessionItem::new(&SessionKey::parse(&pk).unwrap(), fold(events)?));
        sessions.into_iter().filter_map(row).collect()
    }

    /// Deletes all rows.
    pub async fn empty(&self) {
        for item in self.items().await {
            let delete = self.table.client.delete_item().table_name(&self.sessions_table);
            delete.key("pk", item["pk"].clone()).key("sk", item["sk"].clone()).send().await.unwrap();
        }
    }

    /// The messages of the on-failure queue.
    pub fn poison(&self) -> Vec<Value> {
        let messages = self.sqs.messages(FAILURE_QUEUE).into_iter();
        messages.map(|message| serde_json::from_str(&message.body).unwrap()).collect()
    }
}

/// The item of an event. It reached `receive` two seconds after it happened.
pub fn event_item(head: &str, session: &str, event_type: &str, occurred_at: &str, retention: Retention) -> EventItem {
    let occurred_at = at(occurred_at);
    let identity = Identity {
        head_id: head.parse().unwrap(),
        session_id: session.parse().unwrap(),
        event_type: event_type.to_owned(),
        occurred_at,
    };
    let event = Event {
        event_id: identity.event_id(),
        event_type: event_type.to_owned(),
        identity,
        public_head_id: Some("jane-15326".to_owned()),
        public_org_id: Some("acme".to_owned()),
    };
    EventItem::new(&event, b"{}", occurred_at.plus(Duration::from_secs(2)), None, retention)
}

/// The sequence number that a batch response names.
pub fn failed_from(response: &Value) -> Option<String> {
    let failures = response["batchItemFailures"].as_array().unwrap();
    assert!(failures.len() < 2, "one number is enough: {response}");
    failures.first().map(|failure| failure["itemIdentifier"].as_str().unwrap().to_owned())
}

/// The sequence number of a record.
pub fn sequence_number(record: &Value) -> String {
    record["dynamodb"]["SequenceNumber"].as_str().unwrap().to_owned()
}

fn record_key(record: &Value, name: &str) -> String {
    record["dynamodb"]["Keys"][name]["S"].as_str().unwrap().to_owned()
}

/// An instant.
pub fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}
