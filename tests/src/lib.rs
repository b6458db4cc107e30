//! The harness of the integration tests: real functions, embedded services, and proxies that inject faults.
//!
//! No part of it replaces our own code. The functions reach the services over HTTP, through the real AWS SDK.
//! `TEST_DYNAMODB_ENDPOINT` selects another DynamoDB than the embedded one, e.g. AWS's DynamoDB Local.

// A library of test code: `clippy.toml` relaxes these lints in tests alone.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a failed assumption should stop the test where it is"
)]

pub mod delivery;
pub mod gateway_event;
pub mod key_ring;
pub mod log;
pub mod process;
pub mod provision_harness;
pub mod proxy;
pub mod publish_harness;
pub mod receive_harness;
pub mod redrive_harness;
pub mod repository;
pub mod runtime_api;
pub mod secrets;
pub mod sessions_harness;
pub mod snapshot;
pub mod stream_record;
pub mod table;
pub mod wait;
