//! The changes of the key ring during a run: one write before anything is subscribed, one after the deletions.

use tokio::time::Instant;
use unith_events::{
    ids::WebhookId,
    key_ring::{
        RingKey,
        document::{NewKey, RingDocument},
    },
    signature::SharedKey,
    timestamp::Timestamp,
};

use crate::{
    head::{Head, Registered},
    reconciler::{Mode, Reconciler, Task},
    remove::Left,
    ring::{MAX_RING_BYTES, RingError},
    unith::webhook::Webhook,
};

impl Reconciler {
    /// Checks, before anything is changed, that the ring has room for what is about to be written.
    pub(crate) fn check_size(&self, task: &Task<'_>, heads: &[Head], ring: &RingDocument) -> Result<(), RingError> {
        let now = Timestamp::now();
        let until = now.plus(self.timing.key_grace);
        // A new key is as long as UNITH's keys are, or as the known ones.
        let key_length = ring.keys().map(|key| key.key.expose().len()).max().unwrap_or_default().max(32);
        let Ok(key) = SharedKey::parse(&"0".repeat(key_length)) else { return Ok(()) };
        let expected = Registered { id: Some(WebhookId::from_number(u32::MAX)), key, is_live: false };
        let registers = |head: &Head| head.plan.as_ref().is_some_and(|plan| plan.register);
        let after = ring.changed(now, |ring| {
            self.write(task, heads, &|head| registers(head).then_some(&expected), ring, now);
            for (head, plan) in heads.iter().filter_map(|head| Some((head, head.plan.as_ref()?))) {
                plan.delete_last.iter().for_each(|webhook| ring.retire(&head.id, &webhook.id, until));
            }
        });
        // A ring that is too large already must not keep heads from being looked after that need no more room.
        match after.map(|after| after.bytes()) {
            Some(bytes) if bytes > MAX_RING_BYTES && bytes > ring.bytes() => Err(RingError::TooLarge { bytes }),
            _ => Ok(()),
        }
    }

    /// Writes all new keys, the owners of those that stay, and which webhooks are gone. Returns whether the ring had
    /// entries before.
    pub(crate) async fn store_keys(&self, task: &Task<'_>, heads: &[Head]) -> Result<bool, RingError> {
        let now = Timestamp::now();
        self.ring.change(now, |ring| self.write(task, heads, &|head| head.registered.as_ref(), ring, now)).await
    }

    /// Stores keys that changed with the subscriptions. A head for which that fails keeps its replaced webhook.
    pub(crate) async fn store_changed_keys(&self, heads: &mut [Head]) -> Result<(), RingError> {
        let keys: Vec<_> = heads.iter().filter_map(|head| head.changed_key.clone()).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let now = Timestamp::now();
        let until = now.plus(self.timing.key_grace);
        let stored = self.ring.change(now, |ring| keys.iter().for_each(|key| ring.put_active(key, now, until))).await;
        for head in heads.iter_mut().filter(|head| head.changed_key.is_some()) {
            if head.value_of(stored.clone()).is_some() {
                head.key_stored_at = Some(Instant::now());
                head.notes.push("the change gave the webhook another key, which is stored".to_owned());
            }
        }
        stored.map(drop).or_else(|error| if error.is_deletion() { Err(error) } else { Ok(()) })
    }

    /// Retires the keys of deleted webhooks, and drops those of the heads that are left behind. If UNITH refuses such a
    /// head, its keys retire.
    pub(crate) async fn retire_keys(&self, heads: &[Head], left: &[Left]) -> Result<(), RingError> {
        let now = Timestamp::now();
        let until = now.plus(self.timing.key_grace);
        let deleted = heads.iter().flat_map(|head| {
            // UNITH may have given the id of a deleted webhook to the new one.
            let own = head.own_id();
            head.deleted.iter().filter(move |id| own.as_ref() != Some(*id)).map(|id| (&head.id, id))
        });
        let deleted: Vec<_> = deleted.collect();
        // The keys of a head that stays, and that UNITH refuses, stay as well.
        let left: Vec<_> = left.iter().filter(|left| left.report.ok && (left.is_whole || !left.is_refused)).collect();
        if deleted.is_empty() && left.is_empty() {
            // A deletion of the owner may have removed what this run made.
            return self.ring.read_guarded().await.map(drop);
        }
        let change = |ring: &mut RingDocument| {
            for (head_id, id) in &deleted {
                ring.retire(head_id, id, until);
            }
            for left in &left {
                let head_id = &left.report.head_id;
                let is_gone = |key: &RingKey| {
                    self.is_own(key) && key.webhook_id.as_ref().is_none_or(|id| !left.listed.contains(id))
                };
                if left.is_whole && !left.is_refused {
                    ring.remove_keys(head_id, is_gone);
                    continue;
                }
                if left.is_refused {
                    // A key without a webhook cannot retire with one.
                    ring.remove_keys(head_id, |key| self.is_own(key) && key.webhook_id.is_none());
                }
                let entries = ring.of_head(head_id);
                for id in entries.iter().filter(|key| is_gone(key)).filter_map(|key| key.webhook_id.as_ref()) {
                    ring.retire(head_id, id, until);
                }
            }
        };
        self.ring.change(now, change).await.map(drop)
    }

