//! The pipeline from records to outlets: rounds of summaries, requests and results.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use event_store::{
    failure_queue::{FailureQueue, Poison},
    store::EventStore,
    stream::ItemKey,
};
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep_until};
use unith_events::session::fold;

use crate::{
    bus::{Bus, BusError},
    bus_event::{BusEvent, Replay, carries_summary},
    config::Timing,
    error::PublishError,
    outlet::{Outlet, Sent},
    packing::{MAX_BYTES, Parcel, pack},
    rounds::{Fate, Job, Pending, Rounds},
};

/// How many reads or requests are under way at a time.
const CONCURRENT: usize = 10;

/// What events pass through on their way to the outlets.
#[derive(Debug)]
pub struct Pipeline {
    pub(crate) store: EventStore,
    /// In the order in which each event passes them. There is at least one.
    pub(crate) outlets: Vec<Outlet>,
    pub(crate) failure_queue: FailureQueue,
    pub(crate) timing: Timing,
}

/// The result of a batch.
#[derive(Debug)]
pub struct Outcome {
    /// The fate of each record, and how many outlets took it, in the order of the records.
    pub fates: Vec<(Fate, usize)>,
    /// How often an entry was sent again.
    pub retried: u64,
    /// Why it is not certain that the bus exists.
    pub bus_error: Option<BusError>,
}

/// Why a record has no bus event.
enum Unprepared {
    Poison(PublishError),
    Held(PublishError),
}

impl Pipeline {
    /// Publishes records in the order of the stream. Nothing new begins after `deadline`.
    pub async fn publish(&self, jobs: Vec<Job>, replay: Option<&Replay>, deadline: Instant) -> Outcome {
        let mut rounds = Rounds::new(jobs, self.outlets.len(), self.timing.entry_tries);
        let (table_failed, mut bus_error) = (AtomicBool::new(false), None);
        while !rounds.is_done() {
            if let Err(error) = self.confirm_bus().await {
                rounds.hold_all(&error);
                bus_error = Some(error);
                break;
            }
            self.prepare(&mut rounds, replay, &table_failed, deadline).await;
            if Instant::now() >= deadline {
                rounds.hold_rest(|| PublishError::OutOfTime);
                break;
            }
            self.send(&mut rounds).await;
            if let Some(pause) = rounds.pause(self.timing.first_pause) {
                sleep_until(deadline.min(Instant::now() + pause)).await;
            }
        }
        Outcome { retried: rounds.retried(), fates: rounds.into_fates(), bus_error }
    }

    /// Makes sure that the event bus exists, if there is one.
    ///
    /// # Errors
    /// It does not exist, or that cannot be checked.
    pub async fn confirm_bus(&self) -> Result<(), BusError> {
        match self.bus() {
            Some(bus) => bus.confirm().await,
            None => Ok(()),
        }
    }

    fn bus(&self) -> Option<&Bus> {
        self.outlets.iter().find_map(|outlet| match outlet {
            Outlet::Bus(bus) => Some(bus),
            Outlet::Queue(_) => None,
        })
    }

    /// Makes the bus events of this round.
    async fn prepare(
        &self,
        rounds: &mut Rounds,
        replay: Option<&Replay>,
        table_failed: &AtomicBool,
        deadline: Instant,
    ) {
        let unprepared = rounds.heads().filter(|head| head.event.is_none());
        let work: Vec<_> = unprepared.map(|head| self.bus_event(head, replay, table_failed, deadline)).collect();
        let results: Vec<_> = stream::iter(work).buffered(CONCURRENT).collect().await;
        for (index, result) in results {
            match result {
                Ok(event) => rounds.prepared(index, event),
                Err(Unprepared::Held(error)) => rounds.hold(index, error),
                Err(Unprepared::Poison(error)) => self.report_poison(rounds, index, error).await,
            }
        }
    }

