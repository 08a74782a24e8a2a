//! A mock of `run::Bench`, without QEMU: attempts end immediately, as the test's script says.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};
use testbed::{
    event::{Event, FanOut, Sink},
    matrix::{Cell, Plan},
    measure::passes::Pass,
    outcome::Outcome,
    results::{
        builder::RecordBuilder,
        environment::{Boot, Environment, Lab, Node, Privilege},
        format::FormatVersion,
        record::{Phase, Record},
        store::{self, Store},
    },
    run::{
        self, Bench, RunOutcome,
        interrupt::{Interrupt, Interrupter},
    },
};

/// The scripted course of an attempt.
pub(crate) enum Scripted {
    /// The attempt ends with this outcome.
    End(Outcome),
    /// The attempt ends with this outcome and reason.
    Because(Outcome, &'static str),
    /// The bench fails, and with it the run.
    BreakDown,
    /// The user interrupts the attempt.
    Interrupted,
}

/// The error of a mock bench that fails.
#[derive(Debug, thiserror::Error)]
#[error("the bench broke down")]
pub(crate) struct BrokenDown;

type Script<'a> = Box<dyn FnMut(&Cell, u32) -> Scripted + 'a>;

/// The mock bench, with a log of the calls it received.
pub(crate) struct MockBench<'a> {
    script: Script<'a>,
    /// Returns the reason to skip a cell, if it must be skipped.
    pub(crate) skip_reason: fn(&Cell) -> Option<String>,
    /// Whether the bench fails before the first attempt.
    pub(crate) broken: bool,
    /// How often the bench was prepared.
    pub(crate) prepared: usize,
    /// How often the bench has ended.
    ended: usize,
    /// The attempts that were made, as `CELL #N`.
    pub(crate) made: Vec<String>,
    /// The folders of these attempts.
    pub(crate) folders: Vec<PathBuf>,
    interrupter: Interrupter,
    interrupt: Interrupt,
}

impl<'a> MockBench<'a> {
    pub(crate) fn new(script: impl FnMut(&Cell, u32) -> Scripted + 'a) -> Self {
        let (interrupter, interrupt) = Interrupt::new();
        Self {
            script: Box::new(script),
            skip_reason: |_| None,
            broken: false,
            prepared: 0,
            ended: 0,
            made: Vec::new(),
            folders: Vec::new(),
            interrupter,
            interrupt,
        }
    }

    /// Creates a bench on which every attempt converges.
    pub(crate) fn converging() -> Self {
        Self::new(|_, _| Scripted::End(Outcome::Converged))
    }

    /// Interrupts the run before it begins.
    pub(crate) fn interrupt(&self) {
        self.interrupter.interrupt();
    }

    /// Runs a plan on this bench, without a sink for events.
    pub(crate) async fn run(
        &mut self,
        plan: &Plan,
        store: &mut Store,
    ) -> Result<RunOutcome, run::Error<BrokenDown>> {
        self.run_watched(plan, store, &FanOut::default()).await
    }

    pub(crate) async fn run_watched(
        &mut self,
        plan: &Plan,
        store: &mut Store,
        sink: &dyn Sink,
    ) -> Result<RunOutcome, run::Error<BrokenDown>> {
        let (interrupt, runs) = (self.interrupt.clone(), self.ended);
        let outcome = run::run(plan, store, self, sink, &interrupt).await;
        assert_eq!(self.ended, runs + 1, "the bench ends once, whatever ended the run");
        outcome
    }
}

impl Bench for MockBench<'_> {
    type Error = BrokenDown;

    async fn prepare(&mut self, sink: &dyn Sink) -> Result<Environment, BrokenDown> {
        self.prepared += 1;
        sink.handle(&Event::Message("ready"));
        if self.broken { Err(BrokenDown) } else { Ok(environment()) }
    }

    fn skip_reason(&self, cell: &Cell) -> Option<String> {
        (self.skip_reason)(cell)
    }

    async fn attempt(
        &mut self,
        cell: &Cell,
        attempt: u32,
        folder: &Path,
        sink: &dyn Sink,
        interrupt: &Interrupt,
    ) -> Result<Record, BrokenDown> {
        // Each record must be on the disk before the next attempt begins.
        let cells = folder.ancestors().nth(2).unwrap().join(store::CELLS);
        let text = fs::read_to_string(cells).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        if let Some(last) = self.made.last() {
            let record: Record = serde_json::from_str(text.lines().last().unwrap()).unwrap();
            assert!(record.outcome == Outcome::Skipped || *last == name(&record), "{last}");
        }
        assert_eq!(fs::read_dir(folder).unwrap().count(), 0, "{} is not empty", folder.display());
        fs::write(folder.join("source.log"), "[ended]\n").unwrap();
        self.made.push(format!("{} #{attempt}", cell.id));
        self.folders.push(folder.to_path_buf());
        sink.handle(&Event::PhaseEntered(Phase::Boot));

        let builder = RecordBuilder::start();
        let (outcome, reason) = match (self.script)(cell, attempt) {
            Scripted::End(outcome) => (outcome, None),
            Scripted::Because(outcome, reason) => (outcome, Some(reason.to_string())),
            Scripted::BreakDown => return Err(BrokenDown),
            Scripted::Interrupted => {
                self.interrupter.interrupt();
                interrupt.requested().await;
                (Outcome::Interrupted, Some("interrupted by the user".into()))
            }
        };
        Ok(builder.freeze(cell, attempt, outcome, reason))
    }

    async fn end(&mut self) {
        self.ended += 1;
    }
}

