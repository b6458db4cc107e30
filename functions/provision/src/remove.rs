//! Taking away what is ours: registrations, keys, and events where nobody else listens.
//!
//! What is ours, the ring says: entries of this owner, entries that nobody owns (version 0.1.0 wrote none), and
//! registrations of our URL that no entry speaks of, which a run left that died before it stored the key. What another
//! owner took over stays. Removal looks again before it believes anything: an answer of success may mean nothing.

use unith_events::{
    ids::WebhookId,
    key_ring::{KeyState, RingKey},
    timestamp::Timestamp,
};

use crate::{
    declared::{Subscriptions, WebhookUrl},
    plan::{Step, ours},
    ring::{Document, RingError},
    run::{Boxed, HeadReport, Leaving, Run, RunError, delete_all, each, switch},
    unith::{UnithError, Webhook},
};

/// What something is taken away for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Somebody asked for it.
    Command,
    /// The resource is deleted. It may never have been created: a head that cannot be asked about, and of which the ring knows
    /// nothing, is then no failure.
    Deletion,
    /// An update leaves it behind: the variables do not name it any more.
    Leaving,
    /// A run takes back what it made itself, and nothing else.
    Undoing,
}

/// What is to be taken away.
#[derive(Debug)]
pub struct Removal<'r> {
    /// The URL of the registrations.
    pub url: &'r WebhookUrl,
    /// The heads.
    pub heads: Vec<String>,
    /// What for.
    pub purpose: Purpose,
    /// When the deletion of the owner was asked for; `None` if it is not being deleted.
    pub deleted_at: Option<Timestamp>,
    /// Whether our own side is cleaned also where UNITH's cannot be.
    pub force: bool,
    /// Registrations that this very run made, with their heads.
    pub made: Vec<(String, WebhookId)>,
    /// Heads whose events this very run switched on.
    pub switched_on: Vec<String>,
}

impl<'r> Removal<'r> {
    /// A removal that marks no owner as deleted, forces nothing, and made nothing itself.
    #[must_use]
    pub fn new(url: &'r WebhookUrl, heads: Vec<String>, purpose: Purpose) -> Self {
        Self { url, heads, purpose, deleted_at: None, force: false, made: Vec::new(), switched_on: Vec::new() }
    }

