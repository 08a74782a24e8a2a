//! A lane of the disk load: a thread that makes one request after another, on schedule, until it is stopped.

use super::{BLOCKS_AT_ONCE, Disk, DiskMeter, ledger::Reserved};
use crate::{
    clock::{Clock, Monotonic, monotonic_ns, wake_precisely},
    disk::{Block, fill_block},
    pace::{Action, Pacer, Pacing},
    workload::{CatchUp, Rate},
};
use nix::sys::signal::SigSet;
use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

/// The longest time that a lane sleeps before it checks again whether to stop, in nanoseconds. After a
/// failure, it sleeps for the same time, so that a disk that fails immediately does not keep the CPU busy.
const MAX_SLEEP_NS: u64 = 10_000_000;

/// How the disk load keeps its rates: like memory by default, but in longer steps. The blocks due in a step
/// are one request, and under emulation a request takes half a millisecond of the CPU that dirties memory.
const PACING: Pacing = Pacing { step_ns: 10_000_000, catch_up: CatchUp::Never };

/// What a lane does with blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Write,
    Read,
}

/// The schedule that all lanes of a load follow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    pub(super) start_ns: u64,
    /// The number of lanes of each direction.
    pub(super) lanes: u64,
    /// The number of blocks in the working set; at least 1.
    pub(super) blocks: u64,
}

/// The data that one thread works with.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) number: u64,
    pub(super) direction: Direction,
    pub(super) rate: Rate,
    pub(super) disk: Arc<Disk>,
    pub(super) meter: Arc<DiskMeter>,
}

impl Lane {
    /// Writes or reads blocks on schedule until `stop` is set.
    pub(super) fn run(&self, schedule: Schedule, stop: &AtomicBool) {
        // Signals are for the thread that uses the engine. The signal of a file size limit would end the
        // program; if it is blocked, the write fails instead.
        let _ = SigSet::all().thread_block();
        wake_precisely();
        let mut pacer = Pacer::new(self.rate, PACING, (self.number, schedule.lanes), schedule.start_ns);
        let mut buffer = vec![Block::ZEROS; BLOCKS_AT_ONCE];
        while !stop.load(Relaxed) {
            let now = monotonic_ns();
            match pacer.next_action(now) {
                Action::Sleep { until_ns } => Monotonic.sleep_until(until_ns.min(now + MAX_SLEEP_NS)),
                Action::Write { pages, forgone, .. } => {
                    self.meter.record_forgone(forgone);
                    let mut left = pages;
                    while left > 0 && !stop.load(Relaxed) {
                        left -= self.request(left, schedule.blocks, &mut buffer);
                    }
                }
            }
        }
    }

    /// Writes or reads the next blocks with one request: `most` of them, or fewer if the working set of
    /// `blocks` blocks ends earlier, or if the buffer is smaller. Returns their number.
    fn request(&self, most: u64, blocks: u64, buffer: &mut [Block]) -> u64 {
        let next = match self.direction {
            Direction::Write => &self.disk.next_write,
            Direction::Read => &self.disk.next_read,
        };
        let most = most.min(buffer.len() as u64);
        let range_from = |next: u64| (next % blocks)..(next % blocks + most).min(blocks);
        let first = next.fetch_update(Relaxed, Relaxed, |next| Some(range_from(next).end % blocks));
        let range = range_from(first.unwrap_or_default());
        let count = range.end - range.start;
        let buffer = &mut buffer[..count as usize];
        let reserved = self.disk.ledger.reserve(range);
        let all_done = match self.direction {
            Direction::Write => self.write(&reserved, buffer),
            Direction::Read => self.read(&reserved, buffer),
        };
        drop(reserved);
        if !all_done {
            Monotonic.sleep_until(monotonic_ns() + MAX_SLEEP_NS);
        }
        count
    }

    /// Writes blocks, each with its next generation. Returns whether that succeeded.
    fn write(&self, reserved: &Reserved<'_>, buffer: &mut [Block]) -> bool {
        for ((index, expected), block) in reserved.blocks().zip(&mut *buffer) {
            fill_block(&mut block.0, index, expected.next());
        }
        let before = monotonic_ns();
        let (done, error) = self.disk.write(reserved.first(), buffer);
        self.meter.record_write(done, monotonic_ns().saturating_sub(before));
        reserved.written(done);
        self.report(reserved, done, error.as_ref())
    }

    /// Reads blocks and checks them. Returns whether they could be read.
    fn read(&self, reserved: &Reserved<'_>, buffer: &mut [Block]) -> bool {
        let before = monotonic_ns();
        let (done, error) = self.disk.read(reserved.first(), buffer);
        self.meter.record_read(done, monotonic_ns().saturating_sub(before));
        for ((index, expected), block) in reserved.blocks().zip(&buffer[..done]) {
            if !expected.matches(&block.0, index) {
                self.meter.record_bad(expected.describe(&block.0, index));
            }
        }
        self.report(reserved, done, error.as_ref())
    }

    /// Reports the error, if there is one, that occurred after `done` blocks had been written or read.
    /// Returns whether there was no error.
    fn report(&self, reserved: &Reserved<'_>, done: usize, error: Option<&io::Error>) -> bool {
        if let Some(cause) = error {
            let index = reserved.first() + done as u64;
            self.meter.record_error(self.direction, index, &self.disk.path, cause);
        }
        error.is_none()
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Write => "write",
            Self::Read => "read",
        })
    }
}
