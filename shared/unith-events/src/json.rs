//! JSON objects, read no further than needed: the members' names, and the text of each value.
//!
//! Bodies, key rings and gateway events have members that we do not use. They are skipped without being parsed, so that they
//! cannot make the rest unreadable: not by a lone surrogate, a number that no type holds, or a nesting too deep for a recursive
//! parser.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{error::Category, value::RawValue};

/// The members of an object in the order of its text, repeated ones repeatedly.
#[derive(Debug, Default)]
pub struct Object<'t>(Vec<(Name<'t>, &'t RawValue)>);

/// A member's name as bytes: UTF-8, but a lone surrogate has the form that UTF-8 forbids.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name<'t>(pub Cow<'t, [u8]>);

/// Why a text is not an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAnObject {
    /// It is not JSON.
    NotJson,
    /// It is another JSON value.
    OtherValue,
}

impl<'t> Object<'t> {
    /// Reads an object.
    ///
    /// # Errors
    /// A text that is not JSON, or not an object.
    pub fn parse(text: &'t str) -> Result<Self, NotAnObject> {
        let is_json = || serde_json::from_str::<&RawValue>(text).is_ok();
        let object: Self = serde_json::from_str(text).map_err(|error| {
            // A data error is found before the rest is read, and the rest may not be JSON.
            let is_other = error.classify() == Category::Data && is_json();
            if is_other { NotAnObject::OtherValue } else { NotAnObject::NotJson }
        })?;
        // A name that is read as bytes may contain control characters, which JSON allows only as escapes. In a name with
        // escapes the two cannot be distinguished here.
        let may_be_none = |name: &Name<'_>| matches!(name.0, Cow::Owned(_)) || name.0.iter().any(|byte| *byte < b' ');
        let is_sound = !object.0.iter().any(|(name, _)| may_be_none(name)) || is_json();
        if is_sound { Ok(object) } else { Err(NotAnObject::NotJson) }
    }

    /// The value of a member; the last one of a repeated member.
    pub fn get(&self, name: &str) -> Option<&'t RawValue> {
        self.0.iter().rev().find(|(own, _)| *own.0 == *name.as_bytes()).map(|(_, value)| *value)
    }

    /// The text of a member, if it is a string.
    pub fn text(&self, name: &str) -> Option<Cow<'t, str>> {
        text(self.get(name)?)
    }

    /// A member that is an object; an empty object if it is anything else.
    pub fn object(&self, name: &str) -> Self {
        self.get(name).and_then(|value| Self::parse(value.get()).ok()).unwrap_or_default()
    }

    /// All members, repeated ones repeatedly.
    pub fn members(self) -> impl Iterator<Item = (Name<'t>, &'t RawValue)> {
        self.0.into_iter()
    }

    /// The members' names.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|(name, _)| &*name.0)
    }
}

/// The text of a value, if it is a string that UTF-8 can hold.
pub fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    /// Serde borrows a `Cow` only if asked to.
    #[derive(Deserialize)]
    struct Text<'t>(#[serde(borrow)] Cow<'t, str>);
    serde_json::from_str::<Text<'_>>(value.get()).ok().map(|text| text.0)
}

/// Whether a value is a string, also one that UTF-8 cannot hold.
pub fn is_string(value: &RawValue) -> bool {
    value.get().starts_with('"')
}

impl<'de: 't, 't> Deserialize<'de> for Object<'t> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

impl<'de: 't, 't> Deserialize<'de> for Name<'t> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl<'de> Visitor<'de> for Bytes {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member's name")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(bytes)))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(bytes.to_vec())))
            }
        }

        // Asked for bytes, serde_json also returns what is not UTF-8; asked for text, it fails.
        deserializer.deserialize_bytes(Bytes)
    }
}

/// The same JSON with the two characters escaped that SQS refuses and JSON allows. They occur within its strings only.
pub fn without_noncharacters(json: String) -> String {
    if json.contains(['\u{fffe}', '\u{ffff}']) {
        json.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff")
    } else {
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_sqs_refuses_are_escaped() {
        let json = without_noncharacters("{\"a\":\"\u{ffff}\u{fffe}ü\"}".to_owned());
        assert_eq!(json, r#"{"a":"\uffff\ufffeü"}"#);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["a"], "\u{ffff}\u{fffe}ü");
    }

    #[test]
    fn a_member_is_found_beside_members_that_cannot_be_parsed() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let digits = "9".repeat(400);
        for beside in [
            r#""\ud83d""#,
            r#""\ud83d\u0041""#,
            "1e400",
            "-1E-999999",
            &digits,
            &deep,
            r#"{"":{"a":1}}"#,
            "\"\u{2028}\"",
        ] {
            let text = format!("{{\"\\ud83d\": {beside}, \"a\": \"b\", \"x\": {beside}}}");
            assert_eq!(Object::parse(&text).unwrap().text("a").as_deref(), Some("b"), "{text:.40}");
        }
    }

    #[test]
    fn names_are_unescaped_and_the_last_of_a_repeated_member_counts() {
        let object = Object::parse(r#"{"a": 1, "\u0061": 2, "é": 3, "\u00e9": "4\n"}"#).unwrap();
        assert_eq!(object.get("a").map(RawValue::get), Some("2"));
        assert_eq!(object.text("é").as_deref(), Some("4\n"));
        assert_eq!((object.get("b").is_none(), object.text("a")), (true, None));
    }

    #[test]
    fn a_value_that_is_not_an_object_is_distinguished_from_text_that_is_not_json() {
        for text in ["[1]", "null", "7", r#""{}""#, " true "] {
            assert_eq!(Object::parse(text).unwrap_err(), NotAnObject::OtherValue, "{text}");
        }
        for text in ["{\"a\tb\": 1}", "{\"\\u0061\tb\": 1}"] {
            assert_eq!(Object::parse(text).unwrap_err(), NotAnObject::NotJson, "{text:?}");
        }
        assert!(Object::parse(r#"{"a\tb": 1}"#).is_ok());
        for text in
            ["", "{", "{\"a\":}", "{}{}", "[1", "{'a': 1}", "{\"a\": 01}", "{\"a\": \"\n\"}", "nul", "{\"\\ux\": 1}"]
        {
            assert_eq!(Object::parse(text).unwrap_err(), NotAnObject::NotJson, "{text}");
        }
    }
}
