//! A conversation with a digital human, as its events.

use std::iter::repeat_n;

use fastrand::Rng;
use std::time::Duration;
use unith_events::{event_type::EventType, timestamp::Timestamp};

use crate::random::uuid;

/// One session from its start to its end.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// The session, a UUID.
    pub session_id: String,
    /// In the order in which they occur.
    pub events: Vec<ScheduledEvent>,
}

/// The type and the instant of an event.
#[derive(Debug, Clone, Copy)]
pub struct ScheduledEvent {
    pub kind: EventType,
    pub at: Timestamp,
}

impl Conversation {
    /// A conversation that starts at `start`, has this many inactivity warnings, and may end by a time-out.
    ///
    /// Events are on whole seconds, because deliveries carry no fractions. Each is later than the one before it, except
    /// the end after a time-out: UNITH sends both in the same second.
    pub fn new(random: &mut Rng, start: Timestamp, warnings: usize, timeout: bool) -> Self {
        let mut kinds = vec![EventType::StartConversation];
        kinds.extend(repeat_n(EventType::InactivityWarning, warnings));
        kinds.extend(timeout.then_some(EventType::TimeoutConversation));
        kinds.push(EventType::EndConversation);
        let mut at = start.whole_second();
        let mut events = Vec::new();
        for kind in kinds {
            events.push(ScheduledEvent { kind, at });
            if kind != EventType::TimeoutConversation {
                at = at.plus(Duration::from_secs(random.u64(1..90)));
            }
        }
        Self { session_id: uuid(random.u128(..)), events }
    }

    /// A conversation with up to two warnings, with or without a time-out.
    pub fn any(random: &mut Rng, start: Timestamp) -> Self {
        let (warnings, timeout) = (random.usize(0..3), random.bool());
        Self::new(random, start, warnings, timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(seed: u64, start: &str, timeout: bool) -> Conversation {
        Conversation::new(&mut Rng::with_seed(seed), Timestamp::parse(start).unwrap(), 2, timeout)
    }

    #[test]
    fn the_same_seed_gives_the_same_conversation() {
        let one = |seed| conversation(seed, "2026-01-15T09:57:33Z", true);
        assert_eq!(format!("{:?}", one(7)), format!("{:?}", one(7)));
        assert_ne!(one(7).session_id, one(8).session_id);
        let kinds: Vec<_> = one(7).events.iter().map(|event| event.kind.as_str()).collect();
        let expected = [
            "START_CONVERSATION",
            "INACTIVITY_WARNING",
            "INACTIVITY_WARNING",
            "TIMEOUT_CONVERSATION",
            "END_CONVERSATION",
        ];
        assert_eq!(kinds, expected);
        let id = one(7).session_id;
        assert!(id.len() == 36 && id.as_bytes()[14] == b'4' && b"89ab".contains(&id.as_bytes()[19]), "{id}");
    }

    #[test]
    fn events_are_on_whole_seconds_and_only_a_timeout_and_its_end_share_one() {
        for timeout in [false, true] {
            let events = conversation(7, "2026-01-15T09:57:33.987Z", timeout).events;
            assert_eq!(events[0].at.to_string(), "2026-01-15T09:57:33.000Z");
            assert!(events.iter().all(|event| event.at.epoch_milliseconds() % 1000 == 0));
            for pair in events.windows(2) {
                let is_timeout = pair[0].kind == EventType::TimeoutConversation;
                assert_eq!(pair[0].at == pair[1].at, is_timeout, "{pair:?}");
                assert!(pair[0].at <= pair[1].at, "{pair:?}");
            }
        }
    }
}
