//! The receiver without a network: the deployed path from a gateway event's JSON to the answer's JSON, with the AWS SDK
//! down to the HTTP request, and a DynamoDB that is a function and always says yes.
//!
//! What always holds: nothing here waits, so what it costs is instructions, and the same ones each time.

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
use receive::{Receiver, config::Config, record::Record, runtime};
use serde::Serialize;
use serde_json::value::RawValue;
use lambda_support::{aws, env::Env};

use crate::delivery::KEY;

/// How far a delivery goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Path {
    /// To the table: all there is.
    Stored,
    /// Up to it: the event's retention is over, so it is verified, parsed, answered and logged, and nothing is written.
    Expired,
}

/// The DynamoDB: takes every request, and answers as the real one does where there is nothing to say.
#[derive(Debug)]
struct Agreeable;

impl HttpConnector for Agreeable {
    fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
        let ok = StatusCode::try_from(200).map(|status| HttpResponse::new(status, "{}".into()));
        HttpConnectorFuture::ready(ok.map_err(|error| ConnectorError::other(error.into(), None)))
    }
}

/// The receiver as `main` makes it, on these services.
fn receiver(path: Path) -> anyhow::Result<Arc<Receiver>> {
    // Of events that are as old as the fixture's, one day of retention is over and none at all is not.
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
        .http_client(http_client_fn(|_, _| SharedHttpConnector::new(Agreeable)))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build();
    let dynamodb = aws::dynamodb(&aws);
    let secrets = || aws::secrets_manager(&aws);
    Ok(Arc::new(Receiver::new(Config::from_env(&env)?, dynamodb, secrets)))
}

/// A receiver that takes one delivery after the other.
#[derive(Debug)]
pub struct Receiving<S>(S);

/// The receiver, set up to take deliveries along `path`; `log` is given the record of each.
pub fn receiving(
    path: Path,
    log: impl Fn(&Record) + Clone + Send + Sync + 'static,
) -> anyhow::Result<Receiving<impl Service<LambdaEvent<Box<RawValue>>, Response = impl Serialize, Error = Infallible>>>
{
    Ok(Receiving(runtime::service(receiver(path)?, log)))
}

impl<S> Receiving<S>
where
    S: Service<LambdaEvent<Box<RawValue>>, Response: Serialize, Error = Infallible>,
{
    /// Takes a delivery's JSON; the answer's JSON.
    pub async fn take(&mut self, event: &[u8]) -> anyhow::Result<Vec<u8>> {
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
    async fn each_path_goes_as_far_as_it_says() {
        let deliveries = Deliveries::of("test", 1).unwrap();
        let event = deliveries.iter().next().unwrap().event.as_bytes();
        for (path, word) in [(Path::Stored, "stored"), (Path::Expired, "expired")] {
            let answer = receiving(path, |_| ()).unwrap().take(event).await.unwrap();
            let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!(answer["statusCode"], 200);
            let body: serde_json::Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
            assert_eq!(body["status"], word);
        }
    }
}
