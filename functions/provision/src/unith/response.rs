//! The bodies of UNITH's responses, apart from webhooks.
//!
//! Reading is lenient: a list may stand alone, under `data`, or be `null`.

use std::borrow::Cow;

use serde_json::{Value, value::RawValue};
use unith_events::{
    ids::{HeadId, WebhookId},
    json::Object,
    signature::trimmed,
};
use zeroize::Zeroizing;

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

/// A page of the account's heads.
#[derive(Debug, PartialEq, Eq)]
pub struct HeadsPage {
    pub ids: Vec<HeadId>,
    /// The number of pages, if UNITH says it.
    pub page_count: Option<usize>,
    /// The number of heads on all pages, if UNITH says it.
    pub item_count: Option<usize>,
}

impl HeadsPage {
    /// Reads a page.
    ///
    /// # Errors
    /// A body that is not a list of heads. A head without an id is an error too: `*` must not leave one out.
    pub fn parse(response: &str) -> Result<Self, &'static str> {
        let (listed, _) = parse_list(response).ok_or("it is not a list of heads")?;
        let id = |head: &RawValue| HeadId::new(Object::parse(head.get()).ok()?.text("id").map(Cow::into_owned)?).ok();
        let ids = listed.into_iter().map(id).collect::<Option<_>>().ok_or("a head in it has no id")?;
        let meta = Object::parse(response).unwrap_or_default().object("meta");
        let number = |name| meta.get(name).and_then(|value| value.get().trim_matches('"').parse().ok());
        Ok(Self { ids, page_count: number("pageCount"), item_count: number("itemCount") })
    }
}

/// Whether a head's events are on.
pub fn parse_switch(response: &str) -> Option<bool> {
    let value: Value = serde_json::from_str(response).unwrap_or_default();
    let inner = ["enableEvents", "data"].iter().find_map(|name| value.get(name)).unwrap_or(&value);
    inner.as_bool().or_else(|| inner.as_str()?.to_ascii_lowercase().parse().ok())
}

/// The token in the response to the account's credentials.
pub fn parse_token(response: &str) -> Option<Zeroizing<String>> {
    let response = Object::parse(response).ok()?;
    let bearer = response.object("data").text("bearer").or_else(|| response.text("token"))?;
    let bearer = trimmed(&bearer);
    (!bearer.is_empty()).then(|| Zeroizing::new(bearer.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
