//! A simulated Secrets Manager: the operations that the functions and the tests use.
//!
//! It speaks the protocol of the service, with versions, stages and request tokens. The crate
//! `winterbaume-secretsmanager` does not replace it: it accepts a request token again with other content, which hides
//! the conflict that compare-and-swap needs, and it depends on aws-lc and the SSO clients.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use unith_events::timestamp::Timestamp;

use crate::{random::uuid, server::ServerHandle};

const CURRENT: &str = "AWSCURRENT";
const PREVIOUS: &str = "AWSPREVIOUS";
const STRING: &str = "SecretString";
const BINARY: &str = "SecretBinary";
/// AWS's quota of versions per secret.
const MAX_VERSIONS: usize = 100;
/// The age in seconds from which AWS may remove a version.
const PRUNABLE_AFTER: f64 = 24.0 * 60.0 * 60.0;

/// A simulated Secrets Manager on loopback. Its secrets are in memory.
#[derive(Debug)]
pub struct SecretsManager {
    server: ServerHandle,
    store: Store,
}

#[derive(Debug, Clone, Default)]
struct Store(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    secrets: BTreeMap<String, Secret>,
    calls: HashMap<String, usize>,
}

#[derive(Debug)]
struct Secret {
    arn: String,
    /// Whether it was marked for deletion.
    is_marked: bool,
    /// Whether it was deleted without recovery. Only its history is left then.
    is_gone: bool,
    /// The oldest version first.
    versions: Vec<Version>,
    /// See [`SecretsManager::history`].
    history: Vec<(Instant, String)>,
}

#[derive(Debug, Clone)]
struct Version {
    id: String,
    /// The member of the protocol that holds the value, and the value. Binary is in base64.
    value: (&'static str, String),
    stages: Vec<&'static str>,
    created: f64,
}

/// The parameters of all operations.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Parameters {
    name: Option<String>,
    secret_id: Option<String>,
    secret_string: Option<String>,
    secret_binary: Option<String>,
    client_request_token: Option<String>,
    version_id: Option<String>,
    version_stage: Option<String>,
    force_delete_without_recovery: bool,
}

#[derive(Debug)]
struct Failure {
    kind: &'static str,
    message: String,
}

fn failure<T>(kind: &'static str, message: impl Into<String>) -> Result<T, Failure> {
    Err(Failure { kind, message: message.into() })
}

impl SecretsManager {
    /// Serves a Secrets Manager without secrets.
    pub fn serve(listener: TcpListener) -> std::io::Result<Self> {
        let store = Store::default();
        let router = Router::new().route("/", post(operation)).with_state(store.clone());
        Ok(Self { server: ServerHandle::router(listener, router)?, store })
    }

    /// The endpoint.
    pub fn url(&self) -> &str {
        self.server.url()
    }

    /// The number of requests for an operation, e.g. `GetSecretValue`.
    pub fn calls(&self, operation: &str) -> usize {
        self.store.lock().calls.get(operation).copied().unwrap_or_default()
    }

    /// Makes all versions older by this time.
    pub fn pass_time(&self, by: Duration) {
        self.store.lock().pass_time(by);
    }

    /// The texts that became the current value of a secret, each with its instant, the oldest first.
    ///
    /// Removed versions and those of a deleted secret are included. A binary value is an empty text.
    pub fn history(&self, secret: &str) -> Vec<(Instant, String)> {
        self.store.lock().history(secret)
    }
}

