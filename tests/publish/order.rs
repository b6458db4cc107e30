//! Order under faults: batches of random sessions against an EventBridge whose requests and entries fail at random, retried as
//! the event source mapping does, until they are done.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use publish::config::Timing;
use sandbox::eventbridge::Faults;
use serde_json::Value;
use tests::publish_harness::{END, PublishHarness, START, WARNING, number};

/// Session and type of each record, and the seed of the faults.
#[derive(Debug, Clone)]
struct Case {
    records: Vec<(usize, &'static str)>,
    seed: u64,
    tries: u32,
}

fn cases() -> impl Strategy<Value = Case> {
    let types = prop_oneof![Just(START), Just(WARNING), Just(END), Just("OTHER")];
    (proptest::collection::vec((0..12_usize, types), 1..60), any::<u64>(), 1..4_u32)
        .prop_map(|(records, seed, tries)| Case { records, seed, tries })
}

/// The sequence numbers of a session's records.
type Numbers = Vec<u64>;

async fn check(case: Case) {
    let faults = Faults { seed: case.seed, throttled_entries: 0.1, failed_entries: 0.1, failed_requests: 0.1 };
    let harness = PublishHarness::start_with(faults).await;
    let harness = harness.with_timing(|timing: &mut Timing| timing.entry_tries = case.tries);
    let (mut records, mut stored): (_, BTreeMap<String, Numbers>) = (Vec::new(), BTreeMap::new());
    for (second, (session, event_type)) in case.records.iter().enumerate() {
        let session = session.to_string();
        let at = format!("2026-01-15T09:00:{second:02}.000Z");
        let record = harness.store(&session, event_type, &at).await;
        stored.entry(session).or_default().push(second as u64);
        records.push(record);
    }

    let publisher = harness.publisher();
    let mut rest = records.as_slice();
    for round in 0.. {
        assert!(round < 1_000, "no end in sight");
        let before = published(&harness);
        let held = harness.deliver_to(&publisher, rest).await;
        let after = published(&harness);
        let is_done = |record: &Value| after.contains(&id(record));
        // All records before the one that is named are done, and it is not, unless it was done before.
        let first_held = rest.iter().position(|record| Some(number(record)) == held).unwrap_or(rest.len());
        assert!(rest[..first_held].iter().all(is_done), "an acknowledged record is lost: {case:?}");
        if let Some(record) = rest.get(first_held) {
            assert!(
                !is_done(record) || before.contains(&id(record)),
                "a record that is done holds the shard: {case:?}"
            );
        }
        rest = &rest[first_held..];
        if rest.is_empty() {
            break;
        }
    }

    let mut firsts: BTreeMap<String, Numbers> = BTreeMap::new();
    let mut requests: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for event in harness.published() {
        let metadata = event.detail()["metadata"].clone();
        let session = metadata["session_id"].as_str().unwrap().to_owned();
        requests.entry(event.request).or_default().push(session.clone());
        if seen.insert(metadata["id"].as_str().unwrap().to_owned()) {
            firsts.entry(session).or_default().push(u64::try_from(event.time.epoch_seconds() % 60).unwrap());
        }
    }
    assert_eq!(firsts, stored, "first publications are in order, and nothing is lost: {case:?}");
    for (request, sessions) in requests {
        let distinct: BTreeSet<_> = sessions.iter().collect();
        assert_eq!(distinct.len(), sessions.len(), "request {request} has two events of a session: {case:?}");
        assert!(sessions.len() <= 10);
    }
}

/// The ids of the events that reached the bus.
fn published(harness: &PublishHarness) -> BTreeSet<String> {
    let events = harness.published().into_iter();
    events.map(|event| event.detail()["metadata"]["id"].as_str().unwrap().to_owned()).collect()
}

fn id(record: &Value) -> String {
    record["dynamodb"]["NewImage"]["event_id"]["S"].as_str().unwrap().to_owned()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn first_publications_are_in_order_and_nothing_is_lost(case in cases()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(check(case));
    }
}
