//! Signing and comparing: HMAC-SHA256 over a raw body under a webhook's shared key.
//!
//! The HMAC key is the UTF-8 text of the shared key, as in UNITH's examples, not the bytes that its hex digits spell.
//! Signatures are compared in constant time.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The header with a delivery's signature, in the lower case of HTTP libraries.
pub const SIGNATURE_HEADER: &str = "x-signature-256";

const MAC_BYTES: usize = 32;

type HmacSha256 = Hmac<Sha256>;

/// The 32 bytes of an `X-Signature-256` header.
#[derive(Clone)]
pub struct Signature([u8; MAC_BYTES]);

/// The header's text has no known encoding.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("expected 64 hex digits, the same after `sha256=`, or the base64 of 32 bytes")]
pub struct MalformedSignature;

impl Signature {
    /// Reads a header's value: 64 hex digits in either case, with or without `sha256=` before them, or standard base64.
    ///
    /// UNITH does not document which one it sends.
    pub fn parse(header: &[u8]) -> Result<Self, MalformedSignature> {
        let mut mac = [0; MAC_BYTES];
        let digits = header.strip_prefix(b"sha256=").unwrap_or(header);
        if hex::decode_to_slice(digits, &mut mac).is_ok() {
            return Ok(Self(mac));
        }
        let decoded = BASE64.decode(header).map_err(|_| MalformedSignature)?;
        decoded.try_into().map(Self).map_err(|_| MalformedSignature)
    }

    /// The header's value as UNITH sends it: 64 lower-case hex digits.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature([redacted])")
    }
}

/// A webhook's shared key. Its text and its HMAC state are wiped from memory on drop.
#[derive(Clone)]
pub struct SharedKey {
    text: Zeroizing<String>,
    keyed: HmacSha256,
}

/// Why a text is not a shared key. No message repeats the text.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("{fault}; a shared key has {MIN_KEY_CHARACTERS} to {MAX_KEY_CHARACTERS} characters of A-Z a-z 0-9 + / = _ . -")]
pub struct InvalidKey {
    fault: KeyFault,
}

#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
enum KeyFault {
    #[error("it is empty")]
    Empty,
    #[error("it is a reference that was not resolved")]
    Reference,
    #[error("it is an ARN, not what the ARN names")]
    Arn,
    #[error("it is a JSON document, not a key")]
    Json,
    #[error("it is in quotation marks")]
    Quoted,
    #[error("it has {0} characters")]
    Length(usize),
    #[error("it has other characters")]
    Characters,
}

const MIN_KEY_CHARACTERS: usize = 16;
const MAX_KEY_CHARACTERS: usize = 256;

/// A text without byte order mark and surrounding white space.
pub fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c == '\u{feff}' || c.is_whitespace())
}

/// The one rule for keys. Values that are often put in place of a key are named.
fn key_fault(text: &str) -> Option<KeyFault> {
    let is_key_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=_.-".contains(&byte);
    if text.is_empty() {
        Some(KeyFault::Empty)
    } else if text.starts_with("{{") {
        Some(KeyFault::Reference)
    } else if text.starts_with("arn:") {
        Some(KeyFault::Arn)
    } else if text.starts_with(['{', '[']) {
        Some(KeyFault::Json)
    } else if text.starts_with(['"', '\'']) || text.ends_with(['"', '\'']) {
        Some(KeyFault::Quoted)
    } else if !text.bytes().all(is_key_byte) {
        Some(KeyFault::Characters)
    } else if !(MIN_KEY_CHARACTERS..=MAX_KEY_CHARACTERS).contains(&text.len()) {
        Some(KeyFault::Length(text.len()))
    } else {
        None
    }
}

