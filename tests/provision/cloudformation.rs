//! The custom resource: every request type, every way to be wrong, and always an answer.

use std::{sync::Arc, time::Duration};

use provision::run::Timing;
use sandbox::platform::{HEAD_ID, Subscriptions};
use serde_json::{Value, json};
use tests::{
    proxy::Fault,
    unith::{MORE_HEADS, ProvisionHarness, QUICK, URL, request},
};
use unith_events::{key_ring::RingKey, timestamp::Timestamp};

fn status(answer: &Value) -> (&str, &str) {
    (answer["Status"].as_str().unwrap(), answer["Reason"].as_str().unwrap())
}

#[tokio::test]
async fn create_update_delete() {
    let world = ProvisionHarness::start().await;
    let created = world.cloudformation("create", &json!({})).await;
    assert_eq!(created["Status"], "SUCCESS", "{created}");
    for name in ["StackId", "RequestId", "LogicalResourceId"] {
        assert_eq!(created[name], request("create")[name], "{name}");
    }
    assert_eq!(created["PhysicalResourceId"], "unith-webhook:UnithWebhook:8d0b9a60-f2b1-11f0-9c2e-0a1b2c3d4e5f");
    assert_eq!(created["Data"], json!({"WebhookUrl": URL, "Heads": 1}));
    world.assert_provisioned(HEAD_ID).await;
    assert_eq!(
        world.platform.webhooks()[0].subscriptions,
        Subscriptions { inactivity_warning: false, ..Subscriptions::ALL }
    );

    let updated = world.cloudformation("update", &json!({})).await;
    assert_eq!(
        (&updated["Status"], &updated["PhysicalResourceId"]),
        (&json!("SUCCESS"), &created["PhysicalResourceId"])
    );
    assert_eq!(world.platform.webhooks()[0].subscriptions, Subscriptions::ALL);

    for _ in 0..2 {
        let deleted = world.cloudformation("delete", &json!({})).await;
        assert_eq!(deleted["Status"], "SUCCESS", "{deleted}");
        assert!(world.platform.webhooks().is_empty());
        assert!(!world.platform.events_enabled(HEAD_ID));
        assert!(world.ring().await.keys().is_empty());
    }
}

#[tokio::test]
async fn no_answer_holds_a_key_or_a_token() {
    let world = ProvisionHarness::start().await;
    let answer = world.cloudformation("create", &json!({})).await.to_string();
    let key = world.platform.webhooks()[0].shared_key.clone();
    assert!(!answer.contains(&key) && !answer.contains("sandbox-secret-key"), "{answer}");
}

#[tokio::test]
async fn an_update_that_drops_a_head_removes_it_and_its_rollback_restores_it() {
    let world = ProvisionHarness::start().await.with("HEAD_IDS", "*");
    let both = json!({"HeadIds": [HEAD_ID, MORE_HEADS[0]]});
    world.cloudformation("create", &both).await;
    let update = |new: Value, old: Value| {
        let mut update = request("update");
        update["ResourceProperties"]["HeadIds"] = new;
        update["OldResourceProperties"]["HeadIds"] = old;
        update
    };
    let (one, two) = (json!([HEAD_ID]), json!([HEAD_ID, MORE_HEADS[0]]));
    let dropped = world.answer_to(update(one.clone(), two.clone()), Duration::from_secs(30)).await;
    assert_eq!(dropped["Status"], "SUCCESS", "{dropped}");
    world.assert_provisioned(HEAD_ID).await;
    assert_eq!(world.platform.webhooks().len(), 1);
    assert!(!world.platform.events_enabled(MORE_HEADS[0]));

    let restored = world.answer_to(update(two, one), Duration::from_secs(30)).await;
    assert_eq!(restored["Status"], "SUCCESS", "{restored}");
    world.assert_provisioned(MORE_HEADS[0]).await;
}

#[tokio::test]
async fn an_update_to_another_url_leaves_the_old_one() {
    let world = ProvisionHarness::start().await;
    world.cloudformation("create", &json!({})).await;
    let world = world.with("WEBHOOK_URL", "https://new.example.com/x");
    let moved = world.cloudformation("update", &json!({"WebhookUrl": "https://new.example.com/x"})).await;
    assert_eq!(moved["Status"], "SUCCESS", "{moved}");
    let webhooks = world.platform.webhooks();
    assert_eq!(webhooks.len(), 1);
    assert_eq!(webhooks[0].webhook_url, "https://new.example.com/x");
    assert!(world.platform.events_enabled(HEAD_ID));
    let ring = world.ring().await;
    let state = |key: &RingKey| (key.webhook_id.as_ref().unwrap().to_string(), key.state.as_str());
    let states: Vec<_> = ring.keys().iter().map(state).collect();
    assert_eq!(states, [("1".to_owned(), "retiring"), ("2".to_owned(), "active")]);
    assert!(webhooks[0].made_while_on);
}

