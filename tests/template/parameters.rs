//! What can be chosen: each explained, used, and refused where it makes no sense.

use std::collections::BTreeSet;

use regex_lite::Regex;

use crate::template::{Template, short, text};

#[test]
fn every_parameter_is_explained_grouped_and_used() {
    let template = Template::read();
    let parameters: BTreeSet<_> = template.section("Parameters").keys().map(String::as_str).collect();
    let groups = template.0["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"].as_array().unwrap();
    let grouped: Vec<_> = groups.iter().flat_map(|group| group["Parameters"].as_array().unwrap()).map(short).collect();
    assert_eq!(grouped.len(), parameters.len(), "each in one group");
    assert_eq!(grouped.iter().map(String::as_str).collect::<BTreeSet<_>>(), parameters);
    let source = text("template.yaml");
    let deploy = text("docs/deploy.md");
    for (name, parameter) in template.section("Parameters") {
        assert!(parameter["Description"].as_str().is_some_and(|text| text.ends_with('.')), "{name}");
        let used = source.contains(&format!("!Ref {name}")) || source.contains(&format!("${{{name}}}"));
        assert!(used, "{name} is not used");
        assert!(deploy.contains(&format!("`{name}`")), "docs/deploy.md does not speak of {name}");
        let checked =
            ["AllowedPattern", "AllowedValues", "MinValue"].iter().any(|check| parameter.get(check).is_some());
        assert!(checked, "{name} takes anything");
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
        ("HeadIds", &["8eab5b23-024a-45cb-a0e1-9d3ffd6c9610"], &["", "a b", "a/b", "<head id>"]),
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
            &["", "platform-api.unith.ai", "https://a b"],
        ),
        (
            "TableArn",
            &["", "arn:aws:dynamodb:eu-west-1:123456789012:table/unith-webhooks-Events-1ABC"],
            &["unith-webhooks-Events", "arn:aws:dynamodb:eu-west-1:123456789012:table/a/stream/b"],
        ),
        ("KeyRingSecretArn", &["", "arn:aws:secretsmanager:eu-west-1:123456789012:secret:ring-AbCdEf"], &["ring"]),
        ("AlarmEmail", &["", "ops@example.com"], &["ops"]),
        (
            "AlarmTopicArn",
            &["", "arn:aws:sns:eu-west-1:123456789012:ops"],
            &["ops", "arn:aws:sqs:eu-west-1:123456789012:ops"],
        ),
        ("ReconcileSchedule", &["", "rate(1 day)", "cron(0 4 * * ? *)"], &["daily", "rate()", "1 day"]),
        ("ReservedConcurrency", &["", "0", "50"], &["-1", "many"]),
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
