//! Registers the webhook with UNITH, puts its key into the ring and switches events on. The function `provision` will
//! take this over; until it is there, somebody has to.

use anyhow::{Context, ensure};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use shared::timestamp::Timestamp;

use crate::{
    KEYS_SECRET, Services, WEBHOOK_URL,
    platform::{EMAIL, HEAD_ID, SECRET_KEY},
};

/// Registers the webhook for the sandbox's head.
pub async fn register(services: &Services) -> anyhow::Result<()> {
    let http = reqwest::Client::new();
    let api = services.platform.url();
    let credentials = json!({"email": EMAIL, "secretKey": SECRET_KEY});
    let token: Value = answer(http.post(format!("{api}/auth/token")).json(&credentials)).await?;
    let bearer = token.pointer("/data/bearer").and_then(Value::as_str).context("no bearer token in the answer")?;

    let registration = json!({
        "headId": HEAD_ID, "webhookUrl": WEBHOOK_URL, "startConversation": true, "endConversation": true,
        "timeoutConversation": true, "inactivityWarning": true,
    });
    let _: Value = answer(http.post(format!("{api}/head-events")).bearer_auth(bearer).json(&registration)).await?;
    // Registering answers with the key, but not with the id.
    let list = http.get(format!("{api}/head-events")).query(&[("headId", HEAD_ID)]).bearer_auth(bearer);
    let webhooks: Vec<Value> = answer(list).await?;
    let webhook = webhooks.last().context("the webhook is not listed")?;
    let ring = json!({"keys": [{
        "head_id": HEAD_ID, "webhook_id": webhook["id"], "key": webhook["sharedKey"], "state": "active",
        "since": Timestamp::now().to_string(),
    }]});
    let secrets = services.secrets_client().await?;
    secrets.create_secret().name(KEYS_SECRET).secret_string(ring.to_string()).send().await?;

    // Last, so that no event comes before its key can be read.
    let enable = http.put(format!("{api}/head/{HEAD_ID}/enable-events")).query(&[("enableEvents", true)]);
    let _: Value = answer(enable.bearer_auth(bearer)).await?;
    Ok(())
}

async fn answer<T: DeserializeOwned>(request: reqwest::RequestBuilder) -> anyhow::Result<T> {
    let response = request.send().await?;
    let status = response.status();
    ensure!(status.is_success(), "UNITH answered {status}: {}", response.text().await?);
    Ok(response.json().await?)
}
