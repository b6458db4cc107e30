//! Rotation: nothing lost, nothing refused, resumed wherever it died.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use provision::run::Timing;
use sandbox::{
    api_gateway::ApiGateway,
    platform::{EventType, HEAD_ID, Platform, Settings, Subscriptions},
    server::listen,
};
use serde_json::{Value, json};
use tests::{
    ReceiveHarness,
    unith::{MORE_HEADS, ProvisionHarness, URL},
};
use tokio::net::TcpListener;
use unith_events::{
    key_ring::{KeyState, RingKey},
    timestamp::Timestamp,
};

async fn states(world: &ProvisionHarness) -> Vec<(String, KeyState)> {
    let ring = world.ring().await;
    let state = |key: &RingKey| (key.webhook_id.as_ref().unwrap().to_string(), key.state);
    let mut states: Vec<_> = ring.keys().iter().map(state).collect();
    states.sort_by_key(|(id, _)| id.parse::<u64>().unwrap());
    states
}

#[tokio::test]
async fn a_new_webhook_takes_over_and_the_old_key_stays_for_a_while() {
    let world = ProvisionHarness::start().await;
    world.command("apply").await;
    let old = world.platform.webhooks()[0].shared_key.clone();
    let result = world.command("rotate").await;
    assert_eq!(result["ok"], true, "{result}");
    let webhooks = world.platform.webhooks();
    assert_eq!((webhooks.len(), webhooks[0].id), (1, 2));
    assert_ne!(webhooks[0].shared_key, old);
    assert_eq!(webhooks[0].subscriptions, Subscriptions::ALL);
    world.assert_provisioned(HEAD_ID).await;
    assert_eq!(states(&world).await, [("1".to_owned(), KeyState::Retiring), ("2".to_owned(), KeyState::Active)]);
    let ring = world.ring().await;
    let retiring = ring.keys().iter().find(|key| key.state == KeyState::Retiring).unwrap();
    let left = retiring.until.unwrap().since(Timestamp::now());
    assert!(left > time::Duration::minutes(14) && left < time::Duration::minutes(16), "{left}");
    assert_eq!(world.command("status").await["ok"], true, "a retiring key is no drift");
}

#[tokio::test]
async fn without_a_registration_there_is_nothing_to_rotate() {
    let world = ProvisionHarness::start().await;
    let result = world.command("rotate").await;
    assert!(result["heads"][0]["error"].as_str().unwrap().contains("run `apply` first"), "{result}");
    assert!(world.platform.webhooks().is_empty());
}

#[tokio::test]
async fn several_heads_share_one_wait() {
    let world =
        ProvisionHarness::start().await.with("HEAD_IDS", format!("{HEAD_ID},{},{}", MORE_HEADS[0], MORE_HEADS[1]));
    let world = world.with_pace(Timing { propagation_delay: Duration::from_millis(700), ..tests::unith::QUICK });
    world.command("apply").await;
    let (started, written) = (tokio::time::Instant::now(), world.secrets.calls("PutSecretValue"));
    assert_eq!(world.command("rotate").await["ok"], true);
    assert!(started.elapsed() >= Duration::from_millis(700));
    // A wait follows a write: of the new keys there is one, of the replaced ones another.
    assert_eq!(world.secrets.calls("PutSecretValue"), written + 2);
    for head in [HEAD_ID, MORE_HEADS[0], MORE_HEADS[1]] {
        world.assert_provisioned(head).await;
    }
}

#[tokio::test]
async fn a_rotation_that_died_anywhere_is_completed_by_the_next_run() {
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
            let world = ProvisionHarness::start().await;
            world.command("apply").await;
            // A refusal is final, and so is a registration nobody knows the outcome of: the run ends there.
            let how = if call.starts_with("POST") { json!("reset") } else { json!({"status": [422, null]}) };
            let fail = |times| json!({"call": call, "how": how, "after_effect": after_effect, "times": times});
            world.faults(json!({"failing": [fail(1_000)]}));
            if nth == 2 {
                world.faults(json!({}));
                let provisioner = world.provisioner();
                let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
                let run = provisioner.run(deadline, |_| ()).await.unwrap();
                // The second registration, made as a rotation makes it, and then nothing more.
                run.unith.register(HEAD_ID, URL, provision::declared::Subscriptions::NONE).await.unwrap();
            } else if call.starts_with("POST") {
                // What became of it shows in the list, so the run comes to its end.
                world.command("rotate").await;
            } else {
                let died = world.command("rotate").await;
                // What became of a deletion shows in the list, too.
                assert_eq!(died["ok"], call.starts_with("DELETE") && after_effect, "{case}: {died}");
            }
            world.assert_never_deaf(HEAD_ID).await;
            world.faults(json!({}));
            let resumed = world.command(next).await;
            assert_eq!(resumed["ok"], true, "{case}: {resumed}");
            world.assert_provisioned(HEAD_ID).await;
            world.assert_never_early(&[]);
            assert_eq!(world.platform.webhooks()[0].subscriptions, Subscriptions::ALL, "{case}");
        }
    }
}

#[tokio::test]
async fn masked_keys_do_not_keep_it_from_rotating() {
    let world = ProvisionHarness::start().await;
    world.faults(json!({"masked_keys": true}));
    world.command("apply").await;
    let result = world.command("rotate").await;
    assert_eq!(result["ok"], true, "{result}");
    world.assert_provisioned(HEAD_ID).await;
}

