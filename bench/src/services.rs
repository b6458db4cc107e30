//! What is behind the functions: an embedded DynamoDB and Secrets Manager, each behind TLS, and the tables of each run.

use std::path::Path;

use anyhow::Context;
use aws_sdk_dynamodb::{
    Client,
    types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, Select},
};
use sandbox::{
    KEYS_SECRET, dynamodb, dynamodb_client,
    server::{ServerHandle, listen},
    secrets_client,
    secrets_manager::SecretsManager,
};
use serde_json::json;
use tokio::runtime::Runtime;
use workload::delivery::{HEAD, KEY};

use crate::tls::{Authority, ApiGateway};

/// The attribute that Powertools' idempotency records are keyed by.
const IDEMPOTENCY_KEY: &str = "id";

/// The services, on threads of their own.
pub struct Services {
    runtime: Runtime,
    client: Client,
    authority: Authority,
    dynamodb_front: ApiGateway,
    secrets_front: ApiGateway,
    _dynamodb: ServerHandle,
    _secrets: SecretsManager,
}

impl Services {
    /// Starts them, with a ring of one key bound to the deliveries' head; files go to `folder`.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let authority = Authority::create(&folder.join("ca.pem"))?;
        let (dynamodb, secrets, client, dynamodb_front, secrets_front) = runtime.block_on(async {
            let dynamodb = dynamodb::serve(listen("DynamoDB", 0).await?, None)?;
            let secrets = SecretsManager::serve(listen("Secrets Manager", 0).await?)?;
            let key = json!({"head_id": HEAD, "webhook_id": 4, "key": KEY, "state": "active"});
            let ring = json!({"keys": [key]}).to_string();
            let secrets_client = secrets_client(secrets.url())?;
            secrets_client.create_secret().name(KEYS_SECRET).secret_string(ring).send().await?;
            let dynamodb_front = authority.front("DynamoDB over TLS", dynamodb.url()).await?;
            let secrets_front = authority.front("Secrets Manager over TLS", secrets.url()).await?;
            let client = dynamodb_client(dynamodb.url())?;
            anyhow::Ok((dynamodb, secrets, client, dynamodb_front, secrets_front))
        })?;
        Ok(Self { runtime, client, authority, dynamodb_front, secrets_front, _dynamodb: dynamodb, _secrets: secrets })
    }

    /// What else is to run beside them runs here.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Where functions find them, and the CA they are to trust, in every spelling that is in use.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let bundle = self.authority.bundle().display().to_string();
        vec![
            ("AWS_ENDPOINT_URL_DYNAMODB", self.dynamodb_front.url()),
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", self.secrets_front.url()),
            ("AWS_CA_BUNDLE", bundle.clone()),
            ("SSL_CERT_FILE", bundle.clone()),
            ("NODE_EXTRA_CA_CERTS", bundle),
        ]
    }

    /// Creates the table of one run, as the template makes it.
    pub fn create_table(&self, name: &str) -> anyhow::Result<()> {
        self.runtime.block_on(dynamodb::create_table(&self.client, name))
    }

    /// Creates a table for Powertools' idempotency records.
    pub fn create_idempotency_table(&self, name: &str) -> anyhow::Result<()> {
        let key = KeySchemaElement::builder().attribute_name(IDEMPOTENCY_KEY).key_type(KeyType::Hash).build()?;
        let text = ScalarAttributeType::S;
        let attribute = AttributeDefinition::builder().attribute_name(IDEMPOTENCY_KEY).attribute_type(text).build()?;
        let request = self.client.create_table().table_name(name).billing_mode(BillingMode::PayPerRequest);
        self.runtime
            .block_on(request.key_schema(key).attribute_definitions(attribute).send())
            .with_context(|| format!("the table {name} could not be created"))?;
        Ok(())
    }

    /// Counts a table's items, by a consistent scan, and deletes it.
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
