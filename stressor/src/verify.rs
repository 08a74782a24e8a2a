//! What a check of memory found: how much was checked, and the first page that is not as it was written.
//!
//! A wrong page is described in words that help to find out how it went wrong: whether it was never
//! transferred (zeros), lost its last writes (an older generation), or was torn or overwritten.

use crate::content::{Page, Recipe};
use serde::{Deserialize, Serialize};

/// The result of checking all memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Pages of 4 KiB compared, working set and ballast.
    pub pages_checked: u64,
    /// How many of them were not as they were written.
    #[serde(default)]
    pub pages_bad: u64,
    /// The first of those.
    pub first_bad: Option<BadPage>,
}

/// A page that does not hold what was written to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadPage {
    /// Which memory it belongs to.
    #[serde(default)]
    pub area: Area,
    /// Its index within that memory, from 0, in pages of 4 KiB.
    pub index: u64,
    /// How often it was written after it was filled.
    pub expected_generation: u32,
    /// What it held instead, in a few words.
    pub held: String,
}

/// A part of the stressor's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Area {
    /// The memory that is dirtied.
    #[default]
    WorkingSet,
    /// The memory that is left alone.
    Ballast,
}

impl Verification {
    /// Whether all memory was as it was written.
    pub fn is_good(&self) -> bool {
        self.pages_bad == 0
    }

    /// This check followed by another one, of other pages.
    #[must_use]
    pub(crate) fn and(self, next: Self) -> Self {
        Self {
            pages_checked: self.pages_checked + next.pages_checked,
            pages_bad: self.pages_bad + next.pages_bad,
            first_bad: self.first_bad.or(next.first_bad),
        }
    }
}

impl std::fmt::Display for BadPage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let area = match self.area {
            Area::WorkingSet => "the working set",
            Area::Ballast => "the ballast",
        };
        let Self { index, expected_generation, held, .. } = self;
        write!(f, "page {index} of {area}, written {expected_generation} times, held {held}")
    }
}

impl BadPage {
    /// Finds out what a page holds that does not hold what it should.
    pub(crate) fn describe(recipe: &Recipe, page: &Page, area: Area, index: u64, expected: u32) -> Self {
        /// How many generations back to look.
        const BACK: u32 = 10_000;
        let older =
            (expected.saturating_sub(BACK)..expected).rev().find(|&older| recipe.holds(page, index, older));
        let held = match (older, recipe.first_difference(page, index, expected)) {
            _ if page.0.iter().all(|&word| word == 0) => "only zeros".to_owned(),
            (Some(0), _) => "what it was filled with, and none of its writes".to_owned(),
            (Some(older), _) => format!("generation {older} of its content"),
            (None, Some(difference)) => format!(
                "{:#018x} instead of {:#018x} at byte {}",
                difference.held,
                difference.expected,
                difference.word * 8
            ),
            (None, None) => "what it should when looked at again".to_owned(),
        };
        Self { area, index, expected_generation: expected, held }
    }
}
