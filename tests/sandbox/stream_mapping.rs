//! The simulated event source mapping of a stream treats batches as Lambda does, and loses no record whatever goes wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::{Future, ready},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use event_store::{item::EventItem, stream::StreamEvent};
use fastrand::Rng;
use sandbox::{
    clients::{sqs_client, streams_client},
    server::listen,
    sqs::{self, Sqs},
    stream_mapping::{Faults, FilterCriteria, OnFailure, Progress, Settings, StartingPosition, StreamMapping},
};
use serde_json::{Value, json};
use tests::{
    proxy::Fault,
    table::{Item, Table},
};
use tokio::sync::{Notify, Semaphore};
use unith_events::timestamp::Timestamp;

use crate::within_limit;

const POLL: Duration = Duration::from_millis(5);
const BACK_OFF: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_hours(1);

/// A table with a stream, and an on-failure queue.
struct Source {
    table: Table,
    sqs: Sqs,
    on_failure: OnFailure,
}

/// The function's invocations so far: each batch as the sort keys of its records.
#[derive(Clone, Default)]
struct Batches(Arc<Mutex<Vec<Vec<String>>>>);

impl Batches {
    fn take(&self, event: &Value) {
        self.0.lock().unwrap().push(records(event).iter().map(sk_of).collect());
    }

    fn all(&self) -> Vec<Vec<String>> {
        self.0.lock().unwrap().clone()
    }
}

impl Source {
    async fn new() -> Self {
        let sqs = Sqs::serve(listen("SQS", 0).await.unwrap(), sqs::Settings::default()).unwrap();
        let client = sqs_client(sqs.url()).unwrap();
        let queue_url = within_limit(client.create_queue().queue_name("q").send()).await.unwrap().queue_url.unwrap();
        Self { table: Table::create().await, sqs, on_failure: OnFailure { client, queue_url } }
    }

    /// A source with these sort keys, all of one partition.
    async fn with(sort_keys: &[&str]) -> Self {
        let source = Self::new().await;
        for sk in sort_keys {
            source.put("p", sk).await;
        }
        source
    }

    async fn put(&self, pk: &str, sk: &str) {
        self.put_item(key(pk, sk)).await;
    }

    async fn delete(&self, pk: &str, sk: &str) {
        let delete = self.table.client.delete_item().table_name(&self.table.name).set_key(Some(key(pk, sk)));
        within_limit(delete.send()).await.unwrap();
    }

    async fn put_item(&self, item: Item) {
        let put = self.table.client.put_item().table_name(&self.table.name).set_item(Some(item));
        within_limit(put.send()).await.unwrap();
    }

    /// Maps the stream, which is read through the proxy.
    async fn map<F: Future<Output = Result<Value, String>> + Send + 'static>(
        &self,
        settings: Settings,
        handler: impl Fn(Value) -> F + Send + Sync + 'static,
    ) -> StreamMapping {
        let streams = streams_client(self.table.proxy.url()).unwrap();
        within_limit(StreamMapping::start(streams, &self.table.name, settings, handler)).await.unwrap()
    }

    /// Maps the stream to a function that returns what `respond` makes of the event.
    async fn map_to(
        &self,
        settings: Settings,
        respond: impl Fn(&Value) -> Result<Value, String> + Send + Sync + 'static,
    ) -> (StreamMapping, Batches) {
        let batches = Batches::default();
        let taken = batches.clone();
        let mapping = self.map(settings, move |event| {
            taken.take(&event);
            ready(respond(&event))
        });
        (mapping.await, batches)
    }

    fn discarded(&self) -> Vec<Value> {
        self.sqs.messages("q").iter().map(|message| serde_json::from_str(&message.body).unwrap()).collect()
    }
}

fn key(pk: &str, sk: &str) -> Item {
    [("pk", pk), ("sk", sk)].map(|(name, value)| (name.to_owned(), AttributeValue::S(value.to_owned()))).into()
}

fn settings() -> Settings {
    Settings { poll: POLL, back_off: BACK_OFF, report_batch_item_failures: true, ..Settings::default() }
}

fn records(event: &Value) -> &[Value] {
    event["Records"].as_array().unwrap()
}

fn key_of(record: &Value, name: &str) -> String {
    record["dynamodb"]["Keys"][name]["S"].as_str().unwrap().to_owned()
}

fn sk_of(record: &Value) -> String {
    key_of(record, "sk")
}

fn number_of(record: &Value) -> &str {
    record["dynamodb"]["SequenceNumber"].as_str().unwrap()
}

fn failures(numbers: &[&str]) -> Value {
    let items: Vec<_> = numbers.iter().map(|number| json!({"itemIdentifier": number})).collect();
    json!({"batchItemFailures": items})
}

/// The response that names the first record with the sort key `poison`, if there is one.
fn refuse(event: &Value, poison: &str) -> Value {
    let failed = records(event).iter().find(|record| sk_of(record) == poison);
    failures(&failed.map(number_of).into_iter().collect::<Vec<_>>())
}

/// The template's filter.
fn events_only() -> FilterCriteria {
    FilterCriteria(vec![json!({"eventName": ["INSERT"], "dynamodb": {"Keys": {"sk": {"S": [{"prefix": "EVENT#"}]}}}})])
}

async fn done(mapping: &StreamMapping) -> Progress {
    within_limit(mapping.wait_until_idle()).await.unwrap();
    mapping.progress()
}

