//! UNITH's side: deliveries of every kind, each with its retries, and what the table must hold in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use event_store::item::body_sha256;
use fastrand::Rng;
use serde_json::json;
use tests::{
    delivery::{event, sign},
    receive_harness::Caller,
    table::{Item, text},
    wait::{PATIENCE, within},
};
use tokio::sync::watch;
use unith_events::timestamp::Timestamp;

/// A key that is bound to another head than that of the deliveries.
pub(crate) const OTHERS_KEY: &str = "another-heads-key";
/// A key that nobody registered.
pub(crate) const WRONG_KEY: &str = "00000000000000000000000000000000";
/// UNITH's own attempts.
const ATTEMPTS: usize = 4;
/// Every response leaves within this time.
const RESPONSE_TIME: Duration = Duration::from_secs(4);
/// How often the platform looks whether the machine keeps up.
const TICK: Duration = Duration::from_millis(20);
/// A timer of an idle machine is not later.
const TIMER_PRECISION: Duration = Duration::from_millis(5);

/// What a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Event,
    /// An event's identity with other content.
    Variant,
    Unreadable,
    Expired,
    Forged(Forgery),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Forgery {
    WrongKey,
    OthersKey,
    OtherBody,
    NoSignature,
}

/// A body to be delivered.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    kind: Kind,
    session: String,
    body: Vec<u8>,
    /// The attempts whose responses get lost on the way.
    lost: [bool; ATTEMPTS],
}

impl Delivery {
    /// Deliveries of every kind; some are repetitions of earlier ones.
    pub(crate) fn random(random: &mut Rng, count: usize) -> Vec<Self> {
        let now = Timestamp::now().to_string();
        let mut all: Vec<Self> = Vec::with_capacity(count);
        for number in 0..count {
            let earlier = (number > 0).then(|| all[random.usize(0..number)].clone());
            let session = format!("session-{number}");
            let event_at = |at: &str| event(&json!({"session_id": session, "timestamp": at}));
            let (kind, session, body) = match (random.u8(0..20), earlier) {
                (0..=1, Some(Self { kind, session, body, .. })) => (kind, session, body),
                (2, Some(Self { kind: Kind::Event, session, .. })) => {
                    let body =
                        event(&json!({"session_id": session, "timestamp": now, "public_org_id": number.to_string()}));
                    (Kind::Variant, session, body)
                }
                (3, _) => (Kind::Unreadable, session, format!("not an event {number}").into_bytes()),
                (4, _) => (Kind::Expired, session.clone(), event_at("2026-01-15T09:57:33Z")),
                (5, _) => (Kind::Forged(Forgery::random(random)), session.clone(), event_at(&now)),
                _ => (Kind::Event, session.clone(), event_at(&now)),
            };
            let lost = [(); ATTEMPTS].map(|()| random.u8(0..20) == 0);
            // Now and then the platform gets no response at all.
            let lost = if random.u8(0..100) == 0 { [true; ATTEMPTS] } else { lost };
            all.push(Self { kind, session, body, lost });
        }
        all
    }

    /// Whether nobody with a key has signed it.
    pub(crate) fn is_forged(&self) -> bool {
        matches!(self.kind, Kind::Forged(_))
    }

    /// The signature header.
    fn signature(&self, key: &str) -> Option<String> {
        match self.kind {
            Kind::Forged(Forgery::WrongKey) => Some(sign(&self.body, WRONG_KEY)),
            Kind::Forged(Forgery::OthersKey) => Some(sign(&self.body, OTHERS_KEY)),
            Kind::Forged(Forgery::OtherBody) => Some(sign(b"another body", key)),
            Kind::Forged(Forgery::NoSignature) => None,
            Kind::Event | Kind::Variant | Kind::Unreadable | Kind::Expired => Some(sign(&self.body, key)),
        }
    }
}

impl Forgery {
    fn random(random: &mut Rng) -> Self {
        let all = [Self::WrongKey, Self::OthersKey, Self::OtherBody, Self::NoSignature];
        all[random.usize(..all.len())]
    }
}

