//! What the integration tests stand on: a world around one real receiver, whose parts can be made to fail.
//!
//! Nothing here stands in for our own code. The services are reached over HTTP by the real SDK, through a proxy that
//! can be told to inject_faults.
//!
//! `TEST_DYNAMODB_ENDPOINT` runs all of it against another DynamoDB than the embedded one, e.g. AWS's DynamoDB Local.

// This is test code in a library: what `clippy.toml` allows in tests has to be said here.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test that cannot go on should stop right there"
)]

pub mod log;
pub mod proxy;
pub mod runtime_api;
pub mod unith;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use aws_sdk_dynamodb::types::AttributeValue;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use lambda_http::Context;
use lambda_support::env::Env;
use receive::{Receiver, config::Config};
use sandbox::{
    api_gateway::{self, Function},
    dynamodb,
    platform::Style,
    secrets_manager::SecretsManager,
    server::{ServerHandle, listen},
};
use serde_json::{Value, json};
use sha2::Sha256;
use unith_events::timestamp::Timestamp;

use crate::proxy::Proxy;

/// The shared key of UNITH's guide.
pub const KEY: &str = "cbaab87d1cce6d79baad8e9e2607feb3";
/// The head of UNITH's guide.
pub const HEAD: &str = "8eab5b23-024a-45cb-a0e1-9d3ffd6c9610";
/// The session of UNITH's guide.
pub const SESSION: &str = "f47ac10b-58cc-4372-a567-0e02b2c3d479";
/// The secret that worlds keep their ring in.
pub const RING_SECRET: &str = "ring";

/// A file or folder of the repository; its root for an empty path.
#[must_use]
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

/// The text of a file of the repository.
#[must_use]
pub fn repository_text(path: &str) -> String {
    let path = repository(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// An item of the table.
pub type Item = HashMap<String, AttributeValue>;

/// A DynamoDB with a table, behind a proxy.
#[derive(Debug)]
pub struct Table {
    /// What stands between the receiver and the DynamoDB.
    pub proxy: Proxy,
    /// The table's name.
    pub name: String,
    client: aws_sdk_dynamodb::Client,
    _embedded: Option<ServerHandle>,
}

impl Table {
    /// A table of its own for each test.
    pub async fn create() -> Self {
        let mut embedded = None;
        let endpoint = if let Ok(endpoint) = std::env::var("TEST_DYNAMODB_ENDPOINT") {
            endpoint
        } else {
            let served = dynamodb::serve(listen("DynamoDB", 0).await.unwrap(), None).unwrap();
            embedded.insert(served).url().to_owned()
        };
        let client = sandbox::dynamodb_client(&endpoint).unwrap();
        let name = format!("events-{:08x}", fastrand::u32(..));
        dynamodb::create_table(&client, &name).await.unwrap();
        Self { proxy: Proxy::start(&endpoint).await, name, client, _embedded: embedded }
    }

    /// All items, in the order of their keys.
    pub async fn items(&self) -> Vec<Item> {
        let pages = self.client.scan().table_name(&self.name).consistent_read(true).into_paginator().items().send();
        let mut items = pages.collect::<Result<Vec<_>, _>>().await.unwrap();
        items.sort_by_key(|item| (text(item, "pk").to_owned(), text(item, "sk").to_owned()));
        items
    }
}

/// A string attribute; empty where there is none.
#[must_use]
pub fn text<'i>(item: &'i Item, name: &str) -> &'i str {
    item.get(name).and_then(|value| value.as_s().ok()).map_or("", String::as_str)
}

/// One receiver and the services it uses.
#[derive(Debug)]
pub struct ReceiveHarness {
    /// Its table.
    pub table: Table,
    /// What holds its ring.
    pub secrets: SecretsManager,
    /// What stands between the receiver and that.
    pub secrets_proxy: Proxy,
    /// The variables that differ from the defaults.
    env: BTreeMap<&'static str, String>,
    ring_endpoint: Option<String>,
}

