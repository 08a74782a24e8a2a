//! One trial: a short run is struck and ends, its results are read, and it is continued and checked.

use super::{
    Lab, Settings,
    strike::{Kind, Pending, Strike},
};
use crate::common::{
    hosts::{Hosts, with_hosts},
    real::{LeftoverCheck, Ready, TestDir, isolated},
};
use nix::sys::signal::Signal;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    thread,
    time::{Duration, Instant},
};
use testbed::{
    outcome::Outcome,
    results::{record::Record, store},
};
use units::random::{Random, mix};

/// Two small migrations of an idle guest. On a busy host, a workload may not settle.
const MATRIX: &str = "
name: storm
guest: { memory: 128MiB }
stress: { rate: 0, working_set: 4MB }
migrate: { downtime_limit: 300ms, timeout: 60s }
axes: { link.rate: [300mbit, 600mbit] }
";

/// The number of attempts of [`MATRIX`].
const ATTEMPTS: usize = 2;

/// How long a run may take. It is long, because the host may be busy, and a storm measures nothing.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long parts of a run may exist after its end. A host of an SSH lab first has to notice that it has lost
/// the orchestrator.
const LEFTOVERS: Duration = Duration::from_secs(20);

const TICK: Duration = Duration::from_millis(5);

/// A promise that a run keeps whatever happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Promise {
    /// The run ends, with an exit code that says why.
    Ends,
    /// Nothing of the run is left.
    NothingLeft,
    /// Complete records are kept.
    NothingLost,
    /// `testbed report` reads the results folder.
    Readable,
    /// `testbed run --resume` makes the missing attempts, and only those.
    Resumable,
}

/// The result of a trial.
pub(crate) struct Trial {
    pub(crate) lab: Lab,
    /// The strikes that had a victim, and their victims.
    pub(crate) hits: Vec<(Kind, String)>,
    /// The strikes that had no victim before the run ended.
    pub(crate) missed: Vec<Kind>,
    /// How many attempts of the struck run have each outcome; `None` stands for attempts without a record.
    pub(crate) attempts: BTreeMap<Option<Outcome>, usize>,
    /// The promises that were broken, with details.
    pub(crate) broken: Vec<(Promise, String)>,
    /// How long the struck run took.
    pub(crate) took: Duration,
}

impl Trial {
    fn new(lab: Lab) -> Self {
        Self {
            lab,
            hits: Vec::new(),
            missed: Vec::new(),
            attempts: BTreeMap::new(),
            broken: Vec::new(),
            took: Duration::ZERO,
        }
    }

    /// Describes strikes and attempts in one line.
    pub(crate) fn line(&self) -> String {
        let mut line = format!("{}: ", self.lab.name());
        let hits = self.hits.iter().map(|(_, what)| what.clone());
        let missed = self.missed.iter().map(|kind| format!("{} missed", kind.describe()));
        let strikes: Vec<String> = hits.chain(missed).collect();
        line += &if strikes.is_empty() { "no strike".to_owned() } else { strikes.join(", ") };
        line += " |";
        for (outcome, count) in &self.attempts {
            let _ = write!(line, " {} {count}", outcome.map_or("no record", Outcome::as_str));
        }
        for (promise, _) in &self.broken {
            let _ = write!(line, " | BROKEN: {promise:?}");
        }
        line
    }

    fn check(&mut self, promise: Promise, kept: Result<(), String>) {
        self.broken.extend(kept.err().map(|why| (promise, why)));
    }
}

/// Draws the lab and the strikes of a trial. The same seed and number always give the same.
pub(crate) fn draw(settings: &Settings, number: u64) -> (Lab, Vec<Strike>) {
    let mut random = Random::new(settings.seed ^ mix(number));
    let drawn = [Lab::Local, Lab::Ssh][random.below(2) as usize];
    (settings.lab.unwrap_or(drawn), Strike::draw(&mut random, settings.pause))
}

