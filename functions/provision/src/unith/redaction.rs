//! Response bodies as they may be repeated in messages.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use zeroize::Zeroizing;

/// How much of a body is repeated.
const SHOWN_CHARACTERS: usize = 300;
const REDACTED: &str = "[redacted]";
const SECRET_MEMBERS: [&str; 6] = ["key", "token", "bearer", "secret", "password", "authorization"];
/// A key that UNITH has just made is not known yet. No word of prose is as long and contains digits.
const LONG_WORD: usize = 24;

/// The secrets that no message may repeat. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Redactor(Arc<Mutex<Vec<Zeroizing<String>>>>);

impl Redactor {
    pub(super) fn add(&self, secret: &str) {
        let mut secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !secret.is_empty() && !secrets.iter().any(|known| known.as_str() == secret) {
            secrets.push(Zeroizing::new(secret.to_owned()));
        }
    }

    /// The beginning of a body without secrets.
    pub(super) fn redacted(&self, body: &str) -> String {
        let mut text = match serde_json::from_str::<Value>(body) {
            Ok(mut value) => {
                redact_members(&mut value);
                value.to_string()
            }
            Err(_) => body.to_owned(),
        };
        for secret in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            text = text.replace(secret.as_str(), REDACTED);
        }
        let text = without_long_words(&text);
        if text.trim().is_empty() { "nothing".to_owned() } else { text.chars().take(SHOWN_CHARACTERS).collect() }
    }
}

fn redact_members(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let name = name.to_ascii_lowercase();
                if SECRET_MEMBERS.iter().any(|part| name.contains(part)) {
                    *value = REDACTED.into();
                } else {
                    redact_members(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(redact_members),
        _ => {}
    }
}

fn without_long_words(text: &str) -> String {
    let is_separator = |c: char| !c.is_ascii_alphanumeric();
    let mut shown = String::with_capacity(text.len());
    for part in text.split_inclusive(is_separator) {
        let word = part.trim_end_matches(is_separator);
        let is_secret = word.len() >= LONG_WORD && word.bytes().any(|byte| byte.is_ascii_digit());
        shown.push_str(if is_secret { REDACTED } else { word });
        shown.push_str(part.strip_prefix(word).unwrap_or_default());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_repeated_without_secrets() {
        let redactor = Redactor::default();
        for secret in ["the-token", "a-key-of-the-ring", "s3cret-account-key"] {
            redactor.add(secret);
        }
        let shown = |body: &str| redactor.redacted(body);
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
        assert!(!shown(&at_the_end).contains("a-k"), "the text is cut after redaction");
    }
}
