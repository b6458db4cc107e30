//! Signatures made by openssl; see `fixtures/make-signatures`.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
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
