//! A simulated CloudFormation stack. Its one resource is the webhook, a custom resource of `provision`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, ensure};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    routing::put,
};
use provision::provisioner::Provisioner;
use serde_json::{Value, json};
use tokio::time::Instant;
use unith_events::timestamp::Timestamp;

use crate::{
    random::uuid,
    server::{ServerHandle, listen},
};

/// The GUID in the id of the stack.
pub const STACK_GUID: &str = "7b9a6f6e-3c1d-4f5b-9a57-2d0c8e4b1a90";
/// The logical id of the webhook in the template.
pub(crate) const LOGICAL_ID: &str = "UnithWebhook";
/// The time-out of `provision` in the template.
const FUNCTION_TIMEOUT: Duration = Duration::from_secs(590);
/// The life of CloudFormation's presigned URLs in seconds.
const RESPONSE_URL_LIFE: u32 = 7_200;
const SERVICE_TOKEN: &str = "arn:aws:lambda:us-east-1:123456789012:function:provision";

/// A stack with the webhook as its resource.
pub struct Stack {
    provisioner: Arc<Provisioner>,
    webhook_url: String,
    head_id: String,
    server: ServerHandle,
    responses: Responses,
    physical_id: Option<String>,
}

type Responses = Arc<Mutex<Vec<Value>>>;

impl Stack {
    /// Creates a stack with a webhook for one head.
    pub async fn create(provisioner: Arc<Provisioner>, webhook_url: &str, head_id: &str) -> anyhow::Result<Self> {
        let responses = Responses::default();
        let router = Router::new().route("/response", put(take_response)).with_state(Arc::clone(&responses));
        let mut stack = Self {
            provisioner,
            webhook_url: webhook_url.to_owned(),
            head_id: head_id.to_owned(),
            server: ServerHandle::router(listen("the responses to CloudFormation", 0).await?, router)?,
            responses,
            physical_id: None,
        };
        stack.request("Create").await?;
        Ok(stack)
    }

    /// Deletes the stack.
    pub async fn delete(&mut self) -> anyhow::Result<()> {
        self.request("Delete").await
    }

    async fn request(&mut self, kind: &str) -> anyhow::Result<()> {
        let mut event = json!({
            "RequestType": kind,
            "ServiceToken": SERVICE_TOKEN,
            "ResponseURL": presigned(&format!("{}/response", self.server.url()), Timestamp::now()),
            "StackId": format!("arn:aws:cloudformation:us-east-1:123456789012:stack/sandbox/{STACK_GUID}"),
            "RequestId": uuid(fastrand::u128(..)),
            "LogicalResourceId": LOGICAL_ID,
            "ResourceType": "Custom::UnithWebhook",
            "ResourceProperties": {
                "ServiceToken": SERVICE_TOKEN, "WebhookUrl": self.webhook_url, "HeadIds": [self.head_id],
            },
        });
        if let (Some(members), Some(id)) = (event.as_object_mut(), &self.physical_id) {
            members.insert("PhysicalResourceId".to_owned(), id.as_str().into());
        }
        self.provisioner.handle(event, Instant::now() + FUNCTION_TIMEOUT).await?;
        let response = self.responses.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let response = response.context("provision returned without a response to CloudFormation")?;
        let text = |name| response.get(name).and_then(Value::as_str).unwrap_or_default();
        ensure!(text("Status") == "SUCCESS", "{kind} of the webhook failed: {}", text("Reason"));
        self.physical_id = Some(text("PhysicalResourceId").to_owned());
        Ok(())
    }
}

/// A URL with the parts of an S3 presigned URL that a client may read: its instant and its life in seconds.
fn presigned(url: &str, now: Timestamp) -> String {
    let now = now.to_string();
    let seconds = now.get(.."2026-01-15T09:57:33".len()).unwrap_or(&now);
    let date = seconds.replace(['-', ':'], "");
    format!("{url}?X-Amz-Date={date}Z&X-Amz-Expires={RESPONSE_URL_LIFE}")
}

/// A presigned URL accepts a PUT without a content type, and nothing else.
async fn take_response(State(responses): State<Responses>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let has_content_type = headers.get(CONTENT_TYPE).is_some_and(|value| !value.is_empty());
    match serde_json::from_slice(&body) {
        Ok(response) if !has_content_type => {
            responses.lock().unwrap_or_else(PoisonError::into_inner).push(response);
            StatusCode::OK
        }
        _ => StatusCode::FORBIDDEN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_url_has_the_instant_of_its_making_and_its_life() {
        let now = Timestamp::parse("2026-01-15T09:57:33.987Z").unwrap();
        let expected = "http://localhost/response?X-Amz-Date=20260115T095733Z&X-Amz-Expires=7200";
        assert_eq!(presigned("http://localhost/response", now), expected);
    }
}
