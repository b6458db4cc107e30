//! The secret of the key ring, as receivers read it and as `provision` changes it.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use unith_events::{
    ids::WebhookId,
    key_ring::{
        KeyRing, KeyRingError, KeyState, RingKey,
        document::{NewKey, RingDocument},
    },
    signature::SharedKey,
    timestamp::Timestamp,
};

static NOW: LazyLock<Timestamp> = LazyLock::new(|| at("2026-01-16T10:00:00Z"));
static UNTIL: LazyLock<Timestamp> = LazyLock::new(|| at("2026-01-16T10:15:00Z"));
const HEAD: &str = "8eab5b23-024a-45cb-a0e1-9d3ffd6c9610";

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).expect("an instant")
}

fuzz_target!(|secret: &str| {
    let ring = KeyRing::parse(secret);
    let document = RingDocument::parse(secret);
    match &ring {
        Ok(ring) => ring.left_out().iter().for_each(|reason| has_no_key(reason)),
        Err(error) => has_no_key(&error.to_string()),
    }
    let Ok(document) = document else {
        let error = document.err().expect("an error");
        has_no_key(&error.to_string());
        // What is read for changing is stricter in two things alone.
        assert!(ring.is_err() || matches!(error, KeyRingError::MemberName | KeyRingError::Deleted), "{error}");
        return;
    };
    match &ring {
        Ok(ring) => assert_eq!(facts(ring.keys()), facts(document.keys())),
        // A new secret is empty.
        Err(_) => assert!(document.is_empty()),
    }
    survives_its_text(&document);
    puts_keys_in(&document);
    retires_and_removes(&document);
});

/// No message has a word as long as a key.
fn has_no_key(message: &str) {
    let is_key_character = |c: char| c.is_ascii_alphanumeric() || "+/=_.-".contains(c);
    let longest = message.split(|c| !is_key_character(c)).map(str::len).max();
    assert!(longest < Some(16), "{message}");
}

type Facts<'k> =
    (&'k str, Option<&'k str>, Option<&'k str>, bool, KeyState, [Option<Timestamp>; 2], [Option<&'k str>; 2], bool);

fn facts<'k>(keys: impl IntoIterator<Item = &'k RingKey>) -> Vec<Facts<'k>> {
    let facts = |key: &'k RingKey| {
        (
            key.key.expose(),
            key.head_id.as_deref(),
            key.webhook_id.as_ref().map(|id| id.as_json().get()),
            key.is_managed,
            key.state,
            [key.since, key.until],
            [key.owner.as_deref(), key.previous_owner.as_deref()],
            key.made_while_on,
        )
    };
    keys.into_iter().map(facts).collect()
}

/// The text reads back as the same document, for both readers.
fn survives_its_text(document: &RingDocument) {
    let text = document.to_text();
    let again = RingDocument::parse(&text).expect("a document's own text");
    assert_eq!(again.to_text(), text);
    assert_eq!(facts(again.keys()), facts(document.keys()));
    let ring = KeyRing::parse(&text).expect("a document's own text");
    assert_eq!(facts(ring.keys()), facts(document.keys()));
}

/// A key that is put in is there once, is active, and has no effect on other heads. Putting it in again changes nothing.
fn puts_keys_in(document: &RingDocument) {
    let new = NewKey {
        head_id: HEAD.parse().expect("an id"),
        webhook_id: Some(WebhookId::from_number(4)),
        key: SharedKey::parse("cbaab87d1cce6d79baad8e9e2607feb3").expect("a key of the rule"),
        owner: Some("Webhook@6a5b1f00".to_owned()),
        previous_owner: None,
        made_while_on: true,
    };
    let put = |ring: &mut RingDocument| ring.put_active(&new, *NOW, *UNTIL);
    let after = document.changed(*NOW, put).unwrap_or_else(|| document.clone());
    survives_its_text(&after);
    let keys = after.of_head(HEAD);
    let is_new =
        |key: &&RingKey| key.has_key(&new.key) && new.webhook_id.as_ref().is_some_and(|id| key.is_of_webhook(id));
    let put_in: Vec<_> = keys.iter().filter(is_new).collect();
    assert_eq!(put_in.len(), 1);
    assert!(put_in.iter().all(|key| key.state == KeyState::Active && key.until.is_none() && key.made_while_on));
    let of_others = |ring: &RingDocument| -> Vec<RingKey> {
        let is_kept = |key: &&RingKey| key.usable(*NOW) || key.state == KeyState::Active;
        ring.keys().filter(|key| key.head_id.as_deref() != Some(HEAD)).filter(is_kept).cloned().collect()
    };
    assert_eq!(facts(&of_others(&after)), facts(&of_others(document)));
    assert!(after.changed(*NOW, put).is_none());
}

/// Every webhook's key can be retired and removed.
fn retires_and_removes(document: &RingDocument) {
    let managed: Vec<RingKey> =
        document.keys().filter(|key| key.is_managed && key.head_id.is_some()).cloned().collect();
    for key in managed.iter().take(8) {
        let (Some(head), Some(id)) = (&key.head_id, &key.webhook_id) else { continue };
        let mut retired = document.clone();
        retired.retire(head, id, *UNTIL);
        survives_its_text(&retired);
        for key in retired.of_head(head).iter().filter(|key| key.is_of_webhook(id)) {
            assert_eq!(key.state, KeyState::Retiring);
        }
        let mut removed = document.clone();
        removed.remove_keys(head, |key| key.is_of_webhook(id));
        assert!(!removed.of_head(head).iter().any(|key| key.is_of_webhook(id)));
        survives_its_text(&removed);
    }
    let mut marked = document.clone();
    marked.mark_deleted("Webhook@6a5b1f00", *NOW);
    assert!(marked.deleted_at("Webhook@6a5b1f00") >= Some(*NOW));
    survives_its_text(&marked);
}
