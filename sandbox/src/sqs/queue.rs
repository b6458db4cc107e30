//! A queue: its attributes and its messages.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    ops::RangeInclusive,
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;
use unith_events::timestamp::Timestamp;

use super::{
    MAX_MESSAGE_SIZE, MAX_VISIBILITY, MAX_WAIT,
    error::{Kind, SqsError},
    fifo::Deduplication,
    message::{Message, Received},
};

/// Fifteen minutes, in seconds.
pub(super) const MAX_DELAY: u32 = 900;
/// A minute to fourteen days, in seconds.
const RETENTION: RangeInclusive<u32> = 60..=1_209_600;
const MAX_RECEIVE_COUNT: u32 = 1_000;

/// The attributes that `CreateQueue` sets. Durations are in seconds, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) visibility: u32,
    pub(super) retention: u32,
    pub(super) delay: u32,
    pub(super) receive_wait: u32,
    pub(super) max_message_size: usize,
    pub(super) redrive: Option<RedrivePolicy>,
    pub(super) is_fifo: bool,
    pub(super) is_content_based: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RedrivePolicy {
    text: String,
    pub(super) dead_letter_target_arn: String,
    max_receive_count: u32,
}

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) arn: String,
    pub(super) attributes: Attributes,
    /// The oldest one first.
    pub(super) messages: Vec<Message>,
    /// Of a FIFO queue.
    pub(super) deduplication: Deduplication,
    created_at: Timestamp,
}

impl Attributes {
    pub(super) fn parse(given: &BTreeMap<String, String>) -> Result<Self, SqsError> {
        let mut attributes = Self {
            visibility: 30,
            retention: 345_600,
            delay: 0,
            receive_wait: 0,
            max_message_size: MAX_MESSAGE_SIZE,
            redrive: None,
            is_fifo: false,
            is_content_based: false,
        };
        for (name, value) in given {
            match name.as_str() {
                "VisibilityTimeout" => attributes.visibility = number(name, value, 0..=MAX_VISIBILITY)?,
                "MessageRetentionPeriod" => attributes.retention = number(name, value, RETENTION)?,
                "DelaySeconds" => attributes.delay = number(name, value, 0..=MAX_DELAY)?,
                "ReceiveMessageWaitTimeSeconds" => attributes.receive_wait = number(name, value, 0..=MAX_WAIT)?,
                "MaximumMessageSize" => {
                    attributes.max_message_size = number(name, value, 1_024..=MAX_MESSAGE_SIZE)?;
                }
                // A queue is a FIFO queue for ever, so AWS takes no `false`.
                "FifoQueue" if value == "true" => attributes.is_fifo = true,
                "FifoQueue" => {
                    return Err(Kind::InvalidAttributeValue.because("Invalid value for the parameter FifoQueue."));
                }
                "ContentBasedDeduplication" => attributes.is_content_based = flag(name, value)?,
                "RedrivePolicy" => attributes.redrive = Some(RedrivePolicy::parse(value)?),
                _ => return Err(Kind::InvalidAttributeName.because(format!("Unknown Attribute {name}."))),
            }
        }
        if attributes.is_content_based && !attributes.is_fifo {
            return Err(Kind::InvalidAttributeName.because("Unknown Attribute ContentBasedDeduplication."));
        }
        Ok(attributes)
    }
}

impl RedrivePolicy {
    fn parse(text: &str) -> Result<Self, SqsError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Document {
            dead_letter_target_arn: String,
            /// A number, or a number in a string.
            max_receive_count: Value,
        }
        let invalid = |reason: String| {
            Kind::InvalidParameter
                .because(format!("Value {text} for parameter RedrivePolicy is invalid. Reason: {reason}"))
        };
        let document: Document = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
        let count = match &document.max_receive_count {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let max_receive_count = number("maxReceiveCount", &count, 1..=MAX_RECEIVE_COUNT)?;
        Ok(Self { text: text.to_owned(), dead_letter_target_arn: document.dead_letter_target_arn, max_receive_count })
    }
}

impl Queue {
    pub(super) fn new(arn: String, attributes: Attributes) -> Self {
        Self {
            arn,
            attributes,
            messages: Vec::new(),
            deduplication: Deduplication::default(),
            created_at: Timestamp::now(),
        }
    }

    /// Removes the messages that are past their retention.
    pub(super) fn expire(&mut self, now: Instant, second: Duration) {
        let retention = second * self.attributes.retention;
        self.messages.retain(|message| now.saturating_duration_since(message.sent) < retention);
    }

