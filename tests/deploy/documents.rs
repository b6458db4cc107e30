//! The commands of the documents, run as they are written there.

use std::collections::BTreeSet;

use futures_util::{StreamExt, stream};
use serde_json::Value;
use tests::repository::{repository, repository_text};

use crate::{
    emulator::CONCURRENT,
    stack::{BUILT, Deployed, Stack},
};

/// The first block of commands after `heading`.
pub(crate) fn block(path: &str, heading: &str) -> String {
    let document = repository_text(path);
    let section = document.split(&format!("\n{heading}\n")).nth(1).unwrap_or_else(|| panic!("{path}: {heading}"));
    section.split("```sh\n").nth(1).unwrap().split("```").next().unwrap().to_owned()
}

/// All commands in the blocks of a document, one per line.
fn commands(path: &str) -> Vec<String> {
    let document = repository_text(path);
    let blocks = document.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("sh\n"));
    blocks.flat_map(lines).collect()
}

/// The commands of a block, which is indented in a list. A line that ends in a backslash is joined with the next one.
fn lines(block: &str) -> Vec<String> {
    let indentation = |line: &str| line.len() - line.trim_start().len();
    let least = block.lines().filter(|line| !line.trim().is_empty()).map(indentation).min().unwrap_or_default();
    let mut commands = vec![String::new()];
    for line in block.lines() {
        let command = commands.last_mut().unwrap();
        match command.strip_suffix('\\') {
            Some(begun) => *command = format!("{begun}{}", line.trim_start()),
            None => commands.push(line.get(least..).unwrap_or_default().to_owned()),
        }
    }
    commands
}

/// Runs the command of `docs/deploy.md` or `docs/runbooks.md` that begins with `beginning`, with names filled in.
///
/// Returns its output.
pub(crate) async fn run(stack: &Stack<'_>, beginning: &str, names: &[(&str, &str)]) -> String {
    let all = ["docs/deploy.md", "docs/runbooks.md"].into_iter().flat_map(commands);
    let found: BTreeSet<_> = all.filter(|command| command.starts_with(beginning)).collect();
    let [command] = found.iter().collect::<Vec<_>>()[..] else { panic!("{beginning}: {found:?}") };
    let mut filled = command.clone();
    for (name, value) in names {
        assert!(filled.contains(name), "{command}: {name}");
        filled = filled.replace(name, value);
    }
    let output = stack.emulator.run_with_input("bash", &["-euc", &for_this_cli(&filled)], "y\ny\n").await;
    output.unwrap_or_else(|error| panic!("{command}: {error}"))
}

/// The command for version 1 of the CLI, the one on `PyPI`.
///
/// It needs the endpoint of a queue, and does not know one of the options.
fn for_this_cli(command: &str) -> String {
    let endpoint = if command.starts_with("aws sqs ") { " --endpoint-url $AWS_ENDPOINT_URL" } else { "" };
    command.replace("--cli-binary-format raw-in-base64-out", "") + endpoint
}

/// `sam deploy` of the build for this machine.
fn deploy_command() -> String {
    // By default, SAM looks for its settings beside the template.
    let config = repository("samconfig.toml").display().to_string();
    format!("sam deploy --template-file {BUILT}/template.yaml --config-file {config}")
}

/// Updates parameters with the command of `docs/deploy.md` that begins with this one.
pub(crate) async fn update(stack: &Stack<'_>, parameter: &str) {
    let beginning = format!("sam build && sam deploy --parameter-overrides {parameter}");
    run(stack, &beginning, &[("sam build && ", ""), ("sam deploy", &deploy_command())]).await;
}

/// Whether a command changes nothing.
fn is_read_only(command: &str) -> bool {
    if command.starts_with("sam logs") || command.starts_with("sam list") {
        return true;
    }
    let mut words = command.split_whitespace();
    let (tool, action) = (words.next(), words.nth(1).unwrap_or_default());
    tool == Some("aws")
        && ["describe-", "list-", "query", "scan", "get-item", "receive-message", "get-queue-attributes"]
            .iter()
            .any(|verb| action.starts_with(verb))
}

/// Deploys with the commands of `docs/deploy.md`, with the reader's values filled in.
pub(crate) async fn deploy(stack: &Stack<'_>, heads: &str, email: &str, secret_key: &str, more: &str) {
    let mut script = block("docs/deploy.md", "## Deploy");
    for (text, value) in [
        ("sam build\n", ""),
        ("sam deploy", deploy_command().as_str()),
        ("HeadIds=8eab5b23-024a-45cb-a0e1-9d3ffd6c9610", &format!("HeadIds={heads}")),
        ("jane@example.com", email),
        ("AlarmEmail=ops@example.com", &format!("AlarmEmail=ops@example.com {more}")),
    ] {
        assert!(script.contains(text), "docs/deploy.md does not have: {text}");
        script = script.replace(text, value);
    }
    assert_eq!(stack.name, "unith-webhooks", "samconfig.toml's");
    // The script asks for the secret key, and SAM for a confirmation.
    stack.emulator.run_with_input("bash", &["-euc", &script], &format!("{secret_key}\ny\n")).await.expect("sam deploy");
}

