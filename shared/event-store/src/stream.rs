//! The event of the table's stream, as Lambda's event source mapping hands it to a function.
//!
//! Format: <https://docs.aws.amazon.com/lambda/latest/dg/with-ddb.html>

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    item::EventItem,
    keys::{PK, SK},
};

const INSERT: &str = "INSERT";

/// A batch of changes to the table. Those of one partition are in order.
#[derive(Deserialize)]
pub struct StreamEvent {
    #[serde(rename = "Records")]
    pub records: Vec<StreamRecord>,
}

/// A change of an item. It may hold a body of UNITH's, so it has no `Debug`.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamRecord {
    event_name: String,
    dynamodb: Change,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Change {
    sequence_number: String,
    #[serde(default)]
    keys: Value,
    /// Read when it is needed: an image that is not an event must not make the batch unreadable.
    #[serde(default)]
    new_image: Value,
}

/// The position of a record in its shard: a decimal number of up to 40 digits, which no integer type holds.
#[derive(Debug, Clone, Copy)]
pub struct SequenceNumber<'r>(&'r str);

impl<'r> SequenceNumber<'r> {
    /// The text in a batch response.
    pub fn as_str(self) -> &'r str {
        self.0
    }
}

impl Ord for SequenceNumber<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let [own, others] = [self, other].map(|number| number.0.trim_start_matches('0'));
        own.len().cmp(&others.len()).then_with(|| own.cmp(others))
    }
}

impl PartialEq for SequenceNumber<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for SequenceNumber<'_> {}

impl PartialOrd for SequenceNumber<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The key of a record's item.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ItemKey {
    pub pk: String,
    pub sk: String,
}

/// The image of a record is not that of an event. No value of the image is repeated; the item's key finds it.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("the item is not an event")]
pub struct InvalidImage;

impl StreamRecord {
    /// The record's position in its shard: what a batch response names.
    pub fn sequence_number(&self) -> &str {
        &self.dynamodb.sequence_number
    }

    /// The same, to compare it with others.
    pub fn position(&self) -> SequenceNumber<'_> {
        SequenceNumber(&self.dynamodb.sequence_number)
    }

    /// The event's id, if the image has one.
    pub fn event_id(&self) -> Option<&str> {
        self.dynamodb.new_image.get("event_id")?.get("S")?.as_str()
    }

    /// The key of the item, unless it has another form than this table's.
    pub fn key(&self) -> Option<ItemKey> {
        Some(ItemKey { pk: self.key_part(PK)?.to_owned(), sk: self.key_part(SK)?.to_owned() })
    }

    fn key_part(&self, name: &str) -> Option<&str> {
        self.dynamodb.keys.get(name)?.get("S")?.as_str()
    }

    /// Whether an event was stored. Other records are those of quarantined bodies, and of items that expire.
    pub fn is_new_event(&self) -> bool {
        let starts = |name, prefix| self.key_part(name).is_some_and(|part| part.starts_with(prefix));
        self.event_name == INSERT && starts(PK, "SESSION#") && starts(SK, "EVENT#")
    }

    /// The item of the event.
    ///
    /// # Errors
    /// The image is not that of an event.
    pub fn event(&self) -> Result<EventItem, InvalidImage> {
        let image = serde_dynamo::Item::deserialize(&self.dynamodb.new_image).map_err(|_| InvalidImage)?;
        serde_dynamo::from_item(image).map_err(|_| InvalidImage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::Body;
    use proptest::prelude::*;
    use serde_json::json;

    fn records() -> Vec<StreamRecord> {
        let event = serde_json::from_str(include_str!("../../../tests/fixtures/dynamodb-stream.json")).unwrap();
        serde_json::from_value::<StreamEvent>(event).unwrap().records
    }

    fn record(change: &Value) -> StreamRecord {
        serde_json::from_value(json!({"eventName": "INSERT", "dynamodb": change})).unwrap()
    }

    #[test]
    fn quarantined_bodies_and_expired_items_are_not_new_events() {
        let records = records();
        let new: Vec<_> = records.iter().map(StreamRecord::is_new_event).collect();
        assert_eq!(new, [true, false, true, false]);
        let start = records[0].event().unwrap();
        assert_eq!((start.event_type.as_str(), start.via, start.expires_at), ("START_CONVERSATION", None, None));
        assert_eq!(start.public_org_id.as_deref(), Some("acme"));
        assert_eq!(start.body, Body::Text(r#"{"event_type":"START_CONVERSATION"}"#.into()));
        assert_eq!(records[0].key().unwrap(), ItemKey { pk: start.pk, sk: start.sk });
        assert_eq!(records[0].event_id(), Some("82b261c4eb653e535c0deda1ac8351d7"));
        assert_eq!(records[2].event().unwrap().expires_at, Some(1_800_007_210));
        assert_eq!(records[1].event(), Err(InvalidImage));
        assert_eq!(records[3].event(), Err(InvalidImage), "a removed item has no new image");
        assert_eq!((records[3].event_id(), records[3].sequence_number()), (None, "100000000000000000004"));
    }

    #[test]
    fn a_body_that_is_not_utf_8_is_a_binary_attribute_in_base64() {
        let mut event: Value =
            serde_json::from_str(include_str!("../../../tests/fixtures/dynamodb-stream.json")).unwrap();
        let mut change = event["Records"][0]["dynamodb"].take();
        change["NewImage"]["body"] = json!({"B": "ewD/fQ=="});
        assert_eq!(record(&change).event().unwrap().body, Body::Binary(b"{\0\xff}".to_vec()));
        change["NewImage"]["body"] = json!({"B": "?"});
        assert_eq!(record(&change).event(), Err(InvalidImage));
    }

    #[test]
    fn an_unreadable_key_or_image_spares_the_other_records_of_the_batch() {
        for keys in [json!(null), json!(7), json!({"pk": {"S": "p"}}), json!({"pk": {"S": "p"}, "sk": {"N": "1"}})] {
            let record = record(&json!({"SequenceNumber": "1", "Keys": keys, "NewImage": []}));
            assert_eq!((record.key(), record.is_new_event(), record.event()), (None, false, Err(InvalidImage)));
        }
        let bare = record(&json!({"SequenceNumber": "1"}));
        assert_eq!((bare.key(), bare.event_id(), bare.is_new_event()), (None, None, false));
    }

    proptest! {
        #[test]
        fn sequence_numbers_are_compared_as_numbers(a: u128, b: u128, zeros in 0..3_usize) {
            let padded = format!("{}{a}", "0".repeat(zeros));
            prop_assert_eq!(SequenceNumber(&padded).cmp(&SequenceNumber(&b.to_string())), a.cmp(&b));
        }
    }
}
