//! An execution environment of `receive`, with a proxy of its own in front of each service, and its life.

use std::{collections::BTreeMap, fmt};

use serde_json::{Value, json};
use tests::{
    delivery::{HEAD, KEY},
    key_ring::{active, ring},
    proxy::Proxy,
    receive_harness::Caller,
    redrive_harness::RedriveHarness,
};

use crate::{
    faults::Service,
    plan::{Phase, Plan},
    platform::{OTHERS_KEY, Platform},
};

/// The key that replaces the first one.
pub(crate) const NEXT_KEY: &str = "0f3c5d7e9a1b2c4d6e8f0a1b2c3d4e5f";

/// The services that the environments share. Each has a secret of its own.
pub(crate) struct Services {
    pub(crate) harness: RedriveHarness,
    pub(crate) secrets_url: String,
    pub(crate) secrets_client: aws_sdk_secretsmanager::Client,
}

/// What environments have met.
#[derive(Debug, Default)]
pub(crate) struct Met {
    /// Requests and connections that met a fault.
    pub(crate) faults: BTreeMap<Phase, u64>,
    pub(crate) cold_starts: usize,
    pub(crate) freezes: usize,
    pub(crate) rotations: usize,
}

impl Met {
    /// Adds what another environment has met.
    pub(crate) fn add(&mut self, other: &Self) {
        for (&phase, faults) in &other.faults {
            *self.faults.entry(phase).or_default() += faults;
        }
        self.cold_starts += other.cold_starts;
        self.freezes += other.freezes;
        self.rotations += other.rotations;
    }
}

/// Lives a life: init, then one delivery after the other.
pub(crate) async fn live(services: &Services, platform: &Platform, plan: Plan) -> Met {
    let Services { harness, secrets_url, .. } = services;
    let upstreams = [
        (Service::Table, &*harness.table.endpoint),
        (Service::Queue, harness.sqs.url()),
        (Service::Secrets, secrets_url),
    ];
    let mut proxies = Vec::new();
    for (service, upstream) in upstreams {
        proxies.push((service, Proxy::start(upstream).await));
    }
    let environment = Environment { services, proxies, plan: &plan };
    let mut met = Met { cold_starts: 1, ..Met::default() };
    environment.create_ring().await;
    let receiver = environment.during(0, &mut met, Box::pin(environment.receiver())).await;
    let mut key = KEY;
    for (delivery, step) in plan.deliveries.iter().zip(1..) {
        if plan.rotation == Some(step) {
            environment.rotate().await;
            met.rotations += 1;
            key = NEXT_KEY;
        }
        if let Some(&how) = plan.freezes.get(&step) {
            environment.proxies.iter().for_each(|(_, proxy)| proxy.make_stale(how));
            met.freezes += 1;
        }
        environment.during(step, &mut met, platform.deliver(delivery, &receiver, key)).await;
    }
    met
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = |phase| self.faults.get(&phase).copied().unwrap_or_default();
        let (init, first, warm) = (faults(Phase::Init), faults(Phase::FirstEvent), faults(Phase::Warm));
        let Self { cold_starts, freezes, rotations, .. } = self;
        write!(
            f,
            "{init} requests met a fault at init, {first} at the first event, {warm} in a warm environment; \
             {cold_starts} cold starts, {freezes} freezes, {rotations} rotations"
        )
    }
}

struct Environment<'s> {
    services: &'s Services,
    proxies: Vec<(Service, Proxy)>,
    plan: &'s Plan,
}

impl Environment<'_> {
    fn secret(&self) -> String {
        format!("ring-{}", self.plan.number)
    }

    async fn create_ring(&self) {
        let create = self.services.secrets_client.create_secret().name(self.secret());
        create.secret_string(ring_of(&[active(HEAD, KEY)])).send().await.unwrap();
    }

    /// Stores the next key. The first one is retiring, as `provision` would leave it.
    async fn rotate(&self) {
        let mut retiring = active(HEAD, KEY);
        (retiring["state"], retiring["until"]) = (json!("retiring"), json!("9999-01-01T00:00:00Z"));
        self.put_ring(&[active(HEAD, NEXT_KEY), retiring]).await;
    }

    async fn put_ring(&self, keys: &[Value]) {
        let put = self.services.secrets_client.put_secret_value().secret_id(self.secret());
        put.secret_string(ring_of(keys)).send().await.unwrap();
    }

    /// The function after its init.
    async fn receiver(&self) -> Caller {
        let endpoints = self.proxies.iter().map(|(service, proxy)| {
            let name = match service {
                Service::Table => "AWS_ENDPOINT_URL_DYNAMODB",
                Service::Queue => "AWS_ENDPOINT_URL_SQS",
                Service::Secrets => "AWS_ENDPOINT_URL_SECRETS_MANAGER",
            };
            (name, proxy.url().to_owned())
        });
        let cache = self.plan.key_cache_seconds.to_string();
        let keys = [("UNITH_KEYS_SECRET", self.secret()), ("KEY_CACHE_SECONDS", cache)];
        self.services.harness.receiver_with(endpoints.chain(keys)).await
    }

    /// Does the `work` of a step under the faults that are planned for it.
    async fn during<T>(&self, step: usize, met: &mut Met, work: impl Future<Output = T>) -> T {
        for (service, proxy) in &self.proxies {
            let mut planned = self.plan.faults.iter().filter(|planned| planned.service == *service);
            match planned.find(|planned| planned.steps.contains(&step)) {
                Some(planned) if *planned.steps.start() == step => proxy.set(planned.fault.clone()),
                Some(_) => {}
                None => proxy.clear(),
            }
        }
        let injected = || self.proxies.iter().map(|(_, proxy)| proxy.injected()).sum::<u64>();
        let before = injected();
        let result = work.await;
        *met.faults.entry(Phase::of(step)).or_default() += injected() - before;
        result
    }
}

/// A ring of these keys, and of one that is bound to another head.
fn ring_of(keys: &[Value]) -> String {
    ring(&[keys, &[active("another-head", OTHERS_KEY)]].concat())
}
