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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// What a record is about.
    #[derive(Debug, Clone, Copy)]
    enum Change {
        Event(u8),
        SelfTest,
        Expiry,
        Quarantine,
        OddKey,
        NoKey,
    }

    fn record(change: Change, sequence_number: u64) -> StreamRecord {
        let (name, pk, sk) = match change {
            Change::Event(session) => ("INSERT", format!("SESSION#h#{session}"), "EVENT#1"),
            Change::SelfTest => ("INSERT", "SESSION#h#self-test:1".to_owned(), "EVENT#1"),
            Change::Expiry => ("REMOVE", "SESSION#h#1".to_owned(), "EVENT#1"),
            Change::Quarantine => ("INSERT", "QUARANTINE#2026-01-15".to_owned(), "hash"),
            Change::OddKey | Change::NoKey => ("INSERT", "SESSION#h".to_owned(), "EVENT#1"),
        };
        let keys = if matches!(change, Change::NoKey) { json!({}) } else { json!({"pk": {"S": pk}, "sk": {"S": sk}}) };
        let change = json!({"Keys": keys, "SequenceNumber": sequence_number.to_string()});
        serde_json::from_value(json!({"eventName": name, "dynamodb": change})).unwrap()
    }

    fn changes() -> impl Strategy<Value = Vec<(Change, u64)>> {
        let change = prop_oneof![
            4 => (0..5_u8).prop_map(Change::Event), 1 => Just(Change::SelfTest), 1 => Just(Change::Expiry),
            1 => Just(Change::Quarantine), 1 => Just(Change::OddKey), 1 => Just(Change::NoKey)
        ];
        proptest::collection::vec((change, 1..2_000_u64), 0..40)
    }

    proptest! {
        #[test]
        fn every_record_is_work_or_poison_or_done_and_each_session_is_worked_on_once(changes in changes()) {
            let records: Vec<_> = changes.iter().map(|(change, number)| record(*change, *number)).collect();
            let batch = Batch::of(&records);
            let first = |session: u8| {
                let numbers = changes.iter().filter(|(change, _)| matches!(change, Change::Event(s) if *s == session));
                numbers.map(|(_, number)| *number).min()
            };
            let mut expected: Vec<_> = (0..5).filter_map(|session| Some((first(session)?, session.to_string()))).collect();
            expected.sort_unstable();
            let number = |record: &StreamRecord| record.sequence_number().parse::<u64>().unwrap();
            let mut sessions: Vec<_> =
                batch.sessions.iter().map(|session| (number(session.record), session.key.session_id.to_string())).collect();
            prop_assert!(sessions.is_sorted_by_key(|(number, _)| *number));
            sessions.sort_unstable();
            prop_assert_eq!(sessions, expected);
            let count = |wanted: fn(&Change) -> bool| changes.iter().filter(|(change, _)| wanted(change)).count();
            prop_assert_eq!(batch.poison.len(), count(|change| matches!(change, Change::OddKey | Change::NoKey)));
            let is_skipped = |change: &Change| matches!(change, Change::SelfTest | Change::Expiry | Change::Quarantine);
            prop_assert_eq!(batch.skipped, count(is_skipped));
        }

        #[test]
        fn the_least_failure_is_named(numbers in proptest::collection::vec(any::<u64>(), 0..10)) {
            let records: Vec<_> = numbers.iter().map(|number| record(Change::NoKey, *number)).collect();
            let mut failures = Failures::default();
            for record in &records {
                failures.add(record);
            }
            let least = numbers.iter().min().map(ToString::to_string);
            prop_assert_eq!(failures.least().map(SequenceNumber::as_str), least.as_deref());
        }
    }

    #[test]
    fn the_message_about_a_record_names_its_item() {
        let of = |change| poison(&record(change, 1), "r".to_owned());
        let message = of(Change::Event(7));
        assert_eq!((message.pk.as_str(), message.sk.as_str(), message.event_id), ("SESSION#h#7", "EVENT#1", None));
        let message = of(Change::NoKey);
        assert_eq!((message.pk.as_str(), message.sk.as_str()), ("", ""));
    }
}
