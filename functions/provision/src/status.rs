//! `status` and `plan`: heads as they are, compared with the declared state.

use serde::Serialize;
use unith_events::{
    ids::HeadId,
    key_ring::{RingKey, document::RingDocument},
    signature::SharedKey,
    timestamp::Timestamp,
};

use crate::{
    concurrent::for_each,
    confirmed::look,
    declared::Declared,
    plan::ours,
    reconciler::Reconciler,
    report::{HeadError, explained},
    step::Step,
    unith::webhook::Webhook,
};

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

/// A head as it is.
#[derive(Debug, Serialize)]
pub struct HeadStatus {
    pub head_id: HeadId,
    /// Whether the head could be read and has no drift.
    pub ok: bool,
    #[serde(flatten)]
    details: Details,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Whether UNITH refuses the head.
    #[serde(skip)]
    pub is_refused: bool,
}

#[derive(Debug, Default, Serialize)]
struct Details {
    #[serde(skip_serializing_if = "Option::is_none")]
    events_on: Option<bool>,
    /// Our registrations.
    webhooks: Vec<WebhookStatus>,
    /// How many webhooks of others there are.
    other_webhooks: usize,
    /// The steps that `apply` would take.
    drift: Vec<Step>,
    /// The head's keys in the ring.
    keys: Vec<KeyStatus>,
}

/// A registration of ours.
#[derive(Debug, Serialize)]
struct WebhookStatus {
    id: String,
    url: String,
    subscriptions: String,
    /// Whether the ring says so.
    made_while_on: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_fingerprint: Option<String>,
}

/// A key in the ring.
#[derive(Debug, Serialize)]
struct KeyStatus {
    fingerprint: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_days: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
}

/// The plan of a head. A plan with steps is a success.
#[derive(Debug, Serialize)]
pub struct HeadPlan {
    pub head_id: HeadId,
    pub ok: bool,
    #[serde(flatten)]
    result: PlanResult,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum PlanResult {
    Planned { events_on: Option<bool>, steps: Vec<Step> },
    Failed { error: String },
}

impl HeadPlan {
    /// The plan in a status. With `is_all`, a head that UNITH refuses is not a failure.
    pub fn new(status: HeadStatus, is_all: bool) -> Self {
        let HeadStatus { head_id, details: Details { events_on, drift: steps, .. }, error, is_refused, .. } = status;
        match error {
            None => Self { head_id, ok: true, result: PlanResult::Planned { events_on, steps } },
            Some(error) => Self { head_id, ok: is_all && is_refused, result: PlanResult::Failed { error } },
        }
    }
}

impl Reconciler {
    /// Looks at heads; changes nothing.
    pub async fn status(&self, declared: &Declared, heads: &[HeadId]) -> Vec<HeadStatus> {
        let ring = &self.ring.read().await;
        if let Ok(ring) = ring {
            self.keep_secret(ring);
        }
        for_each(heads, |head_id| {
            Box::pin(async move {
                let details = match ring {
                    Ok(ring) => self.read_head(declared, head_id, ring).await,
                    Err(error) => Err(error.clone().into()),
                };
                HeadStatus::new(head_id.clone(), details)
            })
        })
        .await
    }

    async fn read_head(
        &self,
        declared: &Declared,
        head_id: &HeadId,
        ring: &RingDocument,
    ) -> Result<Details, HeadError> {
        let now = Timestamp::now();
        let look = look(&self.unith, head_id).await?;
        let entries = ring.of_head(head_id);
        let ours = ours(&look.listed, &declared.webhook_url);
        Ok(Details {
            events_on: Some(look.events_on),
            other_webhooks: look.listed.len() - ours.len(),
            webhooks: ours.iter().map(|webhook| WebhookStatus::new(webhook, &entries)).collect(),
            drift: self.plan(declared, &look, &entries).steps(declared),
            keys: entries.iter().map(|entry| KeyStatus::new(entry, now)).collect(),
        })
    }
}

impl HeadStatus {
    fn new(head_id: HeadId, details: Result<Details, HeadError>) -> Self {
        let is_refused = details.as_ref().is_err_and(HeadError::is_refusal);
        let error = details.as_ref().err().map(|error| explained(&head_id, error));
        let ok = details.as_ref().is_ok_and(|details| details.drift.iter().all(Step::is_housekeeping));
        Self { head_id, ok, details: details.unwrap_or_default(), error, is_refused }
    }
}

impl WebhookStatus {
    fn new(webhook: &Webhook, entries: &[RingKey]) -> Self {
        Self {
            id: webhook.id.to_string(),
            url: webhook.url.clone(),
            subscriptions: webhook.subscriptions.to_string(),
            made_while_on: entries.iter().any(|entry| entry.is_of_webhook(&webhook.id) && entry.made_while_on),
            created_at: webhook.created_at.map(|at| at.to_string()),
            key_fingerprint: webhook.key.as_ref().map(SharedKey::fingerprint),
        }
    }
}

impl KeyStatus {
    fn new(entry: &RingKey, now: Timestamp) -> Self {
        Self {
            fingerprint: entry.key.fingerprint(),
            state: entry.state.as_str(),
            webhook_id: entry.webhook_id.as_ref().map(ToString::to_string),
            since: entry.since.map(|since| since.to_string()),
            age_days: entry.since.map(|since| now.since(since).as_secs() / SECONDS_PER_DAY),
            until: entry.until.map(|until| until.to_string()),
            owner: entry.owner.clone(),
        }
    }
}
