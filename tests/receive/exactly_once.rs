//! One event is one item, however often, by how many and in what spelling it is delivered.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;
use sandbox::platform::Style;
use serde_json::json;
use tests::{HEAD, KEY, ReceiveHarness, SESSION, event, event_in, proxy::Fault, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_deliveries_at_once_make_one_item() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    let body = event(&json!({}));
    let deliveries: Vec<_> = (0..100)
        .map(|_| {
            let (receiver, body) = (receiver.clone(), body.clone());
            tokio::spawn(async move { receiver.deliver(&body, KEY).await.word() })
        })
        .collect();
    let mut words = Vec::new();
    for delivery in deliveries {
        words.push(delivery.await.unwrap());
    }
    assert_eq!(words.iter().filter(|word| **word == (200, "stored".into())).count(), 1);
    assert_eq!(words.iter().filter(|word| **word == (200, "duplicate".into())).count(), 99);
    assert_eq!(world.table.items().await.len(), 1);
}

#[tokio::test]
async fn a_retry_that_says_the_same_in_other_words_is_a_duplicate() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    assert_eq!(receiver.deliver(&event(&json!({})), KEY).await.word(), (200, "stored".into()));
    for changes in [
        json!({"timestamp": "2026-01-15T10:57:33.000+01:00"}),
        json!({"timestamp": "2026-01-15 09:57:33"}),
        json!({"timestamp": "2026-01-15T09:57:33Z", "event_type": "START_CONVERSATION"}),
        json!({"event_type": "start_conversation"}),
        json!({"event_type": null, "event": "Start_Conversation", "session_id": null, "sessionId": SESSION}),
    ] {
        let answer = receiver.deliver(&event(&changes), KEY).await;
        assert_eq!(answer.word(), (200, "duplicate".into()), "{changes}");
        assert_eq!(answer.record.get("Conflict"), None, "{changes}");
    }
    assert_eq!(world.table.items().await.len(), 1);
}

#[tokio::test]
async fn the_same_event_with_other_content_is_a_conflict_and_both_are_kept() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    let first = receiver.deliver(&event(&json!({})), KEY).await;
    let variant = event(&json!({"public_org_id": "other"}));
    for _ in 0..2 {
        let answer = receiver.deliver(&variant, KEY).await;
        assert_eq!(answer.word(), (200, "duplicate".into()));
        assert_eq!(answer.record["Conflict"], 1);
        assert_eq!(answer.record["level"], "WARN");
    }
    let items = world.table.items().await;
    assert_eq!(items.len(), 2, "the event, and its variant once: {items:?}");
    let (quarantined, stored) = (&items[0], &items[1]);
    assert_eq!(text(stored, "public_org_id"), "acme");
    assert_eq!(text(quarantined, "body").as_bytes(), variant);
    let id = first.json()["event_id"].as_str().unwrap().to_owned();
    assert_eq!(text(quarantined, "reason"), format!("says something else than the stored event {id}"));
}

#[tokio::test]
async fn events_that_differ_in_what_makes_them_are_different_items() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
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
        let answer = receiver.deliver(&event(changes), KEY).await;
        assert_eq!(answer.word(), (200, "stored".into()), "{changes}");
        ids.insert(answer.json()["event_id"].to_string());
    }
    assert_eq!(ids.len(), changes.len());
    let items = world.table.items().await;
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

/// UNITH sends whole seconds: what happens within one still reads in the order in which it happened.
#[tokio::test]
async fn events_of_one_second_are_read_in_the_order_in_which_they_happened() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    let order = ["start_conversation", "inactivity_warning", "handed_over", "timeout_conversation", "end_conversation"];
    for event_type in
        ["end_conversation", "start_conversation", "timeout_conversation", "handed_over", "inactivity_warning"]
    {
        let body = event(&json!({"timestamp": "2026-08-31 06:56:30", "event_type": event_type}));
        assert_eq!(receiver.deliver(&body, KEY).await.word(), (200, "stored".into()), "{event_type}");
    }
    let items = world.table.items().await;
    let types: Vec<_> = items.iter().map(|item| text(item, "event_type").to_lowercase()).collect();
    assert_eq!(types, order);
}

#[tokio::test]
async fn both_spellings_of_unith_are_one_event() {
    for (first, second) in [(Style::Kit, Style::Guide), (Style::Guide, Style::Kit)] {
        let world = ReceiveHarness::new().await;
        let receiver = world.receiver().await;
        let stored = receiver.deliver(&event_in(first, &json!({})), KEY).await;
        let again = receiver.deliver(&event_in(second, &json!({})), KEY).await;
        assert_eq!((stored.word(), again.word()), ((200, "stored".into()), (200, "duplicate".into())));
        assert_eq!(stored.json()["event_id"], again.json()["event_id"]);
        assert_eq!((again.record.get("Conflict"), world.table.items().await.len()), (None, 1), "{first:?}");
    }
}

