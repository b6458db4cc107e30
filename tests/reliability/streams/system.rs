//! The system: the events table, the two functions on its stream, and what surrounds them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use lambda_support::{aws, env::Env};
use sandbox::{
    clients::{sqs_client, streams_client},
    eventbridge::PublishedEvent,
    services::EVENT_BUS,
    stream_mapping::{Faults, OnFailure, Settings, StreamMapping},
    stream_readers::{publish_settings, sessions_settings},
};
use serde::Deserialize;
use serde_json::Value;
use sessions::{config::Config, handler::SessionUpdater};
use tests::{log, proxy::Proxy, publish_harness::PublishHarness, sessions_harness::SessionsHarness, wait::until};
use tokio::time::Instant;

use super::{
    environments::{self, Environments},
    plan::{REFUSED, REFUSED_AS_COPY},
};

/// How long `publish` relies on having seen the bus. It is a minute at AWS.
pub(crate) const CHECK_BUS_EVERY: Duration = Duration::from_secs(2);
/// Shards of the stream. The embedded DynamoDB has one, which the mappings divide.
const SHARDS: usize = 3;
/// A second of the batch window.
const SECOND: Duration = Duration::from_millis(30);
const POLL: Duration = Duration::from_millis(10);
const BACK_OFF: Duration = Duration::from_millis(1);

/// The functions, their mappings and the services.
pub(crate) struct System {
    /// The table, `publish`, the bus and the queues.
    pub(crate) publish: Arc<PublishHarness>,
    /// `sessions` and its table. It reaches the same events table through another proxy.
    pub(crate) sessions: Arc<SessionsHarness>,
    pub(crate) publishers: Arc<Environments>,
    pub(crate) updaters: Arc<Environments>,
    pub(crate) publish_mapping: StreamMapping,
    pub(crate) sessions_mapping: StreamMapping,
    pub(crate) log: Arc<Log>,
    /// Whether entries fail.
    entries_fail: Arc<AtomicBool>,
    /// When the bus was last created.
    created_at: Mutex<Instant>,
}

/// What the lines of `publish` come to.
#[derive(Debug, Default)]
pub(crate) struct Log(Mutex<Counts>);

#[derive(Debug, Default, Clone)]
pub(crate) struct Counts {
    /// Records that were held back, each time they were.
    pub(crate) held: u64,
    pub(crate) retried: u64,
    /// The ranges to replay.
    pub(crate) ranges: Vec<Range>,
}

/// What may be lost, as the filter of a replay.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Range {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) head_ids: BTreeSet<String>,
    pub(crate) events: usize,
}

impl Log {
    fn add(&self, line: &Value) {
        log::assert_known(line);
        let (result, mut counts) = (&line["result"], self.0.lock().unwrap());
        counts.held += result["held"].as_u64().unwrap_or_default();
        counts.retried += result["retried"].as_u64().unwrap_or_default();
        if let Some(range) = result.get("replay") {
            counts.ranges.push(serde_json::from_value(range.clone()).unwrap());
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.0.lock().unwrap().clone()
    }
}

impl System {
    pub(crate) async fn start(seed: u64) -> Self {
        let publish = PublishHarness::start().await.with_ordered_queue();
        let publish = Arc::new(publish.with_timing(|timing| timing.check_bus_every = CHECK_BUS_EVERY));
        let sessions = SessionsHarness::start_on(publish.table.for_another_function().await).await;
        let (sessions, log, entries_fail) = (Arc::new(sessions), Arc::new(Log::default()), Arc::default());
        publish.eventbridge.fail_entries(rule(seed, Arc::clone(&entries_fail)));

        let (harness, lines) = (Arc::clone(&publish), Arc::clone(&log));
        let publishers = Environments::new(seed ^ 1, move || {
            let lines = Arc::clone(&lines);
            environments::publish(harness.publisher().with_log(move |line| lines.add(line)))
        });
        let harness = Arc::clone(&sessions);
        let updaters =
            Environments::new(seed ^ 2, move || environments::sessions(harness.updater().with_log(log::assert_known)));

        let settings = publish_settings(on_failure(publish.sqs.url(), &publish.env()["FAILURE_QUEUE_URL"]));
        let publish_mapping = map(&publish, with_faults(settings, seed ^ 3), &publishers).await;
        let settings = sessions_settings(on_failure(sessions.sqs.url(), &sessions.env()["FAILURE_QUEUE_URL"]));
        let sessions_mapping = map(&publish, with_faults(settings, seed ^ 4), &updaters).await;
        let created_at = Mutex::new(Instant::now());
        Self {
            publish,
            sessions,
            publishers,
            updaters,
            publish_mapping,
            sessions_mapping,
            log,
            entries_fail,
            created_at,
        }
    }

    /// Whether the bus fails some entries of requests that succeed otherwise.
    pub(crate) fn fail_entries(&self, fails: bool) {
        self.entries_fail.store(fails, Ordering::Relaxed);
    }

