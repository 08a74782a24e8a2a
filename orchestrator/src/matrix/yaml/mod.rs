//! Parses YAML text to a tree of values, and maps the path of a key back to a line and a column.
//!
//! The supported subset is YAML 1.2 without three features that make a file mean something other than it
//! seems to: duplicate keys, merge keys (`<<`) and tags (`!name`) are errors. Anchors and aliases work, and a
//! message about an alias points at the value that it refers to.
//!
//! `serde_yaml` reads the values. It does not report their positions, so when there is an error to report,
//! `saphyr-parser` reads the text as well: it is well maintained, adds one small crate that is not a
//! dependency already, and reports where each scalar and each list begins and ends. It decides nothing: if it
//! reads a text differently, a message points at the value around the culprit.
//!
//! The messages are rendered by our own code. The crate annotate-snippets is made for colored labels over
//! many lines, and its snippets would have to be extended by the path and the help that our messages have.

use super::diagnostic::{Diagnostic, Diagnostics, KeyPath, Position};
use places::SourceMap;
use serde_json::Value;
use std::sync::{Arc, OnceLock};

mod places;
mod tree;

/// A parsed YAML file, with its text for error messages.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) name: Arc<str>,
    pub(crate) text: Arc<str>,
    pub(crate) value: Value,
    source_map: OnceLock<SourceMap>,
}

/// Checks that a text is not larger, or more deeply nested, or longer in its lists and mappings than any file
/// of this program needs to be. Accepts a text that is not YAML.
///
/// # Errors
/// The limit, as text.
pub(crate) fn check_limits(text: &str) -> Result<(), String> {
    if let Some(Position { line, column, .. }) = places::deeper_than(tree::MAX_DEPTH, text) {
        return Err(format!("{} {} at line {line} column {column}", tree::TOO_DEEP, tree::MAX_DEPTH));
    }
    tree::exceeded(text).map_or(Ok(()), Err)
}

/// The part of a document that a message is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// The value at a path.
    Value(KeyPath),
    /// The last key of a path.
    Key(KeyPath),
    /// The second occurrence of the last key of a path.
    SecondKey(KeyPath),
    /// The tag of the value at a path.
    Tag(KeyPath),
    /// Part of the scalar at a path: the number of characters before it, and the number of its characters.
    Within(KeyPath, usize, usize),
    /// The whole file, for a key that is missing from it.
    File(KeyPath),
}

impl Location {
    pub(crate) fn path(&self) -> &KeyPath {
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

/// The number of errors beyond the listed ones after which a value is not searched for more: each error
/// requires reading the value once more.
const MAX_OMITTED: usize = 100;

/// Collects the errors in one document.
#[derive(Debug)]
pub(crate) struct DiagnosticSink<'a> {
    pub(crate) document: &'a Document,
    found: Diagnostics,
}

impl<'a> DiagnosticSink<'a> {
    pub(crate) fn new(document: &'a Document) -> Self {
        Self { document, found: Diagnostics::new(&document.name, document.text.clone()) }
    }

    pub(crate) fn push(&mut self, location: &Location, message: impl Into<String>, help: Option<String>) {
        if self.is_full() {
            self.omit();
            return;
        }
        let position = self.document.locate(location);
        let path = location.path().clone();
        self.found.list.push(Diagnostic { path, message: message.into(), help, position });
    }

    /// Returns whether further errors are only counted. In that case, the caller need not compose a message.
    pub(crate) fn is_full(&self) -> bool {
        self.found.list.len() >= Diagnostics::MAX_LISTED
    }

    /// Counts an error that is not listed. Returns whether so many were counted that finding more is futile.
    pub(crate) fn omit(&mut self) -> bool {
        self.found.omitted += 1;
        self.found.omitted >= MAX_OMITTED
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.list.is_empty()
    }

    /// Returns whether an error was found at a path or below it.
    pub(crate) fn has_below(&self, path: &KeyPath) -> bool {
        self.found.list.iter().any(|found| found.path.segments().starts_with(path.segments()))
    }

    /// Returns `value`, or else all errors, sorted by their position in the file.
    pub(crate) fn finish<T>(mut self, value: T) -> Result<T, Diagnostics> {
        if self.is_empty() {
            return Ok(value);
        }
        self.found.list.sort_by_key(|d| d.position.map(|p| (p.line, p.column)));
        Err(self.found)
    }
}

impl Document {
    /// Parses a text. `name` is the file's name in error messages.
    pub(crate) fn parse(text: &str, name: &str) -> Result<Self, Diagnostics> {
        // Some editors put a byte order mark before the text; the parser would take it for a document.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let document =
            |value| Self { name: name.into(), text: text.into(), value, source_map: OnceLock::default() };
        if let Some(position) = places::deeper_than(tree::MAX_DEPTH, text) {
            let mut found = Diagnostics::new(name, text.into());
            let message = format!("{} {}", tree::TOO_DEEP, tree::MAX_DEPTH);
            let position = Some(position);
            found.list.push(Diagnostic { path: KeyPath::root(), message, help: None, position });
            return Err(found);
        }
        match tree::read(text) {
            Ok((value, violations)) => {
                let document = document(value);
                let mut sink = DiagnosticSink::new(&document);
                for violation in violations {
                    sink.push(&violation.location, violation.message, Some(violation.help.into()));
                }
                sink.finish(())?;
                Ok(document)
            }
            Err(error) => Err(document(Value::Null).not_yaml(&error)),
        }
    }

