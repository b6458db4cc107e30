//! UNITH's side: deliveries of every kind, each with its retries, and what the table must hold in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Mutex,
    time::Duration,
};

use event_store::item::body_sha256;
use fastrand::Rng;
use serde_json::json;
use tests::{
    delivery::{KEY, event},
    receive_harness::Caller,
    table::{Item, text},
    wait::within,
};
use tokio::sync::watch;
use unith_events::timestamp::Timestamp;

/// A key that nobody registered.
const WRONG_KEY: &str = "00000000000000000000000000000000";
/// UNITH's own attempts.
const ATTEMPTS: usize = 4;
/// Every response leaves within this time.
const RESPONSE_TIME: Duration = Duration::from_secs(4);

/// What a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Event,
    Unreadable,
    Expired,
    Forged,
}

/// A body to be delivered.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    kind: Kind,
    body: Vec<u8>,
}

impl Delivery {
    /// Deliveries of every kind; some are repetitions of earlier ones.
    pub(crate) fn random(random: &mut Rng, count: usize) -> Vec<Self> {
        let now = Timestamp::now().to_string();
        let mut all: Vec<Self> = Vec::with_capacity(count);
        for number in 0..count {
            let session = format!("session-{number}");
            let (kind, body) = match random.u8(0..20) {
                0..=1 if number > 0 => {
                    let repeated = all[random.usize(0..number)].clone();
                    all.push(repeated);
                    continue;
                }
                2 => (Kind::Unreadable, format!("not an event {number}").into_bytes()),
                3 => (Kind::Expired, event(&json!({"session_id": session, "timestamp": "2026-01-15T09:57:33Z"}))),
                4 => (Kind::Forged, event(&json!({"session_id": session, "timestamp": now}))),
                _ => (Kind::Event, event(&json!({"session_id": session, "timestamp": now}))),
            };
            all.push(Self { kind, body });
        }
        all
    }
}

/// The platform: what is to be delivered, and how each delivery ended.
pub(crate) struct Platform {
    deliveries: Vec<Delivery>,
    started: watch::Sender<usize>,
    /// The outcomes of the last attempts, `None` for a delivery that was given up.
    ends: Mutex<Vec<(Delivery, Option<String>)>>,
}

/// The figures of an experiment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Figures {
    pub(crate) deliveries: usize,
    pub(crate) stored: usize,
    pub(crate) accepted: usize,
    pub(crate) duplicates: usize,
    pub(crate) quarantined: usize,
    pub(crate) expired: usize,
    pub(crate) refused: usize,
    pub(crate) given_up: usize,
    pub(crate) items: usize,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { deliveries, stored, accepted, duplicates, quarantined, expired, refused, given_up, items } = self;
        write!(
            f,
            "{deliveries} deliveries: {stored} stored, {accepted} accepted, {duplicates} duplicates, {quarantined} \
             quarantined, {expired} expired, {refused} forgeries refused, {given_up} given up; {items} items, 0 lost"
        )
    }
}

impl Platform {
    pub(crate) fn new(deliveries: Vec<Delivery>) -> Self {
        Self { deliveries, started: watch::Sender::new(0), ends: Mutex::default() }
    }

    /// The next delivery.
    pub(crate) fn next(&self) -> Option<Delivery> {
        let mut number = 0;
        self.started.send_modify(|started| {
            number = *started;
            *started += 1;
        });
        self.deliveries.get(number).cloned()
    }

    /// Waits until this many deliveries have begun. `false` after the last one.
    pub(crate) async fn wait_for(&self, number: usize) -> bool {
        let reached = *self.started.subscribe().wait_for(|started| *started >= number).await.unwrap();
        reached < self.deliveries.len()
    }

    /// Makes a delivery, with UNITH's retries.
    pub(crate) async fn deliver(&self, delivery: Delivery, receiver: &Caller) {
        let key = if delivery.kind == Kind::Forged { WRONG_KEY } else { KEY };
        let mut end = None;
        for _ in 0..ATTEMPTS {
            let response = within(RESPONSE_TIME, receiver.deliver(&delivery.body, key)).await;
            match (response.status, delivery.kind) {
                (401, Kind::Forged) => end = Some("refused".to_owned()),
                (503, kind) if kind != Kind::Forged => continue,
                (200 | 202, kind) if kind != Kind::Forged => end = Some(response.outcome().1),
                (status, kind) => panic!("{kind:?}: {status} {}", response.text),
            }
            break;
        }
        self.ends.lock().unwrap().push((delivery, end));
    }

    /// Checks the items against what every delivery was answered.
    pub(crate) fn check(&self, items: &[Item]) -> Figures {
        let ends = self.ends.lock().unwrap();
        assert_eq!(ends.len(), self.deliveries.len(), "every delivery came to an end");
        let hash =
            |item: &Item| text(item, if item.contains_key("event_id") { "body_sha256" } else { "sk" }).to_owned();
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        for item in items {
            *found.entry(hash(item)).or_default() += 1;
        }
        let mut figures = Figures { deliveries: ends.len(), items: items.len(), ..Figures::default() };
        let mut may_be_found = BTreeSet::new();
        for (Delivery { kind, body }, end) in ends.iter() {
            let (hash, shown) = (body_sha256(body), String::from_utf8_lossy(body));
            let times = found.get(&hash).copied().unwrap_or_default();
            match (kind, end.as_deref()) {
                (Kind::Event, Some("stored")) => figures.stored += 1,
                (Kind::Event, Some("duplicate")) => figures.duplicates += 1,
                (Kind::Unreadable, Some("quarantined")) => figures.quarantined += 1,
                (Kind::Event | Kind::Unreadable, Some("accepted")) => figures.accepted += 1,
                (Kind::Expired, Some("expired")) => figures.expired += 1,
                (Kind::Forged, Some("refused")) => figures.refused += 1,
                (Kind::Event | Kind::Unreadable | Kind::Expired, None) => figures.given_up += 1,
                (kind, end) => panic!("{kind:?} ended as {end:?}: {shown}"),
            }
            match kind {
                Kind::Event | Kind::Unreadable => {
                    assert!(times <= 1, "{times} items: {shown}");
                    assert!(end.is_none() || times == 1, "lost after {end:?}: {shown}");
                    may_be_found.insert(hash);
                }
                Kind::Expired | Kind::Forged => assert_eq!(times, 0, "{shown}"),
            }
        }
        let unknown: Vec<_> = found.keys().filter(|hash| !may_be_found.contains(*hash)).collect();
        assert!(unknown.is_empty(), "items of no delivery: {unknown:?}");
        figures
    }
}
