//! What reached an outlet, compared with what was stored.

use std::collections::{BTreeSet, HashMap};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use event_store::item::{Body, Via};
use sandbox::{eventbridge::EventBridge, services::EVENT_BUS, sqs::StoredMessage};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use sha2::{Digest, Sha256};
use unith_events::session::{SessionSummary, fold};

use super::{
    plan::is_copied,
    truth::{Stored, Truth},
};

/// An event as an outlet has it.
#[derive(Deserialize)]
struct Publication<'p> {
    source: &'p str,
    #[serde(rename = "detail-type")]
    detail_type: String,
    time: &'p str,
    #[serde(borrow)]
    detail: Detail<'p>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Detail<'p> {
    metadata: Value,
    #[serde(borrow)]
    data: Option<&'p RawValue>,
    body: Option<String>,
    body_b64: Option<String>,
    session: Option<SessionSummary>,
}

/// What reached an outlet.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) publications: usize,
    /// Publications of events that had been published before, those of replays included.
    pub(crate) duplicates: usize,
    /// Publications by a replay.
    pub(crate) replayed: usize,
    /// The events that arrived.
    arrived: BTreeSet<String>,
    /// The events that were put on the bus while it did not exist, some of them once more later.
    lost: BTreeSet<String>,
    /// The events that arrived or were lost.
    taken: BTreeSet<String>,
    /// Of each session, the place of the last one that was taken for the first time.
    last: HashMap<String, usize>,
}

impl Published {
    /// What EventBridge took for the bus, and what became of it.
    pub(crate) fn on_bus(eventbridge: &EventBridge, truth: &Truth) -> Self {
        let (mut published, mut requests) = (Self::default(), BTreeSet::new());
        let [arrived, lost] = [eventbridge.events(EVENT_BUS), eventbridge.lost(EVENT_BUS)];
        let mut taken: Vec<_> =
            arrived.iter().map(|event| (event, true)).chain(lost.iter().map(|event| (event, false))).collect();
        taken.sort_by_key(|(event, _)| event.request);
        for (event, has_arrived) in taken {
            let item = &published.add(&event.to_json(), has_arrived, truth).item;
            assert!(requests.insert((event.request, &item.pk)), "a request has two events of one session");
        }
        published
    }

    /// What reached the ordered queue.
    pub(crate) fn in_queue(messages: &[StoredMessage], truth: &Truth) -> Self {
        let mut published = Self::default();
        for message in messages {
            let replays = published.replayed;
            let Stored { item, .. } = published.add(&message.body, true, truth);
            assert_eq!(message.group.as_deref(), Some(&*hex::encode(Sha256::digest(&item.pk))));
            let is_event_id = message.deduplication_id.as_deref() == Some(item.event_id.as_str());
            assert_eq!(is_event_id, published.replayed == replays, "{:?}", message.deduplication_id);
        }
        published
    }

    /// The events that can be published, and did not arrive.
    pub(crate) fn missing<'t>(&self, truth: &'t Truth) -> Vec<&'t Stored> {
        let missing = truth.events.iter().filter(|(id, event)| event.is_published && !self.arrived.contains(*id));
        missing.map(|(_, event)| event).collect()
    }

    /// The events that were put on the bus while it did not exist.
    pub(crate) fn lost<'t>(&self, truth: &'t Truth) -> Vec<&'t Stored> {
        self.lost.iter().filter_map(|id| truth.events.get(id)).collect()
    }

    fn add<'t>(&mut self, json: &str, has_arrived: bool, truth: &'t Truth) -> &'t Stored {
        let publication: Publication = serde_json::from_str(json).unwrap();
        let metadata = &publication.detail.metadata;
        let (id, is_replay) = (metadata["id"].as_str().unwrap(), !metadata["replay"].is_null());
        let (id, stored) = truth.events.get_key_value(id).unwrap_or_else(|| panic!("nobody stored {json}"));
        publication.check(stored, truth);
        if self.taken.insert(id.clone()) {
            let last = self.last.insert(stored.item.pk.clone(), stored.place);
            assert!(last < Some(stored.place) && !is_replay, "{} comes after its later one", stored.item.sk);
        }
        if !has_arrived {
            self.lost.insert(id.clone());
            return stored;
        }
        self.publications += 1;
        self.replayed += usize::from(is_replay);
        self.duplicates += usize::from(!self.arrived.insert(id.clone()));
        stored
    }
}

impl Publication<'_> {
    /// Panics unless it is the event.
    fn check(&self, Stored { item, is_published, place }: &Stored, truth: &Truth) {
        assert!(is_published, "{} cannot be published", item.sk);
        let is_test = item.session_id.starts_with("self-test:");
        let expected = json!({
            "id": item.event_id, "version": 1, "head_id": item.head_id, "session_id": item.session_id,
            "occurred_at": item.occurred_at, "received_at": item.received_at,
            "via": match item.via { None => "receive", Some(Via::Redrive) => "redrive", Some(Via::Quarantine) => "quarantine" },
            "test": is_test, "replay": self.detail.metadata["replay"],
        });
        assert_eq!(self.detail.metadata, expected);
        assert_eq!((self.source, &*self.detail_type), ("unith.webhooks", &*item.event_type.to_ascii_uppercase()));
        let seconds = item.occurred_at.to_string();
        assert_eq!(self.time.strip_suffix('Z'), seconds.split('.').next());

        let Detail { data, body, body_b64, session, .. } = &self.detail;
        let parts = (data.map(RawValue::get), body.as_deref(), body_b64.as_deref());
        match &item.body {
            Body::Binary(bytes) => assert_eq!(parts, (None, None, Some(&*BASE64.encode(bytes)))),
            Body::Text(text) if is_copied(text, &item.event_type) => {
                assert_eq!(parts, (Some(text.trim_matches([' ', '\n', '\t'])), None, None));
            }
            Body::Text(text) => assert_eq!(parts, (None, Some(&**text), None)),
        }

        assert_eq!(session.is_some(), item.event_type == "END_CONVERSATION" && !is_test, "{}", item.sk);
        if let Some(session) = session {
            // The session's first events: those that were stored before the END, itself, and what came meanwhile.
            let (stored, n) = (&truth.sessions[&item.pk], usize::try_from(session.n).unwrap());
            assert!((place + 1..=stored.len()).contains(&n), "{n} events before the END at {place}");
            assert_eq!(Some(session), fold(stored[..n].iter().cloned()).as_ref());
        }
    }
}
