//! A registered webhook.

use std::time::Instant;

use unith_events::{event_type::EventTypes, timestamp::Timestamp};

/// A registered webhook.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub id: u64,
    /// The head whose events it gets.
    pub head_id: String,
    /// The URL that its events are posted to.
    pub webhook_url: String,
    /// The key that signs its deliveries.
    pub shared_key: String,
    /// The event types it gets.
    pub subscriptions: EventTypes,
    /// Whether the head's events were on when it was registered.
    ///
    /// If they were off, it never delivers, whatever is changed later. The API does not show this.
    pub made_while_on: bool,
    pub(super) made_at: Instant,
    pub(super) created_at: Timestamp,
    pub(super) updated_at: Timestamp,
}
