//! The demo: some conversations with everything that happens to deliveries in the wild, and the check that what is
//! stored afterwards is exactly what must be.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use anyhow::{Context, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use event_store::store::{self, PK, SK};
use fastrand::Rng;
use provision::{Provisioner, run::Timing};
use serde_json::{Value, json};
use time::Duration;
use tokio::time::Instant;
use unith_events::{event::Identity, key_ring::KeyRing, signature::SharedKey, timestamp::Timestamp};

use crate::{
    KEYS_SECRET, Sandbox, TABLE_NAME, WEBHOOK_URL,
    conversation::{Conversation, ScheduledEvent},
    platform::{EventType, HEAD_ID, PUBLIC_HEAD_ID, PUBLIC_ORG_ID, Sent, delivery::Attempt},
    report::Report,
};

/// A key that no webhook has.
const WRONG_KEY: &str = "00000000000000000000000000000000";

const ROTATIONS: usize = 2;
const ROTATION_LIMIT: std::time::Duration = std::time::Duration::from_mins(1);

/// How the demo goes.
#[derive(Debug, Clone, Copy)]
pub struct Demo {
    /// How many conversations, at least one.
    pub conversations: usize,
    /// What decides about sessions, warnings and time-outs.
    pub seed: u64,
    /// When the first one starts.
    pub start: Timestamp,
    /// Whether the key is rotated twice meanwhile; the conversations are then spread over the time that takes.
    pub rotate: bool,
}

/// One delivery of the demo.
#[derive(Debug)]
pub struct Delivered {
    /// The session it speaks of.
    pub session_id: String,
    /// Its event's type.
    pub kind: EventType,
    /// What is out of the ordinary about it; empty for nothing.
    pub note: &'static str,
    /// How its attempts were answered.
    pub attempts: Vec<Attempt>,
}

/// What the demo found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The sessions in the order in which they were played.
    pub sessions: Vec<String>,
    /// The items of the demo's events, session by session.
    pub stored: Vec<Item>,
    /// What is not as it must be, a sentence each.
    pub mismatches: Vec<String>,
    /// Deliveries of the platform, each counted once.
    pub delivered: usize,
    /// Deliveries that met their own event.
    pub duplicates: usize,
    /// Forged deliveries.
    pub refused: usize,
    /// How often the key was rotated.
    pub rotations: usize,
}

/// An item of the table.
pub type Item = HashMap<String, AttributeValue>;

type Keys = BTreeSet<(String, String)>;

/// What a conversation goes through besides its events.
#[derive(Debug, Clone, Copy, Default)]
struct Mishaps {
    /// The answer to its start is lost, so the platform sends it again.
    answer_lost: bool,
    /// Its last two events come in the wrong order.
    overtaken: bool,
    /// Somebody changes a delivery, or makes one.
    forged: bool,
}

impl Demo {
    /// Plays the conversations and reports each delivery as it is done; then looks at the table.
    pub async fn play(self, sandbox: &Sandbox, report: &mut Report) -> anyhow::Result<Verdict> {
        let client = sandbox.services.dynamodb_client()?;
        let before = keys(&scan(&client).await?);
        let mut random = Rng::with_seed(self.seed);
        let mut verdict = Verdict::default();
        let mut expected = BTreeMap::new();
        let mut start = self.start;
        let rotation = self.rotate.then(|| tokio::spawn(rotate(Arc::clone(&sandbox.provisioner))));
        for index in 0..self.conversations {
            if rotation.is_some() && index > 0 {
                tokio::time::sleep(self.pause()).await;
            }
            // Spread over the conversations there are; all on the first one where it is alone.
            let has = |mishap: usize| mishap % self.conversations == index;
            let mishaps = Mishaps { answer_lost: has(0), overtaken: has(1), forged: has(2) };
            let (warnings, timeout) = (random.usize(0..3), mishaps.overtaken || random.bool());
            let conversation = Conversation::new(&mut random, start, warnings, timeout);
            start = start.plus(Duration::seconds(random.i64(5..60)));
            let scene = Scene { sandbox, conversation: &conversation, before: &before };
            scene.play(mishaps, report, &mut verdict, &mut expected).await?;
            verdict.sessions.push(conversation.session_id);
        }
        if let Some(rotation) = rotation {
            for result in rotation.await? {
                verdict.rotations += 1;
                if result.get("ok") != Some(&Value::Bool(true)) {
                    verdict.mismatches.push(format!("the key was not rotated: {result}"));
                }
            }
        }
        let items = scan(&client).await?;
        check_stored(items, &before, &expected, &mut verdict);
        Ok(verdict)
    }

    /// Between two conversations, so that some are before, in and after the rotations.
    fn pause(self) -> std::time::Duration {
        let all = Timing::default().propagation_delay * u32::try_from(ROTATIONS).unwrap_or(1)
            + std::time::Duration::from_secs(1);
        all / u32::try_from(self.conversations.saturating_sub(1)).unwrap_or(1).max(1)
    }
}

