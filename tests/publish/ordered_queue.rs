//! The second outlet: a FIFO queue.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tests::{
    proxy::Fault,
    publish_harness::{END, PublishHarness, START, WARNING, event_item, event_item_of, number},
};

const NINE: &str = "2026-01-15T09:00:00Z";

fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

#[tokio::test]
async fn an_event_goes_to_both_outlets_with_the_group_of_its_session() {
    let harness = PublishHarness::start().await.with_ordered_queue();
    let records = [
        harness.store("a", START, NINE).await,
        harness.store("a", END, "2026-01-15T09:00:01Z").await,
        harness.store("b", START, NINE).await,
    ];
    assert_eq!(harness.deliver(&records).await, None);
    let (events, messages) = (harness.published(), harness.ordered());
    assert_eq!((events.len(), messages.len()), (3, 3));
    for message in &messages {
        let body: Value = serde_json::from_str(&message.body).unwrap();
        let metadata = &body["detail"]["metadata"];
        let event = events.iter().find(|event| event.detail()["metadata"]["id"] == metadata["id"]).unwrap();
        let mut expected: Value = serde_json::from_str(&event.to_json()).unwrap();
        for name in ["version", "id", "account", "region", "resources"] {
            expected.as_object_mut().unwrap().remove(name);
        }
        assert_eq!(body, expected, "the event as it is on the bus, but for EventBridge's own members");
        let session = metadata["session_id"].as_str().unwrap();
        assert_eq!(message.group.as_deref(), Some(sha256(&format!("SESSION#h#{session}")).as_str()));
        assert_eq!(message.deduplication_id.as_deref(), metadata["id"].as_str());
    }
    let types = |session: &str| -> Vec<Value> {
        let bodies = messages.iter().map(|message| serde_json::from_str::<Value>(&message.body).unwrap());
        let own = bodies.filter(|body| body["detail"]["metadata"]["session_id"] == session);
        own.map(|body| body["detail-type"].clone()).collect()
    };
    assert_eq!((types("a"), types("b")), (vec![json!(START), json!(END)], vec![json!(START)]));
}

#[tokio::test]
async fn the_queue_can_be_the_only_outlet() {
    let harness = PublishHarness::start().await.with_ordered_queue().with("EVENT_BUS_ARN", "");
    let records = [harness.store("a", START, NINE).await];
    assert_eq!(harness.deliver(&records).await, None);
    assert_eq!((harness.published().len(), harness.ordered().len()), (0, 1));
    assert_eq!(harness.eventbridge.calls("DescribeEventBus"), 0);
}

#[tokio::test]
async fn a_record_is_done_when_both_outlets_took_it() {
    for (fault, reason) in [
        (Fault::status(500), "the ordered queue did not take the request"),
        (Fault::access_denied(), "the function's role needs sqs:SendMessage on it"),
        (Fault::aws_error("QueueDoesNotExist"), "the ordered queue did not take the request"),
    ] {
        let harness = PublishHarness::start().await.with_ordered_queue();
        let records =
            [harness.store("a", START, NINE).await, harness.store("a", WARNING, "2026-01-15T09:00:01Z").await];
        harness.sqs_proxy.set(fault.clone());
        let publisher = harness.publisher();
        assert_eq!(harness.deliver_to(&publisher, &records).await, Some(number(&records[0])), "{fault:?}");
        let line = harness.lines().remove(0);
        assert!(line["reason"].as_str().unwrap().contains(reason), "{fault:?}: {line}");
        assert_eq!((harness.published().len(), harness.ordered().len()), (1, 0), "{fault:?}");

        harness.sqs_proxy.clear();
        assert_eq!(harness.deliver_to(&publisher, &records).await, None, "{fault:?}");
        assert_eq!((harness.published().len(), harness.ordered().len()), (2, 2), "the bus had the first one");
    }
}

/// Another environment does not know what the bus took: at least once. The queue recognises its duplicates.
#[tokio::test]
async fn another_environment_publishes_again_and_the_queue_drops_what_it_had() {
    let harness = PublishHarness::start().await.with_ordered_queue();
    let records = [harness.store("a", START, NINE).await];
    for _ in 0..2 {
        assert_eq!(harness.deliver(&records).await, None);
    }
    assert_eq!((harness.published().len(), harness.ordered().len()), (2, 1));
}

/// SQS refuses two characters that JSON allows.
#[tokio::test]
async fn an_event_with_characters_that_sqs_refuses_reaches_the_queue() {
    let harness = PublishHarness::start().await.with_ordered_queue();
    let body = "{\"text\":\"\u{fffe}\u{ffff}\"}";
    let records = [
        harness.store_item(event_item_of("h", "a", START, NINE, body.as_bytes(), None)).await,
        harness.store_item(event_item("h", "\u{ffff}", START, NINE)).await,
    ];
    assert_eq!(harness.deliver(&records).await, None);
    let bodies: Vec<Value> =
        harness.ordered().iter().map(|message| serde_json::from_str(&message.body).unwrap()).collect();
    assert_eq!(bodies[0]["detail"]["data"]["text"], "\u{fffe}\u{ffff}");
    assert_eq!(bodies[1]["detail"]["metadata"]["session_id"], "\u{ffff}");
    assert!(harness.published()[0].detail.contains(body), "on the bus it is as it came");
}
