//! A request that came through a gateway, reduced to plain values. Nothing behind this module knows about gateways.

use std::{fmt, time::Duration};

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

use crate::gateway::{MAX_BODY_BYTES, UNDECODABLE_BODY, WEBHOOK_PATH};

/// A response leaves this long after the request reached the gateway, so that it arrives within 4 s. UNITH gives up at 5 s.
const RESPOND_WITHIN: Duration = Duration::from_millis(3_800);
/// The part of the invocation's own time that is kept for the response's way out.
const INVOCATION_MARGIN: Duration = Duration::from_millis(200);
/// An arrival time further back is not this request's: a replayed fixture, or a clock that is off. Gateways themselves wait no
/// longer.
const PLAUSIBLE_WAIT: Duration = Duration::from_secs(30);
/// The least time that a request gets. After a slow cold start the response may be late, but the event can still be stored.
const AT_LEAST: Duration = Duration::from_millis(500);

/// A request to the webhook.
#[derive(Debug)]
pub struct Delivery {
    method: Method,
    /// The webhook's path, however the gateway spells it; any other path as it was asked for.
    path: String,
    signature: Result<Signature, RequestError>,
    body: Result<RawBody, RequestError>,
    /// When the request reached this function.
    pub received_at: Timestamp,
    /// When the response must leave.
    pub respond_by: Instant,
    /// Lambda's id of the invocation.
    pub request_id: String,
    /// X-Ray's trace id, e.g. `1-67891233-abcdef012345678912345678`.
    pub trace_id: Option<String>,
}

/// A body. `Debug` shows its size alone.
struct RawBody(Vec<u8>);

impl fmt::Debug for RawBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

/// Why a request is not a delivery that could be verified.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum RequestError {
    #[error("no such path: `{path}`; deliveries go to `{WEBHOOK_PATH}`")]
    NotFound {
        /// The path that was asked for. All but letters, digits and `-._~/` is percent-encoded.
        path: String,
    },
    #[error("the method is not POST")]
    MethodNotAllowed,
    #[error("the body has {bytes} bytes, the limit is {MAX_BODY_BYTES}")]
    TooLarge { bytes: usize },
    #[error("no signature header (X-Signature-256)")]
    NoSignature,
    #[error("the signature header came {times} times")]
    RepeatedSignature { times: usize },
    #[error("the signature header is malformed: {0}")]
    MalformedSignature(#[from] MalformedSignature),
    #[error("the body cannot be decoded: it is not a string, or is said to be base64 and is not")]
    UndecodableBody,
}

impl Delivery {
    /// Reads a request that came at `now`.
    pub fn from_request(request: Request, now: Timestamp) -> Self {
        let context = request.lambda_context_ref();
        let arrived_at = arrived_at(&request);
        let wait = time_to_respond(now, arrived_at, context.map(|context| context.deadline));
        Self {
            path: request.raw_http_path().to_owned(),
            signature: signature(request.headers()),
            received_at: now,
            respond_by: Instant::now() + wait,
            request_id: context.map(|context| context.request_id.clone()).unwrap_or_default(),
            trace_id: context.and_then(|context| trace_root(context.xray_trace_id.as_deref()?)),
            method: request.method().clone(),
            body: if request.headers().contains_key(UNDECODABLE_BODY) {
                Err(RequestError::UndecodableBody)
            } else {
                Ok(RawBody(match request.into_body() {
                    Body::Text(text) => text.into_bytes(),
                    Body::Binary(bytes) => bytes,
                    _ => Vec::new(),
                }))
            },
        }
    }

    /// The body, its signature, and when they came; after path, method and size were checked.
    ///
    /// # Errors
    /// A request that is not a delivery which could be verified.
    pub fn signed_body(&self) -> Result<(&[u8], &Signature, Timestamp), RequestError> {
        if self.path != WEBHOOK_PATH {
            return Err(RequestError::NotFound { path: self.path.clone() });
        }
        if self.method != Method::POST {
            return Err(RequestError::MethodNotAllowed);
        }
        let bytes = self.body.as_ref().map_or(0, |body| body.0.len());
        if bytes > MAX_BODY_BYTES {
            return Err(RequestError::TooLarge { bytes });
        }
        let signature = self.signature.as_ref().map_err(Clone::clone)?;
        let body = self.body.as_ref().map_err(Clone::clone)?;
        Ok((&body.0, signature, self.received_at))
    }
}

fn signature(headers: &HeaderMap) -> Result<Signature, RequestError> {
    let mut values = headers.get_all(SIGNATURE_HEADER).iter();
    match (values.next(), values.count()) {
        (None, _) => Err(RequestError::NoSignature),
        (Some(value), 0) => Ok(Signature::parse(value.as_bytes())?),
        (Some(_), more) => Err(RequestError::RepeatedSignature { times: more + 1 }),
    }
}

/// When the gateway took the request: 1970 if it does not say so, which is too long ago to count.
fn arrived_at(request: &Request) -> Option<Timestamp> {
    Timestamp::from_epoch_milliseconds(match request.request_context_ref()? {
        RequestContext::ApiGatewayV1(context) => context.request_time_epoch,
        RequestContext::ApiGatewayV2(context) => context.time_epoch,
        _ => return None,
    })
}

/// The time left: within 4 s of the arrival, and before the invocation ends. A deadline in the past is ignored:
/// `cargo lambda watch` sends a constant one.
fn time_to_respond(now: Timestamp, arrived_at: Option<Timestamp>, deadline_ms: Option<u64>) -> Duration {
    let waited = arrived_at.map(|arrived_at| now.since(arrived_at));
    let waited = waited.filter(|waited| *waited <= PLAUSIBLE_WAIT).unwrap_or_default();
    let deadline = deadline_ms.and_then(|ms| Timestamp::from_epoch_milliseconds(i64::try_from(ms).ok()?));
    let invocation = deadline.map(|deadline| deadline.since(now)).filter(|left| !left.is_zero());
    let left = RESPOND_WITHIN.saturating_sub(waited).max(AT_LEAST);
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
    fn a_response_is_due_4_s_after_the_arrival_and_before_the_invocation_ends() {
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
            let wait = time_to_respond(now, arrived.map(at), deadline.map(ms));
            assert_eq!(wait, Duration::from_millis(left), "{arrived:?} {deadline:?}");
        }
    }

    #[test]
    fn the_trace_id_is_the_root_of_the_trace_header() {
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
