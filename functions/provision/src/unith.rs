//! UNITH's management API. Its JSON is known here and nowhere else in this function.
//!
//! Answers are read leniently: unknown fields are left alone, an id may be a number or a string, a list may stand alone
//! or under `data`. What is not lenient is the key: one that comes back masked or malformed counts as unknown.
//!
//! What always holds: no error and no log repeats a token, a key or a password.

use std::{fmt, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder, Retryable};
use reqwest::{Client, Method, Response, StatusCode, Url, header::RETRY_AFTER};
use serde_json::{Map, Value, json};
use shared::{signature::SharedKey, timestamp::Timestamp};
use tokio::{sync::Mutex, time::Instant};
use zeroize::Zeroizing;

use crate::{config::Credentials, declared::Subscriptions};

/// What one request may take. UNITH says nothing of its own limits.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// Some 12 s of pauses: what lasts longer than that is told, and left to the next run.
const MAX_RETRIES: usize = 6;
/// How much of an error's body is repeated.
const TOLD_CHARACTERS: usize = 300;
/// A list that has more pages than this is no list of one head's webhooks.
const MAX_PAGES: u32 = 50;

/// A client of the management API, for one run. Its clones share the run's token.
#[derive(Clone)]
pub struct Unith {
    http: Client,
    base: String,
    credentials: Credentials,
    token: Arc<Mutex<Option<Zeroizing<String>>>>,
    deadline: Instant,
}

impl fmt::Debug for Unith {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unith").field("base", &self.base).finish_non_exhaustive()
    }
}

/// A registered webhook.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// UNITH's id of it.
    pub id: String,
    /// Where it delivers to.
    pub url: String,
    /// Its shared key; `None` where UNITH does not show it, or shows it masked.
    pub key: Option<SharedKey>,
    /// Which types it is for.
    pub subscriptions: Subscriptions,
    /// When it was registered, as UNITH says.
    pub created_at: Option<String>,
}

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum UnithError {
    /// UNITH says no, or what it says again and again is that it cannot.
    #[error("{call}: UNITH answered {status}: {said}")]
    Refused {
        /// Method and path.
        call: String,
        /// The status.
        status: StatusCode,
        /// What its body said, cut, without secrets.
        said: String,
        /// How long to wait, where UNITH said so.
        retry_after: Option<Duration>,
    },
    /// There was no answer.
    #[error("{call}: UNITH could not be reached: {cause}")]
    Unreachable {
        /// Method and path.
        call: String,
        /// Why.
        cause: String,
    },
    /// There was an answer, and it makes no sense.
    #[error("{call}: UNITH's answer cannot be used: {cause}")]
    Unusable {
        /// Method and path.
        call: String,
        /// What is wrong with it.
        cause: &'static str,
    },
    /// The run's time was over first.
    #[error("{call}: the time for this run is over; run it again to go on")]
    OutOfTime {
        /// Method and path.
        call: String,
    },
    /// A bearer token that cannot be renewed is not accepted.
    #[error(
        "{call}: UNITH does not accept the stored bearer token; tokens live 7 days: store the account's e-mail and \
         secretKey in UNITH_CREDENTIALS_SECRET instead"
    )]
    TokenNotAccepted {
        /// Method and path.
        call: String,
    },
}

impl UnithError {
    /// How long UNITH asks to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the same call may go through later; nobody knows if this one was carried out.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::Unreachable { .. } => true,
            Self::Unusable { .. } | Self::OutOfTime { .. } | Self::TokenNotAccepted { .. } => false,
        }
    }

    /// Whether the thing the call is about does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::NOT_FOUND || *status == StatusCode::GONE)
    }

    /// Whether UNITH does not know us (any more).
    #[must_use]
    pub fn is_unauthorised(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status == StatusCode::UNAUTHORIZED || *status == StatusCode::FORBIDDEN,
            Self::TokenNotAccepted { .. } => true,
            _ => false,
        }
    }

    /// Whether a registration is refused because there is one. The guide is silent on how UNITH would say that.
    #[must_use]
    pub fn says_there_is_one(&self) -> bool {
        let Self::Refused { status, said, .. } = self else { return false };
        let said = said.to_ascii_lowercase();
        // "Does not exist" and the like must not be taken for it: what follows takes the working webhook away.
        let words = said.contains("already") || said.contains("duplicate");
        *status == StatusCode::CONFLICT
            || (words && (*status == StatusCode::BAD_REQUEST || *status == StatusCode::UNPROCESSABLE_ENTITY))
    }

    /// Whether UNITH understood the call and will not do it.
    #[must_use]
    pub fn is_final_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. }) && !self.is_transient() && !self.is_unauthorised()
    }
}

