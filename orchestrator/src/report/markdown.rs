//! The table and the text below it in Markdown, for a pull request or an issue.
//!
//! The output is in GitHub's flavour of Markdown. Text from the matrix cannot become markup, a new column, or
//! a link to a person or another site: cells and sentences are escaped, and expectations, attempts and
//! folders are in code spans. Cells and sentences that GitHub would link without any markup are code too.

use super::{FinishedRun, Format, RenderedReport, composition, grid::Grid, remarks};
use crate::{
    matrix::Plan,
    results::{parts::Run, record::Record, verdict::RunVerdict},
};
use std::{fmt::Write as _, io, iter};

/// What makes GitHub link a text without any markup: addresses of other sites, of mail, and people's names.
const LINKS: [&str; 3] = ["://", "www.", "@"];

/// The format `markdown`.
pub(super) struct Markdown;

impl Format for Markdown {
    fn finished(&self, run: &FinishedRun<'_>) -> io::Result<RenderedReport> {
        let table = render(run.plan, run.records, run.verdict);
        Ok(format!("{table}\nResults: {}\n", code(&run.folder.display().to_string())).into())
    }

    fn stored(&self, runs: &[Run]) -> io::Result<RenderedReport> {
        let mut text = String::new();
        for (i, run) in runs.iter().enumerate() {
            if runs.len() > 1 {
                let _ = write!(text, "{}### {}\n\n", if i > 0 { "\n" } else { "" }, code(&run.title()));
            }
            text += &render(&run.plan, &run.records, &run.verdict);
            let notes = composition::sentences(&run.composition);
            if !notes.is_empty() {
                text.push('\n');
            }
            for note in notes {
                text += &item(note.starts_with(' '), &code(note.trim_start()));
            }
        }
        Ok(text.into())
    }
}

fn render(plan: &Plan, records: &[Record], verdict: &RunVerdict) -> String {
    let mut text = draw(&Grid::new(plan, records));
    if let Some(reference) = &plan.reference {
        let _ = write!(text, "\nPublished: {}\n", escaped(&reference.source));
    }
    let remarks = remarks::remarks(records);
    if !remarks.is_empty() {
        text.push('\n');
    }
    for remark in remarks {
        text += &item(false, &code(&remark));
    }
    for sentence in &verdict.threshold {
        let _ = write!(text, "\n{}\n", escaped(sentence));
    }
    if !verdict.expectations.is_empty() {
        text.push('\n');
    }
    for expectation in &verdict.expectations {
        let words = expectation.words();
        let words = if expectation.violations.is_empty() { words } else { format!("**{words}**") };
        text += &item(false, &format!("expected {}: {words}", code(&expectation.expectation)));
        for sentence in expectation.violations.iter().chain(&expectation.undecided) {
            text += &item(true, &code(sentence));
        }
    }
    text
}

fn draw(grid: &Grid) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| escaped(cell)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let words = iter::repeat_n("---", grid.words);
    let numbers = iter::repeat_n("---:", grid.header.len() - grid.words);
    let rule = format!("| {} |\n", words.chain(numbers).collect::<Vec<_>>().join(" | "));
    iter::once(line(&grid.header)).chain([rule]).chain(grid.rows.iter().map(|row| line(row))).collect()
}

/// Returns an item of a bulleted list, with its line end.
fn item(nested: bool, text: &str) -> String {
    format!("{}- {text}\n", if nested { "  " } else { "" })
}

/// Returns the text on one line, with every character escaped that could be markup. GitHub also links names
/// that are escaped, but not in code.
fn escaped(text: &str) -> String {
    let lowercase = text.to_ascii_lowercase();
    let is_linked = LINKS.iter().any(|link| lowercase.contains(link));
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\r' => escaped.push(' '),
            // A code span would need other rules for bars and backslashes in tables.
            mark if is_linked && mark.is_ascii_punctuation() => {
                let _ = write!(escaped, "&#{};", u32::from(mark));
            }
            '\\' | '|' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '~' | '#' | '$' => {
                escaped.push('\\');
                escaped.push(character);
            }
            plain => escaped.push(plain),
        }
    }
    if is_linked { format!("<code>{escaped}</code>") } else { escaped }
}

/// Returns a code span on one line. Its delimiters are longer than any run of backticks in the text.
fn code(text: &str) -> String {
    let text = text.replace(['\n', '\r'], " ");
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let space = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{space}{text}{space}{fence}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        matrix::File,
        outcome::Outcome,
        results::{builder::RecordBuilder, verdict::evaluate},
    };

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escaped("total time\ns"), "total time s");
        assert_eq!(escaped("a|b_c*<i>"), r"a\|b\_c\*\<i\>");
        assert_eq!(escaped(r"\|a@b"), "<code>&#92;&#124;a&#64;b</code>");
        assert_eq!(code("stress.rate <= 64MB/s | #1"), "`stress.rate <= 64MB/s | #1`");
        assert_eq!(code("a`b``c\nd"), "```a`b``c d```");
        assert_eq!(code("`"), "`` ` ``");
    }

    #[test]
    fn a_value_with_a_pipe_stays_in_its_column() {
        let matrix = "name: n\naxes: { guest.cpu: [\"max|-x\"] }\nexpect: [{ outcome: converged }]\n";
        let plan = File::parse(matrix, "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"));
        let record = RecordBuilder::start().freeze(&plan.cells[0], 1, Outcome::Failed, None);
        let records = [record];
        let text = render(&plan, &records, &evaluate(&plan, &records));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |");
        assert_eq!(lines[2], r"| max\|-x | failed | - | - | - | - | - | - |");
        assert_eq!(lines[4], "- expected `every cell: converged`: **DOES NOT HOLD**");
        assert!(lines[5].starts_with("  - `guest.cpu="), "{text}");
    }
}
