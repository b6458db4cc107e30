//! The simulated SQS does what the SQS of AWS documents, and is as strict.

use std::{collections::HashMap, time::Duration};

use aws_sdk_sqs::{
    Client,
    error::ProvideErrorMetadata,
    primitives::Blob,
    types::{
        ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message, MessageAttributeValue,
        MessageSystemAttributeName, QueueAttributeName, SendMessageBatchRequestEntry, SendMessageBatchResultEntry,
    },
};
use sandbox::{
    clients::sqs_client,
    http_client::http_client,
    server::listen,
    sqs::{Faults, MAX_MESSAGE_SIZE, Settings, Sqs},
};
use serde_json::json;
use tests::proxy::{Fault, Proxy};

use crate::within_limit;

/// A hundredth of a second, so that the default visibility of 30 s takes 300 ms.
const FAST: Duration = Duration::from_millis(10);
const DAY: Duration = Duration::from_hours(24);

struct Harness {
    sqs: Sqs,
    client: Client,
    url: String,
}

/// The SQS with a queue `q` whose messages stay hidden for a long time, unless the attributes say otherwise.
async fn start(settings: Settings, attributes: &[(QueueAttributeName, &str)]) -> Harness {
    let sqs = Sqs::serve(listen("SQS", 0).await.unwrap(), settings).unwrap();
    let client = sqs_client(sqs.url()).unwrap();
    let url = create(&client, "q", attributes).await.unwrap();
    Harness { sqs, client, url }
}

async fn create(client: &Client, name: &str, attributes: &[(QueueAttributeName, &str)]) -> Result<String, String> {
    let mut request = client.create_queue().queue_name(name);
    for (name, value) in attributes {
        request = request.attributes(name.clone(), *value);
    }
    within_limit(request.send()).await.map(|response| response.queue_url.unwrap()).map_err(|error| code(&error))
}

/// The code of an error: that of the query protocol, as SDKs report it.
fn code(error: &impl ProvideErrorMetadata) -> String {
    error.code().unwrap_or_default().to_owned()
}

fn text(value: &str) -> MessageAttributeValue {
    MessageAttributeValue::builder().data_type("String").string_value(value).build().unwrap()
}

impl Harness {
    async fn send(&self, body: &str) -> Result<String, String> {
        let sent = within_limit(self.client.send_message().queue_url(&self.url).message_body(body).send()).await;
        sent.map(|response| response.message_id.unwrap()).map_err(|error| code(&error))
    }

    async fn send_with(&self, name: &str, value: MessageAttributeValue) -> Result<(), String> {
        let send = self.client.send_message().queue_url(&self.url).message_body("m").message_attributes(name, value);
        within_limit(send.send()).await.map(drop).map_err(|error| code(&error))
    }

    /// Receives without a wait.
    async fn receive(&self) -> Vec<Message> {
        self.receive_within(0).await
    }

    async fn receive_within(&self, seconds: i32) -> Vec<Message> {
        let request = self.client.receive_message().queue_url(&self.url).max_number_of_messages(10);
        let request = request.message_system_attribute_names(MessageSystemAttributeName::All);
        let request = request.message_attribute_names("All").wait_time_seconds(seconds);
        within_limit(request.send()).await.unwrap().messages.unwrap_or_default()
    }

    async fn delete(&self, handle: &str) -> Result<(), String> {
        let delete = self.client.delete_message().queue_url(&self.url).receipt_handle(handle);
        within_limit(delete.send()).await.map(drop).map_err(|error| code(&error))
    }

    async fn hide(&self, handle: &str, seconds: i32) -> Result<(), String> {
        let change = self.client.change_message_visibility().queue_url(&self.url).receipt_handle(handle);
        within_limit(change.visibility_timeout(seconds).send()).await.map(drop).map_err(|error| code(&error))
    }
}

fn handle(message: &Message) -> &str {
    message.receipt_handle().unwrap()
}

fn receive_count(message: &Message) -> &str {
    &message.attributes().unwrap()[&MessageSystemAttributeName::ApproximateReceiveCount]
}

