//! The ids of secrets, from environment variables.
//!
//! An id is logged, so a secret that somebody put in its place is refused, and its value is not shown.

use crate::env::{Env, EnvError};

/// Reads the variable `name`: the name or the ARN of a secret; `None` if it is unset.
///
/// Names: <https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_CreateSecret.html>
///
/// # Errors
/// A value with other characters, or one that is a key.
pub fn optional<'e>(env: &'e Env, name: &'static str) -> Result<Option<&'e str>, EnvError> {
    let Some(id) = env.optional(name) else { return Ok(None) };
    let is_arn = id.starts_with("arn:");
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "/_+=.@-".contains(c) || (is_arn && c == ':');
    let problem = if !id.chars().all(is_allowed) {
        "it is neither the name nor the ARN of a secret"
    } else if id.len() >= 32 && id.chars().all(|c| c.is_ascii_hexdigit()) {
        "it is a key, and not the name of a secret: a key belongs into the secret, or into UNITH_SHARED_KEY"
    } else {
        return Ok(Some(id));
    };
    Err(EnvError::Unusable { name, problem: problem.to_owned() })
}

/// The same for a variable that must be set.
///
/// # Errors
/// As for [`optional`], and an unset variable, with its meaning.
pub fn required<'e>(env: &'e Env, name: &'static str, meaning: &'static str) -> Result<&'e str, EnvError> {
    optional(env, name)?.ok_or(EnvError::Missing { name, meaning })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_not_the_id_of_a_secret_is_refused_and_not_shown() {
        let (form, key) = (
            "it is neither the name nor the ARN of a secret",
            "it is a key, and not the name of a secret: a key belongs into the secret, or into UNITH_SHARED_KEY",
        );
        for (value, problem) in [
            ("cbaab87d1cce6d79baad8e9e2607feb3", key),
            (r#"{"sharedKey":"cbaab87d1cce6d79baad8e9e2607feb3"}"#, form),
            (r#"{"email":"jane@example.com","secretKey":"s"}"#, form),
            ("{{resolve:secretsmanager:ring}}", form),
        ] {
            let error = required(&[("RING", value)].into_iter().collect(), "RING", "a ring").unwrap_err().to_string();
            assert_eq!(error, format!("RING cannot be used: {problem}"));
        }
        let arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:unith/ring-AbCdEf";
        for id in [arn, "ring", "unith/webhook-keys@1", "deadbeef"] {
            assert_eq!(optional(&[("RING", id)].into_iter().collect(), "RING").unwrap(), Some(id));
        }
        assert_eq!(optional(&Env::default(), "RING").unwrap(), None);
    }
}
