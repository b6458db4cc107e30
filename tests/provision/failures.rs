//! The failure matrix: every call of UNITH's API fails in every way, before and after it had its effect; whatever
//! happens, the next run completes it, and events are never on without their key in the ring.

use std::time::Duration;

use sandbox::platform::{HEAD_ID, Subscriptions};
use serde_json::{Value, json};
use tests::unith::{MORE_HEADS, ProvisionHarness, URL};

const CALLS: [&str; 7] = [
    "POST /auth/token",
    "GET /head-events",
    "POST /head-events",
    "PATCH /head-events/{id}",
    "DELETE /head-events/{id}",
    "GET /head/{head_id}/enable-events",
    "PUT /head/{head_id}/enable-events",
];

/// A start from which `apply` makes every kind of call but the registration, or only that one and its like.
async fn world(registered: bool) -> ProvisionHarness {
    let world = ProvisionHarness::start().await;
    if registered {
        world.platform.enable_in_console(HEAD_ID, true);
        world.platform.register_in_console(HEAD_ID, URL, Subscriptions::default());
        world.platform.register_in_console(HEAD_ID, URL, Subscriptions::ALL);
    }
    world
}

/// A call that fails, so many times, before or behind its effect.
#[derive(Debug, Clone, Copy)]
struct Fault<'a> {
    call: &'a str,
    how: &'a Value,
    after_effect: bool,
    times: usize,
}

impl Fault<'_> {
    fn failing(self) -> Value {
        json!({"failing": [{"call": self.call, "how": self.how, "after_effect": self.after_effect, "times": self.times}]})
    }
}

async fn check(fault: Fault<'_>, registered: bool) {
    let case = format!("{fault:?} registered={registered}");
    let world = world(registered).await;
    let by_hand: Vec<_> = world.platform.webhooks().into_iter().map(|webhook| webhook.shared_key).collect();
    world.faults(fault.failing());
    let first = world.invoke_within(json!({"action": "apply"}), Duration::from_secs(3)).await;
    if first.as_ref().is_ok_and(|result| result["ok"] == true) {
        world.assert_provisioned(HEAD_ID).await;
    }
    world.faults(json!({}));
    let second = world.command("apply").await;
    assert_eq!(second["ok"], true, "{case}: {second}");
    world.assert_provisioned(HEAD_ID).await;
    world.assert_never_early(&by_hand);
    assert_eq!(world.command("plan").await["heads"][0]["steps"], json!([]), "{case}");
}

async fn matrix(how: Value, times: usize) {
    for call in CALLS {
        for after_effect in [false, true] {
            for registered in [false, true] {
                // A registration that is refused and made all the same, for ever, is one that nobody can make in silence.
                if call == "POST /head-events" && after_effect && times > 1 && how.is_object() {
                    continue;
                }
                check(Fault { call, how: &how, after_effect, times }, registered).await;
            }
        }
    }
}

/// A head that is declared off is switched on for a moment, to be registered; no failure may leave it on.
async fn off_matrix(how: Value) {
    for call in CALLS {
        for after_effect in [false, true] {
            for action in ["apply", "rotate"] {
                let case = format!("{action}: {call} {how} after_effect={after_effect}");
                let world = ProvisionHarness::start().await.with("ENABLE_EVENTS", "false");
                if action == "rotate" {
                    world.command("apply").await;
                }
                world.faults(Fault { call, how: &how, after_effect, times: 1 }.failing());
                let first = world.invoke_within(json!({"action": action}), Duration::from_secs(10)).await;
                assert!(!world.platform.events_enabled(HEAD_ID), "{case}: {first:?}");
                world.faults(json!({}));
                assert_eq!(world.command("apply").await["ok"], true, "{case}");
                assert!(!world.platform.events_enabled(HEAD_ID), "{case}");
                world.assert_never_early(&[]);
                assert_eq!(world.command("enable").await["ok"], true, "{case}");
                world.assert_provisioned(HEAD_ID).await;
            }
        }
    }
}

#[tokio::test]
async fn a_refusal_once_leaves_no_head_on_that_is_declared_off() {
    off_matrix(json!({"status": [422, null]})).await;
}

#[tokio::test]
async fn a_server_error_once_leaves_no_head_on_that_is_declared_off() {
    off_matrix(json!({"status": [500, null]})).await;
}

#[tokio::test]
async fn a_maintenance_page_once_leaves_no_head_on_that_is_declared_off() {
    off_matrix(json!("html")).await;
}

#[tokio::test]
async fn a_refusal_once() {
    matrix(json!({"status": [422, null]}), 1).await;
}

#[tokio::test]
async fn a_maintenance_page_once() {
    matrix(json!("html"), 1).await;
}

#[tokio::test]
async fn a_maintenance_page_that_does_not_end() {
    matrix(json!("html"), 1_000).await;
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
        check(Fault { call, how: &json!("hang"), after_effect: true, times: 1 }, call.starts_with("PATCH")).await;
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
    assert!(result["heads"][0]["error"].as_str().unwrap().contains("is not a key ring"), "{result}");
    assert!(!world.platform.events_enabled(HEAD_ID));
    assert_eq!(world.ring_text().await, r#"{"password": "of something else"}"#, "it is left as it is");
}
