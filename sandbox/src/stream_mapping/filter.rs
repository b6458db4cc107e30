//! Filter criteria: the part of Lambda's pattern language that streams of this project need.
//!
//! A pattern names the members that a record must have, nested as in the record. At the end of each path is a list; the
//! record's value must match one of its rules. A rule is a text, `true`, `false` or `null`, which must be equal, or
//! `{"prefix": "…"}`. Any other rule is refused, so that no test passes by a rule that is not understood.
//!
//! Source: <https://docs.aws.amazon.com/lambda/latest/dg/invocation-eventfiltering.html>

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value};

/// The most patterns of a mapping.
const MAX_PATTERNS: usize = 5;

/// The patterns of a mapping, as the template has them. A record must match one of them; without any, all match.
#[derive(Debug, Clone, Default)]
pub struct FilterCriteria(pub Vec<Value>);

/// Patterns that were understood.
#[derive(Debug)]
pub(super) struct Filters(Vec<Pattern>);

#[derive(Debug)]
enum Pattern {
    Members(BTreeMap<String, Pattern>),
    AnyOf(Vec<Rule>),
}

#[derive(Debug)]
enum Rule {
    Equal(Value),
    Prefix(String),
}

impl FilterCriteria {
    pub(super) fn parse(&self) -> anyhow::Result<Filters> {
        ensure!(self.0.len() <= MAX_PATTERNS, "a mapping has at most five filters");
        let pattern = |pattern: &Value| {
            let members = pattern.as_object().context("a filter pattern is an object")?;
            Pattern::members(members).with_context(|| format!("filter pattern {pattern} is not supported"))
        };
        Ok(Filters(self.0.iter().map(pattern).collect::<Result<_, _>>()?))
    }
}

impl Filters {
    pub(super) fn matches(&self, record: &Value) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| pattern.matches(record))
    }
}

impl Pattern {
    fn parse(pattern: &Value) -> anyhow::Result<Self> {
        match pattern {
            Value::Object(members) => Self::members(members),
            Value::Array(rules) => {
                ensure!(!rules.is_empty(), "a list of rules is empty");
                Ok(Self::AnyOf(rules.iter().map(Rule::parse).collect::<Result<_, _>>()?))
            }
            other => bail!("{other} is neither an object nor a list of rules"),
        }
    }

    fn members(members: &Map<String, Value>) -> anyhow::Result<Self> {
        ensure!(!members.is_empty(), "an object of the pattern is empty");
        let member = |(name, pattern): (&String, &Value)| Ok((name.clone(), Self::parse(pattern)?));
        Ok(Self::Members(members.iter().map(member).collect::<anyhow::Result<_>>()?))
    }

    fn matches(&self, value: &Value) -> bool {
        match self {
            Self::Members(members) => {
                members.iter().all(|(name, pattern)| value.get(name).is_some_and(|value| pattern.matches(value)))
            }
            Self::AnyOf(rules) => match value {
                Value::Array(values) => values.iter().any(|value| rules.iter().any(|rule| rule.matches(value))),
                value => rules.iter().any(|rule| rule.matches(value)),
            },
        }
    }
}

impl Rule {
    fn parse(rule: &Value) -> anyhow::Result<Self> {
        match rule {
            Value::String(_) | Value::Bool(_) | Value::Null => Ok(Self::Equal(rule.clone())),
            Value::Object(members) if members.len() == 1 => match members.get("prefix") {
                Some(Value::String(prefix)) => Ok(Self::Prefix(prefix.clone())),
                _ => bail!("rule {rule} is none of equality and prefix"),
            },
            _ => bail!("rule {rule} is none of equality and prefix"),
        }
    }

    fn matches(&self, value: &Value) -> bool {
        match self {
            Self::Equal(expected) => value == expected,
            Self::Prefix(prefix) => value.as_str().is_some_and(|text| text.starts_with(prefix)),
        }
    }
}
