//! The custom resource: every kind of request, valid or not, gets a response.

use std::{sync::Arc, time::Duration};

use lambda_support::env::Env;
use provision::{provisioner::Provisioner, reconciler::Timing};
use sandbox::{
    clients::secrets_client,
    platform::{account::HEAD_ID, call::Call},
};
use serde_json::{Value, json};
use tests::{
    provision_harness::{MORE_HEADS, ProvisionHarness, QUICK, URL, request},
    proxy::Fault,
    wait::{PATIENCE, until, within},
};
use tokio::time::Instant;
use unith_events::{
    event_type::{EventType, EventTypes},
    key_ring::{KeyState, RingKey},
    timestamp::Timestamp,
};

fn status(response: &Value) -> (&str, &str) {
    (response["Status"].as_str().unwrap(), response["Reason"].as_str().unwrap())
}

#[tokio::test]
async fn a_resource_is_created_updated_and_deleted_twice() {
    let harness = ProvisionHarness::start().await;
    let created = harness.cloudformation("create", &json!({})).await;
    assert_eq!(created["Status"], "SUCCESS", "{created}");
    for name in ["StackId", "RequestId", "LogicalResourceId"] {
        assert_eq!(created[name], request("create")[name], "{name}");
    }
    assert_eq!(created["PhysicalResourceId"], "unith-webhook:UnithWebhook:8d0b9a60-f2b1-11f0-9c2e-0a1b2c3d4e5f");
    assert_eq!(created["Data"], json!({"WebhookUrl": URL, "Heads": 1}));
    harness.assert_provisioned(HEAD_ID).await;
    let expected = EventType::ALL.into_iter().filter(|kind| *kind != EventType::InactivityWarning).collect();
    assert_eq!(harness.platform.webhooks()[0].subscriptions, expected);

    let updated = harness.cloudformation("update", &json!({})).await;
    assert_eq!(
        (&updated["Status"], &updated["PhysicalResourceId"]),
        (&json!("SUCCESS"), &created["PhysicalResourceId"])
    );
    assert_eq!(harness.platform.webhooks()[0].subscriptions, EventTypes::ALL);

    for _ in 0..2 {
        let deleted = harness.cloudformation("delete", &json!({})).await;
        assert_eq!(deleted["Status"], "SUCCESS", "{deleted}");
        assert!(harness.platform.webhooks().is_empty());
        assert!(!harness.platform.events_enabled(HEAD_ID));
        assert!(harness.ring().await.keys().is_empty());
    }
}

#[tokio::test]
async fn no_response_contains_a_key_or_the_credentials() {
    let harness = ProvisionHarness::start().await;
    let response = harness.cloudformation("create", &json!({})).await.to_string();
    let key = harness.platform.webhooks()[0].shared_key.clone();
    assert!(!response.contains(&key) && !response.contains("sandbox-secret-key"), "{response}");
}

#[tokio::test]
async fn an_update_without_a_head_removes_its_webhook_and_a_rollback_restores_it() {
    let harness = ProvisionHarness::start().await.with("HEAD_IDS", "*");
    let both = json!({"HeadIds": [HEAD_ID, MORE_HEADS[0]]});
    harness.cloudformation("create", &both).await;
    let update = |new: Value, old: Value| {
        let mut update = request("update");
        update["ResourceProperties"]["HeadIds"] = new;
        update["OldResourceProperties"]["HeadIds"] = old;
        update
    };
    let (one, two) = (json!([HEAD_ID]), json!([HEAD_ID, MORE_HEADS[0]]));
    let dropped = harness.respond(update(one.clone(), two.clone())).await;
    assert_eq!(dropped["Status"], "SUCCESS", "{dropped}");
    harness.assert_provisioned(HEAD_ID).await;
    assert_eq!(harness.platform.webhooks().len(), 1);
    assert!(!harness.platform.events_enabled(MORE_HEADS[0]));

    let restored = harness.respond(update(two, one)).await;
    assert_eq!(restored["Status"], "SUCCESS", "{restored}");
    harness.assert_provisioned(MORE_HEADS[0]).await;
}

