//! Taking away what is ours: registrations, keys, and events where nobody else listens.
//!
//! What is ours, the ring says: entries of this owner, entries that nobody owns (version 0.1.0 wrote none), and
//! registrations of our URL that no entry speaks of, which a run left that died before it stored the key. What another
//! owner took over stays. Removal looks again before it believes anything: an answer of success may mean nothing.

use shared::{
    key_ring::{KeyState, RingKey, WebhookId},
    timestamp::Timestamp,
};

use crate::{
    declared::{Subscriptions, WebhookUrl},
    plan::{Step, ours},
    ring::{Document, RingError},
    run::{Boxed, HeadReport, Leaving, Run, RunError, each, switch},
    unith::{UnithError, Webhook},
};

/// What is to be taken away.
#[derive(Debug)]
pub struct Removal<'r> {
    /// The URL of the registrations.
    pub url: &'r WebhookUrl,
    /// The heads.
    pub heads: Vec<String>,
    /// When the deletion of the owner was asked for; `None` if it is not being deleted.
    pub deleted_at: Option<Timestamp>,
    /// Whether our own side is cleaned also where UNITH's cannot be.
    pub force: bool,
    /// Registrations that this very run made, with their heads.
    pub made: Vec<(String, WebhookId)>,
    /// Heads whose events this very run switched on.
    pub switched_on: Vec<String>,
}

/// What came of it.
#[derive(Debug)]
pub struct Removed {
    /// The heads.
    pub reports: Vec<HeadReport>,
    /// Whether the keys could be taken out of the ring.
    pub written: Result<(), RingError>,
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
        let before = match ring_store.read().await {
            // Where the ring is gone, or never was one, nothing in it is ours.
            Err(error) if error.is_absence() => Document::default(),
            ring => ring?,
        };
        for key in before.keys() {
            self.unith.keep_secret(key.key.expose());
        }
        let removal = &removal;
        let work = removal.heads.iter().map(|id| Box::pin(self.clear(removal, id, &before, &[])) as _);
        let mut cleared = each(work).await;
        let written = self.drop_keys(removal, &cleared, &ring_store).await;
        // A run that was under way may have registered something meanwhile.
        let after: Document = ring_store.read().await.unwrap_or_default();
        let again = cleared.iter().filter(|head| head.result.is_ok());
        let work =
            again.map(|head| Box::pin(self.clear(removal, &head.head_id, &after, &head.listed)) as Boxed<'_, Cleared>);
        let mut appeared = false;
        for second in each(work).await {
            let Some(first) = cleared.iter_mut().find(|first| first.head_id == second.head_id) else { continue };
            appeared |= !second.done.is_empty();
            first.done.extend(second.done);
            first.listed = second.listed;
            first.had_ours |= second.had_ours;
            first.result = second.result;
        }
        let written =
            if appeared { written.and(self.drop_keys(removal, &cleared, &ring_store).await) } else { written };
        let reports = cleared.into_iter().map(|head| {
            // UNITH does not let us in, or is not there, and we know of nothing of ours at it: this was never created, and
            // a creation that failed must not fail to be rolled back.
            let is_unknown = !head.had_ours && !before.of_head(&head.head_id).iter().any(|key| self.is_own(key));
            let result = if is_unknown { Ok(()) } else { head.result };
            HeadReport::new(&head.head_id, head.done, &result)
        });
        Ok(Removed { reports: reports.collect(), written })
    }

    /// Takes away what is ours on a head, but for what was `spared` before.
    async fn clear(&self, removal: &Removal<'_>, head_id: &str, ring: &Document, spared: &[Webhook]) -> Cleared {
        let mut cleared = Cleared {
            head_id: head_id.to_owned(),
            done: Vec::new(),
            listed: Vec::new(),
            had_ours: false,
            result: Ok(()),
        };
        cleared.result = self.try_to_clear(removal, ring, spared, &mut cleared).await;
        cleared
    }

