//! Ranges of axes. Their ticks come from plotters; they are 1, 2 or 5 times a power of ten apart.

use plotters::{
    coord::{ranged1d::Ranged as _, types::RangedCoordf64},
    data::float::FloatPrettyPrinter,
};
use std::ops::Range;

/// An axis, on which `key_points` are the ticks.
pub(in crate::report) type Axis = RangedCoordf64;

/// Returns the range from zero to the first tick that is not below `most`. It has at most one more tick than
/// `ticks`, which must be at least three.
pub(in crate::report) fn from_zero(most: f64, ticks: usize) -> Range<f64> {
    let most = if most.is_finite() { most } else { 0.0 };
    match Axis::from(0.0..most).key_points(ticks)[..] {
        [_, step, ..] => 0.0..(most / step).ceil() * step,
        _ => 0.0..1.0,
    }
}

/// Returns the range of the decimal logarithms of positive values. It begins and ends at whole numbers.
pub(in crate::report) fn decades(least: f64, most: f64) -> Range<f64> {
    let start = least.log10().floor();
    start..most.log10().ceil().max(start + 1.0)
}

/// Returns at most this many ticks, with their texts.
pub(in crate::report) fn ticks(range: &Range<f64>, most: usize) -> Vec<(f64, String)> {
    let decimals = decimals(range, most);
    let values = Axis::from(range.clone()).key_points(most).into_iter();
    values.map(|value| (value, text(value, decimals))).collect()
}

/// Returns the number of decimals that the texts of this many ticks need.
pub(in crate::report) fn decimals(range: &Range<f64>, most: usize) -> i32 {
    let values = Axis::from(range.clone()).key_points(most).into_iter();
    let decimals = values.filter_map(|value| Some(text(value, 0).split_once('.')?.1.len()));
    decimals.max().and_then(|decimals| decimals.try_into().ok()).unwrap_or(0)
}

/// Returns ticks of a range of logarithms at whole numbers, at most seven, with the texts of the values.
pub(in crate::report) fn decade_ticks(range: &Range<f64>) -> Vec<(f64, String)> {
    let most = ((range.end - range.start) as usize + 1).min(7);
    let exponents = Axis::from(range.clone()).key_points(most).into_iter();
    exponents.map(|exponent| (exponent, text(10f64.powf(exponent), 0))).collect()
}

/// Returns a number as text, with as few decimals as it needs but at least this many.
pub(in crate::report) fn text(value: f64, decimals: i32) -> String {
    FloatPrettyPrinter { allow_scientific: false, min_decimal: decimals, max_decimal: 10 }.print(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(ticks: Vec<(f64, String)>) -> Vec<String> {
        ticks.into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        let texts = |range, most| texts(ticks(&range, most));
        assert_eq!(texts(from_zero(14.2, 5), 6), ["0", "5", "10", "15"]);
        assert_eq!(texts(from_zero(1579.0, 5), 6), ["0", "500", "1000", "1500", "2000"]);
        assert_eq!(texts(from_zero(0.07, 5), 6), ["0.00", "0.02", "0.04", "0.06", "0.08"]);
        assert_eq!(texts(-100.0..4_300.0, 6), ["0", "1000", "2000", "3000", "4000"]);
    }

    #[test]
    fn zero_has_no_sign() {
        for most in (1..3_000).map(|i| f64::from(i) * 0.73) {
            let texts = texts(ticks(&(most * -0.03..most * 1.04), 8));
            assert!(texts.iter().all(|text| !text.starts_with('-')), "{most}: {texts:?}");
            assert_eq!(texts[0].parse(), Ok(0.0), "{most}: {texts:?}");
        }
    }

    #[test]
    fn a_range_ends_at_a_tick_that_covers_it() {
        for ticks in 4..=5 {
            for most in (1..5_000).map(|i| f64::from(i) * 0.037) {
                let range = from_zero(most, ticks);
                let drawn = Axis::from(range.clone()).key_points(ticks + 1);
                assert!((3..=ticks + 1).contains(&drawn.len()), "{most}: {drawn:?}");
                assert!(range.end >= most && range.end < most * 1.7, "{most}: {range:?}");
                let last = drawn.last().unwrap();
                assert!((last - range.end).abs() < range.end * 1e-9, "{most}: {drawn:?} {range:?}");
            }
        }
    }

    #[test]
    fn decades_have_ticks_at_powers_of_ten() {
        let texts = |least, most| texts(decade_ticks(&decades(least, most)));
        assert_eq!(texts(0.03, 40.0), ["0.01", "0.1", "1", "10", "100"]);
        assert_eq!(texts(1.0, 1.0), ["1", "10"]);
        assert_eq!(texts(1e-6, 1e5), ["0.000001", "0.0001", "0.01", "1", "100", "10000"]);
    }

    #[test]
    fn a_range_without_a_width_has_one() {
        for most in [0.0, f64::NAN, f64::INFINITY] {
            assert_eq!(from_zero(most, 5), 0.0..1.0);
        }
        assert_eq!(decades(1.0, 1.0), 0.0..1.0);
    }
}
