//! Signing and comparing: HMAC-SHA256 over a raw body under a webhook's shared key.
//!
//! The key of the HMAC is the UTF-8 text of the shared key, as UNITH's examples have it, not the bytes its hex digits
//! would spell. Comparison takes the same time whatever differs.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The header UNITH signs a delivery with, in the lower case in which HTTP libraries hold names.
pub const SIGNATURE_HEADER: &str = "x-signature-256";

const MAC_BYTES: usize = 32;

type HmacSha256 = Hmac<Sha256>;

/// What an `X-Signature-256` header carried: 32 bytes that claim to be a MAC.
#[derive(Clone)]
pub struct Signature([u8; MAC_BYTES]);

/// The header's text is none of the encodings we know.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("expected 64 hex digits, the same after `sha256=`, or the base64 of 32 bytes")]
pub struct MalformedSignature;

impl Signature {
    /// Reads a header's value: 64 hex digits in either case, with or without `sha256=` before them, or the standard
    /// base64 of the 32 bytes. UNITH's guide does not say which it sends.
    pub fn parse(header: &[u8]) -> Result<Self, MalformedSignature> {
        let mut mac = [0; MAC_BYTES];
        let digits = header.strip_prefix(b"sha256=").unwrap_or(header);
        if hex::decode_to_slice(digits, &mut mac).is_ok() {
            return Ok(Self(mac));
        }
        let decoded = BASE64.decode(header).map_err(|_| MalformedSignature)?;
        decoded.try_into().map(Self).map_err(|_| MalformedSignature)
    }

    /// The 64 lower-case hex digits UNITH would put into the header.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature([redacted])")
    }
}

/// A webhook's shared key: its text, and the HMAC state made from it once. Both are wiped from memory on drop.
#[derive(Clone)]
pub struct SharedKey {
    text: Zeroizing<String>,
    keyed: HmacSha256,
}

/// A key nobody must be able to sign with.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a shared key must not be empty")]
pub struct EmptyKey;

impl SharedKey {
    /// Takes the key's text as it is. An empty one is refused: anyone could sign with it.
    pub fn new(text: impl Into<String>) -> Result<Self, EmptyKey> {
        let text = Zeroizing::new(text.into());
        if text.is_empty() {
            return Err(EmptyKey);
        }
        // HMAC takes a key of any length, so this error cannot occur; it is passed on rather than unwrapped.
        let keyed = HmacSha256::new_from_slice(text.as_bytes()).map_err(|_| EmptyKey)?;
        Ok(Self { text, keyed })
    }

    /// Signs `body` as UNITH does.
    #[must_use]
    pub fn sign(&self, body: &[u8]) -> Signature {
        let mac = self.keyed.clone().chain_update(body).finalize();
        Signature(mac.into_bytes().into())
    }

    /// Whether `signature` is this key's over `body`; in constant time.
    #[must_use]
    pub fn signed(&self, body: &[u8], signature: &Signature) -> bool {
        self.keyed.clone().chain_update(body).verify_slice(&signature.0).is_ok()
    }

    /// Whether `signature` would be right if the key's hex digits were read as bytes: a way to get the key wrong that
    /// is worth naming in a log, and never a reason to accept.
    #[must_use]
    pub fn signed_if_read_as_hex(&self, body: &[u8], signature: &Signature) -> bool {
        hex::decode(self.text.as_bytes())
            .map(Zeroizing::new)
            .ok()
            .and_then(|bytes| HmacSha256::new_from_slice(&bytes).ok())
            .is_some_and(|keyed| keyed.chain_update(body).verify_slice(&signature.0).is_ok())
    }

