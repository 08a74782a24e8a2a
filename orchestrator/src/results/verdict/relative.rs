//! Comparisons of a cell with its baseline, by the medians of their converged attempts.

use crate::{
    matrix::{Expectation, Finding, Interval, Subject},
    outcome::Outcome,
    results::{
        figures::{self, Figure},
        record::Record,
    },
};

/// The attempts of a cell that are checked.
#[derive(Clone, Copy)]
pub(super) struct Attempts<'a>(pub(super) &'a [&'a Record]);

impl Attempts<'_> {
    /// Returns the median of a figure over the converged attempts. Returns nothing if one of them did not
    /// measure it, or if none converged.
    fn median(&self, figure: &Figure) -> Option<Interval> {
        let converged = self.0.iter().filter(|record| record.outcome == Outcome::Converged);
        let measured: Option<Vec<Interval>> =
            converged.map(|record| figure.interval(&record.measured)).collect();
        Interval::median(&measured?)
    }
}

/// Checks the bounds of an expectation that are percentages. Until all `planned` attempts of both cells have
/// been made, a median may still change, so it does not violate anything yet. Returns the findings that keep
/// the expectation from holding.
pub(super) fn compare(
    expectation: &Expectation,
    cell: Attempts<'_>,
    baseline: Attempts<'_>,
    planned: u32,
) -> Vec<Finding> {
    let is_complete = [cell, baseline].iter().all(|attempts| attempts.0.len() >= planned as usize);
    let findings = expectation.subjects(true).filter_map(|subject| {
        let finding = match fraction(subject, cell, baseline) {
            Ok(fraction) => expectation.check_fraction(subject, fraction),
            Err(why) => Some(Finding::Undecided(why)),
        };
        match finding {
            Some(Finding::Violated(text)) if !is_complete => {
                Some(Finding::Undecided(format!("so far, {text}")))
            }
            finding => finding,
        }
    });
    findings.collect()
}

/// Returns a subject of a cell as a fraction of the baseline's, by a figure that both have. Returns nothing
/// if the cell does not have the subject.
///
/// # Errors
/// The cell cannot be compared with the baseline; the sentence says why.
fn fraction(
    subject: Subject,
    cell: Attempts<'_>,
    baseline: Attempts<'_>,
) -> Result<Option<Interval>, String> {
    let name = subject.name();
    let mut figures = figures::measuring(subject);
    if let Some((own, other)) = figures.find_map(|figure| cell.median(figure).zip(baseline.median(figure))) {
        let fraction = own.relative_to(other);
        return fraction.map(Some).ok_or_else(|| format!("{name} of the baseline is 0"));
    }
    let measured = |of: Attempts<'_>| figures::measuring(subject).any(|figure| of.median(figure).is_some());
    match (measured(cell), measured(baseline)) {
        (false, _) => Ok(None),
        (true, false) => Err(format!("{name} of the baseline was not measured")),
        (true, true) => Err(format!("{name} of the baseline was measured in another way")),
    }
}
