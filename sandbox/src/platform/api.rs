//! The management API, as UNITH's developer kit calls it; and, under `/_sandbox`, what only a simulation can offer.

use std::time::{Duration, Instant};

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State as Shared},
    http::{StatusCode, header::AUTHORIZATION},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde::Deserialize;
use serde_json::{Value, json};
use unith_events::timestamp::Timestamp;

use super::{
    Core, EMAIL, FIRST_SHARED_KEY, HEAD_ID, Head, ORG_ID, ORG_NAME, PUBLIC_ORG_ID, SECRET_KEY, State, Subscriptions,
    TOKEN_LIFE, USER_ID, Webhook,
    faults::{self, Faults},
};
use crate::conversation::Conversation;

/// An error: JSON with a message. UNITH documents no shape for them.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let error = self.0.canonical_reason().unwrap_or_default();
        (self.0, Json(json!({"statusCode": self.0.as_u16(), "message": self.1, "error": error}))).into_response()
    }
}

type Answered<T = Value> = Result<Json<T>, Refused>;

pub(super) fn router(core: Core) -> Router {
    let managed = Router::new()
        .route("/head-events", post(register).get(list))
        .route("/head-events/{id}", get(show).patch(change).delete(remove))
        .route("/head/{head_id}/enable-events", get(show_enabled).put(enable))
        .route("/head/all", get(list_heads))
        .route("/user/me", get(show_account))
        .layer(middleware::from_fn_with_state(core.clone(), require_bearer));
    let real = Router::new()
        .route("/auth/token", post(token))
        .merge(managed)
        .route_layer(middleware::from_fn_with_state(core.clone(), faults::inject_faults));
    Router::new()
        .route("/_sandbox/conversations", post(converse))
        .route("/_sandbox/faults", put(set_faults))
        .merge(real)
        .fallback(|| async { Refused(StatusCode::NOT_FOUND, "no such path".to_owned()) })
        .with_state(core)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Credentials {
    email: String,
    secret_key: String,
}

async fn token(Shared(core): Shared<Core>, Json(credentials): Json<Credentials>) -> Answered {
    if credentials.email != EMAIL || credentials.secret_key != SECRET_KEY {
        return Err(Refused(StatusCode::UNAUTHORIZED, "wrong e-mail or secret key".to_owned()));
    }
    let mut state = core.lock();
    let bearer = state.random_hex();
    state.tokens.insert(bearer.clone(), Timestamp::now().plus(TOKEN_LIFE));
    Ok(Json(json!({"data": {"bearer": bearer}})))
}

async fn require_bearer(Shared(core): Shared<Core>, request: Request, next: Next) -> Response {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = header.and_then(|header| header.strip_prefix("Bearer ")).unwrap_or_default();
    let known = core.lock().tokens.get(bearer).is_some_and(|until| Timestamp::now() < *until);
    if known {
        next.run(request).await
    } else {
        Refused(StatusCode::UNAUTHORIZED, "the bearer token is missing, unknown or older than 7 days".to_owned())
            .into_response()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registration {
    head_id: String,
    webhook_url: String,
    #[serde(flatten)]
    subscriptions: Subscriptions,
}

impl Registration {
    fn check(&self, state: &State) -> Result<(), Refused> {
        state.known_head(&self.head_id)?;
        if !self.webhook_url.starts_with("https://") {
            return Err(Refused(StatusCode::BAD_REQUEST, "webhookUrl must be an https URL".to_owned()));
        }
        Ok(())
    }
}

async fn register(Shared(core): Shared<Core>, Json(wanted): Json<Registration>) -> Answered {
    let mut state = core.lock();
    wanted.check(&state)?;
    // A registration is always added; UNITH updates none, not even one with the same URL.
    let webhook = state.register(wanted.head_id, wanted.webhook_url, wanted.subscriptions);
    if state.faults.no_key_on_register {
        return Ok(Json(json!({})));
    }
    // The key, and no id.
    Ok(Json(json!({"sharedKey": webhook.shared_key})))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListQuery {
    head_id: String,
    page: Option<usize>,
}

async fn list(Shared(core): Shared<Core>, Query(query): Query<ListQuery>) -> Answered {
    let state = core.lock();
    if state.heads.iter().any(|head| head.public_id == query.head_id) {
        return Err(no_head(&query.head_id));
    }
    let is_meant = |webhook: &&Webhook| state.faults.unfiltered_list || webhook.head_id == query.head_id;
    let unlisted_for = Duration::from_millis(state.faults.unlisted_for_ms);
    let is_listed = |webhook: &&Webhook| webhook.made_at.elapsed() >= unlisted_for;
    let meant = state.webhooks.iter().filter(is_meant).filter(is_listed);
    let listed: Vec<_> = meant.map(|webhook| state.shown(webhook)).collect();
    let Some(size) = state.faults.page_size else {
        return Ok(Json(if listed.is_empty() { Value::Null } else { listed.into() }));
    };
    let page = query.page.unwrap_or(1).max(1);
    let on_page: Vec<_> = listed.iter().skip((page - 1).saturating_mul(size)).take(size).collect();
    let mut answer = json!({"data": on_page});
    if page.saturating_mul(size) < listed.len()
        && let Some(fields) = answer.as_object_mut()
    {
        fields.insert("nextPage".to_owned(), (page + 1).into());
    }
    Ok(Json(answer))
}

async fn show(Shared(core): Shared<Core>, Path(id): Path<String>) -> Answered {
    let mut state = core.lock();
    let webhook = state.webhook(&id)?.clone();
    Ok(Json(state.shown(&webhook)))
}

async fn change(Shared(core): Shared<Core>, Path(id): Path<String>, Json(wanted): Json<Registration>) -> Answered {
    let mut state = core.lock();
    wanted.check(&state)?;
    let new_key = state.faults.patch_changes_key.then(|| state.random_hex());
    let webhook = state.webhook(&id)?;
    webhook.head_id = wanted.head_id;
    webhook.webhook_url = wanted.webhook_url;
    webhook.subscriptions = wanted.subscriptions;
    webhook.updated_at = Timestamp::now().to_string();
    if let Some(key) = new_key {
        webhook.shared_key = key;
    }
    let changed = webhook.clone();
    Ok(Json(state.shown(&changed)))
}

async fn remove(Shared(core): Shared<Core>, Path(id): Path<String>) -> Result<StatusCode, Refused> {
    let mut state = core.lock();
    let id = state.webhook(&id)?.id;
    state.webhooks.retain(|webhook| webhook.id != id);
    Ok(StatusCode::NO_CONTENT)
}

async fn show_enabled(Shared(core): Shared<Core>, Path(head_id): Path<String>) -> Answered<bool> {
    Ok(Json(core.lock().known_head(&head_id)?.events_enabled))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnableQuery {
    enable_events: Option<bool>,
}

/// The query alone counts. A body is not looked at, so a client that sends its wish there gets 200 and no effect.
async fn enable(Shared(core): Shared<Core>, Path(head_id): Path<String>, Query(query): Query<EnableQuery>) -> Answered {
    let mut state = core.lock();
    let head = state.head_mut(&head_id).ok_or_else(|| no_head(&head_id))?;
    head.events_enabled = query.enable_events.unwrap_or(head.events_enabled);
    Ok(Json(json!({"headId": head_id, "enableEvents": head.events_enabled})))
}

#[derive(Deserialize)]
#[serde(default)]
struct HeadsQuery {
    order: Order,
    page: usize,
    take: usize,
}

#[derive(Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Order {
    #[default]
    Asc,
    Desc,
}

impl Default for HeadsQuery {
    fn default() -> Self {
        Self { order: Order::default(), page: 1, take: 50 }
    }
}

async fn list_heads(Shared(core): Shared<Core>, Query(query): Query<HeadsQuery>) -> Json<Value> {
    let state = core.lock();
    let (page, take) = (query.page.max(1), query.take.max(1));
    let mut heads: Vec<_> = state.heads.iter().collect();
    if query.order == Order::Desc {
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

/// Lets things go wrong, for trying out what happens then.
async fn set_faults(Shared(core): Shared<Core>, Json(faults): Json<Faults>) -> StatusCode {
    core.lock().faults = faults;
    StatusCode::NO_CONTENT
}

/// Lets a conversation have happened just now, and shows how its events were answered.
async fn converse(Shared(core): Shared<Core>) -> Json<Value> {
    // It lasts some minutes; they are over when it is told of.
    let start = Timestamp::now().plus(time::Duration::minutes(-6));
    let conversation = Conversation::any(&mut core.lock().random, start);
    let mut deliveries = Vec::new();
    for event in &conversation.events {
        for sent in core.emit(HEAD_ID, &conversation.session_id, event.kind, event.at) {
            let attempts = sent.attempts.await.unwrap_or_default();
            let last = attempts.last().map(|attempt| match &attempt.answer {
                Ok(answer) => format!("{} {}", answer.status, answer.word()),
                Err(error) => error.to_string(),
            });
            deliveries.push(json!({"event_type": event.kind, "attempts": attempts.len(), "answer": last}));
        }
    }
    Json(json!({"session_id": conversation.session_id, "deliveries": deliveries}))
}

impl State {
    fn known_head(&self, id: &str) -> Result<&Head, Refused> {
        self.head(id).ok_or_else(|| no_head(id))
    }

    /// By the id as the API shows it.
    fn webhook(&mut self, id: &str) -> Result<&mut Webhook, Refused> {
        let string_ids = self.faults.string_ids;
        let found = self.webhooks.iter_mut().find(|webhook| id_text(webhook.id, string_ids) == id);
        found.ok_or_else(|| Refused(StatusCode::NOT_FOUND, format!("there is no webhook {id}")))
    }

    pub(super) fn register(&mut self, head_id: String, webhook_url: String, subscriptions: Subscriptions) -> Webhook {
        self.last_webhook_id += 1;
        let id = self.last_webhook_id;
        let now = Timestamp::now().to_string();
        let made_while_on = self.head(&head_id).is_some_and(|head| head.events_enabled);
        let webhook = Webhook {
            id,
            created_at: now.clone(),
            updated_at: now,
            org_id: ORG_ID.to_owned(),
            head_id,
            webhook_url,
            shared_key: if id == 1 { FIRST_SHARED_KEY.to_owned() } else { self.random_hex() },
            subscriptions,
            made_while_on,
            made_at: Instant::now(),
        };
        self.webhooks.push(webhook.clone());
        webhook
    }

    /// A webhook as the API shows it.
    fn shown(&self, webhook: &Webhook) -> Value {
        let mut shown = webhook.clone();
        if self.faults.masked_keys {
            let end = shown.shared_key.split_off(shown.shared_key.len().saturating_sub(4));
            shown.shared_key = format!("****************************{end}");
        }
        let mut shown = json!(shown);
        if self.faults.string_ids
            && let Some(fields) = shown.as_object_mut()
        {
            fields.insert("id".to_owned(), id_text(webhook.id, true).into());
        }
        shown
    }

    /// 32 hex digits, as UNITH's shared keys have.
    fn random_hex(&mut self) -> String {
        format!("{:032x}", self.random.u128(..))
    }
}

fn no_head(id: &str) -> Refused {
    Refused(StatusCode::NOT_FOUND, format!("there is no head {id}"))
}

fn id_text(id: u64, string_ids: bool) -> String {
    if string_ids { format!("{id:06}") } else { id.to_string() }
}
