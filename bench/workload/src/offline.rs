//! The receiver without a network: the deployed path from a gateway event's JSON to the response's JSON.
//!
//! The AWS SDK runs down to the HTTP request. The DynamoDB is a function that accepts every request.
//!
//! Invariants: nothing waits, so the cost is instructions, and the same ones each time.

use std::{convert::Infallible, sync::Arc};

use anyhow::Context as _;
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
use aws_smithy_runtime_api::{
    client::{
        http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
    },
    http::StatusCode,
};
use lambda_http::{Context, LambdaEvent, Service};
use lambda_support::{aws, env::Env};
use receive::{config::Config, delivery_log::DeliveryLog, handler::Receiver, runtime};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::delivery::KEY;

/// The last step of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Path {
    /// The write to the table: the whole path.
    Stored,
    /// The step before the write: the event has expired, so it is verified, parsed, answered and logged.
    Expired,
}

/// A DynamoDB that accepts every request, with the response of the real one to a write.
#[derive(Debug)]
struct AcceptingDynamoDb;

impl HttpConnector for AcceptingDynamoDb {
    fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
        let ok = StatusCode::try_from(200).map(|status| HttpResponse::new(status, "{}".into()));
        HttpConnectorFuture::ready(ok.map_err(|error| ConnectorError::other(error.into(), None)))
    }
}

/// The receiver as its `main` makes it, with the accepting DynamoDB.
fn receiver(path: Path) -> anyhow::Result<Arc<Receiver>> {
    // The workload's events are older than one day, and 0 is for ever.
    let retention = if path == Path::Expired { "1" } else { "0" };
    let env: Env = [
        ("TABLE_NAME", "events"),
        ("UNITH_SHARED_KEY", KEY),
        ("RETENTION_DAYS", retention),
        ("AWS_REGION", "eu-west-1"),
    ]
    .into_iter()
    .collect();
    let credentials = Credentials::new("AKIDEXAMPLE", "secret", Some("session-token".to_owned()), None, "workload");
    let aws = aws::config_without_credentials(&env)?
        .into_builder()
        .http_client(http_client_fn(|_, _| SharedHttpConnector::new(AcceptingDynamoDb)))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build();
    Ok(Arc::new(Receiver::new(Config::from_env(&env)?, &aws)))
}

/// A receiver that is invoked with one delivery after the other.
#[derive(Debug)]
pub struct OfflineReceiver<S>(S);

/// A receiver whose deliveries end at `path`. `write_log` gets the log of each.
pub fn receiver_without_network(
    path: Path,
    write_log: impl Fn(&DeliveryLog) + Clone + Send + Sync + 'static,
) -> anyhow::Result<
    OfflineReceiver<impl Service<LambdaEvent<Box<RawValue>>, Response = impl Serialize, Error = Infallible>>,
> {
    Ok(OfflineReceiver(runtime::service(receiver(path)?, write_log)))
}

impl<S> OfflineReceiver<S>
where
    S: Service<LambdaEvent<Box<RawValue>>, Response: Serialize, Error = Infallible>,
{
    /// The JSON of the response to the JSON of a delivery.
    pub async fn invoke(&mut self, event: &[u8]) -> anyhow::Result<Vec<u8>> {
        let payload: Box<RawValue> = serde_json::from_slice(event).context("the delivery is not JSON")?;
        let mut context = Context::default();
        "8476a536-e9f4-11e8-9739-2dfe598c3fcd".clone_into(&mut context.request_id);
        context.xray_trace_id = Some("Root=1-67891233-abcdef012345678912345678;Sampled=1".to_owned());
        let response = self.0.call(LambdaEvent::new(payload, context)).await?;
        Ok(serde_json::to_vec(&response)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Deliveries;

    #[tokio::test]
    async fn each_path_ends_with_its_outcome() {
        let deliveries = Deliveries::of("test", 1).unwrap();
        let event = deliveries.iter().next().unwrap().event.as_bytes();
        for (path, outcome) in [(Path::Stored, "stored"), (Path::Expired, "expired")] {
            let response = receiver_without_network(path, |_| ()).unwrap().invoke(event).await.unwrap();
            let response: serde_json::Value = serde_json::from_slice(&response).unwrap();
            assert_eq!(response["statusCode"], 200);
            let body: serde_json::Value = serde_json::from_str(response["body"].as_str().unwrap()).unwrap();
            assert_eq!(body["status"], outcome);
        }
    }
}
