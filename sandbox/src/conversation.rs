//! A conversation with a digital human, as the events it gives rise to.

use fastrand::Rng;
use provision::self_test::uuid;
use time::Duration;
use unith_events::timestamp::Timestamp;

use crate::platform::EventType;

/// One session from its start to its end.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// The session, a UUID.
    pub session_id: String,
    /// Its events in the order in which they occur.
    pub events: Vec<ScheduledEvent>,
}

/// An event and when it occurs.
#[derive(Debug, Clone, Copy)]
pub struct ScheduledEvent {
    /// Its type.
    pub kind: EventType,
    /// When.
    pub at: Timestamp,
}

impl Conversation {
    /// A conversation that starts at `start`, is warned for inactivity so many times, and ends by itself or by a
    /// time-out.
    ///
    /// Its events are on whole seconds, as deliveries carry no fractions. Each is later than the one before it, but for
    /// the end after a time-out, which is of the same second: UNITH sends both at once.
    #[must_use]
    pub fn new(random: &mut Rng, start: Timestamp, warnings: usize, timeout: bool) -> Self {
        let mut kinds = vec![EventType::StartConversation];
        kinds.extend(std::iter::repeat_n(EventType::InactivityWarning, warnings));
        kinds.extend(timeout.then_some(EventType::TimeoutConversation));
        kinds.push(EventType::EndConversation);
        let mut at = Timestamp::from_epoch_milliseconds(start.epoch_seconds() * 1000).unwrap_or(start);
        let mut events = Vec::new();
        for kind in kinds {
            events.push(ScheduledEvent { kind, at });
            if kind != EventType::TimeoutConversation {
                at = at.plus(Duration::seconds(random.i64(1..90)));
            }
        }
        Self { session_id: uuid(random), events }
    }

    /// A conversation of any kind.
    #[must_use]
    pub fn any(random: &mut Rng, start: Timestamp) -> Self {
        let (warnings, timeout) = (random.usize(0..3), random.bool());
        Self::new(random, start, warnings, timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_conversation() {
        let start = Timestamp::parse("2026-01-15T09:57:33Z").unwrap();
        let one = |seed| Conversation::new(&mut Rng::with_seed(seed), start, 2, true);
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
    fn events_are_on_whole_seconds_and_only_a_time_out_and_its_end_share_one() {
        let start = Timestamp::parse("2026-01-15T09:57:33.987Z").unwrap();
        for timeout in [false, true] {
            let events = Conversation::new(&mut Rng::with_seed(7), start, 2, timeout).events;
            assert_eq!(events[0].at.to_string(), "2026-01-15T09:57:33.000Z");
            assert!(events.iter().all(|event| event.at.epoch_milliseconds() % 1000 == 0));
            for pair in events.windows(2) {
                let is_time_out = pair[0].kind == EventType::TimeoutConversation;
                assert_eq!(pair[0].at == pair[1].at, is_time_out, "{pair:?}");
                assert!(pair[0].at <= pair[1].at, "{pair:?}");
            }
        }
    }
}
