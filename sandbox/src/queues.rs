//! The queues of the template.

use std::time::Duration;

use anyhow::Context;
use aws_sdk_sqs::{Client, types::QueueAttributeName};
use serde_json::json;

use crate::sqs::MAX_MESSAGE_SIZE;

pub const SPILL_QUEUE: &str = "unith-spill";
pub const DEAD_LETTER_QUEUE: &str = "unith-dead-letters";
/// The on-failure queue of the functions on the table's stream.
pub const FAILURE_QUEUE: &str = "unith-failures";
/// The time-out of `redrive` in the template.
pub const REDRIVE_TIMEOUT: Duration = Duration::from_mins(11);
/// How long the spill queue hides a message that was received. AWS recommends six times the time-out of the function.
const SPILL_VISIBILITY: Duration = REDRIVE_TIMEOUT.saturating_mul(6);
const FOURTEEN_DAYS: u64 = 14 * 24 * 60 * 60;
const MAX_RECEIVE_COUNT: u32 = 1_000;

/// The URLs of the queues.
#[derive(Debug, Clone)]
pub struct Queues {
    pub spill_url: String,
    pub dead_letter_url: String,
    pub failure_url: String,
}

impl Queues {
    /// Creates the queues.
    pub async fn create(client: &Client) -> anyhow::Result<Self> {
        let dead_letter_url = create_queue(client, DEAD_LETTER_QUEUE, &[]).await?;
        let arn = client
            .get_queue_attributes()
            .queue_url(&dead_letter_url)
            .attribute_names(QueueAttributeName::QueueArn)
            .send()
            .await?
            .attributes
            .and_then(|mut attributes| attributes.remove(&QueueAttributeName::QueueArn))
            .context("the dead-letter queue has no ARN")?;
        let redrive = json!({"deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVE_COUNT}).to_string();
        let attributes = [
            (QueueAttributeName::VisibilityTimeout, SPILL_VISIBILITY.as_secs().to_string()),
            (QueueAttributeName::RedrivePolicy, redrive),
        ];
        Ok(Self {
            spill_url: create_queue(client, SPILL_QUEUE, &attributes).await?,
            dead_letter_url,
            failure_url: create_queue(client, FAILURE_QUEUE, &[]).await?,
        })
    }
}

/// Creates a queue that keeps messages as long and takes messages as large as SQS allows.
async fn create_queue(
    client: &Client,
    name: &str,
    attributes: &[(QueueAttributeName, String)],
) -> anyhow::Result<String> {
    let mut request = client
        .create_queue()
        .queue_name(name)
        .attributes(QueueAttributeName::MessageRetentionPeriod, FOURTEEN_DAYS.to_string())
        .attributes(QueueAttributeName::MaximumMessageSize, MAX_MESSAGE_SIZE.to_string());
    for (name, value) in attributes {
        request = request.attributes(name.clone(), value);
    }
    let response = request.send().await.with_context(|| format!("cannot create queue `{name}`"))?;
    response.queue_url.with_context(|| format!("queue `{name}` has no URL"))
}
