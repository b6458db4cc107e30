//! The life of a stack under MiniStack, with the functions' real binaries.
//!
//! It goes from `sam deploy` through deliveries, rotation, updates and rollbacks to deletion, and to a second stack on the
//! retained table. It needs the packages of `.ci/requirements.txt` and a `sam build`, so `cargo test --workspace` leaves it
//! out. `.ci/run` has the commands.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a failed assumption should stop the test where it is, in helpers too; progress is printed"
)]

mod consumer;
mod documents;
mod emulator;
mod publishing;
mod stack;
mod without_sam;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use sandbox::{
    platform::{
        account::{EMAIL, HEAD_ID, SECRET_KEY},
        delivery::Sent,
        settings::Settings,
        simulator::Platform,
        webhook::Webhook,
    },
    server::listen,
};
use serde_json::json;
use tests::{
    repository::{repository, repository_text},
    wait::{PATIENCE, until, within},
};
use unith_events::{event_type::EventType, timestamp::Timestamp};

use crate::{
    consumer::Consumer,
    emulator::Emulator,
    stack::{BUILT, Deployed, Stack},
};

const HEAD_B: &str = "9c1f0f3e-7f0e-4f7e-8f5d-0f4c3a2b1d00";
const HEAD_C: &str = "0d3f6a52-6f0c-4b5e-9a65-7a1b2c3d4e5f";
const UNKNOWN_HEAD: &str = "ffffffff-ffff-4fff-8fff-ffffffffffff";
/// Longer than a `sam deploy` takes.
const DEPLOY_PATIENCE: Duration = Duration::from_mins(5);
/// Longer than MiniStack takes to hand a message to a function.
const REDRIVE_PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_stack_works_from_its_first_deployment_to_its_deletion() {
    let story = Story::begin().await;
    let empty = story.emulator.contents().await;
    story.a_wrong_secret_key_leaves_nothing().await;

    let stack = Stack::new("unith-webhooks", &story.emulator);
    let two_heads = format!("{HEAD_ID},{HEAD_B}");
    let for_this_machine = format!("UnithApiUrl={} Architecture=x86_64", story.platform.url());
    let more = format!("{for_this_machine} EventBusArn=create OrderedQueue=create");
    documents::deploy(&stack, &two_heads, EMAIL, SECRET_KEY, &more).await;
    let deployed = story.is_deployed(&stack).await;
    story.is_registered(&deployed, &[HEAD_ID, HEAD_B]).await;
    story.has_written_the_ring(&deployed, 0).await;
    story.delivers(&deployed, "first", &[HEAD_ID, HEAD_B]).await;
    let consumer = Consumer::new(&story.emulator).await;
    consumer.subscribe(stack.name).await;
    story.publishes_and_summarizes(&stack, &deployed, &consumer).await;
    story.refuses_what_is_tampered_with(&deployed).await;
    story.takes_commands(&deployed).await;
    story.refuses_a_stale_request(&stack, &deployed).await;
    let count = documents::run_harmless_commands(&stack, &deployed).await;
    assert!(count >= 30, "{count}");
    story.report(&format!("the documents' commands work as they are written: {count}"));
    story.rotates(&deployed).await;
    story.repairs_drift_on_schedule(&deployed).await;
    story.spills_while_the_table_refuses(&stack, &deployed, &consumer).await;
    story.holds_events_while_the_bus_is_missing(&stack, &deployed, &consumer).await;
    story.counts_quarantined_bodies(&deployed).await;

    let version = deployed.live_version().await;
    documents::update(&stack, "InactivityWarning=false").await;
    story.report("parameters are updated with the document's command");
    // A bus with a rule cannot be deleted.
    consumer.unsubscribe(stack.name).await;
    let three_heads = format!("{HEAD_ID},{HEAD_B},{HEAD_C}");
    let changes =
        [("HeadIds", three_heads.as_str()), ("RetentionDays", "0"), ("EventBusArn", "\"\""), ("OrderedQueue", "\"\"")];
    let deployed = story.deploys(&stack, &changes).await;
    story.does_not_publish(&stack, &deployed).await;
    story.is_registered(&deployed, &[HEAD_ID, HEAD_B, HEAD_C]).await;
    assert!(
        story.platform.webhooks().iter().all(|webhook| !webhook.subscriptions.contains(EventType::InactivityWarning))
    );
    assert_ne!(deployed.live_version().await, version, "the alias still points to the version with the old variables");
    story.delivers(&deployed, "updated", &[HEAD_ID, HEAD_B, HEAD_C]).await;
    story.goes_back_and_forth(&stack, &deployed, version.as_str().unwrap()).await;
    let deployed = story.switches_publishing_on(&stack, &consumer).await;

    story.rolls_a_failed_update_back(&stack, &deployed).await;
    story.deploys_again_after_a_rollback(&stack, &deployed).await;
    story.deploys_an_edit_without_effect(&stack, &deployed).await;
    story.moves_to_another_table_and_ring(&stack, &deployed).await;
    let deployed = stack.deployed().await;
    story.converses_with_consumer("moved", &consumer).await;
    story.erases_a_session(&stack, &deployed, HEAD_B, &format!("moved-{HEAD_B}")).await;

    consumer.unsubscribe(stack.name).await;
    consumer.end().await;
    let kept = deployed.items().await;
    story.deletes(&stack).await;
    let left: Vec<_> = story.emulator.contents().await.difference(&empty).cloned().collect();
    // Two of each: the stack's own, which it no longer used, and the ones given to it.
    let of = |service: &str| left.iter().filter(|name| name.starts_with(service)).count();
    assert_eq!(
        (of("dynamodb "), of("secretsmanager "), of("sqs "), left.len()),
        (2, 2, 2, 6),
        "tables, key rings, the spill queue and its dead-letter queue alone: {left:?}"
    );
    assert!(deployed.ring().await.keys().is_empty(), "no key is left");
    assert_eq!(deployed.items().await, kept, "the events outlive the stack");

    let table = [deployed.output("TableArn"), deployed.output("TableStreamArn")];
    story.a_new_stack_continues_with_the_table(table, &kept).await;
}

