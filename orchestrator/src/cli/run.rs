//! `testbed run`.

use super::{
    Failure, KernelArgs, LabArgs, SelectionArgs,
    plan::resolve,
    read, show, terminal, try_show,
    watch::{listen, serve},
};
use crate::{
    event::FanOut,
    image::{self, Cache},
    input,
    layout::shell_word,
    matrix::{Plan, Traces, selection::Selection},
    progress::{display::Display, live::Live, plain::Plain},
    report::{self, FinishedRun, FormatName},
    results::{
        store::{self, Store},
        verdict,
    },
    run::{
        self, RunOutcome,
        interrupt::{self, Interrupt},
        real::{BenchOptions, QemuBench},
    },
    watch::{DEFAULT_ADDRESS, Server},
};
use clap::Args;
use frontend::one_line;
use std::{
    io,
    path::{Path, PathBuf},
};

pub(super) const AFTER_HELP: &str = "Examples:
  testbed run scenarios/smoke.yaml
  testbed run scenarios/latency.yaml --only 'link.delay == 0' --repeat 1
  testbed run --resume results/latency-20261126-101500
  testbed run --lab vagrant scenarios/icclab/threshold.yaml
  testbed run scenarios/smoke.yaml --watch

Files:
  matrix.yaml, selection.json  in the results folder: the matrix as run, and which part of it
  traces.json                  the traces that the matrix names, if it names any
  environment.json             QEMU, kernels, accelerator, CPU, versions
  cells.jsonl                  one record per attempt, written as soon as it ends
  summary.csv                  one row per attempt
  report.html                  the report as a page for a browser
  attempts/CELL.N/             samples of the migration, and the log of each QEMU

Exit codes:
  0    every attempt has a result, and every expectation holds
  1    an expectation does not hold, or is undecided: not all of its attempts were made, or a
       measurement leaves open on which side of a bound it is
  2    bad input; nothing was started
  3    the lab or QEMU failed: an attempt is failed, guest-lost or corrupted, or none could be made
  130  interrupted";

#[derive(Debug, Clone, Args)]
pub(super) struct RunArgs {
    /// The matrix file, or `-` for standard input; with --resume it may be left out
    #[arg(required_unless_present_any = ["resume", "watch"])]
    file: Option<PathBuf>,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Write the results to this folder, new or empty [default: results/NAME-TIME]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Continue the run in this results folder: make the attempts that are missing from the part of the
    /// matrix that was selected when it was started
    #[arg(long, value_name = "DIR", conflicts_with_all = ["only", "repeat", "shard"])]
    resume: Option<PathBuf>,
    #[command(flatten)]
    lab: LabArgs,
    #[command(flatten)]
    kernel: KernelArgs,
    /// Show the run live in a browser, as `testbed watch` does, at this address
    /// [default: 127.0.0.1:8060]
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = DEFAULT_ADDRESS)]
    watch: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Also show the command line of each QEMU, each phase with its duration, and what the login shells of
    /// hosts print
    #[arg(short, long, conflicts_with = "quiet")]
    verbose: bool,
    /// How to print the results: as a table, as CSV with one row per attempt, as JSON with all records and
    /// the verdict, as a table in Markdown, as the page in report.html, as JUnit XML, or as an
    /// SVG figure
    #[arg(long, value_name = "FORMAT", ignore_case = true, default_value = "table", conflicts_with = "json")]
    format: FormatName,
    /// Same as --format json
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &RunArgs, version: &'static str) -> Result<u8, Failure> {
    let args = &args.clone().with_file();
    let stdin = Path::new(input::STDIN);
    if args.file.as_deref() == Some(stdin) && Path::new(&args.lab.lab) == stdin {
        return Err(Failure::input("only one of the matrix file and --lab can be standard input"));
    }
    args.lab.choice().check().map_err(super::lab_failure)?;
    let cache = Cache::user().map_err(Failure::input)?;
    let options = BenchOptions {
        lab: args.lab.choice(),
        stressor: image::stressor_path().map_err(Failure::input)?,
        kernel: args.kernel.choice(&cache)?,
        version: version.into(),
        verbose: args.verbose,
        cache,
    };
    // If the address is in use, nothing has been started yet.
    let listener = args.watch.as_deref().map(listen).transpose()?;
    let (plan, mut store) = open(args)?;
    store.set_version(version);
    let server = listener.map(|listener| serve(listener, store.folder())).transpose()?;
    let mut bench = QemuBench::new(options, &plan);
    let (interrupter, interrupt) = Interrupt::new();
    let runtime = super::runtime()?;
    let ended = runtime.block_on(async {
        let notice = || {
            frontend::tell(
                "Interrupted: ending the current attempt. Press Ctrl-C again to quit immediately.",
            );
        };
        interrupter.on_signals(notice).map_err(Failure::lab)?;
        let sinks = sinks(args.quiet, args.verbose, &interrupt).map_err(Failure::lab)?;
        let run = Box::pin(run::run(&plan, &mut store, &mut bench, &sinks, &interrupt));
        run.await.map_err(Failure::lab)
    });
    let code = conclude(args, &plan, &store, ended, server, &interrupt);
    // A run without results has an error to show.
    interrupt.run_has_ended();
    // After an interruption, a `vagrant` may still be running on a thread that cannot be cancelled.
    runtime.shutdown_background();
    code
}

