//! What is not believed, not followed, not repeated and not registered.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::any};
use sandbox::{
    platform::{HEAD_ID, Settings, Subscriptions},
    server::{ServerHandle, listen},
};
use serde_json::{Value, json};
use tests::{
    RING_SECRET,
    unith::{MORE_HEADS, ProvisionHarness, QUICK, URL},
};

fn always(call: &str, how: &Value) -> Value {
    json!({"failing": [{"call": call, "how": how, "times": 1_000_000}]})
}

/// Somebody else's server, which counts who comes.
async fn elsewhere() -> (ServerHandle, Arc<std::sync::atomic::AtomicUsize>) {
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let router = Router::new()
        .fallback(any(|State(count): State<Arc<std::sync::atomic::AtomicUsize>>| async move {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            (StatusCode::OK, r#"{"data":{"bearer":"stolen"}}"#)
        }))
        .with_state(Arc::clone(&count));
    (ServerHandle::router(listen("elsewhere", 0).await.unwrap(), router).unwrap(), count)
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (served, count) = elsewhere().await;
    for (call, status) in [
        ("POST /auth/token", 307),
        ("GET /head-events", 302),
        ("POST /head-events", 308),
        ("PUT /head/{head_id}/enable-events", 301),
        ("DELETE /head-events/{id}", 303),
    ] {
        let world = ProvisionHarness::start().await;
        if call.starts_with("DELETE") {
            world.command("apply").await;
        }
        world.faults(always(call, &json!({"redirect": [status, served.url()]})));
        let action = if call.starts_with("DELETE") { "remove" } else { "apply" };
        let result = world.command(action).await;
        let error = result["heads"][0]["error"].as_str().unwrap_or_default();
        assert!(result["ok"] == false && error.contains("a redirect, which is not followed"), "{call}: {result}");
    }
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 0, "nobody came by");
}

#[tokio::test]
async fn a_platform_that_finds_nothing_is_not_believed_to_have_removed_anything() {
    for call in ["*", "POST /auth/token"] {
        let world = ProvisionHarness::start().await;
        world.cloudformation("create", &json!({})).await;
        let keys = |ring: &str| serde_json::from_str::<Value>(ring).unwrap()["keys"].clone();
        let before = keys(&world.ring_text().await);
        world.faults(always(call, &json!({"status": [404, null]})));
        assert_eq!(world.command("remove").await["ok"], false, "{call}");
        let deleted = world.cloudformation_within("delete", &json!({}), Duration::from_secs(12)).await;
        assert!(
            deleted["Status"] == "FAILED" && deleted["Reason"].as_str().unwrap().contains("404"),
            "{call}: {deleted}"
        );
        assert_eq!((world.platform.webhooks().len(), keys(&world.ring_text().await)), (1, before), "{call}");
    }
    // Where the account answers and the head does not, the head is gone.
    let world = ProvisionHarness::start().await;
    world.command("apply").await;
    world.faults(always("GET /head-events", &json!({"status": [404, null]})));
    assert_eq!(world.command("remove").await["ok"], true);
    assert!(world.ring().await.keys().is_empty());
}

#[tokio::test]
async fn a_maintenance_page_is_no_deletion() {
    let world = ProvisionHarness::start().await;
    world.command("apply").await;
    let ring = world.ring_text().await;
    world.faults(always("DELETE /head-events/{id}", &json!("html")));
    let removed = world.command("remove").await;
    let error = removed["heads"][0]["error"].as_str().unwrap();
    assert!(error.contains("UNITH accepted this without doing it: delete webhook 1"), "{removed}");
    assert!(world.platform.webhooks().len() == 1 && world.ring().await.keys().len() == 1, "{ring}");
    let deleted = world.cloudformation("delete", &json!({})).await;
    assert_eq!(deleted["Status"], "FAILED", "{deleted}");
}

