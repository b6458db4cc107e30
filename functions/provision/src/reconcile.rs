//! Reconciliation: brings all heads of a run to their declared state, together.
//!
//! 1. Look: list, switch, ring. A head that is as declared gets no further call.
//! 2. Register where needed: while the head's events are on, and without subscriptions. Heads that are declared off are
//!    switched off again at once.
//! 3. Write all new keys into the ring at once, and wait until each receiver can have them.
//! 4. Subscribe, wait again if that changed a key, then delete what was replaced, set the switch, and look again.
//! 5. Retire the replaced keys with one more write, and only then report success.
//!
//! Invariants:
//! - No subscription is live before its key can be read.
//! - Every step is idempotent: the next run completes one that died.
//! - One head's failure, or slowness, does not stop the others.
//! - A run whose owner was deleted meanwhile removes what it made.

use tokio::time::Instant;
use unith_events::{ids::HeadId, key_ring::document::RingDocument};

use crate::{
    concurrent::for_each,
    confirmed::{look, switch_events},
    declared::Declared,
    head::Head,
    reconciler::{Mode, Reconciler, Task},
    remove::{Left, Purpose, Removal},
    report::{HeadError, HeadReport, MAX_HEADS, all_ok},
    ring::RingError,
    step::Step,
    unith::{UnithClient, UnithError},
};

impl Reconciler {
    /// Brings the heads of a task to their declared state. The reports of what is left behind follow those of the
    /// heads.
    pub async fn reconcile(&self, task: &Task<'_>) -> Vec<HeadReport> {
        if task.heads.len() > MAX_HEADS {
            let error = HeadError::TooManyHeads(task.heads.len());
            let report = |id: &HeadId| HeadReport::new(id.clone(), Vec::new(), Some(&error));
            return task.heads.iter().map(report).collect();
        }
        let mut heads: Vec<_> = task.heads.iter().cloned().map(Head::new).collect();
        let mut left = Vec::new();
        let result = self.take_steps(task, &mut heads, &mut left).await;
        let is_deletion = |head: &Head| head.error.as_ref().is_some_and(HeadError::is_deletion);
        if result.as_ref().is_err_and(RingError::is_deletion) || heads.iter().any(is_deletion) {
            self.undo(task, &mut heads).await;
        }
        if let Err(error) = result {
            // The owner's deletion is also why a head failed before.
            for head in heads.iter_mut().filter(|head| head.is_ok() || error.is_deletion()) {
                head.error = Some(error.clone().into());
            }
        }
        heads.into_iter().map(|head| head.report(task)).chain(left.into_iter().map(|left| left.report)).collect()
    }

    /// The steps of a run. An error of the ring stops all heads.
    async fn take_steps(&self, task: &Task<'_>, heads: &mut [Head], left: &mut Vec<Left>) -> Result<(), RingError> {
        // Without a mark in the first reading, a deletion from now on is one meanwhile.
        self.ring.read_guarded().await?;
        let time = self.unith.deadline().saturating_duration_since(self.started);
        self.look_at_all(heads, self.started + time / 6).await;
        let ring = self.ring.read_guarded().await?;
        self.keep_secret(&ring);
        self.make_plans(task, heads, &ring);
        self.check_size(task, heads, &ring)?;
        self.register_all(task, heads, ring.is_empty(), self.started + time / 3).await;
        let had_keys = self.store_keys_or_deregister(task, heads).await?;
        self.wait_for_receivers(heads, had_keys).await;
        let first_round = self.first_of_two_rounds();
        self.subscribe_all(task.declared, heads, &first_round).await;
        self.store_changed_keys(heads).await?;
        let has_waited = self.wait_before_deletions(heads).await;
        let first_round = if has_waited { self.first_of_two_rounds() } else { first_round };
        self.delete_replaced(task.declared, heads, &first_round).await?;
        for_each(&mut *heads, |head| Box::pin(self.set_switch(task, head))).await;
        self.check_all(task, heads).await?;
        if all_ok(heads, task.is_all, |head| (head.is_ok(), head.is_refused())) {
            left.extend(self.leave(&task.leaving, &ring).await);
        }
        self.retire_keys(heads, left).await
    }

    /// A client with half of the remaining time, which is for two rounds of calls.
    fn first_of_two_rounds(&self) -> UnithClient {
        let now = Instant::now();
        self.unith.with_time_slice(now + self.unith.deadline().saturating_duration_since(now) / 2)
    }

    async fn look_at_all(&self, heads: &mut [Head], until: Instant) {
        let unith = &self.unith.with_time_slice(until);
        for_each(heads, |head| {
            Box::pin(async move {
                let look = look(unith, &head.id).await.map_err(HeadError::in_time_slice);
                head.look = head.value_of(look);
                head.events_on = head.was_on();
            })
        })
        .await;
    }

    fn make_plans(&self, task: &Task<'_>, heads: &mut [Head], ring: &RingDocument) {
        for head in heads {
            let Some(look) = &head.look else { continue };
            head.entries = ring.of_head(&head.id);
            let plan = self.plan(task.declared, look, &head.entries);
            let registers = plan.register || task.mode == Mode::Rotate;
            let plan = match (task.mode, plan.unlisted_since.filter(|_| registers)) {
                (_, Some(since)) => Err(HeadError::Unlisted { since }),
                (Mode::Apply, None) => Ok(plan),
                (Mode::Rotate, None) => plan.rotated().ok_or(HeadError::NotRegistered),
            };
            head.plan = head.value_of(plan);
        }
    }

