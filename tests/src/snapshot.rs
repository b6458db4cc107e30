//! JSON values for snapshots. `INSTA_UPDATE=always cargo test` accepts changes; review them with `git diff`.

use serde_json::Value;

/// `value` with a placeholder in place of each member at `pointers` that is present.
pub fn redacted(mut value: Value, pointers: &[&str]) -> Value {
    for pointer in pointers {
        if let Some(member) = value.pointer_mut(pointer) {
            *member = "[redacted]".into();
        }
    }
    value
}