/// Whether a command is one for `provision`, `publish` or `sessions`.
///
/// The replays among them are of a session and of a time without an event. A retry of quarantined bodies stores events.
fn is_invocation(command: &str) -> bool {
    let of = |name: &str, output: &str| {
        command.starts_with(&format!("sam remote invoke {name} "))
            || (command.contains("aws lambda invoke") && command.contains(&format!(" {output} ")))
    };
    of("Provision", "FUNCTION") || of("Publish", "PUBLISH") || of("Sessions", "SESSIONS")
}

/// Runs every read-only command of the documents, and every command for `provision`, `publish` and `sessions`.
pub(crate) async fn run_harmless_commands(stack: &Stack<'_>, deployed: &Deployed<'_>) -> usize {
    let documents = ["README.md", "docs/deploy.md", "docs/runbooks.md", "docs/sessions.md"];
    let mut seen = BTreeSet::new();
    let all = documents.into_iter().flat_map(commands).filter(|command| seen.insert(command.clone()));
    let (invocations, others): (Vec<_>, Vec<_>) = all.partition(|command| is_invocation(command));
    let reads: Vec<_> = others.into_iter().filter(|command| is_read_only(command)).collect();
    let work: Vec<_> = reads.iter().map(|command| Box::pin(run_harmless_command(stack, deployed, command))).collect();
    stream::iter(work).buffered(CONCURRENT).collect::<Vec<_>>().await;
    for command in &invocations {
        let output = run_harmless_command(stack, deployed, command).await;
        // The AWS CLI prints the invocation's status after it.
        let result = serde_json::Deserializer::from_str(&output).into_iter::<Value>().next();
        let result = result.and_then(Result::ok).unwrap_or_else(|| panic!("{command}: {output}"));
        assert_eq!(result["ok"], true, "{command}: {output}");
    }
    reads.len() + invocations.len()
}

/// Runs a command with the outputs of the stack filled in. Returns what it prints.
async fn run_harmless_command(stack: &Stack<'_>, deployed: &Deployed<'_>, command: &str) -> String {
    let function = if is_invocation(command) { "ProvisionFunction" } else { "ReceiveFunction" };
    let mut filled = command.to_owned();
    for (name, output) in [
        ("TABLE", "TableName"),
        ("FUNCTION", function),
        ("QUEUE", "DeadLetterQueue"),
        ("SPILL_QUEUE", "SpillQueueUrl"),
        ("SPILL_DEAD_LETTERS", "SpillDeadLetterQueueUrl"),
        ("FAILURE_QUEUE", "FailureQueueUrl"),
        ("REDRIVE", "RedriveFunction"),
        ("SESSIONS", "SessionsFunction"),
        ("PUBLISH", "PublishFunction"),
    ] {
        filled = filled.replace(&format!(" {name}"), &format!(" {}", deployed.output(output)));
    }
    let output = stack.emulator.run_with_input("bash", &["-euc", &for_this_cli(&filled)], "").await;
    output.unwrap_or_else(|error| panic!("{command}: {error}"))
}

/// Copies the stack's key ring to a new secret, with the commands of `docs/deploy.md`. Returns its ARN.
pub(crate) async fn copy_key_ring(stack: &Stack<'_>, ring: &str) -> String {
    let script = block("docs/deploy.md", "### Another table, another key ring").replace("RING", ring);
    stack.emulator.run_with_input("bash", &["-euc", &script], "").await.expect("a copy of the ring").trim().to_owned()
}

/// Creates a table with the keys and the stream of the template's. Returns its ARN, and that of its stream.
///
/// The latter is printed by the command of `docs/deploy.md`.
pub(crate) async fn create_another_table(stack: &Stack<'_>) -> (String, String) {
    let attributes = ["AttributeName=pk,AttributeType=S", "AttributeName=sk,AttributeType=S"];
    let keys = ["AttributeName=pk,KeyType=HASH", "AttributeName=sk,KeyType=RANGE"];
    let create = ["dynamodb", "create-table", "--table-name", "another-table", "--billing-mode", "PAY_PER_REQUEST"];
    let stream = ["--stream-specification", "StreamEnabled=true,StreamViewType=NEW_IMAGE"];
    let arguments =
        [&create[..], &["--attribute-definitions"], &attributes, &["--key-schema"], &keys, &stream].concat();
    let table = stack.emulator.aws(&arguments).await["TableDescription"]["TableArn"].as_str().unwrap().to_owned();
    let describe = "aws dynamodb describe-table --table-name TABLE --query Table.LatestStreamArn";
    let stream = run(stack, describe, &[("TABLE", "another-table")]).await;
    (table, stream.trim().to_owned())
}
