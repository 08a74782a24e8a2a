//! What a probe sees while it runs, for viewers of a run in progress. Its report at the end does not depend
//! on this.
//!
//! A window is reported as soon as it is over and all of its requests have been answered, or else after
//! [`PATIENCE`]. It is reported again if another reply arrives later.
//!
//! Reports are made right after a request is sent, and must not delay the next request. So they go into a
//! queue from which another task takes them, and never wait: while the queue is full, windows stay
//! unreported. Nothing is lost, since the probe keeps its requests anyway, and later reports catch up.

use super::{Request, Requests};
use crate::node::protocol::{ProbeProgress, ProgressWindow};
use std::{collections::BTreeSet, ops::Range, time::Duration};
use tokio::sync::mpsc;

/// The number of reports that may wait in the queue.
pub(crate) const QUEUE: usize = 4;

/// The shortest time between two reports.
const INTERVAL: Duration = Duration::from_millis(100);

/// How long a window waits for replies after its end until it is reported without them.
const PATIENCE: Duration = Duration::from_secs(1);

/// The largest number of windows in a report.
const MOST_WINDOWS: usize = 64;

/// What a probe has already reported, and where further reports go.
pub(super) struct Reporter {
    queue: mpsc::Sender<ProbeProgress>,
    window_ns: u64,
    /// When the next report may be made, in nanoseconds of the monotonic clock.
    due_ns: u64,
    /// The number of the first window that has not been reported.
    next: u64,
    /// The windows before that one that have to be reported again.
    changed: BTreeSet<u64>,
}

impl Reporter {
    pub(super) fn new(queue: mpsc::Sender<ProbeProgress>, window_ns: u64) -> Self {
        Self { queue, window_ns, due_ns: 0, next: 0, changed: BTreeSet::new() }
    }

    /// Notes that the last request with this sequence number has been answered.
    pub(super) fn answered(&mut self, requests: &mut Requests, sequence: u16) {
        let Some(began_ns) = requests.began_ns() else { return };
        let Some(request) = requests.last_of(sequence) else { return };
        let window = (request.made_ns - began_ns) / self.window_ns;
        if window < self.next {
            self.changed.insert(window);
        }
    }

    /// Reports what is new, if it is time and the queue has room. `requests` must include every request made
    /// before `now_ns`.
    pub(super) fn report(&mut self, requests: &Requests, now_ns: u64) {
        let Some(began_ns) = requests.began_ns().filter(|_| now_ns >= self.due_ns) else { return };
        let Ok(place) = self.queue.try_reserve() else { return };
        self.due_ns = now_ns + INTERVAL.as_nanos() as u64;
        let mut windows = Vec::new();
        while windows.len() < MOST_WINDOWS
            && let Some(number) = self.changed.pop_first()
        {
            windows.push(window(requests, number, self.times(began_ns, number)));
        }
        while windows.len() < MOST_WINDOWS {
            let times = self.times(began_ns, self.next);
            let age_ns = now_ns.checked_sub(times.end);
            let found = window(requests, self.next, times);
            let is_settled = |age_ns| found.unanswered == 0 || u128::from(age_ns) >= PATIENCE.as_nanos();
            if !age_ns.is_some_and(is_settled) {
                break;
            }
            // A probe that stalled has not made any requests.
            windows.extend(Some(found).filter(|window| window.requests > 0));
            self.next += 1;
        }
        if !windows.is_empty() {
            place.send(ProbeProgress {
                began_before_ns: now_ns.saturating_sub(began_ns),
                window_ns: self.window_ns,
                windows,
            });
        }
    }

    /// Returns the interval of a window, in nanoseconds of the monotonic clock.
    fn times(&self, began_ns: u64, number: u64) -> Range<u64> {
        let from = began_ns + number * self.window_ns;
        from..from + self.window_ns
    }
}

