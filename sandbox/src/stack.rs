//! A stack with the webhook as its custom resource: CloudFormation's side of the function `provision`.

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
use provision::{Provisioner, self_test::uuid};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use unith_events::timestamp::Timestamp;

use crate::{
    STACK_GUID, WEBHOOK_URL,
    platform::HEAD_ID,
    server::{ServerHandle, listen},
};

/// What the template gives the function.
const FUNCTION_TIMEOUT: Duration = Duration::from_secs(590);
/// How long CloudFormation's presigned URLs are good for, in seconds.
const RESPONSE_URL_LIFE: u32 = 7_200;
/// The webhook's logical id in the template.
pub(crate) const LOGICAL_ID: &str = "UnithWebhook";

/// The stack: its resource's properties, and where answers are PUT.
pub struct Stack {
    provisioner: Arc<Provisioner>,
    responses: ServerHandle,
    received: Received,
    id: String,
    properties: Value,
    physical_id: Option<String>,
}

type Received = Arc<Mutex<Vec<Value>>>;

impl Stack {
    /// A stack that is not created yet, for the sandbox's head.
    pub async fn new(provisioner: Arc<Provisioner>) -> anyhow::Result<Self> {
        let received = Received::default();
        let router = Router::new().route("/response", put(receive)).with_state(Arc::clone(&received));
        Ok(Self {
            provisioner,
            responses: ServerHandle::router(listen("CloudFormation's answers", 0).await?, router)?,
            received,
            id: format!("arn:aws:cloudformation:us-east-1:123456789012:stack/sandbox/{STACK_GUID}"),
            properties: json!({"WebhookUrl": WEBHOOK_URL, "HeadIds": [HEAD_ID]}),
            physical_id: None,
        })
    }

    /// Creates it; what the function answered is the result.
    pub async fn create(&mut self) -> anyhow::Result<Value> {
        let properties = self.properties.clone();
        self.request("Create", &properties, None).await
    }

    /// Updates it to other properties.
    pub async fn update(&mut self, properties: Value) -> anyhow::Result<Value> {
        let old = std::mem::replace(&mut self.properties, properties.clone());
        self.request("Update", &properties, Some(&old)).await
    }

    /// Deletes it.
    pub async fn delete(&mut self) -> anyhow::Result<Value> {
        let properties = self.properties.clone();
        self.request("Delete", &properties, None).await
    }

    async fn request(&mut self, kind: &str, properties: &Value, old: Option<&Value>) -> anyhow::Result<Value> {
        let mut event = json!({
            "RequestType": kind,
            "ServiceToken": "arn:aws:lambda:us-east-1:123456789012:function:provision",
            "ResponseURL": presigned(&format!("{}/response", self.responses.url()), Timestamp::now()),
            "StackId": self.id,
            "RequestId": uuid(&mut fastrand::Rng::new()),
            "LogicalResourceId": LOGICAL_ID,
            "ResourceType": "Custom::UnithWebhook",
            "ResourceProperties": with_service_token(properties),
        });
        if let Some(fields) = event.as_object_mut() {
            fields.extend(self.physical_id.clone().map(|id| ("PhysicalResourceId".to_owned(), id.into())));
            fields.extend(old.map(|old| ("OldResourceProperties".to_owned(), with_service_token(old))));
        }
        self.provisioner.handle(event, Instant::now() + FUNCTION_TIMEOUT).await?;
        let answer = self.received.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let answer = answer.context("provision returned without answering CloudFormation")?;
        let reason = answer.get("Reason").and_then(Value::as_str).unwrap_or_default();
        ensure!(answer.get("Status").and_then(Value::as_str) == Some("SUCCESS"), "{kind} failed: {reason}");
        self.physical_id = answer.get("PhysicalResourceId").and_then(Value::as_str).map(str::to_owned);
        Ok(answer)
    }
}

/// A URL as S3 presigns it, as far as a client may look at it: when it was made, and for how many seconds it is good.
fn presigned(url: &str, now: Timestamp) -> String {
    let now = now.to_string();
    let seconds = now.get(.."2026-01-15T09:57:33".len()).unwrap_or(&now);
    let date = seconds.replace(['-', ':'], "");
    format!("{url}?X-Amz-Date={date}Z&X-Amz-Expires={RESPONSE_URL_LIFE}")
}

fn with_service_token(properties: &Value) -> Value {
    let mut fields = properties.as_object().cloned().unwrap_or_else(Map::new);
    fields.insert("ServiceToken".to_owned(), "arn:aws:lambda:us-east-1:123456789012:function:provision".into());
    fields.into()
}

/// The presigned URL takes a PUT without a content type, and nothing else.
async fn receive(State(received): State<Received>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let content_type = headers.get(CONTENT_TYPE).map(axum::http::HeaderValue::as_bytes);
    match serde_json::from_slice(&body) {
        Ok(answer) if content_type.unwrap_or_default().is_empty() => {
            received.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
            StatusCode::OK
        }
        _ => StatusCode::FORBIDDEN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_url_says_when_it_was_made_and_how_long_it_is_good() {
        let now = Timestamp::parse("2026-01-15T09:57:33.987Z").unwrap();
        let expected = "http://localhost/response?X-Amz-Date=20260115T095733Z&X-Amz-Expires=7200";
        assert_eq!(presigned("http://localhost/response", now), expected);
    }
}
