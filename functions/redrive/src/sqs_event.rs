//! The event of an SQS queue, and the response that names the messages to return.
//!
//! Format: <https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html>

use serde::{Deserialize, Serialize};

/// A batch of messages.
#[derive(Deserialize)]
pub struct SqsEvent {
    /// Up to ten, in any order.
    #[serde(rename = "Records")]
    pub messages: Vec<SqsMessage>,
}

/// A message. It holds a body of UNITH's, so it has no `Debug`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SqsMessage {
    /// The same at every receive.
    pub message_id: String,
    /// The receipt of this receive.
    pub receipt_handle: String,
    /// The text that was sent.
    pub body: String,
    attributes: Attributes,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attributes {
    approximate_receive_count: String,
}

impl SqsMessage {
    /// How often the message was received, this time included.
    pub fn receive_count(&self) -> u32 {
        self.attributes.approximate_receive_count.parse().unwrap_or(1)
    }
}

/// The messages that go back to the queue. All others are deleted from it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchResponse {
    batch_item_failures: Vec<BatchItemFailure>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BatchItemFailure {
    item_identifier: String,
}

impl BatchResponse {
    /// Adds a message.
    pub fn return_message(&mut self, message: &SqsMessage) {
        self.batch_item_failures.push(BatchItemFailure { item_identifier: message.message_id.clone() });
    }
}
