//! Ownership: a deletion removes what its owner owns, and nothing else.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use provision::reconciler::Timing;
use sandbox::{
    clients::secrets_client,
    platform::{account::HEAD_ID, call::Call},
};
use serde_json::{Value, json};
use tests::{
    key_ring::{RING_SECRET, ring},
    provision_harness::{MORE_HEADS, OWNER, ProvisionHarness, QUICK, URL, request},
    wait::{PATIENCE, within},
};
use unith_events::{event_type::EventTypes, key_ring::KeyState, timestamp::Timestamp};

const OTHER_STACK: &str =
    "arn:aws:cloudformation:eu-west-1:123456789012:stack/other/11111111-f2b1-11f0-9c2e-0a1b2c3d4e5f";

/// A second of the minute before the tests began: CloudFormation gives up on much older requests.
fn second(number: u64) -> String {
    static FIRST: OnceLock<Timestamp> = OnceLock::new();
    let first = FIRST.get_or_init(|| Timestamp::now().minus(Duration::from_mins(1)));
    let at = first.plus(Duration::from_secs(number)).to_string();
    format!("{}Z", at.split('.').next().unwrap())
}

/// A request of a resource, issued at a second of that minute.
fn of(kind: &str, logical_id: &str, stack: Option<&str>, second: u32) -> Value {
    let mut request = request(kind);
    request["LogicalResourceId"] = logical_id.into();
    request["PhysicalResourceId"] = format!("unith-webhook:{logical_id}").into();
    if let Some(stack) = stack {
        request["StackId"] = stack.into();
    }
    request["ResourceProperties"]["InactivityWarning"] = "true".into();
    request["IssuedAt"] = second.into();
    request
}

async fn respond(harness: &ProvisionHarness, request: Value) -> Value {
    harness.respond(dated(harness, request)).await
}

/// The request with a response URL that was signed when it was issued.
fn dated(harness: &ProvisionHarness, mut request: Value) -> Value {
    let date = second(request["IssuedAt"].as_u64().unwrap()).replace(['-', ':'], "");
    request["ResponseURL"] = format!("{}?X-Amz-Date={date}", harness.response_url()).into();
    request
}

async fn succeed(harness: &ProvisionHarness, request: Value) {
    let response = respond(harness, request).await;
    assert_eq!(response["Status"], "SUCCESS", "{response}");
}

async fn owners(harness: &ProvisionHarness) -> Vec<(String, Option<String>)> {
    let ring = harness.ring().await;
    let active = ring.keys().iter().filter(|key| key.state == KeyState::Active);
    active.map(|key| (key.owner.clone().unwrap_or_default(), key.previous_owner.clone())).collect()
}

#[tokio::test]
async fn renaming_the_resource_keeps_the_webhook() {
    let harness = ProvisionHarness::start().await;
    succeed(&harness, of("create", "UnithWebhook", None, 1)).await;
    // CloudFormation creates the new resource first, and deletes the old one after it.
    succeed(&harness, of("create", "Renamed", None, 2)).await;
    let renamed = OWNER.replace("UnithWebhook", "Renamed");
    assert_eq!(owners(&harness).await, [(renamed.clone(), Some(OWNER.to_owned()))]);
    succeed(&harness, of("delete", "UnithWebhook", None, 3)).await;
    harness.assert_provisioned(HEAD_ID).await;
    assert_eq!(harness.platform.webhooks()[0].id, 1, "the webhook stays");
    assert_eq!(owners(&harness).await, [(renamed, None)]);
    succeed(&harness, of("delete", "Renamed", None, 4)).await;
    assert!(harness.platform.webhooks().is_empty() && harness.ring().await.keys().is_empty());
    assert!(!harness.platform.events_enabled(HEAD_ID));
}

