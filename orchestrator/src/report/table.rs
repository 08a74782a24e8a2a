//! The table for a terminal, followed by the threshold with its plot, the expectations and the
//! parts of the run.

use super::{FinishedRun, Format, RenderedReport, composition, grid::Grid, plot, remarks};
use crate::{
    layout::{self, Column, Content, Screen, hanging},
    matrix::Plan,
    results::{parts::Run, record::Record, threshold, verdict::RunVerdict},
};
use frontend::one_line;
use std::{fmt::Write as _, io};

/// The format `table`.
pub(super) struct Table {
    /// The screen to whose width the table is folded; without a width, it is drawn in full.
    pub(super) screen: Screen,
}

impl Format for Table {
    fn finished(&self, run: &FinishedRun<'_>) -> io::Result<RenderedReport> {
        let table = render(run.plan, run.records, run.verdict, self.screen);
        Ok(format!("{table}\nresults: {}\n", run.folder.display()).into())
    }

    fn stored(&self, runs: &[Run]) -> io::Result<RenderedReport> {
        let mut text = String::new();
        for (i, run) in runs.iter().enumerate() {
            if runs.len() > 1 {
                let _ = write!(text, "{}{}\n\n", if i > 0 { "\n" } else { "" }, one_line(&run.title()));
            }
            text += &render(&run.plan, &run.records, &run.verdict, self.screen);
            let notes = composition::sentences(&run.composition);
            if !notes.is_empty() {
                text += &layout::fold(&format!("\n{}\n", notes.join("\n")), self.screen.width);
            }
        }
        Ok(text.into())
    }
}

fn render(plan: &Plan, records: &[Record], verdict: &RunVerdict, screen: Screen) -> String {
    let mut text = String::new();
    if let Some(reference) = &plan.reference {
        let _ = writeln!(text, "published: {}", hanging(&reference.source));
    }
    let remarks = remarks::remarks(records);
    if !remarks.is_empty() {
        text.push('\n');
    }
    for remark in remarks {
        let _ = writeln!(text, "{}", hanging(&remark));
    }
    for sentence in &verdict.threshold {
        let _ = write!(text, "\n{sentence}\n");
    }
    let above = draw(Grid::new(plan, records), screen.width) + &layout::fold(&text, screen.width);
    let mut text = String::new();
    if !verdict.expectations.is_empty() {
        text.push('\n');
    }
    for expectation in &verdict.expectations {
        let _ = writeln!(text, "expected {}: {}", one_line(&expectation.expectation), expectation.words());
        for sentence in expectation.violations.iter().chain(&expectation.undecided) {
            let _ = writeln!(text, "    {}", one_line(sentence));
        }
    }
    let plot = plot::draw(&threshold::groups(plan, records), screen);
    let plot = if plot.is_empty() { plot } else { format!("\n{plot}") };
    above + &plot + &layout::fold(&text, screen.width)
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
