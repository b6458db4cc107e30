//! The declared state: what UNITH's side is to look like.

use std::fmt;

use serde::Serialize;

/// The types a webhook is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "UNITH's own four flags")]
pub struct Subscriptions {
    /// `START_CONVERSATION`
    pub start_conversation: bool,
    /// `END_CONVERSATION`
    pub end_conversation: bool,
    /// `TIMEOUT_CONVERSATION`
    pub timeout_conversation: bool,
    /// `INACTIVITY_WARNING`
    pub inactivity_warning: bool,
}

/// A `SUBSCRIPTIONS` that names what is no event type.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is no event type: expected some of START_CONVERSATION, END_CONVERSATION, TIMEOUT_CONVERSATION, INACTIVITY_WARNING"
)]
pub struct UnknownType(String);

impl Subscriptions {
    /// All four.
    pub const ALL: Self =
        Self { start_conversation: true, end_conversation: true, timeout_conversation: true, inactivity_warning: true };
    /// None: registered, and not delivered to.
    pub const NONE: Self = Self {
        start_conversation: false,
        end_conversation: false,
        timeout_conversation: false,
        inactivity_warning: false,
    };

    /// Reads a comma-separated list of event types.
    pub fn parse(list: &str) -> Result<Self, UnknownType> {
        let mut subscriptions = Self::NONE;
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let flag = match name.to_ascii_uppercase().as_str() {
                "START_CONVERSATION" => &mut subscriptions.start_conversation,
                "END_CONVERSATION" => &mut subscriptions.end_conversation,
                "TIMEOUT_CONVERSATION" => &mut subscriptions.timeout_conversation,
                "INACTIVITY_WARNING" => &mut subscriptions.inactivity_warning,
                _ => return Err(UnknownType(name.to_owned())),
            };
            *flag = true;
        }
        Ok(subscriptions)
    }
}

impl fmt::Display for Subscriptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.start_conversation, "START_CONVERSATION"),
            (self.end_conversation, "END_CONVERSATION"),
            (self.timeout_conversation, "TIMEOUT_CONVERSATION"),
            (self.inactivity_warning, "INACTIVITY_WARNING"),
        ];
        let on: Vec<_> = all.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect();
        f.write_str(if on.is_empty() { "none" } else { "" })?;
        f.write_str(&on.join(", "))
    }
}

/// What a run is to bring about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Where deliveries go; https.
    pub webhook_url: WebhookUrl,
    /// The heads whose events are wanted, each once.
    pub head_ids: Vec<String>,
    /// The types that are wanted.
    pub subscriptions: Subscriptions,
    /// Whether the heads' events are switched on.
    pub enable_events: bool,
}

/// A URL that UNITH takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookUrl(String);

/// A URL that UNITH would refuse.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the webhook URL `{0}` cannot be registered: UNITH delivers to https URLs only")]
pub struct NotHttps(String);

impl WebhookUrl {
    /// Takes an absolute https URL.
    pub fn parse(text: &str) -> Result<Self, NotHttps> {
        let is_https = reqwest::Url::parse(text).is_ok_and(|url| url.scheme() == "https" && url.has_host());
        if is_https { Ok(Self(text.to_owned())) } else { Err(NotHttps(text.to_owned())) }
    }

    /// The URL as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_are_read_and_told() {
        assert_eq!(
            Subscriptions::parse(" start_conversation, END_CONVERSATION,").unwrap().to_string(),
            "START_CONVERSATION, END_CONVERSATION"
        );
        assert_eq!(Subscriptions::parse("").unwrap().to_string(), "none");
        assert_eq!(Subscriptions::parse(&Subscriptions::ALL.to_string()), Ok(Subscriptions::ALL));
        assert!(Subscriptions::parse("START").unwrap_err().to_string().starts_with("`START` is no event type"));
    }

    #[test]
    fn only_https_urls_are_taken() {
        assert!(WebhookUrl::parse("https://a.example/webhooks/head-events").is_ok());
        for url in ["http://a.example/x", "https://", "a.example/x", "", "ftp://a.example"] {
            let error = WebhookUrl::parse(url).unwrap_err().to_string();
            assert!(error.ends_with("UNITH delivers to https URLs only"), "{error}");
        }
    }
}
