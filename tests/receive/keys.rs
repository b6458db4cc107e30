//! Keys that are rotated, retired or unavailable.

use std::time::Duration;

use serde_json::json;
use tests::{
    delivery::{HEAD, KEY, event, sign},
    gateway_event::http_api_event,
    key_ring::{RING_SECRET, active, ring},
    proxy::Fault,
    receive_harness::ReceiveHarness,
    wait::{PATIENCE, until, within},
};

const NEW_KEY: &str = "0f3c5d7e9a1b2c4d6e8f0a1b2c3d4e5f";

#[tokio::test]
async fn a_rotated_key_is_used_without_a_restart() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    assert_eq!(receiver.deliver(&event(&json!({})), KEY).await.status, 200);
    let before = harness.ring_fetches();

    harness.set_ring(&ring(&[active(HEAD, NEW_KEY)])).await;
    let response = receiver.deliver(&event(&json!({"session_id": "second"})), NEW_KEY).await;
    assert_eq!(response.outcome(), (200, "stored".into()));
    assert_eq!(response.log["KeyRefetch"], 1);
    assert_eq!(harness.ring_fetches(), before + 1);

    let old = receiver.deliver(&event(&json!({"session_id": "third"})), KEY).await;
    assert_eq!((old.status, old.reason()), (401, "1 key tried, none matches"));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_deliveries_share_one_fetch_of_the_ring() {
    // Every delivery finds a ring that is too old.
    let harness = ReceiveHarness::new().await.with("KEY_CACHE_SECONDS", "0");
    let receiver = harness.receiver().await;
    harness.secrets_proxy.set(Fault::delay(Duration::from_millis(300)));
    let before = harness.ring_fetches();
    let deliveries: Vec<_> = (0..8)
        .map(|n| {
            let receiver = receiver.clone();
            tokio::spawn(
                async move { receiver.deliver(&event(&json!({"session_id": n.to_string()})), KEY).await.status },
            )
        })
        .collect();
    for delivery in deliveries {
        assert_eq!(delivery.await.unwrap(), 200);
    }
    assert_eq!(harness.ring_fetches(), before + 1);
}

#[tokio::test]
async fn wrong_signatures_fetch_the_ring_at_most_every_ten_seconds() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    let before = harness.ring_fetches();
    for _ in 0..20 {
        assert_eq!(receiver.deliver(&event(&json!({})), "wrong").await.status, 401);
    }
    assert_eq!(harness.ring_fetches(), before + 1);
    // A malformed header fetches nothing.
    let fresh = harness.receiver().await;
    let before = harness.ring_fetches();
    assert_eq!(fresh.post(&event(&json!({})), Some("malformed")).await.status, 401);
    assert_eq!(fresh.post(&event(&json!({})), None).await.status, 401);
    assert_eq!(harness.ring_fetches(), before);
}

#[tokio::test]
async fn the_ring_is_fetched_at_start_and_again_when_it_is_too_old() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    assert_eq!(harness.ring_fetches(), 1);
    for n in 0..3 {
        receiver.deliver(&event(&json!({"session_id": n.to_string()})), KEY).await;
    }
    assert_eq!(harness.ring_fetches(), 1);

    let harness = harness.with("KEY_CACHE_SECONDS", "1");
    let receiver = harness.receiver().await;
    let before = harness.ring_fetches();
    let is_fetched_again = async || {
        assert_eq!(receiver.deliver(&event(&json!({})), KEY).await.status, 200);
        harness.ring_fetches() > before
    };
    within(PATIENCE, until(is_fetched_again)).await;

    let harness = harness.with("KEY_CACHE_SECONDS", "0");
    let receiver = harness.receiver().await;
    let before = harness.ring_fetches();
    for n in 0..3 {
        assert_eq!(receiver.deliver(&event(&json!({"session_id": n.to_string()})), KEY).await.status, 200);
    }
    assert_eq!(harness.ring_fetches(), before + 3);
}

/// Without a newer ring, nobody knows whether the signature is wrong.
#[tokio::test]
async fn a_refresh_that_ran_out_of_time_is_unavailable_and_not_a_wrong_signature() {
    let harness = ReceiveHarness::new().await;
    let receiver = harness.receiver().await;
    harness.set_ring(&ring(&[active(HEAD, NEW_KEY)])).await;
    harness.secrets_proxy.set(Fault::hang());
    let body = event(&json!({}));
    let request = http_api_event(&body, Some(&sign(&body, NEW_KEY)));
    let cut_off = receiver.invoke_within(&request, Duration::from_millis(700)).await;
    assert_eq!((cut_off.status, cut_off.reason()), (503, "out of time while reading the key ring"));
    harness.secrets_proxy.clear();
    let next = receiver.deliver(&body, NEW_KEY).await;
    assert!(next.status == 503 || next.status == 200, "{}", next.log);
}

/// A key may have moved from one head to another.
#[tokio::test]
async fn a_key_of_another_head_refreshes_the_ring() {
    let harness = ReceiveHarness::without_ring().await;
    harness.set_ring(&ring(&[active("another-head", KEY)])).await;
    let receiver = harness.receiver().await;
    let refused = receiver.deliver(&event(&json!({"session_id": "first"})), KEY).await;
    assert_eq!((refused.status, &refused.log["KeyRefetch"]), (401, &json!(1)));

    let receiver = harness.receiver().await;
    harness.set_ring(&ring(&[active(HEAD, KEY)])).await;
    let stored = receiver.deliver(&event(&json!({})), KEY).await;
    assert_eq!((stored.outcome(), &stored.log["KeyRefetch"]), ((200, "stored".into()), &json!(1)));
}

