//! `provision` through its real handler, against the simulated platform and an embedded Secrets Manager.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop right there, in its helpers too"
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
