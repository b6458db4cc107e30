//! The management API as UNITH's developer kit calls it.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State as Shared},
    http::{StatusCode, header::AUTHORIZATION},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::{Map, Value, json};
use unith_events::{
    event_type::{EventType, EventTypes},
    timestamp::Timestamp,
};

use super::{
    account::{EMAIL, ORG_ID, ORG_NAME, PUBLIC_ORG_ID, SECRET_KEY, USER_ID},
    engine::Engine,
    fault_injection::inject_faults,
    faults::Faults,
    state::{Head, State},
    webhook::Webhook,
};

const TOKEN_LIFE: Duration = Duration::from_hours(7 * 24);

/// An error response. UNITH documents no shape for them.
struct ApiError(StatusCode, String);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = self.0.canonical_reason().unwrap_or_default();
        (self.0, Json(json!({"statusCode": self.0.as_u16(), "message": self.1, "error": error}))).into_response()
    }
}

type ApiResult<T = Value> = Result<Json<T>, ApiError>;

pub(super) fn router(engine: Engine) -> Router {
    let authorized = Router::new()
        .route("/head-events", post(register).get(list))
        .route("/head-events/{id}", get(show).patch(change).delete(remove))
        .route("/head/{head_id}/enable-events", get(show_switch).put(set_switch))
        .route("/head/all", get(list_heads))
        .route("/user/me", get(show_account))
        .layer(middleware::from_fn_with_state(engine.clone(), require_bearer));
    Router::new()
        .route("/auth/token", post(token))
        .merge(authorized)
        .route_layer(middleware::from_fn_with_state(engine.clone(), inject_faults))
        .fallback(|| async { ApiError(StatusCode::NOT_FOUND, "no such path".to_owned()) })
        .with_state(engine)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Credentials {
    email: String,
    secret_key: String,
}

async fn token(Shared(engine): Shared<Engine>, Json(credentials): Json<Credentials>) -> ApiResult {
    if credentials.email != EMAIL || credentials.secret_key != SECRET_KEY {
        return Err(ApiError(StatusCode::UNAUTHORIZED, "wrong e-mail or secret key".to_owned()));
    }
    let mut state = engine.lock();
    let bearer = state.new_secret();
    state.tokens.insert(bearer.clone(), Timestamp::now().plus(TOKEN_LIFE));
    Ok(Json(json!({"data": {"bearer": bearer}})))
}

async fn require_bearer(Shared(engine): Shared<Engine>, request: Request, next: Next) -> Response {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = header.and_then(|header| header.strip_prefix("Bearer ")).unwrap_or_default();
    let is_valid = engine.lock().tokens.get(bearer).is_some_and(|expires_at| Timestamp::now() < *expires_at);
    if is_valid {
        next.run(request).await
    } else {
        ApiError(StatusCode::UNAUTHORIZED, "the bearer token is missing, unknown or expired".to_owned()).into_response()
    }
}

/// The body of a registration and of a change.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registration {
    head_id: String,
    webhook_url: String,
    #[serde(flatten, deserialize_with = "subscriptions")]
    subscriptions: EventTypes,
}

/// Reads one flag per event type. A flag that is left out is off.
fn subscriptions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EventTypes, D::Error> {
    let members = Map::deserialize(deserializer)?;
    let on = |kind: EventType| match members.get(kind.member()) {
        None | Some(Value::Bool(false)) => Ok(None),
        Some(Value::Bool(true)) => Ok(Some(kind)),
        Some(_) => Err(D::Error::custom(format!("{} is not a boolean", kind.member()))),
    };
    EventType::ALL.into_iter().filter_map(|kind| on(kind).transpose()).collect()
}

impl Registration {
    /// The head's id in its own spelling.
    fn check(&self, state: &State) -> Result<String, ApiError> {
        let head_id = state.known_head(&self.head_id)?.id.clone();
        if !self.webhook_url.starts_with("https://") {
            return Err(ApiError(StatusCode::BAD_REQUEST, "webhookUrl must be an https URL".to_owned()));
        }
        Ok(head_id)
    }
}

