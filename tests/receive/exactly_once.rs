//! One event is one item, however often it is delivered, and in whatever spelling.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;
use sandbox::platform::style::Style;
use serde_json::json;
use tests::{
    delivery::{HEAD, KEY, SESSION, event, event_in},
    proxy::Fault,
    receive_harness::ReceiveHarness,
    table::text,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_concurrent_deliveries_of_an_event_store_one_item() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let body = event(&json!({}));
    let deliveries: Vec<_> = (0..100)
        .map(|_| {
            let (receiver, body) = (receiver.clone(), body.clone());
            tokio::spawn(async move { receiver.deliver(&body, KEY).await.outcome() })
        })
        .collect();
    let mut outcomes = Vec::new();
    for delivery in deliveries {
        outcomes.push(delivery.await.unwrap());
    }
    let count = |word: &str| outcomes.iter().filter(|outcome| **outcome == (200, word.into())).count();
    assert_eq!((count("stored"), count("duplicate")), (1, 99));
    assert_eq!(harness.table.items().await.len(), 1);
}

#[tokio::test]
async fn a_retry_in_another_spelling_is_a_duplicate() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    assert_eq!(receiver.deliver(&event(&json!({})), KEY).await.outcome(), (200, "stored".into()));
    for changes in [
        json!({"timestamp": "2026-01-15T10:57:33.000+01:00"}),
        json!({"timestamp": "2026-01-15 09:57:33"}),
        json!({"timestamp": "2026-01-15T09:57:33Z", "event_type": "START_CONVERSATION"}),
        json!({"event_type": "start_conversation"}),
        json!({"event_type": null, "event": "Start_Conversation", "session_id": null, "sessionId": SESSION}),
    ] {
        let response = receiver.deliver(&event(&changes), KEY).await;
        assert_eq!(response.outcome(), (200, "duplicate".into()), "{changes}");
        assert_eq!(response.log.get("Conflict"), None, "{changes}");
    }
    assert_eq!(harness.table.items().await.len(), 1);
}

#[tokio::test]
async fn an_event_with_other_content_is_a_conflict_and_both_bodies_are_kept() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let first = receiver.deliver(&event(&json!({})), KEY).await;
    let variant = event(&json!({"public_org_id": "other"}));
    for _ in 0..2 {
        let response = receiver.deliver(&variant, KEY).await;
        assert_eq!(response.outcome(), (200, "duplicate".into()));
        assert_eq!(response.log["Conflict"], 1);
        assert_eq!(response.log["level"], "WARN");
    }
    let items = harness.table.items().await;
    assert_eq!(items.len(), 2, "the event and, once, its variant: {items:?}");
    let (quarantined, stored) = (&items[0], &items[1]);
    assert_eq!(text(stored, "public_org_id"), "acme");
    assert_eq!(text(quarantined, "body").as_bytes(), variant);
    let id = first.json()["event_id"].as_str().unwrap().to_owned();
    assert_eq!(text(quarantined, "reason"), format!("differs from the stored event {id}"));
}

#[tokio::test]
async fn events_with_different_identities_are_different_items() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let changes = [
        json!({}),
        json!({"event_type": "END_CONVERSATION"}),
        json!({"event_type": "SOMETHING_NEW"}),
        json!({"timestamp": "2026-01-15T09:57:33.001Z"}),
        json!({"session_id": "another"}),
    ];
    let mut ids = BTreeSet::new();
    // The order of arrival does not matter.
    for changes in changes.iter().rev() {
        let response = receiver.deliver(&event(changes), KEY).await;
        assert_eq!(response.outcome(), (200, "stored".into()), "{changes}");
        ids.insert(response.json()["event_id"].to_string());
    }
    assert_eq!(ids.len(), changes.len());
    let items = harness.table.items().await;
    let of_session: Vec<_> = items.iter().filter(|item| text(item, "session_id") == SESSION).collect();
    let order: Vec<_> = of_session.iter().map(|item| text(item, "sk")).collect();
    assert_eq!(
        order,
        [
            "EVENT#2026-01-15T09:57:33.000Z#1#START_CONVERSATION",
            "EVENT#2026-01-15T09:57:33.000Z#3#SOMETHING_NEW",
            "EVENT#2026-01-15T09:57:33.000Z#5#END_CONVERSATION",
            "EVENT#2026-01-15T09:57:33.001Z#1#START_CONVERSATION",
        ]
    );
}

/// UNITH sends whole seconds, so the sort key ranks the event types within one.
#[tokio::test]
async fn events_of_one_second_sort_in_the_order_in_which_they_happened() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let order = ["start_conversation", "inactivity_warning", "handed_over", "timeout_conversation", "end_conversation"];
    for event_type in
        ["end_conversation", "start_conversation", "timeout_conversation", "handed_over", "inactivity_warning"]
    {
        let body = event(&json!({"timestamp": "2026-08-31 06:56:30", "event_type": event_type}));
        assert_eq!(receiver.deliver(&body, KEY).await.outcome(), (200, "stored".into()), "{event_type}");
    }
    let items = harness.table.items().await;
    let types: Vec<_> = items.iter().map(|item| text(item, "event_type").to_lowercase()).collect();
    assert_eq!(types, order);
}

