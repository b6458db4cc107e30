//! `provision` through its real handler, against the simulated platform and an embedded Secrets Manager.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed assumption should stop the test where it is, in its helpers too"
)]

mod all_heads;
mod apply;
mod cloudformation;
mod commands;
mod failures;
mod ownership;
mod rotation;
mod safety;
mod scenarios;
