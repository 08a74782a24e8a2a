//! Whole attempts against the mock driver: every outcome, every failure, every phase; in paused time, so that
//! they take none and have the same figures every time.

use super::{
    attempt::{Plan, attempt},
    follow::{self, Course, Verdict},
    network::Network,
    timeline::LinkAndGuest,
};
use crate::{
    driver::{
        Driver,
        mock::{Fault, Mock, Script, Shared},
    },
    event::{Event, Fan, Sink},
    matrix::{self, Cell, File},
    measure::{End, link::LinkSetting, samples::Sample},
    mode::{Action, Decision, Policy, Progress},
    node::{NodeError, protocol::Traffic, server::probe},
    outcome::Outcome,
    results::{
        builder::RecordBuilder,
        record::{Phase, Record},
    },
};
use netem::Profile;
use std::{
    cell::{Cell as Flag, RefCell},
    fs,
    sync::Arc,
    time::Duration,
};
use stressor::workload::Rate;
use tokio::{sync::Notify, time::Instant};
use units::{ByteRate, Span};

/// Something that happens when an attempt enters a phase.
type Hook = Box<dyn Fn() + Send + Sync>;

/// An attempt that is set up.
struct Setup {
    settings: &'static str,
    script: Script,
    broken: Option<Broken>,
}

impl Setup {
    /// A guest that dirties 16 MB/s and migrates within two seconds.
    fn new() -> Self {
        Self { settings: "", script: Script::default(), broken: None }
    }

    /// Something goes wrong.
    fn fault(fault: Fault) -> Self {
        Self { script: Script { fault: Some(fault), ..Script::default() }, ..Self::new() }
    }

    /// A migration that does not end by itself.
    fn endless() -> Self {
        Self { script: Script { active: None, ..Script::default() }, ..Self::new() }
    }

    fn with(self, settings: &'static str) -> Self {
        Self { settings, ..self }
    }

    fn broken(self, broken: Broken) -> Self {
        Self { broken: Some(broken), ..self }
    }

    fn cell(&self) -> Cell {
        let text =
            format!("name: n\nstress: {{ rate: 16MB/s }}\nlink: {{ rate: 800mbit }}\n{}", self.settings);
        let plan = File::parse(&text, "n").and_then(|file| file.expand());
        plan.unwrap_or_else(|error| panic!("{error}")).cells.remove(0)
    }

    async fn run(self) -> Made {
        self.run_with(Phase::Boot, |_| Box::new(|| ())).await
    }

    /// Makes the attempt; in a phase, something happens that `hook` makes of what a test can do.
    async fn run_with(self, at: Phase, hook: impl FnOnce(Handles) -> Hook) -> Made {
        let folder = tempfile::tempdir().unwrap();
        let cell = self.cell();
        let (driver, shared) = Mock::new(self.script);
        let interrupt = Arc::new(Notify::new());
        let handles = Handles { driver: Arc::clone(&shared), interrupt: Arc::clone(&interrupt) };
        let sink = AtPhase { at, hook: hook(handles) };
        let network = Wires { broken: self.broken, ..Wires::default() };
        let plan = Plan { cell: &cell, number: 1, folder: folder.path() };
        let record =
            attempt(driver, &network, plan, RecordBuilder::start(), &sink, interrupt.notified()).await;
        let samples = fs::read_to_string(folder.path().join("samples.jsonl")).unwrap_or_default();
        let samples = samples.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(shared.has_ended(), "the driver was ended");
        assert!(!network.probing.get(), "the probe was ended");
        Made { record, samples, driver: shared, links: network.links.into_inner() }
    }
}

/// What a hook can do.
struct Handles {
    driver: Arc<Shared>,
    interrupt: Arc<Notify>,
}

/// An attempt that was made.
struct Made {
    record: Record,
    samples: Vec<Sample>,
    driver: Arc<Shared>,
    links: Vec<String>,
}

impl Made {
    fn outcome(&self) -> (Outcome, &str) {
        (self.record.outcome, self.record.reason.as_deref().unwrap_or(""))
    }

    fn last_phase(&self) -> Option<Phase> {
        // Before tear-down, which is always there.
        self.record.measured.phases_ms.keys().rev().nth(1).copied()
    }
}

