//! The embedded Secrets Manager: the operations on secret values that the functions and the AWS CLI use, over the real
//! protocol, with versions, stages and request tokens as the service has them.
//!
//! Ours because the crate tried first (`winterbaume-secretsmanager`) takes a request token a second time with other
//! content, which hides the very conflict that compare-and-swap needs, and brings aws-lc and the SSO clients along.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
use shared::timestamp::Timestamp;
use tokio::net::TcpListener;

use crate::listen::Served;

const CURRENT: &str = "AWSCURRENT";
const PREVIOUS: &str = "AWSPREVIOUS";

/// A Secrets Manager on loopback, its secrets in memory.
#[derive(Debug)]
pub struct SecretsManager {
    served: Served,
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
    created: f64,
    versions: Vec<Version>,
}

#[derive(Debug, Clone)]
struct Version {
    id: String,
    value: SecretValue,
    stages: Vec<&'static str>,
    created: f64,
}

/// Text, or base64 of binary, as the protocol has it.
#[derive(Clone, PartialEq, Eq)]
enum SecretValue {
    Text(String),
    Binary(String),
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The parameters of every operation; each takes what it needs.
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
}

struct Failure {
    kind: &'static str,
    message: String,
}

fn failure<T>(kind: &'static str, message: impl Into<String>) -> Result<T, Failure> {
    Err(Failure { kind, message: message.into() })
}

impl SecretsManager {
    /// Serves an empty one.
    pub fn serve(listener: TcpListener) -> std::io::Result<Self> {
        let store = Store::default();
        let router = Router::new().route("/", post(operation)).with_state(store.clone());
        Ok(Self { served: Served::router(listener, router)?, store })
    }

    /// Its endpoint.
    #[must_use]
    pub fn url(&self) -> &str {
        self.served.url()
    }

    /// How often an operation was called, e.g. `GetSecretValue`.
    #[must_use]
    pub fn calls(&self, operation: &str) -> usize {
        self.store.lock().calls.get(operation).copied().unwrap_or_default()
    }
}

async fn operation(State(store): State<Store>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let name = target.strip_prefix("secretsmanager.").unwrap_or_default();
    let result = match serde_json::from_slice(&body) {
        Ok(parameters) => store.lock().call(name, parameters),
        Err(error) => failure("SerializationException", error.to_string()),
    };
    let (status, answer) = match result {
        Ok(answer) => (StatusCode::OK, answer),
        Err(failure) => (StatusCode::BAD_REQUEST, json!({"__type": failure.kind, "message": failure.message})),
    };
    (status, [(CONTENT_TYPE, "application/x-amz-json-1.1")], answer.to_string()).into_response()
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
            "DescribeSecret" => self.describe(&parameters),
            "ListSecrets" => Ok(self.list()),
            "DeleteSecret" => self.delete(&parameters),
            _ => failure("UnknownOperationException", format!("the sandbox has no operation `{operation}`")),
        }
    }

    fn create(&mut self, parameters: Parameters) -> Result<Value, Failure> {
        let name = parameters.name.clone().filter(|name| !name.is_empty());
        let Some(name) = name else {
            return failure("ValidationException", "Name is missing");
        };
        if self.secrets.contains_key(&name) {
            return failure("ResourceExistsException", format!("the secret {name} already exists"));
        }
        let arn = format!("arn:aws:secretsmanager:us-east-1:123456789012:secret:{name}-{:06x}", self.secrets.len());
        let mut secret = Secret { arn, created: now(), versions: Vec::new() };
        let has_value = parameters.secret_string.is_some() || parameters.secret_binary.is_some();
        let version = if has_value { Some(secret.put(parameters)?) } else { None };
        let answer = json!({"ARN": secret.arn, "Name": name, "VersionId": version});
        self.secrets.insert(name, secret);
        Ok(answer)
    }

    fn get_value(&mut self, parameters: &Parameters) -> Result<Value, Failure> {
        let (name, secret) = self.find(parameters)?;
        let stage = parameters.version_stage.as_deref().unwrap_or(CURRENT);
        let wanted = |version: &&Version| match &parameters.version_id {
            Some(id) => version.id == *id,
            None => version.stages.contains(&stage),
        };
        let Some(version) = secret.versions.iter().find(wanted) else {
            return failure("ResourceNotFoundException", "Secrets Manager can't find the specified secret value");
        };
        let mut answer = json!({
            "ARN": secret.arn, "Name": name, "VersionId": version.id,
            "VersionStages": version.stages, "CreatedDate": version.created,
        });
        let (field, value) = match &version.value {
            SecretValue::Text(text) => ("SecretString", text),
            SecretValue::Binary(base64) => ("SecretBinary", base64),
        };
        if let Some(fields) = answer.as_object_mut() {
            fields.insert(field.to_owned(), value.clone().into());
        }
        Ok(answer)
    }

    fn put_value(&mut self, parameters: Parameters) -> Result<Value, Failure> {
        let (name, secret) = self.find(&parameters)?;
        let id = secret.put(parameters)?;
        let stages = secret.versions.iter().find(|version| version.id == id).map(|version| version.stages.clone());
        Ok(json!({"ARN": secret.arn, "Name": name, "VersionId": id, "VersionStages": stages}))
    }

    fn describe(&mut self, parameters: &Parameters) -> Result<Value, Failure> {
        let (name, secret) = self.find(parameters)?;
        let in_use = secret.versions.iter().filter(|version| !version.stages.is_empty());
        let stages: BTreeMap<_, _> = in_use.map(|version| (&version.id, &version.stages)).collect();
        Ok(json!({"ARN": secret.arn, "Name": name, "CreatedDate": secret.created, "VersionIdsToStages": stages}))
    }

    fn list(&self) -> Value {
        let secrets = self.secrets.iter().map(|(name, secret)| json!({"ARN": secret.arn, "Name": name}));
        json!({"SecretList": secrets.collect::<Vec<_>>()})
    }

    fn delete(&mut self, parameters: &Parameters) -> Result<Value, Failure> {
        let (name, secret) = self.find(parameters)?;
        let answer = json!({"ARN": secret.arn, "Name": name, "DeletionDate": now()});
        self.secrets.remove(&name);
        Ok(answer)
    }

    /// By name, or by ARN with or without its random ending.
    fn find(&mut self, parameters: &Parameters) -> Result<(String, &mut Secret), Failure> {
        let id = parameters.secret_id.as_deref().unwrap_or_default();
        let without_ending = |arn: &str| arn.rsplit_once('-').is_some_and(|(stem, _)| stem == id);
        let is_meant = |name: &str, secret: &Secret| name == id || secret.arn == id || without_ending(&secret.arn);
        match self.secrets.iter_mut().find(|(name, secret)| is_meant(name, secret)) {
            Some((name, secret)) => Ok((name.clone(), secret)),
            None => failure("ResourceNotFoundException", "Secrets Manager can't find the specified secret."),
        }
    }
}

