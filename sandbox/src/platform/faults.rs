//! What may go wrong at UNITH, to be switched on: by a test, or by `PUT /_sandbox/faults` with this as JSON.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::{MatchedPath, Request, State},
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, LOCATION, RETRY_AFTER},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde::Deserialize;

use super::Core;

/// All that goes wrong.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each fault is on or off by itself")]
pub struct Faults {
    /// Every answer comes this much later.
    pub latency_ms: u64,
    /// Keys are shown as stars and their last four digits.
    pub masked_keys: bool,
    /// Registering does not tell the key.
    pub no_key_on_register: bool,
    /// Lists come in pages of this size, as `{"data": […], "nextPage": 2}`.
    pub page_size: Option<usize>,
    /// Webhook ids are strings of six digits, e.g. `"000004"`, in answers and in paths.
    pub string_ids: bool,
    /// Lists leave a registration out until it is this old; `u64::MAX` for always.
    pub unlisted_for_ms: u64,
    /// `GET /head-events` ignores `headId`, and lists the webhooks of all heads.
    pub unfiltered_list: bool,
    /// Each PATCH gives the webhook a new key.
    pub patch_changes_key: bool,
    /// Calls that fail; the first one that fits a call counts.
    pub failing: Vec<Failing>,
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
    /// Its `Retry-After`, where that is not a number of seconds.
    #[serde(default)]
    pub retry_after: Option<String>,
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
    /// 200 with a maintenance page in HTML.
    Html,
    /// With this status and `Location`.
    Redirect(u16, String),
    /// 200 with JSON that begins with `[` and then has white space without end.
    Endless,
    /// With this status and JSON text.
    Body(u16, String),
}

const MAINTENANCE: &str = "<!doctype html><title>Maintenance</title><p>We will be back soon.</p>";
/// What an endless answer is made of.
static WHITE_SPACE: [u8; 64 * 1024] = [b' '; 64 * 1024];

/// Counts calls, and lets them fail as they are to.
pub(super) async fn inject_faults(
    State(core): State<Core>,
    path: MatchedPath,
    request: Request,
    next: Next,
) -> Response {
    let call = format!("{} {}", request.method(), path.as_str());
    let (latency, failing) = {
        let mut state = core.lock();
        *state.calls.entry(call.clone()).or_default() += 1;
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
            let mut response =
                (code(status), failing.says.unwrap_or_else(|| "told to fail".to_owned())).into_response();
            let date = failing.retry_after.and_then(|date| HeaderValue::try_from(date).ok());
            if let Some(value) = retry_after.map(HeaderValue::from).or(date) {
                response.headers_mut().insert(RETRY_AFTER, value);
            }
            response
        }
        How::Reset => {
            let broken = stream::iter([Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("told to break"))]);
            Response::new(Body::from_stream(broken))
        }
        How::Hang => std::future::pending().await,
        How::Html => ([(CONTENT_TYPE, "text/html")], MAINTENANCE).into_response(),
        How::Redirect(status, location) => (code(status), [(LOCATION, location)]).into_response(),
        How::Endless => {
            let begin = std::iter::once(Bytes::from_static(b"["));
            let chunks = begin.chain(std::iter::repeat(Bytes::from_static(&WHITE_SPACE)));
            let body = Body::from_stream(stream::iter(chunks.map(Ok::<_, std::convert::Infallible>)));
            ([(CONTENT_TYPE, "application/json")], body).into_response()
        }
        How::Body(status, text) => (code(status), [(CONTENT_TYPE, "application/json")], text).into_response(),
    }
}

fn code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
