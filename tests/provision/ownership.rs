//! Who owns a registration: what should stay stays, what should go is gone.

use std::{sync::Arc, time::Duration};

use sandbox::platform::{HEAD_ID, Subscriptions};
use serde_json::{Value, json};
use tests::unith::{MORE_HEADS, OWNER, ProvisionHarness, URL, request};
use unith_events::timestamp::Timestamp;

const LIMIT: Duration = Duration::from_secs(30);
const OTHER_STACK: &str =
    "arn:aws:cloudformation:eu-west-1:123456789012:stack/other/11111111-f2b1-11f0-9c2e-0a1b2c3d4e5f";

/// A second of the minute before the tests began: CloudFormation gives up on older requests.
fn second(number: u64) -> String {
    static FIRST: std::sync::OnceLock<Timestamp> = std::sync::OnceLock::new();
    let first = FIRST.get_or_init(|| Timestamp::now().plus(time::Duration::minutes(-1)));
    let at = first.plus(time::Duration::seconds(number.try_into().unwrap())).to_string();
    format!("{}Z", at.split('.').next().unwrap())
}

/// A request of the resource `logical_id` of a stack, asked for at a second of a minute.
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

async fn answer(world: &ProvisionHarness, request: Value) -> Value {
    world.answer_to(dated(world, request), LIMIT).await
}

/// With a response URL that was signed when the request was asked for.
fn dated(world: &ProvisionHarness, mut request: Value) -> Value {
    let date = second(request["IssuedAt"].as_u64().unwrap()).replace(['-', ':'], "");
    request["ResponseURL"] = format!("{}?X-Amz-Date={date}", world.response_url()).into();
    request
}

async fn succeed(world: &ProvisionHarness, request: Value) {
    let answer = answer(world, request).await;
    assert_eq!(answer["Status"], "SUCCESS", "{answer}");
}

async fn owners(world: &ProvisionHarness) -> Vec<(String, Option<String>)> {
    let ring = world.ring().await;
    let active = ring.keys().iter().filter(|key| key.state.as_str() == "active");
    active.map(|key| (key.owner.clone().unwrap_or_default(), key.previous_owner.clone())).collect()
}

#[tokio::test]
async fn renaming_the_resource_keeps_the_webhook() {
    let world = ProvisionHarness::start().await;
    succeed(&world, of("create", "UnithWebhook", None, 1)).await;
    // CloudFormation creates the new name first, and deletes the old one behind it.
    succeed(&world, of("create", "Renamed", None, 2)).await;
    let renamed = OWNER.replace("UnithWebhook", "Renamed");
    assert_eq!(owners(&world).await, [(renamed.clone(), Some(OWNER.to_owned()))]);
    succeed(&world, of("delete", "UnithWebhook", None, 3)).await;
    world.assert_provisioned(HEAD_ID).await;
    assert_eq!(world.platform.webhooks()[0].id, 1, "it is the same webhook");
    assert_eq!(owners(&world).await, [(renamed, None)]);
    succeed(&world, of("delete", "Renamed", None, 4)).await;
    assert!(world.platform.webhooks().is_empty() && world.ring().await.keys().is_empty());
    assert!(!world.platform.events_enabled(HEAD_ID));
}

#[tokio::test]
async fn a_rename_that_is_rolled_back_gives_the_webhook_back() {
    let world = ProvisionHarness::start().await;
    succeed(&world, of("create", "UnithWebhook", None, 1)).await;
    succeed(&world, of("create", "Renamed", None, 2)).await;
    succeed(&world, of("delete", "Renamed", None, 3)).await;
    world.assert_provisioned(HEAD_ID).await;
    assert_eq!(owners(&world).await, [(OWNER.to_owned(), None)]);
    assert_eq!(world.command("apply").await["heads"][0]["done"], json!([]));
    succeed(&world, of("delete", "UnithWebhook", None, 4)).await;
    assert!(world.platform.webhooks().is_empty());
}

