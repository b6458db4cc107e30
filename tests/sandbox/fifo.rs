//! The FIFO queues of the simulated SQS do what SQS documents: groups in order, and deduplication.

use std::{collections::HashMap, time::Duration};

use aws_sdk_sqs::{
    Client,
    error::ProvideErrorMetadata,
    types::{Message, MessageSystemAttributeName, QueueAttributeName, SendMessageBatchRequestEntry},
};
use sandbox::{
    clients::sqs_client,
    server::listen,
    sqs::{Faults, Settings, Sqs},
};

use crate::within_limit;

struct Harness {
    sqs: Sqs,
    client: Client,
    url: String,
}

async fn start(attributes: &[(QueueAttributeName, &str)]) -> Harness {
    // Faults of standard queues, which a FIFO queue does not have.
    let faults = Faults { seed: 1, lost_deletes: 1.0, duplicates: 1.0 };
    let sqs = Sqs::serve(listen("SQS", 0).await.unwrap(), Settings { faults, ..Settings::default() }).unwrap();
    let client = sqs_client(sqs.url()).unwrap();
    let fifo = [(QueueAttributeName::FifoQueue, "true")];
    let url = create(&client, "q.fifo", &[&fifo, attributes].concat()).await.unwrap();
    Harness { sqs, client, url }
}

async fn create(client: &Client, name: &str, attributes: &[(QueueAttributeName, &str)]) -> Result<String, String> {
    let attributes: HashMap<_, _> =
        attributes.iter().map(|(name, value)| (name.clone(), (*value).to_owned())).collect();
    let request = client.create_queue().queue_name(name).set_attributes(Some(attributes));
    within_limit(request.send()).await.map(|response| response.queue_url.unwrap()).map_err(|error| code(&error))
}

fn code(error: &impl ProvideErrorMetadata) -> String {
    error.code().unwrap_or_default().to_owned()
}

impl Harness {
    /// Sends a message with this group and deduplication id. The result is message id and sequence number.
    async fn send(&self, body: &str, group: Option<&str>, id: Option<&str>) -> Result<(String, String), String> {
        let send = self.client.send_message().queue_url(&self.url).message_body(body);
        let send = send.set_message_group_id(group.map(str::to_owned));
        let send = send.set_message_deduplication_id(id.map(str::to_owned));
        let response = within_limit(send.send()).await.map_err(|error| code(&error))?;
        Ok((response.message_id.unwrap(), response.sequence_number.unwrap()))
    }

    async fn receive(&self, max: i32) -> Vec<Message> {
        let receive = self.client.receive_message().queue_url(&self.url).max_number_of_messages(max);
        let receive = receive.message_system_attribute_names(MessageSystemAttributeName::All);
        within_limit(receive.send()).await.unwrap().messages.unwrap_or_default()
    }

    async fn delete(&self, message: &Message) {
        let handle = message.receipt_handle().unwrap();
        within_limit(self.client.delete_message().queue_url(&self.url).receipt_handle(handle).send()).await.unwrap();
    }
}

fn bodies(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.body().unwrap()).collect()
}

#[tokio::test]
async fn messages_of_a_group_come_in_order_and_wait_while_an_earlier_one_is_in_flight() {
    let harness = start(&[]).await;
    for (body, group) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a"), ("b2", "b")] {
        harness.send(body, Some(group), Some(body)).await.unwrap();
    }
    let first = harness.receive(1).await;
    assert_eq!(bodies(&first), ["a1"]);
    let second = harness.receive(1).await;
    assert_eq!(bodies(&second), ["b1"], "group a is locked");
    assert_eq!(bodies(&harness.receive(10).await), Vec::<&str>::new());
    harness.delete(&first[0]).await;
    let third = harness.receive(10).await;
    assert_eq!(bodies(&third), ["a2", "a3"], "one response may have several of a group");
    // What is not deleted comes again, before what is behind it.
    harness.sqs.pass_time(Duration::from_secs(30));
    let again = harness.receive(10).await;
    assert_eq!(bodies(&again), ["a2", "b1", "a3", "b2"]);
    let attributes = again[0].attributes().unwrap();
    let attribute = |name| attributes[&name].as_str();
    assert_eq!(attribute(MessageSystemAttributeName::MessageGroupId), "a");
    assert_eq!(attribute(MessageSystemAttributeName::MessageDeduplicationId), "a2");
    assert_eq!(attribute(MessageSystemAttributeName::ApproximateReceiveCount), "2");
}

