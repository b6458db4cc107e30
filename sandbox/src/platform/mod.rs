//! A simulated UNITH platform: the management API of UNITH's guide, and the engine that delivers events to webhooks.
//!
//! Where the guide is silent the simulation takes the stricter reading, so that what works here works there.

mod api;
pub mod delivery;
pub mod faults;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use shared::{signature::SharedKey, timestamp::Timestamp};
use tokio::{net::TcpListener, sync::oneshot};

use crate::listen::Served;
use delivery::{Attempt, Courier, Job};
use faults::Faults;

/// The account that may get a token.
pub const EMAIL: &str = "sandbox@example.com";
/// The account's secret key.
pub const SECRET_KEY: &str = "sandbox-secret-key";
/// The head of UNITH's guide; the sandbox has it from the start.
pub const HEAD_ID: &str = "8eab5b23-024a-45cb-a0e1-9d3ffd6c9610";
/// Its public id.
pub const PUBLIC_HEAD_ID: &str = "jane-15326";
/// Its organisation's public id.
pub const PUBLIC_ORG_ID: &str = "acme";
/// The shared key of UNITH's guide. The first webhook registered here gets it, so that what is signed with it (the
/// fixtures, say) is good in every sandbox.
pub const FIRST_SHARED_KEY: &str = "cbaab87d1cce6d79baad8e9e2607feb3";

const ORG_ID: &str = "3f7627db-6f87-4510-85a8-993518add9c7";
const TOKEN_LIFE: time::Duration = time::Duration::days(7);

/// How the platform delivers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where a webhook's host is found on this machine: host -> base URL. No other host is ever connected to.
    pub hosts: BTreeMap<String, String>,
    /// A delivery that is not answered by then has failed; 5 s at UNITH.
    pub give_up_after: Duration,
    /// The pause before the first retry; it doubles for each further one.
    pub first_backoff: Duration,
    /// What makes shared keys and tokens.
    pub seed: u64,
    /// Heads there are besides the guide's.
    pub more_heads: Vec<String>,
    /// What goes wrong from the start.
    pub faults: Faults,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hosts: BTreeMap::new(),
            give_up_after: Duration::from_secs(5),
            first_backoff: Duration::from_secs(1),
            seed: 0,
            more_heads: Vec::new(),
            faults: Faults::default(),
        }
    }
}

/// The platform on loopback.
#[derive(Debug)]
pub struct Platform {
    served: Served,
    core: Core,
}

/// What the API and the delivery engine share.
#[derive(Debug, Clone)]
struct Core {
    state: Arc<Mutex<State>>,
    courier: Courier,
}

#[derive(Debug)]
struct State {
    heads: HashMap<String, Head>,
    webhooks: Vec<Webhook>,
    last_webhook_id: u64,
    tokens: HashMap<String, Timestamp>,
    faults: Faults,
    random: fastrand::Rng,
}

#[derive(Debug, Clone)]
struct Head {
    public_head_id: String,
    public_org_id: String,
    events_enabled: bool,
}

/// A registration, as the API shows it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// The platform's id of it.
    pub id: u64,
    created_at: String,
    updated_at: String,
    org_id: String,
    /// The head whose events it is for.
    pub head_id: String,
    /// Where they are sent.
    pub webhook_url: String,
    /// What they are signed with.
    pub shared_key: String,
    /// The types that are sent.
    #[serde(flatten)]
    pub subscriptions: Subscriptions,
}

/// Which types a webhook is for; one that is left out is off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "the API's own four flags")]
pub struct Subscriptions {
    /// `START_CONVERSATION`
    pub start_conversation: bool,
    /// `END_CONVERSATION`
    pub end_conversation: bool,
    /// `TIMEOUT_CONVERSATION`
    pub timeout_conversation: bool,
    /// `INACTIVITY_WARNING`
    pub inactivity_warning: bool,
}

impl Subscriptions {
    /// All four.
    pub const ALL: Self =
        Self { start_conversation: true, end_conversation: true, timeout_conversation: true, inactivity_warning: true };

    fn include(self, kind: EventKind) -> bool {
        match kind {
            EventKind::StartConversation => self.start_conversation,
            EventKind::EndConversation => self.end_conversation,
            EventKind::TimeoutConversation => self.timeout_conversation,
            EventKind::InactivityWarning => self.inactivity_warning,
        }
    }
}

/// The types of UNITH's guide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EventKind {
    /// The user's first message.
    StartConversation,
    /// The session ends.
    EndConversation,
    /// The user was inactive for a while.
    InactivityWarning,
    /// The session's time is over; an end follows.
    TimeoutConversation,
}

impl EventKind {
    /// As on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StartConversation => "START_CONVERSATION",
            Self::EndConversation => "END_CONVERSATION",
            Self::InactivityWarning => "INACTIVITY_WARNING",
            Self::TimeoutConversation => "TIMEOUT_CONVERSATION",
        }
    }
}

/// The body of a delivery, its fields in the guide's order.
#[derive(Debug, Clone, Serialize)]
struct HeadEvent<'a> {
    timestamp: String,
    head_id: &'a str,
    session_id: &'a str,
    public_head_id: &'a str,
    public_org_id: &'a str,
    event_type: EventKind,
}

