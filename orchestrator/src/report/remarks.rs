//! Remarks on single attempts below a table: why they failed or were skipped, and which of their measurements
//! disagree.

use crate::{outcome::Outcome, results::record::Record};
use frontend::one_line;

/// The mark of a row with an attempt whose measurements disagree.
pub(super) const MARK: &str = " *";

/// Returns one sentence for each remark, in the order of the records.
pub(super) fn remarks(records: &[Record]) -> Vec<String> {
    let of_record = |record: &Record| {
        let name = format!("{} #{}", one_line(&record.cell), record.attempt);
        let has_reason = matches!(
            record.outcome,
            Outcome::Failed | Outcome::GuestLost | Outcome::Corrupted | Outcome::Skipped
        );
        let reason = record.reason.as_ref().filter(|_| has_reason);
        let reason = reason.map(|reason| format!("{name}: {}: {reason}", record.outcome));
        let notes = record.measured.disagreements.iter().map(|note| format!("* {name}: {}", one_line(note)));
        reason.into_iter().chain(notes).collect::<Vec<_>>()
    };
    records.iter().flat_map(of_record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{matrix::File, results::builder::RecordBuilder};

    #[test]
    fn failures_have_their_reason_and_disagreements_a_mark() {
        let plan = File::parse("name: n\n", "n").and_then(|file| file.expand()).unwrap();
        let record = |outcome, reason: Option<&str>, notes: &[&str]| {
            let reason = reason.map(ToString::to_string);
            let mut record = RecordBuilder::start().freeze(&plan.cells[0], 1, outcome, reason);
            record.measured.disagreements = notes.iter().map(ToString::to_string).collect();
            record
        };
        let records = [
            record(Outcome::Converged, None, &["one", "two"]),
            record(Outcome::NotConverged, Some("not finished after 4 passes"), &[]),
            record(Outcome::Failed, Some("the QEMU ended"), &[]),
            record(Outcome::Skipped, Some("no KVM"), &[]),
        ];
        assert_eq!(
            remarks(&records),
            [
                "* base #1: one",
                "* base #1: two",
                "base #1: failed: the QEMU ended",
                "base #1: skipped: no KVM"
            ]
        );
    }
}
