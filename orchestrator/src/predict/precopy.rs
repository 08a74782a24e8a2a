//! A predictor of pre-copy migrations: will it converge, how long will it take, what will it move?
//!
//! The guest's memory is sent once; meanwhile some of it becomes dirty and is sent again, and so on, until
//! what is left fits into the downtime limit. A pass that takes `t` seconds leaves `min(W, R·t)` dirty, `R`
//! being the rate and `W` the working set, so with a bandwidth `B` the passes shrink by the factor `R / B`
//! once they are smaller than `W·B / R`: below `B` a migration converges, above it does only if the working
//! set itself fits.
//!
//! QEMU does not wait for the end of a pass: it reads the dirty bitmap again whenever what remains of the
//! last reading falls below `B` times the limit (`migration_iteration_run` and `ram_state_pending_exact` of
//! QEMU 10). See [`Reading`].
//!
//! The model knows nothing of TCP's ramp-up, loss, round trips, the time a destination needs to load pages,
//! the phases of a workload, repeated writes to one page in a random order, or the fixed cost of switching
//! over (some 10 ms). It counts guest memory: page headers are part of the bandwidth, see
//! [`payload_bandwidth`], and pages of zeros are taken to be free.

use crate::{matrix::Settings, outcome::Outcome};
use netem::{
    Profile,
    ethernet::{FRAME_BYTES, TCP_PAYLOAD_BYTES},
};
use serde::{Deserialize, Serialize};
use stressor::workload::{Content, PAGE_BYTES, Rate};
use units::{BitRate, ByteRate, Bytes, Span};

/// Non-zero memory of a freshly booted guest, besides what the kernel keeps for each page; see
/// [`booted_memory`].
const BOOTED_FIXED: Bytes = Bytes::new(74_000_000);
/// What a link without a rate is taken to carry. A guess: it is the CPU that limits there.
const UNSHAPED: ByteRate = ByteRate::new(1_000_000_000);
/// Passes without progress after which the stall detector is taken to give up.
const STALL_PASSES: u32 = 8;
/// How long QEMU sends between two looks at what remains (`MAX_WAIT` in migration/ram.c), in seconds.
const SLICE_S: f64 = 0.05;
/// Where the prediction ends, whatever comes: a real migration has met its deadline before so many passes.
const MOST_PASSES: u32 = 10_000;
/// The size of a guest page.
const PAGE: f64 = PAGE_BYTES as f64;

/// What a prediction starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    /// Memory that has to be sent at least once: all that is not zero, the working set included.
    pub memory: Bytes,
    /// The memory that is dirtied over and over; more than `memory` counts as all of it.
    pub working_set: Bytes,
    /// How fast it is dirtied; `u64::MAX` for "as fast as can be".
    pub rate: ByteRate,
    /// Guest memory that can be sent per second.
    pub bandwidth: ByteRate,
    /// The downtime that may be planned for.
    pub downtime_limit: Span,
    /// The deadline.
    pub timeout: Span,
    /// Given up after this many passes.
    pub max_passes: Option<u32>,
    /// Given up after this many passes without progress.
    pub stall_passes: Option<u32>,
    /// When the dirty bitmap is read.
    pub reading: Reading,
}

/// A change in the middle of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// When, counted from the migrate command.
    pub at: Span,
    /// How fast the working set is dirtied from then on.
    pub rate: ByteRate,
    /// Guest memory that can be sent per second from then on.
    pub bandwidth: ByteRate,
}

/// When the dirty bitmap is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Once everything of the last reading is sent: pre-copy as the textbooks have it.
    EndOfPass,
    /// Once what is left of the last reading falls below the downtime limit, as QEMU does. It looks every
    /// 50 ms, so half of what it sends in that time is taken to be gone beyond the limit. What remains then
    /// approaches the limit by the factor `R / B` per reading, in many short passes where the limit is large.
    BelowLimit,
}

/// What is expected to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prediction {
    /// [`Outcome::Converged`] or [`Outcome::NotConverged`].
    pub outcome: Outcome,
    /// Why it is given up; absent when it converges.
    pub reason: Option<Reason>,
    /// From the migrate command to the end, whatever that is.
    pub total_time: Span,
    /// How long the guest is stopped; absent when it never is.
    pub downtime: Option<Span>,
    /// Guest memory sent until the end.
    pub transferred: Bytes,
    /// Readings of the dirty bitmap that were sent, the last one with the guest stopped.
    pub passes: u32,
}

