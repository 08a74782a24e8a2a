//! The answer in one sentence, and the numbers of attempts and expectations on which it is based.

use super::{
    Detail, Section,
    view::{View, outcome},
};
use crate::{
    outcome::{Outcome, OutcomeCounts},
    results::{record::Measured, verdict::ExpectationVerdict},
};
use maud::html;
use units::counted;

/// The largest number of sentences about thresholds that can serve as an answer.
const FEW: usize = 3;

/// The witnesses of a downtime in words, the one that sees most of it first.
const DOWNTIMES: [Downtime; 3] = [
    ("a client of the guest waited", |m| {
        let open = m.downtime_ms.client_at_least.map(Waited::AtLeast);
        m.downtime_ms.client.map(Waited::AtMost).or(open)
    }),
    ("the guest stood still for", |m| m.downtime_ms.guest.map(Waited::AtMost)),
    ("QEMU reports a downtime of", |m| m.downtime_ms.qemu.map(Waited::AtMost)),
];

/// What a witness saw, in words, and its figure.
type Downtime = (&'static str, fn(&Measured) -> Option<Waited>);

/// A downtime in milliseconds.
#[derive(Clone, Copy)]
enum Waited {
    /// The figure, which is an upper bound.
    AtMost(f64),
    /// A lower bound, if there is no upper one.
    AtLeast(f64),
}

pub(super) fn section(view: &View<'_>, _: Detail) -> Option<Section> {
    let thresholds = &view.verdict.threshold;
    let is_threshold = (1..=FEW).contains(&thresholds.len());
    let expectations = &view.verdict.expectations;
    let tried = expectations.iter().filter(|expectation| expectation.attempts > 0).count();
    let held = expectations.iter().filter(|expectation| verdict(expectation).0 == "ok").count();
    let violated = expectations.iter().filter(|expectation| !expectation.violations.is_empty()).count();
    let disagreements: usize = view.records.iter().map(|r| r.measured.disagreements.len()).sum();
    let outcomes: OutcomeCounts = view.records.iter().map(|record| record.outcome).collect();
    let body = html! {
        @if is_threshold {
            @for sentence in thresholds {
                p.answer.several[thresholds.len() > 1] { (sentence) }
            }
        } @else {
            p.answer { (counts(view)) }
            @if !thresholds.is_empty() {
                details {
                    summary { "The threshold for each combination of the other values" }
                    ul {
                        @for sentence in thresholds {
                            li { (sentence) }
                        }
                    }
                }
            }
        }
        ul.facts {
            @if view.is_running {
                li.running { "In progress: " (results(view)) " of " (counted(view.planned(), "attempt")) }
            } @else if !view.is_complete {
                li.bad { "Incomplete: " (results(view)) " of " (counted(view.planned(), "attempt")) }
            }
            @for (kind, count) in outcomes.iter() {
                li { (outcome(kind)) " " strong { (count) } }
            }
            @if !expectations.is_empty() {
                li.bad[violated > 0] {
                    "Expectations: " strong { (held) " of " (tried) } " hold"
                    @if tried < expectations.len() { ", " (expectations.len() - tried) " not tried" }
                }
            }
            @if disagreements > 0 {
                li.bad { a href={ "#" (view.id("notes")) } { (counted(disagreements, "disagreement")) } }
            }
        }
    };
    Some(Section { id: "answer", title: "Answer", body })
}

/// Returns the number of attempts that have a result.
fn results(view: &View<'_>) -> usize {
    view.records.iter().filter(|record| record.is_result()).count()
}

/// Returns a sentence about how many migrations converged, and for how long a client of the guest waited.
fn counts(view: &View<'_>) -> String {
    let tried: Vec<_> =
        view.records.iter().filter(|r| r.is_result() && r.outcome != Outcome::Skipped).collect();
    let converged = tried.iter().filter(|record| record.outcome == Outcome::Converged).count();
    let sentence = match (converged, tried.len()) {
        (_, 0) => return "No migration has been measured.".into(),
        (1, 1) => "The migration converged".into(),
        (0, 1) => format!("The migration did not converge: it is {}", tried[0].outcome),
        (all, of) if all == of => format!("All {of} migrations converged"),
        (0, of) => format!("None of {of} migrations converged"),
        (some, of) => format!("{some} of {of} migrations converged"),
    };
    let range = DOWNTIMES.into_iter().find_map(|(words, figure)| {
        let seen: Vec<Waited> = tried.iter().filter_map(|record| figure(&record.measured)).collect();
        Some(format!("; {words} {}", range(&seen)?))
    });
    sentence + &range.unwrap_or_default() + "."
}

/// Returns the range of downtimes in words; nothing if there are none.
fn range(seen: &[Waited]) -> Option<String> {
    let closed =
        seen.iter().filter_map(|waited| if let Waited::AtMost(ms) = waited { Some(*ms) } else { None });
    let open =
        seen.iter().filter_map(|waited| if let Waited::AtLeast(ms) = waited { Some(*ms) } else { None });
    let least = closed.clone().reduce(f64::min);
    let most_open = open.clone().reduce(f64::max);
    Some(match (least, most_open) {
        (Some(least), Some(most)) if least < most => format!("{least:.0} to at least {most:.0} ms"),
        (least, Some(_)) => format!("at least {:.0} ms", open.chain(least).reduce(f64::min)?),
        (least, None) => {
            let (least, most) = (least?, closed.reduce(f64::max)?);
            if (least.round() - most.round()).abs() < 0.5 {
                format!("{most:.0} ms")
            } else {
                format!("{least:.0} to {most:.0} ms")
            }
        }
    })
}

/// Returns the class of an expectation's verdict, and its symbol.
pub(super) fn verdict(expectation: &ExpectationVerdict) -> (&'static str, &'static str) {
    if !expectation.violations.is_empty() {
        ("bad", "✗")
    } else if expectation.holds() && expectation.attempts > 0 {
        ("ok", "✓")
    } else {
        ("none", "?")
    }
}
