//! Documents for the key ring's secret.

use serde_json::{Value, json};

/// The secret that the harnesses keep their key ring in.
pub const RING_SECRET: &str = "ring";

/// The document of a key ring.
pub fn ring(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

/// An active entry of a key ring.
pub fn active(head: &str, key: &str) -> Value {
    json!({"head_id": head, "webhook_id": 4, "key": key, "state": "active", "since": "2026-01-16T09:56:12Z"})
}
