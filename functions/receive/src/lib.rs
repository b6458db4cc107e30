//! `receive`: one UNITH delivery in, one event in the table, one answer out.
//!
//! The path of a delivery is `Receiver::receive`: route, verify, parse, store. What always holds: nothing is parsed
//! before a key of the ring vouched for it; a 2xx is answered only when the event (or the body) is durable; an answer
//! leaves within 4 s, whatever the services behind it do.

pub mod answer;
pub mod config;
pub mod delivery;
pub mod gateway;
pub mod keys;
pub mod record;
pub mod rehearsal;
pub mod runtime;

use std::sync::Arc;

use event_store::store::{Put, QuarantineKind, Quarantined, Table};
use lambda_http::{Body, Response, http::Method};
use tracing::Level;
use unith_events::{
    event::{Event, NoEvent, UnreadableBody},
    key_ring::KeyRing,
    signature::{SharedKey, Signature},
    timestamp::Timestamp,
    verify::{Verified, verify},
};

use crate::{
    answer::{Accepted, Kept, Refusal, answer},
    config::{Config, KeySource},
    delivery::Delivery,
    keys::{Keys, SecretRing},
    record::Record,
};

/// The one path there is.
pub const WEBHOOK_PATH: &str = "/webhooks/head-events";
/// The largest body that is looked at. UNITH's events have some 300 bytes; the table takes items of up to 400 KB.
pub const MAX_BODY_BYTES: usize = 256 * 1024;

/// The function: its keys and its table, set up once and shared by all requests.
#[derive(Debug)]
pub struct Receiver {
    keys: Keys,
    table: Table,
    metrics_namespace: Option<String>,
    log_level: Level,
}

impl Receiver {
    /// A receiver as `config` says, on these two services; a client of the second one is made if there is a ring to read.
    #[must_use]
    pub fn new(
        config: Config,
        dynamodb: aws_sdk_dynamodb::Client,
        secrets: impl FnOnce() -> aws_sdk_secretsmanager::Client,
    ) -> Self {
        let keys = match config.keys {
            KeySource::Fixed(key) => Keys::Fixed(Arc::new(KeyRing::of_one(key))),
            KeySource::Secret { id, cache_for } => Keys::Secret(SecretRing::new(secrets(), id, cache_for)),
        };
        let table = Table::new(dynamodb, config.table_name, config.retention);
        Self { keys, table, metrics_namespace: config.metrics_namespace, log_level: config.log_level }
    }

    /// A receiver that does what this one does, with `key` for its only one, and to no effect: its table takes nothing.
    fn rehearsing(&self, key: SharedKey) -> Self {
        Self {
            keys: Keys::Fixed(Arc::new(KeyRing::of_one(key))),
            table: self.table.refusing(),
            metrics_namespace: self.metrics_namespace.clone(),
            log_level: self.log_level,
        }
    }

    /// The level lines are logged from.
    #[must_use]
    pub fn log_level(&self) -> Level {
        self.log_level
    }

    /// Answers a delivery, in time, and tells what became of it.
    pub async fn handle(&self, delivery: Delivery) -> (Response<Body>, Record) {
        let mut record = Record::begin(&delivery);
        let in_time = tokio::time::timeout_at(delivery.answer_by, self.receive(&delivery, &mut record)).await;
        let result = in_time.unwrap_or_else(|_| Err(Refusal::OutOfTime { step: record.pending_step() }));
        record.finish(&result, self.metrics_namespace.as_deref());
        (answer(&result), record)
    }

    async fn receive(&self, delivery: &Delivery, record: &mut Record) -> Result<Accepted, Refusal> {
        check_route(delivery)?;
        let signature = delivery.signature.as_ref().map_err(|fault| *fault)?;
        let body = delivery.body.as_ref().map_err(|fault| *fault)?;
        let (verified, event) = self.authenticate(body, signature, delivery.received_at, record).await?;
        record.verified_by(verified.key_state());
        match event {
            Ok(event) => {
                record.verified_by(event.signed_by);
                self.store(event, &verified, delivery.received_at, record).await
            }
            Err(unreadable) => {
                let key_head = verified.key_head(unreadable.head_id.as_deref());
                record.about_unreadable(&unreadable, key_head);
                let reason = unreadable.reason.to_string();
                let quarantined = Quarantined {
                    kind: QuarantineKind::Unreadable,
                    reason: &reason,
                    key_head,
                    head_id: unreadable.head_id.as_deref(),
                    session_id: unreadable.session_id.as_deref(),
                };
                let kept = self.quarantine(&verified, &quarantined, delivery.received_at, record).await?;
                Ok(Accepted::Quarantined { reason: unreadable.reason, kept })
            }
        }
    }

