//! The state of the platform: heads, webhooks, tokens, faults, and what has happened so far.

use std::{collections::HashMap, time::Instant};

use unith_events::{
    event_type::{EventType, EventTypes},
    timestamp::Timestamp,
};

use super::{
    account::{FIRST_PUBLIC_NUMBER, FIRST_SHARED_KEY, HEAD_ID, PUBLIC_HEAD_ID},
    call::Call,
    faults::Faults,
    journal::Journal,
    settings::Settings,
    webhook::Webhook,
};

#[derive(Debug)]
pub(super) struct State {
    /// In the order in which they were added.
    pub(super) heads: Vec<Head>,
    /// The number of heads ever added, without the one of UNITH's guide.
    heads_added: usize,
    /// In the order in which they were registered.
    pub(super) webhooks: Vec<Webhook>,
    last_webhook_id: u64,
    /// Each bearer token with the instant at which it expires.
    pub(super) tokens: HashMap<String, Timestamp>,
    /// Every shared key and bearer token that was ever issued.
    pub(super) issued: Vec<String>,
    pub(super) faults: Faults,
    /// The requests so far.
    pub(super) calls: Vec<Call>,
    pub(super) journal: Journal,
    pub(super) random: fastrand::Rng,
}

#[derive(Debug)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) public_id: String,
    pub(super) name: String,
    pub(super) events_enabled: bool,
}

impl State {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut state = Self {
            heads: Vec::new(),
            heads_added: 0,
            webhooks: Vec::new(),
            last_webhook_id: 0,
            tokens: HashMap::new(),
            issued: vec![FIRST_SHARED_KEY.to_owned()],
            faults: Faults::default(),
            calls: Vec::new(),
            journal: Journal::default(),
            random: fastrand::Rng::with_seed(settings.seed),
        };
        state.add_head(HEAD_ID);
        for id in &settings.more_heads {
            state.add_head(id);
        }
        state
    }

    pub(super) fn head(&self, id: &str) -> Option<&Head> {
        self.heads.iter().find(|head| self.faults.is_same_head(&head.id, id))
    }

    pub(super) fn head_mut(&mut self, id: &str) -> Option<&mut Head> {
        self.heads.iter_mut().find(|head| self.faults.is_same_head(&head.id, id))
    }

    pub(super) fn add_head(&mut self, id: &str) {
        if self.head(id).is_some() {
            return;
        }
        // The head of UNITH's guide keeps its public id when it is deleted and added again.
        let public_id = if id == HEAD_ID {
            PUBLIC_HEAD_ID.to_owned()
        } else {
            self.heads_added += 1;
            format!("jane-{}", FIRST_PUBLIC_NUMBER + self.heads_added)
        };
        let name = format!("Jane {}", self.heads.len() + 1);
        self.heads.push(Head { id: id.to_owned(), public_id, name, events_enabled: false });
    }

    /// Adds a webhook. It never updates one, not even one with the same URL.
    pub(super) fn register(&mut self, head_id: String, webhook_url: String, subscriptions: EventTypes) -> Webhook {
        let is_first = self.last_webhook_id == 0;
        let is_free = |id: &u64| self.webhooks.iter().all(|webhook| webhook.id != *id);
        let reused = (1..=self.last_webhook_id).find(is_free).filter(|_| self.faults.reuse_ids);
        let id = reused.unwrap_or(self.last_webhook_id + 1);
        self.last_webhook_id = self.last_webhook_id.max(id);
        let now = Timestamp::now();
        let webhook = Webhook {
            id,
            made_while_on: self.is_on(&head_id),
            head_id,
            webhook_url,
            shared_key: if is_first { FIRST_SHARED_KEY.to_owned() } else { self.new_secret() },
            subscriptions,
            made_at: Instant::now(),
            created_at: now,
            updated_at: now,
        };
        self.webhooks.push(webhook.clone());
        webhook
    }

    /// The webhooks that get an event, in the order of their registration.
    pub(super) fn subscribers(&self, head_id: &str, kind: EventType) -> impl Iterator<Item = &Webhook> {
        self.live_webhooks().filter(move |webhook| webhook.head_id == head_id && webhook.subscriptions.contains(kind))
    }

    fn live_webhooks(&self) -> impl Iterator<Item = &Webhook> {
        self.webhooks.iter().filter(|webhook| {
            self.is_on(&webhook.head_id) && webhook.made_while_on && webhook.subscriptions != EventTypes::NONE
        })
    }

    pub(super) fn update_journal(&mut self) {
        let live = self.live_webhooks().cloned().collect();
        self.journal.record(live);
    }

    fn is_on(&self, head_id: &str) -> bool {
        self.head(head_id).is_some_and(|head| head.events_enabled)
    }

    /// A new secret of 32 random hex digits, the form of UNITH's shared keys.
    pub(super) fn new_secret(&mut self) -> String {
        let secret = format!("{:032x}", self.random.u128(..));
        self.issued.push(secret.clone());
        secret
    }
}
