//! Item keys: the partition and sort key of every item in the events table.

use std::borrow::Cow;

use unith_events::{
    event::Identity,
    ids::{HeadId, SessionId},
    timestamp::Timestamp,
};

/// Partition key of every item.
pub const PK: &str = "pk";
/// Sort key of every item.
pub const SK: &str = "sk";
/// The attribute of DynamoDB's time to live: seconds since 1970.
pub const EXPIRES_AT: &str = "expires_at";

/// The partition of a session's events, in which they are sorted in the order they happened: `SESSION#<head>#<session>`.
pub fn session_pk(head_id: &HeadId, session_id: &SessionId) -> String {
    format!("SESSION#{}#{}", escaped(head_id), escaped(session_id))
}

/// The sort key of an event within its session: `EVENT#<instant, UTC, ms>#<rank>#<TYPE>`.
pub fn event_sk(identity: &Identity) -> String {
    format!("EVENT#{}#{}#{}", identity.occurred_at, identity.rank(), escaped(&identity.event_type))
}

/// The partition of the bodies quarantined on a day: `QUARANTINE#<day, UTC>`. Its sort key is the body's SHA-256.
pub fn quarantine_pk(received_at: Timestamp) -> String {
    format!("QUARANTINE#{}", received_at.day())
}

/// The head and the session that a partition of events belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    pub head_id: HeadId,
    pub session_id: SessionId,
}

impl SessionKey {
    /// Reads a partition key that [`session_pk`] made. `None` for any other text.
    pub fn parse(pk: &str) -> Option<Self> {
        let (head_id, session_id) = pk.strip_prefix("SESSION#")?.split_once('#')?;
        let key =
            Self { head_id: unescaped(head_id).try_into().ok()?, session_id: unescaped(session_id).try_into().ok()? };
        (key.pk() == pk).then_some(key)
    }

    /// See [`session_pk`].
    pub fn pk(&self) -> String {
        session_pk(&self.head_id, &self.session_id)
    }
}

/// An id within a key, where `#` separates the parts.
pub fn escaped(id: &str) -> Cow<'_, str> {
    if id.contains(['%', '#']) { id.replace('%', "%25").replace('#', "%23").into() } else { id.into() }
}

fn unescaped(part: &str) -> String {
    part.replace("%23", "#").replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pk(head_id: &str, session_id: &str) -> String {
        session_pk(&head_id.parse().unwrap(), &session_id.parse().unwrap())
    }

    #[test]
    fn keys_are_those_of_the_reference() {
        let occurred_at = Timestamp::parse("2026-01-15T09:57:33Z").unwrap();
        let identity = Identity {
            head_id: "h".parse().unwrap(),
            session_id: "s".parse().unwrap(),
            event_type: "START_CONVERSATION".into(),
            occurred_at,
        };
        assert_eq!(pk("h", "s"), "SESSION#h#s");
        assert_eq!(event_sk(&identity), "EVENT#2026-01-15T09:57:33.000Z#1#START_CONVERSATION");
        let odd = Identity { event_type: "A#B%".into(), ..identity };
        assert_eq!(event_sk(&odd), "EVENT#2026-01-15T09:57:33.000Z#3#A%23B%25");
        assert_eq!(quarantine_pk(occurred_at), "QUARANTINE#2026-01-15");
    }

    /// A `#` in an id must not make it another id: both parts can be read back.
    #[test]
    fn ids_are_escaped_in_keys() {
        assert_eq!(pk("a#b", "50%#"), "SESSION#a%23b#50%25%23");
        let pairs = [("a#b", "c"), ("a", "b#c"), ("a%23b", "c"), ("a", "b%23c"), ("a%2523b", "c")];
        let keys: std::collections::BTreeSet<_> = pairs.map(|(head, session)| pk(head, session)).into();
        assert_eq!(keys.len(), pairs.len());
    }

    #[test]
    fn a_session_is_read_back_from_its_partition_key() {
        for (head, session) in [("h", "s"), ("a#b", "50%#"), ("%23", "%2523"), ("ü", "self-test:1"), ("%", "#")] {
            let key = SessionKey { head_id: head.parse().unwrap(), session_id: session.parse().unwrap() };
            assert_eq!(SessionKey::parse(&key.pk()), Some(key));
        }
        let long = format!("SESSION#h#{}", "s".repeat(257));
        for other in ["", "SESSION", "SESSION#h", "SESSION##s", "SESSION#h#", "SESSION#h#a#b", "SESSION#h#%", &long] {
            assert_eq!(SessionKey::parse(other), None, "{other}");
        }
        assert_eq!(SessionKey::parse("QUARANTINE#2026-01-15"), None);
    }
}
