//! Tests of the simulators. If a simulator is wrong, every test that uses it may be wrong.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop right there, in its helpers too"
)]

mod api_gateway;
mod event_source_mapping;
mod eventbridge;
mod fifo;
mod platform;
mod sqs;
mod stream_mapping;

use std::{future::Future, time::Duration};

/// Waits for `work`, at most half a minute.
async fn within_limit<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("nothing happened within 30 s")
}