/// Rotates the key, and tells what came of it each time.
async fn rotate(provisioner: Arc<Provisioner>) -> Vec<Value> {
    let mut results = Vec::new();
    for _ in 0..ROTATIONS {
        let result = provisioner.handle(json!({"action": "rotate"}), Instant::now() + ROTATION_LIMIT).await;
        results.push(result.unwrap_or_else(|error| error.to_string().into()));
    }
    results
}

/// What must be true after the stack was deleted: nothing of ours is left at UNITH or in the ring.
pub async fn check_removed(sandbox: &Sandbox, verdict: &mut Verdict) -> anyhow::Result<()> {
    let platform = &sandbox.services.platform;
    let webhooks = platform.webhooks();
    if !webhooks.is_empty() {
        verdict.mismatches.push(format!("{} webhooks are still registered", webhooks.len()));
    }
    if platform.events_enabled(HEAD_ID) {
        verdict.mismatches.push("the head's events are still on".to_owned());
    }
    let ring = sandbox.services.secrets_client()?.get_secret_value().secret_id(KEYS_SECRET).send().await?;
    let ring = KeyRing::parse(ring.secret_string().unwrap_or_default())?;
    if !ring.keys().is_empty() {
        verdict.mismatches.push(format!("{} keys are still in the ring", ring.keys().len()));
    }
    Ok(())
}

/// One conversation on stage.
struct Scene<'a> {
    sandbox: &'a Sandbox,
    conversation: &'a Conversation,
    before: &'a Keys,
}

impl Scene<'_> {
    async fn play(
        &self,
        mishaps: Mishaps,
        report: &mut Report,
        verdict: &mut Verdict,
        expected: &mut BTreeMap<(String, String), Vec<u8>>,
    ) -> anyhow::Result<()> {
        let mut events: Vec<(ScheduledEvent, &'static str)> =
            self.conversation.events.iter().map(|event| (*event, "")).collect();
        if mishaps.overtaken
            && let [.., before_last, last] = events.as_mut_slice()
        {
            std::mem::swap(before_last, last);
            before_last.1 = "overtakes the one before it";
        }
        for (event, note) in events {
            let key = self.key(event);
            let known = self.before.contains(&key);
            let answer_lost = mishaps.answer_lost && event.kind == EventType::StartConversation;
            if answer_lost {
                self.sandbox.front.drop_next_response();
            }
            let mut sent = self.emit(event)?;
            let answers: &[_] = match (answer_lost, known) {
                (true, _) => &[(503, ""), (200, "duplicate")],
                (false, true) => &[(200, "duplicate")],
                (false, false) => &[(200, "stored")],
            };
            let note = if answer_lost { "its answer is lost, so it comes again" } else { note };
            // During a rotation two webhooks deliver it, side by side: either may be the first to have it stored.
            let several = sent.len() > 1;
            let last = sent.first().map(|sent| sent.body.clone()).unwrap_or_default();
            for sent in sent.drain(..) {
                verdict.delivered += 1;
                let attempts = sent.attempts.await?;
                let duplicate = attempts.last().is_some_and(|attempt| answer(attempt).1 == "duplicate");
                verdict.duplicates += usize::from(duplicate);
                let line = if several {
                    let ends_well = attempts.last().is_some_and(Attempt::succeeded);
                    if !ends_well {
                        verdict
                            .mismatches
                            .push(format!("{} was not accepted during the rotation", event.kind.as_str()));
                    }
                    self.line(event, "two webhooks deliver it: the key is being rotated", attempts)
                } else {
                    self.check(event, note, attempts, answers, verdict)
                };
                report.delivery(&line)?;
            }
            expected.insert(key, last.clone());
            if mishaps.forged && event.kind == EventType::EndConversation {
                self.forge(event, &last, report, verdict).await?;
            }
        }
        Ok(())
    }

    fn emit(&self, event: ScheduledEvent) -> anyhow::Result<Vec<Sent>> {
        let platform = &self.sandbox.services.platform;
        let sent = platform.emit(HEAD_ID, &self.conversation.session_id, event.kind, event.at);
        ensure!(!sent.is_empty(), "the platform has no webhook for the event");
        Ok(sent)
    }

    /// Sends what only somebody without the key would send.
    async fn forge(
        &self,
        event: ScheduledEvent,
        body: &[u8],
        report: &mut Report,
        verdict: &mut Verdict,
    ) -> anyhow::Result<()> {
        let platform = &self.sandbox.services.platform;
        let webhook = platform.webhooks().pop().context("the platform has no webhook")?;
        let signature = SharedKey::parse(&webhook.shared_key)?.sign(body).to_hex();
        let tampered = String::from_utf8_lossy(body).replace(PUBLIC_ORG_ID, "evil").into_bytes();
        let wrongly_signed = SharedKey::parse(WRONG_KEY)?.sign(body).to_hex();
        for (note, body, signature) in [
            ("tampered: the body is not the signed one", tampered, signature),
            ("signed with a key that is not ours", body.to_vec(), wrongly_signed),
        ] {
            let attempt = platform.post_as_attacker(WEBHOOK_URL, body, signature).await;
            verdict.refused += 1;
            report.delivery(&self.check(event, note, vec![attempt], &[(401, "Unauthorized")], verdict))?;
        }
        Ok(())
    }

    /// Compares the attempts' answers with what they must be, and makes the report's line of them.
    fn check(
        &self,
        event: ScheduledEvent,
        note: &'static str,
        attempts: Vec<Attempt>,
        expected: &[(u16, &str)],
        verdict: &mut Verdict,
    ) -> Delivered {
        let answers: Vec<_> = attempts.iter().map(answer).collect();
        let is_expected = |((status, word), expected): (&(u16, String), &(u16, &str))| {
            *status == expected.0 && (expected.1.is_empty() || word == expected.1)
        };
        if answers.len() != expected.len() || !answers.iter().zip(expected).all(is_expected) {
            let (kind, session) = (event.kind.as_str(), &self.conversation.session_id);
            verdict.mismatches.push(format!("{kind} of {session}: answered {answers:?}, expected {expected:?}"));
        }
        self.line(event, note, attempts)
    }

    fn line(&self, event: ScheduledEvent, note: &'static str, attempts: Vec<Attempt>) -> Delivered {
        Delivered { session_id: self.conversation.session_id.clone(), kind: event.kind, note, attempts }
    }

    fn key(&self, event: ScheduledEvent) -> (String, String) {
        let identity = Identity {
            head_id: HEAD_ID.to_owned(),
            session_id: self.conversation.session_id.clone(),
            event_type: event.kind.as_str().to_owned(),
            occurred_at: event.at,
        };
        (store::session_pk(HEAD_ID, &self.conversation.session_id), store::event_sk(&identity))
    }
}

