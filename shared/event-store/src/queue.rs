//! A queue in SQS that is rarely needed: its client is made with the first message.

use std::{fmt, sync::OnceLock};

use aws_sdk_sqs::Client;
use lambda_support::{
    aws::{self, SdkConfig},
    errors::causes,
};

/// The queue at a URL.
pub(crate) struct Queue {
    url: String,
    aws: SdkConfig,
    client: OnceLock<Client>,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Queue {
    pub(crate) fn new(aws: SdkConfig, url: String) -> Self {
        Self { url, aws, client: OnceLock::new() }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Sends a message. An `Ok` is durable. An error is the cause, for a message to an operator.
    pub(crate) async fn send(&self, body: String) -> Result<(), String> {
        // Boxed, here and below, so that the futures around it do not contain the SDK's large one.
        let send = Box::pin(self.client().send_message().queue_url(&self.url).message_body(body).send());
        send.await.map(drop).map_err(|error| causes(&error))
    }

    /// Makes the client and opens its connection. A failure is left to the first message.
    pub(crate) async fn warm_up(&self) {
        let _ = Box::pin(self.client().get_queue_attributes().queue_url(&self.url).send()).await;
    }

    fn client(&self) -> &Client {
        self.client.get_or_init(|| aws::sqs(&self.aws))
    }
}
