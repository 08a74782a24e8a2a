//! What a client of the guest saw over time: the round trips of the probe's requests, one window of time per
//! line of `probe.jsonl`.

use super::{
    samples,
    store::{self, Error},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{io, path::Path};

/// The name of the file with the round trips, in the attempt's folder.
pub const PROBE: &str = "probe.jsonl";

/// What happened to the requests of the probe that were made in a window of time. A window without any is
/// left out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProbeWindow {
    /// When the window began, in milliseconds since the migrate command was sent; negative before. It may be
    /// late by the time that a message from the controller takes, at most `round_trips.controller`.
    pub at_ms: f64,
    /// The width of the window in milliseconds: 50, unless the attempt was long or the probe's interval is.
    pub duration_ms: f64,
    /// The number of requests, including those that could not be sent.
    pub requests: u64,
    /// The number of requests without a reply.
    pub unanswered: u64,
    /// The longest round trip of the requests that were answered, in milliseconds. Absent if none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_round_trip_ms: Option<f64>,
}

/// Writes the windows of an attempt to its folder.
pub fn write(folder: &Path, windows: &[ProbeWindow]) -> io::Result<()> {
    samples::write_lines(&folder.join(PROBE), windows)
}

/// Reads the windows of an attempt of the run in `folder`, in order. Returns nothing if there are none, as in
/// results of older versions, without a probe, or if the attempt ended before its guest was verified.
pub fn read(folder: &Path, cell: &str, attempt: u32) -> Result<Option<Vec<ProbeWindow>>, Error> {
    samples::read_lines(store::attempt_path(folder, cell, attempt).join(PROBE))
}
