//! What is true in the end: the items of the events table, and the order in which the stream says they were stored.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use event_store::{item::EventItem, keys::SessionKey};
use sandbox::clients::streams_client;
use serde_dynamo::from_item;
use sessions::item::SessionItem;
use tests::table::{Table, text};
use unith_events::session::{SessionEvent, fold};

use super::plan::Plan;

const PAGE: i32 = 1_000;

/// An event, and its place among those of its session that were stored.
pub(crate) struct Stored {
    pub(crate) item: EventItem,
    pub(crate) place: usize,
    /// Whether it can be published.
    pub(crate) is_published: bool,
}

/// The events of the table.
pub(crate) struct Truth {
    /// By event id.
    pub(crate) events: HashMap<String, Stored>,
    /// The events of each session for the fold, in the order in which they were stored.
    pub(crate) sessions: BTreeMap<String, Vec<SessionEvent>>,
    /// Items that are not events.
    pub(crate) broken: usize,
    pub(crate) quarantined: usize,
}

impl Truth {
    /// Reads table and stream.
    pub(crate) async fn read(table: &Table, plan: &Plan) -> Self {
        let (mut items, mut broken, mut quarantined) = (HashMap::new(), BTreeSet::new(), 0);
        for item in table.items().await {
            let key = (text(&item, "pk").to_owned(), text(&item, "sk").to_owned());
            if key.0.starts_with("QUARANTINE#") {
                quarantined += 1;
            } else if let Ok(event) = from_item::<_, EventItem>(item.clone()) {
                items.insert(key, (event, from_item::<_, SessionEvent>(item).unwrap()));
            } else {
                broken.insert(key);
            }
        }
        let mut truth = Self { events: HashMap::new(), sessions: BTreeMap::new(), broken: broken.len(), quarantined };
        for key in stored_keys(table).await {
            let Some((item, event)) = items.remove(&key) else {
                assert!(broken.remove(&key), "the stream has {key:?}, and the table has not");
                continue;
            };
            let session = truth.sessions.entry(key.0.clone()).or_default();
            let (place, is_published) = (session.len(), !plan.not_published.contains(&key));
            session.push(event);
            let id = item.event_id.to_string();
            assert!(truth.events.insert(id, Stored { item, place, is_published }).is_none(), "{key:?} has a double");
        }
        assert!(items.is_empty() && broken.is_empty(), "the table has items that the stream has not: {broken:?}");
        truth
    }

    /// The rows that the events make, in the order of their keys.
    pub(crate) fn rows(&self) -> Vec<SessionItem> {
        let row = |(pk, events): (&String, &Vec<SessionEvent>)| {
            let key = SessionKey::parse(pk).unwrap();
            (!key.session_id.is_self_test()).then(|| SessionItem::new(&key, fold(events.iter().cloned()).unwrap()))
        };
        self.sessions.iter().filter_map(row).collect()
    }
}

/// The keys of all items of sessions, in the order in which they were stored: the stream, read from its start.
async fn stored_keys(table: &Table) -> Vec<(String, String)> {
    let client = streams_client(&table.endpoint).unwrap();
    let streams = client.list_streams().table_name(&table.name).send().await.unwrap().streams.unwrap();
    let arn = streams[0].stream_arn().unwrap();
    let description = client.describe_stream().stream_arn(arn).send().await.unwrap().stream_description.unwrap();
    let shards = description.shards.unwrap();
    assert_eq!((streams.len(), shards.len()), (1, 1));
    let first = client.get_shard_iterator().stream_arn(arn).shard_id(shards[0].shard_id().unwrap());
    let first = first.shard_iterator_type("TRIM_HORIZON".into()).send().await.unwrap();
    let (mut iterator, mut keys) = (first.shard_iterator.unwrap(), Vec::new());
    loop {
        let page = client.get_records().shard_iterator(iterator).limit(PAGE).send().await.unwrap();
        let records = page.records.unwrap_or_default();
        if records.is_empty() {
            return keys;
        }
        for record in records {
            assert_eq!(record.event_name.unwrap().as_str(), "INSERT", "an event is never changed");
            let key = record.dynamodb.unwrap().keys.unwrap();
            let part = |name: &str| key[name].as_s().unwrap().clone();
            if part("pk").starts_with("SESSION#") {
                keys.push((part("pk"), part("sk")));
            }
        }
        iterator = page.next_shard_iterator.unwrap();
    }
}
