//! One run: the clients it works with, and what it brings about head by head.
//!
//! `apply` goes by looking, not by remembering: it makes a plan, carries out the first step, looks again, and is done
//! when nothing differs. A run that died anywhere is completed by the next one, whatever had been done.

use std::time::Duration;

use serde::Serialize;
use shared::{signature::SharedKey, timestamp::Timestamp};
use tokio::time::Instant;

use crate::{
    declared::{Declared, Subscriptions},
    plan::{Step, ours, plan},
    ring::{RingError, RingStore},
    unith::{Unith, UnithError, Webhook},
};

/// No head needs more steps than this; one that does is not getting anywhere.
const MAX_STEPS: usize = 20;
/// How often registering is begun anew when nobody knows what became of it.
const REGISTER_AGAIN: u32 = 5;
const REGISTER_PAUSE: Duration = Duration::from_millis(500);

/// The clients and the rules of a run.
#[derive(Debug, Clone)]
pub struct Run {
    /// UNITH.
    pub unith: Unith,
    /// The key ring.
    pub ring: RingStore,
    /// The rules.
    pub pace: Pace,
}

/// How long things take.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How long a replaced key stays good: until UNITH's last retry of what it signed must be over.
    pub key_grace: time::Duration,
    /// How long a new key is in the ring before anything is signed with it. A receiver looks for a new ring at most
    /// every 10 s; after a little more than that, each can have it.
    pub settle: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { key_grace: time::Duration::minutes(15), settle: Duration::from_secs(11) }
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
    #[error("this was done, but UNITH does not show it: {0}")]
    WithoutEffect(String),
    /// A webhook was registered, and its key cannot be had.
    #[error(
        "the webhook is registered, but UNITH shows its key nowhere, or masked: nothing it signs could be verified"
    )]
    NoKey,
    /// Several webhooks of ours appeared at once, and UNITH does not show which key is whose.
    #[error("several runs registered the webhook at once, and UNITH shows no keys to tell them apart; run this again")]
    Ambiguous,
    /// The waits of a rotation would go past the run's end.
    #[error("a rotation takes {needs_s} s at the least, and this run has less time: give the function more")]
    TooLittleTime {
        /// Seconds.
        needs_s: u64,
    },
    /// There is nothing that could be rotated or switched on.
    #[error("the webhook is not registered, or its key not in the ring: run `apply` first")]
    NotRegistered,
    /// The steps do not end.
    #[error("not done after {MAX_STEPS} steps: is somebody else changing the same webhooks?")]
    TooManySteps,
}

/// A webhook that was registered.
pub(crate) struct Registered {
    /// UNITH's id of it.
    pub(crate) id: String,
    /// Its key.
    pub(crate) key: SharedKey,
    /// Whether it was there before, and has only been renewed.
    pub(crate) renewed: bool,
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
    /// What stopped it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl HeadReport {
    /// The report of a run that did `done` and came to `result`.
    pub fn new(head_id: &str, done: Vec<String>, result: &Result<(), RunError>) -> Self {
        let error = result.as_ref().err().map(ToString::to_string);
        Self { head_id: head_id.to_owned(), ok: error.is_none(), done, error }
    }
}

impl Run {
    /// This run for one of `shares` heads that are still to be looked after: one that UNITH is slow about must not use
    /// up the others' time.
    #[must_use]
    pub fn share(&self, shares: usize) -> Self {
        Self { unith: self.unith.until(self.unith.share(shares)), ..self.clone() }
    }

    /// Brings a head to its declared state. `done` is what differed and was changed.
    pub async fn apply(&self, declared: &Declared, head_id: &str) -> HeadReport {
        let mut done = Vec::new();
        let result = self.converge(declared, head_id, &mut done).await;
        let done = done.iter().filter(|step| !step.is_housekeeping()).map(ToString::to_string).collect();
        HeadReport::new(head_id, done, &result)
    }