    /// Whether this very run registered the webhook.
    fn has_made(&self, head_id: &str, id: &WebhookId) -> bool {
        self.made.iter().any(|(head, made)| head == head_id && made == id)
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Removed {
    /// The heads.
    pub reports: Vec<HeadReport>,
    /// Whether the keys could be taken out of the ring.
    pub written: Result<(), RingError>,
    /// Why there was no ring to say what is ours.
    pub no_ring: Option<RingError>,
}

/// A head after something was taken away from it.
struct Cleared {
    head_id: String,
    done: Vec<String>,
    /// What is registered still, ours and others'.
    listed: Vec<Webhook>,
    /// Whether anything of ours was there.
    had_ours: bool,
    result: Result<(), RunError>,
}

impl Run {
    /// Takes away what is ours. What is gone already is a success.
    ///
    /// # Errors
    /// A ring that cannot be read: it says what is ours.
    pub async fn remove(&self, removal: Removal<'_>) -> Result<Removed, RingError> {
        let ring_store = self.ring.guarded(None);
        let (before, no_ring) = match ring_store.read().await {
            // Where the ring is gone, or never was one, nothing in it is ours.
            Err(error) if error.is_absence() => (Document::default(), Some(error)),
            ring => (ring?, None),
        };
        for key in before.keys() {
            self.unith.keep_secret(key.key.expose());
        }
        let removal = &removal;
        let work = removal.heads.iter().map(|id| Box::pin(self.clear(removal, id, &before, None)) as _);
        let mut cleared = each(work).await;
        let written = self.drop_keys(removal, &cleared, &ring_store).await;
        // A run that was under way may have registered something meanwhile. Without the ring nobody knows.
        let appeared = match ring_store.read().await {
            Ok(after) => self.clear_again(removal, &mut cleared, &after).await,
            Err(_) => false,
        };
        let written =
            if appeared { written.and(self.drop_keys(removal, &cleared, &ring_store).await) } else { written };
        let reports = cleared.into_iter().map(|head| {
            // UNITH does not let us in, or is not there, and we know of nothing of ours at it: this was never created, and
            // a creation that failed must not fail to be rolled back.
            let may_be_unknown = removal.purpose == Purpose::Deletion && no_ring.is_none() && !head.had_ours;
            let is_known = || before.of_head(&head.head_id).iter().any(|key| self.is_own(key));
            let result = if may_be_unknown && !is_known() { Ok(()) } else { head.result };
            HeadReport::new(&head.head_id, head.done, &result)
        });
        Ok(Removed { reports: reports.collect(), written, no_ring })
    }

    /// Clears the heads a second time, and those that the owner has got meanwhile. Whether anything was there to be taken
    /// away is the result.
    async fn clear_again(&self, removal: &Removal<'_>, cleared: &mut Vec<Cleared>, after: &Document) -> bool {
        let well = cleared.iter().filter(|head| head.result.is_ok());
        let again = well.map(|head| (head.head_id.clone(), head.listed.clone()));
        let owner = self.who.owner.as_deref().filter(|_| removal.deleted_at.is_some());
        let is_new = |head_id: &String| cleared.iter().all(|head| head.head_id != *head_id);
        let new = owner.map(|owner| after.heads_of(owner)).unwrap_or_default().into_iter().filter(is_new);
        let heads: Vec<_> = again.chain(new.map(|head_id| (head_id, Vec::new()))).collect();
        let work = heads
            .iter()
            .map(|(head_id, known)| Box::pin(self.clear(removal, head_id, after, Some(known))) as Boxed<'_, Cleared>);
        let mut appeared = false;
        for second in each(work).await {
            appeared |= second.had_ours || !second.done.is_empty();
            let Some(first) = cleared.iter_mut().find(|first| first.head_id == second.head_id) else {
                cleared.push(second);
                continue;
            };
            first.done.extend(second.done);
            first.listed = second.listed;
            first.had_ours |= second.had_ours;
            first.result = second.result;
        }
        appeared
    }

    /// Takes away what is ours on a head; at a second look, but for what was `spared` at the first.
    async fn clear(
        &self,
        removal: &Removal<'_>,
        head_id: &str,
        ring: &Document,
        spared: Option<&[Webhook]>,
    ) -> Cleared {
        let head_id = head_id.to_owned();
        let mut cleared = Cleared { head_id, done: Vec::new(), listed: Vec::new(), had_ours: false, result: Ok(()) };
        cleared.result = self.try_to_clear(removal, ring, spared, &mut cleared).await;
        cleared
    }

    async fn try_to_clear(
        &self,
        removal: &Removal<'_>,
        ring: &Document,
        spared: Option<&[Webhook]>,
        cleared: &mut Cleared,
    ) -> Result<(), RunError> {
        let head_id = cleared.head_id.clone();
        cleared.listed = match self.listed(&head_id).await? {
            Some(listed) => listed,
            None => return Ok(()),
        };
        let entries = ring.of_head(&head_id);
        let is_known = entries.iter().any(|entry| self.is_removable(removal, entry, &head_id));
        // A deletion that is asked for once more: what it did not come to then, it has to do now.
        let owner = self.who.owner.as_deref().filter(|_| removal.deleted_at.is_some());
        let is_repeated = owner.is_some_and(|owner| ring.deleted_at(owner).is_some());
        let is_ours = |webhook: &Webhook| {
            if removal.purpose == Purpose::Undoing {
                return false;
            }
            let mut own = entries.iter().filter(|entry| entry.webhook_id.as_ref() == Some(&webhook.id)).peekable();
            if own.peek().is_some() {
                // What was taken over, or is given back to whom it was taken from, is another's.
                return own.all(|entry| self.is_removable(removal, entry, &head_id) && entry.previous_owner.is_none());
            }
            // One that delivers in the place of ours, which is gone, was made by another stack with another ring.
            let is_replaced = entries.iter().any(|entry| is_gone(entry, &cleared.listed)) || (is_repeated && !is_known);
            self.allowed.covers(removal.url, &head_id) && !(webhook.subscriptions != Subscriptions::NONE && is_replaced)
        };
        let is_spared = |webhook: &Webhook| spared.into_iter().flatten().any(|known| known.id == webhook.id);
        let ours = ours(&cleared.listed, removal.url).into_iter();
        let going: Vec<_> =
            ours.filter(|own| !is_spared(own) && (removal.has_made(&head_id, &own.id) || is_ours(own))).collect();
        cleared.had_ours = !going.is_empty();
        if !going.is_empty() {
            let deletion = delete_all(&self.unith, &head_id, &going).await;
            cleared.done.extend(deletion.gone.iter().map(|id| format!("delete webhook {id}")));
            cleared.listed = deletion.listed?;
        }
        // Of what was deleted by hand the switch stays: somebody else may have switched it on.
        let is_unfinished = is_repeated && spared.is_none();
        let is_concerned = cleared.had_ours || is_unfinished || removal.switched_on.contains(&head_id);
        // Where it cannot be read, it is set all the same.
        if is_concerned && cleared.listed.is_empty() && !matches!(self.unith.events_on(&head_id).await, Ok(false)) {
            switch(&self.unith, &head_id, false).await?;
            cleared.done.push(Step::Switch(false).to_string());
        }
        Ok(())
    }

    /// A head's webhooks; `None` if there is no such head. That UNITH finds nothing says so only if it finds the account.
    async fn listed(&self, head_id: &str) -> Result<Option<Vec<Webhook>>, UnithError> {
        match self.unith.webhooks(head_id).await {
            Err(error) if error.is_not_found() => match self.unith.account().await {
                Ok(()) => Ok(None),
                Err(_) => Err(error),
            },
            listed => listed.map(Some),
        }
    }

    /// Whether an entry of the ring is ours to take out: one that nobody owns is, where the variables name its head.
    fn is_removable(&self, removal: &Removal<'_>, entry: &RingKey, head_id: &str) -> bool {
        self.is_own(entry)
            && (entry.owner.is_some()
                || removal.purpose == Purpose::Leaving
                || self.allowed.covers(removal.url, head_id))
    }

    /// The one write: keys of ours whose webhooks are gone, what is handed over, and that the owner was deleted.
    async fn drop_keys(
        &self,
        removal: &Removal<'_>,
        cleared: &[Cleared],
        ring: &crate::ring::RingStore,
    ) -> Result<(), RingError> {
        let owner = self.who.owner.as_deref();
        let change = |ring: &mut Document| {
            if let Some((owner, at)) = owner.zip(removal.deleted_at) {
                ring.hand_over_from(owner);
                ring.mark_deleted(owner, at);
            }
            for head in cleared.iter().filter(|head| head.result.is_ok() || removal.force) {
                let entries = ring.of_head(&head.head_id);
                // Another one looks after the head now: what still comes signed with replaced keys is for that one.
                let is_anothers = entries.iter().any(|entry| entry.state == KeyState::Active && !self.is_own(entry));
                ring.remove(&head.head_id, |key| {
                    let is_made = |id: &WebhookId| removal.has_made(&head.head_id, id);
                    if removal.purpose == Purpose::Undoing && !key.webhook_id.as_ref().is_some_and(is_made) {
                        return false;
                    }
                    let is_listed = |id: &WebhookId| head.listed.iter().any(|webhook| webhook.id == *id);
                    let stays = key.webhook_id.as_ref().is_some_and(is_listed) && head.result.is_ok();
                    let is_retired = is_anothers && key.state == KeyState::Retiring;
                    let is_removable = self.is_removable(removal, key, &head.head_id);
                    is_removable && key.previous_owner.is_none() && !stays && !is_retired
                });
            }
        };
        match ring.change(Timestamp::now(), change).await.map(drop) {
            // With the secret, all keys are gone; and what is not a ring has none of ours.
            Err(error) if error.is_absence() => Ok(()),
            result => result,
        }
    }

    /// Takes away what an update leaves behind; their keys go with the update's own. `still` are the webhooks that are
    /// registered there yet.
    pub(crate) async fn leave(&self, leaving: &[Leaving], ring: &Document) -> Vec<Left> {
        let work = leaving.iter().map(|leaving| {
            Box::pin(async move {
                let removal = Removal::new(&leaving.url, Vec::new(), Purpose::Leaving);
                let cleared = self.clear(&removal, &leaving.head_id, ring, None).await;
                let still = cleared.listed.iter().map(|webhook| webhook.id.clone()).collect();
                let report = HeadReport::new(&cleared.head_id, cleared.done, &cleared.result);
                Left { report, still, is_whole: leaving.is_whole }
            }) as _
        });
        each(work).await
    }
}

/// Whether an entry is of a webhook in use that is not listed.
fn is_gone(entry: &RingKey, listed: &[Webhook]) -> bool {
    let is_listed = |id: &WebhookId| listed.iter().any(|webhook| webhook.id == *id);
    entry.state == KeyState::Active && entry.webhook_id.as_ref().is_some_and(|id| !is_listed(id))
}

/// What came of leaving a head or a URL.
#[derive(Debug)]
pub(crate) struct Left {
    /// How it went.
    pub(crate) report: HeadReport,
    /// What is registered there yet.
    pub(crate) still: Vec<WebhookId>,
    /// Whether the head is not looked after any more.
    pub(crate) is_whole: bool,
}
