//! The simulated EventBridge does what the EventBridge of AWS documents, and is as strict.

use aws_sdk_eventbridge::{
    Client,
    error::ProvideErrorMetadata,
    operation::put_events::PutEventsOutput,
    primitives::DateTime,
    types::{PutEventsRequestEntry, builders::PutEventsRequestEntryBuilder},
};
use sandbox::{
    clients::eventbridge_client,
    eventbridge::{EventBridge, Faults, MAX_REQUEST_BYTES, bus_arn},
    server::listen,
};
use serde_json::{Value, json};

use crate::within_limit;

const BUS: &str = "orders";

struct Harness {
    eventbridge: EventBridge,
    client: Client,
}

/// An EventBridge with the bus [`BUS`].
async fn start(faults: Faults) -> Harness {
    let eventbridge = EventBridge::serve(listen("EventBridge", 0).await.unwrap(), faults).unwrap();
    let client = eventbridge_client(eventbridge.url()).unwrap();
    client.create_event_bus().name(BUS).send().await.unwrap();
    Harness { eventbridge, client }
}

fn entry(detail: &str) -> PutEventsRequestEntryBuilder {
    PutEventsRequestEntry::builder().event_bus_name(BUS).source("tests").detail_type("A").detail(detail)
}

fn code(error: &impl ProvideErrorMetadata) -> String {
    error.code().unwrap_or_default().to_owned()
}

impl Harness {
    async fn put(&self, entries: Vec<PutEventsRequestEntryBuilder>) -> Result<PutEventsOutput, String> {
        let entries = entries.into_iter().map(PutEventsRequestEntryBuilder::build).collect();
        within_limit(self.client.put_events().set_entries(Some(entries)).send()).await.map_err(|error| code(&error))
    }

    /// The error code of each entry.
    async fn codes(&self, entries: Vec<PutEventsRequestEntryBuilder>) -> Vec<Option<String>> {
        let output = self.put(entries).await.unwrap();
        let codes: Vec<_> = output.entries().iter().map(|entry| entry.error_code().map(str::to_owned)).collect();
        assert_eq!(usize::try_from(output.failed_entry_count()).unwrap(), codes.iter().flatten().count());
        assert!(output.entries().iter().all(|entry| entry.event_id().is_some() != entry.error_code().is_some()));
        codes
    }

    async fn describe(&self, name: &str) -> Result<String, String> {
        let described = within_limit(self.client.describe_event_bus().name(name).send()).await;
        described.map(|bus| bus.arn.unwrap()).map_err(|error| code(&error))
    }

    fn details(&self) -> Vec<String> {
        self.eventbridge.events(BUS).into_iter().map(|event| event.detail).collect()
    }
}

#[tokio::test]
async fn events_reach_their_bus_in_order_as_they_were_sent() {
    let harness = start(Faults::default()).await;
    let detail = r#"{ "a": 1.00, "b": "\u00e9" }"#;
    let at = DateTime::from_secs(1_768_471_053);
    assert_eq!(harness.codes(vec![entry(detail).time(at), entry("{}")]).await, [None, None]);
    assert_eq!(harness.codes(vec![entry("{}").event_bus_name(bus_arn(BUS))]).await, [None]);
    let events = harness.eventbridge.events(BUS);
    assert_eq!(events.iter().map(|event| event.request).collect::<Vec<_>>(), [1, 1, 2]);
    assert_eq!((events[0].detail.as_str(), events[0].time.to_string().as_str()), (detail, "2026-01-15T09:57:33.000Z"));
    let json = events[0].to_json();
    assert!(json.ends_with(&format!(
        r#""time":"2026-01-15T09:57:33Z","region":"us-east-1","resources":[],"detail":{detail}}}"#
    )));
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&value["source"], &value["detail-type"], &value["detail"]["b"]),
        (&json!("tests"), &json!("A"), &json!("é"))
    );
    harness.eventbridge.wait_for(BUS, |events| events.len() == 3).await;
}

/// This is what makes a deleted bus dangerous.
#[tokio::test]
async fn events_for_a_bus_that_does_not_exist_are_lost_and_the_request_succeeds() {
    let harness = start(Faults::default()).await;
    assert_eq!(harness.codes(vec![entry("{}").event_bus_name("missing"), entry("{}")]).await, [None, None]);
    assert_eq!((harness.eventbridge.events("missing"), harness.details().len()), (vec![], 1));
    within_limit(harness.client.delete_event_bus().name(BUS).send()).await.unwrap();
    within_limit(harness.client.delete_event_bus().name(BUS).send()).await.unwrap();
    assert_eq!(harness.codes(vec![entry("{}")]).await, [None]);
    assert_eq!(harness.details().len(), 1, "those of before stay");
}

