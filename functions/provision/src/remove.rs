//! Removal of our registrations and keys, and of the switch if nobody else listens.
//!
//! Ours are the ring's entries of this owner, entries without an owner (version 0.1.0 wrote none), and registrations of
//! our URL without an entry, which a run left that died before it stored the key. Entries that another owner took over
//! stay.
//!
//! Invariants:
//! - A removal is reported only after UNITH's list was read again.
//! - Keys of webhooks that are still listed stay in the ring.

use unith_events::{
    event_type::EventTypes,
    ids::{HeadId, WebhookId},
    key_ring::{KeyState, RingKey, document::RingDocument},
    timestamp::Timestamp,
};

use crate::{
    concurrent::for_each,
    confirmed::{delete_webhooks, switch_events},
    declared::WebhookUrl,
    plan::ours,
    reconciler::{Leaving, Reconciler},
    report::{HeadError, HeadReport},
    ring::{RingError, RingStore},
    step::{DeleteReason, Step},
    unith::{UnithError, webhook::Webhook},
};

/// Why something is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    Command,
    /// The resource is deleted. It may never have been created: a head that cannot be read, and that the ring does not
    /// know, is then not a failure.
    Deletion {
        /// Whether keys are dropped even if UNITH's side cannot be cleaned.
        force: bool,
    },
    /// An update no longer declares it.
    Leaving,
    /// A run takes back what it made itself, and nothing else.
    Undo {
        /// The webhooks that it registered.
        made: Vec<(HeadId, WebhookId)>,
        /// The heads whose events it switched on.
        switched_on: Vec<HeadId>,
    },
}

/// A removal.
#[derive(Debug)]
pub struct Removal<'r> {
    /// The URL of the registrations.
    pub url: &'r WebhookUrl,
    pub heads: Vec<HeadId>,
    pub purpose: Purpose,
    /// When the owner's deletion was requested; `None` if the owner stays.
    pub deleted_at: Option<Timestamp>,
}

/// The result of a removal.
#[derive(Debug)]
pub struct Removed {
    pub reports: Vec<HeadReport>,
    /// Whether the keys could be removed from the ring.
    pub written: Result<(), RingError>,
    /// Why the ring, which says what is ours, could not be used.
    pub no_ring: Option<RingError>,
}

/// The result of leaving a head or a URL.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) report: HeadReport,
    /// The webhooks that are still listed.
    pub(crate) listed: Vec<WebhookId>,
    /// Whether the head is no longer declared.
    pub(crate) is_whole: bool,
    /// Whether UNITH refuses the head, so that its webhooks are not known.
    pub(crate) is_refused: bool,
}

/// A head after a removal.
struct Cleared {
    id: HeadId,
    done: Vec<Step>,
    /// The webhooks that are still listed, ours and others'.
    listed: Vec<Webhook>,
    /// Whether anything of ours was there.
    had_ours: bool,
    /// Whether UNITH refuses the head already when it is looked at.
    is_refused: bool,
    result: Result<(), HeadError>,
}

impl Removal<'_> {
    fn is_undo(&self) -> bool {
        matches!(self.purpose, Purpose::Undo { .. })
    }

    fn is_forced(&self) -> bool {
        self.purpose == Purpose::Deletion { force: true }
    }

    /// Whether this very run registered the webhook.
    fn has_made(&self, head_id: &HeadId, id: &WebhookId) -> bool {
        let Purpose::Undo { made, .. } = &self.purpose else { return false };
        made.iter().any(|(head, made)| head == head_id && made == id)
    }

    /// Whether this very run switched the head's events on.
    fn has_switched_on(&self, head_id: &HeadId) -> bool {
        matches!(&self.purpose, Purpose::Undo { switched_on, .. } if switched_on.contains(head_id))
    }
}

impl Reconciler {
    /// Removes our registrations and keys. The ring says which ones are ours; one that is gone already is a success.
    pub async fn remove(&self, removal: &Removal<'_>) -> Result<Removed, RingError> {
        let store = self.ring.unguarded();
        let (before, no_ring) = match store.read().await {
            Err(error) if error.is_absence() => (RingDocument::default(), Some(error)),
            ring => (ring?, None),
        };
        self.keep_secret(&before);
        let mut cleared = for_each(&removal.heads, |id| Box::pin(self.clear(removal, id, &before, None))).await;
        let mut written = self.drop_keys(removal, &cleared, &store).await;
        // A run in flight may have registered something meanwhile, which only the ring shows.
        if let Ok(after) = store.read().await
            && self.clear_again(removal, &mut cleared, &after).await
        {
            written = written.and(self.drop_keys(removal, &cleared, &store).await);
        }
        // If a creation failed because UNITH could not be reached, its rollback must not fail for the same reason.
        let may_be_unknown = matches!(removal.purpose, Purpose::Deletion { .. }) && no_ring.is_none();
        let reports = cleared.into_iter().map(|head| {
            // A head that UNITH refuses may have left with its keys retiring.
            let is_left = |key: &RingKey| head.is_refused && key.state == KeyState::Retiring;
            let is_known = || before.of_head(&head.id).iter().any(|key| self.is_own(key) && !is_left(key));
            let is_excused = may_be_unknown && !head.had_ours && !is_known();
            HeadReport::new(head.id, head.done, head.result.as_ref().err().filter(|_| !is_excused))
        });
        Ok(Removed { reports: reports.collect(), written, no_ring })
    }

