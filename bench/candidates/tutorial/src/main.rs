//! The receiver as a tutorial would write it: correct, without a thought about cost.
//!
//! It has `aws_config::load_defaults`, default features, a multi-threaded runtime, and `tracing` as `lambda_http` sets it up.

use std::env;

use aws_config::BehaviorVersion;
use aws_sdk_dynamodb::{Client, types::AttributeValue};
use hmac::{Hmac, Mac};
use lambda_http::{Body, Error, Request, Response, run, service_fn, tracing};
use serde::Deserialize;
use serde_json::json;
use sha2::Sha256;

#[derive(Deserialize)]
struct Event {
    timestamp: String,
    head_id: String,
    session_id: String,
    public_head_id: String,
    public_org_id: String,
    event_type: String,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let client = Client::new(&config);
    let table = env::var("TABLE_NAME")?;
    let key = env::var("UNITH_SHARED_KEY")?;
    run(service_fn(|request| receive(request, &client, &table, &key))).await
}

async fn receive(request: Request, client: &Client, table: &str, key: &str) -> Result<Response<Body>, Error> {
    if !is_signed(&request, key)? {
        tracing::warn!("the signature does not match");
        return answer(401, json!({"message": "Unauthorized"}));
    }
    let event: Event = match serde_json::from_slice(request.body()) {
        Ok(event) => event,
        Err(error) => return answer(400, json!({"message": error.to_string()})),
    };
    let status = if store(client, table, &event, request.body()).await? { "stored" } else { "duplicate" };
    tracing::info!(status, head_id = event.head_id, session_id = event.session_id, "delivery");
    answer(200, json!({"status": status}))
}

fn is_signed(request: &Request, key: &str) -> Result<bool, Error> {
    let Some(signature) = request.headers().get("x-signature-256") else { return Ok(false) };
    let Ok(signature) = hex::decode(signature.as_bytes()) else { return Ok(false) };
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes())?;
    mac.update(request.body());
    Ok(mac.verify_slice(&signature).is_ok())
}

/// Returns whether the event was new.
async fn store(client: &Client, table: &str, event: &Event, body: &[u8]) -> Result<bool, Error> {
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let result = client
        .put_item()
        .table_name(table)
        .item("pk", text(&format!("SESSION#{}#{}", event.head_id, event.session_id)))
        .item("sk", text(&format!("EVENT#{}#{}", event.timestamp, event.event_type)))
        .item("head_id", text(&event.head_id))
        .item("session_id", text(&event.session_id))
        .item("public_head_id", text(&event.public_head_id))
        .item("public_org_id", text(&event.public_org_id))
        .item("event_type", text(&event.event_type))
        .item("occurred_at", text(&event.timestamp))
        .item("body", text(std::str::from_utf8(body)?))
        .condition_expression("attribute_not_exists(pk)")
        .send()
        .await;
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_conditional_check_failed_exception()) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

fn answer(status: u16, body: serde_json::Value) -> Result<Response<Body>, Error> {
    Ok(Response::builder().status(status).header("content-type", "application/json").body(body.to_string().into())?)
}