impl ReceiveHarness {
    /// A world whose ring is one active key of the guide's head: the guide's key.
    pub async fn new() -> Self {
        let world = Self::without_ring().await;
        world.set_ring(&ring(&[active(HEAD, KEY)])).await;
        world
    }

    /// A world whose Secrets Manager is empty.
    pub async fn without_ring() -> Self {
        let table = Table::create().await;
        let secrets = SecretsManager::serve(listen("Secrets Manager", 0).await.unwrap()).unwrap();
        let secrets_proxy = Proxy::start(secrets.url()).await;
        let env = BTreeMap::from([
            ("TABLE_NAME", table.name.clone()),
            ("UNITH_KEYS_SECRET", RING_SECRET.to_owned()),
            ("RETENTION_DAYS", "0".to_owned()),
        ]);
        Self { table, secrets, secrets_proxy, env, ring_endpoint: None }
    }

    /// Sets a variable of the receivers made from now on; an empty value unsets it.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.insert(name, value.into());
        self
    }

    /// Replaces the ring's secret.
    pub async fn set_ring(&self, secret: &str) {
        let client = sandbox::secrets_client(self.secrets.url()).unwrap();
        let put = client.put_secret_value().secret_id(RING_SECRET).secret_string(secret).send().await;
        if put.is_err() {
            client.create_secret().name(RING_SECRET).secret_string(secret).send().await.unwrap();
        }
    }

    /// With the ring of another world.
    #[must_use]
    pub fn with_secrets_of(mut self, other: &unith::ProvisionHarness) -> Self {
        self.ring_endpoint = Some(other.secrets.url().to_owned());
        self
    }

    /// A receiver in this world, as it is after a cold start.
    pub async fn receiver(&self) -> Caller {
        let config = Config::from_env(&self.env.clone().into_iter().collect::<Env>()).unwrap();
        let dynamodb = sandbox::dynamodb_client(self.table.proxy.url()).unwrap();
        let secrets =
            sandbox::secrets_client(self.ring_endpoint.as_deref().unwrap_or(self.secrets_proxy.url())).unwrap();
        let receiver = Receiver::new(config, dynamodb, || secrets);
        receive::rehearsal::warm_up(&receiver).await;
        Caller::new(Arc::new(receiver))
    }

    /// How often the ring was asked for.
    #[must_use]
    pub fn ring_fetches(&self) -> usize {
        self.secrets.calls("GetSecretValue")
    }
}

/// Calls a receiver as Lambda does: an event's JSON in, the answer's JSON out.
#[derive(Clone)]
pub struct Caller {
    function: Function,
    records: Arc<Mutex<Vec<Value>>>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub text: String,
    /// The line in the log.
    pub record: Value,
    /// How long it took.
    pub took: Duration,
}

impl Answer {
    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    /// The answer's status and its word, e.g. `(200, "stored")`.
    #[must_use]
    pub fn word(&self) -> (u16, String) {
        (self.status, self.json()["status"].as_str().unwrap_or_default().to_owned())
    }

    /// The reason in the log.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.record["reason"].as_str().unwrap_or_default()
    }
}

impl Caller {
    fn new(receiver: Arc<Receiver>) -> Self {
        let records = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&records);
        let service = receive::runtime::service(receiver, move |record| {
            let line = serde_json::to_value(record).unwrap();
            log::assert_known(&line);
            lines.lock().unwrap().push(line);
        });
        Self { function: api_gateway::function(service), records }
    }

    /// It, for a front to call.
    #[must_use]
    pub fn as_function(&self) -> Function {
        Arc::clone(&self.function)
    }

    /// Gives it an event as it stands.
    pub async fn invoke(&self, event: &Value) -> Answer {
        self.invoke_within(event, Duration::from_secs(10)).await
    }

    /// Gives it an event, in an invocation that ends after `limit`.
    pub async fn invoke_within(&self, event: &Value, limit: Duration) -> Answer {
        let started = Instant::now();
        let mut context = Context::default();
        context.request_id = format!("request-{:016x}", fastrand::u64(..));
        let limit = time::Duration::try_from(limit).unwrap();
        context.deadline = u64::try_from(Timestamp::now().plus(limit).epoch_milliseconds()).unwrap();
        let request_id = context.request_id.clone();
        let response = (self.function)(event.to_string(), context).await.unwrap();
        let took = started.elapsed();
        let is_its_own = |record: &Value| record["request_id"] == request_id.as_str();
        let record = self.records.lock().unwrap().iter().find(|record| is_its_own(record)).cloned().unwrap();
        Answer {
            status: u16::try_from(response["statusCode"].as_u64().unwrap()).unwrap(),
            headers: headers(&response),
            text: response["body"].as_str().unwrap_or_default().to_owned(),
            record,
            took,
        }
    }

    /// POSTs a body with this signature header, or with none.
    pub async fn post(&self, body: &[u8], signature: Option<&str>) -> Answer {
        self.invoke(&http_api_event(body, signature)).await
    }

    /// POSTs a body signed with `key`.
    pub async fn deliver(&self, body: &[u8], key: &str) -> Answer {
        self.post(body, Some(&sign(body, key))).await
    }
}

