//! `apply`: from any start state to the declared one, and no further.

use proptest::{prelude::*, test_runner::TestRunner};
use sandbox::platform::{HEAD_ID, Settings, Subscriptions};
use serde_json::{Value, json};
use tests::unith::{MORE_HEADS, ProvisionHarness, URL};

const OTHER_URL: &str = "https://somebody.example.com/else";

/// Registers a webhook by hand.
fn register(world: &ProvisionHarness, head_id: &str, url: &str, subscriptions: Subscriptions) {
    world.platform.register_in_console(head_id, url, subscriptions);
}

const ALL: &str = "START_CONVERSATION, END_CONVERSATION, TIMEOUT_CONVERSATION, INACTIVITY_WARNING";

#[tokio::test]
async fn nothing_becomes_everything_and_a_second_run_changes_nothing() {
    let world = ProvisionHarness::start().await;
    let first = world.command("apply").await;
    assert_eq!(first["ok"], true, "{first}");
    let done = json!([
        "switch the head's events on",
        "register webhook 1",
        "store the key of webhook 1",
        format!("subscribe webhook 1 to {ALL} (now none)"),
    ]);
    assert_eq!(first["heads"][0]["done"], done);
    world.assert_provisioned(HEAD_ID).await;
    world.assert_never_early(&[]);
    let (ring, webhooks) = (world.ring_text().await, format!("{:?}", world.platform.webhooks()));
    let (calls, writes) = (world.platform.total_calls(), world.secrets.calls("PutSecretValue"));

    let second = world.command("apply").await;
    assert_eq!(second["heads"][0], json!({"head_id": HEAD_ID, "ok": true, "done": []}));
    assert_eq!((ring, webhooks), (world.ring_text().await, format!("{:?}", world.platform.webhooks())));
    assert_eq!(world.platform.total_calls() - calls, 3, "a token, the list, and the switch");
    assert_eq!(world.secrets.calls("PutSecretValue"), writes);
}

#[tokio::test]
async fn what_was_registered_by_hand_is_replaced_and_others_are_left_alone() {
    let world = ProvisionHarness::start().await;
    register(&world, HEAD_ID, OTHER_URL, Subscriptions::default());
    world.platform.enable_in_console(HEAD_ID, true);
    register(&world, HEAD_ID, "https://HOOKS.example.com:443/webhooks/head-events", Subscriptions::ALL);
    let [others, by_hand] = world.platform.webhooks().try_into().unwrap();
    let result = world.command("apply").await;
    let done = json!([
        "register webhook 3",
        "store the key of webhook 3",
        format!("subscribe webhook 3 to {ALL} (now none)"),
        "delete webhook 2; its key stays valid for a while",
    ]);
    assert_eq!(result["heads"][0]["done"], done, "{result}");
    let webhooks = world.platform.webhooks();
    assert_eq!(webhooks.len(), 2);
    assert_eq!(format!("{:?}", webhooks[0]), format!("{others:?}"));
    world.assert_provisioned(HEAD_ID).await;
    world.assert_never_early(std::slice::from_ref(&by_hand.shared_key));
    let ring = world.ring().await;
    let kept = ring.keys().iter().find(|key| key.key.expose() == by_hand.shared_key).expect("its key is in the ring");
    assert_eq!(kept.state.as_str(), "retiring", "what it signed last can be verified");
}

#[tokio::test]
async fn drift_is_repaired() {
    let world = ProvisionHarness::start().await;
    world.command("apply").await;
    world.platform.change_in_console(1, Subscriptions::default());
    register(&world, HEAD_ID, URL, Subscriptions::ALL);
    world.platform.enable_in_console(HEAD_ID, false);

    let status = world.command("status").await;
    assert_eq!(status["ok"], false);
    let drift = json!([
        format!("subscribe webhook 1 to {ALL} (now none)"),
        "delete webhook 2: our URL is registered twice",
        "switch the head's events on",
    ]);
    assert_eq!(status["heads"][0]["drift"], drift);
    assert_eq!(status["heads"][0]["events_on"], false);
    assert_eq!(world.command("plan").await["heads"][0]["steps"], drift);
    assert_eq!(world.command("apply").await["heads"][0]["done"].as_array().unwrap().len(), 3);
    world.assert_provisioned(HEAD_ID).await;
    assert_eq!(world.platform.webhooks()[0].id, 1, "the one that was made while events were on stays");
    assert_eq!(world.command("status").await["ok"], true);
}

#[tokio::test]
async fn subscriptions_are_the_declared_ones() {
    let world = ProvisionHarness::start().await.with("SUBSCRIPTIONS", "START_CONVERSATION,END_CONVERSATION");
    world.command("apply").await;
    let expected = Subscriptions { start_conversation: true, end_conversation: true, ..Subscriptions::default() };
    assert_eq!(world.platform.webhooks()[0].subscriptions, expected);
}

