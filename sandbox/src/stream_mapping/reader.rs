//! Reading the stream, and dividing its records among the shards.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use aws_sdk_dynamodbstreams::{
    Client,
    error::DisplayErrorContext,
    types::{Record as Source, ShardIteratorType},
};
use tokio::{sync::mpsc::UnboundedSender, time::sleep};

use super::{
    filter::Filters,
    progress::{Page, Tracker},
    record::{Record, partition_hash, to_json},
    settings::{Settings, StartingPosition},
};

/// The largest number of records per request.
const MAX_RECORDS: usize = 1_000;
/// The life of a record in a stream.
///
/// Source: <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Streams.html>
pub(super) const RETENTION: Duration = Duration::from_hours(24);

/// A stream, and where the next record of its shard is.
pub(super) struct Stream {
    client: Client,
    position: Position,
    iterator: String,
}

/// The shard of a stream.
#[derive(Debug, Clone)]
pub(super) struct Position {
    pub(super) stream_arn: Arc<str>,
    pub(super) shard_id: Arc<str>,
}

impl Stream {
    /// The stream of `table`. It must have exactly one shard, as that of the embedded DynamoDB has.
    pub(super) async fn open(client: Client, table: &str, start: StartingPosition) -> anyhow::Result<Self> {
        let streams = client.list_streams().table_name(table).send().await?.streams.unwrap_or_default();
        let [stream] = streams.as_slice() else { bail!("table `{table}` has {} streams, not one", streams.len()) };
        let stream_arn = stream.stream_arn().with_context(|| format!("the stream of table `{table}` has no ARN"))?;
        let description = client.describe_stream().stream_arn(stream_arn).send().await?.stream_description;
        let shards = description.map(|stream| stream.shards.unwrap_or_default()).unwrap_or_default();
        let [shard] = shards.as_slice() else { bail!("stream {stream_arn} has {} shards, not one", shards.len()) };
        let shard_id = shard.shard_id().with_context(|| format!("the shard of stream {stream_arn} has no id"))?;
        let iterator_type = match start {
            StartingPosition::TrimHorizon => ShardIteratorType::TrimHorizon,
            StartingPosition::Latest => ShardIteratorType::Latest,
        };
        let iterator = client.get_shard_iterator().stream_arn(stream_arn).shard_id(shard_id);
        let iterator = iterator.shard_iterator_type(iterator_type).send().await?.shard_iterator;
        let position = Position { stream_arn: stream_arn.into(), shard_id: shard_id.into() };
        let iterator = iterator.with_context(|| format!("stream {stream_arn} has no iterator"))?;
        Ok(Self { client, position, iterator })
    }

    pub(super) fn position(&self) -> Position {
        self.position.clone()
    }

    /// The next records. After a failure of DynamoDB or of the connection, there are none, and the next call repeats it.
    async fn next(&mut self) -> anyhow::Result<Option<Vec<Source>>> {
        let request = self.client.get_records().shard_iterator(&self.iterator);
        let page = match request.limit(i32::try_from(MAX_RECORDS)?).send().await {
            Ok(page) => page,
            Err(error) => {
                let is_final = error.as_service_error().is_some_and(|error| {
                    error.is_resource_not_found_exception()
                        || error.is_trimmed_data_access_exception()
                        || error.is_expired_iterator_exception()
                });
                return if is_final { bail!("{}", DisplayErrorContext(error)) } else { Ok(None) };
            }
        };
        self.iterator = page.next_shard_iterator.context("the shard was closed")?;
        Ok(Some(page.records.unwrap_or_default()))
    }
}

/// Reads the stream for all shards.
pub(super) struct Reader {
    pub(super) stream: Stream,
    pub(super) filters: Filters,
    pub(super) shards: Vec<UnboundedSender<Arc<Record>>>,
    pub(super) settings: Arc<Settings>,
    pub(super) tracker: Tracker,
}

impl Reader {
    /// Reads until the mapping is dropped, or until the stream fails for good.
    pub(super) async fn run(mut self) {
        loop {
            match self.poll().await {
                Ok(true) => sleep(self.settings.poll).await,
                Ok(false) => {}
                Err(error) => return self.tracker.fail(&error),
            }
        }
    }

    /// Reads one page. Whether to pause before the next one.
    async fn poll(&mut self) -> anyhow::Result<bool> {
        self.tracker.poll();
        let Some(records) = self.stream.next().await? else { return Ok(true) };
        let is_end = records.len() < MAX_RECORDS;
        let (mut page, mut taken) = (Page::default(), Vec::with_capacity(records.len()));
        for record in records {
            self.take(record, &mut page, &mut taken).context("a record of the stream is invalid")?;
        }
        // Before the shards get them: they cannot be done before they were read.
        self.tracker.page(&page, is_end);
        for (record, shard) in taken.into_iter().zip(page.shards) {
            // The shards live as long as the reader.
            let _ = self.shards.get(shard).map(|shard| shard.send(record));
        }
        Ok(is_end)
    }

    fn take(&self, record: Source, page: &mut Page, taken: &mut Vec<Arc<Record>>) -> anyhow::Result<()> {
        let json = to_json(record, &self.stream.position.stream_arn)?;
        let record = Record::new(&json)?;
        let age = (self.settings.clock)().checked_since(record.created_at);
        if age.is_some_and(|age| age > RETENTION) {
            page.trimmed += 1;
        } else if self.filters.matches(&json) {
            let shards = u128::try_from(self.shards.len())?;
            page.shards.push(usize::try_from(partition_hash(&json)? % shards)?);
            taken.push(Arc::new(record));
        } else {
            page.filtered += 1;
        }
        Ok(())
    }
}
