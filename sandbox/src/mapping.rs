//! The parts that the event source mappings of queues and of streams share.

pub(crate) mod function;
pub(crate) mod payload;
pub(crate) mod response;
