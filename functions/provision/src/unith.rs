//! UNITH's management API.
//!
//! Responses are read leniently, and a success whose body is not what the call returns (a maintenance page, say) is a
//! failure.
//!
//! Invariants:
//! - No error repeats a token, a password, or a key that was seen during the run.
//! - No redirect is followed: it could carry credentials elsewhere, or turn one call into another.
//! - A response is read up to 1 MiB.

mod redaction;
pub mod response;
pub mod webhook;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use backon::{BackoffBuilder, ExponentialBuilder, Retryable};
use lambda_support::errors::causes;
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{LOCATION, RETRY_AFTER},
    redirect::Policy,
};
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::Instant};
use unith_events::{
    event_type::EventTypes,
    ids::{HeadId, WebhookId},
    json::Object,
    signature::SharedKey,
};
use zeroize::Zeroizing;

use self::{
    redaction::Redactor,
    response::{HeadsPage, parse_switch, parse_token},
    webhook::{Webhook, parse_registered_key, parse_webhook, parse_webhooks, registration},
};
use crate::config::Credentials;

/// UNITH documents no limit of its own.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// Some 12 s of pauses: a longer outage is reported, and left to the next run.
const MAX_RETRIES: usize = 6;
/// A list with more pages does not end.
const MAX_PAGES: usize = 50;
const HEADS_PER_PAGE: usize = 50;
const MAX_RESPONSE_BYTES: usize = 1024 * 1024;

/// A client of the management API for one run. Its clones share the run's token and the secrets it has seen.
#[derive(Clone)]
pub struct UnithClient {
    http: Client,
    base: Url,
    credentials: Credentials,
    token: Arc<Mutex<Option<Zeroizing<String>>>>,
    redactor: Redactor,
    deadline: Instant,
}

impl fmt::Debug for UnithClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnithClient").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

/// A call that did not succeed. `call` is its method and path.
#[derive(Debug, thiserror::Error)]
pub enum UnithError {
    #[error("{call}: UNITH answered {status}: {body}")]
    Refused {
        call: String,
        status: StatusCode,
        /// The beginning of the body, without secrets.
        body: String,
        retry_after: Option<Duration>,
    },
    #[error("{call}: UNITH could not be reached: {cause}")]
    Unreachable { call: String, cause: String },
    #[error("{call}: UNITH's response cannot be used: {cause}")]
    Unusable { call: String, cause: &'static str },
    #[error("{call}: the run's time expired; run it again to continue")]
    OutOfTime { call: String },
    #[error(
        "{call}: UNITH does not accept the stored bearer token: tokens expire after 7 days; store the account's e-mail \
         and secretKey in UNITH_CREDENTIALS_SECRET instead"
    )]
    TokenNotAccepted { call: String },
    #[error(transparent)]
    NoToken(Box<UnithError>),
}

impl UnithError {
    /// How long UNITH asks the caller to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the same call may succeed later. This one may or may not have been executed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                let passes = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
                status.is_server_error() || passes.contains(status)
            }
            Self::Unreachable { .. } => true,
            Self::Unusable { .. } | Self::OutOfTime { .. } | Self::TokenNotAccepted { .. } | Self::NoToken(_) => false,
        }
    }

    /// Whether the call may or may not have been executed.
    pub fn is_uncertain(&self) -> bool {
        self.is_transient() || matches!(self, Self::Unusable { .. } | Self::OutOfTime { .. })
    }

    /// Whether the subject of the call does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::NOT_FOUND || *status == StatusCode::GONE)
    }

    /// Whether UNITH understood the call and refuses it.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if status.is_client_error()) && !self.is_transient()
    }

    /// Whether UNITH refuses the request's content, rather than its sender or its subject.
    pub fn is_about_the_request(&self) -> bool {
        matches!(self, Self::Refused { status, .. }
            if matches!(*status, StatusCode::BAD_REQUEST | StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY))
    }
}

/// Whether a call that may have been executed may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retry {
    Safe,
    /// Only by the caller, after looking for the call's effect.
    Unsafe,
}

struct Call<'a> {
    method: Method,
    path: &'a [&'a str],
    query: &'a [(&'a str, &'a str)],
    body: Option<&'a Value>,
    retry: Retry,
}

impl<'a> Call<'a> {
    fn new(method: Method, path: &'a [&'a str]) -> Self {
        Self { method, path, query: &[], body: None, retry: Retry::Safe }
    }

    fn name(&self) -> String {
        format!("{} /{}", self.method, self.path.join("/"))
    }
}