async fn operation(State(store): State<Store>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let name = target.strip_prefix("secretsmanager.").unwrap_or_default();
    let result = match serde_json::from_slice(&body) {
        Ok(parameters) => store.lock().call(name, parameters),
        Err(error) => failure("SerializationException", error.to_string()),
    };
    let (status, response) = match result {
        Ok(response) => (StatusCode::OK, response),
        Err(failure) => (StatusCode::BAD_REQUEST, json!({"__type": failure.kind, "message": failure.message})),
    };
    (status, [(CONTENT_TYPE, "application/x-amz-json-1.1")], response.to_string()).into_response()
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn call(&mut self, operation: &str, parameters: Parameters) -> Result<Value, Failure> {
        *self.calls.entry(operation.to_owned()).or_default() += 1;
        match operation {
            "CreateSecret" => self.create(parameters),
            "GetSecretValue" => self.get_value(&parameters),
            "PutSecretValue" => self.put_value(parameters),
            "DeleteSecret" => self.delete(&parameters),
            _ => failure("UnknownOperationException", format!("the sandbox has no operation `{operation}`")),
        }
    }

    fn create(&mut self, parameters: Parameters) -> Result<Value, Failure> {
        let name = parameters.name.clone().filter(|name| !name.is_empty());
        let Some(name) = name else {
            return failure("ValidationException", "the request has no Name");
        };
        let history = match self.secrets.get(&name) {
            None => Vec::new(),
            Some(secret) if secret.is_gone => secret.history.clone(),
            Some(Secret { is_marked: true, .. }) => {
                let message = "You can't create this secret because a secret with this name is already scheduled for \
                               deletion.";
                return failure("InvalidRequestException", message);
            }
            Some(_) => return failure("ResourceExistsException", format!("the secret {name} already exists")),
        };
        let arn = format!("arn:aws:secretsmanager:us-east-1:123456789012:secret:{name}-{:06x}", self.secrets.len());
        let versions = Vec::new();
        let mut secret = Secret { arn, is_marked: false, is_gone: false, versions, history };
        let has_value = parameters.secret_string.is_some() || parameters.secret_binary.is_some();
        let version = if has_value { Some(secret.put(parameters)?) } else { None };
        let response = json!({"ARN": secret.arn, "Name": name, "VersionId": version});
        self.secrets.insert(name, secret);
        Ok(response)
    }

    fn get_value(&mut self, parameters: &Parameters) -> Result<Value, Failure> {
        let (name, secret) = self.find_usable(parameters)?;
        let stage = parameters.version_stage.as_deref().unwrap_or(CURRENT);
        let wanted = |version: &&Version| match &parameters.version_id {
            Some(id) => version.id == *id,
            None => version.stages.contains(&stage),
        };
        let Some(version) = secret.versions.iter().find(wanted) else {
            return failure("ResourceNotFoundException", "Secrets Manager can't find the specified secret value");
        };
        let mut response = json!({
            "ARN": secret.arn, "Name": name, "VersionId": version.id,
            "VersionStages": version.stages, "CreatedDate": version.created,
        });
        let (member, value) = &version.value;
        if let Some(members) = response.as_object_mut() {
            members.insert((*member).to_owned(), value.as_str().into());
        }
        Ok(response)
    }

    fn put_value(&mut self, parameters: Parameters) -> Result<Value, Failure> {
        let (name, secret) = self.find_usable(&parameters)?;
        let id = secret.put(parameters)?;
        let stages = secret.versions.iter().find(|version| version.id == id).map(|version| version.stages.clone());
        Ok(json!({"ARN": secret.arn, "Name": name, "VersionId": id, "VersionStages": stages}))
    }

    /// Marks a secret for deletion. With `ForceDeleteWithoutRecovery` it removes the secret at once.
    fn delete(&mut self, parameters: &Parameters) -> Result<Value, Failure> {
        let force = parameters.force_delete_without_recovery;
        let (name, secret) = if force { self.find(parameters.id()) } else { self.find_usable(parameters) }?;
        secret.is_marked = true;
        secret.is_gone = force;
        Ok(json!({"ARN": secret.arn, "Name": name, "DeletionDate": now()}))
    }

    /// A secret that is not marked for deletion.
    fn find_usable(&mut self, parameters: &Parameters) -> Result<(String, &mut Secret), Failure> {
        let (name, secret) = self.find(parameters.id())?;
        if secret.is_marked {
            let message = "You can't perform this operation on the secret because it was marked for deletion.";
            return failure("InvalidRequestException", message);
        }
        Ok((name, secret))
    }

    /// Finds a secret by its name, or by its ARN with or without the random ending.
    fn find(&mut self, id: &str) -> Result<(String, &mut Secret), Failure> {
        let without_ending = |arn: &str| arn.rsplit_once('-').is_some_and(|(stem, _)| stem == id);
        let is_meant = |name: &str, secret: &Secret| name == id || secret.arn == id || without_ending(&secret.arn);
        match self.secrets.iter_mut().find(|(name, secret)| !secret.is_gone && is_meant(name, secret)) {
            Some((name, secret)) => Ok((name.clone(), secret)),
            None => failure("ResourceNotFoundException", "Secrets Manager can't find the specified secret."),
        }
    }

    fn pass_time(&mut self, by: Duration) {
        for version in self.secrets.values_mut().flat_map(|secret| &mut secret.versions) {
            version.created -= by.as_secs_f64();
        }
    }

    fn history(&self, name: &str) -> Vec<(Instant, String)> {
        self.secrets.get(name).map(|secret| secret.history.clone()).unwrap_or_default()
    }
}