/// UNITH always adds: whatever it says of a second registration, the one that works is not given up for it.
#[tokio::test]
async fn no_refusal_costs_the_webhook_that_works() {
    for (status, says) in [(409, "conflict"), (400, "already registered"), (422, "duplicate"), (403, "no")] {
        let world = ProvisionHarness::start().await;
        world.command("apply").await;
        let before = format!("{:?}", world.platform.webhooks());
        let failing =
            json!({"call": "POST /head-events", "how": {"status": [status, null]}, "says": says, "times": 1_000});
        world.faults(json!({"failing": [failing]}));
        let result = world.command("rotate").await;
        assert_eq!(result["ok"], false, "{result}");
        assert_eq!(format!("{:?}", world.platform.webhooks()), before, "{status} {says}");
        world.assert_provisioned(HEAD_ID).await;
    }
}

#[tokio::test]
async fn a_head_that_is_off_is_rotated_and_stays_off() {
    for declared in ["true", "false"] {
        let world = ProvisionHarness::start().await.with("ENABLE_EVENTS", declared);
        world.command("apply").await;
        world.command("disable").await;
        assert_eq!(world.command("rotate").await["ok"], true);
        assert!(!world.platform.events_enabled(HEAD_ID), "declared {declared}");
        assert_eq!(world.command("enable").await["ok"], true);
        world.assert_provisioned(HEAD_ID).await;
        assert_eq!(world.platform.webhooks()[0].id, 2);
        world.assert_never_early(&[]);
    }
}

#[tokio::test]
async fn a_change_that_gives_the_webhook_another_key_is_noticed() {
    let world = ProvisionHarness::start().await;
    world.command("apply").await;
    world.faults(json!({"patch_changes_key": true}));
    let result = world.command("rotate").await;
    assert_eq!(result["ok"], true, "{result}");
    assert!(result["heads"][0]["notes"][0].as_str().unwrap().contains("another key, which is stored"), "{result}");
    world.assert_provisioned(HEAD_ID).await;
}

#[tokio::test]
async fn a_rotation_whose_wait_does_not_fit_does_not_begin() {
    let world = ProvisionHarness::start().await.with_pace(Timing::default());
    world.command("apply").await;
    let result = world.invoke_within(json!({"action": "rotate"}), Duration::from_secs(12)).await.unwrap();
    assert!(result["heads"][0]["error"].as_str().unwrap().contains("16 s at the least"), "{result}");
    assert_eq!(world.platform.webhooks().len(), 1);
}

/// 2,000 deliveries while the key is rotated twice: every event stored once, none answered 401.
#[tokio::test(flavor = "multi_thread")]
async fn under_load_nothing_is_lost_and_nothing_refused() {
    let listener = listen("the front", 0).await.unwrap();
    let world = ProvisionHarness::start_with(settings(&listener)).await.with_pace(Timing::default());
    world.command("apply").await;
    // The platform takes its time, so that there is one in which two webhooks deliver.
    world.faults(json!({"latency_ms": 150}));

    // The receiver reads the very ring that the rotation writes.
    let receiving = ReceiveHarness::without_ring().await;
    let receiving = receiving.with_secrets_of(&world);
    let caller = receiving.receiver().await;
    let routes = BTreeMap::from([("POST /webhooks/head-events".to_owned(), caller.as_function())]);
    let _front = ApiGateway::serve(listener, routes).unwrap();

    let world = Arc::new(world);
    let rotated = Arc::new(AtomicBool::new(false));
    let rotation = tokio::spawn({
        let (world, rotated) = (Arc::clone(&world), Arc::clone(&rotated));
        async move {
            let mut results = Vec::new();
            for _ in 0..2 {
                results.push(world.invoke_within(json!({"action": "rotate"}), Duration::from_mins(1)).await.unwrap());
            }
            rotated.store(true, Ordering::SeqCst);
            results
        }
    });
    let (mut events, mut deliveries, mut refused) = (0, 0, Vec::new());
    while deliveries < 2_000 || !rotated.load(Ordering::SeqCst) {
        // A burst, and a breath: the load is spread over the time that two rotations take.
        let sent: Vec<_> = (0..20)
            .flat_map(|_| {
                events += 1;
                emit(&world.platform, events)
            })
            .collect();
        for sent in sent {
            deliveries += 1;
            for attempt in sent.attempts.await.unwrap() {
                if !attempt.succeeded() {
                    refused.push(format!("{:?}", attempt.answer));
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    for result in rotation.await.unwrap() {
        assert_eq!(result["ok"], true, "{result}");
    }
    assert!(refused.is_empty(), "{} of {deliveries} were refused: {:?}", refused.len(), refused.first());
    assert_eq!(world.platform.webhooks()[0].id, 3, "rotated twice");
    assert!(deliveries > events, "{deliveries} deliveries of {events} events: none was delivered by two webhooks");
    assert_eq!(receiving.table.items().await.len(), events, "every event, once");
}

fn settings(front: &TcpListener) -> Settings {
    let hosts = BTreeMap::from([("hooks.example.com".to_owned(), format!("http://{}", front.local_addr().unwrap()))]);
    Settings { hosts, first_backoff: Duration::from_millis(20), ..Settings::default() }
}

fn emit(platform: &Platform, number: usize) -> Vec<sandbox::platform::Sent> {
    let sent = platform.emit(HEAD_ID, &format!("session-{number}"), EventType::StartConversation, Timestamp::now());
    assert!(!sent.is_empty(), "no webhook is subscribed: event {number} would be lost");
    sent
}

#[tokio::test]
async fn the_report_reads_well() {
    let world = ProvisionHarness::start().await;
    world.command("apply").await;
    let result: Value = world.command("rotate").await;
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
