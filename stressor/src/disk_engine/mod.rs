//! The disk engine: the load on a disk, in threads of its own, behind four operations: set, start, stop,
//! verify.
//!
//! Up to two writes and two reads are in flight, with direct I/O. Each belongs to a thread (`lane`) that is
//! paced like the threads that dirty memory: the blocks that come due in a step of 10 ms are one request,
//! just as an operating system would merge them. The disk's threads share no lock with the threads that dirty
//! memory, and none with the reader of the counters ([`DiskMeter`]). The expected content of each block is in
//! a table in memory (`ledger`), which migrates with the guest; a block in flight is reserved in that table,
//! so that no one reads a block that is being written.
//!
//! A failing disk does not end the load: the failure is counted, the first one is kept with its message, and
//! the load continues after a pause. After a failed write, the content of a block is unknown; the
//! verification accepts, sector by sector, both the previous and the new content.

mod lane;
mod ledger;
mod meter;

pub use meter::DiskMeter;

use crate::{
    clock::monotonic_ns,
    disk::{self, BLOCK_BYTES, Block, DiskError, DiskLoad, DiskVerification},
    error::Error,
    machine::MemInfo,
    memory::run_all,
};
use lane::{Direction, Lane, Schedule};
use ledger::{Ledger, Table};
use nix::{
    errno::Errno,
    sys::uio::{preadv, pwritev},
};
use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    ops::Range,
    path::{Path, PathBuf},
    slice,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};
use units::Bytes;

/// The largest number of writes in flight, and the largest number of reads in flight.
const IN_FLIGHT: u64 = 2;

/// The largest number of blocks of one request: 256 KiB.
const BLOCKS_AT_ONCE: usize = 64;

/// Writes and reads a disk according to a [`DiskLoad`]. Dropping it stops the load.
#[derive(Debug)]
pub struct DiskEngine {
    /// The path of the disk that loads use; absent on a system without a disk.
    path: Option<PathBuf>,
    load: DiskLoad,
    disk: Option<Arc<Disk>>,
    meter: Arc<DiskMeter>,
    /// Whether the load should run as soon as it is set.
    started: bool,
    stop: Arc<AtomicBool>,
    lanes: Vec<JoinHandle<()>>,
}

/// An open disk, and the expected content of its blocks.
#[derive(Debug)]
struct Disk {
    path: PathBuf,
    file: File,
    ledger: Ledger,
    /// The blocks with which the next write and the next read begin.
    next_write: AtomicU64,
    next_read: AtomicU64,
}

impl DiskEngine {
    /// Creates an engine for the disk with this path. The disk is opened when a load is set.
    pub fn new(path: Option<PathBuf>) -> Self {
        Self {
            path,
            load: DiskLoad::default(),
            disk: None,
            meter: Arc::default(),
            started: false,
            stop: Arc::default(),
            lanes: Vec::new(),
        }
    }

    /// Returns the counters of the load, which start with the creation of the engine.
    pub fn meter(&self) -> Arc<DiskMeter> {
        Arc::clone(&self.meter)
    }

    /// Describes the disk and replaces the load on it, which continues if it was running. The first time, the
    /// disk is opened and some of its blocks are compared with the description. Afterwards, the rates and the
    /// working set can change; the engine remembers what has been written.
    ///
    /// # Errors
    ///
    /// If the description is invalid or does not match the disk, the engine is unchanged. After
    /// [`Error::Thread`] it is stopped.
    pub fn set(&mut self, load: DiskLoad) -> Result<(), Error> {
        check(&load)?;
        let path = self.path.as_ref().ok_or(DiskError::NoDisk)?;
        let is_same = (load.size, load.written) == (self.load.size, self.load.written);
        let disk = match &self.disk {
            Some(disk) if is_same => Arc::clone(disk),
            Some(disk) if disk.ledger.table().is_written() => {
                let DiskLoad { size, written, .. } = self.load;
                return Err(DiskError::Restated { path: disk.path.clone(), size, written }.into());
            }
            _ => Arc::new(Disk::open(path, &load)?),
        };
        self.stop_lanes();
        disk.ledger.table().grow(load.working_set_blocks());
        self.disk = Some(disk);
        self.load = load;
        self.meter.set_present();
        if self.started { self.start() } else { Ok(()) }
    }

