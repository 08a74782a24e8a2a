//! Converts samples of a page count into rates over windows of time.

use std::time::Duration;

/// The lengths of the windows that are reported.
pub(crate) const WINDOWS: [Duration; 3] =
    [Duration::from_millis(10), Duration::from_millis(100), Duration::from_secs(1)];

/// The number of pages dirtied up to a point in time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// The time in nanoseconds, by the clock of the system that dirties the pages (host or guest).
    pub(crate) at_ns: u64,
    pub(crate) pages: u64,
}

/// The rates in all windows of one length, in bytes per second, in ascending order.
pub(crate) struct Rates {
    sorted: Vec<f64>,
}

impl Rates {
    /// Computes the rates in consecutive windows, which begin and end at samples. A window's length differs
    /// from the given one by at most half the time between two samples; its rate is computed with its real
    /// length.
    pub(crate) fn new(samples: &[Sample], window: Duration) -> Self {
        let Some(tick) = samples.get(1).map(|s| s.at_ns - samples[0].at_ns) else {
            return Self { sorted: Vec::new() };
        };
        let least_ns = (window.as_nanos() as u64).saturating_sub(tick / 2);
        let mut begin = samples[0];
        let mut sorted = Vec::new();
        for end in samples {
            if end.at_ns - begin.at_ns >= least_ns.max(1) {
                let seconds = (end.at_ns - begin.at_ns) as f64 / 1e9;
                sorted.push((end.pages - begin.pages) as f64 * 4096.0 / seconds);
                begin = *end;
            }
        }
        sorted.sort_by(f64::total_cmp);
        Self { sorted }
    }

    pub(crate) fn count(&self) -> usize {
        self.sorted.len()
    }

    pub(crate) fn mean(&self) -> f64 {
        self.sorted.iter().sum::<f64>() / self.sorted.len().max(1) as f64
    }

    /// Returns a quantile by nearest rank, or 0 if there are no windows.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let rank = (self.sorted.len() as f64 * part).ceil() as usize;
        self.sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    }

    /// Returns the rate that is farthest from `wanted`.
    pub(crate) fn worst(&self, wanted: f64) -> f64 {
        let (least, most) = (self.quantile(0.0), self.quantile(1.0));
        if wanted - least > most - wanted { least } else { most }
    }
}
