//! The events of a batch, in rounds: which ones may be sent next, and what became of each.
//!
//! A round has the next event of each session that is not held back. This is all there is to the order of publication: an
//! event is sent when the one before it in its session is done.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use event_store::{
    item::EventItem,
    stream::{InvalidImage, ItemKey},
};

use crate::{
    bus::BusError,
    bus_event::BusEvent,
    error::PublishError,
    outlet::{EntryError, EntryFault, RequestError},
};

/// A record to be published.
#[derive(Debug)]
pub struct Job {
    pub key: ItemKey,
    /// The event's id, which an item that is not an event may have too.
    pub event_id: Option<String>,
    pub item: Result<EventItem, InvalidImage>,
    /// How many outlets took it already. [`REPORTED`] if it is poison that was reported before.
    pub taken: usize,
}

/// Stands for the number of outlets that took an event: the failure queue has it instead.
pub const REPORTED: usize = usize::MAX;

/// What became of a record.
#[derive(Debug)]
pub enum Fate {
    /// All outlets took it.
    Published,
    /// All outlets took it before, or it was found to be poison before.
    DoneBefore,
    /// It can never be published. The on-failure queue has it.
    Poison(PublishError),
    /// It is to be delivered again.
    Held(PublishError),
}

/// An event that is not done.
#[derive(Debug)]
pub struct Pending {
    /// Its position in the batch.
    pub index: usize,
    pub key: ItemKey,
    pub event_id: Option<String>,
    pub item: Result<EventItem, InvalidImage>,
    /// How it is sent; `None` before it is prepared.
    pub event: Option<BusEvent>,
    /// The position of the outlet that is to take it next.
    pub outlet: usize,
    /// Whether its body is sent as a text, since an outlet refused the copy.
    pub as_text: bool,
    /// Whether it gets a request of its own, since one that it was in was refused.
    pub alone: bool,
    tries: u32,
}

/// The events of a batch.
#[derive(Debug)]
pub struct Rounds {
    /// The events of each session that are not done, in their order. Sessions are in the order of their first event.
    sessions: Vec<VecDeque<Pending>>,
    /// The session of each event.
    session_of: Vec<usize>,
    /// How many outlets took each event.
    taken: Vec<usize>,
    fates: Vec<Option<Fate>>,
    max_tries: u32,
    /// The tries of the event that failed most often in this round.
    failed_tries: u32,
    /// How often an entry was sent again.
    retried: u64,
}

impl Rounds {
    /// The rounds of these records, in the order of the stream. There are `outlets`, and an entry is tried `max_tries` times.
    pub fn new(jobs: Vec<Job>, outlets: usize, max_tries: u32) -> Self {
        let mut sessions: Vec<VecDeque<Pending>> = Vec::new();
        let mut by_pk: HashMap<String, usize> = HashMap::new();
        let (mut session_of, mut taken, mut fates) = (Vec::new(), Vec::new(), Vec::new());
        for (index, Job { key, event_id, item, taken: outlet }) in jobs.into_iter().enumerate() {
            let session = *by_pk.entry(key.pk.clone()).or_insert_with(|| {
                sessions.push(VecDeque::new());
                sessions.len() - 1
            });
            session_of.push(session);
            taken.push(outlet);
            let is_done = outlet >= outlets;
            fates.push(is_done.then_some(Fate::DoneBefore));
            if let Some(session) = sessions.get_mut(session).filter(|_| !is_done) {
                let (event, as_text, alone, tries) = (None, false, false, 0);
                session.push_back(Pending { index, key, event_id, item, event, outlet, as_text, alone, tries });
            }
        }
        Self { sessions, session_of, taken, fates, max_tries, failed_tries: 0, retried: 0 }
    }

    /// The next event of each session.
    pub fn heads(&self) -> impl Iterator<Item = &Pending> {
        self.sessions.iter().filter_map(VecDeque::front)
    }

    /// Whether every event has its fate.
    pub fn is_done(&self) -> bool {
        self.sessions.iter().all(VecDeque::is_empty)
    }

    /// Sets how an event is sent.
    pub fn prepared(&mut self, index: usize, event: BusEvent) {
        if let Some(head) = self.head(index) {
            head.event = Some(event);
        }
    }

    /// An outlet took an event. After the last one of `outlets` it is done.
    pub fn took(&mut self, index: usize, outlets: usize) {
        let Some(head) = self.head(index) else { return };
        (head.outlet, head.tries) = (head.outlet + 1, 0);
        let outlet = head.outlet;
        if let Some(taken) = self.taken.get_mut(index) {
            *taken = outlet;
        }
        if outlet >= outlets {
            self.finish(index, Fate::Published);
        }
    }