#[tokio::test]
async fn a_change_becomes_a_record_of_lambda_s_event() {
    let source = Source::new().await;
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let item: Item = [
        ("pk", text("SESSION#h#s")),
        ("sk", text("EVENT#2026-01-15T09:57:33.000Z#1#START_CONVERSATION")),
        ("event_id", text("82b261c4eb653e535c0deda1ac8351d7")),
        ("event_type", text("START_CONVERSATION")),
        ("occurred_at", text("2026-01-15T09:57:33.000Z")),
        ("received_at", text("2026-01-15T09:57:33.604Z")),
        ("head_id", text("h")),
        ("session_id", text("s")),
        ("body", AttributeValue::B(Blob::new([0, 255, 254]))),
        ("body_sha256", text("a82620381a33f8d9850a024eb6b1f7638f6ccda819f29f6cd7fb36d7d6fb063a")),
        ("expires_at", AttributeValue::N("1800007210".to_owned())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    source.put_item(item.clone()).await;
    source.delete("SESSION#h#s", "EVENT#2026-01-15T09:57:33.000Z#1#START_CONVERSATION").await;
    let events = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&events);
    let mapping = source.map(settings(), move |event| {
        taken.lock().unwrap().push(event);
        ready(Ok(Value::Null))
    });
    let mapping = mapping.await;
    assert_eq!(done(&mapping).await.processed, 2);

    let event = events.lock().unwrap().pop().unwrap();
    let [inserted, removed] = records(&event) else { panic!("{event}") };
    let streams = streams_client(source.table.proxy.url()).unwrap();
    let streams = within_limit(streams.list_streams().table_name(&source.table.name).send()).await.unwrap();
    let stream_arn = streams.streams()[0].stream_arn().unwrap();
    let keys = json!({"pk": {"S": "SESSION#h#s"}, "sk": {"S": "EVENT#2026-01-15T09:57:33.000Z#1#START_CONVERSATION"}});
    for (pointer, expected) in [
        ("/eventName", json!("INSERT")),
        ("/eventVersion", json!("1.1")),
        ("/eventSource", json!("aws:dynamodb")),
        ("/eventSourceARN", json!(stream_arn)),
        ("/awsRegion", json!(stream_arn.split(':').nth(3))),
        ("/dynamodb/Keys", keys.clone()),
        ("/dynamodb/NewImage/body", json!({"B": "AP/+"})),
        ("/dynamodb/NewImage/expires_at", json!({"N": "1800007210"})),
        ("/dynamodb/StreamViewType", json!("NEW_IMAGE")),
    ] {
        assert_eq!(inserted.pointer(pointer), Some(&expected), "{pointer}");
    }
    assert!(inserted["eventID"].is_string() && inserted["dynamodb"]["SizeBytes"].as_u64().unwrap() > 0);
    assert!(inserted["dynamodb"]["ApproximateCreationDateTime"].is_i64(), "{inserted}");
    assert!(number_of(inserted).parse::<u128>().unwrap() < number_of(removed).parse().unwrap());
    assert_eq!((&removed["eventName"], &removed["dynamodb"]["Keys"]), (&json!("REMOVE"), &keys));
    assert!(removed["dynamodb"].get("NewImage").is_none());

    // The members are those of Lambda's record, and the functions' own type reads them.
    let fixture: Value = serde_json::from_str(include_str!("../fixtures/dynamodb-stream.json")).unwrap();
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(inserted), names(&records(&fixture)[0]));
    assert_eq!(names(&inserted["dynamodb"]), names(&records(&fixture)[0]["dynamodb"]));
    let event: StreamEvent = serde_json::from_value(event).unwrap();
    assert!(event.records[0].is_new_event() && !event.records[1].is_new_event());
    assert_eq!(event.records[0].event().unwrap(), serde_dynamo::from_item::<_, EventItem>(item).unwrap());
}

#[tokio::test]
async fn a_response_without_failures_is_a_success() {
    for response in [Value::Null, json!({}), json!({"batchItemFailures": null}), json!({"batchItemFailures": []})] {
        let source = Source::with(&["a", "b"]).await;
        let returned = response.clone();
        let (mapping, batches) = source.map_to(settings(), move |_| Ok(returned.clone())).await;
        let expected = Progress { invocations: 1, read: 2, processed: 2, ..Progress::default() };
        assert_eq!(done(&mapping).await, expected, "{response}");
        assert_eq!(batches.all(), [["a", "b"]], "{response}");
    }
}

#[tokio::test]
async fn the_lowest_sequence_number_that_is_named_becomes_the_checkpoint() {
    for bisect_batch_on_function_error in [false, true] {
        let source = Source::with(&["a", "b", "c", "d"]).await;
        let settings = Settings { bisect_batch_on_function_error, ..settings() };
        let mapping = source.map_to(settings, |event| {
            let numbers: Vec<_> = records(event).iter().map(number_of).collect();
            Ok(if numbers.len() == 4 { failures(&[numbers[3], numbers[1], numbers[2]]) } else { failures(&[]) })
        });
        let (mapping, batches) = mapping.await;
        let progress = done(&mapping).await;
        assert_eq!((progress.invocations, progress.partial_failures, progress.processed), (2, 1, 4));
        assert_eq!(batches.all(), [vec!["a", "b", "c", "d"], vec!["b", "c", "d"]]);
    }
}

