//! The steps behind the ring write: wait for receivers, subscribe, delete what was replaced.
//!
//! Invariants:
//! - No webhook that delivers is deleted before each receiver can have the key of the one that replaces it, nor while
//!   that one does not deliver.

use std::time::Duration;

use tokio::time::Instant;
use unith_events::{
    event_type::EventTypes,
    ids::WebhookId,
    key_ring::{
        KeyState, RingKey,
        document::{NewKey, RingDocument},
    },
    timestamp::Timestamp,
};

use crate::{
    concurrent::for_each,
    confirmed::delete_webhooks,
    declared::Declared,
    head::Head,
    reconciler::Reconciler,
    register::TIME_FOR_CALLS,
    report::HeadError,
    ring::RingError,
    step::{DeleteReason, Step},
    unith::{UnithClient, webhook::Webhook},
};

impl Reconciler {
    /// Waits until each receiver can have the new keys. A receiver without any key refreshes its ring at once.
    pub(crate) async fn wait_for_receivers(&self, heads: &mut [Head], had_keys: bool) {
        let wait = heads.iter().map(|head| self.wait_of(head, had_keys)).max().unwrap_or_default();
        if wait.is_zero() {
            return;
        }
        if Instant::now() + wait < self.unith.deadline() {
            tokio::time::sleep(wait).await;
            return;
        }
        for head in heads.iter_mut().filter(|head| !self.wait_of(head, had_keys).is_zero()) {
            head.error = Some(HeadError::TooLittleTime { needs_s: wait.as_secs() });
        }
    }

    /// How long a head's key has to wait before its webhook is subscribed.
    fn wait_of(&self, head: &Head, had_keys: bool) -> Duration {
        let delay = self.timing.propagation_delay;
        let Some(plan) = head.open_plan() else { return Duration::ZERO };
        if let Some(registered) = &head.registered {
            let waits = had_keys && registered.id.is_some() && !registered.is_live;
            return if waits { delay } else { Duration::ZERO };
        }
        match plan.keeper.as_ref().filter(|_| plan.subscribe_from.is_some()) {
            None => Duration::ZERO,
            Some(_) if plan.key_to_store.is_some() => delay,
            Some(keeper) => delay.saturating_sub(age_of_key(head, keeper)),
        }
    }

    /// Waits until each receiver can have the present keys of the webhooks that replace others: until then only those
    /// others are verified everywhere. Returns whether it waited. A head for which it does not fit keeps the others.
    pub(crate) async fn wait_before_deletions(&self, heads: &mut [Head]) -> bool {
        let wait = heads.iter().map(|head| self.wait_before_deletion(head)).max().unwrap_or_default();
        if wait.is_zero() {
            return false;
        }
        let needs = wait + TIME_FOR_CALLS.min(self.timing.propagation_delay);
        if Instant::now() + needs < self.unith.deadline() {
            tokio::time::sleep(wait).await;
            return true;
        }
        for head in heads.iter_mut().filter(|head| !self.wait_before_deletion(head).is_zero()) {
            head.error = Some(HeadError::TooLittleTime { needs_s: needs.as_secs() });
        }
        false
    }

    fn wait_before_deletion(&self, head: &Head) -> Duration {
        let Some(plan) = head.open_plan().filter(|plan| !plan.delete_last.is_empty()) else { return Duration::ZERO };
        let age = match (head.key_stored_at, &plan.keeper) {
            (Some(stored_at), _) => stored_at.elapsed(),
            (None, Some(keeper)) if plan.key_to_store.is_none() => age_of_key(head, keeper),
            // The ring was empty: a receiver without any key refreshes its ring at once.
            (None, _) => return Duration::ZERO,
        };
        self.timing.propagation_delay.saturating_sub(age)
    }

    pub(crate) async fn subscribe_all(&self, declared: &Declared, heads: &mut [Head], unith: &UnithClient) {
        for_each(heads.iter_mut().filter(|head| head.is_ok()), |head| {
            Box::pin(async move {
                let subscribed = self.subscribe(declared, head, unith).await;
                head.value_of(subscribed);
            })
        })
        .await;
    }

