//! A request as it came through a gateway, reduced to what decides about it.
//!
//! `lambda_http` has made an HTTP request of the event that [`gateway`](crate::gateway) left of the gateway's; here it
//! becomes plain values, so that nothing behind this module knows about gateways.

use std::time::Duration;

use lambda_http::{
    Body, Request, RequestExt,
    http::{HeaderMap, Method},
    request::RequestContext,
};
use tokio::time::Instant;
use unith_events::{
    signature::{MalformedSignature, SIGNATURE_HEADER, Signature},
    timestamp::Timestamp,
};

use crate::gateway::UNDECODABLE_BODY;

/// Every answer leaves this long after the request came, so that it arrives within 4 s; but for one that had waited for
/// most of that before it reached the function (see `AT_LEAST`). UNITH gives up at 5 s.
const ANSWER_WITHIN: Duration = Duration::from_millis(3_800);
/// What is kept of the invocation's own time for the answer's way out.
const INVOCATION_MARGIN: Duration = Duration::from_millis(200);
/// A gateway's arrival time further back than this is not this request's: a replayed fixture, or a clock that is off.
/// Gateways themselves wait no longer.
const PLAUSIBLE_WAIT: Duration = Duration::from_secs(30);
/// What a request is given that came late (a slow cold start): its answer may be, but its event can still be stored.
const AT_LEAST: Duration = Duration::from_millis(500);

/// A request to the webhook.
#[derive(Debug)]
pub struct Delivery {
    /// The request's method.
    pub method: Method,
    /// The webhook's path, whatever the gateway made of it; any other path as it was asked for.
    pub path: String,
    /// What the signature header holds.
    pub signature: Result<Signature, SignatureFault>,
    /// The bytes that were signed.
    pub body: Result<RawBody, UndecodableBody>,
    /// When it reached this function.
    pub received_at: Timestamp,
    /// When it must be answered.
    pub answer_by: Instant,
    /// Lambda's id of the invocation.
    pub request_id: String,
    /// X-Ray's trace id, e.g. `1-67891233-abcdef012345678912345678`.
    pub trace_id: Option<String>,
}

/// A body. It is never shown.
pub struct RawBody(Vec<u8>);

/// A body that the gateway's event does not hold as text or base64: nothing can be said of what was signed.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("the body cannot be decoded: it is not a string, or is said to be base64 and is not")]
pub struct UndecodableBody;

impl std::fmt::Debug for RawBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

