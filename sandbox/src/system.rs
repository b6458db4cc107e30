//! The whole system: the services, the functions behind the API Gateway and the spill queue, and the stack.

use std::{collections::BTreeMap, sync::Arc};

use lambda_support::{
    aws::{self, SdkConfig},
    env::Env,
};
use provision::provisioner::Provisioner;
use receive::{breaker::Periods, gateway::WEBHOOK_PATH, handler::Receiver, runtime};
use redrive::handler::Redriver;
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    api_gateway::{self, ApiGateway},
    event_source_mapping::{EventSourceMapping, Settings},
    options::Options,
    queues::REDRIVE_TIMEOUT,
    random::uuid,
    server::listen,
    services::Services,
    stack::Stack,
    stream_readers::StreamReaders,
};

/// The whole system. Its stack exists.
pub struct Sandbox {
    /// The mapping from the spill queue to `redrive`.
    pub spill_mapping: EventSourceMapping,
    /// The functions `publish` and `sessions`.
    pub stream_readers: StreamReaders,
    pub services: Services,
    /// The API Gateway in front of `receive`.
    pub api_gateway: ApiGateway,
    /// The function `provision`.
    pub provisioner: Arc<Provisioner>,
    pub stack: Stack,
    /// How long `receive` does not ask the table after a failure.
    pub breaker_periods: Periods,
}

impl Sandbox {
    /// Starts the system. `write_log` gets the log lines of the functions but `provision`.
    pub async fn start(
        options: &Options,
        write_log: impl Fn(&Value) + Clone + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = listen("API Gateway", options.ports.port).await?;
        let services = Services::start(options, format!("http://{}", listener.local_addr()?)).await?;
        let env: Env = services.environment().into_iter().collect();
        let aws = aws::config(&env)?;
        let provisioner = services.provisioner();
        let stack = services.create_stack(Arc::clone(&provisioner)).await?;

        let config = receive::config::Config::from_env(&env)?;
        let breaker_periods = options.breaker_periods;
        let receiver = Receiver::new(receive::config::Config { breaker_periods, ..config }, &aws);
        receiver.warm_up().await;
        let write_delivery = write_log.clone();
        let service = runtime::service(Arc::new(receiver), move |line| {
            write_delivery(&serde_json::to_value(line).unwrap_or_default());
        });
        let routes = BTreeMap::from([(format!("POST {WEBHOOK_PATH}"), api_gateway::function(service))]);
        let api_gateway = ApiGateway::serve(listener, routes)?;

        let second = options.sqs.second;
        let stream_readers = StreamReaders::start(&services, &env, &aws, second, write_log.clone()).await?;
        let spill_mapping = map_spill_queue(&services, &env, &aws, second, write_log).await?;
        Ok(Self { spill_mapping, stream_readers, services, api_gateway, provisioner, stack, breaker_periods })
    }
}

/// Maps the spill queue to `redrive`, as the template does.
async fn map_spill_queue(
    services: &Services,
    env: &Env,
    aws: &SdkConfig,
    second: std::time::Duration,
    write_log: impl Fn(&Value) + Send + Sync + 'static,
) -> anyhow::Result<EventSourceMapping> {
    let config = redrive::config::Config::from_env(env)?;
    let redriver = Arc::new(Redriver::new(config, aws, fastrand::u32).with_log(write_log));
    let settings = Settings { timeout: REDRIVE_TIMEOUT, second, ..Settings::default() };
    EventSourceMapping::start(services.sqs_client()?, &services.queues.spill_url, settings, move |event| {
        let redriver = Arc::clone(&redriver);
        async move { redriver.handle(event, &uuid(fastrand::u128(..)), Instant::now() + REDRIVE_TIMEOUT).await }
    })
    .await
}
