//! Rotation loses no event, refuses none, and is completed wherever it died.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use provision::reconciler::Timing;
use sandbox::{
    api_gateway::ApiGateway,
    platform::{account::HEAD_ID, delivery::Sent, settings::Settings, simulator::Platform},
    server::listen,
};
use serde_json::{Value, json};
use tests::{
    key_ring::RING_SECRET,
    provision_harness::{MORE_HEADS, ProvisionHarness, QUICK, URL},
    receive_harness::ReceiveHarness,
    wait::{PATIENCE, until, within},
};
use tokio::{net::TcpListener, time::Instant};
use unith_events::{
    event_type::{EventType, EventTypes},
    key_ring::{KeyState, RingKey},
    timestamp::Timestamp,
};

async fn states(harness: &ProvisionHarness) -> Vec<(String, KeyState)> {
    let ring = harness.ring().await;
    let state = |key: &RingKey| (key.webhook_id.as_ref().unwrap().to_string(), key.state);
    let mut states: Vec<_> = ring.keys().iter().map(state).collect();
    states.sort_by_key(|(id, _)| id.parse::<u64>().unwrap());
    states
}

#[tokio::test]
async fn a_rotation_replaces_the_webhook_and_retires_its_key() {
    let harness = ProvisionHarness::start().await;
    harness.command("apply").await;
    let old = harness.platform.webhooks()[0].shared_key.clone();
    let result = harness.command("rotate").await;
    assert_eq!(result["ok"], true, "{result}");
    let webhooks = harness.platform.webhooks();
    assert_eq!((webhooks.len(), webhooks[0].id), (1, 2));
    assert_ne!(webhooks[0].shared_key, old);
    assert_eq!(webhooks[0].subscriptions, EventTypes::ALL);
    harness.assert_provisioned(HEAD_ID).await;
    assert_eq!(states(&harness).await, [("1".to_owned(), KeyState::Retiring), ("2".to_owned(), KeyState::Active)]);
    let ring = harness.ring().await;
    let retiring = ring.keys().iter().find(|key| key.state == KeyState::Retiring).unwrap();
    let left = retiring.until.unwrap().since(Timestamp::now());
    assert!(left > Duration::from_mins(14) && left < Duration::from_mins(16), "{left:?}");
    assert_eq!(harness.command("status").await["ok"], true, "a retiring key is not drift");
}

#[tokio::test]
async fn a_rotation_without_a_registration_fails() {
    let harness = ProvisionHarness::start().await;
    let result = harness.command("rotate").await;
    assert!(result["heads"][0]["error"].as_str().unwrap().contains("run `apply` first"), "{result}");
    assert!(harness.platform.webhooks().is_empty());
}

#[tokio::test]
async fn several_heads_share_one_wait_and_two_writes() {
    let harness =
        ProvisionHarness::start().await.with("HEAD_IDS", format!("{HEAD_ID},{},{}", MORE_HEADS[0], MORE_HEADS[1]));
    let harness = harness.with_timing(Timing { propagation_delay: Duration::from_millis(700), ..QUICK });
    harness.command("apply").await;
    let (started, written) = (Instant::now(), harness.secrets.calls("PutSecretValue"));
    assert_eq!(harness.command("rotate").await["ok"], true);
    assert!(started.elapsed() >= Duration::from_millis(700));
    // One write for the new keys, one for the replaced ones.
    assert_eq!(harness.secrets.calls("PutSecretValue"), written + 2);
    for head in [HEAD_ID, MORE_HEADS[0], MORE_HEADS[1]] {
        harness.assert_provisioned(head).await;
    }
}

