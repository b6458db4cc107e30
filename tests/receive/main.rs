//! The receiver's real handler, over the real AWS SDK, against an embedded DynamoDB and Secrets Manager.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed assumption should stop the test where it is, in helpers too"
)]

mod exactly_once;
mod faults;
mod gateways;
mod keys;
mod log_line;
mod rejection;
mod signatures;
mod spill;
mod status_table;
