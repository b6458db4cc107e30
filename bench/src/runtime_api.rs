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
use sandbox::server::{ServerHandle, listen};
use unith_events::timestamp::Timestamp;
use tokio::{runtime::Runtime, sync::oneshot};

/// Longer than anything measured here takes, shorter than anyone's patience.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often it is looked whether the function is still there while nothing is heard of it.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The time-out of the invocations, as the template has it.
const FUNCTION_TIMEOUT: time::Duration = time::Duration::seconds(10);

/// The Runtime API; it ends when this is dropped.
pub struct RuntimeApi {
    served: ServerHandle,
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
struct Shared {
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
            .with_state(Arc::new(Shared { tell, handed }));
        let served =
            runtime.block_on(async { anyhow::Ok(ServerHandle::router(listen("Runtime API", 0).await?, router)?) })?;
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

async fn next(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let (event, handed) = oneshot::channel();
    // The host may be gone; then so is its end of the other channel.
    let _ = shared.tell.send(Heard::Poll(Poll { at: Instant::now(), event }));
    let event = handed.await.map_err(|_| StatusCode::GONE)?;
    let deadline = Timestamp::now().plus(FUNCTION_TIMEOUT).epoch_milliseconds().to_string();
    let mut handed = shared.handed.lock().unwrap_or_else(PoisonError::into_inner);
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

async fn answered(State(shared): State<Arc<Shared>>, Path(of): Path<String>, body: Bytes) -> StatusCode {
    let now = Instant::now();
    let handed = shared.handed.lock().unwrap_or_else(PoisonError::into_inner);
    if of != id(handed.number) {
        let what = format!("it answered {of}, and was asked {}", id(handed.number));
        let _ = shared.tell.send(Heard::Failure(what));
        return StatusCode::BAD_REQUEST;
    }
    let _ = shared.tell.send(Heard::Answer(Answer { took: now - handed.at, body }));
    StatusCode::ACCEPTED
}

async fn failed(State(shared): State<Arc<Shared>>, body: String) -> StatusCode {
    let _ = shared.tell.send(Heard::Failure(body));
    StatusCode::ACCEPTED
}

fn id(number: u32) -> String {
    format!("00000000-0000-0000-0000-{number:012}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function: asks for an event, and does with it what `how` says; the path and the body it then posts.
    fn against(api: &RuntimeApi, runtime: &Runtime, how: fn(String, String) -> (String, String)) {
        let base = format!("http://{}/2018-06-01/runtime", api.address());
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        runtime.spawn(async move {
            let http = reqwest::Client::new();
            let next = http.get(format!("{base}/invocation/next")).send().await.unwrap();
            let id = next.headers()["lambda-runtime-aws-request-id"].to_str().unwrap().to_owned();
            let (path, body) = how(id, next.text().await.unwrap());
            http.post(format!("{base}/{path}")).body(body).send().await.unwrap();
        });
    }

    fn invoke(how: fn(String, String) -> (String, String)) -> anyhow::Result<Answer> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let api = RuntimeApi::start(&runtime)?;
        against(&api, &runtime, how);
        let poll = api.poll(|| Ok(()))?;
        api.invoke(poll, "an event".to_owned(), || Ok(()))
    }

    #[test]
    fn an_event_goes_out_and_its_answer_comes_back() {
        let answer = invoke(|id, event| (format!("invocation/{id}/response"), format!("to {event}"))).unwrap();
        assert_eq!(answer.body, "to an event");
        assert!(answer.took > Duration::ZERO);
    }

    #[test]
    fn what_goes_wrong_is_told() {
        let failed = invoke(|id, _| (format!("invocation/{id}/error"), "out of ideas".to_owned())).unwrap_err();
        assert_eq!(failed.to_string(), "it reported a failure: out of ideas");
        let other = invoke(|_, _| ("invocation/other/response".to_owned(), String::new())).unwrap_err();
        assert!(
            other.to_string().starts_with("it reported a failure: it answered other, and was asked 0000"),
            "{other}"
        );
    }

    #[test]
    fn a_function_that_is_gone_is_not_waited_for() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let api = RuntimeApi::start(&runtime).unwrap();
        assert_eq!(api.poll(|| bail!("it is gone")).unwrap_err().to_string(), "it is gone");
    }
}
