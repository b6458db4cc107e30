//! Signatures made by openssl: those of `fixtures/make-signatures`, and of random keys and bodies.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use proptest::prelude::*;
use serde_json::Value;
use unith_events::signature::{SharedKey, Signature};

#[test]
fn signatures_of_openssl_are_verified() {
    let vectors: Vec<Value> = serde_json::from_str(include_str!("../fixtures/signatures.json")).unwrap();
    assert_eq!(vectors.len(), 8);
    for vector in vectors {
        let text = |name: &str| vector[name].as_str().unwrap().to_owned();
        let (name, body) = (text("name"), BASE64.decode(text("body_base64")).unwrap());
        let key = SharedKey::parse(&text("key")).unwrap();
        assert_eq!(key.sign(&body).to_hex(), text("hex"), "{name}");
        for header in [text("hex"), text("hex").to_uppercase(), format!("sha256={}", text("hex")), text("base64")] {
            let signature = Signature::parse(header.as_bytes()).unwrap();
            assert!(key.verify(&body, &signature), "{name}: {header}");
            assert!(!key.verify(&[body.as_slice(), b" "].concat(), &signature), "{name}: another body");
        }
    }
}

/// The HMAC-SHA256 of `body` by the command `openssl`, under the bytes of `key`.
fn openssl_signature(key: &str, body: &[u8]) -> Vec<u8> {
    let key = format!("hexkey:{}", hex::encode(key));
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-mac", "HMAC", "-macopt", &key, "-binary"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test compares our signatures with those of openssl; install the package openssl");
    openssl.stdin.take().unwrap().write_all(body).unwrap();
    let output = openssl.wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout.len() == 32, "{output:?}");
    output.stdout
}

proptest! {
    // Each case starts a process.
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A signature is accepted if it is the one that openssl makes, and only then.
    #[test]
    fn our_check_agrees_with_openssl_on_random_keys_and_bodies(
        key in "[A-Za-z0-9+/=_.-]{16,256}",
        body in proptest::collection::vec(any::<u8>(), 0..2_000),
        random in proptest::array::uniform32(any::<u8>()),
        flipped in 0..256_usize,
    ) {
        let shared_key = SharedKey::parse(&key).unwrap();
        let right = openssl_signature(&key, &body);
        let mut wrong = right.clone();
        wrong[flipped / 8] ^= 1 << (flipped % 8);
        for candidate in [right.as_slice(), &wrong, &random] {
            for header in [hex::encode(candidate), format!("sha256={}", hex::encode(candidate)), BASE64.encode(candidate)] {
                let signature = Signature::parse(header.as_bytes()).unwrap();
                prop_assert_eq!(shared_key.verify(&body, &signature), candidate == right, "{}", header);
            }
        }
        prop_assert_eq!(shared_key.sign(&body).to_hex(), hex::encode(&right));
    }
}
