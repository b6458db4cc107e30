//! The checks of the demo: what the table must hold, and what must be gone when the stack is deleted.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use anyhow::Context;
use aws_sdk_dynamodb::{Client, types::AttributeValue};
use event_store::item::{EventItem, body_sha256};
use serde::Deserialize;
use serde_json::Value;
use unith_events::{key_ring::KeyRing, timestamp::Timestamp};

use crate::{
    platform::account::{HEAD_ID, PUBLIC_HEAD_ID, PUBLIC_ORG_ID},
    services::{KEYS_SECRET, Services, TABLE_NAME},
};

type Item = HashMap<String, AttributeValue>;

/// The key of an item.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Key {
    pub pk: String,
    pub sk: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pk, self.sk)
    }
}

/// The items that the table must hold: those of before, and one for each expected event.
#[derive(Debug, Default)]
pub struct ExpectedTable {
    pub before: BTreeSet<Key>,
    /// The body of each expected event.
    pub bodies: BTreeMap<Key, Vec<u8>>,
}

impl ExpectedTable {
    /// Expects the items that the table holds now.
    pub async fn read(client: &Client) -> anyhow::Result<Self> {
        let before: Vec<_> = serde_dynamo::from_items(scan(client).await?)?;
        Ok(Self { before: before.into_iter().collect(), bodies: BTreeMap::new() })
    }

    /// Whether the item with this key was in the table before the demo.
    pub fn was_stored_before(&self, pk: &str, sk: &str) -> bool {
        self.before.contains(&Key { pk: pk.to_owned(), sk: sk.to_owned() })
    }

    /// Compares the table with this. Returns the items of the expected events, and a sentence for each mismatch.
    pub async fn check(&self, client: &Client) -> anyhow::Result<(Vec<EventItem>, Vec<String>)> {
        self.compare(scan(client).await?)
    }

    fn compare(&self, items: Vec<Item>) -> anyhow::Result<(Vec<EventItem>, Vec<String>)> {
        let mut missing: BTreeSet<_> = self.bodies.keys().collect();
        let (mut stored, mut mismatches) = (Vec::new(), Vec::new());
        for item in items {
            let key: Key = serde_dynamo::from_item(item.clone())?;
            let Some(body) = self.bodies.get(&key) else {
                if !self.before.contains(&key) {
                    mismatches.push(format!("{key} is stored unexpectedly"));
                }
                continue;
            };
            missing.remove(&key);
            match serde_dynamo::from_item(item) {
                Ok(item) => {
                    if let Some(wrong) = wrong_attribute(&item, body) {
                        mismatches.push(format!("{key}: `{wrong}` differs from the delivery"));
                    }
                    stored.push(item);
                }
                Err(error) => mismatches.push(format!("{key} is not the item of an event: {error}")),
            }
        }
        mismatches.extend(missing.into_iter().map(|key| format!("{key} is not stored")));
        Ok((stored, mismatches))
    }
}

async fn scan(client: &Client) -> anyhow::Result<Vec<Item>> {
    let pages = client.scan().table_name(TABLE_NAME).consistent_read(true).into_paginator().items().send();
    pages.collect::<Result<Vec<_>, _>>().await.with_context(|| format!("cannot read table `{TABLE_NAME}`"))
}

/// The first attribute that differs from the delivery.
fn wrong_attribute(item: &EventItem, body: &[u8]) -> Option<&'static str> {
    let sent: Value = serde_json::from_slice(body).unwrap_or_default();
    let sent = |name: &str| sent.get(name).and_then(Value::as_str).unwrap_or_default();
    let checks = [
        ("body", item.body.as_bytes() == body),
        ("body_sha256", item.body_sha256 == body_sha256(body)),
        ("event_type", item.event_type == sent("event_type").to_ascii_uppercase()),
        ("head_id", item.head_id == HEAD_ID),
        ("session_id", item.session_id == sent("session_id")),
        ("public_head_id", item.public_head_id.as_deref() == Some(PUBLIC_HEAD_ID)),
        ("public_org_id", item.public_org_id.as_deref() == Some(PUBLIC_ORG_ID)),
        ("occurred_at", Some(item.occurred_at) == Timestamp::parse(sent("timestamp"))),
        ("event_id", item.event_id.as_str().len() == 32),
    ];
    checks.iter().find(|(_, is_right)| !is_right).map(|(name, _)| *name)
}