impl Secret {
    /// Adds a version and makes it the current one. A token that was used is the same request again if it says the
    /// same, and a conflict if not.
    fn put(&mut self, parameters: Parameters) -> Result<String, Failure> {
        let value = match (parameters.secret_string, parameters.secret_binary) {
            (Some(text), None) => SecretValue::Text(text),
            (None, Some(binary)) => SecretValue::Binary(binary),
            _ => {
                return failure("InvalidParameterException", "exactly one of SecretString and SecretBinary");
            }
        };
        let id = parameters.client_request_token.unwrap_or_else(|| format!("{:032x}", fastrand::u128(..)));
        if let Some(known) = self.versions.iter().find(|version| version.id == id) {
            if known.value == value {
                return Ok(id);
            }
            let message = "You can't use ClientRequestToken for that version: it exists with other content.";
            return failure("ResourceExistsException", message);
        }
        for version in &mut self.versions {
            let was_current = version.stages.contains(&CURRENT);
            version.stages = if was_current { vec![PREVIOUS] } else { Vec::new() };
        }
        self.versions.push(Version { id: id.clone(), value, stages: vec![CURRENT], created: now() });
        Ok(id)
    }
}

/// Seconds since 1970, as the protocol has dates.
fn now() -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "2^53 ms are 285,000 years")]
    let milliseconds = Timestamp::now().epoch_milliseconds() as f64;
    milliseconds / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(contents: &mut Contents, text: &str, token: &str) -> Result<Value, &'static str> {
        let parameters = Parameters {
            secret_id: Some("ring".into()),
            secret_string: Some(text.into()),
            client_request_token: Some(token.into()),
            ..Parameters::default()
        };
        contents.call("PutSecretValue", parameters).map_err(|failure| failure.kind)
    }

    fn get(contents: &mut Contents, id: &str, stage: &str) -> Option<String> {
        let parameters =
            Parameters { secret_id: Some(id.into()), version_stage: Some(stage.into()), ..Parameters::default() };
        let answer = contents.call("GetSecretValue", parameters).ok()?;
        answer["SecretString"].as_str().map(str::to_owned)
    }

    #[test]
    fn versions_move_through_stages_and_tokens_are_compare_and_swap() {
        let mut contents = Contents::default();
        let create = Parameters { name: Some("ring".into()), secret_string: Some("1".into()), ..Parameters::default() };
        let arn = contents.call("CreateSecret", create).ok().unwrap()["ARN"].as_str().unwrap().to_owned();
        assert!(put(&mut contents, "2", "token-a").is_ok());
        assert!(put(&mut contents, "2", "token-a").is_ok());
        assert_eq!(put(&mut contents, "3", "token-a"), Err("ResourceExistsException"));
        assert_eq!(get(&mut contents, "ring", CURRENT).as_deref(), Some("2"));
        assert_eq!(get(&mut contents, &arn, PREVIOUS).as_deref(), Some("1"));
        assert_eq!(get(&mut contents, arn.rsplit_once('-').unwrap().0, CURRENT).as_deref(), Some("2"));
        assert_eq!(get(&mut contents, "other", CURRENT), None);
        assert_eq!(contents.calls["GetSecretValue"], 4);
    }
}