/// Why a migration is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// It would last longer than its timeout.
    Deadline,
    /// It would need more passes than allowed.
    PassCap,
    /// What remains stops shrinking.
    Stall,
}

impl Input {
    /// What a cell's settings amount to.
    pub fn from_settings(settings: &Settings) -> Self {
        // Zeros are free to send.
        let sent = |content, size| if content == Content::Zero { Bytes::ZERO } else { size };
        let working_set = settings.stress.working_set_bytes().unwrap_or_default();
        let working_set = sent(settings.stress.content, working_set);
        let ballast = sent(settings.guest.ballast_content, settings.guest.ballast);
        let parts = [booted_memory(settings.guest.memory), ballast, working_set];
        let memory = parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.get()));
        let migrate = &settings.migrate;
        Self {
            memory: Bytes::new(memory.min(settings.guest.memory.get())),
            working_set,
            rate: byte_rate(settings.stress.rate),
            bandwidth: bandwidth(settings),
            downtime_limit: migrate.downtime_limit,
            timeout: migrate.timeout,
            max_passes: migrate.max_passes,
            stall_passes: migrate.stall_detection.then_some(STALL_PASSES),
            reading: Reading::BelowLimit,
        }
    }

    /// Plays the migration through.
    pub fn predict(&self) -> Prediction {
        self.predict_with(&[])
    }

    /// Plays the migration through, with these changes, which are in order. A stall is not seen before the
    /// last.
    pub fn predict_with(&self, changes: &[Change]) -> Prediction {
        let mut run = Run { input: self, changes, time: 0.0, sent: 0.0, passes: 0, stalled: 0 };
        let mut remaining = self.memory.max(self.working_set).get() as f64;
        if self.bandwidth.is_zero() {
            return run.given_up(Reason::Deadline);
        }
        loop {
            let bandwidth = run.conditions().bandwidth;
            let limit = bandwidth * self.downtime_limit.as_secs_f64();
            // A limit of zero is met by nothing less than a single page.
            if remaining <= limit.max(PAGE) {
                let last = remaining / bandwidth;
                let in_time = run.send(remaining).is_some();
                return if in_time { run.converged(last) } else { run.given_up(Reason::Deadline) };
            }
            if self.max_passes.is_some_and(|most| run.passes >= most) {
                return run.given_up(Reason::PassCap);
            }
            let kept = match self.reading {
                Reading::EndOfPass => 0.0,
                Reading::BelowLimit => (limit - bandwidth * SLICE_S / 2.0).max(0.0),
            };
            let dirtied = run.send(remaining - kept).filter(|_| run.passes < MOST_PASSES);
            let Some(dirtied) = dirtied else { return run.given_up(Reason::Deadline) };
            let working_set = self.working_set.get() as f64;
            // What the first reading leaves unsent is any memory; later, it is part of the working set.
            let most = if run.passes == 1 { kept + working_set } else { kept.max(working_set) };
            let next = (kept + dirtied).min(most);
            let settled = run.conditions().until == f64::INFINITY;
            run.stalled = if next < remaining || !settled { 0 } else { run.stalled + 1 };
            if self.stall_passes.is_some_and(|most| run.stalled >= most) {
                return run.given_up(Reason::Stall);
            }
            remaining = next;
        }
    }
}

/// A migration as far as it has got.
struct Run<'a> {
    input: &'a Input,
    changes: &'a [Change],
    /// Seconds since the start.
    time: f64,
    /// Bytes.
    sent: f64,
    passes: u32,
    /// Passes since the last progress.
    stalled: u32,
}

/// What holds at some moment: bytes per second, and the second at which it changes.
struct Conditions {
    rate: f64,
    bandwidth: f64,
    until: f64,
}

