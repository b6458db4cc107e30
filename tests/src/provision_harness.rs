//! One real `provision`, the simulated platform, a Secrets Manager behind a proxy, and a receiver of CloudFormation
//! responses.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::put};
use lambda_support::env::Env;
use provision::{
    handler::HandlerError,
    provisioner::Provisioner,
    reconciler::{Reconciler, Timing},
};
use sandbox::{
    clients::secrets_client,
    platform::{
        account::{EMAIL, HEAD_ID, SECRET_KEY},
        call::Call,
        faults::Faults,
        settings::Settings,
        simulator::Platform,
        webhook::Webhook,
    },
    secrets_manager::SecretsManager,
    server::{ServerHandle, listen},
};
use serde_json::{Value, json};
use tokio::time::Instant;
use unith_events::{
    event_type::EventTypes,
    key_ring::{KeyRing, KeyState},
    timestamp::Timestamp,
};

use crate::{
    delivery::style,
    key_ring::RING_SECRET,
    log,
    proxy::Proxy,
    secrets::Secrets,
    wait::{PATIENCE, until, within},
};

/// The webhook's URL.
pub const URL: &str = "https://hooks.example.com/webhooks/head-events";
/// Heads of the account besides the guide's.
pub const MORE_HEADS: [&str; 2] = ["head-b", "head-c"];
/// The secret that holds the credentials of the UNITH account.
pub const CREDENTIALS_SECRET: &str = "credentials";
/// Waits that are short enough for a test.
pub const QUICK: Timing = Timing {
    key_grace: Duration::from_mins(15),
    propagation_delay: Duration::from_millis(50),
    list_within: Duration::from_millis(700),
    denied_for: Duration::from_millis(100),
};
/// The signature in the URL that takes CloudFormation responses: whoever has it may send one.
const PRESIGNATURE: &str = "5e9a1c0d7b3f48e2a6d4c8b0f1e3a5d7c9b1f3e5a7d9c1b3f5e7a9d1c3b5f7e9";
/// The resource of the fixtures' requests.
pub const OWNER: &str = "UnithWebhook@8d0b9a60-f2b1-11f0-9c2e-0a1b2c3d4e5f";

/// The platform, the secrets and the environment of the function.
pub struct ProvisionHarness {
    pub platform: Platform,
    /// The Secrets Manager that holds the key ring and the credentials.
    pub secrets: SecretsManager,
    /// The proxy through which the function reaches it.
    pub secrets_proxy: Proxy,
    response_server: ServerHandle,
    responses: Lines,
    log_lines: Lines,
    /// Everything that the function has returned or sent so far.
    outputs: Mutex<Vec<String>>,
    /// The position in the traced lines at which this harness began.
    began: usize,
    /// What the function may not show, besides what platform and Secrets Manager know.
    pub known: Secrets,
    env: BTreeMap<&'static str, String>,
    timing: Timing,
}

type Lines = Arc<Mutex<Vec<Value>>>;

