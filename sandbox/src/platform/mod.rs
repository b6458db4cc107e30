//! A simulated UNITH platform: the management API, and the delivery of events to webhooks.
//!
//! It behaves as UNITH's developer kit shows, because the kit was written against the real platform. UNITH's guide
//! spells deliveries differently; [`Style`](style::Style) selects one of the two. Where kit and guide are silent, the
//! simulation takes the stricter reading: a client that works here works there.

pub mod account;
mod api;
pub mod call;
mod console;
mod control;
pub mod delivery;
mod engine;
mod fault_injection;
pub mod faults;
pub mod journal;
pub mod settings;
pub mod simulator;
mod state;
pub mod style;
pub mod webhook;
