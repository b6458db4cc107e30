//! Measures Lambda functions as whole processes.
//!
//! A Runtime API starts any command as an execution environment and invokes it with deliveries. Every response is checked, and
//! the stored items are counted.
//!
//! Invariants: one environment runs at a time, on its own core if one is given. Functions reach their services over TLS, as
//! on AWS. A wrong response, a missing item or a surplus item fails the run.

pub mod candidate;
pub mod cores;
pub mod environment;
pub mod machine;
pub mod output;
pub mod report;
pub mod rounds;
pub mod services;
pub mod statistics;
pub mod stream;
pub mod tls;