#[tokio::test]
async fn one_heads_failure_does_not_keep_the_others_from_being_done() {
    let world = ProvisionHarness::start().await.with("HEAD_IDS", format!("{HEAD_ID},no-such-head,{}", MORE_HEADS[0]));
    let result = world.command("apply").await;
    assert_eq!(result["ok"], false);
    let how: Vec<_> = result["heads"].as_array().unwrap().iter().map(|head| head["ok"].clone()).collect();
    assert_eq!(how, [true, false, true]);
    let error = result["heads"][1]["error"].as_str().unwrap();
    assert!(
        error.starts_with("GET /head/no-such-head/enable-events: UNITH answered 404")
            && error.ends_with("is `no-such-head` the head's public id? UNITH wants the UUID here"),
        "{error}"
    );
    world.assert_provisioned(HEAD_ID).await;
    world.assert_provisioned(MORE_HEADS[0]).await;
}

#[tokio::test]
async fn masked_keys_and_pages_are_coped_with() {
    let world = ProvisionHarness::start().await;
    for n in 0..5 {
        register(&world, HEAD_ID, &format!("{OTHER_URL}/{n}"), Subscriptions::ALL);
    }
    world.faults(json!({"masked_keys": true, "page_size": 2}));
    assert_eq!(world.command("apply").await["ok"], true);
    world.assert_provisioned(HEAD_ID).await;
    assert_eq!(world.command("apply").await["heads"][0]["done"], json!([]));

    // A webhook whose key nobody knows any more is replaced.
    world.set_secret(tests::RING_SECRET, r#"{"keys": []}"#).await;
    let plan = world.command("plan").await;
    let replace = "replace webhook 6: it is not known to have been registered while the head's events were on";
    assert_eq!(plan["heads"][0]["steps"], json!([replace]));
    let result = world.command("apply").await;
    assert_eq!(
        result["heads"][0]["done"],
        json!([
            "register webhook 7",
            "store the key of webhook 7",
            format!("subscribe webhook 7 to {ALL} (now none)"),
            "delete webhook 6; its key stays valid for a while",
        ])
    );
    world.assert_provisioned(HEAD_ID).await;
    assert_eq!(world.platform.webhooks().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn applies_at_once_lose_nothing() {
    let heads = [HEAD_ID, MORE_HEADS[0], MORE_HEADS[1]];
    let world = ProvisionHarness::start().await.with("HEAD_IDS", heads.join(","));
    let by_hand = json!({"key": "a-key-put-in-by-hand", "note": "kept"});
    world.set_secret(tests::RING_SECRET, &json!({"keys": [by_hand], "owner": "somebody"}).to_string()).await;
    let provisioner = world.provisioner();
    let runs: Vec<_> = heads
        .iter()
        .map(|head| {
            let (provisioner, input) = (provisioner.clone(), json!({"action": "apply", "head_ids": [head]}));
            let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
            tokio::spawn(async move { provisioner.handle(input, deadline).await.unwrap() })
        })
        .collect();
    for run in runs {
        let result = run.await.unwrap();
        assert_eq!(result["ok"], true, "{result}");
    }
    for head in heads {
        world.assert_provisioned(head).await;
    }
    let ring: Value = serde_json::from_str(&world.ring_text().await).unwrap();
    assert_eq!((&ring["owner"], &ring["keys"][0]), (&json!("somebody"), &by_hand));
    assert_eq!(ring["keys"].as_array().unwrap().len(), 4);
}

/// Three runs for the same head at once: whatever they do to each other, one more makes it right, and never is an event
/// signed with a key that is not in the ring.
#[tokio::test(flavor = "multi_thread")]
async fn applies_at_once_for_one_head_end_with_one_webhook() {
    for masked in [false, true] {
        for doubles in [0, 2] {
            let world = ProvisionHarness::start().await;
            world.platform.enable_in_console(HEAD_ID, doubles > 0);
            for _ in 0..doubles {
                register(&world, HEAD_ID, URL, Subscriptions::ALL);
            }
            world.faults(json!({"masked_keys": masked, "latency_ms": 5}));
            let provisioner = world.provisioner();
            let runs: Vec<_> = (0..3)
                .map(|_| {
                    let provisioner = provisioner.clone();
                    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
                    tokio::spawn(async move { provisioner.handle(json!({"action": "apply"}), deadline).await.unwrap() })
                })
                .collect();
            for run in runs {
                run.await.unwrap();
            }
            let last = world.command("apply").await;
            assert_eq!(last["ok"], true, "masked={masked} doubles={doubles}: {last}");
            world.assert_provisioned(HEAD_ID).await;
        }
    }
}

#[tokio::test]
async fn a_platform_that_wants_some_subscription_gets_it() {
    let world = ProvisionHarness::start().await;
    let says = r#"{"message": "at least one subscription must exist"}"#;
    let failing = json!({"call": "POST /head-events", "how": {"status": [400, null]}, "says": says, "times": 2});
    world.faults(json!({"failing": [failing.clone()]}));
    let result = world.command("apply").await;
    let done = json!(["switch the head's events on", "register webhook 1", "store the key of webhook 1"]);
    assert_eq!(result["heads"][0]["done"], done);
    let note = result["heads"][0]["notes"][0].as_str().unwrap();
    assert!(note.contains("refused until its key can be read"), "{note}");
    world.assert_provisioned(HEAD_ID).await;

    world.faults(json!({"failing": [failing]}));
    assert_eq!(world.command("rotate").await["ok"], true);
    world.assert_provisioned(HEAD_ID).await;
}

#[tokio::test]
async fn a_key_that_cannot_be_had_leaves_nothing_behind() {
    let world = ProvisionHarness::start().await;
    world.faults(json!({"masked_keys": true, "no_key_on_register": true}));
    for _ in 0..2 {
        let result = world.command("apply").await;
        assert!(result["heads"][0]["error"].as_str().unwrap().contains("shows its key nowhere"), "{result}");
        assert!(world.platform.webhooks().is_empty() && !world.platform.events_enabled(HEAD_ID));
    }
}

#[derive(Debug, Clone)]
struct StartState {
    /// Ours or not, subscribed or not, made while events were on or not.
    webhooks: Vec<(bool, bool, bool)>,
    /// The webhook, whether it is its key, whether it is retiring, whether it is said to have been made while events were on.
    ring: Vec<(u64, bool, bool, bool)>,
    masked: bool,
    enabled: bool,
    declared_on: bool,
}

fn start_state() -> impl Strategy<Value = StartState> {
    let webhooks = prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), 0..4);
    let ring = prop::collection::vec((1_u64..6, any::<bool>(), any::<bool>(), any::<bool>()), 0..4);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (webhooks, ring, flags).prop_map(|(webhooks, ring, (masked, enabled, declared_on))| StartState {
        webhooks,
        ring,
        masked,
        enabled,
        declared_on,
    })
}

/// Whatever is registered and whatever is in the ring: after `apply` the plan is empty, and others' webhooks are there.
#[test]
fn from_any_start_state_apply_leaves_nothing_to_do() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() });
    let property = |start: StartState| {
        runtime.block_on(check_converges(start));
        Ok(())
    };
    runner.run(&start_state(), property).unwrap();
}

