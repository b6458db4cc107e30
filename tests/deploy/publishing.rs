//! What the stack makes of stored events: published events and summaries of sessions.

use std::time::Duration;

use sandbox::platform::{account::HEAD_ID, delivery::Sent};
use serde_json::{Value, json};
use tests::{
    table::text,
    wait::{PATIENCE, until, within},
};
use unith_events::{event_type::EventType, timestamp::Timestamp};

use crate::{
    Story,
    consumer::Consumer,
    documents, is_stored,
    stack::{Deployed, Stack},
};

/// The session in the documents' commands.
const SESSION_OF_THE_DOCUMENTS: &str = "f47ac10b-58cc-4372-a567-0e02b2c3d479";
/// The range in the runbook's replay.
const RANGE_OF_THE_RUNBOOK: [&str; 2] = ["2026-11-25T10:00:00Z", "2026-11-25T10:01:30Z"];
/// A conversation that ends by time-out, with seconds before its last event.
const CONVERSATION: [(u64, EventType); 4] = [
    (3, EventType::StartConversation),
    (2, EventType::InactivityWarning),
    (1, EventType::TimeoutConversation),
    (0, EventType::EndConversation),
];

impl Story {
    /// A conversation goes from signed POSTs to a rule's target, the FIFO queue and the sessions table.
    pub(super) async fn publishes_and_summarizes(
        &self,
        stack: &Stack<'_>,
        deployed: &Deployed<'_>,
        consumer: &Consumer<'_>,
    ) {
        let session = "published";
        let sent = self.converses(session).await;
        let mut from_bus = consumer.take(session, sent.len()).await;
        // EventBridge does not keep the order; each event has another second.
        from_bus.sort_by_key(|event| event["detail"]["metadata"]["occurred_at"].to_string());
        let ordered = consumer.take_ordered(deployed.output("OrderedQueueUrl"), session, sent.len()).await;
        let items = deployed.items().await;
        for (events, outlet) in [(&from_bus, "the rule's target"), (&ordered, "the FIFO queue")] {
            for (event, (kind, at, sent)) in events.iter().zip(&sent) {
                is_the_event(event, session, *kind, *at, &sent.body, outlet);
                let id = event["detail"]["metadata"]["id"].as_str().unwrap();
                assert!(items.iter().any(|item| item.contains(session) && item.ends_with(id)), "{outlet}: {id}");
            }
        }
        self.report("published: a conversation, at a rule's target and in the FIFO queue, there in order");
        self.keeps_a_summary(stack, deployed, session, &from_bus[3]["detail"]["session"]).await;
        self.replays_a_session(stack, deployed, consumer, session, &from_bus).await;
    }

    /// Delivers [`CONVERSATION`], each event after the response to the one before. The stack may leave out warnings.
    async fn converses(&self, session: &str) -> Vec<(EventType, Timestamp, Sent)> {
        let now = Timestamp::now();
        let mut all = Vec::new();
        for (seconds, kind) in CONVERSATION {
            let at = now.minus(Duration::from_secs(seconds));
            let Some(mut sent) = self.platform.emit(HEAD_ID, session, kind, at).pop() else {
                assert_eq!(kind, EventType::InactivityWarning, "no webhook gets the event");
                continue;
            };
            is_stored(&mut sent).await;
            all.push((kind, at, sent));
        }
        all
    }

    /// Its row is what `show` and `list` say, and a row that is lost is made again by `rebuild`.
    async fn keeps_a_summary(&self, stack: &Stack<'_>, deployed: &Deployed<'_>, session: &str, published: &Value) {
        let count = CONVERSATION.len().to_string();
        let is_complete = async || {
            let row = deployed.row(HEAD_ID, session).await;
            row.is_some_and(|row| row["n"].as_n().unwrap() == &count)
        };
        within(PATIENCE, until(is_complete)).await;
        let row = deployed.row(HEAD_ID, session).await.unwrap();
        assert_eq!(text(&row, "state"), "ended");

        let show = json!({"action": "show", "head_id": HEAD_ID, "session_id": session});
        let mut shown = deployed.invoke_function("Sessions", show).await;
        assert_eq!(shown["status"], "found", "{shown}");
        assert_eq!(shown["session"].as_object_mut().unwrap().remove("lost"), Some(json!(false)));
        assert_eq!(&shown["session"], published, "the summary in the END is that of the table");
        let list = json!({"action": "list", "head_id": HEAD_ID, "state": "ended"});
        let listed = deployed.invoke_function("Sessions", list).await;
        let is_it = |row: &&Value| row["session_id"] == session;
        let found = listed["sessions"].as_array().unwrap().iter().find(is_it).unwrap_or_else(|| panic!("{listed}"));
        assert_eq!(found["duration_ms"], shown["session"]["duration_ms"], "{found}");

        deployed.delete_row(HEAD_ID, session).await;
        let function = deployed.output("SessionsFunction");
        let rebuild = "AWS_MAX_ATTEMPTS=1 aws lambda invoke --cli-read-timeout 700 --function-name SESSIONS ";
        documents::run(stack, rebuild, &[("SESSIONS", function)]).await;
        assert_eq!(deployed.row(HEAD_ID, session).await, Some(row));
        self.report("summarized: show and list have the session; rebuild makes its row again");
    }

