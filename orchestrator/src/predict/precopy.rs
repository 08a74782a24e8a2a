//! A model of pre-copy migrations. It predicts whether a migration converges, how long it takes, and how much
//! memory it sends.
//!
//! If a disk has to be copied, that comes first. Then the guest's memory is sent once. Memory that is dirtied
//! in the meantime is sent again, and so on, until the rest fits into the downtime limit. With the dirty rate
//! `R` and the working set `W`, a pass of `t` seconds leaves `min(W, R·t)` dirty. So with a bandwidth `B`,
//! the passes shrink by the factor `R / B` once they are smaller than `W·B / R`. A migration with `R` below
//! `B` converges; one with `R` above `B` converges only if the working set itself fits into the limit.
//!
//! QEMU does not wait for the end of a pass. It reads the dirty bitmap again whenever the remaining memory of
//! the last reading falls below `B` times the downtime limit (`migration_iteration_run` and
//! `ram_state_pending_exact` in QEMU 10). See [`BitmapSync`].
//!
//! The model leaves out TCP's ramp-up, loss, round trips, the time that the destination needs to load pages,
//! repeated writes to the same page in a random order, and the fixed cost of the switchover (some 10 ms). It
//! counts guest memory: page headers reduce the bandwidth, see [`payload_bandwidth`], and zero pages are
//! free.

use crate::{
    matrix::{Cycle, Migrate, Settings, Storage, StorageKind, ZeroPageDetection},
    measure::stall,
    mode::{Mode, When},
    outcome::Outcome,
};
use netem::{
    Profile,
    ethernet::{FRAME_BYTES, TCP_PAYLOAD_BYTES},
};
use serde::Serialize;
use stressor::workload::{Content, PAGE_BYTES, Rate};
use units::{BitRate, ByteRate, Bytes, Span};

/// Non-zero memory of a freshly booted guest, without the part that grows with the guest's memory; see
/// [`booted_memory`].
const BOOTED_FIXED: Bytes = Bytes::new(74_000_000);
/// The assumed bandwidth of a link without a rate. This is a guess: on such a link, the CPU is the limit.
const UNSHAPED: ByteRate = ByteRate::new(1_000_000_000);
/// The number of passes without progress after which the stall detector is assumed to give up.
const STALL_PASSES: u32 = 8;
/// How long QEMU sends before it checks the remaining memory again (`MAX_WAIT` in migration/ram.c), in
/// seconds.
const SLICE_S: f64 = 0.05;
/// The number of passes after which the simulation ends. A real migration reaches its deadline earlier.
const MOST_PASSES: u32 = 10_000;
/// The size of a guest page in bytes.
const PAGE: f64 = PAGE_BYTES as f64;

/// The parameters of a prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    /// The part of the disk that has to be copied before memory is sent.
    pub disk: Bytes,
    /// Memory that has to be sent at least once: all non-zero memory, including the working set.
    pub memory: Bytes,
    /// Memory that is dirtied again and again. More than `memory` counts as all of `memory`.
    pub working_set: Bytes,
    /// The rate at which the working set is dirtied; `u64::MAX` if it is unlimited.
    pub rate: ByteRate,
    /// Guest memory that can be sent per second.
    pub bandwidth: ByteRate,
    /// The downtime that the migration may plan for.
    pub downtime_limit: Span,
    /// The time from the migrate command after which the migration is given up, unless its switchover has
    /// begun.
    pub timeout: Span,
    /// The number of passes after which the migration is given up; any number if absent.
    pub max_passes: Option<u32>,
    /// The number of passes without progress after which the migration is given up; any number if absent.
    pub stall_passes: Option<u32>,
    /// When the dirty bitmap is read again.
    pub bitmap_sync: BitmapSync,
}

/// A change of the dirty rate and the bandwidth during a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduledChange {
    /// The time of the change, counted from the migrate command.
    pub at: Span,
    /// The rate at which the working set is dirtied from then on.
    pub rate: ByteRate,
    /// Guest memory that can be sent per second from then on.
    pub bandwidth: ByteRate,
}

/// The condition for reading the dirty bitmap again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitmapSync {
    /// All memory of the last reading has been sent: textbook pre-copy.
    EndOfPass,
    /// The remaining memory of the last reading has fallen below the downtime limit, as in QEMU. QEMU checks
    /// this every 50 ms, so half of the memory that it sends in that time is assumed to be sent beyond the
    /// limit. The remaining memory then approaches the limit by the factor `R / B` per reading, in many short
    /// passes if the limit is large.
    BelowLimit,
}

