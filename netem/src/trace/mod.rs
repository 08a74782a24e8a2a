//! Rate traces: a rate as a function of time, for example that of a link, recorded on a real link.
//!
//! A trace is a text file. Each line has a time, counted from the start of the trace, and the rate from that
//! time on, both with units. The first time is 0, times ascend by at least 1 ms, and the last line says when
//! the trace ends.
//! `#` starts a comment. A file of whole numbers only, one per line, is read in the format of [`mahimahi`].
//!
//! ```text
//! # a train enters a tunnel
//! 0s     40mbit
//! 2s     12mbit
//! 2500ms 1mbit
//! 6s     end
//! ```
//!
//! ```
//! let trace: netem::trace::Trace = "0s 40mbit\n2s 12mbit\n6s end\n".parse()?;
//! assert_eq!(trace.steps().len(), 2);
//! assert_eq!(trace.length(), units::Span::from_secs(6));
//! assert_eq!("0s 40\n1s end\n".parse::<netem::trace::Trace>().unwrap_err().line, 1);
//! # Ok::<(), netem::trace::TraceError>(())
//! ```

use crate::{
    ethernet::FRAME_BYTES,
    profile::{MIN_RATE, Profile},
};
use std::{fmt::Display, str::FromStr};
use units::{BitRate, Span};

pub mod mahimahi;

/// The shortest time between two steps. Setting a rate takes only a fraction of it.
const MIN_STEP: Span = Span::from_millis(1);

/// The word in place of the rate on the last line.
const END: &str = "end";

/// A type of rate that a trace can have.
pub trait TraceRate: Copy + PartialEq + FromStr<Err: Display> {
    /// A rate in its notation, for messages.
    const EXAMPLE: &'static str;

    /// Returns the rate at which this many packets of 1500 bytes take this time. The time is not 0.
    fn of_packets(packets: u64, time: Span) -> Self;
}

impl TraceRate for BitRate {
    const EXAMPLE: &'static str = "12mbit";

    /// Counts whole Ethernet frames, like the rate of a [`Profile`]. Without packets it is the lowest rate
    /// that a link can have.
    fn of_packets(packets: u64, time: Span) -> Self {
        let bits = u128::from(packets) * u128::from(FRAME_BYTES) * 8;
        let rate = bits * 1_000_000_000 / u128::from(time.as_nanos());
        MIN_RATE.max(Self::new(u64::try_from(rate).unwrap_or(u64::MAX)))
    }
}

/// A parsed rate trace, which has at least one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace<R = BitRate> {
    steps: Vec<Step<R>>,
    length: Span,
}

/// A rate and the time from which it applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<R = BitRate> {
    /// The time, counted from the start of the trace.
    pub at: Span,
    /// The rate from `at` until the next step or the end.
    pub rate: R,
    /// The line number in the file, counted from 1; in the format of [`mahimahi`], that of the first packet
    /// at or after `at`.
    pub line: usize,
}

/// An error in a trace, with its line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct TraceError {
    /// The line number, counted from 1. If something is missing, the line after the last.
    pub line: usize,
    /// What is wrong with the line, with a correct example where that helps.
    pub problem: String,
}

impl<R> Trace<R> {
    /// Returns the steps in ascending order of time. The first is at 0.
    pub fn steps(&self) -> &[Step<R>] {
        &self.steps
    }

    /// Returns the end of the trace, counted from its start. It is later than the last step.
    pub fn length(&self) -> Span {
        self.length
    }
}

impl Trace {
    /// Returns the time of each step and the profile that applies from then on: `base` with the step's rate.
    ///
    /// # Errors
    ///
    /// If the profile of a step is invalid: the first one, with its line.
    pub fn profiles(&self, base: &Profile) -> Result<Vec<(Span, Profile)>, TraceError> {
        let profile = |step: &Step| {
            let profile = Profile { rate: Some(step.rate), ..base.clone() };
            match profile.validate() {
                Ok(()) => Ok((step.at, profile)),
                Err(error) => Err(TraceError { line: step.line, problem: error.to_string() }),
            }
        };
        self.steps.iter().map(profile).collect()
    }
}