#[tokio::test]
async fn a_deduplication_id_counts_for_five_minutes() {
    let harness = start(&[]).await;
    let first = harness.send("one", Some("g"), Some("id")).await.unwrap();
    assert_eq!(harness.send("two", Some("other"), Some("id")).await.unwrap(), first, "the response to the first one");
    // Also after the message was received and deleted.
    harness.delete(&harness.receive(1).await[0]).await;
    harness.sqs.pass_time(Duration::from_secs(299));
    harness.send("three", Some("g"), Some("id")).await.unwrap();
    assert_eq!(harness.sqs.messages("q.fifo"), vec![]);
    harness.sqs.pass_time(Duration::from_secs(1));
    let later = harness.send("four", Some("g"), Some("id")).await.unwrap();
    assert_eq!(harness.sqs.messages("q.fifo").len(), 1);
    assert!(later.0 != first.0 && later.1 > first.1, "sequence numbers grow: {first:?} {later:?}");
}

#[tokio::test]
async fn a_content_based_queue_takes_the_hash_of_the_body_as_id() {
    let harness = start(&[(QueueAttributeName::ContentBasedDeduplication, "true")]).await;
    for body in ["one", "one", "two"] {
        harness.send(body, Some("g"), None).await.unwrap();
    }
    harness.send("one", Some("g"), Some("own")).await.unwrap();
    let messages = harness.sqs.messages("q.fifo");
    let ids: Vec<_> = messages.iter().map(|message| message.deduplication_id.clone().unwrap()).collect();
    assert_eq!(ids[0], "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed");
    assert_eq!((ids.len(), ids[2].as_str(), messages[0].group.as_deref()), (3, "own", Some("g")));
}

#[tokio::test]
async fn a_batch_keeps_the_order_of_its_entries() {
    let harness = start(&[]).await;
    let entries = (0..10).map(|n| {
        let entry = SendMessageBatchRequestEntry::builder().id(n.to_string()).message_body(n.to_string());
        entry.message_group_id("g").message_deduplication_id(n.to_string()).build().unwrap()
    });
    let send = harness.client.send_message_batch().queue_url(&harness.url).set_entries(Some(entries.collect()));
    let response = within_limit(send.send()).await.unwrap();
    assert_eq!((response.successful().len(), response.failed().len()), (10, 0));
    assert!(response.successful().is_sorted_by_key(|entry| entry.sequence_number().unwrap().to_owned()));
    assert_eq!(bodies(&harness.receive(10).await), ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
}

#[tokio::test]
async fn parameters_that_do_not_fit_the_type_of_the_queue_are_refused() {
    let harness = start(&[]).await;
    let long = "x".repeat(129);
    for (group, id, expected) in [
        (None, Some("id"), "MissingParameter"),
        (Some("g"), None, "InvalidParameterValue"),
        (Some("g h"), Some("id"), "InvalidParameterValue"),
        (Some("g"), Some(long.as_str()), "InvalidParameterValue"),
        (Some(""), Some("id"), "InvalidParameterValue"),
    ] {
        assert_eq!(harness.send("m", group, id).await, Err(expected.to_owned()), "{group:?} {id:?}");
    }
    let delayed = harness.client.send_message().queue_url(&harness.url).message_body("m").delay_seconds(1);
    let delayed = delayed.message_group_id("g").message_deduplication_id("id");
    assert_eq!(
        within_limit(delayed.send()).await.map_err(|error| code(&error)).err().as_deref(),
        Some("InvalidParameterValue")
    );

    let standard = create(&harness.client, "standard", &[]).await.unwrap();
    let send = harness.client.send_message().queue_url(&standard).message_body("m");
    assert!(within_limit(send.clone().message_group_id("g").send()).await.is_ok(), "a fair queue takes a group");
    let refused = within_limit(send.message_deduplication_id("id").send()).await;
    assert_eq!(refused.map_err(|error| code(&error)).err().as_deref(), Some("InvalidParameterValue"));
}

#[tokio::test]
async fn name_and_attributes_of_a_fifo_queue_belong_together() {
    let harness = start(&[]).await;
    let (fifo, content) = (QueueAttributeName::FifoQueue, QueueAttributeName::ContentBasedDeduplication);
    for (name, attributes, expected) in [
        ("a.fifo", vec![], "InvalidParameterValue"),
        ("a", vec![(fifo.clone(), "true")], "InvalidParameterValue"),
        (".fifo", vec![(fifo.clone(), "true")], "InvalidParameterValue"),
        ("a.b.fifo", vec![(fifo.clone(), "true")], "InvalidParameterValue"),
        ("a.fifo", vec![(fifo.clone(), "false")], "InvalidAttributeValue"),
        ("a.fifo", vec![(fifo.clone(), "true"), (content.clone(), "yes")], "InvalidAttributeValue"),
        ("a", vec![(content, "true")], "InvalidAttributeName"),
    ] {
        assert_eq!(create(&harness.client, name, &attributes).await, Err(expected.to_owned()), "{name} {attributes:?}");
    }
    let describe =
        harness.client.get_queue_attributes().queue_url(&harness.url).attribute_names(QueueAttributeName::All);
    let described = within_limit(describe.send()).await.unwrap().attributes.unwrap();
    assert_eq!(described[&fifo], "true");
}
