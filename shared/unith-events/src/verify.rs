//! Verification: the one way from bytes off the network to a body that may be parsed.
//!
//! Invariants: a [`Verified`] exists only if a usable key of the ring signed exactly these bytes, and that key may speak for
//! the head that the body names; or if such a body comes back from the spill queue ([`spill`](crate::spill)). Every usable key is tried, also after one has matched, so that the time taken reveals
//! nothing.

use std::fmt;

use crate::{
    body::{self, InvalidEvent, head_id},
    ids::HeadId,
    json::Object,
    key_ring::{KeyRing, KeyState, RingKey},
    signature::Signature,
    timestamp::Timestamp,
};

/// The reason of a wrong signature is looked for in bodies of at most this size: it costs as much again as trying the keys,
/// and whoever sends large bodies unsigned must not cause that. UNITH's deliveries have some 300 bytes.
const MAX_DIAGNOSED_BYTES: usize = 4 * 1024;

/// An authentic body. Only [`verify`] makes one.
pub struct Verified<'b> {
    body: &'b [u8],
    members: Result<Object<'b>, InvalidEvent>,
    key_state: KeyState,
    key_head: Option<HeadId>,
}

/// Why no key vouches for a body, in an operator's words. The sender never learns it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum VerifyError {
    #[error("the key ring has no usable key ({expired} expired){}", if *matches { ", one of those signed this" } else { "" })]
    NoUsableKey {
        /// Keys past their `until`.
        expired: usize,
        /// Whether one of them made the signature.
        matches: bool,
    },
    #[error("{} tried, none matches", keys(*tried))]
    NoKeyMatches {
        /// How many keys were tried.
        tried: usize,
    },
    #[error("signed with a key that expired at {until} (webhook {webhook})")]
    Expired {
        /// The key's `until`.
        until: Timestamp,
        /// The webhook it belonged to.
        webhook: String,
    },
    #[error("would match if the key were read as hex (head {head}): the HMAC key is the text of the shared key")]
    KeyReadAsHex {
        /// The head of the key in question.
        head: String,
    },
    #[error("signed with a key of head {key_head}, but the event names head {event_head}")]
    WrongHead {
        /// The head the key is bound to.
        key_head: HeadId,
        /// The head the body names.
        event_head: HeadId,
    },
}

fn keys(count: usize) -> String {
    format!("{count} {}", if count == 1 { "key" } else { "keys" })
}

/// Checks that a usable key of the ring signed `body`, and may speak for the head that the body names.
///
/// A body that names no head may be signed with any head's key.
///
/// # Errors
/// No such key.
pub fn verify<'b>(
    body: &'b [u8],
    signature: &Signature,
    ring: &KeyRing,
    now: Timestamp,
) -> Result<Verified<'b>, VerifyError> {
    let mut signers: Vec<&RingKey> = Vec::new();
    let mut tried = 0;
    for key in ring.keys().iter().filter(|key| key.usable(now)) {
        tried += 1;
        if key.key.verify(body, signature) {
            signers.push(key);
        }
    }
    let Some(first) = signers.first() else { return Err(diagnose(body, signature, ring, tried)) };
    let members = body::members(body);
    let event_head = members.as_ref().ok().and_then(|members| head_id(members).ok());
    let may_speak = |key: &&&RingKey| key.head_id.is_none() || event_head.is_none() || key.head_id == event_head;
    let Some(speaker) = signers.iter().find(may_speak) else {
        return Err(match (first.head_id.clone(), event_head) {
            (Some(key_head), Some(event_head)) => VerifyError::WrongHead { key_head, event_head },
            _ => VerifyError::NoKeyMatches { tried },
        });
    };
    let is_bound = signers.iter().all(|key| key.head_id.is_some());
    // With the same key twice in the ring, the entry that is still active counts.
    let is_active = signers.iter().filter(may_speak).any(|key| key.state == KeyState::Active);
    Ok(Verified {
        body,
        members,
        key_state: if is_active { KeyState::Active } else { KeyState::Retiring },
        key_head: speaker.head_id.clone().filter(|_| is_bound),
    })
}

