//! The telemetry of an attempt: what the stressor in the guest reported about 20 times per second, one report
//! per line of `telemetry.jsonl`.

use super::{
    samples,
    store::{self, Error},
};
use crate::measure::End;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{io, path::Path};

/// The name of the file with the telemetry, in the attempt's folder.
pub const TELEMETRY: &str = "telemetry.jsonl";

/// A report of the stressor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GuestReport {
    /// When the orchestrator received the report, in milliseconds since the start of the migration;
    /// negative before.
    pub at_ms: f64,
    /// The end through which the report came.
    pub end: End,
    /// The guest's clock when it made the report, in milliseconds. It stops while the guest is stopped.
    pub clock_ms: f64,
    /// The number of bytes dirtied since the stressor started. A page counts each time it is written.
    pub dirtied_bytes: u64,
    /// The longest time between two writes to memory since the previous report, not counting the pauses that
    /// the requested rate calls for, in milliseconds.
    pub longest_stall_ms: f64,
    /// The longest time that writing a page took since the previous report, in milliseconds.
    pub longest_page_write_ms: f64,
    /// The distribution of the time that writing a page took since the previous report. Absent if nothing was
    /// written, and in results of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_write: Option<PageWriteTimes>,
    /// The activity on the disk. Absent if the guest does not use a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskReport>,
}

/// Percentiles of the time that writing a page took, in milliseconds, accurate to 3 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PageWriteTimes {
    /// The median.
    pub median_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// The 99.9th percentile.
    pub p999_ms: f64,
}

/// The stressor's report on its activity on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DiskReport {
    /// The number of bytes written since the stressor started.
    pub written_bytes: u64,
    /// The number of bytes read since the stressor started.
    pub read_bytes: u64,
    /// The longest time taken by a write that has ended since the previous report, in milliseconds.
    pub longest_write_ms: f64,
    /// The longest time taken by a read that has ended since the previous report, in milliseconds.
    pub longest_read_ms: f64,
}

/// Writes the reports of an attempt to its folder.
pub fn write(folder: &Path, reports: &[GuestReport]) -> io::Result<()> {
    samples::write_lines(&folder.join(TELEMETRY), reports)
}

/// Reads the reports of an attempt of the run in `folder`, in order. Returns nothing if there are none, as in
/// results of older versions, or if the attempt ended before its guest was verified.
pub fn read(folder: &Path, cell: &str, attempt: u32) -> Result<Option<Vec<GuestReport>>, Error> {
    samples::read_lines(store::attempt_path(folder, cell, attempt).join(TELEMETRY))
}
