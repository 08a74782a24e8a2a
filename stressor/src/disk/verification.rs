//! The result of verifying a disk: the number of blocks checked, the first one with wrong content, and what
//! went wrong while the disk was in use.

use serde::{Deserialize, Serialize};
use units::counted;

/// The result of verifying a whole disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskVerification {
    /// The number of blocks of 4 KiB checked: all blocks of the disk.
    pub blocks_checked: u64,
    /// The number of checked blocks with wrong content, including those that could not be read. A block
    /// whose last write has failed may hold either the new or the previous content.
    #[serde(default)]
    pub blocks_bad: u64,
    /// The first block with wrong content, if there is any.
    pub first_bad: Option<BadBlock>,
    /// The number of reads of the disk load that returned wrong content.
    #[serde(default)]
    pub reads_bad: u64,
    /// What the first of these reads returned, if there is any.
    #[serde(default)]
    pub first_bad_read: Option<BadBlock>,
    /// The number of writes and reads of the disk load that failed.
    #[serde(default)]
    pub io_errors: u64,
    /// The message about the first of these failures, if there is any.
    #[serde(default)]
    pub first_error: Option<String>,
}

/// A block whose content is not what was written to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadBlock {
    /// The index of the block on the disk, from 0, in blocks of 4 KiB.
    pub index: u64,
    /// The number of times that the disk load had written the block; 0 if it was only written beforehand.
    /// `None` if it was never written, so it should hold zeros.
    pub expected_generation: Option<u32>,
    /// A short description of the content that was found, such as `only zeros`.
    pub held: String,
}

impl DiskVerification {
    /// Returns whether all blocks, and everything that the disk load has read, had the expected content.
    /// Failed writes and reads do not count here.
    pub fn is_good(&self) -> bool {
        self.blocks_bad == 0 && self.reads_bad == 0
    }

    /// Combines this result with the result for the blocks that follow.
    #[must_use]
    pub(crate) fn and(self, next: Self) -> Self {
        Self {
            blocks_checked: self.blocks_checked + next.blocks_checked,
            blocks_bad: self.blocks_bad + next.blocks_bad,
            first_bad: self.first_bad.or(next.first_bad),
            ..self
        }
    }
}

impl std::fmt::Display for BadBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let written = match self.expected_generation {
            None => "never written".to_owned(),
            Some(0) => "written beforehand".to_owned(),
            Some(1) => "written once".to_owned(),
            Some(times) => format!("written {}", counted(times, "time")),
        };
        write!(f, "block {} of the disk, {written}, held {}", self.index, self.held)
    }
}