#[tokio::test]
async fn an_error_or_a_response_of_another_shape_fails_the_whole_batch() {
    for response in [
        Err("on purpose".to_owned()),
        Ok(json!("")),
        Ok(json!([])),
        Ok(json!(true)),
        Ok(json!({"batchItemFailure": []})),
        Ok(json!({"batchItemFailures": {}})),
        Ok(json!({"batchItemFailures": ["NUMBER"]})),
        Ok(json!({"batchItemFailures": [{"itemIdentifier": null}]})),
        Ok(json!({"batchItemFailures": [{"itemIdentifier": ""}]})),
        Ok(json!({"batchItemFailures": [{"sequenceNumber": "NUMBER"}]})),
        Ok(failures(&["100000000000000000000"])),
        Ok(failures(&["NUMBER", "unknown"])),
    ] {
        let source = Source::with(&["a", "b"]).await;
        let returned = response.clone();
        let (mapping, batches) = source
            .map_to(Settings { maximum_retry_attempts: Some(1), ..settings() }, move |event| {
                let number = number_of(&records(event)[1]);
                let response = returned.clone()?.to_string().replace("NUMBER", number);
                Ok(serde_json::from_str(&response).unwrap())
            })
            .await;
        let expected = Progress { invocations: 2, failed_invocations: 2, read: 2, discarded: 2, ..Progress::default() };
        assert_eq!(done(&mapping).await, expected, "{response:?}");
        assert_eq!(batches.all(), [["a", "b"], ["a", "b"]], "{response:?}");
    }
}

#[tokio::test]
async fn without_report_batch_item_failures_any_response_is_a_success() {
    let source = Source::with(&["a", "b"]).await;
    let settings = Settings { report_batch_item_failures: false, ..settings() };
    let (mapping, batches) = source.map_to(settings, |event| Ok(refuse(event, "a"))).await;
    assert_eq!(done(&mapping).await.processed, 2);
    assert_eq!(batches.all(), [["a", "b"]]);
}

#[tokio::test]
async fn a_batch_that_used_up_its_retries_goes_to_the_destination_and_the_shard_goes_on() {
    let source = Source::with(&["a", "poison", "b"]).await;
    let settings = Settings {
        batch_size: 2,
        maximum_retry_attempts: Some(2),
        on_failure: Some(source.on_failure.clone()),
        function_name: "unith-publish".to_owned(),
        ..settings()
    };
    let seen = Arc::new(Mutex::new(None));
    let first = Arc::clone(&seen);
    let (mapping, batches) = source
        .map_to(settings, move |event| {
            first.lock().unwrap().get_or_insert_with(|| event.clone());
            if records(event).iter().any(|record| sk_of(record) == "poison") {
                Err("no".to_owned())
            } else {
                Ok(json!({}))
            }
        })
        .await;
    let progress = done(&mapping).await;
    assert_eq!((progress.discarded, progress.processed, progress.failed_invocations), (2, 1, 3));
    assert_eq!(batches.all(), [vec!["a", "poison"], vec!["a", "poison"], vec!["a", "poison"], vec!["b"]]);

    let mut discarded = source.discarded();
    let mut message = discarded.pop().unwrap();
    assert!(discarded.is_empty(), "{discarded:?}");
    let event = seen.lock().unwrap().take().unwrap();
    let created_at = records(&event)[0]["dynamodb"]["ApproximateCreationDateTime"].as_i64().unwrap();
    let arrival = Timestamp::from_epoch_milliseconds(created_at * 1_000).unwrap().to_string().replace(".000", "");
    let streams = streams_client(source.table.proxy.url()).unwrap();
    let stream_arn = records(&event)[0]["eventSourceARN"].as_str().unwrap();
    let shards = within_limit(streams.describe_stream().stream_arn(stream_arn).send()).await.unwrap();
    let shard_id = shards.stream_description().unwrap().shards()[0].shard_id().unwrap();
    let request_id = message["requestContext"]["requestId"].take();
    assert_eq!(request_id.as_str().unwrap().len(), 36);
    assert!(Timestamp::parse(message["timestamp"].take().as_str().unwrap()).is_some());
    assert!(message["DDBStreamBatchInfo"]["approximateArrivalOfLastRecord"].take().is_string());
    let expected = json!({
        "requestContext": {
            "requestId": null,
            "functionArn": "arn:aws:lambda:us-east-1:123456789012:function:unith-publish",
            "condition": "RetryAttemptsExhausted",
            "approximateInvokeCount": 3,
        },
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
        "version": "1.0",
        "timestamp": null,
        "DDBStreamBatchInfo": {
            "shardId": shard_id,
            "startSequenceNumber": number_of(&records(&event)[0]),
            "endSequenceNumber": number_of(&records(&event)[1]),
            "approximateArrivalOfFirstRecord": arrival,
            "approximateArrivalOfLastRecord": null,
            "batchSize": 2,
            "streamArn": stream_arn,
        },
    });
    assert_eq!(message, expected);
    // The message finds the records: that is what its reader does with it.
    let iterator = streams.get_shard_iterator().stream_arn(stream_arn).shard_id(shard_id);
    let iterator = iterator.shard_iterator_type("AT_SEQUENCE_NUMBER".into());
    let iterator = iterator.sequence_number(number_of(&records(&event)[0])).send();
    let iterator = within_limit(iterator).await.unwrap().shard_iterator.unwrap();
    let page = within_limit(streams.get_records().shard_iterator(iterator).limit(2).send()).await.unwrap();
    let numbers: Vec<_> = page.records().iter().map(|record| record.dynamodb().unwrap().sequence_number()).collect();
    assert_eq!(numbers, [0, 1].map(|index| Some(number_of(&records(&event)[index]))));
}

#[tokio::test]
async fn a_function_error_splits_the_batch_until_the_poison_is_alone() {
    let source = Source::with(&["a", "b", "c", "poison", "d", "e"]).await;
    let settings = Settings {
        bisect_batch_on_function_error: true,
        maximum_retry_attempts: Some(1),
        on_failure: Some(source.on_failure.clone()),
        ..settings()
    };
    let (mapping, batches) = source
        .map_to(settings, |event| {
            if records(event).iter().any(|record| sk_of(record) == "poison") {
                Err("no".to_owned())
            } else {
                Ok(json!({}))
            }
        })
        .await;
    let progress = done(&mapping).await;
    assert_eq!((progress.processed, progress.discarded), (5, 1));
    let expected = [
        vec!["a", "b", "c", "poison", "d", "e"],
        vec!["a", "b", "c"],
        vec!["poison", "d", "e"],
        vec!["poison", "d"],
        vec!["poison"],
        vec!["poison"],
        vec!["d"],
        vec!["e"],
    ];
    assert_eq!(batches.all(), expected, "splits use up no retry, and the order is kept");
    let [message] = &source.discarded()[..] else { panic!("{:?}", source.discarded()) };
    assert_eq!(message["DDBStreamBatchInfo"]["batchSize"], 1);
    assert_eq!(message["requestContext"]["approximateInvokeCount"], 5);
}

