//! The command `rebuild`: folds all sessions of the events table anew, or one of them.
//!
//! Without a session, the events table is scanned, and each session's row is written if it is newer than the present one,
//! made by older rules, or missing. So a rebuild can run while events arrive, and can be repeated. With a session, its row is
//! made anew whatever the present one says, and deleted if no event is left.

use event_store::{keys::SessionKey, session::KeyPage, stream::ItemKey};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use unith_events::ids::{HeadId, SessionId};

use crate::{
    command::CommandError,
    error::SessionError,
    gate::{CONCURRENCY, Gate},
    table::Units,
    updater::{Folded, Outcome, Updater},
};

/// How many sessions that could not be rebuilt are named.
const NAMED_FAILURES: usize = 20;

/// The input of the command.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rebuild {
    head_id: Option<HeadId>,
    session_id: Option<SessionId>,
    cursor: Option<ItemKey>,
}

/// Which sessions are rebuilt.
#[derive(Debug)]
pub enum Rebuilding {
    One(SessionKey),
    /// All from this key on.
    All(Option<ItemKey>),
}

/// The result of the command.
#[derive(Debug, Serialize)]
pub struct RebuildReport {
    action: &'static str,
    /// Whether all went well. If not, `error` or `failures` say what did not.
    pub ok: bool,
    /// Items of the events table that were scanned.
    items_read: u64,
    /// Sessions that were folded, or failed.
    sessions: u64,
    written: u64,
    /// Sessions whose row was as new as their events, or newer.
    unchanged: u64,
    deleted: u64,
    /// Items of sessions that are not events, and were left out.
    invalid: usize,
    /// Sessions that could not be rebuilt, and that another call with the same cursor would not rebuild either.
    failed: u64,
    /// The first of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failures: Vec<FailedSession>,
    units: Units,
    /// Where the next call continues; `None` after the last session.
    cursor: Option<ItemKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct FailedSession {
    head_id: HeadId,
    session_id: SessionId,
    reason: String,
}

impl Rebuild {
    /// Checks the input.
    ///
    /// # Errors
    /// A head without a session, a session without a head, or either with a cursor.
    pub fn check(self) -> Result<Rebuilding, CommandError> {
        match (self.head_id, self.session_id, self.cursor) {
            (None, None, cursor) => Ok(Rebuilding::All(cursor)),
            (Some(_), Some(session_id), None) if session_id.is_self_test() => Err(CommandError::SelfTest),
            (Some(head_id), Some(session_id), None) => Ok(Rebuilding::One(SessionKey { head_id, session_id })),
            _ => Err(CommandError::OneOrAll),
        }
    }
}

impl Rebuilding {
    /// Rebuilds, until `gate` ends it.
    pub async fn run(self, updater: &Updater, gate: &Gate) -> RebuildReport {
        let mut report = RebuildReport::default();
        let result = match self {
            Self::One(key) => match gate.attempt(updater.rebuild(&key)).await {
                Ok(folded) => {
                    report.add(&folded);
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Self::All(cursor) => {
                report.cursor = cursor;
                report.scan(updater, gate).await
            }
        };
        report.ok = result.is_ok() && report.failed == 0;
        report.error = result.err().map(|error| error.to_string());
        report
    }
}

impl Default for RebuildReport {
    fn default() -> Self {
        Self {
            action: "rebuild",
            ok: true,
            items_read: 0,
            sessions: 0,
            written: 0,
            unchanged: 0,
            deleted: 0,
            invalid: 0,
            failed: 0,
            failures: Vec::new(),
            units: Units::default(),
            cursor: None,
            error: None,
        }
    }
}

impl RebuildReport {
    /// Rebuilds the sessions from the cursor on.
    async fn scan(&mut self, updater: &Updater, gate: &Gate) -> Result<(), SessionError> {
        loop {
            let scan = updater.events.event_keys(self.cursor.as_ref());
            let page = match gate.attempt(async { scan.await.map_err(SessionError::Read) }).await {
                // Without a cursor, the next call would begin anew, and this one would seem to be the last.
                Err(SessionError::OutOfTime) if self.cursor.is_some() => return Ok(()),
                page => page?,
            };
            let KeyPage { keys, items_read, read_units, next } = page;
            self.items_read += items_read;
            self.units.read += read_units;
            let sessions = sessions(&keys, self.cursor.as_ref());
            if !self.rebuild(sessions, updater, gate).await? {
                return Ok(());
            }
            self.cursor = next;
            if self.cursor.is_none() {
                return Ok(());
            }
        }
    }

    /// Rebuilds the sessions of a page, in turn but several at a time. Moves the cursor behind each that is done. Whether all
    /// are.
    async fn rebuild(
        &mut self,
        sessions: Vec<(SessionKey, ItemKey)>,
        updater: &Updater,
        gate: &Gate,
    ) -> Result<bool, SessionError> {
        let mut results = stream::iter(sessions)
            .map(|(key, last)| async move {
                let result = gate.attempt(updater.update(&key)).await;
                (key, last, result)
            })
            .buffered(CONCURRENCY);
        while let Some((key, last, result)) = results.next().await {
            match result {
                Ok(folded) => self.add(&folded),
                Err(SessionError::OutOfTime) if self.cursor.is_some() => return Ok(false),
                Err(SessionError::OutOfTime) => return Err(SessionError::OutOfTime),
                // The next call begins with it.
                Err(error) if !error.is_final() => return Err(error),
                Err(error) => self.fail(key, &error),
            }
            self.cursor = Some(last);
        }
        Ok(true)
    }

    fn add(&mut self, folded: &Folded) {
        self.sessions += 1;
        self.invalid += folded.invalid;
        self.units += folded.units;
        match folded.outcome {
            Outcome::Updated => self.written += 1,
            Outcome::Unchanged => self.unchanged += 1,
            Outcome::Deleted => self.deleted += 1,
            Outcome::Gone => {}
        }
    }

    fn fail(&mut self, key: SessionKey, error: &SessionError) {
        self.sessions += 1;
        self.failed += 1;
        if self.failures.len() < NAMED_FAILURES {
            let SessionKey { head_id, session_id } = key;
            self.failures.push(FailedSession { head_id, session_id, reason: error.to_string() });
        }
    }
}

/// The sessions of a page, each with its last key there. Those of self-tests are left out, and the one whose event the
/// cursor names: it was folded whole.
fn sessions(keys: &[ItemKey], cursor: Option<&ItemKey>) -> Vec<(SessionKey, ItemKey)> {
    let folded = cursor.filter(|cursor| cursor.sk.starts_with("EVENT#")).map(|cursor| &cursor.pk);
    keys.chunk_by(|key, next| key.pk == next.pk)
        .filter_map(|keys| keys.last())
        .filter(|last| folded != Some(&last.pk))
        .filter_map(|last| Some((SessionKey::parse(&last.pk)?, last.clone())))
        .filter(|(key, _)| !key.session_id.is_self_test())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[(&str, &str)]) -> Vec<ItemKey> {
        keys.iter().map(|(pk, sk)| ItemKey { pk: (*pk).to_owned(), sk: (*sk).to_owned() }).collect()
    }

    #[test]
    fn a_session_that_spans_pages_is_folded_once() {
        let page = keys(&[
            ("SESSION#h#a", "EVENT#3"),
            ("SESSION#h#self-test:1", "EVENT#1"),
            ("SESSION#h#b", "EVENT#1"),
            ("SESSION#h#b", "EVENT#2"),
            ("SESSION#not one of ours", "EVENT#1"),
        ]);
        let folded = |cursor: &[(&str, &str)]| {
            let sessions = sessions(&page, keys(cursor).first());
            sessions.into_iter().map(|(key, last)| (key.session_id.to_string(), last.sk)).collect::<Vec<_>>()
        };
        let (a, b) = (("a".to_owned(), "EVENT#3".to_owned()), ("b".to_owned(), "EVENT#2".to_owned()));
        assert_eq!(folded(&[]), [a.clone(), b.clone()]);
        assert_eq!(folded(&[("SESSION#h#a", "EVENT#2")]), std::slice::from_ref(&b));
        assert_eq!(folded(&[("SESSION#h#z", "EVENT#2")]), [a.clone(), b.clone()]);
        // A key that is not an event's: the session's events may come behind it.
        assert_eq!(folded(&[("SESSION#h#a", "A")]), [a, b]);
    }

    #[test]
    fn a_rebuild_is_of_one_session_or_of_all() {
        let check = |input: serde_json::Value| serde_json::from_value::<Rebuild>(input).unwrap().check();
        let cursor = serde_json::json!({"pk": "p", "sk": "s"});
        assert!(matches!(check(serde_json::json!({})), Ok(Rebuilding::All(None))));
        assert!(matches!(check(serde_json::json!({"cursor": cursor})), Ok(Rebuilding::All(Some(_)))));
        assert!(matches!(check(serde_json::json!({"head_id": "h", "session_id": "s"})), Ok(Rebuilding::One(_))));
        for (input, expected) in [
            (serde_json::json!({"head_id": "h"}), "`head_id` and `session_id` name one session"),
            (serde_json::json!({"session_id": "s"}), "`head_id` and `session_id` name one session"),
            (serde_json::json!({"head_id": "h", "session_id": "s", "cursor": cursor}), "without a `cursor`"),
            (
                serde_json::json!({"head_id": "h", "session_id": "self-test:1"}),
                "sessions of self-tests have no summary",
            ),
        ] {
            let error = check(input).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
