//! The configuration of a mapping.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use unith_events::timestamp::Timestamp;

use super::filter::FilterCriteria;

const MAX_BATCH_SIZE: usize = 10_000;
const MAX_BATCH_WINDOW: u32 = 300;
const MAX_PARALLELIZATION: usize = 10;
const MAX_RETRY_ATTEMPTS: u32 = 10_000;
const MIN_RECORD_AGE: Duration = Duration::from_mins(1);
const MAX_RECORD_AGE: Duration = Duration::from_hours(7 * 24);

/// The configuration of a mapping. The defaults are Lambda's.
#[derive(Clone)]
pub struct Settings {
    pub starting_position: StartingPosition,
    /// The number of shards of the stream.
    pub shards: usize,
    /// How many batches of a shard are processed at the same time, 1 to 10. Each partition key is always in the same one.
    pub parallelization_factor: usize,
    /// The largest number of records per batch, at most 10,000.
    pub batch_size: usize,
    /// How many seconds a batch that is not full waits for more records, at most 300.
    pub batch_window: u32,
    /// Which records the function gets. The others count as done.
    pub filters: FilterCriteria,
    /// `FunctionResponseTypes: [ReportBatchItemFailures]`. Without it, any response is a success of the whole batch.
    pub report_batch_item_failures: bool,
    pub bisect_batch_on_function_error: bool,
    /// `None` for no limit, which is -1 for Lambda.
    pub maximum_retry_attempts: Option<u32>,
    /// One minute to seven days. `None` for the life of a record in the stream, which is -1 for Lambda.
    pub maximum_record_age: Option<Duration>,
    /// Where messages about discarded records go.
    pub on_failure: Option<OnFailure>,
    /// The name of the function in these messages.
    pub function_name: String,
    /// The time-out of the function, in real time.
    pub timeout: Duration,
    /// How long a second of `batch_window` takes.
    pub second: Duration,
    /// The pause between two polls of a stream without new records.
    pub poll: Duration,
    /// The pause before a first retry. It doubles with every further failure in a row, up to 32 times of it.
    pub back_off: Duration,
    /// The time by which the age of a record is judged.
    pub clock: Clock,
    pub faults: Faults,
}

/// The time, passed in.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Where a mapping begins to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartingPosition {
    TrimHorizon,
    Latest,
}

/// A queue of SQS as the on-failure destination.
#[derive(Debug, Clone)]
pub struct OnFailure {
    pub client: aws_sdk_sqs::Client,
    pub queue_url: String,
}

/// The faults of a mapping, harder than Lambda's. Shares are between 0 and 1.
///
/// Each shard draws its faults from the seed, whatever the others do. The batches depend on when records come. A fault that fails
/// every attempt, with a share of 1, leaves the records to their age and their retries.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub seed: u64,
    /// The share of invocations that fail before the function runs, as throttled ones do.
    pub throttled: f64,
    /// The share of invocations that time out at once. The function handles the batch late, beside the retry.
    pub late_invocations: f64,
    /// The longest delay of a late invocation.
    pub late_by: Duration,
    /// The share of successful invocations whose response is lost, so that the batch has failed.
    pub lost_responses: f64,
    /// The share of successful invocations that count as a partial failure at a random record.
    pub partial_failures: f64,
    /// The share of successful batches after which the shard goes back, by up to four batches, and delivers them again.
    pub rewinds: f64,
    /// The share of batches and of retries of which only a random first part is delivered, and the rest afterwards.
    pub cuts: f64,
    /// The longest pause before an invocation. Each shard has its own speed, so that some fall behind others.
    pub pauses: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            starting_position: StartingPosition::TrimHorizon,
            shards: 1,
            parallelization_factor: 1,
            batch_size: 100,
            batch_window: 0,
            filters: FilterCriteria::default(),
            report_batch_item_failures: false,
            bisect_batch_on_function_error: false,
            maximum_retry_attempts: None,
            maximum_record_age: None,
            on_failure: None,
            function_name: "function".to_owned(),
            timeout: Duration::from_secs(3),
            second: Duration::from_secs(1),
            poll: Duration::from_millis(250),
            back_off: Duration::from_millis(500),
            clock: Arc::new(Timestamp::now),
            faults: Faults::default(),
        }
    }
}

impl Settings {
    /// Refuses what Lambda refuses, and faults that make no sense.
    pub(super) fn validate(&self) -> anyhow::Result<()> {
        ensure!((1..=MAX_BATCH_SIZE).contains(&self.batch_size), "a batch has 1 to 10,000 records");
        ensure!(self.batch_window <= MAX_BATCH_WINDOW, "the batch window is at most 300 s");
        ensure!(
            (1..=MAX_PARALLELIZATION).contains(&self.parallelization_factor),
            "the parallelization factor is 1 to 10"
        );
        ensure!(self.shards > 0, "a stream has at least one shard");
        ensure!(
            self.maximum_retry_attempts.is_none_or(|attempts| attempts <= MAX_RETRY_ATTEMPTS),
            "there are at most 10,000 retries"
        );
        ensure!(
            self.maximum_record_age.is_none_or(|age| (MIN_RECORD_AGE..=MAX_RECORD_AGE).contains(&age)),
            "the maximum record age is one minute to seven days"
        );
        ensure!(!self.poll.is_zero(), "the pause between two polls is longer than nothing");
        let Faults { throttled, late_invocations, lost_responses, partial_failures, rewinds, cuts, .. } = self.faults;
        let shares = [throttled, late_invocations, lost_responses, partial_failures, rewinds, cuts];
        ensure!(shares.iter().all(|share| (0.0..=1.0).contains(share)), "a share is between 0 and 1");
        Ok(())
    }
}
