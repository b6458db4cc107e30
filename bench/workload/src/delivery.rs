//! The deliveries a function is fed with: events of API Gateway's payload 2.0, signed, and how each must be answered.
//!
//! What always holds: the same run's name and number of events give the same bytes; of ten events one is a duplicate;
//! a run of three or more has one whose body was changed after it was signed.

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use unith_events::signature::{SIGNATURE_HEADER, SharedKey};

/// The shared key that signs; UNITH's guide has it as its example.
pub const KEY: &str = "cbaab87d1cce6d79baad8e9e2607feb3";
/// The head the events are of; UNITH's guide has it as its example.
pub const HEAD: &str = "8eab5b23-024a-45cb-a0e1-9d3ffd6c9610";

const GATEWAY_EVENT: &str = include_str!("../../../tests/fixtures/http-api-2.0.json");
/// The last of every ten is an event that was delivered before, this many deliveries ago.
const ONE_DUPLICATE_IN: usize = 10;
const DELIVERED_BEFORE: usize = 5;
/// The index of the delivery whose body was changed after it was signed.
const TAMPERED: usize = 2;

/// How a delivery must be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// 200, `stored`: the first time.
    Stored,
    /// 200, `duplicate`.
    Duplicate,
    /// 401: the signature is not this body's.
    Refused,
}

/// A delivery as Lambda hands it to a function.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The gateway's event, as JSON.
    pub event: String,
    /// How it must be answered.
    pub expected: Expected,
}

/// A gateway's event: what is changed in the fixture, and the rest.
#[derive(Clone, Serialize, Deserialize)]
struct GatewayEvent {
    headers: Map<String, Value>,
    body: String,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// The deliveries of one run, in order.
#[derive(Debug, Clone)]
pub struct Deliveries(Vec<Delivery>);

impl Deliveries {
    /// As many deliveries as `events`; those of runs with other names are other events.
    pub fn of(run: &str, events: usize) -> anyhow::Result<Self> {
        let key = SharedKey::parse(KEY)?;
        let gateway: GatewayEvent =
            serde_json::from_str(GATEWAY_EVENT).context("the fixture of a gateway event is no JSON")?;
        Ok(Self((0..events).map(|index| delivery(&gateway, &key, run, index)).collect()))
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.0.iter()
    }

    /// How many events are in the table after all of them.
    #[must_use]
    pub fn stored(&self) -> usize {
        self.0.iter().filter(|delivery| delivery.expected == Expected::Stored).count()
    }
}

fn delivery(gateway: &GatewayEvent, key: &SharedKey, run: &str, index: usize) -> Delivery {
    let (expected, session) = match index {
        TAMPERED => (Expected::Refused, index),
        _ if index % ONE_DUPLICATE_IN == ONE_DUPLICATE_IN - 1 => (Expected::Duplicate, index - DELIVERED_BEFORE),
        _ => (Expected::Stored, index),
    };
    let body = body(&format!("{run}-{session:06}"));
    let signature = key.sign(body.as_bytes()).to_hex();
    let body = if expected == Expected::Refused { body.replace("acme", "acne") } else { body };
    let mut event = gateway.clone();
    event.headers.insert(SIGNATURE_HEADER.to_owned(), signature.into());
    event.body = body;
    Delivery { event: json!(event).to_string(), expected }
}

/// The guide's event, of another session.
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
    use unith_events::{key_ring::KeyRing, signature::Signature, timestamp::Timestamp, verify::verify};

    fn body_and_signature(delivery: &Delivery) -> (String, Signature) {
        let event: Value = serde_json::from_str(&delivery.event).unwrap();
        let signature = event["headers"][SIGNATURE_HEADER].as_str().unwrap();
        (event["body"].as_str().unwrap().to_owned(), Signature::parse(signature.as_bytes()).unwrap())
    }

    #[test]
    fn one_in_ten_is_a_duplicate_and_one_in_all_is_tampered_with() {
        let deliveries = Deliveries::of("run", 100).unwrap();
        let count = |expected| deliveries.iter().filter(|delivery| delivery.expected == expected).count();
        assert_eq!((count(Expected::Stored), count(Expected::Duplicate), count(Expected::Refused)), (89, 10, 1));
        assert_eq!(deliveries.stored(), 89);
        assert_eq!(Deliveries::of("run", 1).unwrap().stored(), 1);
    }

    #[test]
    fn a_duplicate_is_an_earlier_body_that_was_stored() {
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
    fn all_signatures_are_right_but_the_tampered_ones() {
        let ring = KeyRing::parse(KEY).unwrap();
        for delivery in Deliveries::of("run", 20).unwrap().iter() {
            let (body, signature) = body_and_signature(delivery);
            let verified = verify(body.as_bytes(), &signature, &ring, Timestamp::now()).is_ok();
            assert_eq!(verified, delivery.expected != Expected::Refused);
        }
    }
}
