//! The value of the signature header, and the signature itself.

#![no_main]

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use libfuzzer_sys::fuzz_target;
use unith_events::signature::{SharedKey, Signature};

/// The event, the key and the signature of UNITH's guide, so that the seeds have right signatures.
const GUIDE_BODY: &[u8] = include_bytes!("../seeds/event_body/guide.json");
static GUIDE_KEY: LazyLock<SharedKey> = LazyLock::new(|| key("cbaab87d1cce6d79baad8e9e2607feb3"));
static OTHER_KEY: LazyLock<SharedKey> = LazyLock::new(|| key("0f3c5d7e9a1b2c4d6e8f0a1b2c3d4e5f"));

fn key(text: &str) -> SharedKey {
    SharedKey::parse(text).expect("a key of the rule")
}

fuzz_target!(|data: &[u8]| {
    only_the_right_key_verifies(data);
    let Ok(signature) = Signature::parse(data) else { return };
    let hex = signature.to_hex();
    is_one_of_three_spellings(data, &hex);
    for spelling in [hex.clone(), hex.to_uppercase(), format!("sha256={hex}"), BASE64.encode(bytes(&hex))] {
        let again = Signature::parse(spelling.as_bytes()).expect("every spelling is read");
        assert_eq!(again.to_hex(), hex);
    }
    for key in [&*GUIDE_KEY, &*OTHER_KEY] {
        assert_eq!(key.verify(GUIDE_BODY, &signature), key.sign(GUIDE_BODY).to_hex() == hex);
    }
    assert_eq!(format!("{signature:?}"), "Signature([redacted])");
});

/// The input as a body: its signature is verified by its own key, over exactly this body.
fn only_the_right_key_verifies(body: &[u8]) {
    let signature = GUIDE_KEY.sign(body);
    let parsed = Signature::parse(signature.to_hex().as_bytes()).expect("a signature's own text");
    assert!(GUIDE_KEY.verify(body, &parsed));
    assert!(!OTHER_KEY.verify(body, &parsed));
    assert!(!GUIDE_KEY.would_verify_as_hex(body, &parsed));
    assert!(!GUIDE_KEY.verify(&[body, b"\0"].concat(), &parsed));
}

/// The input spells the parsed bytes, and nothing else is in it.
fn is_one_of_three_spellings(header: &[u8], hex: &str) {
    let digits = header.strip_prefix(b"sha256=").unwrap_or(header);
    assert!(digits.eq_ignore_ascii_case(hex.as_bytes()) || header == BASE64.encode(bytes(hex)).as_bytes());
}

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex).expect("hex digits")
}
