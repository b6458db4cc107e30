//! The handler: the path of a delivery, step by step.

use std::sync::Arc;

use event_store::{spill_queue::SpillQueue, store::EventStore};
use lambda_http::{Body, Response};
use lambda_support::aws::{self, SdkConfig};
use tokio::time::{Instant, timeout_at};
use tracing::Level;
use unith_events::{event::Event, key_ring::KeyRing, timestamp::Timestamp};

use crate::{
    breaker::Breaker,
    config::{Config, KeySource},
    delivery::Delivery,
    delivery_log::{DeliveryLog, Facts},
    durable::DurableStore,
    error::ReceiveError,
    key_store::{CachedKeyRing, KeyStore},
    response::response,
};

/// The function: its keys and its table, set up once and shared by all requests.
#[derive(Debug)]
pub struct Receiver {
    keys: KeyStore,
    store: DurableStore,
    metrics_namespace: Option<String>,
    log_level: Level,
}

impl Receiver {
    /// A receiver as `config` says. Clients of Secrets Manager and SQS are made only if they are needed.
    pub fn new(config: Config, aws: &SdkConfig) -> Self {
        let keys = match config.keys {
            KeySource::Fixed(key) => KeyStore::Fixed(Arc::new(KeyRing::of_one(key))),
            KeySource::Secret { id, cache_for } => {
                KeyStore::Secret(CachedKeyRing::new(aws::secrets_manager(aws), id, cache_for))
            }
        };
        let dynamodb =
            if config.spill_queue_url.is_some() { aws::dynamodb_before_queue(aws) } else { aws::dynamodb(aws) };
        let table = EventStore::new(dynamodb, config.table_name, config.retention);
        let queue = config.spill_queue_url.map(|url| SpillQueue::new(aws.clone(), url));
        let store = DurableStore::new(table, queue, Breaker::new(config.breaker_periods));
        Self { keys, store, metrics_namespace: config.metrics_namespace, log_level: config.log_level }
    }

    /// The level from which lines are logged.
    pub fn log_level(&self) -> Level {
        self.log_level
    }

    /// Opens connections and reads the key ring before the first delivery: Lambda gives init a whole core.
    ///
    /// A failure is logged, and left to the first delivery.
    pub async fn warm_up(&self) {
        let _ = tokio::join!(self.keys.ring(Timestamp::now()), self.store.warm_up());
    }

    /// Responds to a delivery in time. The log has what became of it.
    pub async fn handle(&self, delivery: Delivery) -> (Response<Body>, DeliveryLog) {
        let (started, due) = (Instant::now(), delivery.respond_by);
        let mut facts = Facts::default();
        let result = async {
            let (body, signature, received_at) = delivery.signed_body()?;

            let verifying = timeout_at(due, self.keys.verify(body, signature, received_at)).await;
            let verification = verifying.map_err(|_| ReceiveError::OutOfTime { step: "reading the key ring" })??;
            facts.key_ring_refreshed = verification.refreshed;
            let verified = verification.result?;
            facts.key_state = Some(verified.key_state());
            facts.key_head = verified.key_head().cloned();

            let event = facts.event.insert(Event::parse(&verified));

            let keeping = Instant::now();
            let kept = self.store.keep(&verified, event, received_at, due, delivery.trace_id.as_deref()).await;
            facts.store_time = Some(keeping.elapsed());
            kept
        }
        .await;
        let log = DeliveryLog::new(&delivery, facts, &result, started.elapsed(), self.metrics_namespace.as_deref());
        (response(&result), log)
    }
}
