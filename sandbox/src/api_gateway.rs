//! The front: what API Gateway's HTTP API and Lambda do between a POST and a handler.
//!
//! An HTTP request becomes an event of payload 2.0, which the function's real service is given as JSON; what it returns
//! becomes the answer. Paths without a route, failures and slowness are answered the way API Gateway answers them.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header::CONTENT_TYPE, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use lambda_http::{Context, LambdaEvent, Service};
use provision::self_test::uuid;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use tokio::net::TcpListener;
use unith_events::timestamp::Timestamp;

use crate::server::ServerHandle;

/// HTTP APIs wait this long for an integration.
const INTEGRATION_TIMEOUT: Duration = Duration::from_secs(30);
/// What the template gives the function.
const FUNCTION_TIMEOUT: time::Duration = time::Duration::seconds(10);
/// The largest request HTTP APIs take.
const MAX_PAYLOAD: usize = 10 * 1024 * 1024;

/// A function as Lambda sees it: an event and a context in, JSON out, or an error.
pub type Function =
    Arc<dyn Fn(String, Context) -> Pin<Box<dyn Future<Output = Result<Value, String>> + Send>> + Send + Sync>;

/// Makes a function of a service of gateway events.
pub fn function<S>(service: S) -> Function
where
    S: Service<LambdaEvent<Box<RawValue>>, Response: Serialize, Error: std::fmt::Debug, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    Arc::new(move |event, context| {
        let mut service = service.clone();
        Box::pin(async move {
            let payload: Box<RawValue> = serde_json::from_str(&event).map_err(|error| error.to_string())?;
            let result = service.call(LambdaEvent::new(payload, context)).await;
            let response = result.map_err(|error| format!("{error:?}"))?;
            serde_json::to_value(response).map_err(|error| error.to_string())
        })
    })
}

/// The front on loopback.
#[derive(Debug)]
pub struct ApiGateway {
    served: ServerHandle,
    answers_to_lose: Arc<AtomicUsize>,
}

#[derive(Clone)]
struct Routes {
    functions: Arc<BTreeMap<String, Function>>,
    answers_to_lose: Arc<AtomicUsize>,
}

impl ApiGateway {
    /// Serves `routes`: route key (`POST /path`) -> function.
    pub fn serve(listener: TcpListener, routes: BTreeMap<String, Function>) -> std::io::Result<Self> {
        let answers_to_lose = Arc::new(AtomicUsize::new(0));
        let routes = Routes { functions: Arc::new(routes), answers_to_lose: Arc::clone(&answers_to_lose) };
        let gateway = Router::new().fallback(gateway).with_state(routes);
        Ok(Self { served: ServerHandle::router(listener, gateway)?, answers_to_lose })
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> &str {
        self.served.url()
    }

    /// Lets the function do its work for the next request, and its answer get lost on the way back.
    pub fn drop_next_response(&self) {
        self.answers_to_lose.fetch_add(1, Ordering::Relaxed);
    }
}

async fn gateway(State(routes): State<Routes>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_PAYLOAD).await else {
        return message(StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large");
    };
    let route_key = format!("{} {}", parts.method, parts.uri.path());
    let Some(function) = routes.functions.get(&route_key) else {
        return message(StatusCode::NOT_FOUND, "Not Found");
    };
    let now = Timestamp::now();
    let event = event(&parts, &body, &route_key, now).to_string();
    let mut context = Context::default();
    context.request_id = uuid(&mut fastrand::Rng::new());
    context.deadline = u64::try_from(now.plus(FUNCTION_TIMEOUT).epoch_milliseconds()).unwrap_or_default();
    let lose = |count: usize| count.checked_sub(1);
    let is_lost = routes.answers_to_lose.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lose).is_ok();
    let answer = invoke(function, event, context).await;
    if is_lost { message(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable") } else { answer }
}

/// Runs a function the way Lambda does: a panic ends it alone, and so does its time-out.
async fn invoke(function: &Function, event: String, context: Context) -> Response {
    let mut invocation = tokio::spawn(function(event, context));
    let limit = Duration::try_from(FUNCTION_TIMEOUT).unwrap_or(INTEGRATION_TIMEOUT).min(INTEGRATION_TIMEOUT);
    match tokio::time::timeout(limit, &mut invocation).await {
        Ok(Ok(Ok(response))) => respond(response),
        Ok(_) => message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"),
        Err(_) => {
            invocation.abort();
            // What ends at the function's own limit failed; only what outlasts the gateway's is unavailable.
            let status = if limit < INTEGRATION_TIMEOUT {
                StatusCode::INTERNAL_SERVER_ERROR
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            message(status, status.canonical_reason().unwrap_or_default())
        }
    }
}

/// The event of payload 2.0 for a request.
fn event(parts: &Parts, body: &Bytes, route_key: &str, now: Timestamp) -> Value {
    let (encoded, text) = match std::str::from_utf8(body) {
        Ok(text) if is_text(&parts.headers) => (false, text.to_owned()),
        _ => (true, BASE64.encode(body)),
    };
    let path = parts.uri.path();
    let host = parts.headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    json!({
        "version": "2.0",
        "routeKey": route_key,
        "rawPath": path,
        "rawQueryString": parts.uri.query().unwrap_or_default(),
        "headers": headers(&parts.headers),
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "sandbox",
            "domainName": host,
            "domainPrefix": "sandbox",
            "http": {
                "method": parts.method.as_str(),
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": parts.headers.get("user-agent").and_then(|agent| agent.to_str().ok()).unwrap_or_default(),
            },
            "requestId": uuid(&mut fastrand::Rng::new()),
            "routeKey": route_key,
            "stage": "$default",
            "time": now.to_string(),
            "timeEpoch": now.epoch_milliseconds(),
        },
        "body": if body.is_empty() && parts.method != Method::POST { Value::Null } else { text.into() },
        "isBase64Encoded": encoded,
    })
}

/// Names in lower case, the values of a repeated header joined by commas: that is how payload 2.0 has them.
fn headers(headers: &HeaderMap) -> BTreeMap<&str, String> {
    let joined = |name: &HeaderName| {
        let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        values.collect::<Vec<_>>().join(",")
    };
    headers.keys().map(|name| (name.as_str(), joined(name))).collect()
}

/// The types whose bodies HTTP APIs hand on as text; all others are base64-encoded.
fn is_text(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type.starts_with("text/")
        || ["application/json", "application/javascript", "application/xml"].contains(&media_type.as_str())
}

/// What a function returns, for an HTTP API.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FunctionResponse {
    status_code: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
}

fn respond(response: Value) -> Response {
    let failed = || message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error");
    let Ok(response) = serde_json::from_value::<FunctionResponse>(response) else {
        return failed();
    };
    let Ok(status) = StatusCode::from_u16(response.status_code) else {
        return failed();
    };
    let text = response.body.unwrap_or_default();
    let body = if response.is_base64_encoded { BASE64.decode(text).unwrap_or_default() } else { text.into_bytes() };
    let mut answer = (status, Body::from(body)).into_response();
    for (name, value) in response.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

/// An answer of API Gateway's own.
fn message(status: StatusCode, message: &str) -> Response {
    (status, axum::Json(json!({"message": message}))).into_response()
}
