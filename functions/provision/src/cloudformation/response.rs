//! The response to CloudFormation.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use lambda_support::errors::causes;
use reqwest::Client;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::request::Request;

/// CloudFormation takes 4,096 bytes in all; ids and the like need the rest.
const REASON_CHARACTERS: usize = 1_200;
const MAX_RESPONSE_BYTES: usize = 4_000;
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
const SEE_THE_LOG: &str = "see the function's log";

/// The outcome of a request.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) ok: bool,
    pub(super) reason: String,
    pub(super) data: Data,
}

/// The resource's attributes, which a template can read with `Fn::GetAtt`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Data {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) webhook_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) heads: Option<usize>,
}

impl Outcome {
    pub(super) fn failure(reason: impl Into<String>) -> Self {
        Self { ok: false, reason: reason.into(), data: Data::default() }
    }

    pub(super) fn success(reason: impl Into<String>) -> Self {
        Self { ok: true, ..Self::failure(reason) }
    }
}

/// The response as CloudFormation takes it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Response {
    status: &'static str,
    reason: String,
    physical_resource_id: String,
    stack_id: String,
    request_id: String,
    logical_resource_id: String,
    data: Data,
}

/// CloudFormation did not get a response.
#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    #[error("CloudFormation cannot get a response: the request has no ResponseURL")]
    NoUrl,
    #[error("CloudFormation's ResponseURL did not accept the response ({response}): {cause}")]
    Refused { response: String, cause: String },
}

impl Response {
    pub(super) fn new(request: &Request, outcome: Outcome) -> Self {
        let mut reason = outcome.reason;
        if let Some((end, _)) = reason.char_indices().nth(REASON_CHARACTERS) {
            reason.truncate(end);
            reason = format!("{reason}… ({SEE_THE_LOG})");
        }
        let mut response = Self {
            status: if outcome.ok { "SUCCESS" } else { "FAILED" },
            reason,
            physical_resource_id: request.physical_id(),
            stack_id: request.stack_id.clone(),
            request_id: request.request_id.clone(),
            logical_resource_id: request.logical_resource_id.clone(),
            data: outcome.data,
        };
        // With long ids it may still be too long; CloudFormation needs the status more than the rest.
        if response.to_json().len() > MAX_RESPONSE_BYTES {
            response.data = Data::default();
        }
        if response.to_json().len() > MAX_RESPONSE_BYTES {
            SEE_THE_LOG.clone_into(&mut response.reason);
        }
        // CloudFormation's own ids are shorter. A response that it refuses for its size would say nothing at all.
        while response.to_json().len() > MAX_RESPONSE_BYTES {
            response.clear_longest_id();
        }
        response
    }

    fn clear_longest_id(&mut self) {
        let ids =
            [&mut self.physical_resource_id, &mut self.stack_id, &mut self.request_id, &mut self.logical_resource_id];
        if let Some(longest) = ids.into_iter().max_by_key(|id| id.len()) {
            longest.clear();
        }
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Sends the response to the URL of its request. A stack waits for it, so sending is retried until `deadline`.
    pub(super) async fn send(self, http: &Client, url: &str, deadline: Instant) -> Result<Self, ResponseError> {
        if url.is_empty() {
            return Err(ResponseError::NoUrl);
        }
        let response = self.to_json();
        let put = || async {
            let sent = http
                .put(url)
                .timeout(ATTEMPT_TIMEOUT)
                // The URL is signed without a content type.
                .header("content-type", "")
                .body(response.clone())
                .send()
                .await
                .map_err(|error| causes(&error.without_url()))?;
            let status = sent.status();
            if status.is_success() { Ok(()) } else { Err(format!("it responded with {status}")) }
        };
        let backoff = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(2))
            .without_max_times();
        let sent = timeout_at(deadline, put.retry(backoff)).await;
        match sent.unwrap_or_else(|_| Err("it did not respond in time".to_owned())) {
            Ok(()) => Ok(self),
            Err(cause) => Err(ResponseError::Refused { response, cause }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_never_longer_than_cloudformation_takes() {
        let long = "ü".repeat(5_000);
        let data = Data { webhook_url: Some(long.clone()), heads: None };
        let response = Response::new(&Request::default(), Outcome { data, ..Outcome::failure(long) }).to_json();
        assert!(response.len() < 4_096, "{}", response.len());
        assert!(response.contains("see the function's log"));
    }

    /// Found by fuzzing.
    #[test]
    fn ids_that_leave_no_room_are_left_out_the_longest_first() {
        let mut request = Request::default();
        request.stack_id = "s".repeat(5_000);
        // A control character has six bytes in JSON.
        request.request_id = "\u{1}".repeat(700);
        request.logical_resource_id = "Webhook".to_owned();
        let response = Response::new(&request, Outcome::failure("no"));
        assert!(response.to_json().len() < 4_096, "{}", response.to_json().len());
        assert_eq!((response.stack_id.as_str(), response.request_id.as_str()), ("", ""));
        assert_eq!((response.status, response.logical_resource_id.as_str()), ("FAILED", "Webhook"));
    }
}
