//! Conditions on settings: `stress.rate <= 96MB/s and not (link.delay == 0 or guest.accel == kvm)`.
//!
//! A comparison has a setting's path on its left and a value on its right, written as the setting itself is
//! written, unit included. `not` binds tighter than `and`, `and` tighter than `or`. A setting that is absent
//! equals `none` and is neither smaller nor larger than anything; `unlimited` is larger than every rate. A
//! setting that takes either of two quantities compares as the one that the value's unit names:
//! `stress.working_set <= 96MB` holds for a working set written `1s` at 64MB/s.
//!
//! An expression is checked completely when it is read: evaluation cannot fail.

use super::{
    catalog::Setting,
    settings::{Settings, value::Value},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{borrow::Cow, cmp::Ordering, fmt, str::FromStr};

mod syntax;

/// A condition on settings, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    text: String,
    root: Node,
}

/// Why a text is not a condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpressionError {
    /// What is wrong.
    pub message: String,
    /// What to write instead, where that is known.
    pub help: Option<String>,
    /// How many characters precede the culprit.
    pub offset: usize,
    /// How many characters the culprit has; 0 at the end of the text.
    pub length: usize,
}

impl ExpressionError {
    /// The message with the expression and a mark under the culprit, as [`Diagnostics`](super::Diagnostics)
    /// show it; for expressions that are in no file.
    pub fn show(&self, expression: &str) -> String {
        let mark = format!("{}{}", " ".repeat(self.offset), "^".repeat(self.length.max(1)));
        let help = self.help.as_ref().map(|help| format!("\n  = help: {help}")).unwrap_or_default();
        format!("error: {}\n  |\n  | {expression}\n  | {mark}{help}", self.message)
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Compare(Comparison),
}

#[derive(Debug, Clone)]
struct Comparison {
    setting: &'static Setting,
    operator: Operator,
    value: Value,
}

impl PartialEq for Comparison {
    fn eq(&self, other: &Self) -> bool {
        let parts = |of: &Self| (of.setting.path(), of.operator);
        parts(self) == parts(other) && self.value == other.value
    }
}

/// How a setting is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Operator {
    pub(crate) const ALL: [(&'static str, Self); 6] = [
        ("==", Self::Equal),
        ("!=", Self::NotEqual),
        ("<=", Self::LessOrEqual),
        (">=", Self::GreaterOrEqual),
        ("<", Self::Less),
        (">", Self::Greater),
    ];

    /// Whether it holds for two things that compare so; nothing for things that do not compare.
    pub(crate) fn holds(self, ordering: Option<Ordering>) -> bool {
        match self {
            Self::Equal => ordering == Some(Ordering::Equal),
            Self::NotEqual => ordering != Some(Ordering::Equal),
            Self::Less => ordering == Some(Ordering::Less),
            Self::LessOrEqual => matches!(ordering, Some(Ordering::Less | Ordering::Equal)),
            Self::Greater => ordering == Some(Ordering::Greater),
            Self::GreaterOrEqual => matches!(ordering, Some(Ordering::Greater | Ordering::Equal)),
        }
    }

    const fn orders(self) -> bool {
        !matches!(self, Self::Equal | Self::NotEqual)
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, _) = Self::ALL.iter().find(|(_, operator)| operator == self).unwrap_or(&Self::ALL[0]);
        f.write_str(text)
    }
}

impl Expression {
    /// Whether it holds for these settings.
    pub fn matches(&self, settings: &Settings) -> bool {
        self.root.holds(settings)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The settings it looks at, each once, in the order in which they appear.
    pub fn paths(&self) -> Vec<&str> {
        let mut paths = Vec::new();
        self.root.collect(&mut paths);
        paths
    }

    /// The condition that settings have these values. There is at least one.
    pub(super) fn equal_to(values: Vec<(&'static Setting, Value)>) -> Self {
        let term = |(setting, value): &(&'static Setting, Value)| {
            let text = value.to_string();
            let quote = if text.contains('\'') { '"' } else { '\'' };
            format!("{} == {quote}{text}{quote}", setting.path())
        };
        let text = values.iter().map(term).collect::<Vec<_>>().join(" and ");
        let node = |(setting, value)| Node::Compare(Comparison { setting, operator: Operator::Equal, value });
        let mut nodes: Vec<Node> = values.into_iter().map(node).collect();
        let root = if nodes.len() == 1 { nodes.remove(0) } else { Node::All(nodes) };
        Self { text, root }
    }
}

impl Node {
    fn holds(&self, settings: &Settings) -> bool {
        match self {
            Self::All(nodes) => nodes.iter().all(|node| node.holds(settings)),
            Self::Any(nodes) => nodes.iter().any(|node| node.holds(settings)),
            Self::Not(node) => !node.holds(settings),
            Self::Compare(comparison) => comparison.holds(settings),
        }
    }

    fn collect<'a>(&'a self, paths: &mut Vec<&'a str>) {
        match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().for_each(|node| node.collect(paths)),
            Self::Not(node) => node.collect(paths),
            Self::Compare(comparison) => {
                if !paths.contains(&comparison.setting.path()) {
                    paths.push(comparison.setting.path());
                }
            }
        }
    }
}

impl Comparison {
    fn holds(&self, settings: &Settings) -> bool {
        let actual = match (&self.value, self.setting.path()) {
            // A working set that is written as a time has a size too.
            (Value::Bytes(_), "stress.working_set") => settings.stress.working_set_bytes().map(Value::Bytes),
            _ => Some(self.setting.value(settings)),
        };
        self.operator.holds(actual.and_then(|actual| actual.compare(&self.value)))
    }
}

impl FromStr for Expression {
    type Err = ExpressionError;

    fn from_str(text: &str) -> Result<Self, ExpressionError> {
        Ok(Self { text: text.into(), root: syntax::parse(text)? })
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl Serialize for Expression {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Expression {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Expression {
    fn schema_name() -> Cow<'static, str> {
        "Expression".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A condition on settings, like `stress.rate <= 96MB/s and link.delay == 0ms`: \
                            comparisons (== != < <= > >=), joined by `and`, `or`, `not` and parentheses.",
        })
    }
}

#[cfg(test)]
mod tests;
