//! One session: its events are read and folded, and its row is written.

use event_store::{keys::SessionKey, session::SessionEvents, store::EventStore};
use unith_events::session::fold;

use crate::{
    error::SessionError,
    item::SessionItem,
    table::{Row, SessionsTable, Units},
};

/// How often a named session is rebuilt whose row changes meanwhile.
const ATTEMPTS: usize = 5;

/// What became of a session's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Updated,
    /// The row is as new as the events, or newer.
    Unchanged,
    Deleted,
    /// No event is left: they have expired, or were erased.
    Gone,
}

/// A session that was folded.
#[derive(Debug)]
pub struct Folded {
    pub outcome: Outcome,
    /// Items of the session that are not events, and were left out.
    pub invalid: usize,
    pub units: Units,
}

/// The two tables.
#[derive(Debug, Clone)]
pub struct Updater {
    pub events: EventStore,
    pub sessions: SessionsTable,
}

impl Updater {
    /// Brings the row of a session up to date. A newer row stays.
    ///
    /// # Errors
    /// The row may be older than the session's events.
    pub async fn update(&self, key: &SessionKey) -> Result<Folded, SessionError> {
        let (item, mut folded) = self.read(key).await?;
        if let Some(item) = item {
            let written = self.sessions.put_if_newer(&item).await.map_err(SessionError::Write)?;
            folded.outcome = if written.is_done { Outcome::Updated } else { Outcome::Unchanged };
            folded.units.write += written.write_units;
        }
        Ok(folded)
    }

    /// Makes the row of a session anew, whatever the present one says, and deletes it if no event is left.
    ///
    /// A row that is written meanwhile has newer events, so the events are read again. Of a row that cannot be read, nothing
    /// says whether it is the same: newer events are looked for afterwards.
    ///
    /// # Errors
    /// The row may differ from the session's events.
    pub async fn rebuild(&self, key: &SessionKey) -> Result<Folded, SessionError> {
        let mut units = Units::default();
        for _ in 0..ATTEMPTS {
            let (row, read) = self.sessions.get(key).await.map_err(SessionError::Read)?;
            units.read += read;
            let (item, mut folded) = self.read(key).await?;
            units += folded.units;
            let (written, outcome) = match (&item, &row) {
                (None, Row::Absent) => (None, Outcome::Gone),
                (None, _) => (Some(self.sessions.delete(key, &row).await), Outcome::Deleted),
                (Some(item), Row::Present(row)) if **row == *item => (None, Outcome::Unchanged),
                (Some(item), _) => (Some(self.sessions.replace(&row, item).await), Outcome::Updated),
            };
            let written = written.transpose().map_err(SessionError::Write)?;
            units.write += written.map_or(0.0, |written| written.write_units);
            if matches!(row, Row::Unreadable) {
                units += self.update(key).await?.units;
            }
            if written.is_none_or(|written| written.is_done) {
                (folded.outcome, folded.units) = (outcome, units);
                return Ok(folded);
            }
        }
        Err(SessionError::Contended)
    }

    /// The row that the events of a session make; `None` if there are none.
    async fn read(&self, key: &SessionKey) -> Result<(Option<SessionItem>, Folded), SessionError> {
        let SessionEvents { events, invalid, read_units } =
            self.events.read_session(&key.pk()).await.map_err(SessionError::Read)?;
        if events.is_empty() && invalid > 0 {
            return Err(SessionError::Unreadable(invalid));
        }
        let item = fold(events).map(|summary| SessionItem::new(key, summary));
        let units = Units { read: read_units, write: 0.0 };
        Ok((item, Folded { outcome: Outcome::Gone, invalid, units }))
    }
}
