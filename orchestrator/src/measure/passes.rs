//! The passes of pre-copy. A pass lasts from one reading of the dirty bitmap to the next.
//!
//! QEMU counts its readings of the bitmap and sends an event for each; the orchestrator takes a sample right
//! after each event. A pass starts with the first sample that has its number, and ends with the first sample
//! of the next pass. QEMU 10 reads the bitmap again whenever the remaining memory seems to fit into the
//! downtime limit, so late passes can be shorter than it takes to get a sample. These passes are missing from
//! the list, and only show as gaps in the numbering.

use super::samples::{MemoryProgress, Sample};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stressor::workload::PAGE_BYTES;

/// One pass over the dirty memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pass {
    /// The number of the pass as QEMU counts, from 1.
    pub number: u64,
    /// The start of the pass, in milliseconds since the start of the migration.
    pub started_at_ms: f64,
    /// The duration of the pass, in milliseconds.
    pub duration_ms: f64,
    /// The memory known to be dirty at the start of the pass, in bytes.
    pub remaining_bytes: u64,
    /// The data sent during the pass, in bytes as QEMU counts them.
    pub sent_bytes: u64,
    /// The memory dirtied during the pass, in bytes: what the next reading of the bitmap found, less what
    /// this pass had not sent. Absent for the last pass, since no reading follows it.
    pub dirtied_bytes: Option<u64>,
    /// The average bandwidth during the pass, in bytes per second; 0 for passes shorter than 1 ms.
    pub bandwidth_bytes_per_s: u64,
    /// The share of time for which QEMU throttled the vCPUs at the end of the pass, in percent.
    pub throttle_percent: u64,
}

/// Returns the passes of a migration, in order, as its samples show them.
pub fn passes(samples: &[Sample]) -> Vec<Pass> {
    // Samples without progress, such as those of a migration that is set up, belong to no pass.
    let known: Vec<(&Sample, MemoryProgress)> =
        samples.iter().filter_map(|sample| Some((sample, sample.memory?))).collect();
    let started: Vec<&[(&Sample, MemoryProgress)]> =
        known.chunk_by(|(_, a), (_, b)| a.pass == b.pass).filter(|chunk| chunk[0].1.pass > 0).collect();
    let pass = |(i, chunk): (usize, &&[(&Sample, MemoryProgress)])| {
        let (first_sample, first) = chunk[0];
        let next = started.get(i + 1).map(|chunk| chunk[0]);
        let (end_sample, end) = next.unwrap_or(chunk[chunk.len() - 1]);
        let duration_ms = end_sample.at_ms - first_sample.at_ms;
        let sent_bytes = end.transferred_bytes.saturating_sub(first.transferred_bytes);
        Pass {
            number: first.pass,
            started_at_ms: first_sample.at_ms,
            duration_ms,
            remaining_bytes: first.remaining_bytes,
            sent_bytes,
            dirtied_bytes: next.map(|(_, next)| {
                let pages = (next.normal_pages + next.zero_pages)
                    .saturating_sub(first.normal_pages + first.zero_pages);
                let left_over = first.remaining_bytes.saturating_sub(pages * PAGE_BYTES);
                next.remaining_bytes.saturating_sub(left_over)
            }),
            bandwidth_bytes_per_s: if duration_ms >= 1.0 {
                (sent_bytes as f64 * 1e3 / duration_ms) as u64
            } else {
                0
            },
            throttle_percent: end_sample.throttle_percent,
        }
    };
    started.iter().enumerate().map(pass).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_ms: f64, pass: u64, sent_pages: u64, remaining_pages: u64) -> Sample {
        Sample {
            disk: None,
            at_ms,
            status: "active".into(),
            memory: Some(MemoryProgress {
                transferred_bytes: sent_pages * PAGE_BYTES,
                remaining_bytes: remaining_pages * PAGE_BYTES,
                normal_pages: sent_pages,
                pass,
                ..MemoryProgress::default()
            }),
            throttle_percent: 0,
        }
    }

    #[test]
    fn a_pass_lasts_until_the_first_sample_of_the_next_pass() {
        let samples = [
            sample(1.0, 0, 0, 0),
            sample(10.0, 1, 0, 1000),
            sample(60.0, 1, 500, 500),
            // All but 100 pages were sent, and 200 were dirtied meanwhile.
            sample(100.0, 2, 900, 300),
            sample(120.0, 2, 1100, 100),
        ];
        let passes = passes(&samples);
        assert_eq!(passes.len(), 2);
        let first = &passes[0];
        assert_eq!((first.number, first.duration_ms), (1, 90.0));
        assert_eq!(first.sent_bytes, 900 * PAGE_BYTES);
        assert_eq!(first.dirtied_bytes, Some(200 * PAGE_BYTES));
        assert_eq!(first.bandwidth_bytes_per_s, 900 * PAGE_BYTES * 1000 / 90);
        let last = &passes[1];
        assert_eq!((last.number, last.dirtied_bytes), (2, None));
        assert_eq!(last.sent_bytes, 200 * PAGE_BYTES);
    }

    #[test]
    fn without_samples_there_are_no_passes() {
        assert!(passes(&[]).is_empty());
        assert!(passes(&[sample(1.0, 0, 0, 0)]).is_empty());
    }
}