#[tokio::test]
async fn moving_to_another_stack_keeps_the_webhook() {
    for shared_ring in [true, false] {
        let world = ProvisionHarness::start().await;
        succeed(&world, of("create", "UnithWebhook", None, 1)).await;
        let old_ring = world.ring_text().await;
        if !shared_ring {
            world.set_secret(tests::RING_SECRET, r#"{"keys": []}"#).await;
        }
        succeed(&world, of("create", "UnithWebhook", Some(OTHER_STACK), 2)).await;
        let new_ring = world.ring_text().await;
        if !shared_ring {
            world.set_secret(tests::RING_SECRET, &old_ring).await;
        }
        succeed(&world, of("delete", "UnithWebhook", None, 3)).await;
        if !shared_ring {
            world.set_secret(tests::RING_SECRET, &new_ring).await;
        }
        world.assert_provisioned(HEAD_ID).await;
        succeed(&world, of("delete", "UnithWebhook", Some(OTHER_STACK), 4)).await;
        assert!(world.platform.webhooks().is_empty(), "shared ring: {shared_ring}");
    }
}

#[tokio::test]
async fn a_rename_that_also_replaces_the_webhook_keeps_the_new_one_and_lets_the_old_key_expire() {
    let world = ProvisionHarness::start().await;
    world.platform.enable_in_console(HEAD_ID, true);
    world.platform.register_in_console(HEAD_ID, URL, Subscriptions::ALL);
    let old = world.platform.webhooks()[0].shared_key.clone();
    // As version 0.1.0 left it, but for an owner.
    let entry = json!({"head_id": HEAD_ID, "webhook_id": 1, "key": old, "state": "active", "owner": OWNER});
    world.set_secret(tests::RING_SECRET, &tests::ring(&[entry])).await;
    succeed(&world, of("create", "Renamed", None, 2)).await;
    succeed(&world, of("delete", "UnithWebhook", None, 3)).await;
    world.assert_provisioned(HEAD_ID).await;
    let ring = world.ring().await;
    assert!(ring.keys().iter().any(|key| key.key.expose() == old), "what it signed last can still be verified");
}

#[tokio::test]
async fn two_stacks_that_share_a_ring_leave_each_others_keys() {
    let world = ProvisionHarness::start().await.with("HEAD_IDS", "*");
    let other_url = "https://other.example.com/webhooks/head-events";
    succeed(&world, of("create", "UnithWebhook", None, 1)).await;
    let mut other = of("create", "UnithWebhook", Some(OTHER_STACK), 2);
    other["ResourceProperties"]["WebhookUrl"] = other_url.into();
    let world = world.with("WEBHOOK_URL", other_url);
    succeed(&world, other).await;
    assert_eq!((world.platform.webhooks().len(), world.ring().await.keys().len()), (2, 2), "the same head, two URLs");
    let mut delete = of("delete", "UnithWebhook", Some(OTHER_STACK), 3);
    delete["ResourceProperties"]["WebhookUrl"] = other_url.into();
    succeed(&world, delete).await;
    assert!(world.platform.events_enabled(HEAD_ID), "the other stack listens");
    let world = world.with("WEBHOOK_URL", URL);
    world.assert_provisioned(HEAD_ID).await;
    assert_eq!(world.ring().await.keys().len(), 1);
}

#[tokio::test]
async fn deleting_while_creating_leaves_nothing() {
    for (call, how_long) in [("POST /head-events", 300), ("PATCH /head-events/{id}", 300), ("GET /head-events", 150)] {
        let world = Arc::new(ProvisionHarness::start().await.with_pace(provision::run::Timing {
            propagation_delay: Duration::from_millis(400),
            ..tests::unith::QUICK
        }));
        let by_hand = json!({"key": "a-key-put-in-by-hand"});
        world.set_secret(tests::RING_SECRET, &tests::ring(&[by_hand])).await;
        world.faults(json!({"latency_ms": how_long / 6}));
        let create = dated(&world, of("create", "UnithWebhook", None, 1));
        let creating = tokio::spawn({
            let world = Arc::clone(&world);
            async move { world.invoke_within(create, LIMIT).await }
        });
        while world.platform.calls(call) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let delete = dated(&world, of("delete", "UnithWebhook", None, 2));
        world.invoke_within(delete, LIMIT).await.unwrap();
        let created = creating.await.unwrap().unwrap();
        // One that was nearly done may be done before the deletion begins.
        if !call.starts_with("PATCH") || created["Status"] != "SUCCESS" {
            assert_eq!(created["Status"], "FAILED", "{call}: {created}");
            // Whichever it sees first: the mark of the deletion, or what it did.
            let reason = created["Reason"].as_str().unwrap();
            assert!(["deleted meanwhile", "not as declared"].iter().any(|why| reason.contains(why)), "{created}");
        }
        assert!(world.platform.webhooks().is_empty(), "{call}: {:?}", world.platform.webhooks());
        assert!(!world.platform.events_enabled(HEAD_ID), "{call}");
        assert_eq!(world.ring().await.keys().len(), 1, "{call}: {}", world.ring_text().await);
    }
}

#[tokio::test]
async fn a_creation_that_comes_late_undoes_itself_and_a_later_one_does_not() {
    let world = ProvisionHarness::start().await;
    succeed(&world, of("delete", "UnithWebhook", None, 5)).await;
    let late = answer(&world, of("create", "UnithWebhook", None, 4)).await;
    assert!(late["Status"] == "FAILED" && late["Reason"].as_str().unwrap().contains("deleted meanwhile"), "{late}");
    assert!(world.platform.webhooks().is_empty() && !world.platform.events_enabled(HEAD_ID));
    succeed(&world, of("create", "UnithWebhook", None, 6)).await;
    world.assert_provisioned(HEAD_ID).await;
    assert!(!world.ring_text().await.contains("deleted"), "{}", world.ring_text().await);
    succeed(&world, of("update", "UnithWebhook", None, 7)).await;
}

#[tokio::test]
async fn a_scheduled_run_in_flight_does_not_bring_back_what_is_deleted() {
    for second_thoughts in [false, true] {
        let world = Arc::new(ProvisionHarness::start().await);
        succeed(&world, of("create", "UnithWebhook", None, 1)).await;
        world.platform.delete_in_console(1);
        world.faults(json!({"latency_ms": 60}));
        let before = world.platform.calls("POST /head-events");
        let scheduled = tokio::spawn({
            let world = Arc::clone(&world);
            async move { world.invoke_within(json!({"source": "aws.scheduler", "time": second(10)}), LIMIT).await }
        });
        while world.platform.calls("POST /head-events") == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        succeed(&world, of("delete", "UnithWebhook", None, 20)).await;
        let result = scheduled.await.unwrap();
        // It finds the mark of the deletion, or that its webhook is gone already.
        let error = result.unwrap_err().to_string();
        assert!(
            ["deleted meanwhile", "UNITH answered 404", "not as declared", "would never deliver"]
                .iter()
                .any(|why| error.contains(why)),
            "{error}"
        );
        if second_thoughts {
            // One that was due before, and comes behind everything.
            let late = world.invoke(json!({"source": "aws.events", "time": second(15)})).await;
            assert!(late.unwrap_err().to_string().contains("deleted meanwhile"));
        }
        assert!(world.platform.webhooks().is_empty(), "{:?}", world.platform.webhooks());
        assert!(!world.platform.events_enabled(HEAD_ID));
        assert!(world.ring().await.keys().is_empty(), "{}", world.ring_text().await);
    }
}

/// It was due before the removal, and comes behind everything.
#[tokio::test]
async fn a_late_scheduled_run_takes_nothing_away_that_was_made_since() {
    let world = ProvisionHarness::start().await.with("OWNER", OWNER);
    assert_eq!(world.command("apply").await["ok"], true);
    assert_eq!(world.command("remove").await["ok"], true);
    let late = json!({"source": "aws.scheduler", "time": second(0)});
    assert!(world.invoke(late.clone()).await.unwrap_err().to_string().contains("deleted meanwhile"));
    assert_eq!(world.command("apply").await["ok"], true);
    world.assert_provisioned(HEAD_ID).await;
    // The removal is over, and so is what it meant.
    let _ = world.invoke(late).await;
    world.assert_provisioned(HEAD_ID).await;
    assert_eq!(world.platform.webhooks().len(), 1);
}

#[tokio::test]
async fn with_the_ring_gone_a_run_takes_back_what_it_made() {
    let world = Arc::new(ProvisionHarness::start().await);
    world.faults(json!({"latency_ms": 60}));
    let running = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.invoke_within(json!({"action": "apply"}), LIMIT).await }
    });
    while world.platform.calls("POST /head-events") == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let client = sandbox::secrets_client(world.secrets.url()).unwrap();
    client.delete_secret().secret_id(tests::RING_SECRET).force_delete_without_recovery(true).send().await.unwrap();
    let result = running.await.unwrap().unwrap();
    assert!(result["heads"][0]["error"].as_str().unwrap().starts_with("deleted meanwhile: the key ring"), "{result}");
    assert!(world.platform.webhooks().is_empty(), "{:?}", world.platform.webhooks());
    assert!(!world.platform.events_enabled(HEAD_ID));
}

