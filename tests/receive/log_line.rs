//! The log line of a request, for operators and for CloudWatch's metrics.

use serde_json::{Value, json};
use tests::{
    delivery::{KEY, event},
    log::VARYING,
    receive_harness::ReceiveHarness,
    snapshot::redacted,
};

#[tokio::test]
async fn a_stored_event_leaves_a_complete_line() {
    let harness = ReceiveHarness::new().await;
    let log = harness.receiver().await.deliver(&event(&json!({})), KEY).await.log;
    insta::assert_json_snapshot!(redacted(log.clone(), &VARYING));
    for name in ["lag_ms", "store_ms", "total_ms", "StoreMilliseconds", "DeliveryLagMilliseconds"] {
        assert!(log[name].as_f64().is_some_and(|ms| ms > 0.0), "{name}: {log}");
    }
    assert!(log["request_id"].as_str().is_some_and(|id| id.starts_with("request-")));
}

#[tokio::test]
async fn the_metrics_block_declares_exactly_the_values_beside_it() {
    let harness = ReceiveHarness::new().await.with("METRICS_NAMESPACE", "Mine");
    let receiver = harness.receiver().await;
    for (response, declared) in [
        (
            receiver.deliver(&event(&json!({})), KEY).await,
            vec!["Stored", "StoreMilliseconds", "DeliveryLagMilliseconds"],
        ),
        (
            receiver.deliver(&event(&json!({"public_org_id": "x"})), KEY).await,
            vec!["Duplicate", "Conflict", "StoreMilliseconds", "DeliveryLagMilliseconds"],
        ),
        (
            receiver.deliver(&event(&json!({"session_id": "self-test:1"})), KEY).await,
            vec!["StoreMilliseconds", "DeliveryLagMilliseconds"],
        ),
        (receiver.deliver(b"no event", KEY).await, vec!["Quarantined", "StoreMilliseconds"]),
        (receiver.deliver(b"no event", KEY).await, vec!["StoreMilliseconds"]),
        (receiver.deliver(b"forged", "wrong").await, vec!["Rejected", "KeyRefetch"]),
    ] {
        let directive = &response.log["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(directive["Namespace"], "Mine");
        assert_eq!(directive["Dimensions"], json!([["Service"]]));
        assert!(response.log["_aws"]["Timestamp"].as_i64().is_some_and(|ms| ms > 1_700_000_000_000));
        let metrics = directive["Metrics"].as_array().unwrap();
        let names: Vec<_> = metrics.iter().map(|metric| metric["Name"].as_str().unwrap()).collect();
        assert_eq!(names, declared, "{}", response.log);
        for metric in metrics {
            let name = metric["Name"].as_str().unwrap();
            assert!(response.log[name].is_number(), "{name} has no value");
            let unit = if name.ends_with("Milliseconds") { "Milliseconds" } else { "Count" };
            assert_eq!(metric["Unit"], unit, "{name}");
        }
    }
}

#[tokio::test]
async fn without_a_namespace_there_are_no_metrics() {
    let harness = ReceiveHarness::new().await.with("METRICS_NAMESPACE", "");
    let log = harness.receiver().await.deliver(&event(&json!({})), KEY).await.log;
    assert_eq!((log.get("_aws"), log.get("Stored")), (None::<&Value>, None));
    assert_eq!(log["outcome"], "stored");
}
