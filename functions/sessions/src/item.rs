//! The items of the sessions table, as types, and the keys of its index.

use std::time::Duration;

use event_store::keys::{SessionKey, escaped};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use unith_events::{
    ids::{HeadId, SessionId},
    session::{EndedBy, SessionSummary, State},
    timestamp::Timestamp,
};

/// The sort key of every row.
pub const ROW: &str = "SESSION";
/// The index of a head's sessions by their start.
pub const INDEX: &str = "by_head";
/// Partition key of the index.
pub const GPK: &str = "gpk";
/// Sort key of the index.
pub const GSK: &str = "gsk";
/// The attributes that the index has besides the keys: those of an [`IndexedSession`].
pub const INDEXED: [&str; 12] = [
    "session_id",
    "state",
    "started_at",
    "start_missing",
    "ended_at",
    "ended_by",
    "duration_ms",
    "warnings",
    "n",
    "last_event_at",
    "public_head_id",
    "oversized",
];
/// The sessions of a head and a state are in as many partitions of the index: one takes 1,000 writes per second.
pub const SHARDS: u8 = 4;
/// An open session is lost once nothing was heard of it for longer than this.
pub const LOST_AFTER: Duration = Duration::from_hours(1);

/// The row of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionItem {
    /// That of the session's events: `SESSION#<head>#<session>`.
    pub pk: String,
    /// [`ROW`]
    pub sk: String,
    /// See [`index_partition`].
    pub gpk: String,
    /// `<started_at>#<session>`: of one head, no two sessions have the same.
    pub gsk: String,
    pub head_id: HeadId,
    pub session_id: SessionId,
    #[serde(flatten)]
    pub summary: SessionSummary,
}

impl SessionItem {
    /// The row of a session whose events come to `summary`.
    pub fn new(key: &SessionKey, summary: SessionSummary) -> Self {
        let SessionKey { head_id, session_id } = key;
        Self {
            pk: key.pk(),
            sk: ROW.to_owned(),
            gpk: index_partition(summary.state, head_id, shard(session_id)),
            gsk: format!("{}#{}", summary.started_at, escaped(session_id)),
            head_id: head_id.clone(),
            session_id: session_id.clone(),
            summary,
        }
    }
}

/// A session as the index has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedSession {
    /// Its position in a list.
    #[serde(skip_serializing)]
    pub gsk: String,
    pub session_id: SessionId,
    pub state: State,
    pub started_at: Timestamp,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub start_missing: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<EndedBy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    pub warnings: u32,
    pub n: u32,
    pub last_event_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_head_id: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oversized: bool,
}

/// A partition of the index: `OPEN#<head>#<shard>` or `ENDED#<head>#<shard>`.
pub fn index_partition(state: State, head_id: &HeadId, shard: u8) -> String {
    let state = match state {
        State::Open => "OPEN",
        State::Ended => "ENDED",
    };
    format!("{state}#{}#{shard}", escaped(head_id))
}

/// The shard of a session.
fn shard(session_id: &SessionId) -> u8 {
    Sha256::digest(session_id.as_bytes()).first().map_or(0, |byte| byte % SHARDS)
}

/// Whether a session is lost at `now`: open, and silent for too long. UNITH's END may have never come.
pub fn is_lost(state: State, last_event_at: Timestamp, now: Timestamp) -> bool {
    state == State::Open && now.since(last_event_at) > LOST_AFTER
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_dynamodb::types::AttributeValue;
    use std::collections::{BTreeSet, HashMap};
    use unith_events::session::{Fields, fold};

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn item(session: &str, events: &[(&str, &str)], expires_at: Option<i64>) -> SessionItem {
        let key = SessionKey { head_id: "h#1".parse().unwrap(), session_id: session.parse().unwrap() };
        let event = |&(event_type, occurred_at): &(&str, &str)| {
            let occurred_at = at(occurred_at);
            let event_type = event_type.to_owned();
            let public = Some("jane".to_owned());
            Fields {
                event_type,
                occurred_at,
                received_at: occurred_at,
                public_head_id: public,
                public_org_id: None,
                expires_at,
            }
        };
        SessionItem::new(&key, fold(events.iter().map(event).map(Into::into)).unwrap())
    }

    #[test]
    fn rows_are_read_back_as_they_were_written_and_their_keys_are_those_of_the_reference() {
        let (start, end) =
            (("START_CONVERSATION", "2026-01-15T09:57:33Z"), ("END_CONVERSATION", "2026-01-15T09:58:00Z"));
        for (events, state) in [(&[start][..], "OPEN"), (&[end], "ENDED"), (&[start, end], "ENDED")] {
            for expires_at in [None, Some(1_800_000_000)] {
                let item = item("s#1", events, expires_at);
                let stored: HashMap<String, AttributeValue> = serde_dynamo::to_item(&item).unwrap();
                assert_eq!((item.pk.as_str(), item.sk.as_str()), ("SESSION#h%231#s%231", "SESSION"));
                // The first byte of the SHA-256 of `s#1` is 0x12.
                assert_eq!(item.gpk, format!("{state}#h%231#2"));
                assert_eq!(item.gsk, format!("{}#s%231", item.summary.started_at));
                let number = |name: &str| stored.get(name).map(|value| value.as_n().unwrap().as_str());
                assert_eq!(number("n"), Some(events.len().to_string().as_str()));
                assert_eq!(number("expires_at"), expires_at.map(|_| "1800000000"));
                assert_eq!(serde_dynamo::from_item::<_, SessionItem>(stored).unwrap(), item);
            }
        }
    }

    /// `INDEXED` is what the template's projection has; a field that is missing there could not be listed.
    #[test]
    fn the_index_has_what_a_list_shows() {
        let events = [("START_CONVERSATION", "2026-01-15T09:57:33Z"), ("END_CONVERSATION", "2026-01-15T09:58:00Z")];
        let mut item = item("s", &events, None);
        (item.summary.oversized, item.summary.start_missing) = (true, true);
        let mut projected: HashMap<String, AttributeValue> = serde_dynamo::to_item(&item).unwrap();
        projected.retain(|name, _| INDEXED.contains(&name.as_str()) || name == GSK);
        assert_eq!(projected.len(), INDEXED.len() + 1);
        let indexed: IndexedSession = serde_dynamo::from_item(projected).unwrap();
        let shown = serde_json::to_value(&indexed).unwrap();
        assert_eq!(shown.as_object().unwrap().keys().map(String::as_str).collect::<BTreeSet<_>>(), INDEXED.into());
        assert_eq!(shown["duration_ms"], 27_000);
    }

    #[test]
    fn sessions_are_spread_over_all_shards() {
        let shards: BTreeSet<_> = (0..100).map(|n| shard(&n.to_string().parse().unwrap())).collect();
        assert_eq!(shards, (0..SHARDS).collect());
    }

    #[test]
    fn an_open_session_is_lost_after_an_hour_of_silence() {
        let last = at("2026-01-15T10:00:00Z");
        for (state, now, expected) in [
            (State::Open, "2026-01-15T11:00:00Z", false),
            (State::Open, "2026-01-15T11:00:00.001Z", true),
            (State::Open, "2026-01-15T09:00:00Z", false),
            (State::Ended, "2026-01-16T10:00:00Z", false),
        ] {
            assert_eq!(is_lost(state, last, at(now)), expected, "{state:?} {now}");
        }
    }
}
