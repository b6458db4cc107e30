//! The functions that read the table's stream: `publish` and `sessions`, mapped as the template maps them.

use std::{fmt::Display, future::Future, sync::Arc, time::Duration};

use anyhow::Context;
use lambda_support::{aws::SdkConfig, env::Env};
use publish::handler::Publisher;
use serde_json::{Value, json};
use sessions::handler::SessionUpdater;
use tokio::time::{Instant, timeout};

use crate::{
    clients,
    random::uuid,
    services::{Services, TABLE_NAME},
    stream_mapping::{FilterCriteria, OnFailure, Settings, StartingPosition, StreamMapping},
};

/// The time-out of both functions in the template.
pub const TIMEOUT: Duration = Duration::from_mins(11);
/// Nothing new begins this long before the time-out.
const MARGIN: Duration = Duration::from_secs(10);
/// Lambda gives up on a record of this age.
const MAXIMUM_RECORD_AGE: Duration = Duration::from_hours(23);
/// A pause that nobody notices in a demo.
const POLL: Duration = Duration::from_millis(10);
/// The pause before the first retry.
const BACK_OFF: Duration = Duration::from_millis(50);

/// The running mappings.
pub struct StreamReaders {
    publish: StreamMapping,
    sessions: StreamMapping,
}

/// The settings of the template for `publish`.
pub fn publish_settings(on_failure: OnFailure) -> Settings {
    Settings { batch_size: 100, parallelization_factor: 1, ..settings("unith-publish", on_failure) }
}

/// The settings of the template for `sessions`.
pub fn sessions_settings(on_failure: OnFailure) -> Settings {
    Settings { batch_size: 1_000, batch_window: 1, parallelization_factor: 4, ..settings("unith-sessions", on_failure) }
}

fn settings(function_name: &str, on_failure: OnFailure) -> Settings {
    Settings {
        starting_position: StartingPosition::TrimHorizon,
        filters: FilterCriteria(vec![
            json!({"eventName": ["INSERT"], "dynamodb": {"Keys": {"sk": {"S": [{"prefix": "EVENT#"}]}}}}),
        ]),
        report_batch_item_failures: true,
        bisect_batch_on_function_error: true,
        maximum_record_age: Some(MAXIMUM_RECORD_AGE),
        on_failure: Some(on_failure),
        function_name: function_name.to_owned(),
        timeout: TIMEOUT,
        ..Settings::default()
    }
}

impl StreamReaders {
    /// Starts both functions. A second of the mappings' batch window takes `second`.
    pub async fn start(
        services: &Services,
        env: &Env,
        aws: &SdkConfig,
        second: Duration,
        write_log: impl Fn(&Value) + Clone + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let publisher = Publisher::new(publish::config::Config::from_env(env)?, aws).with_log(write_log.clone());
        publisher.warm_up().await;
        let updater = SessionUpdater::new(sessions::config::Config::from_env(env)?, aws).with_log(write_log);
        let (publisher, updater) = (Arc::new(publisher), Arc::new(updater));
        let paced = |settings| Settings { second, poll: POLL, back_off: BACK_OFF, ..settings };
        let publish = map(services, paced(publish_settings(services.on_failure()?)), move |event, id, deadline| {
            let publisher = Arc::clone(&publisher);
            async move { publisher.handle(event, &id, deadline).await }
        });
        let publish = publish.await?;
        let sessions = map(services, paced(sessions_settings(services.on_failure()?)), move |event, id, deadline| {
            let updater = Arc::clone(&updater);
            async move { updater.handle(event, &id, deadline).await }
        });
        Ok(Self { publish, sessions: sessions.await? })
    }

    /// Waits until both functions have processed all events that are stored now.
    ///
    /// # Errors
    /// They are not after `limit`.
    pub async fn wait_until_caught_up(&self, limit: Duration) -> anyhow::Result<()> {
        for (name, mapping) in [("publish", &self.publish), ("sessions", &self.sessions)] {
            let caught_up = timeout(limit, mapping.wait_until_caught_up()).await;
            let late = || format!("{name} has not processed the stored events after {} s", limit.as_secs());
            caught_up.with_context(late)??;
        }
        Ok(())
    }
}

/// Maps the table's stream to a function, which gets an event, the id of the request, and its deadline.
async fn map<F, E>(
    services: &Services,
    settings: Settings,
    function: impl Fn(Value, String, Instant) -> F + Send + Sync + 'static,
) -> anyhow::Result<StreamMapping>
where
    F: Future<Output = Result<Value, E>> + Send + 'static,
    E: Display,
{
    let streams = clients::streams_client(services.dynamodb.url())?;
    let handler = move |event| function(event, uuid(fastrand::u128(..)), Instant::now() + TIMEOUT - MARGIN);
    StreamMapping::start(streams, TABLE_NAME, settings, handler).await
}