fn bodies(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.body().unwrap()).collect()
}

#[tokio::test]
async fn a_message_is_hidden_while_it_is_in_flight_and_is_gone_once_it_is_deleted() {
    let harness = start(Settings::default(), &[]).await;
    let id = harness.send("hello").await.unwrap();
    let messages = harness.receive().await;
    let [message] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!((message.message_id(), message.body()), (Some(id.as_str()), Some("hello")));
    assert_eq!(message.md5_of_body(), Some("5d41402abc4b2a76b9719d911017c592"));
    assert_eq!(receive_count(message), "1");
    assert!(harness.receive().await.is_empty());
    harness.delete(handle(message)).await.unwrap();
    harness.sqs.pass_time(DAY);
    assert!(harness.receive().await.is_empty());
    assert_eq!((harness.sqs.calls("SendMessage"), harness.sqs.calls("ReceiveMessage")), (1, 3));
}

#[tokio::test]
async fn a_message_comes_again_when_its_visibility_ends_with_a_new_receipt_handle_and_the_old_one_deletes_nothing() {
    let harness = start(Settings::default(), &[(QueueAttributeName::VisibilityTimeout, "180")]).await;
    harness.send("m").await.unwrap();
    let first = harness.receive().await;
    harness.sqs.pass_time(Duration::from_secs(179));
    assert!(harness.receive().await.is_empty());
    harness.sqs.pass_time(Duration::from_secs(1));
    let second = harness.receive().await;
    assert_eq!(receive_count(&second[0]), "2");
    assert_ne!(handle(&first[0]), handle(&second[0]));
    let first_receive = MessageSystemAttributeName::ApproximateFirstReceiveTimestamp;
    assert_eq!(first[0].attributes().unwrap()[&first_receive], second[0].attributes().unwrap()[&first_receive]);

    harness.delete(handle(&first[0])).await.unwrap();
    assert_eq!(harness.sqs.messages("q").len(), 1);
    harness.delete(handle(&second[0])).await.unwrap();
    harness.delete(handle(&second[0])).await.unwrap();
    assert!(harness.sqs.messages("q").is_empty());
}

#[tokio::test]
async fn a_long_poll_ends_with_the_next_message_or_when_its_time_is_up() {
    let harness = start(Settings { second: FAST, ..Settings::default() }, &[]).await;
    assert!(harness.receive_within(2).await.is_empty());
    let (received, sent) = tokio::join!(harness.receive_within(20), harness.send("sent meanwhile"));
    sent.unwrap();
    // The message may have come before the poll began. Its second delivery cannot: it is hidden for 15 of 20 s.
    assert_eq!(bodies(&received), ["sent meanwhile"]);
    harness.hide(handle(&received[0]), 15).await.unwrap();
    assert_eq!(bodies(&harness.receive_within(20).await), ["sent meanwhile"]);
    // Nothing ends this poll but the clock that is put forward.
    let slow = start(Settings::default(), &[]).await;
    slow.send("m").await.unwrap();
    assert_eq!(slow.receive().await.len(), 1);
    let (received, ()) = tokio::join!(slow.receive_within(20), async { slow.sqs.pass_time(Duration::from_secs(30)) });
    assert_eq!(bodies(&received), ["m"]);
}

#[tokio::test]
async fn the_queue_s_own_wait_holds_for_receivers_that_name_none() {
    let attributes = [(QueueAttributeName::ReceiveMessageWaitTimeSeconds, "20")];
    let harness = start(Settings::default(), &attributes).await;
    let receive = harness.client.receive_message().queue_url(&harness.url).send();
    let (received, sent) = tokio::join!(within_limit(receive), harness.send("m"));
    sent.unwrap();
    assert_eq!(bodies(received.unwrap().messages()), ["m"]);
}

