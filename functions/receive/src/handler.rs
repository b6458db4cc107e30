//! The handler: the path of a delivery, step by step.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use event_store::store::EventStore;
use lambda_http::{Body, Response};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{Level, warn};
use unith_events::{event::Event, key_ring::KeyRing, timestamp::Timestamp};

use crate::{
    config::{Config, KeySource},
    delivery::Delivery,
    delivery_log::{DeliveryLog, Facts},
    error::ReceiveError,
    key_store::{CachedKeyRing, KeyStore},
    response::response,
};

/// A warm-up that takes longer is left to the first delivery.
const WARM_UP_WITHIN: Duration = Duration::from_secs(1);

/// The function: its keys and its table, set up once and shared by all requests.
#[derive(Debug)]
pub struct Receiver {
    keys: KeyStore,
    store: EventStore,
    metrics_namespace: Option<String>,
    log_level: Level,
}

impl Receiver {
    /// A receiver as `config` says. A client of Secrets Manager is made only if there is a key ring to read.
    #[must_use]
    pub fn new(
        config: Config,
        dynamodb: aws_sdk_dynamodb::Client,
        secrets: impl FnOnce() -> aws_sdk_secretsmanager::Client,
    ) -> Self {
        let keys = match config.keys {
            KeySource::Fixed(key) => KeyStore::Fixed(Arc::new(KeyRing::of_one(key))),
            KeySource::Secret { id, cache_for } => KeyStore::Secret(CachedKeyRing::new(secrets(), id, cache_for)),
        };
        let store = EventStore::new(dynamodb, config.table_name, config.retention);
        Self { keys, store, metrics_namespace: config.metrics_namespace, log_level: config.log_level }
    }

    /// The level from which lines are logged.
    #[must_use]
    pub fn log_level(&self) -> Level {
        self.log_level
    }

    /// Opens connections and reads the key ring before the first delivery: Lambda gives init a whole core.
    ///
    /// A failure is logged, and left to the first delivery.
    pub async fn warm_up(&self) {
        let (_, written) =
            tokio::join!(self.keys.ring(Timestamp::now()), timeout(WARM_UP_WITHIN, self.store.warm_up()));
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!("the warm-up write failed: {error}"),
            Err(_) => warn!(
                "the warm-up write took longer than {} ms: the first deliveries may be answered late",
                WARM_UP_WITHIN.as_millis()
            ),
        }
    }

    /// Responds to a delivery in time. The log has what became of it.
    pub async fn handle(&self, delivery: Delivery) -> (Response<Body>, DeliveryLog) {
        let (started, due) = (Instant::now(), delivery.respond_by);
        let mut facts = Facts::default();
        let result = async {
            let (body, signature, received_at) = delivery.signed_body()?;

            let verifying = pin!(self.keys.verify(body, signature, received_at));
            let verification = before(due, "reading the key ring", verifying).await??;
            facts.key_ring_refreshed = verification.refreshed;
            let verified = verification.result?;
            facts.key_state = Some(verified.key_state());
            facts.key_head = verified.key_head().cloned();

            let event = facts.event.insert(Event::parse(&verified));

            let writing = Instant::now();
            let ingesting = pin!(self.store.ingest(&verified, event, received_at));
            let outcome = before(due, "writing to the table", ingesting).await;
            facts.store_time = Some(writing.elapsed());
            Ok(outcome??)
        }
        .await;
        let log = DeliveryLog::new(&delivery, facts, &result, started.elapsed(), self.metrics_namespace.as_deref());
        (response(&result), log)
    }
}

/// The result of `work`, which is pinned in its place because moving the SDK's large futures costs more than a timer.
async fn before<T>(
    due: Instant,
    step: &'static str,
    work: Pin<&mut impl Future<Output = T>>,
) -> Result<T, ReceiveError> {
    timeout_at(due, work).await.map_err(|_| ReceiveError::OutOfTime { step })
}
