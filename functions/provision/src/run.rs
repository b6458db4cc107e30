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
use tokio::time::Instant;
use unith_events::{ids::WebhookId, key_ring::RingKey, signature::SharedKey, timestamp::Timestamp};

use crate::{
    config::Allowed,
    declared::{Declared, Subscriptions, WebhookUrl},
    plan::{Look, Plan, Step, plan},
    remove::{Left, Purpose, Removal},
    ring::{Document, MAX_RING_BYTES, NewKey, RingError, RingStore},
    unith::{UnithClient, UnithError, Webhook},
};

/// How many heads a run looks after.
pub const MAX_HEADS: usize = 100;
/// How many heads are worked on at a time.
const HEADS_AT_A_TIME: usize = 8;
/// How often a list is asked for that must say what became of a deletion.
const LIST_TRIES: u32 = 3;
const LIST_PAUSE: Duration = Duration::from_millis(200);
/// How often a switch is set that does not show as set.
const SWITCH_TRIES: u32 = 4;
const SWITCH_PAUSE: Duration = Duration::from_millis(200);

/// The clients and the rules of a run.
#[derive(Debug, Clone)]
pub struct Run {
    /// UNITH.
    pub unith: UnithClient,
    /// The key ring.
    pub ring: RingStore,
    /// The waits.
    pub pace: Timing,
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
    /// When it was asked for.
    pub issued_at: Timestamp,
}

/// How long things take.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long a replaced key stays valid: until UNITH's last retry of what it signed must be over.
    pub key_grace: time::Duration,
    /// How long a new key is in the ring before anything is signed with it. A receiver looks for a new ring at most
    /// every 10 s; after a little more than that, each can have it.
    pub propagation_delay: Duration,
    /// How long a registration is looked for in UNITH's list.
    pub list_within: Duration,
    /// How long, from its beginning on, a custom resource's run asks again where IAM refuses.
    pub denied_for: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            key_grace: time::Duration::minutes(15),
            propagation_delay: Duration::from_secs(11),
            list_within: Duration::from_secs(10),
            denied_for: Duration::from_secs(30),
        }
    }
}

