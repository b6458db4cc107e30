//! Who may do what: every IAM statement there is, and none that allows more than it names.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::template::{Template, repository, short, text};

/// A statement of a role, by where it stands.
struct Statement<'t> {
    role: &'t str,
    statement: &'t Value,
}

impl Statement<'_> {
    fn sid(&self) -> &str {
        self.statement["Sid"].as_str().unwrap_or_else(|| panic!("{} has a statement without a Sid", self.role))
    }

    fn line(&self) -> String {
        let Self { role, statement } = self;
        let condition = statement.get("Condition").map(|condition| format!(" [{}]", short(condition)));
        let (action, resource) = (short(&statement["Action"]), short(&statement["Resource"]));
        format!("{role} {}: {action} on {resource}{}", self.sid(), condition.unwrap_or_default())
    }

    /// What it allows beyond what it names.
    fn wildcards(&self) -> Vec<String> {
        // X-Ray has no resources that a policy could name.
        let traces = json!(["xray:PutTraceSegments", "xray:PutTelemetryRecords"]);
        let star = |what: &Value| short(what).contains('*');
        let mut found = Vec::new();
        for part in ["NotAction", "NotResource", "NotPrincipal"] {
            if self.statement.get(part).is_some() {
                found.push(format!("{part} allows all the rest"));
            }
        }
        if star(&self.statement["Action"]) {
            found.push("a wildcard among its actions".to_owned());
        }
        // Lambda requires this one, and it is a permission on all streams of one table.
        let streams = self.statement["Action"] == "dynamodb:ListStreams"
            && short(&self.statement["Resource"]) == STREAMS_OF_THE_TABLE;
        if star(&self.statement["Resource"]) && self.statement["Action"] != traces && !streams {
            found.push("a wildcard among its resources".to_owned());
        }
        if self.statement["Effect"] != "Allow" || self.statement.get("Resource").is_none() {
            found.push("it is no plain Allow of something on something".to_owned());
        }
        found
    }
}

const STREAMS_OF_THE_TABLE: &str = "${Arn}/stream/*, Arn if CreateTable: Events.Arn, else TableArn";

fn statements(template: &Template) -> Vec<Statement<'_>> {
    let inline = template.resources("AWS::IAM::Role").flat_map(|(role, resource)| {
        resource["Properties"]["Policies"].as_array().into_iter().flatten().map(move |policy| (role, policy))
    });
    let of_their_own = template.resources("AWS::IAM::RolePolicy").map(|(_, policy)| {
        let properties = &policy["Properties"];
        (properties["RoleName"]["Ref"].as_str().unwrap(), properties)
    });
    let mut all = Vec::new();
    for (role, policy) in inline.chain(of_their_own) {
        for statement in policy["PolicyDocument"]["Statement"].as_array().unwrap() {
            // A statement under a condition counts whichever way the condition goes.
            let either = statement["Fn::If"].as_array().map_or(vec![statement], |parts| vec![&parts[1], &parts[2]]);
            let there = either.into_iter().filter(|statement| statement["Ref"] != "AWS::NoValue");
            all.extend(there.map(|statement| Statement { role, statement }));
        }
    }
    all
}

