//! The queues: what becomes of messages that are not done.

use std::{error::Error, time::Duration};

use aws_sdk_sqs::{Client, types::MessageAttributeValue};
use lambda_support::errors::causes;

use crate::sqs_event::SqsMessage;

/// The attribute of a dead letter that has the reason.
const REASON: &str = "reason";
const MAX_REASON: usize = 1_000;

/// The spill queue, from which messages come, and the queue of dead letters.
#[derive(Debug)]
pub struct Queues {
    client: Client,
    spill_queue_url: String,
    dead_letter_queue_url: String,
}

/// A queue did not carry out a call.
#[derive(Debug, thiserror::Error)]
#[error("queue `{url}` did not {call}: {cause}")]
pub struct QueueError {
    url: String,
    call: &'static str,
    cause: String,
}

impl Queues {
    /// The queues at these URLs.
    pub fn new(client: Client, spill_queue_url: String, dead_letter_queue_url: String) -> Self {
        Self { client, spill_queue_url, dead_letter_queue_url }
    }

    /// Makes a message of the spill queue visible again after `delay`, in whole seconds.
    ///
    /// # Errors
    /// The queue did not change it: it becomes visible after the queue's own time-out.
    pub async fn delay(&self, message: &SqsMessage, delay: Duration) -> Result<(), QueueError> {
        let change = self
            .client
            .change_message_visibility()
            .queue_url(&self.spill_queue_url)
            .receipt_handle(&message.receipt_handle)
            .visibility_timeout(i32::try_from(delay.as_secs()).unwrap_or(i32::MAX));
        let changed = Box::pin(change.send()).await.map(drop);
        changed.map_err(|error| QueueError::new(&self.spill_queue_url, "delay the message", &error))
    }

    /// Sends a message to the dead letters, as it came. An `Ok` is durable.
    ///
    /// # Errors
    /// The queue did not take it.
    pub async fn send_dead_letter(&self, message: &SqsMessage, reason: &str) -> Result<(), QueueError> {
        let not_sent = |error: &dyn Error| QueueError::new(&self.dead_letter_queue_url, "take the dead letter", error);
        let reason = MessageAttributeValue::builder().data_type("String").string_value(sendable(reason)).build();
        let send = self
            .client
            .send_message()
            .queue_url(&self.dead_letter_queue_url)
            .message_body(&message.body)
            .message_attributes(REASON, reason.map_err(|error| not_sent(&error))?);
        Box::pin(send.send()).await.map(drop).map_err(|error| not_sent(&error))
    }
}

impl QueueError {
    fn new(url: &str, call: &'static str, error: &dyn Error) -> Self {
        Self { url: url.to_owned(), call, cause: causes(error) }
    }
}

/// The text without the characters that SQS refuses, and at most 1,000 of them.
fn sendable(text: &str) -> String {
    let is_taken = |c: &char| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}');
    text.chars().filter(is_taken).take(MAX_REASON).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_no_characters_that_sqs_refuses() {
        let noncharacter = '\u{ffff}';
        assert_eq!(sendable(&format!("head ü{noncharacter}\n😀")), "head ü😀");
        assert_eq!(sendable(&"ü".repeat(2_000)).chars().count(), MAX_REASON);
    }
}
