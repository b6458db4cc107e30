//! `publish` puts each new event of the events table on an EventBridge bus, in order per session.
//!
//! A batch of the table's stream comes to [`handler`]. The records of stored events are published by [`pipeline`], in rounds:
//! each round sends the next event of each session. So two events of one session are never in one request, and an event that
//! fails is retried before anything later of its session.
//!
//! | result of a record | what follows |
//! |---|---|
//! | not a new event | done |
//! | all outlets took it | done |
//! | the bus throttles its entry, or fails internally | the entry is sent again, some times |
//! | it still fails, or its session's summary cannot be read | it and the rest of its session are held back |
//! | an outlet fails as a whole, or the time is up | it and all that is untried are held back |
//! | the bus refuses it as malformed | sent once more with the body as a text, then poison |
//! | its item is not an event, or it is too large | poison: a message to the on-failure queue |
//! | the bus does not exist, was created anew, or that cannot be checked | the whole batch is held back |
//!
//! The response of a batch names the lowest sequence number that was held back. The event source mapping delivers the batch
//! from there again. A panic fails the invocation, and the mapping splits the batch until the record stands alone.
//!
//! There are two outlets ([`outlet`]): the event bus, and a FIFO queue. A record is done when all that are configured took its
//! event. An event that one of them took and the other did not is sent again, possibly to both: at least once.
//!
//! The command `replay` ([`command`], [`replay`]) publishes stored events once more.
//!
//! Invariants: a record is done only if its event or its poison message is durable outside of the table. The first
//! publications of a session's events are in the order of the stream. No body is logged.

pub mod body;
pub mod bus;
pub mod bus_event;
pub mod command;
pub mod config;
pub mod cursor;
pub mod error;
pub mod handler;
pub mod lines;
pub mod ordered_queue;
pub mod outlet;
pub mod packing;
pub mod pipeline;
pub mod progress;
pub mod replay;
pub mod rounds;
