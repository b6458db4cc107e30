//! `apply` brings any state to the declared one, and changes nothing else.

use proptest::{prelude::*, test_runner::TestRunner};
use sandbox::platform::{account::HEAD_ID, call::Call, settings::Settings, webhook::Webhook};
use serde_json::{Value, json};
use tests::{
    key_ring::{RING_SECRET, ring},
    provision_harness::{MORE_HEADS, ProvisionHarness, URL, request},
    wait::PATIENCE,
};
use tokio::time::Instant;
use unith_events::{
    event_type::{EventType, EventTypes},
    key_ring::KeyState,
};

const OTHER_URL: &str = "https://somebody.example.com/else";

fn register(harness: &ProvisionHarness, head_id: &str, url: &str, subscriptions: EventTypes) {
    harness.platform.register_in_console(head_id, url, subscriptions);
}

const ALL: &str = "START_CONVERSATION, END_CONVERSATION, TIMEOUT_CONVERSATION, INACTIVITY_WARNING";

#[tokio::test]
async fn apply_provisions_a_fresh_head_and_a_second_run_changes_nothing() {
    let harness = ProvisionHarness::start().await;
    let first = harness.command("apply").await;
    assert_eq!(first["ok"], true, "{first}");
    let done = json!([
        "switch the head's events on",
        "register webhook 1",
        "store the key of webhook 1",
        format!("subscribe webhook 1 to {ALL} (now none)"),
    ]);
    assert_eq!(first["heads"][0]["done"], done);
    harness.assert_provisioned(HEAD_ID).await;
    harness.assert_never_early(&[]);
    let (ring, webhooks) = (harness.ring_text().await, format!("{:?}", harness.platform.webhooks()));
    let (calls, writes) = (harness.platform.calls(Call::Any), harness.secrets.calls("PutSecretValue"));

    let second = harness.command("apply").await;
    assert_eq!(second["heads"][0], json!({"head_id": HEAD_ID, "ok": true, "done": []}));
    assert_eq!((ring, webhooks), (harness.ring_text().await, format!("{:?}", harness.platform.webhooks())));
    assert_eq!(harness.platform.calls(Call::Any) - calls, 3, "a token, the list, and the switch");
    assert_eq!(harness.secrets.calls("PutSecretValue"), writes);
}

#[tokio::test]
async fn a_webhook_registered_by_hand_is_replaced_and_others_stay() {
    let harness = ProvisionHarness::start().await;
    register(&harness, HEAD_ID, OTHER_URL, EventTypes::NONE);
    harness.platform.enable_in_console(HEAD_ID, true);
    register(&harness, HEAD_ID, "https://HOOKS.example.com:443/webhooks/head-events", EventTypes::ALL);
    let [others, by_hand] = harness.platform.webhooks().try_into().unwrap();
    let result = harness.command("apply").await;
    let done = json!([
        "register webhook 3",
        "store the key of webhook 3",
        format!("subscribe webhook 3 to {ALL} (now none)"),
        "delete webhook 2; its key stays valid for a while",
    ]);
    assert_eq!(result["heads"][0]["done"], done, "{result}");
    let webhooks = harness.platform.webhooks();
    assert_eq!(webhooks.len(), 2);
    assert_eq!(format!("{:?}", webhooks[0]), format!("{others:?}"));
    harness.assert_provisioned(HEAD_ID).await;
    harness.assert_never_early(std::slice::from_ref(&by_hand.shared_key));
    let ring = harness.ring().await;
    let kept = ring.keys().iter().find(|key| key.key.expose() == by_hand.shared_key).expect("its key is in the ring");
    assert_eq!(kept.state, KeyState::Retiring, "its last deliveries can be verified");
}

#[tokio::test]
async fn apply_repairs_the_drift_that_status_and_plan_show() {
    let harness = ProvisionHarness::start().await;
    harness.command("apply").await;
    harness.platform.change_in_console(1, EventTypes::NONE);
    register(&harness, HEAD_ID, URL, EventTypes::ALL);
    harness.platform.enable_in_console(HEAD_ID, false);

    let status = harness.command("status").await;
    assert_eq!(status["ok"], false);
    let drift = json!([
        format!("subscribe webhook 1 to {ALL} (now none)"),
        "delete webhook 2: our URL is registered twice",
        "switch the head's events on",
    ]);
    assert_eq!(status["heads"][0]["drift"], drift);
    assert_eq!(status["heads"][0]["events_on"], false);
    assert_eq!(harness.command("plan").await["heads"][0]["steps"], drift);
    assert_eq!(harness.command("apply").await["heads"][0]["done"].as_array().unwrap().len(), 3);
    harness.assert_provisioned(HEAD_ID).await;
    assert_eq!(harness.platform.webhooks()[0].id, 1, "the webhook that was registered while events were on stays");
    assert_eq!(harness.command("status").await["ok"], true);
}

