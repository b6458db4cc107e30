//! The JSON of webhooks in UNITH's management API.
//!
//! Reading is lenient: unknown members are ignored, an id may be a number or a string, a list may stand alone, under
//! `data`, or be `null`. A key that is masked or malformed counts as unknown.

use std::borrow::Cow;

use serde_json::{Map, Value, value::RawValue};
use unith_events::{
    event_type::{EventType, EventTypes},
    ids::WebhookId,
    json::{self, Object},
    signature::SharedKey,
    timestamp::Timestamp,
};

/// A registered webhook.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub id: WebhookId,
    /// Where it delivers to.
    pub url: String,
    /// Its shared key; `None` if UNITH does not show it, or shows it masked.
    pub key: Option<SharedKey>,
    pub subscriptions: EventTypes,
    pub created_at: Option<Timestamp>,
}

impl Webhook {
    /// Reads a webhook and the head it is listed for. `None` if the value is not a webhook: one odd element must not
    /// make the list unusable.
    pub(super) fn parse(value: &RawValue) -> Option<(Self, Option<String>)> {
        let members = Object::parse(value.get()).ok()?;
        let webhook = Self {
            id: WebhookId::from_json(members.get("id")?)?,
            url: members.text("webhookUrl")?.into_owned(),
            key: members.text("sharedKey").as_deref().and_then(parse_unmasked_key),
            subscriptions: EventType::ALL.into_iter().filter(|kind| flag(&members, kind.member())).collect(),
            created_at: members.text("createdAt").as_deref().and_then(Timestamp::parse),
        };
        Some((webhook, members.text("headId").map(Cow::into_owned)))
    }
}

/// The body of a registration, and of a change of one.
pub(super) fn registration(head_id: &str, url: &str, subscriptions: EventTypes) -> Value {
    let texts = [("headId", head_id.into()), ("webhookUrl", url.into())];
    let flags = EventType::ALL.map(|kind| (kind.member(), subscriptions.contains(kind).into()));
    let members = texts.into_iter().chain(flags).map(|(name, value): (_, Value)| (name.to_owned(), value));
    Value::Object(members.collect::<Map<_, _>>())
}

/// The elements of a list, and its next page if it has one.
pub(super) fn parse_list(response: &str) -> Option<(Vec<&RawValue>, Option<String>)> {
    let is_list = |value: &RawValue| value.get() == "null" || value.get().starts_with('[');
    let whole = serde_json::from_str::<&RawValue>(response).ok()?;
    let (elements, next) = if is_list(whole) {
        (whole, None)
    } else {
        let object = Object::parse(whole.get()).ok()?;
        let next = object.get("nextPage").and_then(WebhookId::from_json).map(|page| page.to_string());
        (object.get("data")?, next)
    };
    let elements = is_list(elements).then(|| serde_json::from_str::<Option<Vec<_>>>(elements.get()).ok())??;
    Some((elements.unwrap_or_default(), next))
}

fn flag(members: &Object<'_>, name: &str) -> bool {
    members.get(name).is_some_and(|value| {
        matches!(value.get(), "true" | "1") || json::text(value).is_some_and(|text| text.eq_ignore_ascii_case("true"))
    })
}

/// Reads a key that is valid and not masked: with a masked key in the ring, every delivery would be refused.
pub(super) fn parse_unmasked_key(text: &str) -> Option<SharedKey> {
    // A random key hardly ever repeats one of a mask's characters eight times in a row.
    let is_mask = |run: &[u8]| {
        run.iter().all(|byte| Some(byte) == run.first()) && run.first().is_some_and(|byte| b"xX.-_=".contains(byte))
    };
    let is_masked = text.as_bytes().windows(8).any(is_mask);
    if is_masked { None } else { SharedKey::parse(text).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: &Value) -> Option<(Webhook, Option<String>)> {
        Webhook::parse(&serde_json::value::to_raw_value(value).unwrap())
    }

    #[test]
    fn a_webhook_is_read_leniently() {
        let (webhook, head) = parse(&json!({
            "id": 4, "webhookUrl": "https://a.example/x", "sharedKey": "cbaab87d1cce6d79baad8e9e2607feb3", "headId": "h",
            "startConversation": true, "endConversation": "true", "timeoutConversation": 1, "more": {},
            "createdAt": "2026-01-16T09:56:12.076Z",
        }))
        .unwrap();
        let created_at = webhook.created_at.map(|at| at.to_string());
        assert_eq!((webhook.id.as_str(), created_at.as_deref()), ("4", Some("2026-01-16T09:56:12.076Z")));
        assert!(webhook.key.is_some());
        assert_eq!(head.as_deref(), Some("h"));
        assert_eq!(webhook.subscriptions.to_string(), "START_CONVERSATION, END_CONVERSATION, TIMEOUT_CONVERSATION");
        let (spelled, _) = parse(&json!({"id": "000123", "webhookUrl": "u"})).unwrap();
        assert_eq!((spelled.id.as_str(), spelled.id.as_json().get()), ("000123", r#""000123""#));
        for odd in [json!(null), json!({"id": 4}), json!({"webhookUrl": "u"}), json!({"id": {}, "webhookUrl": "u"})] {
            assert!(parse(&odd).is_none(), "{odd}");
        }
    }

    #[test]
    fn a_list_stands_alone_or_under_data_or_is_null() {
        let count = |text: &str| parse_list(text).map(|(listed, next)| (listed.len(), next));
        assert_eq!(count("null"), Some((0, None)));
        assert_eq!(count(" [1, 2] "), Some((2, None)));
        assert_eq!(count(r#"{"data": null}"#), Some((0, None)));
        assert_eq!(count(r#"{"data": [{}], "nextPage": 2}"#), Some((1, Some("2".to_owned()))));
        for text in ["", "<html>", "true", "{}", r#"{"message": "no"}"#, r#"{"data": "x"}"#, "[1", "\"[]\""] {
            assert_eq!(count(text), None, "{text}");
        }
    }

    #[test]
    fn a_masked_or_malformed_key_is_unknown() {
        for text in ["cbaab87d1cce6d79baad8e9e2607feb3", "00000000000000000000000000000001"] {
            assert!(parse_unmasked_key(text).is_some(), "{text}");
        }
        for text in [
            "",
            "****************************feb3",
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxfeb3",
            "............................feb3",
            "cbaa…feb3",
            "cbaab87d",
            "cbaa b87d 1cce 6d79",
        ] {
            assert!(parse_unmasked_key(text).is_none(), "{text}");
        }
    }
}
