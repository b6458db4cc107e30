//! The command `list`: the sessions of a head, newest first.
//!
//! The index has a head's sessions in several partitions, per state and shard. Each is read from its end on, and the rows
//! are merged by their sort key, which begins with the start. That key is also the position in the list. It does not change
//! when a session ends, so a session that ends between two pages is shown once.

use std::collections::{BTreeSet, VecDeque};

use event_store::store::StoreError;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use unith_events::{ids::HeadId, session::State, timestamp::Timestamp};

use crate::{
    command::CommandError,
    gate::Gate,
    item::{IndexedSession, LOST_AFTER, SHARDS, index_partition, is_lost},
    table::{Range, RowKey, SessionsTable},
};

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 200;
/// How many rows a call examines at most, give or take a page: an old head may have many lost sessions.
const MAX_EXAMINED: usize = 2_000;
/// A text before all instants, and one behind them.
const ALL_TIME: (&str, &str) = ("0", ":");
/// Digits of the hash that binds a cursor to its filter.
const DIGEST_DIGITS: usize = 16;

/// The input of the command.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    head_id: HeadId,
    state: Option<Wanted>,
    /// The least start; it belongs to the list.
    from: Option<Timestamp>,
    /// The start from which on sessions are too new.
    to: Option<Timestamp>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// The state of the sessions that are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wanted {
    /// And not lost.
    Open,
    Ended,
    /// Open, and silent for over an hour.
    Lost,
}

/// The result of the command.
#[derive(Debug, Serialize)]
pub struct ListReport {
    action: &'static str,
    /// Whether all went well. If not, `error` says what did not.
    pub ok: bool,
    head_id: HeadId,
    sessions: Vec<ListedSession>,
    /// Rows that were read and compared with the filter.
    examined: usize,
    /// Rows that have another form, e.g. because somebody edited them.
    invalid: usize,
    /// Where the next call continues; `None` after the last session.
    cursor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A session in the list.
#[derive(Debug, Serialize)]
struct ListedSession {
    #[serde(flatten)]
    session: IndexedSession,
    lost: bool,
}

/// A list that can be read: its input is checked.
#[derive(Debug)]
pub struct Listing {
    input: List,
    limit: usize,
    /// When the first page was asked for: a session is lost on all pages, or on none.
    now: Timestamp,
    /// The position of the last row that was examined.
    after: Option<String>,
}

impl Listing {
    /// A list that begins `now`, or continues from its cursor.
    ///
    /// # Errors
    /// A limit or a range that cannot be, or the cursor of another list.
    pub fn new(input: List, now: Timestamp) -> Result<Self, CommandError> {
        let limit = input.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(CommandError::Limit(limit));
        }
        if input.from.zip(input.to).is_some_and(|(from, to)| from >= to) {
            return Err(CommandError::EmptyRange);
        }
        let (now, after) = match &input.cursor {
            None => (now, None),
            Some(cursor) => {
                let (began, after) = input.read_cursor(cursor).ok_or(CommandError::Cursor)?;
                (began, Some(after.to_owned()))
            }
        };
        Ok(Self { input, limit, now, after })
    }

    /// Reads the page. `gate` ends it early, with a cursor.
    pub async fn run(self, table: &SessionsTable, gate: &Gate) -> ListReport {
        let mut report = ListReport {
            action: "list",
            ok: true,
            head_id: self.input.head_id.clone(),
            sessions: Vec::new(),
            examined: 0,
            invalid: 0,
            cursor: self.input.cursor.clone(),
            error: None,
        };
        if let Err(error) = self.read(table, gate, &mut report).await {
            (report.ok, report.error) = (false, Some(error.to_string()));
        }
        report
    }

    async fn read(&self, table: &SessionsTable, gate: &Gate, report: &mut ListReport) -> Result<(), StoreError> {
        let mut partitions = self.partitions();
        let page = self.limit.div_ceil(partitions.len()) + 1;
        let mut seen = BTreeSet::new();
        loop {
            report.invalid += fill(&mut partitions, table, page).await?;
            let Some(session) = take_newest(&mut partitions) else {
                report.cursor = None;
                return Ok(());
            };
            if self.after.as_ref().is_some_and(|after| session.gsk >= *after) {
                continue;
            }
            report.examined += 1;
            let position = session.gsk.clone();
            let lost = is_lost(session.state, session.last_event_at, self.now);
            // While the index follows the table, a session that ended just now may be in two partitions.
            if self.input.wants(session.state, lost) && seen.insert(session.session_id.clone()) {
                report.sessions.push(ListedSession { session, lost });
            }
            if report.sessions.len() == self.limit || report.examined >= MAX_EXAMINED || gate.is_late() {
                let more = partitions.iter().any(|partition| !partition.is_done());
                report.cursor = more.then(|| self.input.cursor(self.now, &position));
                return Ok(());
            }
        }
    }

