//! One real redriver, a table and an SQS, each behind a proxy, and the event source mapping between queue and function.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_sdk_sqs::types::MessageSystemAttributeName;
use event_store::{
    item::{QuarantineItem, QuarantineKind, Quarantined},
    retention::Retention,
};
use lambda_support::{aws, env::Env};
use receive::{breaker::Periods, config::Config as ReceiveConfig, handler::Receiver};
use redrive::{
    config::Config,
    handler::{HandlerError, Redriver},
};
use sandbox::{
    clients::{ACCESS_KEY, REGION, sqs_client},
    queues::{DEAD_LETTER_QUEUE, Queues, SPILL_QUEUE},
    server::listen,
    sqs::{Settings, Sqs, StoredMessage},
};
use serde_json::{Value, json};
use tokio::time::Instant;
use unith_events::{
    key_ring::KeyRing,
    signature::SharedKey,
    spill::{SpillMessage, SpillReason},
    timestamp::Timestamp,
    verify::verify,
};

use crate::{
    delivery::{HEAD, KEY},
    key_ring::{active, ring},
    log,
    proxy::Proxy,
    receive_harness::Caller,
    secrets::{SECRET_ACCESS_KEY, SESSION_TOKEN, Secrets},
    table::Table,
    wait::PATIENCE,
};

/// When the deliveries of the tests reached `receive`.
pub const RECEIVED_AT: &str = "2026-01-15T09:57:34.000Z";
/// The id of each invocation.
pub const REQUEST_ID: &str = "request-1";
/// Longer than the function's longest back-off.
pub const LONGEST_BACK_OFF: Duration = Duration::from_mins(40);

/// The table, the queues and the environment of the function.
pub struct RedriveHarness {
    /// The table, behind a proxy.
    pub table: Table,
    /// The SQS that holds the queues.
    pub sqs: Sqs,
    /// The proxy through which the function reaches it.
    pub sqs_proxy: Proxy,
    /// The URLs of the queues.
    pub queues: Queues,
    /// What the function may not show.
    pub known: Secrets,
    client: aws_sdk_sqs::Client,
    env: BTreeMap<&'static str, String>,
    log_lines: Arc<Mutex<Vec<Value>>>,
}

