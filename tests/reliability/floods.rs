//! Floods: one event many times, many events of one session, forgeries.
//!
//! `FLOOD_EVENTS` is how many there are of each, `FLOOD_RATE` is the rate in events per second.

use std::{sync::Arc, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use event_store::{item::body_sha256, keys::session_pk};
use fastrand::Rng;
use lambda_http::Request;
use receive::{breaker::Periods, delivery::Delivery, gateway::neutral};
use serde_json::{json, value::to_raw_value};
use tests::{
    delivery::{HEAD, SESSION, event, sign},
    gateway_event::http_api_event,
    receive_harness::ReceiveHarness,
    table::text,
};
use unith_events::timestamp::Timestamp;

use crate::{
    lambda::{Lambda, body},
    open_loop::offer,
    variable,
};

/// Environments that Lambda makes at most.
const LIMIT: usize = 50;
/// Environments that get forgeries.
const FLOODED: u32 = 4;
/// The pause of `receive` between two reads of the key ring.
const REFRESH_PAUSE: Duration = Duration::from_secs(10);

fn count() -> usize {
    variable("FLOOD_EVENTS", 100)
}

fn rate() -> u32 {
    variable("FLOOD_RATE", 50)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_comes_ten_thousand_times_has_one_item() {
    let lambda = Lambda::new(LIMIT, Periods::default()).await;
    let load = offer(rate(), count(), |_| Arc::clone(&lambda).deliver(body(0))).await;
    let ends = lambda.check(&load, |_| body(0)).await;
    println!("one event, {load}; {ends}");
    assert_eq!(ends.items, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_events_of_one_session_are_read_in_the_order_in_which_they_happened() {
    let (mut order, start) = ((0..count()).collect::<Vec<_>>(), Timestamp::parse("2026-01-15T09:57:33Z").unwrap());
    Rng::with_seed(1).shuffle(&mut order);
    // Two events of each instant: the start comes first.
    let body = |number: usize| {
        let timestamp = start.plus(Duration::from_millis(u64::try_from(number / 2).unwrap())).to_string();
        let event_type = ["START_CONVERSATION", "END_CONVERSATION"][number % 2];
        event(&json!({"timestamp": timestamp, "event_type": event_type}))
    };
    let lambda = Lambda::new(LIMIT, Periods::default()).await;
    let load = offer(rate(), count(), |number| Arc::clone(&lambda).deliver(body(order[number]))).await;
    let ends = lambda.check(&load, |number| body(order[number])).await;
    println!("one session, {load}; {ends}");

    let table = &lambda.harness.table;
    let session = session_pk(&HEAD.parse().unwrap(), &SESSION.parse().unwrap());
    let query = table.client.query().table_name(&table.name).key_condition_expression("pk = :session");
    let query = query.expression_attribute_values(":session", AttributeValue::S(session));
    let items = query.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await.unwrap();
    let read: Vec<_> = items.iter().map(|item| text(item, "body_sha256").to_owned()).collect();
    let expected: Vec<_> = (0..count()).map(|number| body_sha256(&body(number))).collect();
    assert!(read == expected, "{} of {} events, or in another order", read.len(), expected.len());
}

#[tokio::test]
async fn forgeries_read_the_key_ring_once_per_ten_seconds_and_environment() {
    // Forgeries come in a time that passes faster than the clock's, in which the ring is read. It begins a minute ahead: a ring
    // from the future would be read again.
    let harness = ReceiveHarness::new().await.with("KEY_CACHE_SECONDS", "1000000");
    let body = event(&json!({}));
    let request = to_raw_value(&http_api_event(&body, Some(&sign(&body, "forged")))).unwrap();
    let (pause, count) = (Duration::from_millis(250), u32::try_from(count()).unwrap());
    let passed = pause * count;
    let expected = passed.as_millis().div_ceil(REFRESH_PAUSE.as_millis());
    for _ in 0..FLOODED {
        let receiver = harness.handler().await;
        let (before, start) = (harness.ring_fetches(), Timestamp::now().plus(Duration::from_mins(1)));
        for number in 0..count {
            let delivery = Delivery::from_request(Request::from(neutral(&request)), start.plus(pause * number));
            let (response, _) = receiver.handle(delivery).await;
            assert_eq!(response.status(), 401);
        }
        let reads = harness.ring_fetches() - before;
        assert_eq!(u128::try_from(reads).unwrap(), expected, "in {passed:?}");
    }
    let passed = passed.as_secs();
    println!(
        "{count} forgeries in {passed} s to each of {FLOODED} environments: {expected} calls of Secrets Manager each"
    );
    assert!(harness.table.items().await.is_empty());
}
