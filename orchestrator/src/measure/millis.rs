//! Milliseconds, as results hold them: rounded to whole microseconds. More digits would suggest an accuracy
//! that is not there.

use std::time::Duration;

/// Returns a duration in milliseconds, rounded to whole microseconds.
pub fn millis(duration: Duration) -> f64 {
    round_micros(duration.as_secs_f64() * 1e3)
}

/// Returns milliseconds rounded to whole microseconds.
pub fn round_micros(millis: f64) -> f64 {
    (millis * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_rounded_to_the_microsecond() {
        assert_eq!(round_micros(1.234_567_8).to_string(), "1.235");
        assert_eq!(millis(Duration::from_nanos(1_234_567)).to_string(), "1.235");
    }
}
