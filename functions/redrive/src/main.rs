//! The Lambda function `redrive`. See the library for what it does.

use std::{process::ExitCode, sync::Arc, time::Duration};

use lambda_runtime::{Error, LambdaEvent, Runtime, service_fn};
use lambda_support::{aws, deadline::deadline, env::Env, log, startup};
use redrive::{config::Config, handler::Redriver};
use serde_json::Value;

/// The time of an invocation that is kept back: the last message may need as long.
const MARGIN: Duration = Duration::from_secs(10);
/// The time of an invocation whose deadline is in the past.
const DEFAULT_TIME: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let result = match start() {
        Ok(redriver) => run(redriver).await.map_err(|error| format!("redrive stopped: {error}")),
        Err(error) => Err(format!("redrive cannot start: {error}")),
    };
    startup::exit_code(result)
}

fn start() -> Result<Redriver, Error> {
    let env = Env::from_process();
    let config = Config::from_env(&env)?;
    startup::check_runtime_api(&env)?;
    log::init(config.log_level);
    Ok(Redriver::new(config, &aws::config(&env)?, fastrand::u32))
}

async fn run(redriver: Redriver) -> Result<(), Error> {
    let redriver = Arc::new(redriver);
    let handler = service_fn(move |event: LambdaEvent<Value>| {
        let redriver = Arc::clone(&redriver);
        let LambdaEvent { payload, context } = event;
        let deadline = deadline(context.deadline, MARGIN, DEFAULT_TIME);
        async move { redriver.handle(payload, &context.request_id, deadline).await.map_err(Error::from) }
    });
    Runtime::new(handler).run().await
}