#[tokio::test]
async fn visibility_is_changed_for_messages_in_flight_only_and_for_at_most_12_hours() {
    let harness = start(Settings::default(), &[]).await;
    harness.send("m").await.unwrap();
    let first = harness.receive().await;
    harness.hide(handle(&first[0]), 0).await.unwrap();
    assert_eq!(harness.hide(handle(&first[0]), 10).await.unwrap_err(), "AWS.SimpleQueueService.MessageNotInflight");
    let second = harness.receive().await;
    assert_eq!(receive_count(&second[0]), "2");
    assert_eq!(harness.hide(handle(&first[0]), 10).await.unwrap_err(), "InvalidParameterValue", "an old handle");

    for seconds in [-1, 43_201] {
        assert_eq!(harness.hide(handle(&second[0]), seconds).await.unwrap_err(), "InvalidParameterValue", "{seconds}");
    }
    // At AWS too, some milliseconds after the receive all of the twelve hours are too long.
    assert_eq!(harness.hide(handle(&second[0]), 43_200).await.unwrap_err(), "InvalidParameterValue");
    harness.hide(handle(&second[0]), 43_190).await.unwrap();
    harness.sqs.pass_time(Duration::from_hours(1));
    let too_long = harness.hide(handle(&second[0]), 43_190).await;
    assert_eq!(too_long.unwrap_err(), "InvalidParameterValue", "twelve hours count from the receive");
    harness.hide(handle(&second[0]), 11 * 3_600 - 60).await.unwrap();
    harness.sqs.pass_time(Duration::from_hours(11));
    assert_eq!(harness.receive().await.len(), 1);
}

#[tokio::test]
async fn a_message_that_was_received_too_often_moves_to_the_dead_letter_queue() {
    let harness = start(Settings::default(), &[]).await;
    let policy =
        |arn: &str, count: serde_json::Value| json!({"deadLetterTargetArn": arn, "maxReceiveCount": count}).to_string();
    let attributes = harness.client.get_queue_attributes().queue_url(&harness.url);
    let attributes = attributes.attribute_names(QueueAttributeName::QueueArn).send().await.unwrap().attributes.unwrap();
    let arn = &attributes[&QueueAttributeName::QueueArn];
    assert_eq!(arn, "arn:aws:sqs:us-east-1:123456789012:q");
    for (policy, expected) in [
        (policy(&arn.replace(":q", ":none"), json!(2)), "InvalidParameterValue"),
        (policy(arn, json!(0)), "InvalidAttributeValue"),
        (policy(arn, json!(1_001)), "InvalidAttributeValue"),
        (policy(arn, json!("often")), "InvalidAttributeValue"),
        ("nonsense".to_owned(), "InvalidParameterValue"),
    ] {
        let created = create(&harness.client, "source", &[(QueueAttributeName::RedrivePolicy, &policy)]).await;
        assert_eq!(created.unwrap_err(), expected, "{policy}");
    }
    let policy = policy(arn, json!("2"));
    let url = create(&harness.client, "source", &[(QueueAttributeName::RedrivePolicy, &policy)]).await.unwrap();
    let Harness { sqs, client, url: dead_letters } = harness;
    let source = Harness { sqs, client, url };
    let id = source.send("poison").await.unwrap();
    for count in ["1", "2"] {
        assert_eq!(receive_count(&source.receive().await[0]), count);
        source.sqs.pass_time(Duration::from_secs(30));
    }
    assert!(source.receive().await.is_empty());
    assert!(source.sqs.messages("source").is_empty());
    let moved = Harness { url: dead_letters, ..source }.receive().await;
    assert_eq!((moved[0].body(), moved[0].message_id()), (Some("poison"), Some(id.as_str())));
}

#[tokio::test]
async fn a_message_past_the_retention_of_its_queue_is_gone() {
    let harness = start(Settings::default(), &[(QueueAttributeName::MessageRetentionPeriod, "1209600")]).await;
    harness.send("m").await.unwrap();
    harness.sqs.pass_time(Duration::from_mins(14 * 24 * 60 - 1));
    assert_eq!(harness.sqs.messages("q").len(), 1);
    harness.sqs.pass_time(Duration::from_mins(1));
    assert!(harness.receive().await.is_empty());
    assert!(harness.sqs.messages("q").is_empty());
}

