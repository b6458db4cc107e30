//! Registering a webhook: while the head's events are on, subscribed to nothing, and never twice for one need.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use unith_events::signature::SharedKey;

use crate::{
    declared::{Declared, Subscriptions},
    plan::{Step, ours},
    ring::Document,
    run::{Boxed, HeadRun, Registered, Run, RunError, Task, delete_all, each, switch},
    unith::{UnithClient, UnithError, Webhook},
};

/// How often a registration is begun anew when nobody knows what became of it.
const REGISTER_TRIES: u32 = 4;
const REGISTER_PAUSE: Duration = Duration::from_millis(500);
/// A refusal that is about no subscription is one again a moment later; another one may be gone.
const REFUSAL_PAUSE: Duration = Duration::from_millis(200);
/// What is kept of a run's time for the calls behind the wait.
const TIME_FOR_CALLS: Duration = Duration::from_secs(5);

impl Run {
    /// Registers the webhook for each head that needs it. A head that is not through in time holds up nobody.
    pub(crate) async fn register_all(&self, task: &Task<'_>, heads: &mut [HeadRun], ring: &Document, third: Instant) {
        let needs = if ring.is_empty() {
            Duration::ZERO
        } else {
            self.pace.propagation_delay + TIME_FOR_CALLS.min(self.pace.propagation_delay)
        };
        let latest = self.unith.deadline().checked_sub(needs).unwrap_or(self.started);
        let work = heads.iter_mut().map(|head| {
            Box::pin(async move {
                if head.is_well() && head.plan.as_ref().is_some_and(|plan| plan.register) {
                    if Instant::now() < latest {
                        self.register_head(task, head, third.min(latest)).await;
                    } else {
                        head.error = Some(RunError::TooLittleTime { needs_s: needs.as_secs() });
                    }
                }
            }) as Boxed<'_, ()>
        });
        each(work).await;
    }

    async fn register_head(&self, task: &Task<'_>, head: &mut HeadRun, until: Instant) {
        let unith = self.unith.until(until);
        let result = timeout_at(until, self.try_to_register(task, head, &unith)).await;
        head.fail_if(result.unwrap_or(Err(RunError::Slow)).map_err(RunError::of_its_share));
        if !head.is_well() {
            self.take_back(head).await;
        }
    }

    async fn try_to_register(&self, task: &Task<'_>, head: &mut HeadRun, unith: &UnithClient) -> Result<(), RunError> {
        let (Some(plan), Some(look)) = (head.plan.clone(), head.look.clone()) else { return Ok(()) };
        // One that is still there would deliver as soon as events are on.
        let deletion = delete_all(unith, &head.id, &plan.delete_first).await;
        let why = "which delivers nothing that can be verified";
        head.done.extend(deletion.gone.iter().map(|id| format!("delete webhook {id}, {why}")));
        head.deleted.extend(deletion.gone);
        deletion.listed?;
        if !look.events_on {
            head.switched = true;
            switch(unith, &head.id, true).await?;
            head.events_on = true;
            head.step(&Step::Switch(true));
        }
        // An id may be given out again.
        let is_there = |webhook: &&Webhook| !head.deleted.contains(&webhook.id);
        let before: Vec<_> = look.listed.iter().filter(is_there).cloned().collect();
        let registered = self.register(task.declared, head, unith, &before).await?;
        match &registered.id {
            Some(id) => head.done.push(format!("register webhook {id}")),
            None => head.done.push("register the webhook".to_owned()),
        }
        head.registered = Some(registered);
        // Somebody may have switched them off meanwhile, and then it will never deliver.
        if !unith.events_on(&head.id).await? {
            return Err(RunError::SwitchedOff);
        }
        if !head.stays_on(task) {
            head.switched = true;
            switch(unith, &head.id, false).await?;
            head.events_on = false;
            head.step(&Step::Switch(false));
        }
        Ok(())
    }

