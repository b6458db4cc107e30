//! The demo: conversations with lost responses, late events, forgeries and an outage of the table, and the check of what is
//! stored afterwards.

use std::time::Duration;

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, ensure};
use event_store::keys::{event_sk, session_pk};
use fastrand::Rng;
use provision::provisioner::Provisioner;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use unith_events::{event::Identity, event_type::EventType, signature::SharedKey, timestamp::Timestamp};

use crate::{
    checks::{ExpectedTable, Key},
    conversation::{Conversation, ScheduledEvent},
    platform::{
        account::{HEAD_ID, PUBLIC_ORG_ID},
        delivery::Attempt,
    },
    queues::SPILL_QUEUE,
    report::{Report, Verdict},
    services::WEBHOOK_URL,
    stream_checks::{check_bus, check_sessions},
    system::Sandbox,
};

/// A key that no webhook has.
const WRONG_KEY: &str = "00000000000000000000000000000000";

const ROTATIONS: u32 = 2;
/// The time that a rotation usually takes: `provision` waits until receivers can have the new key.
const ROTATION_TIME: Duration = Duration::from_millis(11_500);
const ROTATION_LIMIT: Duration = Duration::from_mins(1);
/// The limit for each step of `redrive` during the outage.
const REDRIVE_LIMIT: Duration = Duration::from_secs(20);
/// The limit for `publish` and `sessions` after the last delivery.
const READERS_LIMIT: Duration = Duration::from_secs(20);

/// A demo.
#[derive(Debug, Clone, Copy)]
pub struct Demo {
    /// The number of conversations, at least one.
    pub conversations: u16,
    /// The seed of sessions, warnings and time-outs.
    pub seed: u64,
    /// The start of the first conversation.
    pub start: Timestamp,
    /// Whether the key is rotated meanwhile. The conversations are then spread over the rotations.
    pub rotate: bool,
}

/// The incidents of a conversation.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each incident is independent of the others")]
struct Incidents {
    /// The response to the first delivery is lost, so that the platform repeats it.
    response_lost: bool,
    /// The last two events come in reverse order.
    overtaken: bool,
    /// An attacker changes a delivery and forges another one.
    forged: bool,
    /// The table is unavailable after the first event.
    outage: bool,
}

impl Demo {
    /// Plays the conversations, reports each delivery, and compares the tables and the bus with the expected events.
    pub async fn play(self, sandbox: &Sandbox, report: &mut Report) -> anyhow::Result<Verdict> {
        let client = sandbox.services.dynamodb_client()?;
        let expected = ExpectedTable::read(&client).await?;
        let rotation = self.rotate.then(|| tokio::spawn(rotate(Arc::clone(&sandbox.provisioner))));
        let mut stage = Stage { sandbox, report, expected, verdict: Verdict::default() };
        let mut positions = BTreeMap::new();
        let mut random = Rng::with_seed(self.seed);
        let mut start = self.start;
        for index in 0..self.conversations {
            if rotation.is_some() && index > 0 {
                sleep(ROTATION_TIME * ROTATIONS / u32::from(self.conversations - 1)).await;
            }
            // With fewer than four conversations, one has several incidents.
            let has = |incident: u16| incident % self.conversations == index;
            let incidents = Incidents { response_lost: has(0), overtaken: has(1), forged: has(2), outage: has(3) };
            let (warnings, timeout) = (random.usize(0..3), incidents.overtaken || random.bool());
            let conversation = Conversation::new(&mut random, start, warnings, timeout);
            start = start.plus(Duration::from_secs(random.u64(5..60)));
            stage.play(&conversation, incidents).await?;
            positions.insert(conversation.session_id, index);
        }
        let Stage { expected, mut verdict, .. } = stage;
        if let Some(rotation) = rotation {
            verdict.rotations = ROTATIONS;
            verdict.mismatches.extend(rotation.await?);
        }
        let (mut stored, mismatches) = expected.check(&client).await?;
        stored.sort_by_cached_key(|item| (positions.get(&*item.session_id).copied(), item.sk.clone()));
        verdict.mismatches.extend(mismatches);
        sandbox.stream_readers.wait_until_caught_up(READERS_LIMIT).await?;
        let (published, mismatches) = check_bus(&sandbox.services, &stored, &expected);
        verdict.published = published;
        verdict.mismatches.extend(mismatches);
        let (sessions, mismatches) = check_sessions(&sandbox.services, &stored).await?;
        verdict.sessions = sessions;
        verdict.mismatches.extend(mismatches);
        verdict.stored = stored;
        Ok(verdict)
    }
}

/// Rotates the key. Returns a sentence for each rotation that failed.
async fn rotate(provisioner: Arc<Provisioner>) -> Vec<String> {
    let mut failed = Vec::new();
    for _ in 0..ROTATIONS {
        let result = provisioner.handle(json!({"action": "rotate"}), Instant::now() + ROTATION_LIMIT).await;
        let result = result.unwrap_or_else(|error| error.to_string().into());
        if result.get("ok") != Some(&Value::Bool(true)) {
            failed.push(format!("the key was not rotated: {result}"));
        }
    }
    failed
}

/// The conversations on their way to the table, and what is known of them so far.
struct Stage<'a> {
    sandbox: &'a Sandbox,
    report: &'a mut Report,
    expected: ExpectedTable,
    verdict: Verdict,
}

