//! One run: its clients, its rules, its heads, and its task.

use std::time::Duration;

use tokio::time::Instant;
use unith_events::{
    ids::HeadId,
    key_ring::{RingKey, document::RingDocument},
    timestamp::Timestamp,
};

use crate::{
    config::Allowed,
    declared::{Declared, Heads, WebhookUrl},
    plan::{Look, Plan, plan},
    ring::{RingError, RingStore},
    unith::{UnithClient, UnithError},
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

/// How long things take.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long a replaced key stays valid: longer than UNITH retries what the key signed.
    pub key_grace: Duration,
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
            key_grace: Duration::from_mins(15),
            propagation_delay: Duration::from_secs(11),
            list_within: Duration::from_secs(10),
            denied_for: Duration::from_secs(30),
        }
    }
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

/// The kind of change that a run makes.
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
    /// Heads and URLs that are no longer declared: removed if everything else succeeded.
    pub leaving: Vec<Leaving>,
    /// Heads that UNITH no longer has: their keys are dropped.
    pub gone: Vec<HeadId>,
    /// Whether the heads are all of the account, so that one that UNITH refuses does not fail the run.
    pub is_all: bool,
}

/// A head or a URL that an update leaves behind.
#[derive(Debug, Clone)]
pub struct Leaving {
    pub head_id: HeadId,
    /// The URL it had.
    pub url: WebhookUrl,
    /// Whether the head is no longer declared; otherwise only its URL has changed.
    pub is_whole: bool,
}

/// The account's heads could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum HeadsError {
    #[error(transparent)]
    Unith(#[from] UnithError),
    #[error("UNITH lists no head for this account, and `*` stands for all of them; is it the right account?")]
    NoneListed,
}

impl Reconciler {
    /// The plan of a head, as `apply` would carry it out now.
    pub fn plan(&self, declared: &Declared, look: &Look, ring: &[RingKey]) -> Plan {
        plan(declared, look, ring, self.requester.owner.as_deref(), Timestamp::now())
    }

    /// Whether an entry of the ring is this run's owner's, or nobody's.
    pub(crate) fn is_own(&self, key: &RingKey) -> bool {
        key.owner.is_none() || key.owner == self.requester.owner
    }

    /// Keeps the ring's keys out of all messages from now on.
    pub(crate) fn keep_secret(&self, ring: &RingDocument) {
        self.unith.keep_secret(ring.keys().map(|key| &key.key));
    }

    /// The declared heads; for `*`, those that the account has now.
    pub async fn heads_of(&self, heads: &Heads) -> Result<Vec<HeadId>, HeadsError> {
        match heads {
            Heads::Named(ids) => Ok(ids.clone()),
            Heads::All => {
                let heads = self.unith.heads().await?;
                if heads.is_empty() { Err(HeadsError::NoneListed) } else { Ok(heads) }
            }
        }
    }

    /// The heads of this owner's entries that the account no longer has. None, if the account cannot be read.
    pub async fn gone_heads(&self, listed: &[HeadId]) -> Vec<HeadId> {
        let mut gone = self.owned_heads().await.unwrap_or_default();
        gone.retain(|head| !listed.contains(head));
        if gone.is_empty() || self.unith.account().await.is_err() { Vec::new() } else { gone }
    }

    /// Adds the heads of this owner's entries.
    pub async fn with_owned(&self, mut heads: Vec<HeadId>) -> Result<Vec<HeadId>, RingError> {
        for owned in self.owned_heads().await? {
            if !heads.contains(&owned) {
                heads.push(owned);
            }
        }
        Ok(heads)
    }

    /// The heads of this owner's entries; without an owner, those of entries that have none.
    pub(crate) async fn own_heads(&self) -> Result<Vec<HeadId>, RingError> {
        match self.ring.read().await {
            // A ring that does not exist has none.
            Err(error) if error.is_absence() => Ok(Vec::new()),
            ring => Ok(ring?.heads_of(self.requester.owner.as_deref())),
        }
    }

    /// The heads of the ring's entries that this run's owner owns: none without an owner.
    async fn owned_heads(&self) -> Result<Vec<HeadId>, RingError> {
        if self.requester.owner.is_none() { Ok(Vec::new()) } else { self.own_heads().await }
    }
}
