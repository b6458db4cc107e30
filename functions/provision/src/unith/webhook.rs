//! The JSON of webhooks in UNITH's management API.
//!
//! Reading is lenient: unknown members are ignored, an id may be a number or a string. A key that is masked or malformed
//! counts as unknown.

use std::borrow::Cow;

use serde_json::{Map, Value, value::RawValue};
use unith_events::{
    event_type::{EventType, EventTypes},
    ids::WebhookId,
    json::{self, NotAnObject, Object},
    signature::SharedKey,
    timestamp::Timestamp,
};

use super::response::parse_list;

/// A registered webhook.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub id: WebhookId,
    /// The head it is listed for, in UNITH's spelling; `None` if the list does not say it.
    pub head_id: Option<String>,
    /// Where it delivers to.
    pub url: String,
    /// Its shared key; `None` if UNITH does not show it, or shows it masked.
    pub key: Option<SharedKey>,
    pub subscriptions: EventTypes,
    pub created_at: Option<Timestamp>,
}

impl Webhook {
    /// Reads a webhook. `None` if the value is not one: an odd element must not make the list unusable.
    fn parse(value: &RawValue) -> Option<Self> {
        let members = Object::parse(value.get()).ok()?;
        Some(Self {
            id: WebhookId::from_json(members.get("id")?)?,
            head_id: members.text("headId").map(Cow::into_owned),
            url: members.text("webhookUrl")?.into_owned(),
            key: members.text("sharedKey").as_deref().and_then(parse_unmasked_key),
            subscriptions: EventType::ALL.into_iter().filter(|kind| flag(&members, kind.member())).collect(),
            created_at: members.text("createdAt").as_deref().and_then(Timestamp::parse),
        })
    }

    /// How UNITH spells the head's id, if the webhook is that head's and the spelling is another one.
    pub(crate) fn other_spelling_of(&self, head_id: &str) -> Option<&str> {
        self.head_id.as_deref().filter(|listed| *listed != head_id && listed.eq_ignore_ascii_case(head_id))
    }
}

/// The body of a registration, and of a change of one.
pub(super) fn registration(head_id: &str, url: &str, subscriptions: EventTypes) -> Value {
    let texts = [("headId", head_id.into()), ("webhookUrl", url.into())];
    let flags = EventType::ALL.map(|kind| (kind.member(), subscriptions.contains(kind).into()));
    let members = texts.into_iter().chain(flags).map(|(name, value): (_, Value)| (name.to_owned(), value));
    Value::Object(members.collect::<Map<_, _>>())
}

/// The webhooks of a list, and the list's next page. `None` if it is not a list.
pub fn parse_webhooks(response: &str) -> Option<(Vec<Webhook>, Option<String>)> {
    let (elements, next) = parse_list(response)?;
    Some((elements.into_iter().filter_map(Webhook::parse).collect(), next))
}

/// A single webhook, which may be under `data`.
pub fn parse_webhook(response: &str) -> Option<Webhook> {
    let whole = serde_json::from_str::<&RawValue>(response).ok()?;
    let object = Object::parse(whole.get()).ok()?;
    let data = object.get("data").filter(|data| data.get().starts_with('{'));
    Webhook::parse(data.unwrap_or(whole))
}

/// The key in the response to a registration, which may be under `data`. `None` if UNITH does not show it.
pub fn parse_registered_key(response: &str) -> Result<Option<SharedKey>, NotAnObject> {
    let response = Object::parse(response)?;
    let key = response.text("sharedKey").or_else(|| response.object("data").text("sharedKey"));
    Ok(key.as_deref().and_then(parse_unmasked_key))
}

fn flag(members: &Object<'_>, name: &str) -> bool {
    members.get(name).is_some_and(|value| {
        matches!(value.get(), "true" | "1") || json::text(value).is_some_and(|text| text.eq_ignore_ascii_case("true"))
    })
}

/// Reads a key that is valid and not masked: with a masked key in the ring, every delivery would be refused.
fn parse_unmasked_key(text: &str) -> Option<SharedKey> {
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

    fn parse(value: &Value) -> Option<Webhook> {
        Webhook::parse(&serde_json::value::to_raw_value(value).unwrap())
    }

    #[test]
    fn a_webhook_is_read_leniently() {
        let webhook = parse(&json!({
            "id": 4, "webhookUrl": "https://a.example/x", "sharedKey": "cbaab87d1cce6d79baad8e9e2607feb3", "headId": "h",
            "startConversation": true, "endConversation": "true", "timeoutConversation": 1, "more": {},
            "createdAt": "2026-01-16T09:56:12.076Z",
        }))
        .unwrap();
        let created_at = webhook.created_at.map(|at| at.to_string());
        assert_eq!((webhook.id.as_str(), created_at.as_deref()), ("4", Some("2026-01-16T09:56:12.076Z")));
        assert!(webhook.key.is_some());
        assert_eq!(webhook.head_id.as_deref(), Some("h"));
        assert_eq!((webhook.other_spelling_of("H"), webhook.other_spelling_of("h")), (Some("h"), None));
        assert_eq!(webhook.subscriptions.to_string(), "START_CONVERSATION, END_CONVERSATION, TIMEOUT_CONVERSATION");
        let spelled = parse(&json!({"id": "000123", "webhookUrl": "u"})).unwrap();
        assert_eq!((spelled.id.as_str(), spelled.id.as_json().get()), ("000123", r#""000123""#));
        for odd in [json!(null), json!({"id": 4}), json!({"webhookUrl": "u"}), json!({"id": {}, "webhookUrl": "u"})] {
            assert!(parse(&odd).is_none(), "{odd}");
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