async fn check_converges(start: StartState) {
    let world = ProvisionHarness::start_with(Settings { seed: 7, ..Settings::default() }).await;
    let world = world.with("ENABLE_EVENTS", start.declared_on.to_string());
    let mut others = 0;
    for (ours, subscribed, while_on) in &start.webhooks {
        world.platform.enable_in_console(HEAD_ID, *while_on);
        others += usize::from(!ours);
        let subscriptions = if *subscribed { Subscriptions::ALL } else { Subscriptions::default() };
        register(&world, HEAD_ID, if *ours { URL } else { OTHER_URL }, subscriptions);
    }
    let webhooks = world.platform.webhooks();
    let keys: Vec<_> = start
        .ring
        .iter()
        .map(|(id, right, retiring, made_while_on)| {
            // What the ring says of a webhook is what provision saw.
            let was_on = webhooks.iter().any(|webhook| webhook.id == *id && webhook.made_while_on);
            let right_key = webhooks.iter().find(|webhook| webhook.id == *id && *right).map(|w| w.shared_key.clone());
            let (state, until) =
                if *retiring { ("retiring", json!("2020-01-01T00:00:00Z")) } else { ("active", json!(null)) };
            json!({
                "head_id": HEAD_ID, "webhook_id": id, "state": state, "until": until,
                "made_while_on": *made_while_on && was_on,
                "key": right_key.unwrap_or_else(|| "00112233445566778899aabbccddeeff".to_owned()),
            })
        })
        .collect();
    world.set_secret(tests::RING_SECRET, &tests::ring(&keys)).await;
    world.platform.enable_in_console(HEAD_ID, start.enabled);
    world.faults(json!({"masked_keys": start.masked}));

    let applied = world.command("apply").await;
    assert_eq!(applied["ok"], true, "{start:?}: {applied}");
    let plan = world.command("plan").await;
    assert_eq!(plan["heads"][0]["steps"], json!([]), "{start:?}: {applied}");
    let left: Vec<_> = world.platform.webhooks().into_iter().filter(|w| w.webhook_url == OTHER_URL).collect();
    assert_eq!(left.len(), others, "{start:?}");
    assert_eq!(world.platform.events_enabled(HEAD_ID), start.declared_on, "{start:?}");
    let is_ours = |webhook: &&sandbox::platform::Webhook| webhook.webhook_url == URL;
    let ours: Vec<_> = world.platform.webhooks().iter().filter(is_ours).cloned().collect();
    let [own] = ours.as_slice() else { panic!("{start:?}: {ours:?}") };
    assert!(own.made_while_on && own.subscriptions == Subscriptions::ALL, "{start:?}: {own:?}");
    let known: Vec<_> = webhooks.iter().map(|webhook| webhook.shared_key.clone()).collect();
    world.assert_never_early(&known);
    // Whether a key in the ring is a masked one's, nobody can tell.
    if start.declared_on && !start.masked {
        world.assert_provisioned(HEAD_ID).await;
    }
}
