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
    catalog::{Catalog, Entry, Kind, Quantity, nearest, text_of},
    settings::Settings,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;
use std::{borrow::Cow, cell::RefCell, cmp::Ordering, fmt, rc::Rc, str::FromStr};
use units::{BitRate, ByteRate, Bytes, ParseError, Span};

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

#[derive(Debug, Clone, PartialEq)]
struct Comparison {
    setting: &'static Entry,
    operator: Operator,
    literal: Literal,
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

/// A value, typed by the setting it is compared with.
#[derive(Debug, Clone, PartialEq)]
enum Literal {
    Quantity(Quantity, u64),
    /// Parts per million.
    Number(f64),
    Flag(bool),
    Text(String),
    /// Larger than every quantity.
    Unlimited,
    None,
}

impl Literal {
    fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Quantity(Quantity::ByteRate, a), Self::Quantity(Quantity::BitRate, b)) => {
                Some((u128::from(*a) * 8).cmp(&u128::from(*b)))
            }
            (Self::Quantity(Quantity::BitRate, a), Self::Quantity(Quantity::ByteRate, b)) => {
                Some(u128::from(*a).cmp(&(u128::from(*b) * 8)))
            }
            (Self::Quantity(one, a), Self::Quantity(other, b)) => (one == other).then(|| a.cmp(b)),
            (Self::Number(a), Self::Number(b)) => a.partial_cmp(b),
            (Self::Unlimited, Self::Quantity(..) | Self::Number(_)) => Some(Ordering::Greater),
            (Self::Quantity(..) | Self::Number(_), Self::Unlimited) => Some(Ordering::Less),
            (a, b) => (a == b).then_some(Ordering::Equal),
        }
    }
}

impl Expression {
    /// Whether it holds for these settings.
    pub fn matches(&self, settings: &Settings) -> bool {
        self.holds(&View::new(settings))
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

    pub(crate) fn holds(&self, view: &View<'_>) -> bool {
        self.root.holds(view)
    }
}

/// Settings, made ready for any number of expressions. A section is serialized when it is first looked at:
/// printing quantities is what costs time.
pub(crate) struct View<'a> {
    settings: &'a Settings,
    sections: RefCell<Vec<(&'static str, Rc<Value>)>>,
}

impl<'a> View<'a> {
    pub(crate) fn new(settings: &'a Settings) -> Self {
        Self { settings, sections: RefCell::default() }
    }

    /// The value of a setting, as text.
    pub(crate) fn text(&self, entry: &Entry) -> String {
        let (section, name) = entry.path.split_once('.').unwrap_or((&entry.path, ""));
        let section = self.section(section);
        let value = if name.is_empty() { Some(&*section) } else { section.get(name) };
        value
            .filter(|value| !name.is_empty() || !value.is_null())
            .map_or_else(|| entry.default.clone(), text_of)
    }

    fn section(&self, name: &str) -> Rc<Value> {
        let mut sections = self.sections.borrow_mut();
        if let Some((_, value)) = sections.iter().find(|(known, _)| *known == name) {
            return value.clone();
        }
        let (name, value) = self.settings.section(name);
        sections.push((name, Rc::new(value)));
        sections[sections.len() - 1].1.clone()
    }
}

impl Node {
    fn holds(&self, view: &View<'_>) -> bool {
        match self {
            Self::All(nodes) => nodes.iter().all(|node| node.holds(view)),
            Self::Any(nodes) => nodes.iter().any(|node| node.holds(view)),
            Self::Not(node) => !node.holds(view),
            Self::Compare(comparison) => comparison.holds(view),
        }
    }

    fn collect<'a>(&'a self, paths: &mut Vec<&'a str>) {
        match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().for_each(|node| node.collect(paths)),
            Self::Not(node) => node.collect(paths),
            Self::Compare(comparison) => {
                if !paths.contains(&comparison.setting.path.as_str()) {
                    paths.push(&comparison.setting.path);
                }
            }
        }
    }
}