/// Makes one trial. `length` is the length of an undisturbed run.
pub(crate) fn make(ready: &Ready, lab: Lab, strikes: &[Strike], length: Duration) -> Trial {
    let mut trial = Trial::new(lab);
    // A failed assertion in the helpers becomes a broken promise, so that the storm continues.
    let ended = thread::scope(|scope| {
        let trial = &mut trial;
        let apart = scope.spawn(move || {
            isolated(ready, || {
                let dir = TestDir::new(ready, MATRIX);
                match lab {
                    Lab::Local => Bench { ready, dir: &dir, hosts: None }.strike(trial, strikes, length),
                    Lab::Ssh => with_hosts(&dir, |hosts| {
                        Bench { ready, dir: &dir, hosts: Some(hosts) }.strike(trial, strikes, length);
                    }),
                }
            });
        });
        apart.join()
    });
    if let Err(panic) = ended {
        let text = panic.downcast::<String>().map_or_else(|_| "a panic".to_owned(), |text| *text);
        trial.broken.push((Promise::Ends, text));
    }
    trial
}

/// Everything that the runs of a trial use.
struct Bench<'a> {
    ready: &'a Ready,
    dir: &'a TestDir,
    hosts: Option<&'a Hosts>,
}

/// A run that has ended, or was given up.
#[derive(Default)]
struct Ended {
    status: Option<ExitStatus>,
    /// Whether `testbed` itself was killed.
    killed: bool,
    /// The records that were complete before the last strike.
    seen: String,
    /// The network namespaces that the run had.
    networks: BTreeSet<String>,
}