    /// The body as a key of the ring vouches for it, and what it says. Where none does, or only one of another head, the
    /// ring may be older than the last rotation: it is read once more.
    async fn authenticate<'d>(
        &self,
        body: &'d [u8],
        signature: &Signature,
        now: Timestamp,
        record: &mut Record,
    ) -> Result<(Verified<'d>, Result<Event, UnreadableBody>), Refusal> {
        let ring = self.keys.ring(now).await?;
        let refusal = match read_verified(body, signature, &ring, now) {
            Ok(verified) => return Ok(verified),
            Err(refusal) => refusal,
        };
        let Some(newer) = self.keys.newer_than(&ring, now).await? else {
            return Err(refusal);
        };
        record.key_ring_refetched();
        read_verified(body, signature, &newer, now)
    }

    async fn store(
        &self,
        event: Event,
        verified: &Verified<'_>,
        received_at: Timestamp,
        record: &mut Record,
    ) -> Result<Accepted, Refusal> {
        record.about(&event);
        if self.table.retention().is_over(event.identity.occurred_at, received_at) {
            // Stored, it would be deleted at once; and a replay must not bring back what retention took away.
            return Ok(Accepted::Expired { event_id: event.event_id });
        }
        record.table_asked();
        let put = self.table.put_event(&event, verified.body(), received_at).await;
        record.table_answered();
        let conflict = match put? {
            Put::Stored => return Ok(Accepted::Stored { event_id: event.event_id }),
            Put::Duplicate => None,
            Put::Conflict => {
                let quarantined = Quarantined {
                    kind: QuarantineKind::Conflict,
                    reason: &format!("says something else than the stored event {}", event.event_id),
                    key_head: verified.key_head(Some(&event.identity.head_id)),
                    head_id: Some(&event.identity.head_id),
                    session_id: Some(&event.identity.session_id),
                };
                Some(self.quarantine(verified, &quarantined, received_at, record).await?)
            }
        };
        Ok(Accepted::Duplicate { event_id: event.event_id, conflict })
    }

    async fn quarantine(
        &self,
        verified: &Verified<'_>,
        quarantined: &Quarantined<'_>,
        received_at: Timestamp,
        record: &mut Record,
    ) -> Result<Kept, Refusal> {
        record.table_asked();
        let is_new = self.table.quarantine(verified.body(), quarantined, received_at).await;
        record.table_answered();
        Ok(if is_new? { Kept::New } else { Kept::Again })
    }
}

/// Verifies a body, and reads what it says.
fn read_verified<'b>(
    body: &'b [u8],
    signature: &Signature,
    ring: &KeyRing,
    now: Timestamp,
) -> Result<(Verified<'b>, Result<Event, UnreadableBody>), Refusal> {
    let verified = verify(body, signature, ring, now)?;
    match Event::parse(&verified) {
        Ok(event) => Ok((verified, Ok(event))),
        Err(NoEvent::Unreadable(unreadable)) => Ok((verified, Err(unreadable))),
        Err(NoEvent::OtherHead(other)) => Err(other.into()),
    }
}

fn check_route(delivery: &Delivery) -> Result<(), Refusal> {
    if delivery.path != WEBHOOK_PATH {
        return Err(Refusal::OtherPath { path: delivery.path.clone() });
    }
    if delivery.method != Method::POST {
        return Err(Refusal::OtherMethod);
    }
    let bytes = delivery.body.as_ref().map_or(0, |body| body.len());
    if bytes > MAX_BODY_BYTES { Err(Refusal::TooLarge { bytes }) } else { Ok(()) }
}
