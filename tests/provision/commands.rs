//! Commands and the schedule, and their reports.

use std::time::Duration;

use std::collections::BTreeMap;

use provision::reconciler::Timing;
use receive::gateway::WEBHOOK_PATH;
use sandbox::{
    api_gateway::{ApiGateway, Function},
    http_client::http_client,
    platform::{
        account::{EMAIL, HEAD_ID, SECRET_KEY},
        call::Call,
    },
    server::listen,
};
use serde_json::{Value, json};
use tests::{
    provision_harness::{MORE_HEADS, ProvisionHarness, QUICK},
    receive_harness::ReceiveHarness,
    wait::{PATIENCE, until, within},
};
use unith_events::timestamp::Timestamp;

#[tokio::test]
async fn plan_reports_the_steps_of_apply_and_changes_nothing() {
    let harness = ProvisionHarness::start().await;
    let plan = harness.command("plan").await;
    let steps = json!(["register the webhook", "switch the head's events on"]);
    assert_eq!(plan["heads"][0], json!({"head_id": HEAD_ID, "ok": true, "events_on": false, "steps": steps}));
    assert_eq!(harness.platform.calls(Call::Register) + harness.platform.calls(Call::SetSwitch), 0);
    assert!(harness.platform.webhooks().is_empty() && harness.ring().await.keys().is_empty());
}

#[tokio::test]
async fn status_reports_webhooks_drift_and_keys_by_fingerprint() {
    let harness = ProvisionHarness::start().await;
    let before = harness.command("status").await;
    let drift = json!(["register the webhook", "switch the head's events on"]);
    assert_eq!((&before["ok"], &before["heads"][0]["drift"]), (&json!(false), &drift));
    harness.command("apply").await;
    let status = harness.command("status").await;
    let head = &status["heads"][0];
    assert_eq!((&status["ok"], &head["drift"], &head["other_webhooks"]), (&json!(true), &json!([]), &json!(0)));
    let key = harness.ring().await.keys()[0].key.clone();
    assert_eq!((&head["webhooks"][0]["id"], &head["webhooks"][0]["made_while_on"]), (&json!("1"), &json!(true)));
    assert_eq!(head["events_on"], true);
    assert_eq!(head["webhooks"][0]["key_fingerprint"], key.fingerprint());
    let shown = &head["keys"][0];
    assert_eq!(
        (&shown["fingerprint"], &shown["state"], &shown["age_days"]),
        (&json!(key.fingerprint()), &json!("active"), &json!(0))
    );
    assert!(!status.to_string().contains(key.expose()));
}

#[tokio::test]
async fn enable_disable_and_remove_are_idempotent() {
    let harness = ProvisionHarness::start().await;
    let harness = harness.with("ENABLE_EVENTS", "false");
    harness.command("apply").await;
    assert!(!harness.platform.events_enabled(HEAD_ID));
    assert_eq!(harness.command("enable").await["heads"][0]["done"], json!(["switch the head's events on"]));
    harness.assert_provisioned(HEAD_ID).await;
    assert_eq!(harness.command("disable").await["heads"][0]["done"], json!(["switch the head's events off"]));
    assert!(!harness.platform.events_enabled(HEAD_ID));
    assert_eq!(harness.platform.webhooks().len(), 1);
    harness.command("enable").await;
    assert!(harness.platform.events_enabled(HEAD_ID));
    for done in [json!(["delete webhook 1", "switch the head's events off"]), json!([])] {
        let removed = harness.command("remove").await;
        assert_eq!((&removed["ok"], &removed["heads"][0]["done"]), (&json!(true), &done));
    }
    assert!(harness.platform.webhooks().is_empty() && harness.ring().await.keys().is_empty());
}

