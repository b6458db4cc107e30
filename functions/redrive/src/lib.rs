//! `redrive` stores what `receive` had to spill while the events table was unavailable.
//!
//! A batch of SQS messages comes to [`handler`]. Each message takes the same path as a delivery in `receive`: its body is
//! read, ingested and logged.
//!
//! | result of a message | what follows |
//! |---|---|
//! | stored, duplicate, conflict, expired, quarantined | the message is done |
//! | the table does not take it | it and the rest of the [`batch`] are returned to the queue, the rest untried |
//! | its key range is throttled, which is one hot session | it alone is returned |
//! | handling it panics | it alone is returned, and is a dead letter at its fifth receive |
//! | it can never be stored: not a message of ours, wrong hash, another head | a dead letter, with the reason as attribute |
//!
//! A returned message becomes visible again after a delay that doubles with each receive ([`backoff`]). A dead letter that
//! its queue does not take is returned too. So a dead letter means a bug, and never an outage.
//!
//! The [`command`] `retry-quarantine` sends quarantined bodies that can be read now to the spill queue. Their items are
//! deleted once their events are in the table.
//!
//! Invariants: a message is done only if its event, its body or its dead letter is durable, or its event is past its
//! retention. No body, key or signature is logged or returned.

pub mod backoff;
pub mod batch;
pub mod command;
pub mod config;
pub mod error;
pub mod fate;
pub mod handler;
pub mod message_log;
pub mod queues;
pub mod sqs_event;
