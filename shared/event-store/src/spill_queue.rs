//! The spill queue: where a delivery waits while the table is unavailable.

use std::{fmt, sync::OnceLock};

use aws_sdk_sqs::Client;
use lambda_support::{
    aws::{self, SdkConfig},
    errors::causes,
};
use unith_events::spill::SpillMessage;

/// A queue in SQS. Its client is made when it is first needed.
pub struct SpillQueue {
    url: String,
    aws: SdkConfig,
    client: OnceLock<Client>,
}

impl fmt::Debug for SpillQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpillQueue").field("url", &self.url).finish_non_exhaustive()
    }
}

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
        Self { url, aws, client: OnceLock::new() }
    }

    /// Sends a message. An `Ok` is durable.
    ///
    /// # Errors
    /// The queue did not take it.
    pub async fn send(&self, message: &SpillMessage) -> Result<(), SpillError> {
        let send = self.client().send_message().queue_url(&self.url).message_body(message.to_json()).send();
        match Box::pin(send).await {
            Ok(_) => Ok(()),
            Err(error) => Err(SpillError { url: self.url.clone(), cause: causes(&error) }),
        }
    }

    /// Makes the client and opens its connection. A failure is left to the first message.
    pub async fn warm_up(&self) {
        // Boxed, so that the futures of a healthy start do not contain the SDK's large one.
        let _ = Box::pin(self.client().get_queue_attributes().queue_url(&self.url).send()).await;
    }

    fn client(&self) -> &Client {
        self.client.get_or_init(|| aws::sqs(&self.aws))
    }
}
