//! The phases: in each of them something else fails while events are stored.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use fastrand::Rng;
use sandbox::stream_mapping::StreamMapping;
use serde_json::json;
use sessions::gate::CONCURRENCY;
use tests::{
    proxy::{Fault, Proxy},
    sessions_harness::REQUEST_ID,
    stream_record::inserted,
    wait::{PATIENCE, until},
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    delivery::{Delivery, Writer, item},
    plan::Plan,
    system::{CHECK_BUS_EVERY, System},
};

/// Parts of the plan: one per phase.
pub(crate) const PARTS: usize = 8;
/// The phase that has poison.
pub(crate) const POISONED: usize = 5;
/// Events that are stored at the same time.
const WRITERS: usize = 16;
/// How often the bus is deleted.
const DELETIONS: usize = 2;
/// How much later the writes of a late writer arrive than its reads.
const LATE_BY: Duration = Duration::from_millis(500);
/// How often there are late writers, at most.
const WAVES: usize = 50;
/// Invocations that an outage lasts at least.
const OUTAGE: usize = 10;

/// Stores the plan.
pub(crate) async fn run(system: &System, writer: Writer, plan: &Plan, random: &mut Rng) {
    for (phase, part) in plan.parts.iter().enumerate() {
        match phase {
            1 => failing_entries(system, &writer, part, random).await,
            2 => table_outage(system, &writer, part, random).await,
            3 => bus_outage(system, &writer, part, random).await,
            4 => deleted_bus(system, &writer, part).await,
            6 => everything(system, &writer, part, random).await,
            7 => late_writers(system, &writer, part).await,
            _ => store(&writer, part).await,
        }
        system.catch_up().await;
    }
    system.settle().await;
}

/// Stores deliveries, many at a time.
async fn store(writer: &Writer, deliveries: &[Delivery]) {
    let queue: VecDeque<_> = deliveries.iter().cloned().collect();
    let queue = Arc::new(Mutex::new(queue));
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let (writer, queue) = (writer.clone(), Arc::clone(&queue));
        let next = move || queue.lock().unwrap().pop_front();
        writers.spawn(async move {
            while let Some(delivery) = next() {
                writer.store(delivery).await;
            }
        });
    }
    writers.join_all().await;
}

/// The bus fails entries and requests.
async fn failing_entries(system: &System, writer: &Writer, part: &[Delivery], random: &mut Rng) {
    system.fail_entries(true);
    let bus = async {
        loop {
            if let Some(fault) = next_fault(&system.publish_mapping, random).await {
                system.publish.bus_proxy.set(fault);
            }
        }
    };
    while_storing(system, writer, part, bus).await;
    system.fail_entries(false);
}

/// Neither function can reach the tables.
async fn table_outage(system: &System, writer: &Writer, part: &[Delivery], random: &mut Rng) {
    let proxies = [&system.publish.table.proxy, &system.sessions.table.proxy];
    let mut outages = [
        Fault::refuse(),
        Fault::throttled(),
        Fault::status(500),
        Fault::access_denied(),
        Fault::aws_error("ResourceNotFoundException"),
    ];
    random.shuffle(&mut outages);
    for (outage, deliveries) in outages.into_iter().zip(part.chunks(part.len().div_ceil(5))) {
        for proxy in proxies {
            proxy.set(outage.clone());
        }
        tokio::join!(
            store(writer, deliveries),
            system.wait_for_failures(&system.publish_mapping, OUTAGE / 5),
            system.wait_for_failures(&system.sessions_mapping, OUTAGE / 5),
        );
    }
    for proxy in proxies {
        proxy.clear();
    }
}

/// `publish` can reach neither the bus nor the queues, in turn and together.
async fn bus_outage(system: &System, writer: &Writer, part: &[Delivery], random: &mut Rng) {
    let (bus, queues) = (&system.publish.bus_proxy, &system.publish.sqs_proxy);
    let outages = [Fault::refuse(), Fault::status(500), Fault::access_denied()];
    for (number, deliveries) in part.chunks(part.len().div_ceil(3)).enumerate() {
        for (place, proxy) in [bus, queues].into_iter().enumerate() {
            if number == 2 || number == place {
                proxy.set(outages[random.usize(..outages.len())].clone());
            }
        }
        tokio::join!(store(writer, deliveries), system.wait_for_failures(&system.publish_mapping, OUTAGE / 3));
        bus.clear();
        queues.clear();
    }
}