    /// Uses the command of `docs/runbooks.md`.
    async fn replays_a_session(
        &self,
        stack: &Stack<'_>,
        deployed: &Deployed<'_>,
        consumer: &Consumer<'_>,
        session: &str,
        originals: &[Value],
    ) {
        let replay = r#"sam remote invoke Publish --stack-name unith-webhooks --event '{"action":"replay","head_id""#;
        let report = documents::run(stack, replay, &[(SESSION_OF_THE_DOCUMENTS, session)]).await;
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!((&report["ok"], &report["published"]), (&json!(true), &json!(originals.len())), "{report}");
        let from_bus = consumer.take(session, originals.len()).await;
        let ordered = consumer.take_ordered(deployed.output("OrderedQueueUrl"), session, originals.len()).await;
        for event in from_bus.iter().chain(&ordered) {
            let metadata = &event["detail"]["metadata"];
            assert_eq!(metadata["replay"]["id"], report["id"], "{event}");
            assert_eq!(metadata["replay"]["reason"], "failed record", "{event}");
            let mut original = event.clone();
            original["detail"]["metadata"]["replay"] = Value::Null;
            let is_it = |other: &&Value| other["detail"] == original["detail"] && other["time"] == original["time"];
            assert!(originals.iter().any(|other| is_it(&other)), "{event}");
        }
        self.report("replayed: the session once more, marked as a replay");
    }

    /// Uses the commands of the runbook. A bus is deleted by hand, and made again.
    pub(super) async fn holds_events_while_the_bus_is_missing(
        &self,
        stack: &Stack<'_>,
        deployed: &Deployed<'_>,
        consumer: &Consumer<'_>,
    ) {
        let (session, queue) = ("bus-missing", deployed.output("OrderedQueueUrl"));
        consumer.unsubscribe(stack.name).await;
        self.emulator.aws(&["events", "delete-event-bus", "--name", stack.name]).await;
        let from = Timestamp::now();
        let sent = self.converses(session).await;
        let to = Timestamp::now();
        deployed.wait_for_log("PublishLogGroup", "does not exist: create it").await;
        assert!(!consumer.waiting(queue).await.contains(session), "nothing is published until the bus is back");

        let mapping = stack.physical_id("PublishStored").await;
        documents::run(stack, "aws lambda update-event-source-mapping --no-enabled", &[("ID", &mapping)]).await;
        documents::run(stack, "aws events create-event-bus", &[]).await;
        consumer.subscribe(stack.name).await;
        documents::run(stack, "aws lambda update-event-source-mapping --enabled", &[("ID", &mapping)]).await;
        for events in
            [consumer.take(session, sent.len()).await, consumer.take_ordered(queue, session, sent.len()).await]
        {
            assert!(events.iter().all(|event| event["detail"]["metadata"]["replay"].is_null()), "{events:#?}");
            assert_eq!(events[3]["detail"]["session"]["ended_by"], "timeout", "{events:#?}");
        }
        let row = deployed.row(HEAD_ID, session).await.unwrap();
        assert_eq!(row["n"].as_n().unwrap(), "4", "a missing bus does not concern sessions");
        self.report("held: events while the bus was deleted; they arrived when it was back");

        let [begin, end] = RANGE_OF_THE_RUNBOOK;
        let (from, to) = (from.to_string(), to.to_string());
        let range = [(begin, from.as_str()), (end, to.as_str())];
        let dry_run = r#"sam remote invoke Publish --stack-name unith-webhooks --event '{"action":"replay","from""#;
        let report: Value = serde_json::from_str(&documents::run(stack, dry_run, &range).await).unwrap();
        assert_eq!((&report["matching"], &report["published"]), (&json!(4), &json!(0)), "{report}");
        let apply = "AWS_MAX_ATTEMPTS=1 aws lambda invoke --cli-read-timeout 700 --function-name PUBLISH ";
        documents::run(stack, apply, &[range[0], range[1], ("PUBLISH", deployed.output("PublishFunction"))]).await;
        let replayed = consumer.take(session, sent.len()).await;
        let is_replay = |event: &Value| event["detail"]["metadata"]["replay"]["reason"] == "bus deleted";
        assert!(replayed.iter().all(is_replay), "{replayed:#?}");
        self.report("replayed: the range of the outage");
    }

