//! UNITH's management API. Its JSON is known here and nowhere else in this function.
//!
//! Answers are read leniently in what they say besides, and strictly in what they are: unknown members are left alone, an
//! id may be a number or a string, a list may stand alone, under `data`, or be `null`; but a success whose body is not what
//! the call returns (a maintenance page, say) is a failure. A key that comes back masked or malformed counts as unknown.
//!
//! What always holds: no error and no log repeats a token, a password, or a key that was seen during the run; no redirect
//! is followed, which would carry credentials elsewhere or turn one call into another; an answer is read up to 1 MiB.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::{Duration, SystemTime},
};

use backon::{BackoffBuilder, ExponentialBuilder, Retryable};
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{LOCATION, RETRY_AFTER},
    redirect::Policy,
};
use serde_json::{Value, json, value::RawValue};
use tokio::{sync::Mutex, time::Instant};
use unith_events::{
    ids::WebhookId,
    json::{self, Object},
    signature::{SharedKey, trimmed},
    timestamp::Timestamp,
};
use zeroize::Zeroizing;

use crate::{config::Credentials, declared::Subscriptions};

/// What one request may take. UNITH says nothing of its own limits.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// Some 12 s of pauses: what lasts longer than that is reported, and left to the next run.
const MAX_RETRIES: usize = 6;
/// How much of an error's body is repeated.
const SHOWN_CHARACTERS: usize = 300;
/// A list that has more pages than this does not end.
const MAX_PAGES: u32 = 50;
/// How many heads a page of the account's is asked to have.
const HEADS_A_PAGE: usize = 50;
const MAX_RESPONSE_BYTES: usize = 1024 * 1024;

/// A client of the management API, for one run. Its clones share the run's token, and what must not be repeated.
#[derive(Clone)]
pub struct UnithClient {
    http: Client,
    base: Url,
    credentials: Credentials,
    token: Arc<Mutex<Option<Zeroizing<String>>>>,
    seen: Arc<StdMutex<Vec<Zeroizing<String>>>>,
    deadline: Instant,
}

impl fmt::Debug for UnithClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnithClient").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

/// A registered webhook.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// UNITH's id of it.
    pub id: WebhookId,
    /// Where it delivers to.
    pub url: String,
    /// Its shared key; `None` where UNITH does not show it, or shows it masked.
    pub key: Option<SharedKey>,
    /// Which types it is for.
    pub subscriptions: Subscriptions,
    /// When it was registered, as UNITH says.
    pub created_at: Option<Timestamp>,
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
    /// There was an answer, and it is not what the call returns.
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
    /// No token was to be had, so the call that needed it was never made: what it is about may be there or not.
    #[error(transparent)]
    NoToken(Box<UnithError>),
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
            Self::Unusable { .. } | Self::OutOfTime { .. } | Self::TokenNotAccepted { .. } | Self::NoToken(_) => false,
        }
    }

    /// Whether nobody knows if the call was carried out.
    #[must_use]
    pub fn is_uncertain(&self) -> bool {
        self.is_transient() || matches!(self, Self::Unusable { .. } | Self::OutOfTime { .. })
    }

    /// Whether the thing the call is about does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::NOT_FOUND || *status == StatusCode::GONE)
    }

    /// Whether UNITH understood the call, knows us, and will not do it.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if status.is_client_error()) && !self.is_transient()
    }

    /// Whether it is a refusal of what was asked for, and not of whom or what it is about.
    #[must_use]
    pub fn is_about_the_request(&self) -> bool {
        matches!(self, Self::Refused { status, .. }
            if matches!(*status, StatusCode::BAD_REQUEST | StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY))
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
    path: &'a [&'a str],
    query: &'a [(&'a str, &'a str)],
    body: Option<&'a Value>,
    repeat: Repeat,
}

impl<'a> Call<'a> {
    fn new(method: Method, path: &'a [&'a str]) -> Self {
        Self { method, path, query: &[], body: None, repeat: Repeat::Freely }
    }

    fn name(&self) -> String {
        format!("{} /{}", self.method, self.path.join("/"))
    }
}

