//! The on-failure queue: what a function on the table's stream cannot handle, so that it does not block its shard.
//!
//! Lambda sends the records that it gives up to the same queue, in another form.

use lambda_support::aws::SdkConfig;
use serde::Serialize;
use unith_events::json::without_noncharacters;

use crate::queue::Queue;

/// A record that no retry can help. It names the item, and has no body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Poison {
    /// Empty if the record has no key of this table.
    pub pk: String,
    pub sk: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// What is wrong, in a sentence.
    pub reason: String,
}

impl Poison {
    /// The text of the message.
    fn to_message(&self) -> String {
        without_noncharacters(serde_json::to_string(self).unwrap_or_default())
    }
}

/// A queue in SQS. Its client is made when it is first needed.
#[derive(Debug)]
pub struct FailureQueue(Queue);

/// The queue did not take a message.
#[derive(Debug, thiserror::Error)]
#[error("queue `{url}` did not take the record: {cause}")]
pub struct FailureQueueError {
    url: String,
    cause: String,
}

impl FailureQueue {
    /// The queue at `url`.
    pub fn new(aws: SdkConfig, url: String) -> Self {
        Self(Queue::new(aws, url))
    }

    /// Sends a record's key. An `Ok` is durable.
    ///
    /// # Errors
    /// The queue did not take it.
    pub async fn send(&self, poison: &Poison) -> Result<(), FailureQueueError> {
        let sent = self.0.send(poison.to_message()).await;
        sent.map_err(|cause| FailureQueueError { url: self.0.url().to_owned(), cause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_no_character_that_sqs_refuses_and_is_read_back_as_it_was() {
        let poison =
            Poison { pk: "a\u{ffff}\u{fffe}\u{1}".into(), sk: "ü".into(), event_id: None, reason: "r".into() };
        let message = poison.to_message();
        assert_eq!(message, r#"{"pk":"a\uffff\ufffe\u0001","sk":"ü","reason":"r"}"#);
        let read: serde_json::Value = serde_json::from_str(&message).unwrap();
        assert_eq!(read["pk"], poison.pk);
    }
}
