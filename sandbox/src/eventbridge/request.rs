//! The parameters of the operations, and the rules of an entry.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::error::EventBridgeError;

/// The size that all entries of a request together must stay below.
///
/// AWS documents 1 MB. The smaller reading of it counts here.
pub const MAX_REQUEST_BYTES: usize = 1_000_000;
pub(super) const MAX_ENTRIES: usize = 10;
const MAX_DETAIL_TYPE: usize = 128;
/// The bytes that `Time` counts for.
const TIME_BYTES: usize = 14;

pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, EventBridgeError> {
    serde_json::from_slice(body).map_err(|error| EventBridgeError::validation(error.to_string()))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Name {
    pub(super) name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PutEvents {
    #[serde(default)]
    pub(super) entries: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Entry {
    pub(super) time: Option<f64>,
    pub(super) source: Option<String>,
    #[serde(default)]
    pub(super) resources: Vec<String>,
    pub(super) detail_type: Option<String>,
    pub(super) detail: Option<String>,
    pub(super) event_bus_name: Option<String>,
}

/// Why an entry failed.
pub(super) struct EntryError {
    pub(super) code: &'static str,
    pub(super) message: String,
}

/// The members that an entry must have.
pub(super) struct Required {
    pub(super) source: String,
    pub(super) detail_type: String,
    pub(super) detail: String,
}

impl Entry {
    /// The bytes that count towards the limit.
    ///
    /// Rule: <https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-putevents.html#eb-putevent-size>
    pub(super) fn size(&self) -> usize {
        let texts = [&self.source, &self.detail_type, &self.detail].into_iter().flatten().chain(&self.resources);
        texts.map(String::len).sum::<usize>() + self.time.map_or(0, |_| TIME_BYTES)
    }

    pub(super) fn has_required(&self) -> bool {
        [&self.source, &self.detail_type, &self.detail].into_iter().all(Option::is_some)
    }

    /// The members, if EventBridge takes them.
    pub(super) fn check(&self) -> Result<Required, EntryError> {
        let required = |name: &str, member: &Option<String>| {
            let message = format!("Parameter {name} is not valid. Reason: {name} is a required argument.");
            let member = member.clone().filter(|text| !text.is_empty());
            member.ok_or(EntryError { code: "InvalidArgument", message })
        };
        let source = required("Source", &self.source)?;
        let detail_type = required("DetailType", &self.detail_type)?;
        let detail = required("Detail", &self.detail)?;
        if source.starts_with("aws.") {
            let message = format!("Not authorized for the source {source}.");
            return Err(EntryError { code: "NotAuthorizedForSourceException", message });
        }
        if detail_type.chars().count() > MAX_DETAIL_TYPE {
            let message = "Parameter DetailType is not valid. Reason: it has more than 128 characters.".to_owned();
            return Err(EntryError { code: "InvalidArgument", message });
        }
        if !is_object(&detail) {
            return Err(EntryError { code: "MalformedDetail", message: "Detail is malformed.".to_owned() });
        }
        Ok(Required { source, detail_type, detail })
    }
}

/// Whether a strict parser reads the text as an object. Integers must fit into 64 bits, as AWS documents.
///
/// AWS reads 1,000 levels; the parser here reads 127, which is stricter.
fn is_object(text: &str) -> bool {
    serde_json::from_str::<Map<String, Value>>(text).is_ok_and(|object| object.values().all(has_integers_of_64_bits))
}

fn has_integers_of_64_bits(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_u64() || number.is_i64(),
        Value::Array(values) => values.iter().all(has_integers_of_64_bits),
        Value::Object(members) => members.values().all(has_integers_of_64_bits),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}
