//! Environment variables, read once at start-up. Every error names the variable and says what to do.

use std::{collections::BTreeMap, str::FromStr};

/// The environment of a process. It holds keys and credentials, so it has no `Debug`.
#[derive(Clone, Default)]
pub struct Env(BTreeMap<String, String>);

/// A variable that stops the start-up.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum EnvError {
    #[error("{name} is not set: it is {meaning}")]
    Missing { name: &'static str, meaning: &'static str },
    #[error("{name} is `{value}`: expected {expected}")]
    Invalid {
        name: &'static str,
        value: String,
        /// The values it may have.
        expected: &'static str,
    },
    #[error("{name} cannot be used: {problem}")]
    Unusable { name: &'static str, problem: String },
    #[error("{0}")]
    Contradiction(&'static str),
}

impl Env {
    /// The process's own environment.
    ///
    /// In a value that is not UTF-8 the invalid bytes are replaced: such a variable is set, and invalid.
    pub fn from_process() -> Self {
        let variables = std::env::vars_os().map(|(name, value)| (name, value.to_string_lossy().into_owned()));
        Self(variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect())
    }

    /// The value as it is; it may be empty.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value without surrounding white space; `None` if nothing is left.
    ///
    /// CloudFormation passes an optional parameter as an empty string.
    pub fn optional(&self, name: &str) -> Option<&str> {
        self.raw(name).map(str::trim).filter(|value| !value.is_empty())
    }

    /// The value, or an error with its meaning.
    pub fn required(&self, name: &'static str, meaning: &'static str) -> Result<&str, EnvError> {
        self.optional(name).ok_or(EnvError::Missing { name, meaning })
    }

    /// The value as a `T`, or `default` if unset. `expected` completes the sentence "expected …".
    pub fn parsed<T: FromStr>(&self, name: &'static str, default: T, expected: &'static str) -> Result<T, EnvError> {
        self.optional(name).map_or(Ok(default), |value| {
            value.parse().map_err(|_| EnvError::Invalid { name, value: value.to_owned(), expected })
        })
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_is_unset_and_errors_name_the_variable() {
        let env: Env = [("EMPTY", ""), ("BLANK", " "), ("NUMBER", " 7 "), ("WORD", "seven")].into_iter().collect();
        assert_eq!(env.optional("EMPTY"), None);
        assert_eq!(env.raw("EMPTY"), Some(""));
        assert_eq!(env.optional("BLANK"), None);
        assert_eq!(env.parsed("NUMBER", 1, "a number"), Ok(7));
        assert_eq!(env.parsed("UNSET", 1, "a number"), Ok(1));
        assert_eq!(env.parsed("WORD", 1, "a number").unwrap_err().to_string(), "WORD is `seven`: expected a number");
        assert_eq!(
            env.required("EMPTY", "the name of the table").unwrap_err().to_string(),
            "EMPTY is not set: it is the name of the table"
        );
    }
}
