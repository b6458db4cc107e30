//! `HEAD_IDS=*`: whatever the account has.

use sandbox::platform::{HEAD_ID, Settings};
use serde_json::{Value, json};
use tests::unith::{MORE_HEADS, ProvisionHarness};

async fn world() -> ProvisionHarness {
    ProvisionHarness::start().await.with("HEAD_IDS", "*")
}

fn schedule() -> Value {
    json!({"source": "aws.scheduler", "detail": {}})
}

#[tokio::test]
async fn every_head_of_the_account_is_looked_after_page_by_page() {
    let heads: Vec<_> = (0..95).map(|n| format!("00000000-0000-4000-8000-{n:012}")).collect();
    let settings = Settings { more_heads: heads.clone(), ..Settings::default() };
    let world = ProvisionHarness::start_with(settings).await.with("HEAD_IDS", "*");
    let result = world.command("apply").await;
    assert_eq!(result["ok"], true, "{result}");
    assert_eq!((result["heads"].as_array().unwrap().len(), world.platform.webhooks().len()), (96, 96));
    assert_eq!(world.platform.calls("GET /head/all"), 2);
    assert_eq!(world.command("status").await["ok"], true);
    world.assert_never_early(&[]);
}

#[tokio::test]
async fn a_head_that_is_added_is_found_and_is_no_drift() {
    let world = world().await;
    assert_eq!(
        world.cloudformation("create", &json!({"HeadIds": "*", "InactivityWarning": "true"})).await["Status"],
        "SUCCESS"
    );
    world.platform.add_head("new-head");
    world.platform.change_in_console(1, sandbox::platform::Subscriptions::default());
    world.invoke(schedule()).await.unwrap();
    assert_eq!(world.last_line()["Drift"], 1, "the changed flags of a known head: {}", world.last_line());
    world.assert_provisioned("new-head").await;
}

#[tokio::test]
async fn a_head_that_is_gone_leaves_no_key_and_stops_nothing() {
    let world = world().await;
    world.command("apply").await;
    world.platform.remove_head(MORE_HEADS[0]);
    let calls = world.platform.calls("DELETE /head-events/{id}");
    let result = world.command("apply").await;
    assert_eq!((&result["ok"], result["heads"].as_array().unwrap().len()), (&json!(true), 2), "{result}");
    let ring = world.ring().await;
    let heads: Vec<_> = ring.keys().iter().filter_map(|key| key.head_id.as_deref()).collect();
    assert_eq!(heads, [HEAD_ID, MORE_HEADS[1]]);
    assert_eq!(world.platform.calls("DELETE /head-events/{id}"), calls);

    // As long as the account does not answer, nothing is known to be gone.
    world.platform.remove_head(MORE_HEADS[1]);
    world.faults(json!({"failing": [{"call": "GET /user/me", "how": {"status": [404, null]}, "times": 1_000}]}));
    world.command("apply").await;
    assert_eq!(world.ring().await.keys().len(), 2);
}

