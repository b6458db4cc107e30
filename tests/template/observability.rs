//! What is seen when it runs: every failure has its metric, its alarm, its place on the dashboard and its runbook.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tests::log::{FIELDS, METRICS};

use crate::template::{Template, short, text};

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

/// The dashboard, with the values that its `Fn::Sub` defines inserted. References to resources remain: `${Receive}`.
fn dashboard(template: &Template) -> Value {
    let substitution = &template.0["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"];
    let mut body = substitution[0].as_str().unwrap().to_owned();
    for (name, value) in substitution[1].as_object().unwrap() {
        // Members of a list that are there under a condition.
        let members = (value["Fn::If"][2] == "").then(|| value["Fn::If"][1]["Fn::Sub"].as_str().unwrap().to_owned());
        body = body.replace(&format!("${{{name}}}"), &members.unwrap_or_else(|| short(value)));
    }
    serde_json::from_str(&body).expect("the dashboard is JSON")
}

/// When an alarm goes off: what it looks at, how, and beyond what.
fn rule(alarm: &Value) -> String {
    let properties = &alarm["Properties"];
    let of = |name: &str| short(&properties[name]);
    let operator = match properties["ComparisonOperator"].as_str().unwrap() {
        "GreaterThanOrEqualToThreshold" => ">=",
        "GreaterThanThreshold" => ">",
        "LessThanThreshold" => "<",
        other => other,
    };
    let missing = match of("TreatMissingData").as_str() {
        "notBreaching" => "",
        "breaching" => ", or nothing",
        other => panic!("TreatMissingData: {other}"),
    };
    let (what, period) = if let Some(metrics) = properties["Metrics"].as_array() {
        let returned: Vec<_> = metrics.iter().filter(|metric| metric["ReturnData"] != false).collect();
        assert_eq!(returned.len(), 1, "one figure is compared");
        let stats = metrics.iter().filter_map(|metric| metric.get("MetricStat"));
        let how: BTreeSet<_> = stats.map(|stat| format!("{} in {} s", short(&stat["Stat"]), stat["Period"])).collect();
        (short(&returned[0]["Expression"]), how.into_iter().collect::<Vec<_>>().join(", "))
    } else {
        let statistic = properties.get("Statistic").or(properties.get("ExtendedStatistic")).unwrap();
        let what: Vec<_> = looks_at(alarm).into_iter().collect();
        (what.join(", ").replace(&format!("{NAMESPACE} "), ""), format!("{} in {} s", short(statistic), of("Period")))
    };
    let threshold = of("Threshold");
    format!("{what}: {period} {operator} {threshold}{missing}, {} times", of("EvaluationPeriods"))
}

