//! The start and the end of a function's process.

use std::process::ExitCode;

use tracing::Level;

use crate::{
    env::{Env, EnvError},
    log,
};

/// Checks that the Lambda Runtime API is there to serve.
///
/// # Errors
/// The process was started by hand.
pub fn check_runtime_api(env: &Env) -> Result<(), EnvError> {
    let meaning = "set by Lambda, which starts this program; on your machine use `cargo lambda watch`";
    env.required("AWS_LAMBDA_RUNTIME_API", meaning).map(drop)
}

/// Logs why a function could not start, or stopped, and returns the exit code.
pub fn exit_code(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::init(Level::ERROR);
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
