//! Commands, the schedule, and what they say.

use std::{collections::BTreeMap, time::Duration};

use provision::run::Timing;
use sandbox::{
    api_gateway::{ApiGateway, Function},
    platform::{EMAIL, HEAD_ID, SECRET_KEY},
    server::listen,
};
use serde_json::{Value, json};
use tests::{
    ReceiveHarness,
    unith::{MORE_HEADS, ProvisionHarness, QUICK},
};
use unith_events::timestamp::Timestamp;

#[tokio::test]
async fn plan_says_what_apply_would_do_and_does_nothing() {
    let world = ProvisionHarness::start().await;
    let plan = world.command("plan").await;
    let steps = json!(["register the webhook", "switch the head's events on"]);
    assert_eq!(plan["heads"][0], json!({"head_id": HEAD_ID, "ok": true, "events_on": false, "steps": steps}));
    assert_eq!(
        world.platform.calls("POST /head-events") + world.platform.calls("PUT /head/{head_id}/enable-events"),
        0
    );
    assert!(world.platform.webhooks().is_empty() && world.ring().await.keys().is_empty());
}

#[tokio::test]
async fn status_shows_registration_flags_drift_and_keys_by_fingerprint() {
    let world = ProvisionHarness::start().await;
    let before = world.command("status").await;
    let drift = json!(["register the webhook", "switch the head's events on"]);
    assert_eq!((&before["ok"], &before["heads"][0]["drift"]), (&json!(false), &drift));
    world.command("apply").await;
    let status = world.command("status").await;
    let head = &status["heads"][0];
    assert_eq!((&status["ok"], &head["drift"], &head["other_webhooks"]), (&json!(true), &json!([]), &json!(0)));
    let key = world.ring().await.keys()[0].key.clone();
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
async fn enable_disable_and_remove() {
    let world = ProvisionHarness::start().await;
    let world = world.with("ENABLE_EVENTS", "false");
    world.command("apply").await;
    assert!(!world.platform.events_enabled(HEAD_ID));
    assert_eq!(world.command("enable").await["heads"][0]["done"], json!(["switch the head's events on"]));
    world.assert_provisioned(HEAD_ID).await;
    assert_eq!(world.command("disable").await["heads"][0]["done"], json!(["switch the head's events off"]));
    assert!(!world.platform.events_enabled(HEAD_ID));
    assert_eq!(world.platform.webhooks().len(), 1);
    world.command("enable").await;
    assert!(world.platform.events_enabled(HEAD_ID));
    for done in [json!(["delete webhook 1", "switch the head's events off"]), json!([])] {
        let removed = world.command("remove").await;
        assert_eq!((&removed["ok"], &removed["heads"][0]["done"]), (&json!(true), &done));
    }
    assert!(world.platform.webhooks().is_empty() && world.ring().await.keys().is_empty());
}

#[tokio::test]
async fn a_schedule_applies_and_its_failure_is_a_failure() {
    let world = ProvisionHarness::start().await;
    let event = json!({"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}});
    assert_eq!(world.invoke(event.clone()).await.unwrap()["action"], "apply");
    world.assert_provisioned(HEAD_ID).await;
    world.set_credentials(&json!({"bearerToken": "too old"})).await;
    let error = world.invoke(event).await.unwrap_err().to_string();
    assert!(
        error.starts_with("the scheduled run did not bring everything about") && error.contains("tokens live 7 days"),
        "{error}"
    );
}

#[tokio::test]
async fn events_that_are_declared_off_stay_off() {
    let world = ProvisionHarness::start().await.with("ENABLE_EVENTS", "false");
    world.platform.enable_in_console(HEAD_ID, true);
    assert_eq!(world.command("apply").await["ok"], true);
    assert!(!world.platform.events_enabled(HEAD_ID));
}

#[tokio::test]
async fn what_is_not_a_command_is_answered_with_what_is_one() {
    let world = ProvisionHarness::start().await;
    for input in [json!({}), json!({"action": "explode"}), json!("apply"), json!({"action": "apply", "head_ids": "x"})]
    {
        let error = world.invoke(input.clone()).await.unwrap_err().to_string();
        assert!(error.starts_with("this is not a command") && error.contains("\"self-test\""), "{input}: {error}");
    }
    let error = world.invoke(json!({"action": "apply", "head_ids": []})).await.unwrap_err().to_string();
    assert!(error.starts_with("no head is named"), "{error}");
}

#[tokio::test]
async fn a_token_that_ended_is_got_anew_and_a_stored_one_is_used() {
    let world = ProvisionHarness::start().await;
    let provisioner = world.provisioner();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let run = provisioner.run(deadline, |_| ()).await.unwrap();
    run.unith.webhooks(HEAD_ID).await.unwrap();
    world.platform.expire_tokens();
    run.unith.webhooks(HEAD_ID).await.expect("a new token is got");

    let http = provision::unith::http_client();
    let account = json!({"email": EMAIL, "secretKey": SECRET_KEY});
    let token: Value = http
        .post(format!("{}/auth/token", world.platform.url()))
        .json(&account)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    world.set_credentials(&json!({"bearerToken": token["data"]["bearer"]})).await;
    assert_eq!(world.command("apply").await["ok"], true);
}

/// A receiver behind a front, as after a cold start.
async fn front(receiving: &ReceiveHarness) -> ApiGateway {
    let caller = receiving.receiver().await;
    let routes: BTreeMap<String, Function> =
        BTreeMap::from([(format!("POST {}", receive::WEBHOOK_PATH), caller.as_function())]);
    ApiGateway::serve(listen("the front", 0).await.unwrap(), routes).unwrap()
}

fn testing(world: ProvisionHarness, front: &ApiGateway) -> ProvisionHarness {
    world.with("SELF_TEST_URL", format!("{}{}", front.url(), receive::WEBHOOK_PATH))
}

#[tokio::test]
async fn a_self_test_goes_the_way_of_a_delivery() {
    let world = ProvisionHarness::start().await;
    let without_key = world.command("self-test").await;
    assert!(without_key["heads"][0]["error"].as_str().unwrap().contains("run `apply` first"), "{without_key}");
    world.command("apply").await;
    let receiving = ReceiveHarness::without_ring().await;
    receiving.set_ring(&world.ring_text().await).await;
    let seeing = front(&receiving).await;
    let world = testing(world, &seeing);
    let result = world.command("self-test").await;
    assert_eq!(result["ok"], true, "{result}");
    let head = &result["heads"][0];
    assert_eq!((&head["signed"]["status"], &head["forged"]["status"]), (&json!(200), &json!(401)));
    assert!(head["signed"]["latency_ms"].is_number());
    let items = receiving.table.items().await;
    assert_eq!(items.len(), 1);
    assert_eq!(tests::text(&items[0], "event_type"), "SELF_TEST");
    assert!(tests::text(&items[0], "session_id").starts_with("self-test:"));

    // A receiver that does not have the key is found out.
    receiving.set_ring(r#"{"keys": []}"#).await;
    let blind = front(&receiving).await;
    let world = testing(world, &blind);
    let result = world.command("self-test").await;
    assert_eq!((&result["ok"], &result["heads"][0]["signed"]["status"]), (&json!(false), &json!(503)), "{result}");
}

#[tokio::test]
async fn a_self_test_of_several_heads_forges_one_delivery() {
    let world = ProvisionHarness::start().await.with("HEAD_IDS", format!("{HEAD_ID},{}", MORE_HEADS[0]));
    world.command("apply").await;
    let receiving = ReceiveHarness::without_ring().await;
    receiving.set_ring(&world.ring_text().await).await;
    let front = front(&receiving).await;
    let result = testing(world, &front).command("self-test").await;
    assert_eq!(result["ok"], true, "{result}");
    let forged = |index: usize| &result["heads"][index]["forged"]["status"];
    assert_eq!((forged(0), forged(1)), (&json!(401), &Value::Null));
}

#[tokio::test]
async fn a_scheduled_runs_line_has_metrics_and_a_commands_has_none() {
    let world = ProvisionHarness::start().await.with("HEAD_IDS", format!("{HEAD_ID},no-such-head"));
    world.command("status").await;
    assert!(world.last_line()["_aws"].is_null(), "{}", world.last_line());
    world.invoke(json!({"source": "aws.scheduler", "detail": {}})).await.unwrap_err();
    let line = world.last_line();
    // Switched on, registered, stored and subscribed one; the other one is not there.
    assert_eq!((&line["Drift"], &line["StepFailed"]), (&json!(4), &json!(1)), "{line}");
    assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Namespace"], "UnithWebhooks");
}

#[tokio::test]
async fn an_expired_key_is_not_drift() {
    let pace = Timing { key_grace: time::Duration::seconds(2), ..QUICK };
    let world = ProvisionHarness::start().await.with_pace(pace);
    world.command("apply").await;
    world.command("rotate").await;
    let ring = world.ring().await;
    assert_eq!(ring.keys().len(), 2, "the old key is there");
    let is_over = |now: Timestamp| ring.keys().iter().any(|key| !key.usable(now));
    while !is_over(Timestamp::now()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.command("status").await["ok"], true);
    world.invoke(json!({"source": "aws.scheduler", "detail": {}})).await.unwrap();
    assert_eq!((&world.last_line()["Drift"], world.ring().await.keys().len()), (&json!(0), 1));
}

#[tokio::test]
async fn errors_say_what_unith_said_and_no_secrets() {
    let world = ProvisionHarness::start().await;
    world.set_credentials(&json!({"email": EMAIL, "secretKey": "wrong-but-secret"})).await;
    let result = world.command("apply").await;
    let error = result["heads"][0]["error"].as_str().unwrap();
    assert!(error.starts_with("POST /auth/token: UNITH answered 401 Unauthorized"), "{error}");
    assert!(error.contains("wrong e-mail or secret key"), "{error}");
    assert!(!result.to_string().contains("wrong-but-secret"));
}

/// The alarm of the schedule is about runs that did not begin, and not about those that came to nothing.
#[tokio::test]
async fn a_scheduled_run_that_ends_before_its_heads_leaves_its_metrics_too() {
    let world = ProvisionHarness::start().await.with("HEAD_IDS", "*");
    world.faults(json!({"failing": [{"call": "GET /head/all", "how": {"status": [403, null]}, "times": 1_000}]}));
    let error = world.invoke(json!({"source": "aws.scheduler"})).await.unwrap_err().to_string();
    let line = world.last_line();
    assert_eq!((&line["reason"], &line["StepFailed"], &line["Drift"]), (&json!(error), &json!(1), &json!(0)), "{line}");
    assert!(line["_aws"]["CloudWatchMetrics"].is_array(), "{line}");
    world.invoke(json!({"action": "apply"})).await.unwrap_err();
    assert!(world.last_line()["reason"].is_string() && world.last_line()["_aws"].is_null());
}