impl Bench<'_> {
    /// Makes a run that is struck, continues it, and checks both.
    fn strike(&self, trial: &mut Trial, strikes: &[Strike], length: Duration) {
        let inventory = self.hosts.map(|hosts| hosts.inventory(|text| text));
        let with_lab = |args: &[&'static str]| -> Vec<String> {
            let lab = inventory.iter().flat_map(|path| ["--lab".to_owned(), path.clone()]);
            args.iter().map(|arg| (*arg).to_owned()).chain(lab).collect()
        };
        let fresh = with_lab(&["matrix.yaml", "--out", "run", "--verbose"]);
        let resume = with_lab(&["--resume", "run", "--verbose"]);
        let before = (LeftoverCheck::from_now(), self.state_of_hosts());

        let started = Instant::now();
        let struck = self.run(&fresh, trial, strikes, length);
        trial.took = started.elapsed();
        self.check_leftovers(trial, &before, &struck);
        let whole = self.whole_lines();
        trial.check(Promise::NothingLost, starts_with(&whole, &struck.seen));
        let records = self.dir.records();
        for record in &records {
            *trial.attempts.entry(Some(record.outcome)).or_default() += 1;
        }
        if records.len() < ATTEMPTS {
            trial.attempts.insert(None, ATTEMPTS - records.len());
        }
        let has_matrix = self.dir.folder().join(store::MATRIX).exists();
        trial.check(Promise::Readable, self.report(has_matrix));

        let resumed = self.run(if has_matrix { &resume } else { &fresh }, trial, &[], length);
        self.check_leftovers(trial, &before, &resumed);
        trial.check(Promise::NothingLost, starts_with(&self.whole_lines(), &whole));
        trial.check(Promise::Resumable, self.resumed(&records));
        trial.check(Promise::Readable, self.report(true));
    }

    /// Makes one run and strikes it. Checks its end.
    fn run(&self, args: &[String], trial: &mut Trial, strikes: &[Strike], length: Duration) -> Ended {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut run = self.dir.start(&args);
        let started = Instant::now();
        let mut strikes = strikes.iter().peekable();
        let mut pending: Vec<Pending> = Vec::new();
        let mut ended = Ended::default();
        while ended.status.is_none() && started.elapsed() < PATIENCE {
            let now = Instant::now();
            for Pending { undo, .. } in pending.extract_if(.., |pending| pending.until <= now) {
                undo.undo();
            }
            if let Some(strike) = strikes.peek().filter(|strike| started.elapsed() >= strike.moment(length)) {
                // Naming those on the hosts of an SSH lab would keep them open, with interfaces on top of the
                // hosts' own, which the next run needs.
                if self.hosts.is_none() {
                    ended.networks.append(&mut self.dir.networks());
                }
                let seen = self.whole_lines();
                if let Some((what, undo)) = strike.hit(run.pid(), self.dir) {
                    let at = started.elapsed().as_secs_f64();
                    trial.hits.push((strike.kind, format!("{what} at {at:.1} s")));
                    ended.killed |= strike.kind == Kind::KillTestbed;
                    ended.seen = seen;
                    pending.push(Pending { until: Instant::now() + strike.pause, undo });
                    strikes.next();
                }
            }
            thread::sleep(TICK);
            ended.status = run.try_ended();
        }
        for Pending { undo, .. } in pending {
            undo.undo();
        }
        trial.missed.extend(strikes.map(|strike| strike.kind));
        trial.check(Promise::Ends, self.end(&ended));
        ended
    }

    /// Checks how a run ended.
    fn end(&self, ended: &Ended) -> Result<(), String> {
        let why = match ended.status {
            None => format!("the run does not end within {PATIENCE:?}"),
            Some(status) if ended.killed && status.signal() == Some(Signal::SIGKILL as i32) => return Ok(()),
            Some(status) if matches!(status.code(), Some(0 | 1 | 3)) => return Ok(()),
            Some(status) => format!("the run ended with {status}"),
        };
        Err(format!("{why}\n{}", self.dir.shown()))
    }

    /// Checks that nothing of the runs in this directory is left.
    fn check_leftovers(&self, trial: &mut Trial, before: &(LeftoverCheck, Vec<String>), ended: &Ended) {
        let nothing_left = before.0.wait(self.dir, &ended.networks, LEFTOVERS).and_then(|()| {
            let now = self.state_of_hosts();
            if now == before.1 {
                Ok(())
            } else {
                Err(format!("hosts before: {:#?}\nnow: {now:#?}", before.1))
            }
        });
        trial.check(
            Promise::NothingLeft,
            nothing_left.map_err(|left| format!("{left}\n{}", self.dir.shown())),
        );
    }

    fn state_of_hosts(&self) -> Vec<String> {
        let netem = self.ready.bin.join("netem");
        self.hosts.map_or_else(Vec::new, |hosts| (0..3).map(|host| hosts.state(host, &netem)).collect())
    }

    /// Returns the complete lines of the records on the disk.
    fn whole_lines(&self) -> String {
        let text = fs::read(self.dir.folder().join(store::CELLS)).unwrap_or_default();
        let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        String::from_utf8_lossy(&text[..end]).into_owned()
    }

    /// Checks that `testbed report` reads the results folder, or says that it does not exist.
    fn report(&self, has_matrix: bool) -> Result<(), String> {
        let (code, stdout, stderr) = self.dir.run_subcommand(&["report", "run"]);
        let read = matches!(code, 0 | 1 | 3) && stderr.is_empty();
        let refused = code == 2 && stderr.contains("is not a results folder");
        if if has_matrix { read } else { refused } {
            return Ok(());
        }
        Err(format!("`testbed report` ended with {code}\n{stdout}{stderr}\n{}", self.dir.shown()))
    }

    /// Checks that each attempt has exactly one record, and that those made since `before` converged.
    fn resumed(&self, before: &[Record]) -> Result<(), String> {
        let records = self.dir.records();
        let attempts: BTreeSet<(&str, u32)> = records.iter().map(|r| (r.cell.as_str(), r.attempt)).collect();
        let added = records.get(before.len()..).unwrap_or_default();
        let converged = added.iter().all(|record| record.outcome == Outcome::Converged);
        if attempts.len() == ATTEMPTS && records.len() == ATTEMPTS && converged {
            return Ok(());
        }
        Err(format!("{} records before the run was continued\n{}", before.len(), self.dir.shown()))
    }
}

/// Checks that a text starts with another text.
fn starts_with(text: &str, start: &str) -> Result<(), String> {
    if text.starts_with(start) { Ok(()) } else { Err(format!("recorded:\n{start}\nfound later:\n{text}")) }
}
