//! The cursor of a replay: where the next call continues, and which replay it belongs to.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use event_store::stream::ItemKey;
use serde::{Deserialize, Serialize};
use unith_events::timestamp::Timestamp;

const VERSION: u32 = 1;

/// A cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    v: u32,
    /// The hash of the command it belongs to.
    pub command: String,
    /// The id of the replay.
    pub id: String,
    /// When the replay began.
    pub at: Timestamp,
    /// The key of the last item that is done.
    pub after: ItemKey,
}

impl Cursor {
    /// A cursor of the command with this hash.
    pub fn new(command: String, id: String, at: Timestamp, after: ItemKey) -> Self {
        Self { v: VERSION, command, id, at, after }
    }

    /// The text that a report shows.
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads it back; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let cursor: Self = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        (cursor.v == VERSION).then_some(cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_any_other_text_is_not_one() {
        let after = ItemKey { pk: "SESSION#h#ü".into(), sk: "EVENT#1".into() };
        let cursor = Cursor::new("c".into(), "i".into(), Timestamp::parse("2026-01-15T09:57:33Z").unwrap(), after);
        assert_eq!(Cursor::parse(&cursor.to_text()), Some(cursor.clone()));
        let newer = Cursor { v: 2, ..cursor }.to_text();
        for text in ["", "x", "e30", &newer] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }
}
