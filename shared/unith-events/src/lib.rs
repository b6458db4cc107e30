#![doc = include_str!("../README.md")]

pub mod event;
pub mod ids;
pub mod json;
pub mod key_ring;
pub mod signature;
pub mod timestamp;
pub mod verify;
