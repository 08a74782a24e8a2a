//! YAML text into a tree of values, and a key's path back into a line and a column.
//!
//! The subset is YAML 1.2 less three things that make a file mean something else than it seems to: a key that
//! appears twice, merge keys (`<<`) and tags (`!name`) are errors. Anchors and aliases work, and a message
//! about an alias points at what it stands for.
//!
//! The parser gives a place only with an error. So [`Document::locate`] parses once more and fails on purpose
//! at the path in question: slow, exact, and only needed when there is something to report.

use super::diagnostic::{Diagnostic, Diagnostics, FilePath, Position, Segment};
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IgnoredAny, MapAccess, SeqAccess, VariantAccess,
};
use serde_json::{Map, Value};
use std::{cell::RefCell, fmt, sync::Arc};

/// A parsed file, with its text for messages.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub(crate) name: Arc<str>,
    pub(crate) text: Arc<str>,
    pub(crate) value: Value,
}

/// What in a document a message is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Spot {
    /// The value at a path.
    Value(FilePath),
    /// The last key of a path.
    Key(FilePath),
    /// The second occurrence of the last key of a path.
    SecondKey(FilePath),
    /// Some characters of the text at a path: how many precede them, and how many they are.
    Within(FilePath, usize, usize),
    /// The whole file, or something that it lacks.
    File(FilePath),
}

impl Spot {
    pub(crate) fn path(&self) -> &FilePath {
        match self {
            Self::Value(path)
            | Self::Key(path)
            | Self::SecondKey(path)
            | Self::Within(path, ..)
            | Self::File(path) => path,
        }
    }
}

/// Collects what is wrong with one document.
#[derive(Debug)]
pub(crate) struct Sink<'a> {
    pub(crate) document: &'a Document,
    found: Diagnostics,
}

impl<'a> Sink<'a> {
    pub(crate) fn new(document: &'a Document) -> Self {
        Self { document, found: Diagnostics::new(&document.name, document.text.clone()) }
    }

    pub(crate) fn push(&mut self, spot: &Spot, message: impl Into<String>, help: Option<String>) {
        if self.found.list.len() >= Diagnostics::MOST {
            self.found.omitted += 1;
            return;
        }
        let position = self.document.locate(spot);
        let path = spot.path().clone();
        self.found.list.push(Diagnostic { path, message: message.into(), help, position });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.list.is_empty()
    }

    /// Whether something was found in what is at a path.
    pub(crate) fn has_below(&self, path: &FilePath) -> bool {
        self.found.list.iter().any(|found| found.path.segments().starts_with(path.segments()))
    }

    /// `value`, unless something was found.
    pub(crate) fn finish<T>(mut self, value: T) -> Result<T, Diagnostics> {
        if self.is_empty() {
            return Ok(value);
        }
        self.found.list.sort_by_key(|d| d.position.map(|p| (p.line, p.column)));
        Err(self.found)
    }
}

/// Something that the YAML parser lets pass and this program does not.
struct Fault {
    spot: Spot,
    message: String,
    help: &'static str,
}

impl Document {
    /// Parses a text that is known to users as `name`.
    pub(crate) fn parse(text: &str, name: &str) -> Result<Self, Diagnostics> {
        let faults = RefCell::new(Vec::new());
        let tree = Tree { faults: &faults, path: FilePath::root() };
        let mut document = Self { name: name.into(), text: text.into(), value: Value::Null };
        match tree.deserialize(serde_yaml::Deserializer::from_str(text)) {
            Ok(value) => document.value = value,
            Err(error) => {
                let position = match error.location() {
                    Some(at) => Some(document.position(at.line(), at.column(), 1)),
                    // A second document that does not begin with `---` is somewhere in the file.
                    None => document.second_document().or_else(|| Some(document.position(1, 1, 1))),
                };
                let mut found = Diagnostics::new(name, document.text.clone());
                let message = format!("this is not YAML: {}", without_location(&error));
                found.list.push(Diagnostic { path: FilePath::root(), message, help: None, position });
                return Err(found);
            }
        }
        let mut sink = Sink::new(&document);
        for fault in faults.take() {
            sink.push(&fault.spot, fault.message, Some(fault.help.into()));
        }
        sink.finish(())?;
        Ok(document)
    }