async fn register(Shared(engine): Shared<Engine>, Json(wanted): Json<Registration>) -> ApiResult {
    let mut state = engine.lock();
    let head_id = wanted.check(&state)?;
    let webhook = state.register(head_id, wanted.webhook_url, wanted.subscriptions);
    if state.faults.no_key_on_register {
        return Ok(Json(json!({})));
    }
    Ok(Json(json!({"sharedKey": webhook.shared_key})))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListQuery {
    head_id: String,
    page: Option<usize>,
}

async fn list(Shared(engine): Shared<Engine>, Query(query): Query<ListQuery>) -> ApiResult {
    let state = engine.lock();
    if state.heads.iter().any(|head| head.public_id == query.head_id) {
        return Err(no_head(&query.head_id));
    }
    let faults = &state.faults;
    let unlisted_for = Duration::from_millis(faults.unlisted_for_ms);
    let is_listed = |webhook: &&Webhook| {
        (faults.unfiltered_list || faults.is_same_head(&webhook.head_id, &query.head_id))
            && webhook.made_at.elapsed() >= unlisted_for
    };
    let listed: Vec<_> = state.webhooks.iter().filter(is_listed).map(|webhook| webhook_json(webhook, faults)).collect();
    let Some(size) = faults.page_size else {
        return Ok(Json(if listed.is_empty() { Value::Null } else { listed.into() }));
    };
    let page = query.page.unwrap_or(1).max(1);
    let on_page: Vec<_> = listed.iter().skip((page - 1).saturating_mul(size)).take(size).collect();
    let mut response = Map::from_iter([("data".to_owned(), json!(on_page))]);
    if page.saturating_mul(size) < listed.len() {
        response.insert("nextPage".to_owned(), (page + 1).into());
    }
    Ok(Json(response.into()))
}

async fn show(Shared(engine): Shared<Engine>, Path(id): Path<String>) -> ApiResult {
    let mut state = engine.lock();
    let webhook = state.webhook(&id)?.clone();
    Ok(Json(webhook_json(&webhook, &state.faults)))
}

async fn change(Shared(engine): Shared<Engine>, Path(id): Path<String>, Json(wanted): Json<Registration>) -> ApiResult {
    let mut state = engine.lock();
    let head_id = wanted.check(&state)?;
    let new_key = state.faults.patch_changes_key.then(|| state.new_secret());
    let webhook = state.webhook(&id)?;
    webhook.head_id = head_id;
    webhook.webhook_url = wanted.webhook_url;
    webhook.subscriptions = wanted.subscriptions;
    webhook.updated_at = Timestamp::now();
    if let Some(key) = new_key {
        webhook.shared_key = key;
    }
    let changed = webhook.clone();
    Ok(Json(webhook_json(&changed, &state.faults)))
}

async fn remove(Shared(engine): Shared<Engine>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    let mut state = engine.lock();
    let id = state.webhook(&id)?.id;
    state.webhooks.retain(|webhook| webhook.id != id);
    Ok(StatusCode::NO_CONTENT)
}

async fn show_switch(Shared(engine): Shared<Engine>, Path(head_id): Path<String>) -> ApiResult<bool> {
    Ok(Json(engine.lock().known_head(&head_id)?.events_enabled))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SwitchQuery {
    enable_events: Option<bool>,
}

/// Only the query counts. A request with the switch in a body gets 200 and has no effect.
async fn set_switch(
    Shared(engine): Shared<Engine>,
    Path(head_id): Path<String>,
    Query(query): Query<SwitchQuery>,
) -> ApiResult {
    let mut state = engine.lock();
    let head = state.head_mut(&head_id).ok_or_else(|| no_head(&head_id))?;
    head.events_enabled = query.enable_events.unwrap_or(head.events_enabled);
    Ok(Json(json!({"headId": head.id, "enableEvents": head.events_enabled})))
}

#[derive(Deserialize)]
struct HeadsQuery {
    order: Option<Order>,
    page: Option<usize>,
    take: Option<usize>,
}

#[derive(PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Order {
    Asc,
    Desc,
}

async fn list_heads(Shared(engine): Shared<Engine>, Query(query): Query<HeadsQuery>) -> Json<Value> {
    let state = engine.lock();
    let (page, take) = (query.page.unwrap_or(1).max(1), query.take.unwrap_or(50).max(1));
    let mut heads: Vec<_> = state.heads.iter().collect();
    if query.order == Some(Order::Desc) {
        heads.reverse();
    }
    let on_page = heads.iter().skip((page - 1).saturating_mul(take)).take(take);
    let shown = on_page
        .map(|head| json!({"id": head.id, "publicId": head.public_id, "name": head.name, "operationMode": "ttt"}));
    Json(json!({
        "data": shown.collect::<Vec<_>>(),
        "meta": {
            "page": page, "take": take, "itemCount": heads.len(), "pageCount": heads.len().div_ceil(take),
        },
    }))
}

async fn show_account() -> Json<Value> {
    Json(json!({
        "id": USER_ID, "email": EMAIL,
        "organisation": {"id": ORG_ID, "publicId": PUBLIC_ORG_ID, "name": ORG_NAME},
    }))
}

impl State {
    fn known_head(&self, id: &str) -> Result<&Head, ApiError> {
        self.head(id).ok_or_else(|| no_head(id))
    }

    /// The webhook with the id as the API shows it.
    fn webhook(&mut self, id: &str) -> Result<&mut Webhook, ApiError> {
        let faults = &self.faults;
        let found = self.webhooks.iter_mut().find(|webhook| shown_id(webhook, faults) == id);
        found.ok_or_else(|| ApiError(StatusCode::NOT_FOUND, format!("there is no webhook {id}")))
    }
}

fn no_head(id: &str) -> ApiError {
    ApiError(StatusCode::NOT_FOUND, format!("there is no head {id}"))
}

fn webhook_json(webhook: &Webhook, faults: &Faults) -> Value {
    let id = if faults.string_ids { shown_id(webhook, faults).into() } else { Value::from(webhook.id) };
    let key = webhook.shared_key.as_str();
    let last_four = key.get(key.len().saturating_sub(4)..).unwrap_or_default();
    let fixed = [
        ("id", id),
        ("createdAt", webhook.created_at.to_string().into()),
        ("updatedAt", webhook.updated_at.to_string().into()),
        ("orgId", ORG_ID.into()),
        ("headId", webhook.head_id.as_str().into()),
        ("webhookUrl", webhook.webhook_url.as_str().into()),
        ("sharedKey", if faults.masked_keys { format!("{last_four:*>32}").into() } else { key.into() }),
    ];
    let flags = EventType::ALL.map(|kind| (kind.member(), webhook.subscriptions.contains(kind).into()));
    fixed.into_iter().chain(flags).collect()
}

fn shown_id(webhook: &Webhook, faults: &Faults) -> String {
    if faults.string_ids { format!("{:06}", webhook.id) } else { webhook.id.to_string() }
}