/// The predicted result of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prediction {
    /// Either [`Outcome::Converged`] or [`Outcome::NotConverged`].
    pub outcome: Outcome,
    /// The reason for giving up; absent if the migration converges.
    pub reason: Option<Reason>,
    /// The time from the migrate command until the migration completes or is given up.
    pub total_time: Span,
    /// How long the guest is stopped; absent if the migration does not converge.
    pub downtime: Option<Span>,
    /// Guest memory, and blocks of the disk, sent in total.
    pub transferred: Bytes,
    /// The number of readings of the dirty bitmap that were sent, the last one with the guest stopped.
    pub passes: u32,
}

/// The reason for giving up a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The migration would not begin its switchover before its timeout.
    Deadline,
    /// The migration would need more passes than allowed.
    PassCap,
    /// The remaining memory stops shrinking.
    Stall,
}

impl Input {
    /// Returns the parameters for a cell's settings at the start of the migration.
    pub fn from_settings(settings: &Settings) -> Self {
        // Zero pages are free.
        let sent = |content, size| if content == Content::Zero { Bytes::ZERO } else { size };
        let working_set = settings.stress.working_set_bytes().unwrap_or_default();
        let working_set = sent(settings.stress.content, working_set);
        let ballast = sent(settings.guest.ballast_content, settings.guest.ballast);
        let parts = [booted_memory(settings.guest.memory), ballast, working_set];
        let memory = parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.get()));
        let migrate = &settings.migrate;
        let Storage { kind, written, .. } = settings.storage;
        Self {
            disk: if kind == StorageKind::Block { written } else { Bytes::ZERO },
            memory: Bytes::new(memory.min(settings.guest.memory.get())),
            working_set,
            rate: byte_rate(settings.workload().rate),
            bandwidth: bandwidth(settings),
            downtime_limit: migrate.downtime_limit,
            timeout: migrate.timeout,
            max_passes: migrate.max_passes,
            stall_passes: migrate.stall_detection.then_some(STALL_PASSES),
            bitmap_sync: BitmapSync::BelowLimit,
        }
    }

    /// Simulates the migration and returns its result.
    pub fn predict(&self) -> Prediction {
        self.predict_with(&[])
    }

    /// Simulates the migration with these changes, which must be in order, and returns its result. The stall
    /// detector ignores everything before the last change.
    pub fn predict_with(&self, changes: &[ScheduledChange]) -> Prediction {
        self.predict_cycle(changes, None)
    }

    /// Simulates the migration with these changes. With a `cycle`, they only repeat from its beginning on,
    /// and the stall detector judges by whole periods of the cycle.
    fn predict_cycle(&self, changes: &[ScheduledChange], cycle: Option<Cycle>) -> Prediction {
        let mut simulation = Simulation { input: self, changes, time: 0.0, sent: 0.0, passes: 0, stalled: 0 };
        let (cycle_from, window) = cycle.map_or((f64::INFINITY, 0.0), |cycle| {
            (cycle.from.as_secs_f64(), stall::PERIODS * cycle.period.as_secs_f64())
        });
        // When the remaining memory last shrank.
        let mut shrank = 0.0;
        let mut remaining = self.memory.max(self.working_set).get() as f64;
        if self.bandwidth.is_zero() {
            return simulation.given_up(Reason::Deadline);
        }
        let copied = simulation.send(self.disk.get() as f64);
        // That was not a pass over the memory.
        simulation.passes = 0;
        if copied.is_none() {
            return simulation.given_up(Reason::Deadline);
        }
        loop {
            let bandwidth = simulation.rates().bandwidth;
            let limit = bandwidth * self.downtime_limit.as_secs_f64();
            // The rest may always be one page, so that even a limit of zero can be met.
            if remaining <= limit.max(PAGE) {
                return simulation.switch_over(remaining);
            }
            if self.max_passes.is_some_and(|most| simulation.passes >= most) {
                return simulation.given_up(Reason::PassCap);
            }
            // The memory that is still unsent when the bitmap is read again.
            let kept = match self.bitmap_sync {
                BitmapSync::EndOfPass => 0.0,
                BitmapSync::BelowLimit => (limit - bandwidth * SLICE_S / 2.0).max(0.0),
            };
            let dirtied = simulation.send(remaining - kept).filter(|_| simulation.passes < MOST_PASSES);
            let Some(dirtied) = dirtied else { return simulation.given_up(Reason::Deadline) };
            let working_set = self.working_set.get() as f64;
            // The first reading covers all memory, so the part left unsent comes on top of the working set.
            // Later readings cover only the working set, which includes the unsent part.
            let most = if simulation.passes == 1 { kept + working_set } else { kept.max(working_set) };
            let next = (kept + dirtied).min(most);
            let settled = simulation.rates().until == f64::INFINITY || simulation.time >= cycle_from;
            if next < remaining || !settled {
                (simulation.stalled, shrank) = (0, simulation.time);
            } else {
                simulation.stalled += 1;
            }
            let is_judged = simulation.time - shrank >= window;
            if is_judged && self.stall_passes.is_some_and(|most| simulation.stalled >= most) {
                return simulation.given_up(Reason::Stall);
            }
            remaining = next;
        }
    }
}

