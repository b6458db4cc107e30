//! The buses, and the operations on them.

use std::{collections::BTreeMap, fmt};

use fastrand::Rng;
use serde_json::{Value, json, value::RawValue};
use unith_events::timestamp::Timestamp;

use super::{
    bus_arn,
    error::EventBridgeError,
    request::{Entry, MAX_ENTRIES, MAX_REQUEST_BYTES, Name, PutEvents, parse},
};
use crate::{
    clients::{ACCOUNT, REGION},
    random::uuid,
};

const DEFAULT: &str = "default";

/// How often requests and entries fail. Shares are between 0 and 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub seed: u64,
    /// The share of entries that are throttled.
    pub throttled_entries: f64,
    /// The share of entries that fail with an internal failure.
    pub failed_entries: f64,
    /// The share of requests that fail as a whole.
    pub failed_requests: f64,
}

/// An event that reached a bus.
#[derive(Debug, Clone, PartialEq)]
pub struct PublishedEvent {
    /// EventBridge's own id.
    pub id: String,
    pub source: String,
    pub detail_type: String,
    /// When it happened, in whole seconds; the time of the request if the entry has none.
    pub time: Timestamp,
    /// The text of the detail, as it came.
    pub detail: String,
    /// The number of the request that brought it.
    pub request: usize,
}

impl PublishedEvent {
    /// The event as a rule's target gets it.
    pub fn to_json(&self) -> String {
        let time = self.time.whole_second().to_string().replace(".000Z", "Z");
        let text = |text: &str| Value::from(text).to_string();
        // The detail is put in as it is, as EventBridge does.
        let detail = serde_json::from_str::<&RawValue>(&self.detail).map_or("null", RawValue::get);
        format!(
            r#"{{"version":"0","id":{},"detail-type":{},"source":{},"account":"{ACCOUNT}","time":"{time}","region":"{REGION}","resources":[],"detail":{detail}}}"#,
            text(&self.id),
            text(&self.detail_type),
            text(&self.source),
        )
    }

    /// The detail as a value.
    pub fn detail(&self) -> Value {
        serde_json::from_str(&self.detail).unwrap_or_default()
    }
}

type Rule = Box<dyn FnMut(&PublishedEvent) -> Option<&'static str> + Send>;

pub(super) struct Contents {
    /// The names of the buses that exist, and when each was created.
    buses: BTreeMap<String, Timestamp>,
    /// The events that reached each bus.
    events: BTreeMap<String, Vec<PublishedEvent>>,
    /// The events that were put on each bus while it did not exist.
    lost: BTreeMap<String, Vec<PublishedEvent>>,
    requests: usize,
    faults: Faults,
    random: Rng,
    rule: Option<Rule>,
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents").field("buses", &self.buses).finish_non_exhaustive()
    }
}

impl Contents {
    pub(super) fn new(faults: Faults) -> Self {
        let random = Rng::with_seed(faults.seed);
        let buses = BTreeMap::from([(DEFAULT.to_owned(), Timestamp::now())]);
        let (events, lost) = Default::default();
        Self { buses, events, lost, requests: 0, faults, random, rule: None }
    }

    pub(super) fn call(&mut self, operation: &str, body: &[u8]) -> Result<Value, EventBridgeError> {
        match operation {
            "PutEvents" => self.put_events(&parse(body)?),
            "DescribeEventBus" => self.describe(&parse(body)?),
            "CreateEventBus" => self.create(parse(body)?),
            "DeleteEventBus" => self.delete(&parse(body)?),
            _ => Err(EventBridgeError::unknown(operation)),
        }
    }

    pub(super) fn events(&self, bus: &str) -> Vec<PublishedEvent> {
        self.events.get(bus).cloned().unwrap_or_default()
    }

    pub(super) fn lost(&self, bus: &str) -> Vec<PublishedEvent> {
        self.lost.get(bus).cloned().unwrap_or_default()
    }

    pub(super) fn set_rule(&mut self, rule: Rule) {
        self.rule = Some(rule);
    }

    pub(super) fn clear_faults(&mut self) {
        (self.faults, self.rule) = (Faults::default(), None);
    }