#[tokio::test]
async fn a_rename_that_is_rolled_back_gives_the_webhook_back() {
    let harness = ProvisionHarness::start().await;
    succeed(&harness, of("create", "UnithWebhook", None, 1)).await;
    succeed(&harness, of("create", "Renamed", None, 2)).await;
    succeed(&harness, of("delete", "Renamed", None, 3)).await;
    harness.assert_provisioned(HEAD_ID).await;
    assert_eq!(owners(&harness).await, [(OWNER.to_owned(), None)]);
    assert_eq!(harness.command("apply").await["heads"][0]["done"], json!([]));
    succeed(&harness, of("delete", "UnithWebhook", None, 4)).await;
    assert!(harness.platform.webhooks().is_empty());
}

#[tokio::test]
async fn moving_to_another_stack_keeps_the_webhook() {
    for shared_ring in [true, false] {
        let harness = ProvisionHarness::start().await;
        succeed(&harness, of("create", "UnithWebhook", None, 1)).await;
        let old_ring = harness.ring_text().await;
        if !shared_ring {
            harness.set_secret(RING_SECRET, r#"{"keys": []}"#).await;
        }
        succeed(&harness, of("create", "UnithWebhook", Some(OTHER_STACK), 2)).await;
        let new_ring = harness.ring_text().await;
        if !shared_ring {
            harness.set_secret(RING_SECRET, &old_ring).await;
        }
        succeed(&harness, of("delete", "UnithWebhook", None, 3)).await;
        if !shared_ring {
            harness.set_secret(RING_SECRET, &new_ring).await;
        }
        harness.assert_provisioned(HEAD_ID).await;
        succeed(&harness, of("delete", "UnithWebhook", Some(OTHER_STACK), 4)).await;
        assert!(harness.platform.webhooks().is_empty(), "shared ring: {shared_ring}");
    }
}

#[tokio::test]
async fn a_rename_that_replaces_the_webhook_lets_the_old_key_expire() {
    let harness = ProvisionHarness::start().await;
    harness.platform.enable_in_console(HEAD_ID, true);
    harness.platform.register_in_console(HEAD_ID, URL, EventTypes::ALL);
    let old = harness.platform.webhooks()[0].shared_key.clone();
    // As version 0.1.0 wrote it, with an owner.
    let entry = json!({"head_id": HEAD_ID, "webhook_id": 1, "key": old, "state": "active", "owner": OWNER});
    harness.set_secret(RING_SECRET, &ring(&[entry])).await;
    succeed(&harness, of("create", "Renamed", None, 2)).await;
    succeed(&harness, of("delete", "UnithWebhook", None, 3)).await;
    harness.assert_provisioned(HEAD_ID).await;
    let ring = harness.ring().await;
    assert!(ring.keys().iter().any(|key| key.key.expose() == old), "its last deliveries can be verified");
}

#[tokio::test]
async fn two_stacks_with_one_ring_leave_each_others_keys() {
    let harness = ProvisionHarness::start().await.with("HEAD_IDS", "*");
    let other_url = "https://other.example.com/webhooks/head-events";
    succeed(&harness, of("create", "UnithWebhook", None, 1)).await;
    let mut other = of("create", "UnithWebhook", Some(OTHER_STACK), 2);
    other["ResourceProperties"]["WebhookUrl"] = other_url.into();
    let harness = harness.with("WEBHOOK_URL", other_url);
    succeed(&harness, other).await;
    assert_eq!(
        (harness.platform.webhooks().len(), harness.ring().await.keys().len()),
        (2, 2),
        "the same head, two URLs"
    );
    let mut delete = of("delete", "UnithWebhook", Some(OTHER_STACK), 3);
    delete["ResourceProperties"]["WebhookUrl"] = other_url.into();
    succeed(&harness, delete).await;
    assert!(harness.platform.events_enabled(HEAD_ID), "the other stack still listens");
    let harness = harness.with("WEBHOOK_URL", URL);
    harness.assert_provisioned(HEAD_ID).await;
    assert_eq!(harness.ring().await.keys().len(), 1);
}

#[tokio::test]
async fn a_deletion_during_a_creation_leaves_nothing() {
    for (call, latency_ms) in [(Call::Register, 50), (Call::ChangeWebhook, 50), (Call::ListWebhooks, 25)] {
        let timing = Timing { propagation_delay: Duration::from_millis(400), ..QUICK };
        let harness = Arc::new(ProvisionHarness::start().await.with_timing(timing));
        let by_hand = json!({"key": "a-key-put-in-by-hand"});
        harness.set_secret(RING_SECRET, &ring(&[by_hand])).await;
        harness.faults(json!({"latency_ms": latency_ms}));
        let create = dated(&harness, of("create", "UnithWebhook", None, 1));
        let creating = tokio::spawn({
            let harness = Arc::clone(&harness);
            async move { harness.invoke(create).await }
        });
        harness.more_calls(call, 0).await;
        let delete = dated(&harness, of("delete", "UnithWebhook", None, 2));
        harness.invoke(delete).await.unwrap();
        let created = within(PATIENCE, creating).await.unwrap().unwrap();
        // A creation that was nearly done may end before the deletion begins.
        if call != Call::ChangeWebhook || created["Status"] != "SUCCESS" {
            assert_eq!(created["Status"], "FAILED", "{call:?}: {created}");
            // The run sees the mark of the deletion or its effect first.
            let reason = created["Reason"].as_str().unwrap();
            assert!(["deleted meanwhile", "not as declared"].iter().any(|why| reason.contains(why)), "{created}");
        }
        assert!(harness.platform.webhooks().is_empty(), "{call:?}: {:?}", harness.platform.webhooks());
        assert!(!harness.platform.events_enabled(HEAD_ID), "{call:?}");
        assert_eq!(harness.ring().await.keys().len(), 1, "{call:?}: {}", harness.ring_text().await);
    }
}

#[tokio::test]
async fn a_creation_issued_before_the_deletion_undoes_itself_and_a_later_one_does_not() {
    let harness = ProvisionHarness::start().await;
    succeed(&harness, of("delete", "UnithWebhook", None, 5)).await;
    let late = respond(&harness, of("create", "UnithWebhook", None, 4)).await;
    assert!(late["Status"] == "FAILED" && late["Reason"].as_str().unwrap().contains("deleted meanwhile"), "{late}");
    assert!(harness.platform.webhooks().is_empty() && !harness.platform.events_enabled(HEAD_ID));
    succeed(&harness, of("create", "UnithWebhook", None, 6)).await;
    harness.assert_provisioned(HEAD_ID).await;
    assert!(!harness.ring_text().await.contains("deleted"), "{}", harness.ring_text().await);
    succeed(&harness, of("update", "UnithWebhook", None, 7)).await;
}

#[tokio::test]
async fn a_scheduled_run_in_flight_does_not_restore_a_deleted_webhook() {
    for is_repeated in [false, true] {
        let harness = Arc::new(ProvisionHarness::start().await);
        succeed(&harness, of("create", "UnithWebhook", None, 1)).await;
        harness.platform.delete_in_console(1);
        harness.faults(json!({"latency_ms": 60}));
        let before = harness.platform.calls(Call::Register);
        let scheduled = tokio::spawn({
            let harness = Arc::clone(&harness);
            async move { harness.invoke(json!({"source": "aws.scheduler", "time": second(10)})).await }
        });
        harness.more_calls(Call::Register, before).await;
        succeed(&harness, of("delete", "UnithWebhook", None, 20)).await;
        let result = within(PATIENCE, scheduled).await.unwrap();
        // It finds the mark of the deletion, or its webhook gone.
        let error = result.unwrap_err().to_string();
        assert!(
            ["deleted meanwhile", "UNITH answered 404", "not as declared", "would never deliver"]
                .iter()
                .any(|why| error.contains(why)),
            "{error}"
        );
        if is_repeated {
            // A run that was due before the deletion and comes after it.
            let late = harness.invoke(json!({"source": "aws.events", "time": second(15)})).await;
            assert!(late.unwrap_err().to_string().contains("deleted meanwhile"));
        }
        assert!(harness.platform.webhooks().is_empty(), "{:?}", harness.platform.webhooks());
        assert!(!harness.platform.events_enabled(HEAD_ID));
        assert!(harness.ring().await.keys().is_empty(), "{}", harness.ring_text().await);
    }
}

#[tokio::test]
async fn a_late_scheduled_run_removes_nothing_that_was_created_since() {
    let harness = ProvisionHarness::start().await.with("OWNER", OWNER);
    assert_eq!(harness.command("apply").await["ok"], true);
    assert_eq!(harness.command("remove").await["ok"], true);
    let late = json!({"source": "aws.scheduler", "time": second(0)});
    assert!(harness.invoke(late.clone()).await.unwrap_err().to_string().contains("deleted meanwhile"));
    assert_eq!(harness.command("apply").await["ok"], true);
    harness.assert_provisioned(HEAD_ID).await;
    // The new creation has removed the mark of the deletion.
    let _ = harness.invoke(late).await;
    harness.assert_provisioned(HEAD_ID).await;
    assert_eq!(harness.platform.webhooks().len(), 1);
}

#[tokio::test]
async fn a_run_removes_its_webhook_if_the_ring_is_deleted_meanwhile() {
    let harness = Arc::new(ProvisionHarness::start().await);
    harness.faults(json!({"latency_ms": 60}));
    let running = tokio::spawn({
        let harness = Arc::clone(&harness);
        async move { harness.command("apply").await }
    });
    harness.more_calls(Call::Register, 0).await;
    let client = secrets_client(harness.secrets.url()).unwrap();
    client.delete_secret().secret_id(RING_SECRET).force_delete_without_recovery(true).send().await.unwrap();
    let result = within(PATIENCE, running).await.unwrap();
    assert!(result["heads"][0]["error"].as_str().unwrap().starts_with("deleted meanwhile: the key ring"), "{result}");
    assert!(harness.platform.webhooks().is_empty(), "{:?}", harness.platform.webhooks());
    assert!(!harness.platform.events_enabled(HEAD_ID));
}

#[tokio::test]
async fn a_command_keeps_the_owners_and_removes_only_its_own_webhooks() {
    let harness = ProvisionHarness::start().await.with("HEAD_IDS", format!("{HEAD_ID},{}", MORE_HEADS[0]));
    let mut create = of("create", "UnithWebhook", Some(OTHER_STACK), 1);
    create["ResourceProperties"]["HeadIds"] = json!([HEAD_ID]);
    succeed(&harness, create).await;
    assert_eq!(harness.command("apply").await["ok"], true);
    assert_eq!(harness.command("rotate").await["ok"], true);
    let others = format!("UnithWebhook@{}", OTHER_STACK.rsplit('/').next().unwrap());
    let mut owned = owners(&harness).await;
    owned.sort();
    assert_eq!(owned, [(others, None), (OWNER.to_owned(), None)], "a replacement inherits its owner");
    let removed = harness.command("remove").await;
    assert_eq!(removed["ok"], true, "{removed}");
    let webhooks = harness.platform.webhooks();
    assert_eq!((webhooks.len(), webhooks[0].head_id.as_str()), (1, HEAD_ID), "another owner's webhook stays");
    harness.assert_provisioned(HEAD_ID).await;
    assert!(!harness.platform.events_enabled(MORE_HEADS[0]));
}

#[tokio::test]
async fn a_repeated_deletion_removes_unsubscribed_leftovers_only() {
    let harness = ProvisionHarness::start().await;
    succeed(&harness, of("create", "UnithWebhook", None, 1)).await;
    // A run left it that died before it stored the key.
    harness.platform.register_in_console(HEAD_ID, URL, EventTypes::NONE);
    succeed(&harness, of("delete", "UnithWebhook", None, 2)).await;
    assert!(harness.platform.webhooks().is_empty() && harness.ring().await.keys().is_empty());
    succeed(&harness, of("delete", "UnithWebhook", None, 3)).await;

    // After the deletion, a webhook that delivers is somebody else's; one that delivers nothing was left by a run that
    // died.
    harness.platform.register_in_console(HEAD_ID, URL, EventTypes::NONE);
    harness.platform.register_in_console(HEAD_ID, URL, EventTypes::ALL);
    succeed(&harness, of("delete", "UnithWebhook", None, 4)).await;
    let left = harness.platform.webhooks();
    assert_eq!((left.len(), left[0].subscriptions), (1, EventTypes::ALL));
}

/// Version 0.1.0 wrote no owners.
#[tokio::test]
async fn an_entry_without_an_owner_is_removed_only_if_the_variables_name_its_head() {
    let harness = ProvisionHarness::start().await;
    let mut entries = Vec::new();
    for head in [HEAD_ID, MORE_HEADS[0]] {
        harness.platform.register_in_console(head, URL, EventTypes::ALL);
        let webhook = harness.platform.webhooks().pop().unwrap();
        entries.push(json!({"head_id": head, "webhook_id": webhook.id, "key": webhook.shared_key}));
    }
    harness.set_secret(RING_SECRET, &ring(&entries)).await;
    let removed = harness.invoke(json!({"action": "remove", "head_ids": [HEAD_ID, MORE_HEADS[0]]})).await.unwrap();
    assert_eq!(removed["ok"], true, "{removed}");
    let left = harness.platform.webhooks();
    assert_eq!((left.len(), left[0].head_id.as_str()), (1, MORE_HEADS[0]));
    assert_eq!(harness.ring().await.keys().len(), 1);
}

#[tokio::test]
async fn the_next_deletion_completes_one_that_failed_anywhere() {
    for how in [json!({"status": [422, null]}), json!("html")] {
        for call in [
            "GET /head-events",
            "DELETE /head-events/{id}",
            "GET /head/{head_id}/enable-events",
            "PUT /head/{head_id}/enable-events",
        ] {
            for (after_effect, times) in [(false, 1), (true, 1), (false, 1_000), (true, 1_000)] {
                let case = format!("{call} {how} after_effect={after_effect} times={times}");
                let harness = ProvisionHarness::start().await;
                succeed(&harness, of("create", "UnithWebhook", None, 1)).await;
                let fault = json!({"call": call, "how": how, "after_effect": after_effect, "times": times});
                harness.faults(json!({"failing": [fault]}));
                let first = respond(&harness, of("delete", "UnithWebhook", None, 2)).await;
                let is_clean = || harness.platform.webhooks().is_empty() && !harness.platform.events_enabled(HEAD_ID);
                assert!(first["Status"] == "FAILED" || is_clean(), "{case}: {first}");
                harness.faults(json!({}));
                succeed(&harness, of("delete", "UnithWebhook", None, 3)).await;
                assert!(is_clean() && harness.ring().await.keys().is_empty(), "{case}: {}", harness.ring_text().await);
            }
        }
    }
}

#[tokio::test]
async fn deleting_an_uncreated_resource_needs_no_unith_and_a_command_reports_the_failure() {
    let harness = ProvisionHarness::start().await;
    harness.faults(json!({"failing": [{"call": "GET /head-events", "how": {"status": [403, null]}, "times": 1_000}]}));
    let removed = harness.command("remove").await;
    assert!(removed["ok"] == false && removed.to_string().contains("403"), "{removed}");
    succeed(&harness, of("delete", "UnithWebhook", None, 1)).await;
}

#[tokio::test]
async fn a_deletion_with_invalid_properties_fails_if_the_ring_knows_the_owner() {
    let unreadable = |request: &mut Value| request["ResourceProperties"]["WebhookUrl"] = "nonsense".into();
    let harness = ProvisionHarness::start().await;
    let mut delete = of("delete", "UnithWebhook", None, 1);
    unreadable(&mut delete);
    succeed(&harness, delete).await;
    succeed(&harness, of("create", "UnithWebhook", None, 2)).await;
    let mut delete = of("delete", "UnithWebhook", None, 3);
    unreadable(&mut delete);
    let failed = respond(&harness, delete).await;
    assert!(failed["Status"] == "FAILED" && failed["Reason"].as_str().unwrap().contains("ForceDelete"), "{failed}");
    harness.assert_provisioned(HEAD_ID).await;
}
