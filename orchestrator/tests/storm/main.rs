//! `cargo xtask storm`: strikes short runs at random moments, and checks that they keep their promises.
//!
//! A strike is SIGKILL or SIGSTOP to `testbed`, to a node or to a QEMU, or a migration link that goes down
//! and up. Each trial starts a run of its own, in a local lab or between hosts that are reached by SSH, and
//! strikes it one to three times. Whatever strikes it, the run ends, nothing of it is left, no record is
//! lost, and its results folder can be read and continued.
//!
//! Lab, kinds, moments and victims are drawn from a seed and the trial's number, so `--seed S --first K
//! --count 1` repeats trial K of seed S. The moments are relative to the length of an undisturbed run on this
//! host, which the storm measures first for each kind of lab. It needs root.
//!
//! Exit code: 0, or 1 if a promise was broken, or 2 for bad input.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the output of a storm is its result")]

#[path = "../common/mod.rs"]
mod common;
mod strike;
mod table;
mod trial;

use clap::{Parser, ValueEnum};
use common::real::{ready, skipped};
use std::{
    fmt::Write,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use table::Table;
use trial::Trial;

/// Strike runs at random moments and check what they promise
#[derive(Parser)]
#[command(name = "storm")]
struct Settings {
    /// The number of trials
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// The seed from which all trials are drawn
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// The number of the first trial
    #[arg(long, value_name = "K", default_value_t = 1)]
    first: u64,
    /// Make all trials in this kind of lab [default: drawn for each trial]
    #[arg(long)]
    lab: Option<Lab>,
    /// How many seconds SIGSTOP lasts; a link is down for a random part of it
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pause: Duration,
    /// How many trials to make at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    jobs: u64,
    /// Also write the trials and the table to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Lab {
    Local,
    Ssh,
}

impl Lab {
    fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Ssh => "ssh",
        }
    }
}

/// Parses a number of seconds, from 0.1 to 600.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.1..=600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("must be from 0.1 to 600".into())
    }
}

fn main() -> ExitCode {
    let settings = Settings::parse();
    if !nix::unistd::geteuid().is_root() {
        skipped::<()>("needs root, for a /tmp, a /run and hosts of its own");
        return ExitCode::SUCCESS;
    }
    let Some(ready) = ready() else { return ExitCode::SUCCESS };
    let started = Instant::now();
    let labs = settings.lab.map_or(vec![Lab::Local, Lab::Ssh], |lab| vec![lab]);
    // As many at the same time as there will be trials, which slow each other down.
    let count = labs.len().max(settings.jobs as usize);
    let calm: Vec<Trial> = thread::scope(|scope| {
        let ready = &ready;
        let make = |lab| scope.spawn(move || trial::make(ready, lab, &[], Duration::ZERO));
        let runs: Vec<_> = labs.into_iter().cycle().take(count).map(make).collect();
        runs.into_iter().map(|run| run.join().expect("a trial catches panics")).collect()
    });
    for trial in &calm {
        println!("undisturbed: {:.1} s, {}", trial.took.as_secs_f64(), trial.line());
    }
    let length = |lab| {
        let took = calm.iter().filter(|trial| trial.lab == lab).map(|trial| trial.took);
        took.max().unwrap_or_default()
    };

    let next = AtomicU64::new(settings.first);
    let trials = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number - settings.first >= settings.count {
                    return;
                }
                let (lab, strikes) = trial::draw(&settings, number);
                let made = trial::make(&ready, lab, &strikes, length(lab));
                println!("trial {number}: {}", made.line());
                trials.lock().expect("no panic holds it").push((number, made));
            }
        };
        for _ in 0..settings.jobs {
            scope.spawn(work);
        }
    });
    let mut trials = trials.into_inner().expect("all threads have ended");
    trials.sort_by_key(|(number, _)| *number);
    trials.splice(0..0, calm.into_iter().map(|trial| (0, trial)));
    finish(&settings, &trials, started.elapsed())
}

/// Prints the broken promises and the table, and writes the file.
fn finish(settings: &Settings, trials: &[(u64, Trial)], took: Duration) -> ExitCode {
    let mut table = Table::default();
    let (mut lines, mut details, mut broken) = (String::new(), String::new(), 0);
    for (number, trial) in trials {
        if *number > 0 {
            table.add(trial);
            let _ = writeln!(lines, "trial {number}: {}", trial.line());
        }
        broken += usize::from(!trial.broken.is_empty());
        for (promise, why) in &trial.broken {
            let name = if *number > 0 { format!("trial {number}") } else { "undisturbed".into() };
            let _ = writeln!(details, "== {name}, {promise:?}\n{why}");
        }
    }
    let Settings { seed, count, first, .. } = settings;
    let summary = format!(
        "{count} trials from {first} of seed {seed} in {} s, {broken} with a broken promise",
        took.as_secs()
    );
    print!("{details}\n{table}\n{summary}\n");
    if let Some(path) = &settings.out
        && let Err(error) = std::fs::write(path, format!("{table}\n{summary}\n\n{lines}\n{details}"))
    {
        eprintln!("error: cannot write {}: {error}", path.display());
        return ExitCode::from(2);
    }
    ExitCode::from(u8::from(broken > 0))
}
