//! The sandbox's own parts: if the simulation is wrong, everything tested against it may be.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop right there, in its helpers too"
)]

mod api_gateway;
mod platform;