#[tokio::test]
async fn a_partial_failure_splits_the_batch_at_the_record_that_failed() {
    let source = Source::with(&["a", "b", "poison", "c"]).await;
    let settings = Settings {
        bisect_batch_on_function_error: true,
        maximum_retry_attempts: Some(1),
        on_failure: Some(source.on_failure.clone()),
        ..settings()
    };
    let (mapping, batches) = source.map_to(settings, |event| Ok(refuse(event, "poison"))).await;
    let progress = done(&mapping).await;
    assert_eq!((progress.processed, progress.discarded, progress.partial_failures), (2, 2, 3));
    // The split uses up no retry. What is left begins with the poison, so nothing is left to split.
    assert_eq!(batches.all(), [vec!["a", "b", "poison", "c"], vec!["poison", "c"], vec!["poison", "c"]]);
    let [message] = &source.discarded()[..] else { panic!("{:?}", source.discarded()) };
    assert_eq!(message["DDBStreamBatchInfo"]["batchSize"], 2);
    assert_eq!(message["responseContext"]["functionError"], Value::Null);
}

#[tokio::test]
async fn records_that_are_too_old_go_to_the_destination_and_the_shard_goes_on() {
    let source = Source::with(&["poison"]).await;
    let ahead = Arc::new(AtomicI64::new(0));
    let clock = Arc::clone(&ahead);
    let settings = Settings {
        maximum_record_age: Some(23 * HOUR),
        on_failure: Some(source.on_failure.clone()),
        clock: Arc::new(move || {
            let now = Timestamp::now().epoch_milliseconds() + clock.load(Ordering::SeqCst);
            Timestamp::from_epoch_milliseconds(now).unwrap()
        }),
        ..settings()
    };
    let (mapping, batches) = source.map_to(settings, |event| Ok(refuse(event, "poison"))).await;
    within_limit(mapping.wait_for(|progress| progress.partial_failures > 5)).await.unwrap();
    assert_eq!(mapping.progress().discarded, 0, "without a limit, retries go on");
    ahead.store(i64::try_from((23 * HOUR).as_millis()).unwrap() + 2_000, Ordering::SeqCst);
    assert_eq!(done(&mapping).await.discarded, 1);
    let [message] = &source.discarded()[..] else { panic!("{:?}", source.discarded()) };
    assert_eq!(message["requestContext"]["condition"], "RecordAgeExceeded");
    assert_eq!(message["requestContext"]["approximateInvokeCount"], batches.all().len());

    // A record that is too old before its first invocation never reaches the function.
    source.put("p", "too old").await;
    assert_eq!(done(&mapping).await.discarded, 2);
    let message = &source.discarded()[1];
    assert_eq!(message["requestContext"]["approximateInvokeCount"], 0);
    assert!(message.get("responseContext").is_none(), "{message}");
    ahead.store(0, Ordering::SeqCst);
    source.put("p", "new").await;
    assert_eq!(done(&mapping).await.processed, 1);
    assert_eq!(batches.all().last().unwrap(), &["new"]);
}

#[tokio::test]
async fn without_a_record_age_records_live_for_24_hours() {
    let source = Source::with(&["a"]).await;
    let at = |hours| {
        let time = Timestamp::now().plus(hours * HOUR);
        Settings { clock: Arc::new(move || time), on_failure: Some(source.on_failure.clone()), ..settings() }
    };
    let (mapping, batches) = source.map_to(at(23), |_| Ok(json!({}))).await;
    assert_eq!((done(&mapping).await.processed, batches.all().len()), (1, 1));
    // DynamoDB would have trimmed them: nobody learns of them.
    let (mapping, batches) = source.map_to(at(25), |_| Ok(json!({}))).await;
    let progress = done(&mapping).await;
    assert_eq!((progress.trimmed, progress.discarded, batches.all().len()), (1, 0, 0));
    assert!(source.discarded().is_empty());
}

#[tokio::test]
async fn the_message_about_discarded_records_outlives_an_outage_of_the_destination() {
    let source = Source::with(&["poison", "a"]).await;
    let proxy = tests::proxy::Proxy::start(source.sqs.url()).await;
    proxy.set(Fault::refuse());
    let client = sqs_client(proxy.url()).unwrap();
    let settings = Settings {
        batch_size: 1,
        maximum_retry_attempts: Some(0),
        on_failure: Some(OnFailure { client, ..source.on_failure.clone() }),
        ..settings()
    };
    let (mapping, _) = source.map_to(settings, |event| Ok(refuse(event, "poison"))).await;
    within_limit(tests::wait::until(async || proxy.connections() > 4)).await;
    assert_eq!((mapping.progress().discarded, mapping.progress().processed), (0, 0), "the shard waits");
    proxy.clear();
    let progress = done(&mapping).await;
    assert_eq!((progress.discarded, progress.processed, source.discarded().len()), (1, 1, 1));
}

