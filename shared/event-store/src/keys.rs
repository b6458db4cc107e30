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

/// An id within a key, where `#` separates the parts.
fn escaped(id: &str) -> Cow<'_, str> {
    if id.contains(['%', '#']) { id.replace('%', "%25").replace('#', "%23").into() } else { id.into() }
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
}
