//! Verification: the one way from bytes off the network to a body that may be parsed.
//!
//! What always holds: a [`Verified`] exists only where a usable key of the ring signed exactly these bytes. Every
//! usable key is tried, whether or not one before it matched, so the time taken tells nothing.
//!
//! Why a signature is wrong is looked for in small bodies only: it costs as much again as trying the keys, and who sends
//! large bodies that nobody signed must not be able to ask for that.

use std::fmt;

use crate::{
    key_ring::{KeyRing, KeyState, RingKey},
    signature::Signature,
    timestamp::Timestamp,
};

/// UNITH's deliveries have some 300 bytes.
const MAX_DIAGNOSED_BYTES: usize = 4 * 1024;

/// A body whose signature was right, and who signed it. Only [`verify`] makes one.
#[derive(Clone)]
pub struct Verified<'b> {
    body: &'b [u8],
    /// At least one; several where two entries of the ring hold the same key.
    signers: Vec<Signer>,
}

#[derive(Debug, Clone)]
struct Signer {
    head_id: Option<String>,
    state: KeyState,
}

/// Why no key vouches for a body, in an operator's words. None of it is told to the sender.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Mismatch {
    /// The ring has no key that could be tried.
    #[error("the key ring has no usable key ({expired} expired){}", if *matches { ", one of those signed this" } else { "" })]
    NoUsableKey {
        /// Keys past their `until`.
        expired: usize,
        /// Whether one of them made the signature.
        matches: bool,
    },
    /// The signature is none of the ring's.
    #[error("{} tried, none matches", keys(*tried))]
    NoKeyMatches {
        /// How many keys were tried.
        tried: usize,
    },
    /// The signature is right for a key whose time is over.
    #[error("matches a key that is not used since {until} (webhook {webhook})")]
    Expired {
        /// The key's `until`.
        until: Timestamp,
        /// The webhook it belonged to.
        webhook: String,
    },
    /// The sender and the ring disagree on how to read the key.
    #[error("would match if the key were read as hex (head {head}): the HMAC key is the text of the shared key")]
    KeyReadAsHex {
        /// The head of the key in question.
        head: String,
    },
}

fn keys(count: usize) -> String {
    format!("{count} {}", if count == 1 { "key" } else { "keys" })
}

/// The body was signed with a key of another head than the one it speaks of.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("matches a key of head {key_head}, event names head {event_head}")]
pub struct OtherHead {
    /// The head the key is bound to.
    pub key_head: String,
    /// The head the event names.
    pub event_head: String,
}

/// Compares `signature` with what every usable key of the ring would have signed over `body`.
pub fn verify<'b>(
    body: &'b [u8],
    signature: &Signature,
    ring: &KeyRing,
    now: Timestamp,
) -> Result<Verified<'b>, Mismatch> {
    let mut signers = Vec::new();
    let mut tried = 0;
    for entry in ring.keys().iter().filter(|entry| entry.usable(now)) {
        tried += 1;
        if entry.key.signed(body, signature) {
            signers.push(Signer { head_id: entry.head_id.clone(), state: entry.state });
        }
    }
    if signers.is_empty() { Err(diagnose(body, signature, ring, tried)) } else { Ok(Verified { body, signers }) }
}

fn diagnose(body: &[u8], signature: &Signature, ring: &KeyRing, tried: usize) -> Mismatch {
    let is_diagnosed = body.len() <= MAX_DIAGNOSED_BYTES;
    let matches = |entry: &&RingKey| is_diagnosed && entry.key.signed(body, signature);
    if tried == 0 {
        // Nobody could be told from anybody: that is ours to repair, whoever signed.
        return Mismatch::NoUsableKey { expired: ring.keys().len(), matches: ring.keys().iter().any(|e| matches(&e)) };
    }
    if !is_diagnosed {
        return Mismatch::NoKeyMatches { tried };
    }
    // A usable key would have verified, so whatever matches here is past its `until`.
    if let Some((entry, until)) = ring.keys().iter().find(matches).and_then(|entry| Some((entry, entry.until?))) {
        let webhook = entry.webhook_id.as_ref().map_or("unknown", |id| id.as_str()).to_owned();
        return Mismatch::Expired { until, webhook };
    }
    if let Some(entry) = ring.keys().iter().find(|entry| entry.key.would_verify_as_hex(body, signature)) {
        return Mismatch::KeyReadAsHex { head: entry.head_id.clone().unwrap_or_else(|| "unknown".to_owned()) };
    }
    Mismatch::NoKeyMatches { tried }
}