/// Status and word of an attempt; 0 and the reason where there was no answer.
#[must_use]
pub fn answer(attempt: &Attempt) -> (u16, String) {
    match &attempt.answer {
        Ok(answer) => (answer.status, answer.word()),
        Err(error) => (0, error.to_string()),
    }
}

async fn scan(client: &aws_sdk_dynamodb::Client) -> anyhow::Result<Vec<Item>> {
    let pages = client.scan().table_name(TABLE_NAME).consistent_read(true).into_paginator().items().send();
    pages.collect::<Result<Vec<_>, _>>().await.context("the table cannot be read")
}

fn keys(items: &[Item]) -> Keys {
    items.iter().map(key).collect()
}

fn key(item: &Item) -> (String, String) {
    (text(item, PK).to_owned(), text(item, SK).to_owned())
}

/// A string attribute; empty where there is none.
#[must_use]
pub fn text<'i>(item: &'i Item, name: &str) -> &'i str {
    item.get(name).and_then(|value| value.as_s().ok()).map_or("", String::as_str)
}

/// Every expected event is there once, says what was sent, and nothing else came.
fn check_stored(
    items: Vec<Item>,
    before: &Keys,
    expected: &BTreeMap<(String, String), Vec<u8>>,
    verdict: &mut Verdict,
) {
    let mut missing: BTreeSet<_> = expected.keys().collect();
    for item in items {
        let key = key(&item);
        let Some(body) = expected.get(&key) else {
            if !before.contains(&key) {
                verdict.mismatches.push(format!("{} {} is stored, and must not be", key.0, key.1));
            }
            continue;
        };
        missing.remove(&key);
        if let Some(wrong) = wrong_attribute(&item, body) {
            verdict.mismatches.push(format!("{} {}: `{wrong}` is not what was sent", key.0, key.1));
        }
        verdict.stored.push(item);
    }
    verdict.mismatches.extend(missing.into_iter().map(|(pk, sk)| format!("{pk} {sk} is not stored")));
    let played = |item: &Item| verdict.sessions.iter().position(|session| session == text(item, "session_id"));
    verdict.stored.sort_by_cached_key(|item| (played(item), text(item, SK).to_owned()));
}

