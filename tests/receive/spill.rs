//! Spilling: what the table does not take goes to the queue, in time.

use std::time::Duration;

use sandbox::{
    clients::sqs_client,
    queues::{Queues, SPILL_QUEUE},
    server::listen,
    sqs::{Settings, Sqs},
};
use serde_json::{Value, json};
use tests::{
    delivery::{KEY, event, sign},
    gateway_event::http_api_event,
    proxy::{Fault, Proxy},
    receive_harness::ReceiveHarness,
    wait::within,
};
use tokio::time::Instant;
use unith_events::{event::Event, spill::SpillMessage, timestamp::Timestamp};

/// A receiver's services with a queue behind the table.
struct Harness {
    receiving: ReceiveHarness,
    sqs: Sqs,
    sqs_proxy: Proxy,
}

impl Harness {
    async fn start() -> Self {
        let sqs = Sqs::serve(listen("SQS", 0).await.unwrap(), Settings::default()).unwrap();
        let sqs_proxy = Proxy::start(sqs.url()).await;
        let queues = Queues::create(&sqs_client(sqs.url()).unwrap()).await.unwrap();
        let receiving = ReceiveHarness::new()
            .await
            .with("SPILL_QUEUE_URL", queues.spill_url)
            .with("AWS_ENDPOINT_URL_SQS", sqs_proxy.url());
        Self { receiving, sqs, sqs_proxy }
    }

    fn spilled(&self) -> Vec<SpillMessage> {
        let messages = self.sqs.messages(SPILL_QUEUE);
        messages.iter().map(|message| SpillMessage::parse(&message.body).unwrap()).collect()
    }
}

fn of_session(session: &str) -> Vec<u8> {
    event(&json!({"session_id": session}))
}

#[tokio::test]
async fn a_delivery_that_the_table_does_not_take_is_accepted_and_waits_in_the_queue() {
    for (fault, reason, cause) in [
        (Fault::access_denied(), "denied", "AccessDeniedException"),
        (Fault::throttled(), "throttled", "the table is throttled"),
        (Fault::aws_error("ResourceNotFoundException"), "missing", "ResourceNotFoundException"),
        (Fault::status(500), "unavailable", ""),
        (Fault::refuse(), "unavailable", ""),
        (Fault::hang(), "timeout", ""),
    ] {
        let harness = Harness::start().await;
        let receiver = harness.receiving.receiver().await;
        harness.receiving.table.proxy.set(fault);
        let body = of_session("s");
        let response = within(Duration::from_secs(4), receiver.deliver(&body, KEY)).await;
        assert_eq!((response.status, response.json()), (202, json!({"status": "accepted"})), "{reason}");
        assert_eq!(response.log["outcome"], "accepted");
        assert_eq!(response.log["level"], "WARN");
        assert!(response.reason().starts_with("spilled to the queue: ") && response.reason().contains(cause));
        assert_eq!((&response.log["Spilled"], &response.log["SpillFailed"]), (&json!(1), &Value::Null));
        let messages = harness.spilled();
        assert_eq!(messages.len(), 1, "{reason}");
        assert_eq!(serde_json::to_value(messages[0].reason).unwrap(), reason);
        let verified = messages[0].verified().unwrap();
        assert_eq!(verified.body(), body);
        assert_eq!(response.log["event_id"], Event::parse(&verified).unwrap().event_id.as_str());
    }
}

#[tokio::test]
async fn a_body_that_cannot_be_quarantined_is_spilled_too() {
    let harness = Harness::start().await;
    let receiver = harness.receiving.receiver().await;
    harness.receiving.table.proxy.set(Fault::access_denied());
    let response = receiver.deliver(b"not json", KEY).await;
    assert_eq!(response.outcome(), (202, "accepted".to_owned()));
    assert_eq!(harness.spilled()[0].verified().unwrap().body(), b"not json");
}

#[tokio::test]
async fn with_neither_table_nor_queue_a_delivery_is_unavailable() {
    for fault in [Fault::access_denied, Fault::hang, Fault::refuse] {
        let harness = Harness::start().await;
        let receiver = harness.receiving.receiver().await;
        harness.receiving.table.proxy.set(fault());
        harness.sqs_proxy.set(fault());
        let response = within(Duration::from_secs(4), receiver.deliver(&of_session("s"), KEY)).await;
        assert_eq!(response.status, 503, "{response:?}");
        assert!(response.headers.contains_key("retry-after"));
        assert_eq!((&response.log["Unavailable"], &response.log["SpillFailed"]), (&json!(1), &json!(1)));
        assert!(response.reason().contains("; "), "both causes: {}", response.reason());
    }
}