#[test]
fn every_failure_raises_an_alarm_by_this_rule() {
    let template = Template::read();
    let rules: BTreeSet<_> = alarms(&template).map(|(id, alarm)| format!("{id}: {}", rule(alarm))).collect();
    let expected = [
        "RejectedAlarm: IF(rejected >= 4, 100 * rejected / invocations, 0): Sum in 900 s > RejectedPercent, 1 times",
        "BadRequestAlarm: BadRequest receive: Sum in 900 s >= 4, 1 times",
        "UnavailableAlarm: Unavailable receive: Sum in 300 s >= 1, 1 times",
        "SpilledAlarm: Spilled receive: Sum in 300 s >= 1, 1 times",
        "SpillFailedAlarm: SpillFailed receive: Sum in 300 s >= 1, 1 times",
        "OldestMessageAlarm: FILL(visible, 0) + FILL(in_flight, 0): Maximum in 3600 s >= 1, 72 times",
        "RedriveStalledAlarm: IF(FILL(visible, 0) + FILL(in_flight, 0) > 0 AND FILL(done, 0) == 0 AND \
             FILL(spilled, 0) == 0 AND (FILL(stored, 0) > 0 OR FILL(returned, 0) == 0), 1, 0): \
             Maximum in 900 s, Sum in 900 s >= 1, 3 times",
        "RedriveDeadLettersAlarm: FILL(counted, 0) + FILL(depth, 0): Maximum in 300 s, Sum in 300 s >= 1, 1 times",
        "QuarantinedAlarm: FILL(quarantined, 0) + FILL(redrive, 0): Sum in 300 s >= 1, 1 times",
        "ConflictAlarm: FILL(conflict, 0) + FILL(redrive, 0): Sum in 300 s >= 1, 1 times",
        "ExpiredAlarm: FILL(expired, 0) + FILL(redrive, 0): Sum in 300 s >= 1, 1 times",
        "ReceiveErrorsAlarm: AWS/Lambda Errors Receive: Sum in 300 s >= 1, 1 times",
        "ReceiveThrottlesAlarm: AWS/Lambda Throttles Receive: Sum in 300 s >= 1, 1 times",
        "ReceiveDurationAlarm: AWS/Lambda Duration Receive: p99 in 300 s >= 1500, 1 times",
        "ApiThrottledAlarm: ApiThrottled: Sum in 300 s >= 1, 1 times",
        "ApiErrorsAlarm: api - FILL(unavailable, 0) - FILL(errors, 0) - FILL(throttles, 0): Sum in 300 s >= 4, 1 times",
        "NoEventsAlarm: FILL(stored, 0) + FILL(redriven, 0): Sum in 3600 s < 1, or nothing, NoEventsHours times",
        "DriftAlarm: Drift provision: Sum in 300 s >= 1, 1 times",
        "ScheduleStoppedAlarm: Drift provision: SampleCount in 3600 s < 1, or nothing, ScheduleHours times",
        "DeadLettersAlarm: AWS/SQS ApproximateNumberOfMessagesVisible DeadLetters.QueueName: Maximum in 300 s >= 1, 1 times",
        "PublishFailedAlarm: FILL(held, 0) + FILL(errors, 0): Sum in 300 s >= 1, 3 times",
        "BusMissingAlarm: BusMissing publish: Sum in 300 s >= 1, 1 times",
        "PublishIteratorAgeAlarm: AWS/Lambda IteratorAge Publish: Maximum in 900 s >= 3600000, 1 times",
        "PublishStalledAlarm: IF(FILL(stored, 0) + FILL(redriven, 0) > 0 AND FILL(invocations, 0) == 0, 1, 0): \
             Sum in 10800 s >= 1, 1 times",
        "SessionsFailedAlarm: FILL(failed, 0) + FILL(errors, 0): Sum in 300 s >= 1, 3 times",
        "SessionsIteratorAgeAlarm: AWS/Lambda IteratorAge Sessions: Maximum in 900 s >= 3600000, 1 times",
        "SessionsStalledAlarm: IF(FILL(stored, 0) + FILL(redriven, 0) > 0 AND FILL(invocations, 0) == 0, 1, 0): \
             Sum in 10800 s >= 1, 1 times",
        "FailedRecordsAlarm: AWS/SQS ApproximateNumberOfMessagesVisible FailureQueue.QueueName: \
             Maximum in 300 s >= 1, 1 times",
    ];
    assert_eq!(rules, expected.map(str::to_owned).into());
    let rejected = looks_at(&template.0["Resources"]["RejectedAlarm"]);
    let of_all = "AWS/Lambda Invocations Receive".to_owned();
    assert_eq!(rejected, [of_all, format!("{NAMESPACE} Rejected receive")].into());
    // A failure with an alarm of its own is not reported twice.
    let of_the_api = looks_at(&template.0["Resources"]["ApiErrorsAlarm"]);
    let others = ["AWS/ApiGateway 5xx Api", "AWS/Lambda Errors Receive", "AWS/Lambda Throttles Receive"];
    let expected: BTreeSet<_> =
        others.map(str::to_owned).into_iter().chain([format!("{NAMESPACE} Unavailable receive")]).collect();
    assert_eq!(of_the_api, expected);
}

/// Metrics by the name that an alarm's expression gives them.
fn inputs(alarm: &Value) -> BTreeMap<&str, String> {
    let metrics = alarm["Properties"]["Metrics"].as_array().unwrap().iter();
    metrics
        .filter_map(|metric| {
            let metric_of = &metric.get("MetricStat")?["Metric"];
            let dimension = short(&metric_of["Dimensions"][0]["Value"]);
            Some((metric["Id"].as_str().unwrap(), format!("{} {dimension}", short(&metric_of["MetricName"]))))
        })
        .collect()
}

