//! The simulated platform on loopback.

use std::io;

use tokio::net::TcpListener;
use unith_events::{event_type::EventType, timestamp::Timestamp};

use super::{
    api,
    call::Call,
    control,
    delivery::{Attempt, Delivery, Sent},
    engine::Engine,
    faults::Faults,
    journal::Change,
    settings::Settings,
    style::Style,
    webhook::Webhook,
};
use crate::server::ServerHandle;

/// A simulated platform on loopback.
#[derive(Debug)]
pub struct Platform {
    server: ServerHandle,
    pub(super) engine: Engine,
}

impl Platform {
    /// Serves a platform that has the heads of `settings`, their events off, and no webhooks.
    pub fn serve(listener: TcpListener, settings: Settings) -> io::Result<Self> {
        let engine = Engine::new(settings)?;
        let router = api::router(engine.clone()).merge(control::router(engine.clone()));
        Ok(Self { server: ServerHandle::router(listener, router)?, engine })
    }

    /// The base URL of the management API.
    pub fn url(&self) -> &str {
        self.server.url()
    }

    /// The spelling of deliveries.
    pub fn style(&self) -> Style {
        self.engine.style
    }

    /// Replaces all faults.
    pub fn set_faults(&self, faults: impl Into<Faults>) {
        self.engine.lock().faults = faults.into();
    }

    /// Maps a webhook host to a base URL on this machine.
    pub fn map_host(&self, host: impl Into<String>, base: impl Into<String>) {
        self.engine.worker.map_host(host.into(), base.into());
    }

    /// Lets all bearer tokens expire.
    pub fn expire_tokens(&self) {
        self.engine.lock().tokens.clear();
    }

    /// Every shared key and bearer token that was ever issued.
    pub fn issued_secrets(&self) -> Vec<String> {
        self.engine.lock().issued.clone()
    }

    /// Whether the events of a head are on.
    pub fn events_enabled(&self, head_id: &str) -> bool {
        self.engine.lock().head(head_id).is_some_and(|head| head.events_enabled)
    }

    /// The number of requests for a call, failed ones included.
    pub fn calls(&self, call: Call) -> usize {
        self.engine.lock().calls.iter().filter(|made| [**made, Call::Any].contains(&call)).count()
    }

    /// The webhooks that are registered now.
    pub fn webhooks(&self) -> Vec<Webhook> {
        self.engine.lock().webhooks.clone()
    }

    /// The changes of webhooks that became live or stopped being live, the oldest first.
    pub fn journal(&self) -> Vec<Change> {
        self.engine.lock().journal.changes().to_vec()
    }

    /// Queues an event for every webhook that is subscribed to it.
    pub fn emit(&self, head_id: &str, session_id: &str, kind: EventType, at: Timestamp) -> Vec<Sent> {
        self.engine.emit(head_id, session_id, kind, at)
    }

    /// Posts `body` to a webhook URL once, as anyone can who knows the URL.
    pub async fn post_as_attacker(&self, webhook_url: &str, body: Vec<u8>, signature: String) -> Attempt {
        self.engine.worker.attempt(&Delivery { webhook_url: webhook_url.to_owned(), body, signature }).await
    }
}