    async fn bus_event(
        &self,
        head: &Pending,
        replay: Option<&Replay>,
        table_failed: &AtomicBool,
        deadline: Instant,
    ) -> (usize, Result<BusEvent, Unprepared>) {
        let prepared = async {
            let item = head.item.as_ref().map_err(|error| Unprepared::Poison((*error).into()))?;
            if Instant::now() >= deadline {
                return Err(Unprepared::Held(PublishError::OutOfTime));
            }
            let session = if carries_summary(item) {
                if table_failed.load(Ordering::Relaxed) {
                    return Err(Unprepared::Held(PublishError::Untried("the table")));
                }
                let events = self.store.session_events(&head.key.pk).await.map_err(|error| {
                    let error = PublishError::from(error);
                    table_failed.fetch_or(error.is_of_the_table(), Ordering::Relaxed);
                    Unprepared::Held(error)
                })?;
                fold(events.0)
            } else {
                None
            };
            let event = BusEvent::new(item, session.as_ref(), replay, head.as_text);
            let bytes = self.outlets.iter().map(|outlet| outlet.size(&event)).max().unwrap_or_default();
            if bytes < MAX_BYTES { Ok(event) } else { Err(Unprepared::Poison(PublishError::TooLarge(bytes))) }
        };
        (head.index, prepared.await)
    }

    /// Sends the events of this round, each to the outlet that is next for it.
    async fn send(&self, rounds: &mut Rounds) {
        let results: Vec<_> = {
            let heads: BTreeMap<_, _> = rounds.heads().map(|head| (head.index, head)).collect();
            let requests = self.outlets.iter().enumerate().flat_map(|(position, outlet)| {
                let mine = heads.values().filter(move |head| head.outlet == position);
                let parcels = mine.filter_map(|head| {
                    let bytes = outlet.size(head.event.as_ref()?);
                    Some(Parcel { index: head.index, bytes, alone: head.alone })
                });
                pack(parcels).into_iter().map(move |indexes| (outlet, indexes))
            });
            let work: Vec<_> = requests.map(|(outlet, indexes)| send(outlet, indexes, &heads)).collect();
            stream::iter(work).buffered(CONCURRENT).collect().await
        };
        let mut failed = None;
        for (outlet, indexes, sent) in results {
            match sent {
                Ok(results) => {
                    for (index, result) in indexes.into_iter().zip(results) {
                        match result {
                            Ok(()) => self.took(rounds, outlet, index),
                            Err(error) => {
                                let settled = rounds.failed(index, error);
                                self.settle(rounds, index, settled).await;
                            }
                        }
                    }
                }
                Err(error) if error.is_refused => {
                    let entries = indexes.len();
                    for index in indexes {
                        let settled = rounds.refused(index, error.clone(), entries);
                        self.settle(rounds, index, settled).await;
                    }
                }
                Err(error) => {
                    failed = Some(outlet.name());
                    for index in indexes {
                        rounds.hold(index, error.clone().into());
                    }
                }
            }
        }
        if let Some(outlet) = failed {
            rounds.hold_rest(|| PublishError::Untried(outlet));
        }
    }

    fn took(&self, rounds: &mut Rounds, outlet: &Outlet, index: usize) {
        if let Outlet::Bus(bus) = outlet
            && let Some(item) = rounds.heads().find(|head| head.index == index).and_then(|head| head.item.as_ref().ok())
        {
            bus.took(item);
        }
        rounds.took(index, self.outlets.len());
    }

    async fn settle(&self, rounds: &mut Rounds, index: usize, settled: Result<(), PublishError>) {
        if let Err(error) = settled {
            self.report_poison(rounds, index, error).await;
        }
    }

    /// Sends an event that can never be published to the on-failure queue. If that fails, it is held back.
    async fn report_poison(&self, rounds: &mut Rounds, index: usize, error: PublishError) {
        let Some(head) = rounds.heads().find(|head| head.index == index) else { return };
        let (ItemKey { pk, sk }, event_id) = (head.key.clone(), head.event_id.clone());
        let poison = Poison { pk, sk, event_id, reason: error.to_string() };
        match self.failure_queue.send(&poison).await {
            Ok(()) => rounds.poisoned(index, error),
            Err(cause) => rounds.hold(index, PublishError::NotReported(Box::new(error), cause)),
        }
    }
}

/// Sends a request of these events.
async fn send<'o>(
    outlet: &'o Outlet,
    indexes: Vec<usize>,
    heads: &BTreeMap<usize, &Pending>,
) -> (&'o Outlet, Vec<usize>, Sent) {
    let events: Vec<_> = indexes.iter().filter_map(|index| heads.get(index)?.event.as_ref()).collect();
    let sent = outlet.send(&events).await;
    (outlet, indexes, sent)
}
