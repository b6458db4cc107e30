//! The workload of measurements: deliveries, the receiver's path without a network, and the budget that it must keep.

pub mod budget;
pub mod crates;
pub mod delivery;
// The harness's file without the harness, which would build the receiver with features that are not deployed.
#[path = "../../../tests/src/gateway_event.rs"]
pub mod gateway_event;
pub mod offline;
pub mod size;
