//! The event of the table's stream, as Lambda's event source mapping hands it to a function.
//!
//! Format: <https://docs.aws.amazon.com/lambda/latest/dg/with-ddb.html>

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::item::EventItem;

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

    /// The key of the item, unless it has another form than this table's.
    pub fn key(&self) -> Option<ItemKey> {
        let part = |name: &str| Some(self.dynamodb.keys.get(name)?.get("S")?.as_str()?.to_owned());
        Some(ItemKey { pk: part("pk")?, sk: part("sk")? })
    }

    /// Whether an event was stored. Other records are those of quarantined bodies, and of items that expire.
    pub fn is_new_event(&self) -> bool {
        self.event_name == INSERT
            && self.key().is_some_and(|key| key.pk.starts_with("SESSION#") && key.sk.starts_with("EVENT#"))
    }

    /// The item of the event.
    ///
    /// # Errors
    /// The image is not that of an event.
    pub fn event(&self) -> Result<EventItem, InvalidImage> {
        let image: serde_dynamo::Item =
            serde_json::from_value(self.dynamodb.new_image.clone()).map_err(|_| InvalidImage)?;
        serde_dynamo::from_item(image).map_err(|_| InvalidImage)
    }
}