/// Stores and shows the results of a run that has ended. Returns the exit code.
fn conclude(
    args: &RunArgs,
    plan: &Plan,
    store: &Store,
    ended: Result<RunOutcome, Failure>,
    server: Option<Server>,
    interrupt: &Interrupt,
) -> Result<u8, Failure> {
    // The removal is not the reason for the failure, so its own errors do not matter.
    if ended.is_err() && args.resume.is_none() && store.remove_if_empty().unwrap_or(false) {
        return ended.map(|_| 0);
    }
    let summary = report::summary(store.records()).map_err(Failure::lab)?;
    let summarized = store.write_summary(&summary);
    if ended.is_err() && store.records().is_empty() {
        return ended.map(|_| 0);
    }

    // Viewers get the last version of the page.
    drop(server);
    // Results are shown even if they cannot be stored, for example on a full disk.
    let verdict = verdict::evaluate(plan, store.records());
    let format = if args.json { FormatName::Json } else { args.format };
    let run = FinishedRun {
        folder: store.folder(),
        plan,
        records: store.records(),
        complete: matches!(ended, Ok(RunOutcome::Complete)),
        verdict: &verdict,
    };
    let screen = terminal::screen();
    let page = FormatName::Html.format(screen).finished(&run).map_err(Failure::lab)?.text;
    let written = summarized.and_then(|()| store.write_report(page.as_str()));
    // Nothing is lost any more, so a signal need not wait for a reader of the results.
    interrupt.run_has_ended();
    let report = format.format(screen).finished(&run).map_err(Failure::lab)?;
    let shown = if interrupt.is_requested() { try_show(report) } else { show(report) };
    let folder = shell_word(&store.folder().display().to_string());
    match ended {
        Ok(RunOutcome::Complete) => {
            written.map_err(|error| {
                Failure::lab(format!("{error}; `testbed report {folder} --format csv` prints the summary"))
            })?;
            shown?;
            Ok(verdict.exit_code())
        }
        Ok(RunOutcome::Interrupted) => {
            if let Err(error) = written {
                frontend::try_tell(format!("{}{error}", super::ERROR));
            }
            frontend::try_tell(format!("Interrupted. Continue with: testbed run --resume {folder}"));
            Ok(interrupt::EXIT_CODE)
        }
        Err(failure) => {
            frontend::tell(format!("The run is not complete. Continue with: testbed run --resume {folder}"));
            Err(failure)
        }
    }
}

impl RunArgs {
    /// Returns the arguments with the file after `--watch` as the matrix, if there is no other matrix.
    fn with_file(mut self) -> Self {
        if self.file.is_none() && self.resume.is_none() && self.watch.as_deref() != Some(DEFAULT_ADDRESS) {
            self.file = self.watch.replace(DEFAULT_ADDRESS.to_owned()).map(PathBuf::from);
        }
        self
    }
}

/// Returns the plan and the store for its results: a new store, or that of the run to continue.
fn open(args: &RunArgs) -> Result<(Plan, Store), Failure> {
    let given = args.file.as_deref().map(read).transpose()?;
    match (&args.resume, given) {
        (None, Some((text, name))) => {
            let selection = args.selection.selection();
            let mut traces = Traces::beside(Path::new(&name));
            let plan = resolve(&text, &name, &mut traces, &selection)?;
            let folder = args.out.clone().unwrap_or_else(|| default_folder(&plan.name));
            let store = Store::create_with(&folder, &text, traces.texts(), &selection);
            Ok((plan, store.map_err(Failure::input)?))
        }
        (Some(folder), given) => {
            let store = Store::open(folder).map_err(Failure::input)?;
            let text = store::matrix(folder).map_err(Failure::input)?;
            let name = folder.join(store::MATRIX).display().to_string();
            let mut traces = Traces::kept(store::traces(folder).map_err(Failure::input)?);
            if let Some((new, new_name)) = given {
                let old = resolve(&text, &name, &mut traces, &Selection::default())?;
                refuse_changes(&old, &new, &new_name)?;
            }
            let selection = store::selection(folder).map_err(Failure::input)?;
            Ok((resolve(&text, &name, &mut traces, &selection)?, store))
        }
        (None, None) => Err(Failure::input("name a matrix file, or with --resume the run to continue")),
    }
}

/// Refuses to continue a run with a matrix that differs from the original one.
fn refuse_changes(old: &Plan, new: &str, name: &str) -> Result<(), Failure> {
    let mut traces = Traces::beside(Path::new(name));
    let changes = old.changes_to(&resolve(new, name, &mut traces, &Selection::default())?);
    if changes.is_empty() {
        return Ok(());
    }
    let lines = changes.invalidating.iter().chain(&changes.harmless).map(|line| one_line(line));
    Err(Failure::input(format!(
        "{name} differs from the matrix of this run; leave it out to continue with the original, \
         or start a new run:\n    {}",
        lines.collect::<Vec<_>>().join("\n    "),
    )))
}

/// Returns the default results folder, `results/NAME-TIME` in the current directory.
fn default_folder(name: &str) -> PathBuf {
    let time = jiff::ZonedDateTime::now().strftime("%Y%m%d-%H%M%S").to_string();
    Path::new("results").join(format!("{name}-{time}"))
}

/// Returns the sinks of the run's events: live progress on a terminal, plain lines elsewhere.
fn sinks(quiet: bool, verbose: bool, interrupt: &Interrupt) -> io::Result<FanOut> {
    let mut sinks = FanOut::default();
    if quiet {
        return Ok(sinks);
    }
    let stderr = io::stderr();
    let color = terminal::colored(&stderr);
    let interrupt = interrupt.clone();
    let display = Display::start(move || interrupt.is_requested())?;
    if terminal::redraws(&stderr) {
        sinks.add(Live::start(display, color, verbose));
    } else {
        sinks.add(Plain::new(display, color, verbose));
    }
    Ok(sinks)
}