    /// After an update with neither bus nor FIFO queue, nothing of `publish` is left, and deliveries and summaries go on.
    pub(super) async fn does_not_publish(&self, stack: &Stack<'_>, deployed: &Deployed<'_>) {
        for output in ["EventBusArn", "OrderedQueueUrl", "PublishFunction", "PublishLogGroup"] {
            assert!(!deployed.has_output(output), "{output}");
        }
        let left = self.emulator.contents().await;
        let is_of_publish = |name: &&String| {
            *name == &format!("events {}", stack.name) || name.contains("Publish") || name.contains("OrderedEvents")
        };
        // The emulator's roles and log groups are named after the resources too.
        assert_eq!(left.iter().find(is_of_publish), None);
        self.converses("unpublished").await;
        let row = async || deployed.row(HEAD_ID, "unpublished").await.is_some();
        within(PATIENCE, until(row)).await;
        self.report("publishing is switched off: its resources are gone, and sessions goes on");
    }

    /// Uses the command of `docs/deploy.md`.
    pub(super) async fn switches_publishing_on<'e>(&self, stack: &Stack<'e>, consumer: &Consumer<'_>) -> Deployed<'e> {
        documents::update(stack, "EventBusArn=create").await;
        consumer.subscribe(stack.name).await;
        let deployed = self.is_deployed(stack).await;
        assert!(deployed.output("EventBusArn").ends_with(&format!(":event-bus/{}", stack.name)));
        assert!(!deployed.has_output("OrderedQueueUrl"));
        self.converses_with_consumer("switched-on", consumer).await;
        self.report("publishing is switched on by an update");
        deployed
    }

    /// A conversation arrives at the rule's target.
    pub(super) async fn converses_with_consumer(&self, session: &str, consumer: &Consumer<'_>) {
        let sent = self.converses(session).await;
        let events = consumer.take(session, sent.len()).await;
        let end = events.iter().find(|event| event["detail-type"] == EventType::EndConversation.as_str()).unwrap();
        assert_eq!(end["detail"]["session"]["state"], "ended", "{end}");
    }
}

/// Whether a published event is the one that was delivered with this body.
fn is_the_event(event: &Value, session: &str, kind: EventType, at: Timestamp, body: &[u8], outlet: &str) {
    let at = at.whole_second().to_string();
    let detail = &event["detail"];
    assert_eq!(event["source"], "unith.webhooks", "{outlet}: {event}");
    assert_eq!(event["detail-type"], kind.as_str(), "{outlet}: {event}");
    assert_eq!(event["time"], at.replace(".000Z", "Z"), "{outlet}: {event}");
    let expected = json!({
        "id": detail["metadata"]["id"], "version": 1, "head_id": HEAD_ID, "session_id": session, "occurred_at": at,
        "received_at": detail["metadata"]["received_at"], "via": "receive", "test": false, "replay": null,
    });
    assert_eq!(detail["metadata"], expected, "{outlet}: {event}");
    assert_eq!(detail["data"], serde_json::from_slice::<Value>(body).unwrap(), "{outlet}: {event}");
    let summary = (kind == EventType::EndConversation).then(|| json!(["ended", "timeout", 4, 1, 3000]));
    let session = detail.get("session");
    let fields = ["state", "ended_by", "n", "warnings", "duration_ms"];
    let actual = session.map(|session| fields.iter().map(|name| session[*name].clone()).collect::<Value>());
    assert_eq!(actual, summary, "{outlet}: {event}");
}
