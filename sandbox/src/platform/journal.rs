//! The journal: when each webhook began and ended being live.
//!
//! Invariants: every change of the state is seen, because the state can only be reached through [`Locked`], which
//! compares when it is dropped.

use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    sync::MutexGuard,
    time::Instant,
};

use super::{State, Webhook};

/// A webhook began or ended being live. It is live while its head's events are on, it was registered while they were
/// on, and it is subscribed to some type.
///
/// A live webhook whose head, URL or key changes ends, and begins again with the new one.
#[derive(Debug, Clone)]
pub struct Change {
    /// When.
    pub at: Instant,
    /// The webhook's head.
    pub head_id: String,
    /// The webhook.
    pub webhook_id: u64,
    /// Where it delivers to.
    pub webhook_url: String,
    /// What it signs with.
    pub shared_key: String,
    /// Whether it began.
    pub live: bool,
}

/// The changes so far, and the webhooks that are live after them.
#[derive(Debug, Default)]
pub(super) struct Journal {
    changes: Vec<Change>,
    live: BTreeMap<u64, Live>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Live {
    head_id: String,
    webhook_url: String,
    shared_key: String,
}

impl Live {
    fn of(webhook: &Webhook) -> Self {
        Self {
            head_id: webhook.head_id.clone(),
            webhook_url: webhook.webhook_url.clone(),
            shared_key: webhook.shared_key.clone(),
        }
    }

    fn change(&self, at: Instant, webhook_id: u64, live: bool) -> Change {
        let Self { head_id, webhook_url, shared_key } = self.clone();
        Change { at, head_id, webhook_id, webhook_url, shared_key, live }
    }
}

impl Journal {
    pub(super) fn changes(&self) -> &[Change] {
        &self.changes
    }

    fn record(&mut self, live: BTreeMap<u64, Live>) {
        let at = Instant::now();
        let differs = |other: &BTreeMap<u64, Live>, id: &u64, one: &Live| other.get(id) != Some(one);
        let ended = self.live.iter().filter(|(id, one)| differs(&live, id, one));
        let ended: Vec<_> = ended.map(|(id, one)| one.change(at, *id, false)).collect();
        let begun = live.iter().filter(|(id, one)| differs(&self.live, id, one));
        let begun: Vec<_> = begun.map(|(id, one)| one.change(at, *id, true)).collect();
        self.changes.extend(ended.into_iter().chain(begun));
        self.live = live;
    }
}

/// Access to the state. Dropping it brings the journal up to date.
pub(super) struct Locked<'a>(MutexGuard<'a, State>);

impl<'a> Locked<'a> {
    pub(super) fn new(state: MutexGuard<'a, State>) -> Self {
        Self(state)
    }
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.0
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let live = self.0.webhooks.iter().filter(|webhook| self.0.is_live(webhook));
        let live = live.map(|webhook| (webhook.id, Live::of(webhook))).collect();
        self.0.journal.record(live);
    }
}
