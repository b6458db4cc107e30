//! Texts that no output may hold: keys, tokens, signatures and bodies.
//!
//! Every harness looks for the ones it knows in everything it captures: log lines, responses, reports and errors. So the
//! whole suite is searched, and a new test is as well.

use std::{
    process::Output,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::Value;
use unith_events::{
    signature::{SIGNATURE_HEADER, Signature, trimmed},
    spill::SpillMessage,
};

use crate::log;

/// The secret access key of the functions' roles.
pub const SECRET_ACCESS_KEY: &str = "a-secret-access-key";
/// The session token of the functions' roles.
pub const SESSION_TOKEN: &str = "a-session-token";

/// Shorter texts may be in any output.
const LEAST_CHARACTERS: usize = 8;
/// The beginning of a body gives it away.
const BEGINNING: usize = 48;
/// The length of a signature in bytes.
const MAC_BYTES: usize = 32;
/// The members that identify an event. Lines and responses name them on purpose.
const IDENTITY: [&str; 6] = ["head_id", "session_id", "sessionId", "event_type", "event", "timestamp"];
/// The members of a secret that are secret themselves.
const SECRET_MEMBERS: [&str; 4] = ["key", "sharedKey", "secretKey", "bearerToken"];

/// Secrets that are known. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Secrets(Arc<Mutex<Vec<Secret>>>);

/// A secret in one of the forms in which it may leak.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Secret {
    what: &'static str,
    text: String,
    /// The same in a JSON string, if that differs.
    escaped: Option<String>,
}

impl Secrets {
    /// The credentials of a function's role.
    pub fn of_role() -> Self {
        log::capture();
        let secrets = Self::default();
        secrets.add("a credential", SECRET_ACCESS_KEY);
        secrets.add("a credential", SESSION_TOKEN);
        secrets
    }

