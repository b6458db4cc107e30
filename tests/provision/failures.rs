//! The failure matrix: every call of UNITH's API fails in every way, before and after its effect. The next run
//! completes the work, and no webhook is live before its key is in the ring.

use std::time::Duration;

use sandbox::platform::account::HEAD_ID;
use serde_json::{Value, json};
use tests::{
    key_ring::RING_SECRET,
    provision_harness::{MORE_HEADS, ProvisionHarness, URL},
};
use tokio::time::Instant;
use unith_events::event_type::EventTypes;

const CALLS: [&str; 7] = [
    "POST /auth/token",
    "GET /head-events",
    "POST /head-events",
    "PATCH /head-events/{id}",
    "DELETE /head-events/{id}",
    "GET /head/{head_id}/enable-events",
    "PUT /head/{head_id}/enable-events",
];

/// A fresh head, or one with two webhooks of ours registered by hand, so that `apply` also deletes.
async fn start(registered: bool) -> ProvisionHarness {
    let harness = ProvisionHarness::start().await;
    if registered {
        harness.platform.enable_in_console(HEAD_ID, true);
        harness.platform.register_in_console(HEAD_ID, URL, EventTypes::NONE);
        harness.platform.register_in_console(HEAD_ID, URL, EventTypes::ALL);
    }
    harness
}

/// A call that fails a number of times, before or after its effect.
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
    let harness = start(registered).await;
    let by_hand: Vec<_> = harness.platform.webhooks().into_iter().map(|webhook| webhook.shared_key).collect();
    harness.faults(fault.failing());
    let first = harness.invoke_within(json!({"action": "apply"}), Duration::from_secs(3)).await;
    if first.as_ref().is_ok_and(|result| result["ok"] == true) {
        harness.assert_provisioned(HEAD_ID).await;
    }
    harness.faults(json!({}));
    let second = harness.command("apply").await;
    assert_eq!(second["ok"], true, "{case}: {second}");
    harness.assert_provisioned(HEAD_ID).await;
    harness.assert_never_early(&by_hand);
    assert_eq!(harness.command("plan").await["heads"][0]["steps"], json!([]), "{case}");
}

async fn matrix(how: Value, times: usize) {
    for call in CALLS {
        for after_effect in [false, true] {
            for registered in [false, true] {
                // If every registration is refused but executed, none can be made without subscriptions.
                if call == "POST /head-events" && after_effect && times > 1 && how.is_object() {
                    continue;
                }
                check(Fault { call, how: &how, after_effect, times }, registered).await;
            }
        }
    }
}

/// A head that is declared off is on while its webhook is registered. No failure may leave it on.
async fn off_matrix(how: Value) {
    for call in CALLS {
        for after_effect in [false, true] {
            for action in ["apply", "rotate"] {
                let case = format!("{action}: {call} {how} after_effect={after_effect}");
                let harness = ProvisionHarness::start().await.with("ENABLE_EVENTS", "false");
                if action == "rotate" {
                    harness.command("apply").await;
                }
                harness.faults(Fault { call, how: &how, after_effect, times: 1 }.failing());
                let first = harness.invoke_within(json!({"action": action}), Duration::from_secs(10)).await;
                assert!(!harness.platform.events_enabled(HEAD_ID), "{case}: {first:?}");
                harness.faults(json!({}));
                assert_eq!(harness.command("apply").await["ok"], true, "{case}");
                assert!(!harness.platform.events_enabled(HEAD_ID), "{case}");
                harness.assert_never_early(&[]);
                assert_eq!(harness.command("enable").await["ok"], true, "{case}");
                harness.assert_provisioned(HEAD_ID).await;
            }
        }
    }
}

#[tokio::test]
async fn one_refusal_leaves_a_head_off_that_is_declared_off() {
    off_matrix(json!({"status": [422, null]})).await;
}

#[tokio::test]
async fn one_server_error_leaves_a_head_off_that_is_declared_off() {
    off_matrix(json!({"status": [500, null]})).await;
}

#[tokio::test]
async fn one_maintenance_page_leaves_a_head_off_that_is_declared_off() {
    off_matrix(json!("html")).await;
}

#[tokio::test]
async fn the_next_run_completes_a_run_with_a_refusal() {
    matrix(json!({"status": [422, null]}), 1).await;
}

#[tokio::test]
async fn the_next_run_completes_a_run_with_a_maintenance_page() {
    matrix(json!("html"), 1).await;
}

