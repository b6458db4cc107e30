//! `HEAD_IDS=*` stands for all heads of the account.

use sandbox::platform::{account::HEAD_ID, call::Call, settings::Settings};
use serde_json::{Value, json};
use tests::{
    provision_harness::{MORE_HEADS, ProvisionHarness, request},
    proxy::Fault,
};
use unith_events::event_type::EventTypes;

async fn all_heads() -> ProvisionHarness {
    ProvisionHarness::start().await.with("HEAD_IDS", "*")
}

fn schedule() -> Value {
    json!({"source": "aws.scheduler", "detail": {}})
}

#[tokio::test]
async fn a_star_stands_for_every_head_on_every_page_of_the_account() {
    let heads: Vec<_> = (0..95).map(|n| format!("00000000-0000-4000-8000-{n:012}")).collect();
    let settings = Settings { more_heads: heads.clone(), ..Settings::default() };
    let harness = ProvisionHarness::start_with(settings).await.with("HEAD_IDS", "*");
    let result = harness.command("apply").await;
    assert_eq!(result["ok"], true, "{result}");
    assert_eq!((result["heads"].as_array().unwrap().len(), harness.platform.webhooks().len()), (96, 96));
    assert_eq!(harness.platform.calls(Call::ListHeads), 2);
    assert_eq!(harness.command("status").await["ok"], true);
    harness.assert_never_early(&[]);
}

