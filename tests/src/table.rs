//! A DynamoDB with one table.

use std::collections::HashMap;

use aws_sdk_dynamodb::{config::timeout::TimeoutConfig, types::AttributeValue};
use sandbox::dynamodb;
use sandbox::server::ServerHandle;
use sandbox::server::listen;

use crate::{proxy::Proxy, wait::PATIENCE};

/// The items of a page. Without a limit, the embedded DynamoDB reads all items for each page.
pub(crate) const SCAN_PAGE: i32 = 1_000;

/// An item of the table.
pub type Item = HashMap<String, AttributeValue>;

/// A table, and the proxy through which the receiver reaches it.
#[derive(Debug)]
pub struct Table {
    /// The proxy in front of the DynamoDB.
    pub proxy: Proxy,
    /// The DynamoDB itself.
    pub endpoint: String,
    /// The table's name.
    pub name: String,
    /// A client that bypasses the proxy.
    pub client: aws_sdk_dynamodb::Client,
    _embedded: Option<ServerHandle>,
}

impl Table {
    /// Creates a table for one test.
    pub async fn create() -> Self {
        let mut embedded = None;
        let endpoint = if let Ok(endpoint) = std::env::var("TEST_DYNAMODB_ENDPOINT") {
            endpoint
        } else {
            let served = dynamodb::serve(listen("DynamoDB", 0).await.unwrap(), None).unwrap();
            embedded.insert(served).url().to_owned()
        };
        let client = sandbox::clients::dynamodb_client(&endpoint).unwrap();
        // A busy machine may need longer for a page of items than a function would wait.
        let patient = TimeoutConfig::builder().operation_attempt_timeout(PATIENCE).build();
        let client = aws_sdk_dynamodb::Client::from_conf(client.config().to_builder().timeout_config(patient).build());
        let name = format!("events-{:08x}", fastrand::u32(..));
        dynamodb::create_table(&client, &name).await.unwrap();
        Self { proxy: Proxy::start(&endpoint).await, endpoint, name, client, _embedded: embedded }
    }

    /// The same table behind another proxy, for a second function. It works as long as the first one lives.
    pub async fn for_another_function(&self) -> Self {
        let Self { name, client, endpoint, .. } = self;
        let proxy = Proxy::start(endpoint).await;
        Self { proxy, name: name.clone(), client: client.clone(), endpoint: endpoint.clone(), _embedded: None }
    }

    /// All items, in the order of their keys.
    pub async fn items(&self) -> Vec<Item> {
        let scan = self.client.scan().table_name(&self.name).consistent_read(true).limit(SCAN_PAGE);
        let pages = scan.into_paginator().items().send();
        let mut items = pages.collect::<Result<Vec<_>, _>>().await.unwrap();
        items.sort_by_key(|item| (text(item, "pk").to_owned(), text(item, "sk").to_owned()));
        items
    }
}

/// A string attribute; empty if the item does not have it.
pub fn text<'i>(item: &'i Item, name: &str) -> &'i str {
    item.get(name).and_then(|value| value.as_s().ok()).map_or("", String::as_str)
}