#[tokio::test]
async fn an_update_to_another_url_replaces_the_webhook() {
    let harness = ProvisionHarness::start().await;
    harness.cloudformation("create", &json!({})).await;
    let harness = harness.with("WEBHOOK_URL", "https://new.example.com/x");
    let moved = harness.cloudformation("update", &json!({"WebhookUrl": "https://new.example.com/x"})).await;
    assert_eq!(moved["Status"], "SUCCESS", "{moved}");
    let webhooks = harness.platform.webhooks();
    assert_eq!(webhooks.len(), 1);
    assert_eq!(webhooks[0].webhook_url, "https://new.example.com/x");
    assert!(harness.platform.events_enabled(HEAD_ID));
    let ring = harness.ring().await;
    let state = |key: &RingKey| (key.webhook_id.as_ref().unwrap().to_string(), key.state);
    let states: Vec<_> = ring.keys().iter().map(state).collect();
    assert_eq!(states, [("1".to_owned(), KeyState::Retiring), ("2".to_owned(), KeyState::Active)]);
    assert!(webhooks[0].made_while_on);
}

#[tokio::test]
async fn an_update_with_another_spelling_of_the_url_changes_nothing() {
    let harness = ProvisionHarness::start().await;
    harness.cloudformation("create", &json!({})).await;
    let respelled = harness
        .cloudformation("update", &json!({"WebhookUrl": "https://HOOKS.example.com:443/webhooks/head-events"}))
        .await;
    assert_eq!(respelled["Status"], "SUCCESS", "{respelled}");
    let webhooks = harness.platform.webhooks();
    assert_eq!((webhooks.len(), webhooks[0].id), (1, 1), "the same webhook is there");
    assert_eq!(harness.ring().await.keys()[0].state, KeyState::Active);
    assert!(harness.platform.events_enabled(HEAD_ID));
}

#[tokio::test]
async fn a_failed_update_removes_nothing_that_its_rollback_needs() {
    let harness = ProvisionHarness::start().await.with("HEAD_IDS", "*");
    harness.cloudformation("create", &json!({"HeadIds": [HEAD_ID, MORE_HEADS[0]]})).await;
    let mut update = request("update");
    update["ResourceProperties"]["HeadIds"] = json!([HEAD_ID, "no-such-head"]);
    update["OldResourceProperties"]["HeadIds"] = json!([HEAD_ID, MORE_HEADS[0]]);
    let failed = harness.respond(update).await;
    assert_eq!(failed["Status"], "FAILED", "{failed}");
    harness.assert_provisioned(MORE_HEADS[0]).await;
}

#[tokio::test]
async fn deleting_a_webhook_that_is_gone_drops_its_key_and_leaves_the_switch() {
    let harness = ProvisionHarness::start().await;
    harness.cloudformation("create", &json!({})).await;
    harness.platform.delete_in_console(1);
    assert_eq!(harness.cloudformation("delete", &json!({})).await["Status"], "SUCCESS");
    assert!(harness.ring().await.keys().is_empty());
    assert!(harness.platform.events_enabled(HEAD_ID), "somebody else may have switched it on");
}

#[tokio::test]
async fn a_deletion_without_a_needed_variable_fails_unless_it_is_forced() {
    let harness = ProvisionHarness::start().await;
    harness.cloudformation("create", &json!({})).await;
    let harness = harness.with("UNITH_API_URL", "");
    let response = harness.cloudformation("delete", &json!({})).await;
    let (status, reason) = status(&response);
    assert!(
        status == "FAILED" && reason.contains("UNITH_API_URL is not set") && reason.contains("ForceDelete"),
        "{response}"
    );
    assert_eq!(harness.cloudformation("delete", &json!({"ForceDelete": true})).await["Status"], "SUCCESS");
}

