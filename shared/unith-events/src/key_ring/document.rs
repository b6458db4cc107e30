//! The key ring as a document that can be changed.
//!
//! Invariants:
//! - Unknown members, unknown entries and the spelling of numbers stay as they are, to the byte.
//! - An expired retiring key is dropped by the next change, a deletion mark after 24 h.

use std::time::Duration;

use std::{collections::BTreeMap, mem};

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{Content, KeyRingError, KeyState, Parsed, RingKey};
use crate::{
    ids::{HeadId, WebhookId},
    json::Object,
    signature::{SharedKey, trimmed},
    timestamp::Timestamp,
};

/// How long a deletion is remembered: no run lasts longer, and no request arrives later.
const DELETION_IS_KEPT: Duration = Duration::from_hours(24);

/// The document in the secret. It holds keys, so it has no `Debug`.
#[derive(Clone, Default)]
pub struct RingDocument {
    /// The members beside `keys` and `deleted`.
    members: BTreeMap<String, Box<RawValue>>,
    entries: Vec<Entry>,
    deletions: Vec<Box<RawValue>>,
}

/// An entry's text, and the key in it if it is usable.
#[derive(Clone)]
struct Entry {
    json: Box<RawValue>,
    key: Option<RingKey>,
}

/// A key to be put into the ring.
#[derive(Debug, Clone)]
pub struct NewKey {
    pub head_id: HeadId,
    /// The webhook it came with; `None` if UNITH does not list it yet.
    pub webhook_id: Option<WebhookId>,
    pub key: SharedKey,
    /// See [`RingKey::owner`].
    pub owner: Option<String>,
    /// See [`RingKey::previous_owner`].
    pub previous_owner: Option<String>,
    /// See [`RingKey::made_while_on`].
    pub made_while_on: bool,
}

impl Entry {
    fn new(json: Box<RawValue>) -> Self {
        let key = RingKey::parse(json.get()).ok();
        Self { json, key }
    }

    /// Sets members; `None` removes one. An entry that is not an object stays as it is.
    fn set<'m>(&mut self, members: impl IntoIterator<Item = (&'m str, Option<Box<RawValue>>)>) {
        let Ok(mut own) = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(self.json.get()) else { return };
        for (name, value) in members {
            match value {
                Some(value) => own.insert(name.to_owned(), value),
                None => own.remove(name),
            };
        }
        if let Some(json) = raw(&own) {
            *self = Self::new(json);
        }
    }

    /// The key of a managed entry of the head.
    fn managed(&self, head_id: &str) -> Option<&RingKey> {
        self.key.as_ref().filter(|key| key.is_managed && key.head_id.as_deref() == Some(head_id))
    }

    fn is_of_webhook(&self, head_id: &str, id: Option<&WebhookId>) -> bool {
        self.managed(head_id).is_some_and(|key| key.webhook_id.as_ref() == id)
    }

    fn has_key(&self, key: &SharedKey) -> bool {
        self.key.as_ref().is_some_and(|own| own.has_key(key))
    }
}

impl RingDocument {
    /// Reads a secret's text. An empty secret is an empty ring; a single key in any form becomes a ring of that key.
    pub fn parse(secret: &str) -> Result<Self, KeyRingError> {
        if matches!(trimmed(secret), "" | "{}") {
            return Ok(Self::default());
        }
        let parsed = Parsed::new(secret)?;
        let mut members = BTreeMap::new();
        for (name, value) in parsed.document.members() {
            let name = String::from_utf8(name.0.into_owned()).map_err(|_| KeyRingError::MemberName)?;
            members.insert(name, value.to_owned());
        }
        members.remove("keys");
        let deletions = members.remove("deleted").filter(|deleted| deleted.get() != "null");
        let deletions = deletions.map(|deleted| serde_json::from_str(deleted.get()).map_err(|_| KeyRingError::Deleted));
        let entries = match parsed.content {
            Content::Entries(entries) => entries.into_iter().map(ToOwned::to_owned).collect(),
            Content::Key(key) => {
                members.retain(|name, _| name != "sharedKey" && name != "head_id");
                let mut entry = BTreeMap::from([("key", key.key.expose()), ("state", KeyState::Active.as_str())]);
                entry.extend(key.head_id.as_deref().map(|head_id| ("head_id", head_id)));
                raw(&entry).into_iter().collect::<Vec<_>>()
            }
        };
        let entries = entries.into_iter().map(Entry::new).collect();
        Ok(Self { members, entries, deletions: deletions.transpose()?.unwrap_or_default() })
    }

