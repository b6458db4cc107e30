//! The records of one batch: which sessions they change, and which of them no retry can help.

use std::collections::BTreeMap;

use event_store::{
    failure_queue::Poison,
    keys::SessionKey,
    stream::{ItemKey, SequenceNumber, StreamRecord},
};

/// A session that records of the batch change.
#[derive(Clone)]
pub struct ChangedSession<'r> {
    pub key: SessionKey,
    /// The first of its records.
    pub record: &'r StreamRecord,
}

/// A record that no retry can help.
#[derive(Clone)]
pub struct PoisonRecord<'r> {
    pub record: &'r StreamRecord,
    pub reason: &'static str,
}

/// The work of a batch.
#[derive(Default)]
pub struct Batch<'r> {
    /// Each once, in the order of their first records.
    pub sessions: Vec<ChangedSession<'r>>,
    pub poison: Vec<PoisonRecord<'r>>,
    /// Records that are done: no new events, or those of a self-test.
    pub skipped: usize,
}

impl<'r> Batch<'r> {
    /// The work that these records ask for.
    pub fn of(records: &'r [StreamRecord]) -> Self {
        let (mut batch, mut sessions) = (Self::default(), BTreeMap::new());
        for record in records {
            match record.key() {
                None => batch.poison(record, "the record has no key of this table"),
                Some(_) if !record.is_new_event() => batch.skipped += 1,
                Some(ItemKey { pk, .. }) => match SessionKey::parse(&pk) {
                    None => batch.poison(record, "the partition key is not that of a session"),
                    Some(key) if key.session_id.is_self_test() => batch.skipped += 1,
                    Some(key) => {
                        let first = sessions.entry(key).or_insert(record);
                        if record.position() < first.position() {
                            *first = record;
                        }
                    }
                },
            }
        }
        batch.sessions = sessions.into_iter().map(|(key, record)| ChangedSession { key, record }).collect();
        batch.sessions.sort_by_key(|session| session.record.position());
        batch
    }

    fn poison(&mut self, record: &'r StreamRecord, reason: &'static str) {
        self.poison.push(PoisonRecord { record, reason });
    }
}

/// The message about a record, for the on-failure queue.
pub fn poison(record: &StreamRecord, reason: String) -> Poison {
    let (pk, sk) = record.key().map(|key| (key.pk, key.sk)).unwrap_or_default();
    Poison { pk, sk, event_id: record.event_id().map(str::to_owned), reason }
}

/// The position from which Lambda sends the batch again: the least of the records that failed.
#[derive(Debug, Default)]
pub struct Failures<'r>(Option<SequenceNumber<'r>>);

impl<'r> Failures<'r> {
    /// Adds a record that failed.
    pub fn add(&mut self, record: &'r StreamRecord) {
        let position = record.position();
        self.0 = Some(self.0.map_or(position, |least| least.min(position)));
    }

    /// The least one.
    pub fn least(&self) -> Option<SequenceNumber<'r>> {
        self.0
    }
}
