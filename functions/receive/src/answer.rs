//! What became of a delivery, and the HTTP answer that says so. Every status code of the function stands here.
//!
//! The error policy: a 2xx is sent only for what is durable (or must not be stored); a 4xx is for what the keys we have
//! refuse; whatever kept us from deciding (no key, a newer ring that cannot be read, no table) is a 503, and UNITH tries
//! again. A refusal's reason goes to the log and nowhere else.

use event_store::store::StoreError;
use lambda_http::{
    Body, Response,
    http::{
        HeaderValue, StatusCode,
        header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
    },
};
use serde::Serialize;
use unith_events::{
    event::Unreadable,
    verify::{Mismatch, OtherHead},
};

use crate::{
    delivery::{SignatureFault, UndecodableBody},
    keys::KeysError,
};

/// UNITH's own back-off decides when it tries again; this is what we would wish for.
const RETRY_AFTER_SECONDS: &str = "2";

/// A delivery that is settled: sending it again would change nothing.
#[derive(Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The event was new and is in the table.
    Stored {
        /// The event.
        event_id: String,
    },
    /// The event was in the table.
    Duplicate {
        /// The event.
        event_id: String,
        /// Whether it says something else than the stored one, and is kept aside for it.
        conflict: Option<Kept>,
    },
    /// The event's time in the table would be over.
    Expired {
        /// The event.
        event_id: String,
    },
    /// It is no event we can read; the body is kept.
    Quarantined {
        /// What is wrong with it.
        reason: Unreadable,
        /// Whether it came for the first time.
        kept: Kept,
    },
}

/// What a quarantined body is to the quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It was not there today.
    New,
    /// It was there: it is a delivery that came again.
    Again,
}