#[tokio::test]
async fn a_switch_that_is_ignored_is_not_believed() {
    let world = ProvisionHarness::start().await;
    world.faults(always("PUT /head/{head_id}/enable-events", &json!("html")));
    let result = world.command("apply").await;
    let error = result["heads"][0]["error"].as_str().unwrap();
    assert!(error.contains("without doing it: switch the head's events on"), "{result}");
    assert!(world.platform.webhooks().is_empty(), "it would never deliver");
    world.faults(json!({}));
    assert_eq!(world.command("apply").await["ok"], true);
    world.faults(always("PUT /head/{head_id}/enable-events", &json!("html")));
    assert_eq!(world.command("disable").await["ok"], false);
}

#[tokio::test]
async fn a_list_that_was_not_filtered_costs_no_other_head_its_webhook() {
    let world = ProvisionHarness::start().await.with("HEAD_IDS", format!("{HEAD_ID},{}", MORE_HEADS[0]));
    world.faults(json!({"unfiltered_list": true}));
    assert_eq!(world.command("apply").await["ok"], true);
    for head in [HEAD_ID, MORE_HEADS[0]] {
        world.assert_provisioned(head).await;
    }
    let world = world.with("HEAD_IDS", HEAD_ID);
    assert_eq!(world.invoke(json!({"action": "remove", "head_ids": [HEAD_ID]})).await.unwrap()["ok"], true);
    let left = world.platform.webhooks();
    assert_eq!((left.len(), left[0].head_id.as_str()), (1, MORE_HEADS[0]));
}

#[tokio::test]
async fn an_answer_without_end_ends_the_call_and_not_the_function() {
    for call in ["POST /auth/token", "GET /head-events", "GET /head/{head_id}/enable-events"] {
        let world = ProvisionHarness::start().await;
        world.faults(always(call, &json!("endless")));
        let answer = world.cloudformation_within("create", &json!({}), Duration::from_secs(20)).await;
        assert!(answer["Reason"].as_str().unwrap().contains("it is longer than 1 MiB"), "{call}: {answer}");
    }
}

#[tokio::test]
async fn no_message_repeats_a_key_or_a_token() {
    let world = ProvisionHarness::start().await;
    world.command("apply").await;
    let known = world.platform.webhooks()[0].shared_key.clone();
    let new = "deadbeef0123456789abcdef01234567";
    for (action, call) in
        [("rotate", "POST /head-events"), ("remove", "DELETE /head-events/{id}"), ("status", "GET /head-events")]
    {
        let says = format!("webhook with key {known} and {new}: {}", json!({"sharedKey": known}));
        world
            .faults(json!({"failing": [{"call": call, "how": {"status": [403, null]}, "says": says, "times": 1_000}]}));
        let result = world.command(action).await.to_string();
        assert!(result.contains("[redacted]") && !result.contains(&known) && !result.contains(new), "{result}");
        let logged = world.last_line().to_string();
        assert!(!logged.contains(&known) && !logged.contains(new), "{logged}");
        let answer = world.cloudformation("update", &json!({"EndConversation": "false"})).await.to_string();
        assert!(!answer.contains(&known) && !answer.contains(new), "{answer}");
    }
}

#[tokio::test]
async fn a_request_registers_no_other_url_and_no_other_head() {
    let world = ProvisionHarness::start().await;
    for (changes, reason) in [
        (
            json!({"WebhookUrl": "https://evil.example.com/x"}),
            "this function registers the URL of its WEBHOOK_URL only",
        ),
        (json!({"HeadIds": [MORE_HEADS[0]]}), "looks after the heads of its HEAD_IDS only"),
        (json!({"HeadIds": "*"}), "looks after the heads of its HEAD_IDS only"),
    ] {
        for kind in ["create", "update"] {
            let answer = world.cloudformation(kind, &changes).await;
            assert!(answer["Status"] == "FAILED" && answer["Reason"].as_str().unwrap().contains(reason), "{answer}");
        }
    }
    for action in ["apply", "enable", "disable", "rotate", "self-test"] {
        let error = world.invoke(json!({"action": action, "head_ids": [MORE_HEADS[0]]})).await.unwrap_err().to_string();
        assert!(error.contains("looks after the heads of its HEAD_IDS only"), "{action}: {error}");
    }
    assert!(world.platform.webhooks().is_empty());

    // Nor does one remove what nobody wrote into the ring.
    world.platform.register_in_console(MORE_HEADS[0], URL, Subscriptions::ALL);
    world.platform.register_in_console(HEAD_ID, "https://evil.example.com/x", Subscriptions::ALL);
    assert_eq!(world.cloudformation("delete", &json!({"HeadIds": [MORE_HEADS[0]]})).await["Status"], "SUCCESS");
    assert_eq!(
        world.cloudformation("delete", &json!({"WebhookUrl": "https://evil.example.com/x"})).await["Status"],
        "SUCCESS"
    );
    world.invoke(json!({"action": "remove", "head_ids": [MORE_HEADS[0]]})).await.unwrap();
    assert_eq!(world.platform.webhooks().len(), 2);
}

