//! One run: brings heads to their declared state, all of them together.
//!
//! 1. Look: list, switch, ring. A head that is as declared gets no further call.
//! 2. Register where it is needed: while the head's events are on, since UNITH never delivers to a webhook that was
//!    registered while they were off; and subscribed to nothing, since nobody could verify what it signs yet. Heads that
//!    are to be off are switched off again at once.
//! 3. One write of the ring with all new keys, and a wait until every receiver can have it.
//! 4. Subscribe, then delete what was replaced, then one more write that retires the replaced keys.
//! 5. Set the switch, look again, and only then report success.
//!
//! What always holds: no subscription is live before its key can be read; every step can be repeated, and a run that died
//! is completed by the next one; one head's failure does not stop the others; a run whose owner was deleted meanwhile takes
//! away what it made.

use std::{future::Future, pin::Pin, time::Duration};

use futures_util::{StreamExt, stream};
use serde::Serialize;
use shared::{
    key_ring::{RingKey, WebhookId},
    signature::SharedKey,
    timestamp::Timestamp,
};
use tokio::time::{Instant, timeout_at};

use crate::{
    config::Allowed,
    declared::{Declared, Subscriptions, WebhookUrl},
    plan::{Look, Plan, Step, ours, plan},
    remove::{Left, Removal},
    ring::{Document, MAX_RING_BYTES, NewKey, RingError, RingStore},
    unith::{Unith, UnithError, Webhook},
};

/// How many heads a run looks after.
pub const MAX_HEADS: usize = 100;
/// How many heads are worked on at a time.
const HEADS_AT_A_TIME: usize = 8;
/// How often a registration is begun anew when nobody knows what became of it.
const REGISTER_TRIES: u32 = 4;
const REGISTER_PAUSE: Duration = Duration::from_millis(500);
/// A refusal that is about no subscription is one again a moment later; another one may be gone.
const REFUSAL_PAUSE: Duration = Duration::from_millis(200);
/// How often a switch is set that does not show as set.
const SWITCH_TRIES: u32 = 4;
const SWITCH_PAUSE: Duration = Duration::from_millis(200);
/// What is kept of a run's time for the calls behind the wait.
const TIME_FOR_CALLS: Duration = Duration::from_secs(5);

/// The clients and the rules of a run.
#[derive(Debug, Clone)]
pub struct Run {
    /// UNITH.
    pub unith: Unith,
    /// The key ring.
    pub ring: RingStore,
    /// The waits.
    pub pace: Pace,
    /// Whose run it is.
    pub who: Who,
    /// What it may take for its own.
    pub allowed: Allowed,
    /// When it began.
    pub started: Instant,
}

/// Whose run it is.
#[derive(Debug, Clone)]
pub struct Who {
    /// The resource, e.g. `UnithWebhook@6a5b1f00-…`.
    pub owner: Option<String>,
    /// Whether it takes over what others looked after: a resource that is created or updated does, a command does not.
    pub takes_over: bool,
    /// Whether it creates the resource, whose earlier deletion is then over.
    pub creates: bool,
    /// When it was asked for.
    pub issued_at: Timestamp,
}

/// How long things take.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How long a replaced key stays valid: until UNITH's last retry of what it signed must be over.
    pub key_grace: time::Duration,
    /// How long a new key is in the ring before anything is signed with it. A receiver looks for a new ring at most
    /// every 10 s; after a little more than that, each can have it.
    pub settle: Duration,
    /// How long a registration is looked for in UNITH's list.
    pub list_within: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            key_grace: time::Duration::minutes(15),
            settle: Duration::from_secs(11),
            list_within: Duration::from_secs(10),
        }
    }
}

