//! What `status` and `plan` show: per head what is registered, whether its events are on, what differs from the declared
//! state, and the keys in the ring, by fingerprint.

use serde::Serialize;
use unith_events::{key_ring::RingKey, signature::SharedKey, timestamp::Timestamp};

use crate::{
    declared::Declared,
    plan::{Step, ours},
    ring::Document,
    run::{HeadReport, Run, RunError, each},
    unith::Webhook,
};

/// A head as it is.
#[derive(Debug, Serialize)]
pub struct HeadStatus {
    /// The head.
    pub head_id: String,
    /// Whether it could be looked at, and nothing differs.
    pub ok: bool,
    /// Whether its events are on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_on: Option<bool>,
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
    /// Whether the ring says that it was registered while the head's events were on: another one never delivers.
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

impl Run {
    /// Looks at heads; changes nothing.
    pub async fn status(&self, declared: &Declared, heads: &[String]) -> Vec<HeadStatus> {
        let ring = self.ring.read().await;
        if let Ok(ring) = &ring {
            ring.keys().for_each(|key| self.unith.keep_secret(key.key.expose()));
        }
        let ring = &ring;
        let work = heads.iter().map(|head_id| {
            Box::pin(async move {
                let status = match ring {
                    Ok(ring) => self.status_of(declared, head_id, ring).await,
                    Err(error) => Err(error.clone().into()),
                };
                status.unwrap_or_else(|error| unknown(head_id, error))
            }) as _
        });
        each(work).await
    }

    async fn status_of(&self, declared: &Declared, head_id: &str, ring: &Document) -> Result<HeadStatus, RunError> {
        let now = Timestamp::now();
        let look = self.look(head_id).await?;
        let entries = ring.of_head(head_id);
        let drift = self.plan(declared, &look, &entries).steps(declared);
        let ours = ours(&look.listed, &declared.webhook_url);
        Ok(HeadStatus {
            head_id: head_id.to_owned(),
            ok: drift.iter().all(Step::is_housekeeping),
            events_on: Some(look.events_on),
            other_webhooks: look.listed.len() - ours.len(),
            webhooks: ours.iter().map(|webhook| webhook_status(webhook, &entries)).collect(),
            drift,
            keys: entries.iter().map(|entry| key_status(entry, now)).collect(),
            error: None,
            is_refused: false,
        })
    }
}

fn unknown(head_id: &str, error: RunError) -> HeadStatus {
    let report = HeadReport::new(head_id, Vec::new(), &Err(error));
    HeadStatus {
        head_id: report.head_id,
        ok: false,
        events_on: None,
        webhooks: Vec::new(),
        other_webhooks: 0,
        drift: Vec::new(),
        keys: Vec::new(),
        error: report.error,
        is_refused: report.is_refused,
    }
}

fn webhook_status(webhook: &Webhook, entries: &[RingKey]) -> WebhookStatus {
    let mut own = entries.iter().filter(|entry| entry.webhook_id.as_ref() == Some(&webhook.id));
    WebhookStatus {
        id: webhook.id.to_string(),
        url: webhook.url.clone(),
        subscriptions: webhook.subscriptions.to_string(),
        made_while_on: own.any(|entry| entry.made_while_on),
        created_at: webhook.created_at.map(|at| at.to_string()),
        key_fingerprint: webhook.key.as_ref().map(SharedKey::fingerprint),
    }
}

fn key_status(entry: &RingKey, now: Timestamp) -> KeyStatus {
    KeyStatus {
        fingerprint: entry.key.fingerprint(),
        state: entry.state.as_str(),
        webhook_id: entry.webhook_id.as_ref().map(ToString::to_string),
        since: entry.since.map(|since| since.to_string()),
        age_days: entry.since.map(|since| now.since(since).whole_days()),
        until: entry.until.map(|until| until.to_string()),
        owner: entry.owner.clone(),
    }
}
