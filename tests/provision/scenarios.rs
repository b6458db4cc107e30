//! What people do with heads, on a platform where a webhook that was registered while events were off never delivers:
//! afterwards each head has one registration of ours, it delivers, and nothing was live before its key could be read.

use sandbox::platform::{EventType, HEAD_ID, Subscriptions};
use serde_json::{Value, json};
use tests::unith::{MORE_HEADS, ProvisionHarness, URL, request};
use unith_events::timestamp::Timestamp;

/// Asserts that the head is as it must be, and that an event of it goes to our webhook, once.
async fn assert_delivers(world: &ProvisionHarness, head_id: &str) {
    world.assert_provisioned(head_id).await;
    let sent = world.platform.emit(head_id, "session", EventType::EndConversation, Timestamp::now());
    let to: Vec<_> = sent.iter().map(|sent| sent.webhook_id).collect();
    let own =
        world.platform.webhooks().into_iter().find(|webhook| webhook.head_id == head_id && webhook.webhook_url == URL);
    assert_eq!(to, [own.unwrap().id]);
}

async fn succeed(world: &ProvisionHarness, kind: &str, changes: &Value) {
    let answer = world.cloudformation(kind, changes).await;
    assert_eq!(answer["Status"], "SUCCESS", "{kind} {changes}: {answer}");
}

#[tokio::test]
async fn creating_on_a_fresh_head() {
    let world = ProvisionHarness::start().await;
    succeed(&world, "create", &json!({"InactivityWarning": "true"})).await;
    assert_delivers(&world, HEAD_ID).await;
    world.assert_never_early(&[]);
}

#[tokio::test]
async fn a_registration_by_hand_or_by_version_0_1_0_on_a_head_that_is_on() {
    for made_while_on in [true, false] {
        for in_ring in [true, false] {
            let case = format!("made while on: {made_while_on}, in the ring: {in_ring}");
            let world = ProvisionHarness::start().await;
            world.platform.enable_in_console(HEAD_ID, made_while_on);
            world.platform.register_in_console(HEAD_ID, URL, Subscriptions::ALL);
            world.platform.enable_in_console(HEAD_ID, true);
            let old = world.platform.webhooks()[0].clone();
            if in_ring {
                // As version 0.1.0 wrote it.
                world.set_secret(tests::RING_SECRET, &tests::ring(&[json!({
                    "head_id": HEAD_ID, "webhook_id": 1, "key": old.shared_key, "state": "active", "since": "2026-01-16T09:56:12Z",
                })])).await;
            }
            assert_eq!(world.command("apply").await["ok"], true, "{case}");
            assert_delivers(&world, HEAD_ID).await;
            assert_eq!(world.platform.webhooks()[0].id, 2, "{case}");
            world.assert_never_early(&[old.shared_key]);
        }
    }
}

#[tokio::test]
async fn switching_off_and_on() {
    let world = ProvisionHarness::start().await;
    world.command("apply").await;
    for _ in 0..2 {
        assert_eq!(world.command("disable").await["heads"][0]["done"], json!(["switch the head's events off"]));
        assert_eq!(world.command("disable").await["heads"][0]["done"], json!([]));
        assert_eq!(world.command("enable").await["ok"], true);
        assert_delivers(&world, HEAD_ID).await;
    }
    assert_eq!(world.platform.webhooks()[0].id, 1);
    world.assert_never_early(&[]);
}

#[tokio::test]
async fn creating_with_events_off_and_switching_them_on_later() {
    let world = ProvisionHarness::start().await;
    succeed(&world, "create", &json!({"EnableEvents": "false"})).await;
    assert!(!world.platform.events_enabled(HEAD_ID));
    let calls = world.platform.calls("PUT /head/{head_id}/enable-events");
    succeed(&world, "update", &json!({"EnableEvents": "false"})).await;
    assert_eq!(
        world.platform.calls("PUT /head/{head_id}/enable-events"),
        calls,
        "what needs no registration stays off"
    );
    succeed(&world, "update", &json!({"EnableEvents": "true"})).await;
    assert_delivers(&world, HEAD_ID).await;
    assert_eq!(world.platform.webhooks()[0].id, 1);
    world.assert_never_early(&[]);
}

