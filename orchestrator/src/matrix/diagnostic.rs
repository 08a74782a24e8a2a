//! Errors in a matrix file, in the style of a compiler: where, what, and what to write instead.

use frontend::one_line;
use serde_json::Value;
use std::{fmt, sync::Arc};

/// The longest part of a line of the file that is shown, in characters. A generated file may be one line.
const SHOWN: usize = 160;
/// How many of these characters are before the marked ones, if the beginning of the line is cut off.
const SHOWN_BEFORE: usize = 60;
/// The longest text of a message that is shown, in characters. It may quote a value of the file.
const MESSAGE: usize = 1_000;

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
    writeln!(f, "error: {}", message(&diagnostic.message))?;
    let mut margin = " ".to_string();
    match diagnostic.position {
        None => writeln!(f, "  --> {name}")?,
        Some(Position { line, column, length }) => {
            let number = line.to_string();
            margin = " ".repeat(number.len());
            let source = text.lines().nth(line - 1).unwrap_or_default();
            let (shown, marks) = excerpt(source, column, length);
            writeln!(f, "{margin} --> {name}:{line}:{column}")?;
            writeln!(f, "{margin} |")?;
            writeln!(f, "{number} | {shown}")?;
            writeln!(f, "{margin} | {marks}")?;
        }
    }
    if !diagnostic.path.segments().is_empty() {
        writeln!(f, "{margin} = at: {}", message(&diagnostic.path.to_string()))?;
    }
    if let Some(help) = &diagnostic.help {
        writeln!(f, "{margin} = help: {}", message(help))?;
    }
    Ok(())
}

/// Returns a text on one line, without what exceeds [`MESSAGE`].
fn message(text: &str) -> String {
    let mut shown: String = text.chars().take(MESSAGE).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    one_line(&shown)
}

/// Returns the part of a line around these marked characters, of which the first is in this column, and the
/// line below it that marks them. Ends that are cut off are shown as `…`.
fn excerpt(line: &str, column: usize, length: usize) -> (String, String) {
    let is_long = line.chars().nth(SHOWN).is_some();
    let start = if is_long { (column - 1).saturating_sub(SHOWN_BEFORE) } else { 0 };
    let before = column - 1 - start;
    let part = || line.chars().skip(start);
    let begin = if start > 0 { "…" } else { "" };
    let end = if part().nth(SHOWN).is_some() { "…" } else { "" };
    let shown: String = part().take(SHOWN).collect();
    // Tabs stay tabs, so that the caret is aligned with the marked characters.
    let indent = begin.chars().chain(part().take(before)).map(|c| if c == '\t' { '\t' } else { ' ' });
    let marks = "^".repeat(length.min(SHOWN.saturating_sub(before)).max(1));
    (format!("{begin}{shown}{end}"), indent.collect::<String>() + &marks)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the characters of the shown part that are marked.
    fn marked(line: &str, column: usize, length: usize) -> String {
        let (shown, marks) = excerpt(line, column, length);
        assert!(shown.chars().count() <= SHOWN + 2 && marks.chars().count() <= SHOWN + 2, "{shown}\n{marks}");
        let tabs = |text: &str| text.chars().map(|c| c == '\t').collect::<Vec<_>>();
        let before = marks.trim_end_matches('^');
        assert_eq!(tabs(before), tabs(&shown)[..before.chars().count()], "{shown}\n{marks}");
        shown.chars().zip(marks.chars()).filter(|(_, mark)| *mark == '^').map(|(c, _)| c).collect()
    }

    #[test]
    fn a_long_line_is_cut_around_the_marked_characters() {
        for filler in ["a", "é", "表", "\t"] {
            for count in [0, 1, 59, 60, 61, 99, 159, 160, 161, 5_000] {
                let line = format!("{0}xyz{0}", filler.repeat(count));
                assert_eq!(marked(&line, count + 1, 3), "xyz", "{filler:?} {count}");
                assert_eq!(line.chars().nth(SHOWN).is_none(), excerpt(&line, count + 1, 3).0 == line);
            }
        }
        let long = "x".repeat(5_000);
        assert_eq!(marked(&long, 1, 5_000), long[..SHOWN]);
        assert_eq!(marked(&long, 4_990, 5_000), long[..11]);
        assert_eq!(excerpt(&long, 5_001, 1).1.find('^'), Some(SHOWN_BEFORE + 1), "after the end");
        assert_eq!(excerpt("", 1, 1), (String::new(), "^".to_owned()));
    }
}