impl UnithClient {
    /// A client of the API at `base`, whose calls all end before `deadline`.
    ///
    /// # Errors
    /// A base that is not a URL.
    pub fn new(http: Client, base: &str, credentials: Credentials, deadline: Instant) -> Result<Self, UnithError> {
        let base = Url::parse(base.trim_end_matches('/')).map_err(|_| unusable("UNITH_API_URL", "it is not a URL"))?;
        Ok(Self { http, base, credentials, token: Arc::default(), seen: Arc::default(), deadline })
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

    /// Keeps a key out of all messages from now on.
    pub fn keep_secret(&self, secret: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !secret.is_empty() && !seen.iter().any(|known| known.as_str() == secret) {
            seen.push(Zeroizing::new(secret.to_owned()));
        }
    }

    fn keep_key_secret(&self, webhook: &Webhook) {
        if let Some(key) = &webhook.key {
            self.keep_secret(key.expose());
        }
    }

    /// A head's webhooks, ours and others'. What is listed for another head is left out: a list that was not filtered must
    /// not make that head's webhooks ours.
    pub async fn webhooks(&self, head_id: &str) -> Result<Vec<Webhook>, UnithError> {
        let mut webhooks = Vec::new();
        let mut page = None::<String>;
        for _ in 0..MAX_PAGES {
            let mut query = vec![("headId", head_id)];
            query.extend(page.as_deref().map(|page| ("page", page)));
            let call = Call { query: &query, ..Call::new(Method::GET, &["head-events"]) };
            let answer = self.call(&call).await?;
            let (listed, next) = read_list(&answer).ok_or_else(|| unusable(&call.name(), "it is not a list"))?;
            for (webhook, of_head) in listed.into_iter().filter_map(read_webhook) {
                self.keep_key_secret(&webhook);
                if of_head.is_none_or(|listed| listed.eq_ignore_ascii_case(head_id)) {
                    webhooks.push(webhook);
                }
            }
            // A server that does not know of pages gives the same one for ever.
            if next.is_none() || next == page {
                return Ok(webhooks);
            }
            page = next;
        }
        Err(unusable("GET /head-events", "its pages do not end"))
    }

    /// One webhook.
    pub async fn webhook(&self, id: &WebhookId) -> Result<Webhook, UnithError> {
        let path = ["head-events", id.as_str()];
        let call = Call::new(Method::GET, &path);
        let answer = self.call(&call).await?;
        let webhook = serde_json::from_str::<&RawValue>(&answer).ok().and_then(|webhook| {
            let object = Object::parse(webhook.get()).ok()?;
            read_webhook(object.get("data").filter(|data| data.get().starts_with('{')).unwrap_or(webhook))
        });
        let (webhook, _) = webhook.ok_or_else(|| unusable(&call.name(), "it is not a webhook"))?;
        self.keep_key_secret(&webhook);
        Ok(webhook)
    }

    /// Registers a webhook, and returns its key where UNITH shows it. UNITH does not return the id.
    ///
    /// It is not repeated: where this fails, the webhook may be registered all the same.
    pub async fn register(
        &self,
        head_id: &str,
        url: &str,
        subscriptions: Subscriptions,
    ) -> Result<Option<SharedKey>, UnithError> {
        let body = registration(head_id, url, subscriptions);
        let call = Call { body: Some(&body), repeat: Repeat::Never, ..Call::new(Method::POST, &["head-events"]) };
        let answer = self.call(&call).await?;
        let answer = Object::parse(&answer).map_err(|_| unusable(&call.name(), "it is not a JSON object"))?;
        let key = answer.text("sharedKey").or_else(|| answer.object("data").text("sharedKey"));
        let key = key.as_deref().and_then(whole_key);
        if let Some(key) = &key {
            self.keep_secret(key.expose());
        }
        Ok(key)
    }

    /// Sets a webhook's subscriptions. That it had its effect shows in the list.
    pub async fn change(
        &self,
        id: &WebhookId,
        head_id: &str,
        url: &str,
        subscriptions: Subscriptions,
    ) -> Result<(), UnithError> {
        let body = registration(head_id, url, subscriptions);
        let path = ["head-events", id.as_str()];
        self.call(&Call { body: Some(&body), ..Call::new(Method::PATCH, &path) }).await.map(drop)
    }

    /// Deletes a webhook; one that is gone is a success. That it had its effect shows in the list.
    pub async fn delete(&self, id: &WebhookId) -> Result<(), UnithError> {
        match self.call(&Call::new(Method::DELETE, &["head-events", id.as_str()])).await {
            Err(error) if error.is_not_found() => Ok(()),
            result => result.map(drop),
        }
    }

    /// Switches a head's events on or off. That it had its effect shows in [`Self::events_on`].
    pub async fn switch_events(&self, head_id: &str, on: bool) -> Result<(), UnithError> {
        // In the query: a body is ignored in silence.
        let query = [("enableEvents", if on { "true" } else { "false" })];
        let path = ["head", head_id, "enable-events"];
        self.call(&Call { query: &query, ..Call::new(Method::PUT, &path) }).await.map(drop)
    }

    /// Whether a head's events are on.
    pub async fn events_on(&self, head_id: &str) -> Result<bool, UnithError> {
        let path = ["head", head_id, "enable-events"];
        let call = Call::new(Method::GET, &path);
        let answer = self.call(&call).await?;
        let value: Value = serde_json::from_str(&answer).unwrap_or_default();
        let inner = ["enableEvents", "data"].iter().find_map(|name| value.get(name)).unwrap_or(&value);
        let on = inner.as_bool().or_else(|| inner.as_str()?.to_ascii_lowercase().parse().ok());
        on.ok_or_else(|| unusable(&call.name(), "it is neither true nor false"))
    }

    /// The ids of all heads of the account.
    pub async fn heads(&self) -> Result<Vec<String>, UnithError> {
        let take = HEADS_A_PAGE.to_string();
        let mut heads: Vec<String> = Vec::new();
        for page in 1..=MAX_PAGES {
            let number = page.to_string();
            let query = [("order", "ASC"), ("page", number.as_str()), ("take", take.as_str())];
            let call = Call { query: &query, ..Call::new(Method::GET, &["head", "all"]) };
            let answer = match self.call(&call).await {
                // A page behind the last one, which nobody announced as such.
                Err(error) if page > 1 && error.is_refusal() => return Ok(heads),
                answer => answer?,
            };
            let (listed, _) = read_list(&answer).ok_or_else(|| unusable(&call.name(), "it is not a list of heads"))?;
            let known = heads.len();
            for head in listed {
                let id = Object::parse(head.get()).ok().and_then(|head| head.text("id").map(Cow::into_owned));
                let id = id.filter(|id| unith_events::ids::HeadId::new(id.as_str()).is_ok());
                let id = id.ok_or_else(|| unusable(&call.name(), "a head in it has no id"))?;
                if !heads.contains(&id) {
                    heads.push(id);
                }
            }
            let meta = Object::parse(&answer).unwrap_or_default().object("meta");
            let number = |name| meta.get(name).and_then(|value| value.get().trim_matches('"').parse::<usize>().ok());
            let is_last = match (number("pageCount"), number("itemCount")) {
                (Some(pages), _) => usize::try_from(page).is_ok_and(|page| page >= pages),
                (None, Some(items)) => heads.len() >= items,
                // A server may give fewer than it was asked for: a short page need not be the last one.
                (None, None) => false,
            };
            // Nothing new is on a page behind the last one, or on one that a server without pages gives again.
            if is_last || heads.len() == known {
                return Ok(heads);
            }
        }
        Err(unusable("GET /head/all", "its pages do not end"))
    }

    /// Whether the account answers: what it then does not know is not there.
    pub async fn account(&self) -> Result<(), UnithError> {
        let call = Call::new(Method::GET, &["user", "me"]);
        let answer = self.call(&call).await?;
        Object::parse(&answer).map(drop).map_err(|_| unusable(&call.name(), "it is not a JSON object"))
    }

    /// Makes a call with a token, which is got anew once if it is not accepted.
    async fn call(&self, call: &Call<'_>) -> Result<Zeroizing<String>, UnithError> {
        let token = self.bearer(None).await?;
        match self.send(call, Some(&token)).await {
            Err(error) if matches!(error, UnithError::Refused { status: StatusCode::UNAUTHORIZED, .. }) => {
                // UNITH says 401 of what is not ours, too: a token that is good elsewhere is not at fault.
                if matches!(self.credentials, Credentials::Bearer(_)) && self.is_accepted(&token).await {
                    return Err(error);
                }
                let token = self.bearer(Some(&token)).await?;
                self.send(call, Some(&token)).await
            }
            result => result,
        }
    }

    async fn is_accepted(&self, token: &str) -> bool {
        self.send(&Call::new(Method::GET, &["user", "me"]), Some(token)).await.is_ok()
    }

    /// The run's token; another one than `refused`.
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
        self.keep_secret(&new);
        Ok(token.insert(new).clone())
    }

