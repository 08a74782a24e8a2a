//! The section `probe` of a matrix: the client that measures the downtime from outside.

use super::field::section;
use units::Span;

section! {
    /// The probe: a client on the controller that pings the guest at a fixed interval, and so measures the
    /// downtime as a client of the guest sees it.
    pub struct Probe {
        /// The time between two pings, from `1ms` to `1s`. It is the resolution of the downtime that the
        /// probe measures. `0` disables the probe.
        pub interval: Span = Span::from_millis(10),
    }
}
