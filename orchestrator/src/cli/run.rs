//! `testbed run`.

use super::{Failure, KernelArgs, LabArgs, SelectionArgs, plan::resolve, read, show};
use crate::{
    event::Fan,
    image::{self, Cache},
    matrix::{Plan, selection::Selection},
    progress::{live::Live, plain::Plain},
    report::{self, Ended, FormatName},
    results::{
        store::{self, Store},
        verdict,
    },
    run::{
        self, Ending,
        interrupt::{self, Interrupt},
        real::{Options, Real},
    },
};
use clap::Args;
use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The matrix file; with --resume, the one of the run that is continued
    #[arg(required_unless_present = "resume")]
    file: Option<PathBuf>,
    #[command(flatten)]
    selection: SelectionArgs,
    /// The results folder [default: results/NAME-TIME]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Continue the run in this results folder: make the attempts that are missing, of the part of the matrix
    /// that it was started with
    #[arg(long, value_name = "DIR", conflicts_with_all = ["only", "repeat", "shard"])]
    resume: Option<PathBuf>,
    #[command(flatten)]
    lab: LabArgs,
    #[command(flatten)]
    kernel: KernelArgs,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// How to print the results: a table, one row per attempt as CSV, the records and the judgement as JSON,
    /// or the table in Markdown
    #[arg(long, value_name = "FORMAT", default_value = "table", conflicts_with = "json")]
    format: FormatName,
    /// The same as --format json
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &RunArgs) -> Result<u8, Failure> {
    args.lab.choice().check().map_err(super::lab_failure)?;
    let options = Options {
        lab: args.lab.choice(),
        cache: Cache::user().map_err(Failure::input)?,
        stressor: image::stressor_path().map_err(Failure::input)?,
        kernel: args.kernel.choice(),
    };
    let (plan, mut store) = open(args)?;
    let mut bench = Real::new(options, &plan);
    let sinks = sinks(args.quiet);
    let runtime = super::runtime()?;
    let ended = runtime.block_on(async {
        let notice = || eprintln!("interrupted: ending the current migration; once more leaves at once");
        let interrupt = Interrupt::by_signals(notice).map_err(Failure::lab)?;
        run::run(&plan, &mut store, &mut bench, &sinks, &interrupt).await.map_err(Failure::lab)
    });
    if ended.is_err() && args.resume.is_none() && store.withdraw().map_err(Failure::lab)? {
        return ended.map(|_| 0);
    }
    let summary = report::summary(store.records()).map_err(Failure::lab)?;
    store.write_summary(&summary).map_err(Failure::lab)?;
    let ending = ended?;

    let judgement = verdict::judge(&plan, store.records());
    let format = if args.json { FormatName::Json } else { args.format };
    let run = Ended {
        folder: store.folder(),
        plan: &plan,
        records: store.records(),
        complete: ending == Ending::Complete,
        judgement: &judgement,
    };
    show(&format.format().ended(&run).map_err(Failure::lab)?);
    Ok(match ending {
        Ending::Complete => judgement.exit_code(),
        Ending::Interrupted => {
            eprintln!("interrupted; continue with: testbed run --resume {}", store.folder().display());
            interrupt::EXIT_CODE
        }
    })
}

/// The plan and the folder for its results: a new one, or the one of the run to continue.
fn open(args: &RunArgs) -> Result<(Plan, Store), Failure> {
    let given = args.file.as_ref().map(|file| Ok((read(file)?, file.display().to_string()))).transpose()?;
    match (&args.resume, given) {
        (None, Some((text, name))) => {
            let selection = args.selection.selection();
            let plan = resolve(&text, &name, &selection)?;
            let folder = args.out.clone().unwrap_or_else(|| default_folder(&plan.name));
            Ok((plan, Store::create(&folder, &text, &selection).map_err(Failure::input)?))
        }
        (Some(folder), given) => {
            let store = Store::open(folder).map_err(Failure::input)?;
            let (text, name) = stored(folder)?;
            if let Some((new, new_name)) = given {
                refuse_changes((&text, &name), (&new, &new_name))?;
            }
            let selection = store::selection(folder).map_err(Failure::input)?;
            Ok((resolve(&text, &name, &selection)?, store))
        }
        (None, None) => Err(Failure::input("name a matrix file, or a run to continue with --resume")),
    }
}

/// A run is continued with the matrix it began with, or not at all.
fn refuse_changes(old: (&str, &str), new: (&str, &str)) -> Result<(), Failure> {
    let whole = Selection::default();
    let changes = resolve(old.0, old.1, &whole)?.changes_to(&resolve(new.0, new.1, &whole)?);
    if changes.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = changes.measured.into_iter().chain(changes.judged).collect();
    Err(Failure::input(format!(
        "{} is not the matrix of this run any more; leave it out to continue as it began, or start a new run:\n    {}",
        new.1,
        lines.join("\n    "),
    )))
}

/// The matrix of a run that is continued, and what messages call it.
fn stored(folder: &Path) -> Result<(String, String), Failure> {
    let path = folder.join(store::MATRIX);
    Ok((read(&path)?, path.display().to_string()))
}

/// Where results go if nothing else is said: `results/NAME-TIME`, in the current directory.
fn default_folder(name: &str) -> PathBuf {
    let time = jiff::ZonedDateTime::now().strftime("%Y%m%d-%H%M%S").to_string();
    Path::new("results").join(format!("{name}-{time}"))
}

/// Who listens to the run: a person at a terminal, or a log.
fn sinks(quiet: bool) -> Fan {
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut sinks = Fan::default();
    if quiet {
        return sinks;
    }
    if std::io::stderr().is_terminal() {
        sinks.add(Live::start(colour));
    } else {
        sinks.add(Plain);
    }
    sinks
}
