//! The deliveries of a measurement: signed events of API Gateway's payload 2.0, each with its expected response.
//!
//! Invariants: the same run name and number of events give the same bytes. One event in ten is a duplicate. A run of three or
//! more has one event whose body was changed after it was signed.

use serde_json::json;
use unith_events::signature::SharedKey;

use crate::gateway_event::http_api_event;

/// The shared key of UNITH's guide, which signs the deliveries.
pub const KEY: &str = "cbaab87d1cce6d79baad8e9e2607feb3";
/// The head of UNITH's guide, which the events belong to.
pub const HEAD: &str = "8eab5b23-024a-45cb-a0e1-9d3ffd6c9610";

/// The last of every ten deliveries repeats an earlier one.
const ONE_DUPLICATE_IN: usize = 10;
/// The distance between the two.
const DELIVERED_BEFORE: usize = 5;
/// The index of the delivery whose body was changed after it was signed.
const TAMPERED: usize = 2;

/// The expected response to a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// 200, `stored`.
    Stored,
    /// 200, `duplicate`.
    Duplicate,
    /// 401: the signature belongs to another body.
    Rejected,
}

/// A delivery as a function gets it.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The gateway event, as JSON.
    pub event: String,
    /// The expected response.
    pub expected: Expected,
}

/// The deliveries of one run, in order.
#[derive(Debug, Clone)]
pub struct Deliveries(Vec<Delivery>);

impl Deliveries {
    /// `events` deliveries. Runs with different names have different events.
    pub fn of(run: &str, events: usize) -> anyhow::Result<Self> {
        let key = SharedKey::parse(KEY)?;
        Ok(Self((0..events).map(|index| delivery(&key, run, index)).collect()))
    }

    /// The deliveries, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.0.iter()
    }

    /// The number of events in the table after all deliveries.
    pub fn stored(&self) -> usize {
        self.0.iter().filter(|delivery| delivery.expected == Expected::Stored).count()
    }
}

fn delivery(key: &SharedKey, run: &str, index: usize) -> Delivery {
    let (expected, session) = match index {
        TAMPERED => (Expected::Rejected, index),
        _ if index % ONE_DUPLICATE_IN == ONE_DUPLICATE_IN - 1 => (Expected::Duplicate, index - DELIVERED_BEFORE),
        _ => (Expected::Stored, index),
    };
    let body = body(&format!("{run}-{session:06}"));
    let signature = key.sign(body.as_bytes()).to_hex();
    let body = if expected == Expected::Rejected { body.replace("acme", "acne") } else { body };
    Delivery { event: http_api_event(body.as_bytes(), Some(&signature)).to_string(), expected }
}

/// The event of UNITH's guide, in another session.
fn body(session: &str) -> String {
    json!({
        "timestamp": "2026-01-15T09:57:33Z", "head_id": HEAD, "session_id": session, "public_head_id": "jane-15326",
        "public_org_id": "acme", "event_type": "START_CONVERSATION",
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use unith_events::{
        key_ring::KeyRing,
        signature::{SIGNATURE_HEADER, Signature},
        timestamp::Timestamp,
        verify::verify,
    };

    fn body_and_signature(delivery: &Delivery) -> (String, Signature) {
        let event: Value = serde_json::from_str(&delivery.event).unwrap();
        let signature = event["headers"][SIGNATURE_HEADER].as_str().unwrap();
        (event["body"].as_str().unwrap().to_owned(), Signature::parse(signature.as_bytes()).unwrap())
    }

    #[test]
    fn one_delivery_in_ten_is_a_duplicate_and_one_in_all_is_tampered_with() {
        let deliveries = Deliveries::of("run", 100).unwrap();
        let count = |expected| deliveries.iter().filter(|delivery| delivery.expected == expected).count();
        assert_eq!((count(Expected::Stored), count(Expected::Duplicate), count(Expected::Rejected)), (89, 10, 1));
        assert_eq!(deliveries.stored(), 89);
        assert_eq!(Deliveries::of("run", 1).unwrap().stored(), 1);
    }

    #[test]
    fn a_duplicate_repeats_a_body_that_was_stored() {
        let mut stored = Vec::new();
        for delivery in Deliveries::of("run", 100).unwrap().iter() {
            let (body, _) = body_and_signature(delivery);
            match delivery.expected {
                Expected::Duplicate => assert!(stored.contains(&body), "{body}"),
                _ => assert!(!stored.contains(&body), "{body}"),
            }
            if delivery.expected == Expected::Stored {
                stored.push(body);
            }
        }
    }

    #[test]
    fn only_a_tampered_delivery_has_a_wrong_signature() {
        let ring = KeyRing::parse(KEY).unwrap();
        for delivery in Deliveries::of("run", 20).unwrap().iter() {
            let (body, signature) = body_and_signature(delivery);
            let verified = verify(body.as_bytes(), &signature, &ring, Timestamp::now()).is_ok();
            assert_eq!(verified, delivery.expected != Expected::Rejected);
        }
    }
}