impl Parameters {
    fn id(&self) -> &str {
        self.secret_id.as_deref().unwrap_or_default()
    }
}

impl Secret {
    /// Adds a version and makes it the current one.
    ///
    /// A request token that was used before is a retry if the content is the same, and a conflict otherwise.
    fn put(&mut self, parameters: Parameters) -> Result<String, Failure> {
        let value = match (parameters.secret_string, parameters.secret_binary) {
            (Some(text), None) => (STRING, text),
            (None, Some(binary)) => (BINARY, binary),
            _ => {
                return failure("InvalidParameterException", "expected exactly one of SecretString and SecretBinary");
            }
        };
        let id = parameters.client_request_token.unwrap_or_else(|| uuid(fastrand::u128(..)));
        if let Some(known) = self.versions.iter().find(|version| version.id == id) {
            if known.value == value {
                return Ok(id);
            }
            let message = "You can't use ClientRequestToken for that version: it exists with other content.";
            return failure("ResourceExistsException", message);
        }
        self.make_room()?;
        for version in &mut self.versions {
            let was_current = version.stages.contains(&CURRENT);
            version.stages = if was_current { vec![PREVIOUS] } else { Vec::new() };
        }
        let text = if value.0 == STRING { value.1.clone() } else { String::new() };
        self.history.push((Instant::now(), text));
        self.versions.push(Version { id: id.clone(), value, stages: vec![CURRENT], created: now() });
        Ok(id)
    }

    /// Removes the oldest version without a stage if there are [`MAX_VERSIONS`] versions.
    ///
    /// A version younger than [`PRUNABLE_AFTER`] stays. If none can be removed, the new version is refused.
    fn make_room(&mut self) -> Result<(), Failure> {
        if self.versions.len() < MAX_VERSIONS {
            return Ok(());
        }
        let now = now();
        let is_prunable = |version: &Version| version.stages.is_empty() && now - version.created > PRUNABLE_AFTER;
        let Some(oldest) = self.versions.iter().position(is_prunable) else {
            let message = "The request failed because it would exceed one of the Secrets Manager quotas.";
            return failure("LimitExceededException", message);
        };
        self.versions.remove(oldest);
        Ok(())
    }
}

