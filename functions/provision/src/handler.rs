//! The handler: a CloudFormation request, a command, or a schedule event, and the response's JSON.

use std::sync::Arc;

use serde_json::Value;
use tokio::time::Instant;

use crate::{
    cloudformation::{self, response::ResponseError},
    command::{self, CommandError},
    concurrent::Boxed,
    provisioner::Provisioner,
};

/// An invocation that fails.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    #[error(transparent)]
    CloudFormation(#[from] ResponseError),
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl Provisioner {
    /// Handles one invocation before `deadline`.
    pub async fn handle(self: &Arc<Self>, input: Value, deadline: Instant) -> Result<Value, HandlerError> {
        let response = if input.get("ResponseURL").is_some() || input.get("RequestType").is_some() {
            let handled: Boxed<'_, _> = Box::pin(cloudformation::handle(self, &input, deadline));
            serde_json::to_value(handled.await?)
        } else {
            let handled: Boxed<'_, _> = Box::pin(command::handle(self, &input, deadline));
            serde_json::to_value(handled.await?)
        };
        Ok(response.unwrap_or_default())
    }
}
