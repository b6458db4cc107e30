//! MiniStack on loopback, and the tools that talk to it as they would to AWS.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tests::repository;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    time::{Instant, sleep},
};

/// Far longer than it takes to start.
const PATIENCE: Duration = Duration::from_mins(1);
const REGION: &str = "us-east-1";

/// A running MiniStack; it ends with this value.
pub(crate) struct Emulator {
    url: String,
    log: PathBuf,
    process: Child,
}

impl Emulator {
    /// Starts one on a free port; its log is `target/deploy/<name>.log`.
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
            // On loopback, and nothing on the ports of other services.
            .envs([("BIND_HOST", "127.0.0.1"), ("IOT_MTLS_ENABLED", "0")])
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .kill_on_drop(true)
            .spawn()
            .expect("python3 is on the PATH");
        let mut emulator = Self { url, log: path, process };
        emulator.started().await;
        emulator
    }

    async fn started(&mut self) {
        let began = Instant::now();
        while tokio::net::TcpStream::connect(self.url.trim_start_matches("http://")).await.is_err() {
            if self.process.try_wait().unwrap().is_some() || began.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(&self.log).unwrap();
                panic!("MiniStack does not start. It needs what .ci/requirements.txt lists, first on the PATH.\n{log}");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// The base URL of all its services.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Where an API answers, without its host's name.
    pub(crate) fn api(&self, id: &str) -> String {
        format!("{}/_aws/execute-api/{id}/$default", self.url)
    }

    /// Runs a tool, in the repository, with MiniStack for AWS.
    pub(crate) async fn run(&self, tool: &str, arguments: &[&str]) -> Output {
        let output = command(&self.url, tool).args(arguments).current_dir(repository("")).output().await;
        output.unwrap_or_else(|error| {
            panic!("{tool} cannot be run ({error}): .ci/requirements.txt lists what to install")
        })
    }

    /// The same with an input; what it prints, or all that it says if it fails.
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
        // One that does not read it all has ended.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = process.wait_with_output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(said) } else { Err(format!("{said}{complaint}")) }
    }

    /// What an AWS CLI command prints, which must succeed.
    pub(crate) async fn aws(&self, arguments: &[&str]) -> Value {
        self.try_aws(arguments).await.unwrap_or_else(|error| panic!("aws {}: {error}", arguments.join(" ")))
    }

    /// What an AWS CLI command prints, or what it complains of.
    pub(crate) async fn try_aws(&self, arguments: &[&str]) -> Result<Value, String> {
        let output = self.run("aws", &[arguments, &["--output", "json", "--endpoint-url", &self.url]].concat()).await;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
    }

    /// All that is in the account, of all kinds that a stack makes.
    pub(crate) async fn contents(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for (service, command, query) in CONTENTS {
            let names = self.aws(&[service, command, "--query", query]).await;
            let names = names.as_array().into_iter().flatten().filter_map(Value::as_str);
            all.extend(names.map(|name| format!("{service} {name}")));
        }
        all
    }
}

/// What there may be in an account: how it is listed, and what names it.
const CONTENTS: [(&str, &str, &str); 11] = [
    ("apigatewayv2", "get-apis", "Items[].Name"),
    ("cloudwatch", "describe-alarms", "MetricAlarms[].AlarmName"),
    ("cloudwatch", "list-dashboards", "DashboardEntries[].DashboardName"),
    ("dynamodb", "list-tables", "TableNames"),
    ("iam", "list-roles", "Roles[].RoleName"),
    ("lambda", "list-functions", "Functions[].FunctionName"),
    ("logs", "describe-log-groups", "logGroups[].logGroupName"),
    ("scheduler", "list-schedules", "Schedules[].Name"),
    ("secretsmanager", "list-secrets", "SecretList[].Name"),
    ("sns", "list-topics", "Topics[].TopicArn"),
    ("sqs", "list-queues", "QueueUrls"),
];

/// A command whose AWS is at `url`, and that reads no settings of whoever runs the test.
fn command(url: &str, tool: &str) -> Command {
    let mut command = Command::new(tool);
    command.envs([
        ("AWS_ENDPOINT_URL", url),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        // What docs/deploy.md sets, and nothing else: not every tool reads AWS_REGION.
        ("AWS_DEFAULT_REGION", REGION),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ("SAM_CLI_TELEMETRY", "0"),
    ]);
    command.env_remove("AWS_PROFILE").env_remove("AWS_REGION");
    command
}