    /// The value at a path, if there is one.
    pub(crate) fn get(&self, path: &FilePath) -> Option<&Value> {
        path.segments().iter().try_fold(&self.value, |value, segment| match segment {
            Segment::Key(key) => value.get(key),
            Segment::Index(index) => value.get(index),
        })
    }

    /// Where something is. For what the document lacks, the nearest thing around it that it has; nothing for
    /// the whole file.
    pub(crate) fn locate(&self, spot: &Spot) -> Option<Position> {
        let (target, skip) = match spot {
            Spot::File(_) => return None,
            Spot::Value(_) | Spot::Within(..) => (Target::Value, 0),
            Spot::Key(_) => (Target::Key, 0),
            Spot::SecondKey(_) => (Target::Key, 1),
        };
        let path = spot.path();
        let stop = Stop { path: path.segments(), target, skip };
        let error = stop.deserialize(serde_yaml::Deserializer::from_str(&self.text)).err()?;
        let at = error.location()?;
        let text = match (spot, path.segments().last()) {
            (Spot::Key(_) | Spot::SecondKey(_), Some(Segment::Key(key))) => Some(key.clone()),
            _ => self.get(path).and_then(|value| match value {
                Value::String(text) => Some(text.clone()),
                Value::Number(number) => Some(number.to_string()),
                Value::Bool(flag) => Some(flag.to_string()),
                _ => None,
            }),
        };
        let start = self.position(at.line(), at.column(), 1);
        let text = text.unwrap_or_default();
        Some(match spot {
            Spot::Within(_, before, length) => self.inside(start, &text, *before, *length),
            _ => Position { length: self.written_length(start, &text), ..start },
        })
    }

    /// Where a second document begins: the one error that the parser gives no place.
    fn second_document(&self) -> Option<Position> {
        let is_content = |line: &str| !line.trim().is_empty() && !line.starts_with('#');
        let first = self.text.lines().position(is_content)?;
        let next = self.text.lines().skip(first + 1).position(|line| line.starts_with("---"))?;
        Some(Position { line: first + 1 + next + 1, column: 1, length: 3 })
    }

    /// The document's value at a path, if it is a mapping, has these keys alone.
    pub(crate) fn has_only(&self, path: &FilePath, keys: &[&str]) -> bool {
        let map = self.get(path).and_then(Value::as_object);
        map.is_none_or(|map| map.keys().all(|key| keys.contains(&key.as_str())))
    }

    /// A place that exists: the parser may point one past the end of the text.
    fn position(&self, line: usize, column: usize, length: usize) -> Position {
        let last = self.text.lines().count().max(1);
        if line > last {
            let end = self.text.lines().last().map_or(0, |line| line.chars().count());
            return Position { line: last, column: end + 1, length };
        }
        Position { line: line.max(1), column: column.max(1), length }
    }

    fn rest_of_line(&self, at: Position) -> impl Iterator<Item = char> {
        self.text.lines().nth(at.line - 1).unwrap_or_default().chars().skip(at.column - 1)
    }

    /// How many characters of the file a scalar covers, quotes included; 1 where it is not written plainly.
    fn written_length(&self, at: Position, text: &str) -> usize {
        let rest: String = self.rest_of_line(at).collect();
        let quoted = rest.chars().next().filter(|c| matches!(c, '"' | '\''));
        let plain = quoted.map_or(rest.as_str(), |_| &rest[1..]);
        match (plain.starts_with(text), quoted) {
            (true, None) => text.chars().count().max(1),
            (true, Some(_)) => text.chars().count() + 2,
            // A number or an escape: up to where the scalar ends.
            (false, None) => {
                let end = rest.find([',', '}', ']', ' ']).unwrap_or(rest.len());
                rest[..end].chars().count().max(1)
            }
            (false, Some(_)) => 1,
        }
    }

