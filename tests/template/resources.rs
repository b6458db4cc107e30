//! What is made, how it is named, and what outlives the stack.

use std::collections::{BTreeMap, BTreeSet};

use provision::command::Action;
use serde_json::{Value, json};

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
    // A role's policies are its own.
    for (id, resource) in
        Template::read().resources("").filter(|(_, resource)| resource["Type"] != "AWS::IAM::RolePolicy")
    {
        // A filter names the group it reads, a record set the host it is for; a name made of the stack's is its own.
        for name in names.iter().filter(|name| resource["Properties"].get(**name).is_some()) {
            let value = &resource["Properties"][*name];
            let of_the_stack = value["Fn::Sub"].as_str().is_some_and(|name| name.ends_with("/${AWS::StackName}"));
            let of_another = value["Ref"].is_string();
            assert!(of_the_stack || of_another, "{id}: {name} is fixed");
        }
    }
}

#[test]
fn what_holds_data_says_what_becomes_of_it() {
    let template = Template::read();
    let kinds = [
        "AWS::DynamoDB::Table",
        "AWS::SecretsManager::Secret",
        "AWS::Logs::LogGroup",
        "AWS::SQS::Queue",
        "AWS::Events::EventBus",
    ];
    for kind in kinds {
        assert!(template.resources(kind).count() > 0, "{kind}");
        for (id, resource) in template.resources(kind) {
            let is_kept = ["Events", "KeyRing", "SpillQueue", "SpillDeadLetters"].contains(&id);
            let (deleted, replaced) = if is_kept { ("RetainExceptOnCreate", "Retain") } else { ("Delete", "Delete") };
            assert_eq!(
                (&resource["DeletionPolicy"], &resource["UpdateReplacePolicy"]),
                (&deleted.into(), &replaced.into()),
                "{id}"
            );
        }
    }
    let ring = template.0["Resources"]["KeyRing"]["Properties"].as_object().unwrap();
    let names: Vec<_> = ring.keys().collect();
    assert_eq!(
        names,
        ["Description", "KmsKeyId"],
        "with a value, an update of the secret could put it in the ring's place"
    );
}

#[test]
fn every_log_is_kept_for_a_time_that_is_chosen() {
    let template = Template::read();
    for (id, group) in template.resources("AWS::Logs::LogGroup") {
        assert_eq!(short(&group["Properties"]["RetentionInDays"]), "LogRetentionDays", "{id}");
    }
    for (id, function) in template.resources("AWS::Serverless::Function") {
        let logging = &function["Properties"]["LoggingConfig"];
        assert_eq!(short(&logging["LogGroup"]), format!("{id}Logs"), "{id}");
        // Of Lambda's own lines those about failures; of ours all that LOG_LEVEL lets through.
        let levels = ["LogFormat", "SystemLogLevel", "ApplicationLogLevel"].map(|name| short(&logging[name]));
        assert_eq!(levels, ["JSON", "WARN", "INFO"], "{id}");
    }
}

#[test]
fn the_webhook_comes_after_all_that_a_delivery_needs() {
    let template = Template::read();
    let webhook = &template.0["Resources"]["Webhook"];
    assert_eq!(short(&webhook["DependsOn"]), "ReceiveDeliveryPermission, ApiApiGatewayDefaultStage, RedriveSpilled");
    // The name that SAM gives to the mapping: function and event.
    assert!(!template.0["Resources"]["Redrive"]["Properties"]["Events"]["Spilled"].is_null());
    assert_eq!(webhook["Properties"]["ServiceTimeout"], provision::cloudformation::SERVICE_TIMEOUT_S);
    let timeout = template.0["Resources"]["Provision"]["Properties"]["Timeout"].as_u64().unwrap();
    assert_eq!(timeout, 600, "CloudFormation must not give up before provision does");
    // A scheduled run that fails is tried again after one and two minutes more, each of which may last for the whole
    // time-out. (Requests of CloudFormation's have an age of their own, which provision looks at.)
    let age = &template.0["Resources"]["Provision"]["Properties"]["EventInvokeConfig"]["MaximumEventAgeInSeconds"];
    assert!(age.as_u64().unwrap() > 2 * (timeout + 120), "{age}");
    assert_eq!(short(&webhook["Properties"]["KeyRing"]), "if CreateKeyRing: KeyRing, else KeyRingSecretArn");
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
    assert_eq!(table["TimeToLiveSpecification"], json!({"AttributeName": "expires_at", "Enabled": true}));
    let keys = json!([{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}]);
    assert_eq!(table["KeySchema"], keys);
    let types = json!([{"AttributeName": "pk", "AttributeType": "S"}, {"AttributeName": "sk", "AttributeType": "S"}]);
    assert_eq!(table["AttributeDefinitions"], types);
}