/// One event on its way to one webhook: what is sent, and a future of how its attempts went.
#[derive(Debug)]
pub struct Sent {
    /// The webhook it goes to.
    pub webhook_id: u64,
    /// The raw body.
    pub body: Vec<u8>,
    /// The signature header's value.
    pub signature: String,
    /// The attempts, when the last one is over.
    pub attempts: oneshot::Receiver<Vec<Attempt>>,
}

impl Platform {
    /// Serves a platform that has the guide's head and no webhooks.
    pub fn serve(listener: TcpListener, settings: Settings) -> std::io::Result<Self> {
        let head = || Head {
            public_head_id: PUBLIC_HEAD_ID.to_owned(),
            public_org_id: PUBLIC_ORG_ID.to_owned(),
            events_enabled: false,
        };
        let heads = settings.more_heads.iter().map(String::as_str).chain([HEAD_ID]);
        let state = State {
            heads: heads.map(|id| (id.to_owned(), head())).collect(),
            faults: settings.faults.clone(),
            webhooks: Vec::new(),
            last_webhook_id: 0,
            tokens: HashMap::new(),
            random: fastrand::Rng::with_seed(settings.seed),
        };
        let core = Core { state: Arc::new(Mutex::new(state)), courier: Courier::new(settings) };
        Ok(Self { served: Served::router(listener, api::router(core.clone()))?, core })
    }

    /// The base URL of its management API.
    #[must_use]
    pub fn url(&self) -> &str {
        self.served.url()
    }

    /// Lets things go wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.core.lock().faults = faults;
    }

    /// From now on, a webhook's host is found at this base URL.
    pub fn map_host(&self, host: impl Into<String>, base: impl Into<String>) {
        self.core.courier.map_host(host.into(), base.into());
    }

    /// Whether a head's events are switched on.
    #[must_use]
    pub fn events_enabled(&self, head_id: &str) -> bool {
        self.core.lock().heads.get(head_id).is_some_and(|head| head.events_enabled)
    }

    /// Registers a webhook as somebody in UNITH's own user interface could.
    pub fn register_by_hand(&self, head_id: &str, url: &str, subscriptions: Subscriptions) {
        self.core.lock().register(head_id.to_owned(), url.to_owned(), subscriptions);
    }

    /// Changes a webhook's subscriptions there.
    pub fn change_by_hand(&self, id: u64, subscriptions: Subscriptions) {
        if let Some(webhook) = self.core.lock().webhooks.iter_mut().find(|webhook| webhook.id == id) {
            webhook.subscriptions = subscriptions;
        }
    }

    /// Deletes a webhook there.
    pub fn delete_by_hand(&self, id: u64) {
        self.core.lock().webhooks.retain(|webhook| webhook.id != id);
    }

    /// Switches a head's events on or off there.
    pub fn enable_by_hand(&self, head_id: &str, on: bool) {
        if let Some(head) = self.core.lock().heads.get_mut(head_id) {
            head.events_enabled = on;
        }
    }

    /// Ends all tokens, as a week does.
    pub fn expire_tokens(&self) {
        self.core.lock().tokens.clear();
    }

    /// The webhooks registered now.
    #[must_use]
    pub fn webhooks(&self) -> Vec<Webhook> {
        self.core.lock().webhooks.clone()
    }

    /// Lets an event happen; it is queued for every webhook that is to hear of it, behind what was queued before.
    #[must_use]
    pub fn emit(&self, head_id: &str, session_id: &str, kind: EventKind, at: Timestamp) -> Vec<Sent> {
        self.core.emit(head_id, session_id, kind, at)
    }

    /// POSTs `body` to a webhook's URL once, as anyone could who knows the URL.
    pub async fn intrude(&self, webhook_url: &str, body: Vec<u8>, signature: String) -> Attempt {
        self.core.courier.attempt(&Job { webhook_url: webhook_url.to_owned(), body, signature }).await
    }
}

impl Core {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn emit(&self, head_id: &str, session_id: &str, kind: EventKind, at: Timestamp) -> Vec<Sent> {
        let state = self.lock();
        let Some(head) = state.heads.get(head_id).filter(|head| head.events_enabled) else {
            return Vec::new();
        };
        let event = HeadEvent {
            timestamp: at.to_string(),
            head_id,
            session_id,
            public_head_id: &head.public_head_id,
            public_org_id: &head.public_org_id,
            event_type: kind,
        };
        let body = serde_json::to_vec(&event).unwrap_or_default();
        let listening = state.webhooks.iter().filter(|w| w.head_id == head_id && w.subscriptions.include(kind));
        listening.filter_map(|webhook| self.send(webhook, &body)).collect()
    }

    fn send(&self, webhook: &Webhook, body: &[u8]) -> Option<Sent> {
        let signature = SharedKey::new(webhook.shared_key.as_str()).ok()?.sign(body).to_hex();
        let job = Job { webhook_url: webhook.webhook_url.clone(), body: body.to_vec(), signature: signature.clone() };
        let attempts = self.courier.queue(webhook.id, job);
        Some(Sent { webhook_id: webhook.id, body: body.to_vec(), signature, attempts })
    }
}
