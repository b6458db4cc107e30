//! What is made, how it is named, and what outlives the stack.

use provision::command::Action;
use serde_json::Value;

use crate::template::{Template, short, text};

#[test]
fn nothing_has_a_fixed_name_so_that_two_stacks_fit_into_one_account() {
    // The properties that would fix one, wherever they stand as a resource's own.
    let names = [
        "TableName",
        "FunctionName",
        "RoleName",
        "PolicyName",
        "QueueName",
        "TopicName",
        "AlarmName",
        "DashboardName",
        "LogGroupName",
        "Name",
        "BucketName",
        "GroupName",
        "FilterName",
    ];
    for (id, resource) in Template::read().resources("") {
        // A filter names the group it reads, a record set the host it is for.
        let of_another =
            ["AWS::Logs::MetricFilter", "AWS::Route53::RecordSet"].contains(&resource["Type"].as_str().unwrap());
        let fixed: Vec<_> = names.iter().filter(|name| resource["Properties"].get(**name).is_some()).collect();
        assert!(fixed.is_empty() || of_another, "{id}: {fixed:?}");
        for name in fixed.into_iter().copied() {
            assert!(resource["Properties"][name].is_object(), "{id}: {name} is fixed");
        }
    }
}

#[test]
fn what_holds_data_says_what_becomes_of_it() {
    let template = Template::read();
    for kind in ["AWS::DynamoDB::Table", "AWS::SecretsManager::Secret", "AWS::Logs::LogGroup", "AWS::SQS::Queue"] {
        let wanted = if kind == "AWS::DynamoDB::Table" { "Retain" } else { "Delete" };
        assert!(template.resources(kind).count() > 0, "{kind}");
        for (id, resource) in template.resources(kind) {
            assert_eq!(resource["DeletionPolicy"], wanted, "{id}");
            assert_eq!(resource["UpdateReplacePolicy"], wanted, "{id}");
        }
    }
    let ring = &template.0["Resources"]["KeyRing"]["Properties"];
    assert!(ring.get("SecretString").is_none(), "an update of the secret could put this in the ring's place");
}

#[test]
fn every_log_is_kept_for_a_time_that_is_chosen() {
    let template = Template::read();
    for (id, group) in template.resources("AWS::Logs::LogGroup") {
        assert_eq!(short(&group["Properties"]["RetentionInDays"]), "LogRetentionDays", "{id}");
    }
    for (id, function) in template.resources("AWS::Serverless::Function") {
        assert_eq!(short(&function["Properties"]["LoggingConfig"]["LogGroup"]), format!("{id}Logs"), "{id}");
    }
}

#[test]
fn the_webhook_comes_after_all_that_a_delivery_needs() {
    let template = Template::read();
    let webhook = &template.0["Resources"]["Webhook"];
    assert_eq!(short(&webhook["DependsOn"]), "ReceiveDeliveryPermission, ApiApiGatewayDefaultStage");
    assert_eq!(webhook["Properties"]["ServiceTimeout"], 120);
    let timeout = template.0["Resources"]["Provision"]["Properties"]["Timeout"].as_u64().unwrap();
    assert!(timeout < 120, "CloudFormation would have given up before provision does");
    let after = short(&webhook["Properties"]["After"]);
    assert!(after.contains("DomainMapping") && after.contains("DomainAddress"), "{after}");
    assert_eq!(short(&template.0["Resources"]["Reconcile"]["DependsOn"]), "Webhook");
}

#[test]
fn the_table_is_the_one_the_store_writes_to() {
    let table = &Template::read().0["Resources"]["Events"]["Properties"];
    assert_eq!(table["BillingMode"], "PAY_PER_REQUEST");
    assert_eq!(table["StreamSpecification"]["StreamViewType"], "NEW_IMAGE");
    assert_eq!(table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"], true);
    assert_eq!(table["TimeToLiveSpecification"]["AttributeName"], "expires_at");
    let keys: Vec<_> = table["KeySchema"].as_array().unwrap().iter().map(|key| short(&key["AttributeName"])).collect();
    assert_eq!(keys, ["pk", "sk"]);
}

#[test]
fn the_functions_are_given_variables_that_the_readme_explains() {
    let template = Template::read();
    let readme = text("README.md");
    let mut count = 0;
    let global = &template.0["Globals"]["Function"];
    let functions = template.resources("AWS::Serverless::Function").map(|(_, function)| &function["Properties"]);
    for variables in functions.chain([global]).map(|properties| &properties["Environment"]["Variables"]) {
        for name in variables.as_object().unwrap().keys() {
            assert!(readme.contains(&format!("| `{name}` |")) || readme.contains(&format!("`{name}`, ")), "{name}");
            count += 1;
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn the_route_is_the_one_receive_answers() {
    let delivery = &Template::read().0["Resources"]["Receive"]["Properties"]["Events"]["Delivery"]["Properties"];
    assert_eq!(delivery["Path"], receive::WEBHOOK_PATH);
    assert_eq!(delivery["Method"], "POST");
    let template = text("template.yaml");
    let urls = template.lines().filter(|line| line.contains("https://${") && line.contains("/webhooks")).count();
    let right = template.lines().filter(|line| line.ends_with(&format!("}}{}", receive::WEBHOOK_PATH))).count();
    assert_eq!((urls, right), (6, 6), "the webhook's URL stands in three places, with and without a domain");
}

#[test]
fn commands_that_the_documents_name_exist() {
    let mut count = 0;
    for path in ["README.md", "docs/deploy.md", "docs/runbooks.md", "docs/security.md"] {
        for part in text(path).split(r#"{"action":""#).skip(1) {
            let name = part.split('"').next().unwrap();
            serde_json::from_value::<Action>(Value::from(name))
                .unwrap_or_else(|error| panic!("{path}: {name}: {error}"));
            count += 1;
        }
    }
    assert!(count > 5, "{count}");
}