impl<R: TraceRate> FromStr for Trace<R> {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        // Some editors put a byte order mark before the text.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if mahimahi::is_used(text) {
            return mahimahi::parse(text);
        }
        let mut steps: Vec<Step<R>> = Vec::new();
        let mut length = None;
        for (number, line) in (1..).zip(text.lines()) {
            let error = |problem: String| TraceError { line: number, problem };
            let content = content(line);
            let words: Vec<&str> = content.split_whitespace().collect();
            let (at, rate) = match words[..] {
                [] => continue,
                [at, rate] => (at, rate),
                _ => {
                    let problem =
                        format!("`{}` is not a time and a rate, like `250ms {}`", content.trim(), R::EXAMPLE);
                    return Err(error(problem));
                }
            };
            if length.is_some() {
                return Err(error(format!("nothing may follow `{END}`")));
            }
            let at: Span = parse(at).map_err(error)?;
            match steps.last() {
                None if !at.is_zero() => {
                    return Err(error(format!("the first rate is at {at}; a trace must start at `0s`")));
                }
                Some(before) if at <= before.at => {
                    return Err(error(format!("{at} is not later than the previous time, {}", before.at)));
                }
                Some(before) if at.as_nanos() - before.at.as_nanos() < MIN_STEP.as_nanos() => {
                    let problem = format!(
                        "{at} is less than {MIN_STEP} later than the previous time, {}: no rate can change \
                         that fast",
                        before.at
                    );
                    return Err(error(problem));
                }
                _ => {}
            }
            if !rate.eq_ignore_ascii_case(END) {
                steps.push(Step { at, rate: parse(rate).map_err(error)?, line: number });
            } else if steps.is_empty() {
                return Err(error("the trace ends before its first rate".into()));
            } else {
                length = Some(at);
            }
        }
        let missing = |problem: String| TraceError { line: text.lines().count() + 1, problem };
        if steps.is_empty() {
            return Err(missing(format!("the trace has no rate; add a line like `0s {}`", R::EXAMPLE)));
        }
        let no_end = || missing("the trace has no end; add a last line like `6s end`".into());
        Ok(Self { steps, length: length.ok_or_else(no_end)? })
    }
}

/// Returns a line without its comment.
fn content(line: &str) -> &str {
    line.split('#').next().unwrap_or_default()
}

fn parse<T: FromStr<Err: Display>>(word: &str) -> Result<T, String> {
    word.parse().map_err(|error: T::Err| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_has_rates_over_time_and_an_end() {
        let trace: Trace = "# tunnel\n\n0 40mbit\n  250ms\t12mbit # in\r\n1s end".parse().unwrap();
        let steps: Vec<_> = trace.steps().iter().map(|step| format!("{} {}", step.at, step.rate)).collect();
        assert_eq!(steps, ["0 40mbit", "250ms 12mbit"]);
        assert_eq!(trace.length(), Span::from_secs(1));
        let base = Profile { delay: Span::from_millis(5), ..Profile::default() };
        let profiles = trace.profiles(&base).unwrap();
        assert_eq!(profiles[1].0, Span::from_millis(250));
        assert_eq!(profiles[1].1, Profile { rate: Some(BitRate::new(12_000_000)), ..base });
    }

    #[test]
    fn spellings_of_other_programs_and_a_byte_order_mark_are_read() {
        let trace: Trace = "\u{feff}0 1Gbit/s\n1m30s 500Kbit\n2m END".parse().unwrap();
        let same: Trace = "0s 1gbit\n90s 500kbit\n120s end".parse().unwrap();
        assert_eq!(trace, same);
    }

    #[test]
    fn errors_name_their_line() {
        for (text, says) in [
            ("", "line 1: the trace has no rate"),
            ("# nothing\n\n", "line 3: the trace has no rate"),
            ("0s 1mbit\n", "line 2: the trace has no end"),
            ("0s end", "line 1: the trace ends before its first rate"),
            ("1s 1mbit\n2s end", "line 1: the first rate is at 1s; a trace must start at `0s`"),
            ("0s 1mbit\n1s 2mbit\n1s 3mbit\n2s end", "line 3: 1s is not later than the previous time, 1s"),
            ("0s 1mbit\n1s 2mbit\n1s end", "line 3: 1s is not later than the previous time, 1s"),
            ("0s 1mbit\n1ns end", "line 2: 1ns is less than 1ms later than the previous time, 0"),
            ("0s 1mbit\n1s 2mbit\n1000999us end", "line 3: 1000999us is less than 1ms later"),
            ("0s 1mbit\n\n5 2mbit\n6s end", "line 3: `5` has no unit: a time"),
            ("0s 1mbit\n5s 2\n6s end", "line 2: `2` has no unit: a link rate"),
            ("0s 1mbps\n6s end", "line 1: `1mbps` is ambiguous: write `8mbit` for bytes"),
            ("0s 1mbit 5ms\n6s end", "line 1: `0s 1mbit 5ms` is not a time and a rate"),
            ("0s\n6s end", "line 1: `0s` is not a time and a rate"),
            ("0s 1mbit\n6s end\n7s 1mbit", "line 3: nothing may follow `end`"),
        ] {
            let error = text.parse::<Trace>().unwrap_err().to_string();
            assert!(error.starts_with(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn an_invalid_rate_is_reported_with_its_line() {
        let trace: Trace = "0s 1mbit\n# slow\n1s 10bit\n2s end".parse().unwrap();
        let error = trace.profiles(&Profile::default()).unwrap_err().to_string();
        assert!(error.starts_with("line 3: rate: 10bit is not between"), "{error}");
    }
}
