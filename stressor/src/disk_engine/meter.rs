//! The counters of the disk load, which can be read while it runs.

use super::lane::Direction;
use crate::{
    disk::{BLOCK_BYTES, BadBlock, DiskVerification},
    protocol::DiskTelemetry,
};
use std::{
    io,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

/// The counters of the disk load. Its threads and the reader never wait for each other.
#[derive(Debug, Default)]
pub struct DiskMeter {
    is_present: AtomicBool,
    bytes_written: AtomicU64,
    bytes_read: AtomicU64,
    bytes_forgone: AtomicU64,
    longest_write_ns: AtomicU64,
    longest_read_ns: AtomicU64,
    io_errors: AtomicU64,
    reads_bad: AtomicU64,
    first: Mutex<FirstProblems>,
}

/// The first problems of each kind. Locked only when there is one.
#[derive(Debug, Default)]
struct FirstProblems {
    error: Option<String>,
    bad_read: Option<BadBlock>,
}

impl DiskMeter {
    /// Returns the counters since the engine was created, and the longest write and read since this method
    /// was last called, so there should be a single caller. Returns `None` until a disk is set.
    pub fn read(&self) -> Option<DiskTelemetry> {
        self.is_present.load(Relaxed).then(|| DiskTelemetry {
            bytes_written: self.bytes_written.load(Relaxed),
            bytes_read: self.bytes_read.load(Relaxed),
            bytes_forgone: self.bytes_forgone.load(Relaxed),
            longest_write_ns: self.longest_write_ns.swap(0, Relaxed),
            longest_read_ns: self.longest_read_ns.swap(0, Relaxed),
            io_errors: self.io_errors.load(Relaxed),
            reads_bad: self.reads_bad.load(Relaxed),
        })
    }

    /// Returns the message about the first write or read that failed.
    pub fn first_error(&self) -> Option<String> {
        self.first().error.clone()
    }

    /// Adds the problems during the load to the result of a verification.
    pub(super) fn complete(&self, found: DiskVerification) -> DiskVerification {
        let first = self.first();
        DiskVerification {
            reads_bad: self.reads_bad.load(Relaxed),
            first_bad_read: first.bad_read.clone(),
            io_errors: self.io_errors.load(Relaxed),
            first_error: first.error.clone(),
            ..found
        }
    }

    pub(super) fn set_present(&self) {
        self.is_present.store(true, Relaxed);
    }

    /// Records a write, successful or not, that wrote `blocks` blocks and took `ns` nanoseconds.
    pub(super) fn record_write(&self, blocks: usize, ns: u64) {
        self.bytes_written.fetch_add(blocks as u64 * BLOCK_BYTES, Relaxed);
        self.longest_write_ns.fetch_max(ns, Relaxed);
    }

    /// Records a read, successful or not, that read `blocks` blocks and took `ns` nanoseconds.
    pub(super) fn record_read(&self, blocks: usize, ns: u64) {
        self.bytes_read.fetch_add(blocks as u64 * BLOCK_BYTES, Relaxed);
        self.longest_read_ns.fetch_max(ns, Relaxed);
    }

    /// Records that writes or reads of `blocks` blocks were dropped.
    pub(super) fn record_forgone(&self, blocks: u64) {
        self.bytes_forgone.fetch_add(blocks * BLOCK_BYTES, Relaxed);
    }

    /// Records that a read returned wrong content.
    pub(super) fn record_bad(&self, bad: BadBlock) {
        self.reads_bad.fetch_add(1, Relaxed);
        self.first().bad_read.get_or_insert(bad);
    }

    /// Records that writing or reading failed at a block.
    pub(super) fn record_error(&self, action: Direction, index: u64, path: &Path, cause: &io::Error) {
        self.io_errors.fetch_add(1, Relaxed);
        let message = || format!("cannot {action} block {index} of the disk {}: {cause}", path.display());
        self.first().error.get_or_insert_with(message);
    }

    fn first(&self) -> MutexGuard<'_, FirstProblems> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
