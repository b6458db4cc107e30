//! The declared state: what UNITH's side is to look like.

use std::fmt;

use serde::Serialize;
use unith_events::ids::HeadId;

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
    "`{0}` is not an event type: expected some of START_CONVERSATION, END_CONVERSATION, TIMEOUT_CONVERSATION, INACTIVITY_WARNING"
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
    /// The heads whose events are wanted.
    pub heads: Heads,
    /// The types that are wanted.
    pub subscriptions: Subscriptions,
    /// Whether the heads' events are to be on.
    pub enable_events: bool,
}

/// The heads a run is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heads {
    /// These, each once.
    Named(Vec<String>),
    /// All that the account has, looked up by each run: `*`.
    All,
}

/// What may not stand for heads.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum InvalidHeads {
    /// An id that cannot be one.
    #[error("`{0}` is not a head id: expected 1 to 256 bytes without control characters")]
    Id(String),
    /// All heads, and then some.
    #[error("`*` stands for every head of the account: write it alone, or name the heads")]
    StarAmongOthers,
}

impl Heads {
    /// The heads that are named; none for `*`.
    #[must_use]
    pub fn named(&self) -> Vec<String> {
        match self {
            Self::Named(ids) => ids.clone(),
            Self::All => Vec::new(),
        }
    }

    /// What stands for all heads.
    pub const ALL: &'static str = "*";

    /// Reads ids, each once and in the order given, or `*` alone.
    ///
    /// # Errors
    /// What cannot be an id, and `*` beside others.
    pub fn parse<'h>(ids: impl Iterator<Item = &'h str>) -> Result<Self, InvalidHeads> {
        let mut heads: Vec<String> = Vec::new();
        for id in ids.map(str::trim).filter(|id| !id.is_empty()) {
            if HeadId::new(id).is_err() {
                return Err(InvalidHeads::Id(id.chars().filter(|c| !c.is_control()).take(128).collect()));
            }
            if !heads.iter().any(|known| known == id) {
                heads.push(id.to_owned());
            }
        }
        match heads.as_slice() {
            [only] if only == Self::ALL => Ok(Self::All),
            heads if heads.iter().any(|id| id == Self::ALL) => Err(InvalidHeads::StarAmongOthers),
            _ => Ok(Self::Named(heads)),
        }
    }

    /// Whether no head is meant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Named(ids) if ids.is_empty())
    }

    /// Whether a head may be one of these.
    #[must_use]
    pub fn include(&self, head_id: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(ids) => ids.iter().any(|id| id == head_id),
        }
    }
}

/// A URL that UNITH takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookUrl(String);

/// A URL that UNITH would refuse, or nobody could reach.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum InvalidUrl {
    /// No URL at all.
    #[error("the webhook URL `{0}` is not a URL: {1}")]
    NotAUrl(String, String),
    /// Another scheme.
    #[error("the webhook URL `{0}` cannot be registered: UNITH delivers to https URLs only")]
    NotHttps(String),
}

impl WebhookUrl {
    /// Takes an absolute https URL.
    ///
    /// # Errors
    /// What is not a URL, or not https.
    pub fn parse(text: &str) -> Result<Self, InvalidUrl> {
        let shown: String = text.chars().take(256).collect();
        match reqwest::Url::parse(text) {
            Err(error) => Err(InvalidUrl::NotAUrl(shown, error.to_string())),
            Ok(url) if url.scheme() == "https" && url.has_host() => Ok(Self(text.to_owned())),
            Ok(_) => Err(InvalidUrl::NotHttps(shown)),
        }
    }

    /// The URL as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether another URL is the same one, however it is spelled.
    #[must_use]
    pub fn is(&self, other: &str) -> bool {
        let parse = reqwest::Url::parse;
        self.0 == other || matches!((parse(&self.0), parse(other)), (Ok(own), Ok(other)) if own == other)
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
        assert!(Subscriptions::parse("START").unwrap_err().to_string().starts_with("`START` is not an event type"));
    }

    #[test]
    fn only_https_urls_are_taken() {
        assert!(WebhookUrl::parse("https://a.example/webhooks/head-events").is_ok());
        for (url, fault) in [
            ("http://a.example/x", "cannot be registered: UNITH delivers to https URLs only"),
            ("ftp://a.example", "cannot be registered: UNITH delivers to https URLs only"),
            ("https://", "is not a URL: empty host"),
            ("https://a b.example/x", "is not a URL: invalid international domain name"),
            ("https://a.example:x/", "is not a URL: invalid port number"),
            ("a.example/x", "is not a URL: relative URL without a base"),
            ("", "is not a URL: relative URL without a base"),
        ] {
            let error = WebhookUrl::parse(url).unwrap_err().to_string();
            assert_eq!(error, format!("the webhook URL `{url}` {fault}"));
        }
    }

    #[test]
    fn urls_are_compared_by_what_they_mean() {
        let url = WebhookUrl::parse("https://A.example/x").unwrap();
        assert!(url.is("https://a.example:443/x") && url.is("https://A.example/x"));
        assert!(!url.is("https://a.example/x/") && !url.is("nonsense"));
    }

    #[test]
    fn heads_are_taken_once_each_or_all_of_them() {
        let parse = |text: &str| Heads::parse(text.split(','));
        assert_eq!(parse("b, a,,b"), Ok(Heads::Named(vec!["b".into(), "a".into()])));
        assert_eq!(parse(" * "), Ok(Heads::All));
        assert_eq!(parse("*,a"), Err(InvalidHeads::StarAmongOthers));
        assert_eq!(parse("a\nb"), Err(InvalidHeads::Id("ab".into())));
        assert!(parse("").unwrap().is_empty() && !Heads::All.is_empty());
        assert!(Heads::All.include("x") && parse("a").unwrap().include("a") && !parse("a").unwrap().include("x"));
    }
}
