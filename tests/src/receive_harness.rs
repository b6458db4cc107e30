//! One real receiver and the services it uses, each of which can be made to fail.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use lambda_http::Context;
use lambda_support::{aws, env::Env};
use receive::{config::Config, handler::Receiver};
use sandbox::{
    api_gateway::{self, Function},
    clients::{ACCESS_KEY, REGION},
    secrets_manager::SecretsManager,
    server::listen,
};
use serde_json::{Value, json};
use unith_events::timestamp::Timestamp;

use crate::{
    delivery::{HEAD, KEY, sign},
    gateway_event::http_api_event,
    key_ring::{RING_SECRET, active, ring},
    log,
    provision_harness::ProvisionHarness,
    proxy::Proxy,
    secrets::{SECRET_ACCESS_KEY, SESSION_TOKEN, Secrets},
    table::Table,
};

/// The table, the Secrets Manager and the environment of receivers.
#[derive(Debug)]
pub struct ReceiveHarness {
    /// The table, behind a proxy.
    pub table: Table,
    /// The Secrets Manager that holds the key ring.
    pub secrets: SecretsManager,
    /// The proxy through which receivers reach it.
    pub secrets_proxy: Proxy,
    /// What receivers may not show.
    pub known: Secrets,
    /// The variables that differ from the defaults.
    env: BTreeMap<&'static str, String>,
    ring_endpoint: Option<String>,
}

impl ReceiveHarness {
    /// A harness whose key ring holds one active key of the guide's head: the guide's key.
    pub async fn new() -> Self {
        let harness = Self::without_ring().await;
        harness.set_ring(&ring(&[active(HEAD, KEY)])).await;
        harness
    }

    /// A harness whose Secrets Manager is empty.
    pub async fn without_ring() -> Self {
        let table = Table::create().await;
        let secrets = SecretsManager::serve(listen("Secrets Manager", 0).await.unwrap()).unwrap();
        let secrets_proxy = Proxy::start(secrets.url()).await;
        let env = BTreeMap::from([
            ("TABLE_NAME", table.name.clone()),
            ("UNITH_KEYS_SECRET", RING_SECRET.to_owned()),
            ("RETENTION_DAYS", "0".to_owned()),
        ]);
        Self { table, secrets, secrets_proxy, known: Secrets::of_role(), env, ring_endpoint: None }
    }

    /// Sets a variable of all later receivers; an empty value unsets it.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        let value = value.into();
        if name == "UNITH_SHARED_KEY" {
            self.known.add_key(&value);
        }
        self.env.insert(name, value);
        self
    }

    /// Replaces the text of the key ring's secret.
    pub async fn set_ring(&self, secret: &str) {
        self.known.add_document(secret);
        let client = sandbox::clients::secrets_client(self.secrets.url()).unwrap();
        let put = client.put_secret_value().secret_id(RING_SECRET).secret_string(secret).send().await;
        if put.is_err() {
            client.create_secret().name(RING_SECRET).secret_string(secret).send().await.unwrap();
        }
    }

    /// Makes later receivers read the key ring of another harness.
    pub fn with_secrets_of(mut self, other: &ProvisionHarness) -> Self {
        self.ring_endpoint = Some(other.secrets.url().to_owned());
        self
    }

    /// A receiver after a cold start.
    pub async fn receiver(&self) -> Caller {
        Caller::new(self.handler().await, self.known.clone())
    }

    /// The same without Lambda's side, for requests at another time than now.
    pub async fn handler(&self) -> Arc<Receiver> {
        let ring_endpoint = self.ring_endpoint.as_deref().unwrap_or(self.secrets_proxy.url());
        let aws = [
            ("AWS_REGION", REGION),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY),
            ("AWS_SESSION_TOKEN", SESSION_TOKEN),
            ("AWS_ENDPOINT_URL_DYNAMODB", self.table.proxy.url()),
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", ring_endpoint),
        ];
        let aws = aws.into_iter().map(|(name, value)| (name, value.to_owned()));
        let env: Env = aws.chain(self.env.clone()).collect();
        let receiver = Receiver::new(Config::from_env(&env).unwrap(), &aws::config(&env).unwrap());
        let position = log::position();
        receiver.warm_up().await;
        self.known.assert_absent_in_lines_since(position);
        Arc::new(receiver)
    }

    /// The number of times the key ring was fetched.
    pub fn ring_fetches(&self) -> usize {
        self.secrets.calls("GetSecretValue")
    }
}