    /// Returns the error for a text that is not exactly one YAML document.
    fn not_yaml(&self, error: &serde_yaml::Error) -> Diagnostics {
        let message = error.to_string();
        let (message, position) = if let Some(at) = error.location() {
            // The position is reported separately.
            let suffix = format!(" at line {} column {}", at.line(), at.column());
            let message = message.split_once(&suffix).map_or(message.as_str(), |(before, _)| before);
            (message, places::nearest(&self.text, at.line(), at.column()))
        } else {
            // The only error without a position is that there is a second document.
            let second = self.source_map().second_document();
            (message.as_str(), second.unwrap_or_else(|| places::nearest(&self.text, 1, 1)))
        };
        let mut found = Diagnostics::new(&self.name, self.text.clone());
        let message = format!("invalid YAML: {message}");
        found.list.push(Diagnostic { path: KeyPath::root(), message, help: None, position: Some(position) });
        found
    }

    /// Returns the value at a path, if there is one.
    pub(crate) fn get(&self, path: &KeyPath) -> Option<&Value> {
        path.segments().iter().try_fold(&self.value, |value, segment| segment.of(value))
    }

    /// Returns the position of `location` or, if the document does not have it, of the innermost value around
    /// it. Returns nothing if that is the whole file.
    pub(crate) fn locate(&self, location: &Location) -> Option<Position> {
        if matches!(location, Location::File(_)) { None } else { self.source_map().locate(location) }
    }

    fn source_map(&self) -> &SourceMap {
        self.source_map.get_or_init(|| SourceMap::of(&self.text))
    }

    /// Returns whether the value at a path has no other keys than these. True for values that are not
    /// mappings.
    pub(crate) fn has_only(&self, path: &KeyPath, keys: &[&str]) -> bool {
        let map = self.get(path).and_then(Value::as_object);
        map.is_none_or(|map| map.keys().all(|key| keys.contains(&key.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_would_take_minutes_or_gigabytes_are_refused() {
        let refusal = |text: &str| Document::parse(text, "n").unwrap_err().to_string();
        let deep = ["[".repeat(200_000), "{a: ".repeat(200_000), "- ".repeat(100)];
        let unbalanced = format!("a: ]\n{}", "[".repeat(200_000));
        for text in deep.iter().chain([&unbalanced]) {
            let message = refusal(text);
            assert!(message.contains("nested deeper than 64") || text == &unbalanced, "{message}");
            check_limits(text).unwrap_err();
        }
        let level = |i: usize| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(", "));
        let bomb = format!("a0: &a0 [x]\n{}", (1..12).map(level).collect::<String>());
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(9000), vec!["*a"; 1000].join(", "));
        let wide = format!("a: &a [{}]\nb: [{}]\n", vec!["x"; 9000].join(", "), vec!["*a"; 1000].join(", "));
        for text in [&bomb, &long, &wide] {
            let message = refusal(text);
            assert!(message.contains("aliases repeat") || message.contains("repetition limit"), "{message}");
        }
        let keys = (0..1001).map(|i| format!("k{i}: 1\n")).collect::<Vec<_>>().concat();
        assert!(refusal(&keys).contains("the number of keys in this mapping is above 1000"));
        let items = "- 1\n".repeat(100_001);
        assert!(refusal(&items).contains("the number of items in this list is above 100000"));
        let text = format!("a: {}\n", "9".repeat(10_001));
        assert!(refusal(&text).contains("this text has more bytes than 10000"), "{}", refusal(&text));
        assert!(check_limits("a: [").is_ok(), "not a matter of size");
        assert!(check_limits("a: {b: [1, 2]}").is_ok());
    }

    #[test]
    fn byte_order_mark_and_carriage_returns_are_ignored() {
        let document = Document::parse("\u{feff}name: n\r\nguest:\r\n  cpu: a\r\n", "n").unwrap();
        assert_eq!(document.value, serde_json::json!({ "name": "n", "guest": { "cpu": "a" } }));
        let place = |path| document.locate(&Location::Value(KeyPath::root().dotted(path)));
        assert_eq!(place("name"), Some(Position { line: 1, column: 7, length: 1 }));
        assert_eq!(place("guest.cpu"), Some(Position { line: 3, column: 8, length: 1 }));
    }
}
