//! What reached an outlet, compared with what was stored.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use event_store::item::{Body, Via};
use sandbox::{eventbridge::PublishedEvent, sqs::StoredMessage};
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
    seen: BTreeSet<String>,
    /// The first publications of each session that were not by a replay: the places of the events in it.
    firsts: HashMap<String, Vec<usize>>,
}

impl Published {
    /// What reached the bus.
    pub(crate) fn on_bus(events: &[PublishedEvent], truth: &Truth) -> Self {
        let (mut published, mut requests) = (Self::default(), BTreeMap::new());
        for event in events {
            let pk = published.add(&event.to_json(), truth).item.pk.clone();
            assert!(requests.insert((event.request, pk), ()).is_none(), "a request has two events of one session");
        }
        published
    }

    /// What reached the ordered queue.
    pub(crate) fn in_queue(messages: &[StoredMessage], truth: &Truth) -> Self {
        let mut published = Self::default();
        for message in messages {
            let replays = published.replayed;
            let Stored { item, .. } = published.add(&message.body, truth);
            assert_eq!(message.group.as_deref(), Some(&*hex::encode(Sha256::digest(&item.pk))));
            let is_event_id = message.deduplication_id.as_deref() == Some(item.event_id.as_str());
            assert_eq!(is_event_id, published.replayed == replays, "{:?}", message.deduplication_id);
        }
        published
    }

    /// The events that can be published, and were not.
    pub(crate) fn missing<'t>(&self, truth: &'t Truth) -> Vec<&'t Stored> {
        let missing = truth.events.iter().filter(|(id, event)| event.is_published && !self.seen.contains(*id));
        missing.map(|(_, event)| event).collect()
    }

    fn add<'t>(&mut self, json: &str, truth: &'t Truth) -> &'t Stored {
        let publication: Publication = serde_json::from_str(json).unwrap();
        let metadata = &publication.detail.metadata;
        let (id, is_replay) = (metadata["id"].as_str().unwrap().to_owned(), !metadata["replay"].is_null());
        let stored = truth.events.get(&id).unwrap_or_else(|| panic!("nobody stored {json}"));
        publication.check(stored, truth);
        self.publications += 1;
        self.replayed += usize::from(is_replay);
        if self.seen.insert(id) {
            if !is_replay {
                let firsts = self.firsts.entry(stored.item.pk.clone()).or_default();
                let last = firsts.last().copied();
                assert!(last < Some(stored.place), "{} comes after its later one", stored.item.sk);
                firsts.push(stored.place);
            }
        } else {
            self.duplicates += 1;
        }
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
