//! A session: the summary of its events.
//!
//! UNITH sends single events, in any order and sometimes twice, and an END may never come. [`fold`] makes one summary of the
//! events that are known. It is a pure function of their set: no order of arrival, duplicate or restart changes its result.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    event_type::{EventType, rank},
    timestamp::Timestamp,
};

/// The number of events that are folded. Of a session with more, the first ones are.
pub const MAX_EVENTS: usize = 5_000;
/// The version of the rules below. A summary that was made by other rules is replaced by one of the same events.
pub const FOLD_VERSION: u32 = 1;

/// What the fold needs of an event. The order of the fields is that of the events: the derived `Ord` compares in turn.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(from = "Fields")]
pub struct SessionEvent {
    /// When it happened, to the millisecond.
    pub occurred_at: Timestamp,
    rank: u8,
    /// The type in upper case.
    event_type: String,
    /// When the delivery reached `receive`.
    pub received_at: Timestamp,
    pub public_head_id: Option<String>,
    pub public_org_id: Option<String>,
    /// Seconds since 1970; `None` if it is kept for ever.
    pub expires_at: Option<i64>,
}

/// The members of an item or JSON object that a [`SessionEvent`] is read from.
#[derive(Debug, Clone, Deserialize)]
pub struct Fields {
    /// In any case.
    pub event_type: String,
    pub occurred_at: Timestamp,
    pub received_at: Timestamp,
    #[serde(default)]
    pub public_head_id: Option<String>,
    #[serde(default)]
    pub public_org_id: Option<String>,
    #[serde(default)]
    pub expires_at: Option<i64>,
}

impl From<Fields> for SessionEvent {
    fn from(fields: Fields) -> Self {
        let Fields { event_type, occurred_at, received_at, public_head_id, public_org_id, expires_at } = fields;
        let event_type = event_type.to_ascii_uppercase();
        let rank = rank(&event_type);
        Self { occurred_at, rank, event_type, received_at, public_head_id, public_org_id, expires_at }
    }
}

impl SessionEvent {
    fn is(&self, kind: EventType) -> bool {
        self.event_type == kind.as_str()
    }
}

/// Whether a session goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No END since the last START.
    Open,
    Ended,
}

/// Who ended a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// UNITH, because the user was inactive for too long or the session was too long.
    Timeout,
    /// The user, who closed the window.
    User,
}

/// The summary of a session's events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSummary {
    pub state: State,
    /// The least START; the least event if no START is known.
    pub started_at: Timestamp,
    /// Whether no START is known. A session in which the user says nothing has none.
    #[serde(default, skip_serializing_if = "is_false")]
    pub start_missing: bool,
    /// The greatest END, unless a START came later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Absent while nothing says that the session ends. UNITH's TIMEOUT comes before its END.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<EndedBy>,
    /// From `started_at` to `ended_at`, in milliseconds. Absent if either is not known, or if it would be negative.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// The number of inactivity warnings.
    pub warnings: u32,
    /// The number of events that were folded.
    pub n: u32,
    /// The greatest of the events that were folded.
    pub last_event_at: Timestamp,
    /// When the first delivery reached `receive`.
    pub first_received_at: Timestamp,
    /// That of the first event that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_head_id: Option<String>,
    /// That of the first event that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_org_id: Option<String>,
    /// When the last event expires, in seconds since 1970. Absent if an event is kept for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// Whether the session has more than [`MAX_EVENTS`] events.
    #[serde(default, skip_serializing_if = "is_false")]
    pub oversized: bool,
    /// See [`FOLD_VERSION`].
    pub fold_version: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// The summary of a session's events, or `None` if there are none.
///
/// The result depends on the set of the events alone. Events that are equal in instant and type are one event.
pub fn fold(events: impl IntoIterator<Item = SessionEvent>) -> Option<SessionSummary> {
    fold_first(MAX_EVENTS, events)
}