#[tokio::test]
async fn the_next_run_completes_a_rotation_that_died_anywhere() {
    for (call, nth, after_effect) in [
        ("POST /head-events", 1, true),
        ("GET /head-events", 2, false),
        ("PATCH /head-events/{id}", 1, false),
        ("PATCH /head-events/{id}", 1, true),
        ("DELETE /head-events/{id}", 1, false),
        ("DELETE /head-events/{id}", 1, true),
    ] {
        for next in ["rotate", "apply"] {
            let case = format!("{call} {nth} {after_effect}, then {next}");
            let harness = ProvisionHarness::start().await;
            harness.command("apply").await;
            // The run ends at a refusal, and at a registration with an unknown outcome.
            let how = if call.starts_with("POST") { json!("reset") } else { json!({"status": [422, null]}) };
            let fail = |times| json!({"call": call, "how": how, "after_effect": after_effect, "times": times});
            harness.faults(json!({"failing": [fail(1_000)]}));
            if nth == 2 {
                harness.faults(json!({}));
                let run = harness.reconciler().await;
                // The second registration, made as a rotation makes it.
                run.unith.register(HEAD_ID, URL, EventTypes::NONE).await.unwrap();
            } else if call.starts_with("POST") {
                // The list shows its outcome, so the run succeeds.
                harness.command("rotate").await;
            } else {
                let died = harness.command("rotate").await;
                // The list shows the outcome of a deletion too.
                assert_eq!(died["ok"], call.starts_with("DELETE") && after_effect, "{case}: {died}");
            }
            harness.assert_never_deaf(HEAD_ID).await;
            harness.faults(json!({}));
            let resumed = harness.command(next).await;
            assert_eq!(resumed["ok"], true, "{case}: {resumed}");
            harness.assert_provisioned(HEAD_ID).await;
            harness.assert_never_early(&[]);
            assert_eq!(harness.platform.webhooks()[0].subscriptions, EventTypes::ALL, "{case}");
        }
    }
}

#[tokio::test]
async fn a_rotation_works_with_masked_keys() {
    let harness = ProvisionHarness::start().await;
    harness.faults(json!({"masked_keys": true}));
    harness.command("apply").await;
    let result = harness.command("rotate").await;
    assert_eq!(result["ok"], true, "{result}");
    harness.assert_provisioned(HEAD_ID).await;
}

#[tokio::test]
async fn a_refused_registration_keeps_the_webhook_that_delivers() {
    for (status, says) in [(409, "conflict"), (400, "already registered"), (422, "duplicate"), (403, "no")] {
        let harness = ProvisionHarness::start().await;
        harness.command("apply").await;
        let before = format!("{:?}", harness.platform.webhooks());
        let failing =
            json!({"call": "POST /head-events", "how": {"status": [status, null]}, "says": says, "times": 1_000});
        harness.faults(json!({"failing": [failing]}));
        let result = harness.command("rotate").await;
        assert_eq!(result["ok"], false, "{result}");
        assert_eq!(format!("{:?}", harness.platform.webhooks()), before, "{status} {says}");
        harness.assert_provisioned(HEAD_ID).await;
    }
}

#[tokio::test]
async fn a_rotation_leaves_a_head_off_that_was_off() {
    for declared in ["true", "false"] {
        let harness = ProvisionHarness::start().await.with("ENABLE_EVENTS", declared);
        harness.command("apply").await;
        harness.command("disable").await;
        assert_eq!(harness.command("rotate").await["ok"], true);
        assert!(!harness.platform.events_enabled(HEAD_ID), "declared {declared}");
        assert_eq!(harness.command("enable").await["ok"], true);
        harness.assert_provisioned(HEAD_ID).await;
        assert_eq!(harness.platform.webhooks()[0].id, 2);
        harness.assert_never_early(&[]);
    }
}

#[tokio::test]
async fn a_key_that_changes_with_the_subscription_is_stored() {
    let harness = ProvisionHarness::start().await;
    harness.command("apply").await;
    harness.faults(json!({"patch_changes_key": true}));
    let result = harness.command("rotate").await;
    assert_eq!(result["ok"], true, "{result}");
    assert!(result["heads"][0]["notes"][0].as_str().unwrap().contains("another key, which is stored"), "{result}");
    harness.assert_provisioned(HEAD_ID).await;
}

#[tokio::test]
async fn a_rotation_without_time_for_its_wait_changes_nothing() {
    let harness = ProvisionHarness::start().await.with_timing(Timing::default());
    harness.command("apply").await;
    let result = harness.invoke_within(json!({"action": "rotate"}), Duration::from_secs(12)).await.unwrap();
    assert!(result["heads"][0]["error"].as_str().unwrap().contains("at least 16 s"), "{result}");
    assert_eq!(harness.platform.webhooks().len(), 1);
}