/// Whether a call may be made again when nobody knows if it was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Freely,
    /// Only after looking what became of it.
    Never,
}

/// A call to be made.
struct Call<'a> {
    method: Method,
    path: &'a str,
    query: &'a [(&'a str, &'a str)],
    body: Option<&'a Value>,
    repeat: Repeat,
}

impl Call<'_> {
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

impl Unith {
    /// A client of the API at `base`, whose calls all end before `deadline`.
    #[must_use]
    pub fn new(http: Client, base: &str, credentials: Credentials, deadline: Instant) -> Self {
        let base = base.trim_end_matches('/').to_owned();
        Self { http, base, credentials, token: Arc::default(), deadline }
    }

    /// The same client, with calls that end before this deadline, or its own where that is sooner.
    #[must_use]
    pub fn until(&self, deadline: Instant) -> Self {
        Self { deadline: self.deadline.min(deadline), ..self.clone() }
    }

    /// When the run ends.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The part of the time left that is one's share where `shares` want some.
    #[must_use]
    pub fn share(&self, shares: usize) -> Instant {
        let left = self.deadline.saturating_duration_since(Instant::now());
        Instant::now() + left / u32::try_from(shares.max(1)).unwrap_or(u32::MAX)
    }

    /// A head's webhooks, ours and others'.
    pub async fn webhooks(&self, head_id: &str) -> Result<Vec<Webhook>, UnithError> {
        let call = "GET /head-events";
        let mut webhooks = Vec::new();
        let mut page = None::<String>;
        for _ in 0..MAX_PAGES {
            let mut query = vec![("headId", head_id)];
            query.extend(page.as_deref().map(|page| ("page", page)));
            let answer = self.get("/head-events", &query).await?;
            let listed = answer.as_array().or_else(|| answer.get("data")?.as_array());
            let listed = listed.ok_or_else(|| unusable(call, "it is no list"))?;
            for webhook in listed {
                webhooks.extend(read_webhook(webhook));
            }
            page = answer.get("nextPage").and_then(text_or_number);
            if page.is_none() {
                return Ok(webhooks);
            }
        }
        Err(unusable(call, "its pages do not end"))
    }

    /// One webhook.
    pub async fn webhook(&self, id: &str) -> Result<Webhook, UnithError> {
        let path = format!("/head-events/{id}");
        let answer = self.get(&path, &[]).await?;
        let webhook = answer.get("data").filter(|data| data.is_object()).unwrap_or(&answer);
        read_webhook(webhook).ok_or_else(|| unusable(&format!("GET {path}"), "it is no webhook"))
    }

    /// Registers a webhook, and gives its key where UNITH shows it. UNITH does not tell the id.
    ///
    /// It is not repeated: where this fails, the webhook may be registered all the same.
    pub async fn register(
        &self,
        head_id: &str,
        url: &str,
        subscriptions: Subscriptions,
    ) -> Result<Option<SharedKey>, UnithError> {
        let body = registration(head_id, url, subscriptions);
        let call =
            Call { method: Method::POST, path: "/head-events", query: &[], body: Some(&body), repeat: Repeat::Never };
        let answer = self.call(call).await?;
        let answer = answer.get("data").filter(|data| data.is_object()).unwrap_or(&answer);
        Ok(answer.get("sharedKey").and_then(Value::as_str).and_then(whole_key))
    }

