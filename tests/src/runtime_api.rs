//! The Lambda Runtime API, for running a function's real binary: it hands over events, takes responses, and times them.
//!
//! An invocation's time runs from the moment its event is handed to the function's long poll to the arrival of the whole
//! response. Both instants are taken in the HTTP handlers, so no wake-up of the caller counts.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
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
use tokio::sync::{mpsc, oneshot};
use unith_events::timestamp::Timestamp;

/// The timeout of `receive` in the template.
const FUNCTION_TIMEOUT: Duration = Duration::from_secs(10);

/// A Runtime API on loopback, for one execution environment; it ends when this is dropped.
#[derive(Debug)]
pub struct RuntimeApi {
    server: ServerHandle,
    messages: mpsc::UnboundedReceiver<Message>,
    /// The long poll that waits for an event.
    poll: Option<Poll>,
}

/// An invocation that the function has responded to.
#[derive(Debug)]
pub struct Invocation {
    /// From the event's hand-over to the response's arrival.
    pub took: Duration,
    /// The response's bytes.
    pub response: Bytes,
}

/// A function that does not keep to the Runtime API, or that failed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeApiError {
    /// The function reported an error, at start or for an event.
    #[error("the function reported an error: {0}")]
    Reported(String),
    /// The function responded to an invocation that is not running.
    #[error("the function responded to invocation {got}: invocation {running} is running")]
    WrongInvocation {
        /// The id in the response.
        got: String,
        /// The id of the invocation that runs, or ran last.
        running: String,
    },
    /// The function asked for the next event first.
    #[error("the function asked for the next event before it responded to this one")]
    NoResponse,
    /// The function responded a second time.
    #[error("the function responded twice to one event")]
    SecondResponse,
    /// The function's long poll is gone.
    #[error("the function closed its connection while it waited for an event")]
    PollClosed,
}

#[derive(Debug)]
enum Message {
    Poll(Poll),
    Response(Invocation),
    Failure(RuntimeApiError),
}

#[derive(Debug)]
struct Poll {
    at: Instant,
    event: oneshot::Sender<Bytes>,
}

#[derive(Debug)]
struct Shared {
    messages: mpsc::UnboundedSender<Message>,
    running: Mutex<Running>,
    function_timeout: Duration,
}

/// The invocation that runs, or ran last.
#[derive(Debug)]
struct Running {
    number: u32,
    since: Instant,
}

impl RuntimeApi {
    /// Starts the API on a free port.
    pub async fn start() -> Self {
        Self::start_with(FUNCTION_TIMEOUT).await
    }

    /// The same for a function that has this time for an invocation.
    pub async fn start_with(function_timeout: Duration) -> Self {
        let (sender, messages) = mpsc::unbounded_channel();
        let running = Mutex::new(Running { number: 0, since: Instant::now() });
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(responded))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(failed))
            .route("/2018-06-01/runtime/init/error", post(failed))
            .with_state(Arc::new(Shared { messages: sender, running, function_timeout }));
        let server = ServerHandle::router(listen("the Runtime API", 0).await.unwrap(), router).unwrap();
        Self { server, messages, poll: None }
    }

    /// `host:port`, for `AWS_LAMBDA_RUNTIME_API`.
    pub fn address(&self) -> &str {
        self.server.url().trim_start_matches("http://")
    }

    /// Waits until the function asks for an event, and returns when it did.
    pub async fn wait_for_poll(&mut self) -> Result<Instant, RuntimeApiError> {
        if self.poll.is_none() {
            self.poll = Some(match self.receive().await {
                Message::Poll(poll) => poll,
                Message::Response(_) => return Err(RuntimeApiError::SecondResponse),
                Message::Failure(error) => return Err(error),
            });
        }
        Ok(self.poll.as_ref().unwrap().at)
    }

    /// Hands `event` to the function, once it asks for one, and waits for the response.
    pub async fn invoke(&mut self, event: impl Into<Bytes>) -> Result<Invocation, RuntimeApiError> {
        self.wait_for_poll().await?;
        let poll = self.poll.take().unwrap();
        poll.event.send(event.into()).map_err(|_| RuntimeApiError::PollClosed)?;
        match self.receive().await {
            Message::Response(invocation) => Ok(invocation),
            Message::Poll(_) => Err(RuntimeApiError::NoResponse),
            Message::Failure(error) => Err(error),
        }
    }

    async fn receive(&mut self) -> Message {
        self.messages.recv().await.expect("the server holds the sender")
    }
}