/// 2,000 deliveries while the key is rotated twice.
#[tokio::test(flavor = "multi_thread")]
async fn two_rotations_under_load_lose_and_refuse_no_event() {
    let listener = listen("API Gateway", 0).await.unwrap();
    let harness = ProvisionHarness::start_with(settings(&listener)).await.with_timing(Timing::default());
    harness.command("apply").await;
    // With a slow platform, two webhooks deliver for a while.
    harness.faults(json!({"latency_ms": 150}));

    // The receiver reads the very ring that the rotation writes.
    let receiving = ReceiveHarness::without_ring().await;
    let receiving = receiving.with_secrets_of(&harness);
    let caller = receiving.receiver().await;
    let routes = BTreeMap::from([("POST /webhooks/head-events".to_owned(), caller.as_function())]);
    let _gateway = ApiGateway::serve(listener, routes).unwrap();

    let harness = Arc::new(harness);
    let rotated = Arc::new(AtomicBool::new(false));
    let rotation = tokio::spawn({
        let (harness, rotated) = (Arc::clone(&harness), Arc::clone(&rotated));
        async move {
            let mut results = Vec::new();
            for _ in 0..2 {
                results.push(harness.invoke_within(json!({"action": "rotate"}), Duration::from_mins(1)).await.unwrap());
            }
            rotated.store(true, Ordering::SeqCst);
            results
        }
    });
    let (mut events, mut deliveries, mut refused) = (0, 0, Vec::new());
    // Bursts spread the load over the time of two rotations.
    let mut bursts = tokio::time::interval(Duration::from_millis(50));
    while deliveries < 2_000 || !rotated.load(Ordering::SeqCst) {
        bursts.tick().await;
        let sent: Vec<_> = (0..20)
            .flat_map(|_| {
                events += 1;
                emit(&harness.platform, events)
            })
            .collect();
        for sent in sent {
            deliveries += 1;
            for attempt in within(PATIENCE, sent.attempts).await.unwrap() {
                if !attempt.succeeded() {
                    refused.push(format!("{:?}", attempt.response));
                }
            }
        }
    }
    for result in within(PATIENCE, rotation).await.unwrap() {
        assert_eq!(result["ok"], true, "{result}");
    }
    assert!(refused.is_empty(), "{} of {deliveries} deliveries were refused: {:?}", refused.len(), refused.first());
    assert_eq!(harness.platform.webhooks()[0].id, 3, "rotated twice");
    assert!(deliveries > events, "{deliveries} deliveries of {events} events: none was delivered by two webhooks");
    assert_eq!(receiving.table.items().await.len(), events, "every event is stored once");
}

fn settings(gateway: &TcpListener) -> Settings {
    let hosts = BTreeMap::from([("hooks.example.com".to_owned(), format!("http://{}", gateway.local_addr().unwrap()))]);
    Settings { hosts, first_backoff: Duration::from_millis(20), ..Settings::default() }
}

fn emit(platform: &Platform, number: usize) -> Vec<Sent> {
    let sent = platform.emit(HEAD_ID, &format!("session-{number}"), EventType::StartConversation, Timestamp::now());
    assert!(!sent.is_empty(), "no webhook is subscribed: event {number} would be lost");
    sent
}

#[tokio::test]
async fn a_rotation_reports_its_steps_in_order() {
    let harness = ProvisionHarness::start().await;
    harness.command("apply").await;
    let result: Value = harness.command("rotate").await;
    let all = "START_CONVERSATION, END_CONVERSATION, TIMEOUT_CONVERSATION, INACTIVITY_WARNING";
    assert_eq!(
        result["heads"][0]["done"],
        json!([
            "register webhook 2",
            "store the key of webhook 2",
            format!("subscribe webhook 2 to {all} (now none)"),
            "delete webhook 1; its key stays valid for a while",
        ])
    );
}

const SLOW_RECEIVERS: Timing = Timing { propagation_delay: Duration::from_millis(600), ..QUICK };

#[tokio::test]
async fn a_webhook_that_had_to_be_registered_live_waits_for_receivers_before_it_replaces_another() {
    let harness = ProvisionHarness::start().await.with_timing(SLOW_RECEIVERS);
    harness.command("apply").await;
    let refused = json!({"call": "POST /head-events", "how": {"status": [422, null]}, "times": 2});
    harness.faults(json!({"failing": [refused]}));
    let result = harness.command("rotate").await;
    assert!(result["ok"] == true && result.to_string().contains("without subscriptions"), "{result}");
    harness.assert_replaced_late(1);
    harness.assert_provisioned(HEAD_ID).await;
}

#[tokio::test]
async fn a_key_that_changed_with_the_subscription_waits_for_receivers() {
    let harness = ProvisionHarness::start().await.with_timing(SLOW_RECEIVERS);
    harness.command("apply").await;
    harness.faults(json!({"patch_changes_key": true}));
    let result = harness.command("rotate").await;
    assert_eq!(result["ok"], true, "{result}");
    harness.assert_replaced_late(1);
    harness.assert_provisioned(HEAD_ID).await;
}

