//! A simulated UNITH platform: the management API, and the engine that delivers events to webhooks.
//!
//! It behaves as UNITH's developer kit shows, because the kit was written against the real platform. UNITH's guide
//! spells deliveries differently; [`Style`] chooses between the two. Where both are silent the simulation takes the
//! stricter reading, so that a client that works here works there.

mod api;
pub mod delivery;
pub mod faults;
mod journal;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::oneshot};
use unith_events::{signature::SharedKey, timestamp::Timestamp};

use crate::server::ServerHandle;
use delivery::{Attempt, DeliveryWorker, Job};
use faults::Faults;
pub use journal::Change;
use journal::{Journal, Locked};

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
const ORG_NAME: &str = "Acme";
const USER_ID: &str = "5d0f8a52-7a0e-4c53-9a44-3a1d2b6f0c11";
/// The number in [`PUBLIC_HEAD_ID`]; the heads that are made later count on from it.
const FIRST_PUBLIC_NUMBER: usize = 15_326;
const TOKEN_LIFE: time::Duration = time::Duration::days(7);

/// How deliveries are spelled. Everything else is the same in both styles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Style {
    /// As UNITH's developer kit shows: `"2026-08-31 06:56:30"`, `"start_conversation"`
    #[default]
    Kit,
    /// As UNITH's guide shows: `"2026-01-15T09:57:33Z"`, `"START_CONVERSATION"`
    Guide,
}

impl Style {
    /// Its name on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kit => "kit",
            Self::Guide => "guide",
        }
    }

    /// An instant as deliveries carry it: UTC, cut to whole seconds.
    fn timestamp(self, at: Timestamp) -> String {
        let at = at.to_string();
        let seconds = at.get(.."2026-01-15T09:57:33".len()).unwrap_or(&at);
        match self {
            Self::Kit => seconds.replace('T', " "),
            Self::Guide => format!("{seconds}Z"),
        }
    }
}

/// How the platform delivers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How deliveries are spelled.
    pub style: Style,
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
            style: Style::default(),
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
    served: ServerHandle,
    core: Core,
}

/// What the API and the delivery engine share.
#[derive(Debug, Clone)]
struct Core {
    state: Arc<Mutex<State>>,
    courier: DeliveryWorker,
}

#[derive(Debug)]
struct State {
    /// In order of creation.
    heads: Vec<Head>,
    heads_made: usize,
    webhooks: Vec<Webhook>,
    last_webhook_id: u64,
    tokens: HashMap<String, Timestamp>,
    faults: Faults,
    /// Requests by method and route template.
    calls: BTreeMap<String, usize>,
    journal: Journal,
    random: fastrand::Rng,
}

#[derive(Debug, Clone)]
struct Head {
    id: String,
    public_id: String,
    name: String,
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
    /// Whether the head's events were on when it was registered. If they were off, it never delivers, whatever is
    /// changed later. The API does not show this.
    #[serde(skip)]
    pub made_while_on: bool,
    #[serde(skip)]
    made_at: Instant,
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

    /// None.
    pub const NONE: Self = Self {
        start_conversation: false,
        end_conversation: false,
        timeout_conversation: false,
        inactivity_warning: false,
    };

    fn include(self, kind: EventType) -> bool {
        match kind {
            EventType::StartConversation => self.start_conversation,
            EventType::EndConversation => self.end_conversation,
            EventType::TimeoutConversation => self.timeout_conversation,
            EventType::InactivityWarning => self.inactivity_warning,
        }
    }
}

/// The types of UNITH's guide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EventType {
    /// The user's first message.
    StartConversation,
    /// The session ends.
    EndConversation,
    /// The user was inactive for a while.
    InactivityWarning,
    /// The session's time is over; an end follows.
    TimeoutConversation,
}

