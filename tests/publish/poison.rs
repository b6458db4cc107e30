//! Records that can never be published. They never block their shard.

use serde_json::{Value, json};
use tests::{
    proxy::Fault,
    publish_harness::{END, PublishHarness, START, WARNING, event_item_of, number},
    table::text,
};

const NINE: &str = "2026-01-15T09:00:00Z";

/// The sessions of the events on the bus.
fn sessions(harness: &PublishHarness) -> Vec<String> {
    let events = harness.published().into_iter();
    events.map(|event| event.detail()["metadata"]["session_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_item_that_is_not_an_event_is_poison_and_the_others_are_published() {
    let harness = PublishHarness::start().await;
    let mut broken = harness.store("a", START, NINE).await;
    broken["dynamodb"]["NewImage"]["occurred_at"] = json!({"S": "soon"});
    let records =
        [broken, harness.store("a", WARNING, "2026-01-15T09:00:01Z").await, harness.store("b", START, NINE).await];
    assert_eq!(harness.deliver(&records).await, None);
    assert_eq!(sessions(&harness), ["b", "a"], "its session goes on");
    let sk = "EVENT#2026-01-15T09:00:00.000Z#1#START_CONVERSATION";
    let id = &records[0]["dynamodb"]["NewImage"]["event_id"]["S"];
    let poison = json!({"pk": "SESSION#h#a", "sk": sk, "event_id": id, "reason": "the item is not an event"});
    assert_eq!(harness.failures(), [poison]);
    let lines = harness.lines();
    assert_eq!((&lines[0]["level"], &lines[0]["outcome"]), (&json!("ERROR"), &json!("poison")));
    assert_eq!((&lines[1]["Published"], &lines[1]["PublishPoison"]), (&json!(2), &json!(1)));
}

#[tokio::test]
async fn an_event_that_the_bus_refuses_is_sent_once_more_as_a_text() {
    let harness = PublishHarness::start().await;
    harness.eventbridge.fail_entries(|event| {
        let detail = event.detail();
        (detail["metadata"]["session_id"] == "a" && !detail["data"].is_null()).then_some("MalformedDetail")
    });
    let records = [harness.store("a", END, NINE).await, harness.store("b", START, NINE).await];
    assert_eq!(harness.deliver(&records).await, None);
    assert_eq!(sessions(&harness), ["b", "a"]);
    let detail = harness.published()[1].detail();
    let body: Value = serde_json::from_str(detail["body"].as_str().unwrap()).unwrap();
    assert_eq!((&detail["data"], &body["session_id"]), (&Value::Null, &json!("a")));
    assert_eq!(detail["session"]["n"], 1, "an END keeps its summary");
    assert_eq!(harness.failures(), Vec::<Value>::new());
}

#[tokio::test]
async fn an_event_that_the_bus_refuses_as_a_text_too_is_poison() {
    for code in ["MalformedDetail", "InvalidArgument"] {
        let harness = PublishHarness::start().await;
        harness.eventbridge.fail_entries(move |event| {
            let metadata = &event.detail()["metadata"];
            (metadata["session_id"] == "a" && event.detail_type == START).then_some(code)
        });
        let unreadable = event_item_of("h", "b", START, NINE, b"\xef\xbb\xbf{}", None);
        let records = [
            harness.store("a", START, NINE).await,
            harness.store("a", WARNING, "2026-01-15T09:00:01Z").await,
            harness.store_item(unreadable).await,
        ];
        assert_eq!(harness.deliver(&records).await, None, "{code}");
        assert_eq!(sessions(&harness), ["b", "a"], "{code}");
        let failure = harness.failures().remove(0);
        let id = &records[0]["dynamodb"]["NewImage"]["event_id"]["S"];
        assert_eq!((&failure["pk"], &failure["event_id"]), (&json!("SESSION#h#a"), id));
        let reason = format!("the event bus did not take the event: {code}: injected by the sandbox");
        assert_eq!(failure["reason"], reason);
        assert_eq!(harness.lines()[0]["event_id"], *id);
    }
}

/// The bus itself refuses it: the detail type has more than 128 characters.
#[tokio::test]
async fn an_event_of_a_type_that_eventbridge_does_not_take_is_poison() {
    let harness = PublishHarness::start().await;
    let mut record = harness.store("a", START, NINE).await;
    record["dynamodb"]["NewImage"]["event_type"] = json!({"S": "X".repeat(129)});
    let records = [record, harness.store("b", START, NINE).await];
    assert_eq!(harness.deliver(&records).await, None);
    assert_eq!(sessions(&harness), ["b"]);
    let reason = harness.failures()[0]["reason"].clone();
    assert!(reason.as_str().unwrap().contains("InvalidArgument: Parameter DetailType is not valid"), "{reason}");
}

#[tokio::test]
async fn an_event_that_no_request_holds_is_poison_and_requests_stay_within_their_limit() {
    let harness = PublishHarness::start().await;
    let large = |bytes: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(bytes));
    let mut records = Vec::new();
    for (session, bytes) in [("a", 390_000), ("b", 390_000), ("c", 390_000), ("d", 1_000_000), ("e", 10)] {
        let mut item = event_item_of("h", session, START, NINE, b"{}", None);
        item.body = event_store::item::Body::new(large(bytes).as_bytes());
        // An item holds 400 KB, so such a record is not stored.
        records.push(harness.record(&item.into()));
    }
    assert_eq!(harness.deliver(&records).await, None);
    let events = harness.published();
    let mut published = sessions(&harness);
    published.sort_unstable();
    assert_eq!(published, ["a", "b", "c", "e"]);
    let of = |session: &str| {
        let mut events = events.iter();
        events.find(|event| event.detail()["metadata"]["session_id"] == session).unwrap().request
    };
    assert_eq!((of("a"), of("c")), (of("b"), of("e")), "two requests");
    assert_ne!(of("a"), of("c"));
    let reason = harness.failures()[0]["reason"].clone();
    assert!(reason.as_str().unwrap().ends_with("a request takes fewer than 1000000"), "{reason}");
}

/// A request that is refused as a whole may have one entry to blame.
#[tokio::test]
async fn the_entries_of_a_refused_request_are_sent_one_by_one() {
    let harness = PublishHarness::start().await;
    let records = [
        harness.store("a", START, NINE).await,
        harness.store("b", START, NINE).await,
        harness.store("c", START, NINE).await,
    ];
    // A publisher of these tests looks for the bus before each round.
    harness.bus_proxy.set(Fault::aws_error("ValidationException").after(1).times(1));
    assert_eq!(harness.deliver(&records).await, None);
    let requests: std::collections::BTreeSet<_> = harness.published().iter().map(|event| event.request).collect();
    assert_eq!((sessions(&harness).len(), requests.len()), (3, 3));
    assert_eq!(harness.failures(), Vec::<Value>::new());
}

#[tokio::test]
async fn poison_that_the_on_failure_queue_does_not_take_is_held_back_with_its_session() {
    let harness = PublishHarness::start().await;
    let mut broken = harness.store("a", START, NINE).await;
    broken["dynamodb"]["NewImage"]["body"] = json!({"N": "1"});
    let records =
        [harness.store("b", START, NINE).await, broken, harness.store("a", WARNING, "2026-01-15T09:00:01Z").await];
    harness.sqs_proxy.set(Fault::status(500));
    assert_eq!(harness.deliver(&records).await, Some(number(&records[1])));
    assert_eq!(sessions(&harness), ["b"]);
    let reason = harness.lines()[0]["reason"].as_str().unwrap().to_owned();
    assert!(
        reason.contains("the item is not an event; queue") && reason.contains("did not take the record"),
        "{reason}"
    );
    harness.sqs_proxy.clear();
    assert_eq!(harness.deliver(&records[1..]).await, None);
    assert_eq!((sessions(&harness).len(), harness.failures().len()), (2, 1));
}

/// The records behind the one that is held back come again, the poison among them.
#[tokio::test]
async fn poison_is_reported_once_while_an_earlier_session_is_held_back() {
    let harness = PublishHarness::start().await;
    let held = harness.store("a", END, NINE).await;
    let mut of_unknown_type = harness.store("b", START, "2026-01-15T09:00:01Z").await;
    of_unknown_type["dynamodb"]["NewImage"]["event_type"] = json!({"S": "X".repeat(129)});
    let mut no_event = harness.store("c", START, "2026-01-15T09:00:01Z").await;
    no_event["dynamodb"]["NewImage"] = json!({"pk": {"S": "SESSION#h#c"}});
    let records = [held, of_unknown_type, no_event];
    harness.table.proxy.set(Fault::access_denied());
    let publisher = harness.publisher();
    for _ in 0..3 {
        assert_eq!(harness.deliver_to(&publisher, &records).await, Some(number(&records[0])));
    }
    assert_eq!(harness.failures().len(), 2);
    // The look at the bus fails: what was reported stays reported.
    harness.bus_proxy.set(Fault::access_denied());
    assert_eq!(harness.deliver_to(&publisher, &records).await, Some(number(&records[0])));
    harness.bus_proxy.clear();
    assert_eq!(harness.deliver_to(&publisher, &records).await, Some(number(&records[0])));
    assert_eq!(harness.failures().len(), 2);
}

#[tokio::test]
async fn a_denied_entry_is_held_back_and_is_not_poison() {
    for code in ["AccessDeniedException", "NotAuthorizedForDetailTypeException", "SomethingNew"] {
        let harness = PublishHarness::start().await;
        harness.eventbridge.fail_entries(move |event| (event.detail_type == END).then_some(code));
        let records = [harness.store("a", END, NINE).await, harness.store("b", START, NINE).await];
        assert_eq!(harness.deliver(&records).await, Some(number(&records[0])), "{code}");
        assert_eq!((sessions(&harness), harness.failures().len()), (vec!["b".to_owned()], 0), "{code}");
    }
}

#[tokio::test]
async fn no_line_and_no_message_repeats_a_body() {
    let harness = PublishHarness::start().await;
    harness.eventbridge.fail_entries(|event| match event.detail_type.as_str() {
        START => Some("MalformedDetail"),
        END => Some("ThrottlingException"),
        _ => None,
    });
    let mut records = Vec::new();
    for (session, event_type) in [("a", START), ("b", END), ("c", WARNING)] {
        let item = event_item_of("h", session, event_type, NINE, br#"{"text":"a-secret"}"#, None);
        records.push(harness.store_item(item).await);
    }
    let mut broken = records[2].clone();
    broken["dynamodb"]["NewImage"]["received_at"] = json!({"S": "a-secret"});
    records.push(broken);
    harness.deliver(&records).await;
    assert_eq!((harness.lines().len(), harness.failures().len()), (4, 2));
    for text in harness.lines().into_iter().chain(harness.failures()) {
        assert!(!text.to_string().contains("a-secret"), "{text}");
    }
    assert!(text(&harness.table.items().await[0], "body").contains("a-secret"));
}
