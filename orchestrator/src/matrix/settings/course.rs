//! Rates that change during a migration without an entry of the timeline: the dirty rate, with phases, a wave
//! or a trace, and the rate of the link, with a trace.

use super::{Link, Settings, Stress};
use netem::trace::Trace;
use stressor::workload::Rate;
use units::{BitRate, Span};

/// A rate as a function of the time since the migrate command.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Course<R> {
    /// When each rate begins, in order. The first rate begins at 0.
    pub(super) steps: Vec<(Span, R)>,
    /// The total length of all steps.
    pub(super) length: Span,
    /// What follows the last step.
    pub(super) end: CourseEnd<R>,
}

/// What follows the last step of a [`Course`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum CourseEnd<R> {
    /// The course starts over.
    Repeat,
    /// The last rate remains in force.
    Hold,
    /// This rate applies from then on.
    Then(R),
}

impl<R: Copy> Course<R> {
    /// Returns the course of a trace, whose rates are converted by `rate`.
    fn of_trace<T: Copy>(trace: &Trace<T>, repeats: bool, rate: impl Fn(T) -> R) -> Self {
        Self {
            steps: trace.steps().iter().map(|step| (step.at, rate(step.rate))).collect(),
            length: trace.length(),
            end: if repeats { CourseEnd::Repeat } else { CourseEnd::Hold },
        }
    }

    /// Returns whether the course starts over again and again.
    fn repeats(&self) -> bool {
        // A course without a length, which is invalid, would start over endlessly without advancing.
        matches!(self.end, CourseEnd::Repeat) && !self.length.is_zero()
    }

    /// Returns when the last rate begins, which then stays. Returns nothing if the course repeats.
    fn settles_at(&self) -> Option<Span> {
        if self.repeats() { None } else { Some(self.changes().last().map_or(Span::ZERO, |(at, _)| at)) }
    }

    /// Returns the first rate.
    pub(super) fn first(&self) -> Option<R> {
        self.steps.first().map(|(_, rate)| *rate)
    }

    /// Returns when each rate but the first begins. If the course repeats, there is no end of them.
    pub(super) fn changes(&self) -> impl Iterator<Item = (Span, R)> {
        let rounds = if self.repeats() { u64::MAX } else { 1 };
        let round = move |number: u64| {
            let start = self.length.as_nanos().saturating_mul(number);
            let later = move |at: Span| Span::from_nanos(start.saturating_add(at.as_nanos()));
            self.steps.iter().map(move |(at, rate)| (later(*at), *rate))
        };
        let then = match self.end {
            CourseEnd::Then(rate) => Some((self.length, rate)),
            CourseEnd::Repeat | CourseEnd::Hold => None,
        };
        (0..rounds).flat_map(round).skip(1).chain(then)
    }
}

impl Stress {
    /// Returns whether the dirty rate changes by itself.
    pub fn moves(&self) -> bool {
        !self.phases.is_empty() || self.wave.is_some() || self.trace.is_some()
    }

    /// Returns how the dirty rate changes by itself. Returns nothing if it does not, or if its trace has not
    /// been read.
    pub(super) fn course(&self) -> Option<Course<Rate>> {
        if let Some(trace) = &self.trace {
            return Some(Course::of_trace(trace.content()?, self.repeat_trace, |rate| rate.0));
        }
        if let Some(wave) = self.wave {
            return Some(Course { steps: wave.steps(), length: wave.period, end: CourseEnd::Repeat });
        }
        let mut length = Span::ZERO;
        let steps = self.phases.iter().map(|phase| {
            let start = length;
            length = Span::from_nanos(start.as_nanos().saturating_add(phase.duration.as_nanos()));
            (start, phase.rate)
        });
        let steps: Vec<_> = steps.collect();
        let end = if self.repeat_phases { CourseEnd::Repeat } else { CourseEnd::Then(self.rate) };
        (!steps.is_empty()).then_some(Course { steps, length, end })
    }
}

