//! What must always be true of `template.yaml`, and of the documents that speak of it.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop right there, in its helpers too"
)]

mod observability;
mod parameters;
mod permissions;
mod resources;
mod template;
