//! Records of a table's stream, as Lambda's event source mapping makes them of items.

use std::collections::BTreeMap;

use sandbox::clients::{ACCOUNT, REGION};
use serde_json::{Value, json};

use crate::table::Item;

/// The record of an item that was inserted at the position `sequence_number` of its shard.
pub fn inserted(item: &Item, sequence_number: u64) -> Value {
    let attribute = |value| json!(serde_dynamo::AttributeValue::from(value));
    let image: BTreeMap<_, _> = item.iter().map(|(name, value)| (name, attribute(value.clone()))).collect();
    let keys: BTreeMap<_, _> = image.iter().filter(|(name, _)| ["pk", "sk"].contains(&name.as_str())).collect();
    json!({
        "eventID": format!("{sequence_number:032x}"), "eventName": "INSERT", "eventVersion": "1.1",
        "eventSource": "aws:dynamodb", "awsRegion": REGION,
        "dynamodb": {
            "ApproximateCreationDateTime": 1_768_471_053, "Keys": keys, "NewImage": image,
            "SequenceNumber": sequence_number.to_string(), "SizeBytes": 800, "StreamViewType": "NEW_IMAGE",
        },
        "eventSourceARN": format!("arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/events/stream/2026-01-15T00:00:00.000"),
    })
}