    /// A key as it goes into the ring. It inherits its owners from the entry it replaces.
    pub(crate) fn new_key(&self, head: &Head, id: Option<WebhookId>, key: SharedKey, made_while_on: bool) -> NewKey {
        let replaced = head.plan.iter().flat_map(|plan| plan.delete_last.iter().chain(&plan.delete_first));
        let mut ids = replaced.map(|webhook| &webhook.id).chain(head.plan.iter().flat_map(|plan| &plan.gone));
        let own = id.as_ref().and_then(|id| head.entry_of(id));
        let (owner, previous_owner) = self.owners(own.or_else(|| ids.find_map(|id| head.entry_of(id))));
        NewKey { head_id: head.id.clone(), webhook_id: id, key, owner, previous_owner, made_while_on }
    }

    /// The owner and the previous owner of a head's webhook from now on, by the entry that stays or is replaced.
    fn owners(&self, entry: Option<&RingKey>) -> (Option<String>, Option<String>) {
        let own = self.requester.owner.clone();
        let Some(entry) = entry else { return (own, None) };
        let (owner, previous) = (entry.owner.clone(), entry.previous_owner.clone());
        match owner {
            None => (own, previous),
            Some(owner) if self.requester.takes_over && Some(&owner) != own.as_ref() => (own, Some(owner)),
            Some(owner) => (Some(owner), previous),
        }
    }

    /// The first write, if `registered` returns what was registered for a head.
    fn write<'h>(
        &self,
        task: &Task<'_>,
        heads: &'h [Head],
        registered: &dyn Fn(&'h Head) -> Option<&'h Registered>,
        ring: &mut RingDocument,
        now: Timestamp,
    ) {
        let until = now.plus(self.timing.key_grace);
        for (head, plan) in heads.iter().filter_map(|head| Some((head, head.open_plan()?))) {
            let registered = registered(head);
            let mut keys = if plan.register { self.keys_to_keep(head, &plan.delete_last) } else { Vec::new() };
            if let Some(Webhook { id, .. }) = &plan.keeper {
                let key = plan.key_to_store.clone();
                keys.extend(key.map(|key| self.new_key(head, Some(id.clone()), key, true)));
                if let Some(entry) = head.entry_of(id) {
                    let (owner, previous) = self.owners(Some(entry));
                    ring.set_owner(&head.id, id, owner.as_deref(), previous.as_deref());
                }
            }
            if let Some(Registered { id, key, .. }) = registered {
                keys.push(self.new_key(head, id.clone(), key.clone(), true));
                // A registration that UNITH never listed will not be listed after this one.
                ring.retire_unlisted(&head.id, key, until);
            }
            for key in &keys {
                ring.put_active(key, now, until);
            }
            // UNITH may reuse the id of a deleted webhook.
            let own = registered.map_or_else(|| head.own_id(), |registered| registered.id.clone());
            for id in plan.gone.iter().chain(&head.deleted).filter(|id| own.as_ref() != Some(id)) {
                ring.retire(&head.id, id, until);
            }
        }
        for head_id in &task.gone {
            ring.remove_keys(head_id, |key| key.owner == self.requester.owner);
        }
        // A run that was requested after the deletion creates the owner anew.
        if let Some(owner) = self.requester.owner.as_deref().filter(|_| task.mode == Mode::Apply) {
            ring.unmark_deleted(owner, self.requester.issued_at);
        }
    }

    /// Keys of webhooks that deliver until they are replaced, and that the ring does not have: registered by hand.
    fn keys_to_keep(&self, head: &Head, replaced: &[Webhook]) -> Vec<NewKey> {
        let is_known = |webhook: &Webhook, key: &SharedKey| {
            head.entries.iter().any(|entry| entry.is_of_webhook(&webhook.id) && entry.has_key(key))
        };
        let missing = replaced.iter().filter_map(|webhook| {
            let key = webhook.key.clone().filter(|key| !is_known(webhook, key))?;
            Some(self.new_key(head, Some(webhook.id.clone()), key, false))
        });
        missing.collect()
    }
}
