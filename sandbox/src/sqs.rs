//! A simulated SQS: standard and FIFO queues over HTTP, as strict as AWS documents them.
//!
//! It has the operations that the functions, the event source mapping and the tests use. The crate `winterbaume-sqs` does
//! not replace it: it accepts messages of any size and any characters, ignores the retention and a visibility of 0, deletes
//! by old receipt handles, and depends on `chrono` and the SSO clients, which `deny.toml` bans.
//!
//! Standard queues deliver at least once. [`Faults`] makes the two cases frequent that are rare at AWS: a message that is
//! received again although it was deleted, and a message that is in one response twice. FIFO queues have neither.

mod contents;
mod error;
mod fifo;
mod message;
mod queue;
mod request;

use std::{
    io,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State as Shared},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::Notify,
    time::{Instant, timeout},
};

pub use self::message::{Attribute, StoredMessage};
use self::{
    contents::Contents,
    error::SqsError,
    request::{ReceiveMessage, parse},
};
use crate::server::{ServerHandle, wait_until};

/// The largest message and the largest batch, in bytes of bodies and attributes.
pub const MAX_MESSAGE_SIZE: usize = 1_048_576;
/// A message may come with six bytes of JSON per byte.
const MAX_REQUEST_SIZE: usize = 8 * MAX_MESSAGE_SIZE;
const MAX_BATCH: usize = 10;
/// Twelve hours, in seconds.
const MAX_VISIBILITY: u32 = 43_200;
const MAX_WAIT: u32 = 20;

/// A simulated SQS on loopback. Its queues are in memory.
#[derive(Debug)]
pub struct Sqs {
    server: ServerHandle,
    state: Arc<State>,
}

/// The pace and the faults of an SQS.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a second of its visibility, retention, delays and long polls takes.
    pub second: Duration,
    pub faults: Faults,
}

impl Default for Settings {
    fn default() -> Self {
        Self { second: Duration::from_secs(1), faults: Faults::default() }
    }
}

/// How often a standard queue delivers a message more than once. Shares are between 0 and 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub seed: u64,
    /// The share of messages whose first deletion has no effect.
    pub lost_deletes: f64,
    /// The share of messages that are twice in the first response.
    pub duplicates: f64,
}

#[derive(Debug)]
struct State {
    contents: Mutex<Contents>,
    /// Notifies of every change to a message.
    changed: Notify,
}

impl Sqs {
    /// Serves an SQS without queues.
    pub fn serve(listener: TcpListener, settings: Settings) -> io::Result<Self> {
        let contents = Contents::new(format!("http://{}", listener.local_addr()?), settings);
        let state = Arc::new(State { contents: Mutex::new(contents), changed: Notify::new() });
        let router = Router::new()
            .route("/", post(operation))
            .layer(DefaultBodyLimit::max(MAX_REQUEST_SIZE))
            .with_state(Arc::clone(&state));
        Ok(Self { server: ServerHandle::router(listener, router)?, state })
    }

    /// The endpoint.
    pub fn url(&self) -> &str {
        self.server.url()
    }

    /// The number of requests for an operation, e.g. `SendMessage`.
    pub fn calls(&self, operation: &str) -> usize {
        self.state.lock().calls.get(operation).copied().unwrap_or_default()
    }

    /// The messages of a queue in the order in which they came, visible or not. A queue that does not exist has none.
    pub fn messages(&self, queue: &str) -> Vec<StoredMessage> {
        self.state.lock().messages(queue)
    }

    /// Waits until `holds` is true for the messages of a queue. It looks after every change to a message.
    pub async fn wait_for(&self, queue: &str, mut holds: impl FnMut(&[StoredMessage]) -> bool) {
        wait_until(&self.state.changed, || holds(&self.messages(queue))).await;
    }

    /// Puts the clock forward by this time: messages become visible or expire.
    pub fn pass_time(&self, by: Duration) {
        self.state.lock().ahead += by;
        self.state.changed.notify_waiters();
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn operation(Shared(state): Shared<Arc<State>>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let name = target.strip_prefix("AmazonSQS.").unwrap_or_default();
    *state.lock().calls.entry(name.to_owned()).or_default() += 1;
    let result = match name {
        "ReceiveMessage" => receive(&state, &body).await,
        _ => state.lock().call(name, &body),
    };
    state.changed.notify_waiters();
    let content_type = [(CONTENT_TYPE, "application/x-amz-json-1.0")];
    match result {
        Ok(response) => (content_type, response.to_string()).into_response(),
        Err(error) => {
            let query_error = [("x-amzn-query-error", error.kind.query_error())];
            let body = json!({"__type": format!("com.amazonaws.sqs#{}", error.kind.shape()), "message": error.message});
            (StatusCode::BAD_REQUEST, content_type, query_error, body.to_string()).into_response()
        }
    }
}

/// Receives messages. A long poll waits until there is one, or until its time is up.
async fn receive(state: &State, body: &[u8]) -> Result<Value, SqsError> {
    let request: ReceiveMessage = parse(body)?;
    let wait = state.lock().wait(&request)?;
    let due = Instant::now() + wait;
    loop {
        let mut changed = pin!(state.changed.notified());
        changed.as_mut().enable();
        let (messages, next_in) = state.lock().receive(&request)?;
        let remaining = due.saturating_duration_since(Instant::now());
        if messages.is_empty() && !remaining.is_zero() {
            let _ = timeout(next_in.map_or(remaining, |next_in| next_in.min(remaining)), changed).await;
            continue;
        }
        return Ok(if messages.is_empty() { json!({}) } else { json!({"Messages": messages}) });
    }
}
