//! The journal of when each webhook became live and stopped being live.

use std::time::Instant;

use super::webhook::Webhook;

/// A webhook became live or stopped being live.
///
/// A webhook is live while its head's events are on, it was registered while they were on, and it is subscribed to at
/// least one type. If the head, URL or key of a live webhook changes, it stops being live and becomes live again.
#[derive(Debug, Clone)]
pub struct Change {
    pub at: Instant,
    /// The webhook: as it is now if it became live, as it was before otherwise.
    pub webhook: Webhook,
    /// Whether it became live.
    pub live: bool,
}

/// The changes so far, and the webhooks that are live after them.
#[derive(Debug, Default)]
pub(super) struct Journal {
    changes: Vec<Change>,
    live: Vec<Webhook>,
}

impl Journal {
    pub(super) fn changes(&self) -> &[Change] {
        &self.changes
    }

    pub(super) fn record(&mut self, live: Vec<Webhook>) {
        let at = Instant::now();
        let ended = self.live.iter().filter(|webhook| !contains(&live, webhook)).map(|webhook| (webhook, false));
        let begun = live.iter().filter(|webhook| !contains(&self.live, webhook)).map(|webhook| (webhook, true));
        let changes = ended.chain(begun).map(|(webhook, live)| Change { at, webhook: webhook.clone(), live });
        self.changes.extend(changes.collect::<Vec<_>>());
        self.live = live;
    }
}

/// Whether one of `webhooks` makes the same deliveries as `webhook`.
fn contains(webhooks: &[Webhook], webhook: &Webhook) -> bool {
    webhooks.iter().any(|other| deliveries(other) == deliveries(webhook))
}

fn deliveries(webhook: &Webhook) -> (u64, &str, &str, &str) {
    (webhook.id, &webhook.head_id, &webhook.webhook_url, &webhook.shared_key)
}
