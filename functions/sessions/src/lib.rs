//! `sessions` keeps one summary per session in a table of its own, and lists, shows and rebuilds them.
//!
//! A batch of the events table's stream comes to [`handler`]. The stream says which sessions changed; the events table is
//! the truth. So each session of the [`batch`] is read whole, folded, and its row is written if it is newer ([`updater`],
//! [`table`]). Duplicates, reordering, late writers and rebuilds are one case.
//!
//! | result of a session | what follows |
//! |---|---|
//! | its row is written, or was as new | its records are done |
//! | no event is left | its records are done |
//! | its key range is throttled, or the time is up | Lambda sends the batch again from its first record on |
//! | a table fails | the same, and the sessions that were not begun are not tried ([`gate`]) |
//! | none of its items can be read, its row can never be written, or folding it panics | its key is sent to the on-failure queue |
//!
//! A record whose key has another form is sent to the on-failure queue too. If that queue does not take a key, the record
//! fails. So no record blocks its shard for longer than the tables and the queue are unavailable.
//!
//! The [`command`]s are `list`, `show` and `rebuild`.
//!
//! Invariants: a summary is a pure function of the session's events. The summary of fewer events never replaces that of
//! more. No body is read, logged or returned.

pub mod batch;
pub mod batch_log;
pub mod command;
pub mod config;
pub mod error;
pub mod gate;
pub mod handler;
pub mod item;
pub mod list;
pub mod rebuild;
pub mod show;
pub mod table;
pub mod updater;
