//! What can be chosen: each explained, used, and refused where it makes no sense.

use std::collections::BTreeSet;

use regex_lite::Regex;
use serde_json::{Value, json};

use crate::template::{Template, short, text};

#[test]
fn every_parameter_is_explained_grouped_and_used() {
    let template = Template::read();
    let parameters: BTreeSet<_> = template.section("Parameters").keys().map(String::as_str).collect();
    let groups = template.0["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"].as_array().unwrap();
    let grouped: Vec<_> = groups.iter().flat_map(|group| group["Parameters"].as_array().unwrap()).map(short).collect();
    assert_eq!(grouped.len(), parameters.len(), "each in one group");
    assert_eq!(grouped.iter().map(String::as_str).collect::<BTreeSet<_>>(), parameters);
    // The description of a version names parameters that something else has to use.
    let mut resources = template.0["Resources"].clone();
    resources["Receive"]["Properties"]["VersionDescription"].take();
    let used = references(&json!([resources, template.0["Globals"], template.0["Conditions"], template.0["Rules"]]));
    let deploy = text("docs/deploy.md");
    for (name, parameter) in template.section("Parameters") {
        assert!(parameter["Description"].as_str().is_some_and(|text| text.ends_with('.')), "{name}");
        assert!(used.contains(name.as_str()), "{name} is not used");
        assert!(deploy.contains(&format!("`{name}`")), "docs/deploy.md does not speak of {name}");
        let checked =
            ["AllowedPattern", "AllowedValues", "MinValue"].iter().any(|check| parameter.get(check).is_some());
        assert!(checked, "{name} takes anything");
    }
}

/// What is referred to by name, anywhere in a value.
fn references(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(object) => object
            .iter()
            .flat_map(|(name, inner)| match (name.as_str(), inner) {
                ("Ref", Value::String(to)) => BTreeSet::from([to.clone()]),
                ("Fn::Sub", inner) => inserted(inner).union(&references(inner)).cloned().collect(),
                _ => references(inner),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => BTreeSet::new(),
    }
}

/// The names in a `Fn::Sub`'s text.
fn inserted(sub: &Value) -> BTreeSet<String> {
    let text = sub.as_str().or_else(|| sub[0].as_str()).unwrap_or_default();
    text.split("${").skip(1).filter_map(|rest| Some(rest.split_once('}')?.0.to_owned())).collect()
}

/// A version keeps the variables it was made with. What changes them must make a new one, and a parameter does so by way
/// of the version's description.
#[test]
fn whatever_changes_receive_makes_a_new_version_of_it() {
    let template = Template::read();
    let mut receive = template.0["Resources"]["Receive"]["Properties"].clone();
    let description = receive["VersionDescription"].take();
    // Settings of the function and the alias, not of a version.
    for beside in ["ReservedConcurrentExecutions", "ProvisionedConcurrencyConfig"] {
        assert!(!receive[beside].take().is_null());
    }
    let parameters: BTreeSet<_> = template.section("Parameters").keys().cloned().collect();
    // A parameter may decide by way of a condition alone.
    let of = |value: &Value| -> BTreeSet<String> {
        let conditions = conditions(value).into_iter().map(|name| references(&template.0["Conditions"][name]));
        let all = conditions.chain([references(value)]).flatten();
        all.filter(|name| parameters.contains(name)).collect()
    };
    assert_eq!(of(&description), of(&json!([receive, template.0["Globals"]])));
    assert!(of(&description).contains("SpillToQueue"));
}

/// The conditions that decide, anywhere in a value.
fn conditions(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(object) => {
            let own = object.get("Fn::If").map(|parts| short(&parts[0]));
            object.values().flat_map(conditions).chain(own).collect()
        }
        Value::Array(items) => items.iter().flat_map(conditions).collect(),
        _ => BTreeSet::new(),
    }
}

