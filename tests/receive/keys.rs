//! Keys that come, go and cannot be had.

use serde_json::json;
use tests::{HEAD, KEY, ReceiveHarness, active, event, http_api_event, proxy::Fault, ring, sign};

const NEW_KEY: &str = "0f3c5d7e9a1b2c4d6e8f0a1b2c3d4e5f";

#[tokio::test]
async fn a_rotated_key_is_seen_without_a_restart() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    assert_eq!(receiver.deliver(&event(&json!({})), KEY).await.status, 200);
    let before = world.ring_fetches();

    world.set_ring(&ring(&[active(HEAD, NEW_KEY)])).await;
    let answer = receiver.deliver(&event(&json!({"session_id": "second"})), NEW_KEY).await;
    assert_eq!(answer.word(), (200, "stored".into()));
    assert_eq!(answer.record["KeyRefetch"], 1);
    assert_eq!(world.ring_fetches(), before + 1);

    let old = receiver.deliver(&event(&json!({"session_id": "third"})), KEY).await;
    assert_eq!((old.status, old.reason()), (401, "1 key tried, none matches"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_fetch_serves_all_who_wait_for_it() {
    let world = ReceiveHarness::new().await.with("KEY_CACHE_SECONDS", "1");
    let receiver = world.receiver().await;
    // Old enough to be fetched again.
    let fetched = tokio::time::Instant::now();
    while fetched.elapsed() < std::time::Duration::from_millis(1_100) {
        tokio::task::yield_now().await;
    }
    world.secrets_proxy.set(Fault::Delay(std::time::Duration::from_millis(300)));
    let before = world.ring_fetches();
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
    assert_eq!(world.ring_fetches(), before + 1);
}

#[tokio::test]
async fn mismatches_fetch_the_ring_at_most_every_ten_seconds() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    let before = world.ring_fetches();
    for _ in 0..20 {
        assert_eq!(receiver.deliver(&event(&json!({})), "wrong").await.status, 401);
    }
    assert_eq!(world.ring_fetches(), before + 1);
    // A header that cannot be a signature does not fetch anything.
    let fresh = world.receiver().await;
    let before = world.ring_fetches();
    assert_eq!(fresh.post(&event(&json!({})), Some("malformed")).await.status, 401);
    assert_eq!(fresh.post(&event(&json!({})), None).await.status, 401);
    assert_eq!(world.ring_fetches(), before);
}

#[tokio::test]
async fn the_ring_is_fetched_before_the_first_request_and_again_when_it_is_old() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    assert_eq!(world.ring_fetches(), 1);
    for n in 0..3 {
        receiver.deliver(&event(&json!({"session_id": n.to_string()})), KEY).await;
    }
    assert_eq!(world.ring_fetches(), 1);

    let world = world.with("KEY_CACHE_SECONDS", "0");
    let receiver = world.receiver().await;
    let before = world.ring_fetches();
    for n in 0..3 {
        assert_eq!(receiver.deliver(&event(&json!({"session_id": n.to_string()})), KEY).await.status, 200);
    }
    assert_eq!(world.ring_fetches(), before + 3);
}

/// The time for an answer may be over before a newer ring was read: then nobody knows whether the signature is wrong.
#[tokio::test]
async fn a_refresh_that_was_cut_off_does_not_make_signatures_wrong() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    world.set_ring(&ring(&[active(HEAD, NEW_KEY)])).await;
    world.secrets_proxy.set(Fault::Hang);
    let body = event(&json!({}));
    let request = http_api_event(&body, Some(&sign(&body, NEW_KEY)));
    let cut_off = receiver.invoke_within(&request, std::time::Duration::from_millis(700)).await;
    assert_eq!((cut_off.status, cut_off.reason()), (503, "out of time while reading the key ring"));
    world.secrets_proxy.set(Fault::None);
    let next = receiver.deliver(&body, NEW_KEY).await;
    assert!(next.status == 503 || next.status == 200, "{}", next.record);
}

/// A head may have got the key that was another head's, or one that is unbound.
#[tokio::test]
async fn another_heads_key_refreshes_the_ring() {
    let world = ReceiveHarness::without_ring().await;
    world.set_ring(&ring(&[active("another-head", KEY)])).await;
    let receiver = world.receiver().await;
    let refused = receiver.deliver(&event(&json!({"session_id": "first"})), KEY).await;
    assert_eq!((refused.status, &refused.record["KeyRefetch"]), (401, &json!(1)));

    let receiver = world.receiver().await;
    world.set_ring(&ring(&[active(HEAD, KEY)])).await;
    let stored = receiver.deliver(&event(&json!({})), KEY).await;
    assert_eq!((stored.word(), &stored.record["KeyRefetch"]), ((200, "stored".into()), &json!(1)));
}

#[tokio::test]
async fn an_entry_that_names_its_head_otherwise_is_good_for_none() {
    let world = ReceiveHarness::without_ring().await;
    for member in ["headId", "head", "HEAD_ID"] {
        let bound = json!({member: "another-head", "key": KEY, "state": "active"});
        world.set_ring(&ring(&[bound, active("another-head", NEW_KEY)])).await;
        assert_eq!(world.receiver().await.deliver(&event(&json!({})), KEY).await.status, 401, "{member}");
    }
}