/// Checks that the deleted stack left nothing at UNITH and in the key ring. Returns a sentence for each mismatch.
pub async fn check_removed(services: &Services) -> anyhow::Result<Vec<String>> {
    let mut mismatches = Vec::new();
    let webhooks = services.platform.webhooks().len();
    if webhooks > 0 {
        mismatches.push(format!("{webhooks} webhooks are still registered"));
    }
    if services.platform.events_enabled(HEAD_ID) {
        mismatches.push("the head's events are still on".to_owned());
    }
    let secret = services.secrets_client()?.get_secret_value().secret_id(KEYS_SECRET).send().await?;
    let keys = KeyRing::parse(secret.secret_string().unwrap_or_default())?.keys().len();
    if keys > 0 {
        mismatches.push(format!("{keys} keys are still in the ring"));
    }
    Ok(mismatches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use event_store::item::Body;
    use serde_json::json;

    fn sent(session: &str, timestamp: &str, event_type: &str) -> Vec<u8> {
        json!({
            "timestamp": timestamp, "head_id": HEAD_ID, "session_id": session,
            "public_head_id": PUBLIC_HEAD_ID, "public_org_id": PUBLIC_ORG_ID, "event_type": event_type,
        })
        .to_string()
        .into_bytes()
    }

    /// The item of an END at 09:57:33 that was delivered as `body`.
    fn stored(sk: &str, body: &[u8]) -> EventItem {
        let fields: Value = serde_json::from_slice(body).unwrap();
        serde_json::from_value(json!({
            "pk": "p", "sk": sk, "event_id": "0123456789abcdef0123456789abcdef", "event_type": "END_CONVERSATION",
            "occurred_at": "2026-01-15T09:57:33.000Z", "received_at": "2026-01-15T09:57:34.000Z",
            "head_id": fields["head_id"], "session_id": fields["session_id"],
            "public_head_id": fields["public_head_id"], "public_org_id": fields["public_org_id"],
            "body": String::from_utf8(body.to_vec()).unwrap(), "body_sha256": body_sha256(body),
        }))
        .unwrap()
    }

    fn at(sk: &str) -> Key {
        Key { pk: "p".to_owned(), sk: sk.to_owned() }
    }

    #[test]
    fn the_check_reports_missing_wrong_and_unexpected_items() {
        let end = |session| sent(session, "2026-01-15T09:57:33Z", "END_CONVERSATION");
        let right = stored("s", &end("a"));
        let mut table = ExpectedTable::default();
        table.bodies.insert(at("s"), end("a"));
        let item = |item: &EventItem| serde_dynamo::to_item(item).unwrap();
        let mismatches = |table: &ExpectedTable, items: &[Item]| table.compare(items.to_vec()).unwrap().1;
        assert_eq!(mismatches(&table, &[item(&right)]), [""; 0]);
        assert_eq!(mismatches(&table, &[]), ["p s is not stored"]);
        assert_eq!(mismatches(&table, &[item(&stored("s", &end("b")))]), ["p s: `body` differs from the delivery"]);

        for (name, wrong) in [
            ("event_id", EventItem { event_id: serde_json::from_value(json!("0123")).unwrap(), ..right.clone() }),
            ("event_type", EventItem { event_type: "START_CONVERSATION".to_owned(), ..right.clone() }),
            ("occurred_at", EventItem { occurred_at: right.received_at, ..right.clone() }),
            ("public_head_id", EventItem { public_head_id: None, ..right.clone() }),
            ("public_org_id", EventItem { public_org_id: None, ..right.clone() }),
            ("body_sha256", EventItem { body_sha256: String::new(), ..right.clone() }),
            ("body", EventItem { body: Body::new(b"{}"), ..right.clone() }),
        ] {
            let expected = format!("p s: `{name}` differs from the delivery");
            assert_eq!(mismatches(&table, &[item(&wrong)]), [expected]);
            let mut without = item(&right);
            without.remove(name);
            let mismatches = mismatches(&table, &[without]);
            assert!(mismatches.len() == 1 && mismatches[0].contains(&format!("`{name}`")), "{mismatches:?}");
        }

        let items = [item(&right), item(&stored("other", &end("a")))];
        assert_eq!(mismatches(&table, &items), ["p other is stored unexpectedly"]);
        table.before.insert(at("other"));
        assert_eq!(mismatches(&table, &items), [""; 0]);
    }

    #[test]
    fn the_check_reads_deliveries_in_either_style() {
        for (timestamp, event_type, wrong) in [
            ("2026-01-15T09:57:33Z", "END_CONVERSATION", None),
            ("2026-01-15 09:57:33", "end_conversation", None),
            ("2026-01-15 09:57:34", "end_conversation", Some("occurred_at")),
            ("2026-01-15T11:57:33Z", "END_CONVERSATION", Some("occurred_at")),
            ("yesterday", "END_CONVERSATION", Some("occurred_at")),
            ("2026-01-15 09:57:33", "start_conversation", Some("event_type")),
        ] {
            let body = sent("a", timestamp, event_type);
            assert_eq!(wrong_attribute(&stored("s", &body), &body), wrong, "{timestamp} {event_type}");
        }
    }
}
