//! The management API, as UNITH's guide has it; and, under `/_sandbox`, what only a simulation can offer.

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
use shared::timestamp::Timestamp;

use super::{
    Core, EMAIL, FIRST_SHARED_KEY, HEAD_ID, ORG_ID, SECRET_KEY, State, Subscriptions, TOKEN_LIFE, Webhook,
    faults::{self, Faults, OneRegistration},
};
use crate::conversation::Conversation;

/// What the guide does not specify: errors are JSON with a message.
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
        .route("/head/{head_id}/enable-events", put(enable))
        .layer(middleware::from_fn_with_state(core.clone(), require_bearer));
    let real = Router::new()
        .route("/auth/token", post(token))
        .merge(managed)
        .route_layer(middleware::from_fn_with_state(core.clone(), faults::misbehave));
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
        if !state.heads.contains_key(&self.head_id) {
            return Err(Refused(StatusCode::NOT_FOUND, format!("there is no head {}", self.head_id)));
        }
        if !self.webhook_url.starts_with("https://") {
            return Err(Refused(StatusCode::BAD_REQUEST, "webhookUrl must be an https URL".to_owned()));
        }
        Ok(())
    }
}

async fn register(Shared(core): Shared<Core>, Json(wanted): Json<Registration>) -> Answered {
    let mut state = core.lock();
    wanted.check(&state)?;
    let one_registration = state.faults.one_registration;
    if one_registration == Some(OneRegistration::Refuses) && state.webhooks.iter().any(|w| w.head_id == wanted.head_id)
    {
        return Err(Refused(StatusCode::CONFLICT, "the head has a webhook".to_owned()));
    }
    if one_registration == Some(OneRegistration::Renews) {
        let key = state.random_hex();
        if let Some(webhook) = state.webhooks.iter_mut().find(|w| w.head_id == wanted.head_id) {
            webhook.subscriptions = wanted.subscriptions;
            webhook.shared_key.clone_from(&key);
            return Ok(Json(json!({"sharedKey": key})));
        }
    }
    if one_registration == Some(OneRegistration::Replaces) {
        state.webhooks.retain(|webhook| webhook.head_id != wanted.head_id);
    }
    let webhook = state.register(wanted.head_id, wanted.webhook_url, wanted.subscriptions);
    if state.faults.no_key_on_register {
        return Ok(Json(json!({})));
    }
    // The guide's answer: the key, and no id.
    Ok(Json(json!({"sharedKey": webhook.shared_key})))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListQuery {
    head_id: String,
    page: Option<usize>,
}

async fn list(Shared(core): Shared<Core>, Query(query): Query<ListQuery>) -> Json<Value> {
    let state = core.lock();
    let of_head = state.webhooks.iter().filter(|webhook| webhook.head_id == query.head_id);
    let listed: Vec<_> = of_head.map(|webhook| state.shown(webhook)).collect();
    let Some(size) = state.faults.page_size else { return Json(json!(listed)) };
    let page = query.page.unwrap_or(1).max(1);
    let on_page: Vec<_> = listed.iter().skip((page - 1) * size).take(size).collect();
    let mut answer = json!({"data": on_page});
    if page * size < listed.len()
        && let Some(fields) = answer.as_object_mut()
    {
        fields.insert("nextPage".to_owned(), (page + 1).into());
    }
    Json(answer)
}

async fn show(Shared(core): Shared<Core>, Path(id): Path<u64>) -> Answered<Webhook> {
    let mut state = core.lock();
    let webhook = state.webhook(id)?.clone();
    Ok(Json(state.shown(&webhook)))
}

async fn change(
    Shared(core): Shared<Core>,
    Path(id): Path<u64>,
    Json(wanted): Json<Registration>,
) -> Answered<Webhook> {
    let mut state = core.lock();
    wanted.check(&state)?;
    let webhook = state.webhook(id)?;
    webhook.head_id = wanted.head_id;
    webhook.webhook_url = wanted.webhook_url;
    webhook.subscriptions = wanted.subscriptions;
    webhook.updated_at = Timestamp::now().to_string();
    Ok(Json(webhook.clone()))
}

async fn remove(Shared(core): Shared<Core>, Path(id): Path<u64>) -> Result<StatusCode, Refused> {
    let mut state = core.lock();
    state.webhook(id)?;
    state.webhooks.retain(|webhook| webhook.id != id);
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnableQuery {
    enable_events: bool,
}

async fn enable(Shared(core): Shared<Core>, Path(head_id): Path<String>, Query(query): Query<EnableQuery>) -> Answered {
    let mut state = core.lock();
    let Some(head) = state.heads.get_mut(&head_id) else {
        return Err(Refused(StatusCode::NOT_FOUND, format!("there is no head {head_id}")));
    };
    head.events_enabled = query.enable_events;
    Ok(Json(json!({"headId": head_id, "enableEvents": query.enable_events})))
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
    fn webhook(&mut self, id: u64) -> Result<&mut Webhook, Refused> {
        let found = self.webhooks.iter_mut().find(|webhook| webhook.id == id);
        found.ok_or_else(|| Refused(StatusCode::NOT_FOUND, format!("there is no webhook {id}")))
    }

    pub(super) fn register(&mut self, head_id: String, webhook_url: String, subscriptions: Subscriptions) -> Webhook {
        self.last_webhook_id += 1;
        let id = self.last_webhook_id;
        let now = Timestamp::now().to_string();
        let webhook = Webhook {
            id,
            created_at: now.clone(),
            updated_at: now,
            org_id: ORG_ID.to_owned(),
            head_id,
            webhook_url,
            shared_key: if id == 1 { FIRST_SHARED_KEY.to_owned() } else { self.random_hex() },
            subscriptions,
        };
        self.webhooks.push(webhook.clone());
        webhook
    }

    /// A webhook as the API shows it.
    fn shown(&self, webhook: &Webhook) -> Webhook {
        let mut shown = webhook.clone();
        if self.faults.masked_keys {
            let end = shown.shared_key.split_off(shown.shared_key.len().saturating_sub(4));
            shown.shared_key = format!("****************************{end}");
        }
        shown
    }

    /// 32 hex digits, as UNITH's shared keys have.
    fn random_hex(&mut self) -> String {
        format!("{:032x}", self.random.u128(..))
    }
}