/// Waits for the last attempt of a delivery, which must store the event.
async fn is_stored(sent: &mut Sent) {
    let attempts = (&mut sent.attempts).await.unwrap();
    let response = attempts.last().unwrap().response.clone().unwrap();
    assert_eq!((response.status, response.outcome().as_str()), (200, "stored"), "{}", response.body);
}

/// The world around the stacks, and the start of the test.
struct Story {
    emulator: Emulator,
    platform: Platform,
    begun: Instant,
}

impl Story {
    async fn begin() -> Self {
        let settings = Settings { more_heads: vec![HEAD_B.to_owned(), HEAD_C.to_owned()], ..Settings::default() };
        let platform = Platform::serve(listen("UNITH", 0).await.unwrap(), settings).unwrap();
        Self { emulator: Emulator::start("life").await, platform, begun: Instant::now() }
    }

    fn report(&self, progress: &str) {
        println!("[{:>3} s] {progress}", self.begun.elapsed().as_secs());
    }

    async fn a_wrong_secret_key_leaves_nothing(&self) {
        let before = self.emulator.contents().await;
        let stack = Stack::new("wrong-key", &self.emulator);
        let parameters = [
            ("HeadIds", HEAD_ID),
            ("UnithEmail", EMAIL),
            ("UnithSecretKey", "not-the-key"),
            ("UnithApiUrl", self.platform.url()),
            ("Architecture", "x86_64"),
        ];
        let output = stack.deploy(&parameters).await.expect_err("UNITH rejects the credentials");
        assert!(stack.status().await.is_some(), "{output}");
        let reason = stack.webhook_failure().await;
        assert!(reason.contains("POST /auth/token: UNITH answered 401"), "{reason}");
        assert_eq!(stack.status().await.as_deref(), Some("ROLLBACK_COMPLETE"));
        assert_eq!(self.platform.webhooks().len(), 0);
        // SAM's bucket for uploads is not among these.
        assert_eq!(self.emulator.contents().await, before);
        self.report("a wrong secret key: sam deploy fails, gives the reason, and leaves nothing");
    }

