//! Micro-benchmarks of the receiver's steps, and of the whole path with and without the write to the table.

#![allow(missing_docs, clippy::unwrap_used, reason = "a failed assumption should stop the benchmark where it is")]

use std::{hint::black_box, time::Duration};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use event_store::ingest::Outcome;
use lambda_http::{Body, Request};
use receive::{
    delivery::Delivery,
    delivery_log::{DeliveryLog, Facts},
    durable::Kept,
};
use serde_json::json;
use unith_events::{
    event::Event,
    key_ring::{KeyRing, KeyState},
    signature::{SharedKey, Signature},
    timestamp::Timestamp,
    verify::{Verified, verify},
};
use workload::{
    delivery::{Deliveries, HEAD, KEY},
    offline::{Path, receiver_without_network},
};

const KIB: usize = 1024;

/// A key ring of `keys` keys; the last one signs.
fn ring(keys: usize) -> KeyRing {
    let entry = |index: usize| {
        let key = if index + 1 == keys { KEY.to_owned() } else { format!("{index:032x}") };
        json!({"head_id": HEAD, "webhook_id": index, "key": key, "state": "active"})
    };
    KeyRing::parse(&json!({"keys": (0..keys).map(entry).collect::<Vec<_>>()}).to_string()).unwrap()
}

/// An event of about `bytes` bytes.
fn body(bytes: usize) -> Vec<u8> {
    let event = |note: &str| {
        let event = json!({
            "timestamp": "2026-01-15T09:57:33Z", "head_id": HEAD, "session_id": "f47ac10b-58cc-4372-a567-0e02b2c3d479",
            "public_head_id": "jane-15326", "public_org_id": "acme", "event_type": "START_CONVERSATION", "note": note,
        });
        event.to_string().into_bytes()
    };
    event(&"x".repeat(bytes.saturating_sub(event("").len())))
}

fn sign(body: &[u8]) -> Signature {
    SharedKey::parse(KEY).unwrap().sign(body)
}

fn verified<'b>(body: &'b [u8], ring: &KeyRing) -> Verified<'b> {
    verify(body, &sign(body), ring, Timestamp::now()).unwrap()
}

fn verification(c: &mut Criterion) {
    let mut group = c.benchmark_group("verify");
    for bytes in [300, 256 * KIB] {
        let body = body(bytes);
        let signature = sign(&body);
        for keys in [1, 10, 500] {
            let ring = ring(keys);
            let now = Timestamp::now();
            group.throughput(Throughput::Bytes(u64::try_from(bytes * keys).unwrap()));
            group.bench_function(BenchmarkId::new(format!("{keys} keys"), format!("{bytes} B")), |b| {
                b.iter(|| verify(black_box(&body), &signature, &ring, now).unwrap());
            });
        }
    }
    group.finish();
}

fn parsing(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    let ring = ring(1);
    for bytes in [300, 256 * KIB] {
        let body = body(bytes);
        let verified = verified(&body, &ring);
        group.bench_function(format!("{bytes} B"), |b| b.iter(|| Event::parse(black_box(&verified)).unwrap()));
    }
    group.finish();
}

fn identity(c: &mut Criterion) {
    let event = Event::parse(&verified(&body(300), &ring(1))).unwrap();
    c.bench_function("event_id", |b| b.iter(|| black_box(&event.identity).event_id()));
}

fn log_line(c: &mut Criterion) {
    let event = Event::parse(&verified(&body(300), &ring(1))).unwrap();
    let stored = Ok(Kept::Ingested(Outcome::Stored { event_id: event.event_id.clone() }));
    let delivery = Delivery::from_request(Request::new(Body::Empty), Timestamp::now());
    let facts = || Facts {
        key_ring_refreshed: false,
        key_state: Some(KeyState::Active),
        key_head: HEAD.parse().ok(),
        event: Some(Ok(event.clone())),
        store_time: Some(Duration::from_millis(3)),
    };
    let line = |facts| {
        let log = DeliveryLog::new(&delivery, facts, &stored, Duration::from_millis(4), Some("UnithWebhooks"));
        serde_json::to_vec(&log).unwrap()
    };
    c.bench_function("log line", |b| b.iter_batched(facts, line, BatchSize::SmallInput));
}

/// From the gateway event's JSON to the response's.
fn whole_path(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let deliveries = Deliveries::of("bench", 1).unwrap();
    let event = &deliveries.iter().next().unwrap().event;
    let mut group = c.benchmark_group("delivery");
    for (name, path) in [("expired: up to the write", Path::Expired), ("stored: the write as well", Path::Stored)] {
        // The line is serialized and dropped: printing a million of them would dominate.
        let write_log = |log: &DeliveryLog| {
            black_box(serde_json::to_vec(log).unwrap());
        };
        let mut receiver = receiver_without_network(path, write_log).unwrap();
        group.bench_function(name, |b| b.iter(|| runtime.block_on(receiver.invoke(event.as_bytes())).unwrap()));
    }
    group.finish();
}

criterion_group!(steps, verification, parsing, identity, log_line, whole_path);
criterion_main!(steps);
