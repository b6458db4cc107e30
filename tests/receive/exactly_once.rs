//! One event is one item, however often, by how many and in what spelling it is delivered.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::json;
use tests::{KEY, SESSION, World, event, proxy::Fault, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_deliveries_at_once_make_one_item() {
    let world = World::new().await;
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
    let world = World::new().await;
    let receiver = world.receiver().await;
    assert_eq!(receiver.deliver(&event(&json!({})), KEY).await.word(), (200, "stored".into()));
    for changes in [json!({"timestamp": "2026-01-15T10:57:33.000+01:00"}), json!({"event_type": "start_conversation"})]
    {
        let answer = receiver.deliver(&event(&changes), KEY).await;
        assert_eq!(answer.word(), (200, "duplicate".into()), "{changes}");
        assert_eq!(answer.record.get("Conflict"), None, "{changes}");
    }
    assert_eq!(world.table.items().await.len(), 1);
}

#[tokio::test]
async fn the_same_event_with_other_content_is_a_conflict_and_both_are_kept() {
    let world = World::new().await;
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
    let world = World::new().await;
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
            "EVENT#2026-01-15T09:57:33.000Z#END_CONVERSATION",
            "EVENT#2026-01-15T09:57:33.000Z#SOMETHING_NEW",
            "EVENT#2026-01-15T09:57:33.000Z#START_CONVERSATION",
            "EVENT#2026-01-15T09:57:33.001Z#START_CONVERSATION",
        ]
    );
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_recognised_by_the_retry() {
    let world = World::new().await;
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
    let world = World::new().await.with("RETENTION_DAYS", "36500");
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
