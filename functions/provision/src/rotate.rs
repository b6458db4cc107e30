//! Rotation: a second registration with our URL, its key in the ring before anything is signed with it, then the first
//! one goes. In between both deliver; an event's identity makes the doubles harmless.
//!
//! The order per head, each step safe to die behind:
//! 1. register again, subscribed to nothing;
//! 2. put the new key into the ring, beside the old one, and read it back;
//! 3. wait until every receiver can have that ring;
//! 4. subscribe the new webhook, and look whether its key is still the same;
//! 5. delete the old one; only then its key begins to go.
//!
//! A run that died is resumed by the next: of two registrations with our URL the younger one is the new one. Where the
//! platform keeps one registration a head, the old one has to go first, and the gap is measured and told.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Serialize;
use shared::timestamp::Timestamp;

use crate::{
    declared::Declared,
    plan::{is_in_ring, ours},
    run::{HeadReport, Run, RunError},
    unith::Webhook,
};

/// What is kept of a run's time for the calls around the wait.
const TIME_FOR_CALLS: Duration = Duration::from_secs(5);

/// How a head's rotation went.
#[derive(Debug, Serialize)]
pub struct RotationReport {
    /// What every report says.
    #[serde(flatten)]
    pub head: HeadReport,
    /// For how long nothing was delivered, where the platform keeps one registration a head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap_ms: Option<u128>,
}

/// A rotation before its wait.
enum Prepared {
    /// The new webhook's key is in the ring, and nothing is signed with it yet.
    Waiting { new_id: String, old_ids: Vec<String> },
    /// There was no way but with a gap, and all is done.
    Done { gap: Duration },
}

impl Run {
    /// Rotates the keys of all heads of the declared state. The wait in the middle is one for all of them.
    pub async fn rotate(&self, declared: &Declared) -> Vec<RotationReport> {
        let mut done: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut prepared = Vec::new();
        // What comes before the wait must leave time for the wait, and for what comes behind it.
        let needs = self.needs();
        let until = self.unith.deadline().checked_sub(needs).unwrap_or_else(tokio::time::Instant::now);
        let before_wait = Self { unith: self.unith.until(until), ..self.clone() };
        for (index, head_id) in declared.head_ids.iter().enumerate() {
            let told = done.entry(head_id).or_default();
            let result = if tokio::time::Instant::now() < until {
                before_wait.share(declared.head_ids.len() - index).prepare(self, declared, head_id, told).await
            } else {
                Err(RunError::TooLittleTime { needs_s: needs.as_secs() })
            };
            prepared.push((head_id.as_str(), result));
        }
        if prepared.iter().any(|(_, prepared)| matches!(prepared, Ok(Prepared::Waiting { .. }))) {
            tokio::time::sleep(self.pace.settle).await;
        }
        let mut reports = Vec::new();
        let heads = prepared.len();
        for (index, (head_id, prepared)) in prepared.into_iter().enumerate() {
            let mut done = done.remove(head_id).unwrap_or_default();
            let (result, gap) = match prepared {
                Ok(Prepared::Waiting { new_id, old_ids }) => {
                    let run = self.share(heads - index);
                    (run.switch_over(declared, head_id, &new_id, &old_ids, &mut done).await, None)
                }
                Ok(Prepared::Done { gap }) => (Ok(()), Some(gap)),
                Err(error) => (Err(error), None),
            };
            let gap_ms = gap.map(|gap| gap.as_millis());
            reports.push(RotationReport { head: HeadReport::new(head_id, done, &result), gap_ms });
        }
        reports
    }

    /// What the wait and the calls behind it take.
    fn needs(&self) -> Duration {
        self.pace.settle + TIME_FOR_CALLS.min(self.pace.settle)
    }