impl SharedKey {
    /// Takes 16 to 256 characters of `A-Z a-z 0-9 + / = _ . -`, after removing a byte order mark and surrounding white space.
    ///
    /// # Errors
    /// Any other text. Whoever reads the configuration could sign with it, or nobody could.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let text = trimmed(text);
        if let Some(fault) = key_fault(text) {
            return Err(InvalidKey { fault });
        }
        // HMAC takes a key of any length, so this error cannot occur.
        let length = InvalidKey { fault: KeyFault::Length(text.len()) };
        let keyed = HmacSha256::new_from_slice(text.as_bytes()).map_err(|_| length)?;
        Ok(Self { text: Zeroizing::new(text.to_owned()), keyed })
    }

    /// Signs `body` as UNITH does.
    pub fn sign(&self, body: &[u8]) -> Signature {
        let mac = self.keyed.clone().chain_update(body).finalize();
        Signature(mac.into_bytes().into())
    }

    /// Whether this key made `signature` over `body`, in constant time.
    pub fn verify(&self, body: &[u8], signature: &Signature) -> bool {
        self.keyed.clone().chain_update(body).verify_slice(&signature.0).is_ok()
    }

    /// Whether `signature` would be right if the key's hex digits were read as bytes.
    ///
    /// This is a common mistake, worth a log line, and never a reason to accept.
    pub fn would_verify_as_hex(&self, body: &[u8], signature: &Signature) -> bool {
        hex::decode(self.text.as_bytes())
            .map(Zeroizing::new)
            .ok()
            .and_then(|bytes| HmacSha256::new_from_slice(&bytes).ok())
            .is_some_and(|keyed| keyed.chain_update(body).verify_slice(&signature.0).is_ok())
    }

    /// The first 8 hex digits of the key's SHA-256: enough to distinguish keys, useless to sign with.
    pub fn fingerprint(&self) -> String {
        let mut digits = hex::encode(Sha256::digest(self.text.as_bytes()));
        digits.truncate(8);
        digits
    }

    /// The key itself, for storing it, or showing it to a simulator's user.
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

    const KEY: &str = "cbaab87d1cce6d79baad8e9e2607feb3";

    fn key(text: &str) -> SharedKey {
        SharedKey::parse(text).unwrap()
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

    /// `printf %s 'The quick brown fox jumps over the lazy dog' | openssl dgst -sha256 -hmac cbaab87d1cce6d79baad8e9e2607feb3`
    #[test]
    fn signs_as_openssl_does() {
        let signature = key(KEY).sign(b"The quick brown fox jumps over the lazy dog");
        assert_eq!(signature.to_hex(), "a4b1c3588f8d963161fbdbb4f05905cc8d6d1ce370927274f1d9d7f9625ab68d");
    }

    #[test]
    fn a_signature_with_the_key_read_as_hex_is_diagnosed_and_not_accepted() {
        let bytes = HmacSha256::new_from_slice(&hex::decode(KEY).unwrap()).unwrap();
        let signature = Signature(bytes.chain_update(b"body").finalize().into_bytes().into());
        assert!(!key(KEY).verify(b"body", &signature));
        assert!(key(KEY).would_verify_as_hex(b"body", &signature));
        assert!(!key("this-one-is-not-hex").would_verify_as_hex(b"body", &signature));
    }

    #[test]
    fn white_space_and_a_byte_order_mark_around_a_key_are_removed() {
        for text in [format!(" {KEY}\n"), format!("\u{feff}{KEY}"), format!("\u{feff} {KEY}\r\n\u{a0}")] {
            assert_eq!(key(&text).expose(), KEY, "{text:?}");
        }
    }

    #[test]
    fn a_text_that_is_not_a_key_is_refused_and_never_shown() {
        let expected = "; a shared key has 16 to 256 characters of A-Z a-z 0-9 + / = _ . -";
        let (long, short) = ("k".repeat(257), "k".repeat(15));
        for (text, fault) in [
            ("", "it is empty"),
            (" \n\u{feff}", "it is empty"),
            ("{{resolve:secretsmanager:unith:SecretString:sharedKey}}", "it is a reference that was not resolved"),
            (
                "arn:aws:secretsmanager:eu-west-1:123456789012:secret:unith-AbCdEf",
                "it is an ARN, not what the ARN names",
            ),
            (r#"{"sharedKey":"cbaab87d1cce6d79baad8e9e2607feb3"}"#, "it is a JSON document, not a key"),
            (r#""cbaab87d1cce6d79baad8e9e2607feb3""#, "it is in quotation marks"),
            ("'cbaab87d1cce6d79baad8e9e2607feb3'", "it is in quotation marks"),
            (&short, "it has 15 characters"),
            (&long, "it has 257 characters"),
            ("cbaab87d 1cce6d79baad8e9e2607feb3", "it has other characters"),
            ("cbaab87d1cce6d79\u{feff}baad8e9e", "it has other characters"),
            ("schlüssel-mit-umlaut", "it has other characters"),
            ("****************************feb3", "it has other characters"),
        ] {
            let error = SharedKey::parse(text).unwrap_err().to_string();
            assert_eq!(error, format!("{fault}{expected}"), "{text:?}");
        }
        let shown = format!("{:?} {:?}", key(KEY), key(KEY).sign(b""));
        assert_eq!(shown, "SharedKey([redacted]) Signature([redacted])");
        assert_eq!(key(KEY).fingerprint(), "4d17ec6a");
    }

    proptest! {
        #[test]
        fn decoding_never_panics(header in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Signature::parse(&header);
        }

        /// Exactly the texts of the rule are keys, whatever stands around them.
        #[test]
        fn a_text_is_a_key_if_the_rule_says_so(text in "[A-Za-z0-9+/=_.-]{0,300}|\\PC{0,40}", around in "[ \\t\\r\\n\u{feff}]{0,4}") {
            let inner = trimmed(&text);
            let fits = (16..=256).contains(&inner.chars().count());
            let expected = fits && inner.chars().all(|c| c.is_ascii_alphanumeric() || "+/=_.-".contains(c));
            let parsed = SharedKey::parse(&format!("{around}{text}{around}"));
            prop_assert_eq!(parsed.is_ok(), expected, "{:?}", text);
            if let Ok(key) = parsed {
                prop_assert_eq!(key.expose(), inner);
            }
        }

        #[test]
        fn accepts_exactly_what_was_signed(
            text in "[A-Za-z0-9+/=_.-]{16,256}", other in "[A-Za-z0-9+/=_.-]{16,80}", body in proptest::collection::vec(any::<u8>(), 0..600), flip in 0..256_usize,
        ) {
            let signature = key(&text).sign(&body);
            prop_assert!(key(&text).verify(&body, &signature));
            prop_assert!(key(&text).verify(&body, &Signature::parse(signature.to_hex().as_bytes()).unwrap()));
            prop_assert_eq!(key(&other).verify(&body, &signature), text == other);

            let mut wrong = signature.clone();
            wrong.0[flip / 8] ^= 1 << (flip % 8);
            prop_assert!(!key(&text).verify(&body, &wrong));

            let mut longer = body.clone();
            longer.push(0);
            prop_assert!(!key(&text).verify(&longer, &signature));
        }
    }
}