    /// An outlet did not take an event of a request that succeeded: it is tried again, or its session is held back.
    ///
    /// # Errors
    /// It can never be published.
    pub fn failed(&mut self, index: usize, error: EntryError) -> Result<(), PublishError> {
        let max_tries = self.max_tries;
        let Some(head) = self.head(index) else { return Ok(()) };
        match error.fault {
            EntryFault::Malformed => return self.malformed(index, error.into()),
            EntryFault::Transient if head.tries + 1 < max_tries => {
                head.tries += 1;
                let tries = head.tries;
                self.failed_tries = self.failed_tries.max(tries);
                self.retried += 1;
            }
            EntryFault::Transient | EntryFault::Denied => self.hold(index, error.into()),
        }
        Ok(())
    }

    /// An outlet refused a request of so many `entries`, this one among them.
    ///
    /// One of several is sent again in a request of its own, since any of them may be the reason.
    ///
    /// # Errors
    /// It can never be published.
    pub fn refused(&mut self, index: usize, error: RequestError, entries: usize) -> Result<(), PublishError> {
        let Some(head) = self.head(index) else { return Ok(()) };
        if entries == 1 {
            return self.malformed(index, error.into());
        }
        head.alone = true;
        self.retried += 1;
        Ok(())
    }

    /// Sends the body as a text the next time, unless that was tried.
    fn malformed(&mut self, index: usize, error: PublishError) -> Result<(), PublishError> {
        let Some(head) = self.head(index) else { return Ok(()) };
        if head.event.take_if(|event| event.is_copied()).is_none() {
            return Err(error);
        }
        head.as_text = true;
        self.retried += 1;
        Ok(())
    }

    /// An event is poison, and was reported as such.
    pub fn poisoned(&mut self, index: usize, error: PublishError) {
        if let Some(taken) = self.taken.get_mut(index) {
            *taken = REPORTED;
        }
        self.finish(index, Fate::Poison(error));
    }

    /// Holds an event back, and the rest of its session.
    pub fn hold(&mut self, index: usize, error: PublishError) {
        self.finish(index, Fate::Held(error));
        let session = self.session_of.get(index).and_then(|session| self.sessions.get_mut(*session));
        for pending in session.into_iter().flat_map(|session| session.drain(..)) {
            set(&mut self.fates, pending.index, Fate::Held(PublishError::SessionHeld));
        }
    }

    /// Holds everything back that is not done.
    pub fn hold_rest(&mut self, error: impl Fn() -> PublishError) {
        for pending in self.sessions.iter_mut().flat_map(|session| session.drain(..)) {
            set(&mut self.fates, pending.index, Fate::Held(error()));
        }
    }

    /// Holds everything back, and takes nothing for taken: the bus may have lost it. Only what is reported as poison is done.
    pub fn hold_all(&mut self, error: &BusError) {
        self.hold_rest(|| PublishError::Bus(error.clone()));
        for (fate, taken) in self.fates.iter_mut().zip(&mut self.taken).filter(|(_, taken)| **taken != REPORTED) {
            *taken = 0;
            if !matches!(fate, Some(Fate::Held(_))) {
                *fate = Some(Fate::Held(PublishError::Bus(error.clone())));
            }
        }
    }

    /// The pause before the next round, if an entry of this one is to be sent again: `first`, doubled with each try.
    pub fn pause(&mut self, first: Duration) -> Option<Duration> {
        let tries = std::mem::take(&mut self.failed_tries).checked_sub(1)?;
        Some(first.saturating_mul(2_u32.saturating_pow(tries)))
    }

    /// How often an entry was sent again.
    pub fn retried(&self) -> u64 {
        self.retried
    }

    /// The fate of each record, and how many outlets took it.
    pub fn into_fates(self) -> Vec<(Fate, usize)> {
        let fates = self.fates.into_iter().map(|fate| fate.unwrap_or(Fate::Held(PublishError::OutOfTime)));
        fates.zip(self.taken).collect()
    }

    fn head(&mut self, index: usize) -> Option<&mut Pending> {
        let session = self.sessions.get_mut(*self.session_of.get(index)?)?;
        session.front_mut().filter(|head| head.index == index)
    }

    fn finish(&mut self, index: usize, fate: Fate) {
        if self.head(index).is_some()
            && let Some(session) = self.session_of.get(index).and_then(|session| self.sessions.get_mut(*session))
        {
            session.pop_front();
            set(&mut self.fates, index, fate);
        }
    }
}

fn set(fates: &mut [Option<Fate>], index: usize, fate: Fate) {
    if let Some(place) = fates.get_mut(index) {
        *place = Some(fate);
    }
}
