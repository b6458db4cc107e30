//! The checks of what follows from stored events: the events on the bus, and the rows of the sessions table.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use aws_sdk_dynamodb::types::AttributeValue;
use event_store::{
    item::EventItem,
    keys::{PK, SK, SessionKey},
};
use serde_json::Value;
use sessions::item::{ROW, SessionItem};
use unith_events::{
    event_type::EventType,
    session::{Fields, SessionEvent, fold},
};

use crate::{
    checks::ExpectedTable,
    eventbridge::PublishedEvent,
    services::{EVENT_BUS, SESSIONS_TABLE_NAME, Services},
};

/// The expected events on the bus, in the order of `stored`, and a sentence for each mismatch.
///
/// An event may be published more than once. Those that were stored before the demo may be published again.
pub fn check_bus(
    services: &Services,
    stored: &[EventItem],
    table: &ExpectedTable,
) -> (Vec<PublishedEvent>, Vec<String>) {
    compare_bus(services.eventbridge.events(EVENT_BUS), stored, |item| table.was_stored_before(&item.pk, &item.sk))
}

fn compare_bus(
    bus: Vec<PublishedEvent>,
    stored: &[EventItem],
    is_old: impl Fn(&EventItem) -> bool,
) -> (Vec<PublishedEvent>, Vec<String>) {
    let (mut published, mut mismatches) = (BTreeMap::new(), Vec::new());
    for event in bus {
        let id = event.detail().pointer("/metadata/id").and_then(Value::as_str).unwrap_or_default().to_owned();
        published.entry(id).or_insert(event);
    }
    let mut events = Vec::new();
    for item in stored {
        match published.remove(item.event_id.as_str()) {
            Some(event) => {
                if let Some(wrong) = wrong_member(&event, item) {
                    mismatches.push(format!("{} {} on the bus: `{wrong}` differs from the item", item.pk, item.sk));
                }
                events.push(event);
            }
            None if is_old(item) => {}
            None => mismatches.push(format!("{} {} is not on the bus", item.pk, item.sk)),
        }
    }
    (events, mismatches)
}

/// The first member that differs from the item.
fn wrong_member(event: &PublishedEvent, item: &EventItem) -> Option<&'static str> {
    let detail = event.detail();
    let sent: Value = serde_json::from_slice(item.body.as_bytes()).unwrap_or_default();
    let metadata =
        |name: &str| detail.pointer(&format!("/metadata/{name}")).and_then(Value::as_str).unwrap_or_default();
    let is_end = item.event_type == EventType::EndConversation.as_str();
    let checks = [
        ("detail-type", event.detail_type == item.event_type),
        ("time", event.time == item.occurred_at.whole_second()),
        ("metadata.head_id", metadata("head_id") == item.head_id.as_str()),
        ("metadata.session_id", metadata("session_id") == item.session_id.as_str()),
        ("metadata.occurred_at", metadata("occurred_at") == item.occurred_at.to_string()),
        ("data", detail.get("data") == Some(&sent)),
        ("session", detail.get("session").is_some() == is_end),
    ];
    checks.iter().find(|(_, is_right)| !is_right).map(|(name, _)| *name)
}