    async fn try_to_clear(
        &self,
        removal: &Removal<'_>,
        ring: &Document,
        spared: &[Webhook],
        cleared: &mut Cleared,
    ) -> Result<(), RunError> {
        let head_id = cleared.head_id.clone();
        cleared.listed = match self.listed(&head_id).await? {
            Some(listed) => listed,
            None => return Ok(()),
        };
        let entries = ring.of_head(&head_id);
        let is_made = |webhook: &Webhook| removal.made.iter().any(|(head, id)| *head == head_id && *id == webhook.id);
        let goes = |webhook: &Webhook| {
            is_made(webhook) || self.is_ours(webhook, &entries, removal.url, &head_id, &cleared.listed)
        };
        let is_spared = |webhook: &Webhook| spared.iter().any(|known| known.id == webhook.id);
        let ours = ours(&cleared.listed, removal.url).into_iter();
        let going: Vec<_> = ours.filter(|webhook| !is_spared(webhook) && goes(webhook)).collect();
        cleared.had_ours = !going.is_empty();
        for webhook in &going {
            self.unith.delete(&webhook.id).await?;
            cleared.done.push(format!("delete webhook {}", webhook.id));
        }
        if !going.is_empty() {
            cleared.listed = self.unith.webhooks(&head_id).await?;
            if let Some(still) = going.iter().find(|gone| cleared.listed.iter().any(|webhook| webhook.id == gone.id)) {
                return Err(RunError::WithoutEffect(format!("delete webhook {}", still.id)));
            }
        }
        let is_concerned = !going.is_empty() || removal.switched_on.contains(&head_id);
        if is_concerned && cleared.listed.is_empty() && self.unith.events_on(&head_id).await? {
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

    /// Whether a registration of our URL is ours to remove.
    fn is_ours(
        &self,
        webhook: &Webhook,
        entries: &[RingKey],
        url: &WebhookUrl,
        head_id: &str,
        listed: &[Webhook],
    ) -> bool {
        let mut own = entries.iter().filter(|entry| entry.webhook_id.as_ref() == Some(&webhook.id)).peekable();
        if own.peek().is_some() {
            // What was taken over, or is given back to whom it was taken from, is another's.
            return own.all(|entry| self.is_own(entry) && entry.previous_owner.is_none());
        }
        // One that delivers in the place of ours, which is gone, was made by another stack with another ring.
        let is_gone = |entry: &&RingKey| {
            let id = entry.webhook_id.as_ref();
            entry.state == KeyState::Active && id.is_some_and(|id| listed.iter().all(|webhook| webhook.id != *id))
        };
        let is_replaced = webhook.subscriptions != Subscriptions::NONE && entries.iter().any(|entry| is_gone(&entry));
        self.allowed.covers(url, head_id) && !is_replaced
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
                    let is_listed = |id: &WebhookId| head.listed.iter().any(|webhook| webhook.id == *id);
                    let stays = key.webhook_id.as_ref().is_some_and(is_listed) && head.result.is_ok();
                    let is_retired = is_anothers && key.state == KeyState::Retiring;
                    self.is_own(key) && key.previous_owner.is_none() && !stays && !is_retired
                });
            }
        };
        match ring.change(Timestamp::now(), change).await {
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
                let removal = Removal {
                    url: &leaving.url,
                    heads: Vec::new(),
                    deleted_at: None,
                    force: false,
                    made: Vec::new(),
                    switched_on: Vec::new(),
                };
                let mut cleared = Cleared {
                    head_id: leaving.head_id.clone(),
                    done: Vec::new(),
                    listed: Vec::new(),
                    had_ours: false,
                    result: Ok(()),
                };
                cleared.result = self.try_to_clear(&removal, ring, &[], &mut cleared).await;
                let still = cleared.listed.iter().map(|webhook| webhook.id.clone()).collect();
                let report = HeadReport::new(&cleared.head_id, cleared.done, &cleared.result);
                Left { report, still, is_whole: leaving.is_whole }
            }) as _
        });
        each(work).await
    }
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
