//! What may go wrong at UNITH, to be switched on: by a test, or by `PUT /_sandbox/faults` with this as JSON.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::{MatchedPath, Request, State},
    http::{StatusCode, header::RETRY_AFTER},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde::Deserialize;

use super::Core;

/// All that goes wrong.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Every answer comes this much later.
    pub latency_ms: u64,
    /// Keys are shown as stars and their last four digits.
    pub masked_keys: bool,
    /// Registering does not tell the key.
    pub no_key_on_register: bool,
    /// Lists come in pages of this size, as `{"data": […], "nextPage": 2}`.
    pub page_size: Option<usize>,
    /// A head can have one webhook only.
    pub one_registration: Option<OneRegistration>,
    /// Calls that fail; the first one that fits a call counts.
    pub failing: Vec<Failing>,
}

/// What becomes of a second registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OneRegistration {
    /// It is refused with 409.
    Refuses,
    /// It takes the place of the first.
    Replaces,
    /// The first one stays, with the new flags and a new key.
    Renews,
}

/// A call that fails some times.
#[derive(Debug, Clone, Deserialize)]
pub struct Failing {
    /// Method and route, e.g. `PATCH /head-events/{id}`; `*` for every call.
    pub call: String,
    /// How.
    pub how: How,
    /// What the answer's body says.
    #[serde(default)]
    pub says: Option<String>,
    /// Whether the call is carried out all the same.
    #[serde(default)]
    pub after_effect: bool,
    /// How often; then it works again.
    pub times: usize,
}

/// How a call fails.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// With this status and, where given, `Retry-After` in seconds.
    Status(u16, Option<u64>),
    /// The connection breaks.
    Reset,
    /// There is never an answer.
    Hang,
}

/// Lets calls fail as they are to.
pub(super) async fn misbehave(State(core): State<Core>, path: MatchedPath, request: Request, next: Next) -> Response {
    let call = format!("{} {}", request.method(), path.as_str());
    let (latency, failing) = {
        let mut state = core.lock();
        let fits = |failing: &&mut Failing| failing.times > 0 && (failing.call == "*" || failing.call == call);
        let failing = state.faults.failing.iter_mut().find(fits).map(|failing| {
            failing.times -= 1;
            failing.clone()
        });
        (Duration::from_millis(state.faults.latency_ms), failing)
    };
    tokio::time::sleep(latency).await;
    let Some(failing) = failing else { return next.run(request).await };
    if failing.after_effect {
        next.run(request).await;
    }
    match failing.how {
        How::Status(status, retry_after) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response = (status, failing.says.unwrap_or_else(|| "told to fail".to_owned())).into_response();
            if let Some(seconds) = retry_after {
                response.headers_mut().insert(RETRY_AFTER, seconds.into());
            }
            response
        }
        How::Reset => {
            let broken = stream::iter([Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("told to break"))]);
            Response::new(Body::from_stream(broken))
        }
        How::Hang => std::future::pending().await,
    }
}
