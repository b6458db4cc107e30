//! `receive`: one UNITH delivery in, one event in the table, one HTTP response out.
//!
//! [`handler`] has the whole path: check the request, verify, parse, ingest, log.
//!
//! Invariants: nothing is parsed before a key of the ring vouches for it. A 2xx is sent only if the event or the body is
//! durable. A response leaves within 4 s, whatever the services behind the function do.

pub mod breaker;
pub mod config;
pub mod delivery;
pub mod delivery_log;
pub mod durable;
pub mod error;
pub mod gateway;
pub mod handler;
pub mod key_store;
pub mod response;
pub mod runtime;
