//! The Lambda function `receive`. See the library for what it does.

use std::{process::ExitCode, sync::Arc};

use lambda_http::Error;
use lambda_support::{aws, env::Env, log, startup};
use receive::{config::Config, handler::Receiver, runtime};

// Lambda sends one request at a time: more threads would only cost start-up.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let result = match start().await {
        Ok(receiver) => runtime::run(receiver).await.map_err(|error| format!("receive stopped: {error}")),
        Err(error) => Err(format!("receive cannot start: {error}")),
    };
    startup::exit_code(result)
}

async fn start() -> Result<Arc<Receiver>, Error> {
    let env = Env::from_process();
    let config = Config::from_env(&env)?;
    startup::check_runtime_api(&env)?;
    log::init(config.log_level);
    let receiver = Receiver::new(config, &aws::config(&env)?);
    receiver.warm_up().await;
    Ok(Arc::new(receiver))
}
