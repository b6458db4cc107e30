//! The environment variables and the credentials secret.

use std::fmt;

use lambda_support::env::{Env, EnvError};
use reqwest::Url;
use unith_events::{
    event_type::{EventTypes, UnknownType},
    ids::HeadId,
    json::Object,
    signature::trimmed,
};
use zeroize::Zeroizing;

use crate::declared::{Declared, Heads, InvalidHeads, InvalidUrl, WebhookUrl};

/// A declared state that is invalid, or not allowed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Env(#[from] EnvError),
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    #[error("SUBSCRIPTIONS: {0}")]
    Type(#[from] UnknownType),
    #[error(transparent)]
    Heads(#[from] InvalidHeads),
    #[error("no head is named: name at least one in HeadIds, HEAD_IDS or head_ids, or all of the account by `*`")]
    NoHeads,
    #[error(
        "the webhook URL `{requested}` is not allowed: this function registers its WEBHOOK_URL only, which is `{own}`"
    )]
    OtherUrl { own: String, requested: String },
    #[error("head `{0}` is not allowed: this function looks after the heads of its HEAD_IDS only")]
    OtherHead(String),
}

/// The URL and the heads that requests may register.
///
/// Without it, anyone who may invoke the function could have any head's events sent anywhere. A variable that is not
/// set allows everything.
#[derive(Debug, Clone)]
pub struct Allowed {
    webhook_url: Option<WebhookUrl>,
    heads: Option<Heads>,
}

impl Allowed {
    /// Reads `WEBHOOK_URL` and `HEAD_IDS`.
    pub fn from_env(env: &Env) -> Result<Self, ConfigError> {
        Ok(Self {
            webhook_url: env.optional("WEBHOOK_URL").map(WebhookUrl::parse).transpose()?,
            heads: env.optional("HEAD_IDS").map(|ids| Heads::parse(ids.split(','))).transpose()?,
        })
    }

