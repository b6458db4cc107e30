//! AWS clients for the simulated services.

use std::time::Duration;

use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider, timeout::TimeoutConfig};
use lambda_support::{
    aws::{self, SdkConfig},
    env::{Env, EnvError},
};

/// The region that the functions run in.
pub const REGION: &str = "us-east-1";
/// The account that the functions run in.
pub const ACCOUNT: &str = "123456789012";
/// The access key and the secret access key. The simulated services do not check them.
pub const ACCESS_KEY: &str = "sandbox";
/// Reading a stream has no deadline of its own, and a page may be large.
const STREAM_TIMEOUT: Duration = Duration::from_secs(30);
/// A long poll of SQS takes up to 20 s.
const LONG_POLL_TIMEOUT: Duration = Duration::from_secs(30);

/// A client of the DynamoDB at `endpoint`, with the time-outs and retries of the functions' clients.
pub fn dynamodb_client(endpoint: &str) -> Result<aws_sdk_dynamodb::Client, EnvError> {
    Ok(aws::dynamodb(&sdk_config(endpoint)?))
}

/// A client of the streams of the DynamoDB at `endpoint`.
pub fn streams_client(endpoint: &str) -> Result<aws_sdk_dynamodbstreams::Client, EnvError> {
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(STREAM_TIMEOUT).build();
    let config = sdk_config(endpoint)?.into_builder().timeout_config(timeouts).build();
    Ok(aws_sdk_dynamodbstreams::Client::new(&config))
}

/// A client of the EventBridge at `endpoint`.
pub fn eventbridge_client(endpoint: &str) -> Result<aws_sdk_eventbridge::Client, EnvError> {
    Ok(aws_sdk_eventbridge::Client::new(&sdk_config(endpoint)?))
}

/// A client of the Secrets Manager at `endpoint`, with the time-outs and retries of the functions' clients.
pub fn secrets_client(endpoint: &str) -> Result<aws_sdk_secretsmanager::Client, EnvError> {
    Ok(aws::secrets_manager(&sdk_config(endpoint)?))
}

/// A client of the SQS at `endpoint`, with time for long polls.
pub fn sqs_client(endpoint: &str) -> Result<aws_sdk_sqs::Client, EnvError> {
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(LONG_POLL_TIMEOUT).build();
    let config = sdk_config(endpoint)?.into_builder().timeout_config(timeouts).build();
    Ok(aws_sdk_sqs::Client::new(&config))
}

fn sdk_config(endpoint: &str) -> Result<SdkConfig, EnvError> {
    let env: Env = [("AWS_REGION", REGION)].into_iter().collect();
    let credentials = Credentials::new(ACCESS_KEY, ACCESS_KEY, None, None, "sandbox");
    let config = aws::config_without_credentials(&env)?.into_builder();
    Ok(config.endpoint_url(endpoint).credentials_provider(SharedCredentialsProvider::new(credentials)).build())
}