    /// The first 8 hex digits of the key's SHA-256: enough to tell keys apart, useless to sign with.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut digits = hex::encode(Sha256::digest(self.text.as_bytes()));
        digits.truncate(8);
        digits
    }

    /// The key itself, for what has to store it or show it to a simulator's user.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedKey([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(text: &str) -> SharedKey {
        SharedKey::new(text).unwrap()
    }

    #[test]
    fn knows_the_encodings_of_the_guide_and_no_others() {
        let mac = "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8";
        let same = [
            mac.to_owned(),
            mac.to_uppercase(),
            format!("sha256={mac}"),
            format!("sha256={}", mac.to_uppercase()),
            "97yD9DBThCSxMpjmqm+xQ+9NWaFJRhdZl0edvC0aPNg=".to_owned(),
        ];
        for header in same {
            assert_eq!(Signature::parse(header.as_bytes()).unwrap().to_hex(), mac, "{header}");
        }
        let malformed = [
            String::new(),
            "sha256=".to_owned(),
            mac[1..].to_owned(),
            format!("{mac}00"),
            format!(" {mac}"),
            format!("{mac}\n"),
            format!("{mac},{mac}"),
            format!("SHA256={mac}"),
            format!("sha1={mac}"),
            format!("sha256=sha256={mac}"),
            "z".repeat(64),
            "97yD9DBThCSxMpjmqm+xQ+9NWaFJRhdZl0edvC0aPNg".to_owned(),
            "97yD9DBThCSxMpjmqm-xQ-9NWaFJRhdZl0edvC0aPNg=".to_owned(),
            "sha256=97yD9DBThCSxMpjmqm+xQ+9NWaFJRhdZl0edvC0aPNg=".to_owned(),
            "YmFkIHNpZ25hdHVyZQ==".to_owned(),
        ];
        for header in malformed {
            assert!(Signature::parse(header.as_bytes()).is_err(), "{header:?} was taken");
        }
    }

    /// `printf %s 'The quick brown fox jumps over the lazy dog' | openssl dgst -sha256 -hmac key`
    #[test]
    fn signs_as_openssl_does() {
        let signature = key("key").sign(b"The quick brown fox jumps over the lazy dog");
        assert_eq!(signature.to_hex(), "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8");
    }

    #[test]
    fn the_key_is_its_text_and_hex_is_only_diagnosed() {
        let as_hex = SharedKey {
            text: Zeroizing::new(String::new()),
            keyed: HmacSha256::new_from_slice(&[0xab, 0xcd]).unwrap(),
        };
        let signature = as_hex.sign(b"body");
        assert!(!key("abcd").signed(b"body", &signature));
        assert!(key("abcd").signed_if_read_as_hex(b"body", &signature));
        assert!(!key("not hex").signed_if_read_as_hex(b"body", &signature));
    }

    #[test]
    fn an_empty_key_is_refused_and_no_key_is_shown() {
        assert_eq!(SharedKey::new("").unwrap_err(), EmptyKey);
        let shown = format!("{:?} {:?}", key("hunter2"), key("hunter2").sign(b""));
        assert_eq!(shown, "SharedKey([redacted]) Signature([redacted])");
        assert_eq!(key("hunter2").fingerprint(), "f52fbd32");
    }

    proptest! {
        #[test]
        fn decoding_never_panics(header in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Signature::parse(&header);
        }

        #[test]
        fn accepts_exactly_what_was_signed(
            text in ".{1,80}", other in ".{1,80}", body in proptest::collection::vec(any::<u8>(), 0..600), flip in 0..256_usize,
        ) {
            let signature = key(&text).sign(&body);
            prop_assert!(key(&text).signed(&body, &signature));
            prop_assert!(key(&text).signed(&body, &Signature::parse(signature.to_hex().as_bytes()).unwrap()));
            prop_assert_eq!(key(&other).signed(&body, &signature), text == other);

            let mut wrong = signature.clone();
            wrong.0[flip / 8] ^= 1 << (flip % 8);
            prop_assert!(!key(&text).signed(&body, &wrong));

            let mut longer = body.clone();
            longer.push(0);
            prop_assert!(!key(&text).signed(&longer, &signature));
        }
    }
}
