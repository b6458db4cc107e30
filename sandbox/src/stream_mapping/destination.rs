//! The message about records that were discarded.
//!
//! It has no content of the records: whoever receives it reads them from the stream, by shard and sequence numbers, or from
//! the table.
//!
//! Format: <https://docs.aws.amazon.com/lambda/latest/dg/services-dynamodb-errors.html>

use serde_json::{Value, json};
use unith_events::timestamp::Timestamp;

use super::{
    batch::{Batch, End},
    reader::Position,
};
use crate::clients::{ACCOUNT, REGION};

/// Why records were discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    RecordAgeExceeded,
    RetryAttemptsExhausted,
}

impl Condition {
    fn as_str(self) -> &'static str {
        match self {
            Self::RecordAgeExceeded => "RecordAgeExceeded",
            Self::RetryAttemptsExhausted => "RetryAttemptsExhausted",
        }
    }
}

/// The message about a discarded batch.
pub(super) fn message(
    batch: &Batch,
    condition: Condition,
    position: &Position,
    function_name: &str,
    request_id: &str,
    now: Timestamp,
) -> Value {
    let (first, last) = (batch.records.first(), batch.records.last());
    let mut message = json!({
        "requestContext": {
            "requestId": request_id,
            "functionArn": format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{function_name}"),
            "condition": condition.as_str(),
            "approximateInvokeCount": batch.invocations,
        },
        "version": "1.0",
        "timestamp": now.to_string(),
        "DDBStreamBatchInfo": {
            "shardId": position.shard_id,
            "startSequenceNumber": first.map(|record| &record.sequence_number),
            "endSequenceNumber": last.map(|record| &record.sequence_number),
            "approximateArrivalOfFirstRecord": first.map(|record| in_seconds(record.created_at)),
            "approximateArrivalOfLastRecord": last.map(|record| in_seconds(record.created_at)),
            "batchSize": batch.records.len(),
            "streamArn": position.stream_arn,
        },
    });
    // Records that were too old before their first invocation had no response.
    if let (Some(end), Some(members)) = (batch.last_end, message.as_object_mut()) {
        let function_error = (end == End::Failure).then_some("Unhandled");
        let response = json!({"statusCode": 200, "executedVersion": "$LATEST", "functionError": function_error});
        members.insert("responseContext".to_owned(), response);
    }
    message
}

fn in_seconds(time: Timestamp) -> String {
    time.whole_second().to_string().replace(".000Z", "Z")
}