/// Two events within a millisecond have one identity: the second one must not vanish.
#[tokio::test]
async fn what_differs_below_a_millisecond_is_a_conflict() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    let at = |timestamp: &str| event(&json!({"timestamp": timestamp}));
    receiver.deliver(&at("2026-01-15T09:57:33.0001Z"), KEY).await;
    let same = receiver.deliver(&at("2026-01-15 09:57:33.000100"), KEY).await;
    assert_eq!((same.word(), same.record.get("Conflict")), ((200, "duplicate".into()), None));
    let other = receiver.deliver(&at("2026-01-15T09:57:33.0002Z"), KEY).await;
    assert_eq!((other.word(), &other.record["Conflict"]), ((200, "duplicate".into()), &json!(1)));
    assert_eq!(world.table.items().await.len(), 2);
}

#[tokio::test]
async fn odd_ids_are_stored_apart() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    let sessions = ["a#b", "a%23b", "user@example.com/1", "{u}::{o}::{h}::{00001}", "😀", "a b"];
    for session in sessions {
        let answer = receiver.deliver(&event(&json!({"session_id": session})), KEY).await;
        assert_eq!(answer.word(), (200, "stored".into()), "{session}");
    }
    let items = world.table.items().await;
    let keys: BTreeSet<_> = items.iter().map(|item| text(item, "pk").to_owned()).collect();
    assert_eq!(keys.len(), sessions.len());
    assert!(keys.contains(&format!("SESSION#{HEAD}#a%23b")) && keys.contains(&format!("SESSION#{HEAD}#a%2523b")));
    let ids: BTreeSet<_> = items.iter().map(|item| text(item, "session_id")).collect();
    assert_eq!(ids, BTreeSet::from(sessions));
}

#[tokio::test]
async fn members_nobody_reads_cannot_make_an_event_unreadable() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    let event = String::from_utf8(event(&json!({}))).unwrap();
    let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
    for (n, odd) in [r#""\ud83d""#, "1e400", &"9".repeat(400), &deep, r#"{"\udc00": [1e999]}"#].into_iter().enumerate()
    {
        let body = event.replacen('{', &format!("{{\"user\":{odd},"), 1).replace(SESSION, &n.to_string());
        for (body, word) in [(body.clone(), "stored"), (format!("\u{feff}{body}"), "duplicate")] {
            assert_eq!(receiver.deliver(body.as_bytes(), KEY).await.word(), (200, word.into()), "{n}");
        }
        let conflicting = body.replace(odd, "0");
        let answer = receiver.deliver(conflicting.as_bytes(), KEY).await;
        assert_eq!(answer.record["Conflict"], 1, "{n}: {}", answer.record);
    }
}

#[tokio::test]
async fn an_event_without_public_ids_is_an_event() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    let odd = json!({"public_head_id": null, "public_org_id": ["acme"]});
    assert_eq!(receiver.deliver(&event(&odd), KEY).await.word(), (200, "stored".into()));
    let item = world.table.items().await.remove(0);
    assert!(!item.contains_key("public_head_id") && !item.contains_key("public_org_id"), "{item:?}");
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_recognised_by_the_retry() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    let before = world.table.proxy.requests();
    world.table.proxy.set(Fault::LoseAnswer);
    let body = event(&json!({}));
    let delivery = tokio::spawn({
        let (receiver, body) = (receiver.clone(), body.clone());
        async move { receiver.deliver(&body, KEY).await }
    });
    while world.table.proxy.requests() == before {
        tokio::task::yield_now().await;
    }
    world.table.proxy.set(Fault::None);
    assert_eq!(delivery.await.unwrap().word(), (200, "duplicate".into()));
    assert_eq!(world.table.items().await.len(), 1);
}

/// What an event costs is counted in write units of 1 KiB: names and values of all attributes.
#[tokio::test]
async fn an_ordinary_event_takes_one_write_unit() {
    let world = ReceiveHarness::new().await.with("RETENTION_DAYS", "36500");
    world.receiver().await.deliver(&event(&json!({})), KEY).await;
    let item = world.table.items().await.remove(0);
    let size = |value: &AttributeValue| match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
        other => panic!("an event has no such attribute: {other:?}"),
    };
    let bytes: usize = item.iter().map(|(name, value)| name.len() + size(value)).sum();
    assert!((600..=1_024).contains(&bytes), "{bytes} bytes");
}
