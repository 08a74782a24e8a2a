//! Linear scales with ticks at round numbers, and logarithmic ones with ticks at powers of ten.

/// A range of values with ticks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::report) struct Scale {
    pub(in crate::report) min: f64,
    pub(in crate::report) max: f64,
    /// The distance between ticks: 1, 2 or 5 times a power of ten.
    step: f64,
    /// Whether values are decimal logarithms of what is shown.
    is_log: bool,
}

impl Scale {
    /// Returns a scale that begins and ends at ticks and covers these values, with about this many ticks.
    pub(in crate::report) fn covering(min: f64, max: f64, ticks: usize) -> Self {
        let max = if max > min { max } else { min + 1.0 };
        let step = round_step((max - min) / ticks.max(1) as f64);
        Self { min: (min / step).floor() * step, max: (max / step).ceil() * step, step, is_log: false }
    }

    /// Returns a scale of exactly this range, with about this many ticks in it.
    pub(in crate::report) fn exact(min: f64, max: f64, ticks: usize) -> Self {
        let max = if max > min { max } else { min + 1.0 };
        Self { min, max, step: round_step((max - min) / ticks.max(1) as f64), is_log: false }
    }

    /// Returns a scale of the decimal logarithms of positive values, which begins and ends at powers of ten.
    pub(in crate::report) fn decades(least: f64, most: f64) -> Self {
        let min = least.log10().floor();
        let max = most.log10().ceil().max(min + 1.0);
        // Six ticks have room.
        Self { min, max, step: ((max - min) / 6.0).ceil(), is_log: true }
    }

    /// Returns where a value is, from 0 at the beginning to 1 at the end.
    pub(in crate::report) fn share(&self, value: f64) -> f64 {
        (value - self.min) / (self.max - self.min)
    }

    /// Returns the ticks, each with its text.
    pub(in crate::report) fn ticks(&self) -> Vec<(f64, String)> {
        let first = (self.min / self.step - 1e-9).ceil();
        let count = ((self.max / self.step + 1e-9).floor() - first) as usize + 1;
        let decimals = (-self.step.log10().floor()).max(0.0) as usize;
        let tick = |i: usize| {
            // A sum of zero may be negative.
            let value = (first + i as f64) * self.step + 0.0;
            let text = if self.is_log { power_of_ten(value) } else { format!("{value:.decimals$}") };
            (value, text)
        };
        (0..count).map(tick).collect()
    }
}

fn power_of_ten(exponent: f64) -> String {
    let decimals = (-exponent).max(0.0) as usize;
    format!("{:.decimals$}", 10f64.powf(exponent))
}

/// Returns the smallest of 1, 2 and 5 times a power of ten that is not below `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|times| times * power)
        .into_iter()
        .find(|step| *step >= least * 0.999_999)
        .unwrap_or(power * 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(scale: Scale) -> Vec<String> {
        scale.ticks().into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(texts(Scale::covering(0.0, 14.2, 4)), ["0", "5", "10", "15"]);
        assert_eq!(texts(Scale::covering(0.0, 1579.0, 4)), ["0", "500", "1000", "1500", "2000"]);
        assert_eq!(texts(Scale::covering(0.0, 0.07, 4)), ["0.00", "0.02", "0.04", "0.06", "0.08"]);
        assert_eq!(texts(Scale::exact(-100.0, 4_300.0, 5)), ["0", "1000", "2000", "3000", "4000"]);
    }

    #[test]
    fn decades_have_ticks_at_powers_of_ten() {
        assert_eq!(texts(Scale::decades(0.03, 40.0)), ["0.01", "0.1", "1", "10", "100"]);
        assert_eq!(texts(Scale::decades(1.0, 1.0)), ["1", "10"]);
        assert_eq!(Scale::decades(0.1, 100.0).share(1f64.log10()).to_string(), (1.0 / 3.0).to_string());
        assert!(texts(Scale::decades(1e-6, 1e5)).len() <= 7);
    }

    #[test]
    fn a_range_without_a_width_has_one() {
        let scale = Scale::covering(3.0, 3.0, 4);
        assert!(scale.max > scale.min && scale.ticks().len() > 1);
        assert_eq!(Scale::covering(0.0, 10.0, 5).share(2.5).to_string(), "0.25");
    }
}
