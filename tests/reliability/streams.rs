//! The functions on the table's stream: `publish` and `sessions`, with faults of everything around them.
//!
//! Many writers store sessions of every kind, in the order of a seeded plan. The real functions read the stream behind simulated
//! event source mappings, which throttle, cut, repeat and delay invocations all the while. In each phase something else fails.
//! In the end, bus, ordered queue, sessions table and on-failure queues are compared with table and stream.
//!
//! `STREAM_EVENTS` is how many events are stored, `STREAM_SEED` which ones, and when the faults come.

mod delivery;
mod environments;
mod phases;
mod plan;
mod published;
mod system;
mod truth;

use std::{collections::BTreeSet, time::Duration};

use fastrand::Rng;
use sandbox::{queues::FAILURE_QUEUE, sqs::Sqs, stream_mapping::Progress};
use serde_json::{Value, json};
use tests::{stream_record::inserted, wait::within};

use self::{
    delivery::{Delivery, Writer},
    phases::{PARTS, POISONED},
    plan::Plan,
    published::Published,
    system::{Counts, Range, System},
    truth::{Stored, Truth},
};
use crate::variable;

/// Longer than the whole experiment takes.
const LIMIT: Duration = Duration::from_hours(1);
/// The time of the first call of a rebuild: it needs several.
const SHORT_CALL: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stored_event_is_lost_on_the_bus_or_missing_in_its_summary() {
    let (count, seed) = (variable("STREAM_EVENTS", 1_500), variable("STREAM_SEED", 1));
    Box::pin(within(LIMIT, run(count, seed))).await;
}

async fn run(count: usize, seed: u64) {
    let mut random = Rng::with_seed(seed);
    let plan = Plan::random(&mut random, count, PARTS, POISONED);
    let system = System::start(seed).await;
    phases::run(&system, Writer::new(&system.publish.table), &plan, &mut random).await;
    let truth = Truth::read(&system.publish.table, &plan).await;
    let planned: BTreeSet<_> = plan.parts.iter().flatten().filter_map(Delivery::key).collect();
    assert_eq!(planned.len(), truth.events.len() + truth.broken, "each event has one item");

    let lost = restore_lost(&system, &truth).await;
    let bus = Published::on_bus(&system.publish.eventbridge, &truth);
    assert_eq!(bus.missing(&truth).len(), 0, "events are lost");
    let queue = Published::in_queue(&system.publish.ordered(), &truth);
    assert_eq!(queue.missing(&truth).len(), 0, "events are lost in the ordered queue");
    let (rows, calls) = check_sessions(&system, &plan, &truth).await;
    let mappings = [system.publish_mapping.progress(), system.sessions_mapping.progress()];
    for Progress { read, filtered, processed, .. } in mappings {
        assert_eq!((read, filtered), (filtered + processed, truth.quarantined), "records were given up");
    }
    assert_eq!(reported(&system.publish.sqs), plan.not_published);
    assert_eq!(reported(&system.sessions.sqs), plan.not_folded);

    let [publish, sessions] = mappings.map(|progress| figures(&progress));
    let Counts { held, retried, .. } = system.log.counts();
    println!(
        "seed {seed}: {} events in {} sessions, {} quarantined; bus: {} publications, 0 lost, 0 out of order, {} duplicates, \
         {lost} lost while it was deleted and {} replayed; ordered queue: {} messages, 0 lost, 0 out of order; publish: {publish}, \
         {held} held back, {retried} sent again, {} poison, {} environments",
        truth.events.len(),
        truth.sessions.len(),
        truth.quarantined,
        bus.publications,
        bus.duplicates,
        bus.replayed,
        queue.publications,
        plan.not_published.len(),
        system.publishers.started(),
    );
    println!(
        "seed {seed}: {rows} rows, 0 differ; rebuilt in {calls} calls, 0 differ; sessions: {sessions}, {} poison, {} environments",
        plan.not_folded.len(),
        system.updaters.started(),
    );
}