/// What stopped a head's run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// UNITH.
    #[error(transparent)]
    Unith(#[from] UnithError),
    /// The ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A step was carried out, and its effect does not show.
    #[error("UNITH accepted this without doing it: {0}; try again, or ask UNITH")]
    WithoutEffect(String),
    /// A webhook was registered, and its key cannot be had.
    #[error(
        "the webhook is registered, but UNITH shows its key nowhere, or masked: nothing it signs could be verified"
    )]
    NoKey,
    /// Several webhooks of ours appeared at once, and UNITH does not show which key is whose.
    #[error("several runs registered the webhook at once, and UNITH shows no keys to tell them apart; run this again")]
    Ambiguous,
    /// A webhook was registered that UNITH does not list.
    #[error(
        "UNITH accepted a registration at {since} and does not list it; its key is stored, and no other webhook is \
         registered for 24 h: run this again later, or ask UNITH"
    )]
    Unlisted {
        /// When.
        since: Timestamp,
    },
    /// The wait would go past the run's end.
    #[error("this takes {needs_s} s at the least, and this run has less time: give the function more")]
    TooLittleTime {
        /// Seconds.
        needs_s: u64,
    },
    /// UNITH was too slow about this head.
    #[error("UNITH was too slow: the webhook could not be registered in a third of the run's time; run this again")]
    Slow,
    /// There is nothing that could be rotated.
    #[error("there is no webhook to rotate the key of: run `apply` first")]
    NotRegistered,
    /// More heads than a run can look after.
    #[error("{0} heads are more than a run can look after, which is {MAX_HEADS}: divide them among stacks")]
    TooManyHeads(usize),
    /// What was done does not show as done.
    #[error("not as declared afterwards: {0}; is somebody else changing the same webhooks? run this again")]
    NotAsDeclared(String),
}

impl RunError {
    /// Whether UNITH refuses this head, and nothing else is wrong.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Unith(error) if error.is_refusal())
    }

    fn is_deletion(&self) -> bool {
        matches!(self, Self::Ring(error) if error.is_deletion())
    }
}

/// How a head's run went.
#[derive(Debug, Serialize)]
pub struct HeadReport {
    /// The head.
    pub head_id: String,
    /// Whether all was done.
    pub ok: bool,
    /// What was done, in order; also where it was not all.
    pub done: Vec<String>,
    /// What else there is to know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What stopped it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether UNITH refuses the head.
    #[serde(skip)]
    pub is_refused: bool,
    /// Whether the head was not looked after before: what was done for it is no drift.
    #[serde(skip)]
    pub is_new: bool,
}

impl HeadReport {
    /// The report of a run that did `done` and came to `result`.
    pub fn new(head_id: &str, done: Vec<String>, result: &Result<(), RunError>) -> Self {
        let error = result.as_ref().err();
        Self {
            head_id: head_id.to_owned(),
            ok: error.is_none(),
            done,
            notes: Vec::new(),
            error: error.map(|error| explained(head_id, error)),
            is_refused: error.is_some_and(RunError::is_refusal),
            is_new: false,
        }
    }
}

/// An error, and what is likely where UNITH refuses a head whose id is not a UUID.
fn explained(head_id: &str, error: &RunError) -> String {
    let is_uuid = head_id.len() == 36 && head_id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if error.is_refusal() && !is_uuid {
        format!("{error}; is `{head_id}` the head's public id? UNITH wants the UUID here")
    } else {
        error.to_string()
    }
}

/// What a run is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Bring the declared state about.
    Apply,
    /// Replace the keys, and leave the switch as it is.
    Rotate,
}

/// What a run is about.
#[derive(Debug)]
pub struct Task<'t> {
    /// What the heads are to be like.
    pub declared: &'t Declared,
    /// The heads.
    pub heads: Vec<String>,
    /// What to do.
    pub mode: Mode,
    /// What is not declared any more, and goes when all else went well.
    pub leaving: Vec<Leaving>,
    /// Heads that UNITH does not have any more, whose keys are dropped.
    pub gone: Vec<String>,
}

/// What an update leaves behind.
#[derive(Debug, Clone)]
pub struct Leaving {
    /// The head.
    pub head_id: String,
    /// The URL it had.
    pub url: WebhookUrl,
    /// Whether the head is not looked after any more; else only its URL is another one.
    pub is_whole: bool,
}

/// A head in the run.
struct HeadRun {
    id: String,
    look: Option<Look>,
    plan: Option<Plan>,
    entries: Vec<RingKey>,
    registered: Option<Registered>,
    /// Whether its events are on, as far as is known.
    events_on: bool,
    /// Whether the run set the switch, or tried to.
    switched: bool,
    /// Webhooks the run deleted.
    deleted: Vec<WebhookId>,
    done: Vec<String>,
    notes: Vec<String>,
    error: Option<RunError>,
}

/// A webhook that was registered in this run.
#[derive(Debug, Clone)]
struct Registered {
    /// UNITH's id of it; `None` if it is not listed.
    id: Option<WebhookId>,
    key: SharedKey,
    /// Whether it is subscribed already, since UNITH would not have it otherwise.
    is_live: bool,
}

