//! A world around one real `provision`: the simulated platform, a Secrets Manager behind a proxy, and somewhere for
//! CloudFormation's answers to go.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::put};
use lambda_support::env::Env;
use provision::{Failure, Provisioner, run::Timing};
use sandbox::platform::account::EMAIL;
use sandbox::platform::account::HEAD_ID;
use sandbox::platform::account::SECRET_KEY;
use sandbox::platform::faults::Faults;
use sandbox::platform::settings::Settings;
use sandbox::platform::simulator::Platform;
use sandbox::secrets_manager::SecretsManager;
use sandbox::server::ServerHandle;
use sandbox::server::listen;
use serde_json::{Value, json};
use tokio::time::Instant;
use unith_events::event_type::EventTypes;
use unith_events::{key_ring::KeyRing, timestamp::Timestamp};

use crate::{RING_SECRET, proxy::Proxy};

/// The webhook's URL.
pub const URL: &str = "https://hooks.example.com/webhooks/head-events";
/// Heads there are besides the guide's.
pub const MORE_HEADS: [&str; 2] = ["head-b", "head-c"];
const CREDENTIALS_SECRET: &str = "credentials";
/// Waits that are long enough to be waits, and short enough for a test.
pub const QUICK: Timing = Timing {
    key_grace: time::Duration::minutes(15),
    propagation_delay: Duration::from_millis(50),
    list_within: Duration::from_millis(700),
    denied_for: Duration::from_millis(100),
};
/// The resource of the fixtures' requests.
pub const OWNER: &str = "UnithWebhook@8d0b9a60-f2b1-11f0-9c2e-0a1b2c3d4e5f";

/// The platform, the secrets and the function.
pub struct ProvisionHarness {
    /// The platform.
    pub platform: Platform,
    /// What holds ring and credentials.
    pub secrets: SecretsManager,
    /// What stands between the function and that.
    pub secrets_proxy: Proxy,
    answers: ServerHandle,
    answered: Arc<Mutex<Vec<Value>>>,
    logged: Arc<Mutex<Vec<Value>>>,
    env: BTreeMap<&'static str, String>,
    pace: Timing,
}

impl ProvisionHarness {
    /// A platform with three heads and no webhooks, an account, and an empty ring.
    pub async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    /// With other settings of the platform.
    pub async fn start_with(settings: Settings) -> Self {
        let mut settings = Settings { style: crate::style(), ..settings };
        if settings.more_heads.is_empty() {
            settings.more_heads = MORE_HEADS.map(str::to_owned).to_vec();
        }
        let platform = Platform::serve(listen("UNITH", 0).await.unwrap(), settings).unwrap();
        let secrets = SecretsManager::serve(listen("Secrets Manager", 0).await.unwrap()).unwrap();
        let secrets_proxy = Proxy::start(secrets.url()).await;
        let (answered, logged) = (Arc::default(), Arc::default());
        let router = Router::new().route("/answer", put(answer)).with_state(Arc::clone(&answered));
        let answers = ServerHandle::router(listen("answers", 0).await.unwrap(), router).unwrap();
        let env = BTreeMap::from([
            ("UNITH_API_URL", platform.url().to_owned()),
            ("UNITH_CREDENTIALS_SECRET", CREDENTIALS_SECRET.to_owned()),
            ("UNITH_KEYS_SECRET", RING_SECRET.to_owned()),
            ("WEBHOOK_URL", URL.to_owned()),
            ("HEAD_IDS", HEAD_ID.to_owned()),
            ("OWNER", OWNER.to_owned()),
        ]);
        let world = Self { platform, secrets, secrets_proxy, answers, answered, logged, env, pace: QUICK };
        world.set_secret(CREDENTIALS_SECRET, &json!({"email": EMAIL, "secretKey": SECRET_KEY}).to_string()).await;
        world.set_secret(RING_SECRET, r#"{"keys": []}"#).await;
        world
    }

    /// Sets a variable of the functions made from now on.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.insert(name, value.into());
        self
    }

    /// With other waits.
    #[must_use]
    pub fn with_pace(mut self, pace: Timing) -> Self {
        self.pace = pace;
        self
    }

