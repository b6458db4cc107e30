//! Content: whether two deliveries of one event differ in anything but its identity.

use std::collections::BTreeMap;

use serde_json::{Value, value::RawValue};

use crate::{
    body::{IDENTITY, TIMESTAMP, members},
    json::Name,
    timestamp::Timestamp,
};

/// Whether two bodies of one event have the same content: all members but those of the identity are equal.
///
/// Order, white space, aliases and the spelling of an instant do not matter; its digits below a millisecond do. `false` where
/// either body is not an object.
pub fn same_content(one: &[u8], other: &[u8]) -> bool {
    one == other || Content::of(one).is_some_and(|content| Content::of(other).is_some_and(|other| content == other))
}

/// A body without the fields of its identity.
#[derive(PartialEq)]
struct Content<'b> {
    members: BTreeMap<Name<'b>, Member<'b>>,
    /// The digits of the instant below a millisecond, which the identity leaves out.
    beyond_milliseconds: String,
}

/// A value. It is compared as a `Value` where that holds it exactly, and by its text otherwise.
struct Member<'b>(&'b RawValue);

impl PartialEq for Member<'_> {
    fn eq(&self, other: &Self) -> bool {
        let value = |member: &Self| {
            let text = member.0.get();
            if is_held_exactly(text) { serde_json::from_str::<Value>(text).ok() } else { None }
        };
        self.0.get() == other.0.get() || value(self).is_some_and(|own| Some(own) == value(other))
    }
}

/// Whether a `Value` holds a JSON text exactly. It rounds numbers of more than 15 digits, and gives one name a meaning of its
/// own.
fn is_held_exactly(text: &str) -> bool {
    let (mut in_string, mut escaped, mut digits) = (false, false, 0);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'0'..=b'9' if !in_string => digits += 1,
            b'.' => {}
            _ => digits = 0,
        }
        if digits > 15 && !in_string {
            return false;
        }
    }
    !text.contains("$serde_json::private")
}

impl<'b> Content<'b> {
    fn of(body: &'b [u8]) -> Option<Self> {
        let all = members(body).ok()?;
        let instant = TIMESTAMP.text(&all).ok();
        let beyond = instant.as_deref().and_then(Timestamp::parse_exact).map(|(_, beyond)| beyond.to_owned());
        let identity =
            |name: &Name<'_>| IDENTITY.iter().any(|field| field.names.iter().any(|own| *name.0 == *own.as_bytes()));
        // Of a repeated member the last stays.
        let members = all.members().filter(|(name, _)| !identity(name)).map(|(name, value)| (name, Member(value)));
        Some(Self { members: members.collect(), beyond_milliseconds: beyond.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event() -> Value {
        json!({
            "timestamp": "2026-01-15T09:57:33Z", "head_id": "h", "session_id": "s", "public_org_id": "acme",
            "event_type": "START_CONVERSATION",
        })
    }

    fn with(field: &str, value: Value) -> Vec<u8> {
        let mut body = event();
        body[field] = value;
        body.to_string().into_bytes()
    }

    #[test]
    fn bodies_with_equal_members_have_the_same_content() {
        let one = event().to_string();
        let spaced = serde_json::to_string_pretty(&event()).unwrap();
        assert!(same_content(one.as_bytes(), spaced.as_bytes()));
        assert!(same_content(one.as_bytes(), &with("timestamp", json!("2026-01-15T10:57:33+01:00"))));
        assert!(!same_content(one.as_bytes(), &with("public_org_id", json!("other"))));
        assert!(!same_content(one.as_bytes(), &with("new_field", json!(1))));
        assert!(!same_content(one.as_bytes(), b"not json"));
        assert!(same_content(one.as_bytes(), format!("\u{feff} {one}").as_bytes()));
        for (timestamp, same) in [
            ("2026-01-15T09:57:33.0000Z", true),
            ("2026-01-15 09:57:33,000", true),
            ("2026-01-15T09:57:33.0001Z", false),
            ("2026-01-15T09:57:33.000000000001Z", false),
        ] {
            assert_eq!(same_content(one.as_bytes(), &with("timestamp", json!(timestamp))), same, "{timestamp}");
        }
    }

    #[test]
    fn members_that_no_type_holds_exactly_are_compared_by_their_text() {
        let with = |member: &str| format!(r#"{{"head_id":"h","m":{member}}}"#).into_bytes();
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        for (one, other, same) in [
            ("1e400", "1e400", true),
            ("1e400", "1e401", false),
            (r#""\ud83d""#, r#""\ud83d""#, true),
            (r#""\ud83d""#, r#""\ud83e""#, false),
            (&deep, &deep, true),
            (&deep, "[]", false),
            ("[1, 2]", "[1,2]", true),
            (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#, true),
            (r#""\u0061""#, r#""a""#, true),
            ("18446744073709551616", "18446744073709551617", false),
            ("0.12345678901234567", "0.12345678901234568", false),
            ("1.0", "1.00", true),
            (r#"{"$serde_json::private::RawValue":"1"}"#, "1", false),
            (r#""9999999999999999999""#, r#""99999999999999999\u00399""#, true),
        ] {
            assert_eq!(same_content(&with(one), &with(other)), same, "{one:.20} {other:.20}");
        }
    }
}
