//! Registering a webhook.
//!
//! Invariants:
//! - A webhook is registered while its head's events are on, without subscriptions, and once.

use std::{mem, time::Duration};

use tokio::time::{Instant, timeout_at};
use unith_events::{event_type::EventTypes, ids::HeadId, signature::SharedKey};

use crate::{
    concurrent::for_each,
    confirmed::{delete_webhooks, switch_events},
    declared::Declared,
    head::{Head, Registered},
    plan::ours,
    reconciler::{Reconciler, Task},
    report::HeadError,
    step::{DeleteReason, Step},
    unith::{UnithClient, UnithError, webhook::Webhook},
};

/// How often a registration is tried whose outcome is unknown.
const REGISTER_TRIES: u32 = 4;
const REGISTER_PAUSE: Duration = Duration::from_millis(500);
/// A refusal of the missing subscriptions comes again after this pause; another one may not.
const REFUSAL_PAUSE: Duration = Duration::from_millis(200);
/// The time that is kept for the calls after the wait for receivers.
pub(crate) const TIME_FOR_CALLS: Duration = Duration::from_secs(5);

impl Reconciler {
    /// Registers the webhook for each head that needs it. A head that is not finished at `until` fails.
    pub(crate) async fn register_all(&self, task: &Task<'_>, heads: &mut [Head], ring_is_empty: bool, until: Instant) {
        let delay = self.timing.propagation_delay;
        let needs = if ring_is_empty { Duration::ZERO } else { delay + TIME_FOR_CALLS.min(delay) };
        let latest = self.unith.deadline().checked_sub(needs).unwrap_or(self.started);
        let registers = |head: &&mut Head| head.open_plan().is_some_and(|plan| plan.register);
        for_each(heads.iter_mut().filter(registers), |head| {
            Box::pin(async move {
                if Instant::now() < latest {
                    self.register_head(task, head, until.min(latest)).await;
                } else {
                    head.error = Some(HeadError::TooLittleTime { needs_s: needs.as_secs() });
                }
            })
        })
        .await;
    }

    async fn register_head(&self, task: &Task<'_>, head: &mut Head, until: Instant) {
        let unith = self.unith.with_time_slice(until);
        let result = timeout_at(until, try_to_register(self, task, head, &unith)).await;
        head.value_of(result.unwrap_or(Err(HeadError::Slow)).map_err(HeadError::in_time_slice));
        if !head.is_ok() {
            self.deregister(head).await;
        }
    }

    /// Leaves a failed head as it was found: without the registration, and with the switch it had.
    pub(crate) async fn deregister(&self, head: &mut Head) {
        if let Some(Registered { id: Some(id), is_live, .. }) = head.registered.take() {
            match self.unith.delete(&id).await {
                Ok(()) => head.done.push(Step::Delete(id, DeleteReason::Undone)),
                Err(error) => {
                    let subscribed = if is_live { "subscribed as declared" } else { "subscribed to nothing" };
                    head.notes.push(format!("webhook {id} stays registered, {subscribed}: {error}"));
                }
            }
        }
        if head.switched {
            let was_on = head.was_on();
            match switch_events(&self.unith, &head.id, was_on).await {
                Ok(()) => head.events_on = was_on,
                Err(error) => {
                    let state = if was_on { "on" } else { "off" };
                    head.notes.push(format!("the head's events could not be switched back {state}: {error}"));
                }
            }
        }
    }
}

async fn try_to_register(
    run: &Reconciler,
    task: &Task<'_>,
    head: &mut Head,
    unith: &UnithClient,
) -> Result<(), HeadError> {
    let (Some(plan), Some(look)) = (head.plan.clone(), head.look.clone()) else { return Ok(()) };
    // A webhook that is left would deliver as soon as events are on.
    let deletion = delete_webhooks(unith, &head.id, &plan.delete_first).await;
    head.done.extend(deletion.steps(DeleteReason::Unverifiable));
    head.deleted.extend(deletion.gone);
    deletion.listed?;
    if !look.events_on {
        set_switch(head, unith, true).await?;
    }
    // UNITH may reuse the id of a deleted webhook.
    let is_listed = |webhook: &Webhook| !head.deleted.contains(&webhook.id);
    let registration = Registration {
        unith,
        head_id: &head.id,
        declared: task.declared,
        before: look.listed.into_iter().filter(is_listed).collect(),
        list_within: run.timing.list_within,
    };
    let registered = registration.make(&mut head.notes).await?;
    head.done.push(Step::Register(registered.id.clone()));
    head.registered = Some(registered);
    // A webhook never delivers if events were switched off before it was registered.
    if !unith.events_on(&head.id).await? {
        return Err(HeadError::SwitchedOff);
    }
    if !head.stays_on(task) {
        set_switch(head, unith, false).await?;
    }
    Ok(())
}

async fn set_switch(head: &mut Head, unith: &UnithClient, on: bool) -> Result<(), HeadError> {
    head.switched = true;
    switch_events(unith, &head.id, on).await?;
    head.events_on = on;
    head.done.push(Step::Switch(on));
    Ok(())
}

/// One registration.
struct Registration<'r> {
    unith: &'r UnithClient,
    head_id: &'r HeadId,
    declared: &'r Declared,
    /// The webhooks that were listed before.
    before: Vec<Webhook>,
    list_within: Duration,
}

