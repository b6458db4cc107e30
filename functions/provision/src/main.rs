//! The Lambda function `provision`.

use std::{process::ExitCode, sync::Arc, time::Duration};

use lambda_runtime::{Error, LambdaEvent, Runtime, service_fn};
use lambda_support::{aws, deadline::deadline, env::Env, log, startup};
use provision::provisioner::Provisioner;
use serde_json::Value;

/// The time of an invocation that is kept back.
const MARGIN: Duration = Duration::from_secs(2);
/// The time of an invocation whose deadline is in the past.
const DEFAULT_TIME: Duration = Duration::from_secs(590);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    startup::exit_code(start().await.map_err(|error| format!("provision cannot start: {error}")))
}

async fn start() -> Result<(), Error> {
    let env = Env::from_process();
    startup::check_runtime_api(&env)?;
    // Other faults of the environment are reported per run: a CloudFormation request must get a response anyway.
    let level = log::level(&env);
    log::init(*level.as_ref().unwrap_or(&tracing::Level::INFO));
    if let Err(error) = level {
        tracing::warn!("{error}; logging from INFO on");
    }
    let secrets = aws::config(&env).map(|aws| aws::patient_secrets_manager(&aws));
    let provisioner = Arc::new(Provisioner::new(env, secrets));
    let handler = service_fn(move |event: LambdaEvent<Value>| {
        let provisioner = Arc::clone(&provisioner);
        let deadline = deadline(event.context.deadline, MARGIN, DEFAULT_TIME);
        async move { provisioner.handle(event.payload, deadline).await.map_err(Error::from) }
    });
    Runtime::new(handler).run().await
}
