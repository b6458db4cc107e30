//! The sandbox: the functions' real handlers between a simulated UNITH platform and embedded AWS services, on one
//! machine and on loopback only. The demo, the tests and a local `cargo lambda watch` all run against these parts.
//!
//! What always holds: the functions' code is the code that is deployed, and talks to the services over HTTP with the
//! real AWS SDK; the only host a webhook URL can lead to is the one that is mapped to this machine.

pub mod api_gateway;
pub mod conversation;
pub mod demo;
pub mod dynamodb;
pub mod platform;
pub mod report;
pub mod secrets_manager;
pub mod server;
pub mod stack;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
use lambda_support::{
    aws,
    env::{Env, EnvError},
};
use provision::Provisioner;
use receive::{Receiver, config::Config, record::Record};
use serde_json::json;

use crate::{
    api_gateway::ApiGateway,
    platform::{EMAIL, HEAD_ID, Platform, SECRET_KEY, Settings, Style},
    secrets_manager::SecretsManager,
    server::{ServerHandle, listen},
    stack::Stack,
};

/// The table.
pub const TABLE_NAME: &str = "unith-events";
/// The key-ring secret.
pub const KEYS_SECRET: &str = "unith-webhook-keys";
/// The secret with the UNITH account.
pub const CREDENTIALS_SECRET: &str = "unith-credentials";
/// The host of the webhook's URL.
pub const WEBHOOK_HOST: &str = "webhooks.example.com";
/// The URL the webhook is registered with.
pub const WEBHOOK_URL: &str = "https://webhooks.example.com/webhooks/head-events";

/// The GUID in the id of the sandbox's stack.
pub const STACK_GUID: &str = "7b9a6f6e-3c1d-4f5b-9a57-2d0c8e4b1a90";

const REGION: &str = "us-east-1";
/// Credentials that are checked by nobody.
const ACCESS_KEY: &str = "sandbox";
/// Long enough for events of any demo's past; a hundred years.
const RETENTION_DAYS: &str = "36500";

/// What can be chosen about a sandbox.
#[derive(Debug, Clone)]
pub struct Options {
    /// How the simulated platform spells its deliveries.
    pub style: Style,
    /// Ports on loopback; 0 is a free one.
    pub ports: Ports,
    /// A file to keep the DynamoDB's data in; in memory if `None`.
    pub data: Option<PathBuf>,
    /// What the simulated platform draws its randomness from.
    pub seed: u64,
    /// The platform's pause before its first retry.
    pub first_backoff: Duration,
}

/// Ports on loopback; 0 is a free one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ports {
    /// The front.
    pub front: u16,
    /// DynamoDB.
    pub dynamodb: u16,
    /// Secrets Manager.
    pub secrets_manager: u16,
    /// UNITH.
    pub unith: u16,
}

/// The services around the functions, with the table made, an empty ring, and an account at UNITH.
#[derive(Debug)]
pub struct Services {
    /// The DynamoDB.
    pub dynamodb: ServerHandle,
    /// The Secrets Manager.
    pub secrets_manager: SecretsManager,
    /// The UNITH platform.
    pub platform: Platform,
    webhook_base: String,
}

/// The services and the functions, joined by the front, and a stack that the webhook belongs to.
pub struct Sandbox {
    /// The services.
    pub services: Services,
    /// The front.
    pub front: ApiGateway,
    /// The function that looks after the webhook.
    pub provisioner: Arc<Provisioner>,
    /// The stack; created.
    pub stack: Stack,
}