#[tokio::test]
async fn an_update_that_spells_the_url_otherwise_changes_nothing() {
    let world = ProvisionHarness::start().await;
    world.cloudformation("create", &json!({})).await;
    let respelled = world
        .cloudformation("update", &json!({"WebhookUrl": "https://HOOKS.example.com:443/webhooks/head-events"}))
        .await;
    assert_eq!(respelled["Status"], "SUCCESS", "{respelled}");
    let webhooks = world.platform.webhooks();
    assert_eq!((webhooks.len(), webhooks[0].id), (1, 1), "the same webhook is there");
    assert_eq!(world.ring().await.keys()[0].state.as_str(), "active");
    assert!(world.platform.events_enabled(HEAD_ID));
}

#[tokio::test]
async fn an_update_that_fails_leaves_what_the_rollback_returns_to() {
    let world = ProvisionHarness::start().await.with("HEAD_IDS", "*");
    world.cloudformation("create", &json!({"HeadIds": [HEAD_ID, MORE_HEADS[0]]})).await;
    let mut update = request("update");
    update["ResourceProperties"]["HeadIds"] = json!([HEAD_ID, "no-such-head"]);
    update["OldResourceProperties"]["HeadIds"] = json!([HEAD_ID, MORE_HEADS[0]]);
    let failed = world.answer_to(update, Duration::from_secs(30)).await;
    assert_eq!(failed["Status"], "FAILED", "{failed}");
    world.assert_provisioned(MORE_HEADS[0]).await;
}

#[tokio::test]
async fn of_what_was_deleted_by_hand_the_key_goes_and_the_switch_stays() {
    let world = ProvisionHarness::start().await;
    world.cloudformation("create", &json!({})).await;
    world.platform.delete_in_console(1);
    assert_eq!(world.cloudformation("delete", &json!({})).await["Status"], "SUCCESS");
    assert!(world.ring().await.keys().is_empty());
    assert!(world.platform.events_enabled(HEAD_ID), "nothing was removed there: somebody else may have switched it on");
}

#[tokio::test]
async fn configuration_that_went_missing_does_not_leave_a_webhook_behind_in_silence() {
    let world = ProvisionHarness::start().await;
    world.cloudformation("create", &json!({})).await;
    let world = world.with("UNITH_API_URL", "");
    let answer = world.cloudformation("delete", &json!({})).await;
    let (status, told) = status(&answer);
    assert!(
        status == "FAILED" && told.contains("UNITH_API_URL is not set") && told.contains("ForceDelete"),
        "{answer}"
    );
    assert_eq!(world.cloudformation("delete", &json!({"ForceDelete": true})).await["Status"], "SUCCESS");
}

#[tokio::test]
async fn whatever_is_wrong_is_answered_with_a_reason() {
    let world = ProvisionHarness::start().await.with("HEAD_IDS", "*");
    for (changes, reason) in [
        (json!({"WebhookUrl": "http://hooks.example.com/x"}), "UNITH delivers to https URLs only"),
        (json!({"WebhookUrl": null}), "the webhook URL `` is not a URL"),
        (json!({"WebhookUrl": "https://a b.example/x"}), "is not a URL: invalid international domain name"),
        (json!({"HeadIds": []}), "no head is named"),
        (json!({"HeadIds": ["a\nb"]}), "`ab` is not a head id"),
        (json!({"HeadIds": ["a", 7]}), "the property HeadIds is"),
        (json!({"HeadIds": ["*", "a"]}), "`*` stands for every head of the account"),
        (json!({"HeadIds": {"Ref": "Heads"}}), "the property HeadIds is"),
        (json!({"EndConversation": "maybe"}), "the property EndConversation is \"maybe\": expected true or false"),
        (json!({"HeadIds": ["no-such-head"]}), "GET /head/no-such-head/enable-events: UNITH answered 404"),
    ] {
        let answer = world.cloudformation("create", &changes).await;
        let (status, told) = status(&answer);
        assert!(status == "FAILED" && told.contains(reason), "{changes}: {answer}");
        // What could not be created is deleted without ado.
        let deleted = world.cloudformation("delete", &changes).await;
        assert_eq!(deleted["Status"], "SUCCESS", "{changes}: {deleted}");
    }
    assert!(world.platform.webhooks().is_empty());
}

