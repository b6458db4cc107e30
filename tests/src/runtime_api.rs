//! The Lambda Runtime API, for running a function's real binary.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::IntoResponse,
    routing::{get, post},
};
use sandbox::server::{ServerHandle, listen};
use serde_json::Value;
use tokio::sync::{Notify, oneshot};
use unith_events::timestamp::Timestamp;

/// A Runtime API on loopback: invocations are queued here, and taken by the function that runs against it.
#[derive(Debug)]
pub struct RuntimeApi {
    served: ServerHandle,
    shared: Arc<Shared>,
}

/// How an invocation ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The function answered.
    Response(Value),
    /// The function failed; API Gateway makes a 5xx of it.
    Error(Value),
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<Invocations>,
    arrived: Notify,
    asked: Notify,
}

#[derive(Debug, Default)]
struct Invocations {
    waiting: VecDeque<(String, Vec<u8>)>,
    running: Vec<(String, oneshot::Sender<Outcome>)>,
    count: usize,
}

impl RuntimeApi {
    /// Starts it.
    pub async fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/{how}", post(ended))
            .with_state(Arc::clone(&shared));
        Self { served: ServerHandle::router(listen("the Runtime API", 0).await.unwrap(), router).unwrap(), shared }
    }

    /// `host:port`, for `AWS_LAMBDA_RUNTIME_API`.
    #[must_use]
    pub fn address(&self) -> &str {
        self.served.url().trim_start_matches("http://")
    }

    /// Waits until the function asks for its first, or next, invocation.
    pub async fn asked(&self) {
        self.shared.asked.notified().await;
    }

    /// Queues an invocation; the receiver tells how it ended.
    #[must_use]
    pub fn queue(&self, event: &Value) -> oneshot::Receiver<Outcome> {
        self.queue_text(&event.to_string())
    }

    /// The same with an event that need not be JSON.
    #[must_use]
    pub fn queue_text(&self, event: &str) -> oneshot::Receiver<Outcome> {
        self.queue_bytes(event.as_bytes().to_vec())
    }

    /// The same with one that need not be text.
    #[must_use]
    pub fn queue_bytes(&self, event: Vec<u8>) -> oneshot::Receiver<Outcome> {
        let (done, outcome) = oneshot::channel();
        let mut state = self.shared.state.lock().unwrap();
        state.count += 1;
        let id = format!("00000000-0000-0000-0000-{:012}", state.count);
        state.waiting.push_back((id.clone(), event));
        state.running.push((id, done));
        self.shared.arrived.notify_one();
        outcome
    }
}

async fn next(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    shared.asked.notify_one();
    loop {
        let taken = shared.state.lock().unwrap().waiting.pop_front();
        if let Some((id, event)) = taken {
            let deadline = Timestamp::now().plus(time::Duration::seconds(10)).epoch_milliseconds().to_string();
            let headers = [
                ("lambda-runtime-aws-request-id", id),
                ("lambda-runtime-deadline-ms", deadline),
                (
                    "lambda-runtime-invoked-function-arn",
                    "arn:aws:lambda:us-east-1:123456789012:function:receive".into(),
                ),
                ("lambda-runtime-trace-id", "Root=1-67891233-abcdef012345678912345678;Sampled=1".into()),
            ];
            return (headers, event);
        }
        shared.arrived.notified().await;
    }
}

async fn ended(State(shared): State<Arc<Shared>>, Path((id, how)): Path<(String, String)>, body: Bytes) -> StatusCode {
    let mut state = shared.state.lock().unwrap();
    let Some(index) = state.running.iter().position(|(running, _)| *running == id) else {
        return StatusCode::NOT_FOUND;
    };
    let (_, done) = state.running.swap_remove(index);
    let value = serde_json::from_slice(&body).unwrap_or_default();
    // The test may have stopped waiting.
    let _ = done.send(if how == "response" { Outcome::Response(value) } else { Outcome::Error(value) });
    StatusCode::ACCEPTED
}