#[test]
fn the_description_of_a_version_has_room_for_the_longest_values() {
    let template = Template::read();
    let parameter = |name: &str| &template.0["Parameters"][name];
    let longest = |name: &str| -> usize {
        let allowed = parameter(name)["AllowedValues"].as_array();
        let values = allowed.into_iter().flatten().map(|value| short(value).len());
        values.chain(parameter(name).get("MaxValue").map(|value| short(value).len())).max().unwrap()
    };
    let names = ["MemorySize", "RetentionDays", "KeyCacheSeconds", "LogLevel", "Architecture", "Tracing"];
    let of_arns: usize = ["TableArn", "KeyRingSecretArn"]
        .iter()
        .map(|name| {
            let pattern = parameter(name)["AllowedPattern"].as_str().unwrap();
            let limit = pattern.rsplit_once(',').unwrap().1.split('}').next().unwrap();
            limit.parse::<usize>().unwrap()
        })
        .sum();
    let release = parameter("Release")["AllowedPattern"].as_str().unwrap();
    assert!(release.ends_with("{1,8}$"), "{release}");
    let spill =
        &template.0["Resources"]["Receive"]["Properties"]["VersionDescription"]["Fn::Sub"][1]["Spill"]["Fn::If"];
    assert_eq!((short(&spill[0]).as_str(), short(&spill[1]).len(), short(&spill[2]).len()), ("HasSpill", 1, 1));
    let of_release_and_spill = 8 + 1;
    let values = names.len() + 4;
    let separators = values - 1;
    let all = names.map(longest).iter().sum::<usize>() + of_release_and_spill + of_arns + separators;
    let text = template.0["Resources"]["Receive"]["Properties"]["VersionDescription"]["Fn::Sub"][0].as_str().unwrap();
    assert_eq!((text.matches("${").count(), text.matches(' ').count()), (values, separators), "{text}");
    assert!(all <= 256, "{all} characters");
}

/// No function returns the stream of a table that another stack created.
#[test]
fn a_table_of_another_stack_comes_with_its_stream() {
    let rules = Template::read().0["Rules"].clone();
    let is_set = |name: &str| json!({"Fn::Not": [{"Fn::Equals": [{"Ref": name}, ""]}]});
    let sessions = json!({"Fn::Equals": [{"Ref": "SessionSummaries"}, "true"]});
    let reads = json!({"Fn::Or": [sessions, is_set("EventBusArn"), is_set("OrderedQueue")]});
    for (rule, condition, needed) in [
        ("StreamForTable", json!({"Fn::And": [is_set("TableArn"), reads]}), "TableStreamArn"),
        ("TableForStream", is_set("TableStreamArn"), "TableArn"),
    ] {
        let rule = &rules[rule];
        let asserted: Vec<_> = rule["Assertions"].as_array().unwrap().iter().map(|rule| &rule["Assert"]).collect();
        assert_eq!((&rule["RuleCondition"], asserted), (&condition, vec![&is_set(needed)]));
    }
}

#[test]
fn a_stack_needs_nothing_but_heads_and_an_account() {
    let template = Template::read();
    let needed: Vec<_> = template
        .section("Parameters")
        .iter()
        .filter(|(_, p)| p.get("Default").is_none())
        .map(|(name, _)| name)
        .collect();
    assert_eq!(needed, ["HeadIds"], "the account is asked for by a rule, since it comes in one of two forms");
    assert_eq!(template.0["Parameters"]["UnithSecretKey"]["NoEcho"], true);
}

