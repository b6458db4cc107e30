//! A response of UNITH's management API, or of whatever is in its place.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use provision::{
    config::Credentials,
    unith::{
        UnithClient, UnithError,
        response::{HeadsPage, parse_switch, parse_token},
        webhook::{parse_registered_key, parse_webhook, parse_webhooks},
    },
};
use reqwest::{Client, Response, Url};
use tokio::{
    runtime::{self, Runtime},
    time::Instant,
};
use unith_events::{json::Object, signature::SharedKey};

/// A key of the ring, and the account's password. Seeds have both.
const KEY: &str = "Q0s.known-to-us+of/the=ring_1";
const PASSWORD: &str = "s3cret \"account\" key\\";
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| runtime::Builder::new_current_thread().enable_time().build().expect("a runtime"));
static HTTP: LazyLock<Client> = LazyLock::new(|| {
    let provider = rustls::crypto::ring::default_provider().into();
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let tls = tls.expect("versions of TLS").with_root_certificates(rustls::RootCertStore::empty());
    Client::builder().tls_backend_preconfigured(tls.with_no_client_auth()).build().expect("a client")
});

// The input is a line with the status, `Retry-After` and `Location`, and the body.
fuzz_target!(|data: &[u8]| {
    let line_feed = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (line, body) = data.split_at(line_feed);
    let body = body.get(1..).unwrap_or_default();
    let Some(response) = response(line, body) else { return };
    let is_success = response.status().is_success();
    let account = serde_json::json!({"email": "a@b.example", "secretKey": PASSWORD}).to_string();
    let credentials = Credentials::parse(&account).expect("credentials");
    let base = Url::parse("https://a.example/api").expect("a URL");
    let unith = UnithClient::new(HTTP.clone(), base, credentials, Instant::now());
    unith.keep_secret(&SharedKey::parse(KEY));
    match RUNTIME.block_on(unith.read_response("GET /head-events", response)) {
        Ok(body) => {
            assert!(is_success);
            read_body(&body);
        }
        Err(error) => {
            assert!(matches!(error, UnithError::Refused { .. }) && !is_success);
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains(KEY) && !shown.contains(PASSWORD.trim()), "{shown}");
            assert!(!shown.contains(PASSWORD.escape_default().to_string().trim()), "{shown}");
            shows_no_new_key(body, &error.to_string());
            assert!(error.to_string().chars().count() <= 400);
        }
    }
});

fn response(line: &[u8], body: &[u8]) -> Option<Response> {
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let mut response = http::Response::builder().status(words.next()?);
    for name in ["retry-after", "location"] {
        if let Some(value) = words.next().filter(|value| *value != "-") {
            response = response.header(name, value);
        }
    }
    Some(response.body(body.to_vec()).ok()?.into())
}

/// Every call reads a success in its own way. None panics, and no masked key is taken for one.
fn read_body(body: &str) {
    let is_sound = |key: &SharedKey| {
        assert!(body.contains(key.expose()) || body.contains('\\'), "a key that is not in the body");
        assert!(!key.expose().contains("xxxxxxxx") && !key.expose().contains("........"));
    };
    if let Some((webhooks, _)) = parse_webhooks(body) {
        webhooks.iter().filter_map(|webhook| webhook.key.as_ref()).for_each(is_sound);
    }
    if let Some(webhook) = parse_webhook(body) {
        webhook.key.iter().for_each(is_sound);
        assert!(!webhook.id.as_str().is_empty());
    }
    if let Ok(key) = parse_registered_key(body) {
        key.iter().for_each(is_sound);
    }
    if let Some(token) = parse_token(body) {
        assert!(!token.trim().is_empty());
    }
    if let Ok(page) = HeadsPage::parse(body) {
        assert!(page.ids.iter().all(|id| (1..=256).contains(&id.len())));
    }
    let _ = parse_switch(body);
}

/// A key that UNITH has just made is in no message, also if the rest of the body cannot be read.
fn shows_no_new_key(body: &[u8], message: &str) {
    let Ok(body) = std::str::from_utf8(body) else { return };
    let Ok(members) = Object::parse(body) else { return };
    for key in [members.text("sharedKey"), members.object("data").text("sharedKey")].into_iter().flatten() {
        if let Ok(key) = SharedKey::parse(&key) {
            assert!(!message.contains(key.expose()), "{message}");
        }
    }
}
