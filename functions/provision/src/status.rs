//! `status` and `plan`: heads as they are, compared with the declared state.

use serde::Serialize;
use unith_events::{
    ids::HeadId,
    key_ring::{RingKey, document::KeyRingDocument},
    signature::SharedKey,
    timestamp::Timestamp,
};

use crate::{
    concurrent::for_each, confirmed::look, declared::Declared, head_error::HeadError, plan::ours,
    reconciler::Reconciler, report::explained, step::Step, unith::webhook::Webhook,
};

/// A head as it is.
#[derive(Debug, Serialize)]
pub struct HeadStatus {
    pub head_id: HeadId,
    /// Whether the head could be read and has no drift.
    pub ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_on: Option<bool>,
    /// Our registrations.
    pub webhooks: Vec<WebhookStatus>,
    /// How many webhooks of others there are.
    pub other_webhooks: usize,
    /// The steps that `apply` would take.
    pub drift: Vec<Step>,
    /// Its keys in the ring.
    pub keys: Vec<KeyStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether UNITH refuses the head.
    #[serde(skip)]
    pub is_refused: bool,
}

/// A registration of ours.
#[derive(Debug, Serialize)]
pub struct WebhookStatus {
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
pub struct KeyStatus {
    fingerprint: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_days: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
}

/// The steps that `apply` would take for a head. A plan with steps is a success.
#[derive(Debug, Serialize)]
pub struct HeadPlan {
    pub head_id: HeadId,
    pub ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    events_on: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<Vec<Step>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl HeadPlan {
    /// The plan in a status. With `is_all`, a head that UNITH refuses is not a failure.
    #[must_use]
    pub fn new(status: HeadStatus, is_all: bool) -> Self {
        let is_known = status.error.is_none();
        Self {
            head_id: status.head_id,
            ok: is_known || (is_all && status.is_refused),
            events_on: status.events_on,
            steps: is_known.then_some(status.drift),
            error: status.error,
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
                let status = match ring {
                    Ok(ring) => self.status_of(declared, head_id, ring).await,
                    Err(error) => Err(error.clone().into()),
                };
                status.unwrap_or_else(|error| HeadStatus {
                    error: Some(explained(head_id, &error)),
                    is_refused: error.is_refusal(),
                    ..HeadStatus::unknown(head_id)
                })
            })
        })
        .await
    }

    async fn status_of(
        &self,
        declared: &Declared,
        head_id: &HeadId,
        ring: &KeyRingDocument,
    ) -> Result<HeadStatus, HeadError> {
        let now = Timestamp::now();
        let look = look(&self.unith, head_id).await?;
        let entries = ring.of_head(head_id);
        let drift = self.plan(declared, &look, &entries).steps(declared);
        let ours = ours(&look.listed, &declared.webhook_url);
        Ok(HeadStatus {
            ok: drift.iter().all(Step::is_housekeeping),
            events_on: Some(look.events_on),
            other_webhooks: look.listed.len() - ours.len(),
            webhooks: ours.iter().map(|webhook| WebhookStatus::new(webhook, &entries)).collect(),
            drift,
            keys: entries.iter().map(|entry| KeyStatus::new(entry, now)).collect(),
            ..HeadStatus::unknown(head_id)
        })
    }
}

impl HeadStatus {
    fn unknown(head_id: &HeadId) -> Self {
        Self {
            head_id: head_id.clone(),
            ok: false,
            events_on: None,
            webhooks: Vec::new(),
            other_webhooks: 0,
            drift: Vec::new(),
            keys: Vec::new(),
            error: None,
            is_refused: false,
        }
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
            age_days: entry.since.map(|since| now.since(since).whole_days()),
            until: entry.until.map(|until| until.to_string()),
            owner: entry.owner.clone(),
        }
    }
}