/// The first attribute that does not say what the body says.
fn wrong_attribute(item: &Item, body: &[u8]) -> Option<&'static str> {
    let sent: Value = serde_json::from_slice(body).unwrap_or_default();
    let sent = |name: &str| sent.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let checks = [
        ("body", String::from_utf8_lossy(body).into_owned()),
        ("body_sha256", store::body_sha256(body)),
        ("event_type", sent("event_type").to_ascii_uppercase()),
        ("head_id", HEAD_ID.to_owned()),
        ("session_id", sent("session_id")),
        ("public_head_id", PUBLIC_HEAD_ID.to_owned()),
        ("public_org_id", PUBLIC_ORG_ID.to_owned()),
    ];
    let wrong = checks.iter().find(|(name, expected)| text(item, name) != expected).map(|(name, _)| *name);
    // The table and UNITH spell instants differently.
    let occurred_at = Timestamp::parse(text(item, "occurred_at"));
    let same_instant = occurred_at.is_some() && occurred_at == instant(&sent("timestamp"));
    wrong
        .or_else(|| (!same_instant).then_some("occurred_at"))
        .or_else(|| (text(item, "event_id").len() != 32).then_some("event_id"))
}

/// The instant a delivery's `timestamp` names, in either style. The kit's has no offset and means UTC.
fn instant(timestamp: &str) -> Option<Timestamp> {
    Timestamp::parse(timestamp).or_else(|| Timestamp::parse(&format!("{}Z", timestamp.replace(' ', "T"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(session: &str) -> Vec<u8> {
        sent_as(session, "2026-01-15T09:57:33Z", "END_CONVERSATION")
    }

    fn sent_as(session: &str, timestamp: &str, event_type: &str) -> Vec<u8> {
        json!({
            "timestamp": timestamp, "head_id": HEAD_ID, "session_id": session,
            "public_head_id": PUBLIC_HEAD_ID, "public_org_id": PUBLIC_ORG_ID, "event_type": event_type,
        })
        .to_string()
        .into_bytes()
    }

    /// What is stored of such a body: the type in upper case, and the instant to the millisecond.
    fn stored(body: &[u8]) -> Item {
        let fields: Value = serde_json::from_slice(body).unwrap();
        let mut item: Item = [
            ("pk", "p"),
            ("sk", "s"),
            ("event_id", "0123456789abcdef0123456789abcdef"),
            ("occurred_at", "2026-01-15T09:57:33.000Z"),
            ("event_type", "END_CONVERSATION"),
        ]
        .map(|(name, value)| (name.to_owned(), AttributeValue::S(value.to_owned())))
        .into();
        for name in ["head_id", "session_id", "public_head_id", "public_org_id"] {
            item.insert(name.to_owned(), AttributeValue::S(fields[name].as_str().unwrap().to_owned()));
        }
        item.insert("body".to_owned(), AttributeValue::S(String::from_utf8(body.to_vec()).unwrap()));
        item.insert("body_sha256".to_owned(), AttributeValue::S(store::body_sha256(body)));
        item
    }

    fn mismatches(items: Vec<Item>, before: &Keys) -> Vec<String> {
        let expected = BTreeMap::from([(("p".to_owned(), "s".to_owned()), sent("a"))]);
        let mut verdict = Verdict::default();
        check_stored(items, before, &expected, &mut verdict);
        verdict.mismatches
    }

    #[test]
    fn the_verdict_sees_what_is_missing_wrong_or_too_much() {
        let none = Keys::new();
        assert_eq!(mismatches(vec![stored(&sent("a"))], &none), [""; 0]);
        assert_eq!(mismatches(vec![], &none), ["p s is not stored"]);
        assert_eq!(mismatches(vec![stored(&sent("b"))], &none), ["p s: `body` is not what was sent"]);

        let mut stranger = stored(&sent("a"));
        stranger.insert("sk".to_owned(), AttributeValue::S("other".to_owned()));
        let items = vec![stored(&sent("a")), stranger];
        assert_eq!(mismatches(items.clone(), &none), ["p other is stored, and must not be"]);
        assert_eq!(mismatches(items, &Keys::from([("p".to_owned(), "other".to_owned())])), [""; 0]);

        for name in ["event_id", "event_type", "occurred_at", "public_org_id", "body_sha256"] {
            let mut wrong = stored(&sent("a"));
            wrong.remove(name);
            assert_eq!(mismatches(vec![wrong], &none), [format!("p s: `{name}` is not what was sent")]);
        }
    }

    #[test]
    fn the_verdict_reads_what_was_sent_in_either_style() {
        for (timestamp, event_type, wrong) in [
            ("2026-01-15T09:57:33Z", "END_CONVERSATION", None),
            ("2026-01-15 09:57:33", "end_conversation", None),
            ("2026-01-15 09:57:34", "end_conversation", Some("occurred_at")),
            ("2026-01-15T11:57:33Z", "END_CONVERSATION", Some("occurred_at")),
            ("yesterday", "END_CONVERSATION", Some("occurred_at")),
            ("2026-01-15 09:57:33", "start_conversation", Some("event_type")),
        ] {
            let body = sent_as("a", timestamp, event_type);
            assert_eq!(wrong_attribute(&stored(&body), &body), wrong, "{timestamp} {event_type}");
        }
    }
}