    /// All proxies: the table for each function, the bus, and the queues of `publish`.
    pub(crate) fn proxies(&self) -> [&Proxy; 4] {
        [&self.publish.table.proxy, &self.sessions.table.proxy, &self.publish.bus_proxy, &self.publish.sqs_proxy]
    }

    /// `sessions` in an environment of its own, which reaches the tables through another proxy.
    pub(crate) fn updater_behind(&self, proxy: &Proxy) -> SessionUpdater {
        let own = ("AWS_ENDPOINT_URL_DYNAMODB", proxy.url().to_owned());
        let env: Env = self.sessions.env().clone().into_iter().chain([own]).collect();
        let updater = SessionUpdater::new(Config::from_env(&env).unwrap(), &aws::config(&env).unwrap());
        updater.with_log(log::assert_known)
    }

    /// Waits until each record that is in the stream is done.
    pub(crate) async fn catch_up(&self) {
        self.publish_mapping.wait_until_caught_up().await.unwrap();
        self.sessions_mapping.wait_until_caught_up().await.unwrap();
    }

    /// Waits until nothing is left to do.
    pub(crate) async fn settle(&self) {
        self.publish_mapping.wait_until_idle().await.unwrap();
        self.sessions_mapping.wait_until_idle().await.unwrap();
    }

    /// Waits until so many further invocations of `publish` or `sessions` did not handle their whole batch.
    pub(crate) async fn wait_for_failures(&self, mapping: &StreamMapping, count: usize) {
        let failures =
            |progress: &sandbox::stream_mapping::Progress| progress.failed_invocations + progress.partial_failures;
        let before = failures(&mapping.progress());
        mapping.wait_for(|progress| failures(progress) >= before + count).await.unwrap();
    }

    pub(crate) async fn delete_bus(&self) {
        self.publish.bus_client.delete_event_bus().name(EVENT_BUS).send().await.unwrap();
    }

    pub(crate) async fn create_bus(&self) {
        self.publish.bus_client.create_event_bus().name(EVENT_BUS).send().await.unwrap();
        *self.created_at.lock().unwrap() = Instant::now();
    }

    /// Waits until no environment relies on having seen the bus before it was last created.
    pub(crate) async fn wait_until_looks_are_old(&self) {
        until(async || self.created_at.lock().unwrap().elapsed() > CHECK_BUS_EVERY).await;
    }

    /// Waits until `publish` has sent a request to the bus, or has reported that the bus is missing.
    pub(crate) async fn wait_for_publication_or_report(&self, requests: usize, ranges: usize) {
        until(async || self.requests() > requests || self.log.counts().ranges.len() > ranges).await;
    }

    /// The requests to the bus so far.
    pub(crate) fn requests(&self) -> usize {
        self.publish.eventbridge.calls("PutEvents")
    }
}

async fn map(harness: &PublishHarness, settings: Settings, environments: &Arc<Environments>) -> StreamMapping {
    let (streams, environments) = (streams_client(&harness.table.endpoint).unwrap(), Arc::clone(environments));
    let handler = move |event| Arc::clone(&environments).invoke(event);
    StreamMapping::start(streams, &harness.table.name, settings, handler).await.unwrap()
}

fn on_failure(endpoint: &str, queue_url: &str) -> OnFailure {
    OnFailure { client: sqs_client(endpoint).unwrap(), queue_url: queue_url.to_owned() }
}

/// The settings of the template, at a faster pace and with the faults of a mapping.
fn with_faults(settings: Settings, seed: u64) -> Settings {
    let faults = Faults {
        seed,
        throttled: 0.03,
        late_invocations: 0.1,
        late_by: Duration::from_millis(40),
        lost_responses: 0.03,
        partial_failures: 0.04,
        rewinds: 0.03,
        cuts: 0.2,
        pauses: Duration::from_millis(8),
    };
    Settings { shards: SHARDS, second: SECOND, poll: POLL, back_off: BACK_OFF, faults, ..settings }
}

/// Which entries the bus does not take. If entries fail, some of them do so more often than one invocation tries them.
fn rule(
    seed: u64,
    entries_fail: Arc<AtomicBool>,
) -> impl FnMut(&PublishedEvent) -> Option<&'static str> + Send + 'static {
    let (mut random, mut failures): (_, HashMap<String, u8>) = (Rng::with_seed(seed), HashMap::new());
    move |event| {
        let is_copy = || event.detail.contains(r#""data":{"#);
        if event.detail_type == REFUSED || (event.detail_type == REFUSED_AS_COPY && is_copy()) {
            return Some("MalformedDetail");
        }
        if !entries_fail.load(Ordering::Relaxed) {
            return None;
        }
        let id = event.detail()["metadata"]["id"].as_str().unwrap().to_owned();
        let left = failures.entry(id).or_insert_with(|| match random.u8(..40) {
            0 => random.u8(5..15),
            1..=5 => 1,
            _ => 0,
        });
        *left = left.checked_sub(1)?;
        let codes = ["ThrottlingException", "InternalFailure", "AccessDeniedException", "SomethingNew"];
        Some(codes[random.usize(..codes.len())])
    }
}