#[tokio::test]
async fn a_webhook_gets_the_declared_subscriptions() {
    let harness = ProvisionHarness::start().await.with("SUBSCRIPTIONS", "START_CONVERSATION,END_CONVERSATION");
    harness.command("apply").await;
    let expected = [EventType::StartConversation, EventType::EndConversation].into_iter().collect();
    assert_eq!(harness.platform.webhooks()[0].subscriptions, expected);
}

#[tokio::test]
async fn one_heads_failure_does_not_stop_the_others() {
    let harness = ProvisionHarness::start().await.with("HEAD_IDS", format!("{HEAD_ID},no-such-head,{}", MORE_HEADS[0]));
    let result = harness.command("apply").await;
    assert_eq!(result["ok"], false);
    let how: Vec<_> = result["heads"].as_array().unwrap().iter().map(|head| head["ok"].clone()).collect();
    assert_eq!(how, [true, false, true]);
    let error = result["heads"][1]["error"].as_str().unwrap();
    assert!(
        error.starts_with("GET /head/no-such-head/enable-events: UNITH answered 404")
            && error.ends_with("is `no-such-head` the head's public id? UNITH wants the UUID here"),
        "{error}"
    );
    harness.assert_provisioned(HEAD_ID).await;
    harness.assert_provisioned(MORE_HEADS[0]).await;
}