#[test]
fn a_key_of_ones_own_encrypts_all_that_is_kept() {
    let template = Template::read();
    // AWS's own key for secrets may not be there before the account's first secret: it is not named.
    let own = "if HasKmsKey: KmsKeyArn, else AWS::NoValue";
    for kind in ["AWS::SecretsManager::Secret", "AWS::Logs::LogGroup"] {
        for (id, resource) in template.resources(kind) {
            assert_eq!(short(&resource["Properties"]["KmsKeyId"]), own, "{id}");
        }
    }
    let key = json!({"SSEEnabled": true, "SSEType": "KMS", "KMSMasterKeyId": {"Ref": "KmsKeyArn"}});
    for (id, table) in template.resources("AWS::DynamoDB::Table") {
        let encryption = &table["Properties"]["SSESpecification"]["Fn::If"];
        assert_eq!(encryption, &json!(["HasKmsKey", key, {"Ref": "AWS::NoValue"}]), "{id}");
    }
    assert_eq!(short(&template.0["Resources"]["EventBus"]["Properties"]["KmsKeyIdentifier"]), own);
    for queue in ["SpillQueue", "SpillDeadLetters", "FailureQueue", "OrderedEvents"] {
        let queue = &template.0["Resources"][queue]["Properties"];
        assert_eq!(short(&queue["KmsMasterKeyId"]), own);
        assert_eq!(short(&queue["SqsManagedSseEnabled"]), "if HasKmsKey: false, else true");
    }
    // It holds no event.
    assert_eq!(template.0["Resources"]["DeadLetters"]["Properties"]["SqsManagedSseEnabled"], true);
    assert_eq!(template.resources("AWS::SQS::Queue").count(), 5);
}

/// An index that falls behind throttles the writes of its table, and then `receive` cannot store events.
#[test]
fn the_events_table_has_no_index() {
    let template = Template::read();
    let with_index = |(id, table): (&'static str, &Value)| -> Option<String> {
        let has = |name| table["Properties"].get(name).is_some();
        (has("GlobalSecondaryIndexes") || has("LocalSecondaryIndexes")).then(|| id.to_owned())
    };
    let tables = ["Events", "SessionsTable"].map(|id| (id, &template.0["Resources"][id]));
    assert_eq!(tables.into_iter().filter_map(with_index).collect::<Vec<_>>(), ["SessionsTable"]);
    let kinds = ["AWS::DynamoDB::Table", "AWS::DynamoDB::GlobalTable"];
    let all: Vec<_> = kinds.iter().flat_map(|kind| template.resources(kind)).map(|(id, _)| id).collect();
    assert_eq!(all, ["Events", "SessionsTable"], "every table is looked at");
}