impl Invocation {
    /// The response as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.response).unwrap()
    }
}

async fn next(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let (sender, event) = oneshot::channel();
    shared.send(Message::Poll(Poll { at: Instant::now(), event: sender }));
    let event = event.await.map_err(|_| StatusCode::GONE)?;
    let deadline = Timestamp::now().plus(shared.function_timeout).epoch_milliseconds().to_string();
    let mut running = shared.running.lock().unwrap();
    running.number += 1;
    let headers = [
        ("lambda-runtime-aws-request-id", running.id()),
        ("lambda-runtime-deadline-ms", deadline),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:123456789012:function:receive".to_owned()),
        ("lambda-runtime-trace-id", "Root=1-67891233-abcdef012345678912345678;Sampled=1".to_owned()),
        ("content-type", "application/json".to_owned()),
    ];
    running.since = Instant::now();
    Ok::<_, StatusCode>((headers, event))
}

async fn responded(State(shared): State<Arc<Shared>>, Path(id): Path<String>, response: Bytes) -> StatusCode {
    let now = Instant::now();
    let running = shared.running.lock().unwrap();
    if id != running.id() {
        shared.send(Message::Failure(RuntimeApiError::WrongInvocation { got: id, running: running.id() }));
        return StatusCode::BAD_REQUEST;
    }
    shared.send(Message::Response(Invocation { took: now - running.since, response }));
    StatusCode::ACCEPTED
}

async fn failed(State(shared): State<Arc<Shared>>, report: String) -> StatusCode {
    shared.send(Message::Failure(RuntimeApiError::Reported(report)));
    StatusCode::ACCEPTED
}

impl Shared {
    fn send(&self, message: Message) {
        // Without a receiver, the test is over.
        let _ = self.messages.send(message);
    }
}

impl Running {
    fn id(&self) -> String {
        format!("00000000-0000-0000-0000-{:012}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a function that takes one event, and posts to the path and with the body that `respond` makes of it.
    async fn invoke(respond: fn(&str, &str) -> (String, String)) -> Result<Invocation, RuntimeApiError> {
        let mut api = RuntimeApi::start().await;
        let base = format!("http://{}/2018-06-01/runtime", api.address());
        let function = tokio::spawn(async move {
            let http = sandbox::http_client::http_client().unwrap();
            let next = http.get(format!("{base}/invocation/next")).send().await.unwrap();
            let id = next.headers()["lambda-runtime-aws-request-id"].to_str().unwrap().to_owned();
            let (path, body) = respond(&id, &next.text().await.unwrap());
            http.post(format!("{base}/{path}")).body(body).send().await.unwrap();
        });
        let result = api.invoke("an event").await;
        function.await.unwrap();
        result
    }

    #[tokio::test]
    async fn an_event_reaches_the_function_and_its_response_comes_back() {
        let respond = |id: &str, event: &str| (format!("invocation/{id}/response"), format!("to {event}"));
        let invocation = invoke(respond).await.unwrap();
        assert_eq!(invocation.response, "to an event");
        assert!(invocation.took > Duration::ZERO);
    }

    #[tokio::test]
    async fn an_error_that_the_function_reports_is_returned() {
        let respond = |id: &str, _: &str| (format!("invocation/{id}/error"), "out of ideas".to_owned());
        assert_eq!(invoke(respond).await.unwrap_err(), RuntimeApiError::Reported("out of ideas".to_owned()));
    }

    #[tokio::test]
    async fn a_response_to_another_invocation_is_an_error() {
        let error = invoke(|_, _| ("invocation/other/response".to_owned(), String::new())).await.unwrap_err();
        let start = "the function responded to invocation other: invocation 0000";
        assert!(error.to_string().starts_with(start), "{error}");
    }
}