fn diagnose(body: &[u8], signature: &Signature, ring: &KeyRing, tried: usize) -> VerifyError {
    let is_diagnosed = body.len() <= MAX_DIAGNOSED_BYTES;
    let matches = |key: &&RingKey| is_diagnosed && key.key.verify(body, signature);
    if tried == 0 {
        // Without keys an authentic sender looks like any other: that is ours to repair.
        return VerifyError::NoUsableKey {
            expired: ring.keys().len(),
            matches: ring.keys().iter().any(|e| matches(&e)),
        };
    }
    if !is_diagnosed {
        return VerifyError::NoKeyMatches { tried };
    }
    // A usable key would have verified, so a key that matches here has expired.
    if let Some((key, until)) = ring.keys().iter().find(matches).and_then(|key| Some((key, key.until?))) {
        let webhook = key.webhook_id.as_ref().map_or("unknown", |id| id.as_str()).to_owned();
        return VerifyError::Expired { until, webhook };
    }
    if let Some(key) = ring.keys().iter().find(|key| key.key.would_verify_as_hex(body, signature)) {
        return VerifyError::KeyReadAsHex { head: key.head_id.as_ref().map_or("unknown", HeadId::as_str).to_owned() };
    }
    VerifyError::NoKeyMatches { tried }
}

impl<'b> Verified<'b> {
    /// A body that was verified before it was spilled, under a key that was bound to `head`.
    ///
    /// # Errors
    /// The body names another head.
    pub(crate) fn of_spilled(body: &'b [u8], head: Option<&HeadId>) -> Result<Self, VerifyError> {
        let members = body::members(body);
        let event_head = members.as_ref().ok().and_then(|members| head_id(members).ok());
        if let (Some(key_head), Some(event_head)) = (head, event_head)
            && *key_head != event_head
        {
            return Err(VerifyError::WrongHead { key_head: key_head.clone(), event_head });
        }
        Ok(Self { body, members, key_state: KeyState::Active, key_head: head.cloned() })
    }

    /// The bytes that were signed.
    pub fn body(&self) -> &'b [u8] {
        self.body
    }

    /// The state of the key that signed them.
    pub fn key_state(&self) -> KeyState {
        self.key_state
    }

    /// The head that the key is bound to, if it is.
    pub fn key_head(&self) -> Option<&HeadId> {
        self.key_head.as_ref()
    }

    pub(crate) fn members(&self) -> Result<&Object<'b>, &InvalidEvent> {
        self.members.as_ref()
    }
}