#[tokio::test]
async fn a_body_is_1_to_1048576_bytes_of_characters_that_xml_allows() {
    let harness = start(Settings::default(), &[]).await;
    let invalid = "InvalidParameterValue";
    assert_eq!(harness.send("").await.unwrap_err(), invalid);
    harness.send(&"x".repeat(MAX_MESSAGE_SIZE)).await.unwrap();
    assert_eq!(harness.send(&"x".repeat(MAX_MESSAGE_SIZE + 1)).await.unwrap_err(), invalid);
    assert_eq!(harness.send(&"ä".repeat(MAX_MESSAGE_SIZE / 2 + 1)).await.unwrap_err(), invalid, "bytes count");
    harness.send("\t\n\r ~\u{7f}\u{85}\u{d7ff}\u{e000}\u{fffd}\u{10000}\u{10ffff}").await.unwrap();
    for c in ['\0', '\u{8}', '\u{b}', '\u{1f}', '\u{fffe}', '\u{ffff}'] {
        assert_eq!(harness.send(&format!("a{c}b")).await.unwrap_err(), "InvalidMessageContents", "{c:?}");
    }
    let small = create(&harness.client, "small", &[(QueueAttributeName::MaximumMessageSize, "1024")]).await.unwrap();
    let small = Harness { url: small, ..harness };
    small.send(&"x".repeat(1_024)).await.unwrap();
    assert_eq!(small.send(&"x".repeat(1_025)).await.unwrap_err(), invalid);
}

#[tokio::test]
async fn message_attributes_come_with_the_message_and_must_be_valid() {
    let harness = start(Settings::default(), &[]).await;
    let binary = MessageAttributeValue::builder().data_type("Binary.sha").binary_value(Blob::new([0, 255])).build();
    harness
        .client
        .send_message()
        .queue_url(&harness.url)
        .message_body("m")
        .message_attributes("reason", text("unknown version"))
        .message_attributes("digest", binary.unwrap())
        .send()
        .await
        .unwrap();
    let received = harness.receive().await;
    let attributes = received[0].message_attributes().unwrap();
    assert_eq!(attributes["reason"].string_value(), Some("unknown version"));
    assert_eq!(attributes["digest"].binary_value().unwrap().as_ref(), [0, 255]);
    // MD5 over length and bytes of name, type and value, as the SQS developer guide defines it.
    assert_eq!(received[0].md5_of_message_attributes(), Some("f6499d30b51309e4b80d4c300d3f846d"));
    harness.delete(handle(&received[0])).await.unwrap();

    for name in ["", ".a", "a.", "a..b", "a b", "AWS.a", "amazon.a", &"n".repeat(257)] {
        assert_eq!(harness.send_with(name, text("v")).await.unwrap_err(), "InvalidParameterValue", "{name}");
    }
    for (kind, value) in [("String", ""), ("Text", "v"), ("Binary", "v")] {
        let value = MessageAttributeValue::builder().data_type(kind).string_value(value).build().unwrap();
        assert_eq!(harness.send_with("a", value).await.unwrap_err(), "InvalidParameterValue", "{kind}");
    }
    assert_eq!(harness.send_with("a", text("\0")).await.unwrap_err(), "InvalidMessageContents");
    let longest = MAX_MESSAGE_SIZE - "m".len() - "a".len() - "String".len();
    harness.send_with("a", text(&"v".repeat(longest))).await.unwrap();
    let too_long = harness.send_with("a", text(&"v".repeat(longest + 1))).await;
    assert_eq!(too_long.unwrap_err(), "InvalidParameterValue", "name, type and value count");
    let mut many = harness.client.send_message().queue_url(&harness.url).message_body("m");
    for index in 0..11 {
        many = many.message_attributes(format!("a{index}"), text("v"));
    }
    assert_eq!(code(&within_limit(many.send()).await.unwrap_err()), "InvalidParameterValue");
}

