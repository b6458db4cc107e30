//! The simulated event source mapping deletes what succeeded, and nothing else.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_sdk_sqs::{
    Client,
    primitives::Blob,
    types::{MessageAttributeValue, QueueAttributeName},
};
use sandbox::{
    clients::sqs_client,
    event_source_mapping::{EventSourceMapping, Faults, Progress, Settings},
    server::listen,
    sqs::{self, MAX_MESSAGE_SIZE, Sqs},
};
use serde_json::{Value, json};
use tests::proxy::{Fault, Proxy};
use tokio::sync::Notify;

use crate::within_limit;

/// The visibility of 30 s takes 300 ms.
const SECOND: Duration = Duration::from_millis(10);

struct Queue {
    sqs: Sqs,
    client: Client,
    url: String,
}

/// The function's invocations so far: each batch as the bodies of its records.
#[derive(Clone, Default)]
struct Batches(Arc<Mutex<Vec<Vec<String>>>>);

impl Batches {
    fn take(&self, event: &Value) {
        let bodies = records(event).iter().map(|record| record["body"].as_str().unwrap().to_owned());
        self.0.lock().unwrap().push(bodies.collect());
    }

    fn all(&self) -> Vec<Vec<String>> {
        self.0.lock().unwrap().clone()
    }
}

impl Queue {
    async fn new() -> Self {
        Self::with(sqs::Faults::default(), SECOND).await
    }

    async fn with(faults: sqs::Faults, second: Duration) -> Self {
        let settings = sqs::Settings { second, faults };
        let sqs = Sqs::serve(listen("SQS", 0).await.unwrap(), settings).unwrap();
        let client = sqs_client(sqs.url()).unwrap();
        let url = within_limit(client.create_queue().queue_name("q").send()).await.unwrap().queue_url.unwrap();
        Self { sqs, client, url }
    }

    /// A queue whose messages become visible again only when the clock is put forward.
    async fn slow() -> Self {
        Self::with(sqs::Faults::default(), Duration::from_secs(1)).await
    }

    async fn send(&self, body: &str) -> String {
        let send = self.client.send_message().queue_url(&self.url).message_body(body);
        within_limit(send.send()).await.unwrap().message_id.unwrap()
    }

    async fn map<F: Future<Output = Result<Value, String>> + Send + 'static>(
        &self,
        settings: Settings,
        handler: impl Fn(Value) -> F + Send + Sync + 'static,
    ) -> EventSourceMapping {
        EventSourceMapping::start(self.client.clone(), &self.url, settings, handler).await.unwrap()
    }

    /// Maps the queue to a function that returns this.
    async fn map_to(&self, settings: Settings, response: Result<Value, String>) -> (EventSourceMapping, Batches) {
        let batches = Batches::default();
        let taken = batches.clone();
        let mapping = self.map(settings, move |event| {
            taken.take(&event);
            let response = response.clone();
            async move { response }
        });
        (mapping.await, batches)
    }

    async fn is_empty(&self) {
        within_limit(self.sqs.wait_for("q", <[_]>::is_empty)).await;
    }
}

fn settings() -> Settings {
    Settings { second: SECOND, ..Settings::default() }
}

fn records(event: &Value) -> &[Value] {
    event["Records"].as_array().unwrap()
}

fn body_of(record: &Value) -> &str {
    record["body"].as_str().unwrap()
}

fn failures(ids: &[&str]) -> Value {
    let items: Vec<_> = ids.iter().map(|id| json!({"itemIdentifier": id})).collect();
    json!({"batchItemFailures": items})
}

