//! The real function `sessions`, over the real AWS SDK, against an embedded DynamoDB and a simulated SQS.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed assumption should stop the test where it is, in helpers too"
)]

mod batches;
mod convergence;
mod cost;
mod event_store;
mod guard;
mod list;
mod rebuild;
mod show;