    async fn store_keys_or_deregister(&self, task: &Task<'_>, heads: &mut [Head]) -> Result<bool, RingError> {
        let stored = self.store_keys(task, heads).await;
        match stored {
            Ok(had_keys) => {
                let now = Instant::now();
                for head in heads.iter_mut().filter(|head| had_keys && head.has_new_key()) {
                    head.key_stored_at = Some(now);
                }
            }
            Err(_) => drop(for_each(heads, |head| Box::pin(self.deregister(head))).await),
        }
        stored
    }

    async fn set_switch(&self, task: &Task<'_>, head: &mut Head) {
        let wanted = match &head.error {
            None => head.stays_on(task),
            // An unlisted webhook is not subscribed: there is nothing to switch events on for.
            Some(HeadError::Unlisted { .. }) => head.was_on() && head.stays_on(task),
            Some(_) => return,
        };
        // UNITH's documents disagree on the order: events are switched on once more after a registration.
        let is_confirmed = wanted && head.is_ok() && head.registered.is_some();
        let is_due = task.mode == Mode::Apply || head.registered.is_some();
        if head.look.is_none() || !is_due || (head.events_on == wanted && !is_confirmed) {
            return;
        }
        head.switched |= head.events_on != wanted;
        match switch_events(&self.unith, &head.id, wanted).await {
            Ok(()) if head.events_on == wanted => {}
            Ok(()) => {
                head.events_on = wanted;
                head.done.push(Step::Switch(wanted));
            }
            Err(error) if head.is_ok() => head.error = Some(error),
            Err(error) => head.notes.push(error.to_string()),
        }
    }

    async fn check_all(&self, task: &Task<'_>, heads: &mut [Head]) -> Result<(), RingError> {
        let ring = &self.ring.read_guarded().await?;
        let was_changed = |head: &&mut Head| head.is_ok() && !(head.done.is_empty() && head.registered.is_none());
        for_each(heads.iter_mut().filter(was_changed), |head| {
            Box::pin(async move {
                let checked = self.check(task, head, ring).await;
                head.value_of(checked);
            })
        })
        .await;
        Ok(())
    }

    /// Looks again at a head that was changed: nothing must be left to do.
    async fn check(&self, task: &Task<'_>, head: &Head, ring: &RingDocument) -> Result<(), HeadError> {
        let look = look(&self.unith, &head.id).await?;
        let enable_events = if task.mode == Mode::Apply { task.declared.enable_events } else { look.events_on };
        let declared = Declared { enable_events, ..task.declared.clone() };
        let mut steps = self.plan(&declared, &look, &ring.of_head(&head.id)).steps(&declared);
        // The keys of webhooks that this run deleted retire last.
        let is_last = |step: &Step| matches!(step, Step::RetireKey(id) if head.deleted.contains(id));
        steps.retain(|step| !step.is_housekeeping() && !is_last(step));
        if steps.is_empty() { Ok(()) } else { Err(HeadError::NotAsDeclared(steps)) }
    }

    /// Removes what this run made for an owner that was deleted meanwhile, and nothing else: a later run may have
    /// created it anew.
    async fn undo(&self, task: &Task<'_>, heads: &mut [Head]) {
        let made = heads.iter().filter_map(|head| Some((head.id.clone(), head.registered.as_ref()?.id.clone()?)));
        let made: Vec<_> = made.collect();
        let is_switched_on = |head: &&Head| head.switched && !head.was_on();
        let switched_on: Vec<_> = heads.iter().filter(is_switched_on).map(|head| head.id.clone()).collect();
        let is_touched = |head: &&HeadId| made.iter().any(|(id, _)| id == *head) || switched_on.contains(head);
        let removal = Removal {
            url: &task.declared.webhook_url,
            heads: task.heads.iter().filter(is_touched).cloned().collect(),
            purpose: Purpose::Undo { made, switched_on },
            deleted_at: None,
        };
        // A webhook that cannot be removed now is found by the deletion's second look, or stays without subscriptions.
        let Ok(removed) = self.remove(&removal).await else { return };
        for report in removed.reports {
            if let Some(head) = heads.iter_mut().find(|head| head.id == report.head_id) {
                head.done.extend(report.done);
                head.notes.extend(report.error);
            }
        }
    }

    /// Switches heads' events off; the registrations stay.
    pub async fn disable(&self, heads: &[HeadId]) -> Vec<HeadReport> {
        for_each(heads, |head_id| {
            Box::pin(async move {
                let looked = self.unith.events_on(head_id).await;
                let is_refused = looked.as_ref().is_err_and(UnithError::is_refusal);
                let (was_on, result) = match looked {
                    Ok(true) => (true, switch_events(&self.unith, head_id, false).await),
                    looked => (false, looked.map(drop).map_err(HeadError::from)),
                };
                let done = if was_on && result.is_ok() { vec![Step::Switch(false)] } else { Vec::new() };
                let report = HeadReport::new(head_id.clone(), done, result.err().as_ref());
                HeadReport { is_refused, ..report }
            })
        })
        .await
    }
}
