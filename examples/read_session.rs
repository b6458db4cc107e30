//! Prints the events of one session in the order in which they happened.
//!
//! ```sh
//! TABLE_NAME=… AWS_REGION=… cargo run -p tests --example read_session -- HEAD SESSION
//! ```

use std::{error::Error, io::Write};

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use event_store::{item::EventItem, keys::session_pk};
use lambda_support::{aws, env::Env};
use unith_events::ids::{HeadId, SessionId};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let [head_id, session_id] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "usage: read_session HEAD SESSION")?;
    let env = Env::from_process();
    let table = env.required("TABLE_NAME", "the name of the DynamoDB table")?;
    let client = aws::dynamodb(&aws::config(&env)?);
    print_session(&client, table, &head_id.parse()?, &session_id.parse()?, &mut std::io::stdout()).await
}

/// Prints one line per event: its instant, its type and its id.
pub(crate) async fn print_session(
    client: &Client,
    table: &str,
    head_id: &HeadId,
    session_id: &SessionId,
    out: &mut impl Write,
) -> Result<(), Box<dyn Error>> {
    // All events of a session share a partition, and their sort keys have the order in which they happened.
    let query = client
        .query()
        .table_name(table)
        .key_condition_expression("pk = :session")
        .expression_attribute_values(":session", AttributeValue::S(session_pk(head_id, session_id)));
    let mut items = query.into_paginator().items().send();
    while let Some(item) = items.try_next().await? {
        let EventItem { occurred_at, event_type, event_id, .. } = serde_dynamo::from_item(item)?;
        writeln!(out, "{occurred_at} {event_type} {event_id}")?;
    }
    Ok(())
}
