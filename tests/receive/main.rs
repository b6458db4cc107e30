//! The receiver through its real handler, over the real SDK, against an embedded DynamoDB and Secrets Manager.

mod exactly_once;
mod faults;
mod gateways;
mod keys;
mod log_line;
mod rejection;
mod signatures;
mod status_table;
