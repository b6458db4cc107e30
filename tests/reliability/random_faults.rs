//! Random faults of table, queue and Secrets Manager: at init, at the first event, and in a warm environment.
//!
//! `RELIABILITY_DELIVERIES` sets how many deliveries are made in all, `RELIABILITY_SEED` which ones, and what their environments
//! live through. Every environment reaches the services through proxies of its own, so the same seed makes the same deliveries
//! meet the same faults. What is left to chance is how concurrent deliveries of one event interleave.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
    vec::IntoIter,
};

use aws_sdk_secretsmanager::config::timeout::TimeoutConfig;
use fastrand::Rng;
use sandbox::{clients::secrets_client, secrets_manager::SecretsManager, server::listen};
use tests::{
    redrive_harness::{LONGEST_BACK_OFF, RedriveHarness},
    wait::{PATIENCE, within},
};
use tokio::task::JoinSet;

use crate::{
    environment::{Met, NEXT_KEY, Services, live},
    faults::{Service, random_fault},
    plan::{Phase, Plan},
    platform::{Delivery, Figures, OTHERS_KEY, Platform},
    variable,
};

/// Execution environments of `receive` that take deliveries at the same time.
const ENVIRONMENTS: usize = 32;
/// Batches that `redrive` takes before its faults change.
const BATCHES: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_the_table_lose_nothing_that_got_a_2xx() {
    let (figures, _) = experiment("table only", &[Service::Table], 1).await;
    assert!(figures.accepted > 0, "the faults were too few to show anything: {figures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_the_queue_lose_nothing_that_got_a_2xx() {
    experiment("queue only", &[Service::Queue], 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_table_and_queue_lose_nothing_that_got_a_2xx() {
    let (figures, _) = experiment("both", &[Service::Table, Service::Queue], 3).await;
    assert!(figures.accepted > 0 && figures.given_up > 0, "the faults were too few to show anything: {figures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_secrets_manager_lose_nothing_that_got_a_2xx() {
    let (_, met) = experiment("Secrets Manager", &[Service::Secrets], 4).await;
    assert!(met.rotations > 0, "{met:?}");
}

/// Makes a quarter of the deliveries under faults of `services`, and checks what became of every one.
async fn experiment(name: &str, services: &'static [Service], number: u64) -> (Figures, Met) {
    let (count, seed) = (variable("RELIABILITY_DELIVERIES", 800) / 4, variable("RELIABILITY_SEED", 1_u64));
    let mut random = Rng::with_seed(seed * 10 + number);
    let secrets = SecretsManager::serve(listen("Secrets Manager", 0).await.unwrap()).unwrap();
    let patient = TimeoutConfig::builder().operation_attempt_timeout(PATIENCE).build();
    let client = secrets_client(secrets.url()).unwrap().config().to_builder().timeout_config(patient).build();
    let shared = Arc::new(Services {
        harness: RedriveHarness::start().await.with("RETENTION_DAYS", "1"),
        secrets_url: secrets.url().to_owned(),
        secrets_client: aws_sdk_secretsmanager::Client::from_conf(client),
    });
    for key in [NEXT_KEY, OTHERS_KEY] {
        shared.harness.known.add_key(key);
    }
    let deliveries = Delivery::random(&mut random, count);
    let platform = Arc::new(Platform::new(deliveries.len()));
    let plans = Arc::new(Mutex::new(Plan::all(services, &mut random, deliveries).into_iter()));
    let redriving = tokio::spawn(redrive(Arc::clone(&shared), Arc::clone(&platform), services, random));
    let watched = Arc::clone(&platform);
    let stalls = tokio::spawn(async move { watched.measure_stalls().await });
    let started = Instant::now();
    let mut environments: JoinSet<_> =
        (0..ENVIRONMENTS).map(|_| take_plans(Arc::clone(&shared), Arc::clone(&platform), Arc::clone(&plans))).collect();
    let mut met = Met::default();
    while let Some(of_one) = environments.join_next().await {
        met.add(&of_one.unwrap());
    }
    redriving.await.unwrap();
    stalls.abort();
    let took = started.elapsed().as_secs();
    let harness = &shared.harness;
    let waiting = harness.spilled().len();
    harness.table.proxy.clear();
    harness.sqs_proxy.clear();
    within(Duration::from_mins(30), harness.drain()).await;
    assert!(harness.dead_letters().is_empty(), "a dead letter is a bug");
    let figures = platform.check(&harness.table.items().await);
    println!(
        "{name}, seed {seed}: {figures}; {waiting} waited in the queue at the end of the faults, after {took} s\n  {met}"
    );
    for phase in [Phase::Init, Phase::FirstEvent, Phase::Warm] {
        let faults = met.faults.get(&phase).copied().unwrap_or_default();
        assert!(faults > 0 || !services.contains(&Service::Table), "no fault at {phase:?}");
    }
    (figures, met)
}

/// Lives one life after the other, until none is left.
async fn take_plans(services: Arc<Services>, platform: Arc<Platform>, plans: Arc<Mutex<IntoIter<Plan>>>) -> Met {
    let mut met = Met::default();
    loop {
        let Some(plan) = plans.lock().unwrap_or_else(PoisonError::into_inner).next() else { return met };
        met.add(&live(&services, &platform, plan).await);
    }
}

/// Lets `redrive` take what waits, under faults that change with every few deliveries.
async fn redrive(shared: Arc<Services>, platform: Arc<Platform>, services: &[Service], mut random: Rng) {
    let harness = &shared.harness;
    let mut next = 0;
    while platform.wait_for(next).await {
        for &service in services {
            let proxy = match service {
                Service::Table => &harness.table.proxy,
                Service::Queue => &harness.sqs_proxy,
                // `redrive` needs no key.
                Service::Secrets => continue,
            };
            match random_fault(service, &mut random) {
                Some(fault) => proxy.set(fault),
                None => proxy.clear(),
            }
        }
        harness.sqs.pass_time(LONGEST_BACK_OFF);
        for _ in 0..BATCHES {
            if harness.deliver().await.iter().all(|line| line["outcome"] == "returned") {
                break;
            }
        }
        next += random.usize(20..100);
    }
}
