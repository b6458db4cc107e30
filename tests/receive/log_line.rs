//! The one line a request leaves: what it tells an operator, and CloudWatch.

use serde_json::{Value, json};
use tests::{HEAD, KEY, ReceiveHarness, SESSION, event};

#[tokio::test]
async fn a_stored_event_leaves_a_complete_line() {
    let world = ReceiveHarness::new().await;
    let answer = world.receiver().await.deliver(&event(&json!({})), KEY).await;
    let record = answer.record;
    for (name, value) in [
        ("level", json!("INFO")),
        ("message", json!("delivery stored")),
        ("outcome", json!("stored")),
        ("event_id", json!("82b261c4eb653e535c0deda1ac8351d7")),
        ("head_id", json!(HEAD)),
        ("session_id", json!(SESSION)),
        ("event_type", json!("START_CONVERSATION")),
        ("key_state", json!("active")),
        ("Service", json!("receive")),
        ("Stored", json!(1)),
    ] {
        assert_eq!(record[name], value, "{name}");
    }
    for name in ["lag_ms", "store_ms", "total_ms", "StoreMilliseconds", "DeliveryLagMilliseconds"] {
        assert!(record[name].as_f64().is_some_and(|ms| ms > 0.0), "{name}: {record}");
    }
    assert!(record["request_id"].as_str().is_some_and(|id| id.starts_with("request-")));
}

#[tokio::test]
async fn the_metrics_block_declares_exactly_the_values_beside_it() {
    let world = ReceiveHarness::new().await.with("METRICS_NAMESPACE", "Mine");
    let receiver = world.receiver().await;
    for (answer, declared) in [
        (
            receiver.deliver(&event(&json!({})), KEY).await,
            vec!["Stored", "StoreMilliseconds", "DeliveryLagMilliseconds"],
        ),
        (
            receiver.deliver(&event(&json!({"public_org_id": "x"})), KEY).await,
            vec!["Duplicate", "Conflict", "StoreMilliseconds", "DeliveryLagMilliseconds"],
        ),
        (receiver.deliver(b"no event", KEY).await, vec!["Quarantined", "StoreMilliseconds"]),
        (receiver.deliver(b"forged", "wrong").await, vec!["Rejected", "KeyRefetch"]),
    ] {
        let directive = &answer.record["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(directive["Namespace"], "Mine");
        assert_eq!(directive["Dimensions"], json!([["Service"]]));
        assert!(answer.record["_aws"]["Timestamp"].as_i64().is_some_and(|ms| ms > 1_700_000_000_000));
        let metrics = directive["Metrics"].as_array().unwrap();
        let names: Vec<_> = metrics.iter().map(|metric| metric["Name"].as_str().unwrap()).collect();
        assert_eq!(names, declared, "{}", answer.record);
        for metric in metrics {
            let name = metric["Name"].as_str().unwrap();
            assert!(answer.record[name].is_number(), "{name} has no value");
            let unit = if name.ends_with("Milliseconds") { "Milliseconds" } else { "Count" };
            assert_eq!(metric["Unit"], unit, "{name}");
        }
    }
}

#[tokio::test]
async fn without_a_namespace_there_are_no_metrics() {
    let world = ReceiveHarness::new().await.with("METRICS_NAMESPACE", "");
    let record = world.receiver().await.deliver(&event(&json!({})), KEY).await.record;
    assert_eq!((record.get("_aws"), record.get("Stored")), (None::<&Value>, None));
    assert_eq!(record["outcome"], "stored");
}