#[tokio::test]
async fn a_corrected_key_waits_for_receivers_before_a_duplicate_that_verifies_is_deleted() {
    let harness = ProvisionHarness::start().await.with_timing(SLOW_RECEIVERS);
    harness.command("apply").await;
    harness.faults(
        json!({"failing": [{"call": "DELETE /head-events/{id}", "how": {"status": [422, null]}, "times": 1_000}]}),
    );
    assert_eq!(harness.command("rotate").await["ok"], false);
    harness.faults(json!({}));
    // The ring has another key of webhook 2, for example from a backup.
    let key = harness.platform.webhooks()[1].shared_key.clone();
    let ring = harness.ring_text().await.replace(&key, "0123456789abcdef0123456789abcdef");
    harness.set_secret(RING_SECRET, &ring).await;
    let result = harness.command("apply").await;
    assert_eq!(result["ok"], true, "{result}");
    harness.assert_replaced_late(1);
    harness.assert_provisioned(HEAD_ID).await;
}

/// The next run deletes it.
#[tokio::test]
async fn a_replaced_webhook_stays_if_the_wait_for_receivers_does_not_fit() {
    let harness = ProvisionHarness::start().await.with_timing(QUICK);
    harness.command("apply").await;
    harness.faults(json!({"patch_changes_key": true}));
    // There is time for the wait before the subscription, and not for another one behind it.
    let harness = harness.with_timing(Timing { propagation_delay: Duration::from_secs(2), ..QUICK });
    let result = harness.invoke_within(json!({"action": "rotate"}), Duration::from_secs(7)).await.unwrap();
    let error = result["heads"][0]["error"].as_str().unwrap();
    assert!(error.contains("raise the function's time-out"), "{result}");
    assert_eq!(harness.platform.webhooks().len(), 2, "the old webhook delivers, and its key verifies");
    harness.assert_never_deaf(HEAD_ID).await;
    harness.faults(json!({}));
    let harness = harness.with_timing(QUICK);
    assert_eq!(harness.command("apply").await["ok"], true);
    harness.assert_provisioned(HEAD_ID).await;
}

/// A run that looks after another one has registered its webhook, and before that one has stored its key, takes the
/// webhook for a duplicate.
#[tokio::test]
async fn a_run_that_another_one_overtakes_does_not_delete_the_webhook_that_the_other_made() {
    for has_deleted in [true, false] {
        let harness = ProvisionHarness::start().await;
        harness.command("apply").await;
        harness.platform.register_in_console(HEAD_ID, URL, EventTypes::NONE);
        let ring = harness.ring_text().await;
        let new_key = harness.platform.webhooks()[1].shared_key.clone();
        let entry =
            json!({"head_id": HEAD_ID, "webhook_id": 2, "key": new_key, "state": "active", "made_while_on": true});
        let ring = ring.replace("\"keys\":[", &format!("\"keys\":[{entry},"));

        // The key of webhook 1 is young, so the run waits for receivers before it deletes.
        let harness = harness.with_timing(Timing { propagation_delay: Duration::from_secs(3), ..QUICK });
        let read = harness.secrets.calls("GetSecretValue");
        let run = harness.command("apply");
        let other = async {
            // Credentials, two readings before the plan, and one for the first write.
            within(PATIENCE, until(async || harness.secrets.calls("GetSecretValue") >= read + 4)).await;
            harness.set_secret(RING_SECRET, &ring).await;
            harness.platform.change_in_console(2, EventTypes::ALL);
            if has_deleted {
                harness.platform.delete_in_console(1);
            }
        };
        let (result, ()) = tokio::join!(run, other);
        let ids: Vec<_> = harness.platform.webhooks().iter().map(|webhook| webhook.id).collect();
        let (left, says): (&[u64], _) = if has_deleted {
            (&[2], "the webhook that stays no longer delivers")
        } else {
            (&[1, 2], "webhook 2 stays: another run has stored its key meanwhile")
        };
        assert!(ids == left && result.to_string().contains(says), "{has_deleted}: {ids:?} {result}");
        let harness = harness.with_timing(QUICK);
        assert_eq!(harness.command("apply").await["ok"], true);
        harness.assert_provisioned(HEAD_ID).await;
    }
}
