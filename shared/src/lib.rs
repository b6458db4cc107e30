//! What two or more of the functions use, and nothing else.
//!
//! Data flows one way through these modules: [`env`](mod@env) and [`aws`] set a function up; [`secret`] reads what
//! Secrets Manager holds; [`key_ring`] holds the keys that [`signature`] compares; [`verify`] makes the only type that [`event`] parses; [`store`] writes what came
//! out.
//!
//! What always holds: nothing here logs or prints a body, a key, a token or a signature, and a type that holds one
//! shows `[redacted]` under `Debug`.

pub mod aws;
pub mod env;
pub mod event;
pub mod https;
pub mod ids;
pub mod json;
pub mod key_ring;
pub mod secret;
pub mod signature;
pub mod store;
pub mod telemetry;
pub mod timestamp;
pub mod verify;