/// Payload 2.0 has single values, payload 1.0 lists; names in any case.
fn headers(response: &Value) -> BTreeMap<String, String> {
    let fields = ["headers", "multiValueHeaders"].into_iter().filter_map(|name| response[name].as_object());
    let value = |value: &Value| value.as_str().or_else(|| value[0].as_str()).unwrap_or_default().to_owned();
    fields.flatten().map(|(name, values)| (name.to_lowercase(), value(values))).collect()
}

/// The header UNITH would send, made with any text for a key: also with what we would not take for one.
#[must_use]
pub fn sign(body: &[u8], key: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}

/// How the platform spells what it delivers in this run of the tests: `TEST_UNITH_STYLE` is `kit` unless it says `guide`.
#[must_use]
pub fn style() -> Style {
    match std::env::var("TEST_UNITH_STYLE").as_deref() {
        Ok("guide") => Style::Guide,
        Ok("kit") | Err(_) => Style::Kit,
        Ok(other) => panic!("TEST_UNITH_STYLE is {other}: expected kit or guide"),
    }
}

/// The guide's event with some fields changed, in the spelling of [`style`]; `null` leaves one out.
#[must_use]
pub fn event(changes: &Value) -> Vec<u8> {
    event_in(style(), changes)
}

/// The same in another spelling.
#[must_use]
pub fn event_in(style: Style, changes: &Value) -> Vec<u8> {
    let (timestamp, event_type) = match style {
        Style::Kit => ("2026-01-15 09:57:33", "start_conversation"),
        Style::Guide => ("2026-01-15T09:57:33Z", "START_CONVERSATION"),
    };
    let mut event = json!({
        "timestamp": timestamp, "head_id": HEAD, "session_id": SESSION,
        "public_head_id": "jane-15326", "public_org_id": "acme", "event_type": event_type,
    });
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            event.as_object_mut().unwrap().remove(name);
        } else {
            event[name] = value.clone();
        }
    }
    event.to_string().into_bytes()
}

/// An HTTP API event (payload 2.0) for a POST of `body`; in base64 where it is no text.
#[must_use]
pub fn http_api_event(body: &[u8], signature: Option<&str>) -> Value {
    let mut event: Value = serde_json::from_str(include_str!("../fixtures/http-api-2.0.json")).unwrap();
    let (encoded, text) = match std::str::from_utf8(body) {
        Ok(text) => (false, text.to_owned()),
        Err(_) => (true, BASE64.encode(body)),
    };
    event["body"] = text.into();
    event["isBase64Encoded"] = encoded.into();
    match signature {
        Some(signature) => event["headers"]["x-signature-256"] = signature.into(),
        None => {
            event["headers"].as_object_mut().unwrap().remove("x-signature-256");
        }
    }
    event
}

/// A ring's document.
#[must_use]
pub fn ring(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

/// An active entry of a ring.
#[must_use]
pub fn active(head: &str, key: &str) -> Value {
    json!({"head_id": head, "webhook_id": 4, "key": key, "state": "active", "since": "2026-01-16T09:56:12Z"})
}
