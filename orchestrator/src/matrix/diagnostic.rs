//! Errors in a matrix file, in the style of a compiler: where, what, and what to write instead.

use serde_json::Value;
use std::{fmt, sync::Arc};

/// One step of a [`KeyPath`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Segment {
    /// Selects the value of a key of a mapping.
    Key(String),
    /// Selects an item of a list, counted from 0.
    Index(usize),
}

impl Segment {
    /// Returns the part of `value` that this step selects, if there is one.
    pub(crate) fn of<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        match self {
            Self::Key(key) => value.get(key),
            Self::Index(index) => value.get(index),
        }
    }

    /// Returns the key, if this step selects one.
    pub(crate) fn as_key(&self) -> Option<&str> {
        match self {
            Self::Key(key) => Some(key),
            Self::Index(_) => None,
        }
    }
}

/// The path of a value in a document, as keys and indexes: `axes.stress.rate[3]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct KeyPath(Vec<Segment>);

impl KeyPath {
    /// Returns the empty path, which denotes the whole document.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Returns this path extended by a key.
    #[must_use]
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.with(Segment::Key(key.into()))
    }

    /// Returns this path extended by the index of an item, from 0.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    /// Returns this path extended by a dotted path of keys and indexes, such as `timeline.0.at`.
    #[must_use]
    pub fn dotted(&self, path: &str) -> Self {
        let step = |whole: Self, part: &str| match part.parse() {
            Ok(index) => whole.index(index),
            Err(_) => whole.key(part),
        };
        path.split('.').fold(self.clone(), step)
    }

    /// Returns the steps of the path, outermost first.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    pub(crate) fn with(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Key(key) if i == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A range of characters in one line of a text. Lines and columns count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The number of the line, from 1.
    pub line: usize,
    /// The column of the first character, from 1; counts characters, not bytes.
    pub column: usize,
    /// The number of characters, at least 1.
    pub length: usize,
}

/// One error in a matrix file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The key that the error is about; the root if it is about the whole file.
    pub path: KeyPath,
    /// What is wrong, without a full stop.
    pub message: String,
    /// How to correct it, if that is known.
    pub help: Option<String>,
    /// The characters to mark; absent if the error is about something missing from the file.
    pub position: Option<Position>,
}

/// All errors in a matrix file; at least one. Displayed like a compiler's messages, in plain text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Diagnostics {
    /// The name of the file, as given by the user.
    pub source_name: String,
    /// The errors, in the order of the file; at most 50.
    pub list: Vec<Diagnostic>,
    /// The number of further errors, which are not listed.
    pub omitted: usize,
    text: Arc<str>,
}

impl Diagnostics {
    /// The largest number of errors that are listed; nobody reads more.
    pub(crate) const MAX_LISTED: usize = 50;

    pub(crate) fn new(source_name: &str, text: Arc<str>) -> Self {
        Self { source_name: source_name.into(), list: Vec::new(), omitted: 0, text }
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.list.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            render(f, diagnostic, &self.source_name, &self.text)?;
        }
        match self.omitted {
            0 => Ok(()),
            n => writeln!(f, "\n... and {n} more"),
        }
    }
}

fn render(f: &mut fmt::Formatter<'_>, diagnostic: &Diagnostic, name: &str, text: &str) -> fmt::Result {
    writeln!(f, "error: {}", diagnostic.message)?;
    let mut margin = " ".to_string();
    match diagnostic.position {
        None => writeln!(f, "  --> {name}")?,
        Some(Position { line, column, length }) => {
            let number = line.to_string();
            margin = " ".repeat(number.len());
            let source = text.lines().nth(line - 1).unwrap_or_default();
            // Tabs stay tabs, so that the caret is aligned with the marked characters.
            let indent: String =
                source.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            writeln!(f, "{margin} --> {name}:{line}:{column}")?;
            writeln!(f, "{margin} |")?;
            writeln!(f, "{number} | {source}")?;
            writeln!(f, "{margin} | {indent}{}", "^".repeat(length))?;
        }
    }
    if !diagnostic.path.segments().is_empty() {
        writeln!(f, "{margin} = at: {}", diagnostic.path)?;
    }
    if let Some(help) = &diagnostic.help {
        writeln!(f, "{margin} = help: {help}")?;
    }
    Ok(())
}