    /// Removes the heads and URLs that an update leaves behind. The update itself drops the keys.
    ///
    /// A head that UNITH refuses does not fail the update: its rollback would fail as well, and the head could never
    /// leave.
    pub(crate) async fn leave(&self, leaving: &[Leaving], ring: &RingDocument) -> Vec<Left> {
        for_each(leaving, |leaving| {
            Box::pin(async move {
                let removal =
                    Removal { url: &leaving.url, heads: Vec::new(), purpose: Purpose::Leaving, deleted_at: None };
                let cleared = self.clear(&removal, &leaving.head_id, ring, None).await;
                let listed = cleared.listed.into_iter().map(|webhook| webhook.id).collect();
                let (is_whole, error) = (leaving.is_whole, cleared.result.as_ref().err());
                // With credentials that are wrong, every head is refused.
                let is_refused = cleared.is_refused && self.unith.account().await.is_ok();
                let mut report = HeadReport::new(cleared.id, cleared.done, error.filter(|_| !is_refused));
                if let Some(error) = error.filter(|_| is_refused) {
                    let consequence =
                        if is_whole { "its key retires, and a webhook" } else { "a webhook of the old URL" };
                    report.notes.push(format!("UNITH refuses this head: {consequence} may stay registered: {error}"));
                }
                Left { report, listed, is_whole, is_refused }
            })
        })
        .await
    }

    /// Clears the heads a second time, and those that the owner got meanwhile. Returns whether anything was removed.
    async fn clear_again(&self, removal: &Removal<'_>, cleared: &mut Vec<Cleared>, after: &RingDocument) -> bool {
        let again = cleared.iter().filter(|head| head.result.is_ok());
        let mut heads: Vec<_> = again.map(|head| (head.id.clone(), head.listed.clone())).collect();
        let new = self.deleted_owner(removal).map(|owner| after.heads_of(Some(owner))).unwrap_or_default();
        let new = new.into_iter().filter(|id| cleared.iter().all(|head| head.id != *id));
        heads.extend(new.map(|id| (id, Vec::new())));
        let mut has_removed = false;
        let second_round =
            for_each(&heads, |(id, known)| Box::pin(self.clear(removal, id, after, Some(known.as_slice()))));
        for second in second_round.await {
            has_removed |= second.had_ours || !second.done.is_empty();
            let Some(first) = cleared.iter_mut().find(|first| first.id == second.id) else {
                cleared.push(second);
                continue;
            };
            first.done.extend(second.done);
            first.listed = second.listed;
            first.had_ours |= second.had_ours;
            first.is_refused = second.is_refused;
            first.result = second.result;
        }
        has_removed
    }

    /// Removes our webhooks of a head. A second look passes those that the first one `spared`.
    async fn clear(
        &self,
        removal: &Removal<'_>,
        head_id: &HeadId,
        ring: &RingDocument,
        spared: Option<&[Webhook]>,
    ) -> Cleared {
        let id = head_id.clone();
        let mut cleared =
            Cleared { id, done: Vec::new(), listed: Vec::new(), had_ours: false, is_refused: false, result: Ok(()) };
        cleared.result = self.try_to_clear(removal, ring, spared, &mut cleared).await;
        cleared
    }

    async fn try_to_clear(
        &self,
        removal: &Removal<'_>,
        ring: &RingDocument,
        spared: Option<&[Webhook]>,
        cleared: &mut Cleared,
    ) -> Result<(), HeadError> {
        let head_id = &cleared.id;
        let listed = self.webhooks_of(head_id).await;
        cleared.is_refused = listed.as_ref().is_err_and(UnithError::is_refusal);
        let Some(listed) = listed? else { return Ok(()) };
        cleared.listed = listed;
        let mut going = ours(&cleared.listed, removal.url);
        let is_spared = |webhook: &Webhook| spared.into_iter().flatten().any(|known| known.id == webhook.id);
        going.retain(|webhook| !is_spared(webhook) && self.goes(removal, cleared, webhook, ring));
        cleared.had_ours = !going.is_empty();
        if cleared.had_ours {
            let deletion = delete_webhooks(&self.unith, head_id, &going).await;
            cleared.done.extend(deletion.steps(DeleteReason::Removed));
            cleared.listed = deletion.listed?;
        }
        // If the webhook was deleted by hand, the switch stays: somebody else may have switched it on.
        let is_unfinished = self.is_repeated(removal, ring) && spared.is_none();
        let is_concerned = cleared.had_ours || is_unfinished || removal.has_switched_on(head_id);
        // A switch that cannot be read is set anyway.
        if is_concerned && cleared.listed.is_empty() && !matches!(self.unith.events_on(head_id).await, Ok(false)) {
            switch_events(&self.unith, head_id, false).await?;
            cleared.done.push(Step::Switch(false));
        }
        Ok(())
    }