/// The response to an attempt.
#[derive(Debug, Clone)]
struct Response {
    status: u16,
    outcome: String,
    event_id: Option<String>,
    is_lost: bool,
}

/// The platform: how many deliveries have begun, and how each one ended.
pub(crate) struct Platform {
    count: usize,
    begun: watch::Sender<usize>,
    /// The time in milliseconds for which the machine did not run this experiment.
    stalled: AtomicU64,
    ends: Mutex<Vec<(Delivery, Vec<Response>)>>,
}

/// The figures of an experiment. Outcomes are those of the last responses that the platform saw.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Figures {
    pub(crate) deliveries: usize,
    pub(crate) stored: usize,
    pub(crate) accepted: usize,
    pub(crate) duplicates: usize,
    pub(crate) quarantined: usize,
    pub(crate) expired: usize,
    pub(crate) refused: usize,
    /// Deliveries that never got a 2xx.
    pub(crate) given_up: usize,
    /// Deliveries whose every 2xx got lost on the way.
    pub(crate) unseen: usize,
    pub(crate) lost_responses: usize,
    pub(crate) items: usize,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { deliveries, stored, accepted, duplicates, quarantined, expired, refused, .. } = self;
        let Self { given_up, unseen, lost_responses, items, .. } = self;
        write!(
            f,
            "{deliveries} deliveries: {stored} stored, {accepted} accepted, {duplicates} duplicates, {quarantined} \
             quarantined, {expired} expired, {refused} forgeries refused, {given_up} given up, {unseen} more because \
             their 2xx got lost; {lost_responses} responses lost on the way; {items} items, 0 events lost"
        )
    }
}

impl Platform {
    /// A platform that makes `count` deliveries.
    pub(crate) fn new(count: usize) -> Self {
        Self { count, begun: watch::Sender::new(0), stalled: AtomicU64::new(0), ends: Mutex::default() }
    }

    /// Waits until this many deliveries have begun. `false` after the last one.
    pub(crate) async fn wait_for(&self, number: usize) -> bool {
        let is_reached = |begun: &usize| *begun >= number || *begun == self.count;
        let begun = *self.begun.subscribe().wait_for(is_reached).await.unwrap();
        begun < self.count
    }

    /// Measures how late a timer is, until this is dropped. A busy machine must not make a response late.
    pub(crate) async fn measure_stalls(&self) {
        loop {
            let started = Instant::now();
            tokio::time::sleep(TICK).await;
            let late = started.elapsed().saturating_sub(TICK + TIMER_PRECISION);
            self.stalled.fetch_add(u64::try_from(late.as_millis()).unwrap(), Ordering::Relaxed);
        }
    }

    fn stalled(&self) -> Duration {
        Duration::from_millis(self.stalled.load(Ordering::Relaxed))
    }

    /// Makes a delivery that is signed with `key` unless it is forged, with UNITH's retries.
    pub(crate) async fn deliver(&self, delivery: &Delivery, receiver: &Caller, key: &str) {
        self.begun.send_modify(|begun| *begun += 1);
        let signature = delivery.signature(key);
        let mut responses = Vec::new();
        for is_lost in delivery.lost {
            let stalled = self.stalled();
            let response = within(PATIENCE, receiver.post(&delivery.body, signature.as_deref())).await;
            let (took, stalled) = (response.took, self.stalled().saturating_sub(stalled));
            assert!(took < RESPONSE_TIME + stalled, "late after {took:?}, {stalled:?} of them lost: {}", response.log);
            let (status, outcome) = response.outcome();
            let event_id = response.json()["event_id"].as_str().map(str::to_owned);
            responses.push(Response { status, outcome, event_id, is_lost });
            if status != 503 && !is_lost {
                break;
            }
        }
        self.ends.lock().unwrap().push((delivery.clone(), responses));
    }

