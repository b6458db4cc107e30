//! The command `replay`: publishes stored events once more.
//!
//! ```json
//! {"action": "replay", "head_id": "8eab5b23-…", "session_id": "f47ac10b-…", "reason": "…", "apply": true, "cursor": null}
//! {"action": "replay", "from": "2026-01-15T09:00:00Z", "to": "2026-01-15T10:00:00Z", "head_ids": ["8eab5b23-…"],
//!  "types": ["END_CONVERSATION"], "reason": "…", "apply": false, "cursor": null}
//! ```
//!
//! The first form is a query of one session. The second one is a scan of the table, for the events that have all that is
//! named. `from` and `to` are compared with `received_at`, and both belong to the range: an operator who replays knows when
//! events were lost on their way to consumers, and not when they happened.
//!
//! Without `apply` nothing is published: the report says how many events match and what the call cost.
//!
//! A call works for 10 minutes at most. If its report has a `cursor`, the next call with the same command and that cursor goes
//! on from there. A cursor of another command is refused: with it, events would be left out.

use std::collections::BTreeSet;

use event_store::{events::Received, item::EventItem, keys::session_pk};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use unith_events::{
    ids::{HeadId, SessionId, is_id_of},
    timestamp::Timestamp,
};

use crate::cursor::Cursor;

const MAX_REASON: usize = 256;

/// A command to the function.
#[derive(Debug)]
pub struct Command {
    pub(crate) filter: Filter,
    pub(crate) reason: Option<String>,
    pub(crate) apply: bool,
    pub(crate) cursor: Option<Cursor>,
    /// Distinguishes this command from any other one.
    pub(crate) hash: String,
}

/// Which events are replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    Session {
        head_id: HeadId,
        session_id: SessionId,
    },
    Range {
        from: Option<Timestamp>,
        to: Option<Timestamp>,
        /// `None` for all.
        head_ids: Option<BTreeSet<HeadId>>,
        /// In upper case; `None` for all.
        types: Option<BTreeSet<String>>,
    },
}

#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
enum Input {
    Replay(Replay),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Replay {
    head_id: Option<HeadId>,
    session_id: Option<SessionId>,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    head_ids: Option<BTreeSet<HeadId>>,
    types: Option<BTreeSet<String>>,
    reason: Option<String>,
    #[serde(default)]
    apply: bool,
    cursor: Option<String>,
}

/// A command that cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(
        "this is neither a batch of a stream nor a command: {0}; expected {{\"action\": \"replay\", \"head_id\": …, \
         \"session_id\": …}} or {{\"action\": \"replay\", \"from\": …, \"to\": …, \"head_ids\": …, \"types\": …}}"
    )]
    Unknown(#[from] serde_json::Error),
    #[error(
        "a replay needs a filter: `head_id` and `session_id` for one session, or some of `from`, `to`, `head_ids` and `types`"
    )]
    NoFilter,
    #[error(
        "`head_id` and `session_id` belong together and exclude the other filters: use `head_ids` for all sessions of a head"
    )]
    MixedFilter,
    #[error("`{0}` is empty: leave it out for all")]
    Empty(&'static str),
    #[error("`from` is later than `to`")]
    Backwards,
    #[error("`reason` is too long or has control characters: expected 1 to {MAX_REASON} bytes")]
    Reason,
    #[error("the cursor is not one of a replay: copy it from the report of the call before")]
    Cursor,
    #[error(
        "the cursor belongs to another command: repeat the filter, `reason` and `apply` of the call that returned it, or begin \
         without a cursor"
    )]
    OtherCommand,
}

impl Command {
    /// Reads a command.
    ///
    /// # Errors
    /// Any other event, and a command whose parts do not fit together.
    pub fn parse(input: Value) -> Result<Self, CommandError> {
        let Input::Replay(Replay { head_id, session_id, from, to, head_ids, types, reason, apply, cursor }) =
            serde_json::from_value(input)?;
        let is_range = from.is_some() || to.is_some() || head_ids.is_some() || types.is_some();
        let filter = match (head_id, session_id) {
            (Some(head_id), Some(session_id)) if !is_range => Filter::Session { head_id, session_id },
            (None, None) if is_range => range(from, to, head_ids, types)?,
            (None, None) => return Err(CommandError::NoFilter),
            _ => return Err(CommandError::MixedFilter),
        };
        if !reason.as_deref().is_none_or(|reason| is_id_of(reason, MAX_REASON)) {
            return Err(CommandError::Reason);
        }
        let text = serde_json::to_string(&(&filter, &reason, apply))?;
        let hash = hex::encode(Sha256::digest(text));
        let cursor = match cursor {
            None => None,
            Some(text) => {
                let cursor = Cursor::parse(&text).ok_or(CommandError::Cursor)?;
                Some(cursor).filter(|cursor| cursor.command == hash).ok_or(CommandError::OtherCommand)?.into()
            }
        };
        Ok(Self { filter, reason, apply, cursor, hash })
    }
}