#[tokio::test]
async fn a_message_becomes_a_record_of_lambda_s_event() {
    let queue = Queue::new().await;
    let text = MessageAttributeValue::builder().data_type("String").string_value("v").build().unwrap();
    let binary = MessageAttributeValue::builder().data_type("Binary").binary_value(Blob::new([0, 255])).build();
    let send = queue.client.send_message().queue_url(&queue.url).message_body("hello");
    let send = send.message_attributes("text", text).message_attributes("binary", binary.unwrap());
    let id = within_limit(send.send()).await.unwrap().message_id.unwrap();
    let (events, seen) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
    let (taken, notify) = (Arc::clone(&events), Arc::clone(&seen));
    let _mapping = queue
        .map(settings(), move |event| {
            taken.lock().unwrap().push(event);
            notify.notify_one();
            async { Ok(Value::Null) }
        })
        .await;
    within_limit(seen.notified()).await;
    let event = events.lock().unwrap().pop().unwrap();
    let [record] = records(&event) else { panic!("{event}") };
    assert!(record["receiptHandle"].is_string());
    for (pointer, expected) in [
        ("/messageId", json!(id)),
        ("/body", json!("hello")),
        ("/md5OfBody", json!("5d41402abc4b2a76b9719d911017c592")),
        ("/eventSource", json!("aws:sqs")),
        ("/eventSourceARN", json!("arn:aws:sqs:us-east-1:123456789012:q")),
        ("/awsRegion", json!("us-east-1")),
        ("/attributes/ApproximateReceiveCount", json!("1")),
        (
            "/messageAttributes/text",
            json!({"stringValue": "v", "stringListValues": [], "binaryListValues": [], "dataType": "String"}),
        ),
        (
            "/messageAttributes/binary",
            json!({"binaryValue": "AP8=", "stringListValues": [], "binaryListValues": [], "dataType": "Binary"}),
        ),
    ] {
        assert_eq!(record.pointer(pointer), Some(&expected), "{pointer}");
    }
    let names: BTreeSet<_> = record["attributes"].as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["ApproximateFirstReceiveTimestamp", "ApproximateReceiveCount", "SenderId", "SentTimestamp"];
    assert_eq!(names, expected.into());
    assert_eq!(record["md5OfMessageAttributes"].as_str().unwrap().len(), 32);
}

#[tokio::test]
async fn a_response_without_failures_deletes_the_batch() {
    for response in [Value::Null, json!({}), json!({"batchItemFailures": null}), json!({"batchItemFailures": []})] {
        let queue = Queue::new().await;
        queue.send("a").await;
        queue.send("b").await;
        let (mapping, batches) = queue.map_to(settings(), Ok(response.clone())).await;
        queue.is_empty().await;
        within_limit(mapping.wait_for(|progress| progress.deleted == 2)).await;
        assert_eq!(batches.all(), [["a", "b"]], "{response}");
    }
}

#[tokio::test]
async fn a_named_message_stays_and_comes_again_after_its_visibility() {
    let queue = Queue::slow().await;
    for body in ["a", "b", "c"] {
        queue.send(body).await;
    }
    let batches = Batches::default();
    let taken = batches.clone();
    let mapping = queue.map(Settings::default(), move |event| {
        taken.take(&event);
        let is_failing =
            |record: &&Value| body_of(record) == "b" && record["attributes"]["ApproximateReceiveCount"] == "1";
        let failed: Vec<_> =
            records(&event).iter().filter(is_failing).map(|record| record["messageId"].clone()).collect();
        let ids: Vec<_> = failed.iter().map(|id| id.as_str().unwrap()).collect();
        let response = failures(&ids);
        async move { Ok(response) }
    });
    let mapping = mapping.await;
    within_limit(mapping.wait_for(|progress| progress.invocations == 1)).await;
    let left = queue.sqs.messages("q");
    assert_eq!(
        left.iter().map(|message| (message.body.as_str(), message.is_visible)).collect::<Vec<_>>(),
        [("b", false)]
    );
    queue.sqs.pass_time(Duration::from_secs(30));
    within_limit(mapping.wait_for(|progress| progress.invocations == 2)).await;
    assert_eq!(batches.all(), [vec!["a", "b", "c"], vec!["b"]]);
    assert_eq!(mapping.progress(), Progress { invocations: 2, failed_invocations: 0, deleted: 3, returned: 1 });
    assert!(queue.sqs.messages("q").is_empty());
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
        Ok(json!({"batchItemFailures": ["ID"]})),
        Ok(json!({"batchItemFailures": [{"itemIdentifier": null}]})),
        Ok(json!({"batchItemFailures": [{"itemIdentifier": ""}]})),
        Ok(json!({"batchItemFailures": [{"messageId": "ID"}]})),
        Ok(failures(&["unknown"])),
        Ok(failures(&["ID", "unknown"])),
    ] {
        let queue = Queue::slow().await;
        let id = queue.send("a").await;
        queue.send("b").await;
        let response = response.map(|response| serde_json::from_str(&response.to_string().replace("ID", &id)).unwrap());
        let (mapping, _) = queue.map_to(Settings::default(), response.clone()).await;
        within_limit(mapping.wait_for(|progress| progress.invocations == 1)).await;
        let expected = Progress { invocations: 1, failed_invocations: 1, deleted: 0, returned: 2 };
        assert_eq!(mapping.progress(), expected, "{response:?}");
        assert_eq!(queue.sqs.messages("q").len(), 2, "{response:?}");
    }
}

