//! What a function does before its first delivery: the whole path once, with a delivery of its own.
//!
//! Lambda gives init a whole core, and a request a share of one. So whatever a first time costs (connecting to the table,
//! TLS, code that was never run and memory never touched) is paid before anybody waits for it.
//!
//! What always holds: a rehearsal is no delivery. It has a key of its own that verifies nothing else, its table takes
//! nothing, and what comes of it is neither logged nor counted.

use std::{sync::Arc, time::Duration};

use lambda_http::{Context, LambdaEvent, Service};
use lambda_support::log;
use serde_json::value::RawValue;
use tokio::time::timeout;
use tracing::warn;
use unith_events::{signature::SharedKey, timestamp::Timestamp};

use crate::{Receiver, record::Record, runtime::service};

/// A gateway's event, signed with `KEY`.
const DELIVERY: &str = include_str!("rehearsal.json");
const KEY: &str = "rehearsed-deliveries";
/// A table that does not answer by then is left to the first delivery.
const WITHIN: Duration = Duration::from_secs(1);

/// Reads the ring of `receiver`, and rehearses a delivery with its table. What fails is left to the first delivery; of a
/// table that could not be written to it is warned.
pub async fn warm_up(receiver: &Receiver) {
    let _ = tokio::join!(receiver.keys.ring(Timestamp::now()), rehearse(receiver));
}

async fn rehearse(receiver: &Receiver) {
    let rehearsal = async {
        let receiver = receiver.rehearsing(SharedKey::parse(KEY).ok()?);
        let delivery: Box<RawValue> = serde_json::from_str(DELIVERY).ok()?;
        let mut service = service(Arc::new(receiver), log);
        let answer = service.call(LambdaEvent::new(delivery, Context::default())).await.ok()?;
        serde_json::to_vec(&answer).ok()
    };
    if timeout(WITHIN, rehearsal).await.is_err() {
        warn!("rehearsing a delivery took longer than {} ms: the first ones may be answered late", WITHIN.as_millis());
    }
}

fn log(record: &Record) {
    // Made as every other one is, and dropped.
    let _ = log::line(record);
    if let Some(reason) = record.unavailable() {
        warn!("a delivery that was rehearsed could not be stored: {reason}");
    }
}