    /// Writes a secret, whatever was in it.
    pub async fn set_secret(&self, name: &str, value: &str) {
        let client = sandbox::clients::secrets_client(self.secrets.url()).unwrap();
        if client.put_secret_value().secret_id(name).secret_string(value).send().await.is_err() {
            client.create_secret().name(name).secret_string(value).send().await.unwrap();
        }
    }

    /// Replaces what opens the management API.
    pub async fn set_credentials(&self, value: &Value) {
        self.set_secret(CREDENTIALS_SECRET, &value.to_string()).await;
    }

    /// The ring's text.
    pub async fn ring_text(&self) -> String {
        let client = sandbox::clients::secrets_client(self.secrets.url()).unwrap();
        let value = client.get_secret_value().secret_id(RING_SECRET).send().await.unwrap();
        value.secret_string().unwrap().to_owned()
    }

    /// The ring.
    pub async fn ring(&self) -> KeyRing {
        KeyRing::parse(&self.ring_text().await).unwrap()
    }

    /// The function, as after a cold start.
    #[must_use]
    pub fn provisioner(&self) -> Arc<Provisioner> {
        let env: Env = self.env.clone().into_iter().collect();
        let secrets = sandbox::clients::secrets_client(self.secrets_proxy.url());
        let logged = Arc::clone(&self.logged);
        let log = move |line: &Value| {
            crate::log::assert_known(line);
            logged.lock().unwrap().push(line.clone());
        };
        Arc::new(Provisioner::new(env, secrets).with_pace(self.pace).with_log(log))
    }

    /// Gives the function an input that must be done in half a minute.
    pub async fn invoke(&self, input: Value) -> Result<Value, Failure> {
        self.invoke_within(input, Duration::from_secs(30)).await
    }

    /// Gives the function an input, and this much time.
    pub async fn invoke_within(&self, input: Value, time: Duration) -> Result<Value, Failure> {
        self.provisioner().handle(input, Instant::now() + time).await
    }

    /// A command that can be begun; its result.
    pub async fn command(&self, action: &str) -> Value {
        self.invoke(json!({"action": action})).await.unwrap()
    }

    /// A CloudFormation request of a fixture with some properties changed; what CloudFormation was answered.
    pub async fn cloudformation(&self, kind: &str, changes: &Value) -> Value {
        self.cloudformation_within(kind, changes, Duration::from_secs(30)).await
    }

    /// The same, with this much time.
    pub async fn cloudformation_within(&self, kind: &str, changes: &Value, time: Duration) -> Value {
        let mut request = request(kind);
        for (name, value) in changes.as_object().unwrap() {
            request["ResourceProperties"][name] = value.clone();
        }
        self.answer_to(request, time).await
    }

    /// What CloudFormation was answered to this request, whatever it is.
    pub async fn answer_to(&self, mut request: Value, time: Duration) -> Value {
        // The fixtures' URL leads nowhere; one that a test made is left alone.
        let is_ours = request["ResponseURL"].as_str().is_some_and(|url| url.starts_with(&self.response_url()));
        if !is_ours {
            request["ResponseURL"] = self.response_url().into();
        }
        // An answer that cannot be made or sent is an error; that it was sent is what counts.
        let _ = self.invoke_within(request, time).await;
        self.take_answer().expect("CloudFormation was not answered")
    }

    /// The last line of the function's log.
    #[must_use]
    pub fn last_line(&self) -> Value {
        self.logged.lock().unwrap().last().cloned().unwrap_or_default()
    }

    /// Where answers are to go.
    #[must_use]
    pub fn response_url(&self) -> String {
        format!("{}/answer", self.answers.url())
    }

    /// The last answer that arrived.
    #[must_use]
    pub fn take_answer(&self) -> Option<Value> {
        self.answered.lock().unwrap().pop()
    }

    /// Lets things go wrong at UNITH; what is written is `Faults`' JSON.
    pub fn faults(&self, faults: Value) {
        self.platform.set_faults(serde_json::from_value::<Faults>(faults).unwrap());
    }

