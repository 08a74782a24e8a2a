//! The clock of the dirtying threads, behind a trait so that tests can use a simulated clock.
//!
//! The real clock is `CLOCK_MONOTONIC`. Threads sleep until absolute deadlines (`TIMER_ABSTIME`), so a thread
//! that is preempted between reading the clock and going to sleep still wakes up on time, and an interrupted
//! sleep can be repeated without arithmetic. Each dirtying thread sets its timer slack, 50 µs by default, to
//! 1 ns.

use nix::{
    sys::prctl,
    time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep},
};
use std::time::Duration;

/// A clock that a thread can read and sleep on.
pub(crate) trait Clock {
    /// Returns the time in nanoseconds since a fixed but unspecified moment.
    fn now_ns(&self) -> u64;
    /// Sleeps until the time `ns`. May return somewhat later, or earlier if a signal interrupts the sleep.
    fn sleep_until(&self, ns: u64);
}

/// The kernel's clock `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Monotonic;

impl Clock for Monotonic {
    #[inline]
    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }

    fn sleep_until(&self, ns: u64) {
        let until = Duration::from_nanos(ns).into();
        // An interruption does not matter: the caller reads the clock again.
        let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &until);
    }
}

/// Returns the time of the monotonic clock in nanoseconds (on Linux, since boot).
#[inline]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has a monotonic clock");
    now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
}

/// Sets the timer slack of the calling thread to 1 ns, so that it wakes up on time instead of up to 50 µs
/// late.
pub(crate) fn wake_precisely() {
    // This fails only on a kernel that has no timer slack, where it is not needed.
    let _ = prctl::set_timerslack(1);
}