impl UnithClient {
    /// A client of the API at `base`. All its calls end before `deadline`.
    pub fn new(http: Client, base: Url, credentials: Credentials, deadline: Instant) -> Self {
        let redactor = Redactor::default();
        redactor.add(match &credentials {
            Credentials::Bearer(bearer) => bearer,
            Credentials::Account { secret_key, .. } => secret_key,
        });
        Self { http, base, credentials, token: Arc::default(), redactor, deadline }
    }

    /// The same client, with calls that end at `until` or at its own deadline, whichever is sooner.
    pub fn with_time_slice(&self, until: Instant) -> Self {
        Self { deadline: self.deadline.min(until), ..self.clone() }
    }

    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Keeps keys out of all messages from now on.
    pub fn keep_secret<'k>(&self, keys: impl IntoIterator<Item = &'k SharedKey>) {
        keys.into_iter().for_each(|key| self.redactor.add(key.expose()));
    }

    /// A head's webhooks, those of others included. A webhook that is listed for another head is left out: the list may
    /// be unfiltered, and that head's webhooks are not ours.
    pub async fn webhooks(&self, head_id: &str) -> Result<Vec<Webhook>, UnithError> {
        let mut webhooks = Vec::new();
        let mut page = None::<String>;
        for _ in 0..MAX_PAGES {
            let mut query = vec![("headId", head_id)];
            query.extend(page.as_deref().map(|page| ("page", page)));
            let call = Call { query: &query, ..Call::new(Method::GET, &["head-events"]) };
            let response = self.call(&call).await?;
            let (listed, next) = parse_webhooks(&response).ok_or_else(|| unusable(&call.name(), "it is not a list"))?;
            for webhook in listed {
                self.keep_secret(&webhook.key);
                if webhook.head_id.as_ref().is_none_or(|listed| listed.eq_ignore_ascii_case(head_id)) {
                    webhooks.push(webhook);
                }
            }
            // A server without paging returns the same page for ever.
            if next.is_none() || next == page {
                return Ok(webhooks);
            }
            page = next;
        }
        Err(unusable("GET /head-events", "its pages do not end"))
    }

    pub async fn webhook(&self, id: &WebhookId) -> Result<Webhook, UnithError> {
        let path = ["head-events", id.as_str()];
        let call = Call::new(Method::GET, &path);
        let response = self.call(&call).await?;
        let webhook = parse_webhook(&response).ok_or_else(|| unusable(&call.name(), "it is not a webhook"))?;
        self.keep_secret(&webhook.key);
        Ok(webhook)
    }

    /// Registers a webhook, and returns its key if UNITH shows it. UNITH does not return the id.
    ///
    /// It is not retried: if this fails, the webhook may be registered anyway.
    pub async fn register(&self, head_id: &str, url: &str, types: EventTypes) -> Result<Option<SharedKey>, UnithError> {
        let body = registration(head_id, url, types);
        let call = Call { body: Some(&body), retry: Retry::Unsafe, ..Call::new(Method::POST, &["head-events"]) };
        let response = self.call(&call).await?;
        let key = parse_registered_key(&response).map_err(|_| unusable(&call.name(), "it is not a JSON object"))?;
        self.keep_secret(&key);
        Ok(key)
    }

    /// Sets a webhook's subscriptions. The list shows whether it had its effect.
    pub async fn change(&self, id: &WebhookId, head_id: &str, url: &str, types: EventTypes) -> Result<(), UnithError> {
        let body = registration(head_id, url, types);
        let path = ["head-events", id.as_str()];
        self.call(&Call { body: Some(&body), ..Call::new(Method::PATCH, &path) }).await.map(drop)
    }

    /// Deletes a webhook; one that is gone already is a success. The list shows whether it had its effect.
    pub async fn delete(&self, id: &WebhookId) -> Result<(), UnithError> {
        match self.call(&Call::new(Method::DELETE, &["head-events", id.as_str()])).await {
            Err(error) if error.is_not_found() => Ok(()),
            result => result.map(drop),
        }
    }

    /// Switches a head's events on or off. [`Self::events_on`] shows whether it had its effect.
    pub async fn switch_events(&self, head_id: &str, on: bool) -> Result<(), UnithError> {
        // In the query: UNITH ignores a body without an error.
        let query = [("enableEvents", if on { "true" } else { "false" })];
        let path = ["head", head_id, "enable-events"];
        self.call(&Call { query: &query, ..Call::new(Method::PUT, &path) }).await.map(drop)
    }

    /// Whether a head's events are on.
    pub async fn events_on(&self, head_id: &str) -> Result<bool, UnithError> {
        let path = ["head", head_id, "enable-events"];
        let call = Call::new(Method::GET, &path);
        let response = self.call(&call).await?;
        parse_switch(&response).ok_or_else(|| unusable(&call.name(), "it is neither true nor false"))
    }

    /// The ids of all heads of the account. A list that ends before its own count is an error: a head that it left out
    /// would count as gone.
    pub async fn heads(&self) -> Result<Vec<HeadId>, UnithError> {
        let take = HEADS_PER_PAGE.to_string();
        let mut heads: Vec<HeadId> = Vec::new();
        let (mut page_count, mut item_count) = (None, None);
        for page in 1..=MAX_PAGES {
            let number = page.to_string();
            let query = [("order", "ASC"), ("page", number.as_str()), ("take", take.as_str())];
            let call = Call { query: &query, ..Call::new(Method::GET, &["head", "all"]) };
            let is_counted = page_count.is_some() || item_count.is_some();
            let response = match self.call(&call).await {
                // A page behind the last one, if no page said which one that is.
                Err(error) if page > 1 && !is_counted && (error.is_about_the_request() || error.is_not_found()) => {
                    return Ok(heads);
                }
                response => response?,
            };
            let listed = HeadsPage::parse(&response).map_err(|cause| unusable(&call.name(), cause))?;
            (page_count, item_count) = (listed.page_count.or(page_count), listed.item_count.or(item_count));
            let known = heads.len();
            for id in listed.ids {
                if !heads.contains(&id) {
                    heads.push(id);
                }
            }
            let has_all = item_count.is_none_or(|items| heads.len() >= items);
            let is_same = heads.len() == known;
            let is_last = match (page_count, item_count) {
                // A further page that counts has heads of its own.
                (Some(pages), _) => page > pages || (page == pages && (page == 1 || !is_same)),
                (None, Some(_)) => has_all,
                // A server may limit the page size: a short page may not be the last one. A page behind the last one
                // has no new head, nor has the page that a server without paging repeats.
                (None, None) => is_same,
            };
            if is_last && has_all {
                return Ok(heads);
            }
            if is_last || is_same {
                return Err(unusable(&call.name(), "it ends before all heads that it counts were listed"));
            }
        }
        Err(unusable("GET /head/all", "its pages do not end"))
    }

    /// Checks that the account can be read. If it can, a head that UNITH does not find does not exist.
    pub async fn account(&self) -> Result<(), UnithError> {
        let call = Call::new(Method::GET, &["user", "me"]);
        let response = self.call(&call).await?;
        Object::parse(&response).map(drop).map_err(|_| unusable(&call.name(), "it is not a JSON object"))
    }

    /// Makes a call with a token, which is renewed once if UNITH does not accept it.
    async fn call(&self, call: &Call<'_>) -> Result<Zeroizing<String>, UnithError> {
        let token = self.bearer(None).await?;
        match self.send(call, Some(&token)).await {
            Err(error) if matches!(error, UnithError::Refused { status: StatusCode::UNAUTHORIZED, .. }) => {
                // UNITH also answers 401 for things of other accounts: then the token itself is valid.
                let account = Call::new(Method::GET, &["user", "me"]);
                if matches!(self.credentials, Credentials::Bearer(_)) && self.send(&account, Some(&token)).await.is_ok()
                {
                    return Err(error);
                }
                let token = self.bearer(Some(&token)).await?;
                self.send(call, Some(&token)).await
            }
            result => result,
        }
    }

    /// The run's token, other than `refused`.
    async fn bearer(&self, refused: Option<&str>) -> Result<Zeroizing<String>, UnithError> {
        let mut token = self.token.lock().await;
        if let Some(known) = token.as_ref().filter(|known| Some(known.as_str()) != refused) {
            return Ok(known.clone());
        }
        let new = match &self.credentials {
            Credentials::Bearer(bearer) if refused.is_none() => bearer.clone(),
            Credentials::Bearer(_) => return Err(UnithError::TokenNotAccepted { call: "POST /auth/token".to_owned() }),
            Credentials::Account { email, secret_key } => {
                self.new_token(email, secret_key).await.map_err(|error| UnithError::NoToken(Box::new(error)))?
            }
        };
        self.redactor.add(&new);
        Ok(token.insert(new).clone())
    }

    async fn new_token(&self, email: &str, secret_key: &str) -> Result<Zeroizing<String>, UnithError> {
        // UNITH's guide has `secretKey`; its developer kit also sends `secretkey`.
        let body = json!({"email": email, "secretKey": secret_key, "secretkey": secret_key});
        let call = Call { body: Some(&body), ..Call::new(Method::POST, &["auth", "token"]) };
        let response = self.send(&call, None).await?;
        parse_token(&response).ok_or_else(|| unusable(&call.name(), "it has no token"))
    }

    async fn send(&self, call: &Call<'_>, token: Option<&str>) -> Result<Zeroizing<String>, UnithError> {
        let backoff = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(FIRST_BACKOFF)
            .with_max_delay(LONGEST_BACKOFF)
            .with_max_times(MAX_RETRIES);
        let deadline = self.deadline;
        // A retry that would come too late is not waited for: the last error says more than a time-out.
        let pause = |error: &UnithError, pause: Option<Duration>| {
            let pause = pause?.max(error.retry_after().unwrap_or_default());
            Instant::now().checked_add(pause).is_some_and(|then| then < deadline).then_some(pause)
        };
        let retried = (|| self.send_once(call, token))
            .retry(backoff.build())
            .when(|error| error.is_transient() && (call.retry == Retry::Safe || was_not_executed(error)))
            .adjust(pause);
        let out_of_time = |_| UnithError::OutOfTime { call: call.name() };
        tokio::time::timeout_at(deadline, retried).await.map_err(out_of_time)?
    }

    async fn send_once(&self, call: &Call<'_>, token: Option<&str>) -> Result<Zeroizing<String>, UnithError> {
        let mut request = self
            .http
            .request(call.method.clone(), self.address(call.path))
            .query(call.query)
            .header("accept", "application/json")
            .timeout(REQUEST_TIMEOUT);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = call.body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| unreachable(&call.name(), error))?;
        self.read_response(&call.name(), response).await
    }

    /// The body of a success; of any other response, an error that repeats no secret.
    ///
    /// It makes no call, so it can be tested with any response.
    pub async fn read_response(&self, call: &str, mut response: Response) -> Result<Zeroizing<String>, UnithError> {
        let (status, retry_after) = (response.status(), retry_after(&response));
        let location = response.headers().get(LOCATION).is_some();
        let mut bytes = Zeroizing::new(Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(call, error))? {
            if bytes.len() + chunk.len() > MAX_RESPONSE_BYTES {
                return Err(unusable(call, "it is longer than 1 MiB"));
            }
            bytes.extend_from_slice(&chunk);
        }
        let body = Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
        if status.is_success() {
            return Ok(body);
        }
        let body = if status.is_redirection() && location {
            "a redirect, which is not followed: is UNITH_API_URL the URL of the API itself?".to_owned()
        } else {
            self.redactor.redacted(&body)
        };
        Err(UnithError::Refused { call: call.to_owned(), status, body, retry_after })
    }

    /// The URL of a path, whose parts may contain any character.
    fn address(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }
}