#[tokio::test]
async fn a_receiver_gets_the_attributes_that_it_asks_for() {
    let harness = start(Settings::default(), &[]).await;
    harness.send_with("reason.code", text("v")).await.unwrap();
    for (name, expected) in [("reason", 0), ("reason.code", 1), ("reason.*", 1), ("other.*", 0), ("All", 1), (".*", 1)]
    {
        let request = harness.client.receive_message().queue_url(&harness.url).message_attribute_names(name);
        let received = within_limit(request.visibility_timeout(0).send()).await.unwrap().messages.unwrap();
        assert_eq!(received[0].message_attributes().map_or(0, HashMap::len), expected, "{name}");
        assert_eq!(received[0].attributes(), None);
    }
    let request = harness.client.receive_message().queue_url(&harness.url);
    let request = request.message_system_attribute_names(MessageSystemAttributeName::SentTimestamp);
    let received = within_limit(request.send()).await.unwrap().messages.unwrap();
    let names: Vec<_> = received[0].attributes().unwrap().keys().collect();
    assert_eq!(names, [&MessageSystemAttributeName::SentTimestamp]);
}

#[tokio::test]
async fn a_queue_that_does_not_exist_is_an_error_of_every_operation() {
    let harness = start(Settings::default(), &[]).await;
    harness.send("m").await.unwrap();
    let received = harness.receive().await;
    let handle = handle(&received[0]);
    let (client, url) = (&harness.client, &harness.url);
    for wrong in [url.replace("/q", "/none"), url.replace("123456789012", "210987654321"), "q".to_owned()] {
        let send = within_limit(client.send_message().queue_url(&wrong).message_body("m").send()).await.unwrap_err();
        assert_eq!(code(&send), "AWS.SimpleQueueService.NonExistentQueue", "{wrong}");
        assert!(send.into_service_error().is_queue_does_not_exist(), "{wrong}");
        let receive = within_limit(client.receive_message().queue_url(&wrong).send()).await.unwrap_err();
        assert!(receive.into_service_error().is_queue_does_not_exist(), "{wrong}");
        let delete = within_limit(client.delete_message().queue_url(&wrong).receipt_handle(handle).send()).await;
        assert!(delete.unwrap_err().into_service_error().is_queue_does_not_exist(), "{wrong}");
        let describe = within_limit(client.get_queue_attributes().queue_url(&wrong).send()).await.unwrap_err();
        assert!(describe.into_service_error().is_queue_does_not_exist(), "{wrong}");
    }
    let lookup = within_limit(client.get_queue_url().queue_name("none").send()).await.unwrap_err();
    assert!(lookup.into_service_error().is_queue_does_not_exist());
    let lookup = within_limit(client.get_queue_url().queue_name("q").send()).await.unwrap();
    assert_eq!(lookup.queue_url(), Some(url.as_str()));
}

#[tokio::test]
async fn a_receipt_handle_of_another_queue_or_of_nothing_is_invalid() {
    let harness = start(Settings::default(), &[]).await;
    harness.send("m").await.unwrap();
    let received = harness.receive().await;
    let url = create(&harness.client, "other", &[]).await.unwrap();
    let other = Harness { url, ..harness };
    for handle in [handle(&received[0]), "nonsense"] {
        assert_eq!(other.delete(handle).await.unwrap_err(), "ReceiptHandleIsInvalid");
        assert_eq!(other.hide(handle, 1).await.unwrap_err(), "ReceiptHandleIsInvalid");
    }
}