#[tokio::test]
async fn trim_horizon_begins_with_the_oldest_record_and_latest_with_the_next_one() {
    let source = Source::with(&["old"]).await;
    let latest = Settings { starting_position: StartingPosition::Latest, ..settings() };
    let (from_start, all) = source.map_to(settings(), |_| Ok(json!({}))).await;
    let (from_end, new) = source.map_to(latest, |_| Ok(json!({}))).await;
    source.put("p", "new").await;
    assert_eq!((done(&from_start).await.read, done(&from_end).await.read), (2, 1));
    assert_eq!(
        (all.all().concat(), new.all().concat()),
        (vec!["old".to_owned(), "new".to_owned()], vec!["new".to_owned()])
    );
}

#[tokio::test]
async fn batches_have_at_most_the_batch_size() {
    let source = Source::with(&["a", "b", "c", "d", "e"]).await;
    let (mapping, batches) = source.map_to(Settings { batch_size: 2, ..settings() }, |_| Ok(json!({}))).await;
    done(&mapping).await;
    assert_eq!(batches.all(), [vec!["a", "b"], vec!["c", "d"], vec!["e"]]);
}

#[tokio::test]
async fn a_batch_waits_for_more_records_until_it_is_full_or_its_window_ends() {
    // The window of the first batch never ends within the limit of the test, but the batch becomes full.
    let source = Source::with(&["a", "b"]).await;
    let slow = Settings { batch_size: 3, batch_window: 300, ..settings() };
    let (mapping, batches) = source.map_to(slow, |_| Ok(json!({}))).await;
    within_limit(mapping.wait_for(|progress| progress.read == 2)).await.unwrap();
    source.put("p", "c").await;
    done(&mapping).await;
    assert_eq!(batches.all(), [["a", "b", "c"]]);

    let fast = Settings { batch_size: 10, batch_window: 2, second: Duration::from_millis(10), ..settings() };
    let (mapping, batches) = source.map_to(fast, |_| Ok(json!({}))).await;
    done(&mapping).await;
    assert_eq!(batches.all(), [["a", "b", "c"]]);
}

#[tokio::test]
async fn a_batch_has_at_most_the_6_mb_of_an_event() {
    let source = Source::new().await;
    let sort_keys: Vec<_> = (0..20).map(|number| format!("{number:02}")).collect();
    for sk in &sort_keys {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let item = [("pk", text("p")), ("sk", text(sk)), ("body", text(&"x".repeat(390_000)))];
        source.put_item(item.map(|(name, value)| (name.to_owned(), value)).into()).await;
    }
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&sizes);
    let (mapping, batches) = source
        .map_to(settings(), move |event| {
            taken.lock().unwrap().push(event.to_string().len());
            Ok(json!({}))
        })
        .await;
    done(&mapping).await;
    assert_eq!(batches.all().iter().map(Vec::len).collect::<Vec<_>>(), [16, 4]);
    assert_eq!(batches.all().concat(), sort_keys);
    assert!(sizes.lock().unwrap().iter().all(|size| *size <= 6 * 1024 * 1024), "{sizes:?}");
}

#[tokio::test]
async fn records_that_match_no_filter_are_done_without_the_function() {
    let source = Source::with(&["EVENT#1", "other", "EVENT#2"]).await;
    source.delete("p", "EVENT#1").await;
    let (mapping, batches) = source.map_to(Settings { filters: events_only(), ..settings() }, |_| Ok(json!({}))).await;
    let expected = Progress { invocations: 1, read: 4, filtered: 2, processed: 2, ..Progress::default() };
    assert_eq!(done(&mapping).await, expected);
    assert_eq!(batches.all(), [["EVENT#1", "EVENT#2"]]);
}

#[tokio::test]
async fn a_record_must_match_one_filter_in_all_its_members() {
    let source = Source::with(&["a", "b", "bc", "d"]).await;
    for (filters, expected) in [
        (vec![], vec!["a", "b", "bc", "d"]),
        (vec![json!({"dynamodb": {"Keys": {"sk": {"S": ["a", "d"]}}}})], vec!["a", "d"]),
        (vec![json!({"dynamodb": {"Keys": {"sk": {"S": [{"prefix": "b"}, "d"]}}}})], vec!["b", "bc", "d"]),
        (vec![json!({"dynamodb": {"Keys": {"sk": {"S": ["a"]}, "pk": {"S": ["other"]}}}})], vec![]),
        (vec![json!({"dynamodb": {"Keys": {"none": {"S": [null]}}}})], vec![]),
        (vec![json!({"dynamodb": {"Keys": {"sk": {"N": ["a"]}}}})], vec![]),
        (
            vec![
                json!({"dynamodb": {"Keys": {"sk": {"S": ["a"]}}}}),
                json!({"dynamodb": {"Keys": {"sk": {"S": ["bc"]}}}}),
            ],
            vec!["a", "bc"],
        ),
    ] {
        let settings = Settings { filters: FilterCriteria(filters.clone()), ..settings() };
        let (mapping, batches) = source.map_to(settings, |_| Ok(json!({}))).await;
        let progress = done(&mapping).await;
        assert_eq!(batches.all().concat(), expected, "{filters:?}");
        assert_eq!(progress.filtered + progress.processed, 4, "{filters:?}");
    }
}