    /// Body and signature of a gateway event.
    pub fn of_gateway_event(event: &Value) -> Self {
        let secrets = Self::default();
        for headers in ["headers", "multiValueHeaders"].iter().filter_map(|name| event[name].as_object()) {
            for (_, value) in headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(SIGNATURE_HEADER)) {
                strings(value, &mut |text| secrets.add_signature(text));
            }
        }
        let body = event["body"].as_str().unwrap_or_default();
        match BASE64.decode(body) {
            Ok(decoded) if event["isBase64Encoded"] == true => secrets.add_body(&decoded),
            _ => secrets.add_body(body.as_bytes()),
        }
        secrets
    }

    /// The bodies of the messages in an event of SQS.
    pub fn of_sqs_event(event: &Value) -> Self {
        let secrets = Self::default();
        for text in event["Records"].as_array().into_iter().flatten().filter_map(|record| record["body"].as_str()) {
            let spilled = SpillMessage::parse(text);
            if let Some(verified) = spilled.as_ref().ok().and_then(|message| message.verified().ok()) {
                secrets.add_body(verified.body());
            }
            secrets.add("a body", beginning(text));
            let message: Value = serde_json::from_str(text).unwrap_or_default();
            secrets.add("a body", beginning(message["body_b64"].as_str().unwrap_or_default()));
        }
        secrets
    }

    /// The bodies of the items in an event of a table's stream.
    pub fn of_stream_event(event: &Value) -> Self {
        let secrets = Self::default();
        let records = event["Records"].as_array().into_iter().flatten();
        for body in records.map(|record| &record["dynamodb"]["NewImage"]["body"]) {
            if let Some(text) = body["S"].as_str() {
                secrets.add_body(text.as_bytes());
            } else if let Some(bytes) = body["B"].as_str().and_then(|text| BASE64.decode(text).ok()) {
                secrets.add_body(&bytes);
            }
        }
        secrets
    }

    /// Adds all of others.
    pub fn add_all(&self, others: &Self) {
        let others = others.lock().clone();
        for secret in others {
            self.add(secret.what, &secret.text);
        }
    }

    /// Adds a shared key.
    pub fn add_key(&self, key: &str) {
        self.add("a key", trimmed(key));
    }

    /// Adds a shared key or a token that the platform has issued.
    pub fn add_issued(&self, secret: &str) {
        self.add("a key or a token", secret);
    }

    /// Adds what the text of a secret in Secrets Manager keeps secret: keys of a ring, credentials, or a bare key.
    pub fn add_document(&self, text: &str) {
        match serde_json::from_str::<Value>(trimmed(text)) {
            Ok(document) => self.add_members(&document),
            Err(_) => self.add_key(text),
        }
    }

    fn add_members(&self, value: &Value) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    match value {
                        Value::String(text) if SECRET_MEMBERS.contains(&name.as_str()) => self.add_key(text),
                        _ => self.add_members(value),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| self.add_members(value)),
            _ => {}
        }
    }

    /// Adds a signature header: as it is, and in the other encodings if it has one.
    pub fn add_signature(&self, header: &str) {
        for part in header.split(',').map(str::trim) {
            let digits = part.strip_prefix("sha256=").unwrap_or(part);
            // A shorter text is a word.
            if digits.len() > MAC_BYTES {
                self.add("a signature", digits);
            }
            if let Ok(signature) = Signature::parse(part.as_bytes()) {
                let hex = signature.to_hex();
                self.add("a signature", &BASE64.encode(hex::decode(&hex).unwrap()));
                self.add("a signature", &hex.to_uppercase());
                self.add("a signature", &hex);
            }
        }
    }

    /// Adds a body: its beginning as text and in base64, and every string in it that does not identify the event.
    pub fn add_body(&self, body: &[u8]) {
        let encoded = BASE64.encode(body);
        self.add("a body", beginning(&encoded));
        self.add("a body", beginning(&String::from_utf8_lossy(body)));
        if let Ok(Value::Object(members)) = serde_json::from_slice(body) {
            for (_, value) in members.iter().filter(|(name, _)| !IDENTITY.contains(&name.as_str())) {
                strings(value, &mut |text| self.add("a body", beginning(text)));
            }
        }
    }

    fn add(&self, what: &'static str, text: &str) {
        let mut secrets = self.lock();
        if text.chars().count() < LEAST_CHARACTERS || secrets.iter().any(|secret| secret.text == text) {
            return;
        }
        let in_quotes = Value::from(text).to_string();
        let escaped = in_quotes[1..in_quotes.len() - 1].to_owned();
        secrets.push(Secret { what, text: text.to_owned(), escaped: Some(escaped).filter(|escaped| escaped != text) });
    }

    /// Panics if `output`, which is called `name`, holds one of them, as it is or in a JSON string.
    #[track_caller]
    pub fn assert_absent(&self, name: &str, output: &str) {
        for Secret { what, text, escaped } in self.lock().iter() {
            let is_there = output.contains(text) || escaped.as_ref().is_some_and(|escaped| output.contains(escaped));
            assert!(!is_there, "{name} holds {what}: {output}");
        }
    }

    /// The same for the text and the structure of an error.
    #[track_caller]
    pub fn assert_absent_in_error(&self, error: &impl std::error::Error) {
        self.assert_absent("an error", &format!("{error} {error:?}"));
    }

    /// The same for everything that a process wrote.
    #[track_caller]
    pub fn assert_absent_in_process(&self, output: &Output) {
        self.assert_absent("standard output", &String::from_utf8_lossy(&output.stdout));
        self.assert_absent("standard error", &String::from_utf8_lossy(&output.stderr));
    }

    /// The same for all lines of libraries and of ours that were traced since `position`.
    #[track_caller]
    pub fn assert_absent_in_lines_since(&self, position: usize) {
        self.assert_absent("a traced line", &log::traced_since(position));
    }

    /// The same for an invocation: its result, its own lines, and those that were traced since `position`.
    #[track_caller]
    pub fn assert_absent_in_invocation(
        &self,
        result: &Result<Value, impl std::error::Error>,
        lines: &[Value],
        position: usize,
    ) {
        match result {
            Ok(response) => self.assert_absent("a response", &response.to_string()),
            Err(error) => self.assert_absent_in_error(error),
        }
        for line in lines {
            self.assert_absent("a log line", &line.to_string());
        }
        self.assert_absent_in_lines_since(position);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Secret>> {
        // A test that failed may have poisoned it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn beginning(text: &str) -> &str {
    text.char_indices().nth(BEGINNING).map_or(text, |(end, _)| &text[..end])
}

/// Calls `found` with every string in a value.
fn strings(value: &Value, found: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => found(text),
        Value::Array(values) => values.iter().for_each(|value| strings(value, found)),
        Value::Object(members) => members.values().for_each(|value| strings(value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        delivery::{HEAD, KEY, SESSION, event, sign},
        gateway_event::{Gateway, http_api_event},
        key_ring::{active, ring},
        provision_harness::ProvisionHarness,
        receive_harness::ReceiveHarness,
        redrive_harness::RedriveHarness,
    };
    use serde_json::json;
    use std::panic::catch_unwind;

    fn finds(secrets: &Secrets, output: &str) -> bool {
        let secrets = secrets.clone();
        catch_unwind(move || secrets.assert_absent("the output", output)).is_err()
    }

    #[test]
    fn a_key_of_any_document_is_found() {
        for document in [
            ring(&[active(HEAD, KEY)]),
            json!({"sharedKey": KEY}).to_string(),
            json!({"email": "a@b.c", "secretKey": KEY}).to_string(),
            format!("\u{feff}{KEY}\n"),
        ] {
            let secrets = Secrets::default();
            secrets.add_document(&document);
            assert!(finds(&secrets, &format!("signed with {KEY}")), "{document}");
            assert!(!finds(&secrets, &format!("head {HEAD}")), "{document}");
        }
    }

    #[test]
    fn body_and_signature_of_a_gateway_event_are_found_in_any_form() {
        let body = event(&json!({"private": ["what the \"user\" said"]}));
        let signature = sign(&body, KEY);
        for gateway in [Gateway::HttpApi, Gateway::RestApi, Gateway::FunctionUrl] {
            for header in [signature.clone(), format!("sha256={signature}"), signature.to_uppercase()] {
                let secrets = Secrets::of_gateway_event(&gateway.event(&body, Some(&header)));
                let text = String::from_utf8(body.clone()).unwrap();
                for output in [
                    &text,
                    &json!({"message": text}).to_string(),
                    &format!("{:?}", "what the \"user\" said"),
                    &BASE64.encode(&body),
                    &signature,
                    &BASE64.encode(hex::decode(&signature).unwrap()),
                ] {
                    assert!(finds(&secrets, output), "{gateway:?}: {output}");
                }
                assert!(!finds(&secrets, &format!("{HEAD} {SESSION} START_CONVERSATION")), "{gateway:?}");
            }
        }
    }

    #[test]
    fn the_body_of_a_message_is_found() {
        let message = SpillMessage::of_quarantined(event(&json!({"private": "what was said"})), None, at());
        let secrets = Secrets::of_sqs_event(&json!({"Records": [{"body": message.to_json()}, {"body": "no message"}]}));
        for output in ["what was said", "no message", &message.to_json()] {
            assert!(finds(&secrets, output), "{output}");
        }
    }

    #[test]
    fn a_traced_line_is_searched() {
        let (secrets, position) = (Secrets::of_role(), log::position());
        secrets.add_key("a-key-in-a-traced-line");
        secrets.assert_absent_in_lines_since(position);
        tracing::warn!(key = "a-key-in-a-traced-line", "a line");
        assert!(catch_unwind(move || secrets.assert_absent_in_lines_since(position)).is_err());
    }

    #[test]
    fn an_undecodable_body_is_searched_as_it_is() {
        let mut event = http_api_event(b"not base64, and secret", None);
        event["isBase64Encoded"] = true.into();
        assert!(finds(&Secrets::of_gateway_event(&event), "it is not base64, and secret"));
    }

    fn at() -> unith_events::timestamp::Timestamp {
        unith_events::timestamp::Timestamp::parse("2026-01-15T09:57:34Z").unwrap()
    }

    // What the functions show on purpose is declared secret in the following tests. So they show that a harness would find it.

    #[tokio::test]
    #[should_panic(expected = "a log line holds a key")]
    async fn a_secret_in_the_line_of_a_delivery_is_found() {
        let harness = ReceiveHarness::new().await;
        harness.known.add_key("a-session-as-key");
        harness.receiver().await.deliver(&event(&json!({"session_id": "a-session-as-key"})), KEY).await;
    }

    #[tokio::test]
    #[should_panic(expected = "a response holds a key")]
    async fn a_secret_in_the_response_to_a_delivery_is_found() {
        let harness = ReceiveHarness::new().await;
        let receiver = harness.receiver().await;
        let stored = receiver.deliver(&event(&json!({})), KEY).await.json();
        harness.known.add_key(stored["event_id"].as_str().unwrap());
        receiver.deliver(&event(&json!({})), KEY).await;
    }

    #[tokio::test]
    #[should_panic(expected = "a traced line holds a key")]
    async fn a_secret_in_a_line_of_the_warm_up_is_found() {
        let harness = ReceiveHarness::new().await.with("UNITH_KEYS_SECRET", "a-missing-secret");
        harness.known.add_key("a-missing-secret");
        harness.receiver().await;
    }

    #[tokio::test]
    #[should_panic(expected = "a log line holds a key")]
    async fn a_secret_in_the_line_of_a_message_is_found() {
        let harness = RedriveHarness::start().await;
        harness.known.add_key("a-session-as-key");
        harness.spill(&event(&json!({"session_id": "a-session-as-key"}))).await;
        harness.deliver().await;
    }

    #[tokio::test]
    #[should_panic(expected = "an error holds a key")]
    async fn a_secret_in_an_error_is_found() {
        let harness = RedriveHarness::start().await;
        harness.known.add_key("a-key-as-action");
        let _ = harness.invoke(json!({"action": "a-key-as-action"})).await;
    }

    #[tokio::test]
    #[should_panic(expected = "a result holds a key")]
    async fn a_secret_in_a_report_is_found() {
        let harness = ProvisionHarness::start().await;
        harness.command("status").await;
        harness.known.add_key(HEAD);
    }

    #[tokio::test]
    #[should_panic(expected = "a result holds a key or a token")]
    async fn a_token_in_a_response_to_cloudformation_is_found() {
        let harness = ProvisionHarness::start().await;
        let response = harness.cloudformation("create", &json!({})).await;
        harness.known.add_issued(response["StackId"].as_str().unwrap());
    }
}