#[tokio::test]
async fn rotating() {
    let world = ProvisionHarness::start().await;
    world.command("apply").await;
    for id in 2..4 {
        assert_eq!(world.command("rotate").await["ok"], true);
        assert_delivers(&world, HEAD_ID).await;
        assert_eq!(world.platform.webhooks()[0].id, id);
    }
    world.assert_never_early(&[]);
}

#[tokio::test]
async fn adding_a_head_and_changing_the_url() {
    let world = ProvisionHarness::start().await.with("HEAD_IDS", "*");
    succeed(&world, "create", &json!({})).await;
    let writes = world.secrets.calls("PutSecretValue");
    succeed(&world, "update", &json!({"HeadIds": [HEAD_ID, MORE_HEADS[0]]})).await;
    assert_eq!(world.secrets.calls("PutSecretValue"), writes + 1, "one write for what is new");
    for head in [HEAD_ID, MORE_HEADS[0]] {
        assert_delivers(&world, head).await;
    }
    world.assert_never_early(&[]);

    let mut moved = request("update");
    moved["ResourceProperties"]["HeadIds"] = json!([HEAD_ID, MORE_HEADS[0]]);
    moved["OldResourceProperties"] = moved["ResourceProperties"].clone();
    let new = "https://new.example.com/webhooks/head-events";
    moved["ResourceProperties"]["WebhookUrl"] = new.into();
    let world = world.with("WEBHOOK_URL", new);
    let writes = world.secrets.calls("PutSecretValue");
    let answer = world.answer_to(moved, std::time::Duration::from_secs(30)).await;
    assert_eq!(answer["Status"], "SUCCESS", "{answer}");
    assert_eq!(world.secrets.calls("PutSecretValue"), writes + 2, "the new keys, and the old ones' retirement");
    for head in [HEAD_ID, MORE_HEADS[0]] {
        let webhooks: Vec<_> =
            world.platform.webhooks().into_iter().filter(|webhook| webhook.head_id == head).collect();
        assert_eq!(webhooks.len(), 1);
        assert!(
            webhooks[0].webhook_url == new
                && webhooks[0].made_while_on
                && webhooks[0].subscriptions == Subscriptions::ALL
        );
    }
}

/// A receiver looks for a new ring at most every 10 s: a key that is new to a ring with others in it is not used before.
#[tokio::test]
async fn a_new_key_is_in_the_ring_for_a_while_before_it_is_used() {
    let propagation_delay = std::time::Duration::from_millis(600);
    // With an empty ring nobody has anything to wait for: there is not the time for this.
    let never = provision::run::Timing { propagation_delay: std::time::Duration::from_hours(1), ..tests::unith::QUICK };
    let world = ProvisionHarness::start().await.with("HEAD_IDS", "*").with_pace(never);
    assert_eq!(world.invoke(json!({"action": "apply", "head_ids": [HEAD_ID]})).await.unwrap()["ok"], true);
    let world = world.with_pace(provision::run::Timing { propagation_delay, ..tests::unith::QUICK });
    world.invoke(json!({"action": "apply", "head_ids": [MORE_HEADS[0]]})).await.unwrap();
    world.invoke(json!({"action": "rotate", "head_ids": [MORE_HEADS[0]]})).await.unwrap();
    let rings = world.secrets.history(tests::RING_SECRET);
    for webhook in [2, 3] {
        let live =
            world.platform.journal().into_iter().find(|change| change.live && change.webhook_id == webhook).unwrap();
        let stored = rings.iter().find(|(_, ring)| ring.contains(&live.shared_key)).unwrap().0;
        assert!(live.at.duration_since(stored) >= propagation_delay, "webhook {webhook}");
    }
}