impl ProvisionHarness {
    /// A platform with three heads and no webhooks, an account, and an empty ring.
    pub async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    /// The same with other settings of the platform.
    pub async fn start_with(settings: Settings) -> Self {
        let mut settings = Settings { style: style(), ..settings };
        if settings.more_heads.is_empty() {
            settings.more_heads = MORE_HEADS.map(str::to_owned).to_vec();
        }
        let platform = Platform::serve(listen("UNITH", 0).await.unwrap(), settings).unwrap();
        let secrets = SecretsManager::serve(listen("Secrets Manager", 0).await.unwrap()).unwrap();
        let secrets_proxy = Proxy::start(secrets.url()).await;
        let (responses, log_lines) = (Arc::default(), Arc::default());
        let router = Router::new().route("/response", put(take_response)).with_state(Arc::clone(&responses));
        let response_server = ServerHandle::router(listen("the response URL", 0).await.unwrap(), router).unwrap();
        let env = BTreeMap::from([
            ("UNITH_API_URL", platform.url().to_owned()),
            ("UNITH_CREDENTIALS_SECRET", CREDENTIALS_SECRET.to_owned()),
            ("UNITH_KEYS_SECRET", RING_SECRET.to_owned()),
            ("WEBHOOK_URL", URL.to_owned()),
            ("HEAD_IDS", HEAD_ID.to_owned()),
            ("OWNER", OWNER.to_owned()),
        ]);
        let known = Secrets::of_role();
        known.add_signature(PRESIGNATURE);
        let harness = Self {
            platform,
            secrets,
            secrets_proxy,
            response_server,
            responses,
            log_lines,
            outputs: Mutex::default(),
            began: log::position(),
            known,
            env,
            timing: QUICK,
        };
        harness.set_credentials(&json!({"email": EMAIL, "secretKey": SECRET_KEY})).await;
        harness.set_secret(RING_SECRET, r#"{"keys": []}"#).await;
        harness
    }

    /// Sets a variable of all later invocations; an empty value unsets it.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.insert(name, value.into());
        self
    }

