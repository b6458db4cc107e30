//! A delivery, and how it is stored: as `receive` and `redrive` store it, or by hand.

use std::time::Duration;

use aws_sdk_dynamodb::{operation::put_item::PutItemError, types::AttributeValue};
use event_store::{
    ingest::{Arrival, Outcome},
    item::{EventItem, Via},
    keys::{event_sk, session_pk},
    retention::Retention,
    store::EventStore,
};
use tests::{
    delivery::KEY,
    table::{Item, Table},
};
use unith_events::{
    event::Event,
    key_ring::KeyRing,
    signature::SharedKey,
    spill::{SpillMessage, SpillReason},
    timestamp::Timestamp,
    verify::verify,
};

/// Long enough that no event of the experiment expires.
pub(crate) const RETENTION: Retention = Retention::Days(36_500);
/// How long a spilled event waits at most.
const SPILLED_FOR: Duration = Duration::from_secs(2);
/// As a text in JSON, it has six bytes per byte: more than an entry may have.
const TOO_LARGE: usize = 180_000;

/// What is stored.
#[derive(Clone)]
pub(crate) enum Delivery {
    Body {
        body: Vec<u8>,
        way: Way,
    },
    /// An item that is not an event.
    Broken {
        pk: String,
        sk: String,
    },
}

/// The way of a body to the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// `receive` stores it.
    Direct,
    /// It was spilled, and `redrive` stores it.
    Redriven,
    /// It is not an event, and quarantined.
    Unreadable,
    /// By hand, with bytes in the body that are not UTF-8.
    WithBytes,
    /// By hand, with a body that no bus event can have.
    TooLarge,
}

impl Delivery {
    pub(crate) fn new(body: String, way: Way) -> Self {
        Self::Body { body: body.into_bytes(), way }
    }

    pub(crate) fn unreadable(mut body: Vec<u8>) -> Self {
        body.push(0xff);
        Self::Body { body, way: Way::Unreadable }
    }

    pub(crate) fn broken(pk: String, sk: String) -> Self {
        Self::Broken { pk, sk }
    }

    /// The key of its item in a session; `None` for a body that is quarantined.
    pub(crate) fn key(&self) -> Option<(String, String)> {
        match self {
            Self::Broken { pk, sk } => Some((pk.clone(), sk.clone())),
            Self::Body { way: Way::Unreadable, .. } => None,
            Self::Body { body, .. } => {
                let identity = event(body).identity;
                Some((session_pk(&identity.head_id, &identity.session_id), event_sk(&identity)))
            }
        }
    }
}

fn event(body: &[u8]) -> Event {
    let message = SpillMessage::of_quarantined(body.to_vec(), None, Timestamp::now());
    Event::parse(&message.verified().unwrap()).unwrap()
}

/// Stores deliveries.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) store: EventStore,
    pub(crate) table: String,
    pub(crate) client: aws_sdk_dynamodb::Client,
}

impl Writer {
    /// A writer that no fault concerns.
    pub(crate) fn new(table: &Table) -> Self {
        let store = EventStore::new(table.client.clone(), table.name.clone(), RETENTION);
        Self { store, table: table.name.clone(), client: table.client.clone() }
    }

    pub(crate) async fn store(&self, delivery: Delivery) {
        let (body, way) = match delivery {
            Delivery::Body { body, way } => (body, way),
            Delivery::Broken { pk, sk } => return self.put_by_hand(item((pk, sk))).await,
        };
        let now = Timestamp::now();
        match way {
            Way::Direct | Way::Redriven | Way::Unreadable => {
                let key = SharedKey::parse(KEY).unwrap();
                let signature = key.sign(&body);
                let verified = verify(&body, &signature, &KeyRing::of_one(key), now).unwrap();
                let outcome = if way == Way::Redriven {
                    let received_at = now.minus(SPILLED_FOR.mul_f64(f64::from(body[body.len() / 2]) / 255.0));
                    let spilled = SpillMessage::new(&verified, received_at, SpillReason::Throttled, None);
                    let verified = spilled.verified().unwrap();
                    let arrival = Arrival { received_at, now, via: Some(Via::Redrive), is_first: true };
                    self.store.ingest(&verified, &Event::parse(&verified), arrival).await
                } else {
                    self.store.ingest(&verified, &Event::parse(&verified), Arrival::direct(now)).await
                };
                let is_quarantined = matches!(outcome.unwrap(), Outcome::Quarantined { .. });
                assert_eq!(is_quarantined, way == Way::Unreadable);
            }
            Way::WithBytes | Way::TooLarge => {
                let event = event(&body);
                let body = if way == Way::TooLarge { vec![1; TOO_LARGE] } else { [&body[..], &[0xff]].concat() };
                self.put_by_hand(EventItem::new(&event, &body, now, None, RETENTION).into()).await;
            }
        }
    }

    async fn put_by_hand(&self, item: Item) {
        let put = self.client.put_item().table_name(&self.table).set_item(Some(item));
        if let Err(error) = put.condition_expression("attribute_not_exists(pk)").send().await {
            // Its event was delivered another way as well.
            assert!(
                error.as_service_error().is_some_and(PutItemError::is_conditional_check_failed_exception),
                "{error:?}"
            );
        }
    }
}

/// An item that has a key alone.
pub(crate) fn item((pk, sk): (String, String)) -> Item {
    [("pk", pk), ("sk", sk)].map(|(name, value)| (name.to_owned(), AttributeValue::S(value))).into()
}
