//! The bodies that UNITH delivers, and their signatures.

use hmac::{Hmac, KeyInit, Mac};
use sandbox::platform::style::Style;
use serde_json::{Value, json};
use sha2::Sha256;

/// The shared key of UNITH's guide.
pub const KEY: &str = "cbaab87d1cce6d79baad8e9e2607feb3";
/// The head of UNITH's guide.
pub const HEAD: &str = "8eab5b23-024a-45cb-a0e1-9d3ffd6c9610";
/// The session of UNITH's guide.
pub const SESSION: &str = "f47ac10b-58cc-4372-a567-0e02b2c3d479";

/// The signature header that UNITH sends; also for keys that our own code refuses to sign with.
pub fn sign(body: &[u8], key: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}

/// The spelling of deliveries in this test run: `TEST_UNITH_STYLE` is `kit` (the default) or `guide`.
pub fn style() -> Style {
    match std::env::var("TEST_UNITH_STYLE").as_deref() {
        Ok("guide") => Style::Guide,
        Ok("kit") | Err(_) => Style::Kit,
        Ok(other) => panic!("TEST_UNITH_STYLE is {other}: expected kit or guide"),
    }
}

/// The guide's event with changed fields, in the spelling of [`style`]; `null` leaves a field out.
pub fn event(changes: &Value) -> Vec<u8> {
    event_in(style(), changes)
}

/// The same as [`event`], in a given spelling.
pub fn event_in(style: Style, changes: &Value) -> Vec<u8> {
    let (timestamp, event_type) = match style {
        Style::Kit => ("2026-01-15 09:57:33", "start_conversation"),
        Style::Guide => ("2026-01-15T09:57:33Z", "START_CONVERSATION"),
    };
    let mut event = json!({
        "timestamp": timestamp, "head_id": HEAD, "session_id": SESSION,
        "public_head_id": "jane-15326", "public_org_id": "acme", "event_type": event_type,
    });
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            event.as_object_mut().unwrap().remove(name);
        } else {
            event[name] = value.clone();
        }
    }
    event.to_string().into_bytes()
}
