//! What the environment and the credentials secret say.

use std::fmt;

use serde::Deserialize;
use shared::{
    env::{Env, EnvError},
    event::is_id,
};
use zeroize::Zeroizing;

use crate::declared::{Declared, NotHttps, Subscriptions, UnknownType, WebhookUrl};

/// Where UNITH and the secrets are. Needed by every run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `UNITH_API_URL`
    pub api_url: String,
    /// `UNITH_CREDENTIALS_SECRET`
    pub credentials_secret: String,
    /// `UNITH_KEYS_SECRET`
    pub keys_secret: String,
}

/// A declared state that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A variable.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// The webhook URL.
    #[error(transparent)]
    Url(#[from] NotHttps),
    /// A type.
    #[error("SUBSCRIPTIONS: {0}")]
    Type(#[from] UnknownType),
    /// A head.
    #[error("`{0}` is no head id: expected 1 to 128 characters of A-Z a-z 0-9 . _ : -")]
    Head(String),
    /// No head at all.
    #[error("there is no head to look after: name at least one in HeadIds, HEAD_IDS or head_ids")]
    NoHeads,
}

impl Settings {
    /// Reads the variables.
    pub fn from_env(env: &Env) -> Result<Self, EnvError> {
        let api_url = env.required("UNITH_API_URL", "the base URL of UNITH's management API")?;
        let is_http = api_url.starts_with("https://") || api_url.starts_with("http://");
        if !is_http {
            let expected = "an http or https URL";
            return Err(EnvError::Invalid { name: "UNITH_API_URL", value: api_url.to_owned(), expected });
        }
        Ok(Self {
            api_url: api_url.to_owned(),
            credentials_secret: env
                .required("UNITH_CREDENTIALS_SECRET", "the secret with the UNITH account's e-mail and secretKey")?
                .to_owned(),
            keys_secret: env
                .required("UNITH_KEYS_SECRET", "the key-ring secret, which this function writes")?
                .to_owned(),
        })
    }
}

/// The declared state of commands and the schedule.
pub fn declared(env: &Env) -> Result<Declared, ConfigError> {
    let url = env.required("WEBHOOK_URL", "the URL of the webhook, as UNITH reaches it")?;
    Ok(Declared {
        webhook_url: WebhookUrl::parse(url)?,
        head_ids: heads(env.optional("HEAD_IDS").unwrap_or_default().split(','))?,
        subscriptions: env.optional("SUBSCRIPTIONS").map_or(Ok(Subscriptions::ALL), Subscriptions::parse)?,
        enable_events: env.parsed("ENABLE_EVENTS", true, "true or false")?,
    })
}

/// Head ids, each once, in the order given.
pub fn heads<'h>(ids: impl Iterator<Item = &'h str>) -> Result<Vec<String>, ConfigError> {
    let mut heads: Vec<String> = Vec::new();
    for id in ids.map(str::trim).filter(|id| !id.is_empty()) {
        if !is_id(id) {
            return Err(ConfigError::Head(id.chars().take(128).collect()));
        }
        if !heads.iter().any(|known| known == id) {
            heads.push(id.to_owned());
        }
    }
    Ok(heads)
}

/// What opens the management API.
#[derive(Clone)]
pub enum Credentials {
    /// An account, which gets a token for each run.
    Account {
        /// The account's e-mail.
        email: String,
        /// Its secret key, which does not expire.
        secret_key: Zeroizing<String>,
    },
    /// A token, which is good for a week.
    Bearer(Zeroizing<String>),
}

/// A secret that holds no credentials.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(r#"expected {{"email":"…","secretKey":"…"}} or {{"bearerToken":"…"}}"#)]
pub struct NoCredentials;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CredentialsDocument {
    email: Option<String>,
    secret_key: Option<Zeroizing<String>>,
    bearer_token: Option<Zeroizing<String>>,
}

impl Credentials {
    /// Reads the secret's text. The account wins where both are there: it does not expire.
    pub fn parse(secret: &str) -> Result<Self, NoCredentials> {
        let document: CredentialsDocument = serde_json::from_str(secret).map_err(|_| NoCredentials)?;
        let filled = |text: &Zeroizing<String>| !text.trim().is_empty();
        let email = document.email.filter(|email| !email.trim().is_empty());
        match (email, document.secret_key.filter(filled), document.bearer_token.filter(filled)) {
            (Some(email), Some(secret_key), _) => Ok(Self::Account { email, secret_key }),
            (_, _, Some(bearer)) => Ok(Self::Bearer(bearer)),
            _ => Err(NoCredentials),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        pairs.iter().copied().collect()
    }

    #[test]
    fn every_mistake_is_named() {
        let url = ("WEBHOOK_URL", "https://a.example/x");
        for (pairs, expected) in [
            (vec![], "WEBHOOK_URL is not set: it is the URL of the webhook, as UNITH reaches it"),
            (
                vec![("WEBHOOK_URL", "http://a.example")],
                "the webhook URL `http://a.example` cannot be registered: UNITH delivers to https URLs only",
            ),
            (
                vec![url, ("HEAD_IDS", "a b")],
                "`a b` is no head id: expected 1 to 128 characters of A-Z a-z 0-9 . _ : -",
            ),
            (
                vec![url, ("SUBSCRIPTIONS", "ALL")],
                "SUBSCRIPTIONS: `ALL` is no event type: expected some of START_CONVERSATION, END_CONVERSATION, TIMEOUT_CONVERSATION, INACTIVITY_WARNING",
            ),
        ] {
            assert_eq!(declared(&env(&pairs)).unwrap_err().to_string(), expected);
        }
        let error = Settings::from_env(&env(&[("UNITH_API_URL", "platform")])).unwrap_err();
        assert_eq!(error.to_string(), "UNITH_API_URL is `platform`: expected an http or https URL");
    }

    #[test]
    fn heads_are_taken_once_each() {
        let declared = declared(&env(&[("WEBHOOK_URL", "https://a.example/x"), ("HEAD_IDS", "b, a,,b")])).unwrap();
        assert_eq!(declared.head_ids, ["b", "a"]);
        assert_eq!(declared.subscriptions, Subscriptions::ALL);
    }

    #[test]
    fn credentials_are_an_account_or_a_token() {
        let account = r#"{"email":"a@b.c","secretKey":"s","bearerToken":"t"}"#;
        assert!(matches!(Credentials::parse(account), Ok(Credentials::Account { .. })));
        assert!(matches!(Credentials::parse(r#"{"bearerToken":"t"}"#), Ok(Credentials::Bearer(_))));
        for secret in ["", "t", "{}", r#"{"email":"a@b.c"}"#, r#"{"email":"a@b.c","secretKey":" "}"#] {
            assert!(Credentials::parse(secret).is_err(), "{secret}");
        }
        assert_eq!(format!("{:?}", Credentials::parse(account).unwrap()), "Credentials([redacted])");
    }
}