#[tokio::test]
async fn an_invalid_property_fails_the_creation_with_a_reason_and_not_its_rollback() {
    let harness = ProvisionHarness::start().await.with("HEAD_IDS", "*");
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
        let response = harness.cloudformation("create", &changes).await;
        let (status, text) = status(&response);
        assert!(status == "FAILED" && text.contains(reason), "{changes}: {response}");
        let deleted = harness.cloudformation("delete", &changes).await;
        assert_eq!(deleted["Status"], "SUCCESS", "{changes}: {deleted}");
    }
    assert!(harness.platform.webhooks().is_empty());
}

#[tokio::test]
async fn a_malformed_request_gets_a_response_if_it_has_a_response_url() {
    let harness = ProvisionHarness::start().await;
    for (change, value, reason) in [
        ("RequestType", json!("Replace"), "expected Create, Update or Delete"),
        ("RequestType", json!(null), "the request cannot be read"),
        ("ResourceProperties", json!("none"), "the request cannot be read"),
        ("StackId", json!(7), "the request cannot be read"),
    ] {
        let mut malformed = request("create");
        malformed[change] = value;
        let response = harness.respond(malformed).await;
        let (status, text) = status(&response);
        assert!(status == "FAILED" && text.contains(reason), "{change}: {response}");
        assert!(response["PhysicalResourceId"].as_str().is_some_and(|id| !id.is_empty()));
    }
    let nowhere = harness.invoke(json!({"RequestType": "Create"})).await.unwrap_err();
    assert_eq!(nowhere.to_string(), "CloudFormation cannot get a response: the request has no ResponseURL");
}

#[tokio::test]
async fn a_missing_variable_fails_the_creation_and_not_its_rollback() {
    for name in ["UNITH_API_URL", "UNITH_CREDENTIALS_SECRET", "UNITH_KEYS_SECRET"] {
        let harness = ProvisionHarness::start().await.with(name, "");
        let response = harness.cloudformation("create", &json!({})).await;
        let (status, reason) = status(&response);
        assert!(status == "FAILED" && reason.contains(&format!("{name} is not set")), "{response}");
        assert_eq!(harness.cloudformation("delete", &json!({})).await["Status"], "SUCCESS", "{name}");
    }
}

#[tokio::test]
async fn wrong_credentials_fail_the_creation_and_not_its_rollback() {
    for credentials in [json!({"email": "a@b.c", "secretKey": "wrong"}), json!({"bearerToken": "old"}), json!({})] {
        let harness = ProvisionHarness::start().await;
        harness.set_credentials(&credentials).await;
        let created = harness.cloudformation("create", &json!({})).await;
        assert_eq!(created["Status"], "FAILED", "{created}");
        let deleted = harness.cloudformation("delete", &json!({})).await;
        assert_eq!(deleted["Status"], "SUCCESS", "{credentials}: {deleted}");
    }
}

#[tokio::test]
async fn a_deletion_with_expired_credentials_fails_unless_it_is_forced() {
    let harness = ProvisionHarness::start().await;
    harness.cloudformation("create", &json!({})).await;
    harness.set_credentials(&json!({"email": "a@b.c", "secretKey": "wrong"})).await;
    let refused = harness.cloudformation("delete", &json!({})).await;
    let (status, reason) = status(&refused);
    assert!(status == "FAILED" && reason.contains("ForceDelete") && reason.contains("401"), "{refused}");
    let forced = harness.cloudformation("delete", &json!({"ForceDelete": "true"})).await;
    assert_eq!(forced["Status"], "SUCCESS", "{forced}");
    assert!(harness.ring().await.keys().is_empty(), "our own side is cleaned");
}

#[tokio::test]
async fn a_request_gets_a_response_in_time_while_unith_is_down_or_hangs() {
    let each = [json!({"status": [503, null]}), json!("reset"), json!("hang")].map(|how| tokio::spawn(down(how)));
    for result in each {
        within(PATIENCE, result).await.unwrap();
    }
}

