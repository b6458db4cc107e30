//! One run: the clients it works with, and what it brings about head by head.
//!
//! `apply` goes by looking, not by remembering: it makes a plan, carries out the first step, looks again, and is done
//! when nothing differs. A run that died anywhere is completed by the next one, whatever had been done.

use std::time::Duration;

use serde::Serialize;
use shared::timestamp::Timestamp;

use crate::{
    declared::Declared,
    plan::{Step, ours, plan},
    ring::{RingError, RingStore},
    unith::{Unith, UnithError, Webhook},
};

/// No head needs more steps than this; one that does is not getting anywhere.
const MAX_STEPS: usize = 20;
/// How often registering is begun anew when nobody knows what became of it.
const REGISTER_AGAIN: usize = 3;
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
    /// There is nothing that could be rotated.
    #[error("the webhook is not registered: run `apply` first")]
    NotRegistered,
    /// The steps do not end.
    #[error("not done after {MAX_STEPS} steps: is somebody else changing the same webhooks?")]
    TooManySteps,
}

impl RunError {
    /// Whether UNITH does not let us in.
    #[must_use]
    pub fn is_unauthorised(&self) -> bool {
        matches!(self, Self::Unith(error) if error.is_unauthorised())
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
        let done = done.iter().map(ToString::to_string).collect();
        HeadReport::new(head_id, done, &result)
    }

    async fn converge(&self, declared: &Declared, head_id: &str, done: &mut Vec<Step>) -> Result<(), RunError> {
        let mut uncertain = 0;
        while let Some((step, listed)) = self.next_step(declared, head_id).await? {
            if done.contains(&step) {
                return Err(RunError::WithoutEffect(step.to_string()));
            }
            if done.len() >= MAX_STEPS {
                return Err(RunError::TooManySteps);
            }
            match self.carry_out(&step, declared, head_id, &listed).await {
                Ok(()) => done.push(step),
                // It may be registered all the same: look, and take what is there.
                Err(RunError::Unith(error)) if is_uncertain(&step, &error) && uncertain < REGISTER_AGAIN => {
                    tracing::warn!("{error}; looking what became of it");
                    uncertain += 1;
                    tokio::time::sleep(REGISTER_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
        // Last, when the key can be read: no event is to come that cannot be verified.
        Ok(self.unith.enable_events(head_id, declared.enable_events).await?)
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
                let key = self.unith.register(head_id, url, declared.subscriptions).await?;
                let new = self.registered(head_id, url, listed).await?;
                let key = new.key.or(key).ok_or(RunError::NoKey)?;
                self.ring.change(now, |ring| ring.put_active(head_id, &new.id, &key, now)).await?;
            }
            Step::StoreKey { webhook_id } => {
                let known =
                    listed.iter().find(|webhook| webhook.id == *webhook_id).and_then(|webhook| webhook.key.as_ref());
                let key = known.ok_or(RunError::NoKey)?;
                self.ring.change(now, |ring| ring.put_active(head_id, webhook_id, key, now)).await?;
            }
            Step::SetSubscriptions { webhook_id, to, .. } => {
                self.unith.change(webhook_id, head_id, url, *to).await?;
            }
            Step::DeleteDouble { webhook_id } => {
                self.unith.delete(webhook_id).await?;
                self.ring.change(now, |ring| ring.retire(head_id, webhook_id, self.grace_end(now))).await?;
            }
            Step::RetireKey { webhook_id } => {
                self.ring.change(now, |ring| ring.retire(head_id, webhook_id, self.grace_end(now))).await?;
            }
            // Every change drops what is over.
            Step::DropKey { .. } => self.ring.change(now, |_| ()).await?,
        }
        Ok(())
    }

    /// The webhook that is there now and was not `before`: registering does not tell its id.
    pub(crate) async fn registered(&self, head_id: &str, url: &str, before: &[Webhook]) -> Result<Webhook, RunError> {
        let listed = self.unith.webhooks(head_id).await?;
        let is_new = |webhook: &&&Webhook| before.iter().all(|known| known.id != webhook.id);
        let new = ours(&listed, url).iter().rfind(is_new).map(|webhook| (*webhook).clone());
        let new = new.ok_or_else(|| RunError::WithoutEffect("register the webhook".to_owned()))?;
        if new.key.is_some() {
            return Ok(new);
        }
        // Lists may mask what the webhook itself shows.
        Ok(self.unith.webhook(&new.id).await.unwrap_or(new))
    }

    /// Until when a key that is replaced now stays good.
    pub(crate) fn grace_end(&self, now: Timestamp) -> Timestamp {
        now.plus(self.pace.key_grace)
    }

    /// Takes away what is ours on a head: switches its events off (unless somebody else listens), deletes our
    /// registrations, takes the keys out of the ring. What is gone already is a success.
    pub async fn remove(&self, url: &str, head_id: &str) -> HeadReport {
        let mut done = Vec::new();
        let mut result = self.take_away(url, head_id, &mut done).await;
        // UNITH does not let us in, and we know of nothing of ours there: this was never created.
        if result.as_ref().is_err_and(RunError::is_unauthorised) && self.knows_nothing_of(head_id).await {
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
        if !ours.is_empty() && ours.len() == listed.len() {
            match self.unith.enable_events(head_id, false).await {
                Err(error) if error.is_not_found() => {}
                result => result?,
            }
            done.push("switch the head's events off".to_owned());
        }
        for webhook in ours {
            self.unith.delete(&webhook.id).await?;
            done.push(format!("delete webhook {}", webhook.id));
        }
        self.forget(head_id).await
    }

    /// Takes a head's keys out of the ring.
    pub async fn forget(&self, head_id: &str) -> Result<(), RunError> {
        Ok(self.ring.change(Timestamp::now(), |ring| ring.remove_head(head_id)).await?)
    }

    /// Deletes what is registered under a URL that is not ours any more; its keys stay good for what is on its way.
    pub async fn leave_url(&self, url: &str, head_id: &str) -> HeadReport {
        let mut done = Vec::new();
        let result = async {
            let listed = self.unith.webhooks(head_id).await?;
            for webhook in ours(&listed, url) {
                self.unith.delete(&webhook.id).await?;
                let now = Timestamp::now();
                self.ring.change(now, |ring| ring.retire(head_id, &webhook.id, self.grace_end(now))).await?;
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

/// Whether a failed registration may have been carried out.
fn is_uncertain(step: &Step, error: &UnithError) -> bool {
    let registers = matches!(step, Step::Register | Step::RegisterAnew);
    registers && !error.is_final_refusal() && !error.is_unauthorised() && !matches!(error, UnithError::OutOfTime { .. })
}
