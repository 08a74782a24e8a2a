//! The only unsafe code of this crate, each piece behind a safe function.
#![allow(unsafe_code)]

unsafe extern "C" {
    /// The error function of the C library, which Rust's standard library does not offer.
    ///
    /// Safe to call: it takes and returns plain numbers and touches no memory.
    safe fn erf(x: f64) -> f64;
}

/// The cumulative distribution function of the standard normal distribution.
pub(crate) fn normal_cdf(x: f64) -> f64 {
    0.5 + 0.5 * erf(x / std::f64::consts::SQRT_2)
}