#[tokio::test]
async fn the_spellings_of_the_guide_and_the_kit_are_one_event() {
    for (first, second) in [(Style::Kit, Style::Guide), (Style::Guide, Style::Kit)] {
        let harness = ReceiveHarness::new().await;
        let receiver = harness.receiver().await;
        let stored = receiver.deliver(&event_in(first, &json!({})), KEY).await;
        let again = receiver.deliver(&event_in(second, &json!({})), KEY).await;
        assert_eq!((stored.outcome(), again.outcome()), ((200, "stored".into()), (200, "duplicate".into())));
        assert_eq!(stored.json()["event_id"], again.json()["event_id"]);
        assert_eq!((again.log.get("Conflict"), harness.table.items().await.len()), (None, 1), "{first:?}");
    }
}

/// Two events within a millisecond share one identity, and the second one must not vanish.
#[tokio::test]
async fn events_that_differ_by_less_than_a_millisecond_conflict() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let at = |timestamp: &str| event(&json!({"timestamp": timestamp}));
    receiver.deliver(&at("2026-01-15T09:57:33.0001Z"), KEY).await;
    let same = receiver.deliver(&at("2026-01-15 09:57:33.000100"), KEY).await;
    assert_eq!((same.outcome(), same.log.get("Conflict")), ((200, "duplicate".into()), None));
    let other = receiver.deliver(&at("2026-01-15T09:57:33.0002Z"), KEY).await;
    assert_eq!((other.outcome(), &other.log["Conflict"]), ((200, "duplicate".into()), &json!(1)));
    assert_eq!(harness.table.items().await.len(), 2);
}

#[tokio::test]
async fn sessions_with_odd_ids_are_stored_apart() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let sessions = ["a#b", "a%23b", "user@example.com/1", "{u}::{o}::{h}::{00001}", "😀", "a b"];
    for session in sessions {
        let response = receiver.deliver(&event(&json!({"session_id": session})), KEY).await;
        assert_eq!(response.outcome(), (200, "stored".into()), "{session}");
    }
    let items = harness.table.items().await;
    let keys: BTreeSet<_> = items.iter().map(|item| text(item, "pk").to_owned()).collect();
    assert_eq!(keys.len(), sessions.len());
    assert!(keys.contains(&format!("SESSION#{HEAD}#a%23b")) && keys.contains(&format!("SESSION#{HEAD}#a%2523b")));
    let ids: BTreeSet<_> = items.iter().map(|item| text(item, "session_id")).collect();
    assert_eq!(ids, BTreeSet::from(sessions));
}

#[tokio::test]
async fn unknown_members_cannot_make_an_event_unreadable() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let event = String::from_utf8(event(&json!({}))).unwrap();
    let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
    for (n, odd) in [r#""\ud83d""#, "1e400", &"9".repeat(400), &deep, r#"{"\udc00": [1e999]}"#].into_iter().enumerate()
    {
        let body = event.replacen('{', &format!("{{\"user\":{odd},"), 1).replace(SESSION, &n.to_string());
        for (body, word) in [(body.clone(), "stored"), (format!("\u{feff}{body}"), "duplicate")] {
            assert_eq!(receiver.deliver(body.as_bytes(), KEY).await.outcome(), (200, word.into()), "{n}");
        }
        let conflicting = body.replace(odd, "0");
        let response = receiver.deliver(conflicting.as_bytes(), KEY).await;
        assert_eq!(response.log["Conflict"], 1, "{n}: {}", response.log);
    }
}

#[tokio::test]
async fn an_event_without_public_ids_is_stored() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let odd = json!({"public_head_id": null, "public_org_id": ["acme"]});
    assert_eq!(receiver.deliver(&event(&odd), KEY).await.outcome(), (200, "stored".into()));
    let item = harness.table.items().await.remove(0);
    assert!(!item.contains_key("public_head_id") && !item.contains_key("public_org_id"), "{item:?}");
}

#[tokio::test]
async fn a_retry_recognises_its_own_write_whose_response_was_lost() {
    for fault in [Fault::drop_response(), Fault::truncate()] {
        let harness = ReceiveHarness::new().await;
        let receiver = harness.receiver().await;
        let before = harness.table.proxy.requests();
        harness.table.proxy.set(fault.clone().times(1));
        let outcome = receiver.deliver(&event(&json!({})), KEY).await.outcome();
        assert_eq!(outcome, (200, "duplicate".into()), "{fault:?}");
        assert_eq!(harness.table.proxy.requests(), before + 2, "{fault:?}: the write and its retry");
        assert_eq!(harness.table.items().await.len(), 1, "{fault:?}");
    }
}

/// A write unit is 1 KiB of attribute names and values.
#[tokio::test]
async fn an_ordinary_event_costs_one_write_unit() {
    let harness = ReceiveHarness::new().await.with("RETENTION_DAYS", "36500");
    harness.receiver().await.deliver(&event(&json!({})), KEY).await;
    let item = harness.table.items().await.remove(0);
    let size = |value: &AttributeValue| match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
        other => panic!("unexpected attribute of an event: {other:?}"),
    };
    let bytes: usize = item.iter().map(|(name, value)| name.len() + size(value)).sum();
    assert!((600..=1_024).contains(&bytes), "{bytes} bytes");
}