    /// Sets a webhook's subscriptions.
    pub async fn change(
        &self,
        id: &str,
        head_id: &str,
        url: &str,
        subscriptions: Subscriptions,
    ) -> Result<(), UnithError> {
        let body = registration(head_id, url, subscriptions);
        let path = format!("/head-events/{id}");
        let call = Call { method: Method::PATCH, path: &path, query: &[], body: Some(&body), repeat: Repeat::Freely };
        self.call(call).await.map(drop)
    }

    /// Deletes a webhook; one that is gone is a success.
    pub async fn delete(&self, id: &str) -> Result<(), UnithError> {
        let path = format!("/head-events/{id}");
        let call = Call { method: Method::DELETE, path: &path, query: &[], body: None, repeat: Repeat::Freely };
        match self.call(call).await {
            Err(error) if error.is_not_found() => Ok(()),
            result => result.map(drop),
        }
    }

    /// Turns a head's events on or off.
    pub async fn enable_events(&self, head_id: &str, on: bool) -> Result<(), UnithError> {
        let path = format!("/head/{head_id}/enable-events");
        let query = [("enableEvents", if on { "true" } else { "false" })];
        let call = Call { method: Method::PUT, path: &path, query: &query, body: None, repeat: Repeat::Freely };
        self.call(call).await.map(drop)
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, UnithError> {
        self.call(Call { method: Method::GET, path, query, body: None, repeat: Repeat::Freely }).await
    }

    /// Makes a call with a token, which is got anew once if it is not accepted.
    async fn call(&self, call: Call<'_>) -> Result<Value, UnithError> {
        let token = self.bearer(None).await?;
        match self.send(&call, Some(&token)).await {
            Err(UnithError::Refused { status: StatusCode::UNAUTHORIZED, .. }) => {
                let token = self.bearer(Some(&token)).await?;
                self.send(&call, Some(&token)).await
            }
            result => result,
        }
    }

    /// The run's token; another one than `refused`.
    async fn bearer(&self, refused: Option<&str>) -> Result<Zeroizing<String>, UnithError> {
        let mut token = self.token.lock().await;
        if let Some(known) = token.as_ref().filter(|known| Some(known.as_str()) != refused) {
            return Ok(known.clone());
        }
        let path = "/auth/token";
        let call = format!("POST {path}");
        let new = match &self.credentials {
            Credentials::Bearer(bearer) if refused.is_none() => bearer.clone(),
            Credentials::Bearer(_) => return Err(UnithError::TokenNotAccepted { call }),
            Credentials::Account { email, secret_key } => {
                let body = json!({"email": email, "secretKey": secret_key.as_str()});
                let request =
                    Call { method: Method::POST, path, query: &[], body: Some(&body), repeat: Repeat::Freely };
                let answer = self.send(&request, None).await?;
                let bearer = answer.pointer("/data/bearer").or_else(|| answer.get("token")).and_then(Value::as_str);
                Zeroizing::new(bearer.ok_or_else(|| unusable(&call, "there is no token in it"))?.to_owned())
            }
        };
        Ok(token.insert(new).clone())
    }

    async fn send(&self, call: &Call<'_>, token: Option<&str>) -> Result<Value, UnithError> {
        let backoff = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(FIRST_BACKOFF)
            .with_max_delay(LONGEST_BACKOFF)
            .with_max_times(MAX_RETRIES);
        let deadline = self.deadline;
        // A retry that could not be made in time is not waited for: the last error says more than a time-out.
        let pause = |error: &UnithError, pause: Option<Duration>| {
            let pause = pause?.max(error.retry_after().unwrap_or_default());
            Instant::now().checked_add(pause).is_some_and(|then| then < deadline).then_some(pause)
        };
        let retried = (|| self.send_once(call, token))
            .retry(backoff.build())
            .when(|error| error.is_transient() && (call.repeat == Repeat::Freely || is_untouched(error)))
            .adjust(pause);
        let out_of_time = |_| UnithError::OutOfTime { call: call.name() };
        tokio::time::timeout_at(deadline, retried).await.map_err(out_of_time)?
    }

    async fn send_once(&self, call: &Call<'_>, token: Option<&str>) -> Result<Value, UnithError> {
        let unreachable =
            |error: reqwest::Error| UnithError::Unreachable { call: call.name(), cause: causes(&error.without_url()) };
        let mut request = self
            .http
            .request(call.method.clone(), format!("{}{}", self.base, call.path))
            .query(call.query)
            .header("accept", if call.method == Method::DELETE { "*/*" } else { "application/json" })
            .timeout(REQUEST_TIMEOUT);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = call.body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(unreachable)?;
        let (status, retry_after) = (response.status(), retry_after(&response));
        let body = response.text().await.map_err(unreachable)?;
        if status.is_success() {
            // Some answers have no body, and none of ours depends on it.
            return Ok(serde_json::from_str(&body).unwrap_or_default());
        }
        let said = self.without_secrets(&body, token);
        Err(UnithError::Refused { call: call.name(), status, said, retry_after })
    }

    /// A body as it may be repeated.
    fn without_secrets(&self, body: &str, token: Option<&str>) -> String {
        let mut text = match serde_json::from_str::<Value>(body) {
            Ok(mut value) => {
                redact(&mut value);
                value.to_string()
            }
            Err(_) => body.to_owned(),
        };
        let stored = match &self.credentials {
            Credentials::Bearer(bearer) => bearer,
            Credentials::Account { secret_key, .. } => secret_key,
        };
        for secret in [token.unwrap_or_default(), stored.as_str()] {
            if !secret.is_empty() {
                text = text.replace(secret, "[redacted]");
            }
        }
        if text.is_empty() { "nothing".to_owned() } else { text.chars().take(TOLD_CHARACTERS).collect() }
    }
}

/// Whether UNITH has certainly not carried out the call.
fn is_untouched(error: &UnithError) -> bool {
    matches!(error, UnithError::Refused { status: StatusCode::TOO_MANY_REQUESTS, .. })
}

fn unusable(call: &str, cause: &'static str) -> UnithError {
    UnithError::Unusable { call: call.to_owned(), cause }
}

fn causes(error: &reqwest::Error) -> String {
    shared::aws::causes(error)
}

fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = name.to_ascii_lowercase();
                if ["key", "token", "bearer", "secret", "password", "authorization"].iter().any(|s| name.contains(s)) {
                    *value = "[redacted]".into();
                } else {
                    redact(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(redact),
        _ => {}
    }
}

/// Seconds, or an HTTP date, which is not worth a parser: then our own pause has to do.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn registration(head_id: &str, url: &str, subscriptions: Subscriptions) -> Value {
    json!({
        "headId": head_id, "webhookUrl": url,
        "startConversation": subscriptions.start_conversation,
        "endConversation": subscriptions.end_conversation,
        "timeoutConversation": subscriptions.timeout_conversation,
        "inactivityWarning": subscriptions.inactivity_warning,
    })
}