/// A sink that keeps the events of a run as lines of text.
#[derive(Default)]
pub(crate) struct RecordingSink {
    lines: Mutex<Vec<String>>,
    left: Mutex<Vec<Duration>>,
}

impl RecordingSink {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Returns the estimates of the remaining time, one for each attempt.
    pub(crate) fn left(&self) -> Vec<Duration> {
        self.left.lock().unwrap().clone()
    }

    fn note(&self, line: impl Into<String>) {
        self.lines.lock().unwrap().push(line.into());
    }
}

impl Sink for RecordingSink {
    fn handle(&self, event: &Event<'_>) {
        match event {
            Event::Message(text) => self.note(*text),
            Event::AttemptStarted { number, total, name, left } => {
                self.left.lock().unwrap().push(*left);
                self.note(format!("{number}/{total} {name}"));
            }
            Event::PhaseEntered(phase) => self.note(phase.describe()),
            Event::AttemptEnded(record) => self.note(format!("{}: {}", name(record), record.outcome)),
            Event::Sampled(_) | Event::RunEnded => {}
        }
    }
}

/// Formats a record's attempt as `CELL #N`.
pub(crate) fn name(record: &Record) -> String {
    format!("{} #{}", record.cell, record.attempt)
}

/// Formats each record as `CELL #N: OUTCOME`.
pub(crate) fn outcomes(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| format!("{}: {}", name(record), record.outcome)).collect()
}

/// Returns the environment of a fictitious host.
pub(crate) fn environment() -> Environment {
    let node = Node {
        version: "0.1.0".into(),
        kernel: "6.18.0".into(),
        cpu_model: "Difference Engine".into(),
        cpus: 2,
        memory_bytes: 1 << 34,
        available_memory_bytes: Some(1 << 33),
        limited_by_cgroup: Some(false),
        clock: Some("2026-01-02T03:04:05Z".parse().unwrap()),
        qemu: Some("10.0.2".into()),
        privilege: Privilege::Root,
        features: BTreeSet::from(["sch_tbf".to_string()]),
        no_emulator: None,
    };
    Environment {
        format: FormatVersion::CURRENT,
        started_at: "2026-01-02T03:04:05Z".parse().unwrap(),
        version: "0.1.0".into(),
        qemu: "10.0.2".into(),
        machine_type: None,
        confinement: None,
        accelerators: [].into_iter().collect(),
        guest_kernel: "6.1.0".into(),
        guest_boot: Boot::Compressed,
        guest_digest: "0".repeat(64),
        lab: Lab { kind: "mock".into(), source: node.clone(), destination: node, round_trips: None },
        order: testbed::matrix::RunOrder::AsWritten,
    }
}

/// Returns a record of a plan's cell with round figures, for golden files.
pub(crate) fn record(plan: &Plan, cell: usize, attempt: u32, outcome: Outcome, total_time_ms: f64) -> Record {
    let cell = &plan.cells[cell];
    let mut record = RecordBuilder::start().freeze(cell, attempt, outcome, None);
    record.started_at = "2026-01-02T03:04:05Z".parse().unwrap();
    record.measured.phases_ms = [(Phase::Boot, 2000.0)].into_iter().collect();
    record.measured.wall_time_ms = (outcome != Outcome::Skipped).then_some(total_time_ms + 5000.0);
    record.measured.stress.requested = Some(64_000_000);
    record.measured.stress.before = Some(63_999_871.4);
    record.measured.stress.during = Some(63_500_000.0);
    record.measured.transferred.qemu_bytes = Some((total_time_ms * 111_000.0) as u64);
    record.measured.transferred.wire_bytes = Some((total_time_ms * 116_000.0) as u64);
    record.measured.iterations = (1..=3).map(|number| pass(number, total_time_ms / 3.0)).collect();
    if outcome == Outcome::Converged {
        record.measured.total_time_ms = Some(total_time_ms);
        record.measured.downtime_ms.qemu = Some(61.0);
        record.measured.downtime_ms.guest = Some(64.25);
        record.measured.downtime_ms.client = Some(71.5);
        record.measured.stress.after = Some(64_000_000.0);
    }
    let verification = serde_json::json!({ "pages_checked": 92_160, "pages_bad": 0, "first_bad": null });
    record.measured.verified = Some(serde_json::from_value(verification).unwrap());
    record
}

fn pass(number: u64, duration_ms: f64) -> Pass {
    Pass {
        number,
        started_at_ms: duration_ms * (number - 1) as f64,
        duration_ms,
        remaining_bytes: 1_000_000,
        sent_bytes: 1_000_000,
        dirtied_bytes: None,
        bandwidth_bytes_per_s: 111_000_000,
        throttle_percent: 0,
    }
}
