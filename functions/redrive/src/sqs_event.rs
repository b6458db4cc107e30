//! The event of an SQS queue.
//!
//! Format: <https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html>

use serde::Deserialize;

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