    /// Starts the load. Without a disk, or if the load is already running, this only makes sure that a load
    /// that is set later starts immediately.
    ///
    /// # Errors
    ///
    /// Fails if a thread cannot be started. The engine is stopped then.
    pub fn start(&mut self) -> Result<(), Error> {
        self.started = true;
        let (Some(disk), true) = (&self.disk, self.lanes.is_empty()) else {
            return Ok(());
        };
        self.stop = Arc::default();
        let blocks = self.load.working_set_blocks();
        let schedule = Schedule { start_ns: monotonic_ns(), lanes: IN_FLIGHT.min(blocks), blocks };
        let rates = [(Direction::Write, self.load.write), (Direction::Read, self.load.read)];
        for (direction, rate) in rates.into_iter().filter(|(_, rate)| !rate.is_idle()) {
            for number in 0..schedule.lanes {
                let (disk, meter, stop) = (Arc::clone(disk), self.meter(), Arc::clone(&self.stop));
                let lane = Lane { number, direction, rate, disk, meter };
                let name = format!("disk {direction} {number}");
                match thread::Builder::new().name(name).spawn(move || lane.run(schedule, &stop)) {
                    Ok(lane) => self.lanes.push(lane),
                    Err(cause) => {
                        // Before stopping, while the threads that did start still count towards the limit.
                        let error = Error::thread(cause);
                        self.stop();
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// Requests the load to stop, without waiting until it has.
    pub fn request_stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Stops the load. Returns when no write and no read is in flight any more, which depends on the disk.
    pub fn stop(&mut self) {
        self.started = false;
        self.stop_lanes();
    }

    fn stop_lanes(&mut self) {
        self.request_stop();
        for lane in self.lanes.drain(..) {
            lane.join().expect("the threads of the disk load do not panic");
        }
    }

    /// Stops the load and compares the whole disk with its expected content.
    ///
    /// # Errors
    ///
    /// If no load was set.
    pub fn verify(&mut self) -> Result<DiskVerification, Error> {
        self.stop();
        let disk = self.disk.as_ref().ok_or(DiskError::NotSet)?;
        let blocks = self.load.blocks();
        let table = disk.ledger.table();
        let table = &*table;
        let each = blocks.div_ceil(thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64));
        let ranges = (0..blocks).step_by(each as usize).map(|first| first..blocks.min(first + each));
        let checkers = ranges.map(|range| move || disk.verify(table, range)).collect();
        let found = run_all(checkers).into_iter().fold(DiskVerification::default(), DiskVerification::and);
        Ok(self.meter.complete(found))
    }

    /// Returns the current load.
    pub fn load(&self) -> &DiskLoad {
        &self.load
    }
}

impl Drop for DiskEngine {
    fn drop(&mut self) {
        self.stop_lanes();
    }
}

/// Checks that a load is valid, and that there is memory for the table of its blocks, which may take at most
/// half of the available memory.
pub(crate) fn check(load: &DiskLoad) -> Result<(), Error> {
    load.check()?;
    let need = Table::bytes(load.working_set_blocks());
    let available = MemInfo::probe().map_err(Error::Probe)?.available;
    if need > available.get() / 2 {
        return Err(DiskError::Table { need: Bytes::new(need), available }.into());
    }
    Ok(())
}

impl Disk {
    /// Opens a disk, and compares its size and some of its blocks with what `load` says: it may not be the
    /// disk that was prepared for this load.
    fn open(path: &Path, load: &DiskLoad) -> Result<Self, DiskError> {
        let (file, size) = disk::open(path)?;
        let (stated, found) = (load.size, Bytes::new(size));
        if stated != found {
            return Err(DiskError::Size { path: path.into(), stated, found });
        }
        let (blocks, written) = (load.blocks(), load.written_blocks());
        let disk = Self {
            path: path.into(),
            file,
            ledger: Ledger::new(written),
            next_write: AtomicU64::new(0),
            next_read: AtomicU64::new(0),
        };
        let mut block = Block::ZEROS;
        for index in [0, written.saturating_sub(1), written.min(blocks - 1), blocks - 1] {
            let path = || path.to_path_buf();
            if let (_, Some(cause)) = disk.read(index, slice::from_mut(&mut block)) {
                return Err(DiskError::Read { path: path(), index, cause });
            }
            let expected = disk.ledger.table().expected(index);
            if !expected.matches(&block.0, index) {
                let bad = expected.describe(&block.0, index);
                return Err(DiskError::Unprepared { path: path(), bad });
            }
        }
        Ok(disk)
    }

    /// Reads consecutive blocks, starting at `first`. Returns how many could be read, and the error that
    /// prevented the rest.
    fn read(&self, first: u64, blocks: &mut [Block]) -> (usize, Option<io::Error>) {
        transfer(blocks.len(), |done| {
            let mut rest: Vec<_> =
                blocks[done..].iter_mut().map(|block| IoSliceMut::new(&mut block.0)).collect();
            preadv(&self.file, &mut rest, offset_of(first + done as u64))
        })
    }

    /// Writes consecutive blocks, starting at `first`. Returns how many were written, and the error that
    /// prevented the rest.
    fn write(&self, first: u64, blocks: &[Block]) -> (usize, Option<io::Error>) {
        transfer(blocks.len(), |done| {
            let rest: Vec<_> = blocks[done..].iter().map(|block| IoSlice::new(&block.0)).collect();
            pwritev(&self.file, &rest, offset_of(first + done as u64))
        })
    }

    /// Compares a range of the disk's blocks with their expected content.
    fn verify(&self, table: &Table, range: Range<u64>) -> DiskVerification {
        let mut found =
            DiskVerification { blocks_checked: range.end - range.start, ..DiskVerification::default() };
        let mut buffer = vec![Block::ZEROS; BLOCKS_AT_ONCE];
        for first in range.clone().step_by(BLOCKS_AT_ONCE) {
            let count = (range.end - first).min(BLOCKS_AT_ONCE as u64) as usize;
            let (_, error) = self.read(first, &mut buffer[..count]);
            for (index, block) in (first..).zip(&mut buffer[..count]) {
                let expected = table.expected(index);
                // Reading the blocks one by one shows which of them cannot be read.
                let error = error.as_ref().and_then(|_| self.read(index, slice::from_mut(block)).1);
                let bad = match error {
                    None if expected.matches(&block.0, index) => continue,
                    None => expected.describe(&block.0, index),
                    Some(cause) => expected.bad(index, format!("nothing that can be read: {cause}")),
                };
                found.blocks_bad += 1;
                found.first_bad.get_or_insert(bad);
            }
        }
        found
    }
}

/// Returns the offset of a block on the disk, in bytes.
fn offset_of(index: u64) -> i64 {
    (index * BLOCK_BYTES).cast_signed()
}

/// Makes system calls until `blocks` blocks are transferred. `call` gets the number of blocks transferred so
/// far, and returns how many bytes it has transferred. Returns the number of blocks, and the error that
/// prevented the rest.
fn transfer(
    blocks: usize,
    mut call: impl FnMut(usize) -> Result<usize, Errno>,
) -> (usize, Option<io::Error>) {
    let mut done = 0;
    while done < blocks {
        match call(done) {
            Ok(0) => return (done, Some(io::Error::other("the disk ends before it"))),
            Ok(bytes) => {
                let (whole, part) = (bytes as u64 / BLOCK_BYTES, bytes as u64 % BLOCK_BYTES);
                done += whole as usize;
                if part > 0 {
                    let why = format!("only {part} of its {BLOCK_BYTES} bytes");
                    return (done, Some(io::Error::other(why)));
                }
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return (done, Some(errno.into())),
        }
    }
    (done, None)
}
