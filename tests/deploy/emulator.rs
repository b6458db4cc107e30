//! MiniStack on loopback, and the command-line tools that use it in place of AWS.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use serde_json::Value;
use tests::{repository::repository, wait::until};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    time::timeout,
};

/// Longer than MiniStack takes to start.
const PATIENCE: Duration = Duration::from_mins(1);
/// How many commands that change nothing run at a time.
pub(crate) const CONCURRENT: usize = 4;
const REGION: &str = "us-east-1";

/// A running MiniStack; it ends when this is dropped.
pub(crate) struct Emulator {
    url: String,
    log: PathBuf,
    process: Child,
}

impl Emulator {
    /// Starts MiniStack on a free port. Its log is `target/deploy/<name>.log`.
    pub(crate) async fn start(name: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("http://127.0.0.1:{port}");
        let folder = repository("target/deploy");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{name}.log"));
        let log = std::fs::File::create(&path).unwrap();
        let process = command(&url, "python3")
            .arg(repository("tests/deploy/emulator.py"))
            .envs([("GATEWAY_PORT", port.to_string().as_str()), ("MINISTACK_HOST", "127.0.0.1")])
            // Loopback only, without the ports of other services.
            .envs([("BIND_HOST", "127.0.0.1"), ("IOT_MTLS_ENABLED", "0")])
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .kill_on_drop(true)
            .spawn()
            .expect("python3 is on the PATH");
        let mut emulator = Self { url, log: path, process };
        emulator.wait_until_started().await;
        emulator
    }

    async fn wait_until_started(&mut self) {
        let address = self.url.trim_start_matches("http://");
        let is_ready_or_dead = async || {
            tokio::net::TcpStream::connect(address).await.is_ok() || self.process.try_wait().unwrap().is_some()
        };
        let in_time = timeout(PATIENCE, until(is_ready_or_dead)).await;
        if in_time.is_err() || self.process.try_wait().unwrap().is_some() {
            let log = std::fs::read_to_string(&self.log).unwrap();
            panic!("MiniStack did not start: install .ci/requirements.txt and put it first on the PATH\n{log}");
        }
    }

    /// The base URL of all services.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The URL of an API by its id.
    pub(crate) fn api(&self, id: &str) -> String {
        format!("{}/_aws/execute-api/{id}/$default", self.url)
    }

    /// Runs a tool in the repository, with MiniStack in place of AWS.
    pub(crate) async fn run(&self, tool: &str, arguments: &[&str]) -> Output {
        let output = command(&self.url, tool).args(arguments).current_dir(repository("")).output().await;
        output.unwrap_or_else(|error| panic!("{tool} cannot be run: {error}; install .ci/requirements.txt"))
    }

    /// The same with an input. Returns the standard output, or all output if the tool fails.
    pub(crate) async fn run_with_input(&self, tool: &str, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut process = command(&self.url, tool)
            .args(arguments)
            .current_dir(repository(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = process.stdin.take().unwrap();
        // A tool that has ended does not read all of it.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = process.wait_with_output().await.unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(stdout) } else { Err(format!("{stdout}{stderr}")) }
    }

    /// The output of an AWS CLI command, which must succeed.
    pub(crate) async fn aws(&self, arguments: &[&str]) -> Value {
        self.try_aws(arguments).await.unwrap_or_else(|error| panic!("aws {}: {error}", arguments.join(" ")))
    }

    /// The output of an AWS CLI command, or its error.
    pub(crate) async fn try_aws(&self, arguments: &[&str]) -> Result<Value, String> {
        let output = self.run("aws", &[arguments, &["--output", "json", "--endpoint-url", &self.url]].concat()).await;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
    }

    /// All resources in the account, of all kinds that a stack has.
    pub(crate) async fn contents(&self) -> BTreeSet<String> {
        let lists = CONTENTS.map(async |(service, command, query)| {
            let names = Box::pin(self.aws(&[service, command, "--query", query])).await;
            let names = names.as_array().into_iter().flatten().filter_map(Value::as_str);
            names.map(|name| format!("{service} {name}")).collect::<Vec<_>>()
        });
        stream::iter(lists).buffered(CONCURRENT).concat().await.into_iter().collect()
    }
}

/// Kinds of resources: service, command that lists them, and query for their names.
const CONTENTS: [(&str, &str, &str); 13] = [
    ("apigatewayv2", "get-apis", "Items[].Name"),
    ("cloudwatch", "describe-alarms", "MetricAlarms[].AlarmName"),
    ("cloudwatch", "list-dashboards", "DashboardEntries[].DashboardName"),
    ("dynamodb", "list-tables", "TableNames"),
    ("events", "list-event-buses", "EventBuses[].Name"),
    ("iam", "list-roles", "Roles[].RoleName"),
    ("lambda", "list-event-source-mappings", "EventSourceMappings[].EventSourceArn"),
    ("lambda", "list-functions", "Functions[].FunctionName"),
    ("logs", "describe-log-groups", "logGroups[].logGroupName"),
    ("scheduler", "list-schedules", "Schedules[].Name"),
    ("secretsmanager", "list-secrets", "SecretList[].Name"),
    ("sns", "list-topics", "Topics[].TopicArn"),
    ("sqs", "list-queues", "QueueUrls"),
];

/// A command that finds AWS at `url`, and reads no settings of the user.
fn command(url: &str, tool: &str) -> Command {
    let mut command = Command::new(tool);
    command.envs([
        ("AWS_ENDPOINT_URL", url),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        // The one variable that docs/deploy.md sets. Not every tool reads AWS_REGION.
        ("AWS_DEFAULT_REGION", REGION),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ("SAM_CLI_TELEMETRY", "0"),
    ]);
    command.env_remove("AWS_PROFILE").env_remove("AWS_REGION");
    command
}