#[tokio::test]
async fn ids_keep_their_spelling_and_converge() {
    let world = ProvisionHarness::start().await;
    world.faults(json!({"string_ids": true}));
    assert_eq!(world.command("apply").await["ok"], true);
    let ring: Value = serde_json::from_str(&world.ring_text().await).unwrap();
    assert_eq!(ring["keys"][0]["webhook_id"], "000001");
    assert_eq!(world.command("apply").await["heads"][0]["done"], json!([]));
    assert_eq!(world.command("rotate").await["ok"], true);
    assert_eq!(world.command("remove").await["ok"], true);
    assert!(world.platform.webhooks().is_empty());
}

#[tokio::test]
async fn a_binary_ring_is_read_and_what_is_not_text_is_left_alone() {
    let world = ProvisionHarness::start().await;
    let client = sandbox::secrets_client(world.secrets.url()).unwrap();
    let put = async |bytes: &[u8]| {
        let blob = aws_sdk_secretsmanager::primitives::Blob::new(bytes);
        client.put_secret_value().secret_id(RING_SECRET).secret_binary(blob).send().await.unwrap();
    };
    put(format!("\u{feff}{}\n", tests::ring(&[json!({"key": "a-key-put-in-by-hand"})])).as_bytes()).await;
    assert_eq!(world.command("apply").await["ok"], true);
    assert_eq!(world.ring().await.keys().len(), 2, "{}", world.ring_text().await);

    put(&[0xff, 0xfe]).await;
    let calls = world.platform.calls("POST /head-events");
    let result = world.command("rotate").await;
    assert!(
        result["heads"][0]["error"].as_str().unwrap().contains("neither a string nor binary that is UTF-8"),
        "{result}"
    );
    assert_eq!(world.platform.calls("POST /head-events"), calls);
}

#[tokio::test]
async fn credentials_may_have_been_copied_with_what_stands_around_them() {
    for credentials in [
        "\u{feff}{\"email\": \"sandbox@example.com\\n\", \"secretKey\": \" sandbox-secret-key\\r\\n\"}\n",
        "{\"email\":\"sandbox@example.com\",\"secretKey\":\"sandbox-secret-key\",\"note\":\"\\ud83d\"}",
    ] {
        let world = ProvisionHarness::start().await;
        world.set_secret("credentials", credentials).await;
        assert_eq!(world.command("apply").await["ok"], true, "{credentials}");
    }
    let world = ProvisionHarness::start().await;
    world.set_secret("credentials", "sandbox-secret-key").await;
    let error = world.invoke(json!({"action": "apply"})).await.unwrap_err().to_string();
    assert!(error.contains(r#"expected {"email":"…","secretKey":"…"}"#), "{error}");
}

/// Somebody saves the ring in the console between our reading and our writing.
#[tokio::test]
async fn an_edit_in_the_console_during_a_run_is_kept() {
    let world = Arc::new(ProvisionHarness::start().await);
    world.secrets_proxy.set(tests::proxy::Fault::Delay(Duration::from_millis(150)));
    let before = world.secrets.calls("GetSecretValue");
    let running = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.command("apply").await }
    });
    // Credentials, two looks, and the reading before the write.
    while world.secrets.calls("GetSecretValue") < before + 4 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let edit = json!({"key": "a-key-put-in-by-hand", "note": "meanwhile"});
    world.set_secret(RING_SECRET, &tests::ring(&[edit])).await;
    let result = running.await.unwrap();
    assert_eq!(result["ok"], true, "{result}");
    let ring = world.ring_text().await;
    assert!(ring.contains("meanwhile") && world.ring().await.keys().len() == 2, "{ring}");
}

