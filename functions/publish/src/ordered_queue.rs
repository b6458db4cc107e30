//! The ordered queue: an SQS FIFO queue, for a consumer that needs the order of a session kept up to itself.

use std::time::Duration;

use aws_sdk_sqs::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::send_message_batch::SendMessageBatchOutput,
    types::SendMessageBatchRequestEntry,
};
use lambda_support::{
    aws::{self, SdkConfig},
    errors::causes,
};
use unith_events::json::without_noncharacters;

use crate::{
    bus_event::BusEvent,
    outlet::{EntryError, EntryFault, RequestError, Sent},
};

const ATTEMPTS: u32 = 3;

/// A FIFO queue.
#[derive(Debug)]
pub struct OrderedQueue {
    client: Client,
    url: String,
}

impl OrderedQueue {
    pub const NAME: &str = "the ordered queue";

    /// The queue at `url`. An attempt of a request takes `attempt_timeout` at most.
    pub fn new(aws: &SdkConfig, url: String, attempt_timeout: Duration) -> Self {
        Self { client: sqs(aws, attempt_timeout), url }
    }

    /// The message of an event: the bus event as JSON.
    pub fn message(event: &BusEvent) -> String {
        without_noncharacters(event.to_json())
    }

    pub(crate) async fn send(&self, events: &[&BusEvent]) -> Sent {
        let entries = events.iter().enumerate().map(|(index, event)| {
            SendMessageBatchRequestEntry::builder()
                .id(index.to_string())
                .message_body(Self::message(event))
                .message_group_id(&event.group)
                .message_deduplication_id(&event.deduplication_id)
                .build()
        });
        let entries = entries.collect::<Result<Vec<_>, _>>();
        let entries = entries.map_err(|error| request_error(true, causes(&error)))?;
        let send = self.client.send_message_batch().queue_url(&self.url).set_entries(Some(entries));
        let response = Box::pin(send.send()).await.map_err(|error| self.failed(&error))?;
        Ok((0..events.len()).map(|index| result(&response, &index.to_string())).collect())
    }

    fn failed<E: ProvideErrorMetadata + std::error::Error + 'static>(&self, error: &SdkError<E>) -> RequestError {
        let code = error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default();
        let code = code.rsplit('.').next().unwrap_or_default();
        let hint = if code.contains("AccessDenied") { "; the function's role needs sqs:SendMessage on it" } else { "" };
        let cause = format!("`{}`: {}{hint}", self.url, causes(error));
        request_error(is_malformed(code) || code == "BatchRequestTooLong", cause)
    }
}

/// A client whose attempts take `attempt_timeout` at most.
fn sqs(aws: &SdkConfig, attempt_timeout: Duration) -> Client {
    let config = aws::with_attempts(aws, ATTEMPTS, attempt_timeout);
    let config = aws_sdk_sqs::config::Builder::from(&config).retry_partition(aws::without_retry_quota());
    Client::from_conf(config.build())
}

fn result(response: &SendMessageBatchOutput, id: &str) -> Result<(), EntryError> {
    if response.successful.iter().any(|entry| entry.id == id) {
        return Ok(());
    }
    let error = |fault, cause| Err(EntryError { outlet: OrderedQueue::NAME, fault, cause });
    let Some(failed) = response.failed.iter().find(|entry| entry.id == id) else {
        return error(EntryFault::Transient, "the response has no result".to_owned());
    };
    let code = failed.code.rsplit('.').next().unwrap_or_default();
    let fault = if is_malformed(code) {
        EntryFault::Malformed
    } else if failed.sender_fault {
        EntryFault::Denied
    } else {
        EntryFault::Transient
    };
    error(fault, format!("{}: {}", failed.code, failed.message.as_deref().unwrap_or_default()))
}

fn is_malformed(code: &str) -> bool {
    matches!(code, "InvalidMessageContents" | "InvalidParameterValue" | "InvalidParameterValueException")
}

fn request_error(is_refused: bool, cause: String) -> RequestError {
    RequestError { outlet: OrderedQueue::NAME, is_refused, cause }
}