/// DynamoDB throttles more than two readers per shard.
#[test]
fn the_stream_has_two_readers_at_most() {
    let template = Template::read();
    let mut readers = BTreeMap::new();
    for (id, function) in template.resources("AWS::Serverless::Function") {
        for event in function["Properties"]["Events"].as_object().into_iter().flatten().map(|(_, event)| event) {
            if ["HttpApi", "SQS"].iter().all(|other| event["Type"] != *other) {
                let line = format!("{} {}", short(&event["Type"]), short(&event["Properties"]["Stream"]));
                assert!(readers.insert(id, line).is_none(), "{id} reads twice");
            }
        }
    }
    let stream = "DynamoDB if HasTableStream: TableStreamArn, else Events.StreamArn".to_owned();
    assert_eq!(readers, BTreeMap::from([("Publish", stream.clone()), ("Sessions", stream)]));
    for kind in ["AWS::Lambda::EventSourceMapping", "AWS::Pipes::Pipe"] {
        assert_eq!(template.resources(kind).count(), 0, "{kind}");
    }
    let events = &template.0["Resources"]["Events"]["Properties"];
    assert!(events.get("KinesisStreamSpecification").is_none(), "a stream of another kind");
}

/// The most that Lambda hands to a function of a record's life in the stream, 24 hours.
const GIVEN_UP_S: u64 = 23 * 3600;

#[test]
fn readers_of_the_stream_get_new_events_until_they_take_them() {
    let template = Template::read();
    let resources = &template.0["Resources"];
    for (reader, own) in [
        ("Publish", json!({"BatchSize": 100, "ParallelizationFactor": 1})),
        ("Sessions", json!({"BatchSize": 1000, "ParallelizationFactor": 4, "MaximumBatchingWindowInSeconds": 1})),
    ] {
        let function = &resources[reader]["Properties"];
        let mut mapping = function["Events"]["Stored"]["Properties"].as_object().unwrap().clone();
        mapping.remove("Stream");
        let filters = mapping.remove("FilterCriteria").unwrap()["Filters"].clone();
        let pattern: Value = serde_json::from_str(filters[0]["Pattern"].as_str().unwrap()).expect("a filter is JSON");
        let keys = json!({"Keys": {"sk": {"S": [{"prefix": "EVENT#"}]}}});
        assert_eq!(pattern, json!({"eventName": ["INSERT"], "dynamodb": keys}), "{reader}");
        assert_eq!(filters.as_array().unwrap().len(), 1);
        let mut expected = json!({
            "StartingPosition": "TRIM_HORIZON",
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
            "BisectBatchOnFunctionError": true,
            "MaximumRetryAttempts": -1,
            "MaximumRecordAgeInSeconds": GIVEN_UP_S,
            "DestinationConfig": {"OnFailure": {"Type": "SQS", "Destination": {"Fn::GetAtt": "FailureQueue.Arn"}}},
        });
        expected.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        assert_eq!(Value::from(mapping), expected, "{reader}");
        assert_eq!(short(&function["Environment"]["Variables"]["FAILURE_QUEUE_URL"]), "FailureQueue");
        let timeout = function["Timeout"].as_u64().unwrap();
        assert!(timeout > 600, "a command works for up to 10 minutes");
    }
}

/// Sessions are kept by default; events are published when somebody asks for it.
#[test]
fn what_a_parameter_switches_off_does_not_exist() {
    let template = Template::read();
    let parameter = |name: &str| short(&template.0["Parameters"][name]["Default"]);
    assert_eq!(["SessionSummaries", "EventBusArn", "OrderedQueue"].map(parameter), ["true", "", ""]);
    let expected = [
        ("HasSessions", &["Sessions", "SessionsLogs", "SessionsRole", "SessionsTable"][..]),
        ("HasPublish", &["Publish", "PublishLogs", "PublishRole"]),
        ("CreateBus", &["EventBus"]),
        ("HasOrderedQueue", &["OrderedEvents", "OrderedEventsPolicy"]),
        ("HasStreamReader", &["FailureQueue", "FailureQueuePolicy"]),
    ];
    for (condition, ids) in expected {
        let others = template.resources("").filter(|(_, resource)| resource["Type"] != "AWS::CloudWatch::Alarm");
        let under: BTreeSet<_> =
            others.filter(|(_, resource)| resource["Condition"] == condition).map(|(id, _)| id).collect();
        assert_eq!(under, ids.iter().copied().collect(), "{condition}");
    }
    let condition = |name: &str| short(&template.0["Conditions"][name]);
    assert_eq!(condition("HasPublish"), "Fn::Or Condition HasBus, Condition HasOrderedQueue");
    assert_eq!(condition("HasStreamReader"), "Fn::Or Condition HasSessions, Condition HasPublish");
    assert_eq!(condition("HasBus"), "Fn::Not Fn::Equals EventBusArn, ");
    let variables = &template.0["Resources"]["Publish"]["Properties"]["Environment"]["Variables"];
    let bus = "if HasBus: if CreateBus: EventBus.Arn, else EventBusArn, else AWS::NoValue";
    assert_eq!(short(&variables["EVENT_BUS_ARN"]), bus);
    assert_eq!(short(&variables["ORDERED_QUEUE_URL"]), "if HasOrderedQueue: OrderedEvents, else AWS::NoValue");
}

