//! [`Interval`]: a measured value that is not known exactly.

use crate::measure;

/// The bounds of a measured value, in milliseconds or bytes: what is certain and what is possible.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// What is certain.
    pub least: f64,
    /// What is possible; absent if there is no upper bound.
    pub most: Option<f64>,
}

impl Interval {
    /// Returns the interval of a figure that is known exactly.
    pub const fn exactly(value: f64) -> Self {
        Self { least: value, most: Some(value) }
    }

    /// Returns the interval that contains the median of figures: from the median of their lower bounds to
    /// that of their upper bounds. Returns nothing if there are no figures.
    pub fn median(figures: &[Self]) -> Option<Self> {
        let median = |bound: fn(&Self) -> f64| {
            let mut bounds: Vec<f64> = figures.iter().map(bound).collect();
            bounds.sort_unstable_by(f64::total_cmp);
            measure::median(&bounds)
        };
        let least = median(|figure| figure.least)?;
        let most = median(|figure| figure.most.unwrap_or(f64::INFINITY))?;
        Some(Self { least, most: Some(most).filter(|most| most.is_finite()) })
    }

    /// Returns this figure as a fraction of a baseline; neither may be negative. Returns nothing if the
    /// baseline is 0.
    pub fn relative_to(self, baseline: Self) -> Option<Self> {
        if baseline.most == Some(0.0) {
            return None;
        }
        let least = baseline.most.map_or(0.0, |most| self.least / most);
        let most = self.most.filter(|_| baseline.least > 0.0).map(|most| most / baseline.least);
        Some(Self { least, most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn between(least: f64, most: f64) -> Interval {
        Interval { least, most: Some(most) }
    }

    #[test]
    fn the_median_lies_between_the_medians_of_the_bounds() {
        let exactly = |values: &[f64]| {
            let figures: Vec<Interval> = values.iter().map(|value| Interval::exactly(*value)).collect();
            Interval::median(&figures)
        };
        assert_eq!(exactly(&[]), None);
        assert_eq!(exactly(&[3.0]), Some(Interval::exactly(3.0)));
        assert_eq!(exactly(&[9.0, 1.0, 2.0]), Some(Interval::exactly(2.0)));
        assert_eq!(exactly(&[9.0, 1.0, 2.0, 4.0]), Some(Interval::exactly(3.0)));
        let open = Interval { least: 5.0, most: None };
        let figures = [between(1.0, 3.0), between(2.0, 4.0), open];
        assert_eq!(Interval::median(&figures), Some(between(2.0, 4.0)));
        assert_eq!(Interval::median(&figures[1..]), Some(Interval { least: 3.5, most: None }));
    }

    #[test]
    fn a_fraction_is_as_uncertain_as_both_figures() {
        assert_eq!(between(1.0, 2.0).relative_to(between(4.0, 8.0)), Some(between(0.125, 0.5)));
        let open = Interval { least: 1.0, most: None };
        assert_eq!(open.relative_to(Interval::exactly(4.0)), Some(Interval { least: 0.25, most: None }));
        assert_eq!(between(1.0, 2.0).relative_to(open), Some(between(0.0, 2.0)));
        assert_eq!(
            between(1.0, 2.0).relative_to(between(0.0, 4.0)),
            Some(Interval { least: 0.25, most: None })
        );
        assert_eq!(between(1.0, 2.0).relative_to(Interval::exactly(0.0)), None);
    }
}
