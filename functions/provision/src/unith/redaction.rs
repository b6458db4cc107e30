//! Response bodies as they may be repeated in messages.

use std::{
    cmp::Reverse,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::Value;
use unith_events::signature::SharedKey;
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
        let mut secrets = Secrets(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone());
        // A new key may be repeated elsewhere in the body.
        secrets.add_keys_in(body);
        let text = without_long_words(&secrets.redact(body));
        if text.trim().is_empty() { "nothing".to_owned() } else { text.chars().take(SHOWN_CHARACTERS).collect() }
    }
}

/// The secrets that one body may repeat.
struct Secrets(Vec<Zeroizing<String>>);

impl Secrets {
    fn add_keys_in(&mut self, text: &str) {
        let mut rest = text;
        while let Some((_, name, after)) = next_string(rest) {
            rest = after;
            let string = secret_value(name, after).and_then(next_string).filter(|(before, ..)| before.is_empty());
            let key = string.and_then(|(_, key, _)| SharedKey::parse(&unescaped(key)?).ok());
            self.0.extend(key.map(|key| Zeroizing::new(key.expose().to_owned())));
        }
        // Of two secrets that begin alike, the longer one must not be left with its end.
        self.0.sort_by_key(|secret| Reverse(secret.len()));
    }

    /// A text without the secrets, as they are and as JSON spells them, and without the values of members that hold secrets.
    ///
    /// The text need not be JSON: it may be cut off, or have a number that no type holds.
    fn redact(&self, text: &str) -> String {
        let mut shown = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, string, after)) = next_string(rest) {
            shown.push_str(before);
            // A string may hold JSON in turn, or spell a secret in another way.
            let inner = unescaped(string).map(|inner| (self.redact(&inner), inner));
            match inner.filter(|(redacted, inner)| redacted != inner) {
                Some((redacted, _)) => shown.push_str(&Value::from(redacted).to_string()),
                None => shown.push_str(string),
            }
            rest = after;
            if let Some(value) = secret_value(string, after) {
                shown.push_str(":\"[redacted]\"");
                rest = behind_value(value);
            }
        }
        shown.push_str(rest);
        for secret in &self.0 {
            let string = Value::from(secret.as_str()).to_string();
            let spelled = string.strip_prefix('"').and_then(|string| string.strip_suffix('"')).unwrap_or(secret);
            shown = shown.replace(spelled, REDACTED).replace(secret.as_str(), REDACTED);
        }
        shown
    }
}

/// The text before the first string of JSON, the string with its quotation marks, and the text after it.
fn next_string(text: &str) -> Option<(&str, &str, &str)> {
    let (before, string) = text.split_at(text.find('"')?);
    let mut is_escaped = false;
    let end = string.bytes().skip(1).position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    });
    // Without an end, it is cut off.
    let (string, after) = string.split_at(end.map_or(string.len(), |end| end + 2));
    Some((before, string, after))
}

fn unescaped(string: &str) -> Option<String> {
    serde_json::from_str(string).ok()
}

/// The value of a member, and the text after it, if `string` is the name of a member that holds a secret.
fn secret_value<'t>(string: &str, after: &'t str) -> Option<&'t str> {
    let value = after.trim_start().strip_prefix(':')?.trim_start();
    let name = unescaped(string).unwrap_or_else(|| string.to_owned()).to_ascii_lowercase();
    SECRET_MEMBERS.iter().any(|part| name.contains(part)).then_some(value)
}

/// The text after the value that it begins with.
fn behind_value(text: &str) -> &str {
    let mut depth = 0_usize;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_end = matches!(first, '}' | ']' | ',') || first.is_whitespace();
        if depth == 0 && is_end {
            break;
        }
        match first {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            _ => {}
        }
        rest = match next_string(rest) {
            Some(("", _, after)) => after,
            _ => rest.strip_prefix(first).unwrap_or_default(),
        };
        if depth == 0 && matches!(first, '"' | '}' | ']') {
            break;
        }
    }
    rest
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

    /// Found by fuzzing.
    #[test]
    fn a_secret_is_redacted_in_every_spelling_and_in_bodies_that_no_parser_takes() {
        let redactor = Redactor::default();
        for secret in ["a-key-of-the-ring", "a-key-of-the-ring/2", r#"pass"word\"#] {
            redactor.add(secret);
        }
        let long = format!(r#"{{"sharedKey":"a-new.key-of.unith","deep":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        for (body, expected) in [
            // A secret that JSON escapes, also where the escapes need not be.
            (r#"{"message":"wrong: pass\"word\\"}"#, r#"{"message":"wrong: [redacted]"}"#),
            (r#"wrong: pass"word\"#, "wrong: [redacted]"),
            (r#"{"message":"key a-\u006bey-of-the-ring is taken"}"#, r#"{"message":"key [redacted] is taken"}"#),
            (r#"{"message":"{\"k\":\"a-key-of-the-ring\\/2\"}"}"#, r#"{"message":"{\"k\":\"[redacted]\"}"}"#),
            // One that begins with another one.
            ("key a-key-of-the-ring/2 is taken", "key [redacted] is taken"),
            // A new key that is repeated.
            (
                r#"{"message":"a-new.key-of.unith is taken","sharedKey":"a-new.key-of.unith"}"#,
                r#"{"message":"[redacted] is taken","sharedKey":"[redacted]"}"#,
            ),
            // Numbers that no type holds, text after the object, a body that is cut off, values of any type.
            (r#"{"sharedKey":"abc","n":1e999}"#, r#"{"sharedKey":"[redacted]","n":1e999}"#),
            (r#"{"shared\u004bey" : "abc"} abc"#, r#"{"shared\u004bey":"[redacted]"} abc"#),
            (r#"{"sharedKey":"abc"#, r#"{"sharedKey":"[redacted]""#),
            (r#"{"token":{"a":["}",1]},"b":2}"#, r#"{"token":"[redacted]","b":2}"#),
            (r#"{"token":[1,2"#, r#"{"token":"[redacted]""#),
            (r#"{"key":12345,"secret":true}"#, r#"{"key":"[redacted]","secret":"[redacted]"}"#),
            (r#"the "key": 12 months"#, r#"the "key":"[redacted]" months"#),
            (r#"a "quoted" word, and "#, r#"a "quoted" word, and "#),
        ] {
            assert_eq!(redactor.redacted(body), expected, "{body}");
        }
        assert!(!redactor.redacted(&long).contains("a-new"));
    }
}