#[tokio::test]
async fn a_shard_has_one_batch_at_a_time_and_a_blocked_one_blocks_no_other() {
    let source = Source::new().await;
    let keys: Vec<_> = (0..40).map(|number| format!("p{number}")).collect();
    for sk in ["1", "2", "3"] {
        for pk in &keys {
            source.put(pk, sk).await;
        }
    }
    // The shard of the first partition waits for the permit.
    let permit = Arc::new(Semaphore::new(0));
    let batches = Arc::new(Mutex::new(Vec::new()));
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (waits, taken, greatest) = (Arc::clone(&permit), Arc::clone(&batches), Arc::clone(&most));
    let settings = Settings { shards: 2, parallelization_factor: 2, batch_size: 5, ..settings() };
    let mapping = source
        .map(settings, move |event| {
            let batch: Vec<_> = records(&event).iter().map(|record| (key_of(record, "pk"), sk_of(record))).collect();
            let (waits, taken, running) = (Arc::clone(&waits), Arc::clone(&taken), Arc::clone(&running));
            let greatest = Arc::clone(&greatest);
            async move {
                greatest.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                if batch.iter().any(|(pk, _)| pk == "p0") {
                    waits.acquire().await.unwrap().forget();
                }
                taken.lock().unwrap().push(batch);
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(Value::Null)
            }
        })
        .await;
    let others_are_done = |progress: &Progress| progress.read == 120 && progress.processed >= 60;
    within_limit(mapping.wait_for(others_are_done)).await.unwrap();
    assert!(batches.lock().unwrap().concat().iter().all(|(pk, _)| pk != "p0"));
    permit.add_permits(100);
    assert_eq!(done(&mapping).await.processed, 120);
    assert!(most.load(Ordering::SeqCst) <= 4, "{most:?}");
    let batches = batches.lock().unwrap().concat();
    for key in &keys {
        let of_key: Vec<_> = batches.iter().filter(|(pk, _)| pk == key).map(|(_, sk)| sk.as_str()).collect();
        assert_eq!(of_key, ["1", "2", "3"], "{key}");
    }
}

#[tokio::test]
async fn a_panic_fails_its_batch_and_nothing_else() {
    let source = Source::with(&["panic", "fine"]).await;
    let (mapping, batches) = source
        .map_to(Settings { batch_size: 1, maximum_retry_attempts: Some(0), ..settings() }, |event| {
            assert_ne!(sk_of(&records(event)[0]), "panic", "on purpose");
            Ok(Value::Null)
        })
        .await;
    let progress = done(&mapping).await;
    assert_eq!((progress.processed, progress.discarded), (1, 1));
    assert_eq!(batches.all(), [["panic"], ["fine"]]);
}

#[tokio::test]
async fn an_invocation_that_times_out_is_retried_and_may_finish_late() {
    let source = Source::with(&["a", "b"]).await;
    let (go_on, calls) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (waits, count) = (Arc::clone(&go_on), Arc::clone(&calls));
    let settings = Settings { batch_size: 1, timeout: Duration::from_millis(50), ..settings() };
    let mapping = source
        .map(settings, move |_| {
            let is_first = count.fetch_add(1, Ordering::SeqCst) == 0;
            let waits = Arc::clone(&waits);
            async move {
                if is_first {
                    waits.notified().await;
                    // It counts for nothing.
                    return Err("too late".to_owned());
                }
                Ok(Value::Null)
            }
        })
        .await;
    within_limit(mapping.wait_until_caught_up()).await.unwrap();
    let expected =
        Progress { invocations: 3, failed_invocations: 1, late: 1, read: 2, processed: 2, ..Progress::default() };
    assert_eq!(mapping.progress(), expected);
    go_on.notify_one();
    assert_eq!(done(&mapping).await, Progress { late: 0, finished_late: 1, ..expected });
}

#[tokio::test]
async fn a_dropped_mapping_stops_its_invocations() {
    struct OnDrop(Arc<Semaphore>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.add_permits(1);
        }
    }
    // One invocation is late, the other one is the retry.
    let source = Source::with(&["a"]).await;
    let (started, stopped) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (starts, stops) = (Arc::clone(&started), Arc::clone(&stopped));
    let mapping = source
        .map(Settings { timeout: Duration::from_millis(50), ..settings() }, move |_| {
            let (starts, on_drop) = (Arc::clone(&starts), OnDrop(Arc::clone(&stops)));
            async move {
                starts.add_permits(1);
                let _on_drop = on_drop;
                std::future::pending().await
            }
        })
        .await;
    within_limit(started.acquire_many(2)).await.unwrap().forget();
    assert_eq!(stopped.available_permits(), 0);
    drop(mapping);
    within_limit(stopped.acquire_many(2)).await.unwrap().forget();
}

#[tokio::test]
async fn the_mapping_outlives_an_outage_of_the_stream() {
    let source = Source::with(&["a"]).await;
    let (mapping, batches) = source.map_to(settings(), |_| Ok(json!({}))).await;
    done(&mapping).await;
    let before = source.table.proxy.connections();
    source.table.proxy.set(Fault::refuse());
    source.put("p", "b").await;
    within_limit(tests::wait::until(async || source.table.proxy.connections() > before + 8)).await;
    assert_eq!(mapping.progress().read, 1);
    source.table.proxy.clear();
    done(&mapping).await;
    assert_eq!(batches.all(), [["a"], ["b"]]);
}

#[tokio::test]
async fn a_stream_that_is_gone_stops_the_mapping_with_an_error() {
    let source = Source::with(&["a"]).await;
    let (mapping, _) = source.map_to(settings(), |_| Ok(json!({}))).await;
    done(&mapping).await;
    within_limit(source.table.client.delete_table().table_name(&source.table.name).send()).await.unwrap();
    let error = within_limit(mapping.wait_for(|progress| progress.read > 1)).await.unwrap_err().to_string();
    assert!(error.contains("ResourceNotFoundException"), "{error}");
}

#[tokio::test]
async fn what_is_written_before_the_question_is_done_when_the_mapping_has_caught_up() {
    let source = Source::new().await;
    let settings = Settings { shards: 4, ..settings() };
    let (mapping, batches) = source.map_to(settings, |_| Ok(json!({}))).await;
    for round in 0..5 {
        for number in 0..10 {
            source.put(&format!("p{number}"), &round.to_string()).await;
        }
        within_limit(mapping.wait_until_caught_up()).await.unwrap();
        assert_eq!(batches.all().concat().len(), 10 * (round + 1));
    }
}

