//! The declared state of UNITH's side.

use unith_events::{event_type::EventTypes, ids::HeadId};

/// The state that a run brings about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Where deliveries go.
    pub webhook_url: WebhookUrl,
    pub heads: Heads,
    pub subscriptions: EventTypes,
    /// Whether the heads' events are on.
    pub enable_events: bool,
}

/// The heads of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heads {
    /// These, each once.
    Named(Vec<HeadId>),
    /// `*`: all heads of the account, looked up by each run.
    All,
}

/// A list of heads that is invalid.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum InvalidHeads {
    #[error("`{0}` is not a head id: expected 1 to 256 bytes without control characters")]
    Id(String),
    #[error("`*` stands for every head of the account: write it alone, or name the heads")]
    StarAmongOthers,
}

impl Heads {
    /// The text that stands for all heads.
    pub const ALL: &'static str = "*";

    /// The named heads; none for `*`.
    pub fn named(&self) -> Vec<HeadId> {
        match self {
            Self::Named(ids) => ids.clone(),
            Self::All => Vec::new(),
        }
    }

    /// Reads ids in the order given, each once, or `*` alone.
    pub fn parse<'h>(ids: impl Iterator<Item = &'h str>) -> Result<Self, InvalidHeads> {
        let mut heads: Vec<HeadId> = Vec::new();
        for id in ids.map(str::trim).filter(|id| !id.is_empty()) {
            let invalid = |_| InvalidHeads::Id(id.chars().filter(|c| !c.is_control()).take(128).collect());
            let id = HeadId::new(id).map_err(invalid)?;
            if !heads.contains(&id) {
                heads.push(id);
            }
        }
        match heads.as_slice() {
            [only] if *only == Self::ALL => Ok(Self::All),
            heads if heads.iter().any(|id| *id == Self::ALL) => Err(InvalidHeads::StarAmongOthers),
            _ => Ok(Self::Named(heads)),
        }
    }

    /// Whether no head is named.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Named(ids) if ids.is_empty())
    }

    /// Whether a head is among these.
    pub fn include(&self, head_id: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(ids) => ids.iter().any(|id| *id == head_id),
        }
    }
}

/// A URL that UNITH accepts: absolute, https.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookUrl(String);

/// A URL that UNITH would refuse.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum InvalidUrl {
    #[error("the webhook URL `{0}` is not a URL: {1}")]
    NotAUrl(String, String),
    #[error("the webhook URL `{0}` cannot be registered: UNITH delivers to https URLs only")]
    NotHttps(String),
}

impl WebhookUrl {
    pub fn parse(text: &str) -> Result<Self, InvalidUrl> {
        let shown: String = text.chars().take(256).collect();
        match reqwest::Url::parse(text) {
            Err(error) => Err(InvalidUrl::NotAUrl(shown, error.to_string())),
            Ok(url) if url.scheme() == "https" && url.has_host() => Ok(Self(text.to_owned())),
            Ok(_) => Err(InvalidUrl::NotHttps(shown)),
        }
    }

    /// The URL as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether another URL is the same, whatever its spelling.
    pub fn is(&self, other: &str) -> bool {
        let parse = reqwest::Url::parse;
        self.0 == other || matches!((parse(&self.0), parse(other)), (Ok(own), Ok(other)) if own == other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_urls_are_accepted() {
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
    fn urls_are_compared_whatever_their_spelling() {
        let url = WebhookUrl::parse("https://A.example/x").unwrap();
        assert!(url.is("https://a.example:443/x") && url.is("https://A.example/x"));
        assert!(!url.is("https://a.example/x/") && !url.is("nonsense"));
    }

    #[test]
    fn heads_are_named_once_each_or_all_by_a_star() {
        let parse = |text: &str| Heads::parse(text.split(','));
        assert_eq!(parse("b, a,,b"), Ok(Heads::Named(vec!["b".parse().unwrap(), "a".parse().unwrap()])));
        assert_eq!(parse(" * "), Ok(Heads::All));
        assert_eq!(parse("*,a"), Err(InvalidHeads::StarAmongOthers));
        assert_eq!(parse("a\nb"), Err(InvalidHeads::Id("ab".into())));
        assert!(parse("").unwrap().is_empty() && !Heads::All.is_empty());
        assert!(Heads::All.include("x") && parse("a").unwrap().include("a") && !parse("a").unwrap().include("x"));
    }
}
