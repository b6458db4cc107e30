//! The spill queue: where a delivery waits while the table is unavailable.

use lambda_support::aws::SdkConfig;
use unith_events::spill::SpillMessage;

use crate::queue::Queue;

/// A queue in SQS. Its client is made when it is first needed.
#[derive(Debug)]
pub struct SpillQueue(Queue);

/// The queue did not take a message.
#[derive(Debug, thiserror::Error)]
#[error("queue `{url}` did not take the message: {cause}")]
pub struct SpillError {
    url: String,
    cause: String,
}

impl SpillQueue {
    /// The queue at `url`.
    pub fn new(aws: SdkConfig, url: String) -> Self {
        Self(Queue::new(aws, url))
    }

    /// Sends a message. An `Ok` is durable.
    ///
    /// # Errors
    /// The queue did not take it.
    pub async fn send(&self, message: &SpillMessage) -> Result<(), SpillError> {
        let sent = self.0.send(message.to_json()).await;
        sent.map_err(|cause| SpillError { url: self.0.url().to_owned(), cause })
    }

    /// Makes the client and opens its connection. A failure is left to the first message.
    pub async fn warm_up(&self) {
        self.0.warm_up().await;
    }
}