    fn partitions(&self) -> Vec<Partition> {
        let List { head_id, state, from, to, .. } = &self.input;
        let states = match state {
            None => &[State::Open, State::Ended][..],
            Some(Wanted::Open | Wanted::Lost) => &[State::Open],
            Some(Wanted::Ended) => &[State::Ended],
        };
        let from = from.map_or_else(|| ALL_TIME.0.to_owned(), |from| from.to_string());
        // A sort key of the instant `to` is longer than it, and so behind it.
        let mut until = to.map_or_else(|| ALL_TIME.1.to_owned(), |to| to.to_string());
        if *state == Some(Wanted::Lost) {
            // A session that began within the last hour was not silent for an hour.
            until = until.min(self.now.minus(LOST_AFTER).to_string());
        }
        let until = self.after.clone().map_or(until.clone(), |after| after.min(until));
        let shards = states.iter().flat_map(|state| (0..SHARDS).map(|shard| index_partition(*state, head_id, shard)));
        shards.map(|gpk| Partition::new(gpk, from.clone(), until.clone())).collect()
    }
}

impl List {
    fn wants(&self, state: State, lost: bool) -> bool {
        match self.state {
            None => true,
            Some(Wanted::Open) => state == State::Open && !lost,
            Some(Wanted::Ended) => state == State::Ended,
            Some(Wanted::Lost) => lost,
        }
    }

    /// The cursor of a list that `began` then: `<hash of the filter>.<ms since 1970>.<position>`.
    fn cursor(&self, began: Timestamp, position: &str) -> String {
        format!("{}.{}.{position}", self.digest(), began.epoch_milliseconds())
    }

    /// The second and third part of a cursor of this list.
    fn read_cursor<'c>(&self, cursor: &'c str) -> Option<(Timestamp, &'c str)> {
        let mut parts = cursor.splitn(3, '.');
        let (digest, began, position) = (parts.next()?, parts.next()?, parts.next()?);
        let began = Timestamp::from_epoch_milliseconds(began.parse().ok()?)?;
        (digest == self.digest() && !position.is_empty()).then_some((began, position))
    }

    fn digest(&self) -> String {
        let filter = json!([self.head_id, self.state, self.from, self.to]);
        let mut digest = hex::encode(Sha256::digest(filter.to_string()));
        digest.truncate(DIGEST_DIGITS);
        digest
    }
}

/// A partition of the index that is read from its end on.
#[derive(Debug)]
struct Partition {
    gpk: String,
    from: String,
    to: String,
    next: Next,
    /// The rows that were read, and not taken yet.
    rows: VecDeque<IndexedSession>,
}

/// Where the next read of a partition begins.
#[derive(Debug)]
enum Next {
    AtTheEnd,
    Before(RowKey),
    /// All rows were read.
    Nowhere,
}

impl Partition {
    fn new(gpk: String, from: String, to: String) -> Self {
        let next = if from <= to { Next::AtTheEnd } else { Next::Nowhere };
        Self { gpk, from, to, next, rows: VecDeque::new() }
    }

    fn is_done(&self) -> bool {
        self.rows.is_empty() && matches!(self.next, Next::Nowhere)
    }

    /// Reads rows if none is left. Returns how many have another form.
    async fn fill(&mut self, table: &SessionsTable, page: usize) -> Result<usize, StoreError> {
        let mut invalid = 0;
        while self.rows.is_empty() {
            let before = match &self.next {
                Next::AtTheEnd => None,
                Next::Before(key) => Some(key.clone()),
                Next::Nowhere => break,
            };
            let limit = i32::try_from(page).unwrap_or(i32::MAX);
            let range = Range { partition: &self.gpk, from: &self.from, to: &self.to, before, limit };
            let rows = table.query(range).await?;
            invalid += rows.invalid;
            self.next = rows.next.map_or(Next::Nowhere, Next::Before);
            self.rows.extend(rows.sessions);
        }
        Ok(invalid)
    }
}

/// Reads rows of each partition that has none left.
async fn fill(partitions: &mut [Partition], table: &SessionsTable, page: usize) -> Result<usize, StoreError> {
    let filled = try_join_all(partitions.iter_mut().map(|partition| partition.fill(table, page))).await?;
    Ok(filled.into_iter().sum())
}

/// Takes the newest of the partitions' first rows.
fn take_newest(partitions: &mut [Partition]) -> Option<IndexedSession> {
    let first = |partition: &Partition| partition.rows.front().map(|session| session.gsk.clone());
    let newest = partitions.iter_mut().max_by_key(|partition| first(partition))?;
    newest.rows.pop_front()
}
