//! Everyday changes, on a platform where a webhook never delivers that was registered while events were off.
//!
//! After each one, every head has one webhook of ours, it delivers, and none was live before its key could be read.

use std::time::Duration;

use provision::reconciler::Timing;
use sandbox::platform::{account::HEAD_ID, call::Call};
use serde_json::{Value, json};
use tests::{
    key_ring::{RING_SECRET, ring},
    provision_harness::{MORE_HEADS, ProvisionHarness, QUICK, URL, request},
};
use unith_events::{
    event_type::{EventType, EventTypes},
    timestamp::Timestamp,
};

/// Asserts that the head is provisioned, and that one event of it goes to our webhook once.
async fn assert_delivers(harness: &ProvisionHarness, head_id: &str) {
    harness.assert_provisioned(head_id).await;
    let sent = harness.platform.emit(head_id, "session", EventType::EndConversation, Timestamp::now());
    let to: Vec<_> = sent.iter().map(|sent| sent.webhook_id).collect();
    let own = harness
        .platform
        .webhooks()
        .into_iter()
        .find(|webhook| webhook.head_id == head_id && webhook.webhook_url == URL);
    assert_eq!(to, [own.unwrap().id]);
}

async fn succeed(harness: &ProvisionHarness, kind: &str, changes: &Value) {
    let response = harness.cloudformation(kind, changes).await;
    assert_eq!(response["Status"], "SUCCESS", "{kind} {changes}: {response}");
}

#[tokio::test]
async fn a_creation_provisions_a_fresh_head() {
    let harness = ProvisionHarness::start().await;
    succeed(&harness, "create", &json!({"InactivityWarning": "true"})).await;
    assert_delivers(&harness, HEAD_ID).await;
    harness.assert_never_early(&[]);
}

#[tokio::test]
async fn a_webhook_registered_by_hand_or_by_version_0_1_0_is_replaced() {
    for made_while_on in [true, false] {
        for in_ring in [true, false] {
            let case = format!("made while on: {made_while_on}, in the ring: {in_ring}");
            let harness = ProvisionHarness::start().await;
            harness.platform.enable_in_console(HEAD_ID, made_while_on);
            harness.platform.register_in_console(HEAD_ID, URL, EventTypes::ALL);
            harness.platform.enable_in_console(HEAD_ID, true);
            let old = harness.platform.webhooks()[0].clone();
            if in_ring {
                // As version 0.1.0 wrote it.
                harness.set_secret(RING_SECRET, &ring(&[json!({
                    "head_id": HEAD_ID, "webhook_id": 1, "key": old.shared_key, "state": "active", "since": "2026-01-16T09:56:12Z",
                })])).await;
            }
            assert_eq!(harness.command("apply").await["ok"], true, "{case}");
            assert_delivers(&harness, HEAD_ID).await;
            assert_eq!(harness.platform.webhooks()[0].id, 2, "{case}");
            harness.assert_never_early(&[old.shared_key]);
        }
    }
}

#[tokio::test]
async fn disable_and_enable_keep_the_webhook() {
    let harness = ProvisionHarness::start().await;
    harness.command("apply").await;
    for _ in 0..2 {
        assert_eq!(harness.command("disable").await["heads"][0]["done"], json!(["switch the head's events off"]));
        assert_eq!(harness.command("disable").await["heads"][0]["done"], json!([]));
        assert_eq!(harness.command("enable").await["ok"], true);
        assert_delivers(&harness, HEAD_ID).await;
    }
    assert_eq!(harness.platform.webhooks()[0].id, 1);
    harness.assert_never_early(&[]);
}

#[tokio::test]
async fn a_webhook_created_with_events_off_delivers_when_they_are_switched_on() {
    let harness = ProvisionHarness::start().await;
    succeed(&harness, "create", &json!({"EnableEvents": "false"})).await;
    assert!(!harness.platform.events_enabled(HEAD_ID));
    let calls = harness.platform.calls(Call::SetSwitch);
    succeed(&harness, "update", &json!({"EnableEvents": "false"})).await;
    assert_eq!(harness.platform.calls(Call::SetSwitch), calls, "a head without a registration to make stays off");
    succeed(&harness, "update", &json!({"EnableEvents": "true"})).await;
    assert_delivers(&harness, HEAD_ID).await;
    assert_eq!(harness.platform.webhooks()[0].id, 1);
    harness.assert_never_early(&[]);
}

