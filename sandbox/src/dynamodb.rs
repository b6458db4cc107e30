//! The embedded DynamoDB: `dynoxide` behind its own HTTP server, and the tables as in the template.

use std::path::Path;

use anyhow::Context;
use aws_sdk_dynamodb::{
    Client,
    error::BuildError,
    operation::create_table::builders::CreateTableFluentBuilder,
    types::{
        AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection, ProjectionType,
        ScalarAttributeType, StreamSpecification, StreamViewType, TimeToLiveSpecification,
    },
};
use dynoxide::Database;
use event_store::keys::{EXPIRES_AT, PK, SK};
use rusqlite::Connection;
use sessions::item::{GPK, GSK, INDEX, INDEXED};
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
    let stream = StreamSpecification::builder().stream_enabled(true).stream_view_type(StreamViewType::NewImage);
    create(client, name, on_demand(client, name)?.stream_specification(stream.build()?)).await
}

/// Creates the sessions table if it does not exist: on demand, with the index of the list and time to live.
pub async fn create_sessions_table(client: &Client, name: &str) -> anyhow::Result<()> {
    let projection = Projection::builder()
        .projection_type(ProjectionType::Include)
        .set_non_key_attributes(Some(INDEXED.map(str::to_owned).into()));
    let index = GlobalSecondaryIndex::builder()
        .index_name(INDEX)
        .key_schema(key(GPK, KeyType::Hash)?)
        .key_schema(key(GSK, KeyType::Range)?)
        .projection(projection.build());
    let table = on_demand(client, name)?
        .attribute_definitions(attribute(GPK)?)
        .attribute_definitions(attribute(GSK)?)
        .global_secondary_indexes(index.build()?);
    create(client, name, table).await
}

/// A table with the keys that both tables have.
fn on_demand(client: &Client, name: &str) -> Result<CreateTableFluentBuilder, BuildError> {
    Ok(client
        .create_table()
        .table_name(name)
        .key_schema(key(PK, KeyType::Hash)?)
        .key_schema(key(SK, KeyType::Range)?)
        .attribute_definitions(attribute(PK)?)
        .attribute_definitions(attribute(SK)?)
        .billing_mode(BillingMode::PayPerRequest))
}

async fn create(client: &Client, name: &str, table: CreateTableFluentBuilder) -> anyhow::Result<()> {
    let tables = client.list_tables().send().await.context("cannot list the tables of DynamoDB")?;
    if tables.table_names().iter().any(|known| known == name) {
        return Ok(());
    }
    table.send().await.with_context(|| format!("cannot create table `{name}`"))?;
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

fn key(name: &str, role: KeyType) -> Result<KeySchemaElement, BuildError> {
    KeySchemaElement::builder().attribute_name(name).key_type(role).build()
}

fn attribute(name: &str) -> Result<AttributeDefinition, BuildError> {
    AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S).build()
}
