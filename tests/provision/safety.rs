//! Responses of UNITH that are not trusted, and requests that are not allowed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use aws_sdk_secretsmanager::primitives::Blob;
use axum::{Router, extract::State, http::StatusCode, routing::any};
use provision::reconciler::Timing;
use sandbox::{
    clients::secrets_client,
    platform::{account::HEAD_ID, call::Call, settings::Settings},
    server::{ServerHandle, listen},
};
use serde_json::{Value, json};
use tests::{
    key_ring::{RING_SECRET, ring},
    provision_harness::{CREDENTIALS_SECRET, MORE_HEADS, ProvisionHarness, QUICK, URL},
    proxy::Fault,
    wait::{PATIENCE, until, within},
};
use unith_events::event_type::EventTypes;

fn always(call: &str, how: &Value) -> Value {
    json!({"failing": [{"call": call, "how": how, "times": 1_000_000}]})
}

/// Another server, which counts its requests.
async fn other_server() -> (ServerHandle, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let router = Router::new()
        .fallback(any(|State(count): State<Arc<AtomicUsize>>| async move {
            count.fetch_add(1, Ordering::SeqCst);
            (StatusCode::OK, r#"{"data":{"bearer":"stolen"}}"#)
        }))
        .with_state(Arc::clone(&count));
    (ServerHandle::router(listen("another server", 0).await.unwrap(), router).unwrap(), count)
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let (served, count) = other_server().await;
    for (call, status) in [
        ("POST /auth/token", 307),
        ("GET /head-events", 302),
        ("POST /head-events", 308),
        ("PUT /head/{head_id}/enable-events", 301),
        ("DELETE /head-events/{id}", 303),
    ] {
        let harness = ProvisionHarness::start().await;
        if call.starts_with("DELETE") {
            harness.command("apply").await;
        }
        harness.faults(always(call, &json!({"redirect": [status, served.url()]})));
        let action = if call.starts_with("DELETE") { "remove" } else { "apply" };
        let result = harness.command(action).await;
        let error = result["heads"][0]["error"].as_str().unwrap_or_default();
        assert!(result["ok"] == false && error.contains("a redirect, which is not followed"), "{call}: {result}");
    }
    assert_eq!(count.load(Ordering::SeqCst), 0, "the other server got no request");
}

#[tokio::test]
async fn a_404_is_not_proof_of_a_removal_unless_the_account_can_be_read() {
    for call in ["*", "POST /auth/token"] {
        let harness = ProvisionHarness::start().await;
        harness.cloudformation("create", &json!({})).await;
        let keys = |ring: &str| serde_json::from_str::<Value>(ring).unwrap()["keys"].clone();
        let before = keys(&harness.ring_text().await);
        harness.faults(always(call, &json!({"status": [404, null]})));
        assert_eq!(harness.command("remove").await["ok"], false, "{call}");
        let deleted = harness.cloudformation_within("delete", &json!({}), Duration::from_secs(12)).await;
        assert!(
            deleted["Status"] == "FAILED" && deleted["Reason"].as_str().unwrap().contains("404"),
            "{call}: {deleted}"
        );
        assert_eq!((harness.platform.webhooks().len(), keys(&harness.ring_text().await)), (1, before), "{call}");
    }
    // If the account can be read, a head with a 404 is gone.
    let harness = ProvisionHarness::start().await;
    harness.command("apply").await;
    harness.faults(always("GET /head-events", &json!({"status": [404, null]})));
    assert_eq!(harness.command("remove").await["ok"], true);
    assert!(harness.ring().await.keys().is_empty());
}

#[tokio::test]
async fn a_maintenance_page_is_not_proof_of_a_deletion() {
    let harness = ProvisionHarness::start().await;
    harness.command("apply").await;
    let ring = harness.ring_text().await;
    harness.faults(always("DELETE /head-events/{id}", &json!("html")));
    let removed = harness.command("remove").await;
    let error = removed["heads"][0]["error"].as_str().unwrap();
    assert!(error.contains("UNITH accepted this without doing it: delete webhook 1"), "{removed}");
    assert!(harness.platform.webhooks().len() == 1 && harness.ring().await.keys().len() == 1, "{ring}");
    let deleted = harness.cloudformation("delete", &json!({})).await;
    assert_eq!(deleted["Status"], "FAILED", "{deleted}");
}

#[tokio::test]
async fn a_switch_without_effect_fails_the_run() {
    let harness = ProvisionHarness::start().await;
    harness.faults(always("PUT /head/{head_id}/enable-events", &json!("html")));
    let result = harness.command("apply").await;
    let error = result["heads"][0]["error"].as_str().unwrap();
    assert!(error.contains("without doing it: switch the head's events on"), "{result}");
    assert!(harness.platform.webhooks().is_empty(), "it would never deliver");
    harness.faults(json!({}));
    assert_eq!(harness.command("apply").await["ok"], true);
    harness.faults(always("PUT /head/{head_id}/enable-events", &json!("html")));
    assert_eq!(harness.command("disable").await["ok"], false);
}

#[tokio::test]
async fn an_unfiltered_list_does_not_delete_another_heads_webhook() {
    let harness = ProvisionHarness::start().await.with("HEAD_IDS", format!("{HEAD_ID},{}", MORE_HEADS[0]));
    harness.faults(json!({"unfiltered_list": true}));
    assert_eq!(harness.command("apply").await["ok"], true);
    for head in [HEAD_ID, MORE_HEADS[0]] {
        harness.assert_provisioned(head).await;
    }
    let harness = harness.with("HEAD_IDS", HEAD_ID);
    assert_eq!(harness.invoke(json!({"action": "remove", "head_ids": [HEAD_ID]})).await.unwrap()["ok"], true);
    let left = harness.platform.webhooks();
    assert_eq!((left.len(), left[0].head_id.as_str()), (1, MORE_HEADS[0]));
}

#[tokio::test]
async fn an_endless_response_fails_its_call() {
    for call in ["POST /auth/token", "GET /head-events", "GET /head/{head_id}/enable-events"] {
        let harness = ProvisionHarness::start().await;
        harness.faults(always(call, &json!("endless")));
        let response = harness.cloudformation_within("create", &json!({}), Duration::from_secs(20)).await;
        assert!(response["Reason"].as_str().unwrap().contains("it is longer than 1 MiB"), "{call}: {response}");
    }
}

#[tokio::test]
async fn no_message_repeats_a_key() {
    let harness = ProvisionHarness::start().await;
    harness.command("apply").await;
    let known = harness.platform.webhooks()[0].shared_key.clone();
    let new = "deadbeef0123456789abcdef01234567";
    for (action, call) in
        [("rotate", "POST /head-events"), ("remove", "DELETE /head-events/{id}"), ("status", "GET /head-events")]
    {
        let says = format!("webhook with key {known} and {new}: {}", json!({"sharedKey": known}));
        harness
            .faults(json!({"failing": [{"call": call, "how": {"status": [403, null]}, "says": says, "times": 1_000}]}));
        let result = harness.command(action).await.to_string();
        assert!(result.contains("[redacted]") && !result.contains(&known) && !result.contains(new), "{result}");
        let logged = harness.last_line().to_string();
        assert!(!logged.contains(&known) && !logged.contains(new), "{logged}");
        let response = harness.cloudformation("update", &json!({"EndConversation": "false"})).await.to_string();
        assert!(!response.contains(&known) && !response.contains(new), "{response}");
    }
}

#[tokio::test]
async fn a_request_registers_only_the_url_and_heads_of_the_variables() {
    let harness = ProvisionHarness::start().await;
    for (changes, reason) in [
        (json!({"WebhookUrl": "https://evil.example.com/x"}), "this function registers its WEBHOOK_URL only"),
        (json!({"HeadIds": [MORE_HEADS[0]]}), "looks after the heads of its HEAD_IDS only"),
        (json!({"HeadIds": "*"}), "looks after the heads of its HEAD_IDS only"),
    ] {
        for kind in ["create", "update"] {
            let response = harness.cloudformation(kind, &changes).await;
            assert!(
                response["Status"] == "FAILED" && response["Reason"].as_str().unwrap().contains(reason),
                "{response}"
            );
        }
    }
    for action in ["apply", "enable", "disable", "rotate", "self-test"] {
        let error =
            harness.invoke(json!({"action": action, "head_ids": [MORE_HEADS[0]]})).await.unwrap_err().to_string();
        assert!(error.contains("looks after the heads of its HEAD_IDS only"), "{action}: {error}");
    }
    assert!(harness.platform.webhooks().is_empty());

    // A request removes nothing else either.
    harness.platform.register_in_console(MORE_HEADS[0], URL, EventTypes::ALL);
    harness.platform.register_in_console(HEAD_ID, "https://evil.example.com/x", EventTypes::ALL);
    assert_eq!(harness.cloudformation("delete", &json!({"HeadIds": [MORE_HEADS[0]]})).await["Status"], "SUCCESS");
    assert_eq!(
        harness.cloudformation("delete", &json!({"WebhookUrl": "https://evil.example.com/x"})).await["Status"],
        "SUCCESS"
    );
    harness.invoke(json!({"action": "remove", "head_ids": [MORE_HEADS[0]]})).await.unwrap();
    assert_eq!(harness.platform.webhooks().len(), 2);
}

#[tokio::test]
async fn webhook_ids_may_be_strings() {
    let harness = ProvisionHarness::start().await;
    harness.faults(json!({"string_ids": true}));
    assert_eq!(harness.command("apply").await["ok"], true);
    let ring: Value = serde_json::from_str(&harness.ring_text().await).unwrap();
    assert_eq!(ring["keys"][0]["webhook_id"], "000001");
    assert_eq!(harness.command("apply").await["heads"][0]["done"], json!([]));
    assert_eq!(harness.command("rotate").await["ok"], true);
    assert_eq!(harness.command("remove").await["ok"], true);
    assert!(harness.platform.webhooks().is_empty());
}

#[tokio::test]
async fn a_binary_ring_is_read_if_it_is_text() {
    let harness = ProvisionHarness::start().await;
    let client = secrets_client(harness.secrets.url()).unwrap();
    let put = async |bytes: &[u8]| {
        let blob = Blob::new(bytes);
        client.put_secret_value().secret_id(RING_SECRET).secret_binary(blob).send().await.unwrap();
    };
    put(format!("\u{feff}{}\n", ring(&[json!({"key": "a-key-put-in-by-hand"})])).as_bytes()).await;
    assert_eq!(harness.command("apply").await["ok"], true);
    assert_eq!(harness.ring().await.keys().len(), 2, "{}", harness.ring_text().await);

    put(&[0xff, 0xfe]).await;
    let calls = harness.platform.calls(Call::Register);
    let result = harness.command("rotate").await;
    assert!(result["heads"][0]["error"].as_str().unwrap().contains("neither a string nor UTF-8 binary"), "{result}");
    assert_eq!(harness.platform.calls(Call::Register), calls);
}

#[tokio::test]
async fn credentials_may_have_white_space_and_unknown_members() {
    for credentials in [
        "\u{feff}{\"email\": \"sandbox@example.com\\n\", \"secretKey\": \" sandbox-secret-key\\r\\n\"}\n",
        "{\"email\":\"sandbox@example.com\",\"secretKey\":\"sandbox-secret-key\",\"note\":\"\\ud83d\"}",
    ] {
        let harness = ProvisionHarness::start().await;
        harness.set_secret(CREDENTIALS_SECRET, credentials).await;
        assert_eq!(harness.command("apply").await["ok"], true, "{credentials}");
    }
    let harness = ProvisionHarness::start().await;
    harness.set_secret(CREDENTIALS_SECRET, "sandbox-secret-key").await;
    let error = harness.invoke(json!({"action": "apply"})).await.unwrap_err().to_string();
    assert!(error.contains(r#"expected {"email":"…","secretKey":"…"}"#), "{error}");
}

#[tokio::test]
async fn an_edit_of_the_ring_between_reading_and_writing_is_kept() {
    let harness = Arc::new(ProvisionHarness::start().await);
    harness.secrets_proxy.set(Fault::delay(Duration::from_millis(150)));
    let before = harness.secrets.calls("GetSecretValue");
    let running = tokio::spawn({
        let harness = Arc::clone(&harness);
        async move { harness.command("apply").await }
    });
    // The credentials, two looks, and the reading before the write.
    within(PATIENCE, until(async || harness.secrets.calls("GetSecretValue") >= before + 4)).await;
    let edit = json!({"key": "a-key-put-in-by-hand", "note": "meanwhile"});
    harness.set_secret(RING_SECRET, &ring(&[edit])).await;
    let result = within(PATIENCE, running).await.unwrap();
    assert_eq!(result["ok"], true, "{result}");
    let ring = harness.ring_text().await;
    assert!(ring.contains("meanwhile") && harness.ring().await.keys().len() == 2, "{ring}");
}

#[tokio::test]
async fn an_unlisted_registration_is_not_repeated() {
    let harness = ProvisionHarness::start().await;
    harness.faults(json!({"unlisted_for_ms": u64::MAX}));
    let first = harness.command("apply").await;
    assert!(first["heads"][0]["error"].as_str().unwrap().contains("does not list it; its key is stored"), "{first}");
    assert!(!harness.platform.events_enabled(HEAD_ID), "no webhook is subscribed");
    for _ in 0..2 {
        let again = harness.command("apply").await;
        assert!(
            again["heads"][0]["error"].as_str().unwrap().contains("no other webhook is registered for 24 h"),
            "{again}"
        );
    }
    assert_eq!(harness.platform.calls(Call::Register), 1);
    let ring: Value = serde_json::from_str(&harness.ring_text().await).unwrap();
    assert!(ring["keys"][0]["webhook_id"].is_null() && ring["keys"].as_array().unwrap().len() == 1, "{ring}");

    // It counts once it is listed.
    for masked in [true, false] {
        harness.faults(json!({"masked_keys": masked}));
        assert_eq!(harness.command("apply").await["ok"], true);
        harness.assert_provisioned(HEAD_ID).await;
        harness.assert_never_early(&[]);
    }
    assert_eq!(harness.platform.calls(Call::Register), 1);
}

/// Runs `apply`, and `action` during the registration. Returns the report.
async fn apply_during(action: impl FnOnce(&ProvisionHarness)) -> (Arc<ProvisionHarness>, Value) {
    let harness = Arc::new(ProvisionHarness::start().await);
    harness.faults(json!({"latency_ms": 60}));
    let running = tokio::spawn({
        let harness = Arc::clone(&harness);
        async move { harness.command("apply").await }
    });
    harness.more_calls(Call::Register, 0).await;
    action(&harness);
    let result = within(PATIENCE, running).await.unwrap();
    harness.faults(json!({}));
    (harness, result)
}

#[tokio::test]
async fn a_registration_is_undone_if_events_are_switched_off_meanwhile() {
    let (harness, result) = apply_during(|harness| harness.platform.enable_in_console(HEAD_ID, false)).await;
    let error = result["heads"][0]["error"].as_str().unwrap();
    assert!(error.contains("somebody switched the head's events off"), "{result}");
    assert!(harness.platform.webhooks().is_empty());
    assert_eq!(harness.command("apply").await["ok"], true);
    harness.assert_provisioned(HEAD_ID).await;
}

#[tokio::test]
async fn the_next_run_finds_a_registration_whose_list_failed() {
    let failing = always("GET /head-events", &json!({"status": [422, null]}));
    let (harness, result) = apply_during(|harness| harness.faults(failing)).await;
    assert!(result["heads"][0]["notes"].to_string().contains("was not found: GET /head-events"), "{result}");
    assert_eq!(harness.command("apply").await["ok"], true);
    harness.assert_provisioned(HEAD_ID).await;
    assert_eq!(harness.platform.calls(Call::Register), 1);
}

#[tokio::test]
async fn a_registration_that_is_listed_late_is_waited_for() {
    let harness = ProvisionHarness::start().await;
    harness.faults(json!({"unlisted_for_ms": 300}));
    assert_eq!(harness.command("apply").await["ok"], true);
    assert_eq!(harness.platform.calls(Call::Register), 1);
    harness.assert_provisioned(HEAD_ID).await;
}

#[tokio::test]
async fn retry_after_may_be_a_date() {
    let harness = ProvisionHarness::start().await;
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3));
    harness.faults(json!({"failing": [{"call": "GET /head-events", "how": {"status": [429, null]}, "retry_after": date, "times": 1}]}));
    let started = Instant::now();
    assert_eq!(harness.command("apply").await["ok"], true);
    // Dates have whole seconds.
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
}

/// The ring's secret has a hundred versions, none of them a day old.
#[tokio::test]
async fn a_deletion_succeeds_while_the_ring_has_no_room_for_another_version() {
    let harness = ProvisionHarness::start().await;
    harness.cloudformation("create", &json!({})).await;
    let ring = harness.ring_text().await;
    let client = secrets_client(harness.secrets.url()).unwrap();
    for n in 0..110 {
        let text = format!("{ring}{}", " ".repeat(n));
        if client.put_secret_value().secret_id(RING_SECRET).secret_string(text).send().await.is_err() {
            break;
        }
    }
    let rotated = harness.command("rotate").await;
    let error = rotated["heads"][0]["error"].as_str().unwrap();
    assert!(error.contains("keeps 100 versions") && error.contains("run this again later"), "{rotated}");
    harness.assert_provisioned(HEAD_ID).await;
    let deleted = harness.cloudformation("delete", &json!({})).await;
    assert_eq!(deleted["Status"], "SUCCESS", "{deleted}");
    assert!(deleted["Reason"].as_str().unwrap().contains("the keys stay in the ring"), "{deleted}");
    assert!(harness.platform.webhooks().is_empty() && !harness.platform.events_enabled(HEAD_ID));
    harness.secrets.pass_time(Duration::from_hours(25));
    assert_eq!(harness.cloudformation("delete", &json!({})).await["Status"], "SUCCESS");
    assert!(harness.ring().await.keys().is_empty());
}

/// With one write per head, the versions of a day would not be enough.
#[tokio::test]
async fn a_run_over_a_hundred_heads_takes_two_writes_and_a_minute() {
    let heads: Vec<_> = (0..99).map(|n| format!("00000000-0000-4000-8000-{n:012}")).collect();
    let settings = Settings { more_heads: heads.clone(), ..Settings::default() };
    let timing = Timing { propagation_delay: Duration::from_secs(11), ..QUICK };
    let harness = ProvisionHarness::start_with(settings).await.with("HEAD_IDS", "*").with_timing(timing);
    harness.faults(json!({"latency_ms": 50}));
    for action in ["apply", "rotate"] {
        let writes = harness.secrets.calls("PutSecretValue");
        let result = harness.invoke_within(json!({"action": action}), Duration::from_mins(1)).await.unwrap();
        assert_eq!(result["ok"], true, "{action}: {result}");
        assert!(harness.secrets.calls("PutSecretValue") - writes <= 2, "{action}");
    }
    assert_eq!(harness.platform.webhooks().len(), 100);
    harness.assert_never_early(&[]);
    // A third key for each would not fit.
    let again = harness.command("rotate").await;
    let error = again["heads"][0]["error"].as_str().unwrap();
    assert!(error.contains("bytes, and the limit is 60000"), "{error}");
    assert_eq!(harness.platform.webhooks().len(), 100);
    assert_eq!(harness.command("remove").await["ok"], true);
    assert!(harness.platform.webhooks().is_empty());
}

#[tokio::test]
async fn a_run_over_more_than_a_hundred_heads_fails_before_it_changes_anything() {
    let heads: Vec<_> = (0..100).map(|n| format!("00000000-0000-4000-8000-{n:012}")).collect();
    let settings = Settings { more_heads: heads.clone(), ..Settings::default() };
    let harness = ProvisionHarness::start_with(settings).await.with("HEAD_IDS", "*");
    let result = harness.command("apply").await;
    let error = result["heads"][0]["error"].as_str().unwrap();
    assert!(error.contains("101 heads are more than a run can look after, which is 100"), "{error}");
    let response = harness.cloudformation("create", &json!({"HeadIds": "*"})).await;
    assert!(response["Status"] == "FAILED" && response["Reason"].as_str().unwrap().contains("101 heads"), "{response}");
    assert!(harness.platform.webhooks().is_empty() && !harness.platform.events_enabled(HEAD_ID));
    assert_eq!(harness.cloudformation("delete", &json!({"HeadIds": "*"})).await["Status"], "SUCCESS");
}