impl fmt::Debug for Verified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { body, key_state, key_head, .. } = self;
        f.debug_struct("Verified")
            .field("bytes", &body.len())
            .field("key_state", key_state)
            .field("key_head", key_head)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::SharedKey;

    const NOW: &str = "2026-01-16T10:00:00Z";

    const A: &str = "aaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbb";
    const C: &str = "cccccccccccccccc";

    fn check_body(body: &[u8], ring: &str, key: &str) -> Result<KeyState, String> {
        let ring = KeyRing::parse(ring).unwrap();
        let signature = SharedKey::parse(key).unwrap().sign(body);
        let now = Timestamp::parse(NOW).unwrap();
        verify(body, &signature, &ring, now).map(|verified| verified.key_state()).map_err(|e| e.to_string())
    }

    fn check(ring: &str, key: &str) -> Result<KeyState, String> {
        check_body(b"body", ring, key)
    }

    #[test]
    fn any_usable_key_of_the_ring_verifies() {
        let ring = format!(
            r#"{{"keys": [{{"key": "{A}"}}, {{"key": "{B}", "state": "retiring", "until": "2026-01-16T11:00:00Z"}}]}}"#
        );
        assert_eq!(check(&ring, A), Ok(KeyState::Active));
        assert_eq!(check(&ring, B), Ok(KeyState::Retiring));
        assert_eq!(check(&ring, C).unwrap_err(), "2 keys tried, none matches");
        assert_eq!(check(A, C).unwrap_err(), "1 key tried, none matches");
    }

    #[test]
    fn the_error_names_what_an_operator_can_act_on() {
        let expired = format!(
            r#"{{"keys": [{{"key": "{A}", "webhook_id": 3, "until": "2026-01-16T09:00:00Z"}}, {{"key": "{B}"}}]}}"#
        );
        assert_eq!(
            check(&expired, A).unwrap_err(),
            "signed with a key that expired at 2026-01-16T09:00:00.000Z (webhook 3)"
        );
        assert_eq!(check(r#"{"keys": []}"#, A).unwrap_err(), "the key ring has no usable key (0 expired)");
        let all_expired = format!(r#"{{"keys": [{{"key": "{A}", "until": "2026-01-16T09:00:00Z"}}]}}"#);
        assert_eq!(
            check(&all_expired, A).unwrap_err(),
            "the key ring has no usable key (1 expired), one of those signed this"
        );
        let digits = hex::encode(A);
        assert_eq!(
            check(&format!(r#"{{"keys": [{{"key": "{digits}", "head_id": "h"}}]}}"#), A).unwrap_err(),
            "would match if the key were read as hex (head h): the HMAC key is the text of the shared key"
        );
    }

    #[test]
    fn the_reason_is_not_looked_for_in_a_large_body() {
        let ring = format!(r#"{{"keys": [{{"key": "{A}", "until": "2026-01-16T09:00:00Z"}}, {{"key": "{B}"}}]}}"#);
        let (small, large) = (vec![b' '; MAX_DIAGNOSED_BYTES], vec![b' '; MAX_DIAGNOSED_BYTES + 1]);
        assert!(check_body(&small, &ring, A).unwrap_err().starts_with("signed with a key that expired at"));
        assert_eq!(check_body(&large, &ring, A).unwrap_err(), "1 key tried, none matches");
        assert_eq!(check_body(&large, &ring, B), Ok(KeyState::Active));
        let all_expired = format!(r#"{{"keys": [{{"key": "{A}", "until": "2026-01-16T09:00:00Z"}}]}}"#);
        assert_eq!(check_body(&large, &all_expired, A).unwrap_err(), "the key ring has no usable key (1 expired)");
    }

    #[test]
    fn a_bound_key_speaks_for_its_own_head_only() {
        let bound = format!(
            r#"{{"keys": [{{"key": "{A}", "head_id": "h1"}}, {{"key": "{A}", "head_id": "h2", "state": "retiring"}}]}}"#
        );
        let naming = |head: &str| format!(r#"{{"head_id": {head}}}"#);
        let speaks = |ring: &str, body: &str| {
            let signature = SharedKey::parse(A).unwrap().sign(body.as_bytes());
            let (ring, now) = (KeyRing::parse(ring).unwrap(), Timestamp::parse(NOW).unwrap());
            let verified = verify(body.as_bytes(), &signature, &ring, now).map_err(|error| error.to_string())?;
            Ok::<_, String>((verified.key_state(), verified.key_head().map(ToString::to_string)))
        };
        let (active, retiring) = (KeyState::Active, KeyState::Retiring);
        assert_eq!(speaks(&bound, &naming(r#""h1""#)), Ok((active, Some("h1".to_owned()))));
        assert_eq!(speaks(&bound, &naming(r#""h2""#)), Ok((retiring, Some("h2".to_owned()))));
        let wrong = Err("signed with a key of head h1, but the event names head h3".to_owned());
        assert_eq!(speaks(&bound, &naming(r#""h3""#)), wrong);
        assert_eq!(speaks(&bound, r#"{"head_id": "h3", "broken": 1e999, "timestamp": 7}"#), wrong);
        assert_eq!(speaks(A, &naming(r#""anyone""#)), Ok((active, None)));
        // A body that names no head is quarantined, under any head's key.
        for body in [
            "body",
            "{}",
            &naming(r#""""#),
            &naming("7"),
            &naming(r#""a\nb""#),
            &naming(&format!("{:?}", "x".repeat(257))),
        ] {
            assert_eq!(speaks(&bound, body), Ok((active, Some("h1".to_owned()))), "{body}");
        }
    }
}
