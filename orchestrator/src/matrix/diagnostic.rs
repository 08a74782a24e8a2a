//! What is wrong with a matrix file, told as a compiler would: where, what, and what to write instead.

use serde_json::Value;
use std::{fmt, sync::Arc};

/// One step into a document.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Segment {
    /// The value of this key.
    Key(String),
    /// The list's item of this index, from 0.
    Index(usize),
}

impl Segment {
    /// The part of a value that it leads to.
    pub(crate) fn of<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        match self {
            Self::Key(key) => value.get(key),
            Self::Index(index) => value.get(index),
        }
    }
}

/// Where in a document something is, by keys: `axes.stress.rate[3]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct FilePath(Vec<Segment>);

impl FilePath {
    /// The document itself.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// This path and one more key.
    #[must_use]
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.with(Segment::Key(key.into()))
    }

    /// This path and the item of this index.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    /// This path and a dotted path below it, of keys and the numbers of items.
    #[must_use]
    pub fn dotted(&self, path: &str) -> Self {
        let step = |whole: Self, part: &str| match part.parse() {
            Ok(index) => whole.index(index),
            Err(_) => whole.key(part),
        };
        path.split('.').fold(self.clone(), step)
    }

    /// The steps, outermost first.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    pub(crate) fn with(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }
}

impl fmt::Display for FilePath {
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

/// A place in a text. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column at which it starts.
    pub column: usize,
    /// How many characters it covers, at least 1.
    pub length: usize,
}

/// One thing that is wrong with a matrix file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The key it is about; the root when it is about the whole file.
    pub path: FilePath,
    /// What is wrong.
    pub message: String,
    /// What to do about it, where that is known.
    pub help: Option<String>,
    /// Where it is; absent when it is about something the file does not contain.
    pub position: Option<Position>,
}

/// Everything that is wrong with a matrix file; never empty as an error. Displays as a compiler's messages
/// do, in plain text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Diagnostics {
    /// The name of the file, as it was given.
    pub source_name: String,
    /// What is wrong, in the order of the file.
    pub list: Vec<Diagnostic>,
    /// How many more there were than are listed.
    pub omitted: usize,
    text: Arc<str>,
}

impl Diagnostics {
    /// How many are kept; nobody reads more.
    pub(crate) const MOST: usize = 50;

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
            // Tabs stay tabs, so that the caret stands under what it means.
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