/// The state of a simulated migration.
struct Simulation<'a> {
    input: &'a Input,
    changes: &'a [ScheduledChange],
    /// Seconds since the migrate command.
    time: f64,
    /// Bytes sent so far.
    sent: f64,
    passes: u32,
    /// The number of passes since the last progress.
    stalled: u32,
}

/// The rates in force at a moment, in bytes per second, and the time in seconds at which they change.
struct Rates {
    dirty_rate: f64,
    bandwidth: f64,
    until: f64,
}

impl Simulation<'_> {
    fn rates(&self) -> Rates {
        let past = self.changes.partition_point(|change| change.at.as_secs_f64() <= self.time);
        let (rate, bandwidth) = match past.checked_sub(1).map(|last| self.changes[last]) {
            Some(change) => (change.rate, change.bandwidth),
            None => (self.input.rate, self.input.bandwidth),
        };
        let until = self.changes.get(past).map_or(f64::INFINITY, |change| change.at.as_secs_f64());
        Rates { dirty_rate: rate.get() as f64, bandwidth: bandwidth.get() as f64, until }
    }

    /// Sends this many bytes, as one pass. Returns the bytes dirtied in the meantime, or nothing if the
    /// deadline comes first; then only part of the bytes is sent.
    fn send(&mut self, mut bytes: f64) -> Option<f64> {
        let deadline = self.input.timeout.as_secs_f64();
        let mut dirtied = 0.0;
        self.passes += 1;
        loop {
            let Rates { dirty_rate, bandwidth, until } = self.rates();
            let end = until.min(deadline);
            let (left, needed) = (end - self.time, bytes / bandwidth);
            if needed <= left {
                self.time += needed;
                self.sent += bytes;
                return Some(dirtied + dirty_rate * needed);
            }
            self.time = end;
            self.sent += left * bandwidth;
            bytes -= left * bandwidth;
            dirtied += dirty_rate * left;
            if end >= deadline {
                return None;
            }
        }
    }

    /// Sends the last bytes while the guest is stopped, and returns the prediction. A switchover that begins
    /// before the deadline is no longer given up, and nothing changes until it ends.
    fn switch_over(&mut self, bytes: f64) -> Prediction {
        let bandwidth = self.rates().bandwidth;
        if bandwidth == 0.0 || self.time >= self.input.timeout.as_secs_f64() {
            return self.given_up(Reason::Deadline);
        }
        let downtime = bytes / bandwidth;
        self.passes += 1;
        self.time += downtime;
        self.sent += bytes;
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
        // After MOST_PASSES the simulation ends before the deadline. The rest is sent at a constant rate.
        let time = if reason == Reason::Deadline { self.input.timeout } else { span(self.time) };
        let rest = (time.as_secs_f64() - self.time).max(0.0) * self.rates().bandwidth;
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

/// Predicts a migration with these settings, including their timeline and other scheduled rates. Returns
/// nothing if the model does not cover them: it covers plain pre-copy, which neither slows the guest down nor
/// compresses its memory, over connections that fill the link.
pub fn predict(settings: &Settings) -> Option<Prediction> {
    covers(settings).then(|| estimate(settings))
}

/// Predicts a migration with these settings, but at this dirty rate, as [`predict`] does.
pub fn predict_at(settings: &Settings, rate: ByteRate) -> Option<Prediction> {
    let mut settings = settings.clone();
    settings.stress.rate = Rate::Limited(rate);
    predict(&settings)
}

/// Predicts a migration as if it were plain pre-copy, to estimate how long it takes.
pub fn estimate(settings: &Settings) -> Prediction {
    let input = Input::from_settings(settings);
    let (mut rate, mut bandwidth) = (input.rate, input.bandwidth);
    let steps = settings.steps().into_iter();
    let changes: Vec<ScheduledChange> = steps
        .map(|step| {
            rate = step.workload.map_or(rate, |workload| byte_rate(workload.rate));
            bandwidth = step.link.map_or(bandwidth, |link| bandwidth_over(&link, settings));
            ScheduledChange { at: step.at, rate, bandwidth }
        })
        .collect();
    input.predict_cycle(&changes, settings.cycle())
}

fn byte_rate(rate: Rate) -> ByteRate {
    match rate {
        Rate::Limited(rate) => rate,
        Rate::Unlimited => ByteRate::new(u64::MAX),
    }
}

/// Converts seconds into a span, saturating.
fn span(seconds: f64) -> Span {
    Span::from_nanos((seconds * 1e9) as u64)
}

fn covers(settings: &Settings) -> bool {
    let Migrate {
        mode,
        auto_converge,
        dirty_limit,
        xbzrle,
        compress,
        multifd_compression,
        zero_page_detection,
        ..
    } = &settings.migrate;
    *mode == Mode::Precopy
        && settings.migrate.pause() == When::NEVER
        && !(*auto_converge || *dirty_limit || *xbzrle || *compress)
        && multifd_compression.is_none()
        && *zero_page_detection != ZeroPageDetection::None
        && (settings.link.tcp_tuning || !has_delay(settings))
}

/// Returns whether the link has a delay at any time, which may keep a connection from reaching its rate.
fn has_delay(settings: &Settings) -> bool {
    let later = settings.steps().into_iter().filter_map(|step| step.link).any(|link| !link.delay.is_zero());
    !settings.link.delay.is_zero() || later
}

/// Returns the guest memory that one TCP stream over a link of this rate carries per second.
///
/// The kernel's shapers count Ethernet frames without preamble and frame check sequence: 1514 bytes at an MTU
/// of 1500 bytes. IP and TCP headers with timestamps (RFC 7323) leave 1448 bytes of that for payload. In the
/// payload, QEMU puts a header of 8 bytes before each page of 4096 (`save_page_header` in migration/ram.c).
/// So 940 Mbit/s carry 112.2 MB/s.
pub fn payload_bandwidth(link: BitRate) -> ByteRate {
    let payload = u128::from(link.get()) / 8 * u128::from(TCP_PAYLOAD_BYTES) / u128::from(FRAME_BYTES);
    without_page_headers(payload)
}

/// Returns the rate of guest memory in a migration stream of this rate, in bytes per second.
fn without_page_headers(stream: u128) -> ByteRate {
    const PAGE: u128 = PAGE_BYTES as u128;
    const HEADER: u128 = 8;
    ByteRate::new(u64::try_from(stream * PAGE / (PAGE + HEADER)).unwrap_or(u64::MAX))
}

/// Returns the guest memory that can be sent per second with these settings: limited by the link, or by
/// QEMU's own bandwidth limit if that is lower.
pub fn bandwidth(settings: &Settings) -> ByteRate {
    bandwidth_over(&settings.link.at_start(), settings)
}

/// Returns the same as [`bandwidth`], but over the given link.
fn bandwidth_over(link: &Profile, settings: &Settings) -> ByteRate {
    let link = link.rate.map_or(UNSHAPED, payload_bandwidth);
    let cap = settings.migrate.max_bandwidth.map(|cap| without_page_headers(cap.to_byte_rate().get().into()));
    cap.map_or(link, |cap| cap.min(link))
}

/// Returns the non-zero memory of an idle guest that has just booted: 74 MB for kernel, initramfs and
/// stressor, and the 64 bytes that Linux keeps for each page of 4 KiB.
///
/// Measured with Debian's cloud kernel 6.1 and 1 GiB of memory: idle guests with 300 and 360 MiB of ballast
/// sent 405 and 468 MB, which is 90.5 MB besides the ballast.
pub fn booted_memory(guest: Bytes) -> Bytes {
    Bytes::new(BOOTED_FIXED.get() + guest.get() / 64)
}

#[cfg(test)]
mod tests;