impl std::ops::Deref for RawBody {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// A signature header that gives nothing to compare.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum SignatureFault {
    /// There is none.
    #[error("no signature header (X-Signature-256)")]
    Missing,
    /// There are several, and no way to tell which one counts.
    #[error("the signature header came {times} times")]
    Repeated {
        /// How often.
        times: usize,
    },
    /// It is no signature.
    #[error("the signature header is malformed: {0}")]
    Malformed(#[from] MalformedSignature),
}

impl Delivery {
    /// Reads a request that came `now`.
    #[must_use]
    pub fn from_request(request: Request, now: Timestamp) -> Self {
        let context = request.lambda_context_ref();
        let arrived_at = arrived_at(&request);
        let wait = time_to_answer(now, arrived_at, context.map(|context| context.deadline));
        Self {
            path: request.raw_http_path().to_owned(),
            signature: signature(request.headers()),
            received_at: now,
            answer_by: Instant::now() + wait,
            request_id: context.map(|context| context.request_id.clone()).unwrap_or_default(),
            trace_id: context.and_then(|context| trace_root(context.xray_trace_id.as_deref()?)),
            method: request.method().clone(),
            body: if request.headers().contains_key(UNDECODABLE_BODY) {
                Err(UndecodableBody)
            } else {
                Ok(RawBody(match request.into_body() {
                    Body::Text(text) => text.into_bytes(),
                    Body::Binary(bytes) => bytes,
                    _ => Vec::new(),
                }))
            },
        }
    }
}

fn signature(headers: &HeaderMap) -> Result<Signature, SignatureFault> {
    let mut values = headers.get_all(SIGNATURE_HEADER).iter();
    match (values.next(), values.count()) {
        (None, _) => Err(SignatureFault::Missing),
        (Some(value), 0) => Ok(Signature::parse(value.as_bytes())?),
        (Some(_), more) => Err(SignatureFault::Repeated { times: more + 1 }),
    }
}

/// When the gateway took the request. 1970 where it does not say so, which is too long ago to count.
fn arrived_at(request: &Request) -> Option<Timestamp> {
    Timestamp::from_epoch_milliseconds(match request.request_context_ref()? {
        RequestContext::ApiGatewayV1(context) => context.request_time_epoch,
        RequestContext::ApiGatewayV2(context) => context.time_epoch,
        _ => return None,
    })
}

/// What is left for the answer: within 4 s of the arrival, and before the invocation ends. A deadline that has passed
/// already says nothing (`cargo lambda watch` sends a constant one).
fn time_to_answer(now: Timestamp, arrived_at: Option<Timestamp>, deadline_ms: Option<u64>) -> Duration {
    let since = |earlier: Timestamp| Duration::try_from(now.since(earlier)).ok();
    let waited = arrived_at.and_then(since).filter(|waited| *waited <= PLAUSIBLE_WAIT).unwrap_or_default();
    let deadline = deadline_ms.and_then(|ms| Timestamp::from_epoch_milliseconds(i64::try_from(ms).ok()?));
    let invocation =
        deadline.and_then(|deadline| Duration::try_from(deadline.since(now)).ok()).filter(|d| !d.is_zero());
    let left = ANSWER_WITHIN.saturating_sub(waited).max(AT_LEAST);
    invocation.map_or(left, |invocation| left.min(invocation.saturating_sub(INVOCATION_MARGIN)))
}

/// `Root=1-…;Parent=…;Sampled=1` -> `1-…`
fn trace_root(header: &str) -> Option<String> {
    header.split(';').find_map(|part| part.trim().strip_prefix("Root=")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn the_answer_is_due_4_s_after_the_arrival_and_before_the_invocation_ends() {
        let now = at("2026-01-15T10:00:10Z");
        let ms = |t: &str| u64::try_from(at(t).epoch_milliseconds()).unwrap();
        for (arrived, deadline, left) in [
            (None, None, 3_800),
            (Some("2026-01-15T10:00:09.500Z"), None, 3_300),
            (Some("2026-01-15T10:00:06.500Z"), None, 500),
            (Some("2026-01-15T09:00:00Z"), None, 3_800),
            (Some("2026-01-15T10:00:11Z"), None, 3_800),
            (None, Some("2026-01-15T10:00:12Z"), 1_800),
            (None, Some("2026-01-15T10:00:10.100Z"), 0),
            (None, Some("1970-01-01T00:10:00Z"), 3_800),
            (None, Some("2026-01-15T10:00:40Z"), 3_800),
        ] {
            let wait = time_to_answer(now, arrived.map(at), deadline.map(ms));
            assert_eq!(wait, Duration::from_millis(left), "{arrived:?} {deadline:?}");
        }
    }

    #[test]
    fn a_trace_header_gives_its_root() {
        assert_eq!(trace_root("Root=1-6-a;Parent=b;Sampled=1").as_deref(), Some("1-6-a"));
        assert_eq!(trace_root("Self=1-6-a"), None);
    }

    #[test]
    fn bodies_and_signatures_are_not_shown() {
        let mut request = Request::new(Body::Text("secret".into()));
        request.headers_mut().insert(SIGNATURE_HEADER, "a".repeat(64).parse().unwrap());
        let shown = format!("{:?}", Delivery::from_request(request, at("2026-01-15T10:00:10Z")));
        assert!(!shown.contains("secret") && !shown.contains("aaaa"), "{shown}");
    }
}
