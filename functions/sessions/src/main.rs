//! The Lambda function `sessions`. See the library for what it does.

use std::{process::ExitCode, sync::Arc, time::Duration};

use lambda_runtime::{Error, LambdaEvent, Runtime, service_fn};
use lambda_support::{aws, deadline::deadline, env::Env, log, startup};
use serde_json::Value;
use sessions::{config::Config, handler::SessionUpdater};

/// The time of an invocation that is kept back for the keys of the on-failure queue, and the response.
const MARGIN: Duration = Duration::from_secs(5);
/// The time of an invocation whose deadline is in the past.
const DEFAULT_TIME: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let result = match start() {
        Ok(updater) => run(updater).await.map_err(|error| format!("sessions stopped: {error}")),
        Err(error) => Err(format!("sessions cannot start: {error}")),
    };
    startup::exit_code(result)
}

fn start() -> Result<SessionUpdater, Error> {
    let env = Env::from_process();
    let config = Config::from_env(&env)?;
    startup::check_runtime_api(&env)?;
    log::init(config.log_level);
    Ok(SessionUpdater::new(config, &aws::config(&env)?))
}

async fn run(updater: SessionUpdater) -> Result<(), Error> {
    let updater = Arc::new(updater);
    let handler = service_fn(move |event: LambdaEvent<Value>| {
        let updater = Arc::clone(&updater);
        let LambdaEvent { payload, context } = event;
        let deadline = deadline(context.deadline, MARGIN, DEFAULT_TIME);
        async move { updater.handle(payload, &context.request_id, deadline).await.map_err(Error::from) }
    });
    Runtime::new(handler).run().await
}