impl Stage<'_> {
    async fn play(&mut self, conversation: &Conversation, incidents: Incidents) -> anyhow::Result<()> {
        let session = &conversation.session_id;
        let mut events: Vec<_> = conversation.events.iter().map(|event| (*event, "")).collect();
        if incidents.overtaken
            && let [.., before_last, last] = events.as_mut_slice()
        {
            std::mem::swap(before_last, last);
            before_last.1 = "overtakes the event before it";
        }
        let returned = self.sandbox.spill_mapping.progress().returned;
        for (index, (event, mut note)) in events.into_iter().enumerate() {
            let is_unavailable = incidents.outage && index > 0;
            if incidents.outage && index == 1 {
                self.sandbox.services.dynamodb.off();
                self.report.outage_begins()?;
            }
            let key = key(session, event)?;
            let is_lost = incidents.response_lost && event.kind == EventType::StartConversation;
            if is_lost {
                self.sandbox.api_gateway.drop_next_response();
                note = "its response is lost, so UNITH delivers it again";
            }
            let responses: &[_] = match (is_lost, is_unavailable, self.expected.before.contains(&key)) {
                (true, ..) => &[(503, ""), (200, "duplicate")],
                (false, true, _) => &[(202, "accepted")],
                (false, false, true) => &[(200, "duplicate")],
                (false, false, false) => &[(200, "stored")],
            };
            let sent = self.sandbox.services.platform.emit(HEAD_ID, session, event.kind, event.at);
            ensure!(!sent.is_empty(), "no webhook is subscribed to {}", event.kind);
            let body = sent.first().map(|sent| sent.body.clone()).unwrap_or_default();
            // During a rotation two webhooks deliver the event, and either may be the first.
            let is_rotating = sent.len() > 1;
            for sent in sent {
                let attempts = sent.attempts.await?;
                self.verdict.delivered += 1;
                let last = attempts.last().map(|attempt| attempt.summary().1).unwrap_or_default();
                self.verdict.duplicates += usize::from(last == "duplicate");
                self.verdict.accepted += usize::from(last == "accepted");
                if is_rotating {
                    if !attempts.last().is_some_and(Attempt::succeeded) {
                        let mismatch = format!("{} of {session}: refused during the rotation", event.kind);
                        self.verdict.mismatches.push(mismatch);
                    }
                    note = "two webhooks deliver it during the rotation";
                } else {
                    self.check(session, event, &attempts, responses);
                }
                self.report.delivery(session, event.kind, note, &attempts)?;
            }
            if incidents.forged && event.kind == EventType::EndConversation {
                self.forge(session, event, &body).await?;
            }
            self.expected.bodies.insert(key, body);
        }
        if incidents.outage { self.end_outage(returned).await } else { Ok(()) }
    }

    /// Ends the outage once `redrive` has failed too, and waits until it has stored what was spilled.
    ///
    /// `returned` is the number of messages that `redrive` had returned to the queue before the outage.
    async fn end_outage(&mut self, returned: usize) -> anyhow::Result<()> {
        let Sandbox { services, spill_mapping, breaker_periods, .. } = self.sandbox;
        let has_failed = spill_mapping.wait_for(|progress| progress.returned > returned);
        timeout(REDRIVE_LIMIT, has_failed).await.context("redrive was not invoked during the outage")?;
        services.dynamodb.on();
        self.report.outage_ends()?;
        let is_empty = services.sqs.wait_for(SPILL_QUEUE, <[_]>::is_empty);
        timeout(REDRIVE_LIMIT, is_empty).await.context("redrive did not store what was spilled")?;
        // Then the breaker of `receive` lets the next delivery through.
        sleep(breaker_periods.longest).await;
        Ok(())
    }

    /// Posts a tampered and a wrongly signed delivery, as somebody without the key can.
    async fn forge(&mut self, session: &str, event: ScheduledEvent, body: &[u8]) -> anyhow::Result<()> {
        let platform = &self.sandbox.services.platform;
        let webhook = platform.webhooks().pop().context("no webhook is registered")?;
        let signature = SharedKey::parse(&webhook.shared_key)?.sign(body).to_hex();
        let tampered = String::from_utf8_lossy(body).replace(PUBLIC_ORG_ID, "evil").into_bytes();
        let wrong_signature = SharedKey::parse(WRONG_KEY)?.sign(body).to_hex();
        for (note, body, signature) in [
            ("tampered: the body is not the signed one", tampered, signature),
            ("forged: signed with an unknown key", body.to_vec(), wrong_signature),
        ] {
            let attempt = platform.post_as_attacker(WEBHOOK_URL, body, signature).await;
            self.verdict.refused += 1;
            let attempts = [attempt];
            self.check(session, event, &attempts, &[(401, "Unauthorized")]);
            self.report.delivery(session, event.kind, note, &attempts)?;
        }
        Ok(())
    }

    /// Compares the responses with the expected ones. An empty outcome stands for any.
    fn check(&mut self, session: &str, event: ScheduledEvent, attempts: &[Attempt], expected: &[(u16, &str)]) {
        let responses: Vec<_> = attempts.iter().map(Attempt::summary).collect();
        let is_expected = |((status, outcome), expected): (&(u16, String), &(u16, &str))| {
            *status == expected.0 && (expected.1.is_empty() || outcome == expected.1)
        };
        if responses.len() != expected.len() || !responses.iter().zip(expected).all(is_expected) {
            let mismatch = format!("{} of {session}: responses {responses:?}, expected {expected:?}", event.kind);
            self.verdict.mismatches.push(mismatch);
        }
    }
}

fn key(session: &str, event: ScheduledEvent) -> anyhow::Result<Key> {
    let identity = Identity {
        head_id: HEAD_ID.parse()?,
        session_id: session.parse()?,
        event_type: event.kind.as_str().to_owned(),
        occurred_at: event.at,
    };
    Ok(Key { pk: session_pk(&identity.head_id, &identity.session_id), sk: event_sk(&identity) })
}
