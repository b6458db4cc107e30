//! A stack that is deployed with `sam`, and inspected with the AWS CLI and SDK.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::Value;
use tests::{
    repository::repository,
    table::{Item, text},
    wait::{until, within},
};
use unith_events::{key_ring::KeyRing, timestamp::Timestamp};

use crate::emulator::Emulator;

/// The build folder of `sam build`.
///
/// It is not SAM's default: from there, a user's `sam deploy` would take a build for this machine.
pub(crate) const BUILT: &str = "target/deploy/sam";
const PATIENCE: Duration = Duration::from_mins(3);

/// A stack by name.
pub(crate) struct Stack<'e> {
    pub(crate) name: &'static str,
    pub(crate) emulator: &'e Emulator,
}

/// A deployed stack and its outputs.
pub(crate) struct Deployed<'e> {
    name: &'static str,
    emulator: &'e Emulator,
    outputs: BTreeMap<String, String>,
}

impl<'e> Stack<'e> {
    pub(crate) fn new(name: &'static str, emulator: &'e Emulator) -> Self {
        let template = format!("{BUILT}/template.yaml");
        let how = format!("run `sam build --build-dir {BUILT} --parameter-overrides Architecture=x86_64` first");
        assert!(repository(&template).exists(), "{template} is missing: {how}");
        Self { name, emulator }
    }

    /// `sam deploy` with these parameters; the others keep their values. Returns the output if it fails.
    pub(crate) async fn deploy(&self, parameters: &[(&str, &str)]) -> Result<(), String> {
        self.deploy_template("template.yaml", parameters).await
    }

    /// The same with another template in the build folder.
    pub(crate) async fn deploy_template(&self, template: &str, parameters: &[(&str, &str)]) -> Result<(), String> {
        let overrides: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let template = format!("{BUILT}/{template}");
        // By default, SAM looks for it beside the template.
        let defaults = repository("samconfig.toml").display().to_string();
        let mut arguments = vec!["deploy", "--template-file", &template, "--config-file", &defaults];
        arguments.extend(["--stack-name", self.name, "--no-confirm-changeset", "--parameter-overrides"]);
        arguments.extend(overrides.iter().map(String::as_str));
        let output = self.emulator.run("sam", &arguments).await;
        let printed = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(()) } else { Err(printed) }
    }

    /// The status; `None` if the stack does not exist.
    pub(crate) async fn status(&self) -> Option<String> {
        let stacks = self.emulator.try_aws(&["cloudformation", "describe-stacks", "--stack-name", self.name]).await;
        Some(stacks.ok()?["Stacks"][0]["StackStatus"].as_str().unwrap().to_owned())
    }

    /// The ARN.
    pub(crate) async fn id(&self) -> String {
        let stacks = self.emulator.aws(&["cloudformation", "describe-stacks", "--stack-name", self.name]).await;
        stacks["Stacks"][0]["StackId"].as_str().unwrap().to_owned()
    }

    /// The physical id of a resource, by its logical one.
    pub(crate) async fn physical_id(&self, logical_id: &str) -> String {
        let list = ["cloudformation", "list-stack-resources", "--stack-name", self.name];
        let resources = self.emulator.aws(&list).await;
        let mut resources = resources["StackResourceSummaries"].as_array().unwrap().iter();
        let found = resources.find(|resource| resource["LogicalResourceId"] == logical_id);
        let found = found.unwrap_or_else(|| panic!("the stack has no resource {logical_id}"));
        found["PhysicalResourceId"].as_str().unwrap().to_owned()
    }

    /// The reason of the webhook's last failure, which `sam deploy` prints in a narrow column.
    pub(crate) async fn webhook_failure(&self) -> String {
        self.failure_of("Webhook").await
    }

    /// The reason of the last failure of a resource, by the beginning of its logical id.
    pub(crate) async fn failure_of(&self, logical_id: &str) -> String {
        let events = [self.events("UPDATE_FAILED").await, self.events("CREATE_FAILED").await].concat();
        let is_it = |event: &&Value| event["LogicalResourceId"].as_str().unwrap().starts_with(logical_id);
        let failed = events.iter().find(is_it).unwrap_or_else(|| panic!("{logical_id} has not failed: {events:?}"));
        failed["ResourceStatusReason"].as_str().unwrap().to_owned()
    }

    /// The stack with its outputs.
    pub(crate) async fn deployed(&self) -> Deployed<'e> {
        let stacks = self.emulator.aws(&["cloudformation", "describe-stacks", "--stack-name", self.name]).await;
        let outputs = stacks["Stacks"][0]["Outputs"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Deployed {
            name: self.name,
            emulator: self.emulator,
            outputs: outputs.iter().map(|output| (text(&output["OutputKey"]), text(&output["OutputValue"]))).collect(),
        }
    }

    /// Deletes the stack, and waits until it is gone.
    pub(crate) async fn delete(&self) {
        self.emulator.aws(&["cloudformation", "delete-stack", "--stack-name", self.name]).await;
        self.wait_until_deleted().await;
    }

    /// Waits until the stack and its resources are gone.
    pub(crate) async fn wait_until_deleted(&self) {
        let is_deleted = async || {
            let Some(status) = self.status().await.filter(|status| status != "DELETE_COMPLETE") else { return true };
            assert_eq!(status, "DELETE_IN_PROGRESS", "{}", self.name);
            false
        };
        within(PATIENCE, until(is_deleted)).await;
        // MiniStack reports a stack as deleted even if its resources are not.
        let failed: Vec<_> = self.events("DELETE_FAILED").await;
        assert!(failed.is_empty(), "{failed:?}");
    }

    async fn events(&self, status: &str) -> Vec<Value> {
        let events = self.emulator.aws(&["cloudformation", "describe-stack-events", "--stack-name", self.name]).await;
        let events = events["StackEvents"].as_array().unwrap().iter();
        events.filter(|event| event["ResourceStatus"] == status).cloned().collect()
    }
}