impl RedriveHarness {
    /// An empty table and empty queues.
    pub async fn start() -> Self {
        let table = Table::create().await;
        let sqs = Sqs::serve(listen("SQS", 0).await.unwrap(), Settings::default()).unwrap();
        let sqs_proxy = Proxy::start(sqs.url()).await;
        let client = sqs_client(sqs.url()).unwrap();
        let queues = Queues::create(&client).await.unwrap();
        let env = BTreeMap::from([
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY.to_owned()),
            ("AWS_SESSION_TOKEN", SESSION_TOKEN.to_owned()),
            ("AWS_ENDPOINT_URL_DYNAMODB", table.proxy.url().to_owned()),
            ("AWS_ENDPOINT_URL_SQS", sqs_proxy.url().to_owned()),
            ("TABLE_NAME", table.name.clone()),
            ("RETENTION_DAYS", "0".to_owned()),
            ("SPILL_QUEUE_URL", queues.spill_url.clone()),
            ("DEAD_LETTER_QUEUE_URL", queues.dead_letter_url.clone()),
        ]);
        let known = Secrets::of_role();
        known.add_key(KEY);
        Self { table, sqs, sqs_proxy, queues, known, client, env, log_lines: Arc::default() }
    }

    /// Sets a variable of all later invocations.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.insert(name, value.into());
        self
    }

    /// The function's variables.
    pub fn env(&self) -> &BTreeMap<&'static str, String> {
        &self.env
    }

    /// Sends the message of a delivery that was signed with the guide's key and spilled at [`RECEIVED_AT`].
    pub async fn spill(&self, body: &[u8]) {
        self.send(&spilled(body).to_json()).await;
    }

    /// Sends a text to the spill queue.
    pub async fn send(&self, text: &str) {
        self.client.send_message().queue_url(&self.queues.spill_url).message_body(text).send().await.unwrap();
    }

    /// Puts a body that could not be read at [`RECEIVED_AT`] into quarantine. Its key is bound to the guide's head.
    pub async fn quarantine(&self, body: &[u8], reason: &str) {
        self.quarantine_as(QuarantineKind::Unreadable, body, reason).await;
    }

    /// The same for another kind of quarantined body.
    pub async fn quarantine_as(&self, kind: QuarantineKind, body: &[u8], reason: &str) {
        self.known.add_body(body);
        let key_head = Some(HEAD.parse().unwrap());
        let quarantined = Quarantined { kind, reason: reason.to_owned(), key_head, head_id: None, session_id: None };
        let item = QuarantineItem::new(quarantined, body, at(RECEIVED_AT), Retention::Forever);
        let item = serde_dynamo::to_item(item).unwrap();
        self.table.client.put_item().table_name(&self.table.name).set_item(Some(item)).send().await.unwrap();
    }

    /// Takes up to ten visible messages from the spill queue, as the records of the function's event.
    pub async fn receive(&self) -> Vec<Value> {
        let receive = self.client.receive_message().queue_url(&self.queues.spill_url).max_number_of_messages(10);
        let receive = receive.message_system_attribute_names(MessageSystemAttributeName::All).send().await.unwrap();
        let messages = receive.messages.unwrap_or_default().into_iter();
        messages
            .map(|message| {
                let attributes = message.attributes.unwrap().into_iter();
                let attributes: BTreeMap<_, _> = attributes.map(|(name, value)| (name.to_string(), value)).collect();
                json!({
                    "messageId": message.message_id, "receiptHandle": message.receipt_handle, "body": message.body,
                    "attributes": attributes, "messageAttributes": {}, "md5OfBody": message.md5_of_body,
                    "eventSource": "aws:sqs", "eventSourceARN": format!("arn:aws:sqs:{REGION}:123456789012:{SPILL_QUEUE}"),
                    "awsRegion": REGION,
                })
            })
            .collect()
    }

    /// Invokes the function with a batch of the spill queue, and deletes what it does not return. The result is a log line
    /// for each message.
    pub async fn deliver(&self) -> Vec<Value> {
        self.deliver_within(PATIENCE).await
    }

    /// Lets the function take what waits, until nothing does.
    pub async fn drain(&self) {
        while !self.spilled().is_empty() {
            self.sqs.pass_time(LONGEST_BACK_OFF);
            while !self.deliver().await.is_empty() {}
        }
    }

    /// The same in an invocation that should end after `limit`.
    pub async fn deliver_within(&self, limit: Duration) -> Vec<Value> {
        let records = self.receive().await;
        self.log_lines.lock().unwrap().clear();
        let response = self.invoke_within(json!({"Records": records}), limit).await.unwrap();
        let failures = response["batchItemFailures"].as_array().unwrap();
        let returned: Vec<_> = failures.iter().map(|failure| &failure["itemIdentifier"]).collect();
        for record in records.iter().filter(|record| !returned.contains(&&record["messageId"])) {
            let handle = record["receiptHandle"].as_str().unwrap();
            self.client.delete_message().queue_url(&self.queues.spill_url).receipt_handle(handle).send().await.unwrap();
        }
        let lines = self.log_lines.lock().unwrap().clone();
        assert_eq!(lines.len(), records.len(), "a line per message: {lines:?}");
        lines
    }

    /// A receiver after a cold start, on the same table and queue. Its breaker is open for a fraction of a second.
    pub async fn receiver(&self) -> Caller {
        self.receiver_with([("UNITH_SHARED_KEY", KEY.to_owned())]).await
    }

    /// The same with these variables: those of the keys, and what differs from the function's own.
    pub async fn receiver_with(&self, variables: impl IntoIterator<Item = (&'static str, String)>) -> Caller {
        let periods = Periods { first: Duration::from_millis(20), longest: Duration::from_millis(200) };
        self.receiver_of(variables, periods).await
    }

    /// The same with a breaker that is open for other periods.
    pub async fn receiver_with_breaker(&self, periods: Periods) -> Caller {
        self.receiver_of([("UNITH_SHARED_KEY", KEY.to_owned())], periods).await
    }

    async fn receiver_of(
        &self,
        variables: impl IntoIterator<Item = (&'static str, String)>,
        breaker_periods: Periods,
    ) -> Caller {
        let env: Env = self.env.clone().into_iter().chain(variables).collect();
        let config = ReceiveConfig { breaker_periods, ..ReceiveConfig::from_env(&env).unwrap() };
        let receiver = Receiver::new(config, &aws::config(&env).unwrap());
        let position = log::position();
        receiver.warm_up().await;
        self.known.assert_absent_in_lines_since(position);
        Caller::new(Arc::new(receiver), self.known.clone())
    }

    /// Invokes the function.
    pub async fn invoke(&self, input: Value) -> Result<Value, HandlerError> {
        self.invoke_within(input, PATIENCE).await
    }

    /// The same in an invocation that should end after `limit`. Result and log are searched for secrets, the bodies of the
    /// messages included.
    pub async fn invoke_within(&self, input: Value, limit: Duration) -> Result<Value, HandlerError> {
        let (position, bodies) = (log::position(), Secrets::of_sqs_event(&input));
        let result = self.redriver().handle(input, REQUEST_ID, Instant::now() + limit).await;
        let lines = self.log_lines.lock().unwrap().clone();
        for secrets in [&self.known, &bodies] {
            secrets.assert_absent_in_invocation(&result, &lines, position);
        }
        result
    }

    /// The function after a cold start. Its random numbers are the least.
    fn redriver(&self) -> Redriver {
        let env: Env = self.env.clone().into_iter().collect();
        let lines = Arc::clone(&self.log_lines);
        let log = move |line: &Value| {
            log::assert_known(line);
            lines.lock().unwrap().push(line.clone());
        };
        let config = Config::from_env(&env).unwrap();
        Redriver::new(config, &aws::config(&env).unwrap(), |range| *range.start()).with_log(log)
    }

    /// The last line of the function's log.
    pub fn last_line(&self) -> Value {
        self.log_lines.lock().unwrap().last().cloned().unwrap_or_default()
    }

    /// The messages of the spill queue.
    pub fn spilled(&self) -> Vec<StoredMessage> {
        self.sqs.messages(SPILL_QUEUE)
    }

    /// The dead letters.
    pub fn dead_letters(&self) -> Vec<StoredMessage> {
        self.sqs.messages(DEAD_LETTER_QUEUE)
    }
}

/// The message of a delivery that was signed with the guide's key and spilled at [`RECEIVED_AT`].
pub fn spilled(body: &[u8]) -> SpillMessage {
    let ring = KeyRing::parse(&ring(&[active(HEAD, KEY)])).unwrap();
    let signature = SharedKey::parse(KEY).unwrap().sign(body);
    let verified = verify(body, &signature, &ring, at(RECEIVED_AT)).unwrap();
    SpillMessage::new(&verified, at(RECEIVED_AT), SpillReason::Timeout, Some("1-2-3".to_owned()))
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}