struct AtPhase {
    at: Phase,
    hook: Hook,
}

impl Sink for AtPhase {
    fn take(&self, event: &Event<'_>) {
        if matches!(event, Event::PhaseEntered(phase) if *phase == self.at) {
            (self.hook)();
        }
    }
}

/// A part of the network that does not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Shaping,
    Counting,
    Probe,
}

/// The network of a lab that does not exist.
#[derive(Default)]
struct Wires {
    broken: Option<Broken>,
    links: RefCell<Vec<String>>,
    probing: Flag<bool>,
    counted: Flag<u64>,
}

impl Wires {
    fn works(&self, part: Broken) -> Result<(), NodeError> {
        if self.broken == Some(part) { Err(NodeError::Gone { node: "compute1".into() }) } else { Ok(()) }
    }
}

impl Network for Wires {
    async fn shape(&self, link: &Profile) -> Result<LinkSetting, NodeError> {
        self.works(Broken::Shaping)?;
        let rate = link.rate.unwrap_or_default().to_string();
        self.links.borrow_mut().push(rate.clone());
        Ok(LinkSetting::example(rate))
    }

    async fn traffic(&self) -> Result<Traffic, NodeError> {
        self.works(Broken::Counting)?;
        // What 200 MB of memory are on a wire.
        self.counted.set(self.counted.get() + 209_000_000);
        Ok(Traffic { sent_bytes: self.counted.get(), received_bytes: 0, late: None })
    }

    async fn start_probe(&self, _: Duration, _: Duration) -> Result<(), NodeError> {
        self.works(Broken::Probe)?;
        self.probing.set(true);
        Ok(())
    }