    /// All up to the wait, on this head's share of the time; a gap, once it is there, may use what `whole` has.
    async fn prepare(
        &self,
        whole: &Self,
        declared: &Declared,
        head_id: &str,
        done: &mut Vec<String>,
    ) -> Result<Prepared, RunError> {
        let url = declared.webhook_url.as_str();
        let listed = self.unith.webhooks(head_id).await?;
        let ours = ours(&listed, url);
        let ring = self.ring.read().await?.of_head(head_id);
        let Some((newest, older)) = ours.split_last() else {
            // With its keys in the ring, the webhook was there: an earlier rotation took it away and died in its gap.
            return if ring.is_empty() {
                Err(RunError::NotRegistered)
            } else {
                whole.with_gap(declared, head_id, &[], done).await
            };
        };
        let now = Timestamp::now();
        // Two of ours: an earlier rotation did not come to its end.
        if !older.is_empty() && (newest.key.is_some() || is_in_ring(newest, &ring, now)) {
            done.push(format!("go on with webhook {}, which an earlier rotation registered", newest.id));
            if let Some(key) = &newest.key {
                self.store_key(head_id, &newest.id, key).await?;
            }
            let old_ids = older.iter().map(|webhook| webhook.id.clone()).collect();
            return Ok(Prepared::Waiting { new_id: newest.id.clone(), old_ids });
        }
        let told = match self.register_silently(head_id, declared).await {
            // Only where UNITH says why: a refusal for any other reason must not cost the webhook that works.
            Err(error) if error.says_there_is_one() => {
                done.push(format!("one registration a head is all UNITH gives ({error}): the old one goes first"));
                return whole.with_gap(declared, head_id, &ours, done).await;
            }
            told => told?,
        };
        let after = self.unith.webhooks(head_id).await?;
        let is_there = |old: &&&Webhook| after.iter().any(|webhook| webhook.id == old.id);
        if ours.iter().filter(is_there).count() < ours.len() {
            done.push("one registration a head is all UNITH gives: the new one took the old one's place".to_owned());
            return whole.with_gap(declared, head_id, &[], done).await;
        }
        let new = self.registered(head_id, url, &listed, told).await?;
        self.store_key(head_id, &new.id, &new.key).await?;
        if new.renewed {
            done.push(format!(
                "one registration a head is all UNITH gives: webhook {} was renewed in its place",
                new.id
            ));
            return whole.with_gap(declared, head_id, &[], done).await;
        }
        done.push(format!("register webhook {}", new.id));
        done.push(format!("put the key of webhook {} into the ring", new.id));
        Ok(Prepared::Waiting { new_id: new.id, old_ids: ours.iter().map(|webhook| webhook.id.clone()).collect() })
    }

    /// The next best: what is registered goes, and the declared state is brought about anew.
    async fn with_gap(
        &self,
        declared: &Declared,
        head_id: &str,
        olds: &[&Webhook],
        done: &mut Vec<String>,
    ) -> Result<Prepared, RunError> {
        let left = self.unith.deadline().saturating_duration_since(tokio::time::Instant::now());
        if !olds.is_empty() && left < TIME_FOR_CALLS {
            return Err(RunError::TooLittleTime { needs_s: TIME_FOR_CALLS.as_secs() });
        }
        let started = Instant::now();
        for old in olds {
            self.unith.delete(&old.id).await?;
            done.push(format!("delete webhook {}", old.id));
        }
        let mut steps = Vec::new();
        let result = self.register_as_declared(declared, head_id, &mut steps).await;
        done.extend(steps.iter().map(ToString::to_string));
        result?;
        Ok(Prepared::Done { gap: started.elapsed() })
    }

    async fn switch_over(
        &self,
        declared: &Declared,
        head_id: &str,
        new_id: &str,
        old_ids: &[String],
        done: &mut Vec<String>,
    ) -> Result<(), RunError> {
        let url = declared.webhook_url.as_str();
        self.unith.change(new_id, head_id, url, declared.subscriptions).await?;
        // Nobody says that a change leaves the key alone, or that it is one.
        let changed = self.unith.webhook(new_id).await?;
        if changed.subscriptions != declared.subscriptions {
            return Err(RunError::WithoutEffect(format!("subscribe webhook {} to {}", new_id, declared.subscriptions)));
        }
        let ring = self.ring.read().await?.of_head(head_id);
        if let Some(key) = changed.key.as_ref().filter(|_| !is_in_ring(&changed, &ring, Timestamp::now())) {
            self.store_key(head_id, new_id, key).await?;
            tokio::time::sleep(self.pace.settle).await;
        }
        done.push(format!("subscribe webhook {} to {}", new_id, declared.subscriptions));
        for old in old_ids {
            self.unith.delete(old).await?;
            self.retire(head_id, old).await?;
            done.push(format!("delete webhook {old}; its key stays good for a while"));
        }
        self.retire_orphans(head_id).await
    }

    /// Lets the keys go of webhooks that are gone: an earlier rotation may have died right behind its last deletion.
    async fn retire_orphans(&self, head_id: &str) -> Result<(), RunError> {
        // In this order: a webhook whose key came into the ring before is in the list behind.
        let entries = self.ring.read().await?.of_head(head_id);
        let listed = self.unith.webhooks(head_id).await?;
        for entry in entries {
            let Some(webhook_id) = entry.webhook_id.filter(|id| listed.iter().all(|webhook| webhook.id != *id)) else {
                continue;
            };
            self.retire(head_id, &webhook_id).await?;
        }
        Ok(())
    }
}
