//! Conditions on settings: `stress.rate <= 96MB/s and not (link.delay == 0 or guest.accel == kvm)`.
//!
//! A comparison has the path of a setting on its left and a value on its right, written as in a matrix file,
//! unit included. `not` binds tighter than `and`, and `and` binds tighter than `or`.
//!
//! - An absent setting equals `none`, and is neither less nor greater than any value.
//! - `unlimited` is larger than every rate.
//! - A setting that may be either of two quantities is compared in the quantity of the value's unit:
//!   `stress.working_set <= 96MB` holds for a working set written as `1s` at 64MB/s.
//!
//! Parsing checks an expression completely, so evaluation cannot fail.

use super::{
    catalog::Setting,
    settings::{Settings, value::Value},
};
use frontend::one_line;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{borrow::Cow, cmp::Ordering, fmt, str::FromStr};

mod syntax;

/// A valid condition on settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    text: String,
    root: Ast,
}

/// An error in the text of a condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpressionError {
    /// What is wrong, without a full stop.
    pub message: String,
    /// What to write instead, if that is known.
    pub help: Option<String>,
    /// The number of characters before the invalid part.
    pub offset: usize,
    /// The number of characters of the invalid part; 0 if something is missing at the end of the text.
    pub length: usize,
}

impl ExpressionError {
    /// Renders the message with the expression and carets under the invalid part, as
    /// [`Diagnostics`](super::Diagnostics) do. For expressions that are not in a file.
    pub fn show(&self, expression: &str) -> String {
        let mark = format!("{}{}", " ".repeat(self.offset), "^".repeat(self.length.max(1)));
        let help = self.help.as_ref().map(|help| format!("\n  = help: {help}")).unwrap_or_default();
        let (message, expression) = (one_line(&self.message), one_line(expression));
        format!("{message}\n  |\n  | {expression}\n  | {mark}{help}")
    }
}

/// The syntax tree of a condition.
#[derive(Debug, Clone, PartialEq)]
enum Ast {
    All(Vec<Ast>),
    Any(Vec<Ast>),
    Not(Box<Ast>),
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

/// A comparison operator, of conditions and of [`Bounds`](super::Bounds).
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
    /// All operators, each with its notation. Longer ones come first, so that `<=` is not taken for `<`.
    pub(crate) const ALL: [(&'static str, Self); 6] = [
        ("==", Self::Equal),
        ("!=", Self::NotEqual),
        ("<=", Self::LessOrEqual),
        (">=", Self::GreaterOrEqual),
        ("<", Self::Less),
        (">", Self::Greater),
    ];

    /// Returns whether the operator holds for two values with this ordering. Values that cannot be compared
    /// (`None`) are unequal, and neither is smaller.
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

    const fn needs_order(self) -> bool {
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
    /// Returns whether these settings meet the condition.
    pub fn matches(&self, settings: &Settings) -> bool {
        self.root.holds(settings)
    }

    /// Returns the text of the condition, as its author wrote it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the paths of the settings in the condition, each once, in the order in which they appear.
    pub fn paths(&self) -> Vec<&str> {
        let mut paths = Vec::new();
        self.root.collect(&mut paths);
        paths
    }

    /// Returns the condition that all these settings have these values. `values` must not be empty.
    pub(super) fn equal_to(values: Vec<(&'static Setting, Value)>) -> Self {
        let term = |(setting, value): &(&'static Setting, Value)| {
            let text = value.to_string();
            let quote = if text.contains('\'') { '"' } else { '\'' };
            format!("{} == {quote}{text}{quote}", setting.path())
        };
        let text = values.iter().map(term).collect::<Vec<_>>().join(" and ");
        let node = |(setting, value)| Ast::Compare(Comparison { setting, operator: Operator::Equal, value });
        let mut nodes: Vec<Ast> = values.into_iter().map(node).collect();
        let root = if nodes.len() == 1 { nodes.remove(0) } else { Ast::All(nodes) };
        Self { text, root }
    }
}

impl Ast {
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
            // A working set written as a time also has a size.
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
            "description": "A condition on settings, such as `stress.rate <= 96MB/s and link.delay == 0ms`: \
                            comparisons (`==`, `!=`, `<`, `<=`, `>`, `>=`), combined with `and`, `or`, `not` \
                            and parentheses. An absent setting equals `none`.",
        })
    }
}

#[cfg(test)]
mod tests;
