//! The command line: the settings of a workload as options, named as in a matrix file but with dashes.

use crate::{
    disk::{DiskError, DiskLoad, Target},
    workload::{CatchUp, Content, Order, PageSize, Phase, Rate, Workload, Write},
};
use clap::{Args, CommandFactory, Parser};
use std::path::PathBuf;
use units::{Bytes, Span};

/// Dirty memory at a chosen rate, and write and read a disk.
///
/// Writes to a working set at an even rate, in steps of a millisecond. Every second it prints the achieved
/// rate, the longest stall and the write latency. At the end, or when interrupted, it verifies that the
/// memory holds exactly what was written. An interruption before the memory is filled, or a second one, ends
/// the program immediately.
///
/// With --disk, it does the same with a file or a block device, in blocks of 4 KiB and with direct I/O. It
/// checks each block that it reads, and the whole disk at the end. The file stays.
///
/// The load goes on while nobody reads the output, and after the output has failed or its reader has closed
/// the pipe. Output that cannot be written is an error at the end; a closed pipe is none.
#[derive(Debug, Clone, Parser)]
#[command(name = "stressor", version, max_term_width = 100, after_help = AFTER_HELP)]
#[command(arg_required_else_help = true)]
pub struct Cli {
    /// The options that describe the workload.
    #[command(flatten)]
    pub workload: WorkloadArgs,

    /// Stop after this time, counted from when the memory is filled and the disk is written [default: run
    /// until interrupted]
    #[arg(long, value_name = "TIME", conflicts_with = "control")]
    pub duration: Option<Span>,

    /// Do not verify the memory and the disk at the end
    #[arg(long, conflicts_with = "control")]
    pub no_verify: bool,

    /// Print JSON, one object per line: a status every second and a summary at the end
    #[arg(long, conflicts_with = "control")]
    pub json: bool,

    /// Read requests from standard input and write replies and telemetry to standard output, one JSON object
    /// per line, as in a guest
    #[arg(long, conflicts_with_all = ["WorkloadArgs", "DiskLoadArgs"])]
    pub control: bool,

    /// The options that describe the disk.
    #[command(flatten)]
    pub disk: DiskArgs,
}

const AFTER_HELP: &str = "\
Sizes, rates and times need units: 96MB (10^6), 1GiB (2^30), 96MB/s, 300ms, 2min.

Examples:
  stressor --rate 96MB/s --working-set 1GiB
  stressor --rate unlimited --working-set 512MiB --order random --write word --duration 10s
  stressor --working-set 200MB --phase 96MB/s:30s --phase 200MB/s:10s --duration 1min
  stressor --disk test.img --disk-size 1GiB --disk-write 5MB/s --disk-read 20MB/s --duration 1min

Exit codes:
  0  success
  1  the memory or the disk had wrong content, or something failed
  2  the settings are invalid, or there is not enough memory (none was allocated)";

/// A disk, as command-line options.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Disk")]
pub struct DiskArgs {
    /// File or block device to write and read; a file that does not exist is created. With --control, it must
    /// be prepared as the requests say
    #[arg(id = "disk", long = "disk", value_name = "PATH")]
    pub path: Option<PathBuf>,

    /// Use a file that is not empty, or a block device: all that it holds is lost
    #[arg(id = "disk-overwrite", long = "disk-overwrite", requires = "disk")]
    pub overwrite: bool,

    /// The options that describe the load on the disk.
    #[command(flatten)]
    pub load: DiskLoadArgs,
}

/// The load on a disk, as command-line options.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Disk")]
pub struct DiskLoadArgs {
    /// Size of the disk [default: the size of the file or device]
    #[arg(id = "disk-size", long = "disk-size", value_name = "SIZE", requires = "disk")]
    pub size: Option<Bytes>,