#[tokio::test]
async fn malformed_requests_are_answered_as_long_as_there_is_somewhere_to_answer() {
    let world = ProvisionHarness::start().await;
    for (change, value, reason) in [
        ("RequestType", json!("Replace"), "expected Create, Update or Delete"),
        ("RequestType", json!(null), "the request cannot be read"),
        ("ResourceProperties", json!("none"), "the request cannot be read"),
        ("StackId", json!(7), "the request cannot be read"),
    ] {
        let mut malformed = request("create");
        malformed[change] = value;
        let answer = world.answer_to(malformed, Duration::from_secs(30)).await;
        let (status, told) = status(&answer);
        assert!(status == "FAILED" && told.contains(reason), "{change}: {answer}");
        assert!(answer["PhysicalResourceId"].as_str().is_some_and(|id| !id.is_empty()));
    }
    let nowhere = world.invoke(json!({"RequestType": "Create"})).await.unwrap_err();
    assert_eq!(nowhere.to_string(), "a CloudFormation request without a ResponseURL cannot be answered");
}

#[tokio::test]
async fn missing_configuration_is_answered() {
    for name in ["UNITH_API_URL", "UNITH_CREDENTIALS_SECRET", "UNITH_KEYS_SECRET"] {
        let world = ProvisionHarness::start().await.with(name, "");
        let answer = world.cloudformation("create", &json!({})).await;
        let (status, told) = status(&answer);
        assert!(status == "FAILED" && told.contains(&format!("{name} is not set")), "{answer}");
        assert_eq!(world.cloudformation("delete", &json!({})).await["Status"], "SUCCESS", "{name}");
    }
}

#[tokio::test]
async fn wrong_credentials_fail_the_creation_and_not_its_rollback() {
    for credentials in [json!({"email": "a@b.c", "secretKey": "wrong"}), json!({"bearerToken": "old"}), json!({})] {
        let world = ProvisionHarness::start().await;
        world.set_credentials(&credentials).await;
        let created = world.cloudformation("create", &json!({})).await;
        assert_eq!(created["Status"], "FAILED", "{created}");
        let deleted = world.cloudformation("delete", &json!({})).await;
        assert_eq!(deleted["Status"], "SUCCESS", "{credentials}: {deleted}");
    }
}

#[tokio::test]
async fn credentials_that_stopped_working_need_force_to_delete() {
    let world = ProvisionHarness::start().await;
    world.cloudformation("create", &json!({})).await;
    world.set_credentials(&json!({"email": "a@b.c", "secretKey": "wrong"})).await;
    let refused = world.cloudformation("delete", &json!({})).await;
    let (status, told) = status(&refused);
    assert!(status == "FAILED" && told.contains("ForceDelete") && told.contains("401"), "{refused}");
    let forced = world.cloudformation("delete", &json!({"ForceDelete": "true"})).await;
    assert_eq!(forced["Status"], "SUCCESS", "{forced}");
    assert!(world.ring().await.keys().is_empty(), "our own side is cleaned");
}

#[tokio::test]
async fn unith_down_or_hanging_is_answered_before_the_time_is_over() {
    let each = [json!({"status": [503, null]}), json!("reset"), json!("hang")].map(|how| tokio::spawn(down(how)));
    for result in each {
        result.await.unwrap();
    }
}

async fn down(how: Value) {
    let world = ProvisionHarness::start().await;
    world.faults(json!({"failing": [{"call": "*", "how": how, "times": 1_000_000}]}));
    let limit = Duration::from_secs(10);
    let started = tokio::time::Instant::now();
    let answer = world.cloudformation_within("create", &json!({}), limit).await;
    assert!(started.elapsed() < limit, "{how}: the answer came after {:?}", started.elapsed());
    assert_eq!(answer["Status"], "FAILED", "{how}: {answer}");
    assert!(!answer["Reason"].as_str().unwrap().is_empty());
    assert!(world.platform.webhooks().is_empty() && !world.platform.events_enabled(HEAD_ID), "{how}");
    // The rollback must not fail for the same reason: there is nothing to take away.
    let deleted = world.cloudformation_within("delete", &json!({}), limit).await;
    assert_eq!(deleted["Status"], "SUCCESS", "{how}: {deleted}");
}

