//! What is seen when it runs: every failure has its metric, its alarm, its place on the dashboard and its runbook.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::template::{Template, short, text};

/// The metrics of the functions' own log lines; `functions/*/src` write them.
const OWN: [(&str, &str); 13] = [
    ("receive", "Stored"),
    ("receive", "Duplicate"),
    ("receive", "Rejected"),
    ("receive", "Quarantined"),
    ("receive", "Expired"),
    ("receive", "Conflict"),
    ("receive", "Unavailable"),
    ("receive", "RetiringKeyUsed"),
    ("receive", "KeyRefetch"),
    ("receive", "StoreMilliseconds"),
    ("receive", "DeliveryLagMilliseconds"),
    ("provision", "Drift"),
    ("provision", "StepFailed"),
];

const NAMESPACE: &str = "UnithWebhooks/${AWS::StackName}";

/// Namespace, metric and the value of its dimension, of everything an alarm looks at.
fn looks_at(alarm: &Value) -> BTreeSet<String> {
    let properties = &alarm["Properties"];
    let line = |metric: &Value| {
        let dimension = metric["Dimensions"].as_array().map_or(String::new(), |all| short(&all[0]["Value"]));
        format!("{} {} {dimension}", short(&metric["Namespace"]), short(&metric["MetricName"])).trim_end().to_owned()
    };
    match properties["Metrics"].as_array() {
        Some(metrics) => {
            metrics.iter().filter_map(|metric| metric.get("MetricStat")).map(|stat| line(&stat["Metric"])).collect()
        }
        None => BTreeSet::from([line(properties)]),
    }
}

fn alarms(template: &Template) -> impl Iterator<Item = (&str, &Value)> {
    template.resources("AWS::CloudWatch::Alarm")
}

/// The dashboard with a word in the place of each reference.
fn dashboard(template: &Template) -> Value {
    let source = &template.0["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"][0];
    serde_json::from_str(source.as_str().unwrap()).expect("the dashboard is JSON")
}

#[test]
fn every_failure_raises_an_alarm() {
    let template = Template::read();
    let watched: BTreeSet<String> = alarms(&template).flat_map(|(_, alarm)| looks_at(alarm)).collect();
    let failures = [
        format!("{NAMESPACE} Rejected receive"),
        format!("{NAMESPACE} Unavailable receive"),
        format!("{NAMESPACE} Quarantined receive"),
        format!("{NAMESPACE} Conflict receive"),
        format!("{NAMESPACE} Expired receive"),
        format!("{NAMESPACE} Drift provision"),
        format!("{NAMESPACE} StepFailed provision"),
        format!("{NAMESPACE} ApiThrottled"),
        "AWS/Lambda Errors Receive".to_owned(),
        "AWS/Lambda Throttles Receive".to_owned(),
        "AWS/Lambda Duration Receive".to_owned(),
        "AWS/Lambda Errors Provision".to_owned(),
        "AWS/ApiGateway 5xx Api".to_owned(),
        "AWS/SQS ApproximateNumberOfMessagesVisible DeadLetters.QueueName".to_owned(),
    ];
    // Not failures: what a failure is a share of, or missing from.
    let besides = [format!("{NAMESPACE} Stored receive"), format!("{NAMESPACE} Duplicate receive")];
    assert_eq!(watched, failures.into_iter().chain(besides).collect());
}

#[test]
fn every_alarm_reaches_the_topic_and_has_a_runbook() {
    let template = Template::read();
    let runbooks = text("docs/runbooks.md");
    let sections: BTreeSet<_> = runbooks.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let mut named = BTreeSet::new();
    for (id, alarm) in alarms(&template) {
        let properties = &alarm["Properties"];
        assert_eq!(short(&properties["AlarmActions"]), "if CreateTopic: AlarmTopic, else AlarmTopicArn", "{id}");
        assert!(properties.get("TreatMissingData").is_some(), "{id}");
        let runbook = id.strip_suffix("Alarm").unwrap_or_else(|| panic!("{id} does not end in Alarm"));
        let description = properties["AlarmDescription"].as_str().unwrap();
        assert!(description.ends_with(&format!(" See docs/runbooks.md, {runbook}.")), "{id}: {description}");
        named.insert(runbook);
    }
    assert_eq!(sections, named, "a section for each alarm, and an alarm for each section");
}

