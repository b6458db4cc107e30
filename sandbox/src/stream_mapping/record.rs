//! A record of the stream, in the form in which Lambda hands it to a function.
//!
//! Format: <https://docs.aws.amazon.com/lambda/latest/dg/with-ddb.html>

use std::collections::HashMap;

use anyhow::Context;
use aws_sdk_dynamodbstreams::types::{AttributeValue, Record as Source, StreamRecord};
use event_store::keys::PK;
use serde_dynamo::Item;
use serde_json::{Map, Value, json};
use unith_events::timestamp::Timestamp;

/// A record as its shard keeps it.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) sequence_number: String,
    pub(super) created_at: Timestamp,
    /// The record in the function's event: as text, which takes less memory than a [`Value`] and has the size that counts.
    pub(super) json: String,
}

impl Record {
    /// The record that [`to_json`] made.
    pub(super) fn new(json: &Value) -> anyhow::Result<Self> {
        let change = json.get("dynamodb").context("it has no change")?;
        let sequence_number =
            change.get("SequenceNumber").and_then(Value::as_str).context("it has no sequence number")?;
        let created_at = change.get("ApproximateCreationDateTime").and_then(Value::as_i64).context("it has no time")?;
        Ok(Self {
            sequence_number: sequence_number.to_owned(),
            created_at: Timestamp::from_epoch_milliseconds(created_at.saturating_mul(1_000))
                .context("its time is invalid")?,
            json: json.to_string(),
        })
    }
}

/// The event of these records.
pub(super) fn event<'r>(records: impl IntoIterator<Item = &'r Record>) -> serde_json::Result<Value> {
    let records: Vec<_> = records.into_iter().map(|record| record.json.as_str()).collect();
    serde_json::from_str(&format!(r#"{{"Records":[{}]}}"#, records.join(",")))
}

/// A hash of the partition key of a record that [`to_json`] made, the same in every run.
pub(super) fn partition_hash(json: &Value) -> anyhow::Result<u128> {
    let key = json.pointer("/dynamodb/Keys").and_then(|keys| keys.get(PK)).context("it has no partition key")?;
    Ok(u128::from_be_bytes(md5::compute(key.to_string()).0))
}

/// A record of the API as one of Lambda's event. All members that DynamoDB always has must be there.
pub(super) fn to_json(record: Source, stream_arn: &str) -> anyhow::Result<Value> {
    let change = record.dynamodb.context("it has no change")?;
    let mut json = json!({
        "eventID": record.event_id.context("it has no id")?,
        "eventName": record.event_name.context("it has no name")?.as_str(),
        "eventVersion": record.event_version.context("it has no version")?,
        "eventSource": record.event_source.context("it has no source")?,
        "awsRegion": record.aws_region.context("it has no region")?,
        "dynamodb": change_to_json(change)?,
        "eventSourceARN": stream_arn,
    });
    if let (Some(identity), Some(members)) = (record.user_identity, json.as_object_mut()) {
        let identity = json!({"type": identity.r#type, "principalId": identity.principal_id});
        members.insert("userIdentity".to_owned(), identity);
    }
    Ok(json)
}

fn change_to_json(change: StreamRecord) -> anyhow::Result<Value> {
    let created_at = change.approximate_creation_date_time.context("it has no time")?;
    let mut members = Map::from_iter([
        ("ApproximateCreationDateTime".to_owned(), created_at.secs().into()),
        ("Keys".to_owned(), item_to_json(change.keys.context("it has no keys")?)?),
        ("SequenceNumber".to_owned(), change.sequence_number.context("it has no sequence number")?.into()),
        ("SizeBytes".to_owned(), change.size_bytes.context("it has no size")?.into()),
        ("StreamViewType".to_owned(), change.stream_view_type.context("it has no view type")?.as_str().into()),
    ]);
    for (name, image) in [("NewImage", change.new_image), ("OldImage", change.old_image)] {
        if let Some(image) = image {
            members.insert(name.to_owned(), item_to_json(image)?);
        }
    }
    Ok(members.into())
}

fn item_to_json(item: HashMap<String, AttributeValue>) -> serde_json::Result<Value> {
    let attributes = item.into_iter().map(|(name, value)| (name, serde_dynamo::AttributeValue::from(value)));
    serde_json::to_value(Item::from(attributes.collect::<HashMap<_, _>>()))
}