#[tokio::test]
async fn apply_works_with_masked_keys_and_paged_lists() {
    let harness = ProvisionHarness::start().await;
    for n in 0..5 {
        register(&harness, HEAD_ID, &format!("{OTHER_URL}/{n}"), EventTypes::ALL);
    }
    harness.faults(json!({"masked_keys": true, "page_size": 2}));
    assert_eq!(harness.command("apply").await["ok"], true);
    harness.assert_provisioned(HEAD_ID).await;
    assert_eq!(harness.command("apply").await["heads"][0]["done"], json!([]));

    // A webhook whose key is lost is replaced.
    harness.set_secret(RING_SECRET, r#"{"keys": []}"#).await;
    let plan = harness.command("plan").await;
    let replace = "replace webhook 6: it is not known to have been registered while the head's events were on";
    assert_eq!(plan["heads"][0]["steps"], json!([replace]));
    let result = harness.command("apply").await;
    assert_eq!(
        result["heads"][0]["done"],
        json!([
            "register webhook 7",
            "store the key of webhook 7",
            format!("subscribe webhook 7 to {ALL} (now none)"),
            "delete webhook 6; its key stays valid for a while",
        ])
    );
    harness.assert_provisioned(HEAD_ID).await;
    assert_eq!(harness.platform.webhooks().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_runs_for_different_heads_keep_each_others_keys() {
    let heads = [HEAD_ID, MORE_HEADS[0], MORE_HEADS[1]];
    let harness = ProvisionHarness::start().await.with("HEAD_IDS", heads.join(","));
    let by_hand = json!({"key": "a-key-put-in-by-hand", "note": "kept"});
    harness.set_secret(RING_SECRET, &json!({"keys": [by_hand], "owner": "somebody"}).to_string()).await;
    let provisioner = harness.provisioner();
    let runs: Vec<_> = heads
        .iter()
        .map(|head| {
            let (provisioner, input) = (provisioner.clone(), json!({"action": "apply", "head_ids": [head]}));
            tokio::spawn(async move { provisioner.handle(input, Instant::now() + PATIENCE).await.unwrap() })
        })
        .collect();
    for run in runs {
        let result = run.await.unwrap();
        assert_eq!(result["ok"], true, "{result}");
    }
    for head in heads {
        harness.assert_provisioned(head).await;
    }
    let ring: Value = serde_json::from_str(&harness.ring_text().await).unwrap();
    assert_eq!((&ring["owner"], &ring["keys"][0]), (&json!("somebody"), &by_hand));
    assert_eq!(ring["keys"].as_array().unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_more_run_after_concurrent_runs_for_a_head_leaves_one_webhook() {
    for masked in [false, true] {
        for doubles in [0, 2] {
            let harness = ProvisionHarness::start().await;
            harness.platform.enable_in_console(HEAD_ID, doubles > 0);
            for _ in 0..doubles {
                register(&harness, HEAD_ID, URL, EventTypes::ALL);
            }
            harness.faults(json!({"masked_keys": masked, "latency_ms": 5}));
            let provisioner = harness.provisioner();
            let runs: Vec<_> = (0..3)
                .map(|_| {
                    let (provisioner, deadline) = (provisioner.clone(), Instant::now() + PATIENCE);
                    tokio::spawn(async move { provisioner.handle(json!({"action": "apply"}), deadline).await.unwrap() })
                })
                .collect();
            for run in runs {
                run.await.unwrap();
            }
            let last = harness.command("apply").await;
            assert_eq!(last["ok"], true, "masked={masked} doubles={doubles}: {last}");
            harness.assert_provisioned(HEAD_ID).await;
        }
    }
}

#[tokio::test]
async fn a_webhook_is_registered_with_subscriptions_if_unith_refuses_one_without() {
    let harness = ProvisionHarness::start().await;
    let says = r#"{"message": "at least one subscription must exist"}"#;
    let failing = json!({"call": "POST /head-events", "how": {"status": [400, null]}, "says": says, "times": 2});
    harness.faults(json!({"failing": [failing.clone()]}));
    let result = harness.command("apply").await;
    let done = json!(["switch the head's events on", "register webhook 1", "store the key of webhook 1"]);
    assert_eq!(result["heads"][0]["done"], done);
    let note = result["heads"][0]["notes"][0].as_str().unwrap();
    assert!(note.contains("refused until its key can be read"), "{note}");
    harness.assert_provisioned(HEAD_ID).await;

    harness.faults(json!({"failing": [failing]}));
    assert_eq!(harness.command("rotate").await["ok"], true);
    harness.assert_provisioned(HEAD_ID).await;
}

#[tokio::test]
async fn a_registration_whose_key_is_never_shown_leaves_nothing_behind() {
    let harness = ProvisionHarness::start().await;
    harness.faults(json!({"masked_keys": true, "no_key_on_register": true}));
    for _ in 0..2 {
        let result = harness.command("apply").await;
        assert!(result["heads"][0]["error"].as_str().unwrap().contains("shows its key nowhere"), "{result}");
        assert!(harness.platform.webhooks().is_empty() && !harness.platform.events_enabled(HEAD_ID));
    }
}

#[derive(Debug, Clone)]
struct StartState {
    /// Whether each is ours, is subscribed, and was registered while events were on.
    webhooks: Vec<(bool, bool, bool)>,
    /// The webhook of each entry, and whether it has that webhook's key, is retiring, and has `made_while_on`.
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

#[test]
fn after_apply_the_plan_is_empty_whatever_the_start() {
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
    let harness = ProvisionHarness::start_with(Settings { seed: 7, ..Settings::default() }).await;
    let harness = harness.with("ENABLE_EVENTS", start.declared_on.to_string());
    let mut others = 0;
    for (ours, subscribed, while_on) in &start.webhooks {
        harness.platform.enable_in_console(HEAD_ID, *while_on);
        others += usize::from(!ours);
        let subscriptions = if *subscribed { EventTypes::ALL } else { EventTypes::NONE };
        register(&harness, HEAD_ID, if *ours { URL } else { OTHER_URL }, subscriptions);
    }
    let webhooks = harness.platform.webhooks();
    let keys: Vec<_> = start
        .ring
        .iter()
        .map(|(id, right, retiring, made_while_on)| {
            // The ring only says what provision saw.
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
    harness.set_secret(RING_SECRET, &ring(&keys)).await;
    harness.platform.enable_in_console(HEAD_ID, start.enabled);
    harness.faults(json!({"masked_keys": start.masked}));

    let applied = harness.command("apply").await;
    assert_eq!(applied["ok"], true, "{start:?}: {applied}");
    let plan = harness.command("plan").await;
    assert_eq!(plan["heads"][0]["steps"], json!([]), "{start:?}: {applied}");
    let left: Vec<_> = harness.platform.webhooks().into_iter().filter(|w| w.webhook_url == OTHER_URL).collect();
    assert_eq!(left.len(), others, "{start:?}");
    assert_eq!(harness.platform.events_enabled(HEAD_ID), start.declared_on, "{start:?}");
    let is_ours = |webhook: &&Webhook| webhook.webhook_url == URL;
    let ours: Vec<_> = harness.platform.webhooks().iter().filter(is_ours).cloned().collect();
    let [own] = ours.as_slice() else { panic!("{start:?}: {ours:?}") };
    assert!(own.made_while_on && own.subscriptions == EventTypes::ALL, "{start:?}: {own:?}");
    let known: Vec<_> = webhooks.iter().map(|webhook| webhook.shared_key.clone()).collect();
    harness.assert_never_early(&known);
    // With masked keys, a wrong key in the ring cannot be found out.
    if start.declared_on && !start.masked {
        harness.assert_provisioned(HEAD_ID).await;
    }
}

#[tokio::test]
async fn the_key_of_a_webhook_that_got_the_id_of_a_deleted_one_stays_active() {
    let harness = ProvisionHarness::start().await;
    harness.faults(json!({"reuse_ids": true}));
    harness.platform.register_in_console(HEAD_ID, URL, EventTypes::ALL);
    let by_hand = harness.platform.webhooks()[0].shared_key.clone();
    let result = harness.command("apply").await;
    assert_eq!(result["ok"], true, "{result}");
    let webhooks = harness.platform.webhooks();
    assert_eq!((webhooks.len(), webhooks[0].id), (1, 1), "the id is used again");
    assert_ne!(webhooks[0].shared_key, by_hand);
    harness.assert_provisioned(HEAD_ID).await;
}

/// Deliveries have UNITH's spelling of the head's id, and a key of another spelling does not verify them.
#[tokio::test]
async fn a_head_id_in_another_case_fails_with_the_spelling_to_use_and_changes_nothing() {
    let upper = HEAD_ID.to_ascii_uppercase();
    let harness = ProvisionHarness::start().await.with("HEAD_IDS", &upper);
    harness.faults(json!({"any_case_of_head_ids": true}));
    let expected = format!("UNITH spells head `{upper}` as `{HEAD_ID}`");
    for webhooks in [0, 1] {
        let result = harness.command("apply").await;
        assert!(result["ok"] == false && result.to_string().contains(&expected), "{result}");
        assert_eq!(harness.platform.webhooks().len(), webhooks, "{result}");
        assert!(!harness.platform.events_enabled(HEAD_ID) && harness.ring().await.keys().is_empty(), "{result}");
        // From now on the list shows the spelling before anything is registered.
        harness.platform.register_in_console(HEAD_ID, "https://other.example.com/x", EventTypes::ALL);
    }
    assert_eq!(harness.platform.calls(Call::Register), 1);
    let status = harness.command("status").await;
    assert!(status["ok"] == false && status.to_string().contains(&expected), "{status}");
    let harness = harness.with("HEAD_IDS", HEAD_ID);
    assert_eq!(harness.command("apply").await["ok"], true);
    harness.assert_provisioned(HEAD_ID).await;
}

/// The ring may have been written under another spelling.
#[tokio::test]
async fn a_head_that_was_provisioned_in_another_case_is_replaced_when_the_spelling_is_corrected() {
    let upper = HEAD_ID.to_ascii_uppercase();
    let harness = ProvisionHarness::start().await;
    harness.command("apply").await;
    let ring = harness.ring_text().await.replace(HEAD_ID, &upper);
    harness.set_secret(RING_SECRET, &ring).await;
    harness.faults(json!({"any_case_of_head_ids": true}));
    let mut update = request("update");
    update["ResourceProperties"]["HeadIds"] = json!([HEAD_ID]);
    update["OldResourceProperties"]["HeadIds"] = json!([upper]);
    let response = harness.respond(update).await;
    assert_eq!(response["Status"], "SUCCESS", "{response}");
    harness.assert_provisioned(HEAD_ID).await;
    assert!(!harness.ring_text().await.contains(&upper));
}
