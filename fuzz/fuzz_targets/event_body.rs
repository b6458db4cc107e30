//! The body of an authentic delivery, from its verification to the item in the table.

#![no_main]

use std::{collections::HashMap, sync::LazyLock};

use aws_sdk_dynamodb::types::AttributeValue;
use event_store::{item::EventItem, retention::Retention};
use libfuzzer_sys::fuzz_target;
use serde_json::json;
use unith_events::{
    content::same_content,
    event::{Event, Identity, ParseError},
    key_ring::KeyRing,
    signature::SharedKey,
    timestamp::Timestamp,
    verify::{VerifyError, verify},
};

const KEY: &str = "cbaab87d1cce6d79baad8e9e2607feb3";
static SHARED_KEY: LazyLock<SharedKey> = LazyLock::new(|| SharedKey::parse(KEY).expect("a key of the rule"));
static ANY_HEAD: LazyLock<KeyRing> = LazyLock::new(|| KeyRing::of_one(SHARED_KEY.clone()));
static NOW: LazyLock<Timestamp> = LazyLock::new(|| Timestamp::parse("2026-01-15T09:57:34Z").expect("an instant"));

fuzz_target!(|body: &[u8]| {
    assert!(same_content(body, body));
    let event = match parse(body) {
        Ok(event) => event,
        Err(ParseError { head_id, session_id, .. }) => {
            for id in [head_id.as_deref(), session_id.as_deref()].into_iter().flatten() {
                is_id(id, 256);
            }
            return;
        }
    };
    is_within_limits(&event);
    is_stable(body, &event);
    speaks_for_its_head_alone(body, &event);
    has_one_item(body, &event);
});

/// Reads a body as `receive` does: it is signed, verified and parsed.
fn parse(body: &[u8]) -> Result<Event, ParseError> {
    let verified = verify(body, &SHARED_KEY.sign(body), &ANY_HEAD, *NOW).expect("signed with the key of the ring");
    assert_eq!(verified.body(), body);
    Event::parse(&verified)
}

fn is_id(text: &str, max_bytes: usize) {
    assert!((1..=max_bytes).contains(&text.len()) && !text.chars().any(char::is_control), "{text:?}");
}

fn is_within_limits(event: &Event) {
    let Identity { head_id, session_id, event_type, .. } = &event.identity;
    is_id(head_id, 256);
    is_id(session_id, 256);
    is_id(event_type, 128);
    assert_eq!(event.event_type.to_ascii_uppercase(), *event_type);
    for public in [&event.public_head_id, &event.public_org_id].into_iter().flatten() {
        assert!(public.len() <= 256);
    }
    let id = event.event_id.as_str();
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)), "{id}");
}

/// The identity does not depend on how the event is spelled.
fn is_stable(body: &[u8], event: &Event) {
    let Event { identity, event_type, public_head_id, public_org_id, .. } = event;
    let (head, session, at) = (identity.head_id.as_str(), identity.session_id.as_str(), identity.occurred_at);
    let canonical = json!({
        "head_id": head, "session_id": session, "event_type": event_type, "timestamp": at.to_string(),
        "public_head_id": public_head_id, "public_org_id": public_org_id,
    });
    let mut aliased = json!({"head_id": head, "sessionId": session, "event": event_type.to_ascii_lowercase()});
    aliased["timestamp"] = at.to_string().replace('T', " ").trim_end_matches('Z').into();
    assert_eq!(parse(canonical.to_string().as_bytes()).as_ref(), Ok(event));
    let aliased = parse(aliased.to_string().as_bytes()).expect("the developer kit's spelling");
    assert_eq!((&aliased.identity, &aliased.event_id), (identity, &event.event_id));
    let spaced = [body, b"\n "].concat();
    assert_eq!(parse(&spaced).as_ref(), Ok(event));
    assert!(same_content(body, &spaced) && same_content(&spaced, body));
}

/// A key that is bound to a head verifies this head's events, and no other ones.
fn speaks_for_its_head_alone(body: &[u8], event: &Event) {
    let bound_to = |head: &str| {
        let ring = json!({"keys": [{"key": KEY, "head_id": head}]}).to_string();
        KeyRing::parse(&ring).expect("a ring of one key")
    };
    let head = &event.identity.head_id;
    let own = verify(body, &SHARED_KEY.sign(body), &bound_to(head), *NOW).map(|verified| verified.key_head().cloned());
    assert_eq!(own, Ok(Some(head.clone())));
    let other = if *head == "h" { "g" } else { "h" };
    let refused = verify(body, &SHARED_KEY.sign(body), &bound_to(other), *NOW).map(drop);
    assert!(matches!(refused, Err(VerifyError::WrongHead { .. })), "{refused:?}");
}

/// The item has all that it was made of, in keys that DynamoDB takes.
fn has_one_item(body: &[u8], event: &Event) {
    let identity = &event.identity;
    for retention in [Retention::Forever, Retention::Days(365)] {
        let item = EventItem::new(event, body, *NOW, None, retention);
        assert!(item.pk.len() <= 2_048 && item.sk.len() <= 1_024);
        assert_eq!(parts(&item.pk), ["SESSION", identity.head_id.as_str(), identity.session_id.as_str()]);
        let (at, rank) = (identity.occurred_at.to_string(), identity.rank().to_string());
        assert_eq!(parts(&item.sk), ["EVENT", &at, &rank, &identity.event_type]);
        assert_eq!(Timestamp::parse(&at), Some(identity.occurred_at));
        let attributes: HashMap<String, AttributeValue> = item.clone().into();
        assert_eq!(attributes, serde_dynamo::to_item(&item).expect("attributes"));
        assert_eq!(serde_dynamo::from_item::<_, EventItem>(attributes).expect("an item"), item);
        assert_eq!(item.body.as_bytes(), body);
    }
}

/// The parts of a key, unescaped.
fn parts(key: &str) -> Vec<String> {
    key.split('#').map(|part| part.replace("%23", "#").replace("%25", "%")).collect()
}
