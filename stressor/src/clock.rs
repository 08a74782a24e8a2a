//! Time for the dirtying threads: a trait, so that tests can have a clock that does what they say.
//!
//! The real clock is `CLOCK_MONOTONIC`, slept on with absolute deadlines (`TIMER_ABSTIME`): a thread that is
//! preempted between reading the clock and going to sleep still wakes up on time, and an interrupted sleep
//! needs no arithmetic. Timer slack, 50 µs by default, is set to 1 ns for each dirtying thread.

use nix::{
    sys::prctl,
    time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep},
};
use std::time::Duration;

/// A clock that can be slept on.
pub(crate) trait Clock {
    /// Nanoseconds since some fixed moment.
    fn now_ns(&self) -> u64;
    /// Returns when that time has come, or somewhat later, or a little earlier when interrupted.
    fn sleep_until(&self, ns: u64);
}

/// The kernel's monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Monotonic;

impl Clock for Monotonic {
    #[inline]
    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }

    fn sleep_until(&self, ns: u64) {
        let until = Duration::from_nanos(ns).into();
        // Interrupted or not, the caller reads the clock again.
        let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &until);
    }
}

/// The monotonic clock, in nanoseconds (since boot, on Linux).
#[inline]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has a monotonic clock");
    now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
}

/// Has the kernel wake the calling thread when it asked to be, not up to 50 µs later.
pub(crate) fn wake_precisely() {
    // Only a kernel without timer slack refuses, and it needs none.
    let _ = prctl::set_timerslack(1);
}