#[tokio::test]
async fn a_queue_is_created_with_valid_names_and_attributes_only_and_once() {
    use QueueAttributeName::{
        DelaySeconds, FifoQueue, MaximumMessageSize, MessageRetentionPeriod, ReceiveMessageWaitTimeSeconds,
        VisibilityTimeout,
    };
    let harness = start(Settings::default(), &[(VisibilityTimeout, "60")]).await;
    let client = &harness.client;
    for name in ["", "a b", "a.fifo", &"n".repeat(81)] {
        assert_eq!(create(client, name, &[]).await.unwrap_err(), "InvalidParameterValue", "{name}");
    }
    for (name, value, expected) in [
        (VisibilityTimeout, "43201", "InvalidAttributeValue"),
        (VisibilityTimeout, "-1", "InvalidAttributeValue"),
        (VisibilityTimeout, "soon", "InvalidAttributeValue"),
        (MessageRetentionPeriod, "59", "InvalidAttributeValue"),
        (MessageRetentionPeriod, "1209601", "InvalidAttributeValue"),
        (MaximumMessageSize, "1023", "InvalidAttributeValue"),
        (MaximumMessageSize, "1048577", "InvalidAttributeValue"),
        (DelaySeconds, "901", "InvalidAttributeValue"),
        (ReceiveMessageWaitTimeSeconds, "21", "InvalidAttributeValue"),
        (FifoQueue, "true", "InvalidParameterValue"),
        ("Mood".into(), "good", "InvalidAttributeName"),
    ] {
        assert_eq!(create(client, "other", &[(name.clone(), value)]).await.unwrap_err(), expected, "{name} {value}");
    }
    assert_eq!(create(client, "q", &[(VisibilityTimeout, "60")]).await.as_deref(), Ok(harness.url.as_str()));
    assert_eq!(create(client, "q", &[(VisibilityTimeout, "61")]).await.unwrap_err(), "QueueAlreadyExists");

    harness.send("a").await.unwrap();
    harness.send("b").await.unwrap();
    within_limit(client.receive_message().queue_url(&harness.url).send()).await.unwrap();
    let delayed = client.send_message().queue_url(&harness.url).message_body("c").delay_seconds(900);
    within_limit(delayed.send()).await.unwrap();
    let describe = client.get_queue_attributes().queue_url(&harness.url).attribute_names(QueueAttributeName::All);
    let all = within_limit(describe.send()).await.unwrap().attributes.unwrap();
    for (name, value) in [
        (VisibilityTimeout, "60"),
        (MessageRetentionPeriod, "345600"),
        (MaximumMessageSize, "1048576"),
        (QueueAttributeName::ApproximateNumberOfMessages, "1"),
        (QueueAttributeName::ApproximateNumberOfMessagesNotVisible, "1"),
        (QueueAttributeName::ApproximateNumberOfMessagesDelayed, "1"),
    ] {
        assert_eq!(all[&name], value, "{name}");
    }
    let unknown = client.get_queue_attributes().queue_url(&harness.url).attribute_names("Mood".into());
    assert_eq!(code(&within_limit(unknown.send()).await.unwrap_err()), "InvalidAttributeName");
}

#[tokio::test]
async fn requests_out_of_range_are_refused() {
    let harness = start(Settings::default(), &[]).await;
    let receive = || harness.client.receive_message().queue_url(&harness.url);
    for request in [
        receive().max_number_of_messages(0),
        receive().max_number_of_messages(11),
        receive().wait_time_seconds(21),
        receive().visibility_timeout(43_201),
    ] {
        assert_eq!(code(&within_limit(request.send()).await.unwrap_err()), "InvalidParameterValue");
    }
    let delayed = harness.client.send_message().queue_url(&harness.url).message_body("m").delay_seconds(901);
    assert_eq!(code(&within_limit(delayed.send()).await.unwrap_err()), "InvalidParameterValue");
    let request = http_client().unwrap().post(harness.sqs.url()).header("x-amz-target", "AmazonSQS.PurgeQueue");
    let response = within_limit(request.body("{}").send()).await.unwrap();
    assert_eq!(response.status().as_u16(), 400, "an operation that the sandbox does not have");
}