impl Run<'_> {
    fn conditions(&self) -> Conditions {
        let past = self.changes.partition_point(|change| change.at.as_secs_f64() <= self.time);
        let (rate, bandwidth) = match past.checked_sub(1).map(|last| self.changes[last]) {
            Some(change) => (change.rate, change.bandwidth),
            None => (self.input.rate, self.input.bandwidth),
        };
        let until = self.changes.get(past).map_or(f64::INFINITY, |change| change.at.as_secs_f64());
        Conditions { rate: rate.get() as f64, bandwidth: bandwidth.get() as f64, until }
    }

    /// Sends this many bytes; how many became dirty meanwhile. Where the deadline comes first, nothing, and
    /// only what it left time for is sent.
    fn send(&mut self, mut bytes: f64) -> Option<f64> {
        let deadline = self.input.timeout.as_secs_f64();
        let mut dirtied = 0.0;
        self.passes += 1;
        loop {
            let Conditions { rate, bandwidth, until } = self.conditions();
            let end = until.min(deadline);
            let (left, needed) = (end - self.time, bytes / bandwidth);
            if needed <= left {
                self.time += needed;
                self.sent += bytes;
                return Some(dirtied + rate * needed);
            }
            self.time = end;
            self.sent += left * bandwidth;
            bytes -= left * bandwidth;
            dirtied += rate * left;
            if end >= deadline {
                return None;
            }
        }
    }

    /// With the guest stopped for this long, in seconds.
    fn converged(&self, downtime: f64) -> Prediction {
        Prediction {
            outcome: Outcome::Converged,
            reason: None,
            total_time: span(self.time),
            downtime: Some(span(downtime)),
            transferred: Bytes::new(self.sent as u64),
            passes: self.passes,
        }
    }

    fn given_up(&self, reason: Reason) -> Prediction {
        // Passes without number are not counted to the end.
        let time = if reason == Reason::Deadline { self.input.timeout } else { span(self.time) };
        let rest = (time.as_secs_f64() - self.time).max(0.0) * self.conditions().bandwidth;
        Prediction {
            outcome: Outcome::NotConverged,
            reason: Some(reason),
            total_time: time,
            downtime: None,
            transferred: Bytes::new((self.sent + rest) as u64),
            passes: self.passes,
        }
    }
}

/// What is expected of a migration with these settings, its timeline included.
pub fn predict(settings: &Settings) -> Prediction {
    let input = Input::from_settings(settings);
    let (mut rate, mut carried) = (input.rate, input.bandwidth);
    let steps = settings.steps().into_iter();
    let changes: Vec<Change> = steps
        .map(|step| {
            rate = step.workload.map_or(rate, |workload| byte_rate(workload.rate));
            carried = step.link.map_or(carried, |link| bandwidth_over(&link, settings));
            Change { at: step.at, rate, bandwidth: carried }
        })
        .collect();
    input.predict_with(&changes)
}

fn byte_rate(rate: Rate) -> ByteRate {
    match rate {
        Rate::Limited(rate) => rate,
        Rate::Unlimited => ByteRate::new(u64::MAX),
    }
}

/// Seconds as a span; saturates.
fn span(seconds: f64) -> Span {
    Span::from_nanos((seconds * 1e9) as u64)
}

/// The guest memory that one TCP stream over a link of this rate carries per second.
///
/// The kernel's shapers count Ethernet frames without preamble and check sequence: 1514 bytes at an MTU of
/// 1500, of which IP and TCP headers with timestamps (RFC 7323) leave 1448 for payload. In it, QEMU puts a
/// header of 8 bytes before each page of 4096 (`save_page_header` in migration/ram.c). 940 mbit carry
/// 112.2 MB/s.
pub fn payload_bandwidth(link: BitRate) -> ByteRate {
    let payload = u128::from(link.get()) / 8 * u128::from(TCP_PAYLOAD_BYTES) / u128::from(FRAME_BYTES);
    without_page_headers(payload)
}

/// What of a migration stream is guest memory.
fn without_page_headers(stream: u128) -> ByteRate {
    const PAGE: u128 = PAGE_BYTES as u128;
    const HEADER: u128 = 8;
    ByteRate::new(u64::try_from(stream * PAGE / (PAGE + HEADER)).unwrap_or(u64::MAX))
}

/// The guest memory that these settings let through per second: the link, or QEMU's own cap if that is less.
pub fn bandwidth(settings: &Settings) -> ByteRate {
    bandwidth_over(&settings.link, settings)
}

/// The same over another link.
fn bandwidth_over(link: &Profile, settings: &Settings) -> ByteRate {
    let link = link.rate.map_or(UNSHAPED, payload_bandwidth);
    let cap = settings.migrate.max_bandwidth.map(|cap| without_page_headers(cap.to_byte_rate().get().into()));
    cap.map_or(link, |cap| cap.min(link))
}

/// The non-zero memory of a guest that has booted and does nothing: 74 MB for kernel, initramfs and stressor,
/// and the 64 bytes that Linux keeps for each page of 4 KiB. Measured with Debian's cloud kernel 6.1 on 1
/// GiB: idle guests with 300 and 360 MiB of ballast moved 405 and 468 MB, so 90.5 MB besides the ballast.
pub fn booted_memory(guest: Bytes) -> Bytes {
    Bytes::new(BOOTED_FIXED.get() + guest.get() / 64)
}

#[cfg(test)]
mod tests;