    /// Registers the webhook, subscribed to nothing. What nobody knows the outcome of is looked for before it is done again.
    async fn register(
        &self,
        declared: &Declared,
        head: &mut HeadRun,
        unith: &UnithClient,
        before: &[Webhook],
    ) -> Result<Registered, RunError> {
        let url = declared.webhook_url.as_str();
        let mut tries = 0;
        let mut was_refused = false;
        loop {
            let (answer, is_live) = match unith.register(&head.id, url, Subscriptions::NONE).await {
                Err(first) if first.is_about_the_request() && !std::mem::replace(&mut was_refused, true) => {
                    tokio::time::sleep(REFUSAL_PAUSE).await;
                    continue;
                }
                // A platform that says twice that it wants some subscription gets the declared ones, a moment earlier than
                // is best.
                Err(first) if first.is_about_the_request() => {
                    match unith.register(&head.id, url, declared.subscriptions).await {
                        Err(second) if second.is_refusal() => (Err(first), false),
                        answer => (answer, true),
                    }
                }
                answer => (answer, false),
            };
            let shown = match answer {
                Ok(shown) => shown,
                Err(error) if error.is_uncertain() => {
                    let until = Instant::now() + REGISTER_PAUSE;
                    if let Some(found) = self.find(declared, &head.id, unith, before, None, until).await? {
                        return Ok(Registered { is_live, ..found });
                    }
                    pause(tries, error, unith.deadline()).await?;
                    tries += 1;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if is_live {
                head.notes.push(
                    "UNITH does not register a webhook without subscriptions: what it delivers is refused until its key \
                     can be read, and comes again"
                        .to_owned(),
                );
            }
            let until = (Instant::now() + self.pace.list_within).min(unith.deadline());
            let found = self.find(declared, &head.id, unith, before, shown.as_ref(), until).await;
            return match (found, shown) {
                (Ok(Some(found)), _) => Ok(Registered { is_live, ..found }),
                // It is there, whatever keeps it from being found: the next run finds it by its key.
                (Err(RunError::UnithClient(error)), Some(key)) => {
                    head.notes.push(format!("it was not found: {error}"));
                    Ok(Registered { id: None, key, is_live })
                }
                (Err(error), _) => Err(error),
                (Ok(None), Some(key)) => Ok(Registered { id: None, key, is_live }),
                (Ok(None), None) => Err(RunError::NoKey),
            };
        }
    }

    /// The webhook of ours that is listed now and was not `before`, with its key: as the list, the webhook itself or the
    /// registration (`shown`) showed it. Looks again until `until`.
    async fn find(
        &self,
        declared: &Declared,
        head_id: &str,
        unith: &UnithClient,
        before: &[Webhook],
        shown: Option<&SharedKey>,
        until: Instant,
    ) -> Result<Option<Registered>, RunError> {
        let mut wait = Duration::from_millis(100);
        loop {
            let listed = unith.webhooks(head_id).await?;
            let is_new = |webhook: &Webhook| before.iter().all(|known| known.id != webhook.id);
            let new: Vec<_> = ours(&listed, &declared.webhook_url).into_iter().filter(is_new).collect();
            if let Some(found) = pick(&new, shown)? {
                return self.with_key(unith, found, shown).await.map(Some);
            }
            if Instant::now() + wait >= until {
                return Ok(None);
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(1));
        }
    }

    async fn with_key(
        &self,
        unith: &UnithClient,
        found: &Webhook,
        shown: Option<&SharedKey>,
    ) -> Result<Registered, RunError> {
        let known = found.key.as_ref().or(shown).cloned();
        let known = match known {
            Some(key) => Some(key),
            None => unith.webhook(&found.id).await.ok().and_then(|webhook| webhook.key),
        };
        if let Some(key) = known {
            return Ok(Registered { id: Some(found.id.clone()), key, is_live: false });
        }
        // Each further run would leave one more.
        unith.delete(&found.id).await?;
        Err(RunError::NoKey)
    }

    /// Leaves a head that failed as it was found: without what was registered, and with the switch it had.
    pub(crate) async fn take_back(&self, head: &mut HeadRun) {
        let found_on = head.was_on();
        if let Some(Registered { id: Some(id), is_live, .. }) = head.registered.take() {
            let subscribed = if is_live { "subscribed as declared" } else { "subscribed to nothing" };
            match self.unith.delete(&id).await {
                Ok(()) => head.done.push(format!("delete webhook {id} again")),
                Err(error) => head.notes.push(format!("webhook {id} stays registered, {subscribed}: {error}")),
            }
        }
        if head.switched {
            match switch(&self.unith, &head.id, found_on).await {
                Ok(()) => head.events_on = found_on,
                Err(error) => head.notes.push(format!(
                    "the head's events could not be switched back {}: {error}",
                    if found_on { "on" } else { "off" }
                )),
            }
        }
    }
}

/// Which of the new webhooks is the one that was registered: the one with the key that was shown, else the only one whose
/// key is not shown.
fn pick<'w>(new: &'w [Webhook], shown: Option<&SharedKey>) -> Result<Option<&'w Webhook>, RunError> {
    let Some(shown) = shown else {
        let masked = new.iter().filter(|webhook| webhook.key.is_none()).count();
        return if masked > 1 { Err(RunError::Ambiguous) } else { Ok(new.last()) };
    };
    let is_it = |webhook: &&Webhook| webhook.key.as_ref().is_some_and(|key| key.expose() == shown.expose());
    if let Some(found) = new.iter().find(is_it) {
        return Ok(Some(found));
    }
    let masked: Vec<_> = new.iter().filter(|webhook| webhook.key.is_none()).collect();
    match masked.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        _ => Err(RunError::Ambiguous),
    }
}

/// Waits a little longer each time, or as long as UNITH asks; gives up where the time would be over.
async fn pause(tries: u32, error: UnithError, deadline: Instant) -> Result<(), RunError> {
    let jitter = Duration::from_millis(fastrand::u64(0..200));
    let pause = (REGISTER_PAUSE * 2_u32.pow(tries) + jitter).max(error.retry_after().unwrap_or_default());
    let fits = Instant::now().checked_add(pause).is_some_and(|then| then < deadline);
    if tries + 1 >= REGISTER_TRIES || !fits {
        return Err(error.into());
    }
    tracing::warn!("{error}; not listed either: registering again");
    tokio::time::sleep(pause).await;
    Ok(())
}
