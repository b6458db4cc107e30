//! The state and the delivery worker, which the API and the Rust interface share.

use std::{
    io,
    ops::DerefMut,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;
use unith_events::{event_type::EventType, signature::SharedKey, timestamp::Timestamp};

use super::{
    account::PUBLIC_ORG_ID,
    delivery::{Delivery, DeliveryWorker, Sent},
    settings::Settings,
    state::State,
    style::Style,
    webhook::Webhook,
};

/// The body of a delivery, its fields in the order of UNITH's guide.
#[derive(Serialize)]
struct HeadEvent<'a> {
    timestamp: String,
    head_id: &'a str,
    session_id: &'a str,
    public_head_id: &'a str,
    public_org_id: &'a str,
    event_type: String,
}

#[derive(Debug, Clone)]
pub(super) struct Engine {
    state: Arc<Mutex<State>>,
    pub(super) worker: DeliveryWorker,
    pub(super) style: Style,
}

impl Engine {
    pub(super) fn new(settings: Settings) -> io::Result<Self> {
        let state = Arc::new(Mutex::new(State::new(&settings)));
        Ok(Self { state, style: settings.style, worker: DeliveryWorker::new(settings)? })
    }

    /// Locks the state.
    ///
    /// Invariants: the journal has every change, because this is the only access to the state, and updates the journal
    /// at its end.
    pub(super) fn lock(&self) -> impl DerefMut<Target = MutexGuard<'_, State>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        scopeguard::guard(state, |mut state| state.update_journal())
    }

    pub(super) fn emit(&self, head_id: &str, session_id: &str, kind: EventType, at: Timestamp) -> Vec<Sent> {
        let state = self.lock();
        let Some(head) = state.head(head_id) else { return Vec::new() };
        let event = HeadEvent {
            timestamp: self.style.timestamp(at),
            head_id,
            session_id,
            public_head_id: &head.public_id,
            public_org_id: PUBLIC_ORG_ID,
            event_type: self.style.event_type(kind),
        };
        let body = serde_json::to_vec(&event).unwrap_or_default();
        state.subscribers(head_id, kind).filter_map(|webhook| self.send(webhook, &body)).collect()
    }

    fn send(&self, webhook: &Webhook, body: &[u8]) -> Option<Sent> {
        let (webhook_url, body) = (webhook.webhook_url.clone(), body.to_vec());
        let signature = SharedKey::parse(&webhook.shared_key).ok()?.sign(&body).to_hex();
        let delivery = Delivery { webhook_url, body: body.clone(), signature: signature.clone() };
        Some(Sent { webhook_id: webhook.id, body, signature, attempts: self.worker.queue(webhook.id, delivery) })
    }
}