/// The bus is deleted and created again; the last time so soon that no environment may see it missing.
async fn deleted_bus(system: &System, writer: &Writer, part: &[Delivery]) {
    // An environment that ends reports no more what it has published since it last saw the bus.
    system.publishers.ends.store(false, Ordering::Relaxed);
    let mut deliveries = part.chunks(part.len().div_ceil(3 * DELETIONS));
    for deletion in 1..=DELETIONS {
        let mut next = async || store(writer, deliveries.next().unwrap_or_default()).await;
        next().await;
        // At once, while environments rely on having seen the bus.
        system.publish_mapping.wait_until_caught_up().await.unwrap();
        let (requests, reports) = (system.requests(), system.log.counts().ranges.len());
        let is_reported = || system.log.counts().ranges.len() > reports;
        system.delete_bus().await;
        tokio::join!(next(), system.wait_for_publication_or_report(requests, reports));
        if deletion < DELETIONS {
            // Environments look for the bus when records come after its time.
            let _ = timeout(CHECK_BUS_EVERY, until(async || is_reported())).await;
            tokio::join!(next(), until(async || is_reported()));
            system.create_bus().await;
        } else {
            system.create_bus().await;
            next().await;
        }
        system.catch_up().await;
    }
}

/// All that fails by chance: the tables, the bus, the queues and entries.
async fn everything(system: &System, writer: &Writer, part: &[Delivery], random: &mut Rng) {
    system.fail_entries(true);
    let faults = async {
        loop {
            let mapping = if random.bool() { &system.publish_mapping } else { &system.sessions_mapping };
            let fault = next_fault(mapping, random).await;
            let proxy = system.proxies()[random.usize(..4)];
            fault.map_or_else(|| proxy.clear(), |fault| proxy.set(fault));
        }
    };
    while_storing(system, writer, part, faults).await;
    system.fail_entries(false);
}

/// Invocations of `sessions` that timed out go on: they have read sessions, whose last events then come, and write late.
async fn late_writers(system: &System, writer: &Writer, part: &[Delivery]) {
    let slow = Proxy::start(&system.publish.table.endpoint).await;
    let (updater, mut late) = (Arc::new(system.updater_behind(&slow)), JoinSet::new());
    let waves: Vec<_> = part.chunks((part.len() / WAVES).max(WRITERS)).collect();
    let keys = |wave: usize| waves[wave].iter().filter_map(Delivery::key);
    let last: HashMap<_, _> = (0..waves.len()).flat_map(|wave| keys(wave).map(move |(pk, _)| (pk, wave))).collect();
    for (wave, deliveries) in waves.iter().enumerate() {
        store(writer, deliveries).await;
        system.sessions_mapping.wait_until_caught_up().await.unwrap();
        let ending: BTreeMap<_, _> = keys(wave)
            .filter(|(pk, _)| last[pk] == wave + 1 && !pk.contains("#self-test:"))
            .take(CONCURRENCY)
            .collect();
        let reads = u32::try_from(ending.len()).unwrap();
        let records: Vec<_> = ending.into_iter().map(|key| inserted(&item(key), 1)).collect();
        if reads > 0 {
            slow.set(Fault::delay(LATE_BY).after(reads));
            let requests = slow.requests() + u64::from(reads);
            let (updater, batch) = (Arc::clone(&updater), json!({"Records": records}));
            late.spawn(async move { updater.handle(batch, REQUEST_ID, Instant::now() + PATIENCE).await.unwrap() });
            until(async || slow.requests() >= requests).await;
        }
    }
    late.join_all().await;
}

/// Stores deliveries and waits until they are done. Meanwhile there are `faults`.
async fn while_storing(system: &System, writer: &Writer, part: &[Delivery], faults: impl Future<Output = ()>) {
    tokio::select! {
        () = faults => {}
        () = async {
            store(writer, part).await;
            system.catch_up().await;
        } => {}
    }
    for proxy in system.proxies() {
        proxy.clear();
    }
}

/// The next fault, after some invocations of a function. It passes by itself.
async fn next_fault(mapping: &StreamMapping, random: &mut Rng) -> Option<Fault> {
    let next = mapping.progress().invocations + random.usize(1..4);
    mapping.wait_for(|progress| progress.invocations >= next).await.unwrap();
    let fault = match random.u8(..12) {
        0 => Fault::throttled(),
        1 => Fault::hot_key(),
        2 => Fault::status(500),
        3 => Fault::refuse(),
        4 => Fault::access_denied(),
        5..=6 => Fault::drop_response(),
        7 => return Some(Fault::hang().after(random.u32(..6)).times(1)),
        8..=10 => Fault::delay(Duration::from_millis(random.u64(10..80))),
        _ => return None,
    };
    Some(fault.after(random.u32(..6)).times(random.u32(1..12)))
}
