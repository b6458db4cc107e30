//! The HTTP response. Every status code of the function is here.
//!
//! A 2xx is sent only for what is durable, or must not be stored. A 4xx is for what the keys at hand refuse. Whatever prevents
//! a decision is a 503, and UNITH tries again: no key, a newer key ring that cannot be read, no table.

use event_store::ingest::Outcome;
use lambda_http::{
    Body, Response,
    http::{
        HeaderValue, StatusCode,
        header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
    },
};
use serde::Serialize;

use crate::{delivery::RequestError, durable::Kept, error::ReceiveError};

/// UNITH's own back-off decides when it tries again.
const RETRY_AFTER_SECONDS: &str = "2";

fn success_status(kept: &Kept) -> StatusCode {
    match kept {
        Kept::Ingested(
            Outcome::Stored { .. } | Outcome::Duplicate { .. } | Outcome::Conflict { .. } | Outcome::Expired { .. },
        ) => StatusCode::OK,
        Kept::Ingested(Outcome::Quarantined { .. }) | Kept::Spilled { .. } => StatusCode::ACCEPTED,
    }
}

impl ReceiveError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Request(RequestError::NotFound { .. }) => StatusCode::NOT_FOUND,
            Self::Request(RequestError::MethodNotAllowed) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Request(RequestError::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Request(
                RequestError::NoSignature
                | RequestError::RepeatedSignature { .. }
                | RequestError::MalformedSignature(_)
                | RequestError::UndecodableBody,
            )
            | Self::Verify(_) => StatusCode::UNAUTHORIZED,
            Self::NoUsableKey(_)
            | Self::Keys(_)
            | Self::Store(_)
            | Self::NotSpilled { .. }
            | Self::OutOfTime { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Whether the keys at hand refuse it.
    pub fn is_unauthorized(&self) -> bool {
        self.status() == StatusCode::UNAUTHORIZED
    }

    /// Whether the fault is on our side.
    pub fn is_server_error(&self) -> bool {
        self.status().is_server_error()
    }
}

#[derive(Serialize)]
struct Receipt<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl<'a> From<&'a Kept> for Receipt<'a> {
    fn from(kept: &'a Kept) -> Self {
        let (event_id, reason) = match kept {
            Kept::Ingested(
                Outcome::Stored { event_id }
                | Outcome::Duplicate { event_id }
                | Outcome::Conflict { event_id }
                | Outcome::Expired { event_id },
            ) => (Some(event_id.as_str()), None),
            Kept::Ingested(Outcome::Quarantined { reason, .. }) => (None, Some(reason.to_string())),
            Kept::Spilled { .. } => (None, None),
        };
        Self { status: kept.as_str(), event_id, reason }
    }
}

/// An RFC 9457 problem. With the type `about:blank` it means what its status means.
#[derive(Serialize)]
struct Problem {
    r#type: &'static str,
    title: &'static str,
    status: u16,
}

/// The response to a delivery.
pub fn response(result: &Result<Kept, ReceiveError>) -> Response<Body> {
    match result {
        Ok(kept) => json(success_status(kept), "application/json", &Receipt::from(kept)),
        Err(error) => problem(error.status()),
    }
}

fn problem(status: StatusCode) -> Response<Body> {
    let title = status.canonical_reason().unwrap_or_default();
    let problem = Problem { r#type: "about:blank", title, status: status.as_u16() };
    let mut response = json(status, "application/problem+json", &problem);
    match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        _ => {}
    }
    response
}

fn json(status: StatusCode, content_type: &'static str, body: &impl Serialize) -> Response<Body> {
    // Strings and numbers always serialise.
    let text = serde_json::to_string(body).unwrap_or_default();
    let mut response = Response::new(Body::Text(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use unith_events::{
        body::InvalidEvent, event::Identity, spill::SpillReason, timestamp::Timestamp, verify::VerifyError,
    };

    fn text(response: &Response<Body>) -> (u16, &str) {
        let Body::Text(body) = response.body() else { panic!("no text") };
        (response.status().as_u16(), body)
    }

    #[test]
    fn receipts_are_those_of_the_reference() {
        let identity = Identity {
            head_id: "h".parse().unwrap(),
            session_id: "s".parse().unwrap(),
            event_type: "E".into(),
            occurred_at: Timestamp::parse("2026-01-15T09:57:33Z").unwrap(),
        };
        let event_id = || identity.event_id();
        let receipt = |status: &str| format!(r#"{{"status":"{status}","event_id":"{}"}}"#, event_id());
        for (outcome, expected) in [
            (Outcome::Stored { event_id: event_id() }, (200, receipt("stored"))),
            (Outcome::Duplicate { event_id: event_id() }, (200, receipt("duplicate"))),
            (Outcome::Conflict { event_id: event_id() }, (200, receipt("duplicate"))),
            (Outcome::Expired { event_id: event_id() }, (200, receipt("expired"))),
            (
                Outcome::Quarantined { reason: InvalidEvent::NotJson, is_new: true },
                (202, r#"{"status":"quarantined","reason":"the body is not JSON"}"#.to_owned()),
            ),
        ] {
            let response = response(&Ok(Kept::Ingested(outcome)));
            assert_eq!(text(&response), (expected.0, expected.1.as_str()));
            assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        }
        let spilled = response(&Ok(Kept::Spilled { reason: SpillReason::Timeout, table: String::new() }));
        assert_eq!(text(&spilled), (202, r#"{"status":"accepted"}"#));
    }

    #[test]
    fn every_cause_of_a_401_looks_the_same() {
        let (key_head, event_head) = ("a".parse().unwrap(), "b".parse().unwrap());
        let causes = [
            RequestError::NoSignature.into(),
            RequestError::RepeatedSignature { times: 2 }.into(),
            RequestError::UndecodableBody.into(),
            VerifyError::NoKeyMatches { tried: 3 }.into(),
            VerifyError::WrongHead { key_head, event_head }.into(),
        ];
        for cause in causes {
            let response = response(&Err(cause));
            assert_eq!(text(&response), (401, r#"{"type":"about:blank","title":"Unauthorized","status":401}"#));
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            assert_eq!(response.headers().len(), 2);
        }
    }

    #[test]
    fn problems_carry_the_headers_their_status_asks_for() {
        let not_allowed = response(&Err(RequestError::MethodNotAllowed.into()));
        assert_eq!(
            (not_allowed.status().as_u16(), &not_allowed.headers()[ALLOW]),
            (405, &HeaderValue::from_static("POST"))
        );
        let unavailable = response(&Err(ReceiveError::OutOfTime { step: "waiting" }));
        assert_eq!(unavailable.status().as_u16(), 503);
        assert!(unavailable.headers().contains_key(RETRY_AFTER));
        let status = |error: ReceiveError| response(&Err(error)).status().as_u16();
        assert_eq!(status(RequestError::NotFound { path: "/x".to_owned() }.into()), 404);
        assert_eq!(status(RequestError::TooLarge { bytes: 1 }.into()), 413);
        assert_eq!(status(VerifyError::NoUsableKey { expired: 0, matches: false }.into()), 503);
    }
}
