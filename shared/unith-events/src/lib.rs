#![doc = include_str!("../README.md")]

pub mod body;
pub mod content;
pub mod event;
pub mod event_type;
pub mod ids;
pub mod json;
pub mod key_ring;
pub mod session;
pub mod signature;
pub mod spill;
pub mod timestamp;
pub mod verify;
