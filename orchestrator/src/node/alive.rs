//! Keep-alives between the orchestrator and a node on another host, and how long each waits for the other.
//!
//! The orchestrator sends a keep-alive every [`INTERVAL`], and the node answers it. Either side assumes that
//! the other is gone after a silence longer than its patience.
//!
//! A busy machine must not look like a cut cable. Two things distinguish them:
//!
//! - Silence counts only while the waiting side itself runs ([`Silence`]). If its own clock was late, it was
//!   stopped or starved, and what the other side sent may still be in a buffer of this host.
//! - The patience follows the round trips of the latest keep-alives ([`KeepAlives`]). A round trip begins
//!   when its keep-alive was due, so it includes the time for which the orchestrator was late itself. The
//!   orchestrator tells the node its patience with each keep-alive.
//!
//! On a healthy machine, where round trips are shorter than half a second, a cut cable is noticed after
//! [`LEAST_PATIENCE`]. On a busy one it takes up to [`MOST_PATIENCE`].

use std::{
    collections::VecDeque,
    fs,
    time::{Duration, Instant},
};

/// The interval at which the orchestrator sends keep-alives to a node on another host.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// The shortest patience: the time of four keep-alives.
pub const LEAST_PATIENCE: Duration = Duration::from_secs(8);

/// The longest patience. A cut cable may keep the interfaces of a host in use, and a user waiting, for this
/// long; but a machine on which a keep-alive takes longer does not measure anything useful.
pub const MOST_PATIENCE: Duration = Duration::from_secs(60);

/// The patience as a multiple of the longest recent round trip. TCP gives up after as many attempts
/// (`tcp_retries2` is 15).
const ROUND_TRIPS: u32 = 16;

/// The number of round trips that are remembered: about a minute's worth.
const REMEMBERED: usize = 32;

/// The interval at which each side checks whether the other is silent.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How late a check is if this process did not run: more than a scheduler delays a process that wakes up
/// twice per second.
const STALL: Duration = Duration::from_secs(1);

/// The keep-alives to a node, and the round trips of the latest ones.
#[derive(Debug, Default)]
pub struct KeepAlives {
    /// Whether any keep-alive has been answered.
    connected: bool,
    /// When the keep-alives without an answer were due; `None` for those sent before the first answer, which
    /// show how long it took to connect.
    unanswered: VecDeque<Option<Instant>>,
    /// The latest round trips, the last one first.
    latest: VecDeque<Duration>,
}

impl KeepAlives {
    /// Notes that a keep-alive that was due at this time is being sent.
    pub fn sent(&mut self, due: Instant) {
        self.unanswered.push_back(self.connected.then_some(due));
    }

    /// Notes that the oldest keep-alive without an answer has been answered.
    pub fn answered(&mut self, now: Instant) {
        let Some(due) = self.unanswered.pop_front() else { return };
        self.connected = true;
        let Some(due) = due else { return };
        self.latest.truncate(REMEMBERED - 1);
        self.latest.push_front(now.saturating_duration_since(due));
    }

    /// Returns whether the next keep-alive is due immediately, because no round trip is known yet.
    pub fn is_due_at_once(&self) -> bool {
        self.connected && self.unanswered.is_empty() && self.latest.is_empty()
    }

    /// Returns how long either side waits for the other: between [`LEAST_PATIENCE`] and [`MOST_PATIENCE`],
    /// and the latter until a round trip is known.
    pub fn patience(&self) -> Duration {
        self.latest.iter().max().map_or(MOST_PATIENCE, |longest| {
            longest.saturating_mul(ROUND_TRIPS).clamp(LEAST_PATIENCE, MOST_PATIENCE)
        })
    }
}

/// The silence of the other side, counting only the time in which this process ran.
#[derive(Debug)]
pub struct Silence {
    /// A number that grows with all data that arrives.
    heard: u64,
    looked: Instant,
    /// The silence since data last arrived.
    length: Duration,
    /// The part of the silence since this process last stalled.
    since_stall: Duration,
}

impl Silence {
    /// Begins with no silence. `heard` is a number that grows with all data that arrives.
    pub fn new(now: Instant, heard: u64) -> Self {
        Self { heard, looked: now, length: Duration::ZERO, since_stall: Duration::ZERO }
    }

    /// Checks whether data has arrived. Must be called every [`LOOK_INTERVAL`]; if this process stalled in
    /// between, the other side gets the full patience again.
    pub fn look(&mut self, now: Instant, heard: u64) {
        let passed = now.saturating_duration_since(self.looked);
        self.looked = now;
        if heard != self.heard {
            *self = Self::new(now, heard);
            return;
        }
        let ran = passed.min(LOOK_INTERVAL);
        self.length += ran;
        self.since_stall =
            if passed > LOOK_INTERVAL + STALL { Duration::ZERO } else { self.since_stall + ran };
    }

    /// Returns whether the silence is longer than this patience. Stalls of this process prolong it, but not
    /// beyond [`MOST_PATIENCE`].
    pub fn exceeds(&self, patience: Duration) -> bool {
        self.since_stall >= patience || self.length >= MOST_PATIENCE
    }

    /// Returns the length of the silence, counting only the time in which this process ran.
    pub fn length(&self) -> Duration {
        self.length
    }
}