#[tokio::test]
async fn without_report_batch_item_failures_any_response_is_a_success() {
    let queue = Queue::new().await;
    let id = queue.send("a").await;
    let settings = Settings { report_batch_item_failures: false, ..settings() };
    let (_mapping, batches) = queue.map_to(settings, Ok(failures(&[&id]))).await;
    queue.is_empty().await;
    assert_eq!(batches.all(), [["a"]]);
}

#[tokio::test]
async fn a_panic_fails_its_batch_and_nothing_else() {
    let queue = Queue::new().await;
    queue.send("panic").await;
    queue.send("fine").await;
    let mapping = queue
        .map(Settings { batch_size: 1, ..settings() }, |event| async move {
            let record = &records(&event)[0];
            let is_first = record["attributes"]["ApproximateReceiveCount"] == "1";
            assert!(body_of(record) != "panic" || !is_first, "on purpose");
            Ok(Value::Null)
        })
        .await;
    queue.is_empty().await;
    within_limit(mapping.wait_for(|progress| progress.deleted == 2)).await;
    assert_eq!(mapping.progress(), Progress { invocations: 3, failed_invocations: 1, deleted: 2, returned: 1 });
}

#[tokio::test]
async fn an_invocation_that_times_out_fails_its_batch_and_may_finish_late() {
    let queue = Queue::slow().await;
    queue.send("a").await;
    let (go_on, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (waits, ends) = (Arc::clone(&go_on), Arc::clone(&ended));
    let settings = Settings { timeout: Duration::from_millis(20), ..Settings::default() };
    let mapping = queue
        .map(settings, move |_| {
            let (waits, ends) = (Arc::clone(&waits), Arc::clone(&ends));
            async move {
                waits.notified().await;
                ends.notify_one();
                Ok(Value::Null)
            }
        })
        .await;
    within_limit(mapping.wait_for(|progress| progress.failed_invocations == 1)).await;
    go_on.notify_one();
    within_limit(ended.notified()).await;
    assert_eq!(queue.sqs.messages("q").len(), 1, "a late response counts for nothing");
    queue.sqs.pass_time(Duration::from_secs(30));
    within_limit(mapping.wait_for(|progress| progress.failed_invocations == 2)).await;
}

#[tokio::test]
async fn late_invocations_run_after_their_batch_has_failed() {
    let queue = Queue::slow().await;
    queue.send("a").await;
    let faults = Faults { seed: 1, late_invocations: 1.0 };
    let settings = Settings { timeout: Duration::from_millis(20), faults, ..Settings::default() };
    let (handled, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (count, notify) = (Arc::clone(&handled), Arc::clone(&seen));
    let mapping = queue
        .map(settings, move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            notify.notify_one();
            async { Ok(Value::Null) }
        })
        .await;
    within_limit(mapping.wait_for(|progress| progress.failed_invocations == 1)).await;
    within_limit(seen.notified()).await;
    assert_eq!((handled.load(Ordering::SeqCst), queue.sqs.messages("q").len()), (1, 1));

    // With a share of a half, late invocations come to an end, and their order is that of the seed.
    let order = async |seed| {
        let queue = Queue::slow().await;
        for body in 0..8 {
            queue.send(&body.to_string()).await;
        }
        let faults = Faults { seed, late_invocations: 0.5 };
        // On a busy machine, an invocation that is not late must end within the time-out, too.
        let settings = Settings { batch_size: 1, faults, timeout: Duration::from_millis(500), ..Settings::default() };
        let (mapping, batches) = queue.map_to(settings, Ok(Value::Null)).await;
        let mut due = 0;
        loop {
            due += queue.sqs.messages("q").len();
            within_limit(mapping.wait_for(|progress| progress.invocations == due)).await;
            if mapping.progress().deleted == 8 {
                break;
            }
            queue.sqs.pass_time(Duration::from_secs(30));
        }
        (mapping.progress().failed_invocations, batches.all().len())
    };
    let (failed, handled) = order(1).await;
    assert!(failed > 0 && handled >= 8 && handled <= 8 + failed, "{failed} {handled}");
    assert_eq!(order(1).await.0, failed);
}

#[tokio::test]
async fn batches_have_at_most_the_batch_size() {
    let queue = Queue::new().await;
    for body in ["a", "b", "c", "d", "e"] {
        queue.send(body).await;
    }
    let (_mapping, batches) = queue.map_to(Settings { batch_size: 2, ..settings() }, Ok(Value::Null)).await;
    queue.is_empty().await;
    let mut batches = batches.all();
    batches.sort();
    assert_eq!(batches, [vec!["a", "b"], vec!["c", "d"], vec!["e"]]);
}

#[tokio::test]
async fn a_batch_waits_for_more_messages_until_it_is_full_or_its_window_ends() {
    // The window of the first batch never ends within the limit of the test, but the batch becomes full.
    let queue = Queue::slow().await;
    for body in 0..14 {
        queue.send(&body.to_string()).await;
    }
    let slow = Settings { batch_size: 15, batch_window: 300, ..Settings::default() };
    let (mapping, batches) = queue.map_to(slow, Ok(Value::Null)).await;
    within_limit(queue.sqs.wait_for("q", |messages| messages.iter().all(|message| message.receive_count == 1))).await;
    assert_eq!(mapping.progress().invocations, 0);
    queue.send("14").await;
    queue.is_empty().await;
    assert_eq!(batches.all().iter().map(Vec::len).collect::<Vec<_>>(), [15]);

    let queue = Queue::new().await;
    queue.send("a").await;
    let fast = Settings { batch_size: 15, batch_window: 2, ..settings() };
    let (_mapping, batches) = queue.map_to(fast, Ok(Value::Null)).await;
    queue.is_empty().await;
    assert_eq!(batches.all(), [["a"]]);
}

#[tokio::test]
async fn a_batch_has_at_most_the_6_mb_of_an_event() {
    let queue = Queue::slow().await;
    let body = "x".repeat(MAX_MESSAGE_SIZE);
    for _ in 0..7 {
        queue.send(&body).await;
    }
    let (_mapping, batches) = queue.map_to(Settings::default(), Ok(Value::Null)).await;
    queue.is_empty().await;
    assert_eq!(batches.all().iter().map(Vec::len).collect::<Vec<_>>(), [5, 2]);
}

#[tokio::test]
async fn at_most_the_maximum_concurrency_of_invocations_run_at_once() {
    let queue = Queue::slow().await;
    for body in 0..6 {
        queue.send(&body.to_string()).await;
    }
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (started, go_on) = (Arc::new(Notify::new()), Arc::new(tokio::sync::Semaphore::new(0)));
    let (starts, waits, greatest) = (Arc::clone(&started), Arc::clone(&go_on), Arc::clone(&most));
    let settings = Settings { batch_size: 1, max_concurrency: 2, ..Settings::default() };
    let mapping = queue
        .map(settings, move |_| {
            let (running, greatest) = (Arc::clone(&running), Arc::clone(&greatest));
            let (starts, waits) = (Arc::clone(&starts), Arc::clone(&waits));
            async move {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                greatest.fetch_max(now, Ordering::SeqCst);
                if now == 2 {
                    starts.notify_one();
                }
                waits.acquire().await.unwrap().forget();
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(Value::Null)
            }
        })
        .await;
    within_limit(started.notified()).await;
    go_on.add_permits(6);
    within_limit(mapping.wait_for(|progress| progress.deleted == 6)).await;
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_message_that_always_fails_becomes_a_dead_letter() {
    let queue = Queue::new().await;
    let policy =
        json!({"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:q", "maxReceiveCount": 3}).to_string();
    let create = queue.client.create_queue().queue_name("source").attributes(QueueAttributeName::RedrivePolicy, policy);
    let url = within_limit(create.send()).await.unwrap().queue_url.unwrap();
    let source = Queue { url, ..queue };
    source.send("poison").await;
    let (mapping, _) = source.map_to(settings(), Err("on purpose".to_owned())).await;
    within_limit(source.sqs.wait_for("q", |messages| messages.len() == 1)).await;
    assert_eq!((mapping.progress().failed_invocations, source.sqs.messages("q")[0].body.as_str()), (3, "poison"));
    assert!(source.sqs.messages("source").is_empty());
}

#[tokio::test]
async fn duplicates_and_lost_deletes_reach_the_function() {
    let faults = sqs::Faults { seed: 1, lost_deletes: 0.5, duplicates: 0.5 };
    let queue = Queue::with(faults, SECOND).await;
    for body in 0..20 {
        queue.send(&body.to_string()).await;
    }
    let (_mapping, batches) = queue.map_to(settings(), Ok(Value::Null)).await;
    queue.is_empty().await;
    let batches = batches.all();
    let has_twice = |batch: &Vec<String>| batch.iter().collect::<BTreeSet<_>>().len() < batch.len();
    assert!(batches.iter().any(has_twice), "{batches:?}");
    let in_batches = |body: &String| batches.iter().filter(|batch| batch.contains(body)).count();
    let bodies: BTreeSet<_> = batches.iter().flatten().collect();
    assert_eq!(bodies.len(), 20);
    assert!(bodies.iter().any(|body| in_batches(body) > 1), "a deleted message came again: {batches:?}");
}

#[tokio::test]
async fn the_mapping_outlives_an_outage_of_the_queue() {
    let queue = Queue::new().await;
    let proxy = Proxy::start(queue.sqs.url()).await;
    let client = sqs_client(proxy.url()).unwrap();
    let batches = Batches::default();
    let taken = batches.clone();
    let mapping = EventSourceMapping::start(client, &queue.url, settings(), move |event| {
        taken.take(&event);
        async { Ok::<_, String>(Value::Null) }
    });
    let _mapping = mapping.await.unwrap();
    let before = proxy.connections();
    proxy.set(Fault::refuse());
    queue.send("a").await;
    within_limit(tests::wait::until(async || proxy.connections() > before + 8)).await;
    proxy.clear();
    queue.is_empty().await;
    assert!(batches.all().iter().all(|batch| batch == &["a"]));
}

#[tokio::test]
async fn a_dropped_mapping_stops_its_invocations() {
    struct OnDrop(Arc<Notify>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let queue = Queue::new().await;
    queue.send("a").await;
    let (started, stopped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (starts, stops) = (Arc::clone(&started), Arc::clone(&stopped));
    let mapping = queue
        .map(settings(), move |_| {
            let (starts, on_drop) = (Arc::clone(&starts), OnDrop(Arc::clone(&stops)));
            async move {
                starts.notify_one();
                let _on_drop = on_drop;
                std::future::pending().await
            }
        })
        .await;
    within_limit(started.notified()).await;
    drop(mapping);
    within_limit(stopped.notified()).await;
}

#[tokio::test]
async fn settings_that_lambda_refuses_are_refused() {
    let queue = Queue::new().await;
    let default = settings();
    for (settings, expected) in [
        (Settings { batch_size: 0, ..default }, "a batch has 1 to 10,000 messages"),
        (Settings { batch_size: 10_001, batch_window: 1, ..default }, "a batch has 1 to 10,000 messages"),
        (Settings { batch_size: 11, ..default }, "batches of more than 10 messages need a window of at least 1 s"),
        (Settings { max_concurrency: 1, ..default }, "the maximum concurrency is 2 to 1,000"),
        (Settings { max_concurrency: 1_001, ..default }, "the maximum concurrency is 2 to 1,000"),
    ] {
        let handler = |_| async { Ok::<_, String>(Value::Null) };
        let mapping = EventSourceMapping::start(queue.client.clone(), &queue.url, settings, handler).await;
        assert_eq!(mapping.err().map(|error| error.to_string()).as_deref(), Some(expected));
    }
    let handler = |_| async { Ok::<_, String>(Value::Null) };
    let none = queue.url.replace("/q", "/none");
    assert!(EventSourceMapping::start(queue.client.clone(), &none, default, handler).await.is_err());
}
