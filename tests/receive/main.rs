//! The receiver through its real handler, over the real SDK, against an embedded DynamoDB and Secrets Manager.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop right there, in its helpers too"
)]

mod exactly_once;
mod faults;
mod gateways;
mod keys;
mod log_line;
mod rejection;
mod signatures;
mod status_table;