impl EventType {
    /// In upper case, as UNITH's guide writes it and the table stores it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.spelled(Style::Guide)
    }

    /// As deliveries in this style carry it.
    #[must_use]
    pub fn spelled(self, style: Style) -> &'static str {
        match (self, style) {
            (Self::StartConversation, Style::Kit) => "start_conversation",
            (Self::StartConversation, Style::Guide) => "START_CONVERSATION",
            (Self::EndConversation, Style::Kit) => "end_conversation",
            (Self::EndConversation, Style::Guide) => "END_CONVERSATION",
            (Self::InactivityWarning, Style::Kit) => "inactivity_warning",
            (Self::InactivityWarning, Style::Guide) => "INACTIVITY_WARNING",
            (Self::TimeoutConversation, Style::Kit) => "timeout_conversation",
            (Self::TimeoutConversation, Style::Guide) => "TIMEOUT_CONVERSATION",
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
    event_type: &'static str,
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
    /// Serves a platform that has the guide's head, then the further ones of `settings`, and no webhooks.
    pub fn serve(listener: TcpListener, settings: Settings) -> std::io::Result<Self> {
        let mut state = State {
            heads: Vec::new(),
            heads_made: 0,
            faults: settings.faults.clone(),
            webhooks: Vec::new(),
            last_webhook_id: 0,
            tokens: HashMap::new(),
            calls: BTreeMap::new(),
            journal: Journal::default(),
            random: fastrand::Rng::with_seed(settings.seed),
        };
        for id in [HEAD_ID].into_iter().chain(settings.more_heads.iter().map(String::as_str)) {
            state.add_head(id);
        }
        let core = Core { state: Arc::new(Mutex::new(state)), courier: DeliveryWorker::new(settings) };
        Ok(Self { served: ServerHandle::router(listener, api::router(core.clone()))?, core })
    }

    /// The base URL of its management API.
    #[must_use]
    pub fn url(&self) -> &str {
        self.served.url()
    }

    /// How its deliveries are spelled.
    #[must_use]
    pub fn style(&self) -> Style {
        self.core.courier.style()
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
        self.core.lock().head(head_id).is_some_and(|head| head.events_enabled)
    }

    /// Makes a head, its events off. Nothing changes if it is there already.
    pub fn add_head(&self, id: &str) {
        self.core.lock().add_head(id);
    }

    /// Deletes a head, and its webhooks with it.
    pub fn remove_head(&self, id: &str) {
        let mut state = self.core.lock();
        state.heads.retain(|head| head.id != id);
        state.webhooks.retain(|webhook| webhook.head_id != id);
    }

    /// How many requests there were for a method and route template, e.g. `POST /head-events` or
    /// `PUT /head/{head_id}/enable-events`. Requests that failed count too.
    #[must_use]
    pub fn calls(&self, call: &str) -> usize {
        self.core.lock().calls.get(call).copied().unwrap_or_default()
    }

    /// How many requests there were in all.
    #[must_use]
    pub fn total_calls(&self) -> usize {
        self.core.lock().calls.values().sum()
    }

    /// When each webhook began and ended being live, in order.
    #[must_use]
    pub fn journal(&self) -> Vec<Change> {
        self.core.lock().journal.changes().to_vec()
    }

    /// Registers a webhook as somebody in UNITH's own user interface could.
    pub fn register_in_console(&self, head_id: &str, url: &str, subscriptions: Subscriptions) {
        self.core.lock().register(head_id.to_owned(), url.to_owned(), subscriptions);
    }

    /// Changes a webhook's subscriptions there.
    pub fn change_in_console(&self, id: u64, subscriptions: Subscriptions) {
        if let Some(webhook) = self.core.lock().webhooks.iter_mut().find(|webhook| webhook.id == id) {
            webhook.subscriptions = subscriptions;
        }
    }

    /// Deletes a webhook there.
    pub fn delete_in_console(&self, id: u64) {
        self.core.lock().webhooks.retain(|webhook| webhook.id != id);
    }

    /// Switches a head's events on or off there.
    pub fn enable_in_console(&self, head_id: &str, on: bool) {
        if let Some(head) = self.core.lock().head_mut(head_id) {
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
    pub fn emit(&self, head_id: &str, session_id: &str, kind: EventType, at: Timestamp) -> Vec<Sent> {
        self.core.emit(head_id, session_id, kind, at)
    }

    /// POSTs `body` to a webhook's URL once, as anyone could who knows the URL.
    pub async fn post_as_attacker(&self, webhook_url: &str, body: Vec<u8>, signature: String) -> Attempt {
        self.core.courier.attempt(&Job { webhook_url: webhook_url.to_owned(), body, signature }).await
    }
}

impl Core {
    fn lock(&self) -> Locked<'_> {
        Locked::new(self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn emit(&self, head_id: &str, session_id: &str, kind: EventType, at: Timestamp) -> Vec<Sent> {
        let style = self.courier.style();
        let state = self.lock();
        let Some(head) = state.head(head_id) else { return Vec::new() };
        let event = HeadEvent {
            timestamp: style.timestamp(at),
            head_id,
            session_id,
            public_head_id: &head.public_id,
            public_org_id: PUBLIC_ORG_ID,
            event_type: kind.spelled(style),
        };
        let body = serde_json::to_vec(&event).unwrap_or_default();
        let of_head = state.webhooks.iter().filter(|webhook| webhook.head_id == head_id);
        let listening = of_head.filter(|webhook| state.is_live(webhook) && webhook.subscriptions.include(kind));
        listening.filter_map(|webhook| self.send(webhook, &body)).collect()
    }

    fn send(&self, webhook: &Webhook, body: &[u8]) -> Option<Sent> {
        let signature = SharedKey::parse(&webhook.shared_key).ok()?.sign(body).to_hex();
        let job = Job { webhook_url: webhook.webhook_url.clone(), body: body.to_vec(), signature: signature.clone() };
        let attempts = self.courier.queue(webhook.id, job);
        Some(Sent { webhook_id: webhook.id, body: body.to_vec(), signature, attempts })
    }
}

impl State {
    fn head(&self, id: &str) -> Option<&Head> {
        self.heads.iter().find(|head| head.id == id)
    }

    fn head_mut(&mut self, id: &str) -> Option<&mut Head> {
        self.heads.iter_mut().find(|head| head.id == id)
    }

    fn add_head(&mut self, id: &str) {
        if self.head(id).is_some() {
            return;
        }
        // The guide's head keeps its public id when it is deleted and made again.
        let public_id = if id == HEAD_ID {
            PUBLIC_HEAD_ID.to_owned()
        } else {
            self.heads_made += 1;
            format!("jane-{}", FIRST_PUBLIC_NUMBER + self.heads_made)
        };
        let name = format!("Jane {}", self.heads.len() + 1);
        self.heads.push(Head { id: id.to_owned(), public_id, name, events_enabled: false });
    }

    /// Whether a webhook delivers anything at present.
    fn is_live(&self, webhook: &Webhook) -> bool {
        let is_on = self.head(&webhook.head_id).is_some_and(|head| head.events_enabled);
        is_on && webhook.made_while_on && webhook.subscriptions != Subscriptions::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_style_cuts_an_instant_to_whole_seconds() {
        let at = Timestamp::parse("2026-08-31T08:56:30.987+02:00").unwrap();
        assert_eq!(Style::Kit.timestamp(at), "2026-08-31 06:56:30");
        assert_eq!(Style::Guide.timestamp(at), "2026-08-31T06:56:30Z");
    }
}