/// The same of the first `limit` events.
fn fold_first(limit: usize, events: impl IntoIterator<Item = SessionEvent>) -> Option<SessionSummary> {
    let mut events: Vec<_> = events.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    events.dedup_by(|next, event| (next.occurred_at, &next.event_type) == (event.occurred_at, &event.event_type));
    let oversized = events.len() > limit;
    events.truncate(limit);

    let (first, last) = (events.first()?, events.last()?);
    let first_start = events.iter().find(|event| event.is(EventType::StartConversation));
    let last_start = events.iter().rposition(|event| event.is(EventType::StartConversation));
    let since_start = events.get(last_start.unwrap_or(0)..).unwrap_or_default();
    let end = since_start.iter().rfind(|event| event.is(EventType::EndConversation));
    let timed_out = since_start.iter().any(|event| event.is(EventType::TimeoutConversation));
    let (started_at, ended_at) = (first_start.unwrap_or(first).occurred_at, end.map(|event| event.occurred_at));
    let duration = ended_at.filter(|_| first_start.is_some()).and_then(|end| end.checked_since(started_at));
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Some(SessionSummary {
        state: if ended_at.is_some() { State::Ended } else { State::Open },
        started_at,
        start_missing: first_start.is_none(),
        ended_at,
        ended_by: if timed_out { Some(EndedBy::Timeout) } else { ended_at.map(|_| EndedBy::User) },
        duration_ms: duration.and_then(|duration| u64::try_from(duration.as_millis()).ok()),
        warnings: count(events.iter().filter(|event| event.is(EventType::InactivityWarning)).count()),
        n: count(events.len()),
        last_event_at: last.occurred_at,
        first_received_at: events.iter().map(|event| event.received_at).min().unwrap_or(first.received_at),
        public_head_id: events.iter().find_map(|event| event.public_head_id.clone()),
        public_org_id: events.iter().find_map(|event| event.public_org_id.clone()),
        expires_at: events
            .iter()
            .map(|event| event.expires_at)
            .collect::<Option<Vec<_>>>()
            .and_then(|all| all.into_iter().max()),
        oversized,
        fold_version: FOLD_VERSION,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: u32) -> Timestamp {
        Timestamp::parse(&format!("2026-01-15T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60))
            .unwrap()
    }

    fn event(event_type: &str, second: u32) -> SessionEvent {
        Fields {
            event_type: event_type.to_owned(),
            occurred_at: at(second),
            received_at: at(second + 2),
            public_head_id: None,
            public_org_id: None,
            expires_at: Some(i64::from(second)),
        }
        .into()
    }

    fn folded(events: &[(&str, u32)]) -> SessionSummary {
        fold(events.iter().map(|(event_type, second)| event(event_type, *second))).unwrap()
    }

    const START: &str = "START_CONVERSATION";
    const END: &str = "END_CONVERSATION";
    const TIMEOUT: &str = "TIMEOUT_CONVERSATION";
    const WARNING: &str = "INACTIVITY_WARNING";

    #[test]
    fn a_session_that_its_user_ends_has_a_start_an_end_and_a_duration() {
        let summary = folded(&[(START, 10), (WARNING, 20), (WARNING, 30), (END, 40)]);
        let expected = SessionSummary {
            state: State::Ended,
            started_at: at(10),
            start_missing: false,
            ended_at: Some(at(40)),
            ended_by: Some(EndedBy::User),
            duration_ms: Some(30_000),
            warnings: 2,
            n: 4,
            last_event_at: at(40),
            first_received_at: at(12),
            public_head_id: None,
            public_org_id: None,
            expires_at: Some(40),
            oversized: false,
            fold_version: FOLD_VERSION,
        };
        assert_eq!(summary, expected);
        assert_eq!(fold([]), None);
    }

    #[test]
    fn the_state_and_the_end_follow_from_the_events_since_the_last_start() {
        let (timeout, user) = (Some(EndedBy::Timeout), Some(EndedBy::User));
        for (events, state, ended_at, ended_by, duration) in [
            (&[(START, 1)][..], State::Open, None, None, None),
            (&[(WARNING, 1)], State::Open, None, None, None),
            (&[(START, 1), (TIMEOUT, 5)], State::Open, None, timeout, None),
            (&[(START, 1), (TIMEOUT, 5), (END, 5)], State::Ended, Some(5), timeout, Some(4_000)),
            (&[(START, 1), (END, 1)], State::Ended, Some(1), user, Some(0)),
            // The user closes the window and comes back.
            (&[(START, 1), (END, 5), (START, 6)], State::Open, None, None, None),
            (&[(START, 1), (TIMEOUT, 5), (END, 5), (START, 6)], State::Open, None, None, None),
            (&[(START, 1), (TIMEOUT, 5), (END, 5), (START, 6), (END, 9)], State::Ended, Some(9), user, Some(8_000)),
            // Events after an END are possible.
            (&[(START, 1), (END, 5), (WARNING, 7)], State::Ended, Some(5), user, Some(4_000)),
            (&[(START, 1), (END, 5), (END, 7)], State::Ended, Some(7), user, Some(6_000)),
            // A session in which the user says nothing has no START.
            (&[(END, 5)], State::Ended, Some(5), user, None),
            (&[(WARNING, 2), (TIMEOUT, 5), (END, 5)], State::Ended, Some(5), timeout, None),
            (&[("HANDED_OVER", 2), (START, 3), (END, 5)], State::Ended, Some(5), user, Some(2_000)),
        ] {
            let summary = folded(events);
            let ended_at = ended_at.map(at);
            assert_eq!((summary.state, summary.ended_at), (state, ended_at), "{events:?}");
            assert_eq!((summary.ended_by, summary.duration_ms), (ended_by, duration), "{events:?}");
            let starts = events.iter().any(|(event_type, _)| *event_type == START);
            assert_eq!(summary.start_missing, !starts, "{events:?}");
        }
    }

    #[test]
    fn optional_fields_come_from_the_first_event_that_has_them() {
        let with = |second, public: Option<&str>, expires_at| {
            let mut event = event(WARNING, second);
            (event.public_head_id, event.public_org_id) = (public.map(str::to_owned), public.map(str::to_owned));
            event.expires_at = expires_at;
            event
        };
        let public = |summary: SessionSummary| (summary.public_head_id, summary.public_org_id);
        let (a, b) = (with(2, Some("a"), Some(9)), with(3, Some("b"), Some(5)));
        let summary = fold([with(1, None, Some(1)), b.clone(), a.clone()]).unwrap();
        assert_eq!(summary.expires_at, Some(9));
        assert_eq!(public(summary), (Some("a".to_owned()), Some("a".to_owned())));
        assert_eq!(fold([a, with(4, None, None), b]).unwrap().expires_at, None);
    }

    #[test]
    fn of_an_oversized_session_the_first_events_are_folded() {
        let all: Vec<_> = (0..).take(MAX_EVENTS + 7).map(|second| event(WARNING, second)).collect();
        let (whole, first) = (fold(all.iter().cloned()).unwrap(), fold(all.into_iter().take(MAX_EVENTS)).unwrap());
        assert_eq!(whole, SessionSummary { oversized: true, ..first });
        assert_eq!(usize::try_from(whole.n).unwrap(), MAX_EVENTS);
    }

    #[test]
    fn summaries_are_read_back_as_they_were_written() {
        for summary in [folded(&[(START, 1)]), folded(&[(WARNING, 1), (END, 4)])] {
            let json = serde_json::to_value(&summary).unwrap();
            assert_eq!(serde_json::from_value::<SessionSummary>(json).unwrap(), summary);
        }
        let json = serde_json::to_string(&folded(&[(START, 1), (TIMEOUT, 2), (END, 2)])).unwrap();
        assert!(json.starts_with(r#"{"state":"ended","started_at":"2026-01-15T00:00:01.000Z","ended_at":"#), "{json}");
        assert!(json.contains(r#""ended_by":"timeout","duration_ms":1000,"#), "{json}");
    }

    /// Few instants, so that most of them tie, as UNITH's whole seconds do.
    fn events() -> impl Strategy<Value = Vec<SessionEvent>> {
        let types =
            prop_oneof![Just(START), Just(END), Just(TIMEOUT), Just(WARNING), Just("OTHER"), Just("End_Conversation")];
        proptest::collection::vec((types, 0_u32..6).prop_map(|(event_type, second)| event(event_type, second)), 0..12)
    }

    /// The condition under which `new` replaces a `stored` summary of the same session in the sessions table.
    fn supersedes(new: &SessionSummary, stored: &SessionSummary) -> bool {
        let ordering = new.last_event_at.cmp(&stored.last_event_at);
        match (new.oversized, stored.oversized) {
            (false, false) => ordering.then(new.n.cmp(&stored.n)).is_gt(),
            (true, false) => true,
            (false, true) => false,
            // An earlier event pushes the last one out of the first ones.
            (true, true) => ordering.is_le(),
        }
    }

    /// One event per identity, as in the table.
    fn distinct(events: Vec<SessionEvent>) -> Vec<SessionEvent> {
        let mut seen = BTreeSet::new();
        events.into_iter().filter(|event| seen.insert((event.occurred_at, event.event_type.clone()))).collect()
    }

    proptest! {
        #[test]
        fn order_and_duplicates_do_not_matter(events in events(), seed in any::<u64>()) {
            let expected = fold(events.clone());
            let mut shuffled = events.clone();
            // A seeded shuffle, and some events twice.
            let mut state = seed | 1;
            for index in (1..shuffled.len()).rev() {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                shuffled.swap(index, usize::try_from(state % (index as u64 + 1)).unwrap());
            }
            shuffled.extend(events.into_iter().take(usize::try_from(seed % 5).unwrap()));
            prop_assert_eq!(fold(shuffled), expected);
        }

        /// The guard of the sessions table goes by it: of two sets of one session, the larger one's summary replaces the
        /// other, whichever is written last.
        #[test]
        fn the_summary_of_a_larger_set_supersedes_and_is_not_superseded(
            events in events(), more in events(), limit in 1..12_usize,
        ) {
            let Some(subset) = fold_first(limit, events.clone()) else { return Ok(()) };
            let whole = fold_first(limit, events.into_iter().chain(more)).unwrap();
            if subset != whole {
                prop_assert!(supersedes(&whole, &subset), "{:?} {:?}", whole, subset);
                let is_tie = whole.oversized && subset.oversized && whole.last_event_at == subset.last_event_at;
                prop_assert!(is_tie || !supersedes(&subset, &whole), "{:?} {:?}", whole, subset);
            }
        }

        /// The row says when its session can go: not before its last event.
        #[test]
        fn a_summary_expires_with_the_last_of_its_events(events in events(), is_kept in any::<bool>()) {
            let mut events = events;
            if let Some(event) = events.first_mut().filter(|_| is_kept) {
                event.expires_at = None;
            }
            let any_is_kept = events.iter().any(|event| event.expires_at.is_none());
            let last = events.iter().filter_map(|event| event.expires_at).max();
            let Some(summary) = fold(distinct(events)) else { return Ok(()) };
            prop_assert_eq!(summary.expires_at, last.filter(|_| !any_is_kept));
        }

        #[test]
        fn a_summary_agrees_with_itself(events in events()) {
            let Some(summary) = fold(events) else { return Ok(()) };
            prop_assert_eq!(summary.state == State::Ended, summary.ended_at.is_some());
            prop_assert!(summary.started_at <= summary.last_event_at);
            prop_assert!(summary.ended_at.is_none_or(|ended_at| ended_at <= summary.last_event_at));
            prop_assert!(summary.ended_at.is_none() || summary.ended_by.is_some());
            prop_assert!(summary.duration_ms.is_none() || !summary.start_missing && summary.ended_at.is_some());
            prop_assert!(summary.warnings <= summary.n && summary.n > 0);
        }
    }
}