/// The rows of the sessions of `stored`, in the same order, and a sentence for each mismatch.
pub async fn check_sessions(
    services: &Services,
    stored: &[EventItem],
) -> anyhow::Result<(Vec<SessionItem>, Vec<String>)> {
    let client = services.dynamodb_client()?;
    let (mut rows, mut mismatches, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for EventItem { head_id, session_id, pk, .. } in stored.iter().filter(|item| seen.insert(&item.pk)) {
        let key = SessionKey { head_id: head_id.clone(), session_id: session_id.clone() };
        let events = stored.iter().filter(|item| item.pk == *pk).map(session_event);
        let expected = fold(events).map(|summary| SessionItem::new(&key, summary));
        let get = client.get_item().table_name(SESSIONS_TABLE_NAME).consistent_read(true);
        let get = get.key(PK, AttributeValue::S(pk.clone())).key(SK, AttributeValue::S(ROW.to_owned()));
        let item = get.send().await.with_context(|| format!("cannot read table `{SESSIONS_TABLE_NAME}`"))?.item;
        match item.map(serde_dynamo::from_item::<_, SessionItem>) {
            None => mismatches.push(format!("session {session_id} is not in the table of sessions")),
            Some(Err(error)) => mismatches.push(format!("the row of session {session_id} is invalid: {error}")),
            Some(Ok(row)) => {
                if expected.as_ref() != Some(&row) {
                    mismatches.push(format!("the row of session {session_id} differs from the fold of its events"));
                }
                rows.push(row);
            }
        }
    }
    Ok((rows, mismatches))
}

fn session_event(item: &EventItem) -> SessionEvent {
    Fields {
        event_type: item.event_type.clone(),
        occurred_at: item.occurred_at,
        received_at: item.received_at,
        public_head_id: item.public_head_id.clone(),
        public_org_id: item.public_org_id.clone(),
        expires_at: item.expires_at,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn item(event_type: &str, number: u8) -> EventItem {
        serde_json::from_value(json!({
            "pk": "SESSION#h#s", "sk": format!("EVENT#{number}"), "event_id": format!("{number:032}"),
            "event_type": event_type, "occurred_at": "2026-01-15T09:57:33.500Z", "received_at": "2026-01-15T09:57:34Z",
            "head_id": "h", "session_id": "s", "body": r#"{"a":1}"#, "body_sha256": "",
        }))
        .unwrap()
    }

    /// The bus event of an item, changed at a pointer into its detail.
    fn published(item: &EventItem, change: Option<(&str, Value)>) -> PublishedEvent {
        let mut detail = json!({
            "metadata": {
                "id": item.event_id, "head_id": "h", "session_id": "s", "occurred_at": item.occurred_at,
            },
            "data": {"a": 1},
        });
        if item.event_type == "END_CONVERSATION" {
            detail["session"] = json!({});
        }
        if let Some((pointer, value)) = change {
            *detail.pointer_mut(pointer).unwrap() = value;
        }
        PublishedEvent {
            id: "1".to_owned(),
            source: "unith.webhooks".to_owned(),
            detail_type: item.event_type.clone(),
            time: item.occurred_at.whole_second(),
            detail: detail.to_string(),
            request: 1,
        }
    }

    #[test]
    fn the_check_of_the_bus_reports_missing_and_wrong_events() {
        let (start, end) = (item("START_CONVERSATION", 1), item("END_CONVERSATION", 2));
        let stored = [start.clone(), end.clone()];
        let mismatches = |bus: &[PublishedEvent], is_old: bool| compare_bus(bus.to_vec(), &stored, |_| is_old).1;
        let (first, last) = (published(&start, None), published(&end, None));
        // In any order, and more than once.
        assert_eq!(mismatches(&[last.clone(), first.clone(), last.clone()], false), [""; 0]);
        assert_eq!(mismatches(std::slice::from_ref(&first), false), ["SESSION#h#s EVENT#2 is not on the bus"]);
        assert_eq!(mismatches(&[], true), [""; 0]);
        let differs = |member: &str| [format!("SESSION#h#s EVENT#2 on the bus: `{member}` differs from the item")];
        for (pointer, member) in [
            ("/metadata/head_id", "metadata.head_id"),
            ("/metadata/session_id", "metadata.session_id"),
            ("/metadata/occurred_at", "metadata.occurred_at"),
            ("/data", "data"),
        ] {
            let wrong = published(&end, Some((pointer, json!("other"))));
            assert_eq!(mismatches(&[first.clone(), wrong], false), differs(member));
        }
        let other_type = PublishedEvent { detail_type: "end_conversation".to_owned(), ..last.clone() };
        assert_eq!(mismatches(&[first.clone(), other_type], false), differs("detail-type"));
        let other_time = PublishedEvent { time: end.occurred_at, ..last };
        assert_eq!(mismatches(&[first.clone(), other_time], false), differs("time"));
        let without = published(&EventItem { event_type: "OTHER".to_owned(), ..end.clone() }, None);
        let without = PublishedEvent { detail_type: end.event_type.clone(), ..without };
        assert_eq!(mismatches(&[first, without], false), differs("session"));
    }
}
