//! The services of the functions: an embedded DynamoDB and Secrets Manager, each behind TLS, and the tables of each run.

use std::path::Path;

use anyhow::Context;
use aws_sdk_dynamodb::{
    Client,
    types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, Select},
};
use sandbox::{
    clients::{dynamodb_client, secrets_client},
    dynamodb,
    secrets_manager::SecretsManager,
    server::{ServerHandle, listen},
    services::KEYS_SECRET,
};
use serde_json::json;
use tokio::runtime::Runtime;
use workload::delivery::{HEAD, KEY};

use crate::tls::{Authority, TlsEndpoint};

/// The key of Powertools' idempotency records.
const IDEMPOTENCY_KEY: &str = "id";

/// The services, on their own threads.
pub struct Services {
    runtime: Runtime,
    client: Client,
    authority: Authority,
    dynamodb_endpoint: TlsEndpoint,
    secrets_endpoint: TlsEndpoint,
    _dynamodb: ServerHandle,
    _secrets: SecretsManager,
}

impl Services {
    /// Starts the services. The key ring has one key, bound to the deliveries' head. Files go to `folder`.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let authority = Authority::create(&folder.join("ca.pem"))?;
        let (dynamodb, secrets, client, dynamodb_endpoint, secrets_endpoint) = runtime.block_on(async {
            let dynamodb = dynamodb::serve(listen("DynamoDB", 0).await?, None)?;
            let secrets = SecretsManager::serve(listen("Secrets Manager", 0).await?)?;
            let key = json!({"head_id": HEAD, "webhook_id": 4, "key": KEY, "state": "active"});
            let ring = json!({"keys": [key]}).to_string();
            let secrets_client = secrets_client(secrets.url())?;
            secrets_client.create_secret().name(KEYS_SECRET).secret_string(ring).send().await?;
            let dynamodb_endpoint = authority.serve("DynamoDB over TLS", dynamodb.url()).await?;
            let secrets_endpoint = authority.serve("Secrets Manager over TLS", secrets.url()).await?;
            let client = dynamodb_client(dynamodb.url())?;
            anyhow::Ok((dynamodb, secrets, client, dynamodb_endpoint, secrets_endpoint))
        })?;
        Ok(Self {
            runtime,
            client,
            authority,
            dynamodb_endpoint,
            secrets_endpoint,
            _dynamodb: dynamodb,
            _secrets: secrets,
        })
    }

    /// The runtime of the services, for other tasks of the host.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// A client of DynamoDB that is not slowed down by TLS.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The CA that the functions trust.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The functions' variables: the endpoints, and the CA to trust under each name that SDKs use.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let bundle = self.authority.bundle().display().to_string();
        vec![
            ("AWS_ENDPOINT_URL_DYNAMODB", self.dynamodb_endpoint.url()),
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", self.secrets_endpoint.url()),
            ("AWS_CA_BUNDLE", bundle.clone()),
            ("SSL_CERT_FILE", bundle.clone()),
            ("NODE_EXTRA_CA_CERTS", bundle),
        ]
    }

    /// Creates the table of one run, with the keys of the template's.
    pub fn create_table(&self, name: &str) -> anyhow::Result<()> {
        self.runtime.block_on(dynamodb::create_table(&self.client, name))
    }

    /// Creates the table of Powertools' idempotency records.
    pub fn create_idempotency_table(&self, name: &str) -> anyhow::Result<()> {
        let key = KeySchemaElement::builder().attribute_name(IDEMPOTENCY_KEY).key_type(KeyType::Hash).build()?;
        let text = ScalarAttributeType::S;
        let attribute = AttributeDefinition::builder().attribute_name(IDEMPOTENCY_KEY).attribute_type(text).build()?;
        let request = self.client.create_table().table_name(name).billing_mode(BillingMode::PayPerRequest);
        self.runtime
            .block_on(request.key_schema(key).attribute_definitions(attribute).send())
            .with_context(|| format!("table {name} could not be created"))?;
        Ok(())
    }

    /// Counts the items of a table by a consistent scan, and deletes the table.
    pub fn count_and_delete(&self, table: &str) -> anyhow::Result<usize> {
        self.runtime.block_on(async {
            let scan = self.client.scan().table_name(table).consistent_read(true).select(Select::Count);
            let mut pages = scan.into_paginator().send();
            let mut items = 0;
            while let Some(page) = pages.next().await {
                items += usize::try_from(page?.count())?;
            }
            self.client.delete_table().table_name(table).send().await?;
            Ok(items)
        })
    }
}