#[tokio::test]
async fn a_registration_that_is_not_listed_is_made_once() {
    let world = ProvisionHarness::start().await;
    world.faults(json!({"unlisted_for_ms": u64::MAX}));
    let first = world.command("apply").await;
    assert!(first["heads"][0]["error"].as_str().unwrap().contains("does not list it; its key is stored"), "{first}");
    assert!(!world.platform.events_enabled(HEAD_ID), "there is nothing to deliver to");
    for _ in 0..2 {
        let again = world.command("apply").await;
        assert!(
            again["heads"][0]["error"].as_str().unwrap().contains("no other webhook is registered for 24 h"),
            "{again}"
        );
    }
    assert_eq!(world.platform.calls("POST /head-events"), 1);
    let ring: Value = serde_json::from_str(&world.ring_text().await).unwrap();
    assert!(ring["keys"][0]["webhook_id"].is_null() && ring["keys"].as_array().unwrap().len() == 1, "{ring}");

    // When it is listed in the end, it is the one.
    for masked in [true, false] {
        world.faults(json!({"masked_keys": masked}));
        assert_eq!(world.command("apply").await["ok"], true);
        world.assert_provisioned(HEAD_ID).await;
        world.assert_never_early(&[]);
    }
    assert_eq!(world.platform.calls("POST /head-events"), 1);
}

/// What becomes of a run while its webhook is being registered.
async fn meanwhile(happens: impl FnOnce(&ProvisionHarness)) -> (Arc<ProvisionHarness>, Value) {
    let world = Arc::new(ProvisionHarness::start().await);
    world.faults(json!({"latency_ms": 60}));
    let running = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.command("apply").await }
    });
    while world.platform.calls("POST /head-events") == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    happens(&world);
    let result = running.await.unwrap();
    world.faults(json!({}));
    (world, result)
}

#[tokio::test]
async fn a_switch_that_is_used_meanwhile_costs_the_registration_and_not_its_events() {
    let (world, result) = meanwhile(|world| world.platform.enable_in_console(HEAD_ID, false)).await;
    let error = result["heads"][0]["error"].as_str().unwrap();
    assert!(error.contains("somebody switched the head's events off"), "{result}");
    assert!(world.platform.webhooks().is_empty());
    assert_eq!(world.command("apply").await["ok"], true);
    world.assert_provisioned(HEAD_ID).await;
}

#[tokio::test]
async fn a_registration_whose_list_fails_is_found_by_the_next_run() {
    let failing = always("GET /head-events", &json!({"status": [422, null]}));
    let (world, result) = meanwhile(|world| world.faults(failing)).await;
    assert!(result["heads"][0]["notes"].to_string().contains("it was not found: GET /head-events"), "{result}");
    assert_eq!(world.command("apply").await["ok"], true);
    world.assert_provisioned(HEAD_ID).await;
    assert_eq!(world.platform.calls("POST /head-events"), 1);
}

#[tokio::test]
async fn a_list_that_is_late_is_waited_for() {
    let world = ProvisionHarness::start().await;
    world.faults(json!({"unlisted_for_ms": 300}));
    assert_eq!(world.command("apply").await["ok"], true);
    assert_eq!(world.platform.calls("POST /head-events"), 1);
    world.assert_provisioned(HEAD_ID).await;
}

#[tokio::test]
async fn a_date_to_retry_after_is_waited_for() {
    let world = ProvisionHarness::start().await;
    let date = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(3));
    world.faults(json!({"failing": [{"call": "GET /head-events", "how": {"status": [429, null]}, "retry_after": date, "times": 1}]}));
    let started = std::time::Instant::now();
    assert_eq!(world.command("apply").await["ok"], true);
    // Dates have whole seconds.
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
}