    /// Gives up to `max` visible messages to a receiver, and hides them until `visible_at`.
    ///
    /// A group of a FIFO queue is locked while a message of it is hidden: its later messages wait.
    ///
    /// The second list has those that were received too often: they belong to the dead-letter queue.
    pub(super) fn receive(
        &mut self,
        name: &str,
        max: usize,
        now: Instant,
        visible_at: Instant,
    ) -> (Vec<Received>, Vec<Message>) {
        let (mut received, mut dead) = (Vec::new(), Vec::new());
        let max_receive_count = self.attributes.redrive.as_ref().map_or(u32::MAX, |policy| policy.max_receive_count);
        let hidden = self.messages.iter().filter(|message| message.visible_at > now);
        let locked: BTreeSet<_> = hidden.filter_map(|message| Some(message.group()?.to_owned())).collect();
        let mut index = 0;
        while received.len() < max
            && let Some(message) = self.messages.get_mut(index)
        {
            if message.visible_at > now || message.group().is_some_and(|group| locked.contains(group)) {
                index += 1;
            } else if message.receive_count >= max_receive_count {
                dead.push(self.messages.remove(index));
            } else {
                received.push(message.receive(name, now, visible_at));
                if std::mem::take(&mut message.comes_twice) && received.len() < max {
                    received.extend(message.repeat(name));
                }
                index += 1;
            }
        }
        (received, dead)
    }

    /// The time until the next hidden message becomes visible.
    pub(super) fn next_visible_in(&self, now: Instant) -> Option<Duration> {
        let hidden = self.messages.iter().filter_map(|message| message.visible_at.checked_duration_since(now));
        hidden.filter(|hidden| !hidden.is_zero()).min()
    }

    /// All attributes as `GetQueueAttributes` reports them.
    pub(super) fn describe(&mut self, now: Instant, second: Duration) -> BTreeMap<&'static str, String> {
        self.expire(now, second);
        let count = |counts: fn(&Message, Instant) -> bool| {
            self.messages.iter().filter(|message| counts(message, now)).count().to_string()
        };
        let created = (self.created_at.epoch_milliseconds() / 1000).to_string();
        let attributes = &self.attributes;
        let mut all = BTreeMap::from([
            ("QueueArn", self.arn.clone()),
            ("ApproximateNumberOfMessages", count(|message, now| message.visible_at <= now)),
            (
                "ApproximateNumberOfMessagesNotVisible",
                count(|message, now| message.visible_at > now && message.receive_count > 0),
            ),
            (
                "ApproximateNumberOfMessagesDelayed",
                count(|message, now| message.visible_at > now && message.receive_count == 0),
            ),
            ("CreatedTimestamp", created.clone()),
            ("LastModifiedTimestamp", created),
            ("VisibilityTimeout", attributes.visibility.to_string()),
            ("MessageRetentionPeriod", attributes.retention.to_string()),
            ("DelaySeconds", attributes.delay.to_string()),
            ("ReceiveMessageWaitTimeSeconds", attributes.receive_wait.to_string()),
            ("MaximumMessageSize", attributes.max_message_size.to_string()),
        ]);
        if attributes.is_fifo {
            let is_content_based = attributes.is_content_based.to_string();
            all.extend([("FifoQueue", "true".to_owned()), ("ContentBasedDeduplication", is_content_based)]);
        }
        all.extend(attributes.redrive.as_ref().map(|policy| ("RedrivePolicy", policy.text.clone())));
        all
    }
}

/// An attribute that is `true` or `false`.
fn flag(name: &str, text: &str) -> Result<bool, SqsError> {
    let invalid = || Kind::InvalidAttributeValue.because(format!("Invalid value for the parameter {name}: {text}."));
    text.parse().map_err(|_| invalid())
}

/// An attribute that is a number in a range.
fn number<T>(name: &str, text: &str, range: RangeInclusive<T>) -> Result<T, SqsError>
where
    T: std::str::FromStr + PartialOrd + Display,
{
    let invalid = |reason: String| Kind::InvalidAttributeValue.because(reason);
    let value = text.parse().map_err(|_| invalid(format!("Invalid value for the parameter {name}: {text}.")))?;
    check_range(name, value, range).map_err(invalid)
}

/// The value, or a sentence if it is out of range.
pub(super) fn check_range<T: PartialOrd + Display>(
    name: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<T, String> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (least, most) = (range.start(), range.end());
    Err(format!(
        "Value {value} for parameter {name} is invalid. Reason: Must be between {least} and {most}, if provided."
    ))
}
