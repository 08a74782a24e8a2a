//! The command line: settings as options, named as in a matrix file but with dashes.

use crate::workload::{CatchUp, Content, Order, PageSize, Phase, Rate, Workload, Write};
use clap::{Args, CommandFactory, Parser};
use units::{Bytes, Span};

/// Dirty memory at a chosen rate.
///
/// Writes to a working set at an even rate, in steps of a millisecond, and prints once a second what it
/// achieved: the rate, the longest stall, and how long a write took. At the end, or when interrupted, it
/// checks that the memory holds exactly what it wrote.
#[derive(Debug, Clone, Parser)]
#[command(name = "stressor", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(flatten)]
    pub load: Load,

    /// Stop after this time [default: run until interrupted]
    #[arg(long, value_name = "TIME", conflicts_with = "control")]
    pub duration: Option<Span>,

    /// Do not check the memory at the end
    #[arg(long, conflicts_with = "control")]
    pub no_verify: bool,

    /// Print JSON, one object a line: a status each second, a summary at the end
    #[arg(long, conflicts_with = "control")]
    pub json: bool,

    /// Take requests on standard input and answer on standard output, as in a guest; see the library's
    /// `protocol`
    #[arg(long, conflicts_with_all = ["Load"])]
    pub control: bool,
}

const AFTER_HELP: &str = "\
Sizes, rates and times have units: 96MB (10^6), 1GiB (2^30), 96MB/s, 300ms, 2min.

Examples:
  stressor --rate 96MB/s --working-set 1GiB
  stressor --rate unlimited --working-set 512MiB --order random --write word --duration 10s
  stressor --working-set 200MB --phase 96MB/s:30s --phase 200MB/s:10s --duration 1min

Exit code: 0; 1 when the memory was not as written or something failed; 2 when the settings are wrong or do
not fit this machine (then no memory was taken).";

/// The workload, as options.
#[derive(Debug, Clone, Args)]
pub struct Load {
    /// How fast to dirty memory: bytes of 4 KiB pages per second, 0, or `unlimited`
    #[arg(long, default_value = "0")]
    pub rate: Rate,

    /// Memory to dirty over and over
    #[arg(long, value_name = "SIZE", default_value = "0")]
    pub working_set: Bytes,

    /// Memory to fill once and leave alone
    #[arg(long, value_name = "SIZE", default_value = "0")]
    pub ballast: Bytes,

    /// What pages hold: zero, constant, random, increment (a counter in random data), or compressible:SHARE
    /// (compressible:25% compresses to a quarter)
    #[arg(long, default_value_t)]
    pub content: Content,

    /// What the pages of the ballast hold, likewise
    #[arg(long, value_name = "CONTENT", default_value_t)]
    pub ballast_content: Content,

    /// How much of a page one write stores: all of it, or one word of 8 bytes
    #[arg(long, value_enum, default_value_t)]
    pub write: Write,

    /// Which page comes next: sequential, random, or hot-cold:WRITES/PAGES (hot-cold:90%/10%: 90% of the
    /// writes go to 10% of the pages)
    #[arg(long, default_value_t)]
    pub order: Order,

    /// Threads that write, each to its own part of the working set, pinned to the CPUs in turn
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub threads: u32,

    /// Pages that back the working set; huge ones must have been reserved
    #[arg(long, value_name = "SIZE", value_enum, default_value_t)]
    pub page_size: PageSize,

    /// Whether writes that a stall prevented are dropped (never) or made up for at once (burst)
    #[arg(long, value_name = "POLICY", value_enum, default_value_t)]
    pub catch_up: CatchUp,

    /// How often to write what has come due, from 10us to 1ms; finer is smoother and costs more wake-ups
    #[arg(long, value_name = "TIME", default_value_t = Workload::LONGEST_STEP)]
    pub step: Span,

    /// A rate for some time, before --rate; repeat it for one after the other
    #[arg(long = "phase", value_name = "RATE:TIME")]
    pub phases: Vec<Phase>,

    /// Chooses the random content and order
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
}

impl From<Load> for Workload {
    fn from(load: Load) -> Self {
        Self {
            rate: load.rate,
            working_set: load.working_set,
            ballast: load.ballast,
            content: load.content,
            ballast_content: load.ballast_content,
            write: load.write,
            order: load.order,
            threads: load.threads,
            page_size: load.page_size,
            catch_up: load.catch_up,
            step: load.step,
            phases: load.phases,
            seed: load.seed,
        }
    }
}

/// The command line's definition, for manual pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}
