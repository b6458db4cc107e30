//! `provision` brings UNITH's side to the declared state, keeps it there, rotates keys, and removes it all again.
//!
//! It is a reconciliation loop without a state of its own. It runs as a CloudFormation custom resource
//! ([`cloudformation`]), as a [`command`], and on a schedule, which is the command `apply`.
//!
//! Invariants:
//! - Every step is idempotent, and the next run completes one that died.
//! - No subscription is live before its key can be read.
//! - No key, token or password is logged or returned.

pub mod cloudformation;
pub mod command;
mod concurrent;
pub mod config;
mod confirmed;
pub mod declared;
pub mod handler;
mod head;
pub mod plan;
pub mod provisioner;
pub mod reconcile;
pub mod reconciler;
mod register;
pub mod remove;
pub mod report;
pub mod ring;
mod ring_changes;
mod run_log;
pub mod self_test;
pub mod status;
pub mod step;
mod subscribe;
pub mod unith;
