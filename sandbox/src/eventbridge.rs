//! A simulated EventBridge: event buses over HTTP, as strict as AWS documents them, and a record of what reached each one.
//!
//! It has the operations that `publish` and the tests use, and no rules. The crate `winterbaume-eventbridge` does not replace
//! it: its `PutEvents` looks at neither bus, detail nor size, and never fails an entry. It also depends on `chrono`, which
//! `deny.toml` bans.
//!
//! As at AWS, `PutEvents` to a bus that does not exist succeeds, and the events are lost. [`Faults`] fails entries of requests
//! that succeed otherwise, and whole requests.

mod bus;
mod error;
mod request;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State as Shared},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::json;
use tokio::{net::TcpListener, sync::Notify};

use self::{bus::Contents, error::EventBridgeError};
pub use self::{
    bus::{Faults, PublishedEvent},
    request::MAX_REQUEST_BYTES,
};
use crate::{
    clients::{ACCOUNT, REGION},
    server::{ServerHandle, wait_until},
};

/// A detail may come with six bytes of JSON per byte.
const MAX_BODY: usize = 8 * MAX_REQUEST_BYTES;

/// A simulated EventBridge on loopback. Its buses are in memory. The bus `default` exists from the start.
#[derive(Debug)]
pub struct EventBridge {
    server: ServerHandle,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    contents: Mutex<Contents>,
    calls: Mutex<HashMap<String, usize>>,
    /// Notifies of every request.
    changed: Notify,
}

/// The ARN of the event bus with this name.
pub fn bus_arn(name: &str) -> String {
    format!("arn:aws:events:{REGION}:{ACCOUNT}:event-bus/{name}")
}

impl EventBridge {
    /// Serves an EventBridge.
    pub fn serve(listener: TcpListener, faults: Faults) -> io::Result<Self> {
        let contents = Mutex::new(Contents::new(faults));
        let state = Arc::new(State { contents, calls: Mutex::default(), changed: Notify::new() });
        let router = Router::new()
            .route("/", post(operation))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .with_state(Arc::clone(&state));
        Ok(Self { server: ServerHandle::router(listener, router)?, state })
    }

    /// The endpoint.
    pub fn url(&self) -> &str {
        self.server.url()
    }

    /// The number of requests for an operation, e.g. `PutEvents`.
    pub fn calls(&self, operation: &str) -> usize {
        lock(&self.state.calls).get(operation).copied().unwrap_or_default()
    }

    /// The events that reached a bus, in order. They stay when the bus is deleted.
    pub fn events(&self, bus: &str) -> Vec<PublishedEvent> {
        lock(&self.state.contents).events(bus)
    }

    /// The events that were put on a bus while it did not exist, in order. At AWS nobody sees them.
    pub fn lost(&self, bus: &str) -> Vec<PublishedEvent> {
        lock(&self.state.contents).lost(bus)
    }

    /// Waits until `holds` is true for the events of a bus. It looks after every request.
    pub async fn wait_for(&self, bus: &str, mut holds: impl FnMut(&[PublishedEvent]) -> bool) {
        wait_until(&self.state.changed, || holds(&self.events(bus))).await;
    }

    /// Fails each entry for which `code` returns an error code from now on, in place of any other such rule.
    pub fn fail_entries(&self, code: impl FnMut(&PublishedEvent) -> Option<&'static str> + Send + 'static) {
        lock(&self.state.contents).set_rule(Box::new(code));
    }

    /// Injects no fault from now on.
    pub fn clear_faults(&self) {
        lock(&self.state.contents).clear_faults();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn operation(Shared(state): Shared<Arc<State>>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let name = target.strip_prefix("AWSEvents.").unwrap_or_default();
    *lock(&state.calls).entry(name.to_owned()).or_default() += 1;
    let result = lock(&state.contents).call(name, &body);
    state.changed.notify_waiters();
    let (status, response) = match result {
        Ok(response) => (StatusCode::OK, response),
        Err(EventBridgeError { status, code, message }) => (status, json!({"__type": code, "message": message})),
    };
    (status, [(CONTENT_TYPE, "application/x-amz-json-1.1")], response.to_string()).into_response()
}
