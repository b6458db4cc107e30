//! The command `show`: the summary of one session.

use event_store::keys::SessionKey;
use serde::{Deserialize, Serialize};
use unith_events::{
    ids::{HeadId, SessionId},
    session::SessionSummary,
    timestamp::Timestamp,
};

use crate::{
    item::is_lost,
    table::{Row, SessionsTable},
};

/// The input of the command.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Show {
    head_id: HeadId,
    session_id: SessionId,
}

/// The result of the command.
#[derive(Debug, Serialize)]
pub struct ShowReport {
    action: &'static str,
    /// Whether all went well. If not, `error` says what did not.
    pub ok: bool,
    head_id: HeadId,
    session_id: SessionId,
    /// `None` if the table did not respond.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<ShownSession>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Found,
    /// No event of it was stored, or all have expired, or its first event was stored some seconds ago.
    NotFound,
    /// The row has another form, e.g. because somebody edited it: `rebuild` makes it anew.
    Unreadable,
}

#[derive(Debug, Serialize)]
struct ShownSession {
    #[serde(flatten)]
    summary: SessionSummary,
    lost: bool,
}

impl Show {
    /// Reads the row. The read is consistent.
    pub async fn run(self, table: &SessionsTable, now: Timestamp) -> ShowReport {
        let Self { head_id, session_id } = self;
        let key = SessionKey { head_id, session_id };
        let row = table.get(&key).await.map(|(row, _)| row);
        let SessionKey { head_id, session_id } = key;
        let mut report =
            ShowReport { action: "show", ok: true, head_id, session_id, status: None, session: None, error: None };
        match row {
            Ok(Row::Absent) => report.status = Some(Status::NotFound),
            Ok(Row::Unreadable) => (report.ok, report.status) = (false, Some(Status::Unreadable)),
            Ok(Row::Present(item)) => {
                let lost = is_lost(item.summary.state, item.summary.last_event_at, now);
                report.status = Some(Status::Found);
                report.session = Some(ShownSession { summary: item.summary, lost });
            }
            Err(error) => (report.ok, report.error) = (false, Some(error.to_string())),
        }
        report
    }
}