#[test]
fn the_table_of_sessions_lists_them_by_head() {
    let template = Template::read();
    let table = &template.0["Resources"]["SessionsTable"]["Properties"];
    assert_eq!(table["BillingMode"], "PAY_PER_REQUEST");
    assert_eq!(table["TimeToLiveSpecification"], json!({"AttributeName": "expires_at", "Enabled": true}));
    let keys =
        |hash, range| json!([{"AttributeName": hash, "KeyType": "HASH"}, {"AttributeName": range, "KeyType": "RANGE"}]);
    assert_eq!(table["KeySchema"], keys("pk", "sk"));
    let indexes = table["GlobalSecondaryIndexes"].as_array().unwrap();
    assert_eq!((indexes.len(), &indexes[0]["IndexName"]), (1, &json!("by_head")));
    assert_eq!(indexes[0]["KeySchema"], keys("gpk", "gsk"));
    assert_eq!(indexes[0]["Projection"]["ProjectionType"], "INCLUDE");
    // What `list` reads. DynamoDB projects 20 attributes at most.
    assert_eq!(indexes[0]["Projection"]["NonKeyAttributes"], json!(sessions::item::INDEXED));
    assert!(table.get("StreamSpecification").is_none(), "nobody reads it");
}

#[test]
fn the_fifo_queue_orders_each_session_by_itself() {
    let queue = &Template::read().0["Resources"]["OrderedEvents"]["Properties"];
    assert_eq!(queue["FifoQueue"], true);
    assert_eq!(
        (&queue["DeduplicationScope"], &queue["FifoThroughputLimit"]),
        (&json!("messageGroup"), &json!("perMessageGroupId"))
    );
    assert_eq!(
        (&queue["MaximumMessageSize"], &queue["MessageRetentionPeriod"]),
        (&json!(1_048_576), &json!(14 * 24 * 3600))
    );
    // It would break the order of a session.
    assert!(queue.get("RedrivePolicy").is_none());
    // `publish` sets the id, because a replay must not count as a duplicate.
    assert!(queue.get("ContentBasedDeduplication").is_none());
}

/// The longest body that `receive` takes.
const MAX_BODY_BYTES: u64 = 256 * 1024;

#[test]
fn the_spill_queue_keeps_every_delivery_as_long_as_sqs_can() {
    let template = Template::read();
    let resources = &template.0["Resources"];
    for queue in ["SpillQueue", "SpillDeadLetters"] {
        let queue = &resources[queue]["Properties"];
        let bytes = queue["MaximumMessageSize"].as_u64().unwrap();
        assert_eq!(bytes, 1_048_576);
        assert!(bytes > MAX_BODY_BYTES * 4 / 3 + 4096, "a body in base64, and the members around it");
        assert_eq!(queue["MessageRetentionPeriod"], 14 * 24 * 3600);
    }
    let queue = &resources["SpillQueue"]["Properties"];
    let timeout = resources["Redrive"]["Properties"]["Timeout"].as_u64().unwrap();
    assert_eq!(queue["VisibilityTimeout"].as_u64().unwrap(), 6 * timeout);
    assert!(timeout > 600, "a command works for up to 10 minutes");
    assert_eq!(short(&queue["RedrivePolicy"]["deadLetterTargetArn"]), "SpillDeadLetters.Arn");
    assert_eq!(queue["RedrivePolicy"]["maxReceiveCount"], 1000);
}

