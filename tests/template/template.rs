//! The template as JSON, its short forms (`!Ref`, `!GetAtt` …) spelled out.

use serde_json::{Map, Value};
pub(crate) use tests::repository::{repository, repository_text as text};

/// `template.yaml`.
pub(crate) struct Template(pub(crate) Value);

impl Template {
    pub(crate) fn read() -> Self {
        Self(json(yaml_serde::from_str(&text("template.yaml")).unwrap()))
    }

    pub(crate) fn section(&self, name: &str) -> &Map<String, Value> {
        self.0[name].as_object().unwrap()
    }

    /// Logical id and resource, of all or of one type.
    pub(crate) fn resources<'t>(&'t self, kind: &'t str) -> impl Iterator<Item = (&'t str, &'t Value)> {
        let all = self.section("Resources").iter().map(|(name, resource)| (name.as_str(), resource));
        all.filter(move |(_, resource)| kind.is_empty() || resource["Type"] == kind)
    }
}

fn json(value: yaml_serde::Value) -> Value {
    use yaml_serde::Value as Yaml;
    match value {
        Yaml::Tagged(tagged) => {
            let name = tagged.tag.to_string().trim_start_matches('!').to_owned();
            let name = if name == "Ref" || name == "Condition" { name } else { format!("Fn::{name}") };
            Map::from_iter([(name, json(tagged.value))]).into()
        }
        Yaml::Mapping(mapping) => {
            mapping.into_iter().map(|(key, value)| (key.as_str().unwrap().to_owned(), json(value))).collect()
        }
        Yaml::Sequence(sequence) => sequence.into_iter().map(json).collect(),
        plain => serde_json::to_value(plain).unwrap(),
    }
}

/// A value in short: `Table.Arn`, `if CreateTable: Events.Arn, else TableArn`.
pub(crate) fn short(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(short).collect::<Vec<_>>().join(", "),
        Value::Object(object) => {
            let (name, inner) = object.iter().next().unwrap();
            match (name.as_str(), inner) {
                ("Ref" | "Fn::GetAtt" | "Fn::Sub", inner) => short(inner),
                ("Fn::If", Value::Array(parts)) => {
                    format!("if {}: {}, else {}", short(&parts[0]), short(&parts[1]), short(&parts[2]))
                }
                _ => {
                    object.iter().map(|(name, inner)| format!("{name} {}", short(inner))).collect::<Vec<_>>().join("; ")
                }
            }
        }
        other => other.to_string(),
    }
}