    /// Asserts that all is as declared: one webhook of ours, its key alone active in the ring (but for keys of webhooks
    /// that are there and not ours: somebody wants those), events on.
    pub async fn assert_provisioned(&self, head_id: &str) {
        let webhooks = self.platform.webhooks();
        let ours: Vec<_> = webhooks.iter().filter(|w| w.head_id == head_id && w.webhook_url == URL).collect();
        assert_eq!(ours.len(), 1, "{webhooks:?}");
        assert!(ours[0].made_while_on, "it never delivers: {webhooks:?}");
        let others: Vec<_> = webhooks.iter().filter(|w| w.webhook_url != URL).map(|w| w.id.to_string()).collect();
        let ring = self.ring().await;
        let active: Vec<_> = ring
            .keys()
            .iter()
            .filter(|key| key.head_id.as_deref() == Some(head_id) && key.state.as_str() == "active")
            .filter(|key| key.webhook_id.as_ref().is_none_or(|id| !others.contains(&id.to_string())))
            .collect();
        assert_eq!(active.len(), 1, "{ring:?}");
        assert_eq!(active[0].key.expose(), ours[0].shared_key);
        assert_eq!(active[0].webhook_id.as_ref().map(ToString::to_string), Some(ours[0].id.to_string()));
        assert!(active[0].made_while_on, "{ring:?}");
        assert!(self.platform.events_enabled(head_id));
    }

    /// Asserts that no subscription was ever live before its key could be read; `but` are keys that somebody else had put
    /// to use.
    pub fn assert_never_early(&self, but: &[String]) {
        let rings = self.secrets.history(RING_SECRET);
        let changes = self.platform.journal();
        for change in changes.iter().filter(|change| change.live && change.webhook_url == URL) {
            let current = rings.iter().rev().find(|(at, _)| *at <= change.at).map(|(_, text)| text.as_str());
            let is_known = current.is_some_and(|ring| ring.contains(&change.shared_key));
            let is_excused = but.contains(&change.shared_key);
            assert!(is_known || is_excused, "webhook {} was live before its key could be read", change.webhook_id);
        }
    }

    /// Asserts what must be true at any moment: events that are on can be verified.
    pub async fn assert_never_blind(&self, head_id: &str) {
        if !self.platform.events_enabled(head_id) {
            return;
        }
        let ring = self.ring().await;
        for webhook in self.platform.webhooks().iter().filter(|w| w.head_id == head_id && w.webhook_url == URL) {
            let known = ring.keys().iter().any(|key| key.key.expose() == webhook.shared_key);
            assert!(known, "events are on, and the key of webhook {} is not in the ring", webhook.id);
        }
    }

    /// Asserts what must be true at any moment of a rotation: some webhook delivers, and what it signs is verified.
    pub async fn assert_never_deaf(&self, head_id: &str) {
        let ring = self.ring().await;
        let delivers =
            |w: &&sandbox::platform::webhook::Webhook| w.head_id == head_id && w.subscriptions == EventTypes::ALL;
        let webhooks = self.platform.webhooks();
        let delivering: Vec<_> = webhooks.iter().filter(delivers).collect();
        assert!(!delivering.is_empty(), "no webhook delivers: {webhooks:?}");
        for webhook in delivering {
            // Not just now: a run that died may not be resumed for a while.
            let later = Timestamp::now().plus(time::Duration::days(30));
            let known = ring.keys().iter().any(|key| key.key.expose() == webhook.shared_key && key.usable(later));
            assert!(known, "webhook {}: {ring:?}", webhook.id);
        }
    }
}

/// A request of the fixtures: `create`, `update` or `delete`.
#[must_use]
pub fn request(kind: &str) -> Value {
    let text = match kind {
        "create" => include_str!("../fixtures/cloudformation/create.json"),
        "update" => include_str!("../fixtures/cloudformation/update.json"),
        _ => include_str!("../fixtures/cloudformation/delete.json"),
    };
    serde_json::from_str(text).unwrap()
}

async fn answer(State(answered): State<Arc<Mutex<Vec<Value>>>>, body: Bytes) -> StatusCode {
    assert!(body.len() < 4_096, "CloudFormation would not take {} bytes", body.len());
    answered.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
    StatusCode::OK
}
