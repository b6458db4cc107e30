//! The whole system: the services, the functions behind the API Gateway, and the stack.

use std::{collections::BTreeMap, sync::Arc};

use lambda_support::{aws, env::Env};
use provision::provisioner::Provisioner;
use receive::{config::Config, delivery_log::DeliveryLog, gateway::WEBHOOK_PATH, handler::Receiver, runtime};

use crate::{
    api_gateway::{self, ApiGateway},
    options::Options,
    server::listen,
    services::Services,
    stack::Stack,
};

/// The whole system. Its stack exists.
pub struct Sandbox {
    pub services: Services,
    /// The API Gateway in front of `receive`.
    pub api_gateway: ApiGateway,
    /// The function `provision`.
    pub provisioner: Arc<Provisioner>,
    pub stack: Stack,
}

impl Sandbox {
    /// Starts the system. `write_log` gets the log of each request.
    pub async fn start(
        options: &Options,
        write_log: impl Fn(&DeliveryLog) + Clone + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = listen("API Gateway", options.ports.port).await?;
        let services = Services::start(options, format!("http://{}", listener.local_addr()?)).await?;
        let env: Env = services.environment().into_iter().collect();
        let provisioner = services.provisioner();
        let stack = services.create_stack(Arc::clone(&provisioner)).await?;
        let receiver = Receiver::new(Config::from_env(&env)?, &aws::config(&env)?);
        receiver.warm_up().await;
        let function = api_gateway::function(runtime::service(Arc::new(receiver), write_log));
        let routes = BTreeMap::from([(format!("POST {WEBHOOK_PATH}"), function)]);
        Ok(Self { services, api_gateway: ApiGateway::serve(listener, routes)?, provisioner, stack })
    }
}