    /// Whether a webhook with our URL is to be deleted.
    fn goes(&self, removal: &Removal<'_>, head: &Cleared, webhook: &Webhook, ring: &RingDocument) -> bool {
        let head_id = &head.id;
        if removal.is_undo() {
            return removal.has_made(head_id, &webhook.id);
        }
        let entries = ring.of_head(head_id);
        let mut own = entries.iter().filter(|entry| entry.is_of_webhook(&webhook.id)).peekable();
        if own.peek().is_some() {
            // An entry that was taken over goes back to its previous owner.
            return own.all(|entry| self.is_removable(removal, entry, head_id) && entry.previous_owner.is_none());
        }
        // A webhook that delivers in place of ours, which is gone, belongs to another stack with another ring.
        let is_known = entries.iter().any(|entry| self.is_removable(removal, entry, head_id));
        let is_replaced =
            entries.iter().any(|entry| is_gone(entry, &head.listed)) || (self.is_repeated(removal, ring) && !is_known);
        let is_anothers = is_replaced && webhook.subscriptions != EventTypes::NONE;
        self.allowed.covers(removal.url, head_id) && !is_anothers
    }

    /// The owner, if this removal deletes it.
    fn deleted_owner(&self, removal: &Removal<'_>) -> Option<&str> {
        self.requester.owner.as_deref().filter(|_| removal.deleted_at.is_some())
    }

    /// Whether the owner's deletion was requested before: this one completes it.
    fn is_repeated(&self, removal: &Removal<'_>, ring: &RingDocument) -> bool {
        self.deleted_owner(removal).is_some_and(|owner| ring.deleted_at(owner).is_some())
    }

    /// A head's webhooks; `None` if the head does not exist. A 404 counts only if UNITH finds the account.
    async fn webhooks_of(&self, head_id: &HeadId) -> Result<Option<Vec<Webhook>>, UnithError> {
        match self.unith.webhooks(head_id).await {
            Err(error) if error.is_not_found() => match self.unith.account().await {
                Ok(()) => Ok(None),
                Err(_) => Err(error),
            },
            listed => listed.map(Some),
        }
    }

    /// Whether an entry of the ring may be removed. One without an owner may if the variables name its head.
    fn is_removable(&self, removal: &Removal<'_>, entry: &RingKey, head_id: &HeadId) -> bool {
        let is_covered = || removal.purpose == Purpose::Leaving || self.allowed.covers(removal.url, head_id);
        self.is_own(entry) && (entry.owner.is_some() || is_covered())
    }

    /// One write: drops the keys of webhooks that are gone, hands entries over, marks the owner as deleted.
    async fn drop_keys(&self, removal: &Removal<'_>, cleared: &[Cleared], store: &RingStore) -> Result<(), RingError> {
        let change = |ring: &mut RingDocument| {
            if let Some((owner, at)) = self.requester.owner.as_deref().zip(removal.deleted_at) {
                ring.hand_over_from(owner);
                ring.mark_deleted(owner, at);
            }
            for head in cleared.iter().filter(|head| head.result.is_ok() || removal.is_forced()) {
                let entries = ring.of_head(&head.id);
                // Another owner has the head now: it needs the retiring keys for deliveries that are still on their
                // way.
                let is_anothers = entries.iter().any(|entry| entry.state == KeyState::Active && !self.is_own(entry));
                ring.remove_keys(&head.id, |key| {
                    let is_of = |is: &dyn Fn(&WebhookId) -> bool| key.webhook_id.as_ref().is_some_and(is);
                    let is_listed = is_of(&|id| head.listed.iter().any(|webhook| webhook.id == *id));
                    let stays = (removal.is_undo() && !is_of(&|id| removal.has_made(&head.id, id)))
                        || (is_listed && head.result.is_ok())
                        || (is_anothers && key.state == KeyState::Retiring);
                    !stays && key.previous_owner.is_none() && self.is_removable(removal, key, &head.id)
                });
            }
        };
        match store.change(Timestamp::now(), change).await.map(drop) {
            // Without a ring, no key of ours is left.
            Err(error) if error.is_absence() => Ok(()),
            result => result,
        }
    }
}

/// Whether an entry is an active one of a webhook that is not listed.
fn is_gone(entry: &RingKey, listed: &[Webhook]) -> bool {
    let is_listed = |id: &WebhookId| listed.iter().any(|webhook| webhook.id == *id);
    entry.state == KeyState::Active && entry.webhook_id.as_ref().is_some_and(|id| !is_listed(id))
}
