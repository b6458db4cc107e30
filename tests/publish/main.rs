//! The publisher's real handler, over the real AWS SDK, against an embedded DynamoDB, a simulated EventBridge and SQS.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed assumption should stop the test where it is, in helpers too"
)]

mod bus;
mod envelope;
mod order;
mod ordered_queue;
mod poison;
mod replay;
mod rules;
