//! Everything that qualifies the results: expectations, reasons, disagreements, and what differs between the
//! parts of the run.

use super::{Detail, Section, answer::verdict, view::View};
use crate::report::remarks;
use maud::html;

pub(super) fn section(view: &View<'_>, _: Detail) -> Option<Section> {
    let expectations = &view.verdict.expectations;
    let remarks = remarks::remarks(view.records);
    let unread: Vec<&String> = view.curves.iter().filter_map(|curves| curves.problem.as_ref()).collect();
    let source = view.plan.reference.as_ref().map(|reference| &reference.source);
    let has_notes = !(remarks.is_empty() && view.composition.is_empty() && unread.is_empty());
    if expectations.is_empty() && !has_notes && source.is_none() {
        return None;
    }
    let body = html! {
        @if !expectations.is_empty() {
            h3 { "Expectations" }
            ul.plain {
                @for expectation in expectations {
                    @let (class, sign) = verdict(expectation);
                    li {
                        span.outcome.(class) { (sign) " " (expectation.words()) }
                        " " code { (expectation.expectation) }
                        @let sentences = expectation.violations.iter().chain(&expectation.undecided);
                        @if sentences.clone().next().is_some() {
                            ul { @for sentence in sentences { li { (sentence) } } }
                        }
                    }
                }
            }
        }
        @if let Some(source) = source {
            h3 { "Published figures" }
            p { (source) }
        }
        @if has_notes {
            h3 { "Notes and disagreements" }
            ul {
                @for remark in &remarks { li { (remark.trim_start_matches("* ")) } }
                @for note in &view.composition { li { (note.trim_start()) } }
                @for problem in &unread { li { "not drawn: " (problem) } }
            }
        }
    };
    Some(Section { id: "notes", title: "Notes", body })
}