#[tokio::test]
async fn a_ring_may_be_binary_and_must_be_text() {
    let world = ReceiveHarness::without_ring().await;
    let client = sandbox::secrets_client(world.secrets.url()).unwrap();
    let put = async |bytes: &[u8]| {
        let blob = aws_sdk_secretsmanager::primitives::Blob::new(bytes);
        let put = client.put_secret_value().secret_id(tests::RING_SECRET).secret_binary(blob.clone()).send().await;
        if put.is_err() {
            client.create_secret().name(tests::RING_SECRET).secret_binary(blob).send().await.unwrap();
        }
    };
    put(format!("\u{feff} {}\n", ring(&[active(HEAD, KEY)])).as_bytes()).await;
    assert_eq!(world.receiver().await.deliver(&event(&json!({})), KEY).await.status, 200);
    put(&[0xff, 0xfe]).await;
    let answer = world.receiver().await.deliver(&event(&json!({})), KEY).await;
    let reason = "the key ring `ring` could not be read: it holds neither a string nor binary that is UTF-8";
    assert_eq!((answer.status, answer.reason()), (503, reason));
}

#[tokio::test]
async fn secrets_manager_down_at_the_start_does_not_stop_it_and_is_got_over() {
    let world = ReceiveHarness::new().await;
    world.secrets_proxy.set(Fault::Refuse);
    let receiver = world.receiver().await;
    let body = event(&json!({}));
    let down = receiver.deliver(&body, KEY).await;
    assert_eq!(down.status, 503);
    assert!(down.reason().starts_with("the key ring `ring` could not be read"), "{}", down.reason());

    world.secrets_proxy.set(Fault::None);
    assert_eq!(receiver.deliver(&body, KEY).await.word(), (200, "stored".into()));
}

#[tokio::test]
async fn secrets_manager_down_later_leaves_the_ring_in_use() {
    let world = ReceiveHarness::new().await.with("KEY_CACHE_SECONDS", "0");
    let receiver = world.receiver().await;
    let down = r#"{"__type":"InternalServiceError","message":"down"}"#.to_owned();
    for fault in [Fault::Refuse, Fault::Answer(500, down), Fault::Hang] {
        world.secrets_proxy.set(fault.clone());
        for n in 0..3 {
            let body = event(&json!({"session_id": format!("{n}")}));
            assert_eq!(receiver.deliver(&body, KEY).await.status, 200, "{fault:?}");
        }
    }
    // What cannot be verified is not let in meanwhile; whether a newer ring has its key, nobody can say.
    for _ in 0..2 {
        let unknown = receiver.deliver(&event(&json!({})), "wrong").await;
        assert_eq!((unknown.status, &unknown.record["outcome"]), (503, &json!("unavailable")));
    }
}

#[tokio::test]
async fn a_secret_that_became_nonsense_leaves_the_ring_in_use() {
    let world = ReceiveHarness::new().await.with("KEY_CACHE_SECONDS", "0");
    let receiver = world.receiver().await;
    world.set_ring("{\"oops\": 1}").await;
    assert_eq!(receiver.deliver(&event(&json!({})), KEY).await.status, 200);
}

#[tokio::test]
async fn a_hanging_secrets_manager_leaves_time_for_the_answer() {
    let world = ReceiveHarness::new().await;
    world.secrets_proxy.set(Fault::Hang);
    let receiver = world.receiver().await;
    let answer = receiver.deliver(&event(&json!({})), KEY).await;
    assert_eq!((answer.status, answer.reason()), (503, "the key ring `ring` could not be read within 1500 ms"));
    assert!(answer.record["total_ms"].as_f64().unwrap() < 4_000.0, "{}", answer.record);
}

#[tokio::test]
async fn a_retiring_key_still_verifies_and_is_counted() {
    let world = ReceiveHarness::without_ring().await;
    let mut retiring = active(HEAD, KEY);
    retiring["state"] = "retiring".into();
    retiring["until"] = "2999-01-01T00:00:00Z".into();
    world.set_ring(&ring(&[active(HEAD, NEW_KEY), retiring])).await;
    let receiver = world.receiver().await;
    let old = receiver.deliver(&event(&json!({})), KEY).await;
    assert_eq!(old.status, 200);
    assert_eq!((&old.record["key_state"], &old.record["RetiringKeyUsed"]), (&json!("retiring"), &json!(1)));
    let new = receiver.deliver(&event(&json!({"session_id": "s"})), NEW_KEY).await;
    assert_eq!((&new.record["key_state"], new.record.get("RetiringKeyUsed")), (&json!("active"), None));
}

#[tokio::test]
async fn keys_may_come_from_the_environment_and_in_every_form_of_the_secret() {
    let body = event(&json!({}));
    let fixed = ReceiveHarness::without_ring().await.with("UNITH_KEYS_SECRET", "").with("UNITH_SHARED_KEY", KEY);
    assert_eq!(fixed.receiver().await.deliver(&body, KEY).await.status, 200);
    assert_eq!(fixed.receiver().await.deliver(&body, "wrong").await.status, 401);
    assert_eq!(fixed.ring_fetches(), 0);

    for secret in [format!("{KEY}\n"), json!({"sharedKey": KEY}).to_string()] {
        let world = ReceiveHarness::without_ring().await;
        world.set_ring(&secret).await;
        assert_eq!(world.receiver().await.deliver(&body, KEY).await.status, 200, "{secret}");
    }
}