    async fn new_token(&self, email: &str, secret_key: &str) -> Result<Zeroizing<String>, UnithError> {
        // UNITH's guide has `secretKey`; its developer kit sends the other spelling too.
        let body = json!({"email": email, "secretKey": secret_key, "secretkey": secret_key});
        let call = Call { body: Some(&body), ..Call::new(Method::POST, &["auth", "token"]) };
        let answer = self.send(&call, None).await?;
        let answer = Object::parse(&answer).unwrap_or_default();
        let bearer = answer.object("data").text("bearer").or_else(|| answer.text("token"));
        let bearer = bearer.filter(|bearer| !trimmed(bearer).is_empty());
        let bearer = bearer.ok_or_else(|| unusable(&call.name(), "there is no token in it"))?;
        Ok(Zeroizing::new(trimmed(&bearer).to_owned()))
    }

    async fn send(&self, call: &Call<'_>, token: Option<&str>) -> Result<Zeroizing<String>, UnithError> {
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

    async fn send_once(&self, call: &Call<'_>, token: Option<&str>) -> Result<Zeroizing<String>, UnithError> {
        let unreachable =
            |error: reqwest::Error| UnithError::Unreachable { call: call.name(), cause: causes(&error.without_url()) };
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
        let mut response = request.send().await.map_err(unreachable)?;
        let (status, retry_after) = (response.status(), retry_after(&response));
        let location = response.headers().get(LOCATION).is_some();
        let mut bytes = Zeroizing::new(Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if bytes.len() + chunk.len() > MAX_RESPONSE_BYTES {
                return Err(unusable(&call.name(), "it is longer than 1 MiB"));
            }
            bytes.extend_from_slice(&chunk);
        }
        let body = Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
        if status.is_success() {
            return Ok(body);
        }
        let said = if status.is_redirection() && location {
            "a redirect, which is not followed: is UNITH_API_URL the address of the API itself?".to_owned()
        } else {
            self.without_secrets(&body)
        };
        Err(UnithError::Refused { call: call.name(), status, said, retry_after })
    }

    /// The base, and a path whose parts may hold anything.
    fn address(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    /// A body as it may be repeated.
    fn without_secrets(&self, body: &str) -> String {
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
        self.keep_secret(stored);
        for secret in self.seen.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            text = text.replace(secret.as_str(), REDACTED);
        }
        let text = without_long_words(&text);
        if text.trim().is_empty() { "nothing".to_owned() } else { text.chars().take(SHOWN_CHARACTERS).collect() }
    }
}

const REDACTED: &str = "[redacted]";
/// A key that UNITH itself made a moment ago was not seen yet. It looks like one: no word is as long and has digits.
const LONG_WORD: usize = 24;

fn without_long_words(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (word, more) = rest.split_at(end);
        let is_secret = word.len() >= LONG_WORD && word.bytes().any(|byte| byte.is_ascii_digit());
        shown.push_str(if is_secret { REDACTED } else { word });
        let gap = more.find(|c: char| c.is_ascii_alphanumeric()).unwrap_or(more.len());
        let (between, next) = more.split_at(gap);
        shown.push_str(between);
        rest = next;
    }
    shown
}

