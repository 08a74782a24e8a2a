//! The trace format of Mahimahi's `mm-link`, in which traces of mobile networks are published.
//!
//! Each line is a time in whole milliseconds, counted from the start of the trace, at which the link can
//! deliver one packet of 1500 bytes. Times may be repeated, and do not descend. The last one is the length of
//! the trace.
//!
//! Packets are counted in windows of 100 ms, and each window has the rate that delivers its packets evenly. A
//! packet at the end of a window belongs to it.

use super::{Step, Trace, TraceError, TraceRate, content};
use units::Span;

/// The time over which packets are counted, in milliseconds: a few samples of a migration, and much longer
/// than setting a rate takes.
const WINDOW_MS: u64 = 100;

/// The longest trace, in milliseconds: a day.
const MAX_MS: u64 = 24 * 60 * 60 * 1000;

/// Returns whether a text is in this format: its first line that is not blank or a comment is a number
/// without a unit.
pub(super) fn is_used(text: &str) -> bool {
    let first = text.lines().map(|line| content(line).trim()).find(|line| !line.is_empty());
    first.is_some_and(|line| line.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Parses a trace that has at least one number.
pub(super) fn parse<R: TraceRate>(text: &str) -> Result<Trace<R>, TraceError> {
    let mut windows = Windows { steps: Vec::new(), number: 0, packets: 0, line: 1 };
    let mut last_ms = 0;
    for (line, written) in (1..).zip(text.lines()) {
        let error = |problem: String| TraceError { line, problem };
        let written = content(written).trim();
        if written.is_empty() {
            continue;
        }
        let ms = written.parse::<u64>().ok().filter(|_| !written.starts_with('+')).ok_or_else(|| {
            error(format!("`{written}` is not a time in whole milliseconds, like the lines before it"))
        })?;
        if ms > MAX_MS {
            return Err(error(format!("{ms} ms is more than a day")));
        }
        if ms < last_ms {
            return Err(error(format!("{ms} ms is earlier than the previous time, {last_ms} ms")));
        }
        windows.add(ms, line);
        last_ms = ms;
    }
    if last_ms == 0 {
        let line = text.lines().count() + 1;
        return Err(TraceError {
            line,
            problem: "the trace ends at 0 ms; its last time must be later".into(),
        });
    }
    windows.close(last_ms - windows.number * WINDOW_MS);
    Ok(Trace { steps: windows.steps, length: Span::from_millis(last_ms) })
}

/// The windows of a trace, up to the current one.
struct Windows<R> {
    steps: Vec<Step<R>>,
    /// The number of the current window.
    number: u64,
    /// Its packets so far.
    packets: u64,
    /// The line of its first packet.
    line: usize,
}

impl<R: TraceRate> Windows<R> {
    fn add(&mut self, ms: u64, line: usize) {
        let number = ms.saturating_sub(1) / WINDOW_MS;
        if number > self.number {
            self.close(WINDOW_MS);
            self.line = line;
            if number > self.number + 1 {
                self.number += 1;
                self.close(WINDOW_MS);
            }
            self.number = number;
        }
        self.packets += 1;
    }

    /// Ends the current window, which lasts this long.
    fn close(&mut self, ms: u64) {
        let rate = R::of_packets(std::mem::take(&mut self.packets), Span::from_millis(ms));
        if self.steps.last().is_none_or(|before| before.rate != rate) {
            self.steps.push(Step { at: Span::from_millis(self.number * WINDOW_MS), rate, line: self.line });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::iter;

    /// Returns a trace with these times.
    fn text(times: impl IntoIterator<Item = u64>) -> String {
        times.into_iter().map(|ms| ms.to_string()).collect::<Vec<_>>().join("\n")
    }

    fn steps(text: &str) -> (Vec<String>, Span) {
        let trace: Trace = text.parse().unwrap();
        let steps = trace.steps().iter().map(|step| format!("{} {}", step.at, step.rate));
        (steps.collect(), trace.length())
    }

    #[test]
    fn packets_become_the_rate_of_their_window() {
        // A packet every millisecond is 1514 bytes per millisecond.
        assert_eq!(steps(&text(1..=1000)), (vec!["0 12112kbit".into()], Span::from_secs(1)));
        // Nine packets in the first window, none in the next two, one at the very end of the fourth.
        let text = format!("# an outage\n0\n{}100\n400\n", "20\n".repeat(7));
        let expected = ["0 1090080bit", "100ms 1kbit", "300ms 121120bit"];
        assert_eq!(steps(&text), (expected.map(Into::into).to_vec(), Span::from_millis(400)));
        // The last window is shorter.
        let expected = ["0 121120bit", "100ms 242240bit"];
        assert_eq!(steps("100\n150\n"), (expected.map(Into::into).to_vec(), Span::from_millis(150)));
    }

    #[test]
    fn all_packets_are_delivered_in_the_long_run() {
        let times = iter::successors(Some(3), |ms| Some(ms + ms * 7 % 11)).take(3000);
        let trace: Trace = text(times).parse().unwrap();
        let ends = trace.steps().iter().skip(1).map(|step| step.at).chain([trace.length()]);
        let bits: f64 = trace
            .steps()
            .iter()
            .zip(ends)
            .map(|(step, end)| step.rate.get() as f64 * (end.as_secs_f64() - step.at.as_secs_f64()))
            .sum();
        let packets = bits / 8.0 / 1514.0;
        assert!((packets - 3000.0).abs() < 1.0, "{packets}");
    }

    #[test]
    fn errors_name_their_line() {
        for (text, says) in [
            ("5\n4\n", "line 2: 4 ms is earlier than the previous time, 5 ms"),
            ("5\n\n6ms\n", "line 3: `6ms` is not a time in whole milliseconds"),
            ("5\n7 8\n", "line 2: `7 8` is not a time"),
            ("5\n-7\n", "line 2: `-7` is not a time"),
            ("5\n+7\n", "line 2: `+7` is not a time"),
            ("0\n0\n", "line 3: the trace ends at 0 ms"),
            ("86400001\n", "line 1: 86400001 ms is more than a day"),
            ("99999999999999999999\n", "line 1: `99999999999999999999` is not a time"),
        ] {
            let error = text.parse::<Trace>().unwrap_err().to_string();
            assert!(error.starts_with(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_long_outage_takes_no_memory() {
        let (steps, length) = steps("1\n86400000\n");
        assert_eq!((steps.len(), length), (3, Span::from_secs(86_400)));
    }
}
