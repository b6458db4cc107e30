//! The execution environments of a function: each takes one invocation at a time, and stays for the next one.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use publish::handler::Publisher;
use serde_json::Value;
use sessions::handler::SessionUpdater;
use tests::publish_harness::REQUEST_ID;
use tokio::time::Instant;

/// The share of invocations whose time is nearly up.
const HURRIED: f64 = 0.02;
/// The longest time of these.
const LITTLE_TIME: Duration = Duration::from_millis(100);
/// The time of all others.
const MUCH_TIME: Duration = Duration::from_mins(5);
/// The share of invocations after which Lambda ends the environment.
const ENDED: f64 = 0.02;

type Response = Pin<Box<dyn Future<Output = Result<Value, String>> + Send>>;
type Environment = Box<dyn Fn(Value, Instant) -> Response + Send + Sync>;

/// The environments of a function.
pub(crate) struct Environments {
    start: Box<dyn Fn() -> Environment + Send + Sync>,
    idle: Mutex<Vec<Environment>>,
    random: Mutex<Rng>,
    started: AtomicUsize,
    /// Whether Lambda ends environments.
    pub(crate) ends: AtomicBool,
}

impl Environments {
    /// None yet. `start` is a cold start.
    pub(crate) fn new(seed: u64, start: impl Fn() -> Environment + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            start: Box::new(start),
            idle: Mutex::default(),
            random: Mutex::new(Rng::with_seed(seed)),
            started: AtomicUsize::new(0),
            ends: AtomicBool::new(true),
        })
    }

    /// How many there have been.
    pub(crate) fn started(&self) -> usize {
        self.started.load(Ordering::Relaxed)
    }

    /// An invocation by the event source mapping.
    pub(crate) async fn invoke(self: Arc<Self>, event: Value) -> Result<Value, String> {
        let limit = {
            let mut random = self.random.lock().unwrap();
            if random.f64() < HURRIED { LITTLE_TIME.mul_f64(random.f64()) } else { MUCH_TIME }
        };
        self.invoke_within(event, limit).await
    }

    /// An invocation in any idle environment, or else in a new one.
    pub(crate) async fn invoke_within(&self, event: Value, limit: Duration) -> Result<Value, String> {
        let idle = {
            let mut idle = self.idle.lock().unwrap();
            let count = idle.len();
            (count > 0).then(|| idle.swap_remove(self.random.lock().unwrap().usize(..count)))
        };
        let environment = idle.unwrap_or_else(|| {
            self.started.fetch_add(1, Ordering::Relaxed);
            (self.start)()
        });
        let response = environment(event, Instant::now() + limit).await;
        if !self.ends.load(Ordering::Relaxed) || self.random.lock().unwrap().f64() >= ENDED {
            self.idle.lock().unwrap().push(environment);
        }
        response
    }

    /// An invocation in each idle environment.
    pub(crate) async fn invoke_each(&self, event: &Value) {
        let environments = std::mem::take(&mut *self.idle.lock().unwrap());
        for environment in &environments {
            environment(event.clone(), Instant::now() + MUCH_TIME).await.unwrap();
        }
        self.idle.lock().unwrap().extend(environments);
    }
}

/// An environment of `publish`.
pub(crate) fn publish(publisher: Publisher) -> Environment {
    let publisher = Arc::new(publisher);
    Box::new(move |event, deadline| {
        let publisher = Arc::clone(&publisher);
        Box::pin(async move { publisher.handle(event, REQUEST_ID, deadline).await.map_err(|error| error.to_string()) })
    })
}

/// An environment of `sessions`.
pub(crate) fn sessions(updater: SessionUpdater) -> Environment {
    let updater = Arc::new(updater);
    Box::new(move |event, deadline| {
        let updater = Arc::clone(&updater);
        Box::pin(async move { updater.handle(event, REQUEST_ID, deadline).await.map_err(|error| error.to_string()) })
    })
}