async fn down(how: Value) {
    let harness = ProvisionHarness::start().await;
    harness.faults(json!({"failing": [{"call": "*", "how": how, "times": 1_000_000}]}));
    let limit = Duration::from_secs(10);
    let started = Instant::now();
    let response = harness.cloudformation_within("create", &json!({}), limit).await;
    assert!(started.elapsed() < limit, "{how}: the response came after {:?}", started.elapsed());
    assert_eq!(response["Status"], "FAILED", "{how}: {response}");
    assert!(!response["Reason"].as_str().unwrap().is_empty());
    assert!(harness.platform.webhooks().is_empty() && !harness.platform.events_enabled(HEAD_ID), "{how}");
    // The rollback must not fail for the same reason.
    let deleted = harness.cloudformation_within("delete", &json!({}), limit).await;
    assert_eq!(deleted["Status"], "SUCCESS", "{how}: {deleted}");
}

#[tokio::test]
async fn force_delete_can_be_set_while_unith_is_down() {
    let harness = ProvisionHarness::start().await;
    harness.cloudformation("create", &json!({})).await;
    harness.faults(json!({"failing": [{"call": "*", "how": {"status": [503, null]}, "times": 1_000_000}]}));
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
        let response = harness.respond_within(update, limit).await;
        assert_eq!(response["Status"], expected, "{changes}: {response}");
    }
    let refused = harness.cloudformation_within("delete", &json!({}), limit).await;
    assert_eq!(refused["Status"], "FAILED", "{refused}");
    let deleted = harness.cloudformation_within("delete", &json!({"ForceDelete": "true"}), limit).await;
    assert_eq!(deleted["Status"], "SUCCESS", "{deleted}");
    assert!(harness.ring().await.keys().is_empty());
}

#[tokio::test]
async fn a_request_gets_a_response_while_secrets_manager_is_down_or_hangs() {
    for fault in [Fault::refuse(), Fault::hang()] {
        let harness = ProvisionHarness::start().await;
        harness.secrets_proxy.set(fault.clone());
        let response = harness.cloudformation_within("create", &json!({}), Duration::from_secs(12)).await;
        assert_eq!(response["Status"], "FAILED", "{fault:?}: {response}");
        assert!(harness.platform.webhooks().is_empty());
    }
}

#[tokio::test]
async fn a_request_gets_a_response_if_its_run_panics() {
    let harness = ProvisionHarness::start().await;
    let secrets = secrets_client(harness.secrets.url());
    let panics = Provisioner::new(Env::default(), secrets).with_log(|_| panic!("on purpose"));
    let mut create = request("create");
    create["ResponseURL"] = harness.response_url().into();
    let deadline = Instant::now() + Duration::from_secs(20);
    Arc::new(panics).handle(create, deadline).await.unwrap();
    let response = harness.take_response().unwrap();
    assert_eq!(status(&response), ("FAILED", "an error in provision itself: see the function's log"));
}

#[tokio::test]
async fn a_deletion_leaves_the_webhooks_and_the_events_of_others() {
    let harness = ProvisionHarness::start().await;
    harness.cloudformation("create", &json!({})).await;
    harness.platform.register_in_console(HEAD_ID, "https://somebody.example.com/else", EventTypes::ALL);
    assert_eq!(harness.cloudformation("delete", &json!({})).await["Status"], "SUCCESS");
    let webhooks = harness.platform.webhooks();
    assert_eq!((webhooks.len(), webhooks[0].webhook_url.as_str()), (1, "https://somebody.example.com/else"));
    assert!(harness.platform.events_enabled(HEAD_ID), "somebody else listens");
}

#[tokio::test]
async fn a_resource_with_events_off_switches_them_off() {
    let harness = ProvisionHarness::start().await;
    harness.platform.enable_in_console(HEAD_ID, true);
    assert_eq!(harness.cloudformation("create", &json!({"EnableEvents": "false"})).await["Status"], "SUCCESS");
    assert_eq!(harness.platform.webhooks().len(), 1);
    assert!(!harness.platform.events_enabled(HEAD_ID));
}