impl Registration<'_> {
    /// Registers the webhook. After an unknown outcome, it is looked for before it is registered again.
    async fn make(&self, notes: &mut Vec<String>) -> Result<Registered, HeadError> {
        let mut tries = 0;
        let (key_in_response, is_live) = loop {
            let (response, is_live) = self.register_unsubscribed().await;
            match response {
                Ok(key) => break (key, is_live),
                Err(error) if error.is_uncertain() => {
                    if let Some(found) = self.find(None, Instant::now() + REGISTER_PAUSE).await? {
                        return Ok(Registered { is_live, ..found });
                    }
                    pause(tries, error, self.unith.deadline()).await?;
                    tries += 1;
                }
                Err(error) => return Err(error.into()),
            }
        };
        if is_live {
            notes.push(
                "UNITH refuses a registration without subscriptions: deliveries are refused until its key can be read, \
                 and UNITH retries them"
                    .to_owned(),
            );
        }
        let until = (Instant::now() + self.list_within).min(self.unith.deadline());
        match (self.find(key_in_response.as_ref(), until).await, key_in_response) {
            (Ok(Some(found)), _) => Ok(Registered { is_live, ..found }),
            (Ok(None), Some(key)) => Ok(Registered { id: None, key, is_live }),
            (Ok(None), None) => Err(HeadError::NoKey),
            // It is registered: the next run finds it by its key.
            (Err(HeadError::Unith(error)), Some(key)) => {
                notes.push(format!("the registered webhook was not found: {error}"));
                Ok(Registered { id: None, key, is_live })
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Registers the webhook without subscriptions, or, if UNITH refuses that twice, with the declared ones. Returns
    /// the response, and whether the webhook is subscribed.
    async fn register_unsubscribed(&self) -> (Result<Option<SharedKey>, UnithError>, bool) {
        let register = |types| self.unith.register(self.head_id, self.declared.webhook_url.as_str(), types);
        let mut was_refused = false;
        loop {
            match register(EventTypes::NONE).await {
                Err(refusal) if refusal.is_about_the_request() => {
                    if !mem::replace(&mut was_refused, true) {
                        tokio::time::sleep(REFUSAL_PAUSE).await;
                        continue;
                    }
                    return match register(self.declared.subscriptions).await {
                        Err(second) if second.is_refusal() => (Err(refusal), false),
                        response => (response, true),
                    };
                }
                response => return (response, false),
            }
        }
    }

    /// Looks for the webhook until `until`: it has our URL and was not listed before.
    async fn find(&self, key_in_response: Option<&SharedKey>, until: Instant) -> Result<Option<Registered>, HeadError> {
        let mut wait = Duration::from_millis(100);
        loop {
            let mut new = ours(&self.unith.webhooks(self.head_id).await?, &self.declared.webhook_url);
            new.retain(|webhook| self.before.iter().all(|known| known.id != webhook.id));
            if let Some(found) = pick(&new, key_in_response)? {
                if let Err(error) = HeadError::check_spelling(found, self.head_id) {
                    // If it stays, the run with the right spelling replaces it.
                    if let Err(cause) = self.unith.delete(&found.id).await {
                        tracing::warn!(
                            "webhook {} of a head with another spelling stays registered: {cause}",
                            found.id
                        );
                    }
                    return Err(error);
                }
                return self.with_key(found, key_in_response).await.map(Some);
            }
            if Instant::now() + wait >= until {
                return Ok(None);
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(1));
        }
    }

    /// A webhook with its key, as the list, the response to the registration, or the webhook itself shows it.
    async fn with_key(&self, found: &Webhook, key_in_response: Option<&SharedKey>) -> Result<Registered, HeadError> {
        let key = match found.key.as_ref().or(key_in_response) {
            Some(key) => Some(key.clone()),
            None => self.unith.webhook(&found.id).await.ok().and_then(|webhook| webhook.key),
        };
        if let Some(key) = key {
            return Ok(Registered { id: Some(found.id.clone()), key, is_live: false });
        }
        // Without this, each further run would leave one more.
        self.unith.delete(&found.id).await?;
        Err(HeadError::NoKey)
    }
}

/// Picks the registered webhook among the new ones: the one with the key of the response, else the only masked one.
fn pick<'w>(new: &'w [Webhook], key_in_response: Option<&SharedKey>) -> Result<Option<&'w Webhook>, HeadError> {
    let masked: Vec<_> = new.iter().filter(|webhook| webhook.key.is_none()).collect();
    let found = match key_in_response {
        Some(key) => new.iter().find(|webhook| webhook.key.as_ref().is_some_and(|own| own.expose() == key.expose())),
        None => new.last().filter(|_| masked.len() < 2),
    };
    match (found, masked.as_slice()) {
        (None, [_, _, ..]) => Err(HeadError::Ambiguous),
        (None, [only]) => Ok(Some(only)),
        (found, _) => Ok(found),
    }
}

/// Waits longer each time, and at least as long as UNITH asks; fails when the tries or the time are used up.
async fn pause(tries: u32, error: UnithError, deadline: Instant) -> Result<(), HeadError> {
    let jitter = Duration::from_millis(fastrand::u64(0..200));
    let pause = (REGISTER_PAUSE * 2_u32.pow(tries) + jitter).max(error.retry_after().unwrap_or_default());
    let fits = Instant::now().checked_add(pause).is_some_and(|then| then < deadline);
    if tries + 1 >= REGISTER_TRIES || !fits {
        return Err(error.into());
    }
    tracing::warn!("{error}; the webhook is not listed either: registering it again");
    tokio::time::sleep(pause).await;
    Ok(())
}