#[tokio::test]
async fn a_command_keeps_who_owns_what_and_removes_its_own_alone() {
    let world = ProvisionHarness::start().await.with("HEAD_IDS", format!("{HEAD_ID},{}", MORE_HEADS[0]));
    let mut create = of("create", "UnithWebhook", Some(OTHER_STACK), 1);
    create["ResourceProperties"]["HeadIds"] = json!([HEAD_ID]);
    succeed(&world, create).await;
    assert_eq!(world.command("apply").await["ok"], true);
    assert_eq!(world.command("rotate").await["ok"], true);
    let others = format!("UnithWebhook@{}", OTHER_STACK.rsplit('/').next().unwrap());
    let mut owned = owners(&world).await;
    owned.sort();
    assert_eq!(owned, [(others, None), (OWNER.to_owned(), None)], "what replaces another inherits its owner");
    let removed = world.command("remove").await;
    assert_eq!(removed["ok"], true, "{removed}");
    let webhooks = world.platform.webhooks();
    assert_eq!((webhooks.len(), webhooks[0].head_id.as_str()), (1, HEAD_ID), "another owner's stays");
    world.assert_provisioned(HEAD_ID).await;
    assert!(!world.platform.events_enabled(MORE_HEADS[0]));
}

#[tokio::test]
async fn what_is_deleted_in_vain_is_gone_all_the_same() {
    let world = ProvisionHarness::start().await;
    succeed(&world, of("create", "UnithWebhook", None, 1)).await;
    // One that a run left which died before it stored the key.
    world.platform.register_in_console(HEAD_ID, URL, Subscriptions::default());
    succeed(&world, of("delete", "UnithWebhook", None, 2)).await;
    assert!(world.platform.webhooks().is_empty() && world.ring().await.keys().is_empty());
    succeed(&world, of("delete", "UnithWebhook", None, 3)).await;

    // Deleted once more: what delivers by now was made by somebody else; what delivers nothing, by a run that died.
    world.platform.register_in_console(HEAD_ID, URL, Subscriptions::default());
    world.platform.register_in_console(HEAD_ID, URL, Subscriptions::ALL);
    succeed(&world, of("delete", "UnithWebhook", None, 4)).await;
    let left = world.platform.webhooks();
    assert_eq!((left.len(), left[0].subscriptions), (1, Subscriptions::ALL));
}

