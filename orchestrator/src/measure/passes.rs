//! Passes: from one reading of the dirty bitmap to the next.
//!
//! QEMU counts its readings of the bitmap and announces each with an event; the orchestrator takes a sample
//! right after each event. A pass starts with the first sample that carries its number and ends with the
//! first of the next. QEMU 10 reads the bitmap again whenever what is left seems to fit the downtime limit,
//! so late passes can be shorter than the time a sample takes; such passes show in the numbering only.

use super::samples::Sample;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stressor::workload::PAGE_BYTES;

/// One pass over the dirty memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pass {
    /// QEMU's number, from 1.
    pub number: u64,
    /// When it started, in milliseconds since the migrate command.
    pub started_at_ms: f64,
    /// How long it took, in milliseconds.
    pub duration_ms: f64,
    /// What was known to be dirty when it started, in bytes.
    pub remaining_bytes: u64,
    /// What was sent in it, in bytes, as QEMU counts.
    pub sent_bytes: u64,
    /// What became dirty in it, in bytes: what the next reading found beyond what this pass had left over.
    /// Absent for the last pass, which no reading follows.
    pub dirtied_bytes: Option<u64>,
    /// What was sent per second, in bytes; 0 for a pass too short to tell.
    pub bandwidth_bytes_per_s: u64,
    /// How far QEMU throttled the vCPUs at its end, in per cent.
    pub throttle_percent: u64,
}

/// The passes that a migration's samples show, in order.
pub fn passes(samples: &[Sample]) -> Vec<Pass> {
    let started: Vec<&[Sample]> =
        samples.chunk_by(|a, b| a.pass == b.pass).filter(|chunk| chunk[0].pass > 0).collect();
    let pass = |(i, chunk): (usize, &&[Sample])| {
        let first = &chunk[0];
        let next = started.get(i + 1).map(|chunk| &chunk[0]);
        let end = next.unwrap_or(&chunk[chunk.len() - 1]);
        let duration_ms = end.at_ms - first.at_ms;
        let sent_bytes = end.transferred_bytes.saturating_sub(first.transferred_bytes);
        Pass {
            number: first.pass,
            started_at_ms: first.at_ms,
            duration_ms,
            remaining_bytes: first.remaining_bytes,
            sent_bytes,
            dirtied_bytes: next.map(|next| {
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
            throttle_percent: end.throttle_percent,
        }
    };
    started.iter().enumerate().map(pass).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_ms: f64, pass: u64, sent_pages: u64, remaining_pages: u64) -> Sample {
        Sample {
            at_ms,
            status: "active".into(),
            transferred_bytes: sent_pages * PAGE_BYTES,
            remaining_bytes: remaining_pages * PAGE_BYTES,
            normal_pages: sent_pages,
            zero_pages: 0,
            pass,
            dirty_rate_bytes_per_s: 0,
            mbit_per_s: 0.0,
            throttle_percent: 0,
        }
    }

    #[test]
    fn a_pass_lasts_from_its_first_sample_to_the_next_ones() {
        let samples = [
            sample(1.0, 0, 0, 0),
            sample(10.0, 1, 0, 1000),
            sample(60.0, 1, 500, 500),
            // All but 100 pages sent; 200 have become dirty meanwhile.
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
