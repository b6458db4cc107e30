//! Measures the functions on the table's stream, `publish` and `sessions`, as `receive` is measured: as whole processes.
//!
//! An environment gets batches of the stream, one after the other, as from one shard. The events of a batch are stored before
//! it is handed over.
//!
//! Invariants: a response that names a record fails the run. So does a bus, a queue or a table that does not have what the
//! records come to.

pub mod batches;
pub mod reader;
pub mod rounds;
pub mod services;
