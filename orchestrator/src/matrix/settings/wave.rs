//! A dirty rate that goes up and down: the setting `stress.wave`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{f64::consts::TAU, fmt, str::FromStr};
use stressor::workload::Rate;
use units::{ByteRate, ParseError, Span};

/// The largest number of steps in a period of a triangle or sine wave.
const MOST_STEPS: u64 = 20;

/// The shortest step of a wave. A guest needs some milliseconds for each change.
const SHORTEST_STEP: Span = Span::from_millis(50);

/// The shortest period of a wave.
pub(super) const SHORTEST_PERIOD: Span = Span::from_millis(200);

/// A dirty rate that goes up and down, with the mean `(low + high) / 2`. It begins with its lowest
/// step. Tables and
/// conditions have it as `square:10s:32MB/s:96MB/s`: the shape, the period, the lowest and the highest rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wave {
    /// The form of the wave.
    #[serde(default)]
    pub shape: WaveShape,
    /// The time after which the wave repeats. At least `200ms`.
    pub period: Span,
    /// The lowest rate.
    pub low: ByteRate,
    /// The highest rate.
    pub high: ByteRate,
}

/// The form of a [`Wave`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WaveShape {
    /// `low` in the first half of each period, `high` in the second.
    #[default]
    Square,
    /// A steady rise in the first half of each period and a steady fall in the second, made of up to 20
    /// steps. Each step lasts at least 50 ms and has the mean rate of its part of the curve.
    Triangle,
    /// A rise and a fall along a sine, in as many steps.
    Sine,
}

impl WaveShape {
    /// Returns the word for this shape in matrix files.
    const fn word(self) -> &'static str {
        match self {
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Sine => "sine",
        }
    }
}

impl fmt::Display for Wave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shape, period, low, high } = self;
        write!(f, "{}:{period}:{low}:{high}", shape.word())
    }
}

impl FromStr for Wave {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').map(str::trim).collect();
        let [shape, period, low, high] = parts[..] else {
            return Err(format!("`{text}` is not a wave: write it like `square:10s:32MB/s:96MB/s`"));
        };
        let shapes = [WaveShape::Square, WaveShape::Triangle, WaveShape::Sine];
        let shape = shapes.into_iter().find(|known| known.word().eq_ignore_ascii_case(shape));
        let invalid = |error: ParseError| error.to_string();
        Ok(Self {
            shape: shape.ok_or_else(|| {
                format!("`{text}` is not a wave: begin it with `square`, `triangle` or `sine`")
            })?,
            period: period.parse().map_err(invalid)?,
            low: low.parse().map_err(invalid)?,
            high: high.parse().map_err(invalid)?,
        })
    }
}

impl Wave {
    /// Returns when each rate of the first period begins.
    pub(super) fn steps(&self) -> Vec<(Span, Rate)> {
        let count = match self.shape {
            WaveShape::Square => 2,
            WaveShape::Triangle | WaveShape::Sine => {
                let most = self.period.as_nanos() / SHORTEST_STEP.as_nanos();
                // An even number, so that no step is on both sides of the highest rate.
                most.clamp(2, MOST_STEPS) / 2 * 2
            }
        };
        let step = |number: u64| {
            let at = u128::from(self.period.as_nanos()) * u128::from(number) / u128::from(count);
            let (from, to) = (number as f64 / count as f64, (number + 1) as f64 / count as f64);
            (Span::from_nanos(at as u64), Rate::Limited(self.rate(self.mean_height(from, to))))
        };
        (0..count).map(step).collect()
    }

    /// Returns the mean height of the wave, from 0 to 1, between two parts of its period in the same half.
    fn mean_height(&self, from: f64, to: f64) -> f64 {
        let middle = f64::midpoint(from, to);
        match self.shape {
            WaveShape::Square => f64::from(middle > 0.5),
            WaveShape::Triangle => 1.0 - (1.0 - 2.0 * middle).abs(),
            // The integral of (1 - cos(TAU x)) / 2.
            WaveShape::Sine => 0.5 - ((TAU * to).sin() - (TAU * from).sin()) / (2.0 * TAU * (to - from)),
        }
    }

    fn rate(&self, height: f64) -> ByteRate {
        let range = self.high.get().saturating_sub(self.low.get());
        ByteRate::new(self.low.get().saturating_add((range as f64 * height).round() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(shape: WaveShape, period: Span) -> Wave {
        Wave { shape, period, low: ByteRate::new(40_000_000), high: ByteRate::new(120_000_000) }
    }

    fn rates(wave: &Wave) -> Vec<u64> {
        let rate = |rate| match rate {
            Rate::Limited(rate) => ByteRate::get(rate),
            Rate::Unlimited => panic!("a wave is limited"),
        };
        wave.steps().into_iter().map(|(_, step)| rate(step)).collect()
    }

    #[test]
    fn every_wave_begins_low_and_has_the_mean_of_low_and_high() {
        for shape in [WaveShape::Square, WaveShape::Triangle, WaveShape::Sine] {
            for ms in [200, 350, 999, 1000, 10_000, 1_000_000] {
                let wave = wave(shape, Span::from_millis(ms));
                let (steps, rates) = (wave.steps(), rates(&wave));
                let count = rates.len();
                assert!(count >= 2 && count.is_multiple_of(2), "{count}");
                let mean = rates.iter().sum::<u64>() as f64 / count as f64;
                assert!((mean - 80e6).abs() < 2.0, "{shape:?} {ms}: {mean}");
                assert!(rates.iter().all(|rate| (40_000_000..=120_000_000).contains(rate)), "{rates:?}");
                assert_eq!(rates[0], *rates.iter().min().unwrap());
                assert_eq!(rates[count / 2], *rates.iter().max().unwrap());
                let shortest = steps.windows(2).map(|pair| pair[1].0.as_nanos() - pair[0].0.as_nanos()).min();
                assert!(shortest.unwrap() >= SHORTEST_STEP.as_nanos());
            }
        }
    }

    #[test]
    fn a_wave_reads_back_as_it_prints() {
        let sine = wave(WaveShape::Sine, Span::from_millis(1500));
        assert_eq!(sine.to_string(), "sine:1500ms:40MB/s:120MB/s");
        assert_eq!("Sine: 1500ms :40MB/s:120MB/s".parse(), Ok(sine));
        for (text, says) in [
            ("sine", "like `square:10s:32MB/s:96MB/s`"),
            ("round:1s:0:1MB/s", "`square`, `triangle` or `sine`"),
            ("sine:1:0:1MB/s", "`1` has no unit"),
            ("sine:1s:0:1", "`1` has no unit"),
        ] {
            let error = text.parse::<Wave>().unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let shape = |shape| serde_json::to_value(shape).unwrap();
        for known in [WaveShape::Square, WaveShape::Triangle, WaveShape::Sine] {
            assert_eq!(shape(known), known.word());
        }
    }

    #[test]
    fn each_shape_has_its_rates() {
        let ten = Span::from_secs(10);
        let square = wave(WaveShape::Square, ten).steps();
        assert_eq!(square[1], (Span::from_secs(5), Rate::Limited(ByteRate::new(120_000_000))));
        let triangle = rates(&wave(WaveShape::Triangle, ten));
        assert_eq!(triangle[..3], [44_000_000, 52_000_000, 60_000_000]);
        let sine = rates(&wave(WaveShape::Sine, ten));
        assert_eq!((sine.len(), sine[0], sine[9], sine[10]), (20, 40_654_734, 119_345_266, 119_345_266));
    }
}