#[test]
fn redrive_gets_what_is_spilled_in_batches_whose_messages_fail_one_by_one() {
    let template = Template::read();
    let redrive = &template.0["Resources"]["Redrive"]["Properties"];
    let mapping = &redrive["Events"]["Spilled"]["Properties"];
    assert_eq!(
        mapping,
        &json!({
            "Queue": {"Fn::GetAtt": "SpillQueue.Arn"},
            "BatchSize": 10,
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
            "ScalingConfig": {"MaximumConcurrency": 10},
        })
    );
    let variables = &redrive["Environment"]["Variables"];
    assert_eq!(short(&variables["SPILL_QUEUE_URL"]), "SpillQueue");
    assert_eq!(short(&variables["DEAD_LETTER_QUEUE_URL"]), "SpillDeadLetters");
    let receive = &template.0["Resources"]["Receive"]["Properties"]["Environment"]["Variables"];
    for name in ["TABLE_NAME", "RETENTION_DAYS"] {
        assert_eq!(variables[name], receive[name], "both store events in the same way");
    }
    assert_eq!(short(&receive["SPILL_QUEUE_URL"]), "if HasSpill: SpillQueue, else AWS::NoValue");
    assert_eq!(template.0["Parameters"]["SpillToQueue"]["Default"], "true");
    // What waits in the queue is stored with SpillToQueue=false too.
    for id in ["Redrive", "SpillQueue", "SpillDeadLetters", "SpillQueuePolicy", "ReceiveQueuePolicy"] {
        assert!(template.0["Resources"][id].get("Condition").is_none(), "{id}");
    }
}

#[test]
fn the_schedule_runs_provision_and_what_fails_for_good_is_kept() {
    let template = Template::read();
    let target = &template.0["Resources"]["Reconcile"]["Properties"]["Target"];
    assert_eq!(short(&target["Arn"]), "Provision.Arn");
    assert_eq!(short(&target["DeadLetterConfig"]["Arn"]), "DeadLetters.Arn");
    let schedule = &template.0["Resources"]["Reconcile"];
    assert_eq!(schedule["DependsOn"], "Webhook", "a rate begins with a run as soon as the schedule is created");
    assert!(target.get("Input").is_none(), "with one it would be a command, whose failure is a result");
    let failed =
        &template.0["Resources"]["Provision"]["Properties"]["EventInvokeConfig"]["DestinationConfig"]["OnFailure"];
    assert_eq!((&failed["Type"], short(&failed["Destination"]).as_str()), (&json!("SQS"), "DeadLetters.Arn"));
}

#[test]
fn functions_run_where_they_are_built_for_and_are_traced() {
    let function = &Template::read().0["Globals"]["Function"];
    assert_eq!((&function["Runtime"], &function["Handler"]), (&json!("provided.al2023"), &json!("bootstrap")));
    assert_eq!(
        (short(&function["Architectures"]).as_str(), short(&function["Tracing"]).as_str()),
        ("Architecture", "Tracing")
    );
    let template = Template::read();
    assert_eq!(template.0["Parameters"]["Architecture"]["Default"], "arm64");
    assert_eq!(template.0["Parameters"]["Tracing"]["Default"], "PassThrough", "traces cost more than all the rest");
}