    async fn subscribe(&self, declared: &Declared, head: &mut Head, unith: &UnithClient) -> Result<(), HeadError> {
        let Some(plan) = head.plan.clone() else { return Ok(()) };
        let id = head.own_id();
        if head.registered.is_some() || plan.key_to_store.is_some() {
            self.unith.keep_secret(&plan.key_to_store);
            head.done.extend(id.clone().map(Step::StoreKey));
        }
        let Some(id) = id else {
            return if head.registered.is_some() {
                Err(HeadError::Unlisted { since: Timestamp::now() })
            } else {
                Ok(())
            };
        };
        let from = match &head.registered {
            None => plan.subscribe_from,
            Some(registered) => (!registered.is_live).then_some(EventTypes::NONE),
        };
        let to = declared.subscriptions;
        let Some(from) = from.filter(|from| *from != to) else { return Ok(()) };
        unith.change(&id, &head.id, declared.webhook_url.as_str(), to).await?;
        let step = Step::Subscribe { webhook_id: id.clone(), from, to };
        let listed = unith.webhooks(&head.id).await?.into_iter();
        let subscribed = listed.into_iter().find(|webhook| webhook.id == id && webhook.subscriptions == to);
        let subscribed = subscribed.ok_or_else(|| HeadError::WithoutEffect(step.clone()))?;
        head.changed_key = self.changed_key(head, subscribed);
        head.done.push(step);
        Ok(())
    }

    /// The webhook's key, if it is not the one that is stored: UNITH does not document that a change keeps it.
    fn changed_key(&self, head: &Head, webhook: Webhook) -> Option<NewKey> {
        let planned = || head.plan.as_ref().and_then(|plan| plan.key_to_store.as_ref());
        let known = head.registered.as_ref().map(|registered| &registered.key).or_else(planned);
        let known = known.or_else(|| head.entry_of(&webhook.id).map(|entry| &entry.key));
        let key = webhook.key.filter(|key| known.is_none_or(|known| known.expose() != key.expose()))?;
        Some(self.new_key(head, Some(webhook.id), key, true))
    }

    /// Deletes the webhooks that a head's own one replaces, unless another run has overtaken this one since it looked.
    pub(crate) async fn delete_replaced(
        &self,
        declared: &Declared,
        heads: &mut [Head],
        unith: &UnithClient,
    ) -> Result<(), RingError> {
        let has_any = |head: &Head| head.open_plan().is_some_and(|plan| !plan.delete_last.is_empty());
        let ring = &if heads.iter().any(has_any) { self.ring.read_guarded().await? } else { RingDocument::default() };
        for_each(heads, |head| {
            Box::pin(async move {
                let Some(plan) = head.open_plan().cloned() else { return };
                let replaced = still_replaced(declared, head, plan.delete_last, ring, unith).await;
                let Some(replaced) = head.value_of(replaced) else { return };
                let deletion = delete_webhooks(unith, &head.id, &replaced).await;
                head.done.extend(deletion.steps(DeleteReason::Replaced));
                head.deleted.extend(deletion.gone);
                if head.value_of(deletion.listed).is_some() {
                    head.done.extend(plan.gone.into_iter().map(Step::RetireKey));
                }
            })
        })
        .await;
        Ok(())
    }
}

/// The webhooks that the head's own one still replaces. Fails if that one no longer delivers: another run may have
/// replaced it by one of these.
async fn still_replaced(
    declared: &Declared,
    head: &mut Head,
    replaced: Vec<Webhook>,
    ring: &RingDocument,
    unith: &UnithClient,
) -> Result<Vec<Webhook>, HeadError> {
    if replaced.is_empty() {
        return Ok(replaced);
    }
    let own = head.own_id();
    let delivers =
        |webhook: &Webhook| own.as_ref() == Some(&webhook.id) && webhook.subscriptions == declared.subscriptions;
    if !unith.webhooks(&head.id).await?.iter().any(delivers) {
        return Err(HeadError::Overtaken);
    }
    // Another run subscribes the webhook whose key it has stored, and then deletes this run's.
    let counts = |entries: &[RingKey], id: &WebhookId| {
        let is_used = |entry: &RingKey| entry.state == KeyState::Active && entry.made_while_on;
        entries.iter().any(|entry| entry.is_of_webhook(id) && is_used(entry))
    };
    let present = ring.of_head(&head.id);
    let (kept, replaced): (Vec<_>, Vec<_>) =
        replaced.into_iter().partition(|webhook| counts(&present, &webhook.id) && !counts(&head.entries, &webhook.id));
    let note = |webhook: Webhook| format!("webhook {} stays: another run has stored its key meanwhile", webhook.id);
    head.notes.extend(kept.into_iter().map(note));
    Ok(replaced)
}

/// How long the ring has had a webhook's key: another run may have stored it just now.
fn age_of_key(head: &Head, webhook: &Webhook) -> Duration {
    let entries = head.entries.iter().filter(|entry| entry.is_of_webhook(&webhook.id));
    let since = entries.filter_map(|entry| entry.since).max();
    since.and_then(|since| Timestamp::now().checked_since(since)).unwrap_or_default()
}
