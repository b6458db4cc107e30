//! Measures Lambda functions as whole processes: a Runtime API host starts any command as an execution environment,
//! feeds it deliveries, checks each answer, and counts what was stored.
//!
//! What always holds: one environment runs at a time, on a core of its own where one is given; the services behind the
//! function are reached over TLS, as on AWS; a wrong answer, a missing or a surplus item fails the run.

pub mod candidate;
pub mod cores;
pub mod environment;
pub mod machine;
pub mod output;
pub mod report;
pub mod rounds;
pub mod runtime_api;
pub mod services;
pub mod statistics;
pub mod tls;
