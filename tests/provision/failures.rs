//! The failure matrix: every call of UNITH's API fails in every way, before and after it had its effect; whatever
//! happens, the next run completes it, and events are never on without their key in the ring.

use std::time::Duration;

use sandbox::platform::{HEAD_ID, Subscriptions};
use serde_json::{Value, json};
use tests::unith::{MORE_HEADS, URL, Unith};

const CALLS: [&str; 6] = [
    "POST /auth/token",
    "GET /head-events",
    "POST /head-events",
    "PATCH /head-events/{id}",
    "DELETE /head-events/{id}",
    "PUT /head/{head_id}/enable-events",
];

/// A start from which `apply` makes every kind of call but the registration, or only that one and its like.
async fn world(registered: bool) -> Unith {
    let world = Unith::start().await;
    if registered {
        world.platform.register_by_hand(HEAD_ID, URL, Subscriptions::default());
        world.platform.register_by_hand(HEAD_ID, URL, Subscriptions::ALL);
    }
    world
}

async fn check(call: &str, how: &Value, after_effect: bool, times: usize, registered: bool) {
    let case = format!("{call} {how} after_effect={after_effect} times={times} registered={registered}");
    let world = world(registered).await;
    world.faults(json!({"failing": [{"call": call, "how": how, "after_effect": after_effect, "times": times}]}));
    let first = world.invoke_within(json!({"action": "apply"}), Duration::from_secs(3)).await;
    world.assert_never_blind(HEAD_ID).await;
    let first_ok = first.as_ref().is_ok_and(|result| result["ok"] == true);
    if first_ok {
        world.assert_provisioned(HEAD_ID).await;
    }
    world.faults(json!({}));
    let second = world.command("apply").await;
    assert_eq!(second["ok"], true, "{case}: {second}");
    world.assert_provisioned(HEAD_ID).await;
    assert_eq!(world.command("plan").await["heads"][0]["steps"], json!([]), "{case}");
}

async fn matrix(how: Value, times: usize) {
    for call in CALLS {
        for after_effect in [false, true] {
            for registered in [false, true] {
                check(call, &how, after_effect, times, registered).await;
            }
        }
    }
}

#[tokio::test]
async fn a_server_error_once() {
    matrix(json!({"status": [503, null]}), 1).await;
}

#[tokio::test]
async fn a_refusal_that_does_not_end() {
    matrix(json!({"status": [422, null]}), 1_000).await;
}

#[tokio::test]
async fn a_broken_connection_once() {
    matrix(json!("reset"), 1).await;
}

#[tokio::test]
async fn no_answer_at_all() {
    // Each of these uses up its run's time, so only the calls that change something.
    for call in ["POST /head-events", "PATCH /head-events/{id}", "PUT /head/{head_id}/enable-events"] {
        check(call, &json!("hang"), true, 1, call.starts_with("PATCH")).await;
    }
}

#[tokio::test]
async fn too_many_requests_are_waited_for() {
    let world = world(false).await;
    world.faults(json!({"failing": [{"call": "POST /head-events", "how": {"status": [429, 1]}, "times": 1}]}));
    let started = tokio::time::Instant::now();
    assert_eq!(world.command("apply").await["ok"], true);
    assert!(started.elapsed() >= Duration::from_secs(1), "Retry-After was not honoured");
    world.assert_provisioned(HEAD_ID).await;
    assert_eq!(world.platform.webhooks().len(), 1);
}

#[tokio::test]
async fn a_registration_nobody_knows_the_outcome_of_is_not_made_twice() {
    for how in [json!("reset"), json!({"status": [504, null]})] {
        let world = world(false).await;
        let failing = json!({"call": "POST /head-events", "how": how, "after_effect": true, "times": 1});
        world.faults(json!({"failing": [failing]}));
        let result = world.command("apply").await;
        assert_eq!(result["ok"], true, "{result}");
        assert_eq!(world.platform.webhooks().len(), 1, "{how}");
        world.assert_provisioned(HEAD_ID).await;
    }
}

#[tokio::test]
async fn a_platform_that_is_down_ends_the_run_in_time_and_nothing_is_reported_as_done() {
    let world = world(false).await;
    world.faults(json!({"failing": [{"call": "*", "how": {"status": [503, null]}, "times": 1_000_000}]}));
    let started = tokio::time::Instant::now();
    let result = world.invoke_within(json!({"action": "apply"}), Duration::from_secs(3)).await.unwrap();
    assert!(started.elapsed() <= Duration::from_secs(3));
    let head = &result["heads"][0];
    assert_eq!((&result["ok"], &head["ok"], &head["done"]), (&json!(false), &json!(false), &json!([])));
    let error = head["error"].as_str().unwrap();
    assert!(error.contains("UNITH answered 503") || error.contains("the time for this run is over"), "{error}");
}

#[tokio::test]
async fn a_head_that_unith_hangs_on_leaves_the_others_their_time() {
    let world = world(false).await.with("HEAD_IDS", format!("{HEAD_ID},{},{}", MORE_HEADS[0], MORE_HEADS[1]));
    world.faults(json!({"failing": [{"call": "POST /head-events", "how": "hang", "times": 1}]}));
    let result = world.invoke_within(json!({"action": "apply"}), Duration::from_secs(6)).await.unwrap();
    let how: Vec<_> = result["heads"].as_array().unwrap().iter().map(|head| head["ok"].clone()).collect();
    assert_eq!(how, [false, true, true], "{result}");
    world.assert_provisioned(MORE_HEADS[0]).await;
    world.assert_provisioned(MORE_HEADS[1]).await;
}

#[tokio::test]
async fn a_ring_that_cannot_be_written_keeps_events_off() {
    let world = world(false).await;
    world.set_secret(tests::RING_SECRET, r#"{"password": "of something else"}"#).await;
    let result = world.command("apply").await;
    assert!(result["heads"][0]["error"].as_str().unwrap().contains("is no key ring"), "{result}");
    assert!(!world.platform.events_enabled(HEAD_ID));
    assert_eq!(world.ring_text().await, r#"{"password": "of something else"}"#, "it is left as it is");
}
