//! Text as Markdown and as a manual page.

use crate::layout;
use roff::{Inline, Roff, bold, roman};

/// Where lines of Markdown are broken, in columns.
const WIDTH: usize = 110;

/// Appends lines that keep their breaks and their indentation.
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

/// Returns Markdown's text in which what stands between backticks is bold, as a manual page shows literals.
pub(super) fn inlines(text: &str) -> Vec<Inline> {
    let pieces = text.split('`').enumerate().filter(|(_, piece)| !piece.is_empty());
    pieces.map(|(index, piece)| if index % 2 == 0 { roman(piece) } else { bold(piece) }).collect()
}

/// Breaks a paragraph into lines of at most 110 columns. The first begins with `first`, all others with
/// `indent`.
pub(super) fn wrapped(text: &str, first: &str, indent: &str) -> String {
    let left = |prefix: &str| WIDTH - prefix.chars().count();
    let lines = layout::wrap_after(text, left(first), left(indent));
    format!("{first}{}", lines.join(&format!("\n{indent}")))
}