/// Whether UNITH has certainly not carried out the call.
fn is_untouched(error: &UnithError) -> bool {
    matches!(error, UnithError::Refused { status: StatusCode::TOO_MANY_REQUESTS, .. })
}

fn unusable(call: &str, cause: &'static str) -> UnithError {
    UnithError::Unusable { call: call.to_owned(), cause }
}

fn causes(error: &reqwest::Error) -> String {
    lambda_support::errors::causes(error)
}

fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = name.to_ascii_lowercase();
                if ["key", "token", "bearer", "secret", "password", "authorization"].iter().any(|s| name.contains(s)) {
                    *value = REDACTED.into();
                } else {
                    redact(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(redact),
        _ => {}
    }
}

/// Seconds, or an HTTP date.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    let until = || httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).ok();
    value.parse().ok().map(Duration::from_secs).or_else(until)
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

/// The elements of a list that stands alone or under `data`, and its next page where it has one. `null` is an empty list.
fn read_list(answer: &str) -> Option<(Vec<&RawValue>, Option<String>)> {
    let list = |text: &'_ str| -> Option<bool> { (text == "null" || text.starts_with('[')).then_some(text == "null") };
    let whole = serde_json::from_str::<&RawValue>(answer).ok()?;
    let (elements, next) = if list(whole.get()).is_some() {
        (whole, None)
    } else {
        let object = Object::parse(whole.get()).ok()?;
        (object.get("data")?, object.get("nextPage").and_then(WebhookId::from_json).map(|page| page.to_string()))
    };
    if list(elements.get())? {
        return Some((Vec::new(), next));
    }
    Some((serde_json::from_str(elements.get()).ok()?, next))
}

/// A webhook, and the head it is listed for. `None` for what is not a webhook: somebody else's oddity must not stop us.
fn read_webhook(value: &RawValue) -> Option<(Webhook, Option<String>)> {
    let fields = Object::parse(value.get()).ok()?;
    let webhook = Webhook {
        id: WebhookId::from_json(fields.get("id")?)?,
        url: fields.text("webhookUrl")?.into_owned(),
        key: fields.text("sharedKey").as_deref().and_then(whole_key),
        subscriptions: Subscriptions {
            start_conversation: flag(&fields, "startConversation"),
            end_conversation: flag(&fields, "endConversation"),
            timeout_conversation: flag(&fields, "timeoutConversation"),
            inactivity_warning: flag(&fields, "inactivityWarning"),
        },
        created_at: fields.text("createdAt").as_deref().and_then(Timestamp::parse),
    };
    Some((webhook, fields.text("headId").map(Cow::into_owned)))
}

fn flag(fields: &Object<'_>, name: &str) -> bool {
    fields.get(name).is_some_and(|value| {
        let text = json::text(value);
        matches!(value.get(), "true" | "1") || text.is_some_and(|text| text.eq_ignore_ascii_case("true"))
    })
}

/// A key that can be one, and is not masked: storing a masked key would refuse every delivery.
fn whole_key(text: &str) -> Option<SharedKey> {
    // Eight of a mask's characters in a row are next to impossible in a random key.
    let is_mask = |run: &[u8]| {
        run.iter().all(|byte| Some(byte) == run.first()) && run.first().is_some_and(|byte| b"xX.-_=".contains(byte))
    };
    let is_masked = text.as_bytes().windows(8).any(is_mask);
    if is_masked { None } else { SharedKey::parse(text).ok() }
}

/// An HTTP client with TLS by rustls on ring and the system's roots, which follows no redirect.
#[must_use]
pub fn http_client() -> Client {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder =
        Client::builder().user_agent(concat!("unith-webhooks/", env!("CARGO_PKG_VERSION"))).redirect(Policy::none());
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

    fn read(value: &Value) -> Option<(Webhook, Option<String>)> {
        read_webhook(&serde_json::value::to_raw_value(value).unwrap())
    }

    #[test]
    fn webhooks_are_read_leniently() {
        let (webhook, head) = read(&json!({
            "id": 4, "webhookUrl": "https://a.example/x", "sharedKey": "cbaab87d1cce6d79baad8e9e2607feb3", "headId": "h",
            "startConversation": true, "endConversation": "true", "timeoutConversation": 1, "more": {},
            "createdAt": "2026-01-16T09:56:12.076Z",
        }))
        .unwrap();
        let created_at = webhook.created_at.map(|at| at.to_string());
        assert_eq!((webhook.id.as_str(), created_at.as_deref()), ("4", Some("2026-01-16T09:56:12.076Z")));
        assert!(webhook.key.is_some());
        assert_eq!(head.as_deref(), Some("h"));
        let flags = webhook.subscriptions;
        assert!(flags.start_conversation && flags.end_conversation && flags.timeout_conversation);
        assert!(!flags.inactivity_warning);
        let (spelled, _) = read(&json!({"id": "000123", "webhookUrl": "u"})).unwrap();
        assert_eq!((spelled.id.as_str(), spelled.id.as_json().get()), ("000123", r#""000123""#));
        for odd in [json!(null), json!({"id": 4}), json!({"webhookUrl": "u"}), json!({"id": {}, "webhookUrl": "u"})] {
            assert!(read(&odd).is_none(), "{odd}");
        }
    }

    #[test]
    fn a_list_stands_alone_or_under_data_or_is_null() {
        let count = |text: &str| read_list(text).map(|(listed, next)| (listed.len(), next));
        assert_eq!(count("null"), Some((0, None)));
        assert_eq!(count(" [1, 2] "), Some((2, None)));
        assert_eq!(count(r#"{"data": null}"#), Some((0, None)));
        assert_eq!(count(r#"{"data": [{}], "nextPage": 2}"#), Some((1, Some("2".to_owned()))));
        for text in ["", "<html>", "true", "{}", r#"{"message": "no"}"#, r#"{"data": "x"}"#, "[1", "\"[]\""] {
            assert_eq!(count(text), None, "{text}");
        }
    }

    #[test]
    fn a_masked_or_malformed_key_is_none() {
        for text in ["cbaab87d1cce6d79baad8e9e2607feb3", "00000000000000000000000000000001"] {
            assert!(whole_key(text).is_some(), "{text}");
        }
        for text in [
            "",
            "****************************feb3",
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxfeb3",
            "............................feb3",
            "cbaa…feb3",
            "cbaab87d",
            "cbaa b87d 1cce 6d79",
        ] {
            assert!(whole_key(text).is_none(), "{text}");
        }
    }

    #[test]
    fn parts_of_a_path_may_hold_anything() {
        let unith = unith("https://a.example/api/");
        let url = |path: &[&str]| unith.address(path).to_string();
        assert_eq!(
            url(&["head", "a/b?c#d é", "enable-events"]),
            "https://a.example/api/head/a%2Fb%3Fc%23d%20%C3%A9/enable-events"
        );
        assert_eq!(url(&["head-events"]), "https://a.example/api/head-events");
    }

    fn unith(base: &str) -> UnithClient {
        let credentials =
            Credentials::Account { email: "a@b.c".into(), secret_key: "s3cret-account-key".to_owned().into() };
        UnithClient::new(http_client(), base, credentials, Instant::now()).unwrap()
    }

    #[test]
    fn what_unith_says_is_repeated_without_secrets() {
        let unith = unith("http://localhost");
        unith.keep_secret("the-token");
        unith.keep_secret("a-key-of-the-ring");
        let shown = |body: &str| unith.without_secrets(body);
        assert_eq!(shown(r#"{"message":"no","sharedKey":"abc"}"#), r#"{"message":"no","sharedKey":"[redacted]"}"#);
        assert_eq!(shown("bad token the-token for s3cret-account-key"), "bad token [redacted] for [redacted]");
        assert_eq!(
            shown(r#"{"message":"key a-key-of-the-ring is taken"}"#),
            r#"{"message":"key [redacted] is taken"}"#
        );
        assert_eq!(shown("key cbaab87d1cce6d79baad8e9e2607feb3 is new"), "key [redacted] is new");
        let head = "head 8eab5b23-024a-45cb-a0e1-9d3ffd6c9610: internationalisationsuntouched";
        assert_eq!(shown(head), head);
        assert_eq!(shown(""), "nothing");
        assert_eq!(shown(&"x".repeat(1_000)).len(), SHOWN_CHARACTERS);
        let at_the_end = format!("{} a-key-of-the-ring", "x".repeat(SHOWN_CHARACTERS - 5));
        assert!(!shown(&at_the_end).contains("a-k"), "cut after it was redacted");
    }
}
