//! A table that is throttled, slow, unreachable, or behind a connection that died.

use std::time::Duration;

use serde_json::json;
use tests::{
    delivery::{KEY, event, sign},
    gateway_event::http_api_event,
    proxy::{Fault, Stale},
    receive_harness::ReceiveHarness,
};

#[tokio::test]
async fn a_failing_table_means_a_503_in_time_and_a_retry_that_stores_the_event() {
    for (fault, reason) in [
        (Fault::throttled(), "the table is throttled: check its capacity mode and limits"),
        (Fault::aws_error("ResourceNotFoundException"), "check TABLE_NAME and AWS_REGION"),
        (Fault::access_denied(), "the function's role needs dynamodb:PutItem on the table"),
        (Fault::status(500), "did not take the event"),
        (Fault::status(400), "did not take the event"),
        (Fault::refuse(), "did not take the event"),
        (Fault::reset(), "did not take the event"),
        (Fault::hang(), "did not take the event: request has timed out"),
        (Fault::delay(Duration::from_secs(20)), "did not take the event: request has timed out"),
    ] {
        let harness = ReceiveHarness::new().await;
        let receiver = harness.receiver().await;
        harness.table.proxy.set(fault.clone());
        let body = event(&json!({}));
        let response = receiver.deliver(&body, KEY).await;
        assert_eq!(response.status, 503, "{fault:?}");
        assert_eq!(response.headers["retry-after"], "2");
        assert!(response.reason().contains(reason), "{fault:?}: {}", response.reason());
        let (outcome, level) = (&response.log["outcome"], &response.log["level"]);
        assert_eq!((outcome, level), (&json!("unavailable"), &json!("ERROR")), "{fault:?}");
        assert!(response.log["total_ms"].as_f64().unwrap() < 4_000.0, "{fault:?}: {}", response.log);
        assert!(response.log["store_ms"].as_f64().is_some(), "{fault:?}");

        // UNITH retries.
        harness.table.proxy.clear();
        assert_eq!(receiver.deliver(&body, KEY).await.outcome(), (200, "stored".into()), "{fault:?}");
        assert_eq!(harness.table.items().await.len(), 1, "{fault:?}");
    }
}

#[tokio::test]
async fn a_body_that_cannot_be_quarantined_is_not_accepted() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let conflicting = event(&json!({"public_org_id": "other"}));
    receiver.deliver(&event(&json!({})), KEY).await;
    harness.table.proxy.set(Fault::access_denied());
    for body in [b"no event".to_vec(), conflicting.clone()] {
        assert_eq!(receiver.deliver(&body, KEY).await.status, 503);
    }
    harness.table.proxy.clear();
    assert_eq!(receiver.deliver(b"no event", KEY).await.status, 202);
    assert_eq!(receiver.deliver(&conflicting, KEY).await.status, 200);
    assert_eq!(harness.table.items().await.len(), 3);
}

/// The SDK's own retry quota would be used up by then, and leave each delivery one attempt.
#[tokio::test]
async fn long_throttling_leaves_every_delivery_its_four_attempts() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    harness.table.proxy.set(Fault::throttled());
    for n in 0..60 {
        let before = harness.table.proxy.requests();
        let response = receiver.deliver(&event(&json!({"session_id": n.to_string()})), KEY).await;
        assert_eq!(response.status, 503);
        assert_eq!(harness.table.proxy.requests() - before, 4, "attempts of delivery {n}");
    }
}

#[tokio::test]
async fn short_throttling_costs_a_retry_and_not_the_event() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let before = harness.table.proxy.requests();
    harness.table.proxy.set(Fault::throttled().times(1));
    assert_eq!(receiver.deliver(&event(&json!({})), KEY).await.outcome(), (200, "stored".into()));
    assert_eq!(harness.table.proxy.requests(), before + 2, "the throttled write and its retry");
}

#[tokio::test]
async fn a_connection_that_died_while_frozen_costs_a_retry_and_not_the_event() {
    for how in [Stale::Closes, Stale::Swallows] {
        let harness = ReceiveHarness::new().await;
        let receiver = harness.receiver().await;
        receiver.deliver(&event(&json!({})), KEY).await;
        let before = harness.table.proxy.requests();
        harness.table.proxy.make_stale(how);
        let response = receiver.deliver(&event(&json!({"session_id": "after"})), KEY).await;
        assert_eq!(response.outcome(), (200, "stored".into()), "{how:?}");
        assert_eq!(harness.table.proxy.requests(), before + 2, "{how:?}: the lost write and its retry");
        assert_eq!(harness.table.items().await.len(), 2, "{how:?}");
    }
}

#[tokio::test]
async fn an_invocation_with_an_early_deadline_gets_an_early_response() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    harness.table.proxy.set(Fault::hang());
    let body = event(&json!({}));
    let request = http_api_event(&body, Some(&sign(&body, KEY)));
    let response = receiver.invoke_within(&request, Duration::from_secs(1)).await;
    assert_eq!((response.status, response.reason()), (503, "out of time while writing to the table"));
    assert!(response.log["total_ms"].as_f64().unwrap() < 1_000.0, "{}", response.log);
}

#[tokio::test]
async fn warm_up_connects_to_the_table_and_stores_nothing() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    assert_eq!(harness.table.proxy.requests(), 1, "the write of the warm-up");
    assert_eq!(harness.table.items().await.len(), 0);
    assert_eq!(receiver.deliver(&event(&json!({})), KEY).await.outcome(), (200, "stored".into()));
    assert_eq!((harness.table.proxy.requests(), harness.table.items().await.len()), (2, 1));
    assert_eq!(harness.table.proxy.connections(), 1, "the delivery uses the connection of the warm-up");
}

#[tokio::test]
async fn a_warm_up_that_fails_does_not_stop_the_receiver() {
    let harness = ReceiveHarness::new().await;
    harness.table.proxy.set(Fault::refuse());
    let receiver = harness.receiver().await;
    harness.table.proxy.clear();
    assert_eq!(receiver.deliver(&event(&json!({})), KEY).await.outcome(), (200, "stored".into()));
}
