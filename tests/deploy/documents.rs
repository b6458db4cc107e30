//! The commands of the documents, run as they are written there.

use serde_json::Value;
use tests::repository::{repository, repository_text};

use crate::stack::{BUILT, Deployed, Stack};

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
    blocks.flat_map(|block| block.replace("\\\n", "").lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Runs the command of `docs/deploy.md` or `docs/runbooks.md` that begins with `beginning`, with names filled in.
///
/// Returns its output.
pub(crate) async fn run(stack: &Stack<'_>, beginning: &str, names: &[(&str, &str)]) -> String {
    let all = ["docs/deploy.md", "docs/runbooks.md"].into_iter().flat_map(commands);
    let found: Vec<_> = all.filter(|command| command.starts_with(beginning)).collect();
    let [command] = found.as_slice() else { panic!("{beginning}: {found:?}") };
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

/// Updates parameters with the command of `docs/deploy.md`.
pub(crate) async fn update(stack: &Stack<'_>) {
    run(
        stack,
        "sam build && sam deploy --parameter-overrides InactivityWarning=false",
        &[("sam build && ", ""), ("sam deploy", &deploy_command())],
    )
    .await;
}

/// Whether a command changes nothing.
fn is_read_only(command: &str) -> bool {
    if command.starts_with("sam logs") || command.starts_with("sam list") {
        return true;
    }
    let mut words = command.split_whitespace();
    let (tool, action) = (words.next(), words.nth(1).unwrap_or_default());
    tool == Some("aws")
        && ["describe-", "list-", "query", "scan", "receive-message", "get-queue-attributes"]
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

/// Runs every read-only command of the documents, and every command for `provision`.
pub(crate) async fn run_harmless_commands(stack: &Stack<'_>, deployed: &Deployed<'_>) -> usize {
    let mut count = 0;
    for command in ["README.md", "docs/deploy.md", "docs/runbooks.md"].into_iter().flat_map(commands) {
        let is_invocation = command.starts_with("sam remote invoke Provision")
            || (command.contains("aws lambda invoke") && command.contains(" FUNCTION "));
        if !is_read_only(&command) && !is_invocation {
            continue;
        }
        let mut filled = command.clone();
        let function = if is_invocation { "ProvisionFunction" } else { "ReceiveFunction" };
        for (name, output) in [
            ("TABLE", "TableName"),
            ("FUNCTION", function),
            ("QUEUE", "DeadLetterQueue"),
            ("SPILL_QUEUE", "SpillQueueUrl"),
            ("SPILL_DEAD_LETTERS", "SpillDeadLetterQueueUrl"),
            ("FAILURE_QUEUE", "FailureQueueUrl"),
            ("SESSIONS", "SessionsFunction"),
            ("PUBLISH", "PublishFunction"),
        ] {
            filled = filled.replace(&format!(" {name}"), &format!(" {}", deployed.output(output)));
        }
        let output = stack.emulator.run_with_input("bash", &["-euc", &for_this_cli(&filled)], "").await;
        let output = output.unwrap_or_else(|error| panic!("{command}: {error}"));
        if is_invocation {
            // The AWS CLI prints the invocation's status after it.
            let result = serde_json::Deserializer::from_str(&output).into_iter::<Value>().next();
            let result = result.and_then(Result::ok).unwrap_or_else(|| panic!("{command}: {output}"));
            assert_eq!(result["ok"], true, "{command}: {output}");
        }
        count += 1;
    }
    count
}

/// Copies the stack's key ring to a new secret, with the commands of `docs/deploy.md`. Returns its ARN.
pub(crate) async fn copy_key_ring(stack: &Stack<'_>, ring: &str) -> String {
    let script = block("docs/deploy.md", "### Another table, another key ring").replace("RING", ring);
    stack.emulator.run_with_input("bash", &["-euc", &script], "").await.expect("a copy of the ring").trim().to_owned()
}

/// Creates a table with the keys of the template's. Returns its ARN.
pub(crate) async fn create_another_table(stack: &Stack<'_>) -> String {
    let attributes = ["AttributeName=pk,AttributeType=S", "AttributeName=sk,AttributeType=S"];
    let keys = ["AttributeName=pk,KeyType=HASH", "AttributeName=sk,KeyType=RANGE"];
    let create = ["dynamodb", "create-table", "--table-name", "another-table", "--billing-mode", "PAY_PER_REQUEST"];
    let arguments = [&create[..], &["--attribute-definitions"], &attributes, &["--key-schema"], &keys].concat();
    stack.emulator.aws(&arguments).await["TableDescription"]["TableArn"].as_str().unwrap().to_owned()
}
