//! The Lambda Runtime API, for one environment at a time: hands it events, takes its answers, and times them.
//!
//! An event's time runs from the moment it is handed to the function's long poll to the arrival of the whole answer,
//! both taken where the HTTP is, so that no wake-up of ours is in it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::IntoResponse,
    routing::{get, post},
};
use sandbox::listen::{Served, listen};
use shared::timestamp::Timestamp;
use tokio::{runtime::Runtime, sync::oneshot};

/// Longer than anything measured here takes, shorter than anyone's patience.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often it is looked whether the function is still there while nothing is heard of it.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The time-out of the invocations, as the template has it.
const FUNCTION_TIMEOUT: time::Duration = time::Duration::seconds(10);

/// The Runtime API; it ends when this is dropped.
pub struct RuntimeApi {
    served: Served,
    heard: Receiver<Heard>,
}

/// An answer of the function.
#[derive(Debug)]
pub struct Answer {
    /// From the event's hand-over to the answer's arrival.
    pub took: Duration,
    /// What it said.
    pub body: Bytes,
}

/// A long poll that waits for an event.
#[derive(Debug)]
pub struct Poll {
    /// When it came.
    pub at: Instant,
    event: oneshot::Sender<String>,
}

#[derive(Debug)]
enum Heard {
    Poll(Poll),
    Answer(Answer),
    Failure(String),
}

#[derive(Debug)]
struct Heart {
    tell: Sender<Heard>,
    handed: Mutex<Handed>,
}

/// The invocation that runs, or ran last.
#[derive(Debug)]
struct Handed {
    number: u32,
    at: Instant,
}

impl RuntimeApi {
    /// Starts it on `runtime`.
    pub fn start(runtime: &Runtime) -> anyhow::Result<Self> {
        let (tell, heard) = mpsc::channel();
        let handed = Mutex::new(Handed { number: 0, at: Instant::now() });
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(answered))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(failed))
            .route("/2018-06-01/runtime/init/error", post(failed))
            .with_state(Arc::new(Heart { tell, handed }));
        let served =
            runtime.block_on(async { anyhow::Ok(Served::router(listen("Runtime API", 0).await?, router)?) })?;
        Ok(Self { served, heard })
    }

    /// `host:port`, for `AWS_LAMBDA_RUNTIME_API`.
    #[must_use]
    pub fn address(&self) -> &str {
        self.served.url().trim_start_matches("http://")
    }

    /// Waits for the function to ask for an event; `look` fails where it cannot any more.
    pub fn poll(&self, look: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Poll> {
        match self.hear("asked for an event", look)? {
            Heard::Poll(poll) => Ok(poll),
            Heard::Answer(_) => bail!("it answered an event it had answered before"),
            Heard::Failure(what) => bail!("it reported a failure: {what}"),
        }
    }

    /// Hands over an event, and waits for the answer; `look` fails where none can come any more.
    pub fn invoke(
        &self,
        poll: Poll,
        event: String,
        look: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Answer> {
        poll.event.send(event).ok().context("it hung up while it waited for an event")?;
        match self.hear("answered", look)? {
            Heard::Answer(answer) => Ok(answer),
            Heard::Poll(_) => bail!("it asked for the next event and never answered this one"),
            Heard::Failure(what) => bail!("it reported a failure: {what}"),
        }
    }

    fn hear(&self, what: &str, mut look: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Heard> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            match self.heard.recv_timeout(LOOK_EVERY) {
                Ok(heard) => return Ok(heard),
                Err(RecvTimeoutError::Timeout) => look()?,
                Err(RecvTimeoutError::Disconnected) => bail!("the Runtime API has ended"),
            }
        }
        bail!("it has not {what} within {} s", PATIENCE.as_secs())
    }
}

async fn next(State(heart): State<Arc<Heart>>) -> impl IntoResponse {
    let (event, handed) = oneshot::channel();
    // The host may be gone; then so is its end of the other channel.
    let _ = heart.tell.send(Heard::Poll(Poll { at: Instant::now(), event }));
    let event = handed.await.map_err(|_| StatusCode::GONE)?;
    let deadline = Timestamp::now().plus(FUNCTION_TIMEOUT).epoch_milliseconds().to_string();
    let mut handed = heart.handed.lock().unwrap_or_else(PoisonError::into_inner);
    handed.number += 1;
    let headers = [
        ("lambda-runtime-aws-request-id", id(handed.number)),
        ("lambda-runtime-deadline-ms", deadline),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:123456789012:function:receive".to_owned()),
        ("lambda-runtime-trace-id", "Root=1-67891233-abcdef012345678912345678;Sampled=1".to_owned()),
        ("content-type", "application/json".to_owned()),
    ];
    handed.at = Instant::now();
    Ok::<_, StatusCode>((headers, event))
}

async fn answered(State(heart): State<Arc<Heart>>, Path(of): Path<String>, body: Bytes) -> StatusCode {
    let now = Instant::now();
    let handed = heart.handed.lock().unwrap_or_else(PoisonError::into_inner);
    if of != id(handed.number) {
        let what = format!("it answered {of}, and was asked {}", id(handed.number));
        let _ = heart.tell.send(Heard::Failure(what));
        return StatusCode::BAD_REQUEST;
    }
    let _ = heart.tell.send(Heard::Answer(Answer { took: now - handed.at, body }));
    StatusCode::ACCEPTED
}

async fn failed(State(heart): State<Arc<Heart>>, body: String) -> StatusCode {
    let _ = heart.tell.send(Heard::Failure(body));
    StatusCode::ACCEPTED
}

fn id(number: u32) -> String {
    format!("00000000-0000-0000-0000-{number:012}")
}
