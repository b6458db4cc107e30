//! The reads of `event-store`: the events of a session, and the keys of the table.

use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use event_store::{item::Body, retention::Retention, store::EventStore, stream::StreamRecord};
use lambda_support::{aws, env::Env};
use serde_json::{Value, json};
use tests::{
    sessions_harness::{END, START, SessionsHarness, WARNING, at, event_item},
    stream_record::inserted,
    table::Item,
};
use unith_events::{
    session::{MAX_EVENTS, fold},
    timestamp::Timestamp,
};

fn store(harness: &SessionsHarness) -> EventStore {
    let env: Env = harness.env().clone().into_iter().collect();
    let client = aws::patient_dynamodb(&aws::config(&env).unwrap());
    EventStore::new(client, harness.table.name.clone(), Retention::Forever)
}

/// The item of the `second`-th warning of the session `s`, with a body of so many bytes.
fn warning(second: usize, size: usize) -> Item {
    let at = Timestamp::from_epoch_milliseconds(1_768_471_053_000 + i64::try_from(second).unwrap() * 1_000).unwrap();
    let mut item: Item = event_item("h", "s", WARNING, &at.to_string(), Retention::Forever).into();
    item.insert("body".into(), AttributeValue::S("x".repeat(size)));
    item
}

/// Writes items, so many with one request: the embedded DynamoDB takes its time for large ones.
async fn write(harness: &SessionsHarness, items: impl Iterator<Item = Item>, at_a_time: usize) {
    let put = |item| PutRequest::builder().set_item(Some(item)).build().unwrap();
    let puts: Vec<_> = items.map(|item| WriteRequest::builder().put_request(put(item)).build()).collect();
    for chunk in puts.chunks(at_a_time) {
        let write = harness.table.client.batch_write_item().request_items(&harness.table.name, chunk.to_vec());
        assert!(write.send().await.unwrap().unprocessed_items.unwrap_or_default().is_empty());
    }
}

#[tokio::test]
async fn the_events_of_a_session_are_read_consistently_and_in_order_without_their_bodies() {
    let harness = SessionsHarness::start().await;
    for (session, event_type, occurred_at) in [
        ("s", END, "2026-01-15T10:00:10Z"),
        ("s", START, "2026-01-15T10:00:10Z"),
        ("s", "HANDED_OVER", "2026-01-15T10:00:09Z"),
        ("s#", START, "2026-01-15T10:00:00Z"),
    ] {
        harness.store(session, event_type, occurred_at).await;
    }
    let session = store(&harness).read_session("SESSION#h#s").await.unwrap();
    let instants: Vec<_> = session.events.iter().map(|event| event.occurred_at).collect();
    assert_eq!(instants, ["2026-01-15T10:00:09Z", "2026-01-15T10:00:10Z", "2026-01-15T10:00:10Z"].map(at));
    assert!(session.events.is_sorted(), "by rank where instants tie");
    let request = harness.table.proxy.last_request();
    let body: Value = serde_json::from_str(request.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["ConsistentRead"], true);
    let projection: Vec<_> = body["ProjectionExpression"].as_str().unwrap().split(", ").collect();
    assert!(!projection.contains(&"body"), "{projection:?}");
    assert_eq!(store(&harness).session_events("SESSION#h#none").await.unwrap(), (Vec::new(), 0));
}

#[tokio::test]
async fn a_session_of_several_pages_is_read_whole() {
    let harness = SessionsHarness::start().await;
    write(&harness, (0..20).map(|second| warning(second, 100_000)), 5).await;
    let before = harness.table.proxy.requests();
    let session = store(&harness).read_session("SESSION#h#s").await.unwrap();
    assert_eq!((session.events.len(), session.invalid), (20, 0));
    assert!(harness.table.proxy.requests() - before >= 2, "2 MB are more than a page");
    // A consistent read of 2 MB, bodies included.
    assert!((485.0..520.0).contains(&session.read_units), "{}", session.read_units);
}

#[tokio::test]
async fn of_an_oversized_session_one_event_more_than_the_fold_takes_is_read() {
    let harness = SessionsHarness::start().await;
    write(&harness, (0..MAX_EVENTS + 20).map(|second| warning(second, 2)), 25).await;
    // It is read as an item, and is not an event.
    let mut edited = warning(0, 2);
    edited.insert("sk".into(), AttributeValue::S("EVENT#0".into()));
    edited.remove("event_type");
    write(&harness, [edited].into_iter(), 1).await;
    let (events, invalid) = store(&harness).session_events("SESSION#h#s").await.unwrap();
    assert_eq!((events.len(), invalid), (MAX_EVENTS + 1, 1));
    let summary = fold(events).unwrap();
    assert!(summary.oversized && usize::try_from(summary.n).unwrap() == MAX_EVENTS);
    // The row says so, although its last event is that of 5,000 events.
    let record = inserted(&warning(MAX_EVENTS, 2), 1);
    assert_eq!(harness.deliver(&[record]).await, None);
    assert_eq!(harness.rows().await[0].summary, summary);
}

#[tokio::test]
async fn the_keys_of_all_events_are_read_in_pages_without_other_items() {
    let harness = SessionsHarness::start().await;
    write(&harness, (0..25).map(|second| warning(second, 100_000)), 5).await;
    for session in ["a", "b", "c"] {
        harness.store(session, START, "2026-01-15T10:00:00Z").await;
    }
    let other = [("pk", "QUARANTINE#2026-01-15"), ("sk", "hash")].map(|(n, v)| (n.into(), AttributeValue::S(v.into())));
    harness.put(&harness.table.name, Item::from(other)).await;
    let (store, mut after, mut keys, mut items_read, mut pages) = (store(&harness), None, Vec::new(), 0, 0);
    loop {
        let page = store.event_keys(after.as_ref()).await.unwrap();
        assert!(page.read_units > 0.0);
        (items_read, pages) = (items_read + page.items_read, pages + 1);
        keys.extend(page.keys);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(keys.len(), 28);
    assert!(pages >= 3, "2.5 MB are more than two pages");
    // The embedded DynamoDB counts the item that did not fit into a page with that page, and with the next one.
    assert!((29..29 + pages).contains(&items_read), "{items_read}");
    let distinct = keys.chunk_by(|key, next| key.pk == next.pk).count();
    assert_eq!(distinct, 4, "the keys of a session follow each other");
}

/// `inserted` makes what the event source mapping hands over, so the tests' records are read as those of AWS.
#[tokio::test]
async fn a_record_of_the_stream_is_read_back_as_its_item() {
    for body in [&b"{}"[..], b"{\0\xff}"] {
        let mut item = event_item("h", "s", START, "2026-01-15T10:00:00Z", Retention::Days(1));
        item.body = Body::new(body);
        let record: StreamRecord = serde_json::from_value(inserted(&item.clone().into(), 7)).unwrap();
        assert_eq!((record.event().unwrap(), record.sequence_number()), (item, "7"));
        assert!(record.is_new_event());
    }
    let fixture: Value = serde_json::from_str(include_str!("../fixtures/dynamodb-stream.json")).unwrap();
    let fixture = &fixture["Records"][0];
    let image: serde_dynamo::Item = serde_json::from_value(fixture["dynamodb"]["NewImage"].clone()).unwrap();
    let made = inserted(&image.into(), 1);
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&made), names(fixture));
    assert_eq!(names(&made["dynamodb"]), names(&fixture["dynamodb"]));
    assert_eq!(made["dynamodb"]["NewImage"], fixture["dynamodb"]["NewImage"]);
    assert_eq!(made["dynamodb"]["Keys"], json!(fixture["dynamodb"]["Keys"]));
}
