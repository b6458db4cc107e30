//! AWS clients for the simulated services, with the time-outs and retries of the functions' own clients.

use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
use lambda_support::{
    aws::{self, SdkConfig},
    env::{Env, EnvError},
};

/// The region that the functions run in.
pub const REGION: &str = "us-east-1";
/// The access key and the secret access key. The simulated services do not check them.
pub const ACCESS_KEY: &str = "sandbox";

/// A client of the DynamoDB at `endpoint`.
pub fn dynamodb_client(endpoint: &str) -> Result<aws_sdk_dynamodb::Client, EnvError> {
    Ok(aws::dynamodb(&sdk_config(endpoint)?))
}

/// A client of the Secrets Manager at `endpoint`.
pub fn secrets_client(endpoint: &str) -> Result<aws_sdk_secretsmanager::Client, EnvError> {
    Ok(aws::secrets_manager(&sdk_config(endpoint)?))
}

fn sdk_config(endpoint: &str) -> Result<SdkConfig, EnvError> {
    let env: Env = [("AWS_REGION", REGION)].into_iter().collect();
    let credentials = Credentials::new(ACCESS_KEY, ACCESS_KEY, None, None, "sandbox");
    let config = aws::config_without_credentials(&env)?.into_builder();
    Ok(config.endpoint_url(endpoint).credentials_provider(SharedCredentialsProvider::new(credentials)).build())
}
