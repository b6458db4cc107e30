//! A request of CloudFormation to a custom resource.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use time::{PrimitiveDateTime, macros::format_description};
use unith_events::{event_type::EventType, timestamp::Timestamp};

use crate::{
    config::ConfigError,
    declared::{Declared, Heads, WebhookUrl},
    provisioner::SetupError,
    reconciler::{HeadsError, Requester},
    ring::RingError,
};

/// How long CloudFormation waits for a response, in seconds: the template's `ServiceTimeout`.
pub const SERVICE_TIMEOUT_S: u64 = 660;

/// A request's envelope. Any field may be missing: the request gets a response anyway.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(clippy::struct_field_names, reason = "CloudFormation's own names")]
pub(super) struct Request {
    pub(super) request_type: String,
    #[serde(rename = "ResponseURL")]
    pub(super) response_url: String,
    pub(super) stack_id: String,
    pub(super) request_id: String,
    pub(super) logical_resource_id: String,
    physical_resource_id: Option<String>,
    pub(super) resource_properties: Properties,
    pub(super) old_resource_properties: Properties,
}

pub(super) type Properties = Map<String, Value>;

/// A request that cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("the property {name} is {value}: expected {expected}")]
    Property { name: String, value: String, expected: &'static str },
    #[error("the request type is `{0}`: expected Create, Update or Delete")]
    Type(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Heads(#[from] HeadsError),
    #[error(transparent)]
    Ring(#[from] RingError),
}

impl Request {
    /// Reads a request; of one that cannot be read, the strings of its envelope, and the reason.
    pub(super) fn parse(input: &Value) -> (Self, Option<String>) {
        let error = match Self::deserialize(input) {
            Ok(request) => return (request, None),
            Err(error) => error.to_string(),
        };
        let mut strings = input.as_object().cloned().unwrap_or_default();
        strings.retain(|name, value| value.is_string() && !name.ends_with("Properties"));
        (Self::deserialize(Value::Object(strings)).unwrap_or_default(), Some(error))
    }

    /// The id depends on the stack and the logical id alone. It never changes, so CloudFormation never deletes "the old
    /// resource" after an update.
    pub(super) fn physical_id(&self) -> String {
        let id = || format!("unith-webhook:{}:{}", self.logical_resource_id, self.stack_guid());
        self.physical_resource_id.clone().unwrap_or_else(id)
    }

    fn stack_guid(&self) -> &str {
        self.stack_id.rsplit('/').next().unwrap_or_default()
    }

    pub(super) fn requester(&self, arrived_at: Timestamp) -> Requester {
        let owner = format!("{}@{}", self.logical_resource_id, self.stack_guid());
        Requester { owner: Some(owner), takes_over: true, issued_at: self.issued_at().unwrap_or(arrived_at) }
    }

    /// How long CloudFormation still waits; zero if it has given up. `None` if the request has no time.
    pub(super) fn time_left(&self, now: Timestamp) -> Option<Duration> {
        let age = now.since(self.issued_at()?);
        Some(Duration::from_secs(SERVICE_TIMEOUT_S).saturating_sub(age))
    }

    /// When the response URL was signed: `X-Amz-Date=20260116T095612Z`.
    fn issued_at(&self) -> Option<Timestamp> {
        let url = reqwest::Url::parse(&self.response_url).ok()?;
        let (_, date) = url.query_pairs().find(|(name, _)| name.eq_ignore_ascii_case("x-amz-date"))?;
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        let at = PrimitiveDateTime::parse(&date, format).ok()?.assume_utc();
        Timestamp::from_epoch_milliseconds(at.unix_timestamp() * 1_000)
    }

    /// Whether the resource is deleted by force. A value that is not a boolean is not a yes.
    pub(super) fn force_delete(&self) -> bool {
        flag(&self.resource_properties, "ForceDelete", false).unwrap_or(false)
    }

    pub(super) fn changes_only_force_delete(&self) -> bool {
        let split = |properties: &Properties| {
            let mut properties = properties.clone();
            (properties.remove("ForceDelete"), properties)
        };
        let ((new, new_rest), (old, old_rest)) =
            (split(&self.resource_properties), split(&self.old_resource_properties));
        new != old && new_rest == old_rest
    }
}

/// The declared state in a resource's properties.
pub(super) fn declared(properties: &Properties) -> Result<Declared, RequestError> {
    let url = properties.get("WebhookUrl").and_then(Value::as_str).unwrap_or_default();
    let ids: Vec<&str> = match properties.get("HeadIds") {
        Some(Value::Array(ids)) if ids.iter().all(Value::is_string) => ids.iter().filter_map(Value::as_str).collect(),
        // A comma-delimited parameter, passed on as it is.
        Some(Value::String(ids)) => ids.split(',').collect(),
        None => Vec::new(),
        Some(other) => {
            let value = other.to_string();
            return Err(RequestError::Property { name: "HeadIds".to_owned(), value, expected: "a list of head ids" });
        }
    };
    let subscribed = |kind: EventType| Ok(flag(properties, kind.member(), true)?.then_some(kind));
    Ok(Declared {
        webhook_url: WebhookUrl::parse(url).map_err(ConfigError::from)?,
        heads: Heads::parse(ids.into_iter()).map_err(ConfigError::from)?,
        subscriptions: EventType::ALL
            .into_iter()
            .filter_map(|kind| subscribed(kind).transpose())
            .collect::<Result<_, RequestError>>()?,
        enable_events: flag(properties, "EnableEvents", true)?,
    })
}

/// Reads a boolean, which CloudFormation turns into a string. A property is `member` with a capital first letter.
fn flag(properties: &Properties, member: &str, default: bool) -> Result<bool, RequestError> {
    let (first, rest) = member.split_at_checked(1).unwrap_or_default();
    let name = first.to_uppercase() + rest;
    match properties.get(&name) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(on)) => Ok(*on),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(other) => Err(RequestError::Property { name, value: other.to_string(), expected: "true or false" }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_physical_id_depends_on_the_stack_and_the_logical_id_alone() {
        let mut request = Request {
            stack_id: "arn:aws:cloudformation:eu-west-1:123456789012:stack/my-stack/6a5b".to_owned(),
            logical_resource_id: "Webhook".to_owned(),
            ..Request::default()
        };
        assert_eq!(request.physical_id(), "unith-webhook:Webhook:6a5b");
        request.physical_resource_id = Some("as it was".to_owned());
        assert_eq!(request.physical_id(), "as it was");
    }

    #[test]
    fn a_presigned_url_contains_the_time_of_its_request() {
        let issued_at = |url: String| Request { response_url: url, ..Request::default() }.issued_at();
        let url = |query: &str| format!("https://cloudformation-custom-resource-response.s3.amazonaws.com/x?{query}");
        let signed = url("X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20260116T095612Z&X-Amz-Expires=7200");
        assert_eq!(issued_at(signed), Timestamp::parse("2026-01-16T09:56:12Z"));
        for query in [
            "",
            "X-Amz-Date=",
            "X-Amz-Date=20260116",
            "X-Amz-Date=20260116x095612Z",
            "X-Amz-Date=é0260116T095612Z",
            "Expires=1",
        ] {
            assert_eq!(issued_at(url(query)), None, "{query}");
        }
        assert_eq!(issued_at("nonsense".to_owned()), None);
    }

    #[test]
    fn properties_may_be_strings() {
        let properties = |value: Value| value.as_object().cloned().unwrap();
        let declared = declared(&properties(json!({
            "ServiceToken": "arn:…", "WebhookUrl": "https://a.example/x", "HeadIds": ["a", "b", "a"],
            "EndConversation": "false", "InactivityWarning": false, "EnableEvents": "FALSE",
        })))
        .unwrap();
        assert_eq!(declared.heads.named(), ["a", "b"]);
        assert_eq!(declared.subscriptions.to_string(), "START_CONVERSATION, TIMEOUT_CONVERSATION");
        assert!(!declared.enable_events);
        let url = json!("https://a.example/x");
        for (bad, reason) in [
            (
                json!({"WebhookUrl": "http://a.example"}),
                "the webhook URL `http://a.example` cannot be registered: UNITH delivers to https URLs only",
            ),
            (json!({"WebhookUrl": url, "HeadIds": 7}), "the property HeadIds is 7: expected a list of head ids"),
            (
                json!({"WebhookUrl": url, "EnableEvents": "yes"}),
                "the property EnableEvents is \"yes\": expected true or false",
            ),
        ] {
            assert_eq!(super::declared(&properties(bad)).unwrap_err().to_string(), reason);
        }
    }
}