#[test]
fn every_section_of_the_runbooks_says_what_how_and_what_to_do() {
    for section in text("docs/runbooks.md").split("\n## ").skip(1) {
        let name = section.lines().next().unwrap();
        for part in ["**What it means.**", "**How to look.**", "**What to do.**"] {
            assert!(section.contains(part), "{name}: {part}");
        }
    }
}

#[test]
fn every_metric_of_ours_is_on_the_dashboard() {
    let body = dashboard(&Template::read()).to_string();
    for (service, metric) in OWN {
        assert!(body.contains(&format!(r#"["{NAMESPACE}","{metric}","Service","{service}""#)), "{metric}");
    }
}

#[test]
fn every_failure_is_on_the_dashboard_and_so_is_every_alarm() {
    let template = Template::read();
    let dashboard = dashboard(&template);
    let body = dashboard.to_string();
    for watched in alarms(&template).flat_map(|(_, alarm)| looks_at(alarm)) {
        let mut words = watched.split(' ');
        let (namespace, metric) = (words.next().unwrap(), words.next().unwrap());
        assert!(body.contains(&format!(r#"["{namespace}","{metric}","#)), "{watched}");
    }
    let widgets = dashboard["widgets"].as_array().unwrap();
    let alarm_widget = widgets.iter().find(|widget| widget["type"] == "alarm").unwrap();
    let shown: BTreeSet<_> = alarm_widget["properties"]["alarms"].as_array().unwrap().iter().map(short).collect();
    // One that is not always there cannot be named.
    let always = alarms(&template).filter(|(_, alarm)| alarm.get("Condition").is_none());
    assert_eq!(shown, always.map(|(id, _)| format!("${{{id}.Arn}}")).collect());
    let bottom = widgets.iter().map(|widget| widget["y"].as_u64().unwrap() + widget["height"].as_u64().unwrap());
    assert!(bottom.max().unwrap() <= 24, "one screen");
}

#[test]
fn metrics_go_to_the_namespace_that_is_looked_at() {
    let template = Template::read();
    let variables = &template.0["Globals"]["Function"]["Environment"]["Variables"];
    assert_eq!(short(&variables["METRICS_NAMESPACE"]), NAMESPACE);
}

/// The queries of dashboard and runbooks ask for fields that a line of ours, or of the API's access log, has.
#[test]
fn queries_name_fields_that_exist() {
    let access_log = &Template::read().0["Resources"]["Api"]["Properties"]["AccessLogSettings"]["Format"];
    let access_log: Value = serde_json::from_str(access_log.as_str().unwrap()).expect("the access log is JSON");
    let ours = [
        "timestamp",
        "level",
        "message",
        "request_id",
        "trace_id",
        "outcome",
        "reason",
        "event_id",
        "head_id",
        "session_id",
        "event_type",
        "key_state",
        "lag_ms",
        "store_ms",
        "total_ms",
        "action",
        "result",
    ];
    let known: BTreeSet<&str> =
        ours.into_iter().chain(access_log.as_object().unwrap().keys().map(String::as_str)).collect();
    let language = [
        "fields",
        "filter",
        "sort",
        "limit",
        "stats",
        "count",
        "by",
        "as",
        "desc",
        "asc",
        "and",
        "or",
        "not",
        "in",
        "like",
        "ispresent",
        "bin",
        "pct",
        "max",
        "min",
        "avg",
        "display",
        "parse",
        "m",
        "h",
        "s",
        "SOURCE",
        "ms",
    ];
    let template = Template::read();
    let dashboard = dashboard(&template);
    let widget = dashboard["widgets"].as_array().unwrap().iter().find(|widget| widget["type"] == "log").unwrap();
    let shown = widget["properties"]["query"].as_str().unwrap().to_owned();
    let runbooks = text("docs/runbooks.md");
    let blocks = runbooks.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("insights\n"));
    let queries: Vec<_> = blocks.map(str::to_owned).chain([shown]).collect();
    assert!(queries.len() > 5, "{}", queries.len());
    for query in queries {
        // Without what is quoted, and without names that the query gives itself.
        let unquoted: String = query.split('\'').step_by(2).collect::<Vec<_>>().join(" ");
        let own: BTreeSet<_> =
            unquoted.split(" as ").skip(1).filter_map(|rest| rest.split([' ', ',', '\n']).next()).collect();
        let words = unquoted.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '@'));
        for word in words.filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic())) {
            let fine = known.contains(word) || language.contains(&word) || own.contains(word);
            assert!(fine, "no line has the field {word}:\n{query}");
        }
    }
}