#[tokio::test]
async fn a_table_that_failed_is_not_asked_until_a_probe_succeeds() {
    let harness = Harness::start().await;
    let receiver = harness.receiving.receiver().await;
    let table = &harness.receiving.table.proxy;
    table.set(Fault::access_denied());
    receiver.deliver(&of_session("first"), KEY).await;
    let asked = table.requests();
    table.clear();
    let response = receiver.deliver(&of_session("second"), KEY).await;
    assert_eq!((response.status, table.requests()), (202, asked), "the breaker is open");
    assert_eq!(serde_json::to_value(harness.spilled()[1].reason).unwrap(), "breaker");
    let began = Instant::now();
    let mut number = 0;
    let probe = async {
        loop {
            let response = receiver.deliver(&of_session(&format!("later-{number}")), KEY).await;
            number += 1;
            if response.status == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(Duration::from_secs(10), probe).await;
    assert!(began.elapsed() > Duration::from_secs(1), "the breaker was open for 2 s");
    assert_eq!(receiver.deliver(&of_session("last"), KEY).await.status, 200, "one success closes it");
}

#[tokio::test]
async fn one_hot_session_does_not_keep_others_from_the_table() {
    let harness = Harness::start().await;
    let receiver = harness.receiving.receiver().await;
    harness.receiving.table.proxy.set(Fault::hot_key());
    assert_eq!(receiver.deliver(&of_session("hot"), KEY).await.status, 202);
    harness.receiving.table.proxy.clear();
    assert_eq!(receiver.deliver(&of_session("other"), KEY).await.outcome(), (200, "stored".to_owned()));
}

#[tokio::test]
async fn a_probe_of_a_hot_session_shows_that_the_table_is_available() {
    let harness = Harness::start().await;
    let receiver = harness.receiving.receiver().await;
    let table = &harness.receiving.table.proxy;
    table.set(Fault::access_denied());
    assert_eq!(receiver.deliver(&of_session("s"), KEY).await.status, 202);
    table.set(Fault::hot_key());
    let asked = table.requests();
    let probe = async {
        while table.requests() == asked {
            assert_eq!(receiver.deliver(&of_session("hot"), KEY).await.status, 202);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(Duration::from_secs(10), probe).await;
    table.clear();
    assert_eq!(receiver.deliver(&of_session("other"), KEY).await.outcome(), (200, "stored".to_owned()));
}

#[tokio::test]
async fn a_delivery_with_little_time_left_goes_to_the_queue_at_once() {
    let harness = Harness::start().await;
    let receiver = harness.receiving.receiver().await;
    let asked = harness.receiving.table.proxy.requests();
    let body = of_session("s");
    let event = http_api_event(&body, Some(&sign(&body, KEY)));
    let response = receiver.invoke_within(&event, Duration::from_millis(850)).await;
    assert_eq!((response.status, harness.receiving.table.proxy.requests()), (202, asked));
    assert_eq!(serde_json::to_value(harness.spilled()[0].reason).unwrap(), "timeout");
}

#[tokio::test]
async fn a_table_that_fails_at_the_start_is_not_asked_by_the_first_delivery() {
    let harness = Harness::start().await;
    harness.receiving.table.proxy.set(Fault::access_denied());
    let receiver = harness.receiving.receiver().await;
    let (asked, connections) = (harness.receiving.table.proxy.requests(), harness.sqs_proxy.connections());
    assert_eq!((asked, connections), (1, 1), "the warm-up write, and the connection to the queue");
    assert_eq!(receiver.deliver(&of_session("s"), KEY).await.status, 202);
    assert_eq!((harness.receiving.table.proxy.requests(), harness.sqs_proxy.connections()), (1, 1));
}

#[tokio::test]
async fn a_healthy_table_leaves_the_queue_alone() {
    let harness = Harness::start().await;
    let receiver = harness.receiving.receiver().await;
    let body = of_session("s");
    for outcome in ["stored", "duplicate"] {
        assert_eq!(receiver.deliver(&body, KEY).await.outcome(), (200, outcome.to_owned()));
    }
    assert_eq!((harness.sqs_proxy.connections(), harness.spilled().len()), (0, 0));
}

#[tokio::test]
async fn an_expired_event_needs_no_table_and_does_not_close_the_breaker() {
    let mut harness = Harness::start().await;
    harness.receiving = harness.receiving.with("RETENTION_DAYS", "1");
    let receiver = harness.receiving.receiver().await;
    let now = Timestamp::now().to_string();
    let fresh = |session: &str| event(&json!({"session_id": session, "timestamp": now}));
    harness.receiving.table.proxy.set(Fault::access_denied());
    assert_eq!(receiver.deliver(&fresh("first"), KEY).await.status, 202);
    let asked = harness.receiving.table.proxy.requests();
    let expired = event(&json!({"timestamp": "2026-01-15T09:57:33Z"}));
    assert_eq!(receiver.deliver(&expired, KEY).await.outcome(), (200, "expired".to_owned()));
    assert_eq!(receiver.deliver(&fresh("second"), KEY).await.status, 202, "the breaker is still open");
    assert_eq!((harness.receiving.table.proxy.requests(), harness.spilled().len()), (asked, 2));
}

#[tokio::test]
async fn environments_that_start_together_do_not_keep_each_other_from_the_table() {
    let harness = Harness::start().await;
    harness.receiving.table.proxy.set(Fault::hot_key());
    let receiver = harness.receiving.receiver().await;
    harness.receiving.table.proxy.clear();
    assert_eq!(receiver.deliver(&of_session("s"), KEY).await.outcome(), (200, "stored".to_owned()));
}