#[test]
fn patterns_take_what_is_right_and_refuse_what_is_not() {
    let template = Template::read();
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("HeadIds", &["8eab5b23-024a-45cb-a0e1-9d3ffd6c9610", "*"], &["", "a b", "a/b", "<head id>", "**", "*a"]),
        ("UnithEmail", &["", "jane.doe+unith@example.com"], &["jane", "jane@", "a b@c", r#"a"b@c.de"#]),
        ("UnithSecretKey", &["", "5f2a-XyZ_!$%/=+"], &[r#"a"b"#, r"a\b", "a b"]),
        (
            "CredentialsSecretArn",
            &[
                "",
                "arn:aws:secretsmanager:eu-west-1:123456789012:secret:unith-AbCdEf",
                "arn:aws-us-gov:secretsmanager:us-gov-west-1:123456789012:secret:x/y-AbCdEf",
            ],
            &[
                "unith",
                "arn:aws:ssm:eu-west-1:123456789012:secret:unith",
                "arn:aws:secretsmanager:eu-west-1:123:secret:x",
            ],
        ),
        (
            "UnithApiUrl",
            &["https://platform-api.unith.ai", "http://127.0.0.1:8080"],
            &[
                "",
                "platform-api.unith.ai",
                "https://a b",
                "http://platform-api.unith.ai",
                "http://127.0.0.1.evil.example",
            ],
        ),
        (
            "TableArn",
            &["", "arn:aws:dynamodb:eu-west-1:123456789012:table/unith-webhooks-Events-1ABC"],
            &["unith-webhooks-Events", "arn:aws:dynamodb:eu-west-1:123456789012:table/a/stream/b"],
        ),
        (
            "TableStreamArn",
            &[
                "",
                "arn:aws:dynamodb:eu-west-1:123456789012:table/unith-webhooks-Events-1ABC/stream/2026-01-15T09:57:33.120",
            ],
            &[
                "2026-01-15T09:57:33.120",
                "arn:aws:dynamodb:eu-west-1:123456789012:table/unith-webhooks-Events-1ABC",
                "arn:aws:dynamodb:eu-west-1:123456789012:table/unith-webhooks-Events-1ABC/stream/*",
                "arn:aws:kinesis:eu-west-1:123456789012:stream/events",
            ],
        ),
        (
            "EventBusArn",
            &[
                "",
                "create",
                "arn:aws:events:eu-west-1:123456789012:event-bus/default",
                "arn:aws-us-gov:events:us-gov-west-1:210987654321:event-bus/digital.humans_1",
            ],
            &[
                "default",
                "Create",
                "arn:aws:events:eu-west-1:123456789012:rule/unith",
                "arn:aws:eventsv2:eu-west-1:123456789012:event-bus/unith",
                "arn:aws:events:eu-west-1:123456789012:event-bus/*",
            ],
        ),
        ("KeyRingSecretArn", &["", "arn:aws:secretsmanager:eu-west-1:123456789012:secret:ring-AbCdEf"], &["ring"]),
        (
            "SpillOperatorRoleArn",
            &[
                "",
                "arn:aws:iam::123456789012:role/ops",
                "arn:aws:iam::123456789012:role/aws-reserved/sso.amazonaws.com/eu-west-1/AWSReservedSSO_Ops_1a2b",
            ],
            &[
                "ops",
                "arn:aws:sts::123456789012:assumed-role/ops/jane",
                "arn:aws:iam::123456789012:user/jane",
                "*",
                "arn:aws:iam::123456789012:role/*",
            ],
        ),
        ("AlarmEmail", &["", "ops@example.com"], &["ops"]),
        (
            "AlarmTopicArn",
            &["", "arn:aws:sns:eu-west-1:123456789012:ops"],
            &["ops", "arn:aws:sqs:eu-west-1:123456789012:ops"],
        ),
        ("ReconcileSchedule", &["", "rate(1 day)", "cron(0 4 * * ? *)"], &["daily", "rate()", "1 day"]),
        ("ReservedConcurrency", &["", "1", "50"], &["0", "-1", "many"]),
        ("Release", &["1", "2026.1-a"], &["", "123456789", "a b", "a_b"]),
        (
            "DomainName",
            &["", "events.example.com"],
            &["https://events.example.com", "events", "Events.example.com", "a.b/c"],
        ),
        ("CertificateArn", &["", "arn:aws:acm:eu-west-1:123456789012:certificate/1234-ab"], &["certificate/1234"]),
        ("HostedZoneId", &["", "Z0123456789ABC"], &["/hostedzone/Z0123"]),
        (
            "KmsKeyArn",
            &["", "arn:aws:kms:eu-west-1:123456789012:key/1234-ab"],
            &["alias/mine", "arn:aws:kms:eu-west-1:123456789012:alias/mine"],
        ),
        (
            "PermissionsBoundaryArn",
            &["", "arn:aws:iam::123456789012:policy/boundary", "arn:aws:iam::aws:policy/PowerUserAccess"],
            &["boundary", "arn:aws:iam::123456789012:role/x"],
        ),
    ];
    for (name, right, wrong) in cases {
        let pattern = template.0["Parameters"][name]["AllowedPattern"].as_str().unwrap();
        // As CloudFormation does: the whole value has to match.
        let pattern = Regex::new(&format!("^(?:{pattern})$")).unwrap_or_else(|error| panic!("{name}: {error}"));
        for value in *right {
            assert!(pattern.is_match(value), "{name} refuses {value:?}");
        }
        for value in *wrong {
            assert!(!pattern.is_match(value), "{name} takes {value:?}");
        }
        let default = template.0["Parameters"][name].get("Default").map(short);
        assert!(default.is_none_or(|default| pattern.is_match(&default)), "{name} refuses its default");
    }
    let with_pattern = template.section("Parameters").values().filter(|p| p.get("AllowedPattern").is_some()).count();
    assert_eq!(cases.len(), with_pattern, "each pattern is tried");
}
