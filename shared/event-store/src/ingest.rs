//! Ingestion: a verified body becomes a stored event, or is kept aside. Every function that stores events takes this path.

use unith_events::{
    body::InvalidEvent,
    event::{Event, ParseError},
    ids::EventId,
    timestamp::Timestamp,
    verify::Verified,
};

use crate::{
    item::{QuarantineKind, Quarantined, Via},
    store::{EventStore, Put, StoreError, StoreFault},
};

/// When a body came, and on which way.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// When the delivery reached `receive`: the item keeps it.
    pub received_at: Timestamp,
    /// When it is ingested: retention is judged by it.
    pub now: Timestamp,
    /// The way here; `None` if `receive` ingests it.
    pub via: Option<Via>,
    /// Whether it is ingested for the first time. A message that comes again may have been, without having been confirmed.
    pub is_first: bool,
}

impl Arrival {
    /// The arrival of a delivery that `receive` ingests itself.
    pub fn direct(received_at: Timestamp) -> Self {
        Self { received_at, now: received_at, via: None, is_first: true }
    }
}

/// What became of a delivery. All of these are final: sending it again changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The event is new, and in the table.
    Stored { event_id: EventId },
    /// The event was in the table, with the same content.
    Duplicate { event_id: EventId },
    /// The event was in the table, with other content. The stored one stays, and this body is in quarantine.
    Conflict { event_id: EventId },
    /// The event is past its retention, and is not stored.
    Expired { event_id: EventId },
    /// The body is not an event, and is in quarantine.
    Quarantined {
        /// Why it is not an event.
        reason: InvalidEvent,
        /// Whether it came for the first time today.
        is_new: bool,
    },
}

impl Outcome {
    /// The word for it in responses and logs. A conflict is answered as the duplicate that it also is.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Stored { .. } => "stored",
            Self::Duplicate { .. } | Self::Conflict { .. } => "duplicate",
            Self::Expired { .. } => "expired",
            Self::Quarantined { .. } => "quarantined",
        }
    }
}

impl Outcome {
    /// Why the event is not simply in the table, for the log; `None` if nobody has to look at it.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Quarantined { reason, .. } => Some(reason.to_string()),
            Self::Conflict { .. } => Some("differs from the stored event: this variant is in quarantine".to_owned()),
            Self::Stored { .. } | Self::Duplicate { .. } | Self::Expired { .. } => None,
        }
    }
}

impl EventStore {
    /// Stores a verified body, of which `event` was parsed. An `Ok` is durable.
    ///
    /// # Errors
    /// The table did not take it.
    pub async fn ingest(
        &self,
        verified: &Verified<'_>,
        event: &Result<Event, ParseError>,
        arrival: Arrival,
    ) -> Result<Outcome, StoreError> {
        let unreadable = match event {
            Ok(event) => match self.ingest_event(verified, event, arrival).await {
                Err(error) if error.fault == StoreFault::InvalidItem => ParseError {
                    reason: InvalidEvent::NotStorable,
                    head_id: Some(event.identity.head_id.clone()),
                    session_id: Some(event.identity.session_id.clone()),
                },
                result => return result,
            },
            Err(error) => error.clone(),
        };
        let reason = unreadable.reason;
        let quarantined = Quarantined {
            kind: QuarantineKind::Unreadable,
            reason: reason.to_string(),
            key_head: verified.key_head().cloned(),
            head_id: unreadable.head_id,
            session_id: unreadable.session_id,
        };
        let is_new = self.quarantine(verified.body(), quarantined, arrival).await?;
        Ok(Outcome::Quarantined { reason, is_new })
    }

    /// The outcome of an event that is past its retention at `now`; the table is not asked.
    ///
    /// DynamoDB would delete it at once, and a replay must not bring back what retention has removed.
    pub fn expired(&self, event: &Event, now: Timestamp) -> Option<Outcome> {
        let is_expired = self.retention().has_expired(event.identity.occurred_at, now);
        is_expired.then(|| Outcome::Expired { event_id: event.event_id.clone() })
    }

    async fn ingest_event(
        &self,
        verified: &Verified<'_>,
        event: &Event,
        arrival: Arrival,
    ) -> Result<Outcome, StoreError> {
        let Arrival { received_at, now, via, .. } = arrival;
        if let Some(outcome) = self.expired(event, now) {
            return Ok(outcome);
        }
        let event_id = event.event_id.clone();
        match self.put_event(event, verified.body(), received_at, via).await? {
            Put::Stored => Ok(Outcome::Stored { event_id }),
            Put::Duplicate => Ok(Outcome::Duplicate { event_id }),
            Put::Conflict => {
                let quarantined = Quarantined {
                    kind: QuarantineKind::Conflict,
                    reason: format!("differs from the stored event {event_id}"),
                    key_head: verified.key_head().cloned(),
                    head_id: Some(event.identity.head_id.clone()),
                    session_id: Some(event.identity.session_id.clone()),
                };
                self.quarantine(verified.body(), quarantined, arrival).await?;
                Ok(Outcome::Conflict { event_id })
            }
        }
    }
}