#[test]
fn every_function_is_built_by_sam_and_compared_by_the_gate() {
    let template = Template::read();
    let functions: BTreeSet<_> = template.resources("AWS::Serverless::Function").map(|(id, _)| id.to_owned()).collect();
    for architecture in ["arm64", "x86_64"] {
        let makefile = text(&format!("functions/build/{architecture}/Makefile"));
        let targets = makefile.lines().find_map(|line| line.strip_suffix(':')).unwrap();
        let built: BTreeSet<_> = targets.split(' ').map(|target| target.replacen("build-", "", 1)).collect();
        assert_eq!(built, functions, "{architecture}");
    }
    let gate = text(".ci/run");
    let compared = gate.lines().find_map(|line| line.trim().strip_prefix("for name in Receive ")).unwrap();
    let compared = compared.trim_end_matches("; do").split(' ').chain(["Receive"]).map(str::to_owned);
    assert_eq!(compared.collect::<BTreeSet<_>>(), functions);
}

#[test]
fn the_functions_are_given_variables_that_the_reference_explains() {
    let template = Template::read();
    let reference = text("docs/reference.md");
    let mut count = 0;
    let global = &template.0["Globals"]["Function"];
    let functions = template.resources("AWS::Serverless::Function").map(|(_, function)| &function["Properties"]);
    for variables in functions.chain([global]).map(|properties| &properties["Environment"]["Variables"]) {
        for name in variables.as_object().unwrap().keys() {
            assert!(
                reference.contains(&format!("| `{name}` |")) || reference.contains(&format!("`{name}`, ")),
                "{name}"
            );
            count += 1;
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn the_route_is_the_one_receive_answers() {
    let delivery = &Template::read().0["Resources"]["Receive"]["Properties"]["Events"]["Delivery"]["Properties"];
    assert_eq!(delivery["Path"], receive::gateway::WEBHOOK_PATH);
    assert_eq!(delivery["Method"], "POST");
    let template = text("template.yaml");
    let urls = template.lines().filter(|line| line.contains("https://${") && line.contains("/webhooks")).count();
    let right =
        template.lines().filter(|line| line.ends_with(&format!("}}{}", receive::gateway::WEBHOOK_PATH))).count();
    assert_eq!((urls, right), (6, 6), "the webhook's URL stands in three places, with and without a domain");
}

/// Whether a function has the command: it is then parsed with the members that it needs.
fn is_command(name: &str) -> bool {
    let session = json!({"action": name, "head_id": "h", "session_id": "s"});
    serde_json::from_value::<Action>(Value::from(name)).is_ok()
        || redrive::command::Command::parse(json!({"action": name, "day": "2026-11-25"})).is_ok()
        || publish::command::Command::parse(session.clone()).is_ok()
        || sessions::command::Command::parse(session).is_ok()
        || sessions::command::Command::parse(json!({"action": name, "head_id": "h"})).is_ok()
}

#[test]
fn commands_that_the_documents_name_exist() {
    let mut count = 0;
    for path in [
        "README.md",
        "docs/reference.md",
        "docs/local.md",
        "docs/deploy.md",
        "docs/runbooks.md",
        "docs/security.md",
        "docs/events.md",
        "docs/sessions.md",
    ] {
        for part in text(path).split(r#"{"action":""#).skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(is_command(name), "{path}: no function has the command {name}");
            count += 1;
        }
    }
    assert!(count > 5, "{count}");
}

/// Commands and the schedule are to the ring what the custom resource is.
#[test]
fn the_owner_of_commands_is_the_custom_resource() {
    let template = Template::read();
    let owner = &template.0["Resources"]["Provision"]["Properties"]["Environment"]["Variables"]["OWNER"];
    let (text, parts) = (owner["Fn::Sub"][0].as_str().unwrap(), &owner["Fn::Sub"][1]);
    let webhooks: Vec<_> = template.resources("Custom::UnithWebhook").map(|(id, _)| id).collect();
    assert_eq!(webhooks, ["Webhook"]);
    assert_eq!(text, "Webhook@${Stack}");
    // The last part of arn:aws:cloudformation:<region>:<account>:stack/<name>/<GUID>.
    assert_eq!(parts["Stack"], json!({"Fn::Select": [2, {"Fn::Split": ["/", {"Ref": "AWS::StackId"}]}]}));
}
