//! The table for a terminal, followed by the threshold with its plot, the expectations and the
//! parts of the run.

use super::{FinishedRun, Format, RenderedReport, composition, grid::Grid, plot, remarks};
use crate::{
    layout::{self, Column, Content, Screen, hanging},
    matrix::Plan,
    results::{
        parts::Run,
        record::Record,
        threshold,
        verdict::{ExpectationVerdict, RunVerdict},
    },
};
use frontend::{Text, one_line};
use std::{fmt::Write as _, io};

/// The format `table`.
pub(super) struct Table {
    /// The screen to whose width the table is folded; without a width, it is drawn in full.
    pub(super) screen: Screen,
}

impl Format for Table {
    fn finished(&self, run: &FinishedRun<'_>) -> io::Result<RenderedReport> {
        let mut text = render(run.plan, run.records, run.verdict, self.screen);
        text += format!("\nresults: {}\n", one_line(&run.folder.display().to_string()));
        Ok(RenderedReport { text, notes: Vec::new() })
    }

    fn stored(&self, runs: &[Run]) -> io::Result<RenderedReport> {
        let mut text = Text::default();
        for (i, run) in runs.iter().enumerate() {
            if runs.len() > 1 {
                text += format!("{}{}\n\n", if i > 0 { "\n" } else { "" }, one_line(&run.title()));
            }
            text += render(&run.plan, &run.records, &run.verdict, self.screen);
            let notes = composition::sentences(&run.composition);
            if !notes.is_empty() {
                text += layout::fold(&format!("\n{}\n", notes.join("\n")), self.screen.width);
            }
        }
        Ok(RenderedReport { text, notes: Vec::new() })
    }
}

fn render(plan: &Plan, records: &[Record], verdict: &RunVerdict, screen: Screen) -> Text {
    let mut above = String::new();
    if let Some(reference) = &plan.reference {
        let _ = writeln!(above, "published: {}", hanging(&reference.source));
    }
    let remarks = remarks::remarks(records);
    if !remarks.is_empty() {
        above.push('\n');
    }
    for remark in remarks {
        let _ = writeln!(above, "{}", hanging(&remark));
    }
    for sentence in &verdict.threshold {
        let _ = write!(above, "\n{}\n", one_line(sentence));
    }
    let mut text = Text::from(draw(Grid::new(plan, records), screen.width));
    text += layout::fold(&above, screen.width);
    let plot = plot::draw(&threshold::groups(plan, records), screen);
    if !plot.is_empty() {
        text += format!("\n{plot}");
    }
    if !verdict.expectations.is_empty() {
        text += "\n";
    }
    for expectation in &verdict.expectations {
        text += expected(expectation, screen);
        for sentence in expectation.violations.iter().chain(&expectation.undecided) {
            text += layout::fold(&format!("    {}\n", one_line(sentence)), screen.width);
        }
    }
    text
}

/// Returns the line with the verdict on an expectation: red if it does not hold, green if it holds.
fn expected(verdict: &ExpectationVerdict, screen: Screen) -> Text {
    let words = verdict.words();
    let line = format!("expected {}: {words}\n", one_line(&verdict.expectation));
    let line = layout::fold(&line, screen.width);
    let color = match words.as_str() {
        "DOES NOT HOLD" => Some("1;31"),
        "holds" => Some("32"),
        _ => None,
    };
    // Words that were folded are not colored.
    let before = line.strip_suffix(&format!("{words}\n"));
    match before.zip(color.filter(|_| screen.is_colored)) {
        Some((before, color)) => {
            [before.into(), Text::from(words).painted(color), "\n".into()].into_iter().collect()
        }
        None => line.into(),
    }
}

