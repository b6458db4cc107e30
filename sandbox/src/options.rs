//! The options of a sandbox.

use std::{path::PathBuf, time::Duration};

use crate::platform::style::Style;

/// The options of a sandbox.
#[derive(Debug, Clone)]
pub struct Options {
    /// The spelling of deliveries.
    pub style: Style,
    /// The ports of the services.
    pub ports: Ports,
    /// The file for the data of DynamoDB; `None` keeps it in memory.
    pub data: Option<PathBuf>,
    /// The seed of the simulated platform.
    pub seed: u64,
    /// The platform's pause before its first retry.
    pub first_backoff: Duration,
}

/// Ports on loopback; 0 is a free one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ports {
    pub api_gateway: u16,
    pub dynamodb: u16,
    pub secrets_manager: u16,
    pub unith: u16,
}