/// A hundred versions, none of them a day old: what UNITH has of ours must still be removed.
#[tokio::test]
async fn a_ring_that_cannot_be_written_any_more_stops_no_deletion() {
    let world = ProvisionHarness::start().await;
    world.cloudformation("create", &json!({})).await;
    let ring = world.ring_text().await;
    let client = sandbox::secrets_client(world.secrets.url()).unwrap();
    for n in 0..110 {
        let text = format!("{ring}{}", " ".repeat(n));
        if client.put_secret_value().secret_id(RING_SECRET).secret_string(text).send().await.is_err() {
            break;
        }
    }
    let rotated = world.command("rotate").await;
    let error = rotated["heads"][0]["error"].as_str().unwrap();
    assert!(error.contains("keeps 100 versions") && error.contains("run this again later"), "{rotated}");
    world.assert_provisioned(HEAD_ID).await;
    let deleted = world.cloudformation("delete", &json!({})).await;
    assert_eq!(deleted["Status"], "SUCCESS", "{deleted}");
    assert!(deleted["Reason"].as_str().unwrap().contains("the keys stay in the ring"), "{deleted}");
    assert!(world.platform.webhooks().is_empty() && !world.platform.events_enabled(HEAD_ID));
    world.secrets.pass_time(Duration::from_hours(25));
    assert_eq!(world.cloudformation("delete", &json!({})).await["Status"], "SUCCESS");
    assert!(world.ring().await.keys().is_empty());
}

/// Seventeen heads that are deployed, rotated twice and deleted on one day; version by version, that would not do.
#[tokio::test]
async fn a_hundred_heads_take_two_writes_and_a_minute() {
    let heads: Vec<_> = (0..99).map(|n| format!("00000000-0000-4000-8000-{n:012}")).collect();
    let settings = Settings { more_heads: heads.clone(), ..Settings::default() };
    let pace = provision::run::Timing { propagation_delay: Duration::from_secs(11), ..QUICK };
    let world = ProvisionHarness::start_with(settings).await.with("HEAD_IDS", "*").with_pace(pace);
    world.faults(json!({"latency_ms": 50}));
    for action in ["apply", "rotate"] {
        let writes = world.secrets.calls("PutSecretValue");
        // The run ends by itself when its time is over.
        let result = world.invoke_within(json!({"action": action}), Duration::from_mins(1)).await.unwrap();
        assert_eq!(result["ok"], true, "{action}: {result}");
        assert!(world.secrets.calls("PutSecretValue") - writes <= 2, "{action}");
    }
    assert_eq!(world.platform.webhooks().len(), 100);
    world.assert_never_early(&[]);
    // A third key for each would not fit.
    let again = world.command("rotate").await;
    let error = again["heads"][0]["error"].as_str().unwrap();
    assert!(error.contains("bytes, and the limit is 60000"), "{error}");
    assert_eq!(world.platform.webhooks().len(), 100);
    assert_eq!(world.command("remove").await["ok"], true);
    assert!(world.platform.webhooks().is_empty());
}

#[tokio::test]
async fn more_heads_than_a_run_can_look_after_are_refused_before_anything_is_changed() {
    let heads: Vec<_> = (0..100).map(|n| format!("00000000-0000-4000-8000-{n:012}")).collect();
    let settings = Settings { more_heads: heads.clone(), ..Settings::default() };
    let world = ProvisionHarness::start_with(settings).await.with("HEAD_IDS", "*");
    let result = world.command("apply").await;
    let error = result["heads"][0]["error"].as_str().unwrap();
    assert!(error.contains("101 heads are more than a run can look after, which is 100"), "{error}");
    let answer = world.cloudformation("create", &json!({"HeadIds": "*"})).await;
    assert!(answer["Status"] == "FAILED" && answer["Reason"].as_str().unwrap().contains("101 heads"), "{answer}");
    assert!(world.platform.webhooks().is_empty() && !world.platform.events_enabled(HEAD_ID));
    assert_eq!(world.cloudformation("delete", &json!({"HeadIds": "*"})).await["Status"], "SUCCESS");
}
