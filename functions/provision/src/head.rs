//! The state of one head during a run.

use tokio::time::Instant;
use unith_events::{
    ids::{HeadId, WebhookId},
    key_ring::{RingKey, document::NewKey},
    signature::SharedKey,
};

use crate::{
    plan::{Look, Plan},
    reconciler::{Mode, Task},
    report::{HeadError, HeadReport},
    step::Step,
};

/// A head in a run.
pub(crate) struct Head {
    pub(crate) id: HeadId,
    pub(crate) look: Option<Look>,
    /// Its entries in the ring.
    pub(crate) entries: Vec<RingKey>,
    pub(crate) plan: Option<Plan>,
    pub(crate) registered: Option<Registered>,
    /// Whether its events are on, as far as is known.
    pub(crate) events_on: bool,
    /// Whether the run set the switch, or tried to.
    pub(crate) switched: bool,
    /// Webhooks that the run deleted, and UNITH no longer lists.
    pub(crate) deleted: Vec<WebhookId>,
    /// The webhook's key, if subscribing it gave it another one.
    pub(crate) changed_key: Option<NewKey>,
    /// When the run stored the key of its webhook, if receivers had other keys then.
    pub(crate) key_stored_at: Option<Instant>,
    pub(crate) done: Vec<Step>,
    pub(crate) notes: Vec<String>,
    pub(crate) error: Option<HeadError>,
}

/// A webhook that this run registered.
#[derive(Debug, Clone)]
pub(crate) struct Registered {
    /// `None` if UNITH does not list it.
    pub(crate) id: Option<WebhookId>,
    pub(crate) key: SharedKey,
    /// Whether it was registered with subscriptions, since UNITH refuses a registration without.
    pub(crate) is_live: bool,
}

impl Head {
    pub(crate) fn new(id: HeadId) -> Self {
        Self {
            id,
            look: None,
            entries: Vec::new(),
            plan: None,
            registered: None,
            events_on: false,
            switched: false,
            deleted: Vec::new(),
            changed_key: None,
            key_stored_at: None,
            done: Vec::new(),
            notes: Vec::new(),
            error: None,
        }
    }

    pub(crate) fn is_ok(&self) -> bool {
        self.error.is_none()
    }

    /// Whether UNITH refuses the head itself. A later refusal is about what was requested.
    pub(crate) fn is_refused(&self) -> bool {
        self.look.is_none() && self.error.as_ref().is_some_and(HeadError::is_refusal)
    }

    /// Takes a result's value; its error ends the head's part of the run.
    pub(crate) fn value_of<T>(&mut self, result: Result<T, impl Into<HeadError>>) -> Option<T> {
        result.map_err(|error| self.error = Some(error.into())).ok()
    }

    /// The plan, while the head has not failed.
    pub(crate) fn open_plan(&self) -> Option<&Plan> {
        self.plan.as_ref().filter(|_| self.is_ok())
    }

    /// Whether the run stores a key for the webhook that stays.
    pub(crate) fn has_new_key(&self) -> bool {
        self.registered.is_some() || self.open_plan().is_some_and(|plan| plan.key_to_store.is_some())
    }

    /// Whether its events were on when the run looked.
    pub(crate) fn was_on(&self) -> bool {
        self.look.as_ref().is_some_and(|look| look.events_on)
    }

    /// Whether its events are to be on at the end.
    pub(crate) fn stays_on(&self, task: &Task<'_>) -> bool {
        match task.mode {
            Mode::Apply => task.declared.enable_events,
            Mode::Rotate => self.was_on(),
        }
    }

    /// The webhook that stays.
    pub(crate) fn own_id(&self) -> Option<WebhookId> {
        match &self.registered {
            Some(registered) => registered.id.clone(),
            None => self.plan.as_ref().and_then(|plan| plan.keeper.as_ref()).map(|keeper| keeper.id.clone()),
        }
    }

    pub(crate) fn entry_of(&self, id: &WebhookId) -> Option<&RingKey> {
        self.entries.iter().find(|entry| entry.is_of_webhook(id))
    }

    pub(crate) fn report(self, task: &Task<'_>) -> HeadReport {
        let (is_new, is_refused) = (task.is_all && self.entries.is_empty(), self.is_refused());
        let report = HeadReport::new(self.id, self.done, self.error.as_ref());
        HeadReport { notes: self.notes, is_new, is_refused, ..report }
    }
}
