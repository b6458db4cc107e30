#![doc = include_str!("../README.md")]

pub mod aws;
pub mod batch_response;
pub mod deadline;
pub mod env;
pub mod errors;
pub mod http_client;
pub mod log;
pub mod metrics;
pub mod queue_url;
pub mod secret;
pub mod secret_id;
pub mod startup;
