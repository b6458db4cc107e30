//! The steps behind the ring write: wait for receivers, subscribe, delete what was replaced.

use std::time::Duration;

use tokio::time::Instant;
use unith_events::{event_type::EventTypes, key_ring::document::NewKey, timestamp::Timestamp};

use crate::{
    concurrent::for_each,
    confirmed::delete_webhooks,
    declared::Declared,
    head::Head,
    reconciler::Reconciler,
    report::HeadError,
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
        // Another run may have stored the keeper's key just now.
        match plan.keeper.as_ref().filter(|_| plan.subscribe_from.is_some()) {
            None => Duration::ZERO,
            Some(_) if plan.key_to_store.is_some() => delay,
            Some(keeper) => {
                let since = head.entry_of(&keeper.id).and_then(|entry| entry.since);
                let age = since.and_then(|since| Timestamp::now().checked_since(since));
                delay.saturating_sub(age.unwrap_or_default())
            }
        }
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

    /// Deletes the webhooks that a head's own one replaces.
    pub(crate) async fn delete_replaced(&self, heads: &mut [Head], unith: &UnithClient) {
        for_each(heads, |head| {
            Box::pin(async move {
                let Some(plan) = head.open_plan().cloned() else { return };
                let deletion = delete_webhooks(unith, &head.id, &plan.delete_last).await;
                head.done.extend(deletion.steps(DeleteReason::Replaced));
                head.deleted.extend(deletion.gone);
                if head.value_of(deletion.listed).is_some() {
                    head.done.extend(plan.gone.into_iter().map(Step::RetireKey));
                }
            })
        })
        .await;
    }
}