/// Calls a receiver as Lambda does: the JSON of an event in, the JSON of a response out.
#[derive(Clone)]
pub struct Caller {
    function: Function,
    log_lines: Arc<Mutex<Vec<Value>>>,
    known: Secrets,
}

/// A receiver's response, and the log line of the request.
#[derive(Debug, Clone)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The headers, with names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub text: String,
    /// The log line.
    pub log: Value,
    /// From the event to the response.
    pub took: Duration,
}

impl Response {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    /// The HTTP status and the outcome in the body, e.g. `(200, "stored")`.
    pub fn outcome(&self) -> (u16, String) {
        (self.status, self.json()["status"].as_str().unwrap_or_default().to_owned())
    }

    /// The reason in the log line.
    pub fn reason(&self) -> &str {
        self.log["reason"].as_str().unwrap_or_default()
    }

    /// The whole response as one JSON value, the body as it was sent.
    pub fn to_value(&self) -> Value {
        json!({"status": self.status, "headers": self.headers, "body": self.text})
    }
}

impl Caller {
    /// Calls this receiver, which may show none of the `known` secrets.
    pub fn new(receiver: Arc<Receiver>, known: Secrets) -> Self {
        let log_lines = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log_lines);
        let service = receive::runtime::service(receiver, move |delivery_log| {
            let line = serde_json::to_value(delivery_log).unwrap();
            log::assert_known(&line);
            lines.lock().unwrap().push(line);
        });
        Self { function: api_gateway::function(service), log_lines, known }
    }

    /// The receiver as a function for the sandbox's API Gateway.
    pub fn as_function(&self) -> Function {
        Arc::clone(&self.function)
    }

    /// Invokes the receiver with a gateway event.
    pub async fn invoke(&self, event: &Value) -> Response {
        self.invoke_within(event, Duration::from_secs(10)).await
    }

    /// The same in an invocation that times out after `limit`. Response and log are searched for secrets, those of the event
    /// included.
    pub async fn invoke_within(&self, event: &Value, limit: Duration) -> Response {
        let mut context = Context::default();
        context.request_id = format!("request-{:016x}", fastrand::u64(..));
        context.deadline = u64::try_from(Timestamp::now().plus(limit).epoch_milliseconds()).unwrap();
        let request_id = context.request_id.clone();
        let (text, position, started) = (event.to_string(), log::position(), Instant::now());
        let response = (self.function)(text, context).await.unwrap();
        let took = started.elapsed();
        let is_its_own = |line: &Value| line["request_id"] == request_id.as_str();
        // Taken out: in a long experiment the search would take longer with every request.
        let log = {
            let mut lines = self.log_lines.lock().unwrap();
            let index = lines.iter().rposition(is_its_own).unwrap();
            lines.swap_remove(index)
        };
        for secrets in [&self.known, &Secrets::of_gateway_event(event)] {
            secrets.assert_absent("a response", &response.to_string());
            secrets.assert_absent("a log line", &log.to_string());
            secrets.assert_absent_in_lines_since(position);
        }
        Response {
            status: u16::try_from(response["statusCode"].as_u64().unwrap()).unwrap(),
            headers: headers(&response),
            text: response["body"].as_str().unwrap_or_default().to_owned(),
            log,
            took,
        }
    }

    /// Posts a body with this signature header, or with none.
    pub async fn post(&self, body: &[u8], signature: Option<&str>) -> Response {
        self.invoke(&http_api_event(body, signature)).await
    }

    /// Posts a body signed with `key`.
    pub async fn deliver(&self, body: &[u8], key: &str) -> Response {
        self.known.add_key(key);
        self.post(body, Some(&sign(body, key))).await
    }
}

/// Payload 2.0 has single values, payload 1.0 lists; names are in any case.
fn headers(response: &Value) -> BTreeMap<String, String> {
    let fields = ["headers", "multiValueHeaders"].into_iter().filter_map(|name| response[name].as_object());
    let value = |value: &Value| value.as_str().or_else(|| value[0].as_str()).unwrap_or_default().to_owned();
    fields.flatten().map(|(name, values)| (name.to_lowercase(), value(values))).collect()
}