#[tokio::test]
async fn a_request_older_than_the_service_timeout_does_nothing() {
    let harness = ProvisionHarness::start().await;
    let mut request = request("create");
    let then = Timestamp::now().minus(Duration::from_secs(700)).to_string();
    let date = then.split('.').next().unwrap().replace(['-', ':'], "");
    request["ResponseURL"] = format!("{}?X-Amz-Date={date}Z", harness.response_url()).into();
    let response = harness.respond(request).await;
    assert!(response["Reason"].as_str().unwrap().contains("CloudFormation gave up on it after 660 s"), "{response}");
    assert_eq!((response["Status"].as_str(), harness.platform.calls(Call::Any)), (Some("FAILED"), 0));
}

/// IAM takes some seconds to apply new permissions.
#[tokio::test]
async fn a_deployment_waits_for_a_late_permission_and_a_command_does_not() {
    let harness =
        Arc::new(ProvisionHarness::start().await.with_timing(Timing { denied_for: Duration::from_secs(10), ..QUICK }));
    harness.secrets_proxy.set(Fault::access_denied());
    let error = harness.invoke(json!({"action": "apply"})).await.unwrap_err().to_string();
    assert!(error.contains("could not be read"), "{error}");
    let before = harness.secrets_proxy.requests();
    let creating = tokio::spawn({
        let harness = Arc::clone(&harness);
        async move { harness.cloudformation("create", &json!({})).await }
    });
    within(PATIENCE, until(async || harness.secrets_proxy.requests() >= before + 2)).await;
    harness.secrets_proxy.clear();
    let response = within(PATIENCE, creating).await.unwrap();
    assert_eq!(response["Status"], "SUCCESS", "{response}");
    harness.assert_provisioned(HEAD_ID).await;
}

/// Otherwise a head whose access was withdrawn could never leave the stack: the update and its rollback would fail.
#[tokio::test]
async fn a_head_that_unith_refuses_can_leave_and_its_keys_retire() {
    let update = || {
        let mut update = request("update");
        update["ResourceProperties"]["HeadIds"] = json!([HEAD_ID]);
        update["OldResourceProperties"]["HeadIds"] = json!([HEAD_ID, MORE_HEADS[0]]);
        update
    };
    for status in [401, 403] {
        let harness = ProvisionHarness::start().await.with("HEAD_IDS", "*");
        harness.cloudformation("create", &json!({"HeadIds": [HEAD_ID, MORE_HEADS[0]]})).await;
        harness.platform.change_in_console(1, EventTypes::NONE);
        let is_leaving = json!({"call": "GET /head-events", "how": {"status": [status, null]}, "head_id": MORE_HEADS[0], "times": 1_000});
        harness.faults(json!({"failing": [is_leaving]}));
        let response = harness.respond(update()).await;
        let (result, reason) = self::status(&response);
        assert_eq!(result, "SUCCESS", "{status}: {reason}");
        let note = format!("head {}: UNITH refuses this head: its key retires", MORE_HEADS[0]);
        assert!(reason.contains(&note), "{reason}");
        harness.assert_provisioned(HEAD_ID).await;
        let ring = harness.ring().await;
        let left = ring.keys().iter().find(|key| key.head_id.as_deref() == Some(MORE_HEADS[0])).unwrap();
        assert!(left.state == KeyState::Retiring && left.until.is_some(), "{ring:?}");
        // The retiring key does not make the head one of those that a deletion has to find.
        let deleted = harness.cloudformation("delete", &json!({"HeadIds": [HEAD_ID]})).await;
        assert_eq!(deleted["Status"], "SUCCESS", "{status}: {deleted}");
        assert_eq!(harness.platform.webhooks().len(), 1, "the one that UNITH does not show");

        // If not even the account can be read, the credentials are wrong, and nothing is known about the head.
        let harness = ProvisionHarness::start().await.with("HEAD_IDS", "*");
        harness.cloudformation("create", &json!({"HeadIds": [HEAD_ID, MORE_HEADS[0]]})).await;
        let account = json!({"call": "GET /user/me", "how": {"status": [403, null]}, "times": 1_000});
        harness.faults(json!({"failing": [is_leaving, account]}));
        assert_eq!(harness.respond(update()).await["Status"], "FAILED", "{status}");
        assert_eq!(harness.ring().await.keys().iter().filter(|key| key.state == KeyState::Active).count(), 2);
    }
}
