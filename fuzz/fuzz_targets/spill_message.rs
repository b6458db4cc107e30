//! A message of the spill queue.

#![no_main]

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use sha2::{Digest, Sha256};
use unith_events::{event::Event, ids::HeadId, spill::SpillMessage, timestamp::Timestamp};

fuzz_target!(|data: &[u8]| {
    if let Ok(json) = std::str::from_utf8(data) {
        reads_only_what_fits(json);
    }
    // The input as a head, a line feed, and a body: a fuzzer does not find a body's hash by chance.
    let line_feed = data.iter().position(|byte| *byte == b'\n');
    let (head, body) = line_feed.map_or((&[][..], data), |at| (&data[..at], &data[at + 1..]));
    let head = std::str::from_utf8(head).ok().and_then(|head| HeadId::new(head).ok());
    let received_at = Timestamp::parse("2026-01-15T09:57:34.001Z").expect("an instant");
    let message = SpillMessage::of_quarantined(body.to_vec(), head.clone(), received_at);
    survives_its_json(&message);
    speaks_for_its_head_alone(&message, head.as_ref(), body);
});

/// A message is read only if its body has its hash.
fn reads_only_what_fits(json: &str) {
    let message = match SpillMessage::parse(json) {
        Ok(message) => message,
        Err(error) => {
            // The reason becomes an attribute of the dead letter: it must not repeat the body.
            assert!(error.to_string().len() < 200);
            return;
        }
    };
    survives_its_json(&message);
    let document: Value = serde_json::from_str(json).expect("JSON");
    let body = BASE64.decode(document["body_b64"].as_str().expect("a string")).expect("base64");
    assert_eq!(document["body_sha256"], hex::encode(Sha256::digest(&body)));
    let head = document["head"].as_str().map(|head| HeadId::new(head).expect("an id"));
    speaks_for_its_head_alone(&message, head.as_ref(), &body);
}

/// The message is the same after its way through the queue, which takes all of its characters.
fn survives_its_json(message: &SpillMessage) {
    let json = message.to_json();
    let is_taken =
        |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    assert!(json.chars().all(is_taken), "{json}");
    let again = SpillMessage::parse(&json).expect("a message's own JSON");
    assert!(again == *message);
    assert_eq!(again.to_json(), json);
}

/// The body counts as verified only if it names no other head than its key was bound to.
fn speaks_for_its_head_alone(message: &SpillMessage, head: Option<&HeadId>, body: &[u8]) {
    match message.verified() {
        Ok(verified) => {
            assert_eq!((verified.body(), verified.key_head()), (body, head));
            let named = match Event::parse(&verified) {
                Ok(event) => Some(event.identity.head_id),
                Err(error) => error.head_id,
            };
            assert!(head.is_none() || named.is_none() || named.as_ref() == head);
        }
        Err(_) => assert!(head.is_some()),
    }
}
