#![doc = include_str!("../README.md")]

pub mod events;
pub mod failure_queue;
pub mod ingest;
pub mod item;
pub mod keys;
pub mod quarantine;
mod queue;
pub mod retention;
pub mod session;
pub mod spill_queue;
pub mod store;
pub mod stream;