#[tokio::test]
async fn a_ring_entry_with_a_misspelled_head_id_verifies_nothing() {
    let harness = ReceiveHarness::without_ring().await;
    for member in ["headId", "head", "HEAD_ID"] {
        let bound = json!({member: "another-head", "key": KEY, "state": "active"});
        harness.set_ring(&ring(&[bound, active("another-head", NEW_KEY)])).await;
        assert_eq!(harness.receiver().await.deliver(&event(&json!({})), KEY).await.status, 401, "{member}");
    }
}

#[tokio::test]
async fn a_ring_may_be_a_binary_secret_and_must_be_utf_8() {
    let harness = ReceiveHarness::without_ring().await;
    let client = sandbox::clients::secrets_client(harness.secrets.url()).unwrap();
    let put = async |bytes: &[u8]| {
        let blob = aws_sdk_secretsmanager::primitives::Blob::new(bytes);
        let put = client.put_secret_value().secret_id(RING_SECRET).secret_binary(blob.clone()).send().await;
        if put.is_err() {
            client.create_secret().name(RING_SECRET).secret_binary(blob).send().await.unwrap();
        }
    };
    put(format!("\u{feff} {}\n", ring(&[active(HEAD, KEY)])).as_bytes()).await;
    assert_eq!(harness.receiver().await.deliver(&event(&json!({})), KEY).await.status, 200);
    put(&[0xff, 0xfe]).await;
    let response = harness.receiver().await.deliver(&event(&json!({})), KEY).await;
    let reason = "the key ring `ring` could not be read: it holds neither a string nor UTF-8 binary";
    assert_eq!((response.status, response.reason()), (503, reason));
}

#[tokio::test]
async fn a_receiver_recovers_when_secrets_manager_was_down_at_start() {
    let harness = ReceiveHarness::new().await;
    harness.secrets_proxy.set(Fault::refuse());
    let receiver = harness.receiver().await;
    let body = event(&json!({}));
    let down = receiver.deliver(&body, KEY).await;
    assert_eq!(down.status, 503);
    assert!(down.reason().starts_with("the key ring `ring` could not be read"), "{}", down.reason());

    harness.secrets_proxy.clear();
    assert_eq!(receiver.deliver(&body, KEY).await.outcome(), (200, "stored".into()));
}

#[tokio::test]
async fn the_last_ring_is_used_while_secrets_manager_is_down() {
    let harness = ReceiveHarness::new().await.with("KEY_CACHE_SECONDS", "0");
    let receiver = harness.receiver().await;
    let down = Fault::aws_error("InternalServiceError").with_status(500);
    for fault in [Fault::refuse(), down, Fault::hang()] {
        harness.secrets_proxy.set(fault.clone());
        for n in 0..3 {
            let body = event(&json!({"session_id": format!("{n}")}));
            assert_eq!(receiver.deliver(&body, KEY).await.status, 200, "{fault:?}");
        }
    }
    // A newer ring may hold the key of an unknown signature, so it is neither accepted nor rejected.
    for _ in 0..2 {
        let unknown = receiver.deliver(&event(&json!({})), "wrong").await;
        assert_eq!((unknown.status, &unknown.log["outcome"]), (503, &json!("unavailable")));
    }
}

#[tokio::test]
async fn the_last_ring_is_used_while_the_secret_is_invalid() {
    let harness = ReceiveHarness::new().await.with("KEY_CACHE_SECONDS", "0");
    let receiver = harness.receiver().await;
    harness.set_ring("{\"oops\": 1}").await;
    assert_eq!(receiver.deliver(&event(&json!({})), KEY).await.status, 200);
}

#[tokio::test]
async fn a_hanging_secrets_manager_means_a_503_in_time() {
    let harness = ReceiveHarness::new().await;
    harness.secrets_proxy.set(Fault::hang());
    let receiver = harness.receiver().await;
    let response = receiver.deliver(&event(&json!({})), KEY).await;
    assert_eq!((response.status, response.reason()), (503, "the key ring `ring` could not be read within 1500 ms"));
    assert!(response.log["total_ms"].as_f64().unwrap() < 4_000.0, "{}", response.log);
}

#[tokio::test]
async fn a_retiring_key_verifies_and_is_counted() {
    let harness = ReceiveHarness::without_ring().await;
    let mut retiring = active(HEAD, KEY);
    retiring["state"] = "retiring".into();
    retiring["until"] = "2999-01-01T00:00:00Z".into();
    harness.set_ring(&ring(&[active(HEAD, NEW_KEY), retiring])).await;
    let receiver = harness.receiver().await;
    let old = receiver.deliver(&event(&json!({})), KEY).await;
    assert_eq!(old.status, 200);
    assert_eq!((&old.log["key_state"], &old.log["RetiringKeyUsed"]), (&json!("retiring"), &json!(1)));
    let new = receiver.deliver(&event(&json!({"session_id": "s"})), NEW_KEY).await;
    assert_eq!((&new.log["key_state"], new.log.get("RetiringKeyUsed")), (&json!("active"), None));
}

#[tokio::test]
async fn keys_come_from_the_environment_or_from_any_form_of_the_secret() {
    let body = event(&json!({}));
    let fixed = ReceiveHarness::without_ring().await.with("UNITH_KEYS_SECRET", "").with("UNITH_SHARED_KEY", KEY);
    assert_eq!(fixed.receiver().await.deliver(&body, KEY).await.status, 200);
    assert_eq!(fixed.receiver().await.deliver(&body, "wrong").await.status, 401);
    assert_eq!(fixed.ring_fetches(), 0);

    for secret in [format!("{KEY}\n"), json!({"sharedKey": KEY}).to_string()] {
        let harness = ReceiveHarness::without_ring().await;
        harness.set_ring(&secret).await;
        assert_eq!(harness.receiver().await.deliver(&body, KEY).await.status, 200, "{secret}");
    }
}