    fn describe(&self, request: &Name) -> Result<Value, EventBridgeError> {
        let name = bus_name(request.name.as_deref());
        let created = self.buses.get(name).ok_or_else(|| EventBridgeError::not_found(name))?;
        #[expect(clippy::cast_precision_loss, reason = "a time of this millennium in milliseconds fits")]
        let created = created.epoch_milliseconds() as f64 / 1e3;
        Ok(json!({"Arn": bus_arn(name), "Name": name, "CreationTime": created}))
    }

    fn create(&mut self, request: Name) -> Result<Value, EventBridgeError> {
        let name = request.name.unwrap_or_default();
        let is_valid = |c: char| c.is_ascii_alphanumeric() || "/.-_".contains(c);
        if !(1..=256).contains(&name.len()) || !name.chars().all(is_valid) {
            return Err(EventBridgeError::validation(format!("Value '{name}' at 'name' is not a name of a bus.")));
        }
        if self.exists(&name) {
            return Err(EventBridgeError::already_exists(&name));
        }
        let arn = bus_arn(&name);
        self.buses.insert(name, Timestamp::now());
        Ok(json!({"EventBusArn": arn}))
    }

    /// Deletes a bus. As at AWS, a bus that does not exist is deleted successfully.
    fn delete(&mut self, request: &Name) -> Result<Value, EventBridgeError> {
        let name = bus_name(request.name.as_deref());
        if name == DEFAULT {
            return Err(EventBridgeError::validation("Cannot delete event bus default."));
        }
        self.buses.remove(name);
        Ok(json!({}))
    }

    fn exists(&self, name: &str) -> bool {
        self.buses.contains_key(name)
    }

    fn put_events(&mut self, request: &PutEvents) -> Result<Value, EventBridgeError> {
        self.requests += 1;
        let entries = &request.entries;
        if !(1..=MAX_ENTRIES).contains(&entries.len()) {
            let message = "Value at 'entries' failed to satisfy constraint: Member must have length from 1 to 10";
            return Err(EventBridgeError::validation(message));
        }
        if entries.iter().map(Entry::size).sum::<usize>() >= MAX_REQUEST_BYTES {
            let message = "Total size of the entries in the request is over the limit.";
            return Err(EventBridgeError::validation(message));
        }
        if !entries.iter().any(Entry::has_required) {
            return Err(EventBridgeError::validation("No entry has Source, DetailType and Detail."));
        }
        if self.random.f64() < self.faults.failed_requests {
            return Err(EventBridgeError::internal());
        }
        let results: Vec<_> = entries.iter().map(|entry| self.put(entry)).collect();
        let failed = results.iter().filter(|result| result.get("ErrorCode").is_some()).count();
        Ok(json!({"FailedEntryCount": failed, "Entries": results}))
    }

    fn put(&mut self, entry: &Entry) -> Value {
        let required = match entry.check() {
            Ok(required) => required,
            Err(error) => return json!({"ErrorCode": error.code, "ErrorMessage": error.message}),
        };
        #[expect(clippy::cast_possible_truncation, reason = "a time of this millennium in milliseconds fits")]
        let time = entry.time.and_then(|seconds| Timestamp::from_epoch_milliseconds((seconds * 1e3) as i64));
        let event = PublishedEvent {
            id: uuid(self.random.u128(..)),
            source: required.source,
            detail_type: required.detail_type,
            time: time.unwrap_or_else(Timestamp::now).whole_second(),
            detail: required.detail,
            request: self.requests,
        };
        let by_chance =
            [(self.faults.throttled_entries, "ThrottlingException"), (self.faults.failed_entries, "InternalFailure")];
        let by_chance = by_chance.into_iter().find(|(share, _)| self.random.f64() < *share).map(|(_, code)| code);
        if let Some(code) = by_chance.or_else(|| self.rule.as_mut().and_then(|rule| rule(&event))) {
            return json!({"ErrorCode": code, "ErrorMessage": "injected by the sandbox"});
        }
        let response = json!({"EventId": event.id});
        let bus = bus_name(entry.event_bus_name.as_deref());
        let events = if self.exists(bus) { &mut self.events } else { &mut self.lost };
        events.entry(bus.to_owned()).or_default().push(event);
        response
    }
}

/// The name in a name or an ARN; that of the default bus if there is none.
fn bus_name(name_or_arn: Option<&str>) -> &str {
    let name = name_or_arn.unwrap_or(DEFAULT);
    name.rsplit_once(":event-bus/").map_or(name, |(_, name)| name)
}
