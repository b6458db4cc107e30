//! Carrying out a replay: reads pages of events, and publishes those that match, at a steady pace.
//!
//! It works beside live events, without order between the two. The events of one session keep their order within a replay.

use std::time::Duration;

use event_store::{
    events::EventPage,
    item::EventItem,
    store::{EventStore, StoreError},
    stream::ItemKey,
};
use lambda_support::{
    log::CommandLine,
    metrics::{Metric, Metrics},
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep_until};
use unith_events::timestamp::Timestamp;

use crate::{
    bus::{BusError, Unconfirmed},
    bus_event::{BusEvent, Replay},
    command::{Command, Filter},
    cursor::Cursor,
    error::PublishError,
    lines::{RecordLine, SERVICE, event_fields},
    packing::MAX_ENTRIES,
    pipeline::Pipeline,
    rounds::{Fate, Job},
};

/// EventBridge bills an event for each 64 KiB of it.
const BILLED_BYTES: usize = 65_536;
/// The first events of a call may take this long after its time is up, so that each call makes progress.
const FIRST_EVENTS: Duration = Duration::from_secs(5);
const ID_DIGITS: usize = 32;

/// The result of a call.
#[derive(Debug, Serialize)]
pub struct Report {
    action: &'static str,
    /// Whether all went well. If not, `error` says what did not.
    ok: bool,
    apply: bool,
    /// The id of the replay: `metadata.replay.id` of its events.
    id: String,
    reason: Option<String>,
    /// Items that DynamoDB read.
    read: u64,
    /// Read units that this cost.
    read_units: f64,
    /// Events that match the filter, as far as this call got.
    matching: u64,
    /// Events that EventBridge bills for those: one for each 64 KiB.
    billed_events: u64,
    /// Events that the outlets took.
    published: u64,
    /// Events that can never be published. The on-failure queue has their keys.
    poison: u64,
    /// Items that are not events, e.g. because somebody edited them.
    invalid: u64,
    /// For the next call; `None` after the last event.
    cursor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// What the bus may have lost, as the filter of another replay.
    #[serde(skip_serializing_if = "Option::is_none")]
    replay: Option<Unconfirmed>,
}

/// Why a call stops before the last event.
enum Stop {
    OutOfTime,
    Failed(String),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A call under way.
struct Call<'c, L> {
    pipeline: &'c Pipeline,
    request_id: &'c str,
    command: Command,
    replay: Replay,
    until: Instant,
    /// The key of the last item that is done.
    after: Option<ItemKey>,
    /// When the next events may be published.
    next_at: Instant,
    report: Report,
    write: L,
}