/// Now, as a date of the protocol: seconds since 1970.
fn now() -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "2^53 ms are 285,000 years")]
    let milliseconds = Timestamp::now().epoch_milliseconds() as f64;
    milliseconds / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The response of an operation, or the kind of its error.
    fn call(contents: &mut Contents, operation: &str, parameters: Value) -> Result<Value, &'static str> {
        contents.call(operation, serde_json::from_value(parameters).unwrap()).map_err(|failure| failure.kind)
    }

    fn create(contents: &mut Contents, text: &str) -> Result<Value, &'static str> {
        call(contents, "CreateSecret", json!({"Name": "ring", "SecretString": text}))
    }

    fn put(contents: &mut Contents, text: &str, token: &str) -> Result<Value, &'static str> {
        let parameters = json!({"SecretId": "ring", "SecretString": text, "ClientRequestToken": token});
        call(contents, "PutSecretValue", parameters)
    }

    fn get(contents: &mut Contents, id: &str, stage: &str) -> Option<String> {
        let response = call(contents, "GetSecretValue", json!({"SecretId": id, "VersionStage": stage})).ok()?;
        response["SecretString"].as_str().map(str::to_owned)
    }

    fn on_ring(contents: &mut Contents, operation: &str, force: bool) -> Result<Value, &'static str> {
        call(contents, operation, json!({"SecretId": "ring", "ForceDeleteWithoutRecovery": force}))
    }

    fn texts(contents: &mut Contents) -> Vec<String> {
        contents.history("ring").into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn versions_move_through_stages_and_a_used_token_with_other_content_is_a_conflict() {
        let mut contents = Contents::default();
        let arn = create(&mut contents, "1").unwrap()["ARN"].as_str().unwrap().to_owned();
        assert!(put(&mut contents, "2", "token-a").is_ok());
        assert!(put(&mut contents, "2", "token-a").is_ok());
        assert_eq!(put(&mut contents, "3", "token-a"), Err("ResourceExistsException"));
        assert_eq!(get(&mut contents, "ring", CURRENT).as_deref(), Some("2"));
        assert_eq!(get(&mut contents, &arn, PREVIOUS).as_deref(), Some("1"));
        assert_eq!(get(&mut contents, arn.rsplit_once('-').unwrap().0, CURRENT).as_deref(), Some("2"));
        assert_eq!(get(&mut contents, "other", CURRENT), None);
        assert_eq!(contents.calls["GetSecretValue"], 4);
    }

    #[test]
    fn a_secret_has_at_most_100_versions_and_only_unlabelled_ones_older_than_a_day_are_removed() {
        let mut contents = Contents::default();
        create(&mut contents, "1").unwrap();
        for number in 2..=100 {
            put(&mut contents, &number.to_string(), &format!("token-{number}")).unwrap();
        }
        assert_eq!(put(&mut contents, "101", "token-101"), Err("LimitExceededException"));
        assert_eq!(get(&mut contents, "ring", CURRENT).as_deref(), Some("100"), "a refused version changes nothing");
        assert_eq!(get(&mut contents, "ring", PREVIOUS).as_deref(), Some("99"));
        assert!(put(&mut contents, "100", "token-100").is_ok(), "a known token does not add a version");

        let day = Duration::from_hours(24);
        contents.pass_time(day.checked_sub(Duration::from_mins(1)).unwrap());
        assert_eq!(put(&mut contents, "101", "token-101"), Err("LimitExceededException"));
        contents.pass_time(Duration::from_mins(2));
        // 98 versions have no stage yet. The two that lose theirs are older than a day too.
        for number in 101..=200 {
            put(&mut contents, &number.to_string(), &format!("token-{number}")).unwrap();
            assert_eq!(contents.secrets["ring"].versions.len(), 100);
            let oldest: u32 = contents.secrets["ring"].versions[0].value.1.parse().unwrap();
            assert_eq!(oldest, number - 99, "the oldest version is removed first");
        }
        assert_eq!(
            put(&mut contents, "201", "token-201"),
            Err("LimitExceededException"),
            "all unlabelled versions are younger than a day"
        );
        let all: Vec<_> = (1..=200).map(|number| number.to_string()).collect();
        assert_eq!(texts(&mut contents), all);
        assert!(contents.history("ring").is_sorted_by_key(|(at, _)| *at));
    }

    #[test]
    fn a_secret_marked_for_deletion_is_unusable_and_its_name_is_taken() {
        let mut contents = Contents::default();
        create(&mut contents, "1").unwrap();
        assert!(on_ring(&mut contents, "DeleteSecret", false).is_ok());
        for operation in ["GetSecretValue", "DeleteSecret"] {
            assert_eq!(on_ring(&mut contents, operation, false), Err("InvalidRequestException"), "{operation}");
        }
        assert_eq!(put(&mut contents, "2", "token-2"), Err("InvalidRequestException"));
        assert_eq!(create(&mut contents, "2"), Err("InvalidRequestException"), "its name is still taken");
    }

    #[test]
    fn a_secret_deleted_without_recovery_leaves_only_its_history() {
        for marked_before in [false, true] {
            let mut contents = Contents::default();
            create(&mut contents, "1").unwrap();
            if marked_before {
                on_ring(&mut contents, "DeleteSecret", false).unwrap();
            }
            assert!(on_ring(&mut contents, "DeleteSecret", true).is_ok());
            for operation in ["GetSecretValue", "DeleteSecret"] {
                assert_eq!(on_ring(&mut contents, operation, false), Err("ResourceNotFoundException"), "{operation}");
            }
            assert_eq!(put(&mut contents, "2", "token-2"), Err("ResourceNotFoundException"));
            assert_eq!(texts(&mut contents), ["1"]);
            create(&mut contents, "3").unwrap();
            assert_eq!(texts(&mut contents), ["1", "3"]);
        }
    }

    #[test]
    fn a_binary_value_is_an_empty_text_in_the_history() {
        let mut contents = Contents::default();
        create(&mut contents, "1").unwrap();
        call(&mut contents, "PutSecretValue", json!({"SecretId": "ring", "SecretBinary": "AAE="})).unwrap();
        assert_eq!(texts(&mut contents), ["1", ""]);
    }
}
