//! The simulated services around the functions, set up as the template sets up the real ones.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context;
use lambda_support::env::{Env, EnvError};
use provision::provisioner::Provisioner;
use receive::gateway::WEBHOOK_PATH;
use serde_json::json;

use crate::{
    clients::{self, ACCESS_KEY, REGION},
    dynamodb,
    eventbridge::{EventBridge, bus_arn},
    options::Options,
    platform::{
        account::{EMAIL, HEAD_ID, SECRET_KEY},
        settings::Settings,
        simulator::Platform,
    },
    queues::Queues,
    secrets_manager::SecretsManager,
    server::{ServerHandle, listen},
    sqs::Sqs,
    stack::{LOGICAL_ID, STACK_GUID, Stack},
    stream_mapping::OnFailure,
    switch::Switch,
};

pub const TABLE_NAME: &str = "unith-events";
/// The name of the event bus.
pub const EVENT_BUS: &str = "unith";
pub const SESSIONS_TABLE_NAME: &str = "unith-sessions";
pub const KEYS_SECRET: &str = "unith-webhook-keys";
/// The name of the secret with the credentials of the UNITH account.
pub const CREDENTIALS_SECRET: &str = "unith-credentials";
pub const WEBHOOK_URL: &str = "https://webhooks.example.com/webhooks/head-events";
/// The host in [`WEBHOOK_URL`].
const WEBHOOK_HOST: &str = "webhooks.example.com";
/// A hundred years, so that no event of a demo is past its retention.
const RETENTION_DAYS: &str = "36500";

/// The services: the tables, the queues and the event bus exist, the key ring is empty, and UNITH has an account.
#[derive(Debug)]
pub struct Services {
    /// The switch in front of DynamoDB.
    pub dynamodb: Switch,
    pub secrets_manager: SecretsManager,
    pub sqs: Sqs,
    pub queues: Queues,
    pub eventbridge: EventBridge,
    pub platform: Platform,
    webhook_base: String,
    _dynamodb_server: ServerHandle,
}

impl Services {
    /// Starts the services. Deliveries go to `webhook_base`, e.g. `http://127.0.0.1:9000`.
    pub async fn start(options: &Options, webhook_base: String) -> anyhow::Result<Self> {
        let listener = listen("DynamoDB", options.ports.dynamodb_port).await?;
        let dynamodb_server = dynamodb::serve(listen("DynamoDB", 0).await?, options.data.as_deref())?;
        let dynamodb = Switch::serve(listener, dynamodb_server.url())?;
        let secrets_manager =
            SecretsManager::serve(listen("Secrets Manager", options.ports.secrets_manager_port).await?)?;
        let sqs = Sqs::serve(listen("SQS", options.ports.sqs_port).await?, options.sqs)?;
        let queues = Queues::create(&clients::sqs_client(sqs.url())?).await?;
        let eventbridge =
            EventBridge::serve(listen("EventBridge", options.ports.eventbridge_port).await?, options.eventbridge)?;
        clients::eventbridge_client(eventbridge.url())?.create_event_bus().name(EVENT_BUS).send().await?;
        let hosts = BTreeMap::from([(WEBHOOK_HOST.to_owned(), webhook_base.clone())]);
        let settings = Settings { hosts, ..options.platform.clone() };
        let platform = Platform::serve(listen("UNITH", options.ports.unith_port).await?, settings)?;
        let services = Self {
            dynamodb,
            secrets_manager,
            sqs,
            queues,
            eventbridge,
            platform,
            webhook_base,
            _dynamodb_server: dynamodb_server,
        };
        let dynamodb = services.dynamodb_client()?;
        dynamodb::create_table(&dynamodb, TABLE_NAME).await?;
        dynamodb::create_sessions_table(&dynamodb, SESSIONS_TABLE_NAME).await?;
        let secrets = services.secrets_client()?;
        let account = json!({"email": EMAIL, "secretKey": SECRET_KEY}).to_string();
        for (name, value) in [(KEYS_SECRET, r#"{"keys": []}"#), (CREDENTIALS_SECRET, &account)] {
            secrets.create_secret().name(name).secret_string(value).send().await?;
        }
        Ok(services)
    }

    /// The function `provision` in the environment of these services.
    pub fn provisioner(&self) -> Arc<Provisioner> {
        let env: Env = self.environment().into_iter().collect();
        Arc::new(Provisioner::new(env, self.secrets_client()).with_log(|_| ()))
    }

    /// Creates the stack: `provision` registers the webhook, stores its key in the ring and switches events on.
    pub async fn create_stack(&self, provisioner: Arc<Provisioner>) -> anyhow::Result<Stack> {
        Stack::create(provisioner, WEBHOOK_URL, HEAD_ID).await.context("cannot create the stack")
    }

    /// The environment of a function that uses these services.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("TABLE_NAME", TABLE_NAME.to_owned()),
            ("SESSIONS_TABLE_NAME", SESSIONS_TABLE_NAME.to_owned()),
            ("SPILL_QUEUE_URL", self.queues.spill_url.clone()),
            ("DEAD_LETTER_QUEUE_URL", self.queues.dead_letter_url.clone()),
            ("FAILURE_QUEUE_URL", self.queues.failure_url.clone()),
            ("EVENT_BUS_ARN", bus_arn(EVENT_BUS)),
            ("UNITH_KEYS_SECRET", KEYS_SECRET.to_owned()),
            ("RETENTION_DAYS", RETENTION_DAYS.to_owned()),
            ("UNITH_API_URL", self.platform.url().to_owned()),
            ("UNITH_CREDENTIALS_SECRET", CREDENTIALS_SECRET.to_owned()),
            ("WEBHOOK_URL", WEBHOOK_URL.to_owned()),
            ("HEAD_IDS", HEAD_ID.to_owned()),
            // Commands have the same owner as the requests of the stack.
            ("OWNER", format!("{LOGICAL_ID}@{STACK_GUID}")),
            ("SELF_TEST_URL", format!("{}{WEBHOOK_PATH}", self.webhook_base)),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", ACCESS_KEY.to_owned()),
            ("AWS_ENDPOINT_URL_DYNAMODB", self.dynamodb.url().to_owned()),
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", self.secrets_manager.url().to_owned()),
            ("AWS_ENDPOINT_URL_SQS", self.sqs.url().to_owned()),
            ("AWS_ENDPOINT_URL_EVENTBRIDGE", self.eventbridge.url().to_owned()),
        ]
    }

    /// A client of this DynamoDB.
    pub fn dynamodb_client(&self) -> Result<aws_sdk_dynamodb::Client, EnvError> {
        clients::dynamodb_client(self.dynamodb.url())
    }

    /// A client of this Secrets Manager.
    pub fn secrets_client(&self) -> Result<aws_sdk_secretsmanager::Client, EnvError> {
        clients::secrets_client(self.secrets_manager.url())
    }

    /// The on-failure destination of the functions on the table's stream.
    pub fn on_failure(&self) -> Result<OnFailure, EnvError> {
        Ok(OnFailure { client: self.sqs_client()?, queue_url: self.queues.failure_url.clone() })
    }

    /// A client of this SQS, with time for long polls.
    pub fn sqs_client(&self) -> Result<aws_sdk_sqs::Client, EnvError> {
        clients::sqs_client(self.sqs.url())
    }
}