impl<'b> Verified<'b> {
    /// The bytes that were signed.
    #[must_use]
    pub fn body(&self) -> &'b [u8] {
        self.body
    }

    /// The head that the key is bound to, if it is bound: the one that is `named`, where the same key is several heads'.
    #[must_use]
    pub fn key_head(&self, named: Option<&str>) -> Option<&str> {
        let heads: Option<Vec<&str>> = self.signers.iter().map(|signer| signer.head_id.as_deref()).collect();
        let heads = heads?;
        heads.iter().find(|head| Some(**head) == named).or(heads.first()).copied()
    }

    /// The state of the key that signed, whatever it signed.
    #[must_use]
    pub fn key_state(&self) -> KeyState {
        state_of(self.signers.iter())
    }

    /// Checks that a key that signed this may speak for `event_head`; its state.
    pub fn speaks_for(&self, event_head: &str) -> Result<KeyState, OtherHead> {
        let may = |signer: &&Signer| signer.head_id.as_deref().is_none_or(|head| head == event_head);
        if self.signers.iter().any(|signer| may(&signer)) {
            return Ok(state_of(self.signers.iter().filter(may)));
        }
        let key_head = self.key_head(None).unwrap_or_default().to_owned();
        Err(OtherHead { key_head, event_head: event_head.to_owned() })
    }
}

/// With the same key twice in the ring, the entry that is still active is the one that counts.
fn state_of<'s>(mut signers: impl Iterator<Item = &'s Signer>) -> KeyState {
    let active = signers.any(|signer| signer.state == KeyState::Active);
    if active { KeyState::Active } else { KeyState::Retiring }
}

impl fmt::Debug for Verified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified").field("bytes", &self.body.len()).field("signers", &self.signers).finish()
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
    fn the_reason_names_what_an_operator_can_act_on() {
        let expired = format!(
            r#"{{"keys": [{{"key": "{A}", "webhook_id": 3, "until": "2026-01-16T09:00:00Z"}}, {{"key": "{B}"}}]}}"#
        );
        assert_eq!(
            check(&expired, A).unwrap_err(),
            "matches a key that is not used since 2026-01-16T09:00:00.000Z (webhook 3)"
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
    fn why_is_not_looked_for_in_a_large_body() {
        let ring = format!(r#"{{"keys": [{{"key": "{A}", "until": "2026-01-16T09:00:00Z"}}, {{"key": "{B}"}}]}}"#);
        let (small, large) = (vec![b' '; MAX_DIAGNOSED_BYTES], vec![b' '; MAX_DIAGNOSED_BYTES + 1]);
        assert!(check_body(&small, &ring, A).unwrap_err().starts_with("matches a key that is not used since"));
        assert_eq!(check_body(&large, &ring, A).unwrap_err(), "1 key tried, none matches");
        assert_eq!(check_body(&large, &ring, B), Ok(KeyState::Active));
        let all_expired = format!(r#"{{"keys": [{{"key": "{A}", "until": "2026-01-16T09:00:00Z"}}]}}"#);
        assert_eq!(check_body(&large, &all_expired, A).unwrap_err(), "the key ring has no usable key (1 expired)");
    }

    #[test]
    fn a_bound_key_speaks_for_its_own_head_only() {
        let now = Timestamp::parse(NOW).unwrap();
        let signature = SharedKey::parse(A).unwrap().sign(b"body");
        let bound = KeyRing::parse(&format!(
            r#"{{"keys": [{{"key": "{A}", "head_id": "h1"}}, {{"key": "{A}", "head_id": "h2", "state": "retiring"}}]}}"#
        ))
        .unwrap();
        let verified = verify(b"body", &signature, &bound, now).unwrap();
        assert_eq!(verified.speaks_for("h1"), Ok(KeyState::Active));
        assert_eq!(verified.speaks_for("h2"), Ok(KeyState::Retiring));
        assert_eq!(verified.speaks_for("h3").unwrap_err().to_string(), "matches a key of head h1, event names head h3");
        assert_eq!((verified.key_head(None), verified.key_head(Some("h2"))), (Some("h1"), Some("h2")));
        assert_eq!(verified.key_head(Some("h3")), Some("h1"));
        let unbound = KeyRing::parse(A).unwrap();
        let anyones = verify(b"body", &signature, &unbound, now).unwrap();
        assert_eq!((anyones.speaks_for("anyone"), anyones.key_head(Some("anyone"))), (Ok(KeyState::Active), None));
    }
}
