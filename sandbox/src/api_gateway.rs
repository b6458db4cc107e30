//! A simulated API Gateway: an HTTP API between the webhook and the function.
//!
//! A request becomes an event of payload 2.0, which goes to the function as JSON. What the function returns becomes the
//! response. Paths without a route, failures and time-outs get the responses of API Gateway.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Json, Router,
    body::{Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header::CONTENT_TYPE, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use futures_util::future::BoxFuture;
use lambda_http::{Context, LambdaEvent, Service};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use std::time::Duration;
use tokio::{net::TcpListener, time::timeout};
use unith_events::timestamp::Timestamp;

use crate::{clients::ACCOUNT, random::uuid, server::ServerHandle};

/// The function's time-out in the template. An HTTP API itself waits 30 s.
const FUNCTION_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest request of an HTTP API, in bytes.
const MAX_PAYLOAD: usize = 10 * 1024 * 1024;

/// A function as Lambda sees it: the JSON of an event and a context in, JSON or an error out.
pub type Function = Arc<dyn Fn(String, Context) -> BoxFuture<'static, Result<Value, String>> + Send + Sync>;

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

/// A simulated API Gateway on loopback.
pub struct ApiGateway {
    server: ServerHandle,
    routes: Routes,
}

#[derive(Clone)]
struct Routes {
    functions: Arc<BTreeMap<String, Function>>,
    responses_to_drop: Arc<AtomicUsize>,
}

impl ApiGateway {
    /// Serves functions by their route keys: `POST /path`.
    pub fn serve(listener: TcpListener, functions: BTreeMap<String, Function>) -> io::Result<Self> {
        let routes = Routes { functions: Arc::new(functions), responses_to_drop: Arc::default() };
        let gateway = Router::new().fallback(gateway).with_state(routes.clone());
        Ok(Self { server: ServerHandle::router(listener, gateway)?, routes })
    }

    /// The base URL.
    pub fn url(&self) -> &str {
        self.server.url()
    }

    /// Lets the function handle the next request, and answers 503 in place of its response.
    pub fn drop_next_response(&self) {
        self.routes.responses_to_drop.fetch_add(1, Ordering::Relaxed);
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
    context.request_id = uuid(fastrand::u128(..));
    context.deadline = now.plus(FUNCTION_TIMEOUT).epoch_milliseconds().unsigned_abs();
    let take = |count: usize| count.checked_sub(1);
    let is_dropped = routes.responses_to_drop.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
    let response = invoke(function, event, context).await;
    if is_dropped { message(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable") } else { response }
}

/// Runs a function as Lambda does: a panic or a time-out fails this invocation alone.
async fn invoke(function: &Function, event: String, context: Context) -> Response {
    let mut invocation = tokio::spawn(function(event, context));
    let result = timeout(FUNCTION_TIMEOUT, &mut invocation).await;
    // Has no effect on an invocation that has ended.
    invocation.abort();
    let response = match result {
        Ok(Ok(Ok(response))) => serde_json::from_value::<FunctionResponse>(response).ok(),
        _ => None,
    };
    let response = response.and_then(FunctionResponse::into_response);
    response.unwrap_or_else(|| message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"))
}

/// The event of payload 2.0 for a request.
fn event(parts: &Parts, body: &Bytes, route_key: &str, now: Timestamp) -> Value {
    let (is_base64, text) = match std::str::from_utf8(body) {
        Ok(text) if is_text(&parts.headers) => (false, text.to_owned()),
        _ => (true, BASE64.encode(body)),
    };
    let path = parts.uri.path();
    let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
    json!({
        "version": "2.0",
        "routeKey": route_key,
        "rawPath": path,
        "rawQueryString": parts.uri.query().unwrap_or_default(),
        "headers": headers(&parts.headers),
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": "sandbox",
            "domainName": header("host").unwrap_or("localhost"),
            "domainPrefix": "sandbox",
            "http": {
                "method": parts.method.as_str(),
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": header("user-agent").unwrap_or_default(),
            },
            "requestId": uuid(fastrand::u128(..)),
            "routeKey": route_key,
            "stage": "$default",
            "time": now.to_string(),
            "timeEpoch": now.epoch_milliseconds(),
        },
        "body": if body.is_empty() && parts.method != Method::POST { Value::Null } else { text.into() },
        "isBase64Encoded": is_base64,
    })
}

/// The headers as in payload 2.0: names in lower case, the values of a repeated header joined by commas.
fn headers(headers: &HeaderMap) -> BTreeMap<&str, String> {
    let joined = |name: &HeaderName| {
        let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        values.collect::<Vec<_>>().join(",")
    };
    headers.keys().map(|name| (name.as_str(), joined(name))).collect()
}

/// Whether an HTTP API passes the body on as text. It encodes all other bodies in base64.
fn is_text(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type.starts_with("text/")
        || ["application/json", "application/javascript", "application/xml"].contains(&media_type.as_str())
}

/// A function's response for an HTTP API.
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

impl FunctionResponse {
    /// The HTTP response, if the status code is valid.
    fn into_response(self) -> Option<Response> {
        let text = self.body.unwrap_or_default();
        let body = if self.is_base64_encoded { BASE64.decode(text).unwrap_or_default() } else { text.into_bytes() };
        let mut response = Response::new(body.into());
        *response.status_mut() = StatusCode::from_u16(self.status_code).ok()?;
        let header = |(name, value)| Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?));
        response.headers_mut().extend(self.headers.into_iter().filter_map(header));
        Some(response)
    }
}

/// A response of API Gateway's own.
fn message(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"message": message}))).into_response()
}