#[tokio::test]
async fn a_throttled_invocation_uses_up_no_retry() {
    let source = Source::with(&["a", "b", "c", "d"]).await;
    let faults = Faults { seed: 1, throttled: 0.7, ..Faults::default() };
    let settings = Settings { batch_size: 1, maximum_retry_attempts: Some(0), faults, ..settings() };
    let (mapping, batches) = source.map_to(settings, |_| Ok(json!({}))).await;
    let progress = done(&mapping).await;
    assert_eq!((progress.processed, progress.discarded), (4, 0));
    assert_eq!(batches.all(), [["a"], ["b"], ["c"], ["d"]]);
    assert!(progress.failed_invocations > 0 && progress.invocations == 4 + progress.failed_invocations);
}

#[tokio::test]
async fn late_invocations_run_beside_the_retry() {
    let source = Source::with(&["a", "b", "c", "d"]).await;
    let faults = Faults { seed: 3, late_invocations: 0.5, late_by: Duration::from_millis(20), ..Faults::default() };
    let settings = Settings { batch_size: 1, faults, ..settings() };
    let (mapping, batches) = source.map_to(settings, |_| Ok(json!({}))).await;
    let progress = done(&mapping).await;
    assert_eq!((progress.processed, progress.late), (4, 0));
    assert!(progress.failed_invocations > 0);
    assert_eq!(batches.all().len(), 4 + progress.failed_invocations, "each of them ran in the end");
}