    /// The text as it goes into the secret.
    pub fn to_text(&self) -> String {
        let mut members: BTreeMap<&str, Box<RawValue>> =
            self.members.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let entries: Vec<_> = self.entries.iter().map(|entry| &entry.json).collect();
        members.extend(raw(&entries).map(|keys| ("keys", keys)));
        if !self.deletions.is_empty() {
            members.extend(raw(&self.deletions).map(|deleted| ("deleted", deleted)));
        }
        serde_json::to_string(&members).unwrap_or_default()
    }

    /// The size of its text in bytes.
    pub fn bytes(&self) -> usize {
        self.to_text().len()
    }

    /// The document after `change`, without what has expired at `now`. `None` if its text stays the same.
    pub fn changed(&self, now: Timestamp, change: impl Fn(&mut Self)) -> Option<Self> {
        let mut after = self.clone();
        change(&mut after);
        after.drop_expired(now);
        (after.to_text() != self.to_text()).then_some(after)
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The keys of all usable entries, expired ones included.
    pub fn keys(&self) -> impl Iterator<Item = &RingKey> {
        self.entries.iter().filter_map(|entry| entry.key.as_ref())
    }

    /// The managed entries of a head.
    pub fn of_head(&self, head_id: &str) -> Vec<RingKey> {
        self.entries.iter().filter_map(|entry| entry.managed(head_id)).cloned().collect()
    }

    /// The heads of the managed entries of an owner, or of those without one, each once.
    pub fn heads_of(&self, owner: Option<&str>) -> Vec<HeadId> {
        let mut heads: Vec<HeadId> = Vec::new();
        for key in self.keys().filter(|key| key.is_managed && key.owner.as_deref() == owner) {
            heads.extend(key.head_id.clone().filter(|head| !heads.contains(head)));
        }
        heads
    }

    /// Puts a webhook's key in as active. Another key of the same webhook retires at `until`; an entry with this key
    /// for a webhook that was not listed becomes this one.
    pub fn put_active(&mut self, new: &NewKey, now: Timestamp, until: Timestamp) {
        let id = new.webhook_id.as_ref();
        let is_same = |entry: &Entry| {
            entry.has_key(&new.key)
                && (entry.is_of_webhook(&new.head_id, id) || entry.is_of_webhook(&new.head_id, None))
        };
        let is_replaced = |entry: &Entry| entry.is_of_webhook(&new.head_id, id) && !entry.has_key(&new.key);
        self.retire_where(until, |entry| id.is_some() && is_replaced(entry));
        let at = self.entries.iter().position(is_same).unwrap_or_else(|| {
            self.entries.extend(raw(&BTreeMap::<&str, &str>::new()).map(Entry::new));
            self.entries.len() - 1
        });
        let Some(entry) = self.entries.get_mut(at) else { return };
        let since = entry.key.as_ref().and_then(|key| key.since).unwrap_or(now);
        entry.set([
            ("since", raw(&since.to_string())),
            ("head_id", raw(&new.head_id)),
            ("webhook_id", raw(&id)),
            ("key", raw(&new.key.expose())),
            ("state", raw(&KeyState::Active.as_str())),
            ("until", None),
            ("owner", new.owner.as_ref().and_then(raw)),
            ("previous_owner", new.previous_owner.as_ref().and_then(raw)),
            ("made_while_on", raw(&new.made_while_on)),
        ]);
        let mut is_first = true;
        self.entries.retain(|entry| !is_same(entry) || mem::take(&mut is_first));
    }

    /// Sets the owners of a webhook's entries.
    pub fn set_owner(&mut self, head_id: &str, id: &WebhookId, owner: Option<&str>, previous_owner: Option<&str>) {
        for entry in self.entries.iter_mut().filter(|entry| entry.is_of_webhook(head_id, Some(id))) {
            entry.set([
                ("owner", owner.as_ref().and_then(raw)),
                ("previous_owner", previous_owner.as_ref().and_then(raw)),
            ]);
        }
    }

    /// Applies an owner's deletion to the owners of entries: what it took over goes back, and what was taken over from
    /// it no longer remembers it.
    pub fn hand_over_from(&mut self, owner: &str) {
        for entry in &mut self.entries {
            let Some(key) = entry.key.clone() else { continue };
            match (key.owner.as_deref(), key.previous_owner.as_deref()) {
                (Some(own), Some(previous)) if own == owner => {
                    entry.set([("owner", raw(&previous)), ("previous_owner", None)]);
                }
                (_, Some(previous)) if previous == owner => entry.set([("previous_owner", None)]),
                _ => {}
            }
        }
    }

    /// Retires a webhook's key at `until`; a key that is retiring already keeps its `until`.
    pub fn retire(&mut self, head_id: &str, id: &WebhookId, until: Timestamp) {
        self.retire_where(until, |entry| entry.is_of_webhook(head_id, Some(id)));
    }

    /// Retires the keys of registrations that UNITH never listed, except for `but`.
    pub fn retire_unlisted(&mut self, head_id: &str, but: &SharedKey, until: Timestamp) {
        self.retire_where(until, |entry| entry.is_of_webhook(head_id, None) && !entry.has_key(but));
    }

    fn retire_where(&mut self, until: Timestamp, retires: impl Fn(&Entry) -> bool) {
        for entry in self.entries.iter_mut().filter(|entry| retires(entry)) {
            if entry.key.as_ref().is_some_and(|key| key.state == KeyState::Active) {
                entry.set([("state", raw(&KeyState::Retiring.as_str())), ("until", raw(&until.to_string()))]);
            }
        }
    }

    /// Removes the head's managed entries that `goes` selects.
    pub fn remove_keys(&mut self, head_id: &str, goes: impl Fn(&RingKey) -> bool) {
        self.entries.retain(|entry| !entry.managed(head_id).is_some_and(&goes));
    }

    /// When `owner` was deleted, if that is remembered.
    pub fn deleted_at(&self, owner: &str) -> Option<Timestamp> {
        let deletions = self.deletions.iter().filter_map(|deletion| deletion_of(deletion));
        deletions.filter(|(own, _)| own == owner).map(|(_, at)| at).max()
    }

    /// Remembers that `owner` was deleted; of several deletions the latest counts.
    pub fn mark_deleted(&mut self, owner: &str, at: Timestamp) {
        if self.deleted_at(owner).is_some_and(|known| known >= at) {
            return;
        }
        self.unmark_deleted(owner, at);
        self.deletions.extend(raw(&BTreeMap::from([("owner", owner.to_owned()), ("at", at.to_string())])));
    }

    /// Removes the marks of deletions of `owner` up to `by`, when it was created anew.
    pub fn unmark_deleted(&mut self, owner: &str, by: Timestamp) {
        self.deletions.retain(|deletion| deletion_of(deletion).is_none_or(|(own, at)| own != owner || at > by));
    }

    fn drop_expired(&mut self, now: Timestamp) {
        let is_expired = |key: &RingKey| key.state == KeyState::Retiring && !key.usable(now);
        self.entries.retain(|entry| !entry.key.as_ref().is_some_and(is_expired));
        let is_kept = |at: Timestamp| now.since(at) < DELETION_IS_KEPT;
        self.deletions.retain(|deletion| deletion_of(deletion).is_none_or(|(_, at)| is_kept(at)));
    }
}

fn raw(value: &(impl Serialize + ?Sized)) -> Option<Box<RawValue>> {
    to_raw_value(value).ok()
}

fn deletion_of(deletion: &RawValue) -> Option<(String, Timestamp)> {
    let deletion = Object::parse(deletion.get()).ok()?;
    Some((deletion.text("owner")?.into_owned(), Timestamp::parse(&deletion.text("at")?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: &str = "2026-01-16T10:00:00Z";
    const K1: &str = "cbaab87d1cce6d79baad8e9e2607feb3";
    const K2: &str = "0f3c5d7e9a1b2c4d6e8f0a1b2c3d4e5f";

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn document(text: &str) -> RingDocument {
        RingDocument::parse(text).unwrap()
    }

    fn id(json: &str) -> WebhookId {
        WebhookId::from_json(&RawValue::from_string(json.to_owned()).unwrap()).unwrap()
    }

    fn new(webhook_id: Option<&str>, key: &str) -> NewKey {
        NewKey {
            head_id: "h".parse().unwrap(),
            webhook_id: webhook_id.map(id),
            key: SharedKey::parse(key).unwrap(),
            owner: Some("W@1".into()),
            previous_owner: None,
            made_while_on: true,
        }
    }

    fn entries(ring: &RingDocument) -> Value {
        serde_json::from_str::<Value>(&ring.to_text()).unwrap()["keys"].clone()
    }

    #[test]
    fn unknown_entries_and_members_are_kept_to_the_letter() {
        let text = format!(
            r#"{{"keys":[{{"key":"{K1}"}},{{"head_id":"h","key":"{K1}"}},"odd",{{"key":"short"}},{{"head_id":"other","webhook_id":1,"key":"{K1}","note":1e999}}],"version":12345678901234567890123}}"#
        );
        let mut ring = document(&text);
        ring.put_active(&new(Some("4"), K2), at(NOW), at("2026-03-01T00:00:00Z"));
        ring.retire("h", &id("4"), at("2026-01-16T11:00:00Z"));
        ring.remove_keys("h", |_| true);
        ring.mark_deleted("W@1", at("2026-01-01T00:00:00Z"));
        ring.drop_expired(at("2027-01-01T00:00:00Z"));
        assert_eq!(ring.to_text(), text);
    }

    #[test]
    fn a_key_is_put_retired_and_dropped() {
        let mut ring = document("");
        ring.put_active(&new(Some("4"), K1), at(NOW), at("2026-03-01T00:00:00Z"));
        ring.put_active(&new(Some("4"), K1), at("2026-02-01T00:00:00Z"), at("2026-03-01T00:00:00Z"));
        let expected = json!([{
            "head_id": "h", "webhook_id": 4, "key": K1, "state": "active", "since": "2026-01-16T10:00:00.000Z",
            "owner": "W@1", "made_while_on": true,
        }]);
        assert_eq!(entries(&ring), expected, "the same key again is no change");

        let mut renewed = ring.clone();
        renewed.put_active(&new(Some("4"), K2), at(NOW), at("2026-01-16T10:15:00Z"));
        let states: Vec<_> =
            renewed.of_head("h").iter().map(|entry| (entry.key.expose().to_owned(), entry.state)).collect();
        assert_eq!(states, [(K1.to_owned(), KeyState::Retiring), (K2.to_owned(), KeyState::Active)]);

        ring.retire("h", &id("4"), at("2026-01-16T10:15:00Z"));
        ring.retire("h", &id("4"), at("2026-01-16T12:00:00Z"));
        let [entry] = ring.of_head("h").try_into().unwrap();
        assert_eq!((entry.state, entry.until), (KeyState::Retiring, Some(at("2026-01-16T10:15:00Z"))));
        ring.drop_expired(at("2026-01-16T10:14:59Z"));
        assert_eq!(ring.entries.len(), 1);
        ring.drop_expired(at("2026-01-16T10:15:00Z"));
        assert_eq!(ring.entries.len(), 0);
    }

    #[test]
    fn a_webhook_id_keeps_its_spelling_in_the_ring() {
        for spelling in ["4", r#""000123""#, "123456789012345678901234567890"] {
            let mut ring = document("");
            ring.put_active(&new(Some(spelling), K1), at(NOW), at(NOW));
            assert!(ring.to_text().contains(&format!("\"webhook_id\":{spelling}}}")), "{}", ring.to_text());
            ring.put_active(&new(Some(spelling), K1), at(NOW), at(NOW));
            assert_eq!(ring.entries.len(), 1, "{spelling}");
        }
    }

    #[test]
    fn an_entry_without_a_webhook_id_gets_one_when_the_webhook_is_listed() {
        let mut ring = document("");
        ring.put_active(&new(None, K1), at(NOW), at(NOW));
        assert_eq!((entries(&ring)[0]["webhook_id"].is_null(), ring.of_head("h").len()), (true, 1));
        ring.put_active(&new(Some("4"), K1), at("2026-01-17T10:00:00Z"), at(NOW));
        assert_eq!((ring.entries.len(), entries(&ring)[0]["webhook_id"].clone()), (1, json!(4)));
        assert_eq!(entries(&ring)[0]["since"], "2026-01-16T10:00:00.000Z");
        let mut never = document("");
        never.put_active(&new(None, K1), at(NOW), at(NOW));
        never.retire_unlisted("h", &SharedKey::parse(K1).unwrap(), at("2026-01-16T10:15:00Z"));
        assert_eq!(entries(&never)[0]["state"], "active");
        never.retire_unlisted("h", &SharedKey::parse(K2).unwrap(), at("2026-01-16T10:15:00Z"));
        assert_eq!(entries(&never)[0]["state"], "retiring");
    }

    #[test]
    fn an_owners_deletion_gives_back_the_entries_it_took_over() {
        let mut ring = document("");
        let taken = NewKey { previous_owner: Some("Old@1".into()), ..new(Some("4"), K1) };
        ring.put_active(&taken, at(NOW), at(NOW));
        let mut old_is_deleted = ring.clone();
        old_is_deleted.hand_over_from("Old@1");
        let owners = |ring: &RingDocument| ring.of_head("h").pop().map(|key| (key.owner, key.previous_owner)).unwrap();
        assert_eq!(owners(&old_is_deleted), (Some("W@1".into()), None));
        ring.hand_over_from("W@1");
        assert_eq!(owners(&ring), (Some("Old@1".into()), None));
        ring.hand_over_from("W@1");
        assert_eq!(owners(&ring), (Some("Old@1".into()), None));
    }

    #[test]
    fn a_deletion_is_remembered_for_a_day_or_until_a_later_creation() {
        let mut ring = document(r#"{"keys": [], "deleted": [{"owner": "W@1", "at": "soon"}]}"#);
        let (first, second) = (at("2026-01-16T09:00:00Z"), at("2026-01-16T09:30:00Z"));
        ring.mark_deleted("W@1", second);
        ring.mark_deleted("W@1", first);
        assert_eq!((ring.deleted_at("W@1"), ring.deleted_at("W@2")), (Some(second), None));
        ring.unmark_deleted("W@1", first);
        assert_eq!(ring.deleted_at("W@1"), Some(second), "the deletion is later than that creation");
        let mut created = ring.clone();
        created.unmark_deleted("W@1", second);
        assert_eq!(created.deleted_at("W@1"), None);
        ring.drop_expired(at("2026-01-17T09:29:59Z"));
        assert_eq!(ring.deleted_at("W@1"), Some(second));
        ring.drop_expired(at("2026-01-17T09:30:00Z"));
        assert_eq!(ring.deleted_at("W@1"), None);
        assert!(ring.to_text().contains("soon"), "an unreadable mark is kept");
    }

    #[test]
    fn a_secret_made_by_hand_becomes_a_ring_and_any_other_document_is_an_error() {
        for text in [K1.to_owned(), format!(r#"{{"sharedKey": "{K1}"}}"#)] {
            assert_eq!(entries(&document(&text)), json!([{"key": K1, "state": "active"}]));
        }
        let noted = document(&format!(r#"{{"sharedKey": "{K1}", "head_id": "h", "note": 1e999}}"#));
        let expected = format!(r#"{{"keys":[{{"head_id":"h","key":"{K1}","state":"active"}}],"note":1e999}}"#);
        assert_eq!(noted.to_text(), expected);
        let marked = format!("\u{feff}{{\"keys\": [{{\"head_id\": \"h\", \"webhook_id\": 4, \"key\": \"{K1}\"}}]}}");
        assert_eq!(document(&marked).of_head("h").len(), 1, "a byte order mark changes nothing");
        assert!(RingDocument::parse(r#"{"password": "x"}"#).is_err());
        assert_eq!(entries(&document("{}")), json!([]));
        assert_eq!(entries(&document(" \n")), json!([]));
    }
}