impl Link {
    /// Returns how the rate changes by itself. Returns nothing if it does not, or if its trace has not been
    /// read.
    pub(super) fn course(&self) -> Option<Course<BitRate>> {
        Some(Course::of_trace(self.trace.as_ref()?.content()?, self.repeat_trace, |rate| rate))
    }
}

/// The cycle in which the link and the workload of a migration repeat themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cycle {
    /// The time from which all changes repeat, counted from the migrate command.
    pub from: Span,
    /// The time after which the changes start over.
    pub period: Span,
}

impl Settings {
    /// Returns the cycle in which link and workload repeat themselves; nothing if neither does.
    pub fn cycle(&self) -> Option<Cycle> {
        let (load, link) = (self.stress.course(), self.link.course());
        let periods = [
            load.as_ref().filter(|course| course.repeats()).map(|course| course.length),
            link.as_ref().filter(|course| course.repeats()).map(|course| course.length),
        ];
        let period = periods.into_iter().flatten().reduce(common_multiple)?;
        let ends = [load.and_then(|course| course.settles_at()), link.and_then(|course| course.settles_at())];
        let entries = self.timeline.iter().map(|entry| entry.at);
        Some(Cycle { from: entries.chain(ends.into_iter().flatten()).max().unwrap_or_default(), period })
    }
}

/// Returns the least common multiple of two times, or the longest representable time if the multiple is
/// longer.
fn common_multiple(a: Span, b: Span) -> Span {
    let (a, b) = (a.as_nanos(), b.as_nanos());
    let (mut divisor, mut rest) = (a, b);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    Span::from_nanos((a / divisor).saturating_mul(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(value: serde_json::Value) -> Settings {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_course_starts_over_holds_or_ends_at_another_rate() {
        let course = |end| {
            let steps = [(Span::ZERO, 1), (Span::from_secs(2), 2)].to_vec();
            let course = Course { steps, length: Span::from_secs(3), end };
            let changes: Vec<_> = course.changes().take(4).map(|(at, rate)| (at.to_string(), rate)).collect();
            (changes, course.settles_at().map(|at| at.to_string()))
        };
        let change = |at: &str, rate| (at.to_owned(), rate);
        let repeated = [change("2s", 2), change("3s", 1), change("5s", 2), change("6s", 1)];
        assert_eq!(course(CourseEnd::Repeat), (repeated.to_vec(), None));
        assert_eq!(course(CourseEnd::Hold), (vec![change("2s", 2)], Some("2s".into())));
        assert_eq!(course(CourseEnd::Then(9)), (vec![change("2s", 2), change("3s", 9)], Some("3s".into())));
    }

    #[test]
    fn conditions_repeat_after_the_last_change_that_does_not() {
        let wave = json!({ "period": "4s", "low": "1MB/s", "high": "2MB/s" });
        let cycle = |value| settings(value).cycle().map(|cycle| (cycle.from.to_string(), cycle.period));
        assert_eq!(cycle(json!({})), None);
        let alone = json!({ "stress": { "wave": wave } });
        assert_eq!(cycle(alone), Some(("0".into(), Span::from_secs(4))));
        let with = json!({
            "stress": { "wave": wave },
            "timeline": [{ "at": "3s", "link": { "rate": "1mbit" } }],
        });
        assert_eq!(cycle(with), Some(("3s".into(), Span::from_secs(4))));
        let phases = |repeat: bool| {
            let phases = json!([{ "rate": 0, "duration": "5s" }]);
            json!({ "stress": { "phases": phases, "repeat_phases": repeat } })
        };
        assert_eq!(cycle(phases(true)), Some(("0".into(), Span::from_secs(5))));
        assert_eq!(cycle(phases(false)), None);
    }

    #[test]
    fn two_periods_have_a_common_one() {
        let span = Span::from_millis;
        assert_eq!(common_multiple(span(4000), span(6000)), span(12_000));
        assert_eq!(common_multiple(span(4000), span(4000)), span(4000));
        let (a, b) = (Span::from_nanos(u64::MAX), Span::from_nanos(u64::MAX - 1));
        assert_eq!(common_multiple(a, b), a);
    }
}
