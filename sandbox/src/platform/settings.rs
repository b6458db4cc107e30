//! The settings of a simulated platform.

use std::{collections::BTreeMap, time::Duration};

use super::style::Style;

/// The settings of a simulated platform.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The spelling of deliveries.
    pub style: Style,
    /// The base URL on this machine of each webhook host. The platform connects to no other host.
    pub hosts: BTreeMap<String, String>,
    /// The time a webhook has to respond; 5 s at UNITH.
    pub response_timeout: Duration,
    /// The pause before the first retry. It doubles with each further retry.
    pub first_backoff: Duration,
    /// The seed of shared keys, tokens and conversations.
    pub seed: u64,
    /// Heads besides the one of UNITH's guide.
    pub more_heads: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            style: Style::default(),
            hosts: BTreeMap::new(),
            response_timeout: Duration::from_secs(5),
            first_backoff: Duration::from_secs(1),
            seed: 0,
            more_heads: Vec::new(),
        }
    }
}
