//! The on-failure queue: records that can never be published.
//!
//! Lambda's event source mapping sends to the same queue what it gives up, in a format of its own.

use std::time::Duration;

use aws_sdk_sqs::Client;
use event_store::stream::ItemKey;
use lambda_support::{aws::SdkConfig, errors::causes};
use serde::Serialize;
use unith_events::ids::EventId;

use crate::ordered_queue::{sqs, without_noncharacters};

/// The queue.
#[derive(Debug)]
pub struct FailureQueue {
    client: Client,
    url: String,
}

/// The message of a poison record. It holds no body; the key finds the item.
#[derive(Debug, Serialize)]
pub struct Poison<'r> {
    #[serde(flatten)]
    pub key: &'r ItemKey,
    /// Unknown if the item is not an event.
    pub event_id: Option<&'r EventId>,
    pub reason: String,
}

impl FailureQueue {
    /// The queue at `url`.
    pub fn new(aws: &SdkConfig, url: String, attempt_timeout: Duration) -> Self {
        Self { client: sqs(aws, attempt_timeout), url }
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sends a message. An `Ok` is durable.
    ///
    /// # Errors
    /// The queue did not take it, with the reason.
    pub async fn send(&self, poison: &Poison<'_>) -> Result<(), String> {
        let message = without_noncharacters(serde_json::to_string(poison).unwrap_or_default());
        let send = self.client.send_message().queue_url(&self.url).message_body(message).send();
        Box::pin(send).await.map(drop).map_err(|error| causes(&error))
    }
}