#[test]
fn alarms_on_several_metrics_calculate_with_these() {
    let template = Template::read();
    for (alarm, expected) in [
        ("QuarantinedAlarm", &[("quarantined", "Quarantined receive"), ("redrive", "RedriveQuarantined redrive")][..]),
        ("ConflictAlarm", &[("conflict", "Conflict receive"), ("redrive", "RedriveConflict redrive")]),
        ("ExpiredAlarm", &[("expired", "Expired receive"), ("redrive", "RedriveExpired redrive")]),
        ("NoEventsAlarm", &[("stored", "Stored receive"), ("redriven", "Redriven redrive")]),
        (
            "OldestMessageAlarm",
            &[
                ("visible", "ApproximateNumberOfMessagesVisible SpillQueue.QueueName"),
                ("in_flight", "ApproximateNumberOfMessagesNotVisible SpillQueue.QueueName"),
            ],
        ),
        (
            "RedriveStalledAlarm",
            &[
                ("visible", "ApproximateNumberOfMessagesVisible SpillQueue.QueueName"),
                ("in_flight", "ApproximateNumberOfMessagesNotVisible SpillQueue.QueueName"),
                ("done", "NumberOfMessagesDeleted SpillQueue.QueueName"),
                ("spilled", "Spilled receive"),
                ("stored", "Stored receive"),
                ("returned", "RedriveReturned redrive"),
            ],
        ),
        ("PublishFailedAlarm", &[("held", "PublishHeld publish"), ("errors", "Errors Publish")]),
        ("SessionsFailedAlarm", &[("failed", "SessionsFailed sessions"), ("errors", "Errors Sessions")]),
        (
            "PublishStalledAlarm",
            &[("stored", "Stored receive"), ("redriven", "Redriven redrive"), ("invocations", "Invocations Publish")],
        ),
        (
            "SessionsStalledAlarm",
            &[("stored", "Stored receive"), ("redriven", "Redriven redrive"), ("invocations", "Invocations Sessions")],
        ),
        (
            "RedriveDeadLettersAlarm",
            &[
                ("counted", "DeadLettered redrive"),
                ("depth", "ApproximateNumberOfMessagesVisible SpillDeadLetters.QueueName"),
            ],
        ),
    ] {
        let expected: BTreeMap<_, _> = expected.iter().map(|(id, metric)| (*id, (*metric).to_owned())).collect();
        assert_eq!(inputs(&template.0["Resources"][alarm]), expected, "{alarm}");
    }
}

/// The longest pause between two receives of a message, with its jitter.
const LONGEST_BACK_OFF_S: u64 = 30 * 60 * 12 / 10;

#[test]
fn a_message_that_backs_off_after_an_outage_does_not_count_as_stalled() {
    let template = Template::read();
    let alarm = &template.0["Resources"]["RedriveStalledAlarm"]["Properties"];
    let period = alarm["Metrics"][1]["MetricStat"]["Period"].as_u64().unwrap();
    let times = alarm["EvaluationPeriods"].as_u64().unwrap();
    // Within the longest back-off, as many whole periods pass without a receive as fit into it.
    assert!(LONGEST_BACK_OFF_S < period * times, "{period} s, {times} times");
}

#[test]
fn an_old_message_is_reported_long_before_the_queue_deletes_it() {
    let template = Template::read();
    let resources = &template.0["Resources"];
    let hours = resources["OldestMessageAlarm"]["Properties"]["EvaluationPeriods"].as_u64().unwrap();
    assert_eq!(hours, 3 * 24);
    let retention = resources["SpillQueue"]["Properties"]["MessageRetentionPeriod"].as_u64().unwrap();
    assert!(retention > 4 * hours * 3600, "{retention}");
}

/// Lambda gives up on a record after 23 hours, and whoever gets the alarm needs time to act.
#[test]
fn a_reader_that_is_behind_is_reported_long_before_it_skips_events() {
    let template = Template::read();
    let resources = &template.0["Resources"];
    for reader in ["Publish", "Sessions"] {
        let mapping = &resources[reader]["Properties"]["Events"]["Stored"]["Properties"];
        let given_up = mapping["MaximumRecordAgeInSeconds"].as_u64().unwrap() * 1000;
        let age = &resources[format!("{reader}IteratorAgeAlarm")]["Properties"];
        assert!(age["Threshold"].as_u64().unwrap() * 10 < given_up, "{reader}");
        // An event that was stored when a period began is found when the next one ends.
        let stalled = &resources[format!("{reader}StalledAlarm")]["Properties"];
        let found = 2 * stalled["Metrics"][1]["MetricStat"]["Period"].as_u64().unwrap() * 1000;
        assert!(found * 3 < given_up, "{reader}");
        // The longest invocation is not a reason for either.
        let timeout = resources[reader]["Properties"]["Timeout"].as_u64().unwrap() * 1000;
        assert!(timeout < age["Threshold"].as_u64().unwrap(), "{reader}");
    }
}

/// All but those that are off by default.
#[test]
fn what_alarms_cost_is_told() {
    let template = Template::read();
    let off = ["HasNoEventsAlarm", "HasPublish", "HasBus"];
    let on = alarms(&template).filter(|(_, alarm)| off.iter().all(|condition| alarm["Condition"] != *condition));
    let metrics: usize = on.map(|(_, alarm)| looks_at(alarm).len()).sum();
    assert_eq!(template.0["Parameters"]["NoEventsHours"]["Default"], 0);
    assert!(text("docs/deploy.md").contains(&format!("alarms on {metrics} metrics")), "{metrics}");
}