/// The host of an https URL.
pub(crate) fn host(url: &str) -> &str {
    url.strip_prefix("https://").unwrap().split('/').next().unwrap()
}

impl Deployed<'_> {
    pub(crate) fn output(&self, name: &str) -> &str {
        self.outputs.get(name).unwrap_or_else(|| panic!("no output {name}: {:?}", self.outputs))
    }

    pub(crate) fn has_output(&self, name: &str) -> bool {
        self.outputs.contains_key(name)
    }

    /// The host in the API's URL, and the base URL of that host on this machine.
    pub(crate) fn api(&self) -> (String, String) {
        (host(self.output("WebhookUrl")).to_owned(), self.emulator.api(self.output("ApiId")))
    }

    /// Invokes `provision` as an operator does.
    pub(crate) async fn invoke(&self, input: Value) -> Value {
        self.invoke_function("Provision", input).await
    }

    /// Invokes a function, by its logical id, as an operator does.
    pub(crate) async fn invoke_function(&self, function: &str, input: Value) -> Value {
        let input = input.to_string();
        let invoke = ["remote", "invoke", function, "--stack-name", self.name, "--event", &input];
        let output = self.emulator.run("sam", &invoke).await;
        let result = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{result}{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&result).unwrap_or_else(|error| panic!("{error}: {result}"))
    }

    /// Sets a variable of `provision` that the template does not set.
    pub(crate) async fn set_variable_of_provision(&self, name: &str, value: &str) {
        let function = self.output("ProvisionFunction");
        let configuration = ["lambda", "get-function-configuration", "--function-name", function];
        let mut environment = self.emulator.aws(&configuration).await["Environment"].clone();
        environment["Variables"][name] = value.into();
        let environment = environment.to_string();
        let update =
            ["lambda", "update-function-configuration", "--function-name", function, "--environment", &environment];
        self.emulator.aws(&update).await;
    }

    /// The version of `receive` behind the alias `live`.
    pub(crate) async fn live_version(&self) -> Value {
        let name = self.output("ReceiveFunction");
        self.emulator.aws(&["lambda", "get-alias", "--function-name", name, "--name", "live"]).await["FunctionVersion"]
            .clone()
    }

    /// The number of messages in the spill queue, and in its dead-letter queue.
    pub(crate) async fn spilled(&self) -> [u32; 2] {
        let mut counts = [0; 2];
        for (count, output) in counts.iter_mut().zip(["SpillQueueUrl", "SpillDeadLetterQueueUrl"]) {
            let names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
            let get = ["sqs", "get-queue-attributes", "--queue-url", self.output(output), "--attribute-names"];
            let attributes = self.emulator.aws(&[&get[..], &names].concat()).await["Attributes"].clone();
            *count = names.iter().map(|name| attributes[name].as_str().unwrap().parse::<u32>().unwrap()).sum();
        }
        counts
    }

    /// Switches an event source mapping on or off.
    pub(crate) async fn enable_mapping(&self, id: &str, enabled: bool) {
        let switch = if enabled { "--enabled" } else { "--no-enabled" };
        self.emulator.aws(&["lambda", "update-event-source-mapping", "--uuid", id, switch]).await;
    }

    /// The items of the table, each as text, sorted.
    pub(crate) async fn items(&self) -> Vec<String> {
        let client = sandbox::clients::dynamodb_client(self.emulator.url()).unwrap();
        let scan = client.scan().table_name(self.output("TableName")).consistent_read(true);
        let items = scan.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await.unwrap();
        let text = |item: &Item, name| text(item, name).to_owned();
        let mut items: Vec<_> = items
            .iter()
            .map(|item| format!("{} {} {}", text(item, "pk"), text(item, "sk"), text(item, "event_id")))
            .collect();
        items.sort();
        items
    }

    /// The row of a session in the sessions table, which is read consistently.
    pub(crate) async fn row(&self, head: &str, session: &str) -> Option<Item> {
        let client = sandbox::clients::dynamodb_client(self.emulator.url()).unwrap();
        let get = client.get_item().table_name(self.output("SessionsTableName")).consistent_read(true);
        let pk = format!("SESSION#{head}#{session}");
        get.key("pk", AttributeValue::S(pk))
            .key("sk", AttributeValue::S("SESSION".to_owned()))
            .send()
            .await
            .unwrap()
            .item
    }

    /// Deletes the row of a session.
    pub(crate) async fn delete_row(&self, head: &str, session: &str) {
        let client = sandbox::clients::dynamodb_client(self.emulator.url()).unwrap();
        let delete = client.delete_item().table_name(self.output("SessionsTableName"));
        let pk = format!("SESSION#{head}#{session}");
        delete
            .key("pk", AttributeValue::S(pk))
            .key("sk", AttributeValue::S("SESSION".to_owned()))
            .send()
            .await
            .unwrap();
    }

    /// Waits until the log of a function, by the output with its group, has a line with these words.
    pub(crate) async fn wait_for_log(&self, output: &str, words: &str) {
        let begin = Timestamp::from_epoch_milliseconds(0).unwrap();
        within(PATIENCE, until(async || !self.logged_since(output, words, begin).await.is_empty())).await;
    }

    /// The lines with these words in the log of a function, from an instant on.
    pub(crate) async fn logged_since(&self, output: &str, words: &str, begin: Timestamp) -> Vec<Value> {
        let (pattern, begin) = (format!("\"{words}\""), begin.epoch_milliseconds().to_string());
        let filter =
            ["logs", "filter-log-events", "--log-group-name", self.output(output), "--filter-pattern", &pattern];
        let lines = self.emulator.aws(&[&filter[..], &["--start-time", &begin]].concat()).await;
        lines["events"].as_array().unwrap().clone()
    }

    /// The number of versions of the key ring's secret.
    pub(crate) async fn ring_versions(&self) -> usize {
        let ring = self.output("KeyRingSecret");
        let list = ["secretsmanager", "list-secret-version-ids", "--include-deprecated", "--secret-id", ring];
        self.emulator.aws(&list).await["Versions"].as_array().unwrap().len()
    }

    /// The key ring.
    pub(crate) async fn ring(&self) -> KeyRing {
        let client = sandbox::clients::secrets_client(self.emulator.url()).unwrap();
        let value = client.get_secret_value().secret_id(self.output("KeyRingSecret")).send().await.unwrap();
        KeyRing::parse(value.secret_string().unwrap()).unwrap()
    }
}
