//! The options of a sandbox.

use std::path::PathBuf;

use receive::breaker::Periods;

use crate::{eventbridge, platform::settings::Settings, sqs};

/// The options of a sandbox.
#[derive(Debug, Clone)]
pub struct Options {
    /// The simulated platform, except its hosts.
    pub platform: Settings,
    /// The pace and the faults of SQS.
    pub sqs: sqs::Settings,
    /// How often requests and entries of EventBridge fail.
    pub eventbridge: eventbridge::Faults,
    /// How long `receive` does not ask the table after a failure.
    pub breaker_periods: Periods,
    /// The ports of the services.
    pub ports: Ports,
    /// The file for the data of DynamoDB; `None` keeps it in memory.
    pub data: Option<PathBuf>,
}

/// Ports on loopback; 0 is a free one.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Ports {
    /// Port of the API Gateway; 0 for a free one
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Port of DynamoDB; 0 for a free one
    #[arg(long, default_value_t = 0)]
    pub dynamodb_port: u16,
    /// Port of Secrets Manager; 0 for a free one
    #[arg(long, default_value_t = 0)]
    pub secrets_manager_port: u16,
    /// Port of SQS; 0 for a free one
    #[arg(long, default_value_t = 0)]
    pub sqs_port: u16,
    /// Port of EventBridge; 0 for a free one
    #[arg(long, default_value_t = 0)]
    pub eventbridge_port: u16,
    /// Port of the simulated UNITH platform; 0 for a free one
    #[arg(long, default_value_t = 0)]
    pub unith_port: u16,
}
