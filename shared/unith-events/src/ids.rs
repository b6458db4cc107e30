//! What may be the id of a head or a session.

/// The longest an id may be, in bytes.
pub const MAX_ID_BYTES: usize = 256;

/// Whether a text may be the id of a head or a session: 1 to 256 bytes without control characters.
#[must_use]
pub fn is_id(text: &str) -> bool {
    is_id_of(text, MAX_ID_BYTES)
}

/// The same for an id of up to so many bytes.
#[must_use]
pub fn is_id_of(text: &str, max_bytes: usize) -> bool {
    (1..=max_bytes).contains(&text.len()) && !text.contains(char::is_control)
}