/// Replays the ranges that `publish` reported. What the bus lost while it was deleted must be in them. The result is how many
/// events that were.
async fn restore_lost(system: &System, truth: &Truth) -> usize {
    // Each environment looks for the bus with its next records.
    let any = truth.events.values().find(|event| event.is_published).expect("there are events");
    let record = inserted(&any.item.clone().into(), 1);
    system.wait_until_looks_are_old().await;
    system.publishers.invoke_each(&json!({"Records": [record]})).await;
    let ranges = merged(system.log.counts().ranges);
    let published = Published::on_bus(&system.publish.eventbridge, truth);
    let (sent, lost) = (published.lost(truth), published.missing(truth));
    for Stored { item, .. } in sent.iter().chain(&lost) {
        let is_reported = ranges.iter().any(|range| range.contains(&item.received_at.to_string(), &item.head_id));
        assert!(is_reported, "{} of {} is lost, and in no range to replay", item.sk, item.pk);
    }
    assert!(!lost.is_empty(), "the bus was not missed");
    assert!(sent.len() <= ranges.iter().map(|range| range.events).sum(), "{} events: {ranges:?}", sent.len());
    for Range { from, to, head_ids, .. } in ranges {
        replay(system, json!({"from": from, "to": to, "head_ids": head_ids})).await;
    }
    // Self-tests are replayed by name alone.
    let names: BTreeSet<_> = lost.iter().map(|event| (&event.item.head_id, &event.item.session_id)).collect();
    for (head, session) in names.into_iter().filter(|(_, session)| session.is_self_test()) {
        replay(system, json!({"head_id": head, "session_id": session})).await;
    }
    lost.len()
}

/// Compares the rows with the events, empties the table, and compares the rows of a rebuild. The result is the numbers of rows
/// and of calls.
async fn check_sessions(system: &System, plan: &Plan, truth: &Truth) -> (usize, usize) {
    let rows = system.sessions.items().await;
    let (found, expected) = (system.sessions.rows().await, truth.rows());
    assert_eq!(found.len(), expected.len(), "a session has no row, or a row no session");
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected, "a row is not the fold of its events");
    }
    system.sessions.empty().await;
    assert!(system.sessions.items().await.is_empty());
    let calls = rebuild(system, plan).await;
    assert!(system.sessions.items().await == rows, "the rows of a rebuild are others");
    (rows.len(), calls)
}

fn figures(progress: &Progress) -> String {
    let Progress { invocations, failed_invocations, partial_failures, finished_late, redelivered, .. } = progress;
    format!(
        "{invocations} invocations, {failed_invocations} failed, {partial_failures} in part, {finished_late} finished late, \
         {redelivered} records delivered again"
    )
}

impl Range {
    fn contains(&self, received_at: &String, head: &str) -> bool {
        (&self.from..=&self.to).contains(&received_at) && self.head_ids.contains(head)
    }
}

/// The same ranges, those that overlap as one.
fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_by(|one, other| one.from.cmp(&other.from));
    let mut merged: Vec<Range> = Vec::new();
    for range in ranges {
        match merged.last_mut().filter(|last| range.from <= last.to) {
            Some(last) => {
                last.to = range.to.max(std::mem::take(&mut last.to));
                last.head_ids.extend(range.head_ids);
                last.events += range.events;
            }
            None => merged.push(range),
        }
    }
    merged
}

/// Replays all that a filter names.
async fn replay(system: &System, filter: Value) {
    let mut command = filter;
    (command["action"], command["apply"], command["reason"]) = (json!("replay"), json!(true), json!("bus deleted"));
    loop {
        let report = system.publishers.invoke_within(command.clone(), LIMIT).await.unwrap();
        assert!(report["ok"] == true && report["matching"].as_u64() > Some(0), "{report}");
        command["cursor"] = report["cursor"].clone();
        if command["cursor"].is_null() {
            return;
        }
    }
}

/// Rebuilds all rows. The result is the number of calls.
async fn rebuild(system: &System, plan: &Plan) -> usize {
    let (mut cursor, mut limit, mut failed, mut calls) = (Value::Null, SHORT_CALL, 0, 0);
    loop {
        calls += 1;
        let command = json!({"action": "rebuild", "cursor": cursor});
        let report = system.updaters.invoke_within(command, limit).await.unwrap();
        assert!(report.get("error").is_none() || report["cursor"] == cursor, "{report}");
        failed += report["failed"].as_u64().unwrap();
        // A call whose time is up before its first session is done says so, or has the same cursor.
        if report["cursor"] == cursor && (report.get("error").is_some() || !cursor.is_null()) {
            limit *= 2;
            continue;
        }
        cursor = report["cursor"].clone();
        if cursor.is_null() {
            let alone = plan.not_folded.iter().filter(|(pk, _)| pk.contains("broken"));
            assert_eq!(usize::try_from(failed).unwrap(), alone.count(), "sessions without an event cannot be rebuilt");
            return calls;
        }
    }
}

/// The items that an on-failure queue names.
fn reported(sqs: &Sqs) -> BTreeSet<(String, String)> {
    let messages = sqs.messages(FAILURE_QUEUE).into_iter();
    let text = |message: &Value, name: &str| message[name].as_str().unwrap_or_default().to_owned();
    messages
        .map(|message| serde_json::from_str::<Value>(&message.body).unwrap())
        .map(|message| (text(&message, "pk"), text(&message, "sk")))
        .collect()
}
