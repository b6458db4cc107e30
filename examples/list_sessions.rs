//! Prints the last sessions of a head, newest first, straight from the sessions table.
//!
//! ```sh
//! SESSIONS_TABLE_NAME=… AWS_REGION=… cargo run -p tests --example list_sessions -- HEAD
//! ```

use std::{error::Error, io::Write};

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use lambda_support::{aws, env::Env};
use sessions::item::{INDEX, IndexedSession, SHARDS, index_partition};
use unith_events::{ids::HeadId, session::State};

const COUNT: i32 = 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let [head_id] = std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "usage: list_sessions HEAD")?;
    let env = Env::from_process();
    let table = env.required("SESSIONS_TABLE_NAME", "the name of the DynamoDB table of sessions")?;
    let client = aws::dynamodb(&aws::config(&env)?);
    print_last_sessions(&client, table, &head_id.parse()?, &mut std::io::stdout()).await
}

/// Prints one line per session: its start, its id, and how it ended.
pub(crate) async fn print_last_sessions(
    client: &Client,
    table: &str,
    head_id: &HeadId,
    out: &mut impl Write,
) -> Result<(), Box<dyn Error>> {
    let mut sessions = Vec::new();
    // Open and ended sessions are in four partitions each. Any of them may have all of the last ones.
    for (state, shard) in [State::Open, State::Ended].into_iter().flat_map(|state| (0..SHARDS).map(move |n| (state, n)))
    {
        let query = client
            .query()
            .table_name(table)
            .index_name(INDEX)
            .key_condition_expression("gpk = :partition")
            .expression_attribute_values(":partition", AttributeValue::S(index_partition(state, head_id, shard)))
            .scan_index_forward(false)
            .limit(COUNT);
        for item in query.send().await?.items.unwrap_or_default() {
            sessions.push(serde_dynamo::from_item::<_, IndexedSession>(item)?);
        }
    }
    sessions.sort_unstable_by(|one, other| other.gsk.cmp(&one.gsk));
    for IndexedSession { started_at, session_id, ended_by, duration_ms, .. } in
        sessions.into_iter().take(COUNT as usize)
    {
        let seconds = duration_ms.map(|ms| format!(" after {} s", ms / 1_000)).unwrap_or_default();
        let end = ended_by.map_or("open".to_owned(), |by| format!("{by:?}{seconds}").to_lowercase());
        writeln!(out, "{started_at} {session_id} {end}")?;
    }
    Ok(())
}