#[tokio::test]
async fn an_empty_account_is_a_failure_and_so_is_what_is_not_a_list() {
    let world = world().await;
    for (how, reason) in [
        (json!({"body": [200, r#"{"data":[],"meta":{"pageCount":0}}"#]}), "UNITH lists no head for this account"),
        (json!("html"), "it is not a list of heads"),
        (json!({"body": [200, r#"{"data":[{"name":"x"}]}"#]}), "a head in it has no id"),
    ] {
        world.faults(json!({"failing": [{"call": "GET /head/all", "how": how, "times": 1}]}));
        let error = world.invoke(json!({"action": "apply"})).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        world.faults(json!({"failing": [{"call": "GET /head/all", "how": how, "times": 1}]}));
        let answer = world.cloudformation("create", &json!({"HeadIds": ["*"]})).await;
        assert!(answer["Status"] == "FAILED" && answer["Reason"].as_str().unwrap().contains(reason), "{answer}");
    }
    assert!(world.platform.webhooks().is_empty());
}

#[tokio::test]
async fn a_head_that_unith_refuses_fails_a_run_that_names_it_and_no_other() {
    let world = world().await;
    let refused = |times: usize| json!({"failing": [{"call": "GET /head/{head_id}/enable-events", "how": {"status": [403, null]}, "times": times}]});
    world.faults(refused(1));
    let result = world.command("apply").await;
    assert_eq!(result["ok"], true, "{result}");
    let errors = result["heads"].as_array().unwrap().iter().filter(|head| head["error"].is_string()).count();
    assert_eq!(errors, 1, "it is reported");
    world.faults(refused(1));
    assert_eq!(world.command("status").await["ok"], true);
    world.faults(refused(1_000));
    assert_eq!(world.command("apply").await["ok"], false, "where all are refused, something else is wrong");

    let world = ProvisionHarness::start().await.with("HEAD_IDS", format!("{HEAD_ID},{}", MORE_HEADS[0]));
    world.faults(refused(1));
    assert_eq!(world.command("apply").await["ok"], false);
}

#[tokio::test]
async fn deleting_goes_by_the_ring_and_not_by_a_new_list() {
    let world = world().await;
    world.cloudformation("create", &json!({"HeadIds": "*"})).await;
    world.platform.add_head("somebody-elses");
    world.platform.enable_in_console("somebody-elses", true);
    let listed = world.platform.calls("GET /head/all");
    assert_eq!(world.cloudformation("delete", &json!({"HeadIds": "*"})).await["Status"], "SUCCESS");
    assert_eq!(world.platform.calls("GET /head/all"), listed);
    assert!(world.platform.webhooks().is_empty() && world.ring().await.keys().is_empty());
    for head in [HEAD_ID, MORE_HEADS[0], MORE_HEADS[1]] {
        assert!(!world.platform.events_enabled(head));
    }
    assert!(world.platform.events_enabled("somebody-elses"));
}

/// The ring says what `*` stood for: without it, nothing is known to be removed.
#[tokio::test]
async fn deleting_without_the_ring_is_not_reported_as_done() {
    let world = world().await;
    world.cloudformation("create", &json!({"HeadIds": "*"})).await;
    let denied = r#"{"__type":"AccessDeniedException","message":"no"}"#.to_owned();
    world.secrets_proxy.set(tests::proxy::Fault::Answer(400, denied));
    let limit = std::time::Duration::from_secs(20);
    let answer = world.cloudformation_within("delete", &json!({"HeadIds": "*"}), limit).await;
    assert_eq!(answer["Status"], "FAILED", "{answer}");
    assert_eq!(world.platform.webhooks().len(), 3);
    world.secrets_proxy.set(tests::proxy::Fault::None);
    assert_eq!(world.cloudformation("delete", &json!({"HeadIds": "*"})).await["Status"], "SUCCESS");
    assert!(world.platform.webhooks().is_empty());
}

/// A secret that is something else was never a ring of ours: what failed to be created must not fail to be deleted.
#[tokio::test]
async fn a_secret_that_is_not_a_ring_stops_the_creation_and_not_its_rollback() {
    let world = world().await;
    world.set_secret(tests::RING_SECRET, r#"{"password": "of something else"}"#).await;
    for heads in [json!("*"), json!([HEAD_ID])] {
        let created = world.cloudformation("create", &json!({"HeadIds": heads})).await;
        assert!(
            created["Status"] == "FAILED" && created["Reason"].as_str().unwrap().contains("is not a key ring"),
            "{created}"
        );
        assert_eq!(world.cloudformation("delete", &json!({"HeadIds": heads})).await["Status"], "SUCCESS");
    }
    assert!(world.platform.webhooks().is_empty());
    assert_eq!(world.ring_text().await, r#"{"password": "of something else"}"#);
}

#[tokio::test]
async fn from_all_to_some_and_back() {
    let world = world().await;
    world.cloudformation("create", &json!({"HeadIds": "*"})).await;
    let update = |new: Value, old: Value| {
        let mut update = tests::unith::request("update");
        update["ResourceProperties"]["HeadIds"] = new;
        update["OldResourceProperties"]["HeadIds"] = old;
        update
    };
    let limit = std::time::Duration::from_secs(30);
    let answer = world.answer_to(update(json!([HEAD_ID]), json!("*")), limit).await;
    assert_eq!(answer["Status"], "SUCCESS", "{answer}");
    assert_eq!(world.platform.webhooks().len(), 1);
    assert!(!world.platform.events_enabled(MORE_HEADS[0]));
    world.assert_provisioned(HEAD_ID).await;
    assert_eq!(world.ring().await.keys().len(), 1);
    let answer = world.answer_to(update(json!("*"), json!([HEAD_ID])), limit).await;
    assert_eq!(answer["Status"], "SUCCESS", "{answer}");
    assert_eq!(answer["Data"]["Heads"], 3);
    world.assert_provisioned(MORE_HEADS[1]).await;
}

/// Excused is a head that cannot be looked at, and not one that was left without its subscriptions.
#[tokio::test]
async fn what_unith_refuses_behind_the_look_fails_the_run() {
    let world = world().await;
    world.faults(json!({"failing": [{"call": "PATCH /head-events/{id}", "how": {"status": [403, null]}, "times": 1}]}));
    let result = world.command("apply").await;
    assert_eq!(result["ok"], false, "{result}");
    world.faults(json!({}));
    assert_eq!(world.command("apply").await["ok"], true);
}
