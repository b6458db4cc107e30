//! What `status` shows: per head what is registered, what differs from the declared state, and the keys in the ring, by
//! fingerprint.

use serde::Serialize;
use shared::{key_ring::RingKey, timestamp::Timestamp};

use crate::{
    declared::Declared,
    plan::{Step, ours, plan},
    run::{Run, RunError},
    unith::Webhook,
};

/// A head as it is.
#[derive(Debug, Serialize)]
pub struct HeadStatus {
    /// The head.
    pub head_id: String,
    /// Whether it could be looked at, and nothing differs.
    pub ok: bool,
    /// Our registrations.
    pub webhooks: Vec<WebhookStatus>,
    /// How many others there are.
    pub other_webhooks: usize,
    /// What `apply` would do.
    pub drift: Vec<Step>,
    /// Its keys in the ring.
    pub keys: Vec<KeyStatus>,
    /// Why it could not be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A registration of ours.
#[derive(Debug, Serialize)]
pub struct WebhookStatus {
    id: String,
    url: String,
    subscriptions: String,
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
}

impl Run {
    /// Looks at a head; changes nothing.
    pub async fn status(&self, declared: &Declared, head_id: &str) -> HeadStatus {
        match self.look(declared, head_id).await {
            Ok(status) => status,
            Err(error) => HeadStatus {
                head_id: head_id.to_owned(),
                ok: false,
                webhooks: Vec::new(),
                other_webhooks: 0,
                drift: Vec::new(),
                keys: Vec::new(),
                error: Some(error.to_string()),
            },
        }
    }

    async fn look(&self, declared: &Declared, head_id: &str) -> Result<HeadStatus, RunError> {
        let now = Timestamp::now();
        let listed = self.unith.webhooks(head_id).await?;
        let ring = self.ring.read().await?.of_head(head_id);
        let ours = ours(&listed, declared.webhook_url.as_str());
        let drift = plan(declared, &listed, &ring, now);
        Ok(HeadStatus {
            head_id: head_id.to_owned(),
            ok: drift.iter().all(Step::is_housekeeping),
            other_webhooks: listed.len() - ours.len(),
            webhooks: ours.into_iter().map(webhook_status).collect(),
            drift,
            keys: ring.iter().map(|entry| key_status(entry, now)).collect(),
            error: None,
        })
    }
}

fn webhook_status(webhook: &Webhook) -> WebhookStatus {
    WebhookStatus {
        id: webhook.id.clone(),
        url: webhook.url.clone(),
        subscriptions: webhook.subscriptions.to_string(),
        created_at: webhook.created_at.clone(),
        key_fingerprint: webhook.key.as_ref().map(shared::signature::SharedKey::fingerprint),
    }
}

fn key_status(entry: &RingKey, now: Timestamp) -> KeyStatus {
    KeyStatus {
        fingerprint: entry.key.fingerprint(),
        state: entry.state.as_str(),
        webhook_id: entry.webhook_id.clone(),
        since: entry.since.map(|since| since.to_string()),
        age_days: entry.since.map(|since| now.since(since).whole_days()),
        until: entry.until.map(|until| until.to_string()),
    }
}
