//! Text as Markdown and as a manual page.

use crate::layout;
use roff::{Inline, Roff, bold, roman};

/// The column at which lines of Markdown are broken.
const WIDTH: usize = 110;

/// Appends lines without changing their breaks and their indentation.
pub(super) fn verbatim(roff: &mut Roff, lines: &[String]) {
    roff.control("nf", []);
    for line in lines {
        // An empty line of text would be dropped.
        if line.is_empty() {
            roff.control("sp", []);
        } else {
            roff.text([roman(line.as_str())]);
        }
    }
    roff.control("fi", []);
}

/// Converts Markdown text to inline elements: text between backticks becomes bold, as literals are in a
/// manual page.
pub(super) fn inlines(text: &str) -> Vec<Inline> {
    let pieces = text.split('`').enumerate().filter(|(_, piece)| !piece.is_empty());
    pieces.map(|(index, piece)| if index % 2 == 0 { roman(piece) } else { bold(piece) }).collect()
}

/// Breaks a paragraph into lines of at most 110 columns. The first line begins with `first`, all others with
/// `indent`.
pub(super) fn wrapped(text: &str, first: &str, indent: &str) -> String {
    let left = |prefix: &str| WIDTH - prefix.chars().count();
    let lines = layout::wrap_after(text, left(first), left(indent));
    format!("{first}{}", lines.join(&format!("\n{indent}")))
}