impl Command {
    /// Carries it out, until `deadline` or for 10 minutes at most. `write` gets a line per event that fails.
    pub async fn run(
        self,
        pipeline: &Pipeline,
        request_id: &str,
        deadline: Instant,
        write: impl Fn(RecordLine<'_>),
    ) -> Report {
        let now = Instant::now();
        let replay = self.replay(request_id);
        let mut call = Call {
            pipeline,
            request_id,
            until: deadline.min(now + pipeline.timing.longest_replay_call),
            after: self.cursor.as_ref().map(|cursor| cursor.after.clone()),
            next_at: now,
            report: Report::of(&self, &replay),
            command: self,
            replay,
            write,
        };
        let stopped = call.work().await;
        call.into_report(stopped)
    }

    /// The replay that this call begins, or goes on with.
    fn replay(&self, request_id: &str) -> Replay {
        let reason = self.reason.clone();
        if let Some(Cursor { id, at, .. }) = self.cursor.clone() {
            return Replay { id, reason, at };
        }
        let at = Timestamp::now();
        let mut id = hex::encode(Sha256::digest(format!("{request_id},{at},{}", self.hash)));
        id.truncate(ID_DIGITS);
        Replay { id, reason, at }
    }
}

impl<L: Fn(RecordLine<'_>)> Call<'_, L> {
    /// Works from the cursor on. An `Ok` is the end.
    async fn work(&mut self) -> Result<(), Stop> {
        loop {
            let page = read(&self.pipeline.store, &self.command.filter, self.after.as_ref()).await?;
            self.report.read += page.read;
            self.report.read_units += page.read_units;
            self.report.invalid += page.invalid;
            let matching = page.events.into_iter().filter(|item| self.command.filter.matches(item));
            let matching: Vec<_> = matching.collect();
            for events in matching.chunks(MAX_ENTRIES) {
                self.events(events).await?;
            }
            // The next page begins after an item that may not match.
            self.after = page.next;
            if self.after.is_none() {
                return Ok(());
            }
            if Instant::now() >= self.until {
                return Err(Stop::OutOfTime);
            }
        }
    }

    async fn events(&mut self, events: &[EventItem]) -> Result<(), Stop> {
        if self.command.apply {
            self.publish(events).await?;
        } else {
            for item in events {
                self.done(item);
            }
        }
        if Instant::now() >= self.until { Err(Stop::OutOfTime) } else { Ok(()) }
    }

    async fn publish(&mut self, events: &[EventItem]) -> Result<(), Stop> {
        sleep_until(self.next_at.min(self.until)).await;
        let now = Instant::now();
        let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
        self.next_at = now + self.pipeline.timing.replay_event_every * count;
        let is_first = self.report.matching == 0;
        let until = if is_first { self.until.max(now + FIRST_EVENTS) } else { self.until };
        let jobs = events.iter().map(|item| {
            let key = ItemKey { pk: item.pk.clone(), sk: item.sk.clone() };
            Job { key, event_id: Some(item.event_id.to_string()), item: Ok(item.clone()), taken: 0 }
        });
        let outcome = self.pipeline.publish(jobs.collect(), Some(&self.replay), until).await;
        self.report.replay = outcome.bus_error.as_ref().and_then(BusError::unconfirmed).cloned();
        for (item, (fate, _)) in events.iter().zip(outcome.fates) {
            match fate {
                Fate::Published | Fate::DoneBefore => self.report.published += 1,
                Fate::Poison(why) => {
                    self.report.poison += 1;
                    (self.write)(RecordLine::poison(self.request_id, None, &event_fields(item), &why));
                }
                Fate::Held(PublishError::OutOfTime) => return Err(Stop::OutOfTime),
                Fate::Held(why) => return Err(Stop::Failed(why.to_string())),
            }
            self.done(item);
        }
        Ok(())
    }

    fn done(&mut self, item: &EventItem) {
        self.report.matching += 1;
        let bytes = BusEvent::new(item, None, Some(&self.replay), false).entry_size();
        self.report.billed_events += bytes.div_ceil(BILLED_BYTES) as u64;
        self.after = Some(ItemKey { pk: item.pk.clone(), sk: item.sk.clone() });
    }

    fn into_report(self, stopped: Result<(), Stop>) -> Report {
        let Self { command, replay, after, mut report, .. } = self;
        let cursor = after.map(|after| Cursor::new(command.hash, replay.id, replay.at, after).to_text());
        report.cursor = cursor.filter(|_| stopped.is_err());
        report.error = match stopped {
            Err(Stop::Failed(error)) => Some(error),
            // Without a cursor, the report would look like that of the last call.
            Err(Stop::OutOfTime) if report.cursor.is_none() => {
                Some("no event was done in time: call it again with more time".to_owned())
            }
            Err(Stop::OutOfTime) | Ok(()) => None,
        };
        report.ok = report.error.is_none();
        report
    }
}

async fn read(store: &EventStore, filter: &Filter, after: Option<&ItemKey>) -> Result<EventPage, StoreError> {
    match filter.session_pk() {
        Some(pk) => store.events_of_session(&pk, after).await,
        None => store.scan_events(filter.received(), after).await,
    }
}

impl Report {
    /// The line of the command. Its metrics go to `namespace`.
    pub fn log_line<'r>(&'r self, request_id: &'r str, namespace: Option<&str>) -> CommandLine<'r, &'r Self> {
        let counts = [("Replayed", self.published), ("PublishPoison", self.poison)];
        let counts = counts.into_iter().filter(|(_, count)| *count > 0);
        let counts = counts.map(|(name, count)| Metric::counts(name, count)).collect();
        let metrics = namespace.map(|namespace| Metrics::new(namespace, SERVICE, Timestamp::now(), counts));
        CommandLine::new(request_id, self.action, self.ok, self).with_metrics(metrics)
    }

    fn of(command: &Command, replay: &Replay) -> Self {
        Self {
            action: "replay",
            ok: true,
            apply: command.apply,
            id: replay.id.clone(),
            reason: replay.reason.clone(),
            read: 0,
            read_units: 0.0,
            matching: 0,
            billed_events: 0,
            published: 0,
            poison: 0,
            invalid: 0,
            cursor: None,
            error: None,
            replay: None,
        }
    }
}
