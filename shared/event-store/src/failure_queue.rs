//! The on-failure queue: what a function on the table's stream cannot handle, so that it does not block its shard.
//!
//! Lambda sends the records that it gives up to the same queue, in another form.

use std::{fmt, sync::OnceLock};

use aws_sdk_sqs::Client;
use lambda_support::{
    aws::{self, SdkConfig},
    errors::causes,
};
use serde::Serialize;

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
    /// The text of the message: JSON without the two characters that SQS refuses and JSON does not escape.
    fn to_message(&self) -> String {
        let json = serde_json::to_string(self).unwrap_or_default();
        json.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff")
    }
}

/// A queue in SQS. Its client is made when it is first needed.
pub struct FailureQueue {
    url: String,
    aws: SdkConfig,
    client: OnceLock<Client>,
}

impl fmt::Debug for FailureQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailureQueue").field("url", &self.url).finish_non_exhaustive()
    }
}

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
        Self { url, aws, client: OnceLock::new() }
    }

    /// Sends a record's key. An `Ok` is durable.
    ///
    /// # Errors
    /// The queue did not take it.
    pub async fn send(&self, poison: &Poison) -> Result<(), FailureQueueError> {
        let client = self.client.get_or_init(|| aws::sqs(&self.aws));
        let send = client.send_message().queue_url(&self.url).message_body(poison.to_message()).send();
        match Box::pin(send).await {
            Ok(_) => Ok(()),
            Err(error) => Err(FailureQueueError { url: self.url.clone(), cause: causes(&error) }),
        }
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
