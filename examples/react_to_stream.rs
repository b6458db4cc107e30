//! A Lambda function on the table's stream that prints every conversation that ended.
//!
//! Its event source mapping needs `FunctionResponseTypes: [ReportBatchItemFailures]`: Lambda then retries from the first
//! record that failed, and no earlier one again.

use std::io::Write;

use event_store::item::EventItem;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde::{Deserialize, Serialize};
use serde_dynamo::AttributeValue;
use unith_events::event_type::EventType;

/// A batch of changes to the table, in order.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct StreamEvent {
    records: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    event_name: String,
    dynamodb: Change,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Change {
    sequence_number: String,
    new_image: Option<serde_dynamo::Item>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Response {
    batch_item_failures: Vec<Failure>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Failure {
    item_identifier: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let handler = async |event: LambdaEvent<StreamEvent>| Ok::<_, Error>(handle(event.payload, &mut std::io::stdout()));
    lambda_runtime::run(service_fn(handler)).await
}

/// Prints a line per conversation that ended, up to the first record that fails.
pub(crate) fn handle(event: StreamEvent, out: &mut impl Write) -> Response {
    for record in event.records {
        let item_identifier = record.dynamodb.sequence_number.clone();
        if let Err(error) = react(record, out) {
            // stderr is the function's log.
            let _ = writeln!(std::io::stderr(), "record {item_identifier} failed: {error}");
            return Response { batch_item_failures: vec![Failure { item_identifier }] };
        }
    }
    Response { batch_item_failures: Vec::new() }
}

fn react(record: Record, out: &mut impl Write) -> Result<(), Error> {
    // Items that expire are in the stream too, and so are quarantined bodies, which have no event type.
    let end = AttributeValue::S(EventType::EndConversation.as_str().to_owned());
    let inserted = record.dynamodb.new_image.filter(|_| record.event_name == "INSERT");
    if let Some(item) = inserted.filter(|item| item.get("event_type") == Some(&end)) {
        let EventItem { head_id, session_id, occurred_at, .. } = serde_dynamo::from_item(item)?;
        writeln!(out, "session {session_id} of head {head_id} ended at {occurred_at}")?;
    }
    Ok(())
}
