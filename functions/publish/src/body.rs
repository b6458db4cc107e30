//! The body of an event within a bus event: copied as it came if any consumer can read it, as a text otherwise.
//!
//! A body is evidence: it was signed, and nobody re-serialises it. But one body that a consumer's parser refuses would make the
//! whole bus event unreadable, the metadata included.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use event_store::item::Body;
use serde::Serialize;
use serde_json::{Value, value::RawValue};

/// Deeper objects and arrays are left to a consumer that asks for the text. Some parsers stop at 128 levels.
const MAX_NESTING: usize = 100;

/// The members of a bus event's detail that hold the body. Exactly one of them does.
#[derive(Serialize)]
pub struct BodyMembers<'b> {
    /// UNITH's object, byte for byte, without white space around it.
    data: Option<&'b RawValue>,
    /// The text of a body that is not in `data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'b str>,
    /// The bytes in base64 of a body that is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_b64: Option<String>,
}

impl<'b> BodyMembers<'b> {
    /// The members of `body`; as a text if `as_text` says so, even if it could be copied.
    pub fn new(body: &'b Body, as_text: bool) -> Self {
        let (data, text, bytes) = match body {
            Body::Binary(bytes) => (None, None, Some(BASE64.encode(bytes))),
            Body::Text(text) => match readable(text).filter(|_| !as_text) {
                Some(data) => (Some(data), None, None),
                None => (None, Some(text.as_str()), None),
            },
        };
        Self { data, body: text, body_b64: bytes }
    }

    /// Whether the body is copied as it came.
    pub fn is_copied(&self) -> bool {
        self.data.is_some()
    }
}

/// The object in `text`, if any consumer can read it.
///
/// That is: valid JSON without a byte order mark, no lone surrogate, integers within `i64`, other numbers within a finite
/// `f64`, and nesting of at most 100 levels.
pub fn readable(text: &str) -> Option<&RawValue> {
    // The strict parser finds lone surrogates and numbers beyond `f64`, and stops at 128 levels.
    let is_object = serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object());
    (is_object && is_shallow_and_exact(text)).then(|| serde_json::from_str(text).ok()).flatten()
}

/// Whether a valid JSON text has at most 100 levels, and only integers that fit into `i64`.
fn is_shallow_and_exact(json: &str) -> bool {
    let (mut depth, mut rest) = (0_usize, json);
    while let Some(at) = rest.find(|c: char| matches!(c, '"' | '{' | '[' | '}' | ']' | '-' | '0'..='9')) {
        let (_, token) = rest.split_at(at);
        let length = match token.as_bytes().first() {
            Some(b'"') => string_length(token),
            Some(b'{' | b'[') => {
                depth += 1;
                1
            }
            Some(b'}' | b']') => {
                depth = depth.saturating_sub(1);
                1
            }
            _ => {
                let is_of_number = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
                let length = token.find(|c| !is_of_number(c)).unwrap_or(token.len());
                let number = token.get(..length).unwrap_or_default();
                if !number.contains(['.', 'e', 'E']) && number.parse::<i64>().is_err() {
                    return false;
                }
                length
            }
        };
        if depth > MAX_NESTING {
            return false;
        }
        rest = token.get(length..).unwrap_or_default();
    }
    true
}

/// The length of the string at the start of a valid JSON text, both quotes included.
fn string_length(token: &str) -> usize {
    let mut is_escaped = false;
    let end = token.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    });
    end.map_or(token.len(), |end| end + 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nested(levels: usize) -> String {
        format!("{}{}{}", r#"{"a":"#.repeat(levels), "1", "}".repeat(levels))
    }

    #[test]
    fn a_body_that_any_consumer_can_read_is_copied_byte_for_byte() {
        for text in [
            "{}",
            r#"{ "a" : 1.0, "b":[true,null] , "c":"\u00e9\ud83d\ude00\\\"{[9" }"#,
            r#"{"a":9223372036854775807,"b":-9223372036854775808,"c":1e308,"d":-0,"e":18446744073709551616.0}"#,
            &nested(100),
            r#"{"a":"99999999999999999999","99999999999999999999":[[[]]]}"#,
        ] {
            assert_eq!(readable(text).map(RawValue::get), Some(text), "{text:.80}");
        }
        assert_eq!(readable(" \n{\"a\": 1}\t").map(RawValue::get), Some("{\"a\": 1}"));
    }

    #[test]
    fn a_body_that_some_consumer_cannot_read_is_not_copied() {
        for text in [
            "\u{feff}{}",
            r#"{"a":"\ud83d"}"#,
            r#"{"\ude00":1}"#,
            r#"{"a":9223372036854775808}"#,
            r#"{"a":[-9223372036854775809]}"#,
            r#"{"a":99999999999999999999999999}"#,
            r#"{"a":1e400}"#,
            &nested(101),
            &nested(5_000),
            "[1]",
            "7",
            "",
            "{",
            "{'a':1}",
            "{}{}",
        ] {
            assert!(readable(text).is_none(), "{text:.80}");
        }
    }

    fn json() -> impl Strategy<Value = String> {
        let scalar = prop_oneof![
            Just("null".to_owned()),
            any::<i64>().prop_map(|number| number.to_string()),
            any::<u64>().prop_map(|number| number.to_string()),
            any::<f64>()
                .prop_filter("JSON has no infinity", |number| number.is_finite())
                .prop_map(|number| format!("{number:e}")),
            Just("1e999".to_owned()),
            any::<String>().prop_map(|text| Value::from(text).to_string()),
            Just(r#""\udc00""#.to_owned()),
        ];
        let value = scalar.prop_recursive(6, 40, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(|values| format!("[ {}]", values.join(" ,"))),
                proptest::collection::vec((any::<String>(), inner), 0..4).prop_map(object),
            ]
        });
        let members = proptest::collection::vec((any::<String>(), value), 0..5).prop_map(object);
        prop_oneof![9 => members, 1 => any::<String>()]
    }

    fn object(members: Vec<(String, String)>) -> String {
        let members = members.into_iter().map(|(name, value)| format!("{}:\t{value}", Value::from(name)));
        format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
    }

    proptest! {
        /// Whatever the body is, a strict parser reads the whole, and the body can be recovered from it.
        #[test]
        fn the_members_are_always_readable_and_hold_the_body(text in json(), as_text: bool) {
            let body = Body::Text(text.clone());
            let members = serde_json::to_string(&BodyMembers::new(&body, as_text)).unwrap();
            let parsed: Value = serde_json::from_str(&members).unwrap();
            if parsed["data"].is_null() {
                prop_assert_eq!(parsed["body"].as_str(), Some(text.as_str()));
            } else {
                prop_assert!(!as_text && parsed.get("body").is_none());
                let rest = members.strip_prefix(r#"{"data":"#).unwrap().strip_suffix('}').unwrap();
                prop_assert_eq!(rest, text.trim_matches([' ', '\t', '\n', '\r']));
            }
        }

        #[test]
        fn bytes_that_are_not_utf_8_come_in_base64(bytes: Vec<u8>) {
            prop_assume!(std::str::from_utf8(&bytes).is_err());
            let members = serde_json::to_value(BodyMembers::new(&Body::new(&bytes), false)).unwrap();
            prop_assert_eq!(BASE64.decode(members["body_b64"].as_str().unwrap()).unwrap(), bytes);
            prop_assert!(members["data"].is_null() && members.get("body").is_none());
        }
    }
}
