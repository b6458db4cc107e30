//! What a FIFO queue adds: message groups, and deduplication within five minutes.
//!
//! Rules: <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/FIFO-queues-understanding-logic.html>

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{
    error::{Kind, SqsError},
    request::Send,
};

/// The end of the name of a FIFO queue.
pub(super) const SUFFIX: &str = ".fifo";
/// The time in which a deduplication id counts, in seconds.
const DEDUPLICATION: u32 = 300;

/// What a sender said of a message to a FIFO queue, and its position in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) group: String,
    pub(super) deduplication_id: String,
    pub(super) sequence_number: String,
}

/// The deduplication ids of a queue.
#[derive(Debug, Default)]
pub(super) struct Deduplication {
    /// The response to the sender of each id.
    seen: HashMap<String, Value>,
    /// When each id came, the oldest one first.
    times: VecDeque<(Instant, String)>,
    sent: u128,
}

impl Deduplication {
    /// The response to the first message with this id, if that is not older than five minutes.
    pub(super) fn earlier(&mut self, id: &str, now: Instant, second: Duration) -> Option<Value> {
        let time = second * DEDUPLICATION;
        while let Some((_, old)) = self.times.pop_front_if(|(at, _)| now.saturating_duration_since(*at) >= time) {
            self.seen.remove(&old);
        }
        self.seen.get(id).cloned()
    }

    pub(super) fn remember(&mut self, id: String, now: Instant, response: Value) {
        self.times.push_back((now, id.clone()));
        self.seen.insert(id, response);
    }

    /// The next sequence number: 20 digits that grow.
    pub(super) fn next_sequence_number(&mut self) -> String {
        self.sent += 1;
        format!("{:020}", 18_850_000_000_000_000_000 + self.sent)
    }
}

/// Group and deduplication id of a message to a FIFO queue.
pub(super) fn ids(request: &Send, is_content_based: bool) -> Result<(String, String), SqsError> {
    let group = request.message_group_id.clone();
    let group = group
        .ok_or_else(|| Kind::MissingParameter.because("The request must contain the parameter MessageGroupId."))?;
    let hash = || is_content_based.then(|| hex::encode(Sha256::digest(&request.message_body)));
    let id = request.message_deduplication_id.clone().or_else(hash).ok_or_else(|| {
        Kind::InvalidParameter.because(
            "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly",
        )
    })?;
    for (name, value) in [("MessageGroupId", &group), ("MessageDeduplicationId", &id)] {
        if !(1..=128).contains(&value.len()) || !value.chars().all(|c| c.is_ascii_graphic()) {
            let message = format!(
                "Value {value} for parameter {name} is invalid. Reason: {name} can only include alphanumeric and punctuation characters. 1 to 128 in length."
            );
            return Err(Kind::InvalidParameter.because(message));
        }
    }
    if request.delay_seconds.is_some() {
        return Err(not_for_this_type("DelaySeconds"));
    }
    Ok((group, id))
}

/// The error of a parameter that the queue's type does not have.
pub(super) fn not_for_this_type(name: &str) -> SqsError {
    Kind::InvalidParameter.because(format!(
        "Value for parameter {name} is invalid. Reason: The request include parameter that is not valid for this queue type"
    ))
}