#[tokio::test]
async fn each_rotation_makes_a_webhook_that_delivers() {
    let harness = ProvisionHarness::start().await;
    harness.command("apply").await;
    for id in 2..4 {
        assert_eq!(harness.command("rotate").await["ok"], true);
        assert_delivers(&harness, HEAD_ID).await;
        assert_eq!(harness.platform.webhooks()[0].id, id);
    }
    harness.assert_never_early(&[]);
}

#[tokio::test]
async fn an_update_adds_a_head_and_another_one_moves_the_url() {
    let harness = ProvisionHarness::start().await.with("HEAD_IDS", "*");
    succeed(&harness, "create", &json!({})).await;
    let writes = harness.secrets.calls("PutSecretValue");
    succeed(&harness, "update", &json!({"HeadIds": [HEAD_ID, MORE_HEADS[0]]})).await;
    assert_eq!(harness.secrets.calls("PutSecretValue"), writes + 1, "one write for the new key");
    for head in [HEAD_ID, MORE_HEADS[0]] {
        assert_delivers(&harness, head).await;
    }
    harness.assert_never_early(&[]);

    let mut moved = request("update");
    moved["ResourceProperties"]["HeadIds"] = json!([HEAD_ID, MORE_HEADS[0]]);
    moved["OldResourceProperties"] = moved["ResourceProperties"].clone();
    let new = "https://new.example.com/webhooks/head-events";
    moved["ResourceProperties"]["WebhookUrl"] = new.into();
    let harness = harness.with("WEBHOOK_URL", new);
    let writes = harness.secrets.calls("PutSecretValue");
    let response = harness.respond(moved).await;
    assert_eq!(response["Status"], "SUCCESS", "{response}");
    assert_eq!(harness.secrets.calls("PutSecretValue"), writes + 2, "the new keys, and the old ones' retirement");
    for head in [HEAD_ID, MORE_HEADS[0]] {
        let webhooks: Vec<_> =
            harness.platform.webhooks().into_iter().filter(|webhook| webhook.head_id == head).collect();
        assert_eq!(webhooks.len(), 1);
        assert!(
            webhooks[0].webhook_url == new && webhooks[0].made_while_on && webhooks[0].subscriptions == EventTypes::ALL
        );
    }
}

/// A receiver with other keys refreshes its ring at most every 10 s.
#[tokio::test]
async fn a_new_key_is_in_the_ring_for_the_propagation_delay_before_it_is_used() {
    let propagation_delay = Duration::from_millis(600);
    // Nobody waits with an empty ring, so this delay does not matter.
    let never = Timing { propagation_delay: Duration::from_hours(1), ..QUICK };
    let harness = ProvisionHarness::start().await.with("HEAD_IDS", "*").with_timing(never);
    assert_eq!(harness.invoke(json!({"action": "apply", "head_ids": [HEAD_ID]})).await.unwrap()["ok"], true);
    let harness = harness.with_timing(Timing { propagation_delay, ..QUICK });
    harness.invoke(json!({"action": "apply", "head_ids": [MORE_HEADS[0]]})).await.unwrap();
    harness.invoke(json!({"action": "rotate", "head_ids": [MORE_HEADS[0]]})).await.unwrap();
    let rings = harness.secrets.history(RING_SECRET);
    for webhook in [2, 3] {
        let live =
            harness.platform.journal().into_iter().find(|change| change.live && change.webhook.id == webhook).unwrap();
        let stored = rings.iter().find(|(_, ring)| ring.contains(&live.webhook.shared_key)).unwrap().0;
        assert!(live.at.duration_since(stored) >= propagation_delay, "webhook {webhook}");
    }
}
