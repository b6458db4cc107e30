//! The waits of a run.

use std::time::Duration;

/// How long things take.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long a replaced key stays valid: longer than UNITH retries what the key signed.
    pub key_grace: time::Duration,
    /// How long a new key is in the ring before anything is signed with it. A receiver refreshes its ring at most every
    /// 10 s; a little later, each receiver can have the key.
    pub propagation_delay: Duration,
    /// How long a registration is looked for in UNITH's list.
    pub list_within: Duration,
    /// How long a run of a custom resource, from its start, retries what IAM denies: new permissions take effect late.
    pub denied_for: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            key_grace: time::Duration::minutes(15),
            propagation_delay: Duration::from_secs(11),
            list_within: Duration::from_secs(10),
            denied_for: Duration::from_secs(30),
        }
    }
}
