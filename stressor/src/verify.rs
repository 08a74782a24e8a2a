//! The result of verifying memory: the number of pages checked, and the first page with wrong content.
//!
//! A wrong page is described so that the cause can be found: it was never transferred (zeros), it lost its
//! last writes (an older generation), or it was torn or overwritten (other data).

use crate::content::{Page, Pattern};
use serde::{Deserialize, Serialize};
use units::counted;

/// The result of verifying all memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// The number of 4 KiB pages checked, working set and ballast together.
    pub pages_checked: u64,
    /// The number of checked pages with wrong content.
    #[serde(default)]
    pub pages_bad: u64,
    /// The first page with wrong content, if there is any.
    pub first_bad: Option<BadPage>,
}

/// A page whose content is not what was written to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadPage {
    /// The memory that the page belongs to.
    #[serde(default)]
    pub area: Area,
    /// The index of the page within its area, from 0, in pages of 4 KiB.
    pub index: u64,
    /// The number of times that the page was written after it was filled.
    pub expected_generation: u32,
    /// A short description of the content that was found, such as `only zeros`.
    pub held: String,
}

/// One of the two areas of the stressor's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Area {
    /// The memory that is dirtied repeatedly.
    #[default]
    WorkingSet,
    /// The memory that is filled once and not written again.
    Ballast,
}

impl Verification {
    /// Returns whether all pages had the expected content.
    pub fn is_good(&self) -> bool {
        self.pages_bad == 0
    }

    /// Combines this result with the result for the pages that follow.
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
        write!(f, "page {index} of {area}, written {}, held {held}", counted(*expected_generation, "time"))
    }
}

impl BadPage {
    /// Describes the content of a page that does not match its expected generation.
    pub(crate) fn describe(pattern: &Pattern, page: &Page, area: Area, index: u64, expected: u32) -> Self {
        /// The number of earlier generations that the content is compared with.
        const MAX_GENERATIONS_BACK: u32 = 10_000;
        let older = (expected.saturating_sub(MAX_GENERATIONS_BACK)..expected)
            .rev()
            .find(|&older| pattern.matches(page, index, older));
        let held = match (older, pattern.first_mismatch(page, index, expected)) {
            _ if page.0.iter().all(|&word| word == 0) => "only zeros".to_owned(),
            (Some(0), _) => "its initial content, without any of the writes".to_owned(),
            (Some(older), _) => format!("the content of generation {older}"),
            (None, Some(mismatch)) => format!(
                "{:#018x} instead of {:#018x} at byte {}",
                mismatch.held,
                mismatch.expected,
                mismatch.word * 8
            ),
            (None, None) => "the expected content when read again".to_owned(),
        };
        Self { area, index, expected_generation: expected, held }
    }
}