/// What stopped a head's run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// UNITH.
    #[error(transparent)]
    UnithClient(#[from] UnithError),
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
    #[error("UNITH was too slow: this head was not through in its share of the run's time; run this again")]
    Slow,
    /// Somebody else uses the switch.
    #[error(
        "somebody switched the head's events off while the webhook was registered, so it would never deliver: run this \
         again"
    )]
    SwitchedOff,
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
        matches!(self, Self::UnithClient(error) if error.is_refusal())
    }

    /// The same of a call that had only a share of the run's time.
    pub(crate) fn of_its_share(self) -> Self {
        if matches!(self, Self::UnithClient(UnithError::OutOfTime { .. })) { Self::Slow } else { self }
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
    /// Whether the heads are whatever the account has, so that one that UNITH refuses fails nothing else.
    pub is_all: bool,
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
pub(crate) struct HeadRun {
    pub(crate) id: String,
    pub(crate) look: Option<Look>,
    pub(crate) plan: Option<Plan>,
    entries: Vec<RingKey>,
    pub(crate) registered: Option<Registered>,
    /// Whether its events are on, as far as is known.
    pub(crate) events_on: bool,
    /// Whether the run set the switch, or tried to.
    pub(crate) switched: bool,
    /// Webhooks the run deleted, and UNITH lists no more.
    pub(crate) deleted: Vec<WebhookId>,
    /// The webhook's key after a change that gave it another one.
    changed_key: Option<NewKey>,
    pub(crate) done: Vec<String>,
    pub(crate) notes: Vec<String>,
    pub(crate) error: Option<RunError>,
}

/// A webhook that was registered in this run.
#[derive(Debug, Clone)]
pub(crate) struct Registered {
    /// UNITH's id of it; `None` if it is not listed.
    pub(crate) id: Option<WebhookId>,
    pub(crate) key: SharedKey,
    /// Whether it is subscribed already, since UNITH would not have it otherwise.
    pub(crate) is_live: bool,
}

/// Who looks after a webhook, and who did before.
type Owners = (Option<String>, Option<String>);

/// What a run changes in the ring before anything is subscribed.
#[derive(Default)]
struct Changes<'h> {
    keys: Vec<NewKey>,
    owned: Vec<(&'h str, &'h WebhookId, Owners)>,
    retired: Vec<(&'h str, &'h WebhookId)>,
    /// Registrations that never came to be listed in a day are not coming, where there is this new one.
    unlisted: Vec<(&'h str, SharedKey)>,
}

pub(crate) type Boxed<'f, T> = Pin<Box<dyn Future<Output = T> + Send + 'f>>;

/// Does something for several heads at a time, none of which waits for an earlier one. The results are in the order of
/// the heads.
pub(crate) async fn each<'f, T>(work: impl Iterator<Item = Boxed<'f, T>>) -> Vec<T> {
    let work: Vec<_> = work.enumerate().map(|(index, work)| async move { (index, work.await) }).collect();
    let mut done: Vec<_> = stream::iter(work).buffer_unordered(HEADS_AT_A_TIME).collect().await;
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
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
            changed_key: None,
            done: Vec::new(),
            notes: Vec::new(),
            error: None,
        }
    }

    pub(crate) fn is_well(&self) -> bool {
        self.error.is_none()
    }

    /// Whether UNITH refuses the head itself. What it refuses later is about what was asked for.
    fn is_refused(&self) -> bool {
        self.look.is_none() && self.error.as_ref().is_some_and(RunError::is_refusal)
    }

    pub(crate) fn fail_if<T>(&mut self, result: Result<T, impl Into<RunError>>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.error = Some(error.into());
                None
            }
        }
    }

    pub(crate) fn step(&mut self, step: &Step) {
        self.done.push(step.to_string());
    }

    /// Whether its events are to be on in the end.
    pub(crate) fn stays_on(&self, task: &Task<'_>) -> bool {
        match task.mode {
            Mode::Apply => task.declared.enable_events,
            Mode::Rotate => self.was_on(),
        }
    }

    /// Whether its events were found on.
    pub(crate) fn was_on(&self) -> bool {
        self.look.as_ref().is_some_and(|look| look.events_on)
    }

    fn report(self) -> HeadReport {
        let (is_new, is_refused) = (self.entries.is_empty(), self.is_refused());
        let result = self.error.map_or(Ok(()), Err);
        HeadReport { notes: self.notes, is_new, is_refused, ..HeadReport::new(&self.id, self.done, &result) }
    }

    /// The webhook that is to stay, and its key.
    fn own(&self) -> Option<WebhookId> {
        let keeper = || self.plan.as_ref().and_then(Plan::keeper_id);
        self.registered.as_ref().map_or_else(keeper, |registered| registered.id.clone())
    }

    fn entry_of(&self, id: &WebhookId) -> Option<&RingKey> {
        self.entries.iter().find(|entry| entry.webhook_id.as_ref() == Some(id))
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
        // The first reading says whether the owner was deleted before; a deletion from now on is one meanwhile.
        self.ring.read_guarded().await?;
        let time = self.unith.deadline().saturating_duration_since(self.started);
        let looking = self.unith.until(self.started + time / 6);
        each(heads.iter_mut().map(|head| Box::pin(look_at(&looking, head)) as Boxed<'_, ()>)).await;
        let ring = self.ring.read_guarded().await?;
        for key in ring.keys() {
            self.unith.keep_secret(key.key.expose());
        }
        self.make_plans(task, heads, &ring);
        self.check_size(task, heads, &ring)?;
        self.register_all(task, heads, &ring, self.started + time / 3).await;
        let had_keys = match self.store_keys(task, heads).await {
            Ok(had_keys) => had_keys,
            Err(error) => {
                each(heads.iter_mut().map(|head| Box::pin(self.take_back(head)) as Boxed<'_, ()>)).await;
                return Err(error);
            }
        };
        self.wait_for_receivers(heads, had_keys).await;
        // What is left of the time is for two rounds of calls.
        let now = Instant::now();
        let half = self.unith.until(now + self.unith.deadline().saturating_duration_since(now) / 2);
        each(heads.iter_mut().map(|head| Box::pin(self.subscribe(task.declared, head, &half)) as Boxed<'_, ()>)).await;
        self.store_changed_keys(heads).await?;
        each(heads.iter_mut().map(|head| Box::pin(delete_replaced(head, &half)) as Boxed<'_, ()>)).await;
        each(heads.iter_mut().map(|head| Box::pin(self.set_switch(task, head)) as Boxed<'_, ()>)).await;
        let now_in_ring = self.ring.read_guarded().await?;
        each(heads.iter_mut().map(|head| Box::pin(self.check(task, head, &now_in_ring)) as Boxed<'_, ()>)).await;
        if all_well(heads, task.is_all, |head| (head.is_well(), head.is_refused())) {
            left.extend(self.leave(&task.leaving, &ring).await);
        }
        self.retire_keys(heads, left).await
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
        let until = now.plus(self.pace.key_grace);
        // As long as UNITH's keys and ids are, or those that are known.
        let key_length = ring.keys().map(|key| key.key.expose().len()).max().unwrap_or_default().max(32);
        let Ok(key) = SharedKey::parse(&"0".repeat(key_length)) else { return Ok(()) };
        let expected = Registered { id: Some(WebhookId::from_number(u32::MAX)), key, is_live: false };
        let registers = |head: &HeadRun| head.plan.as_ref().is_some_and(|plan| plan.register);
        let changes = self.changes(heads, |head| registers(head).then(|| expected.clone()));
        let bytes = ring.bytes_after(now, |ring| {
            self.make_changes(task, &changes, ring, now);
            for (head, plan) in heads.iter().filter_map(|head| Some((head, head.plan.as_ref()?))) {
                plan.delete_last.iter().for_each(|webhook| ring.retire(&head.id, &webhook.id, until));
            }
        });
        // A ring that somebody else made too large must not keep heads from being looked after that need no more room.
        if bytes > MAX_RING_BYTES && bytes > ring.bytes() { Err(RingError::TooLarge { bytes }) } else { Ok(()) }
    }

    /// Who looks after a head's webhook from now on, and who did before, by the entries that are replaced or stay.
    fn owners(&self, entry: Option<&RingKey>) -> Owners {
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

    /// What the heads change in the ring, if this is what was registered for them.
    fn changes<'h>(&self, heads: &'h [HeadRun], registered: impl Fn(&'h HeadRun) -> Option<Registered>) -> Changes<'h> {
        let mut changes = Changes::default();
        for head in heads.iter().filter(|head| head.is_well()) {
            let Some(plan) = &head.plan else { continue };
            let registered = registered(head);
            changes.keys.extend(self.keys_to_keep(head));
            // An id may be given out again: what is new is not gone.
            let own = registered.as_ref().map_or_else(|| plan.keeper_id(), |registered| registered.id.clone());
            let gone = plan.gone.iter().chain(&head.deleted).filter(|id| own.as_ref() != Some(id));
            changes.retired.extend(gone.map(|id| (head.id.as_str(), id)));
            if let Some(keeper) = &plan.keeper {
                let key = plan.key_to_store.clone();
                changes.keys.extend(key.map(|key| self.new_key(head, Some(keeper.id.clone()), key, true)));
                let entry = head.entry_of(&keeper.id);
                changes.owned.extend(entry.map(|entry| (head.id.as_str(), &keeper.id, self.owners(Some(entry)))));
            }
            if let Some(registered) = registered {
                changes.keys.push(self.new_key(head, registered.id, registered.key.clone(), true));
                changes.unlisted.push((&head.id, registered.key));
            }
        }
        changes
    }

    fn make_changes(&self, task: &Task<'_>, changes: &Changes<'_>, ring: &mut Document, now: Timestamp) {
        let until = now.plus(self.pace.key_grace);
        for key in &changes.keys {
            ring.put_active(key, now, until);
        }
        for (head_id, id, (owner, previous)) in &changes.owned {
            ring.set_owner(head_id, id, owner.as_deref(), previous.as_deref());
        }
        for (head_id, id) in &changes.retired {
            ring.retire(head_id, id, until);
        }
        for (head_id, key) in &changes.unlisted {
            ring.retire_unlisted(head_id, key.expose(), until);
        }
        for head_id in &task.gone {
            ring.remove(head_id, |key| key.owner == self.who.owner);
        }
        // Asked for after the deletion: it begins anew.
        if let Some(owner) = self.who.owner.as_deref().filter(|_| task.mode == Mode::Apply) {
            ring.unmark_deleted(owner, self.who.issued_at);
        }
    }

    /// The one write with all new keys; and whose they are, and what is gone. Whether there were keys before is the result.
    async fn store_keys(&self, task: &Task<'_>, heads: &[HeadRun]) -> Result<bool, RingError> {
        let now = Timestamp::now();
        let changes = self.changes(heads, |head| head.registered.clone());
        self.ring.change(now, |ring| self.make_changes(task, &changes, ring, now)).await
    }

    /// Waits until every receiver can have the new keys. Receivers that have no key at all look for one at once.
    async fn wait_for_receivers(&self, heads: &mut [HeadRun], had_keys: bool) {
        let now = Timestamp::now();
        let needed = |head: &HeadRun| {
            let Some(plan) = head.plan.as_ref().filter(|_| head.is_well()) else { return Duration::ZERO };
            if let Some(registered) = &head.registered {
                return if had_keys && registered.id.is_some() && !registered.is_live {
                    self.pace.propagation_delay
                } else {
                    Duration::ZERO
                };
            }
            // A run may find another one in its wait, or one that died there.
            let Some(keeper) = plan.keeper.as_ref().filter(|_| plan.subscribe_from.is_some()) else {
                return Duration::ZERO;
            };
            if plan.key_to_store.is_some() {
                return self.pace.propagation_delay;
            }
            let entry = head.entries.iter().find(|entry| entry.webhook_id.as_ref() == Some(&keeper.id));
            let age = entry.and_then(|entry| Duration::try_from(now.since(entry.since?)).ok());
            self.pace.propagation_delay.saturating_sub(age.unwrap_or_default())
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

    /// Subscribes a head's webhook.
    async fn subscribe(&self, declared: &Declared, head: &mut HeadRun, unith: &UnithClient) {
        if head.is_well() {
            let result = self.try_to_subscribe(declared, head, unith).await;
            head.fail_if(result);
        }
    }

    async fn try_to_subscribe(
        &self,
        declared: &Declared,
        head: &mut HeadRun,
        unith: &UnithClient,
    ) -> Result<(), RunError> {
        let Some(plan) = head.plan.clone() else { return Ok(()) };
        if let Some(key) = plan.key_to_store.as_ref().filter(|_| head.registered.is_none()) {
            self.unith.keep_secret(key.expose());
            head.done.extend(plan.keeper_id().map(|id| Step::StoreKey(id).to_string()));
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
            head.changed_key = self.check_subscribed(declared, head, unith, &id, &step).await?;
            head.step(&step);
        }
        Ok(())
    }

    /// Nobody says that a change had its effect, or that it leaves the key alone: a new key is the result.
    async fn check_subscribed(
        &self,
        declared: &Declared,
        head: &HeadRun,
        unith: &UnithClient,
        id: &WebhookId,
        step: &Step,
    ) -> Result<Option<NewKey>, RunError> {
        let listed = unith.webhooks(&head.id).await?;
        let own = listed.into_iter().find(|webhook| webhook.id == *id);
        let own = own.filter(|own| own.subscriptions == declared.subscriptions);
        let own = own.ok_or_else(|| RunError::WithoutEffect(step.to_string()))?;
        let planned = || head.plan.as_ref().and_then(|plan| plan.key_to_store.as_ref());
        let known = head.registered.as_ref().map(|registered| &registered.key).or_else(planned);
        let known = known.or_else(|| head.entry_of(id).map(|entry| &entry.key));
        let key = own.key.filter(|key| known.is_none_or(|known| known.expose() != key.expose()));
        Ok(key.map(|key| self.new_key(head, Some(id.clone()), key, true)))
    }

    /// Stores keys that came with the subscriptions. Heads for which that fails keep what was to be replaced.
    async fn store_changed_keys(&self, heads: &mut [HeadRun]) -> Result<(), RingError> {
        let keys: Vec<_> = heads.iter().filter_map(|head| head.changed_key.clone()).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let now = Timestamp::now();
        let until = now.plus(self.pace.key_grace);
        let stored = self.ring.change(now, |ring| keys.iter().for_each(|key| ring.put_active(key, now, until))).await;
        for head in heads.iter_mut().filter(|head| head.changed_key.is_some()) {
            if head.fail_if(stored.clone()).is_some() {
                head.notes.push("the change gave the webhook another key, which is stored".to_owned());
            }
        }
        stored.map(drop).or_else(|error| if error.is_deletion() { Err(error) } else { Ok(()) })
    }

    /// The one write that lets replaced keys go, and drops those of what is left behind.
    async fn retire_keys(&self, heads: &[HeadRun], left: &[Left]) -> Result<(), RingError> {
        let now = Timestamp::now();
        let until = now.plus(self.pace.key_grace);
        let deleted: Vec<_> =
            heads.iter().flat_map(|head| head.deleted.iter().map(|id| (head.id.as_str(), id.clone()))).collect();
        let left: Vec<_> = left.iter().filter(|left| left.report.ok).collect();
        if deleted.is_empty() && left.is_empty() {
            // A deletion may have taken away what was just made.
            return self.ring.read_guarded().await.map(drop);
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
        self.ring.change(now, change).await.map(drop)
    }

    /// Whether an entry of the ring is this run's owner's, or nobody's.
    pub(crate) fn is_own(&self, key: &RingKey) -> bool {
        key.owner.is_none() || key.owner == self.who.owner
    }

    async fn set_switch(&self, task: &Task<'_>, head: &mut HeadRun) {
        let wanted = match &head.error {
            None => head.stays_on(task),
            // What is not listed is not subscribed: there is nothing to switch events on for.
            Some(RunError::Unlisted { .. }) => head.was_on() && head.stays_on(task),
            Some(_) => return,
        };
        // UNITH's documents disagree which of the two comes first: behind a registration it is switched on once more.
        let is_confirmed = wanted && head.is_well() && head.registered.is_some();
        let is_due = task.mode == Mode::Apply || head.registered.is_some();
        if head.look.is_none() || !is_due || (head.events_on == wanted && !is_confirmed) {
            return;
        }
        head.switched |= head.events_on != wanted;
        match switch(&self.unith, &head.id, wanted).await {
            Ok(()) if head.events_on == wanted => {}
            Ok(()) => {
                head.events_on = wanted;
                head.step(&Step::Switch(wanted));
            }
            Err(error) if head.is_well() => head.error = Some(error),
            Err(error) => head.notes.push(error.to_string()),
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
            // Keys of what this run deleted are retired last.
            let is_own = |step: &Step| matches!(step, Step::RetireKey(id) if head.deleted.contains(id));
            let steps = plan.steps(&declared).into_iter().filter(|step| !step.is_housekeeping() && !is_own(step));
            let steps: Vec<_> = steps.collect();
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

    /// Takes away what this run made for an owner that was deleted meanwhile, and no more: another run may have begun anew
    /// since then.
    async fn undo(&self, task: &Task<'_>, heads: &mut [HeadRun]) {
        let made = heads.iter().filter_map(|head| Some((head.id.clone(), head.registered.as_ref()?.id.clone()?)));
        let made: Vec<_> = made.collect();
        let is_switched_on = |head: &&HeadRun| head.switched && !head.was_on();
        let switched_on: Vec<_> = heads.iter().filter(is_switched_on).map(|head| head.id.clone()).collect();
        let is_touched = |head: &&String| made.iter().any(|(id, _)| id == *head) || switched_on.contains(head);
        let touched = task.heads.iter().filter(is_touched).cloned().collect();
        let removal = Removal::new(&task.declared.webhook_url, touched, Purpose::Undoing);
        let removal = Removal { made, switched_on, ..removal };
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

/// A head that UNITH refuses fails a run that names it, and not one about whatever the account has; but when all are
/// refused, something else is wrong. `how` says of a report whether it is well, and whether UNITH refuses the head.
pub(crate) fn all_well<R>(reports: &[R], is_all: bool, how: impl Fn(&R) -> (bool, bool)) -> bool {
    let excused = is_all && !reports.iter().all(|report| how(report).1);
    reports.iter().map(how).all(|(ok, is_refused)| ok || (excused && is_refused))
}

/// A head that was not worked on.
fn failed(head_id: &str, error: &str) -> HeadReport {
    HeadReport { ok: false, error: Some(error.to_owned()), ..HeadReport::new(head_id, Vec::new(), &Ok(())) }
}

async fn look(unith: &UnithClient, head_id: &str) -> Result<Look, RunError> {
    let listed = unith.webhooks(head_id).await?;
    Ok(Look { listed, events_on: unith.events_on(head_id).await? })
}

async fn look_at(unith: &UnithClient, head: &mut HeadRun) {
    let look = look(unith, &head.id).await.map_err(RunError::of_its_share);
    head.look = head.fail_if(look);
    head.events_on = head.look.as_ref().is_some_and(|look| look.events_on);
}

/// What came of deleting webhooks.
pub(crate) struct Deletion {
    /// What UNITH does not list any more.
    pub(crate) gone: Vec<WebhookId>,
    /// What it lists now, or what kept some from being deleted.
    pub(crate) listed: Result<Vec<Webhook>, RunError>,
}

/// Deletes webhooks of a head. What came of it, the list behind it says, whatever the calls were answered.
pub(crate) async fn delete_all(unith: &UnithClient, head_id: &str, webhooks: &[Webhook]) -> Deletion {
    if webhooks.is_empty() {
        return Deletion { gone: Vec::new(), listed: Ok(Vec::new()) };
    }
    let mut first_error = None;
    for webhook in webhooks {
        if let Err(error) = unith.delete(&webhook.id).await {
            first_error.get_or_insert(error);
        }
    }
    let mut tries = 1;
    loop {
        let listed = unith.webhooks(head_id).await;
        let is_listed = |id: &WebhookId| listed.iter().flatten().any(|webhook| webhook.id == *id);
        let still = webhooks.iter().find(|webhook| is_listed(&webhook.id));
        // What is transient was tried again already.
        let is_odd = listed.as_ref().is_err_and(|error| !error.is_transient());
        if tries < LIST_TRIES && (is_odd || (still.is_some() && first_error.is_none())) {
            tries += 1;
            tokio::time::sleep(LIST_PAUSE).await;
            continue;
        }
        let ids = webhooks.iter().map(|webhook| webhook.id.clone());
        let gone = if listed.is_ok() { ids.filter(|id| !is_listed(id)).collect() } else { Vec::new() };
        let without_effect = still.map(|still| RunError::WithoutEffect(format!("delete webhook {}", still.id)));
        let listed = match (without_effect, first_error, listed) {
            (None, _, Ok(listed)) => Ok(listed),
            (_, Some(error), _) | (None, None, Err(error)) => Err(error.into()),
            (Some(without_effect), None, _) => Err(without_effect),
        };
        return Deletion { gone, listed };
    }
}

/// Deletes what a head's webhook replaces.
async fn delete_replaced(head: &mut HeadRun, unith: &UnithClient) {
    let Some(plan) = head.plan.clone().filter(|_| head.is_well()) else { return };
    let deletion = delete_all(unith, &head.id, &plan.delete_last).await;
    head.done.extend(deletion.gone.iter().map(|id| format!("delete webhook {id}; its key stays valid for a while")));
    head.deleted.extend(deletion.gone);
    if head.fail_if(deletion.listed).is_some() {
        plan.gone.into_iter().for_each(|id| head.step(&Step::RetireKey(id)));
    }
}

/// Sets a head's switch, and reads it back: what UNITH answers says nothing of its effect. Tried some times whatever goes
/// wrong, since a head must not be left on by one failure.
pub(crate) async fn switch(unith: &UnithClient, head_id: &str, on: bool) -> Result<(), RunError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The first ones wait for the last one.
    #[tokio::test]
    async fn a_slow_head_holds_up_no_other() {
        let last = tokio::sync::Notify::new();
        let work = (0..3 * HEADS_AT_A_TIME).map(|number| {
            let last = &last;
            Box::pin(async move {
                if number + 1 < HEADS_AT_A_TIME {
                    last.notified().await;
                } else if number + 1 == 3 * HEADS_AT_A_TIME {
                    last.notify_waiters();
                }
                number
            }) as Boxed<'_, usize>
        });
        assert_eq!(each(work).await, (0..3 * HEADS_AT_A_TIME).collect::<Vec<_>>());
    }
}
