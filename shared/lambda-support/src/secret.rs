//! Reading a secret of Secrets Manager, the same way for every function.

use std::fmt;

use aws_sdk_secretsmanager::{Client, error::ProvideErrorMetadata, operation::get_secret_value::GetSecretValueOutput};
use zeroize::Zeroizing;

use crate::{aws, errors};
use unith_events::signature::trimmed;

/// A version of a secret.
#[derive(Clone)]
pub struct Secret {
    /// Its text, without a byte order mark and without white space around it.
    pub text: Zeroizing<String>,
    /// Secrets Manager's id of the version.
    pub version: Option<String>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("version", &self.version).finish_non_exhaustive()
    }
}

/// A secret that could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SecretError {
    #[error("{cause}")]
    Missing {
        cause: String,
        /// Whether it is marked for deletion.
        is_deleted: bool,
    },
    #[error("{0}")]
    Denied(String),
    #[error("{0}")]
    Failed(String),
    #[error("it holds neither a string nor UTF-8 binary")]
    NotText,
}

/// Reads the current version of the secret `id`, a name or an ARN: its string, or its binary if that is UTF-8.
///
/// # Errors
/// A secret without a value, a value that is not text, and every error of Secrets Manager. None of these counts as empty.
pub async fn read(client: &Client, id: &str) -> Result<Secret, SecretError> {
    // Boxed here and below: the SDK's future is large, and would be part of every future around it.
    of_value(Box::pin(client.get_secret_value().secret_id(id).send()).await)
}

/// Reads the previous version; `None` if the secret has only one.
///
/// # Errors
/// As for [`read`].
pub async fn read_previous(client: &Client, id: &str) -> Result<Option<Secret>, SecretError> {
    let read = client.get_secret_value().secret_id(id).version_stage("AWSPREVIOUS").send();
    match of_value(Box::pin(read).await) {
        Err(SecretError::Missing { is_deleted: false, .. }) => Ok(None),
        secret => secret.map(Some),
    }
}

fn of_value<E>(value: Result<GetSecretValueOutput, E>) -> Result<Secret, SecretError>
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    let value = value.map_err(|error| {
        let cause = errors::causes(&error);
        match error.code() {
            Some("ResourceNotFoundException") => SecretError::Missing { cause, is_deleted: false },
            Some("InvalidRequestException") => SecretError::Missing { cause, is_deleted: true },
            _ if aws::is_denied(&error) => SecretError::Denied(cause),
            _ => SecretError::Failed(cause),
        }
    })?;
    if value.secret_string().is_none() && value.secret_binary().is_none() {
        let cause = "its current version has no value".to_owned();
        return Err(SecretError::Missing { cause, is_deleted: false });
    }
    let binary = || value.secret_binary().and_then(|binary| std::str::from_utf8(binary.as_ref()).ok());
    let text = value.secret_string().or_else(binary).ok_or(SecretError::NotText)?;
    Ok(Secret { text: Zeroizing::new(trimmed(text).to_owned()), version: value.version_id().map(str::to_owned) })
}