impl Comparison {
    fn holds(&self, view: &View<'_>) -> bool {
        let asks_for_size = matches!(self.literal, Literal::Quantity(Quantity::Bytes, _));
        let actual = if self.setting.path == "stress.working_set" && asks_for_size {
            let size = view.settings.stress.working_set_bytes();
            size.map(|size| Literal::Quantity(Quantity::Bytes, size.get()))
        } else {
            literal(&self.setting.kind, &view.text(self.setting)).ok()
        };
        self.operator.holds(actual.and_then(|actual| actual.compare(&self.literal)))
    }
}

/// Why a text is not a value of a kind: the message, and help.
type Refusal = (String, Option<String>);

/// Reads a value as the setting of this kind is written.
fn literal(kind: &Kind, text: &str) -> Result<Literal, Refusal> {
    if kind.optional && text == "none" {
        return Ok(Literal::None);
    }
    if kind.words.iter().any(|word| word == text) {
        return Ok(if text == "unlimited" { Literal::Unlimited } else { Literal::Text(text.into()) });
    }
    let mut refusal = None;
    for quantity in &kind.quantities {
        match quantity.parse(text) {
            Ok(base) => return Ok(Literal::Quantity(*quantity, base)),
            Err(message) => refusal = refusal.or(Some(message)),
        }
    }
    if let Some(message) = refusal {
        if kind.quantities.len() == 1 {
            return Err((message, None));
        }
        let examples: Vec<_> = kind.quantities.iter().map(|q| format!("`{}`", q.example())).collect();
        return Err((format!("`{text}` is not a value like {}", examples.join(" or ")), None));
    }
    if kind.flag {
        return match text {
            "true" => Ok(Literal::Flag(true)),
            "false" => Ok(Literal::Flag(false)),
            _ => Err((format!("`{text}` is neither `true` nor `false`"), None)),
        };
    }
    if kind.number {
        let number = text.parse().ok().filter(|number: &f64| number.is_finite());
        return number.map(Literal::Number).ok_or_else(|| (format!("`{text}` is not a number"), None));
    }
    if kind.text || kind.words.is_empty() {
        return Ok(Literal::Text(text.into()));
    }
    let words: Vec<_> = kind.words.iter().map(|word| format!("`{word}`")).collect();
    let help =
        nearest(text, kind.words.iter().map(String::as_str)).map(|word| format!("the nearest is `{word}`"));
    Err((format!("`{text}` is not one of {}", words.join(", ")), help))
}

/// A text as the setting itself prints it.
fn as_printed(entry: &Entry, text: &str) -> Result<String, String> {
    let (section, name) = entry.path.split_once('.').unwrap_or_default();
    let settings = serde_json::json!({ section: { name: text } });
    let settings: Settings = serde_json::from_value(settings).map_err(|error| error.to_string())?;
    Ok(View::new(&settings).text(entry))
}

impl Quantity {
    fn parse(self, text: &str) -> Result<u64, String> {
        let message = |error: ParseError| error.to_string();
        match self {
            Self::Bytes => text.parse().map(Bytes::get).map_err(message),
            Self::ByteRate => text.parse().map(ByteRate::get).map_err(message),
            Self::BitRate => text.parse().map(BitRate::get).map_err(message),
            Self::Span => text.parse().map(Span::as_nanos).map_err(message),
            Self::Percent => {
                percent(text).ok_or_else(|| format!("`{text}` is not a percentage, like `0.1%`"))
            }
        }
    }

    const fn example(self) -> &'static str {
        match self {
            Self::Bytes => "96MB",
            Self::ByteRate => "96MB/s",
            Self::BitRate => "940mbit",
            Self::Span => "300ms",
            Self::Percent => "0.1%",
        }
    }
}

/// A percentage in steps of a billionth of a percent, so that equal texts are equal numbers.
fn percent(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let number: f64 = text.strip_suffix('%')?.trim_end().parse().ok()?;
    (0.0..=100.0).contains(&number).then(|| (number * 1e9).round() as u64)
}

/// Whether a setting's values have an order.
fn ordered(entry: &Entry) -> bool {
    !entry.kind.quantities.is_empty() || entry.kind.number
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