#[tokio::test]
async fn force_delete_can_be_set_while_unith_is_down() {
    let world = ProvisionHarness::start().await;
    world.cloudformation("create", &json!({})).await;
    world.faults(json!({"failing": [{"call": "*", "how": {"status": [503, null]}, "times": 1_000_000}]}));
    let limit = Duration::from_secs(10);
    let properties = request("create")["ResourceProperties"].clone();
    for (changes, expected) in [(json!({"EndConversation": "false"}), "FAILED"), (json!({}), "SUCCESS")] {
        let mut update = request("update");
        update["OldResourceProperties"] = properties.clone();
        update["ResourceProperties"] = properties.clone();
        update["ResourceProperties"]["ForceDelete"] = "true".into();
        for (name, value) in changes.as_object().unwrap() {
            update["ResourceProperties"][name] = value.clone();
        }
        let answer = world.answer_to(update, limit).await;
        assert_eq!(answer["Status"], expected, "{changes}: {answer}");
    }
    let refused = world.cloudformation_within("delete", &json!({}), limit).await;
    assert_eq!(refused["Status"], "FAILED", "{refused}");
    let deleted = world.cloudformation_within("delete", &json!({"ForceDelete": "true"}), limit).await;
    assert_eq!(deleted["Status"], "SUCCESS", "{deleted}");
    assert!(world.ring().await.keys().is_empty());
}

#[tokio::test]
async fn secrets_manager_down_or_hanging_is_answered() {
    for fault in [Fault::Refuse, Fault::Hang] {
        let world = ProvisionHarness::start().await;
        world.secrets_proxy.set(fault.clone());
        let answer = world.cloudformation_within("create", &json!({}), Duration::from_secs(12)).await;
        assert_eq!(answer["Status"], "FAILED", "{fault:?}: {answer}");
        assert!(world.platform.webhooks().is_empty());
    }
}

#[tokio::test]
async fn a_panic_is_answered() {
    let world = ProvisionHarness::start().await;
    let secrets = sandbox::secrets_client(world.secrets.url());
    let panics =
        provision::Provisioner::new(lambda_support::env::Env::default(), secrets).with_log(|_| panic!("on purpose"));
    let mut create = request("create");
    create["ResponseURL"] = world.response_url().into();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    Arc::new(panics).handle(create, deadline).await.unwrap();
    let answer = world.take_answer().unwrap();
    assert_eq!(status(&answer), ("FAILED", "an error in provision itself: see the function's log"));
}

#[tokio::test]
async fn deleting_leaves_others_webhooks_and_their_events() {
    let world = ProvisionHarness::start().await;
    world.cloudformation("create", &json!({})).await;
    world.platform.register_in_console(HEAD_ID, "https://somebody.example.com/else", Subscriptions::ALL);
    assert_eq!(world.cloudformation("delete", &json!({})).await["Status"], "SUCCESS");
    let webhooks = world.platform.webhooks();
    assert_eq!((webhooks.len(), webhooks[0].webhook_url.as_str()), (1, "https://somebody.example.com/else"));
    assert!(world.platform.events_enabled(HEAD_ID), "somebody else listens");
}

#[tokio::test]
async fn events_can_be_declared_off() {
    let world = ProvisionHarness::start().await;
    world.platform.enable_in_console(HEAD_ID, true);
    assert_eq!(world.cloudformation("create", &json!({"EnableEvents": "false"})).await["Status"], "SUCCESS");
    assert_eq!(world.platform.webhooks().len(), 1);
    assert!(!world.platform.events_enabled(HEAD_ID));
}

#[tokio::test]
async fn a_request_that_cloudformation_has_given_up_on_does_nothing() {
    let world = ProvisionHarness::start().await;
    let mut request = request("create");
    let then = Timestamp::now().plus(time::Duration::seconds(-700)).to_string();
    let date = then.split('.').next().unwrap().replace(['-', ':'], "");
    request["ResponseURL"] = format!("{}?X-Amz-Date={date}Z", world.response_url()).into();
    let answer = world.answer_to(request, Duration::from_secs(30)).await;
    assert!(answer["Reason"].as_str().unwrap().contains("CloudFormation gave up on it after 660 s"), "{answer}");
    assert_eq!((answer["Status"].as_str(), world.platform.total_calls()), (Some("FAILED"), 0));
}

/// IAM takes some seconds to know of what CloudFormation has just allowed.
#[tokio::test]
async fn a_permission_that_comes_late_is_waited_for_by_a_deployment_alone() {
    let world =
        Arc::new(ProvisionHarness::start().await.with_pace(Timing { denied_for: Duration::from_secs(10), ..QUICK }));
    let denied = r#"{"__type":"AccessDeniedException","message":"no"}"#.to_owned();
    world.secrets_proxy.set(Fault::Answer(400, denied));
    let error = world.invoke(json!({"action": "apply"})).await.unwrap_err().to_string();
    assert!(error.contains("could not be read"), "{error}");
    let before = world.secrets_proxy.requests();
    let creating = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.cloudformation("create", &json!({})).await }
    });
    while world.secrets_proxy.requests() < before + 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.secrets_proxy.set(Fault::None);
    let answer = creating.await.unwrap();
    assert_eq!(answer["Status"], "SUCCESS", "{answer}");
    world.assert_provisioned(HEAD_ID).await;
}
