//! The event patterns of the examples and of `docs/events.md`, against events that the real publisher puts on a bus.

use std::time::Duration;

use event_store::{item::EventItem, retention::Retention};
use serde_json::{Value, json};
use tests::{
    delivery::HEAD,
    publish_harness::{END, PublishHarness, START, TIMEOUT, WARNING, event_item, event_item_of},
    repository::repository_text,
    snapshot::redacted,
};
use unith_events::timestamp::Timestamp;

/// Whether an event pattern matches: literals, `null` and `exists` alone.
fn matches(pattern: &Value, event: Option<&Value>) -> bool {
    match pattern {
        Value::Object(members) => {
            members.iter().all(|(name, pattern)| matches(pattern, event.and_then(|event| event.get(name))))
        }
        Value::Array(alternatives) => alternatives.iter().any(|alternative| {
            if let Some(exists) = alternative.get("exists") {
                return exists.as_bool().unwrap() == event.is_some();
            }
            assert!(!alternative.is_object() && !alternative.is_array(), "this matcher has no {alternative}");
            event == Some(alternative)
        }),
        other => panic!("not an event pattern: {other}"),
    }
}

/// The events of a session of the guide's head on 15 January 2026, each with its second after 09:57.
fn conversation(session: &str, events: &[(&str, u32)]) -> Vec<EventItem> {
    let item = |(event_type, second): &(&str, u32)| {
        let (minute, second) = (57 + second / 60, second % 60);
        let at = format!("2026-01-15T09:{minute}:{second:02}Z");
        let body = json!({
            "timestamp": at, "head_id": HEAD, "session_id": session, "public_head_id": "jane-15326", "public_org_id": "acme",
            "event_type": event_type,
        });
        let item = event_item_of(HEAD, session, event_type, &at, body.to_string().as_bytes(), None);
        let at = Timestamp::parse(&at).unwrap();
        EventItem {
            received_at: at.plus(Duration::from_millis(412)),
            public_org_id: Some("acme".to_owned()),
            expires_at: Retention::Days(365).expires_at(at),
            ..item
        }
    };
    events.iter().map(item).collect()
}

/// The events, as a rule's target gets them, in the order of the items.
async fn published(items: Vec<EventItem>) -> Vec<Value> {
    let harness = PublishHarness::start().await;
    let (mut records, mut ids) = (Vec::new(), Vec::new());
    for item in items {
        ids.push(item.event_id.to_string());
        records.push(harness.store_item(item).await);
    }
    assert_eq!(harness.deliver(&records).await, None);
    let mut events: Vec<Value> =
        harness.published().iter().map(|event| serde_json::from_str(&event.to_json()).unwrap()).collect();
    events.sort_by_key(|event| ids.iter().position(|id| event["detail"]["metadata"]["id"] == id.as_str()));
    events
}

/// Session and type of the events that match.
fn matching(pattern: &Value, events: &[Value]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let matching = events.iter().filter(|event| matches(pattern, Some(event)));
    matching.map(|event| (text(&event["detail"]["metadata"]["session_id"]), text(&event["detail-type"]))).collect()
}

async fn all_kinds() -> Vec<Value> {
    let mut items = Vec::new();
    for session in ["timed-out", "self-test:1"] {
        items.extend(conversation(session, &[(START, 0), (WARNING, 30), (TIMEOUT, 45), (END, 45)]));
    }
    items.extend(conversation("by-user", &[(START, 0), (END, 20)]));
    // The user never said anything, so START is missing.
    items.extend(conversation("silent", &[(WARNING, 30), (TIMEOUT, 45), (END, 45)]));
    // The user comes back after a time-out, and leaves.
    items.extend(conversation("came-back", &[(START, 0), (TIMEOUT, 45), (START, 50), (END, 70)]));
    items.push(event_item("another-head", "another", END, "2026-01-15T09:57:00Z"));
    published(items).await
}

#[tokio::test]
async fn the_workflow_starts_when_a_conversation_ends_by_time_out_and_at_no_other_event() {
    let template = repository_text("examples/start_workflow_on_timeout.yaml");
    let template: yaml_serde::Value = yaml_serde::from_str(&template).unwrap();
    let rule = &template["Resources"]["Workflow"]["Properties"]["Events"]["TimedOut"]["Properties"];
    let pattern = serde_json::to_value(&rule["Pattern"]).unwrap();
    let events = all_kinds().await;
    let mut sessions = matching(&pattern, &events);
    sessions.sort();
    assert_eq!(sessions, ["silent", "timed-out"].map(|session| (session.to_owned(), END.to_owned())));

    // The paths of the states are in every event that they get.
    assert_eq!(rule["InputPath"].as_str(), Some("$.detail"));
    let details: Vec<_> =
        events.iter().filter(|event| matches(&pattern, Some(event))).map(|event| &event["detail"]).collect();
    let states = &template["Resources"]["Workflow"]["Properties"]["Definition"]["States"];
    let states = serde_json::to_string(states).unwrap();
    let mut paths = 0;
    for path in states.split("\"$.").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        let pointer = format!("/{}", path.replace('.', "/"));
        assert!(details.iter().all(|detail| detail.pointer(&pointer).is_some()), "{pointer}");
        paths += 1;
    }
    assert_eq!(paths, 4);
}

/// The blocks of JSON in the document, each with the text of the line before it.
fn blocks() -> Vec<(String, Value)> {
    let document = repository_text("docs/events.md");
    let mut blocks = Vec::new();
    let mut parts = document.split("```");
    while let (Some(text), Some(block)) = (parts.next(), parts.next()) {
        if let Some(json) = block.strip_prefix("json\n") {
            let label = text.trim_end().lines().last().unwrap_or_default().to_owned();
            blocks.push((label, serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))));
        }
    }
    blocks
}

fn block(label: &str) -> Value {
    let found = blocks().into_iter().find(|(own, _)| own.contains(label));
    found.unwrap_or_else(|| panic!("docs/events.md has no JSON behind a line with `{label}`")).1
}

#[tokio::test]
async fn the_documents_example_is_what_the_publisher_sends() {
    let session = "f47ac10b-58cc-4372-a567-0e02b2c3d479";
    let items = conversation(session, &[(START, 0), (WARNING, 30), (TIMEOUT, 45), (END, 45)]);
    let event = published(items).await.pop().unwrap();
    let varying = ["/id", "/account", "/region"];
    assert_eq!(redacted(block("of a conversation that ended by time-out"), &varying), redacted(event, &varying));
}

#[tokio::test]
async fn the_documents_patterns_match_what_they_say() {
    let events = all_kinds().await;
    let ends = ["timed-out", "self-test:1", "by-user", "silent", "came-back", "another"];
    let of = |label: &str| matching(&block(label), &events);
    let expect = |events: &[(&str, &str)]| -> Vec<(String, String)> {
        events.iter().map(|(session, event_type)| ((*session).to_owned(), (*event_type).to_owned())).collect()
    };
    assert_eq!(of("Every conversation that ended"), expect(&ends.map(|session| (session, END))));
    assert_eq!(of("Conversations that ended by time-out"), expect(&[("timed-out", END), ("silent", END)]));
    assert_eq!(of("Everything that happens to one digital human").len(), events.len() - 1);
    assert_eq!(of("No tests and no replays").len(), events.len() - 4, "a self-test has four events");
    assert_eq!(of("Replays only"), vec![]);
    assert_eq!(of("A member of UNITH's own object").len(), events.len() - 1);
}

#[test]
fn the_documents_replay_is_a_command() {
    let command = block("what matches and what reading cost");
    assert!(publish::command::Command::parse(command).is_ok());
}