#[tokio::test]
async fn entries_of_a_batch_succeed_and_fail_one_by_one() {
    let harness = start(Settings::default(), &[]).await;
    let (client, url) = (&harness.client, &harness.url);
    let entry =
        |id: &str, body: &str| SendMessageBatchRequestEntry::builder().id(id).message_body(body).build().unwrap();
    let send = async |entries: Vec<SendMessageBatchRequestEntry>| {
        let request = client.send_message_batch().queue_url(url).set_entries(Some(entries));
        within_limit(request.send()).await.map_err(|error| code(&error))
    };
    let partly = send(vec![entry("a", "1"), entry("b", "\0"), entry("c", "2")]).await.unwrap();
    let ids: Vec<_> = partly.successful().iter().map(SendMessageBatchResultEntry::id).collect();
    assert_eq!(
        (ids, partly.failed()[0].id(), partly.failed()[0].code()),
        (vec!["a", "c"], "b", "InvalidMessageContents")
    );

    let half = "x".repeat(MAX_MESSAGE_SIZE / 2);
    send(vec![entry("a", &half), entry("b", &half)]).await.unwrap();
    for (entries, expected) in [
        (vec![entry("a", &half), entry("b", &half), entry("c", "x")], "AWS.SimpleQueueService.BatchRequestTooLong"),
        (vec![], "AWS.SimpleQueueService.EmptyBatchRequest"),
        (vec![entry("a", "x"), entry("a", "x")], "AWS.SimpleQueueService.BatchEntryIdsNotDistinct"),
        (vec![entry("a b", "x")], "AWS.SimpleQueueService.InvalidBatchEntryId"),
        (
            (0..11).map(|index| entry(&index.to_string(), "x")).collect(),
            "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
        ),
    ] {
        assert_eq!(send(entries).await.unwrap_err(), expected);
    }

    let received = harness.receive().await;
    assert_eq!(received.len(), 4);
    let (hidden, deleted) = received.split_at(1);
    let hide = ChangeMessageVisibilityBatchRequestEntry::builder().id("a").visibility_timeout(0);
    let hide = hide.receipt_handle(handle(&hidden[0])).build().unwrap();
    let hidden = client.change_message_visibility_batch().queue_url(url).entries(hide);
    assert_eq!(within_limit(hidden.send()).await.unwrap().successful().len(), 1);
    let mut delete = client.delete_message_batch().queue_url(url);
    for (index, handle) in deleted.iter().map(handle).chain(["nonsense"]).enumerate() {
        let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(handle);
        delete = delete.entries(entry.build().unwrap());
    }
    let deleted = within_limit(delete.send()).await.unwrap();
    assert_eq!((deleted.successful().len(), deleted.failed()[0].code()), (3, "ReceiptHandleIsInvalid"));
    assert_eq!(bodies(&harness.receive().await), ["1"]);
}

#[tokio::test]
async fn faults_make_rare_cases_of_standard_queues_frequent_and_a_seed_repeats_them() {
    let run = async |seed| {
        let faults = Faults { seed, lost_deletes: 0.5, duplicates: 0.5 };
        let harness = start(Settings { faults, ..Settings::default() }, &[]).await;
        for index in 0..20 {
            harness.send(&index.to_string()).await.unwrap();
        }
        let mut first: Vec<String> = Vec::new();
        loop {
            let received = harness.receive().await;
            if received.is_empty() {
                break;
            }
            for message in received {
                harness.delete(handle(&message)).await.unwrap();
                first.push(message.body.unwrap());
            }
        }
        let left: Vec<_> = harness.sqs.messages("q").into_iter().map(|message| message.body).collect();
        harness.sqs.pass_time(Duration::from_secs(30));
        for message in harness.receive().await {
            harness.delete(handle(&message)).await.unwrap();
        }
        (first, left)
    };
    let (first, left) = run(1).await;
    assert!(first.len() > 20 && first.len() < 40, "some messages are twice in a response: {first:?}");
    assert!(first.windows(2).any(|pair| pair[0] == pair[1]), "{first:?}");
    assert!(!left.is_empty() && left.len() < 20, "some deletions are lost: {left:?}");
    assert_eq!(run(1).await, (first.clone(), left.clone()));
    assert_ne!(run(2).await, (first, left));
}

#[tokio::test]
async fn a_proxy_can_make_the_queue_fail() {
    let harness = start(Settings::default(), &[]).await;
    let proxy = Proxy::start(harness.sqs.url()).await;
    let client = sqs_client(proxy.url()).unwrap();
    let send = async || within_limit(client.send_message().queue_url(&harness.url).message_body("m").send()).await;
    send().await.unwrap();
    proxy.set(Fault::refuse());
    send().await.unwrap_err();
    proxy.clear();
    send().await.unwrap();
    within_limit(harness.sqs.wait_for("q", |messages| messages.len() == 2)).await;
}