/// Whether UNITH has certainly not executed the call.
fn was_not_executed(error: &UnithError) -> bool {
    matches!(error, UnithError::Refused { status: StatusCode::TOO_MANY_REQUESTS, .. })
}

fn unreachable(call: &str, error: reqwest::Error) -> UnithError {
    UnithError::Unreachable { call: call.to_owned(), cause: causes(&error.without_url()) }
}

fn unusable(call: &str, cause: &'static str) -> UnithError {
    UnithError::Unusable { call: call.to_owned(), cause }
}

/// Reads `Retry-After`: seconds, or an HTTP date.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    let until = || httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).ok();
    value.parse().ok().map(Duration::from_secs).or_else(until)
}

/// An HTTP client with TLS by rustls on ring and the system's roots. It follows no redirect.
pub(crate) fn http_client() -> Client {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder =
        Client::builder().user_agent(concat!("unith-webhooks/", env!("CARGO_PKG_VERSION"))).redirect(Policy::none());
    // Neither step can fail with these inputs; the calls of a client without TLS would at least fail with a reason.
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
    fn a_path_may_contain_any_character() {
        let credentials = Credentials::Bearer("token".to_owned().into());
        let base = Url::parse("https://a.example/api/").unwrap();
        let unith = UnithClient::new(http_client(), base, credentials, Instant::now());
        let url = |path: &[&str]| unith.address(path).to_string();
        assert_eq!(
            url(&["head", "a/b?c#d é", "enable-events"]),
            "https://a.example/api/head/a%2Fb%3Fc%23d%20%C3%A9/enable-events"
        );
        assert_eq!(url(&["head-events"]), "https://a.example/api/head-events");
    }
}
