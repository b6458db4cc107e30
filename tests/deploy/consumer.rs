//! A consumer of published events: a rule on the stack's bus with a queue as its target.

use std::time::Duration;

use aws_sdk_sqs::Client;
use serde_json::{Value, json};
use tests::wait::within;

use crate::emulator::Emulator;

/// The rule's name.
const RULE: &str = "everything";
/// Longer than MiniStack takes to hand all waiting records to the functions.
const PATIENCE: Duration = Duration::from_mins(1);
const LONG_POLL_S: i32 = 1;
const MOST_MESSAGES: i32 = 10;

/// A queue outside the stack, and a rule whose target it is.
pub(crate) struct Consumer<'e> {
    emulator: &'e Emulator,
    client: Client,
    url: String,
    arn: String,
}

impl<'e> Consumer<'e> {
    pub(crate) async fn new(emulator: &'e Emulator) -> Self {
        let client = sandbox::clients::sqs_client(emulator.url()).unwrap();
        let created = client.create_queue().queue_name("consumer").send().await.unwrap();
        let url = created.queue_url.unwrap();
        let name = aws_sdk_sqs::types::QueueAttributeName::QueueArn;
        let attributes = client.get_queue_attributes().queue_url(&url).attribute_names(name.clone()).send();
        let arn = attributes.await.unwrap().attributes.unwrap()[&name].clone();
        Self { emulator, client, url, arn }
    }

    /// Puts the rule on the bus, and makes the queue its target.
    pub(crate) async fn subscribe(&self, bus: &str) {
        let pattern = json!({"source": ["unith.webhooks"]}).to_string();
        self.emulator
            .aws(&["events", "put-rule", "--event-bus-name", bus, "--name", RULE, "--event-pattern", &pattern])
            .await;
        let target = json!([{"Id": "queue", "Arn": self.arn}]).to_string();
        self.emulator
            .aws(&["events", "put-targets", "--event-bus-name", bus, "--rule", RULE, "--targets", &target])
            .await;
    }

    /// Deletes the rule.
    pub(crate) async fn unsubscribe(&self, bus: &str) {
        self.emulator
            .aws(&["events", "remove-targets", "--event-bus-name", bus, "--rule", RULE, "--ids", "queue"])
            .await;
        self.emulator.aws(&["events", "delete-rule", "--event-bus-name", bus, "--name", RULE]).await;
    }

    /// Takes messages from the rule's target until `count` events of the session were among them.
    pub(crate) async fn take(&self, session: &str, count: usize) -> Vec<Value> {
        take(&self.client, &self.url, session, count).await
    }

    /// The same from the FIFO queue.
    pub(crate) async fn take_ordered(&self, queue: &str, session: &str, count: usize) -> Vec<Value> {
        take(&self.client, queue, session, count).await
    }

    /// The bodies of messages that wait in a queue.
    pub(crate) async fn waiting(&self, queue: &str) -> String {
        let receive = self.client.receive_message().queue_url(queue).max_number_of_messages(MOST_MESSAGES);
        let messages = receive.visibility_timeout(0).send().await.unwrap().messages.unwrap_or_default();
        messages.into_iter().filter_map(|message| message.body).collect()
    }

    /// Deletes the queue.
    pub(crate) async fn end(self) {
        self.client.delete_queue().queue_url(&self.url).send().await.unwrap();
    }
}

/// Takes messages, and deletes them. Events of other sessions are ignored, and so are those that come once more.
async fn take(client: &Client, queue: &str, session: &str, count: usize) -> Vec<Value> {
    let mut events: Vec<Value> = Vec::new();
    let is_same = |one: &Value, other: &Value| {
        ["id", "replay"].iter().all(|name| one["detail"]["metadata"][name] == other["detail"]["metadata"][name])
    };
    let taking = async {
        while events.len() < count {
            let receive = client.receive_message().queue_url(queue).max_number_of_messages(MOST_MESSAGES);
            let messages = receive.wait_time_seconds(LONG_POLL_S).send().await.unwrap().messages.unwrap_or_default();
            for message in messages {
                let event: Value = serde_json::from_str(message.body().unwrap()).unwrap();
                client
                    .delete_message()
                    .queue_url(queue)
                    .receipt_handle(message.receipt_handle().unwrap())
                    .send()
                    .await
                    .unwrap();
                let is_wanted = event["detail"]["metadata"]["session_id"] == session;
                if is_wanted && !events.iter().any(|other| is_same(&event, other)) {
                    events.push(event);
                }
            }
        }
    };
    within(PATIENCE, taking).await;
    assert_eq!(events.len(), count, "{events:#?}");
    events
}