pub(crate) type Boxed<'f, T> = Pin<Box<dyn Future<Output = T> + Send + 'f>>;

/// Does something for several heads at a time.
pub(crate) async fn each<'f, T>(work: impl Iterator<Item = Boxed<'f, T>>) -> Vec<T> {
    stream::iter(work.collect::<Vec<_>>()).buffered(HEADS_AT_A_TIME).collect().await
}

impl HeadRun {
    fn new(id: String) -> Self {
        Self {
            id,
            look: None,
            plan: None,
            entries: Vec::new(),
            registered: None,
            events_on: false,
            switched: false,
            deleted: Vec::new(),
            done: Vec::new(),
            notes: Vec::new(),
            error: None,
        }
    }

    fn is_well(&self) -> bool {
        self.error.is_none()
    }

    fn fail_if<T>(&mut self, result: Result<T, impl Into<RunError>>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.error = Some(error.into());
                None
            }
        }
    }

    fn step(&mut self, step: &Step) {
        self.done.push(step.to_string());
    }

    fn report(self) -> HeadReport {
        let is_new = self.entries.is_empty();
        let result = self.error.map_or(Ok(()), Err);
        HeadReport { notes: self.notes, is_new, ..HeadReport::new(&self.id, self.done, &result) }
    }

    /// The webhook that is to stay, and its key.
    fn own(&self) -> Option<WebhookId> {
        let keeper = || self.plan.as_ref().and_then(|plan| plan.keeper.as_ref()).map(|keeper| keeper.id.clone());
        self.registered.as_ref().map_or_else(keeper, |registered| registered.id.clone())
    }
}

impl Run {
    /// Looks at heads without changing anything.
    pub async fn look(&self, head_id: &str) -> Result<Look, RunError> {
        look(&self.unith, head_id).await
    }

    /// The plan of a head, as `apply` would carry it out now.
    #[must_use]
    pub fn plan(&self, declared: &Declared, look: &Look, ring: &[RingKey]) -> Plan {
        plan(declared, look, ring, self.who.owner.as_deref(), Timestamp::now())
    }

    /// Brings the heads of a task to their declared state. The reports are in the order of the heads, behind them those of
    /// what is left behind.
    pub async fn reconcile(&self, task: Task<'_>) -> Vec<HeadReport> {
        if task.heads.len() > MAX_HEADS {
            let error = RunError::TooManyHeads(task.heads.len()).to_string();
            return task.heads.iter().map(|id| failed(id, &error)).collect();
        }
        let mut heads: Vec<_> = task.heads.iter().cloned().map(HeadRun::new).collect();
        let mut left = Vec::new();
        let result = self.bring_about(&task, &mut heads, &mut left).await;
        let is_deletion = |error: &RunError| error.is_deletion();
        let deleted = result.as_ref().err().is_some_and(RingError::is_deletion)
            || heads.iter().any(|head| head.error.as_ref().is_some_and(is_deletion));
        if deleted {
            self.undo(&task, &mut heads).await;
        }
        if let Err(error) = result {
            for head in &mut heads {
                // That the owner was deleted is why the rest went wrong, too.
                match head.error.take().filter(|_| !error.is_deletion()) {
                    Some(own) => head.error = Some(own),
                    None => head.error = Some(error.clone().into()),
                }
            }
        }
        heads.into_iter().map(HeadRun::report).chain(left.into_iter().map(|left| left.report)).collect()
    }