    /// Sets the waits of all later invocations.
    pub fn with_timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// The function's variables.
    pub fn env(&self) -> &BTreeMap<&'static str, String> {
        &self.env
    }

    /// Keeps what the function wrote or returned otherwise: it is searched for secrets too.
    pub fn record(&self, output: impl Into<String>) {
        self.outputs.lock().unwrap().push(output.into());
    }

    /// Replaces the text of a secret.
    pub async fn set_secret(&self, name: &str, value: &str) {
        let client = secrets_client(self.secrets.url()).unwrap();
        if client.put_secret_value().secret_id(name).secret_string(value).send().await.is_err() {
            client.create_secret().name(name).secret_string(value).send().await.unwrap();
        }
    }

    /// Replaces the credentials of the management API.
    pub async fn set_credentials(&self, value: &Value) {
        self.set_secret(CREDENTIALS_SECRET, &value.to_string()).await;
    }

    /// The text of the key ring's secret.
    pub async fn ring_text(&self) -> String {
        let client = secrets_client(self.secrets.url()).unwrap();
        let value = client.get_secret_value().secret_id(RING_SECRET).send().await.unwrap();
        value.secret_string().unwrap().to_owned()
    }

    /// The key ring.
    pub async fn ring(&self) -> KeyRing {
        KeyRing::parse(&self.ring_text().await).unwrap()
    }

    /// The function after a cold start.
    pub fn provisioner(&self) -> Arc<Provisioner> {
        let env: Env = self.env.clone().into_iter().collect();
        let secrets = secrets_client(self.secrets_proxy.url());
        let log_lines = Arc::clone(&self.log_lines);
        let log = move |line: &Value| {
            log::assert_known(line);
            log_lines.lock().unwrap().push(line.clone());
        };
        Arc::new(Provisioner::new(env, secrets).with_timing(self.timing).with_log(log))
    }

    /// The clients of a run, as a command gets them.
    pub async fn reconciler(&self) -> Reconciler {
        let provisioner = self.provisioner();
        let requester = provisioner.owner(Timestamp::now());
        provisioner.reconciler(requester, Instant::now() + PATIENCE).await.unwrap()
    }

    /// Invokes the function.
    pub async fn invoke(&self, input: Value) -> Result<Value, HandlerError> {
        self.invoke_within(input, PATIENCE).await
    }

    /// The same in an invocation that times out after `limit`.
    pub async fn invoke_within(&self, input: Value, limit: Duration) -> Result<Value, HandlerError> {
        let result = self.provisioner().handle(input, Instant::now() + limit).await;
        let output = result.as_ref().map_or_else(|error| format!("{error} {error:?}"), Value::to_string);
        self.record(output);
        result
    }

    /// The report of a command.
    pub async fn command(&self, action: &str) -> Value {
        self.invoke(json!({"action": action})).await.unwrap()
    }

    /// The response to the CloudFormation request of a fixture, some of its properties changed.
    pub async fn cloudformation(&self, kind: &str, changes: &Value) -> Value {
        self.cloudformation_within(kind, changes, PATIENCE).await
    }

    /// The same in an invocation that times out after `limit`.
    pub async fn cloudformation_within(&self, kind: &str, changes: &Value, limit: Duration) -> Value {
        let mut request = request(kind);
        for (name, value) in changes.as_object().unwrap() {
            request["ResourceProperties"][name] = value.clone();
        }
        self.respond_within(request, limit).await
    }

    /// The response to this CloudFormation request.
    pub async fn respond(&self, request: Value) -> Value {
        self.respond_within(request, PATIENCE).await
    }

    /// The same in an invocation that times out after `limit`.
    pub async fn respond_within(&self, mut request: Value, limit: Duration) -> Value {
        // The fixtures' URL leads nowhere; a test may have set one of ours.
        let is_ours = request["ResponseURL"].as_str().is_some_and(|url| url.starts_with(&self.response_url()));
        if !is_ours {
            request["ResponseURL"] = self.response_url().into();
        }
        let url = request["ResponseURL"].as_str().unwrap();
        let separator = if url.contains('?') { '&' } else { '?' };
        request["ResponseURL"] = format!("{url}{separator}X-Amz-Signature={PRESIGNATURE}").into();
        // A failed invocation may have sent a response anyway.
        let result = self.invoke_within(request, limit).await;
        self.take_response().unwrap_or_else(|| panic!("CloudFormation got no response: {result:?}"))
    }

    /// The last line of the function's log.
    pub fn last_line(&self) -> Value {
        self.log_lines.lock().unwrap().last().cloned().unwrap_or_default()
    }

    /// A URL that takes CloudFormation responses.
    pub fn response_url(&self) -> String {
        format!("{}/response", self.response_server.url())
    }

    /// Removes and returns the last response.
    pub fn take_response(&self) -> Option<Value> {
        let response = self.responses.lock().unwrap().pop();
        self.outputs.lock().unwrap().extend(response.as_ref().map(Value::to_string));
        response
    }

    /// Waits until the platform got more than `known` requests for a call.
    pub async fn more_calls(&self, call: Call, known: usize) {
        within(PATIENCE, until(async || self.platform.calls(call) > known)).await;
    }

    /// Replaces the platform's faults by those in the JSON of [`Faults`].
    pub fn faults(&self, faults: Value) {
        self.platform.set_faults(serde_json::from_value::<Faults>(faults).unwrap());
    }

    /// Asserts that the head is as declared: one webhook of ours, its key alone active in the ring, events on. Keys of
    /// others' webhooks may be active too.
    pub async fn assert_provisioned(&self, head_id: &str) {
        let webhooks = self.platform.webhooks();
        let ours: Vec<_> = webhooks.iter().filter(|webhook| is_ours(webhook, head_id)).collect();
        assert_eq!(ours.len(), 1, "{webhooks:?}");
        assert!(ours[0].made_while_on, "it never delivers: {webhooks:?}");
        let others: Vec<_> = webhooks.iter().filter(|w| w.webhook_url != URL).map(|w| w.id.to_string()).collect();
        let ring = self.ring().await;
        let active: Vec<_> = ring
            .keys()
            .iter()
            .filter(|key| key.head_id.as_deref() == Some(head_id) && key.state == KeyState::Active)
            .filter(|key| key.webhook_id.as_ref().is_none_or(|id| !others.contains(&id.to_string())))
            .collect();
        assert_eq!(active.len(), 1, "{ring:?}");
        assert_eq!(active[0].key.expose(), ours[0].shared_key);
        assert_eq!(active[0].webhook_id.as_ref().map(ToString::to_string), Some(ours[0].id.to_string()));
        assert!(active[0].made_while_on, "{ring:?}");
        assert!(self.platform.events_enabled(head_id));
    }

    /// Asserts that no webhook was live before its key could be read. Webhooks with a key in `but` were registered by
    /// hand.
    pub fn assert_never_early(&self, but: &[String]) {
        let rings = self.secrets.history(RING_SECRET);
        for change in self.platform.journal().iter().filter(|change| change.live && change.webhook.webhook_url == URL) {
            let Webhook { id, shared_key, .. } = &change.webhook;
            let current = rings.iter().rev().find(|(at, _)| *at <= change.at).map(|(_, text)| text.as_str());
            let is_known = current.is_some_and(|ring| ring.contains(shared_key));
            assert!(is_known || but.contains(shared_key), "webhook {id} was live before its key could be read");
        }
    }

    /// Asserts that a webhook was deleted only when each receiver could have the key of the one that replaces it.
    pub fn assert_replaced_late(&self, replaced: u64) {
        let webhooks = self.platform.webhooks();
        assert!(webhooks.len() == 1 && webhooks[0].id != replaced, "{webhooks:?}");
        let rings = self.secrets.history(RING_SECRET);
        let key = webhooks[0].shared_key.as_str();
        let (stored_at, _) = rings.iter().rev().take_while(|(_, ring)| ring.contains(key)).last().unwrap();
        let journal = self.platform.journal();
        let deleted = journal.iter().rev().find(|change| !change.live && change.webhook.id == replaced).unwrap();
        let waited = deleted.at.saturating_duration_since(*stored_at);
        assert!(waited >= self.timing.propagation_delay, "webhook {replaced} was deleted after {waited:?}");
    }

    /// Asserts what holds at any moment of a rotation: some webhook delivers, and its key verifies.
    pub async fn assert_never_deaf(&self, head_id: &str) {
        let ring = self.ring().await;
        let delivers = |webhook: &&Webhook| webhook.head_id == head_id && webhook.subscriptions == EventTypes::ALL;
        let webhooks = self.platform.webhooks();
        let delivering: Vec<_> = webhooks.iter().filter(delivers).collect();
        assert!(!delivering.is_empty(), "no webhook delivers: {webhooks:?}");
        for webhook in delivering {
            // A run that died may be completed much later.
            let later = Timestamp::now().plus(Duration::from_hours(30 * 24));
            let known = ring.keys().iter().any(|key| key.key.expose() == webhook.shared_key && key.usable(later));
            assert!(known, "webhook {}: {ring:?}", webhook.id);
        }
    }
}

