//! Lambda's side, which makes environments on demand, and UNITH's side, which repeats deliveries.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use event_store::item::body_sha256;
use receive::breaker::Periods;
use serde_json::{Value, json};
use tests::{
    delivery::{KEY, event, sign},
    gateway_event::http_api_event,
    receive_harness::{Caller, Response},
    redrive_harness::RedriveHarness,
    table::text,
    wait::within,
};
use tokio::time::{sleep, timeout};

use crate::open_loop::Load;

/// UNITH waits this long for a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// UNITH's pauses before its retries.
const BACK_OFF: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
const TYPES: [&str; 4] = ["START_CONVERSATION", "INACTIVITY_WARNING", "TIMEOUT_CONVERSATION", "END_CONVERSATION"];

/// The function as Lambda runs it. An environment takes one delivery at a time, and stays.
pub(crate) struct Lambda {
    pub(crate) harness: RedriveHarness,
    breaker: Periods,
    limit: usize,
    environments: Mutex<Environments>,
}

#[derive(Default)]
struct Environments {
    idle: Vec<Caller>,
    made: usize,
    turned_away: usize,
}

/// How deliveries ended, and what Lambda did for them.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    deliveries: usize,
    /// The number of deliveries with each outcome of a 2xx.
    outcomes: BTreeMap<String, usize>,
    given_up: usize,
    pub(crate) items: usize,
    environments: usize,
    turned_away: usize,
}

impl Ends {
    /// The number of deliveries with this outcome.
    pub(crate) fn times(&self, outcome: &str) -> usize {
        self.outcomes.get(outcome).copied().unwrap_or_default()
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { deliveries, outcomes, given_up, items, environments, turned_away } = self;
        write!(f, "{environments} environments, {turned_away} attempts turned away; {deliveries} deliveries: ")?;
        for (outcome, times) in outcomes {
            write!(f, "{times} {outcome}, ")?;
        }
        write!(f, "{given_up} given up; {items} items, 0 lost")
    }
}

impl Lambda {
    /// No environment yet, and at most `limit` of them.
    pub(crate) async fn new(limit: usize, breaker: Periods) -> Arc<Self> {
        let harness = RedriveHarness::start().await;
        Arc::new(Self { harness, breaker, limit, environments: Mutex::default() })
    }

    /// A delivery of UNITH: up to four attempts. `None` is one that was given up.
    pub(crate) async fn deliver(self: Arc<Self>, body: Vec<u8>) -> Option<String> {
        let event = http_api_event(&body, Some(&sign(&body, KEY)));
        for pause in BACK_OFF.into_iter().map(Some).chain([None]) {
            // The invocation goes on when UNITH no longer waits for it.
            let invocation = tokio::spawn(Arc::clone(&self).invoke(event.clone()));
            match timeout(RESPONSE_TIMEOUT, invocation).await.map(Result::unwrap) {
                Ok(Some(response)) if [200, 202].contains(&response.status) => return Some(response.outcome().1),
                Ok(Some(response)) if response.status != 503 => panic!("{}: {}", response.status, response.text),
                _ => {}
            }
            if let Some(pause) = pause {
                sleep(pause).await;
            }
        }
        None
    }

    /// An invocation in an idle environment, or else in a new one. `None` is the 429 at the limit.
    async fn invoke(self: Arc<Self>, event: Value) -> Option<Response> {
        let idle = {
            let mut environments = self.environments();
            let idle = environments.idle.pop();
            if idle.is_none() {
                if environments.made == self.limit {
                    environments.turned_away += 1;
                    return None;
                }
                environments.made += 1;
            }
            idle
        };
        let environment = match idle {
            Some(environment) => environment,
            None => self.harness.receiver_with_breaker(self.breaker).await,
        };
        let response = environment.invoke(&event).await;
        self.environments().idle.push(environment);
        Some(response)
    }

    /// Lets `redrive` store what waits. Then each body that got a 2xx must have one item, and no other item may exist.
    pub(crate) async fn check(&self, load: &Load, body: impl Fn(usize) -> Vec<u8>) -> Ends {
        within(Duration::from_mins(30), self.harness.drain()).await;
        assert!(self.harness.dead_letters().is_empty(), "a dead letter is a bug");
        let items = self.harness.table.items().await;
        let mut found: BTreeMap<&str, usize> = BTreeMap::new();
        for item in &items {
            *found.entry(text(item, "body_sha256")).or_default() += 1;
        }
        let mut ends = Ends { items: items.len(), ..Ends::default() };
        let mut delivered = BTreeSet::new();
        for (number, outcome) in load.outcomes() {
            let hash = body_sha256(&body(number));
            let times = found.get(&*hash).copied().unwrap_or_default();
            assert!(times <= 1, "delivery {number} has {times} items");
            assert!(outcome.is_none() || times == 1, "delivery {number} was lost after {outcome:?}");
            ends.deliveries += 1;
            match outcome {
                Some(outcome) => *ends.outcomes.entry(outcome.to_owned()).or_default() += 1,
                None => ends.given_up += 1,
            }
            delivered.insert(hash);
        }
        let unknown: Vec<_> = found.keys().filter(|hash| !delivered.contains(**hash)).collect();
        assert!(unknown.is_empty(), "items of no delivery: {unknown:?}");
        let environments = self.environments();
        Ends { environments: environments.made, turned_away: environments.turned_away, ..ends }
    }

    fn environments(&self) -> MutexGuard<'_, Environments> {
        self.environments.lock().unwrap()
    }
}

/// The body of a delivery: each four of them are a session.
pub(crate) fn body(number: usize) -> Vec<u8> {
    event(
        &json!({"session_id": format!("session-{}", number / TYPES.len()), "event_type": TYPES[number % TYPES.len()]}),
    )
}