/// The process that carries the connection to a node on another host, such as `ssh`. It hears from that host
/// even while the node is stopped or starved, if it checks by itself that the host is alive.
#[derive(Debug)]
pub struct Carrier {
    /// The PID.
    pub pid: u32,
}

impl Carrier {
    /// Returns the number of bytes that the process has read so far, from all its inputs; `None` if it is
    /// unknown.
    pub(super) fn read_bytes(&self) -> Option<u64> {
        let io = fs::read_to_string(format!("/proc/{}/io", self.pid)).ok()?;
        io.lines().find_map(|line| line.strip_prefix("rchar: "))?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// Checks at these times, in milliseconds, while nothing arrives. Returns the time of the check at which
    /// the silence exceeds the patience.
    fn given_up(looks: impl IntoIterator<Item = u64>, patience: Duration) -> Option<u64> {
        let start = Instant::now();
        let mut silence = Silence::new(start, 0);
        looks.into_iter().find(|at| {
            silence.look(start + millis(*at), 0);
            silence.exceeds(patience)
        })
    }

    #[test]
    fn a_silent_side_is_given_up_after_the_patience() {
        let punctual = || (1..).map(|look| look * 500).take(1000);
        assert_eq!(given_up(punctual(), LEAST_PATIENCE), Some(8000));
        assert_eq!(given_up(punctual(), MOST_PATIENCE), Some(60_000));
        // A scheduler is always a little late.
        assert_eq!(given_up((1..100).map(|look| look * 503), LEAST_PATIENCE), Some(16 * 503));
    }

    #[test]
    fn time_for_which_this_process_did_not_run_does_not_count() {
        // Stopped for half a minute, after 7 s of silence: the other side gets the full patience again.
        let stopped = (1..15).map(|look| look * 500).chain((0..100).map(|look| 37_000 + look * 500));
        assert_eq!(given_up(stopped, LEAST_PATIENCE), Some(37_000 + 8000));
        // Checks that are late, but not by that much: only the time is not counted.
        assert_eq!(given_up((1..100).map(|look| look * 1400), LEAST_PATIENCE), Some(16 * 1400));
    }

    #[test]
    fn a_machine_that_always_stands_still_gives_up_as_well() {
        let stalls = (1..1000).map(|look| look * 2000);
        assert_eq!(given_up(stalls, LEAST_PATIENCE), Some(120 * 2000), "60 s of its own time");
    }

    #[test]
    fn everything_that_arrives_ends_the_silence() {
        let start = Instant::now();
        let mut silence = Silence::new(start, 0);
        for (look, heard) in (1..100).zip((0..).flat_map(|heard| [heard; 15])) {
            silence.look(start + millis(look * 500), heard);
            assert!(!silence.exceeds(LEAST_PATIENCE), "{silence:?}");
        }
        assert!(silence.length() < LEAST_PATIENCE);
    }

    /// Returns keep-alives of which the first has been answered.
    fn connected(start: Instant) -> KeepAlives {
        let mut keep_alives = KeepAlives::default();
        keep_alives.sent(start);
        keep_alives.answered(start);
        keep_alives
    }

    #[test]
    fn the_patience_follows_the_longest_recent_round_trip() {
        let start = Instant::now();
        let mut keep_alives = connected(start);
        let mut answer_after = |took: Duration| {
            keep_alives.sent(start);
            keep_alives.answered(start + took);
            keep_alives.patience()
        };
        assert_eq!(answer_after(millis(1)), LEAST_PATIENCE);
        assert_eq!(answer_after(millis(499)), LEAST_PATIENCE);
        assert_eq!(answer_after(millis(1500)), millis(24_000));
        for _ in 0..REMEMBERED - 1 {
            assert_eq!(answer_after(millis(3)), millis(24_000));
        }
        assert_eq!(answer_after(millis(3)), LEAST_PATIENCE);
        assert_eq!(answer_after(millis(20_000)), MOST_PATIENCE);
    }

    #[test]
    fn round_trips_begin_when_their_keep_alives_were_due_and_answers_come_in_order() {
        let start = Instant::now();
        let mut keep_alives = connected(start);
        keep_alives.answered(start);
        assert_eq!(keep_alives.patience(), MOST_PATIENCE, "nothing was asked");
        keep_alives.sent(start);
        keep_alives.sent(start + millis(2000));
        assert_eq!(keep_alives.patience(), MOST_PATIENCE, "nothing was answered");
        keep_alives.answered(start + millis(2100));
        assert_eq!(keep_alives.patience(), millis(2100 * 16));
        keep_alives.answered(start + millis(2200));
        assert_eq!(keep_alives.patience(), millis(2100 * 16));
    }

    #[test]
    fn the_time_that_it_takes_to_connect_is_no_round_trip() {
        let start = Instant::now();
        let mut keep_alives = KeepAlives::default();
        for second in [0, 2] {
            keep_alives.sent(start + millis(second * 1000));
        }
        assert!(!keep_alives.is_due_at_once());
        for _ in 0..2 {
            keep_alives.answered(start + millis(3000));
            assert_eq!(keep_alives.patience(), MOST_PATIENCE);
        }
        assert!(keep_alives.is_due_at_once());
        keep_alives.sent(start + millis(3500));
        keep_alives.answered(start + millis(3501));
        assert!(!keep_alives.is_due_at_once());
        assert_eq!(keep_alives.patience(), LEAST_PATIENCE);
    }
}
