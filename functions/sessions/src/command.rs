//! The commands of an operator: `list`, `show` and `rebuild`.
//!
//! ```json
//! {"action": "list", "head_id": "…", "state": "open", "from": "…", "to": "…", "limit": 50, "cursor": null}
//! {"action": "show", "head_id": "…", "session_id": "…"}
//! {"action": "rebuild", "cursor": null}
//! {"action": "rebuild", "head_id": "…", "session_id": "…"}
//! ```
//!
//! A call works for 10 minutes at most. If its report has a `cursor`, the next call with that cursor continues from there.

use std::time::Duration;

use lambda_support::log::CommandLine;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;
use unith_events::timestamp::Timestamp;

use crate::{
    gate::Gate,
    list::{List, ListReport, Listing},
    rebuild::{Rebuild, RebuildReport},
    show::{Show, ShowReport},
    updater::Updater,
};

const LONGEST_CALL: Duration = Duration::from_mins(10);

/// A command to the function.
#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Command {
    List(List),
    Show(Show),
    Rebuild(Rebuild),
}

/// A command that cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(
        "this is neither a batch of a stream nor a command: {0}; expected {{\"action\": \"list\", \"head_id\": …}}, \
         {{\"action\": \"show\", \"head_id\": …, \"session_id\": …}} or {{\"action\": \"rebuild\"}}"
    )]
    Unknown(#[from] serde_json::Error),
    #[error("`limit` is {0}: expected 1 to 200")]
    Limit(usize),
    #[error("no session starts in this range: `from` must be before `to`")]
    EmptyRange,
    #[error("`cursor` is not one of this list: repeat `head_id`, `state`, `from` and `to` with it")]
    Cursor,
    #[error("`head_id` and `session_id` name one session, without a `cursor`; leave all out to rebuild all sessions")]
    OneOrAll,
    #[error("sessions of self-tests have no summary")]
    SelfTest,
}

/// The result of a call.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Report {
    List(ListReport),
    Show(ShowReport),
    Rebuild(RebuildReport),
}

impl Command {
    /// Reads a command.
    ///
    /// # Errors
    /// Any other event.
    pub fn parse(input: Value) -> Result<Self, CommandError> {
        Ok(serde_json::from_value(input)?)
    }

    /// Carries it out at `now`, until `deadline` or for 10 minutes at most.
    ///
    /// # Errors
    /// Values that do not fit each other.
    pub async fn run(self, updater: &Updater, now: Timestamp, deadline: Instant) -> Result<Report, CommandError> {
        let gate = Gate::new(deadline.min(Instant::now() + LONGEST_CALL));
        Ok(match self {
            Self::List(list) => Report::List(Listing::new(list, now)?.run(&updater.sessions, &gate).await),
            Self::Show(show) => Report::Show(show.run(&updater.sessions, now).await),
            Self::Rebuild(rebuild) => Report::Rebuild(rebuild.check()?.run(updater, &gate).await),
        })
    }
}

impl Report {
    /// The line of the command.
    pub fn log_line<'r>(&self, request_id: &'r str) -> CommandLine<'r, Value> {
        let (action, ok) = self.verdict();
        CommandLine::new(request_id, action, ok, self.in_short())
    }

    /// The action, and whether all went well.
    fn verdict(&self) -> (&'static str, bool) {
        match self {
            Self::List(report) => ("list", report.ok),
            Self::Show(report) => ("show", report.ok),
            Self::Rebuild(report) => ("rebuild", report.ok),
        }
    }

    /// The report for the log: of a list, the number of its sessions.
    fn in_short(&self) -> Value {
        let mut report = json!(self);
        if let Some(sessions) = report.get_mut("sessions").filter(|sessions| sessions.is_array()) {
            *sessions = sessions.as_array().map_or(0, Vec::len).into();
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_as_the_reference_has_them() {
        let list = json!({"action": "list", "head_id": "h", "state": "open", "from": "2026-01-15T00:00:00Z",
            "to": "2026-01-16T00:00:00Z", "limit": 50, "cursor": null});
        assert!(matches!(Command::parse(list), Ok(Command::List(_))));
        let show = json!({"action": "show", "head_id": "h", "session_id": "s"});
        assert!(matches!(Command::parse(show), Ok(Command::Show(_))));
        for rebuild in [json!({"action": "rebuild"}), json!({"action": "rebuild", "cursor": {"pk": "p", "sk": "s"}})] {
            assert!(matches!(Command::parse(rebuild), Ok(Command::Rebuild(_))));
        }
    }

    #[test]
    fn another_event_is_an_error_with_the_commands_forms() {
        for (input, expected) in [
            (json!({}), "missing field `action`"),
            (json!(7), "invalid type"),
            (json!({"action": "retry-quarantine"}), "unknown variant `retry-quarantine`"),
            (json!({"action": "list"}), "missing field `head_id`"),
            (json!({"action": "show", "head_id": "h"}), "missing field `session_id`"),
            (json!({"action": "show", "head_id": "h", "session_id": ""}), "expected 1 to 256 bytes"),
            (json!({"action": "rebuild", "cursor": "c"}), "invalid type"),
            (json!({"action": "rebuild", "apply": true}), "unknown field `apply`"),
        ] {
            let error = Command::parse(input).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(error.contains(r#"expected {"action": "list", "head_id": …}"#), "{error}");
        }
    }
}
