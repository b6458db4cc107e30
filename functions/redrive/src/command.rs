//! The command `retry-quarantine`: sends quarantined bodies that can be read now to the spill queue.
//!
//! ```json
//! {"action": "retry-quarantine", "day": "2026-11-25", "reason": "the body is not JSON", "apply": true, "cursor": null}
//! ```
//!
//! It looks at the unreadable bodies that came on one day, those of one `reason` if that is set. Without `apply` it counts
//! the bodies that can be read now. With it, it sends them: the item of such a body is deleted once its event is in the
//! table. A body that names another head than its key stays.
//!
//! A call works for 10 minutes at most. If its report has a `cursor`, the next call with that cursor continues from there.
//! Sending a body twice is harmless.

use std::time::Duration;

use event_store::{
    item::QuarantineItem,
    quarantine::Page,
    spill_queue::{SpillError, SpillQueue},
    store::{EventStore, StoreError},
};
use lambda_support::log::CommandLine;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;
use unith_events::{event::Event, spill::SpillMessage, timestamp::Timestamp};

const LONGEST_CALL: Duration = Duration::from_mins(10);

/// A command to the function.
#[derive(Debug)]
pub struct Command {
    input: RetryQuarantine,
    day: Timestamp,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
enum Input {
    RetryQuarantine(RetryQuarantine),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryQuarantine {
    day: String,
    reason: Option<String>,
    #[serde(default)]
    apply: bool,
    cursor: Option<String>,
}

/// A command that cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(
        "this is neither a batch of messages nor a command: {0}; expected {{\"action\": \"retry-quarantine\", \
         \"day\": \"2026-11-25\", \"reason\": …, \"apply\": …, \"cursor\": …}}"
    )]
    Unknown(#[from] serde_json::Error),
    #[error("`{0}` is not a day: expected one like 2026-11-25")]
    Day(String),
}

/// The result of a call.
#[derive(Debug, Serialize)]
pub struct Report {
    action: &'static str,
    /// Whether all went well. If not, `error` says what did not.
    ok: bool,
    day: String,
    reason: Option<String>,
    apply: bool,
    /// Bodies that were looked at.
    examined: u64,
    /// Bodies that can be read now.
    readable: u64,
    /// Readable bodies that were sent to the spill queue.
    sent: u64,
    /// Bodies that still cannot be read.
    unreadable: u64,
    /// Bodies that name another head than their key.
    other_head: u64,
    /// Items that are not quarantined bodies, e.g. because somebody edited them.
    invalid: u64,
    /// The hash of the last body that was looked at; `None` after the last one.
    cursor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Report {
    /// The line of the command.
    pub fn log_line<'r>(&'r self, request_id: &'r str) -> CommandLine<'r, &'r Self> {
        CommandLine::new(request_id, self.action, self.ok, self)
    }
}

#[derive(Debug, thiserror::Error)]
enum RetryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Spill(#[from] SpillError),
}

impl Command {
    /// Reads a command.
    ///
    /// # Errors
    /// Any other event.
    pub fn parse(input: Value) -> Result<Self, CommandError> {
        let Input::RetryQuarantine(input) = serde_json::from_value(input)?;
        let day = Timestamp::parse(&format!("{}T00:00:00Z", input.day));
        let day = day.ok_or_else(|| CommandError::Day(input.day.clone()))?;
        Ok(Self { input, day })
    }

    /// Carries it out, until `deadline` or for 10 minutes at most.
    pub async fn run(self, store: &EventStore, queue: &SpillQueue, deadline: Instant) -> Report {
        let until = deadline.min(Instant::now() + LONGEST_CALL);
        let mut report = Report::of(self.input);
        if let Err(error) = report.work(store, queue, self.day, until).await {
            report.ok = false;
            report.error = Some(error.to_string());
        }
        report
    }
}

impl Report {
    fn of(input: RetryQuarantine) -> Self {
        Self {
            action: "retry-quarantine",
            ok: true,
            day: input.day,
            reason: input.reason,
            apply: input.apply,
            examined: 0,
            readable: 0,
            sent: 0,
            unreadable: 0,
            other_head: 0,
            invalid: 0,
            cursor: input.cursor,
            error: None,
        }
    }

    /// Looks at the bodies from the cursor on. Each call looks at one at least.
    async fn work(
        &mut self,
        store: &EventStore,
        queue: &SpillQueue,
        day: Timestamp,
        until: Instant,
    ) -> Result<(), RetryError> {
        loop {
            let page = store.unreadable_bodies(day, self.reason.as_deref(), self.cursor.as_deref()).await?;
            let Page { items, invalid, next } = page;
            self.invalid += invalid;
            for item in items {
                self.retry(&item, queue).await?;
                self.cursor = Some(item.sk);
                if Instant::now() >= until {
                    return Ok(());
                }
            }
            self.cursor = next;
            if self.cursor.is_none() || Instant::now() >= until {
                return Ok(());
            }
        }
    }

    async fn retry(&mut self, item: &QuarantineItem, queue: &SpillQueue) -> Result<(), SpillError> {
        let message =
            SpillMessage::of_quarantined(item.body.as_bytes().to_vec(), item.key_head.clone(), item.received_at);
        match message.verified().map(|verified| Event::parse(&verified)) {
            Err(_) => self.other_head += 1,
            Ok(Err(_)) => self.unreadable += 1,
            Ok(Ok(_)) => {
                if self.apply {
                    queue.send(&message).await?;
                    self.sent += 1;
                }
                self.readable += 1;
            }
        }
        self.examined += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_command_is_a_dry_run_from_the_start_unless_it_says_otherwise() {
        let Command { input, day } =
            Command::parse(json!({"action": "retry-quarantine", "day": "2026-11-25"})).unwrap();
        assert_eq!(day.day(), "2026-11-25");
        assert_eq!((input.reason, input.apply, input.cursor), (None, false, None));
        let full =
            json!({"action": "retry-quarantine", "day": "2026-11-25", "reason": "r", "apply": true, "cursor": "c"});
        let input = Command::parse(full).unwrap().input;
        assert_eq!((input.reason.as_deref(), input.apply, input.cursor.as_deref()), (Some("r"), true, Some("c")));
    }

    #[test]
    fn another_event_is_an_error_with_the_commands_form() {
        for (input, expected) in [
            (json!({}), "missing field `action`"),
            (json!(7), "invalid type"),
            (json!({"action": "replay"}), "unknown variant `replay`"),
            (json!({"action": "retry-quarantine"}), "missing field `day`"),
            (json!({"action": "retry-quarantine", "day": "2026-11-25", "applied": true}), "unknown field `applied`"),
            (json!({"action": "retry-quarantine", "day": "yesterday"}), "`yesterday` is not a day"),
            (json!({"action": "retry-quarantine", "day": "2026-02-30"}), "`2026-02-30` is not a day"),
        ] {
            let error = Command::parse(input).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(error.contains("2026-11-25"), "{error}");
        }
    }
}