fn draw(grid: Grid, width: Option<usize>) -> String {
    let content = |at| match at {
        // The last column with words is the outcome; the axes are before it.
        at if at + 1 < grid.words => Content::Key,
        at if at < grid.words => Content::Words,
        _ => Content::Number,
    };
    let columns = grid.header.iter().enumerate();
    let columns = columns.map(|(at, header)| Column { header: header.clone(), content: content(at) });
    layout::Table { columns: columns.collect(), rows: grid.rows }.draw(width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        matrix::File,
        outcome::Outcome,
        results::{builder::RecordBuilder, verdict::evaluate},
    };

    /// Returns the lines of the table of a matrix with these attempts: cell, outcome, total time in
    /// milliseconds.
    fn table_of(matrix: &str, attempts: &[(usize, Outcome, Option<f64>)]) -> Vec<String> {
        let plan = File::parse(matrix, "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"));
        let record = |(cell, outcome, total_time_ms): &(usize, Outcome, Option<f64>)| {
            let mut record = RecordBuilder::start().freeze(&plan.cells[*cell], 1, *outcome, None);
            record.measured.total_time_ms = *total_time_ms;
            record
        };
        let records: Vec<Record> = attempts.iter().map(record).collect();
        render(&plan, &records, &evaluate(&plan, &records), Screen::default())
            .as_str()
            .lines()
            .map(ToString::to_string)
            .collect()
    }

    const MATRIX: &str = "name: n\naxes: { guest.vcpus: [1, 2, 3] }\n";

    #[test]
    fn a_cell_shows_the_median_and_the_range_of_its_attempts() {
        use Outcome::{Converged, Failed, Interrupted, NotConverged, Skipped};
        let attempts = [
            (0, Converged, Some(4000.0)),
            (0, Converged, Some(9000.0)),
            (0, Converged, Some(5000.0)),
            (0, Failed, None),
            (1, NotConverged, None),
            (1, Interrupted, None),
            (2, Skipped, None),
        ];
        let expected = [
            " guest.vcpus  outcome                            total time  downtime  downtime   downtime  \
             data  passes",
            "                                                          s   QEMU ms  guest ms  client ms    \
             MB",
            " 1            converged 3, failed 1           5.0 (4.0–9.0)         -         -          -     \
             -       -",
            " 2            not-converged 1, interrupted 1              -         -         -          -     \
             -       -",
            " 3            skipped                                     -         -         -          -     \
             -       -",
        ];
        assert_eq!(table_of(MATRIX, &attempts), expected);
    }

    /// Figures of attempts that converged are not mixed with others, and an interrupted one has none.
    #[test]
    fn a_cell_in_which_an_attempt_converged_shows_those_that_did() {
        use Outcome::{Converged, Corrupted, Failed, Interrupted};
        let attempts = [
            (0, Converged, Some(4000.0)),
            (0, Corrupted, Some(1000.0)),
            (0, Failed, Some(9000.0)),
            (0, Converged, Some(6000.0)),
            (1, Interrupted, Some(7000.0)),
            (1, Corrupted, Some(2000.0)),
            (1, Failed, Some(3000.0)),
            (2, Interrupted, Some(8000.0)),
        ];
        let lines = table_of(MATRIX, &attempts);
        for (line, figures) in lines[2..].iter().zip(["5.0 (4.0–6.0)", "2.5 (2.0–3.0)", "-"]) {
            let row: Vec<&str> = line.split("  ").map(str::trim).filter(|text| !text.is_empty()).collect();
            assert_eq!(row[2], figures, "{line}");
        }
    }

    #[test]
    fn a_cell_that_was_not_tried_says_so() {
        let lines = table_of(MATRIX, &[(0, Outcome::Converged, Some(1500.0))]);
        assert!(lines[2].starts_with(" 1            converged         1.5"), "{lines:#?}");
        assert!(lines[3].starts_with(" 2            not tried           -"), "{lines:#?}");
    }

    #[test]
    fn expectations_follow_the_table() {
        let matrix = format!(
            "{MATRIX}expect:\n  - {{ where: guest.vcpus == 1, outcome: converged }}\n  \
             - {{ where: guest.vcpus == 2, outcome: converged }}\n  \
             - {{ where: guest.vcpus == 3, outcome: converged }}\n"
        );
        let lines = table_of(&matrix, &[(0, Outcome::Converged, None), (1, Outcome::GuestLost, None)]);
        assert_eq!(
            lines[5..],
            [
                "",
                "expected guest.vcpus == 1: converged: holds",
                "expected guest.vcpus == 2: converged: DOES NOT HOLD",
                "    guest.vcpus=2 #1: outcome is guest-lost, expected converged",
                "expected guest.vcpus == 3: converged: not tried",
            ]
        );
    }

    #[test]
    fn a_matrix_of_one_cell_has_a_row() {
        let lines = table_of("name: n\n", &[(0, Outcome::Converged, Some(1500.0))]);
        assert!(lines[2].starts_with(" converged"), "{lines:#?}");
    }
}
