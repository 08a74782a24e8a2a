//! What a client of the guest saw over time: the round trips of the probe's requests, one window of time per
//! line of `probe.jsonl`. While the attempt is in progress, `probe-live.jsonl` has what is known so far.

use super::{
    samples,
    store::{self, Error},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{io, path::Path};

/// The name of the file with the round trips, in the attempt's folder.
pub const PROBE: &str = "probe.jsonl";

/// The name of the file with the round trips so far, in the folder of an attempt in progress. It is removed
/// when the attempt has ended.
pub const LIVE_PROBE: &str = "probe-live.jsonl";

/// What happened to the requests of the probe that were made in a window of time. A window without any is
/// left out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProbeWindow {
    /// When the window began, in milliseconds since the start of the migration; negative before. It may be
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

/// What has happened so far to the requests in a window of time, while the attempt is in progress. A later
/// line with the same time replaces an earlier one: a reply has arrived in the meantime.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LiveWindow {
    /// What has happened so far.
    #[serde(flatten)]
    pub window: ProbeWindow,
    /// The median round trip of the requests that were answered, in milliseconds. Absent if none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median_round_trip_ms: Option<f64>,
}

impl LiveWindow {
    /// Returns whether the figures of the window fit together.
    pub fn is_consistent(&self) -> bool {
        let ProbeWindow { duration_ms, requests, unanswered, longest_round_trip_ms, .. } = self.window;
        let is_answered = unanswered < requests;
        let fits = |ms: Option<f64>| ms.map_or(!is_answered, |ms| is_answered && ms >= 0.0);
        duration_ms > 0.0
            && requests > 0
            && unanswered <= requests
            && fits(longest_round_trip_ms)
            && fits(self.median_round_trip_ms)
    }

    /// Merges this window and the next one into a wider one, which has the longest round trip of both, and
    /// the larger median.
    #[must_use]
    pub fn merge(self, next: Self) -> Self {
        let most = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::max);
        let (a, b) = (self.window, next.window);
        Self {
            window: ProbeWindow {
                at_ms: a.at_ms,
                duration_ms: b.at_ms + b.duration_ms - a.at_ms,
                requests: a.requests.saturating_add(b.requests),
                unanswered: a.unanswered.saturating_add(b.unanswered),
                longest_round_trip_ms: most(a.longest_round_trip_ms, b.longest_round_trip_ms),
            },
            median_round_trip_ms: most(self.median_round_trip_ms, next.median_round_trip_ms),
        }
    }
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

/// Reads what is known so far of an attempt in progress of the run in `folder`, in the order of time. Returns
/// nothing if there is nothing, or if the attempt has ended.
pub fn read_live(folder: &Path, cell: &str, attempt: u32) -> Result<Option<Vec<ProbeWindow>>, Error> {
    let path = store::attempt_path(folder, cell, attempt).join(LIVE_PROBE);
    let windows = samples::read_lines::<LiveWindow>(path)?;
    Ok(windows.map(|lines| {
        let lines = lines.into_iter().filter(LiveWindow::is_consistent).collect();
        latest(lines).into_iter().map(|line| line.window).collect()
    }))
}

/// Returns windows in the order of time. Of those with the same time, only the last is kept.
pub fn latest(mut windows: Vec<LiveWindow>) -> Vec<LiveWindow> {
    // Windows with the same time keep their order.
    windows.sort_by(|a, b| a.window.at_ms.total_cmp(&b.window.at_ms));
    windows.dedup_by(|later, kept| {
        let is_same = later.window.at_ms.total_cmp(&kept.window.at_ms).is_eq();
        if is_same {
            *kept = *later;
        }
        is_same
    });
    windows
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_last_line_of_a_window_in_progress_counts() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_live(folder.path(), "a", 1).unwrap(), None);
        let attempt = store::attempt_path(folder.path(), "a", 1);
        fs::create_dir_all(&attempt).unwrap();
        let window = |at_ms, unanswered, longest_round_trip_ms: Option<f64>| LiveWindow {
            window: ProbeWindow { at_ms, duration_ms: 50.0, requests: 5, unanswered, longest_round_trip_ms },
            median_round_trip_ms: longest_round_trip_ms,
        };
        let lines = [
            window(0.125, 5, None),
            window(50.125, 0, Some(0.5)),
            window(0.125, 1, Some(1_700.0)),
            // Five requests were made, and seven were not answered.
            window(100.125, 7, None),
        ];
        let text: String = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
        // A newer version may write more.
        let newer = text.replace("\"requests\"", "\"new\":[null],\"requests\"");
        fs::write(attempt.join(LIVE_PROBE), newer + "{\"at_ms\":200.0,\"dur").unwrap();
        let found = read_live(folder.path(), "a", 1).unwrap().unwrap();
        assert_eq!(found, [lines[2].window, lines[1].window]);
    }
}
