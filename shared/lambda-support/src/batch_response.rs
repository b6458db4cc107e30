//! The response to a batch of an event source mapping: it names the items that failed.
//!
//! Format: <https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>; the same for streams.

use serde::Serialize;

/// The items that failed. Of a queue, all others are done; of a stream, all records before the least one named.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchResponse {
    batch_item_failures: Vec<BatchItemFailure>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct BatchItemFailure {
    item_identifier: String,
}

impl BatchResponse {
    /// Adds an item: the id of a message, or the sequence number of a record.
    pub fn fail(&mut self, identifier: &str) {
        self.batch_item_failures.push(BatchItemFailure { item_identifier: identifier.to_owned() });
    }
}