/// A delivery that is not accepted, and why.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Not the webhook's path.
    #[error("no such path: `{path}`; deliveries go to `{}`", crate::WEBHOOK_PATH)]
    OtherPath {
        /// What was asked for, with everything but letters, digits and `-._~/` percent-encoded.
        path: String,
    },
    /// Not a POST.
    #[error("the method is not POST")]
    OtherMethod,
    /// A body larger than an event can be.
    #[error("the body has {bytes} bytes, the limit is {}", crate::MAX_BODY_BYTES)]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// No signature that could be compared.
    #[error(transparent)]
    Signature(#[from] SignatureFault),
    /// A body that could not be decoded, so that nobody can say who signed it.
    #[error(transparent)]
    Undecodable(#[from] UndecodableBody),
    /// A signature no key vouches for.
    #[error(transparent)]
    Mismatch(Mismatch),
    /// A signature by another head's key.
    #[error(transparent)]
    OtherHead(#[from] OtherHead),
    /// There is no key to verify with.
    #[error(transparent)]
    NoKeys(#[from] KeysError),
    /// The key ring is there, and empty.
    #[error("{0}: has `provision` run?")]
    EmptyRing(Mismatch),
    /// The table did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The time for an answer was over first.
    #[error("out of time while {step}")]
    OutOfTime {
        /// What was being waited for.
        step: &'static str,
    },
}

impl From<Mismatch> for Refusal {
    fn from(mismatch: Mismatch) -> Self {
        match mismatch {
            Mismatch::NoUsableKey { .. } => Self::EmptyRing(mismatch),
            _ => Self::Mismatch(mismatch),
        }
    }
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::OtherPath { .. } => StatusCode::NOT_FOUND,
            Self::OtherMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Signature(_) | Self::Undecodable(_) | Self::Mismatch(_) | Self::OtherHead(_) => {
                StatusCode::UNAUTHORIZED
            }
            Self::NoKeys(_) | Self::EmptyRing(_) | Self::Store(_) | Self::OutOfTime { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// Whether the keys we have refuse it.
    #[must_use]
    pub fn is_unauthorized(&self) -> bool {
        self.status() == StatusCode::UNAUTHORIZED
    }

    /// Whether it is we who failed.
    #[must_use]
    pub fn is_ours(&self) -> bool {
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

impl Accepted {
    /// The word for it, in the answer and in the log.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Stored { .. } => "stored",
            Self::Duplicate { .. } => "duplicate",
            Self::Expired { .. } => "expired",
            Self::Quarantined { .. } => "quarantined",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Stored { .. } | Self::Duplicate { .. } | Self::Expired { .. } => StatusCode::OK,
            Self::Quarantined { .. } => StatusCode::ACCEPTED,
        }
    }

    fn receipt(&self) -> Receipt<'_> {
        let (event_id, reason) = match self {
            Self::Stored { event_id } | Self::Duplicate { event_id, .. } | Self::Expired { event_id } => {
                (Some(event_id.as_str()), None)
            }
            Self::Quarantined { reason, .. } => (None, Some(reason.to_string())),
        };
        Receipt { status: self.word(), event_id, reason }
    }
}

/// An RFC 9457 problem. `about:blank` says that it means what its status means, and no more than that.
#[derive(Serialize)]
struct Problem {
    r#type: &'static str,
    title: &'static str,
    status: u16,
}

/// The answer for what became of a delivery.
#[must_use]
pub fn answer(result: &Result<Accepted, Refusal>) -> Response<Body> {
    match result {
        Ok(accepted) => json(accepted.status(), "application/json", &accepted.receipt()),
        Err(refusal) => problem(refusal.status()),
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
    // Strings and numbers always serialise; were it otherwise, an empty body would still carry the status.
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

    fn text(response: &Response<Body>) -> (u16, &str) {
        let Body::Text(body) = response.body() else { panic!("no text") };
        (response.status().as_u16(), body)
    }

    #[test]
    fn receipts_are_the_designs() {
        let event_id = || "e".repeat(2);
        for (accepted, expected) in [
            (Accepted::Stored { event_id: event_id() }, (200, r#"{"status":"stored","event_id":"ee"}"#)),
            (
                Accepted::Duplicate { event_id: event_id(), conflict: Some(Kept::New) },
                (200, r#"{"status":"duplicate","event_id":"ee"}"#),
            ),
            (Accepted::Expired { event_id: event_id() }, (200, r#"{"status":"expired","event_id":"ee"}"#)),
            (
                Accepted::Quarantined { reason: Unreadable::NotJson, kept: Kept::New },
                (202, r#"{"status":"quarantined","reason":"the body is not JSON"}"#),
            ),
        ] {
            let response = answer(&Ok(accepted));
            assert_eq!(text(&response), expected);
            assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        }
    }

    #[test]
    fn every_cause_of_a_401_looks_the_same() {
        let causes = [
            Refusal::Signature(SignatureFault::Missing),
            Refusal::Signature(SignatureFault::Repeated { times: 2 }),
            Mismatch::NoKeyMatches { tried: 3 }.into(),
            Refusal::OtherHead(OtherHead { key_head: "a".into(), event_head: "b".into() }),
        ];
        for cause in causes {
            let response = answer(&Err(cause));
            assert_eq!(text(&response), (401, r#"{"type":"about:blank","title":"Unauthorized","status":401}"#));
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            assert_eq!(response.headers().len(), 2);
        }
    }

    #[test]
    fn problems_carry_the_headers_their_status_asks_for() {
        let not_allowed = answer(&Err(Refusal::OtherMethod));
        assert_eq!(
            (not_allowed.status().as_u16(), &not_allowed.headers()[ALLOW]),
            (405, &HeaderValue::from_static("POST"))
        );
        let unavailable = answer(&Err(Refusal::OutOfTime { step: "waiting" }));
        assert_eq!(unavailable.status().as_u16(), 503);
        assert!(unavailable.headers().contains_key(RETRY_AFTER));
        assert_eq!(answer(&Err(Refusal::OtherPath { path: "/x".to_owned() })).status().as_u16(), 404);
        assert_eq!(answer(&Err(Refusal::TooLarge { bytes: 1 })).status().as_u16(), 413);
        assert_eq!(answer(&Err(Mismatch::NoUsableKey { expired: 0, matches: false }.into())).status().as_u16(), 503);
    }
}