#[tokio::test]
async fn the_next_run_completes_a_run_with_nothing_but_maintenance_pages() {
    matrix(json!("html"), 1_000).await;
}

#[tokio::test]
async fn the_next_run_completes_a_run_with_a_server_error() {
    matrix(json!({"status": [503, null]}), 1).await;
}

#[tokio::test]
async fn the_next_run_completes_a_run_with_nothing_but_refusals() {
    matrix(json!({"status": [422, null]}), 1_000).await;
}

#[tokio::test]
async fn the_next_run_completes_a_run_with_a_broken_connection() {
    matrix(json!("reset"), 1).await;
}

#[tokio::test]
async fn the_next_run_completes_a_run_without_a_response() {
    // Each of these takes its run's whole time, so only the calls that change something.
    for call in ["POST /head-events", "PATCH /head-events/{id}", "PUT /head/{head_id}/enable-events"] {
        check(Fault { call, how: &json!("hang"), after_effect: true, times: 1 }, call.starts_with("PATCH")).await;
    }
}

#[tokio::test]
async fn retry_after_of_a_429_is_honoured() {
    let harness = start(false).await;
    harness.faults(json!({"failing": [{"call": "POST /head-events", "how": {"status": [429, 1]}, "times": 1}]}));
    let started = Instant::now();
    assert_eq!(harness.command("apply").await["ok"], true);
    assert!(started.elapsed() >= Duration::from_secs(1), "Retry-After was not honoured");
    harness.assert_provisioned(HEAD_ID).await;
    assert_eq!(harness.platform.webhooks().len(), 1);
}

#[tokio::test]
async fn a_registration_with_an_unknown_outcome_is_not_made_twice() {
    for how in [json!("reset"), json!({"status": [504, null]})] {
        let harness = start(false).await;
        let failing = json!({"call": "POST /head-events", "how": how, "after_effect": true, "times": 1});
        harness.faults(json!({"failing": [failing]}));
        let result = harness.command("apply").await;
        assert_eq!(result["ok"], true, "{result}");
        assert_eq!(harness.platform.webhooks().len(), 1, "{how}");
        harness.assert_provisioned(HEAD_ID).await;
    }
}

#[tokio::test]
async fn a_run_ends_in_time_and_reports_no_step_while_unith_is_down() {
    let harness = start(false).await;
    harness.faults(json!({"failing": [{"call": "*", "how": {"status": [503, null]}, "times": 1_000_000}]}));
    let started = Instant::now();
    let result = harness.invoke_within(json!({"action": "apply"}), Duration::from_secs(3)).await.unwrap();
    assert!(started.elapsed() <= Duration::from_secs(3));
    let head = &result["heads"][0];
    assert_eq!((&result["ok"], &head["ok"], &head["done"]), (&json!(false), &json!(false), &json!([])));
    let error = head["error"].as_str().unwrap();
    assert!(error.contains("UNITH answered 503") || error.contains("the run's time expired"), "{error}");
}

#[tokio::test]
async fn a_head_that_unith_hangs_on_does_not_hold_up_the_others() {
    let harness = start(false).await.with("HEAD_IDS", format!("{HEAD_ID},{},{}", MORE_HEADS[0], MORE_HEADS[1]));
    harness.faults(json!({"failing": [{"call": "POST /head-events", "how": "hang", "times": 1}]}));
    let result = harness.invoke_within(json!({"action": "apply"}), Duration::from_secs(6)).await.unwrap();
    let how: Vec<_> = result["heads"].as_array().unwrap().iter().map(|head| head["ok"].clone()).collect();
    assert_eq!(how, [false, true, true], "{result}");
    harness.assert_provisioned(MORE_HEADS[0]).await;
    harness.assert_provisioned(MORE_HEADS[1]).await;
}

#[tokio::test]
async fn an_invalid_ring_is_left_as_it_is_and_keeps_events_off() {
    let harness = start(false).await;
    harness.set_secret(RING_SECRET, r#"{"password": "of something else"}"#).await;
    let result = harness.command("apply").await;
    assert!(result["heads"][0]["error"].as_str().unwrap().contains("is not a valid key ring"), "{result}");
    assert!(!harness.platform.events_enabled(HEAD_ID));
    assert_eq!(harness.ring_text().await, r#"{"password": "of something else"}"#, "the secret stays as it is");
}