    /// Checks the items against every response, those included that got lost on the way.
    pub(crate) fn check(&self, items: &[Item]) -> Figures {
        let ends = self.ends.lock().unwrap();
        assert_eq!(ends.len(), self.count, "every delivery came to an end");
        let mut figures = Figures { deliveries: ends.len(), items: items.len(), ..Figures::default() };
        let found = Found::among(items);
        let mut authentic = BTreeSet::new();
        for (delivery, responses) in ends.iter() {
            let hash = body_sha256(&delivery.body);
            let shown = || format!("{} {responses:?}", String::from_utf8_lossy(&delivery.body));
            for response in responses {
                assert!(is_possible(delivery.kind, response), "{:?} {}", delivery.kind, shown());
                if ["stored", "duplicate"].contains(&response.outcome.as_str()) {
                    assert_eq!(response.event_id.as_ref(), found.events.get(&delivery.session), "{}", shown());
                }
            }
            let times = found.bodies.get(&hash).copied().unwrap_or_default();
            let is_promised = responses.iter().any(|response| matches!(response.status, 200 | 202));
            if matches!(delivery.kind, Kind::Event | Kind::Variant | Kind::Unreadable) {
                assert!(times <= 1, "{times} items: {}", shown());
                assert!(!is_promised || times == 1, "lost: {}", shown());
                authentic.insert(hash);
            } else {
                assert_eq!(times, 0, "{}", shown());
            }
            figures.count(responses, is_promised);
        }
        let unknown: Vec<_> = found.bodies.keys().filter(|hash| !authentic.contains(*hash)).collect();
        assert!(unknown.is_empty(), "items of no delivery: {unknown:?}");
        figures
    }
}

/// Whether a delivery may get this response. Without a key, a 503 is right for all.
fn is_possible(kind: Kind, Response { status, outcome, event_id, .. }: &Response) -> bool {
    let response = (kind, *status, outcome.as_str());
    let names_event = matches!(
        response,
        (Kind::Event | Kind::Variant, 200, "stored" | "duplicate") | (Kind::Expired, 200, "expired")
    );
    let names_none = matches!(
        response,
        (Kind::Event | Kind::Variant | Kind::Unreadable, 202, "accepted")
            | (Kind::Unreadable, 202, "quarantined")
            | (Kind::Forged(_), 401, _)
            | (_, 503, _)
    );
    if event_id.is_some() { names_event } else { names_none }
}

impl Figures {
    fn count(&mut self, responses: &[Response], is_promised: bool) {
        self.lost_responses += responses.iter().filter(|response| response.is_lost).count();
        let seen = responses.last().filter(|response| !response.is_lost && response.status != 503);
        let figure = match seen.map(|response| (response.status, response.outcome.as_str())) {
            Some((401, _)) => &mut self.refused,
            Some((_, "stored")) => &mut self.stored,
            Some((_, "duplicate")) => &mut self.duplicates,
            Some((_, "quarantined")) => &mut self.quarantined,
            Some((_, "accepted")) => &mut self.accepted,
            Some((_, "expired")) => &mut self.expired,
            Some(other) => panic!("{other:?}"),
            None if is_promised => &mut self.unseen,
            None => &mut self.given_up,
        };
        *figure += 1;
    }
}

/// What the table holds.
struct Found {
    /// How often each body is there, as an event or in quarantine, by its hash.
    bodies: BTreeMap<String, usize>,
    /// The id of each session's event: the sessions of the experiment have one.
    events: BTreeMap<String, String>,
}

impl Found {
    fn among(items: &[Item]) -> Self {
        let (mut bodies, mut events) = (BTreeMap::<_, usize>::new(), BTreeMap::new());
        // A body that comes again on another day is in quarantine twice.
        let mut quarantined = BTreeSet::new();
        for item in items {
            let is_event = item.contains_key("event_id");
            let hash = text(item, if is_event { "body_sha256" } else { "sk" }).to_owned();
            if is_event {
                let before = events.insert(text(item, "session_id").to_owned(), text(item, "event_id").to_owned());
                assert!(before.is_none(), "two events of one identity: {item:?}");
            } else if !quarantined.insert(hash.clone()) {
                continue;
            }
            *bodies.entry(hash).or_default() += 1;
        }
        Self { bodies, events }
    }
}
