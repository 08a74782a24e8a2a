//! The content of the threshold figure: a figure over the dirty rate, as measured, predicted and published,
//! and the edge between convergence and its end.

use super::figure::{DATA, Figure, TOTAL_TIME};
use crate::{
    matrix::{Cell, Plan, Subject},
    outcome::{Outcome, OutcomeCounts},
    predict::precopy::{self, Prediction},
    results::{record::Record, threshold},
};
use units::ByteRate;

/// The largest number of combinations of the other axes that a figure shows.
pub(super) const MOST_GROUPS: usize = 6;
/// The shape of a mark: its corners around its center, in pixels. Without corners it is a circle.
pub(super) type Shape = &'static [(i32, i32)];
/// The radius of a circle.
pub(super) const CIRCLE: u32 = 6;
/// The shapes of the groups' marks, which distinguish them without color.
pub(super) const SHAPES: [Shape; MOST_GROUPS] = [
    &[],
    &[(-6, -6), (6, -6), (6, 6), (-6, 6)],
    &[(0, -7), (7, 6), (-7, 6)],
    &[(0, 7), (7, -6), (-7, -6)],
    &[
        (-7, -2),
        (-2, -2),
        (-2, -7),
        (2, -7),
        (2, -2),
        (7, -2),
        (7, 2),
        (2, 2),
        (2, 7),
        (-2, 7),
        (-2, 2),
        (-7, 2),
    ],
    &[(-8, 0), (0, -5), (8, 0), (0, 5)],
];
/// The shape of published values, which is larger than that of measured ones.
pub(super) const PUBLISHED: Shape = &[(0, -10), (10, 0), (0, 10), (-10, 0)];
/// The number of rates at which the prediction is computed.
const PREDICTED: u32 = 120;

/// A figure that is drawn over the dirty rate.
pub(super) struct OverRate {
    pub(super) figure: Figure,
    predicted: fn(&Prediction) -> f64,
    published_as: Subject,
    /// The divisor from the published figure's unit to this figure's.
    published_per: f64,
}

/// The total time over the dirty rate.
pub(super) const TIME_OVER_RATE: OverRate = OverRate {
    figure: TOTAL_TIME,
    predicted: |p| p.total_time.as_secs_f64(),
    published_as: Subject::TotalTime,
    published_per: 1e3,
};

/// The data over the dirty rate.
pub(super) const DATA_OVER_RATE: OverRate = OverRate {
    figure: DATA,
    predicted: |p| p.transferred.as_mb(),
    published_as: Subject::Transferred,
    published_per: 1e6,
};

impl OverRate {
    /// Returns the published value for a cell.
    pub(super) fn published(&self, plan: &Plan, cell: &Cell) -> Option<f64> {
        Some(plan.published(cell, self.published_as)? / self.published_per)
    }

    /// Returns the predicted value for a cell whose migration is predicted to converge.
    pub(super) fn predicted(&self, cell: &Cell) -> Option<f64> {
        converging(precopy::predict(&cell.settings)).map(|predicted| (self.predicted)(&predicted))
    }
}

/// The cells that differ only in their dirty rate.
pub(super) struct Group<'a> {
    /// The values of the other axes; empty if there are no other axes.
    pub(super) name: String,
    /// The cells, by increasing rate: at least two.
    pub(super) levels: Vec<Level<'a>>,
    /// The attempts at each rate, if at least two rates were tried.
    tried: Option<threshold::Group>,
}

/// A cell with a limited dirty rate.
pub(super) struct Level<'a> {
    pub(super) cell: &'a Cell,
    /// The rate in 10^6 bytes per second.
    pub(super) rate: f64,
    /// The attempts whose migration converged, was given up or failed.
    decided: Vec<&'a Record>,
}

/// Returns the groups of a run with at least two dirty rates.
pub(super) fn groups<'a>(plan: &'a Plan, records: &'a [Record]) -> Vec<Group<'a>> {
    let mut tried = threshold::groups(plan, records);
    let level = |(rate, cell): (ByteRate, &'a Cell)| {
        let is_decided = |record: &&Record| {
            record.cell == cell.id && record.is_result() && record.outcome != Outcome::Skipped
        };
        Level { cell, rate: rate.as_mb_per_s(), decided: records.iter().filter(is_decided).collect() }
    };
    let groups = threshold::cells(plan).into_iter().filter(|(_, cells)| cells.len() > 1);
    let groups = groups.map(|(name, cells)| {
        let at = tried.iter().position(|group| group.name == name);
        let levels = cells.into_iter().map(level).collect();
        Group { levels, tried: at.map(|at| tried.swap_remove(at)), name }
    });
    groups.collect()
}

impl Group<'_> {
    /// Returns whether at least two rates were tried.
    pub(super) fn is_tried(&self) -> bool {
        self.tried.is_some()
    }

    /// Returns the highest rate up to which every attempt converged, if there is one, and the lowest rate at
    /// which one did not, in 10^6 bytes per second. Returns nothing if every attempt converged.
    pub(super) fn edge(&self) -> Option<(Option<f64>, f64)> {
        let tried = self.tried.as_ref()?;
        let below = tried.highest_converged().map(|level| level.rate.as_mb_per_s());
        Some((below, tried.lowest_given_up()?.rate.as_mb_per_s()))
    }

    /// Returns whether the model covers the migrations of the group.
    pub(super) fn is_predicted(&self) -> bool {
        precopy::predict(&self.levels[0].cell.settings).is_some()
    }

    /// Returns the predicted values of a figure from a dirty rate of zero to this one, in 10^6 bytes per
    /// second, where migrations are predicted to converge.
    pub(super) fn prediction(&self, figure: &OverRate, until: f64) -> Vec<(f64, f64)> {
        let settings = &self.levels[0].cell.settings;
        let points = (0..=PREDICTED).map_while(|i| {
            let rate = until * f64::from(i) / f64::from(PREDICTED);
            let predicted = converging(precopy::predict_at(settings, ByteRate::new((rate * 1e6) as u64)))?;
            Some((rate, (figure.predicted)(&predicted)))
        });
        points.collect()
    }
}

impl Level<'_> {
    /// Returns the outcomes of the attempts.
    pub(super) fn outcomes(&self) -> OutcomeCounts {
        self.decided.iter().map(|record| record.outcome).collect()
    }

    /// Returns the outcome that stands for all attempts, which is the worst; nothing if there is none.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.decided.iter().map(|record| record.outcome).max()
    }

    /// Returns whether an attempt was given up.
    pub(super) fn is_given_up(&self) -> bool {
        self.decided.iter().any(|record| record.outcome == Outcome::NotConverged)
    }

    /// Returns whether the attempts have different outcomes.
    pub(super) fn is_mixed(&self) -> bool {
        self.outcomes().kinds() > 1
    }

    /// Returns the values measured by the attempts that converged, the smallest first.
    pub(super) fn values(&self, figure: &Figure) -> Vec<f64> {
        figure.values(self.decided.iter().copied())
    }
}

/// Returns a prediction if it is one of convergence.
fn converging(predicted: Option<Prediction>) -> Option<Prediction> {
    predicted.filter(|predicted| predicted.outcome == Outcome::Converged)
}