impl Services {
    /// Starts them; the webhook's host is found at `webhook_base`, e.g. `http://127.0.0.1:9000`.
    pub async fn start(options: &Options, webhook_base: String) -> anyhow::Result<Self> {
        let listener = listen("DynamoDB", options.ports.dynamodb).await?;
        let dynamodb = dynamodb::serve(listener, options.data.as_deref())?;
        let secrets_manager = SecretsManager::serve(listen("Secrets Manager", options.ports.secrets_manager).await?)?;
        let settings = Settings {
            style: options.style,
            hosts: BTreeMap::from([(WEBHOOK_HOST.to_owned(), webhook_base.clone())]),
            first_backoff: options.first_backoff,
            seed: options.seed,
            ..Settings::default()
        };
        let platform = Platform::serve(listen("UNITH", options.ports.unith).await?, settings)?;
        let services = Self { dynamodb, secrets_manager, platform, webhook_base };
        dynamodb::create_table(&services.dynamodb_client()?, TABLE_NAME).await?;
        let secrets = services.secrets_client()?;
        let account = json!({"email": EMAIL, "secretKey": SECRET_KEY}).to_string();
        for (name, value) in [(KEYS_SECRET, r#"{"keys": []}"#), (CREDENTIALS_SECRET, &account)] {
            secrets.create_secret().name(name).secret_string(value).send().await?;
        }
        Ok(services)
    }

    /// The function `provision`, as it runs against these services.
    pub fn provisioner(&self) -> Result<Arc<Provisioner>, EnvError> {
        let env: Env = self.environment().into_iter().collect();
        Ok(Arc::new(Provisioner::new(env, self.secrets_client()).with_log(|_| ())))
    }

    /// The stack that the webhook belongs to, created: the webhook is registered, its key in the ring, events are on.
    pub async fn stack(&self, provisioner: Arc<Provisioner>) -> anyhow::Result<Stack> {
        let mut stack = Stack::new(provisioner).await?;
        stack.create().await.context("the webhook could not be registered")?;
        Ok(stack)
    }

    /// The environment of a function that is to run against these services.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("TABLE_NAME", TABLE_NAME.to_owned()),
            ("UNITH_KEYS_SECRET", KEYS_SECRET.to_owned()),
            ("RETENTION_DAYS", RETENTION_DAYS.to_owned()),
            ("UNITH_API_URL", self.platform.url().to_owned()),
            ("UNITH_CREDENTIALS_SECRET", CREDENTIALS_SECRET.to_owned()),
            ("WEBHOOK_URL", WEBHOOK_URL.to_owned()),
            ("HEAD_IDS", HEAD_ID.to_owned()),
            // Commands act for the same owner as the stack's requests do.
            ("OWNER", format!("{}@{STACK_GUID}", stack::LOGICAL_ID)),
            ("SELF_TEST_URL", format!("{}{}", self.webhook_base, receive::WEBHOOK_PATH)),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", ACCESS_KEY.to_owned()),
            ("AWS_ENDPOINT_URL_DYNAMODB", self.dynamodb.url().to_owned()),
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", self.secrets_manager.url().to_owned()),
        ]
    }

    /// A client of the DynamoDB, set up as the functions' are.
    pub fn dynamodb_client(&self) -> Result<aws_sdk_dynamodb::Client, EnvError> {
        dynamodb_client(self.dynamodb.url())
    }

    /// A client of the Secrets Manager, set up as the functions' are.
    pub fn secrets_client(&self) -> Result<aws_sdk_secretsmanager::Client, EnvError> {
        secrets_client(self.secrets_manager.url())
    }
}

impl Sandbox {
    /// Starts the services and the functions; `log` is given the record of every request.
    pub async fn start(
        options: &Options,
        log: impl Fn(&Record) + Clone + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = listen("the front", options.ports.front).await?;
        let services = Services::start(options, format!("http://{}", listener.local_addr()?)).await?;
        let config = Config::from_env(&services.environment().into_iter().collect())?;
        let provisioner = services.provisioner()?;
        let stack = services.stack(Arc::clone(&provisioner)).await?;
        let secrets = services.secrets_client()?;
        let receiver = Receiver::new(config, services.dynamodb_client()?, || secrets);
        receive::rehearsal::warm_up(&receiver).await;
        let function = api_gateway::function(receive::runtime::service(Arc::new(receiver), log));
        let route = format!("POST {}", receive::WEBHOOK_PATH);
        let front = ApiGateway::serve(listener, BTreeMap::from([(route, function)]))?;
        Ok(Self { services, front, provisioner, stack })
    }
}

/// A client of a DynamoDB at `endpoint`, with the functions' time-outs and retries.
pub fn dynamodb_client(endpoint: &str) -> Result<aws_sdk_dynamodb::Client, EnvError> {
    Ok(aws::dynamodb(&sdk_config()?.into_builder().endpoint_url(endpoint).build()))
}

/// A client of a Secrets Manager at `endpoint`, with the functions' time-outs and retries.
pub fn secrets_client(endpoint: &str) -> Result<aws_sdk_secretsmanager::Client, EnvError> {
    Ok(aws::secrets_manager(&sdk_config()?.into_builder().endpoint_url(endpoint).build()))
}

fn sdk_config() -> Result<aws::SdkConfig, EnvError> {
    let env: Env = [("AWS_REGION", REGION)].into_iter().collect();
    let credentials = Credentials::new(ACCESS_KEY, ACCESS_KEY, None, None, "sandbox");
    let config = aws::config_without_credentials(&env)?;
    Ok(config.into_builder().credentials_provider(SharedCredentialsProvider::new(credentials)).build())
}

/// Writes the environment as a file of `NAME=value` lines, as `cargo lambda watch --env-file` reads.
pub fn write_env_file(path: &Path, environment: &[(&'static str, String)]) -> anyhow::Result<()> {
    let lines: Vec<_> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("the folder {} cannot be made", folder.display()))?;
    }
    std::fs::write(path, lines.join("\n") + "\n").with_context(|| format!("{} cannot be written", path.display()))
}