#[tokio::test]
async fn a_schedule_event_applies_and_fails_the_invocation_if_it_fails() {
    let harness = ProvisionHarness::start().await;
    let event = json!({"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}});
    assert_eq!(harness.invoke(event.clone()).await.unwrap()["action"], "apply");
    harness.assert_provisioned(HEAD_ID).await;
    harness.set_credentials(&json!({"bearerToken": "too old"})).await;
    let error = harness.invoke(event).await.unwrap_err().to_string();
    assert!(
        error.starts_with("the scheduled run did not succeed") && error.contains("tokens expire after 7 days"),
        "{error}"
    );
}

#[tokio::test]
async fn apply_switches_events_off_that_are_declared_off() {
    let harness = ProvisionHarness::start().await.with("ENABLE_EVENTS", "false");
    harness.platform.enable_in_console(HEAD_ID, true);
    assert_eq!(harness.command("apply").await["ok"], true);
    assert!(!harness.platform.events_enabled(HEAD_ID));
}

#[tokio::test]
async fn an_unknown_command_fails_with_a_list_of_the_commands() {
    let harness = ProvisionHarness::start().await;
    for input in [json!({}), json!({"action": "explode"}), json!("apply"), json!({"action": "apply", "head_ids": "x"})]
    {
        let error = harness.invoke(input.clone()).await.unwrap_err().to_string();
        assert!(error.starts_with("this is not a command") && error.contains("\"self-test\""), "{input}: {error}");
    }
    let error = harness.invoke(json!({"action": "apply", "head_ids": []})).await.unwrap_err().to_string();
    assert!(error.starts_with("no head is named"), "{error}");
}

#[tokio::test]
async fn an_expired_token_is_renewed_and_a_stored_token_is_used() {
    let harness = ProvisionHarness::start().await;
    let run = harness.reconciler().await;
    run.unith.webhooks(HEAD_ID).await.unwrap();
    harness.platform.expire_tokens();
    run.unith.webhooks(HEAD_ID).await.expect("a new token");

    let http = http_client().unwrap();
    let account = json!({"email": EMAIL, "secretKey": SECRET_KEY});
    let token: Value = http
        .post(format!("{}/auth/token", harness.platform.url()))
        .json(&account)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    harness.set_credentials(&json!({"bearerToken": token["data"]["bearer"]})).await;
    assert_eq!(harness.command("apply").await["ok"], true);
}

/// A receiver behind a gateway, after a cold start.
async fn gateway(receiving: &ReceiveHarness) -> ApiGateway {
    let caller = receiving.receiver().await;
    let routes: BTreeMap<String, Function> = BTreeMap::from([(format!("POST {WEBHOOK_PATH}"), caller.as_function())]);
    ApiGateway::serve(listen("API Gateway", 0).await.unwrap(), routes).unwrap()
}

fn testing(harness: ProvisionHarness, gateway: &ApiGateway) -> ProvisionHarness {
    harness.with("SELF_TEST_URL", format!("{}{WEBHOOK_PATH}", gateway.url()))
}

#[tokio::test]
async fn a_self_test_delivers_an_event_to_the_table() {
    let harness = ProvisionHarness::start().await;
    let without_key = harness.command("self-test").await;
    assert!(without_key["heads"][0]["error"].as_str().unwrap().contains("run `apply` first"), "{without_key}");
    harness.command("apply").await;
    let receiving = ReceiveHarness::without_ring().await;
    receiving.set_ring(&harness.ring_text().await).await;
    let with_key = gateway(&receiving).await;
    let harness = testing(harness, &with_key);
    let result = harness.command("self-test").await;
    assert_eq!(result["ok"], true, "{result}");
    let head = &result["heads"][0];
    assert_eq!((&head["signed"]["status"], &head["forged"]["status"]), (&json!(200), &json!(401)));
    assert!(head["signed"]["latency_ms"].is_number());
    let items = receiving.table.items().await;
    assert_eq!(items.len(), 1);
    assert_eq!(tests::table::text(&items[0], "event_type"), "SELF_TEST");
    assert!(tests::table::text(&items[0], "session_id").starts_with("self-test:"));

    // It fails for a receiver that does not have the key.
    receiving.set_ring(r#"{"keys": []}"#).await;
    let without_key = gateway(&receiving).await;
    let harness = testing(harness, &without_key);
    let result = harness.command("self-test").await;
    assert_eq!((&result["ok"], &result["heads"][0]["signed"]["status"]), (&json!(false), &json!(503)), "{result}");
}

#[tokio::test]
async fn a_self_test_of_several_heads_forges_one_delivery() {
    let harness = ProvisionHarness::start().await.with("HEAD_IDS", format!("{HEAD_ID},{}", MORE_HEADS[0]));
    harness.command("apply").await;
    let receiving = ReceiveHarness::without_ring().await;
    receiving.set_ring(&harness.ring_text().await).await;
    let gateway = gateway(&receiving).await;
    let result = testing(harness, &gateway).command("self-test").await;
    assert_eq!(result["ok"], true, "{result}");
    let forged = |index: usize| &result["heads"][index]["forged"]["status"];
    assert_eq!((forged(0), forged(1)), (&json!(401), &Value::Null));
}

#[tokio::test]
async fn the_log_line_of_a_scheduled_run_has_metrics_and_that_of_a_command_has_none() {
    let harness = ProvisionHarness::start().await.with("HEAD_IDS", format!("{HEAD_ID},no-such-head"));
    harness.command("status").await;
    assert!(harness.last_line()["_aws"].is_null(), "{}", harness.last_line());
    harness.invoke(json!({"source": "aws.scheduler", "detail": {}})).await.unwrap_err();
    let line = harness.last_line();
    // One head was switched on, registered, stored and subscribed; the other does not exist.
    assert_eq!((&line["Drift"], &line["StepFailed"]), (&json!(4), &json!(1)), "{line}");
    assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Namespace"], "UnithWebhooks");
}

#[tokio::test]
async fn an_expired_key_is_not_drift() {
    let timing = Timing { key_grace: Duration::from_secs(2), ..QUICK };
    let harness = ProvisionHarness::start().await.with_timing(timing);
    harness.command("apply").await;
    harness.command("rotate").await;
    let ring = harness.ring().await;
    assert_eq!(ring.keys().len(), 2, "the old key is retiring");
    let is_expired = async || ring.keys().iter().any(|key| !key.usable(Timestamp::now()));
    within(PATIENCE, until(is_expired)).await;
    assert_eq!(harness.command("status").await["ok"], true);
    harness.invoke(json!({"source": "aws.scheduler", "detail": {}})).await.unwrap();
    assert_eq!((&harness.last_line()["Drift"], harness.ring().await.keys().len()), (&json!(0), 1));
}

#[tokio::test]
async fn an_error_repeats_what_unith_responded_without_secrets() {
    let harness = ProvisionHarness::start().await;
    harness.set_credentials(&json!({"email": EMAIL, "secretKey": "wrong-but-secret"})).await;
    let result = harness.command("apply").await;
    let error = result["heads"][0]["error"].as_str().unwrap();
    assert!(error.starts_with("POST /auth/token: UNITH answered 401 Unauthorized"), "{error}");
    assert!(error.contains("wrong e-mail or secret key"), "{error}");
    assert!(!result.to_string().contains("wrong-but-secret"));
}

/// The alarm on missing metrics is about runs that did not begin.
#[tokio::test]
async fn a_scheduled_run_that_fails_before_its_heads_has_metrics_too() {
    let harness = ProvisionHarness::start().await.with("HEAD_IDS", "*");
    harness.faults(json!({"failing": [{"call": "GET /head/all", "how": {"status": [403, null]}, "times": 1_000}]}));
    let error = harness.invoke(json!({"source": "aws.scheduler"})).await.unwrap_err().to_string();
    let line = harness.last_line();
    assert_eq!((&line["reason"], &line["StepFailed"], &line["Drift"]), (&json!(error), &json!(1), &json!(0)), "{line}");
    assert!(line["_aws"]["CloudWatchMetrics"].is_array(), "{line}");
    harness.invoke(json!({"action": "apply"})).await.unwrap_err();
    assert!(harness.last_line()["reason"].is_string() && harness.last_line()["_aws"].is_null());
}