/// `None` for what is no webhook: somebody else's oddity must not stop us.
fn read_webhook(value: &Value) -> Option<Webhook> {
    let fields = value.as_object()?;
    let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(Webhook {
        id: fields.get("id").and_then(text_or_number)?,
        url: text("webhookUrl")?,
        key: fields.get("sharedKey").and_then(Value::as_str).and_then(whole_key),
        subscriptions: Subscriptions {
            start_conversation: flag(fields, "startConversation"),
            end_conversation: flag(fields, "endConversation"),
            timeout_conversation: flag(fields, "timeoutConversation"),
            inactivity_warning: flag(fields, "inactivityWarning"),
        },
        created_at: text("createdAt").and_then(|text| Timestamp::parse(&text)).map(|at| at.to_string()),
    })
}

fn text_or_number(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn flag(fields: &Map<String, Value>, name: &str) -> bool {
    match fields.get(name) {
        Some(Value::Bool(on)) => *on,
        Some(Value::String(text)) => text.eq_ignore_ascii_case("true"),
        Some(Value::Number(number)) => number.as_u64() == Some(1),
        _ => false,
    }
}

/// A key that can be one: some length, no masking. Storing a masked key would refuse every delivery.
fn whole_key(text: &str) -> Option<SharedKey> {
    let long_enough = (16..=256).contains(&text.len());
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=_-".contains(&b));
    // Eight of the same in a row is what a mask looks like, and next to impossible in a random key.
    let masked = text.as_bytes().windows(8).any(|run| run.iter().all(|b| Some(b) == run.first()));
    if long_enough && plain && !masked { SharedKey::new(text).ok() } else { None }
}

/// Whether two webhook URLs are the same one, however they are spelled.
#[must_use]
pub fn same_url(one: &str, other: &str) -> bool {
    one == other || matches!((Url::parse(one), Url::parse(other)), (Ok(one), Ok(other)) if one == other)
}

/// An HTTP client with TLS by rustls on ring and the system's roots.
#[must_use]
pub fn http_client() -> Client {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = Client::builder().user_agent(concat!("unith-webhooks/", env!("CARGO_PKG_VERSION")));
    // Neither step can fail with these inputs; a client without TLS would at least say why its calls fail.
    let builder = match tls {
        Ok(tls) => builder.tls_backend_preconfigured(tls.with_root_certificates(roots).with_no_client_auth()),
        Err(_) => builder,
    };
    builder.build().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhooks_are_read_leniently() {
        let webhook = read_webhook(&json!({
            "id": 4, "webhookUrl": "https://a.example/x", "sharedKey": "cbaab87d1cce6d79baad8e9e2607feb3",
            "startConversation": true, "endConversation": "true", "timeoutConversation": 1, "more": {},
            "createdAt": "2026-01-16T09:56:12.076Z",
        }))
        .unwrap();
        assert_eq!((webhook.id.as_str(), webhook.created_at.as_deref()), ("4", Some("2026-01-16T09:56:12.076Z")));
        assert!(webhook.key.is_some());
        let flags = webhook.subscriptions;
        assert!(flags.start_conversation && flags.end_conversation && flags.timeout_conversation);
        assert!(!flags.inactivity_warning);
        assert_eq!(read_webhook(&json!({"id": "x-4", "webhookUrl": "u"})).unwrap().id, "x-4");
        for odd in [json!(null), json!({"id": 4}), json!({"webhookUrl": "u"}), json!({"id": {}, "webhookUrl": "u"})] {
            assert!(read_webhook(&odd).is_none(), "{odd}");
        }
    }

    #[test]
    fn a_masked_or_malformed_key_is_none() {
        assert!(whole_key("cbaab87d1cce6d79baad8e9e2607feb3").is_some());
        for text in [
            "",
            "****************************feb3",
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxfeb3",
            "cbaa…feb3",
            "cbaab87d",
            "cbaa b87d 1cce 6d79",
        ] {
            assert!(whole_key(text).is_none(), "{text}");
        }
    }

    #[test]
    fn urls_are_compared_by_what_they_mean() {
        assert!(same_url("https://A.example/x", "https://a.example:443/x"));
        assert!(!same_url("https://a.example/x", "https://a.example/x/"));
        assert!(!same_url("https://a.example/x", "nonsense"));
    }

    #[test]
    fn what_unith_says_is_repeated_without_secrets() {
        let credentials =
            Credentials::Account { email: "a@b.c".into(), secret_key: "s3cret-account-key".to_owned().into() };
        let unith = Unith::new(http_client(), "http://localhost", credentials, Instant::now());
        let told = |body: &str| unith.without_secrets(body, Some("the-token"));
        assert_eq!(told(r#"{"message":"no","sharedKey":"abc"}"#), r#"{"message":"no","sharedKey":"[redacted]"}"#);
        assert_eq!(told("bad token the-token for s3cret-account-key"), "bad token [redacted] for [redacted]");
        assert_eq!(told(""), "nothing");
        assert_eq!(told(&"x".repeat(1_000)).len(), TOLD_CHARACTERS);
    }
}