    async fn stop_probe(&self) -> Result<probe::Report, NodeError> {
        if !self.probing.replace(false) {
            return Err(NodeError::Gone { node: "controller".into() });
        }
        Ok(probe::Report {
            interval_ns: 10_000_000,
            sent: 300,
            received: 293,
            largest_gap_ns: 70_000_000,
            median_gap_ns: 10_000_000,
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_migration_that_completes_has_all_of_its_figures() {
    let made = Setup::new().run().await;
    assert_eq!(made.outcome(), (Outcome::Converged, ""));
    let measured = &made.record.measured;
    assert_eq!(measured.total_time_ms, Some(2060.0));
    let downtime = measured.downtime_ms;
    assert_eq!((downtime.qemu, downtime.client), (Some(60.0), Some(70.0)));
    let lost = downtime.guest.unwrap();
    assert!((59.0..=61.0).contains(&lost), "{lost}");
    assert_eq!(measured.transferred.qemu_bytes, Some(200_000_000));
    assert_eq!(measured.transferred.wire_bytes, Some(209_000_000));
    assert_eq!(measured.iterations.len(), 5);
    assert_eq!(measured.stress.requested, Some(16_000_000));
    for rate in [measured.stress.before, measured.stress.during, measured.stress.after] {
        let rate = rate.unwrap();
        assert!((15.7e6..16.3e6).contains(&rate), "{rate}");
    }
    assert_eq!(measured.verified.as_ref().unwrap().pages_checked, 1000);
    assert_eq!(measured.disagreements, Vec::<String>::new());
    assert_eq!(made.links, ["800mbit"]);
    let phases: Vec<Phase> = measured.phases_ms.keys().copied().collect();
    assert_eq!(
        phases,
        [
            Phase::Boot,
            Phase::Fill,
            Phase::Settle,
            Phase::Migrate,
            Phase::Observe,
            Phase::Verify,
            Phase::TearDown
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn every_sample_is_written_down() {
    let made = Setup::new().run().await;
    assert!(made.samples.len() > 40, "{}", made.samples.len());
    assert!(made.samples.is_sorted_by(|a, b| a.at_ms <= b.at_ms));
    assert_eq!(made.samples.last().unwrap().transferred_bytes, 200_000_000);
}

#[tokio::test(start_paused = true)]
async fn a_guest_without_a_probe_and_without_a_load_migrates() {
    let made = Setup::new().with("probe: { interval: 0 }\naxes: { stress.rate: [0] }\n").run().await;
    assert_eq!(made.outcome(), (Outcome::Converged, ""));
    assert_eq!(made.record.measured.downtime_ms.client, None);
    assert_eq!(made.record.measured.stress.during, Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn a_migration_is_given_up_at_its_deadline_and_the_guest_runs_on_at_the_source() {
    let made = Setup::endless().with("migrate: { timeout: 5s, stall_detection: false }\n").run().await;
    assert_eq!(made.outcome(), (Outcome::NotConverged, "the deadline of 5s passed"));
    assert_eq!(made.driver.acts(), [Action::Cancel]);
    let measured = &made.record.measured;
    assert_eq!((measured.total_time_ms, measured.downtime_ms.client), (None, None));
    assert!(measured.stress.after.is_some() && measured.verified.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_migration_is_given_up_after_its_last_pass() {
    let made = Setup::endless().with("migrate: { max_passes: 3 }\n").run().await;
    assert_eq!(made.outcome(), (Outcome::NotConverged, "it was not done after 3 passes"));
}

#[tokio::test(start_paused = true)]
async fn a_migration_is_given_up_when_it_makes_no_progress() {
    let made = Setup::endless().with("migrate: { timeout: 60s }\n").run().await;
    let (outcome, reason) = made.outcome();
    assert_eq!(outcome, Outcome::NotConverged);
    assert!(
        reason.starts_with("the remaining memory stopped shrinking: 50 MB at the start of pass"),
        "{reason}"
    );
    assert!(made.samples.last().unwrap().at_ms < 20_000.0);
}

#[tokio::test(start_paused = true)]
async fn memory_that_is_not_what_was_written_is_corrupted() {
    let made = Setup::fault(Fault::Corruption).run().await;
    let (outcome, reason) = made.outcome();
    assert_eq!(outcome, Outcome::Corrupted);
    assert!(reason.starts_with("the guest's memory is not what was written: "), "{reason}");
}

/// Where an attempt fails, and how: the outcome, the words, the phase it had come to.
async fn fails(setup: Setup, outcome: Outcome, words: &str, phase: Phase) {
    let made = setup.run().await;
    assert_eq!(made.outcome(), (outcome, words));
    assert_eq!(made.last_phase(), Some(phase));
    assert_eq!(made.record.measured.disagreements, Vec::<String>::new());
}

/// One test for each way to fail.
macro_rules! failures {
    ($($name:ident: $setup:expr => $outcome:ident, $words:expr, $phase:ident;)+) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $name() {
                fails($setup, Outcome::$outcome, $words, Phase::$phase).await;
            }
        )+
    };
}

failures! {
    a_link_that_cannot_be_shaped: Setup::new().broken(Broken::Shaping)
        => Failed, "node compute1 is gone", Boot;
    ends_that_do_not_start: Setup::fault(Fault::Start)
        => Failed, "it does not start", Boot;
    a_capability_that_is_refused: Setup::fault(Fault::Prepare)
        => Failed, "a capability is refused", Fill;
    memory_that_cannot_be_filled: Setup::fault(Fault::Fill)
        => Failed, "the stressor could not fill its memory: out of memory", Fill;
    a_guest_that_does_not_answer_the_probe: Setup::new().broken(Broken::Probe)
        => Failed, "node compute1 is gone", Settle;
    a_guest_that_falls_silent: Setup::fault(Fault::SilentGuest)
        => Failed, "the guest did not reach a steady dirty rate within 60 s", Settle;
    a_link_that_cannot_be_counted: Setup::new().broken(Broken::Counting)
        => Failed, "node compute1 is gone", Migrate;
    a_migration_that_is_refused: Setup::fault(Fault::Begin)
        => Failed, "the command is refused", Migrate;
    a_source_that_does_not_answer: Setup::fault(Fault::Progress)
        => Failed, "it does not answer", Migrate;
    a_migration_that_fails: Setup::fault(Fault::Migration)
        => Failed, "the migration failed: the stream broke", Migrate;
    a_migration_that_others_cancel: Setup::fault(Fault::CancelledByOthers)
        => Failed, "the migration failed: somebody cancelled it", Migrate;
    a_guest_that_does_not_resume: Setup::fault(Fault::NoResume)
        => GuestLost,
        "the guest is lost: the migration completed, but the guest does not run at the destination",
        Migrate;
    a_migration_that_cannot_be_cancelled:
        Setup { script: Script { active: None, fault: Some(Fault::NoCancel), ..Script::default() }, ..Setup::new() }
            .with("migrate: { max_passes: 1 }\n")
        => Failed, "the migration failed: it could not be cancelled within 20 s", Migrate;
    a_guest_that_is_silent_afterwards: Setup::fault(Fault::SilentAfterwards)
        => GuestLost, "the guest is lost: the guest did not show that it runs within 40 s", Observe;
    a_guest_that_is_stopped_afterwards: Setup::fault(Fault::Stopped)
        => GuestLost, "the guest is lost: it is stopped at the destination", Observe;
    ends_that_cannot_be_ended: Setup::fault(Fault::End)
        => Failed, "it cannot be killed", Verify;
}

/// An end dies in a phase.
async fn dies(phase: Phase, end: End) {
    let made = Setup::new().run_with(phase, |handles| Box::new(move || handles.driver.kill(end))).await;
    assert_eq!(made.outcome(), (Outcome::Failed, format!("the {} died", end.name()).as_str()));
    assert_eq!(made.last_phase(), Some(phase));
}

/// The user interrupts in a phase.
async fn interrupted(phase: Phase) {
    let made = Setup::new().run_with(phase, |handles| Box::new(move || handles.interrupt.notify_one())).await;
    assert_eq!(made.outcome(), (Outcome::Interrupted, "it was interrupted"));
    assert_eq!(made.last_phase(), Some(phase));
}

/// One test for each phase.
macro_rules! in_each_phase {
    ($($name:ident: $phase:ident),+) => {
        mod the_source_dies {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::dies(super::Phase::$phase, super::End::Source).await;
            })+
        }
        mod the_destination_dies {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::dies(super::Phase::$phase, super::End::Destination).await;
            })+
        }
        mod the_user_interrupts {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::interrupted(super::Phase::$phase).await;
            })+
        }
    };
}

in_each_phase! {
    in_boot: Boot, in_fill: Fill, in_settle: Settle, in_migrate: Migrate, in_observe: Observe, in_verify: Verify
}

#[tokio::test(start_paused = true)]
async fn what_happens_while_everything_is_torn_down_changes_nothing() {
    let made = Setup::new()
        .run_with(Phase::TearDown, |handles| {
            Box::new(move || {
                handles.driver.kill(End::Destination);
                handles.interrupt.notify_one();
            })
        })
        .await;
    assert_eq!(made.outcome(), (Outcome::Converged, ""));
}

fn rate(bytes: u64) -> Rate {
    Rate::Limited(ByteRate::new(bytes))
}

#[tokio::test(start_paused = true)]
async fn entries_before_the_switchover_are_carried_out_at_the_source() {
    let made = Setup::new()
        .with("timeline: [{ at: 500ms, stress: { rate: 4MB/s } }, { at: 1s, link: { rate: 400mbit } }]\n")
        .run()
        .await;
    assert_eq!(made.outcome(), (Outcome::Converged, ""));
    let [load, link] = &made.record.measured.timeline[..] else {
        panic!("{:?}", made.record.measured.timeline)
    };
    assert_eq!((load.by, load.rate), (Some(End::Source), Some(rate(4_000_000))));
    assert_eq!((load.due_ms, load.began_ms), (500.0, 500.0));
    assert_eq!(
        (link.link.as_deref(), link.by, link.began_ms),
        (Some("kernel backend: 400mbit"), None, 1000.0)
    );
    assert_eq!(made.driver.loads(), [(End::Source, rate(16_000_000)), (End::Source, rate(4_000_000))]);
    assert_eq!(made.links, ["800mbit", "400mbit"]);
    let stretches = &made.record.measured.stress.stretches;
    assert_eq!(
        stretches.iter().map(|s| s.requested).collect::<Vec<_>>(),
        [Some(16_000_000), Some(4_000_000)]
    );
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_the_switchover_interrupts_is_completed_at_the_destination() {
    let script = Script { answer: Duration::from_millis(100), ..Script::default() };
    let setup =
        Setup { script, ..Setup::new() }.with("timeline: [{ at: 1950ms, stress: { rate: 4MB/s } }]\n");
    let made = setup.run().await;
    assert_eq!(made.outcome(), (Outcome::Converged, ""));
    let [load] = &made.record.measured.timeline[..] else { panic!("{:?}", made.record.measured.timeline) };
    // The migration completes at 2060 ms, and the guest answers there.
    assert_eq!((load.by, load.began_ms, load.done_ms), (Some(End::Destination), 1950.0, 2160.0));
    assert_eq!(made.driver.loads(), [(End::Source, rate(16_000_000)), (End::Destination, rate(4_000_000))]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_after_the_switchover_is_not_begun() {
    let made = Setup::new().with("timeline: [{ at: 3s, link: { rate: 400mbit } }]\n").run().await;
    assert_eq!(made.outcome(), (Outcome::Converged, ""));
    assert_eq!(made.record.measured.timeline, []);
    assert_eq!(made.links, ["800mbit"]);
}

#[tokio::test(start_paused = true)]
async fn a_migration_is_not_given_up_as_stalled_before_the_last_entry() {
    let settings = "migrate: { timeout: 60s }\ntimeline: [{ at: 30s, link: { rate: 400mbit } }]\n";
    let made = Setup::endless().with(settings).run().await;
    let (outcome, reason) = made.outcome();
    assert_eq!(outcome, Outcome::NotConverged);
    assert!(reason.starts_with("the remaining memory stopped shrinking"), "{reason}");
    assert!(made.samples.last().unwrap().at_ms > 38_000.0, "{:?}", made.samples.last());
}

/// A mode that does nothing but wait.
struct Wait;

impl Policy for Wait {
    fn decide(&mut self, _: &Progress<'_>) -> Decision {
        Decision::Wait
    }
}

/// A mode that allows more downtime with each pass, once.
struct Ramp(u64);

impl Policy for Ramp {
    fn decide(&mut self, progress: &Progress<'_>) -> Decision {
        let pass = progress.samples.last().map_or(0, |now| now.pass);
        if pass <= self.0 {
            return Decision::Wait;
        }
        self.0 = pass;
        Decision::Act(Action::SetDowntimeLimit(Span::from_millis(100 * pass)))
    }
}

async fn followed(policy: &mut dyn Policy) -> (Verdict, Vec<Action>) {
    let script = Script { active: Some(Duration::from_millis(1800)), ..Script::default() };
    let (mut driver, shared) = Mock::new(script);
    driver.start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let course = Course { steps: &[], samples_file: &folder.path().join("samples.jsonl") };
    let network = Wires::default();
    let actuator = LinkAndGuest { network: &network, driver: &driver };
    let followed = follow::migrate(&driver, policy, &course, &actuator, &Fan::default()).await.unwrap();
    assert!(followed.started < Instant::now());
    (followed.verdict, shared.acts())
}

#[tokio::test(start_paused = true)]
async fn a_mode_that_waits_lets_the_migration_end_by_itself() {
    let (verdict, acts) = followed(&mut Wait).await;
    assert!(matches!(verdict, Verdict::Completed(_)), "{verdict:?}");
    assert_eq!(acts, []);
}

#[tokio::test(start_paused = true)]
async fn what_a_mode_wants_done_is_done() {
    let (verdict, acts) = followed(&mut Ramp(1)).await;
    assert!(matches!(verdict, Verdict::Completed(_)), "{verdict:?}");
    let limits = [200, 300, 400].map(|ms| Action::SetDowntimeLimit(Span::from_millis(ms)));
    assert_eq!(acts, limits);
}

#[test]
fn the_settings_choose_the_mode() {
    let migrate = matrix::Migrate { timeout: Span::from_secs(1), ..matrix::Migrate::default() };
    let late = [Sample { at_ms: 1_000.0, ..Sample::default() }];
    let progress = Progress { samples: &late, settled_ms: Some(0.0) };
    let decision = migrate.mode.policy(migrate.limits()).decide(&progress);
    assert_eq!(decision, Decision::GiveUp("the deadline of 1s passed".into()));
}