#[tokio::test]
async fn buses_are_created_described_and_deleted() {
    let harness = start(Faults::default()).await;
    assert_eq!(harness.describe(BUS).await, Ok(bus_arn(BUS)));
    assert_eq!(harness.describe(&bus_arn(BUS)).await, Ok(bus_arn(BUS)));
    assert_eq!(harness.describe("default").await, Ok(bus_arn("default")));
    assert_eq!(harness.describe("missing").await, Err("ResourceNotFoundException".to_owned()));
    for (name, expected) in [(BUS, "ResourceAlreadyExistsException"), ("a b", "ValidationException")] {
        let created = within_limit(harness.client.create_event_bus().name(name).send()).await;
        assert_eq!(created.map(drop).map_err(|error| code(&error)), Err(expected.to_owned()));
    }
    let deleted = within_limit(harness.client.delete_event_bus().name("default").send()).await;
    assert_eq!(deleted.map(drop).map_err(|error| code(&error)), Err("ValidationException".to_owned()));
}

#[tokio::test]
async fn an_entry_that_is_invalid_fails_alone() {
    let harness = start(Faults::default()).await;
    let long = "X".repeat(129);
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
    for (invalid, expected) in [
        (entry("{"), "MalformedDetail"),
        (entry("[]"), "MalformedDetail"),
        (entry("\u{feff}{}"), "MalformedDetail"),
        (entry(r#"{"a":"\ud83d"}"#), "MalformedDetail"),
        (entry(r#"{"a":1e400}"#), "MalformedDetail"),
        (entry(r#"{"a":[{"b":9223372036854775808}]}"#), "MalformedDetail"),
        (entry(&deep), "MalformedDetail"),
        (entry("{}").detail_type(&long), "InvalidArgument"),
        (entry("{}").detail_type(""), "InvalidArgument"),
        (entry("{}").set_source(None), "InvalidArgument"),
        (entry("{}").set_detail(None), "InvalidArgument"),
        (entry("{}").source("aws.ec2"), "NotAuthorizedForSourceException"),
    ] {
        let codes = harness.codes(vec![invalid, entry("{}")]).await;
        assert_eq!(codes, [Some(expected.to_owned()), None]);
    }
    assert_eq!(harness.details().len(), 12, "the valid ones");
}

#[tokio::test]
async fn a_request_beyond_the_limits_fails_as_a_whole() {
    let harness = start(Faults::default()).await;
    // Source, detail type and time count too: 5, 1 and 14 bytes.
    let of_size = |bytes: usize| {
        let frame = r#"{"a":""}"#.len();
        entry(&format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - frame - 20))).time(DateTime::from_secs(0))
    };
    assert!(harness.put(vec![of_size(MAX_REQUEST_BYTES - 1)]).await.is_ok());
    assert!(harness.put(vec![of_size(MAX_REQUEST_BYTES / 2), of_size(MAX_REQUEST_BYTES / 2 - 1)]).await.is_ok());
    for entries in [
        vec![of_size(MAX_REQUEST_BYTES)],
        vec![of_size(MAX_REQUEST_BYTES / 2), of_size(MAX_REQUEST_BYTES / 2)],
        vec![],
        (0..11).map(|_| entry("{}")).collect(),
        vec![entry("{}").set_detail(None)],
    ] {
        assert_eq!(harness.put(entries).await.err().as_deref(), Some("ValidationException"));
    }
    assert_eq!(harness.details().len(), 3);
}

#[tokio::test]
async fn entries_and_requests_fail_as_the_seed_says() {
    let faults = Faults { seed: 7, throttled_entries: 0.3, failed_entries: 0.3, failed_requests: 0.0 };
    let mut runs = Vec::new();
    for _ in 0..2 {
        let harness = start(faults).await;
        let codes = harness.codes((0..10).map(|n| entry(&format!("{{\"n\":{n}}}"))).collect()).await;
        assert_eq!(harness.details().len(), codes.iter().filter(|code| code.is_none()).count());
        for expected in [None, Some("ThrottlingException"), Some("InternalFailure")] {
            assert!(codes.iter().any(|code| code.as_deref() == expected), "{codes:?}");
        }
        runs.push(codes);
    }
    assert_eq!(runs[0], runs[1]);

    let harness = start(Faults { failed_requests: 1.0, ..Faults::default() }).await;
    assert_eq!(harness.put(vec![entry("{}")]).await.err().as_deref(), Some("InternalException"));
    harness.eventbridge.clear_faults();
    harness.eventbridge.fail_entries(|event| (event.detail == "{}").then_some("InternalFailure"));
    let codes = harness.codes(vec![entry("{}"), entry(r#"{"a":1}"#)]).await;
    assert_eq!((codes, harness.details().len()), (vec![Some("InternalFailure".to_owned()), None], 1));
}
