//! The Lambda function `publish`. See the library for what it does.

use std::{process::ExitCode, sync::Arc, time::Duration};

use lambda_runtime::{Error, LambdaEvent, Runtime, service_fn};
use lambda_support::{aws, deadline::deadline, env::Env, log, startup};
use publish::{config::Config, handler::Publisher};
use serde_json::Value;

/// The time of an invocation that is kept back: the last requests may need as long.
const MARGIN: Duration = Duration::from_secs(10);
/// The time of an invocation whose deadline is in the past.
const DEFAULT_TIME: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let result = match start().await {
        Ok(publisher) => run(publisher).await.map_err(|error| format!("publish stopped: {error}")),
        Err(error) => Err(format!("publish cannot start: {error}")),
    };
    startup::exit_code(result)
}

async fn start() -> Result<Publisher, Error> {
    let env = Env::from_process();
    let config = Config::from_env(&env)?;
    startup::check_runtime_api(&env)?;
    log::init(config.log_level);
    let publisher = Publisher::new(config, &aws::config(&env)?);
    publisher.warm_up().await;
    Ok(publisher)
}

async fn run(publisher: Publisher) -> Result<(), Error> {
    let publisher = Arc::new(publisher);
    let handler = service_fn(move |event: LambdaEvent<Value>| {
        let publisher = Arc::clone(&publisher);
        let LambdaEvent { payload, context } = event;
        let deadline = deadline(context.deadline, MARGIN, DEFAULT_TIME);
        async move { publisher.handle(payload, &context.request_id, deadline).await.map_err(Error::from) }
    });
    Runtime::new(handler).run().await
}