    async fn converge(&self, declared: &Declared, head_id: &str, done: &mut Vec<Step>) -> Result<(), RunError> {
        self.register_as_declared(declared, head_id, done).await?;
        // Last, when the key can be read: no event is to come that cannot be verified.
        Ok(self.unith.enable_events(head_id, declared.enable_events).await?)
    }

    /// All but the switch for the head's events.
    pub(crate) async fn register_as_declared(
        &self,
        declared: &Declared,
        head_id: &str,
        done: &mut Vec<Step>,
    ) -> Result<(), RunError> {
        let mut uncertain = 0;
        while let Some((step, listed)) = self.next_step(declared, head_id).await? {
            // Registering twice is right where somebody deleted what was registered, and storing twice where UNITH renewed
            // a key meanwhile; the limit ends either game.
            if done.contains(&step) && !registers(&step) && !matches!(step, Step::StoreKey { .. }) {
                return Err(RunError::WithoutEffect(step.to_string()));
            }
            if done.len() >= MAX_STEPS {
                return Err(RunError::TooManySteps);
            }
            match self.carry_out(&step, declared, head_id, &listed).await {
                Ok(()) => done.push(step),
                // It may be registered all the same: look, and take what is there.
                Err(RunError::Unith(error)) if registers(&step) && error.is_transient() => {
                    self.pause_before_looking(uncertain, error).await?;
                    uncertain += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits a little longer each time, or as long as UNITH asks; gives up where the time would be over.
    async fn pause_before_looking(&self, uncertain: u32, error: UnithError) -> Result<(), RunError> {
        let jitter = Duration::from_millis(fastrand::u64(0..200));
        let pause = (REGISTER_PAUSE * 2_u32.pow(uncertain) + jitter).max(error.retry_after().unwrap_or_default());
        let fits = Instant::now().checked_add(pause).is_some_and(|then| then < self.unith.deadline());
        if uncertain >= REGISTER_AGAIN || !fits {
            return Err(error.into());
        }
        tracing::warn!("{error}; looking what became of it");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    async fn next_step(&self, declared: &Declared, head_id: &str) -> Result<Option<(Step, Vec<Webhook>)>, RunError> {
        let listed = self.unith.webhooks(head_id).await?;
        let ring = self.ring.read().await?.of_head(head_id);
        let step = plan(declared, &listed, &ring, Timestamp::now()).into_iter().next();
        Ok(step.map(|step| (step, listed)))
    }

    async fn carry_out(
        &self,
        step: &Step,
        declared: &Declared,
        head_id: &str,
        listed: &[Webhook],
    ) -> Result<(), RunError> {
        let url = declared.webhook_url.as_str();
        let now = Timestamp::now();
        match step {
            Step::Register | Step::RegisterAnew => {
                let told = self.register_silently(head_id, declared).await?;
                let new = self.registered(head_id, url, listed, told).await?;
                self.store_key(head_id, &new.id, &new.key).await?;
            }
            Step::StoreKey { webhook_id } => {
                let known =
                    listed.iter().find(|webhook| webhook.id == *webhook_id).and_then(|webhook| webhook.key.as_ref());
                self.store_key(head_id, webhook_id, known.ok_or(RunError::NoKey)?).await?;
            }
            Step::SetSubscriptions { webhook_id, to, .. } => {
                self.let_settle(declared, head_id, webhook_id, listed).await?;
                self.unith.change(webhook_id, head_id, url, *to).await?;
            }
            Step::DeleteDouble { webhook_id } => {
                // Two runs at once may see different doubles: what is to stay must still be there.
                let still = self.unith.webhooks(head_id).await?;
                if ours(&still, url).len() > 1 {
                    self.unith.delete(webhook_id).await?;
                    self.retire(head_id, webhook_id).await?;
                }
            }
            Step::RetireKey { webhook_id } => {
                // The ring was read after the list: what looked gone may just have come.
                if self.unith.webhooks(head_id).await?.iter().all(|webhook| webhook.id != *webhook_id) {
                    self.retire(head_id, webhook_id).await?;
                }
            }
            // Every change drops what is over.
            Step::DropKey { .. } => self.ring.change(now, |_| ()).await?,
        }
        Ok(())
    }

    /// Registers the webhook subscribed to nothing: what it signs can be verified only when its key is in the ring. A
    /// platform that wants some subscription gets all of them, a moment earlier than is best.
    pub(crate) async fn register_silently(
        &self,
        head_id: &str,
        declared: &Declared,
    ) -> Result<Option<SharedKey>, UnithError> {
        let url = declared.webhook_url.as_str();
        match self.unith.register(head_id, url, Subscriptions::NONE).await {
            Err(error) if error.is_final_refusal() && !error.says_there_is_one() && !error.is_not_found() => {
                match self.unith.register(head_id, url, declared.subscriptions).await {
                    // The first refusal says more, unless the second one is about something else.
                    Err(second) if second.is_final_refusal() && !second.says_there_is_one() => Err(error),
                    registered => registered,
                }
            }
            registered => registered,
        }
    }

    /// The webhook that is there now and was not `before`, with its key: as the list, the webhook itself or the
    /// registration (`told`) showed it. Registering does not tell the id.
    ///
    /// A platform that renews what is registered instead of adding to it shows nothing new; then it is that one.
    pub(crate) async fn registered(
        &self,
        head_id: &str,
        url: &str,
        before: &[Webhook],
        told: Option<SharedKey>,
    ) -> Result<Registered, RunError> {
        let listed = self.unith.webhooks(head_id).await?;
        let ours = ours(&listed, url);
        let is_new = |webhook: &&&Webhook| before.iter().all(|known| known.id != webhook.id);
        let mut new = ours.iter().rev().filter(is_new);
        let (webhook, renewed) = match (new.next(), ours.as_slice()) {
            (Some(youngest), _) if youngest.key.is_none() && new.next().is_some() => return Err(RunError::Ambiguous),
            (Some(youngest), _) => (*youngest, false),
            (None, [only]) => (*only, true),
            (None, _) => return Err(RunError::WithoutEffect("register the webhook".to_owned())),
        };
        let shown = match &webhook.key {
            Some(key) => Some(key.clone()),
            None => self.unith.webhook(&webhook.id).await.ok().and_then(|webhook| webhook.key),
        };
        if let Some(key) = shown.or(told) {
            return Ok(Registered { id: webhook.id.clone(), key, renewed });
        }
        // Each further run would leave one more; one that was there before is not ours to take away here.
        if !renewed {
            self.unith.delete(&webhook.id).await?;
        }
        Err(RunError::NoKey)
    }

    /// Puts a webhook's key into the ring; done when it can be read there.
    pub(crate) async fn store_key(&self, head_id: &str, webhook_id: &str, key: &SharedKey) -> Result<(), RunError> {
        let now = Timestamp::now();
        let until = now.plus(self.pace.key_grace);
        Ok(self.ring.change(now, |ring| ring.put_active(head_id, webhook_id, key, now, until)).await?)
    }

    /// Waits, where another webhook of ours delivers, until every receiver can have this one's key: `apply` may find a
    /// rotation in its wait, or one that died. With nothing to protect, or no time, there is no wait.
    async fn let_settle(
        &self,
        declared: &Declared,
        head_id: &str,
        webhook_id: &str,
        listed: &[Webhook],
    ) -> Result<(), RunError> {
        let delivers = |webhook: &&Webhook| webhook.id != webhook_id && webhook.subscriptions != Subscriptions::NONE;
        if !ours(listed, declared.webhook_url.as_str()).into_iter().any(|webhook| delivers(&webhook)) {
            return Ok(());
        }
        let ring = self.ring.read().await?.of_head(head_id);
        let entry = ring.iter().find(|entry| entry.webhook_id.as_deref() == Some(webhook_id));
        let age = entry.and_then(|entry| Duration::try_from(Timestamp::now().since(entry.since?)).ok());
        let wait = self.pace.settle.saturating_sub(age.unwrap_or_default());
        if Instant::now() + wait < self.unith.deadline() {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// Lets a key go that is replaced now; it stays good for what is on its way.
    pub(crate) async fn retire(&self, head_id: &str, webhook_id: &str) -> Result<(), RunError> {
        let now = Timestamp::now();
        let until = now.plus(self.pace.key_grace);
        Ok(self.ring.change(now, |ring| ring.retire(head_id, webhook_id, until)).await?)
    }

    /// Switches a head's events on, if what they are signed with can be verified.
    pub async fn enable(&self, declared: &Declared, head_id: &str) -> HeadReport {
        let mut done = Vec::new();
        let result = async {
            let listed = self.unith.webhooks(head_id).await?;
            let ring = self.ring.read().await?.of_head(head_id);
            let is_blind = |step: &Step| registers(step) || matches!(step, Step::StoreKey { .. });
            if plan(declared, &listed, &ring, Timestamp::now()).iter().any(is_blind) {
                return Err(RunError::NotRegistered);
            }
            self.unith.enable_events(head_id, true).await?;
            done.push("switch the head's events on".to_owned());
            Ok(())
        };
        let result = result.await;
        HeadReport::new(head_id, done, &result)
    }

    /// Switches a head's events off; its registrations stay.
    pub async fn disable(&self, head_id: &str) -> HeadReport {
        let result = self.unith.enable_events(head_id, false).await.map_err(RunError::from);
        let done = result.is_ok().then(|| "switch the head's events off".to_owned());
        HeadReport::new(head_id, done.into_iter().collect(), &result)
    }

    /// Takes away what is ours on a head: switches its events off (unless somebody else listens), deletes our
    /// registrations, takes the keys out of the ring. What is gone already is a success.
    pub async fn remove(&self, url: &str, head_id: &str) -> HeadReport {
        let mut done = Vec::new();
        let mut result = self.take_away(url, head_id, &mut done).await;
        // UNITH does not let us in, or is not there, and we know of nothing of ours at it: this was never created, and a
        // creation that failed must not fail to be rolled back.
        if result.is_err() && self.knows_nothing_of(head_id).await {
            result = Ok(());
        }
        HeadReport::new(head_id, done, &result)
    }

    async fn take_away(&self, url: &str, head_id: &str, done: &mut Vec<String>) -> Result<(), RunError> {
        let listed = match self.unith.webhooks(head_id).await {
            Err(error) if error.is_not_found() => Vec::new(),
            listed => listed?,
        };
        let ours = ours(&listed, url);
        if ours.len() == listed.len() {
            match self.unith.enable_events(head_id, false).await {
                Err(error) if error.is_not_found() => {}
                result => result?,
            }
            // Whether they were on cannot be known; with nothing of ours there, they were none of ours.
            if !ours.is_empty() {
                done.push("switch the head's events off".to_owned());
            }
        }
        for webhook in ours {
            self.unith.delete(&webhook.id).await?;
            done.push(format!("delete webhook {}", webhook.id));
        }
        self.forget(head_id).await
    }

    /// Takes a head's keys out of the ring.
    pub async fn forget(&self, head_id: &str) -> Result<(), RunError> {
        Ok(self.ring.change_if_there(Timestamp::now(), |ring| ring.remove_head(head_id)).await?)
    }

    /// Deletes what is registered under a URL that is not ours any more; its keys stay good for what is on its way.
    pub async fn leave_url(&self, url: &str, head_id: &str) -> HeadReport {
        let mut done = Vec::new();
        let result = async {
            let listed = self.unith.webhooks(head_id).await?;
            for webhook in ours(&listed, url) {
                self.unith.delete(&webhook.id).await?;
                self.retire(head_id, &webhook.id).await?;
                done.push(format!("delete webhook {}, which has the old URL", webhook.id));
            }
            Ok(())
        };
        let result = result.await;
        HeadReport::new(head_id, done, &result)
    }

    async fn knows_nothing_of(&self, head_id: &str) -> bool {
        self.ring.read().await.is_ok_and(|ring| ring.of_head(head_id).is_empty())
    }
}

fn registers(step: &Step) -> bool {
    matches!(step, Step::Register | Step::RegisterAnew)
}
