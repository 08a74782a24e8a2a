//! Random events and delays whose successive values are correlated.

use super::lane::Nanos;
use crate::{
    percent::Percent,
    profile::{Distribution, GilbertElliott},
    wire::distribution,
};
use units::random::Random;

/// Draws whether an event with this probability, from 0 to 1, happens.
fn happens(random: &mut Random, probability: f64) -> bool {
    f64::from(random.next_u32()) < probability * (f64::from(u32::MAX) + 1.0)
}

/// A random event with a probability for each packet, correlated with the event of the previous packet.
///
/// A Markov chain with two states: both the probability and the correlation of successive events are exactly
/// as requested. (`sch_netem` mixes random numbers instead, and with a correlation it loses fewer packets
/// than requested.)
#[derive(Debug, Clone, Copy)]
pub(super) struct CorrelatedEvent {
    probability: f64,
    correlation: f64,
    happened: bool,
}

impl CorrelatedEvent {
    pub(super) fn new(probability: Percent, correlation: Percent) -> Self {
        Self { probability: probability.fraction(), correlation: correlation.fraction(), happened: false }
    }

    pub(super) fn happens(&mut self, random: &mut Random) -> bool {
        if self.probability <= 0.0 {
            return false;
        }
        let before = if self.happened { 1.0 } else { 0.0 };
        let now = self.probability + self.correlation * (before - self.probability);
        self.happened = happens(random, now);
        self.happened
    }
}

/// The model that decides which packets are lost.
#[derive(Debug, Clone, Copy)]
pub(super) enum Loss {
    Random(CorrelatedEvent),
    Bursts { model: GilbertElliott, bad: bool },
}

impl Loss {
    pub(super) fn happens(&mut self, random: &mut Random) -> bool {
        match self {
            Self::Random(event) => event.happens(random),
            Self::Bursts { model, bad } => {
                let turn = if *bad { model.leave } else { model.enter };
                *bad ^= happens(random, turn.fraction());
                let loss = if *bad { model.loss_bad } else { model.loss_good };
                happens(random, loss.fraction())
            }
        }
    }
}

/// The deviation of the delay, in units of the jitter, if each packet has its own. Successive values are
/// correlated as in an autoregressive process of first order, which preserves mean and variance. The shape of
/// the distribution is preserved only without correlation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Jitter {
    distribution: Distribution,
    correlation: f64,
    last: f64,
}

impl Jitter {
    pub(super) fn new(distribution: Distribution, correlation: Percent) -> Self {
        Self { distribution, correlation: correlation.fraction(), last: 0.0 }
    }

    pub(super) fn next(&mut self, random: &mut Random) -> f64 {
        let fresh = distribution::draw(self.distribution, random.next_u32());
        let rho = self.correlation;
        self.last = rho * self.last + (1.0 - rho * rho).sqrt() * fresh;
        self.last
    }
}

/// A gate at which packets wait, so that jitter keeps their order.
///
/// A packet that arrives when the gate has opened since the last packet closes it for a random time with an
/// exponential distribution. That distribution is memoryless: for every packet, the time until the gate opens
/// has this distribution, however many others are waiting. (The slots of `sch_netem` with this distribution
/// are the same.)
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Gate {
    opens_at: Nanos,
}

impl Gate {
    /// Returns when a packet that arrives at `time` passes the gate. `wait` is its mean waiting time.
    pub(super) fn pass(&mut self, time: Nanos, wait: Nanos, random: &mut Random) -> Nanos {
        if self.opens_at < time {
            let deviation = distribution::draw(Distribution::Exponential, random.next_u32());
            self.opens_at = time.saturating_add((wait as f64 * (1.0 + deviation)) as Nanos);
        }
        self.opens_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIALS: u32 = 200_000;

    fn percent(text: &str) -> Percent {
        text.parse().unwrap()
    }

    #[test]
    fn equal_seeds_give_equal_numbers() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..8).map(|_| random.next_u32()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(0).iter().any(|n| *n != 0));
    }

    #[test]
    fn events_have_the_requested_probability_and_correlation() {
        for (probability, correlation) in [("1%", "0%"), ("10%", "25%"), ("30%", "90%")] {
            let mut random = Random::new(1);
            let mut event = CorrelatedEvent::new(percent(probability), percent(correlation));
            let (mut count, mut pairs, mut last) = (0u32, 0u32, false);
            for _ in 0..TRIALS {
                let now = event.happens(&mut random);
                count += u32::from(now);
                pairs += u32::from(now && last);
                last = now;
            }
            let (p, rho) = (percent(probability).fraction(), percent(correlation).fraction());
            let share = f64::from(count) / f64::from(TRIALS);
            // Five standard deviations of the mean of a correlated chain.
            let bound = 5.0 * (p * (1.0 - p) / f64::from(TRIALS) * (1.0 + rho) / (1.0 - rho)).sqrt();
            assert!((share - p).abs() < bound, "{probability} {correlation}: {share}");
            let after = f64::from(pairs) / f64::from(count);
            assert!((after - (p + rho * (1.0 - p))).abs() < 0.05, "{probability} {correlation}: {after}");
        }
    }

    #[test]
    fn loss_in_bursts_has_the_mean_of_the_model() {
        let model = GilbertElliott {
            enter: percent("1%"),
            leave: percent("20%"),
            loss_bad: percent("80%"),
            loss_good: percent("0.1%"),
        };
        let mut loss = Loss::Bursts { model, bad: false };
        let mut random = Random::new(3);
        let count = (0..TRIALS).filter(|_| loss.happens(&mut random)).count();
        let share = count as f64 / f64::from(TRIALS);
        // The share of the time in the bad state is enter / (enter + leave).
        let bad = 0.01 / (0.01 + 0.2);
        let mean = bad * 0.8 + (1.0 - bad) * 0.001;
        assert!((share - mean).abs() < 0.005, "{share} instead of {mean}");
    }

    #[test]
    fn jitter_has_mean_zero_and_standard_deviation_one() {
        for correlation in ["0%", "50%"] {
            let mut jitter = Jitter::new(Distribution::Normal, percent(correlation));
            let mut random = Random::new(5);
            let values: Vec<f64> = (0..TRIALS).map(|_| jitter.next(&mut random)).collect();
            let mean = values.iter().sum::<f64>() / f64::from(TRIALS);
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / f64::from(TRIALS);
            assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{correlation}: {mean} {variance}");
        }
    }
}