    /// Size of the first part of the disk, which is written beforehand; the rest reads as zeros
    #[arg(
        id = "disk-written",
        long = "disk-written",
        value_name = "SIZE",
        requires = "disk",
        default_value = "0"
    )]
    pub written: Bytes,

    /// Size of the first part of the disk, which is written and read over and over [default: the whole disk]
    #[arg(id = "disk-working-set", long = "disk-working-set", value_name = "SIZE", requires = "disk")]
    pub working_set: Option<Bytes>,

    /// Rate of writing to the disk: a rate like 5MB/s, 0, or `unlimited`
    #[arg(
        id = "disk-write",
        long = "disk-write",
        value_name = "RATE",
        requires = "disk",
        default_value = "0"
    )]
    pub write: Rate,

    /// Rate of reading from the disk: a rate like 5MB/s, 0, or `unlimited`
    #[arg(id = "disk-read", long = "disk-read", value_name = "RATE", requires = "disk", default_value = "0")]
    pub read: Rate,
}

/// The settings of a workload, as command-line options.
#[derive(Debug, Clone, Args)]
pub struct WorkloadArgs {
    /// Dirty rate, counting 4 KiB for each page written: a rate like 96MB/s, 0, or `unlimited`
    #[arg(long, default_value = "0")]
    pub rate: Rate,

    /// Size of the memory to dirty repeatedly
    #[arg(long, value_name = "SIZE", default_value = "0")]
    pub working_set: Bytes,

    /// Size of the memory to fill once and not write again
    #[arg(long, value_name = "SIZE", default_value = "0")]
    pub ballast: Bytes,

    /// Content of the pages: zero, constant, random, increment (a counter in random data),
    /// compressible:PERCENT (compressible:25% compresses to a quarter), or sparse:PERCENT (with
    /// sparse:1% a write changes 40 bytes of a page)
    #[arg(long, default_value_t)]
    pub content: Content,

    /// Content of the ballast's pages: the same values as for --content
    #[arg(long, value_name = "CONTENT", default_value_t)]
    pub ballast_content: Content,

    /// How much of a page each write stores: the whole page, or one word of 8 bytes
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub write: Write,

    /// Order in which pages are written: sequential, random, or hot-cold:WRITES/PAGES (hot-cold:90%/10%: 90%
    /// of the writes go to 10% of the pages)
    #[arg(long, default_value_t)]
    pub order: Order,

    /// Number of writing threads, each with its own part of the working set, pinned to the CPUs in turn; at
    /// most 16 for each CPU
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub threads: u32,

    /// Size of the pages that back the working set; huge pages must be reserved beforehand
    #[arg(long, value_name = "SIZE", value_enum, ignore_case = true, default_value_t)]
    pub page_size: PageSize,

    /// Whether writes that a stall prevented are dropped (never) or made up for immediately (burst)
    #[arg(long, value_name = "POLICY", value_enum, ignore_case = true, default_value_t)]
    pub catch_up: CatchUp,

    /// Interval at which due pages are written, from 10us to 1ms; shorter is smoother and costs more wake-ups
    #[arg(long, value_name = "TIME", default_value_t = Workload::LONGEST_STEP)]
    pub step: Span,

    /// Dirty at this rate for this time, before --rate applies; repeat the option for consecutive phases
    #[arg(long = "phase", value_name = "RATE:TIME")]
    pub phases: Vec<Phase>,

    /// Seed of the random content and order
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
}

impl From<WorkloadArgs> for Workload {
    fn from(args: WorkloadArgs) -> Self {
        Self {
            rate: args.rate,
            working_set: args.working_set,
            ballast: args.ballast,
            content: args.content,
            ballast_content: args.ballast_content,
            write: args.write,
            order: args.order,
            threads: args.threads,
            page_size: args.page_size,
            catch_up: args.catch_up,
            step: args.step,
            phases: args.phases,
            seed: args.seed,
        }
    }
}

impl DiskArgs {
    /// Opens the disk, if there is one, without changing it.
    pub(crate) fn target(&self) -> Result<Option<Target>, DiskError> {
        self.path.as_deref().map(|path| Target::examine(path, self.overwrite)).transpose()
    }
}

impl DiskLoadArgs {
    /// Returns the load for a disk that now has this size.
    pub(crate) fn on_disk_of(&self, now: Bytes) -> DiskLoad {
        let Self { size, written, working_set, write, read } = self.clone();
        let size = size.unwrap_or(now);
        DiskLoad { size, written, working_set: working_set.unwrap_or(size), write, read }
    }
}

/// Returns the definition of the command line, from which manual pages and completions are generated.
pub fn command() -> clap::Command {
    Cli::command()
}
