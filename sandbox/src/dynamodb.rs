//! The embedded DynamoDB: `dynoxide` behind its own HTTP server, and the events table as in the template.

use std::path::Path;

use anyhow::Context;
use aws_sdk_dynamodb::{
    Client,
    types::{
        AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, StreamSpecification,
        StreamViewType, TimeToLiveSpecification,
    },
};
use dynoxide::Database;
use event_store::keys::{EXPIRES_AT, PK, SK};
use rusqlite::Connection;
use tokio::net::TcpListener;

use crate::{random::uuid, server::ServerHandle};

/// The position of a record in its stream.
///
/// The embedded DynamoDB looks for the last record before every write, and for the next ones at every poll. Without an index
/// it reads all records each time, so that the cost of a write grows with the number of writes before it.
const STREAM_INDEX: &str = "CREATE INDEX IF NOT EXISTS _stream_records_position \
                            ON _stream_records (table_name, CAST(sequence_number AS INTEGER))";

/// Serves a DynamoDB that keeps its data in the file `data`, or in memory.
pub fn serve(listener: TcpListener, data: Option<&Path>) -> anyhow::Result<ServerHandle> {
    let path = match data {
        // A name, so that a second connection can add the index.
        None => format!("file:{}?mode=memory&cache=shared", uuid(fastrand::u128(..))),
        Some(path) => path.to_str().context("the path of the data file is not UTF-8; choose another one")?.to_owned(),
    };
    let database = Database::new(&path).with_context(|| format!("the embedded DynamoDB cannot use {path}"))?;
    let index = Connection::open(&path).and_then(|connection| connection.execute_batch(STREAM_INDEX));
    index.context("the index of the stream's records cannot be created")?;
    Ok(ServerHandle::start(listener, |listener, stop| async move {
        let _ = dynoxide::server::serve_with_shutdown(listener, database, stop).await;
    })?)
}

/// Creates the events table if it does not exist: on demand, with a stream of new images and time to live.
///
/// The embedded DynamoDB does not have the point-in-time recovery of the template.
pub async fn create_table(client: &Client, name: &str) -> anyhow::Result<()> {
    let tables = client.list_tables().send().await.context("cannot list the tables of DynamoDB")?;
    if tables.table_names().iter().any(|known| known == name) {
        return Ok(());
    }
    let key = |name: &str, role| KeySchemaElement::builder().attribute_name(name).key_type(role).build();
    let attribute =
        |name: &str| AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S).build();
    let stream = StreamSpecification::builder().stream_enabled(true).stream_view_type(StreamViewType::NewImage);
    client
        .create_table()
        .table_name(name)
        .key_schema(key(PK, KeyType::Hash)?)
        .key_schema(key(SK, KeyType::Range)?)
        .attribute_definitions(attribute(PK)?)
        .attribute_definitions(attribute(SK)?)
        .billing_mode(BillingMode::PayPerRequest)
        .stream_specification(stream.build()?)
        .send()
        .await
        .with_context(|| format!("cannot create table `{name}`"))?;
    let ttl = TimeToLiveSpecification::builder().attribute_name(EXPIRES_AT).enabled(true).build()?;
    client
        .update_time_to_live()
        .table_name(name)
        .time_to_live_specification(ttl)
        .send()
        .await
        .with_context(|| format!("cannot set the time to live of table `{name}`"))?;
    Ok(())
}