#[test]
fn every_alarm_reaches_the_topic_and_has_a_runbook() {
    let template = Template::read();
    let runbooks = text("docs/runbooks.md");
    let sections: BTreeSet<_> = runbooks.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let mut named = BTreeSet::new();
    for (id, alarm) in alarms(&template) {
        let properties = &alarm["Properties"];
        for actions in ["AlarmActions", "OKActions"] {
            assert_eq!(short(&properties[actions]), "if CreateTopic: AlarmTopic, else AlarmTopicArn", "{id}");
        }
        assert!(properties.get("ActionsEnabled").is_none(), "{id}");
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
    for (service, metric) in METRICS {
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
    assert_eq!(shown, alarms(&template).map(|(id, _)| format!("${{{id}.Arn}}")).collect());
    let bottom = widgets.iter().map(|widget| widget["y"].as_u64().unwrap() + widget["height"].as_u64().unwrap());
    assert!(bottom.max().unwrap() <= 24, "one screen");
}

/// An alarm that does not exist has no ARN.
#[test]
fn the_dashboard_names_what_a_condition_makes_under_that_condition() {
    let template = Template::read();
    let values = &template.0["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"];
    let mut count = 0;
    for value in values[1].as_object().unwrap().values().filter(|value| value.get("Fn::If").is_some()) {
        let condition = value["Fn::If"][0].as_str().unwrap();
        let named = short(&value["Fn::If"][1]);
        for (id, resource) in template.resources("").filter(|(_, resource)| resource.get("Condition").is_some()) {
            let is_named = named.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == id);
            assert!(!is_named || resource["Condition"] == condition, "{id}");
            count += usize::from(is_named);
        }
    }
    assert!(count > 10, "{count}");
    let body = values[0].as_str().unwrap();
    for (id, _) in template.resources("").filter(|(_, resource)| resource.get("Condition").is_some()) {
        assert!(!body.contains(&format!("${{{id}}}")) && !body.contains(&format!("${{{id}.")), "{id}");
    }
}

#[test]
fn metrics_go_to_the_namespace_that_is_looked_at() {
    let template = Template::read();
    let variables = &template.0["Globals"]["Function"]["Environment"]["Variables"];
    assert_eq!(short(&variables["METRICS_NAMESPACE"]), NAMESPACE);
}

/// What Lambda's own lines about failures have.
const OF_LAMBDA: [&str; 2] = ["record", "status"];

/// Words of the query language that the queries use.
const LANGUAGE: [&str; 24] = [
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
    "m",
    "h",
    "s",
    "SOURCE",
];

/// The queries of the dashboard and the runbooks.
fn queries(template: &Template) -> Vec<String> {
    let dashboard = dashboard(template);
    let widget = dashboard["widgets"].as_array().unwrap().iter().find(|widget| widget["type"] == "log").unwrap();
    let shown = widget["properties"]["query"].as_str().unwrap().to_owned();
    let runbooks = text("docs/runbooks.md");
    let blocks = runbooks.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("insights\n"));
    blocks.map(str::to_owned).chain([shown]).collect()
}

/// The words of a query that are no text, no pattern, and no names that it gives itself.
fn words(query: &str) -> Vec<String> {
    let without = |text: &str, quote: char| text.split(quote).step_by(2).collect::<Vec<_>>().join(" ");
    let bare = without(&without(query, '\''), '/');
    let own: BTreeSet<_> = bare.split(" as ").skip(1).filter_map(|rest| rest.split([' ', ',', '\n']).next()).collect();
    let words = bare.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '@'));
    let words = words.filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic()) && !own.contains(word));
    words.map(str::to_owned).collect()
}

#[test]
fn queries_name_fields_that_a_line_has() {
    let template = Template::read();
    let access_log = &template.0["Resources"]["Api"]["Properties"]["AccessLogSettings"]["Format"];
    let access_log: Value = serde_json::from_str(access_log.as_str().unwrap()).expect("the access log is JSON");
    let access_log = access_log.as_object().unwrap();
    let queries = queries(&template);
    assert!(queries.len() > 10, "{}", queries.len());
    for query in queries {
        for word in words(&query) {
            let word = word.as_str();
            let known = FIELDS.contains(&word) || access_log.contains_key(word);
            let known = known || OF_LAMBDA.contains(&word) || LANGUAGE.contains(&word);
            assert!(known, "no line has the field {word}:\n{query}");
        }
    }
}
