//! The clients and the rules of one run, and its task.

use tokio::time::Instant;
use unith_events::{
    ids::HeadId,
    key_ring::{RingKey, document::KeyRingDocument},
    timestamp::Timestamp,
};

use crate::{
    config::Allowed,
    declared::{Declared, WebhookUrl},
    plan::{Look, Plan, plan},
    ring::RingStore,
    timing::Timing,
    unith::UnithClient,
};

/// The clients and the rules of one run.
#[derive(Debug, Clone)]
pub struct Reconciler {
    pub unith: UnithClient,
    pub ring: RingStore,
    pub timing: Timing,
    pub requester: Requester,
    /// Which webhooks without an entry in the ring count as ours.
    pub allowed: Allowed,
    pub started: Instant,
}

/// The party that a run acts for.
#[derive(Debug, Clone)]
pub struct Requester {
    /// The resource, e.g. `UnithWebhook@6a5b1f00-…`.
    pub owner: Option<String>,
    /// Whether it takes over entries of other owners: a resource that is created or updated does, a command does not.
    pub takes_over: bool,
    /// When the run was requested.
    pub issued_at: Timestamp,
}

/// What a run does with its heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Brings about the declared state.
    Apply,
    /// Replaces the keys, and leaves the switch as it is.
    Rotate,
}

/// The task of a run.
#[derive(Debug)]
pub struct Task<'t> {
    pub declared: &'t Declared,
    pub heads: Vec<HeadId>,
    pub mode: Mode,
    /// What is no longer declared: removed if everything else succeeded.
    pub leaving: Vec<Leaving>,
    /// Heads that UNITH no longer has: their keys are dropped.
    pub gone: Vec<HeadId>,
    /// Whether the heads are all of the account, so that one that UNITH refuses does not fail the run.
    pub is_all: bool,
}

/// What an update leaves behind.
#[derive(Debug, Clone)]
pub struct Leaving {
    pub head_id: HeadId,
    /// The URL it had.
    pub url: WebhookUrl,
    /// Whether the head is no longer declared; otherwise only its URL has changed.
    pub is_whole: bool,
}

impl Reconciler {
    /// The plan of a head, as `apply` would carry it out now.
    #[must_use]
    pub fn plan(&self, declared: &Declared, look: &Look, ring: &[RingKey]) -> Plan {
        plan(declared, look, ring, self.requester.owner.as_deref(), Timestamp::now())
    }

    /// Whether an entry of the ring is this run's owner's, or nobody's.
    pub(crate) fn is_own(&self, key: &RingKey) -> bool {
        key.owner.is_none() || key.owner == self.requester.owner
    }

    /// Keeps the ring's keys out of all messages from now on.
    pub(crate) fn keep_secret(&self, ring: &KeyRingDocument) {
        self.unith.keep_secret(ring.keys().map(|key| &key.key));
    }
}