    /// Deploys, and routes the webhook's host to the API.
    async fn deploys<'e>(&self, stack: &Stack<'e>, parameters: &[(&str, &str)]) -> Deployed<'e> {
        stack.deploy(parameters).await.expect("sam deploy");
        self.is_deployed(stack).await
    }

    async fn is_deployed<'e>(&self, stack: &Stack<'e>) -> Deployed<'e> {
        let deployed = stack.deployed().await;
        let (host, base) = deployed.api();
        self.platform.map_host(host, base);
        self.report(&format!("{} is deployed: {}", stack.name, deployed.output("WebhookUrl")));
        deployed
    }

    /// Each head has our webhook, the key ring has its key, and events are on.
    async fn is_registered(&self, deployed: &Deployed<'_>, heads: &[&str]) {
        let webhooks = self.platform.webhooks();
        let ring = deployed.ring().await;
        for head in heads {
            let ours: Vec<_> = webhooks.iter().filter(|webhook| webhook.head_id == *head).collect();
            assert_eq!(ours.len(), 1, "{head}: {webhooks:?}");
            assert_eq!(ours[0].webhook_url, deployed.output("WebhookUrl"));
            let known = ring.keys().iter().any(|key| {
                key.head_id.as_deref() == Some(*head)
                    && key.key.expose() == ours[0].shared_key
                    && key.state.as_str() == "active"
            });
            assert!(known, "{head}: {ring:?}");
            assert!(self.platform.events_enabled(head), "{head}");
        }
        assert_eq!(webhooks.len(), heads.len(), "{webhooks:?}");
        self.report(&format!("registered: {} webhooks, their keys are in the ring, events are on", heads.len()));
    }

    /// Delivers a conversation per head, twice. Each event is in the table once.
    async fn delivers(&self, deployed: &Deployed<'_>, name: &str, heads: &[&str]) -> Vec<Sent> {
        let before = deployed.items().await.len();
        let at = Timestamp::now();
        let mut queued = Vec::new();
        for head in heads {
            for (seconds, kind) in [(2, EventType::StartConversation), (1, EventType::EndConversation)] {
                let at = at.minus(Duration::from_secs(seconds));
                let sent = self.platform.emit(head, &format!("{name}-{head}"), kind, at);
                assert_eq!(sent.len(), 1, "{head}: one webhook gets the event");
                queued.extend(sent);
            }
        }
        for sent in &mut queued {
            is_stored(sent).await;
        }
        for sent in &queued {
            let outcome = self.posts_as_attacker(deployed, sent.body.clone(), &sent.signature).await;
            assert_eq!(outcome, (200, "duplicate".to_owned()));
        }
        assert_eq!(deployed.items().await.len(), before + queued.len(), "each event once");
        self.report(&format!("delivered: {} events, twice each, stored once each", queued.len()));
        queued
    }

    async fn posts_as_attacker(&self, deployed: &Deployed<'_>, body: Vec<u8>, signature: &str) -> (u16, String) {
        let attempt = self.platform.post_as_attacker(deployed.output("WebhookUrl"), body, signature.to_owned()).await;
        let response = attempt.response.unwrap();
        (response.status, response.outcome())
    }

    async fn refuses_what_is_tampered_with(&self, deployed: &Deployed<'_>) {
        let sent = self.delivers(deployed, "to-tamper-with", &[HEAD_ID]).await.remove(0);
        let before = deployed.items().await;
        let mut tampered = sent.body.clone();
        *tampered.last_mut().unwrap() = b' ';
        for (body, signature) in
            [(tampered, sent.signature.as_str()), (sent.body.clone(), "00"), (sent.body, &"0".repeat(64))]
        {
            assert_eq!(self.posts_as_attacker(deployed, body, signature).await.0, 401);
        }
        assert_eq!(deployed.items().await, before);
        self.report("rejected with 401: a tampered body and two wrong signatures");
    }

    async fn takes_commands(&self, deployed: &Deployed<'_>) {
        let status = deployed.invoke(json!({"action": "status"})).await;
        assert_eq!(status["ok"], true, "{status}");
        let plan = deployed.invoke(json!({"action": "plan", "head_ids": [HEAD_B]})).await;
        assert_eq!(plan["heads"][0]["steps"], json!([]), "{plan}");
        // The name in the webhook's URL does not resolve here.
        let (_, base) = deployed.api();
        deployed.set_variable_of_provision("SELF_TEST_URL", &format!("{base}{}", receive::gateway::WEBHOOK_PATH)).await;
        let tested = deployed.invoke(json!({"action": "self-test"})).await;
        assert_eq!(tested["ok"], true, "{tested}");
        self.report("commands: nothing has drifted, and the self-test succeeds");
    }

    /// Lambda may deliver CloudFormation's Delete an hour late. Executed then, it would remove everything.
    async fn refuses_a_stale_request(&self, stack: &Stack<'_>, deployed: &Deployed<'_>) {
        let at = Timestamp::now().minus(Duration::from_hours(1)).to_string();
        let signed_at = format!("{}Z", at.split('.').next().unwrap().replace(['-', ':'], ""));
        let request = json!({
            "RequestType": "Delete",
            "RequestId": "stale",
            "StackId": stack.id().await,
            "LogicalResourceId": "Webhook",
            "PhysicalResourceId": stack.physical_id("Webhook").await,
            "ResourceType": "Custom::UnithWebhook",
            "ResponseURL": format!("{}/_ministack/cfn-response/stale?X-Amz-Date={signed_at}", self.emulator.url()),
            "ResourceProperties": {"HeadIds": [HEAD_ID, HEAD_B]},
        });
        let keys = || self.platform.webhooks().into_iter().map(|webhook| webhook.shared_key).collect::<Vec<_>>();
        let before = keys();
        deployed.invoke(request).await;
        assert_eq!(keys(), before);
        self.is_registered(deployed, &[HEAD_ID, HEAD_B]).await;
        self.report("rejected: a Delete that CloudFormation sent an hour ago");
    }

    /// Secrets Manager keeps 100 versions of a secret per day, so one change writes the ring twice at most.
    async fn has_written_the_ring(&self, deployed: &Deployed<'_>, before: usize) {
        let versions = deployed.ring_versions().await;
        assert!((before + 1..=before + 2).contains(&versions), "{before} versions became {versions}");
        self.report(&format!("the key ring had {before} versions and has {versions}"));
    }

    async fn rotates(&self, deployed: &Deployed<'_>) {
        let (before, versions) = (self.platform.webhooks(), deployed.ring_versions().await);
        let result = deployed.invoke(json!({"action": "rotate"})).await;
        assert_eq!(result["ok"], true, "{result}");
        let after = self.platform.webhooks();
        assert!(after.iter().all(|webhook| before.iter().all(|old| old.shared_key != webhook.shared_key)), "{after:?}");
        self.is_registered(deployed, &[HEAD_ID, HEAD_B]).await;
        self.has_written_the_ring(deployed, versions).await;
        self.delivers(deployed, "rotated", &[HEAD_ID, HEAD_B]).await;
        self.report("rotated: new keys, and deliveries signed with them are stored");
    }

    async fn repairs_drift_on_schedule(&self, deployed: &Deployed<'_>) {
        let webhook = self.platform.webhooks().remove(0);
        self.platform.delete_in_console(webhook.id);
        self.platform.enable_in_console(&webhook.head_id, false);
        let schedule =
            json!({"version": "0", "source": "aws.scheduler", "detail-type": "Scheduled Event", "detail": "{}"});
        deployed.invoke(schedule).await;
        self.is_registered(deployed, &[HEAD_ID, HEAD_B]).await;
        self.report("repaired: a webhook that was deleted in UNITH's console");
    }

    /// Uses the commands of the drill in `docs/runbooks.md`.
    ///
    /// The drill denies the write to `receive` alone. Without its mapping, `redrive` leaves the message in the queue.
    async fn spills_while_the_table_refuses(
        &self,
        stack: &Stack<'_>,
        deployed: &Deployed<'_>,
        consumer: &Consumer<'_>,
    ) {
        let (role, mapping) = (stack.physical_id("ReceiveRole").await, stack.physical_id("RedriveSpilled").await);
        let before = deployed.items().await;
        deployed.enable_mapping(&mapping, false).await;
        documents::run(stack, "aws iam put-role-policy", &[("\"$ROLE\"", &role)]).await;

        let at = Timestamp::now();
        let mut sent = self.platform.emit(HEAD_ID, "spilled", EventType::StartConversation, at).remove(0);
        let attempts = (&mut sent.attempts).await.unwrap();
        let responses: Vec<_> = attempts.iter().map(|attempt| attempt.response.as_ref().unwrap()).collect();
        let outcomes: Vec<_> = responses.iter().map(|response| (response.status, response.outcome())).collect();
        assert_eq!(outcomes, [(202, "accepted".to_owned())]);
        assert_eq!(deployed.items().await, before, "the table refuses");
        assert_eq!(deployed.spilled().await, [1, 0]);

        documents::run(stack, "aws iam delete-role-policy", &[("\"$ROLE\"", &role)]).await;
        deployed.enable_mapping(&mapping, true).await;
        within(REDRIVE_PATIENCE, until(async || deployed.spilled().await == [0, 0])).await;
        let added: Vec<_> = deployed.items().await.into_iter().filter(|item| !before.contains(item)).collect();
        assert_eq!(added.len(), 1, "{added:?}");
        assert!(added[0].contains("#spilled "), "{added:?}");
        let again = self.posts_as_attacker(deployed, sent.body.clone(), &sent.signature).await;
        assert_eq!(again, (200, "duplicate".to_owned()));
        self.delivers(deployed, "after-the-drill", &[HEAD_ID]).await;
        let published = consumer.take("spilled", 1).await.remove(0);
        assert_eq!(published["detail"]["metadata"]["via"], "redrive", "{published}");
        assert!(deployed.row(HEAD_ID, "spilled").await.is_some());
        self.report("spilled while the table refused, stored by redrive and published: one event, once");
    }

    /// The dry run of the quarantine retry, for a day without quarantined bodies.
    async fn counts_quarantined_bodies(&self, deployed: &Deployed<'_>) {
        let retry = json!({"action": "retry-quarantine", "day": "2026-01-15", "apply": false});
        let result = deployed.invoke_function("Redrive", retry).await;
        assert!(result.is_object() && result.get("errorMessage").is_none(), "{result}");
        self.report(&format!("quarantine retry, dry run: {result}"));
    }

    /// Uses the command of `docs/runbooks.md`.
    async fn goes_back_and_forth(&self, stack: &Stack<'_>, deployed: &Deployed<'_>, previous: &str) {
        // docs/deploy.md names the alias, for the rollback of an update whose provisioned environments cannot start.
        assert!(stack.physical_id("ReceiveAliaslive").await.ends_with(":live"));
        let current = deployed.live_version().await;
        for version in [previous, current.as_str().unwrap()] {
            let names = [("FUNCTION", deployed.output("ReceiveFunction")), ("PREVIOUS", version)];
            documents::run(stack, "aws lambda update-alias", &names).await;
            assert_eq!(deployed.live_version().await, version);
            self.delivers(deployed, &format!("version-{version}"), &[HEAD_ID]).await;
        }
        self.report("went back to the previous version, and forth");
    }

    async fn rolls_a_failed_update_back(&self, stack: &Stack<'_>, deployed: &Deployed<'_>) {
        let before = self.platform.webhooks();
        let heads = format!("{HEAD_ID},{UNKNOWN_HEAD}");
        let changes = [("HeadIds", heads.as_str()), ("InactivityWarning", "true"), ("RetentionDays", "30")];
        stack.deploy(&changes).await.expect_err("UNITH does not know the head");
        let reason = stack.webhook_failure().await;
        assert!(reason.contains(UNKNOWN_HEAD) && reason.contains("404"), "{reason}");
        assert_eq!(stack.status().await.as_deref(), Some("UPDATE_ROLLBACK_COMPLETE"));
        // The failed update removed webhooks. Their successors have the same heads and types.
        let of = |webhooks: &[Webhook]| -> BTreeSet<_> {
            webhooks
                .iter()
                .map(|webhook| (webhook.head_id.clone(), webhook.subscriptions.contains(EventType::InactivityWarning)))
                .collect()
        };
        assert_eq!(of(&self.platform.webhooks()), of(&before));
        self.is_registered(deployed, &[HEAD_ID, HEAD_B, HEAD_C]).await;
        self.delivers(deployed, "rolled-back", &[HEAD_ID, HEAD_B, HEAD_C]).await;
        self.report("rolled back: an update with a head that UNITH does not know");
    }

    /// The failed update's version exists already, so `docs/deploy.md` says to change `Release`.
    async fn deploys_again_after_a_rollback(&self, stack: &Stack<'_>, deployed: &Deployed<'_>) {
        let before = deployed.live_version().await;
        let output = stack.deploy(&[("RetentionDays", "30")]).await.expect_err("the version exists");
        assert_eq!(stack.status().await.as_deref(), Some("UPDATE_ROLLBACK_COMPLETE"), "{output}");
        let reason = stack.failure_of("ReceiveVersion").await;
        assert!(reason.contains("A version for this Lambda function exists"), "{reason}");
        assert_eq!(deployed.live_version().await, before);
        self.deploys(stack, &[("RetentionDays", "30"), ("Release", "2")]).await;
        assert_ne!(deployed.live_version().await, before);
        self.delivers(deployed, "once-more", &[HEAD_ID, HEAD_B, HEAD_C]).await;
        self.report("deployed again after the rollback, with another Release");
    }

    /// A new tag makes SAM publish a version, and Lambda sees no change.
    async fn deploys_an_edit_without_effect(&self, stack: &Stack<'_>, deployed: &Deployed<'_>) {
        let built = repository(BUILT);
        let template = std::fs::read_to_string(built.join("template.yaml")).unwrap();
        let line = "      AutoPublishAliasAllProperties: true\n";
        assert_eq!(template.matches(line).count(), 1);
        let edited = template.replace(line, &format!("{line}      Tags:\n        Edited: 'yes'\n"));
        std::fs::write(built.join("edited.yaml"), edited).unwrap();
        let before = deployed.live_version().await;
        stack.deploy_template("edited.yaml", &[]).await.expect_err("the version exists");
        let reason = stack.failure_of("ReceiveVersion").await;
        assert!(reason.contains("A version for this Lambda function exists"), "{reason}");
        stack.deploy_template("edited.yaml", &[("Release", "3")]).await.expect("sam deploy");
        assert_ne!(deployed.live_version().await, before);
        self.report("deployed an edit without effect, with another Release");
    }

    /// Deliveries continue meanwhile, each succeeds at its first attempt, and none lacks a permission. The ring is copied with the document's commands.
    async fn moves_to_another_table_and_ring(&self, stack: &Stack<'_>, deployed: &Deployed<'_>) {
        let ring = documents::copy_key_ring(stack, deployed.output("KeyRingSecret")).await;
        let (table, stream) = documents::create_another_table(stack).await;
        let refused = stack.deploy(&[("TableArn", &table)]).await.expect_err("the stream is not known");
        assert!(refused.contains("Set TableStreamArn together with TableArn"), "{refused}");
        let key = "arn:aws:kms:us-east-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab";
        let moved = [
            ("TableArn", table.as_str()),
            ("TableStreamArn", stream.as_str()),
            ("KeyRingSecretArn", ring.as_str()),
            ("KmsKeyArn", key),
            ("OrderedQueue", "create"),
        ];
        let (mut sent, begun) = (Vec::new(), Timestamp::now());
        let delivering = async {
            let mut interval = tokio::time::interval(Duration::from_millis(300));
            loop {
                interval.tick().await;
                let session = format!("moving-{}", sent.len());
                sent.extend(self.platform.emit(HEAD_ID, &session, EventType::StartConversation, Timestamp::now()));
            }
        };
        tokio::select! {
            _ = within(DEPLOY_PATIENCE, self.deploys(stack, &moved)) => {}
            () = delivering => {}
        }
        let count = sent.len();
        for sent in sent {
            let attempts = sent.attempts.await.unwrap();
            let statuses: Vec<_> =
                attempts.iter().map(|attempt| attempt.response.as_ref().map(|response| response.status).ok()).collect();
            // The emulator may be slow while it deploys. Then an event is spilled.
            assert!(matches!(statuses[..], [Some(200 | 202)]), "{statuses:?}");
        }
        within(REDRIVE_PATIENCE, until(async || deployed.spilled().await == [0, 0])).await;
        let denied = deployed.logged_since("ReceiveLogGroup", "AccessDenied", begun).await;
        assert!(denied.is_empty(), "{denied:?}");
        let moved = stack.deployed().await;
        let (before, after) = (deployed.items().await, moved.items().await);
        let of_the_move = |items: &[String]| items.iter().filter(|item| item.contains("moving-")).count();
        assert_eq!(of_the_move(&before) + of_the_move(&after), count, "each event is in one of the tables");
        assert!(count > 3 && of_the_move(&before) > 0, "{count}");
        self.is_registered(&moved, &[HEAD_ID, HEAD_B, HEAD_C]).await;
        self.delivers(&moved, "moved", &[HEAD_ID, HEAD_B, HEAD_C]).await;
        self.report(&format!("moved to another table, ring and key during {count} deliveries"));
    }

    /// Uses the commands of `docs/security.md`.
    async fn erases_a_session(&self, stack: &Stack<'_>, deployed: &Deployed<'_>, head: &str, session: &str) {
        let document = repository_text("docs/security.md");
        let section = document.split("## Erase a session").nth(1).unwrap();
        within(PATIENCE, until(async || deployed.row(head, session).await.is_some())).await;
        let blocks: String = section.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        let (_, commands) = blocks.split_once("\n\n").expect("the variables come first");
        let commands = commands.replace("aws sqs ", "aws --endpoint-url $AWS_ENDPOINT_URL sqs ");
        let script = format!("HEAD={head}\nSESSION={session}\nSTACK={}\n{commands}", stack.name);
        let before = deployed.items().await;
        let output = self.emulator.run("bash", &["-euo", "pipefail", "-c", &script]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (erased, kept): (Vec<_>, Vec<_>) = before.into_iter().partition(|item| item.contains(session));
        assert_eq!(erased.len(), 2, "{erased:?}");
        assert_eq!(deployed.items().await, kept);
        assert_eq!(deployed.row(head, session).await, None);
        let output = String::from_utf8_lossy(&output.stdout).replace(' ', "");
        assert!(output.contains(r#""deleted":1"#) && output.contains(r#""status":"not_found""#), "{output}");
        self.report("erased: one session with its summary, and nothing else");
    }

    async fn deletes(&self, stack: &Stack<'_>) {
        documents::run(stack, "sam delete --stack-name unith-webhooks", &[]).await;
        stack.wait_until_deleted().await;
        assert_eq!(self.platform.webhooks().len(), 0, "{:?}", self.platform.webhooks());
        for head in [HEAD_ID, HEAD_B, HEAD_C] {
            assert!(!self.platform.events_enabled(head), "{head}");
        }
        self.report("deleted: nothing is left at UNITH");
    }

    /// A stack with another name and one head, whose account is in an existing secret.
    async fn a_new_stack_continues_with_the_table(&self, [table, stream]: [&str; 2], kept: &[String]) {
        let stack = Stack::new("another", &self.emulator);
        let key = format!(r#""secretKey":"{SECRET_KEY}""#);
        let account = [("jane@example.com", EMAIL), (r#""secretKey":"…""#, key.as_str())];
        let secret = documents::run(&stack, "aws secretsmanager create-secret --name unith-account ", &account).await;
        let parameters = [
            ("HeadIds", HEAD_ID),
            ("CredentialsSecretArn", secret.trim()),
            ("UnithApiUrl", self.platform.url()),
            ("Architecture", "x86_64"),
            ("TableArn", table),
            ("TableStreamArn", stream),
        ];
        let deployed = self.deploys(&stack, &parameters).await;
        self.is_registered(&deployed, &[HEAD_ID]).await;
        assert_eq!(deployed.items().await, kept);
        self.delivers(&deployed, "another", &[HEAD_ID]).await;
        // The stream has the last 24 hours, so sessions of the deleted stack are summarized too.
        within(PATIENCE, until(async || deployed.row(HEAD_ID, "moved").await.is_some())).await;
        stack.delete().await;
        assert_eq!(self.platform.webhooks().len(), 0);
        self.report("a new stack continued with the table");
        let (table, ring) = (deployed.output("TableName"), deployed.output("KeyRingSecret"));
        documents::run(&stack, "aws dynamodb delete-table", &[("TABLE", table)]).await;
        documents::run(&stack, "aws secretsmanager delete-secret", &[("RING", ring)]).await;
        let left = self.emulator.contents().await;
        assert!(left.iter().all(|name| !name.ends_with(table) && !name.contains("another-KeyRing")), "{left:?}");
        self.report("its table and key ring are deleted with the document's commands");
    }
}
