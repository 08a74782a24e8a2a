//! The tables from which `sch_netem` draws its jitter.
//!
//! A table contains the inverse of a cumulative distribution function at 4096 points, in units of 1/8192 of
//! the standard deviation. netem picks an entry at random and scales it by the jitter. The tables are
//! computed like the `.dist` files of iproute2: sampled at the points k/4096, the normal one on a grid of
//! 5e-5 standard deviations. (So were those of NIST Net, the origin of netem's tables.)

use crate::{profile::Distribution, sys};
use std::sync::LazyLock;

/// The number of entries in a table, the same as in iproute2's.
pub const ENTRIES: usize = 4096;
/// The value in a table that stands for one standard deviation.
pub const SCALE: f64 = 8192.0;

/// The step of the exponential table, in standard deviations. Its values reach to 9, out of the range of the
/// others.
pub(crate) const EXPONENTIAL_STEP: u64 = 2;

/// The shape parameter of the Pareto distribution. With 3, the mean is 1.5.
const PARETO_SHAPE: f64 = 3.0;
const PARETO_MEAN: f64 = PARETO_SHAPE / (PARETO_SHAPE - 1.0);

static NORMAL: LazyLock<Vec<f64>> = LazyLock::new(normal_quantiles);

/// Returns the table of a distribution, with [`ENTRIES`] values in ascending order.
pub fn table(distribution: Distribution) -> Vec<i16> {
    (0..ENTRIES).map(|i| entry(distribution, i)).collect()
}

fn entry(distribution: Distribution, i: usize) -> i16 {
    let below = i as f64 / ENTRIES as f64;
    match distribution {
        // The middle of each step, because the mean matters more than the end of the tail.
        Distribution::Exponential => {
            let middle = (i as f64 + 0.5) / ENTRIES as f64;
            scaled((-(1.0 - middle).ln() - 1.0) / EXPONENTIAL_STEP as f64)
        }
        Distribution::Uniform => scaled(2.0 * below - 1.0),
        Distribution::Normal => scaled(NORMAL[i]),
        Distribution::Pareto => scaled(pareto(1.0 - below)),
        // Mixed from rounded integers; only the result has to be in range.
        Distribution::ParetoNormal => {
            let normal = (NORMAL[i] * SCALE).round_ties_even() as i32;
            let pareto = i32::from(scaled(pareto(1.0 - below)));
            ((normal + 3 * pareto) / 4).clamp(i16::MIN.into(), i16::MAX.into()) as i16
        }
    }
}

/// Converts a deviation to the units of a table. Saturates at the ends of the range, as a table does.
fn scaled(deviation: f64) -> i16 {
    (deviation * SCALE).round_ties_even() as i16
}

/// Returns the deviation from the mean of the Pareto value that a fraction `above` of all values exceeds,
/// scaled so that the table uses its whole range.
fn pareto(above: f64) -> f64 {
    (above.powf(-1.0 / PARETO_SHAPE) - PARETO_MEAN) * (4.0 / 3.0)
}

/// Returns the quantiles of the normal distribution: for each k/4096, the largest point of the grid whose
/// rank rounds to it.
fn normal_quantiles() -> Vec<f64> {
    const RANKS: usize = 4 * ENTRIES;
    const STEP: f64 = 5e-5;
    let mut quantiles = vec![0.0; RANKS + 1];
    let mut x = -10.0;
    while x < 10.05 {
        quantiles[(RANKS as f64 * sys::normal_cdf(x)).round_ties_even() as usize] = x;
        x += STEP;
    }
    quantiles.into_iter().step_by(4).take(ENTRIES).collect()
}

/// Draws a deviation from the table of a distribution with 32 random bits, as the kernel does. Returns it in
/// units of the standard deviation.
pub(crate) fn draw(distribution: Distribution, random: u32) -> f64 {
    match distribution {
        Distribution::Uniform => f64::from(random) / f64::from(u32::MAX) * 2.0 - 1.0,
        other => {
            static TABLES: LazyLock<[Vec<i16>; 4]> = LazyLock::new(|| {
                [
                    Distribution::Normal,
                    Distribution::Pareto,
                    Distribution::ParetoNormal,
                    Distribution::Exponential,
                ]
                .map(table)
            });
            let (table, step) = match other {
                Distribution::Normal => (&TABLES[0], 1),
                Distribution::Pareto => (&TABLES[1], 1),
                Distribution::Exponential => (&TABLES[3], EXPONENTIAL_STEP),
                _ => (&TABLES[2], 1),
            };
            step as f64 * f64::from(table[random as usize % ENTRIES]) / SCALE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path};

    /// Reads a table that iproute2 installs; `None` if it is not installed.
    fn read_iproute2_table(name: &str) -> Option<Vec<i16>> {
        ["/usr/lib/x86_64-linux-gnu/tc", "/usr/lib/aarch64-linux-gnu/tc", "/usr/lib/tc", "/usr/lib64/tc"]
            .iter()
            .find_map(|folder| fs::read_to_string(Path::new(folder).join(format!("{name}.dist"))).ok())
            .map(|text| {
                let lines = text.lines().filter(|line| !line.starts_with('#'));
                lines.flat_map(str::split_ascii_whitespace).map(|n| n.parse().unwrap()).collect()
            })
    }

    #[test]
    fn tables_equal_those_of_iproute2() {
        for (name, distribution) in [
            ("normal", Distribution::Normal),
            ("pareto", Distribution::Pareto),
            ("paretonormal", Distribution::ParetoNormal),
        ] {
            let Some(theirs) = read_iproute2_table(name) else {
                println!("skipped: iproute2's {name}.dist is not installed");
                continue;
            };
            let ours = table(distribution);
            assert_eq!(ours.len(), theirs.len());
            let off: Vec<_> = ours.iter().zip(&theirs).enumerate().filter(|(_, (a, b))| a != b).collect();
            assert!(
                off.is_empty(),
                "{name}: {} entries differ, first {:?}",
                off.len(),
                &off[..off.len().min(8)]
            );
        }
    }

    #[test]
    fn the_exponential_table_has_mean_zero_and_deviation_one() {
        let values: Vec<f64> =
            (0..ENTRIES as u32).map(|random| draw(Distribution::Exponential, random)).collect();
        let mean = values.iter().sum::<f64>() / ENTRIES as f64;
        let variance = values.iter().map(|v| v * v).sum::<f64>() / ENTRIES as f64;
        assert!(mean.abs() < 1e-3 && (variance.sqrt() - 1.0).abs() < 2e-3, "{mean} {variance}");
        // No packet leaves before the shortest delay.
        assert!(values[0] >= -1.0);
    }

    #[test]
    fn tables_ascend() {
        for distribution in [
            Distribution::Exponential,
            Distribution::Uniform,
            Distribution::Normal,
            Distribution::Pareto,
            Distribution::ParetoNormal,
        ] {
            let table = table(distribution);
            assert_eq!(table.len(), ENTRIES);
            assert!(table.is_sorted(), "{distribution:?}");
            assert!(table[0] < 0 && table[ENTRIES - 1] > 0, "{distribution:?}");
        }
    }
}
