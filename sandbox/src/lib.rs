//! The whole system on one machine and on loopback only: the functions' real handlers between simulated services.
//!
//! It is a library for the tests and a program for a demo. The functions run the deployed code and talk to the services
//! over HTTP with the real AWS SDK. The simulators run no code of the functions.
//!
//! Invariants: all servers listen on loopback. The simulated platform posts only to hosts that are mapped to a base URL.

pub mod api_gateway;
pub mod checks;
pub mod clients;
pub mod conversation;
pub mod demo;
pub mod dynamodb;
pub mod event_source_mapping;
pub mod eventbridge;
pub mod http_client;
mod mapping;
pub mod options;
pub mod platform;
pub mod queues;
mod random;
pub mod report;
pub mod secrets_manager;
pub mod server;
pub mod services;
pub mod sqs;
pub mod stack;
pub mod stream_checks;
pub mod stream_mapping;
pub mod stream_readers;
pub mod switch;
pub mod system;
