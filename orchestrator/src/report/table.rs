//! The table at the end of a run: a row per cell, what was measured, and beside it what was published.
//!
//! Where a cell was measured more than once, each figure is the median, with the smallest and the largest
//! behind it; failed, skipped and interrupted attempts have none.

use crate::{
    matrix::{Plan, ReferenceRow},
    outcome::Outcome,
    results::{
        record::{Measured, Record},
        verdict::Judgement,
    },
};
use comfy_table::{CellAlignment, Table, presets};
use std::fmt::Write as _;

/// A figure of the table.
struct Figure {
    header: &'static str,
    value: fn(&Measured) -> Option<f64>,
    decimals: usize,
    published: fn(&ReferenceRow) -> Option<f64>,
}

const FIGURES: &[Figure] = &[
    Figure {
        header: "total time\ns",
        value: |m| Some(m.total_time_ms? / 1e3),
        decimals: 1,
        published: |r| Some(r.total_time?.as_secs_f64()),
    },
    Figure {
        header: "downtime\nQEMU ms",
        value: |m| m.downtime_ms.qemu,
        decimals: 0,
        published: |r| Some(r.downtime?.as_millis_f64()),
    },
    Figure { header: "downtime\nguest ms", value: |m| m.downtime_ms.guest, decimals: 0, published: |_| None },
    Figure {
        header: "downtime\nclient ms",
        value: |m| m.downtime_ms.client,
        decimals: 0,
        published: |_| None,
    },
    Figure {
        header: "data\nMB",
        value: |m| Some(m.transferred.qemu_bytes? as f64 / 1e6),
        decimals: 0,
        published: |r| Some(r.transferred?.as_mb()),
    },
    Figure {
        header: "passes",
        value: |m| Some(m.iterations.last()?.number as f64),
        decimals: 0,
        published: |_| None,
    },
];

/// The table, and below it the threshold and the expectations.
pub fn render(plan: &Plan, records: &[Record], judgement: &Judgement) -> String {
    let mut text = table(plan, records);
    if let Some(reference) = &plan.reference {
        let _ = writeln!(text, "published: {}", reference.source);
    }
    for sentence in &judgement.threshold {
        let _ = write!(text, "\n{sentence}\n");
    }
    if !judgement.expectations.is_empty() {
        text.push('\n');
    }
    for judged in &judgement.expectations {
        let mark = match (judged.attempts, judged.violations.len()) {
            (0, _) => "not tried",
            (_, 0) => "holds",
            _ => "DOES NOT HOLD",
        };
        let _ = writeln!(text, "expected {}: {mark}", judged.expectation);
        for violation in &judged.violations {
            let _ = writeln!(text, "    {violation}");
        }
    }
    text
}

fn table(plan: &Plan, records: &[Record]) -> String {
    let axes = plan.axis_paths();
    let published: Vec<&Figure> = FIGURES
        .iter()
        .filter(|f| plan.reference.iter().flat_map(|r| &r.rows).any(|row| (f.published)(row).is_some()))
        .collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let headers = axes.iter().map(ToString::to_string).chain(["outcome".to_string()]);
    let figures = FIGURES.iter().map(|f| f.header.to_string());
    let beside = published.iter().map(|f| format!("published\n{}", f.header.replace('\n', " ")));
    table.set_header(headers.chain(figures).chain(beside));
    for column in table.column_iter_mut().skip(axes.len() + 1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for cell in &plan.cells {
        let attempts: Vec<&Record> = records.iter().filter(|r| r.cell == cell.id).collect();
        let row = plan.reference.as_ref().and_then(|r| r.row_for(&cell.settings));
        let values = axes.iter().map(|axis| cell.axes.get(*axis).cloned().unwrap_or_default());
        let measured = FIGURES.iter().map(|f| spread(&attempts, f));
        let beside = published.iter().map(|f| {
            row.and_then(|row| (f.published)(row)).map(|v| format!("{v:.*}", f.decimals)).unwrap_or_default()
        });
        table.add_row(values.chain([outcomes(&attempts)]).chain(measured).chain(beside));
    }
    // comfy-table pads the last column.
    table.lines().map(|line| line.trim_end().to_string() + "\n").collect()
}

/// The outcomes of a cell's attempts: `converged`, or `converged 2, failed 1`.
fn outcomes(attempts: &[&Record]) -> String {
    let counts = Outcome::ALL.iter().filter_map(|outcome| {
        let count = attempts.iter().filter(|r| r.outcome == *outcome).count();
        (count > 0).then_some((outcome, count))
    });
    match counts.collect::<Vec<_>>()[..] {
        [] => "not tried".into(),
        [(outcome, 1)] => outcome.to_string(),
        ref several => several.iter().map(|(o, n)| format!("{o} {n}")).collect::<Vec<_>>().join(", "),
    }
}

/// The median of a figure over the attempts that have it, with its range where there are several.
fn spread(attempts: &[&Record], figure: &Figure) -> String {
    let mut values: Vec<f64> = attempts.iter().filter_map(|r| (figure.value)(&r.measured)).collect();
    values.sort_unstable_by(f64::total_cmp);
    let show = |value: f64| format!("{value:.*}", figure.decimals);
    match values[..] {
        [] => "-".into(),
        [value] => show(value),
        [low, .., high] => {
            let middle = values.len() / 2;
            let median = if values.len().is_multiple_of(2) {
                f64::midpoint(values[middle - 1], values[middle])
            } else {
                values[middle]
            };
            format!("{} ({}–{})", show(median), show(low), show(high))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        matrix::File,
        results::{record::Draft, verdict::judge},
    };

    /// The table of a matrix whose attempts end like this: the cell, the outcome, the total time.
    fn table_of(matrix: &str, attempts: &[(usize, Outcome, Option<f64>)]) -> Vec<String> {
        let plan = File::parse(matrix, "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"));
        let record = |(cell, outcome, total_time_ms): &(usize, Outcome, Option<f64>)| {
            let mut record = Draft::start().freeze(&plan.cells[*cell], 1, *outcome, None);
            record.measured.total_time_ms = *total_time_ms;
            record
        };
        let records: Vec<Record> = attempts.iter().map(record).collect();
        render(&plan, &records, &judge(&plan, &records)).lines().map(ToString::to_string).collect()
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
            " guest.vcpus  outcome                            total time  downtime  downtime   downtime  data  passes",
            "                                                          s   QEMU ms  guest ms  client ms    MB",
            " 1            converged 3, failed 1           5.0 (4.0–9.0)         -         -          -     -       -",
            " 2            not-converged 1, interrupted 1              -         -         -          -     -       -",
            " 3            skipped                                     -         -         -          -     -       -",
        ];
        assert_eq!(table_of(MATRIX, &attempts), expected);
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
             - {{ where: guest.vcpus == 2, outcome: converged }}\n  - {{ where: guest.vcpus == 3, outcome: converged }}\n"
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