/// Heads beyond the list would count as gone, and their keys would be dropped while their webhooks deliver.
#[tokio::test]
async fn a_list_of_heads_that_ends_before_its_own_count_fails_the_run_and_drops_no_key() {
    let harness = all_heads().await;
    assert_eq!(harness.command("apply").await["ok"], true);
    let ring = harness.ring_text().await;
    let first = |meta: &str| {
        let text = format!(r#"{{"data":[{{"id":"{HEAD_ID}"}}],"meta":{meta}}}"#);
        json!({"call": "GET /head/all", "how": {"body": [200, text]}, "times": 1})
    };
    let second = |how: Value| json!({"call": "GET /head/all", "how": how, "times": 1});
    let empty = || json!({"body": [200, r#"{"data":[]}"#]});
    let refused = |status: u16| json!({"status": [status, null]});
    let counted = "it ends before all heads that it counts were listed";
    for (meta, how, reason) in [
        (r#"{"pageCount":2}"#, refused(403), "403"),
        (r#"{"itemCount":3}"#, refused(403), "403"),
        (r#"{"itemCount":3}"#, refused(404), "404"),
        (r#"{"pageCount":2}"#, empty(), counted),
        (r#"{"pageCount":2,"itemCount":3}"#, empty(), counted),
        (r#"{"itemCount":3}"#, json!({"body": [200, format!(r#"[{{"id":"{HEAD_ID}"}}]"#)]}), counted),
        (r#"{"pageCount":1,"itemCount":3}"#, empty(), counted),
        // Without a count, a page that the account may not see is not one behind the last.
        ("{}", refused(403), "403"),
    ] {
        harness.faults(json!({"failing": [first(meta), second(how)]}));
        let error = harness.invoke(json!({"action": "apply"})).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{meta}: {error}");
        assert_eq!(harness.ring_text().await, ring, "{meta}");
    }
}

#[tokio::test]
async fn a_page_of_heads_that_times_out_is_read_again() {
    let harness = all_heads().await;
    harness.faults(json!({"failing": [{"call": "GET /head/all", "how": {"status": [408, null]}, "times": 2}]}));
    let result = harness.command("apply").await;
    assert_eq!((&result["ok"], result["heads"].as_array().unwrap().len()), (&json!(true), 3), "{result}");
}

#[tokio::test]
async fn a_list_of_heads_without_a_count_ends_behind_its_last_page() {
    let harness = all_heads().await;
    let ids = [HEAD_ID, MORE_HEADS[0], MORE_HEADS[1]].map(|id| json!({"id": id}));
    let page = json!({"call": "GET /head/all", "how": {"body": [200, json!(ids).to_string()]}, "times": 1});
    for end in [json!({"status": [400, null]}), json!({"status": [404, null]}), json!({"body": [200, "[]"]})] {
        harness.faults(json!({"failing": [page, {"call": "GET /head/all", "how": end, "times": 1}]}));
        let result = harness.command("apply").await;
        assert_eq!((&result["ok"], result["heads"].as_array().unwrap().len()), (&json!(true), 3), "{result}");
    }
}

#[tokio::test]
async fn a_scheduled_run_finds_an_added_head_and_does_not_count_it_as_drift() {
    let harness = all_heads().await;
    assert_eq!(
        harness.cloudformation("create", &json!({"HeadIds": "*", "InactivityWarning": "true"})).await["Status"],
        "SUCCESS"
    );
    harness.platform.add_head("new-head");
    harness.platform.change_in_console(1, EventTypes::NONE);
    harness.invoke(schedule()).await.unwrap();
    assert_eq!(harness.last_line()["Drift"], 1, "the changed subscriptions of a known head: {}", harness.last_line());
    harness.assert_provisioned("new-head").await;
}

#[tokio::test]
async fn the_keys_of_a_deleted_head_are_dropped_while_the_account_can_be_read() {
    let harness = all_heads().await;
    harness.command("apply").await;
    harness.platform.remove_head(MORE_HEADS[0]);
    let calls = harness.platform.calls(Call::DeleteWebhook);
    let result = harness.command("apply").await;
    assert_eq!((&result["ok"], result["heads"].as_array().unwrap().len()), (&json!(true), 2), "{result}");
    let ring = harness.ring().await;
    let heads: Vec<_> = ring.keys().iter().filter_map(|key| key.head_id.as_deref()).collect();
    assert_eq!(heads, [HEAD_ID, MORE_HEADS[1]]);
    assert_eq!(harness.platform.calls(Call::DeleteWebhook), calls);

    // While the account cannot be read, no head is known to be gone.
    harness.platform.remove_head(MORE_HEADS[1]);
    harness.faults(json!({"failing": [{"call": "GET /user/me", "how": {"status": [404, null]}, "times": 1_000}]}));
    harness.command("apply").await;
    assert_eq!(harness.ring().await.keys().len(), 2);
}

#[tokio::test]
async fn an_empty_or_unreadable_list_of_heads_fails_the_run() {
    let harness = all_heads().await;
    for (how, reason) in [
        (json!({"body": [200, r#"{"data":[],"meta":{"pageCount":0}}"#]}), "UNITH lists no head for this account"),
        (json!("html"), "it is not a list of heads"),
        (json!({"body": [200, r#"{"data":[{"name":"x"}]}"#]}), "a head in it has no id"),
    ] {
        harness.faults(json!({"failing": [{"call": "GET /head/all", "how": how, "times": 1}]}));
        let error = harness.invoke(json!({"action": "apply"})).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        harness.faults(json!({"failing": [{"call": "GET /head/all", "how": how, "times": 1}]}));
        let response = harness.cloudformation("create", &json!({"HeadIds": ["*"]})).await;
        assert!(response["Status"] == "FAILED" && response["Reason"].as_str().unwrap().contains(reason), "{response}");
    }
    assert!(harness.platform.webhooks().is_empty());
}

#[tokio::test]
async fn a_refused_head_fails_a_run_that_names_it_and_not_one_over_all_heads() {
    let harness = all_heads().await;
    let refused = |times: usize| json!({"failing": [{"call": "GET /head/{head_id}/enable-events", "how": {"status": [403, null]}, "times": times}]});
    harness.faults(refused(1));
    let result = harness.command("apply").await;
    assert_eq!(result["ok"], true, "{result}");
    let errors = result["heads"].as_array().unwrap().iter().filter(|head| head["error"].is_string()).count();
    assert_eq!(errors, 1, "the refusal is reported");
    harness.faults(refused(1));
    assert_eq!(harness.command("status").await["ok"], true);
    harness.faults(refused(1_000));
    assert_eq!(harness.command("apply").await["ok"], false, "a refusal of all heads fails the run");

    let harness = ProvisionHarness::start().await.with("HEAD_IDS", format!("{HEAD_ID},{}", MORE_HEADS[0]));
    harness.faults(refused(1));
    assert_eq!(harness.command("apply").await["ok"], false);
}

#[tokio::test]
async fn a_deletion_reads_the_heads_from_the_ring_and_not_from_a_new_list() {
    let harness = all_heads().await;
    harness.cloudformation("create", &json!({"HeadIds": "*"})).await;
    harness.platform.add_head("somebody-elses");
    harness.platform.enable_in_console("somebody-elses", true);
    let listed = harness.platform.calls(Call::ListHeads);
    assert_eq!(harness.cloudformation("delete", &json!({"HeadIds": "*"})).await["Status"], "SUCCESS");
    assert_eq!(harness.platform.calls(Call::ListHeads), listed);
    assert!(harness.platform.webhooks().is_empty() && harness.ring().await.keys().is_empty());
    for head in [HEAD_ID, MORE_HEADS[0], MORE_HEADS[1]] {
        assert!(!harness.platform.events_enabled(head));
    }
    assert!(harness.platform.events_enabled("somebody-elses"));
}

/// The ring says what `*` stood for.
#[tokio::test]
async fn a_deletion_fails_while_the_ring_cannot_be_read() {
    let harness = all_heads().await;
    harness.cloudformation("create", &json!({"HeadIds": "*"})).await;
    harness.secrets_proxy.set(Fault::access_denied());
    let limit = std::time::Duration::from_secs(20);
    let response = harness.cloudformation_within("delete", &json!({"HeadIds": "*"}), limit).await;
    assert_eq!(response["Status"], "FAILED", "{response}");
    assert_eq!(harness.platform.webhooks().len(), 3);
    harness.secrets_proxy.clear();
    assert_eq!(harness.cloudformation("delete", &json!({"HeadIds": "*"})).await["Status"], "SUCCESS");
    assert!(harness.platform.webhooks().is_empty());
}

#[tokio::test]
async fn a_secret_that_is_not_a_ring_fails_the_creation_and_not_its_rollback() {
    let harness = all_heads().await;
    harness.set_secret(tests::key_ring::RING_SECRET, r#"{"password": "of something else"}"#).await;
    for heads in [json!("*"), json!([HEAD_ID])] {
        let created = harness.cloudformation("create", &json!({"HeadIds": heads})).await;
        assert!(
            created["Status"] == "FAILED" && created["Reason"].as_str().unwrap().contains("is not a valid key ring"),
            "{created}"
        );
        assert_eq!(harness.cloudformation("delete", &json!({"HeadIds": heads})).await["Status"], "SUCCESS");
    }
    assert!(harness.platform.webhooks().is_empty());
    assert_eq!(harness.ring_text().await, r#"{"password": "of something else"}"#);
}

#[tokio::test]
async fn an_update_from_all_heads_to_one_removes_the_others_and_back_restores_them() {
    let harness = all_heads().await;
    harness.cloudformation("create", &json!({"HeadIds": "*"})).await;
    let update = |new: Value, old: Value| {
        let mut update = request("update");
        update["ResourceProperties"]["HeadIds"] = new;
        update["OldResourceProperties"]["HeadIds"] = old;
        update
    };
    let response = harness.respond(update(json!([HEAD_ID]), json!("*"))).await;
    assert_eq!(response["Status"], "SUCCESS", "{response}");
    assert_eq!(harness.platform.webhooks().len(), 1);
    assert!(!harness.platform.events_enabled(MORE_HEADS[0]));
    harness.assert_provisioned(HEAD_ID).await;
    assert_eq!(harness.ring().await.keys().len(), 1);
    let response = harness.respond(update(json!("*"), json!([HEAD_ID]))).await;
    assert_eq!(response["Status"], "SUCCESS", "{response}");
    assert_eq!(response["Data"]["Heads"], 3);
    harness.assert_provisioned(MORE_HEADS[1]).await;
}

#[tokio::test]
async fn a_refusal_of_a_subscription_fails_a_run_over_all_heads_too() {
    let harness = all_heads().await;
    harness
        .faults(json!({"failing": [{"call": "PATCH /head-events/{id}", "how": {"status": [403, null]}, "times": 1}]}));
    let result = harness.command("apply").await;
    assert_eq!(result["ok"], false, "{result}");
    harness.faults(json!({}));
    assert_eq!(harness.command("apply").await["ok"], true);
}

/// The commands of the documentation set no owner.
#[tokio::test]
async fn a_removal_without_an_owner_removes_what_nobody_owns_and_reports_that_nothing_was_there() {
    let harness = all_heads().await.with("OWNER", "");
    assert_eq!(harness.command("apply").await["ok"], true);
    let others = r#"{"head_id":"head-of-another","webhook_id":77,"key":"0123456789abcdef0123456789abcdef","owner":"A@1"},{"head_id":"by-hand","key":"fedcba9876543210fedcba9876543210"}"#;
    let ring = harness.ring_text().await.replace("\"keys\":[", &format!("\"keys\":[{others},"));
    harness.set_secret(tests::key_ring::RING_SECRET, &ring).await;
    let removed = harness.command("remove").await;
    assert_eq!((&removed["ok"], removed["heads"].as_array().unwrap().len()), (&json!(true), 3), "{removed}");
    assert!(harness.platform.webhooks().is_empty() && !harness.platform.events_enabled(HEAD_ID));
    let left = harness.ring().await;
    let left: Vec<_> = left.keys().iter().filter_map(|key| key.head_id.as_deref()).collect();
    assert_eq!(left, ["head-of-another", "by-hand"]);
    let again = harness.command("remove").await;
    let note = "nothing was removed: the key ring does not have an entry without an owner";
    assert_eq!((&again["ok"], &again["heads"], &again["note"]), (&json!(true), &json!([]), &json!(note)));
}

#[tokio::test]
async fn a_removal_by_an_owner_without_entries_reports_that_nothing_was_there() {
    let harness = all_heads().await;
    harness.command("apply").await;
    let harness = harness.with("OWNER", "Other@1");
    let removed = harness.command("remove").await;
    let note = "nothing was removed: the key ring does not have an entry of Other@1";
    assert_eq!((&removed["heads"], &removed["note"]), (&json!([]), &json!(note)), "{removed}");
    assert_eq!(harness.platform.webhooks().len(), 3);
}

#[tokio::test]
async fn a_refusal_of_the_switch_fails_a_disabling_of_all_heads() {
    let harness = all_heads().await;
    harness.command("apply").await;
    let refused = |call: &str, status: u16| json!({"failing": [{"call": call, "how": {"status": [status, null]}, "head_id": MORE_HEADS[0], "times": 1_000}]});
    for status in [400, 403] {
        harness.faults(refused("PUT /head/{head_id}/enable-events", status));
        let result = harness.command("disable").await;
        assert_eq!(result["ok"], false, "{result}");
        harness.faults(json!({}));
        harness.command("enable").await;
    }
    harness.faults(refused("GET /head/{head_id}/enable-events", 403));
    let result = harness.command("disable").await;
    assert_eq!(result["ok"], true, "a head that UNITH refuses is reported, and does not fail the run: {result}");
}
