//! A function's real binary as a process: how it is started, and what it wrote.

use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::process::Command;

use crate::runtime_api::RuntimeApi;

/// A command that starts the binary in the environment variable `variable`, or `built`. Its environment is empty, and its output is
/// piped.
pub fn command(variable: &str, built: &str) -> Command {
    let binary = std::env::var(variable).unwrap_or_else(|_| built.to_owned());
    let mut command = Command::new(binary);
    command.env_clear().stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// The variables that Lambda sets for a function.
pub fn lambda_variables<'v>(api: &'v RuntimeApi, function: &'v str) -> [(&'static str, &'v str); 4] {
    [
        ("AWS_LAMBDA_RUNTIME_API", api.address()),
        ("AWS_LAMBDA_FUNCTION_NAME", function),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
    ]
}

/// The lines of the log. Every line is JSON.
pub fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
}