    /// A part of a scalar, if it is written in one piece; else the scalar's start.
    fn inside(&self, start: Position, text: &str, before: usize, length: usize) -> Position {
        let rest: String = self.rest_of_line(start).collect();
        let quoted = rest.starts_with(['"', '\'']);
        if !rest[usize::from(quoted)..].starts_with(text) {
            return start;
        }
        Position { column: start.column + usize::from(quoted) + before, length: length.max(1), ..start }
    }
}

/// The parser's message without the place, which is reported beside it.
fn without_location(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_string()
}

/// Builds the tree, noting faults.
struct Tree<'a> {
    faults: &'a RefCell<Vec<Fault>>,
    path: FilePath,
}

impl Tree<'_> {
    fn fault(&self, spot: Spot, message: String, help: &'static str) {
        self.faults.borrow_mut().push(Fault { spot, message, help });
    }

    fn below(&self, segment: Segment) -> Self {
        Self { faults: self.faults, path: self.path.with(segment) }
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> de::Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(value.to_string().into())
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(value.to_string().into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // Infinity and NaN become texts, which no setting takes for a number.
        Ok(serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.below(Segment::Index(list.len())))? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = self.path.key(&key);
            let value = entries.next_value_seed(self.below(Segment::Key(key.clone())))?;
            if key == "<<" {
                let help = "write the keys out, or give each value an anchor of its own";
                self.fault(Spot::Key(path), "merge keys are not supported".into(), help);
            } else if map.contains_key(&key) {
                let help = "remove one of the two";
                self.fault(Spot::SecondKey(path), format!("`{key}` is set twice"), help);
            } else {
                map.insert(key, value);
            }
        }
        Ok(map.into())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        let help = "remove the tag; a text is quoted, \"!like this\"";
        self.fault(Spot::Value(self.path.clone()), "YAML tags (`!name`) are not supported".into(), help);
        let (_tag, content) = data.variant::<IgnoredAny>()?;
        content.newtype_variant::<IgnoredAny>()?;
        Ok(Value::Null)
    }
}

/// What the parse for a place stops at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Key,
    Value,
}

/// Walks to a path and fails there, so that the parser says where that is. Where the path leads nowhere, it
/// fails at the last thing that exists.
#[derive(Clone, Copy)]
struct Stop<'a> {
    path: &'a [Segment],
    target: Target,
    /// How many equal keys to let pass.
    skip: usize,
}

impl<'de> DeserializeSeed<'de> for Stop<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> de::Visitor<'de> for Stop<'_> {
    type Value = ();

    /// Every scalar ends up here, by the default methods of [`de::Visitor`].
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the place that is looked for")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        if let Some((Segment::Index(wanted), path)) = self.path.split_first() {
            for _ in 0..*wanted {
                items.next_element::<IgnoredAny>()?;
            }
            items.next_element_seed(Stop { path, ..self })?;
        }
        Err(de::Error::custom("here"))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        if let Some((Segment::Key(wanted), path)) = self.path.split_first() {
            let last = path.is_empty() && self.target == Target::Key;
            while let Some(found) = entries.next_key_seed(StopKey { wanted, stop: last && self.skip == 0 })? {
                if found && !last {
                    entries.next_value_seed(Stop { path, ..self })?;
                    break;
                }
                self.skip -= usize::from(found);
                entries.next_value::<IgnoredAny>()?;
            }
        }
        Err(de::Error::custom("here"))
    }
}

/// Tells whether a key is the wanted one, and fails there if asked to.
struct StopKey<'a> {
    wanted: &'a str,
    stop: bool,
}

impl<'de> DeserializeSeed<'de> for StopKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl de::Visitor<'_> for StopKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<bool, E> {
        match key == self.wanted {
            true if self.stop => Err(E::custom("here")),
            found => Ok(found),
        }
    }
}