    /// Checks a URL that a request registers: it must be `WEBHOOK_URL`.
    pub fn check_url(&self, url: &WebhookUrl) -> Result<(), ConfigError> {
        match &self.webhook_url {
            Some(own) if !own.is(url.as_str()) => {
                Err(ConfigError::OtherUrl { own: own.as_str().to_owned(), requested: url.as_str().to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Checks the heads of a request: they must be among `HEAD_IDS`.
    pub fn check_heads(&self, heads: &Heads) -> Result<(), ConfigError> {
        let Some(own) = &self.heads else { return Ok(()) };
        let other = match heads {
            Heads::All if *own != Heads::All => Some(Heads::ALL),
            Heads::All => None,
            Heads::Named(ids) => ids.iter().find(|id| !own.include(id)).map(HeadId::as_str),
        };
        other.map_or(Ok(()), |id| Err(ConfigError::OtherHead(id.to_owned())))
    }

    /// Whether a webhook that has no entry in the ring counts as ours, so that it may be removed.
    pub fn covers(&self, url: &WebhookUrl, head_id: &str) -> bool {
        self.webhook_url.as_ref().is_none_or(|own| own.is(url.as_str()))
            && self.heads.as_ref().is_none_or(|own| own.include(head_id))
    }
}

/// Reads `UNITH_API_URL`. Credentials are sent there, so it must be https, or this machine.
pub(crate) fn api_url(env: &Env) -> Result<Url, EnvError> {
    let name = "UNITH_API_URL";
    let value = env.required(name, "the base URL of UNITH's management API")?;
    let is_safe = |url: &Url| match url.scheme() {
        "https" => url.has_host(),
        "http" => matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]")),
        _ => false,
    };
    let url = Url::parse(value.trim_end_matches('/')).ok().filter(is_safe);
    let expected = "an https URL (http only on this machine)";
    url.ok_or_else(|| EnvError::Invalid { name, value: value.to_owned(), expected })
}

/// The declared state of commands and the schedule.
pub fn declared(env: &Env) -> Result<Declared, ConfigError> {
    let url = env.required("WEBHOOK_URL", "the URL of the webhook, as UNITH reaches it")?;
    Ok(Declared {
        webhook_url: WebhookUrl::parse(url)?,
        heads: Heads::parse(env.optional("HEAD_IDS").unwrap_or_default().split(','))?,
        subscriptions: env.optional("SUBSCRIPTIONS").map_or(Ok(EventTypes::ALL), str::parse)?,
        enable_events: env.parsed("ENABLE_EVENTS", true, "true or false")?,
    })
}

/// The credentials of the management API.
#[derive(Clone)]
pub enum Credentials {
    /// An account, which gets a token per run. Its secret key does not expire.
    Account { email: String, secret_key: Zeroizing<String> },
    /// A token, which is valid for a week.
    Bearer(Zeroizing<String>),
}

/// A secret that holds no credentials.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(r#"expected {{"email":"…","secretKey":"…"}} or {{"bearerToken":"…"}}"#)]
pub struct NoCredentials;

impl Credentials {
    /// Reads the secret's text. If it holds both, the account counts: it does not expire.
    ///
    /// White space around a value, a byte order mark and the word `Bearer` before a token come from copying, and are
    /// removed.
    pub fn parse(secret: &str) -> Result<Self, NoCredentials> {
        let document = Object::parse(trimmed(secret)).map_err(|_| NoCredentials)?;
        let filled = |name: &str| {
            let text = Zeroizing::new(document.text(name)?.into_owned());
            let text = trimmed(&text);
            (!text.is_empty()).then(|| Zeroizing::new(text.to_owned()))
        };
        match (filled("email"), filled("secretKey"), filled("bearerToken")) {
            (Some(email), Some(secret_key), _) => Ok(Self::Account { email: email.to_string(), secret_key }),
            (_, _, Some(bearer)) => {
                let token = bearer.strip_prefix("Bearer ").map_or(bearer.as_str(), trimmed);
                Ok(Self::Bearer(Zeroizing::new(token.to_owned())))
            }
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
    fn an_error_names_the_variable_and_its_fault() {
        let url = ("WEBHOOK_URL", "https://a.example/x");
        for (pairs, expected) in [
            (vec![], "WEBHOOK_URL is not set: it is the URL of the webhook, as UNITH reaches it"),
            (
                vec![("WEBHOOK_URL", "http://a.example")],
                "the webhook URL `http://a.example` cannot be registered: UNITH delivers to https URLs only",
            ),
            (
                vec![url, ("HEAD_IDS", "a\u{7}b")],
                "`ab` is not a head id: expected 1 to 256 bytes without control characters",
            ),
            (
                vec![url, ("SUBSCRIPTIONS", "ALL")],
                "SUBSCRIPTIONS: `ALL` is not an event type: expected some of START_CONVERSATION, END_CONVERSATION, TIMEOUT_CONVERSATION, INACTIVITY_WARNING",
            ),
        ] {
            assert_eq!(declared(&env(&pairs)).unwrap_err().to_string(), expected);
        }
        for url in ["platform", "http://platform-api.unith.ai", "ftp://127.0.0.1"] {
            let error = api_url(&env(&[("UNITH_API_URL", url)])).unwrap_err();
            let expected = format!("UNITH_API_URL is `{url}`: expected an https URL (http only on this machine)");
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn a_request_may_register_only_what_the_variables_allow() {
        let allowed = |pairs: &[(&str, &str)]| Allowed::from_env(&env(pairs)).unwrap();
        let (url, other) =
            (WebhookUrl::parse("https://a.example/x").unwrap(), WebhookUrl::parse("https://b.example/x").unwrap());
        let named = |id: &str| Heads::Named(vec![id.parse().unwrap()]);
        let own = allowed(&[("WEBHOOK_URL", "https://A.example:443/x"), ("HEAD_IDS", "a,b")]);
        assert!(own.check_url(&url).is_ok() && own.check_url(&other).is_err());
        assert!(own.check_heads(&named("b")).is_ok() && own.check_heads(&named("c")).is_err());
        assert!(
            own.check_heads(&Heads::All).is_err()
                && own.covers(&url, "a")
                && !own.covers(&url, "c")
                && !own.covers(&other, "a")
        );
        let all = allowed(&[("HEAD_IDS", "*")]);
        assert!(
            all.check_heads(&named("c")).is_ok()
                && all.check_heads(&Heads::All).is_ok()
                && all.check_url(&other).is_ok()
        );
        assert!(Allowed::from_env(&env(&[("WEBHOOK_URL", "x")])).is_err());
    }

    #[test]
    fn credentials_are_an_account_or_a_bearer_token() {
        let account = r#"{"email":"a@b.c","secretKey":"s","bearerToken":"t"}"#;
        assert!(matches!(Credentials::parse(account), Ok(Credentials::Account { .. })));
        assert!(matches!(Credentials::parse(r#"{"bearerToken":"t"}"#), Ok(Credentials::Bearer(_))));
        let token = |secret: &str| match Credentials::parse(secret) {
            Ok(Credentials::Bearer(token)) => token.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(token("\u{feff}{\"bearerToken\": \" abc\\n\"}\n"), "abc");
        assert_eq!(token(r#"{"bearerToken": "Bearer abc", "email": "a@b.c", "more": 1e999}"#), "abc");
        let padded = Credentials::parse(r#"{"email":" a@b.c\n","secretKey":"s\n"}"#).unwrap();
        assert!(matches!(padded, Credentials::Account { email, secret_key } if email == "a@b.c" && *secret_key == "s"));
        for secret in ["", "t", "{}", r#"{"email":"a@b.c"}"#, r#"{"email":"a@b.c","secretKey":" "}"#] {
            assert!(Credentials::parse(secret).is_err(), "{secret}");
        }
        assert_eq!(format!("{:?}", Credentials::parse(account).unwrap()), "Credentials([redacted])");
    }
}