/// Everything that left the function is searched for everything that was secret by then.
impl Drop for ProvisionHarness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let secrets = &self.known;
        self.platform.issued_secrets().iter().for_each(|secret| secrets.add_issued(secret));
        for name in [RING_SECRET, CREDENTIALS_SECRET] {
            self.secrets.history(name).iter().for_each(|(_, text)| secrets.add_document(text));
        }
        for output in self.outputs.lock().unwrap().iter() {
            secrets.assert_absent("a result", output);
        }
        for value in self.log_lines.lock().unwrap().iter().chain(self.responses.lock().unwrap().iter()) {
            secrets.assert_absent("a log line or a response", &value.to_string());
        }
        secrets.assert_absent_in_lines_since(self.began);
    }
}

fn is_ours(webhook: &Webhook, head_id: &str) -> bool {
    webhook.head_id == head_id && webhook.webhook_url == URL
}

/// A request of the fixtures: `create`, `update` or `delete`.
pub fn request(kind: &str) -> Value {
    let text = match kind {
        "create" => include_str!("../fixtures/cloudformation/create.json"),
        "update" => include_str!("../fixtures/cloudformation/update.json"),
        _ => include_str!("../fixtures/cloudformation/delete.json"),
    };
    serde_json::from_str(text).unwrap()
}

async fn take_response(State(responses): State<Lines>, body: Bytes) -> StatusCode {
    assert!(body.len() < 4_096, "CloudFormation would not take {} bytes", body.len());
    responses.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
    StatusCode::OK
}
