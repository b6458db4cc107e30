//! Rotation: a second registration with our URL, its key in the ring before anything is signed with it, then the first
//! one goes. In between both deliver; an event's identity makes the doubles harmless.
//!
//! The order per head, each step safe to die behind:
//! 1. register again, subscribed to nothing;
//! 2. put the new key into the ring, the old one retiring, in one write that is read back;
//! 3. wait until every receiver can have that ring;
//! 4. subscribe the new webhook;
//! 5. delete the old one.
//!
//! A run that died is resumed by the next: of two registrations with our URL the younger one is the new one. Where the
//! platform keeps one registration a head, the old one has to go first, and the gap is measured and told.

use std::{collections::BTreeMap, time::Instant};

use serde::Serialize;
use shared::{signature::SharedKey, timestamp::Timestamp};

use crate::{
    declared::{Declared, Subscriptions},
    plan::{is_in_ring, ours},
    run::{HeadReport, Run, RunError},
    unith::Webhook,
};

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

/// A rotation between its halves: the new key is in the ring, and nothing is signed with it yet.
struct Prepared {
    new_id: String,
    old_ids: Vec<String>,
    /// Since when nothing is delivered, where that is so.
    gap_since: Option<Instant>,
}

impl Run {
    /// Rotates the keys of all heads of the declared state. The wait in the middle is one for all of them.
    pub async fn rotate(&self, declared: &Declared) -> Vec<RotationReport> {
        let mut done: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut prepared = Vec::new();
        for head_id in &declared.head_ids {
            let told = done.entry(head_id).or_default();
            prepared.push((head_id.as_str(), self.prepare(declared, head_id, told).await));
        }
        // Where there is a gap already, waiting would only make it longer: nothing else can sign in it.
        if prepared.iter().any(|(_, prepared)| prepared.as_ref().is_ok_and(|p| p.gap_since.is_none())) {
            tokio::time::sleep(self.pace.settle).await;
        }
        let mut reports = Vec::new();
        for (head_id, prepared) in prepared {
            let mut done = done.remove(head_id).unwrap_or_default();
            let mut gap_ms = None;
            let result = match prepared {
                Ok(prepared) => {
                    let result = self.switch_over(declared, head_id, &prepared, &mut done).await;
                    gap_ms = prepared.gap_since.map(|since| since.elapsed().as_millis());
                    result
                }
                Err(error) => Err(error),
            };
            reports.push(RotationReport { head: HeadReport::new(head_id, done, &result), gap_ms });
        }
        reports
    }

    async fn prepare(&self, declared: &Declared, head_id: &str, done: &mut Vec<String>) -> Result<Prepared, RunError> {
        let url = declared.webhook_url.as_str();
        let listed = self.unith.webhooks(head_id).await?;
        let ours = ours(&listed, url);
        let (newest, older) = ours.split_last().ok_or(RunError::NotRegistered)?;
        let ring = self.ring.read().await?.of_head(head_id);
        let old_ids = |webhooks: &[&Webhook]| webhooks.iter().map(|webhook| webhook.id.clone()).collect::<Vec<_>>();

        // Two of ours: an earlier rotation did not come to its end.
        let resumable = newest.key.is_some() || is_in_ring(newest, &ring);
        if !older.is_empty() && resumable {
            done.push(format!("go on with webhook {}, which an earlier rotation registered", newest.id));
            let prepared = Prepared { new_id: newest.id.clone(), old_ids: old_ids(older), gap_since: None };
            self.announce(head_id, &prepared, newest.key.as_ref()).await?;
            return Ok(prepared);
        }
        let started = Instant::now();
        let registered = match self.unith.register(head_id, url, Subscriptions::NONE).await {
            // A platform that wants some subscription gets all of them, a moment earlier than is best.
            Err(error) if error.is_final_refusal() && !error.says_there_is_one() => {
                self.unith.register(head_id, url, declared.subscriptions).await.map_err(|_| error)
            }
            registered => registered,
        };
        let (key, gap_since) = match registered {
            Ok(key) => (key, None),
            // Only where UNITH says why: a refusal for any other reason must not cost the webhook that works.
            Err(error) if error.says_there_is_one() => {
                done.push(format!("one registration a head is all UNITH gives ({error}): the old one goes first"));
                let gap_since = Instant::now();
                for webhook in &ours {
                    self.unith.delete(&webhook.id).await?;
                    done.push(format!("delete webhook {}", webhook.id));
                }
                (self.unith.register(head_id, url, Subscriptions::NONE).await?, Some(gap_since))
            }
            Err(error) => return Err(error.into()),
        };
        let after = self.unith.webhooks(head_id).await?;
        // A platform that keeps one registration may also put the new one into the old one's place.
        let replaced = after.iter().filter(|webhook| ours.iter().any(|old| old.id == webhook.id)).count() < ours.len();
        let gap_since = gap_since.or_else(|| replaced.then_some(started));
        let new = match self.registered(head_id, url, &listed).await {
            Err(RunError::WithoutEffect(_)) if ours.len() == 1 => self.unith.webhook(&newest.id).await?,
            new => new?,
        };
        done.push(format!("register webhook {}", new.id));
        let old = if gap_since.is_some() { Vec::new() } else { old_ids(&ours) };
        let prepared = Prepared { new_id: new.id.clone(), old_ids: old, gap_since };
        self.announce(head_id, &prepared, Some(&new.key.or(key).ok_or(RunError::NoKey)?)).await?;
        let gone = ours.iter().filter(|webhook| gap_since.is_some() && webhook.id != new.id);
        for webhook in gone {
            let now = Timestamp::now();
            self.ring.change(now, |ring| ring.retire(head_id, &webhook.id, self.grace_end(now))).await?;
        }
        done.push(format!("put the key of webhook {} into the ring", new.id));
        Ok(prepared)
    }

    /// Puts the new key into the ring and lets the old ones go, in one write.
    async fn announce(&self, head_id: &str, prepared: &Prepared, key: Option<&SharedKey>) -> Result<(), RunError> {
        let now = Timestamp::now();
        // The old ones sign until they are deleted, which is after the wait.
        let settled = time::Duration::try_from(self.pace.settle).unwrap_or_default();
        let until = self.grace_end(now).plus(settled);
        let change = self.ring.change(now, |ring| {
            if let Some(key) = key {
                ring.put_active(head_id, &prepared.new_id, key, now);
            }
            for old in &prepared.old_ids {
                ring.retire(head_id, old, until);
            }
        });
        Ok(change.await?)
    }

    async fn switch_over(
        &self,
        declared: &Declared,
        head_id: &str,
        prepared: &Prepared,
        done: &mut Vec<String>,
    ) -> Result<(), RunError> {
        let url = declared.webhook_url.as_str();
        self.unith.change(&prepared.new_id, head_id, url, declared.subscriptions).await?;
        done.push(format!("subscribe webhook {} to {}", prepared.new_id, declared.subscriptions));
        for old in &prepared.old_ids {
            self.unith.delete(old).await?;
            done.push(format!("delete webhook {old}; its key stays good for a while"));
        }
        Ok(())
    }
}
