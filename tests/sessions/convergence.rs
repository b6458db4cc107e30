//! Random sessions, orders, redeliveries and faults: every row ends as the fold of its session's events.

use std::collections::BTreeMap;

use serde_json::{Value, json};
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

fn fault(random: &mut fastrand::Rng) -> Option<Fault> {
    let fault = match random.u8(..6) {
        0 => Fault::hot_key(),
        1 => Fault::throttled(),
        2 => Fault::drop_response(),
        3 => Fault::status(500),
        4 => Fault::delay(std::time::Duration::from_millis(random.u64(1..60))),
        _ => return None,
    };
    Some(fault.after(random.u32(0..6)).times(random.u32(1..12)))
}

async fn run(seed: u64) {
    let (harness, mut random) = (SessionsHarness::start().await, fastrand::Rng::with_seed(seed));
    let updaters = [harness.updater(), harness.updater()];
    let mut shards = [Shard::default(), Shard::default()];
    let (mut stored, mut sent) = (BTreeMap::new(), Vec::new());
    let deadline = || Instant::now() + PATIENCE;
    while stored.len() < EVENTS || shards.iter().any(|shard| shard.position < shard.records.len()) {
        // UNITH sends whole seconds, so many events tie. They arrive in any order.
        for _ in 0..random.usize(0..12) {
            let (session, second) = (random.usize(0..SESSIONS), random.u32(0..30));
            let key = (session, second, random.usize(0..TYPES.len()));
            if stored.len() < EVENTS && stored.insert(key, ()).is_none() {
                let occurred_at = format!("2026-01-15T10:00:{second:02}Z");
                let record = harness.store(&session.to_string(), TYPES[key.2], &occurred_at).await;
                shards[session % 2].records.push(record);
            }
        }
        match fault(&mut random) {
            Some(fault) => harness.table.proxy.set(fault),
            None => harness.table.proxy.clear(),
        }
        // Two shards at a time, and beside them a batch again that was delivered before: its invocation was thought lost.
        let batches = [shards[0].batch(&mut random), shards[1].batch(&mut random)];
        let again: Vec<_> = random.choice(&sent).cloned().unwrap_or_default();
        let invoke = |updater: usize, batch: &Vec<Value>| {
            updaters[updater].handle(json!({"Records": batch}), "request-1", deadline())
        };
        let responses = tokio::join!(invoke(0, &batches[0]), invoke(1, &batches[1]), invoke(0, &again));
        shards[0].advance(&batches[0], &responses.0.unwrap());
        shards[1].advance(&batches[1], &responses.1.unwrap());
        responses.2.unwrap();
        sent.extend(batches);
    }
    harness.table.proxy.clear();
    let rows = harness.rows().await;
    assert_eq!(rows, harness.expected_rows().await, "seed {seed}");
    assert!(harness.poison().is_empty());
    let items = harness.items().await;
    harness.empty().await;
    assert!(harness.items().await.is_empty());
    let report = harness.invoke(json!({"action": "rebuild"})).await.unwrap();
    assert_eq!((&report["ok"], &report["written"], &report["cursor"]), (&json!(true), &json!(rows.len()), &json!(null)));
    assert_eq!(harness.items().await, items, "seed {seed}");
}

#[tokio::test]
async fn every_row_ends_as_the_fold_of_its_sessions_events_and_a_rebuild_makes_identical_items() {
    for seed in 0..6 {
        within(4 * PATIENCE, run(seed)).await;
    }
}