    /// All of it. An error is one of the ring, which stops every head that has not failed before.
    async fn bring_about(&self, task: &Task<'_>, heads: &mut [HeadRun], left: &mut Vec<Left>) -> Result<(), RingError> {
        let third = self.started + (self.unith.deadline().saturating_duration_since(self.started)) / 3;
        let looking = self.unith.until(third);
        each(heads.iter_mut().map(|head| Box::pin(look_at(&looking, head)) as Boxed<'_, ()>)).await;
        let ring = self.ring.read_guarded().await?;
        for key in ring.keys() {
            self.unith.keep_secret(key.key.expose());
        }
        self.make_plans(task, heads, &ring);
        self.check_size(task, heads, &ring)?;
        self.register_all(task, heads, &ring, third).await;
        let had_keys = !ring.is_empty();
        if let Err(error) = self.store_keys(task, heads).await {
            each(heads.iter_mut().map(|head| Box::pin(self.take_back(head)) as Boxed<'_, ()>)).await;
            return Err(error);
        }
        self.wait_for_receivers(heads, had_keys).await;
        // What is left of the time is for two rounds of calls.
        let now = Instant::now();
        let half = self.unith.until(now + self.unith.deadline().saturating_duration_since(now) / 2);
        each(heads.iter_mut().map(|head| Box::pin(self.complete(task.declared, head, &half)) as Boxed<'_, ()>)).await;
        if heads.iter().all(HeadRun::is_well) {
            left.extend(self.leave(&task.leaving, &ring).await);
        }
        self.retire_keys(heads, left).await?;
        each(heads.iter_mut().map(|head| Box::pin(self.set_switch(task, head)) as Boxed<'_, ()>)).await;
        let ring = self.ring.read_guarded().await?;
        each(heads.iter_mut().map(|head| Box::pin(self.check(task, head, &ring)) as Boxed<'_, ()>)).await;
        Ok(())
    }

    fn make_plans(&self, task: &Task<'_>, heads: &mut [HeadRun], ring: &Document) {
        for head in heads.iter_mut().filter(|head| head.is_well()) {
            head.entries = ring.of_head(&head.id);
            let Some(look) = &head.look else { continue };
            let plan = self.plan(task.declared, look, &head.entries);
            let registers = plan.register || task.mode == Mode::Rotate;
            let plan = match (task.mode, plan.unlisted_since.filter(|_| registers)) {
                (_, Some(since)) => Err(RunError::Unlisted { since }),
                (Mode::Apply, None) => Ok(plan),
                (Mode::Rotate, None) => plan.rotated().ok_or(RunError::NotRegistered),
            };
            head.plan = head.fail_if(plan);
        }
    }

    /// Whether the ring will take all that is about to be written; before anything is changed.
    fn check_size(&self, task: &Task<'_>, heads: &[HeadRun], ring: &Document) -> Result<(), RingError> {
        let now = Timestamp::now();
        // As long as UNITH's keys and ids are, or those that are known.
        let key_length = ring.keys().map(|key| key.key.expose().len()).max().unwrap_or_default().max(32);
        let Ok(key) = SharedKey::parse(&"0".repeat(key_length)) else { return Ok(()) };
        let id = WebhookId::from_number(u32::MAX);
        let registers = |head: &&HeadRun| head.plan.as_ref().is_some_and(|plan| plan.register);
        let mut new = Vec::new();
        for (index, head) in heads.iter().filter(|head| head.is_well()).filter(registers).enumerate() {
            // Each its own, or they would be taken for the same one.
            let key = SharedKey::parse(&format!("{index:0>key_length$}")).unwrap_or_else(|_| key.clone());
            new.push(self.new_key(head, Some(id.clone()), key, true));
        }
        let old: Vec<_> = heads.iter().flat_map(|head| self.keys_to_keep(head)).collect();
        let bytes = ring.bytes_after(now, |ring| {
            for key in old.iter().chain(&new) {
                ring.put_active(key, now, now);
            }
            for head in &task.gone {
                ring.remove(head, |key| key.owner == self.who.owner);
            }
        });
        // A ring that somebody else made too large must not keep heads from being looked after that need no more room.
        if bytes > MAX_RING_BYTES && !new.is_empty() { Err(RingError::TooLarge { bytes }) } else { Ok(()) }
    }

    /// Registers the webhook for each head that needs it. A head that is not through in time holds up nobody.
    async fn register_all(&self, task: &Task<'_>, heads: &mut [HeadRun], ring: &Document, third: Instant) {
        let needs =
            if ring.is_empty() { Duration::ZERO } else { self.pace.settle + TIME_FOR_CALLS.min(self.pace.settle) };
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
        let result = result.unwrap_or(Err(RunError::Slow));
        // The calls end with the time, too.
        let is_slow = matches!(result, Err(RunError::Unith(UnithError::OutOfTime { .. })));
        head.fail_if(if is_slow { Err(RunError::Slow) } else { result });
        if !head.is_well() {
            self.take_back(head).await;
        }
    }

    async fn try_to_register(&self, task: &Task<'_>, head: &mut HeadRun, unith: &Unith) -> Result<(), RunError> {
        let (Some(plan), Some(look)) = (head.plan.clone(), head.look.clone()) else { return Ok(()) };
        for webhook in &plan.delete_first {
            unith.delete(&webhook.id).await?;
            head.deleted.push(webhook.id.clone());
            head.done.push(format!("delete webhook {}, which delivers nothing that can be verified", webhook.id));
        }
        if !plan.delete_first.is_empty() {
            // One that is still there would deliver as soon as events are on.
            let listed = unith.webhooks(&head.id).await?;
            let is_listed = |webhook: &&Webhook| listed.iter().any(|known| known.id == webhook.id);
            if let Some(still) = plan.delete_first.iter().find(is_listed) {
                return Err(RunError::WithoutEffect(format!("delete webhook {}", still.id)));
            }
        }
        let stays_on = match task.mode {
            Mode::Apply => task.declared.enable_events,
            Mode::Rotate => look.events_on,
        };
        if !look.events_on {
            head.switched = true;
            switch(unith, &head.id, true).await?;
            head.events_on = true;
            head.step(&Step::Switch(true));
        }
        let registered = self.register(task.declared, head, unith, &look.listed).await?;
        match &registered.id {
            Some(id) => head.done.push(format!("register webhook {id}")),
            None => head.done.push("register the webhook".to_owned()),
        }
        head.registered = Some(registered);
        if !stays_on {
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
        unith: &Unith,
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
            let found = self.find(declared, &head.id, unith, before, shown.as_ref(), until).await?;
            return match (found, shown) {
                (Some(found), _) => Ok(Registered { is_live, ..found }),
                (None, Some(key)) => Ok(Registered { id: None, key, is_live }),
                (None, None) => Err(RunError::NoKey),
            };
        }
    }

    /// The webhook of ours that is listed now and was not `before`, with its key: as the list, the webhook itself or the
    /// registration (`shown`) showed it. Looks again until `until`.
    async fn find(
        &self,
        declared: &Declared,
        head_id: &str,
        unith: &Unith,
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
        unith: &Unith,
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
    async fn take_back(&self, head: &mut HeadRun) {
        let found_on = head.look.as_ref().is_some_and(|look| look.events_on);
        if let Some(id) = head.registered.take().and_then(|registered| registered.id) {
            match self.unith.delete(&id).await {
                Ok(()) => head.done.push(format!("delete webhook {id} again")),
                Err(error) => head.notes.push(format!("webhook {id} stays registered, subscribed to nothing: {error}")),
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

    /// Who looks after a head's webhook from now on, and who did before, by the entries that are replaced or stay.
    fn owners(&self, entry: Option<&RingKey>) -> (Option<String>, Option<String>) {
        let own = self.who.owner.clone();
        let Some(entry) = entry else { return (own, None) };
        let (owner, previous) = (entry.owner.clone(), entry.previous_owner.clone());
        match (self.who.takes_over, owner) {
            (_, None) => (own, previous),
            (true, Some(owner)) if Some(&owner) != own.as_ref() => (own, Some(owner)),
            (_, Some(owner)) => (Some(owner), previous),
        }
    }

    /// A key as it goes into the ring. It inherits who looks after it from the entry it replaces.
    fn new_key(&self, head: &HeadRun, id: Option<WebhookId>, key: SharedKey, made_while_on: bool) -> NewKey {
        let replaced = head.plan.iter().flat_map(|plan| plan.delete_last.iter().chain(&plan.delete_first));
        let mut ids = replaced.map(|webhook| &webhook.id).chain(head.plan.iter().flat_map(|plan| &plan.gone));
        let entry_of = |id: &WebhookId| head.entries.iter().find(|entry| entry.webhook_id.as_ref() == Some(id));
        let own = id.as_ref().and_then(entry_of);
        let (owner, previous_owner) = self.owners(own.or_else(|| ids.find_map(entry_of)));
        NewKey { head_id: head.id.clone(), webhook_id: id, key, owner, previous_owner, made_while_on }
    }

    /// Keys of registrations that deliver until they are replaced, which the ring does not have: registered by hand.
    fn keys_to_keep(&self, head: &HeadRun) -> Vec<NewKey> {
        let Some(plan) = head.plan.as_ref().filter(|plan| plan.register && head.is_well()) else { return Vec::new() };
        let is_known = |webhook: &Webhook, key: &SharedKey| {
            let is_it = |entry: &&RingKey| entry.webhook_id.as_ref() == Some(&webhook.id);
            head.entries.iter().filter(is_it).any(|entry| entry.key.expose() == key.expose())
        };
        let missing = plan.delete_last.iter().filter_map(|webhook| {
            let key = webhook.key.clone().filter(|key| !is_known(webhook, key))?;
            Some(self.new_key(head, Some(webhook.id.clone()), key, false))
        });
        missing.collect()
    }

    /// The one write with all new keys; and whose they are, and what is gone.
    async fn store_keys(&self, task: &Task<'_>, heads: &[HeadRun]) -> Result<(), RingError> {
        let now = Timestamp::now();
        let until = now.plus(self.pace.key_grace);
        let mut keys = Vec::new();
        let mut owned = Vec::new();
        let mut retired = Vec::new();
        let mut unlisted = Vec::new();
        for head in heads.iter().filter(|head| head.is_well()) {
            let Some(plan) = &head.plan else { continue };
            keys.extend(self.keys_to_keep(head));
            if let Some(registered) = &head.registered {
                keys.push(self.new_key(head, registered.id.clone(), registered.key.clone(), true));
                // One that never came to be listed in a day is not coming.
                unlisted.push((&head.id, registered.key.expose()));
            }
            if let Some(keeper) = &plan.keeper {
                keys.extend(
                    plan.key_to_store.clone().map(|key| self.new_key(head, Some(keeper.id.clone()), key, true)),
                );
                let entry = head.entries.iter().find(|entry| entry.webhook_id.as_ref() == Some(&keeper.id));
                owned.extend(entry.map(|entry| (&head.id, &keeper.id, self.owners(Some(entry)))));
            }
            // An id may be given out again: what is new is not gone.
            let own = head.own();
            let gone = plan.gone.iter().chain(&head.deleted).filter(|id| own.as_ref() != Some(id));
            retired.extend(gone.map(|id| (&head.id, id)));
        }
        let change = |ring: &mut Document| {
            for key in &keys {
                ring.put_active(key, now, until);
            }
            for (head_id, id, (owner, previous)) in &owned {
                ring.set_owner(head_id, id, owner.as_deref(), previous.as_deref());
            }
            for (head_id, id) in &retired {
                ring.retire(head_id, id, until);
            }
            for (head_id, key) in &unlisted {
                ring.retire_unlisted(head_id, key, until);
            }
            for head_id in &task.gone {
                ring.remove(head_id, |key| key.owner == self.who.owner);
            }
            if let Some(owner) = self.who.owner.as_deref().filter(|_| self.who.creates) {
                ring.unmark_deleted(owner, self.who.issued_at);
            }
        };
        self.ring.change(now, change).await
    }

    /// Waits until every receiver can have the new keys. Receivers that have no key at all look for one at once.
    async fn wait_for_receivers(&self, heads: &mut [HeadRun], had_keys: bool) {
        let now = Timestamp::now();
        let needed = |head: &HeadRun| {
            let Some(plan) = head.plan.as_ref().filter(|_| head.is_well()) else { return Duration::ZERO };
            if let Some(registered) = &head.registered {
                return if had_keys && registered.id.is_some() && !registered.is_live {
                    self.pace.settle
                } else {
                    Duration::ZERO
                };
            }
            // A run may find another one in its wait, or one that died there.
            let Some(keeper) = plan.keeper.as_ref().filter(|_| plan.subscribe_from.is_some()) else {
                return Duration::ZERO;
            };
            if plan.key_to_store.is_some() {
                return self.pace.settle;
            }
            let entry = head.entries.iter().find(|entry| entry.webhook_id.as_ref() == Some(&keeper.id));
            let age = entry.and_then(|entry| Duration::try_from(now.since(entry.since?)).ok());
            self.pace.settle.saturating_sub(age.unwrap_or_default())
        };
        let wait = heads.iter().map(needed).max().unwrap_or_default();
        if wait.is_zero() {
            return;
        }
        if Instant::now() + wait >= self.unith.deadline() {
            for head in heads.iter_mut().filter(|head| !needed(head).is_zero()) {
                head.error = Some(RunError::TooLittleTime { needs_s: wait.as_secs() });
            }
            return;
        }
        tokio::time::sleep(wait).await;
    }

    /// Subscribes a head's webhook, and deletes what it replaces.
    async fn complete(&self, declared: &Declared, head: &mut HeadRun, unith: &Unith) {
        if head.is_well() {
            let result = self.try_to_complete(declared, head, unith).await;
            head.fail_if(result);
        }
    }

    async fn try_to_complete(&self, declared: &Declared, head: &mut HeadRun, unith: &Unith) -> Result<(), RunError> {
        let Some(plan) = head.plan.clone() else { return Ok(()) };
        if let Some(key) = plan.key_to_store.as_ref().filter(|_| head.registered.is_none()) {
            self.unith.keep_secret(key.expose());
            head.done.extend(plan.keeper.as_ref().map(|keeper| Step::StoreKey(keeper.id.clone()).to_string()));
        }
        if let Some(registered) = &head.registered {
            let stored = registered.id.as_ref().map(|id| Step::StoreKey(id.clone()).to_string());
            head.done.extend(stored);
            if registered.id.is_none() {
                return Err(RunError::Unlisted { since: Timestamp::now() });
            }
        }
        let Some(id) = head.own() else { return Ok(()) };
        let is_live = head.registered.as_ref().map(|registered| registered.is_live);
        let from = is_live.map_or(plan.subscribe_from, |is_live| (!is_live).then_some(Subscriptions::NONE));
        if let Some(from) = from.filter(|from| *from != declared.subscriptions) {
            let url = declared.webhook_url.as_str();
            let step = Step::Subscribe { webhook_id: id.clone(), from, to: declared.subscriptions };
            unith.change(&id, &head.id, url, declared.subscriptions).await?;
            self.check_subscribed(declared, head, unith, &id, &step).await?;
            head.step(&step);
        }
        for webhook in &plan.delete_last {
            unith.delete(&webhook.id).await?;
            head.deleted.push(webhook.id.clone());
            head.done.push(format!("delete webhook {}; its key stays valid for a while", webhook.id));
        }
        for id in &plan.gone {
            head.step(&Step::RetireKey(id.clone()));
        }
        Ok(())
    }

    /// Nobody says that a change leaves the key alone, or that it is one.
    async fn check_subscribed(
        &self,
        declared: &Declared,
        head: &mut HeadRun,
        unith: &Unith,
        id: &WebhookId,
        step: &Step,
    ) -> Result<(), RunError> {
        let listed = unith.webhooks(&head.id).await?;
        let own = listed.into_iter().find(|webhook| webhook.id == *id);
        let own = own.filter(|own| own.subscriptions == declared.subscriptions);
        let own = own.ok_or_else(|| RunError::WithoutEffect(step.to_string()))?;
        let known = head.registered.as_ref().map(|registered| registered.key.expose().to_owned());
        let known = known.or_else(|| {
            let entry = head.entries.iter().find(|entry| entry.webhook_id.as_ref() == Some(id));
            entry.map(|entry| entry.key.expose().to_owned())
        });
        if let Some(key) = own.key.filter(|key| known.as_deref() != Some(key.expose())) {
            let now = Timestamp::now();
            let new = self.new_key(head, Some(id.clone()), key, true);
            self.ring.change(now, |ring| ring.put_active(&new, now, now.plus(self.pace.key_grace))).await?;
            head.notes.push(format!("the change gave webhook {id} another key, which is stored"));
        }
        Ok(())
    }

    /// The one write that lets replaced keys go, and drops those of what is left behind.
    async fn retire_keys(&self, heads: &[HeadRun], left: &[Left]) -> Result<(), RingError> {
        let now = Timestamp::now();
        let until = now.plus(self.pace.key_grace);
        let deleted: Vec<_> =
            heads.iter().flat_map(|head| head.deleted.iter().map(|id| (head.id.as_str(), id.clone()))).collect();
        let left: Vec<_> = left.iter().filter(|left| left.report.ok).collect();
        if deleted.is_empty() && left.is_empty() {
            return Ok(());
        }
        let change = |ring: &mut Document| {
            for (head_id, id) in &deleted {
                ring.retire(head_id, id, until);
            }
            for left in &left {
                let head_id = &left.report.head_id;
                let is_gone = |key: &RingKey| {
                    self.is_own(key) && key.webhook_id.as_ref().is_none_or(|id| !left.still.contains(id))
                };
                if left.is_whole {
                    ring.remove(head_id, is_gone);
                } else {
                    let entries = ring.of_head(head_id);
                    for id in entries.iter().filter(|key| is_gone(key)).filter_map(|key| key.webhook_id.as_ref()) {
                        ring.retire(head_id, id, until);
                    }
                }
            }
        };
        self.ring.change(now, change).await
    }

    /// Whether an entry of the ring is this run's owner's, or nobody's.
    pub(crate) fn is_own(&self, key: &RingKey) -> bool {
        key.owner.is_none() || key.owner == self.who.owner
    }

    async fn set_switch(&self, task: &Task<'_>, head: &mut HeadRun) {
        let wanted = task.declared.enable_events;
        if task.mode == Mode::Apply && head.is_well() && head.look.is_some() && head.events_on != wanted {
            head.switched = true;
            let result = switch(&self.unith, &head.id, wanted).await;
            if head.fail_if(result).is_some() {
                head.events_on = wanted;
                head.step(&Step::Switch(wanted));
            }
        }
    }

    /// Looks again at a head that was changed.
    async fn check(&self, task: &Task<'_>, head: &mut HeadRun, ring: &Document) {
        if !head.is_well() || (head.done.is_empty() && head.registered.is_none()) {
            return;
        }
        let result = async {
            let look = look(&self.unith, &head.id).await?;
            let declared = Declared {
                enable_events: if task.mode == Mode::Apply { task.declared.enable_events } else { look.events_on },
                ..task.declared.clone()
            };
            let plan = self.plan(&declared, &look, &ring.of_head(&head.id));
            let steps: Vec<_> = plan.steps(&declared).into_iter().filter(|step| !step.is_housekeeping()).collect();
            if steps.is_empty() {
                Ok(())
            } else {
                let steps: Vec<_> = steps.iter().map(ToString::to_string).collect();
                Err(RunError::NotAsDeclared(steps.join("; ")))
            }
        };
        let result = result.await;
        head.fail_if(result);
    }

    /// Takes away what this run made for an owner that was deleted meanwhile, as its deletion would have done.
    async fn undo(&self, task: &Task<'_>, heads: &mut [HeadRun]) {
        let made = heads.iter().filter_map(|head| Some((head.id.clone(), head.registered.as_ref()?.id.clone()?)));
        let is_switched_on = |head: &&HeadRun| head.switched && head.look.as_ref().is_some_and(|look| !look.events_on);
        let removal = Removal {
            url: &task.declared.webhook_url,
            heads: task.heads.clone(),
            deleted_at: None,
            force: false,
            made: made.collect(),
            switched_on: heads.iter().filter(is_switched_on).map(|head| head.id.clone()).collect(),
        };
        // What cannot be removed now is found by the deletion's own second look, or stays and is subscribed to nothing.
        let Ok(removed) = self.remove(removal).await else { return };
        for report in removed.reports {
            if let Some(head) = heads.iter_mut().find(|head| head.id == report.head_id) {
                head.done.extend(report.done);
                head.notes.extend(report.error);
            }
        }
    }

    /// Switches a head's events off; its registrations stay.
    pub async fn disable(&self, head_id: &str) -> HeadReport {
        let mut done = Vec::new();
        let result = async {
            if self.unith.events_on(head_id).await? {
                switch(&self.unith, head_id, false).await?;
                done.push(Step::Switch(false).to_string());
            }
            Ok(())
        };
        let result = result.await;
        HeadReport::new(head_id, done, &result)
    }
}

/// A head that was not worked on.
fn failed(head_id: &str, error: &str) -> HeadReport {
    HeadReport { ok: false, error: Some(error.to_owned()), ..HeadReport::new(head_id, Vec::new(), &Ok(())) }
}

async fn look(unith: &Unith, head_id: &str) -> Result<Look, RunError> {
    let listed = unith.webhooks(head_id).await?;
    Ok(Look { listed, events_on: unith.events_on(head_id).await? })
}

async fn look_at(unith: &Unith, head: &mut HeadRun) {
    let look = look(unith, &head.id).await;
    head.look = head.fail_if(look);
    head.events_on = head.look.as_ref().is_some_and(|look| look.events_on);
}

/// Sets a head's switch, and reads it back: what UNITH answers says nothing of its effect. Tried some times whatever goes
/// wrong, since a head must not be left on by one failure.
pub(crate) async fn switch(unith: &Unith, head_id: &str, on: bool) -> Result<(), RunError> {
    let mut last = None;
    for attempt in 0..SWITCH_TRIES {
        if attempt > 0 {
            tokio::time::sleep(SWITCH_PAUSE).await;
        }
        let set = unith.switch_events(head_id, on).await;
        match (unith.events_on(head_id).await, set) {
            (Ok(is_on), _) if is_on == on => return Ok(()),
            (_, Err(error)) | (Err(error), Ok(())) => last = Some(error),
            (Ok(_), Ok(())) => {}
        }
    }
    Err(last.map_or_else(|| RunError::WithoutEffect(Step::Switch(on).to_string()), RunError::from))
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
