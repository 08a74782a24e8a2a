//! From counts at moments to rates in windows of time.

use std::time::Duration;

/// The windows that are looked at.
pub(crate) const WINDOWS: [Duration; 3] =
    [Duration::from_millis(10), Duration::from_millis(100), Duration::from_secs(1)];

/// How many pages had been dirtied at a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// By the clock of the machine in which they are dirtied, in nanoseconds.
    pub(crate) at_ns: u64,
    pub(crate) pages: u64,
}

/// Rates in windows of one length, in bytes per second.
pub(crate) struct Rates {
    sorted: Vec<f64>,
}

impl Rates {
    /// The rates in consecutive windows, which begin and end at samples. A window is as long as asked for to
    /// within half the time between two samples; each rate is over its window's real length.
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

    /// The nearest rank; 0 of nothing.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let rank = (self.sorted.len() as f64 * part).ceil() as usize;
        self.sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    }

    /// The rate farthest from `wanted`.
    pub(crate) fn worst(&self, wanted: f64) -> f64 {
        let (least, most) = (self.quantile(0.0), self.quantile(1.0));
        if wanted - least > most - wanted { least } else { most }
    }
}