#[tokio::test]
async fn lost_responses_partial_failures_cuts_and_rewinds_deliver_records_again_in_their_order() {
    let sort_keys: Vec<_> = (0..12).map(|number| format!("{number:02}")).collect();
    let source = Source::with(&sort_keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let none = Faults { seed: 5, ..Faults::default() };
    for (faults, is_seen) in [
        (Faults { lost_responses: 0.5, ..none }, (|progress| progress.failed_invocations > 0) as fn(&Progress) -> bool),
        (Faults { partial_failures: 0.5, ..none }, |progress| progress.partial_failures > 0),
        (Faults { cuts: 1.0, ..none }, |progress| progress.invocations > 6),
        (Faults { rewinds: 1.0, ..none }, |progress| progress.redelivered > 12),
    ] {
        let run = async || {
            let settings = Settings { batch_size: 2, faults, ..settings() };
            let (mapping, batches) = source.map_to(settings, |_| Ok(json!({}))).await;
            (done(&mapping).await, batches.all())
        };
        let (progress, batches) = run().await;
        assert_eq!((progress.processed, progress.discarded), (12, 0), "{faults:?}");
        assert!(is_seen(&progress), "{faults:?} {progress:?} {batches:?}");
        assert!(batches.iter().all(|batch| batch.is_sorted()), "{batches:?}");
        let mut firsts = batches.concat();
        let mut seen = BTreeSet::new();
        firsts.retain(|sk| seen.insert(sk.clone()));
        assert_eq!(firsts, sort_keys, "{faults:?}");
        assert_eq!(run().await, (progress, batches), "the same seed makes the same faults");
    }
}

/// All faults at once.
fn all_faults(seed: u64) -> Faults {
    Faults {
        seed,
        throttled: 0.1,
        late_invocations: 0.1,
        late_by: Duration::from_millis(20),
        lost_responses: 0.1,
        partial_failures: 0.1,
        rewinds: 0.1,
        cuts: 0.3,
        pauses: Duration::from_millis(5),
    }
}

/// A function that fails at random, knows what it has handled, and checks the order.
struct Consumer {
    random: Mutex<Rng>,
    /// The number of records handled per partition, and what was wrong.
    handled: Mutex<(BTreeMap<String, usize>, Vec<String>)>,
}

impl Consumer {
    fn handle(&self, event: &Value) -> Result<Value, String> {
        let (mut random, mut handled) = (self.random.lock().unwrap(), self.handled.lock().unwrap());
        let (handled, wrong) = &mut *handled;
        let records = records(event);
        let fails_at = random.u8(..).is_multiple_of(8).then(|| random.usize(0..records.len()));
        for record in records.iter().take(fails_at.unwrap_or(records.len())) {
            let number: usize = sk_of(record).parse().unwrap();
            let next = handled.entry(key_of(record, "pk")).or_default();
            // A record that comes again is fine. One that comes before its predecessor was handled is not.
            if number > *next {
                wrong.push(format!("{} came when {next} was expected", record["dynamodb"]["Keys"]));
            }
            *next = (*next).max(number + 1);
        }
        match fails_at {
            None => Ok(json!({})),
            Some(_) if random.bool() => Err("on purpose".to_owned()),
            Some(at) => Ok(failures(&[number_of(&records[at])])),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_all_faults_no_record_is_lost_and_those_of_a_partition_come_in_order() {
    const PARTITIONS: usize = 16;
    const PER_PARTITION: usize = 12;
    for seed in 0..3 {
        let source = Source::new().await;
        let consumer = Arc::new(Consumer { random: Mutex::new(Rng::with_seed(seed)), handled: Mutex::default() });
        let function = Arc::clone(&consumer);
        let settings = Settings {
            shards: 2,
            parallelization_factor: 2,
            batch_size: 10,
            bisect_batch_on_function_error: true,
            on_failure: Some(source.on_failure.clone()),
            faults: all_faults(seed),
            ..settings()
        };
        let (mapping, batches) = source.map_to(settings, move |event| function.handle(event)).await;
        for number in 0..PER_PARTITION {
            for partition in 0..PARTITIONS {
                source.put(&format!("p{partition}"), &format!("{number:02}")).await;
            }
        }
        let progress = done(&mapping).await;
        let all = PARTITIONS * PER_PARTITION;
        assert_eq!((progress.read, progress.processed, progress.discarded), (all, all, 0), "seed {seed}");
        let (handled, wrong) = &*consumer.handled.lock().unwrap();
        assert!(wrong.is_empty(), "seed {seed}: {wrong:?}");
        assert_eq!(handled.len(), PARTITIONS, "seed {seed}");
        assert!(handled.values().all(|count| *count == PER_PARTITION), "seed {seed}: {handled:?}");
        assert!(source.discarded().is_empty());
        assert!(batches.all().concat().len() > all && progress.redelivered > 0 && progress.failed_invocations > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_all_faults_poison_ends_in_the_destination_and_nothing_else_is_held_up() {
    for seed in 0..3 {
        let source = Source::new().await;
        let is_poison = |record: &Value| sk_of(record).ends_with("poison");
        let settings = Settings {
            shards: 2,
            batch_size: 8,
            bisect_batch_on_function_error: true,
            // Faults use up retries too: so many that only poison uses up all of them.
            maximum_retry_attempts: Some(30),
            on_failure: Some(source.on_failure.clone()),
            faults: Faults { partial_failures: 0.0, ..all_faults(seed) },
            ..settings()
        };
        let (mapping, batches) = source
            .map_to(settings, move |event| {
                if records(event).iter().any(is_poison) { Err("poison".to_owned()) } else { Ok(json!({})) }
            })
            .await;
        for number in 0..60 {
            let suffix = if number % 20 == 7 { "poison" } else { "fine" };
            source.put(&format!("p{}", number % 5), &format!("{number:02} {suffix}")).await;
        }
        let progress = done(&mapping).await;
        assert_eq!((progress.processed, progress.discarded), (57, 3), "seed {seed}");
        let discarded = source.discarded();
        assert_eq!(discarded.len(), 3, "seed {seed}: {discarded:?}");
        for message in discarded {
            assert_eq!(message["DDBStreamBatchInfo"]["batchSize"], 1, "seed {seed}");
            assert_eq!(message["requestContext"]["condition"], "RetryAttemptsExhausted", "seed {seed}");
        }
        let handled: BTreeSet<_> = batches.all().concat().into_iter().collect();
        assert_eq!(handled.len(), 60, "seed {seed}");
    }
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused() {
    let source = Source::new().await;
    let start = async |table: &str, settings: Settings| {
        let streams = streams_client(source.table.proxy.url()).unwrap();
        let handler = |_| ready(Ok::<_, String>(Value::Null));
        let mapping = within_limit(StreamMapping::start(streams, table, settings, handler)).await;
        mapping.err().map(|error| format!("{error:#}")).unwrap_or_default()
    };
    let share = |share| Faults { cuts: share, ..Faults::default() };
    for (settings, expected) in [
        (Settings { batch_size: 0, ..settings() }, "a batch has 1 to 10,000 records"),
        (Settings { batch_size: 10_001, ..settings() }, "a batch has 1 to 10,000 records"),
        (Settings { batch_window: 301, ..settings() }, "the batch window is at most 300 s"),
        (Settings { parallelization_factor: 0, ..settings() }, "the parallelization factor is 1 to 10"),
        (Settings { parallelization_factor: 11, ..settings() }, "the parallelization factor is 1 to 10"),
        (Settings { shards: 0, ..settings() }, "a stream has at least one shard"),
        (Settings { maximum_retry_attempts: Some(10_001), ..settings() }, "there are at most 10,000 retries"),
        (
            Settings { maximum_record_age: Some(Duration::from_secs(59)), ..settings() },
            "the maximum record age is one minute to seven days",
        ),
        (
            Settings { maximum_record_age: Some(8 * 24 * HOUR), ..settings() },
            "the maximum record age is one minute to seven days",
        ),
        (Settings { poll: Duration::ZERO, ..settings() }, "the pause between two polls is longer than nothing"),
        (Settings { faults: share(1.5), ..settings() }, "a share is between 0 and 1"),
        (Settings { faults: share(f64::NAN), ..settings() }, "a share is between 0 and 1"),
    ] {
        assert_eq!(start(&source.table.name, settings).await, expected);
    }
    for (pattern, expected) in [
        (json!([]), "a filter pattern is an object"),
        (json!({}), "an object of the pattern is empty"),
        (json!({"eventName": "INSERT"}), "is neither an object nor a list of rules"),
        (json!({"eventName": []}), "a list of rules is empty"),
        (json!({"eventName": {}}), "an object of the pattern is empty"),
        (json!({"eventName": [1]}), "is none of equality and prefix"),
        (json!({"eventName": [["INSERT"]]}), "is none of equality and prefix"),
        (json!({"eventName": [{"prefix": 1}]}), "is none of equality and prefix"),
        (json!({"eventName": [{"exists": true}]}), "is none of equality and prefix"),
        (json!({"eventName": [{"anything-but": ["REMOVE"]}]}), "is none of equality and prefix"),
        (json!({"eventName": [{"prefix": "I", "suffix": "T"}]}), "is none of equality and prefix"),
    ] {
        let filters = FilterCriteria(vec![pattern.clone()]);
        let error = start(&source.table.name, Settings { filters, ..settings() }).await;
        assert!(error.ends_with(expected), "{pattern}: {error}");
    }
    let filters = FilterCriteria(vec![json!({"eventName": ["INSERT"]}); 6]);
    let error = start(&source.table.name, Settings { filters, ..settings() }).await;
    assert_eq!(error, "a mapping has at most five filters");
    assert_eq!(start("no-table", settings()).await, "table `no-table` has 0 streams, not one");
}