/// Version 0.1.0 wrote no owners. What the variables do not name may be another stack's.
#[tokio::test]
async fn an_entry_that_nobody_owns_is_removed_where_the_variables_name_its_head() {
    let world = ProvisionHarness::start().await;
    let mut entries = Vec::new();
    for head in [HEAD_ID, MORE_HEADS[0]] {
        world.platform.register_in_console(head, URL, Subscriptions::ALL);
        let webhook = world.platform.webhooks().pop().unwrap();
        entries.push(json!({"head_id": head, "webhook_id": webhook.id, "key": webhook.shared_key}));
    }
    world.set_secret(tests::RING_SECRET, &tests::ring(&entries)).await;
    let removed = world.invoke(json!({"action": "remove", "head_ids": [HEAD_ID, MORE_HEADS[0]]})).await.unwrap();
    assert_eq!(removed["ok"], true, "{removed}");
    let left = world.platform.webhooks();
    assert_eq!((left.len(), left[0].head_id.as_str()), (1, MORE_HEADS[0]));
    assert_eq!(world.ring().await.keys().len(), 1);
}

#[tokio::test]
async fn a_deletion_that_failed_anywhere_is_completed_by_the_next_one() {
    for how in [json!({"status": [422, null]}), json!("html")] {
        for call in [
            "GET /head-events",
            "DELETE /head-events/{id}",
            "GET /head/{head_id}/enable-events",
            "PUT /head/{head_id}/enable-events",
        ] {
            for (after_effect, times) in [(false, 1), (true, 1), (false, 1_000), (true, 1_000)] {
                let case = format!("{call} {how} after_effect={after_effect} times={times}");
                let world = ProvisionHarness::start().await;
                succeed(&world, of("create", "UnithWebhook", None, 1)).await;
                let fault = json!({"call": call, "how": how, "after_effect": after_effect, "times": times});
                world.faults(json!({"failing": [fault]}));
                let first = answer(&world, of("delete", "UnithWebhook", None, 2)).await;
                let is_clean = || world.platform.webhooks().is_empty() && !world.platform.events_enabled(HEAD_ID);
                assert!(first["Status"] == "FAILED" || is_clean(), "{case}: {first}");
                world.faults(json!({}));
                succeed(&world, of("delete", "UnithWebhook", None, 3)).await;
                assert!(is_clean() && world.ring().await.keys().is_empty(), "{case}: {}", world.ring_text().await);
            }
        }
    }
}

