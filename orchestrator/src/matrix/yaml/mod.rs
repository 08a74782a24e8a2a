//! YAML text into a tree of values, and a key's path back into a line and a column.
//!
//! The subset is YAML 1.2 less three things that make a file mean something else than it seems to: a key that
//! appears twice, merge keys (`<<`) and tags (`!name`) are errors. Anchors and aliases work, and a message
//! about an alias points at what it stands for.
//!
//! `serde_yaml` reads the values. It has no places to give, so when there is something to report,
//! `saphyr-parser` goes over the text too: it is well kept, brings one small crate that is not here already,
//! and tells where each scalar and each list begins and ends. It decides nothing: where it reads a text
//! differently, a message points at what is around the culprit. The drawing, by contrast, stays our own:
//! annotate-snippets is made for labels over many lines, in colour, and its snippets would have to be fitted
//! with the path and the help that a message has here.

use super::diagnostic::{Diagnostic, Diagnostics, FilePath, Position};
use places::Places;
use serde_json::Value;
use std::sync::{Arc, OnceLock};

mod places;
mod tree;

/// A parsed file, with its text for messages.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) name: Arc<str>,
    pub(crate) text: Arc<str>,
    pub(crate) value: Value,
    places: OnceLock<Places>,
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
    /// The tag of the value at a path.
    Tag(FilePath),
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
            | Self::Tag(path)
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

impl Document {
    /// Parses a text that is known to users as `name`.
    pub(crate) fn parse(text: &str, name: &str) -> Result<Self, Diagnostics> {
        // Some editors put a byte order mark before the text; the reader would take it for a document.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let document =
            |value| Self { name: name.into(), text: text.into(), value, places: OnceLock::default() };
        match tree::read(text) {
            Ok((value, faults)) => {
                let document = document(value);
                let mut sink = Sink::new(&document);
                for fault in faults {
                    sink.push(&fault.spot, fault.message, Some(fault.help.into()));
                }
                sink.finish(())?;
                Ok(document)
            }
            Err(error) => Err(document(Value::Null).not_yaml(&error)),
        }
    }

    /// What to say of a text that is not one YAML document.
    fn not_yaml(&self, error: &serde_yaml::Error) -> Diagnostics {
        let message = error.to_string();
        let (message, position) = if let Some(at) = error.location() {
            // The place is reported beside the message.
            let place = format!(" at line {} column {}", at.line(), at.column());
            let message = message.split_once(&place).map_or(message.as_str(), |(before, _)| before);
            (message, places::nearest(&self.text, at.line(), at.column()))
        } else {
            // The one error without a place: there is a second document.
            let second = self.places().second_document();
            (message.as_str(), second.unwrap_or_else(|| places::nearest(&self.text, 1, 1)))
        };
        let mut found = Diagnostics::new(&self.name, self.text.clone());
        let message = format!("this is not YAML: {message}");
        found.list.push(Diagnostic { path: FilePath::root(), message, help: None, position: Some(position) });
        found
    }

    /// The value at a path, if there is one.
    pub(crate) fn get(&self, path: &FilePath) -> Option<&Value> {
        path.segments().iter().try_fold(&self.value, |value, segment| segment.of(value))
    }

    /// Where something is. For what the document lacks, the nearest thing around it that it has; nothing
    /// where that is the whole file.
    pub(crate) fn locate(&self, spot: &Spot) -> Option<Position> {
        if matches!(spot, Spot::File(_)) { None } else { self.places().locate(spot) }
    }

    fn places(&self) -> &Places {
        self.places.get_or_init(|| Places::of(&self.text))
    }

    /// The document's value at a path, if it is a mapping, has these keys alone.
    pub(crate) fn has_only(&self, path: &FilePath, keys: &[&str]) -> bool {
        let map = self.get(path).and_then(Value::as_object);
        map.is_none_or(|map| map.keys().all(|key| keys.contains(&key.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_and_carriage_returns_are_no_part_of_the_text() {
        let document = Document::parse("\u{feff}name: n\r\nguest:\r\n  cpu: a\r\n", "n").unwrap();
        assert_eq!(document.value, serde_json::json!({ "name": "n", "guest": { "cpu": "a" } }));
        let place = |path| document.locate(&Spot::Value(FilePath::root().dotted(path)));
        assert_eq!(place("name"), Some(Position { line: 1, column: 7, length: 1 }));
        assert_eq!(place("guest.cpu"), Some(Position { line: 3, column: 8, length: 1 }));
    }
}