#[test]
fn every_statement_is_listed_here() {
    let lines: Vec<_> = ["ReceiveRole", "RedriveRole", "PublishRole", "SessionsRole", "ProvisionRole", "ReconcileRole"]
        .into_iter()
        .flat_map(|role| {
            statements(&Template::read()).iter().filter(|s| s.role == role).map(Statement::line).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(
        lines,
        [
            "ReceiveRole WriteLogs: logs:CreateLogStream, logs:PutLogEvents on ReceiveLogs.Arn",
            "ReceiveRole WriteTraces: xray:PutTraceSegments, xray:PutTelemetryRecords on *",
            "ReceiveRole UseKey: kms:Decrypt on KmsKeyArn [StringEquals kms:ViaService \
             dynamodb.${AWS::Region}.${AWS::URLSuffix}, secretsmanager.${AWS::Region}.${AWS::URLSuffix}]",
            "ReceiveRole UseKeyForQueue: kms:Decrypt, kms:GenerateDataKey on KmsKeyArn [StringEquals kms:ViaService \
             sqs.${AWS::Region}.${AWS::URLSuffix}]",
            "ReceiveRole SpillEvents: sqs:SendMessage, sqs:GetQueueAttributes on SpillQueue.Arn",
            "ReceiveRole ReadKeyRing: secretsmanager:GetSecretValue on if CreateKeyRing: KeyRing, else KeyRingSecretArn",
            "ReceiveRole WriteEvents: dynamodb:PutItem on if CreateTable: Events.Arn, else TableArn \
             [ForAllValues:StringLike dynamodb:LeadingKeys SESSION#*, QUARANTINE#*]",
            "RedriveRole WriteEvents: dynamodb:PutItem on if CreateTable: Events.Arn, else TableArn \
             [ForAllValues:StringLike dynamodb:LeadingKeys SESSION#*, QUARANTINE#*]",
            "RedriveRole RetryQuarantine: dynamodb:Query, dynamodb:DeleteItem on \
             if CreateTable: Events.Arn, else TableArn [ForAllValues:StringLike dynamodb:LeadingKeys QUARANTINE#*]",
            "RedriveRole TakeSpilled: sqs:ReceiveMessage, sqs:DeleteMessage, sqs:ChangeMessageVisibility, \
             sqs:GetQueueAttributes on SpillQueue.Arn",
            "RedriveRole SendQuarantined: sqs:SendMessage on SpillQueue.Arn",
            "RedriveRole SendDeadLetters: sqs:SendMessage on SpillDeadLetters.Arn",
            "RedriveRole WriteLogs: logs:CreateLogStream, logs:PutLogEvents on RedriveLogs.Arn",
            "RedriveRole WriteTraces: xray:PutTraceSegments, xray:PutTelemetryRecords on *",
            "RedriveRole UseKey: kms:Decrypt on KmsKeyArn [StringEquals kms:ViaService \
             dynamodb.${AWS::Region}.${AWS::URLSuffix}]",
            "RedriveRole UseKeyForQueue: kms:Decrypt, kms:GenerateDataKey on KmsKeyArn [StringEquals kms:ViaService \
             sqs.${AWS::Region}.${AWS::URLSuffix}]",
            "PublishRole ReadStream: dynamodb:DescribeStream, dynamodb:GetRecords, dynamodb:GetShardIterator on \
             if HasTableStream: TableStreamArn, else Events.StreamArn",
            "PublishRole ListStreams: dynamodb:ListStreams on ${Arn}/stream/*, \
             Arn if CreateTable: Events.Arn, else TableArn",
            "PublishRole ReadSessions: dynamodb:Query on if CreateTable: Events.Arn, else TableArn \
             [ForAllValues:StringLike dynamodb:LeadingKeys SESSION#*]",
            "PublishRole ScanEvents: dynamodb:Scan on if CreateTable: Events.Arn, else TableArn",
            "PublishRole PutEvents: events:PutEvents, events:DescribeEventBus on \
             if CreateBus: EventBus.Arn, else EventBusArn",
            "PublishRole SendOrdered: sqs:SendMessage on OrderedEvents.Arn",
            "PublishRole LeaveFailures: sqs:SendMessage on FailureQueue.Arn",
            "PublishRole WriteLogs: logs:CreateLogStream, logs:PutLogEvents on PublishLogs.Arn",
            "PublishRole WriteTraces: xray:PutTraceSegments, xray:PutTelemetryRecords on *",
            "PublishRole UseKey: kms:Decrypt on KmsKeyArn [StringEquals kms:ViaService \
             dynamodb.${AWS::Region}.${AWS::URLSuffix}]",
            "PublishRole UseKeyForQueue: kms:Decrypt, kms:GenerateDataKey on KmsKeyArn [StringEquals kms:ViaService \
             sqs.${AWS::Region}.${AWS::URLSuffix}]",
            "SessionsRole ReadStream: dynamodb:DescribeStream, dynamodb:GetRecords, dynamodb:GetShardIterator on \
             if HasTableStream: TableStreamArn, else Events.StreamArn",
            "SessionsRole ListStreams: dynamodb:ListStreams on ${Arn}/stream/*, \
             Arn if CreateTable: Events.Arn, else TableArn",
            "SessionsRole ReadSessions: dynamodb:Query on if CreateTable: Events.Arn, else TableArn \
             [ForAllValues:StringLike dynamodb:LeadingKeys SESSION#*]",
            "SessionsRole ScanEvents: dynamodb:Scan on if CreateTable: Events.Arn, else TableArn",
            "SessionsRole KeepSummaries: dynamodb:PutItem, dynamodb:GetItem, dynamodb:DeleteItem on SessionsTable.Arn \
             [ForAllValues:StringLike dynamodb:LeadingKeys SESSION#*]",
            "SessionsRole ListSummaries: dynamodb:Query on ${SessionsTable.Arn}/index/by_head",
            "SessionsRole LeaveFailures: sqs:SendMessage on FailureQueue.Arn",
            "SessionsRole WriteLogs: logs:CreateLogStream, logs:PutLogEvents on SessionsLogs.Arn",
            "SessionsRole WriteTraces: xray:PutTraceSegments, xray:PutTelemetryRecords on *",
            "SessionsRole UseKey: kms:Decrypt on KmsKeyArn [StringEquals kms:ViaService \
             dynamodb.${AWS::Region}.${AWS::URLSuffix}]",
            "SessionsRole UseKeyForQueue: kms:Decrypt, kms:GenerateDataKey on KmsKeyArn [StringEquals kms:ViaService \
             sqs.${AWS::Region}.${AWS::URLSuffix}]",
            "ProvisionRole ReadAndWriteKeyRing: secretsmanager:GetSecretValue, secretsmanager:PutSecretValue on \
             if CreateKeyRing: KeyRing, else KeyRingSecretArn",
            "ProvisionRole ReadCredentials: secretsmanager:GetSecretValue on \
             if CreateCredentials: Credentials, else CredentialsSecretArn",
            "ProvisionRole LeaveDeadLetters: sqs:SendMessage on DeadLetters.Arn",
            "ProvisionRole WriteLogs: logs:CreateLogStream, logs:PutLogEvents on ProvisionLogs.Arn",
            "ProvisionRole WriteTraces: xray:PutTraceSegments, xray:PutTelemetryRecords on *",
            "ProvisionRole UseKey: kms:Decrypt, kms:GenerateDataKey on KmsKeyArn [StringEquals kms:ViaService \
             secretsmanager.${AWS::Region}.${AWS::URLSuffix}]",
            "ReconcileRole RunProvision: lambda:InvokeFunction on Provision.Arn",
            "ReconcileRole LeaveDeadLetters: sqs:SendMessage on DeadLetters.Arn",
        ]
    );
    assert_eq!(lines.len(), statements(&Template::read()).len(), "a role that is not looked at");
}

#[test]
fn no_statement_allows_more_than_it_names() {
    for statement in statements(&Template::read()) {
        assert_eq!(statement.wildcards(), Vec::<String>::new(), "{}", statement.line());
    }
}

/// The one wildcard that names nothing.
#[test]
fn traces_may_be_written_only_where_they_are_taken() {
    let template = Template::read();
    let resources = &template.0["Resources"];
    let names = ["ReceiveKeyPolicy", "ProvisionRole", "RedriveRole", "PublishRole", "SessionsRole"];
    let roles = names.map(|name| resources[name].to_string());
    let under_condition = r#"{"Fn::If":["HasTracing",{"Action":["xray:PutTraceSegments","xray:PutTelemetryRecords"]"#;
    for role in roles {
        assert_eq!((role.matches("xray:PutTraceSegments").count(), role.matches(under_condition).count()), (1, 1));
    }
    assert_eq!(
        short(&template.0["Conditions"]["HasTracing"]),
        short(&json!({"Fn::Equals": [{"Ref": "Tracing"}, "Active"]}))
    );
}

/// A policy's name cannot be changed, so that another one is made before the old one goes.
#[test]
fn another_table_ring_or_key_brings_a_policy_of_its_own() {
    let template = Template::read();
    let parameters = ["TableArn", "KeyRingSecretArn", "KmsKeyArn"];
    let named = |value: &Value| -> BTreeSet<&str> {
        let text = value.to_string();
        parameters.into_iter().filter(|name| text.contains(&format!(r#"{{"Ref":"{name}"}}"#))).collect()
    };
    let mut found = BTreeSet::new();
    let mut policies = Vec::new();
    for (id, policy) in template.resources("AWS::IAM::RolePolicy") {
        let properties = &policy["Properties"];
        assert_eq!(named(&properties["PolicyDocument"]), named(&properties["PolicyName"]), "{id}");
        found.extend(named(&properties["PolicyName"]));
        policies.push(id);
    }
    assert_eq!(found, parameters.into());
    let depends: BTreeSet<_> =
        template.0["Resources"]["Receive"]["DependsOn"].as_array().unwrap().iter().map(short).collect();
    assert_eq!(depends, policies.into_iter().map(str::to_owned).collect(), "before a version that needs it");
    assert!(template.0["Resources"]["ReceiveRole"]["Properties"].get("Policies").is_none());
}

#[test]
fn a_wildcard_would_be_found() {
    let allow =
        |action: Value, resource: Value| json!({"Sid": "S", "Effect": "Allow", "Action": action, "Resource": resource});
    for statement in [
        allow(json!("dynamodb:*"), json!("arn")),
        allow(json!(["sqs:SendMessage", "sqs:Get*"]), json!("arn")),
        allow(json!("sqs:SendMessage"), json!("*")),
        allow(json!("sqs:SendMessage"), json!({"Fn::Sub": "${Table.Arn}/*"})),
        allow(json!("dynamodb:ListStreams"), json!("*")),
        allow(json!("dynamodb:GetRecords"), json!({"Fn::Sub": "${Events.Arn}/stream/*"})),
        allow(json!("xray:PutTraceSegments"), json!(["arn", "*"])),
        json!({"Sid": "S", "Effect": "Allow", "NotAction": "sqs:SendMessage", "Resource": "arn"}),
        json!({"Sid": "S", "Effect": "Deny", "Action": "sqs:SendMessage", "Resource": "arn"}),
    ] {
        assert!(!Statement { role: "R", statement: &statement }.wildcards().is_empty(), "{statement}");
    }
}

#[test]
fn roles_are_the_only_source_of_permissions() {
    let template = Template::read();
    for (name, function) in template.resources("AWS::Serverless::Function") {
        let role =
            function["Properties"]["Role"]["Fn::GetAtt"].as_str().unwrap_or_else(|| panic!("{name} has no role"));
        assert_eq!(role, format!("{name}Role.Arn"), "SAM would make one with managed policies, which allow more");
        assert!(function["Properties"].get("Policies").is_none(), "{name}: SAM ignores policies beside a role");
    }
    for (name, role) in template.resources("AWS::IAM::Role") {
        let properties = &role["Properties"];
        assert!(properties.get("ManagedPolicyArns").is_none(), "{name}");
        let boundary = short(&properties["PermissionsBoundary"]);
        assert_eq!(boundary, "if HasPermissionsBoundary: PermissionsBoundaryArn, else AWS::NoValue");
        let trusted = properties["AssumeRolePolicyDocument"]["Statement"].as_array().unwrap();
        assert_eq!(trusted.len(), 1, "{name}");
        let who = format!("{} {}", short(&trusted[0]["Principal"]), short(&trusted[0]["Condition"]));
        let expected = match name {
            "ReconcileRole" => "Service scheduler.amazonaws.com StringEquals aws:SourceAccount AWS::AccountId",
            _ => "Service lambda.amazonaws.com null",
        };
        assert_eq!((who.as_str(), &trusted[0]["Action"]), (expected, &json!("sts:AssumeRole")), "{name}");
    }
}

/// Every kind of resource there is; one that gives permissions by itself would have to be looked at above.
#[test]
fn nothing_else_gives_permissions() {
    let template = Template::read();
    let kinds: BTreeSet<_> = template.resources("").map(|(_, resource)| resource["Type"].as_str().unwrap()).collect();
    let known = [
        "AWS::ApiGatewayV2::ApiMapping",
        "AWS::ApiGatewayV2::DomainName",
        "AWS::CloudWatch::Alarm",
        "AWS::CloudWatch::Dashboard",
        "AWS::DynamoDB::Table",
        "AWS::Events::EventBus",
        "AWS::IAM::Role",
        "AWS::IAM::RolePolicy",
        "AWS::Logs::LogGroup",
        "AWS::Logs::MetricFilter",
        "AWS::Route53::RecordSet",
        "AWS::SNS::Subscription",
        "AWS::SNS::Topic",
        "AWS::SQS::Queue",
        "AWS::SQS::QueuePolicy",
        "AWS::Scheduler::Schedule",
        "AWS::SecretsManager::Secret",
        "AWS::Serverless::Function",
        "AWS::Serverless::HttpApi",
        "Custom::UnithWebhook",
    ];
    assert_eq!(kinds, known.into());
    for (name, resource) in template.resources("") {
        // The policy of a bus is one of its properties.
        for property in ["FunctionUrlConfig", "ResourcePolicy", "Connectors", "Policy", "Events"] {
            let is_known = ["Receive", "Redrive", "Publish", "Sessions"].contains(&name) && property == "Events";
            assert!(is_known || resource["Properties"].get(property).is_none(), "{name}: {property}");
        }
    }
    for (function, kind) in
        [("Receive", "HttpApi"), ("Redrive", "SQS"), ("Publish", "DynamoDB"), ("Sessions", "DynamoDB")]
    {
        let events = template.0["Resources"][function]["Properties"]["Events"].as_object().unwrap();
        let kinds: Vec<_> = events.values().map(|event| short(&event["Type"])).collect();
        assert_eq!(kinds, [kind], "{function} is called by nothing else");
    }
}

/// A message in the spill queue counts as verified, and dead letters can be moved back to it. Consumers of the FIFO queue
/// take a message for an event, and an operator replays what the failure queue names.
#[test]
fn the_policies_of_the_queues_only_deny() {
    let template = Template::read();
    let lines: BTreeSet<_> = template
        .resources("AWS::SQS::QueuePolicy")
        .map(|(_, policy)| {
            let properties = &policy["Properties"];
            let statements = properties["PolicyDocument"]["Statement"].as_array().unwrap();
            assert_eq!(statements.len(), 1);
            let part = |name: &str| short(&statements[0][name]);
            let queue = short(&properties["Queues"]);
            assert_eq!(part("Resource"), format!("{queue}.Arn"));
            let line = ["Effect", "Principal", "Action", "Condition"].map(part);
            format!("{queue}: {}", line.join(" "))
        })
        .collect();
    let operator = "if HasSpillOperator: SpillOperatorRoleArn, else AWS::NoValue";
    let queue = format!(
        "SpillQueue: Deny * sqs:SendMessage ArnNotEquals aws:PrincipalArn ReceiveRole.Arn, RedriveRole.Arn, {operator}"
    );
    // A service of AWS has no statement that allows it anything. SQS moves messages to the dead-letter queue itself.
    let dead_letters = format!(
        "SpillDeadLetters: Deny * sqs:SendMessage ArnNotEquals aws:PrincipalArn RedriveRole.Arn, {operator}; \
         Bool aws:PrincipalIsAWSService false"
    );
    let ordered = "OrderedEvents: Deny * sqs:SendMessage ArnNotEquals aws:PrincipalArn PublishRole.Arn".to_owned();
    let failures = "FailureQueue: Deny * sqs:SendMessage ArnNotEquals aws:PrincipalArn \
         if HasPublish: PublishRole.Arn, else AWS::NoValue, if HasSessions: SessionsRole.Arn, else AWS::NoValue"
        .to_owned();
    assert_eq!(lines, [queue, dead_letters, ordered, failures].into());
    // Each role that may send by its own policy is let through by the queue's.
    for statement in statements(&template) {
        let to = short(&statement.statement["Resource"]);
        if statement.statement["Action"] == "sqs:SendMessage" && to != "DeadLetters.Arn" {
            let policy =
                lines.iter().find(|line| line.starts_with(&format!("{}:", to.trim_end_matches(".Arn")))).unwrap();
            assert!(policy.contains(&format!("{}.Arn", statement.role)), "{}", statement.line());
        }
    }
}

#[test]
fn redrive_reads_no_secret_and_no_event() {
    let template = Template::read();
    for statement in statements(&template).iter().filter(|statement| statement.role == "RedriveRole") {
        let line = statement.line();
        assert!(!line.contains("secretsmanager"), "{line}");
        let reads = ["GetItem", "Query", "DeleteItem", "Scan"].iter().any(|action| line.contains(action));
        assert!(!reads || !line.contains("SESSION#"), "{line}");
    }
    let globals = &template.0["Globals"]["Function"]["Environment"]["Variables"];
    let variables = &template.0["Resources"]["Redrive"]["Properties"]["Environment"]["Variables"];
    assert!(!json!([globals, variables]).to_string().contains("SECRET"));
}

/// An event is written by `receive` and `redrive` alone, and never changed.
#[test]
fn readers_of_the_stream_cannot_write_events() {
    let template = Template::read();
    let readers = ["PublishRole", "SessionsRole"];
    let mut count = 0;
    for statement in statements(&template).iter().filter(|statement| readers.contains(&statement.role)) {
        let line = statement.line();
        assert!(!line.contains("secretsmanager"), "{line}");
        let writes = ["PutItem", "DeleteItem", "UpdateItem", "BatchWriteItem"].iter().any(|name| line.contains(name));
        assert!(!writes || short(&statement.statement["Resource"]) == "SessionsTable.Arn", "{line}");
        count += 1;
    }
    assert!(count > 10, "{count}");
}

/// As `docs/deploy.md` lists them for those who write the deployer's policy.
#[test]
fn the_document_names_every_service_that_a_deployer_needs() {
    let names: BTreeMap<&str, &str> = BTreeMap::from([
        ("ApiGatewayV2", "API Gateway"),
        ("CloudWatch", "CloudWatch"),
        ("DynamoDB", "DynamoDB"),
        ("Events", "event buses"),
        ("IAM", "IAM roles"),
        ("Logs", "its logs"),
        ("Route53", "Route 53"),
        ("SNS", "SNS"),
        ("SQS", "SQS"),
        ("Scheduler", "EventBridge Scheduler"),
        ("SecretsManager", "Secrets Manager"),
        ("Serverless", "Lambda"),
    ]);
    let document = text("docs/deploy.md");
    let section = document.split("\n## Required permissions\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let words = section.split_whitespace().collect::<Vec<_>>().join(" ");
    let template = Template::read();
    for (name, resource) in template.resources("") {
        let Some(kind) = resource["Type"].as_str().unwrap().strip_prefix("AWS::") else { continue };
        let service = names[kind.split("::").next().unwrap()];
        assert!(words.contains(service), "docs/deploy.md, Required permissions, lacks {service}, which {name} needs");
    }
}

/// For those who deploy without SAM. `BLESS=1 cargo test -p tests --test template` writes the files anew.
#[test]
fn the_policy_files_say_what_the_template_says() {
    let template = Template::read();
    let placeholder = |resource: &Value| match short(resource).as_str() {
        "if CreateTable: Events.Arn, else TableArn" => "TABLE_ARN".to_owned(),
        "if CreateKeyRing: KeyRing, else KeyRingSecretArn" => "KEY_RING_ARN".to_owned(),
        "if CreateCredentials: Credentials, else CredentialsSecretArn" => "CREDENTIALS_ARN".to_owned(),
        "SpillQueue.Arn" => "SPILL_QUEUE_ARN".to_owned(),
        "SpillDeadLetters.Arn" => "SPILL_DEAD_LETTERS_ARN".to_owned(),
        // GetAtt's ends like this
        logs if logs.ends_with("Logs.Arn") => "LOG_GROUP_ARN:*".to_owned(),
        "if HasTableStream: TableStreamArn, else Events.StreamArn" => "STREAM_ARN".to_owned(),
        STREAMS_OF_THE_TABLE => "TABLE_ARN/stream/*".to_owned(),
        "SessionsTable.Arn" => "SESSIONS_TABLE_ARN".to_owned(),
        "${SessionsTable.Arn}/index/by_head" => "SESSIONS_TABLE_ARN/index/by_head".to_owned(),
        "if CreateBus: EventBus.Arn, else EventBusArn" => "EVENT_BUS_ARN".to_owned(),
        "OrderedEvents.Arn" => "ORDERED_QUEUE_ARN".to_owned(),
        "FailureQueue.Arn" => "FAILURE_QUEUE_ARN".to_owned(),
        other => other.to_owned(),
    };
    // A key of one's own, traces, and a schedule that may fail for good, are choices of the template's parameters.
    let choices = ["UseKey", "UseKeyForQueue", "WriteTraces", "LeaveDeadLetters"];
    let mut files: Vec<(String, Value)> = Vec::new();
    // Without the spill queue, receive has no permission for it; with it, it has this one as well.
    for (file, role, spills) in [
        ("receive", "ReceiveRole", false),
        ("receive-spill", "ReceiveRole", true),
        ("redrive", "RedriveRole", false),
        ("publish", "PublishRole", false),
        ("sessions", "SessionsRole", false),
        ("provision", "ProvisionRole", false),
    ] {
        let statements: Vec<_> = statements(&template)
            .iter()
            .filter(|statement| statement.role == role && !choices.contains(&statement.sid()))
            .filter(|statement| (statement.sid() == "SpillEvents") == spills)
            .map(|Statement { statement, .. }| {
                let mut statement = (*statement).clone();
                statement["Resource"] = placeholder(&statement["Resource"]).into();
                statement
            })
            .collect();
        files.push((file.to_owned(), json!({"Version": "2012-10-17", "Statement": statements})));
        let trust = &template.0["Resources"][role]["Properties"]["AssumeRolePolicyDocument"];
        files.push(("trust".to_owned(), trust.clone()));
    }
    for (file, expected) in files {
        let path = format!("docs/iam/{file}.json");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(repository(&path), serde_json::to_string_pretty(&expected).unwrap() + "\n").unwrap();
        }
        let found: Value = serde_json::from_str(&text(&path)).unwrap();
        assert_eq!(found, expected, "{path} is not what the template says: see this test for how to write it anew");
    }
}