#[tokio::test]
async fn what_was_never_created_is_deleted_also_without_unith_and_a_command_says_what_failed() {
    let world = ProvisionHarness::start().await;
    world.faults(json!({"failing": [{"call": "GET /head-events", "how": {"status": [403, null]}, "times": 1_000}]}));
    let removed = world.command("remove").await;
    assert!(removed["ok"] == false && removed.to_string().contains("403"), "{removed}");
    succeed(&world, of("delete", "UnithWebhook", None, 1)).await;
}

#[tokio::test]
async fn properties_that_cannot_be_read_delete_nothing_in_silence() {
    let unreadable = |request: &mut Value| request["ResourceProperties"]["WebhookUrl"] = "nonsense".into();
    let world = ProvisionHarness::start().await;
    let mut delete = of("delete", "UnithWebhook", None, 1);
    unreadable(&mut delete);
    succeed(&world, delete).await;
    succeed(&world, of("create", "UnithWebhook", None, 2)).await;
    let mut delete = of("delete", "UnithWebhook", None, 3);
    unreadable(&mut delete);
    let failed = answer(&world, delete).await;
    assert!(failed["Status"] == "FAILED" && failed["Reason"].as_str().unwrap().contains("ForceDelete"), "{failed}");
    world.assert_provisioned(HEAD_ID).await;
}