fn range(
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    head_ids: Option<BTreeSet<HeadId>>,
    types: Option<BTreeSet<String>>,
) -> Result<Filter, CommandError> {
    if head_ids.as_ref().is_some_and(BTreeSet::is_empty) {
        return Err(CommandError::Empty("head_ids"));
    }
    if types.as_ref().is_some_and(BTreeSet::is_empty) {
        return Err(CommandError::Empty("types"));
    }
    if from.zip(to).is_some_and(|(from, to)| from > to) {
        return Err(CommandError::Backwards);
    }
    let types = types.map(|types| types.into_iter().map(|text| text.to_ascii_uppercase()).collect());
    Ok(Filter::Range { from, to, head_ids, types })
}

impl Filter {
    /// The partition of the session, if it is one session.
    pub fn session_pk(&self) -> Option<String> {
        match self {
            Self::Session { head_id, session_id } => Some(session_pk(head_id, session_id)),
            Self::Range { .. } => None,
        }
    }

    /// The range of `received_at`.
    pub fn received(&self) -> Received {
        match self {
            Self::Session { .. } => Received::default(),
            Self::Range { from, to, .. } => Received { from: *from, to: *to },
        }
    }

    /// Whether an event is replayed. Those of self-tests are, if their session is named.
    pub fn matches(&self, item: &EventItem) -> bool {
        match self {
            Self::Session { .. } => true,
            Self::Range { from, to, head_ids, types } => {
                from.is_none_or(|from| from <= item.received_at)
                    && to.is_none_or(|to| item.received_at <= to)
                    && head_ids.as_ref().is_none_or(|heads| heads.contains(&item.head_id))
                    && types.as_ref().is_none_or(|types| types.contains(&item.event_type.to_ascii_uppercase()))
                    && !item.session_id.is_self_test()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use event_store::stream::ItemKey;
    use serde_json::json;

    #[test]
    fn a_command_is_a_dry_run_from_the_start_unless_it_says_otherwise() {
        let command = Command::parse(json!({"action": "replay", "head_id": "h", "session_id": "s"})).unwrap();
        assert_eq!((command.reason, command.apply, command.cursor), (None, false, None));
        assert_eq!(command.filter.session_pk().as_deref(), Some("SESSION#h#s"));
        let range = json!({"action": "replay", "from": "2026-01-15 09:57", "types": ["end_conversation", "other"]});
        let Filter::Range { from, to, head_ids, types } = Command::parse(range).unwrap().filter else { panic!() };
        assert_eq!((from, to, head_ids), (Timestamp::parse("2026-01-15T09:57:00Z"), None, None));
        assert_eq!(types.unwrap().into_iter().collect::<Vec<_>>(), ["END_CONVERSATION", "OTHER"]);
    }

    #[test]
    fn another_event_is_an_error_that_says_what_is_expected() {
        for (input, expected) in [
            (json!({}), "missing field `action`"),
            (json!({"action": "retry-quarantine"}), "unknown variant `retry-quarantine`"),
            (json!({"action": "replay", "form": "2026-01-15T09:57:00Z"}), "unknown field `form`"),
            (json!({"action": "replay", "from": "yesterday"}), "not an ISO 8601 date and time"),
            (json!({"action": "replay", "from": "2026-01-15"}), "not an ISO 8601 date and time"),
            (json!({"action": "replay"}), "a replay needs a filter"),
            (json!({"action": "replay", "apply": true, "reason": "r"}), "a replay needs a filter"),
            (json!({"action": "replay", "head_id": "h"}), "`head_id` and `session_id` belong together"),
            (json!({"action": "replay", "session_id": "s", "to": "2026-01-15T09:57Z"}), "belong together"),
            (
                json!({"action": "replay", "head_id": "h", "session_id": "s", "types": ["A"]}),
                "exclude the other filters",
            ),
            (json!({"action": "replay", "head_ids": []}), "`head_ids` is empty"),
            (json!({"action": "replay", "types": []}), "`types` is empty"),
            (json!({"action": "replay", "from": "2026-01-15T10:00Z", "to": "2026-01-15T09:00Z"}), "later than `to`"),
            (json!({"action": "replay", "types": ["A"], "reason": "a\nb"}), "`reason` is too long"),
            (json!({"action": "replay", "types": ["A"], "cursor": "x"}), "the cursor is not one of a replay"),
        ] {
            let error = Command::parse(input.clone()).unwrap_err().to_string();
            assert!(error.contains(expected), "{input}: {error}");
        }
    }

    #[test]
    fn a_cursor_counts_for_its_own_command_alone() {
        let own = json!({"action": "replay", "types": ["B", "a"], "reason": "r", "apply": true});
        let Command { hash, .. } = Command::parse(own.clone()).unwrap();
        let after = ItemKey { pk: "SESSION#h#s".into(), sk: "EVENT#".into() };
        let cursor = Cursor::new(hash, "id".into(), Timestamp::now(), after);
        let with = |name: &str, value: Value| {
            let mut command = own.clone();
            command["cursor"] = json!(cursor.to_text());
            command[name] = value;
            Command::parse(command)
        };
        assert_eq!(
            with("types", json!(["A", "b"])).unwrap().cursor.as_ref(),
            Some(&cursor),
            "order and case are equal"
        );
        for (name, value) in [
            ("types", json!(["A"])),
            ("apply", json!(false)),
            ("reason", json!("s")),
            ("to", json!("2026-01-15T09:57Z")),
        ] {
            let error = with(name, value).unwrap_err();
            assert!(matches!(error, CommandError::OtherCommand), "{name}: {error}");
        }
    }
}