/// Returns what has happened so far to the requests made in this interval.
fn window(requests: &Requests, number: u64, times: Range<u64>) -> ProgressWindow {
    let index = |at_ns| requests.made.partition_point(|request| request.made_ns < at_ns);
    let made: &[Request] = &requests.made[index(times.start)..index(times.end)];
    let mut round_trips: Vec<u64> = made.iter().filter_map(|request| request.round_trip_ns).collect();
    round_trips.sort_unstable();
    ProgressWindow {
        number,
        requests: made.len() as u64,
        unanswered: (made.len() - round_trips.len()) as u64,
        longest_ns: round_trips.last().copied(),
        median_ns: round_trips.get(round_trips.len() / 2).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> u64 {
        n * 1_000_000
    }

    /// A probe that sends requests every 10 ms, starting at 500 ms.
    struct Probing {
        requests: Requests,
        reporter: Reporter,
        reports: mpsc::Receiver<ProbeProgress>,
    }

    impl Probing {
        fn new() -> Self {
            let (queue, reports) = mpsc::channel(QUEUE);
            let reporter = Reporter::new(queue, ms(50));
            Self { requests: Requests::default(), reporter, reports }
        }

        /// Makes requests with these round trips in milliseconds; `None` stands for no reply.
        fn request(&mut self, round_trips_ms: &[Option<u64>]) {
            for round_trip in round_trips_ms {
                let now_ns = ms(500 + 10 * self.requests.made.len() as u64);
                self.requests.made(now_ns, true);
                self.reporter.report(&self.requests, now_ns);
                self.requests.made.last_mut().unwrap().round_trip_ns = round_trip.map(ms);
            }
        }

        /// Answers a request.
        fn answer(&mut self, number: u16, round_trip_ms: u64) {
            self.requests.made[usize::from(number)].round_trip_ns = Some(ms(round_trip_ms));
            self.reporter.answered(&mut self.requests, number);
        }

        /// Returns the reported windows so far: `NUMBER:UNANSWERED/REQUESTS LONGEST MEDIAN`.
        fn reported(&mut self) -> Vec<String> {
            let shown = |ns: Option<u64>| ns.map_or("-".into(), |ns| (ns / 1_000_000).to_string());
            let mut windows = Vec::new();
            while let Ok(report) = self.reports.try_recv() {
                assert_eq!((report.window_ns, report.began_before_ns % ms(10)), (ms(50), 0));
                windows.extend(report.windows.iter().map(|window| {
                    let ProgressWindow { number, requests, unanswered, longest_ns, median_ns } = *window;
                    format!("{number}:{unanswered}/{requests} {} {}", shown(longest_ns), shown(median_ns))
                }));
            }
            windows
        }
    }

    #[test]
    fn a_window_is_reported_when_it_is_over_and_answered() {
        let mut probing = Probing::new();
        probing.request(&[Some(1), Some(9), Some(2), Some(3), Some(2)]);
        assert_eq!(probing.reported(), [""; 0], "it is not over");
        probing.request(&[Some(1); 10]);
        assert_eq!(probing.reported(), ["0:0/5 9 2", "1:0/5 1 1"]);
        probing.request(&[Some(1); 10]);
        assert_eq!(probing.reported(), ["2:0/5 1 1", "3:0/5 1 1"], "each once");
    }

    #[test]
    fn what_was_lost_is_reported_after_a_while_and_corrected_by_a_late_reply() {
        let mut probing = Probing::new();
        probing.request(&[Some(1), Some(1), None, None, Some(5)]);
        probing.request(&[None; 5]);
        probing.request(&[Some(1); 90]);
        assert_eq!(probing.reported(), [""; 0], "replies may still arrive");
        probing.request(&[Some(1); 20]);
        let reported = probing.reported();
        assert_eq!(reported[..3], ["0:2/5 5 1", "1:5/5 - -", "2:0/5 1 1"], "no reply is no round trip of 0");
        assert_eq!(reported.len(), 22);
        probing.answer(7, 1_100);
        probing.request(&[Some(1); 10]);
        assert_eq!(probing.reported(), ["1:4/5 1100 1100", "22:0/5 1 1", "23:0/5 1 1"]);
    }

    #[test]
    fn a_full_queue_delays_reports_and_loses_nothing() {
        let mut probing = Probing::new();
        probing.request(&vec![Some(1); 2_000]);
        let first = probing.reported();
        // Every report that fitted into the queue has two windows.
        assert_eq!(first.len(), 2 * QUEUE);
        probing.request(&vec![Some(1); 100]);
        let rest = probing.reported();
        let numbers = first.iter().chain(&rest).map(|window| window.split(':').next().unwrap().to_owned());
        let expected: Vec<String> = (0..first.len() + rest.len()).map(|number| number.to_string()).collect();
        assert_eq!(numbers.collect::<Vec<_>>(), expected);
        assert!(rest.len() > 2 * MOST_WINDOWS, "{}", rest.len());
    }

    #[test]
    fn a_probe_that_stood_still_reports_no_window_of_that_time() {
        let mut probing = Probing::new();
        probing.request(&[Some(1); 5]);
        let now_ns = ms(500 + 60_000);
        probing.requests.made(now_ns, true);
        probing.reporter.report(&probing.requests, now_ns);
        assert_eq!(probing.reported(), ["0:0/5 1 1"]);
    }

    #[test]
    fn nobody_who_takes_reports_is_no_reason_to_stop() {
        let mut probing = Probing::new();
        probing.reports.close();
        probing.request(&[Some(1); 100]);
        assert_eq!(probing.reported(), [""; 0]);
    }
}
