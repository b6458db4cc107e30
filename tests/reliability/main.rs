//! Experiments: random faults of table and queue, and what became of every delivery.
//!
//! [`streams`] goes on from there: what became of every stored event on the bus and in the sessions table.
//!
//! `RELIABILITY_DELIVERIES` sets how many deliveries are made, `RELIABILITY_SEED` which ones, and when the faults come. The same
//! seed makes the same deliveries and faults; which delivery meets which fault depends on timing.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "an experiment that cannot go on should stop right there, and its figures are printed"
)]

mod faults;
mod floods;
mod lambda;
mod load;
mod open_loop;
mod outage;
mod platform;
mod streams;

use std::{env, str::FromStr, sync::Arc, time::Duration};

use fastrand::Rng;
use tests::{redrive_harness::RedriveHarness, wait::within};

use crate::{
    faults::random_fault,
    platform::{Delivery, Platform},
};

/// Execution environments of `receive` that take deliveries at the same time.
const ENVIRONMENTS: usize = 8;
/// Deliveries of an environment before it is replaced by a cold start.
const LIFE: usize = 40;
/// Longer than the longest back-off of `redrive`.
const BACK_OFF: Duration = Duration::from_mins(40);

fn variable<T: FromStr>(name: &str, default: T) -> T {
    env::var(name).map_or(default, |value| value.parse().ok().unwrap_or_else(|| panic!("{name} is {value}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_delivery_that_got_a_2xx_has_exactly_one_outcome() {
    let (count, seed) = (variable("RELIABILITY_DELIVERIES", 1_000), variable("RELIABILITY_SEED", 1));
    let harness = Arc::new(RedriveHarness::start().await.with("RETENTION_DAYS", "1"));
    let platform = Arc::new(Platform::new(Delivery::random(&mut Rng::with_seed(seed), count)));
    let faults = tokio::spawn(inject_faults(Arc::clone(&harness), Arc::clone(&platform), seed));
    let environments: Vec<_> =
        (0..ENVIRONMENTS).map(|_| tokio::spawn(serve(Arc::clone(&harness), Arc::clone(&platform)))).collect();
    for environment in environments {
        environment.await.unwrap();
    }
    faults.await.unwrap();
    let waiting = harness.spilled().len();
    harness.table.proxy.clear();
    harness.sqs_proxy.clear();
    within(Duration::from_mins(30), drain(&harness)).await;
    assert!(harness.dead_letters().is_empty(), "a dead letter is a bug");
    let figures = platform.check(&harness.table.items().await);
    println!("seed {seed}: {figures}; {waiting} waited in the queue at the end of the faults");
    assert!(figures.accepted > 0, "the faults were too few to show anything: {figures}");
}

/// Takes deliveries until none is left, in one environment after the other.
async fn serve(harness: Arc<RedriveHarness>, platform: Arc<Platform>) {
    loop {
        let receiver = harness.receiver().await;
        for _ in 0..LIFE {
            let Some(delivery) = platform.next() else { return };
            platform.deliver(delivery, &receiver).await;
        }
    }
}

/// Changes the faults with every few deliveries, and lets `redrive` try a batch each time.
async fn inject_faults(harness: Arc<RedriveHarness>, platform: Arc<Platform>, seed: u64) {
    let mut random = Rng::with_seed(seed ^ 0x5eed);
    let mut next = 0;
    while platform.wait_for(next).await {
        for proxy in [&harness.table.proxy, &harness.sqs_proxy] {
            proxy.clear();
            if let Some(fault) = random_fault(&mut random) {
                proxy.set(fault);
            }
        }
        harness.sqs.pass_time(BACK_OFF);
        harness.deliver().await;
        next += random.usize(5..40);
    }
}

/// Lets `redrive` take what waits, until nothing does.
async fn drain(harness: &RedriveHarness) {
    while !harness.spilled().is_empty() {
        harness.sqs.pass_time(BACK_OFF);
        while !harness.deliver().await.is_empty() {}
    }
}
