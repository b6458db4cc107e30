//! The documents' commands, as they stand there.

use serde_json::Value;
use tests::repository_text;

use crate::stack::{BUILT, Deployed, Stack};

/// A block of commands: the first one behind `heading`.
pub(crate) fn block(path: &str, heading: &str) -> String {
    let document = repository_text(path);
    let section = document.split(&format!("\n{heading}\n")).nth(1).unwrap_or_else(|| panic!("{path}: {heading}"));
    section.split("```sh\n").nth(1).unwrap().split("```").next().unwrap().to_owned()
}

/// All commands of a document's blocks, each in one line.
fn commands(path: &str) -> Vec<String> {
    let document = repository_text(path);
    let blocks = document.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("sh\n"));
    blocks.flat_map(|block| block.replace("\\\n", "").lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// The command of `docs/deploy.md` or `docs/runbooks.md` that begins like this, with names filled in; what it prints.
pub(crate) async fn run(stack: &Stack<'_>, beginning: &str, names: &[(&str, &str)]) -> String {
    let all = ["docs/deploy.md", "docs/runbooks.md"].into_iter().flat_map(commands);
    let found: Vec<_> = all.filter(|command| command.starts_with(beginning)).collect();
    let [command] = found.as_slice() else { panic!("{beginning}: {found:?}") };
    let mut filled = command.clone();
    for (name, by) in names {
        assert!(filled.contains(name), "{command}: {name}");
        filled = filled.replace(name, by);
    }
    let said = stack.emulator.run_with_input("bash", &["-euc", &filled], "y\ny\n").await;
    said.unwrap_or_else(|error| panic!("{command}: {error}"))
}

/// `sam deploy`, as the documents have it, of what is built for this machine.
fn deploys_what_is_built() -> String {
    // SAM looks for its settings beside the template.
    let config = tests::repository("samconfig.toml").display().to_string();
    format!("sam deploy --template-file {BUILT}/template.yaml --config-file {config}")
}

/// Changes parameters as `docs/deploy.md` says.
pub(crate) async fn update(stack: &Stack<'_>) {
    run(
        stack,
        "sam build && sam deploy --parameter-overrides InactivityWarning=false",
        &[("sam build && ", ""), ("sam deploy", &deploys_what_is_built())],
    )
    .await;
}

/// Whether a command only looks.
fn looks(command: &str) -> bool {
    if command.starts_with("sam logs") || command.starts_with("sam list") {
        return true;
    }
    let mut words = command.split_whitespace();
    let (tool, what) = (words.next(), words.nth(1).unwrap_or_default());
    tool == Some("aws")
        && ["describe-", "list-", "query", "scan", "receive-message"].iter().any(|verb| what.starts_with(verb))
}

/// Deploys as `docs/deploy.md` says, with what it leaves to the reader filled in.
pub(crate) async fn deploy(stack: &Stack<'_>, heads: &str, email: &str, secret_key: &str, more: &str) {
    let mut script = block("docs/deploy.md", "## Deploy");
    for (what, by) in [
        ("sam build\n", ""),
        ("sam deploy", deploys_what_is_built().as_str()),
        ("HeadIds=8eab5b23-024a-45cb-a0e1-9d3ffd6c9610", &format!("HeadIds={heads}")),
        ("jane@example.com", email),
        ("AlarmEmail=ops@example.com", &format!("AlarmEmail=ops@example.com {more}")),
    ] {
        assert!(script.contains(what), "docs/deploy.md does not have: {what}");
        script = script.replace(what, by);
    }
    assert_eq!(stack.name, "unith-webhooks", "samconfig.toml's");
    // The secret key is asked for, and then whether the changes are wanted.
    stack.emulator.run_with_input("bash", &["-euc", &script], &format!("{secret_key}\ny\n")).await.expect("sam deploy");
}

/// Runs every command of the documents that only looks, and every one that is given to `provision`.
pub(crate) async fn look_and_command(stack: &Stack<'_>, deployed: &Deployed<'_>) -> usize {
    let mut count = 0;
    for command in ["README.md", "docs/deploy.md", "docs/runbooks.md"].into_iter().flat_map(commands) {
        let is_invocation = command.starts_with("sam remote invoke Provision") || command.contains("aws lambda invoke");
        if !looks(&command) && !is_invocation {
            continue;
        }
        let mut filled = command.clone();
        let function = if is_invocation { "ProvisionFunction" } else { "ReceiveFunction" };
        for (name, output) in [("TABLE", "TableName"), ("FUNCTION", function), ("QUEUE", "DeadLetterQueue")] {
            filled = filled.replace(&format!(" {name}"), &format!(" {}", deployed.output(output)));
        }
        // Version 1 of the CLI, which pip has, looks for queues in the world, and takes no such format.
        if filled.starts_with("aws sqs ") {
            filled.push_str(" --endpoint-url $AWS_ENDPOINT_URL");
        }
        filled = filled.replace("--cli-binary-format raw-in-base64-out", "");
        let said = stack.emulator.run_with_input("bash", &["-euc", &filled], "").await;
        let said = said.unwrap_or_else(|error| panic!("{command}: {error}"));
        if is_invocation {
            // The AWS CLI prints something of its own behind it.
            let answer = serde_json::Deserializer::from_str(&said).into_iter::<Value>().next();
            let answer = answer.and_then(Result::ok).unwrap_or_else(|| panic!("{command}: {said}"));
            assert_eq!(answer["ok"], true, "{command}: {said}");
        }
        count += 1;
    }
    count
}

/// A new secret with the stack's ring in it, made as `docs/deploy.md` says; its ARN.
pub(crate) async fn copy_of_the_ring(stack: &Stack<'_>, ring: &str) -> String {
    let script = block("docs/deploy.md", "### Another table, another key ring").replace("RING", ring);
    stack.emulator.run_with_input("bash", &["-euc", &script], "").await.expect("a copy of the ring").trim().to_owned()
}

/// A new table with the keys of the template's; its ARN.
pub(crate) async fn like_the_table(stack: &Stack<'_>) -> String {
    let attributes = ["AttributeName=pk,AttributeType=S", "AttributeName=sk,AttributeType=S"];
    let keys = ["AttributeName=pk,KeyType=HASH", "AttributeName=sk,KeyType=RANGE"];
    let create = ["dynamodb", "create-table", "--table-name", "another-table", "--billing-mode", "PAY_PER_REQUEST"];
    let arguments = [&create[..], &["--attribute-definitions"], &attributes, &["--key-schema"], &keys].concat();
    stack.emulator.aws(&arguments).await["TableDescription"]["TableArn"].as_str().unwrap().to_owned()
}
