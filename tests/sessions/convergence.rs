//! Random sessions, orders, redeliveries and faults: every row ends as the fold of its session's events.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use sessions::item::SessionItem;
use tests::{
    proxy::Fault,
    sessions_harness::{END, START, SessionsHarness, TIMEOUT, WARNING, failed_from, sequence_number},
    wait::{PATIENCE, within},
};
use tokio::time::Instant;

const SESSIONS: usize = 12;
const EVENTS: usize = 120;
const TYPES: [&str; 5] = [START, WARNING, "HANDED_OVER", TIMEOUT, END];

/// A shard of the stream: records in order, of which those before `position` are done.
#[derive(Default)]
struct Shard {
    records: Vec<Value>,
    position: usize,
}

impl Shard {
    /// Some of the records that are not done, as the event source mapping sends them.
    fn batch(&self, random: &mut fastrand::Rng) -> Vec<Value> {
        let end = (self.position + random.usize(1..=10)).min(self.records.len());
        self.records[self.position..end].to_vec()
    }

    /// Moves behind a batch, up to its first record that failed.
    fn advance(&mut self, batch: &[Value], response: &Value) {
        let failed = failed_from(response);
        let done = batch.iter().take_while(|record| Some(sequence_number(record)) != failed).count();
        self.position += done;
    }
}

/// A fault for one of the next requests or some of them. Most of them hold a writer up.
fn fault(random: &mut fastrand::Rng) -> Option<Fault> {
    let fault = match random.u8(..9) {
        0 => Fault::hot_key(),
        1 => Fault::throttled(),
        2 => Fault::drop_response(),
        3 => Fault::status(500),
        4 => return None,
        _ => Fault::delay(Duration::from_millis(random.u64(10..80))),
    };
    Some(fault.after(random.u32(0..6)).times(random.u32(1..12)))
}

/// The events that are stored, each once.
#[derive(Default)]
struct Stored(BTreeSet<(usize, u32, usize)>);

impl Stored {
    /// Stores some events of these sessions, in any order. UNITH sends whole seconds, so many of them tie.
    async fn some(&mut self, harness: &SessionsHarness, random: &mut fastrand::Rng, sessions: &[usize]) -> Vec<Value> {
        let mut records = Vec::new();
        for _ in 0..random.usize(1..8) {
            let Some(session) = random.choice(sessions).copied() else { break };
            let (second, event_type) = (random.u32(0..30), random.usize(0..TYPES.len()));
            if self.0.len() < EVENTS && self.0.insert((session, second, event_type)) {
                let occurred_at = format!("2026-01-15T10:00:{second:02}Z");
                records.push(harness.store(&session.to_string(), TYPES[event_type], &occurred_at).await);
            }
        }
        records
    }
}

fn session(record: &Value) -> usize {
    record["dynamodb"]["NewImage"]["session_id"]["S"].as_str().unwrap().parse().unwrap()
}

async fn run(seed: u64) {
    let (harness, mut random) = (SessionsHarness::start().await, fastrand::Rng::with_seed(seed));
    let updaters = [harness.updater(), harness.updater()];
    let mut shards = [Shard::default(), Shard::default()];
    let (mut stored, mut sent, mut checked) = (Stored::default(), Vec::new(), 0);
    let all: Vec<_> = (0..SESSIONS).collect();
    while stored.0.len() < EVENTS || shards.iter().any(|shard| shard.position < shard.records.len()) {
        for record in stored.some(&harness, &mut random, &all).await {
            shards[session(&record) % 2].records.push(record);
        }
        match fault(&mut random) {
            Some(fault) => harness.table.proxy.set(fault),
            None => harness.table.proxy.clear(),
        }
        let invoke = |updater: usize, records: Vec<Value>| {
            updaters[updater].handle(json!({"Records": records}), "request-1", Instant::now() + PATIENCE)
        };
        let batches = [shards[0].batch(&mut random), shards[1].batch(&mut random)];
        let sessions: Vec<_> = batches.iter().flatten().map(session).collect();
        // While both shards' batches are handled, more events of the same sessions are stored and delivered, together with a
        // batch of an invocation that was thought lost.
        let again: Vec<Value> = random.choice(&sent).cloned().unwrap_or_default();
        let overtake = async {
            let fresh = stored.some(&harness, &mut random, &sessions).await;
            (invoke(1, [fresh.clone(), again].concat()).await.unwrap(), fresh)
        };
        let (first, second, (overtaking, fresh)) =
            tokio::join!(invoke(0, batches[0].clone()), invoke(1, batches[1].clone()), overtake);
        shards[0].advance(&batches[0], &first.unwrap());
        shards[1].advance(&batches[1], &second.unwrap());
        if failed_from(&overtaking).is_none() && !fresh.is_empty() {
            // No event of them was stored since.
            let of_fresh = |rows: Vec<SessionItem>| {
                let is_fresh =
                    |row: &SessionItem| fresh.iter().any(|record| row.session_id == *session(record).to_string());
                rows.into_iter().filter(is_fresh).collect::<Vec<_>>()
            };
            assert_eq!(of_fresh(harness.rows().await), of_fresh(harness.expected_rows().await), "seed {seed}");
            checked += 1;
        }
        for record in fresh {
            shards[session(&record) % 2].records.push(record);
        }
        sent.extend(batches);
    }
    assert!(checked > 0, "seed {seed}");
    harness.table.proxy.clear();
    let rows = harness.rows().await;
    assert_eq!(rows, harness.expected_rows().await, "seed {seed}");
    assert!(harness.poison().is_empty());
    let items = harness.items().await;
    harness.empty().await;
    assert!(harness.items().await.is_empty());
    let report = harness.invoke(json!({"action": "rebuild"})).await.unwrap();
    assert_eq!(
        (&report["ok"], &report["written"], &report["cursor"]),
        (&json!(true), &json!(rows.len()), &json!(null))
    );
    assert_eq!(harness.items().await, items, "seed {seed}");
}

#[tokio::test]
async fn every_row_ends_as_the_fold_of_its_sessions_events_and_a_rebuild_makes_identical_items() {
    for seed in 0..4 {
        within(4 * PATIENCE, Box::pin(run(seed))).await;
    }
}
