//! Whole attempts with the mock driver: every outcome, every failure, and a failure in every phase. Time is
//! paused, so the tests finish immediately and get the same figures every time.

use super::{
    account,
    attempt::{AttemptSpec, attempt},
    follow::{self, MigrationSpec, Verdict},
    network::Network,
    timeline::LinkAndGuest,
};
use crate::{
    driver::{
        Action, Driver,
        mock::{Fault, MockDriver, Script, ScriptedMirror, Shared},
    },
    event::{Event, FanOut, Sink},
    matrix::{self, Cell, File, is_default},
    measure::{
        End,
        link::{LinkSetting, StorageSetting},
        samples::{MemoryProgress, Sample},
    },
    mode::{Decision, Policy, Progress},
    node::{
        NodeError,
        protocol::{ProbeProgress, ProgressWindow, Traffic},
        server::probe,
    },
    outcome::Outcome,
    results::{
        builder::RecordBuilder,
        client::{LiveWindow, ProbeWindow},
        record::{Downtime, Measured, Phase, Record},
        telemetry::GuestReport,
    },
};
use netem::{Profile, userspace::Lateness};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};
use std::{
    cell::{Cell as Flag, RefCell},
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use stressor::workload::Rate;
use tokio::{
    sync::{Notify, mpsc},
    time::{self, Instant},
};
use units::{ByteRate, Span};

/// A time longer than any attempt. Time is simulated, so waiting for it costs little.
const ENDLESS: Duration = Duration::from_secs(3600);

/// An action to take when an attempt enters a phase.
type Hook = Box<dyn Fn() + Send + Sync>;

/// The set-up of an attempt.
struct Setup {
    settings: &'static str,
    script: Script,
    network_fault: Option<NetworkFault>,
    open_gap: Option<Duration>,
    /// The number of windows after which the probe falls silent. Each window is reported at its end.
    reported_windows: u64,
}

impl Setup {
    /// Returns the set-up of a guest that dirties 16 MB/s and migrates within two seconds.
    fn new() -> Self {
        Self {
            settings: "",
            script: Script::default(),
            network_fault: None,
            open_gap: None,
            reported_windows: 0,
        }
    }

    /// Returns the same set-up with a fault of the driver or the guest.
    fn fault(fault: Fault) -> Self {
        Self { script: Script { fault: Some(fault), ..Script::default() }, ..Self::new() }
    }

    /// Returns the same set-up with a migration that does not end by itself.
    fn endless() -> Self {
        Self::script(Script { active: None, ..Script::default() })
    }

    /// Returns the same set-up with a different migration.
    fn script(script: Script) -> Self {
        Self { script, ..Self::new() }
    }

    fn with(self, settings: &'static str) -> Self {
        Self { settings, ..self }
    }

    fn network_fault(self, fault: NetworkFault) -> Self {
        Self { network_fault: Some(fault), ..self }
    }

    fn cell(&self) -> Cell {
        let text =
            format!("name: n\nstress: {{ rate: 16MB/s }}\nlink: {{ rate: 800mbit }}\n{}", self.settings);
        let plan = File::parse(&text, "n").and_then(|file| file.expand());
        plan.unwrap_or_else(|error| panic!("{error}")).cells.remove(0)
    }

    async fn run(self) -> AttemptResult {
        self.run_with(Phase::Boot, |_| Box::new(|| ())).await
    }

    /// Makes the attempt. When it enters the phase `at`, runs the action that `hook` returns.
    async fn run_with(self, at: Phase, hook: impl FnOnce(TestHandles) -> Hook) -> AttemptResult {
        self.run_in(&tempfile::tempdir().unwrap(), at, hook).await
    }

    /// Makes the attempt with its files in this folder.
    async fn run_in(
        self,
        folder: &tempfile::TempDir,
        at: Phase,
        hook: impl FnOnce(TestHandles) -> Hook,
    ) -> AttemptResult {
        let cell = self.cell();
        let (driver, shared) = MockDriver::new(self.script);
        let interrupt = Arc::new(Notify::new());
        let handles = TestHandles { driver: Arc::clone(&shared), interrupt: Arc::clone(&interrupt) };
        let sink = PhaseHook { at, hook: hook(handles) };
        let mut network = MockNetwork::new(&shared, self.network_fault);
        network.open_gap = self.open_gap;
        network.reported_windows = self.reported_windows;
        let spec = AttemptSpec { cell: &cell, number: 1, folder: folder.path() };
        let attempt = attempt(driver, &network, spec, RecordBuilder::start(), &sink, interrupt.notified());
        let record = time::timeout(ENDLESS, attempt).await.expect("the attempt does not end");
        let samples = fs::read_to_string(folder.path().join("samples.jsonl")).unwrap_or_default();
        let samples = samples.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(shared.is_shut_down(), "the driver must be shut down");
        assert!(!network.probing.get(), "the probe must be stopped");
        assert!(!folder.path().join("probe-live.jsonl").exists(), "the attempt is not in progress any more");
        let reports = fs::read_to_string(folder.path().join("telemetry.jsonl")).unwrap_or_default();
        let reports = reports.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let windows = fs::read_to_string(folder.path().join("probe.jsonl")).unwrap_or_default();
        let windows = windows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        AttemptResult { record, samples, reports, windows, driver: shared, links: network.links.into_inner() }
    }
}

/// What a hook needs to disturb an attempt.
struct TestHandles {
    driver: Arc<Shared>,
    interrupt: Arc<Notify>,
}

/// The record of an attempt and everything else that it left behind.
struct AttemptResult {
    record: Record,
    samples: Vec<Sample>,
    reports: Vec<GuestReport>,
    windows: Vec<ProbeWindow>,
    driver: Arc<Shared>,
    links: Vec<String>,
}

impl AttemptResult {
    fn outcome(&self) -> (Outcome, &str) {
        (self.record.outcome, self.record.reason.as_deref().unwrap_or(""))
    }

    fn last_phase(&self) -> Option<Phase> {
        // The phase before tear-down, which is always the last one.
        self.record.measured.phases_ms.keys().rev().nth(1).copied()
    }
}

struct PhaseHook {
    at: Phase,
    hook: Hook,
}

impl Sink for PhaseHook {
    fn handle(&self, event: &Event<'_>) {
        if matches!(event, Event::PhaseEntered(phase) if *phase == self.at) {
            (self.hook)();
        }
    }
}

/// A function of the network that is to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NetworkFault {
    Shaping,
    Counting,
    Probe,
}

/// A network that records the requests it gets.
struct MockNetwork {
    driver: Arc<Shared>,
    fault: Option<NetworkFault>,
    links: RefCell<Vec<String>>,
    probing: Flag<bool>,
    /// How long the guest has not answered when the probe ends without a final reply.
    open_gap: Option<Duration>,
    reported_windows: u64,
}

impl MockNetwork {
    fn new(driver: &Arc<Shared>, fault: Option<NetworkFault>) -> Self {
        Self {
            driver: Arc::clone(driver),
            fault,
            links: RefCell::default(),
            probing: Flag::default(),
            open_gap: None,
            reported_windows: 0,
        }
    }

    fn inject(&self, fault: NetworkFault) -> Result<(), NodeError> {
        if self.fault == Some(fault) { Err(NodeError::Gone { node: "compute1".into() }) } else { Ok(()) }
    }
}

impl Network for MockNetwork {
    async fn shape(&self, link: &Profile) -> Result<LinkSetting, NodeError> {
        self.inject(NetworkFault::Shaping)?;
        let rate = link.rate.unwrap_or_default().to_string();
        self.links.borrow_mut().push(rate.clone());
        Ok(LinkSetting::example(rate))
    }

    async fn traffic(&self) -> Result<Traffic, NodeError> {
        self.inject(NetworkFault::Counting)?;
        Ok(self.driver.traffic())
    }

    async fn shape_storage(&self, _: &Profile) -> Result<Option<StorageSetting>, NodeError> {
        Ok(None)
    }

    async fn storage_traffic(&self) -> Result<Option<[u64; 2]>, NodeError> {
        Ok(None)
    }

    async fn start_probe(
        &self,
        _: Duration,
        _: Duration,
    ) -> Result<mpsc::Receiver<ProbeProgress>, NodeError> {
        self.inject(NetworkFault::Probe)?;
        self.probing.set(true);
        let (queue, reports) = mpsc::channel(1);
        let count = self.reported_windows;
        tokio::spawn(async move {
            for number in 0..count {
                time::sleep(Duration::from_millis(50)).await;
                // The reply to the last request of each window is lost.
                let window = ProgressWindow {
                    number,
                    requests: 5,
                    unanswered: 1,
                    longest_ns: Some(700_000),
                    median_ns: Some(300_000),
                };
                // Two such windows cannot occur.
                let none = ProgressWindow { requests: 0, ..window };
                let more = ProgressWindow { unanswered: 6, ..window };
                let windows = vec![none, window, more];
                let began_before_ns = (number + 1) * 50_000_000;
                let report = ProbeProgress { began_before_ns, window_ns: 50_000_000, windows };
                if queue.send(report).await.is_err() {
                    break;
                }
            }
        });
        Ok(reports)
    }

    async fn stop_probe(&self, _: Duration) -> Result<probe::ProbeReport, NodeError> {
        if !self.probing.replace(false) {
            return Err(NodeError::Gone { node: "controller".into() });
        }
        Ok(probe::ProbeReport {
            interval_ns: 10_000_000,
            sent: 300,
            received: 293,
            largest_gap_ns: Some(70_000_000),
            median_gap_ns: Some(10_000_000),
            open_gap_ns: self.open_gap.map(|gap| gap.as_nanos() as u64),
            surely_gone_ns: Some(self.open_gap.map_or(70_000_000, |gap| gap.as_nanos() as u64) - 10_000_000),
            latencies: probe::Latencies {
                began_before_end_ns: 2_000_000_000,
                window_ns: 50_000_000,
                windows: vec![probe::Window { requests: 5, unanswered: 0, longest_ns: Some(300_000) }; 40],
            },
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_answers_again_has_no_longest_downtime() {
    let open_gap = Some(Duration::from_secs(5));
    let result = Setup { open_gap, ..Setup::new() }.run().await;
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
    let downtime = result.record.measured.downtime_ms;
    assert_eq!((downtime.client, downtime.client_at_least), (None, Some(4990.0)));
    assert_eq!(result.record.measured.probe.as_ref().unwrap().open_gap_ns, Some(5_000_000_000));
    let notes = result.record.measured.disagreements.join("; ");
    assert!(notes.contains("a client got no reply for at least 4990 ms"), "{notes}");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_on_a_full_disk_says_so_and_has_no_result() {
    if !geteuid().is_root() {
        return println!("skipped: needs root, for a file system of its own");
    }
    let (disk, none) = (Path::new("/mnt"), None::<&str>);
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("test"), disk, Some("tmpfs"), MsFlags::empty(), Some("size=4096")).unwrap();
    let folder = tempfile::tempdir_in(disk).unwrap();
    let samples = folder.path().join("samples.jsonl");
    // Its last line is cut off.
    let remove = move || fs::remove_file(&samples).unwrap();
    let record = Setup::new().run_in(&folder, Phase::TearDown, |_| Box::new(remove)).await.record;
    assert_eq!(record.outcome, Outcome::Failed);
    let reason = record.reason.as_deref().unwrap();
    assert!(reason.ends_with("samples.jsonl: No space left on device (os error 28)"), "{reason}");
    assert!(record.lacked_disk() && !record.is_result());
}

#[tokio::test(start_paused = true)]
async fn links_in_the_place_of_an_attempts_files_are_not_followed() {
    for (file, outcome) in [
        ("samples.jsonl", Outcome::Failed),
        ("telemetry.jsonl", Outcome::Failed),
        ("probe.jsonl", Outcome::Failed),
        ("probe-live.jsonl", Outcome::Converged),
    ] {
        let [folder, elsewhere] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let victim = elsewhere.path().join("victim");
        fs::write(&victim, "").unwrap();
        symlink(&victim, folder.path().join(file)).unwrap();
        let setup = Setup { reported_windows: 1_000, ..Setup::new() };
        let record = setup.run_in(&folder, Phase::Boot, |_| Box::new(|| ())).await.record;
        assert_eq!(record.outcome, outcome, "{file}");
        let reason = record.reason.unwrap_or_default();
        assert!(
            reason.is_empty() || reason.ends_with(&format!("{file}: File exists (os error 17)")),
            "{reason}"
        );
        assert_eq!(fs::read_to_string(&victim).unwrap(), "", "{file}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_migration_that_completes_has_all_figures() {
    let result = Setup::new().run().await;
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
    let measured = &result.record.measured;
    assert_eq!(measured.total_time_ms, Some(2060.0));
    let downtime = measured.downtime_ms;
    assert_eq!((downtime.qemu, downtime.client), (Some(60.0), Some(70.0)));
    assert_eq!(downtime.client_at_least, Some(60.0));
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
    assert!(is_default(&measured.aids) && is_default(&measured.postcopy), "no aid, no figures");
    let close = |ms: Option<f64>, expected: f64| (ms.unwrap() - expected).abs() < 2.0;
    assert!(close(measured.cpu.source_ms, 1030.0), "{:?}", measured.cpu);
    assert!(close(measured.cpu.destination_ms_per_gb, 515.0 / 0.2), "{:?}", measured.cpu);
    assert!(measured.stress.recovered_ms.unwrap() < 100.0, "{:?}", measured.stress);
    assert_eq!(measured.disagreements, Vec::<String>::new());
    assert_eq!(result.links, ["800mbit"]);
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
async fn what_the_guest_reports_is_written_to_a_file() {
    let reports = Setup::new().run().await.reports;
    let ends = |end| reports.iter().filter(move |report| report.end == end);
    let (source, destination) = (ends(End::Source), ends(End::Destination));
    assert!(source.clone().any(|report| report.at_ms < 0.0), "from before the migration, too");
    // The migration takes 2060 ms, the last 60 of them with the guest stopped.
    let during: Vec<_> = source.filter(|report| (0.0..=2_000.0).contains(&report.at_ms)).collect();
    assert!(during.len() > 30, "{}", during.len());
    let [first, .., last] = during[..] else { panic!("{during:?}") };
    let rate = (last.dirtied_bytes - first.dirtied_bytes) as f64 / (last.clock_ms - first.clock_ms) * 1e3;
    assert!((15.7e6..16.3e6).contains(&rate), "{rate}");
    assert!(destination.clone().count() > 3 && destination.into_iter().all(|report| report.at_ms > 2_000.0));
}

#[tokio::test(start_paused = true)]
async fn what_the_probe_saw_is_written_to_a_file() {
    let windows = Setup::new().run().await.windows;
    assert_eq!(windows.len(), 40);
    // The first began 2 s before the report, which arrives after the migration of 2060 ms.
    let span_ms = windows[39].at_ms - windows[0].at_ms;
    assert!(windows[0].at_ms > 60.0 && (span_ms - 1_950.0).abs() < 0.01, "{windows:?}");
    assert!(windows.iter().all(|window| window.longest_round_trip_ms == Some(0.3)));
}

/// Makes an attempt whose probe reports this number of windows while it runs. Returns the windows that the
/// file for viewers holds when the attempt enters a phase, and what the attempt left behind.
async fn live_windows(reported_windows: u64, at: Phase) -> (Vec<LiveWindow>, AttemptResult) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("probe-live.jsonl");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let found = Arc::clone(&seen);
    let look = move || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        *found.lock().unwrap() = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    };
    let result = Setup { reported_windows, ..Setup::new() }.run_in(&folder, at, |_| Box::new(look)).await;
    let windows = std::mem::take(&mut *seen.lock().unwrap());
    (windows, result)
}

#[tokio::test(start_paused = true)]
async fn what_the_probe_sees_is_in_a_file_while_the_attempt_is_in_progress() {
    let (windows, result) = live_windows(1_000, Phase::Observe).await;
    // The migration takes 2060 ms.
    assert!((40..=42).contains(&windows.len()), "{}", windows.len());
    for (number, live) in windows.iter().enumerate() {
        let window = live.window;
        // On the clock of the migration, and without a break.
        let expected = windows[0].window.at_ms + 50.0 * number as f64;
        assert!((window.at_ms - expected).abs() < 0.002, "{live:?}");
        assert!((window.duration_ms - 50.0).abs() < 0.002, "{live:?}");
        assert_eq!((window.requests, window.unanswered), (5, 1));
        assert_eq!((window.longest_round_trip_ms, live.median_round_trip_ms), (Some(0.7), Some(0.3)));
    }
    assert!((-50.0..=50.0).contains(&windows[0].window.at_ms), "{:?}", windows[0]);
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
    // The report at the end is what is kept.
    assert_eq!(result.windows.len(), 40);
    assert!(result.windows.iter().all(|window| window.longest_round_trip_ms == Some(0.3)));
    assert_eq!(result.record.measured.probe.as_ref().unwrap().sent, 300);

    let (windows, result) = live_windows(1_000, Phase::Migrate).await;
    assert!(windows.is_empty(), "it begins with the migration");
    assert_eq!(result.windows.len(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_falls_silent_adds_no_windows() {
    // It falls silent during the migration of 2060 ms.
    let (windows, result) = live_windows(30, Phase::TearDown).await;
    assert!((1..30).contains(&windows.len()), "{}", windows.len());
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
    assert_eq!(result.windows.len(), 40);
    // A probe of an older version reports nothing while it runs.
    let (windows, result) = live_windows(0, Phase::TearDown).await;
    assert!(windows.is_empty() && result.windows.len() == 40);
}

#[tokio::test(start_paused = true)]
async fn every_sample_is_written_to_the_file() {
    let result = Setup::new().run().await;
    assert!(result.samples.len() > 40, "{}", result.samples.len());
    assert!(result.samples.is_sorted_by(|a, b| a.at_ms <= b.at_ms));
    assert_eq!(result.samples.last().unwrap().memory.unwrap().transferred_bytes, 200_000_000);
}

#[tokio::test(start_paused = true)]
async fn a_guest_without_a_probe_and_without_dirtying_migrates() {
    let result = Setup::new().with("probe: { interval: 0 }\naxes: { stress.rate: [0] }\n").run().await;
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
    assert_eq!(result.record.measured.downtime_ms.client, None);
    assert_eq!(result.record.measured.stress.during, Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn a_migration_is_given_up_at_its_deadline_and_the_guest_keeps_running_at_the_source() {
    let result = Setup::endless().with("migrate: { timeout: 5s, stall_detection: false }\n").run().await;
    assert_eq!(result.outcome(), (Outcome::NotConverged, "the deadline of 5s passed in the state `active`"));
    assert_eq!(result.driver.actions(), [Action::Cancel]);
    let measured = &result.record.measured;
    assert_eq!((measured.total_time_ms, measured.downtime_ms.client), (None, None));
    assert_eq!(measured.past_deadline_ms, None);
    assert!(measured.stress.after.is_some() && measured.verified.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_migration_is_given_up_after_its_last_pass() {
    let result = Setup::endless().with("migrate: { max_passes: 3 }\n").run().await;
    assert_eq!(result.outcome(), (Outcome::NotConverged, "not finished after 3 passes"));
}

#[tokio::test(start_paused = true)]
async fn a_migration_is_given_up_when_it_makes_no_progress() {
    let result = Setup::endless().with("migrate: { timeout: 60s }\n").run().await;
    let (outcome, reason) = result.outcome();
    assert_eq!(outcome, Outcome::NotConverged);
    assert!(
        reason.starts_with("the remaining memory stopped shrinking: 50 MB at the start of pass"),
        "{reason}"
    );
    assert!(result.samples.last().unwrap().at_ms < 20_000.0);
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_qemu_that_it_does_not_keep_is_a_disagreement() {
    let note =
        "QEMU was told to send at most 50MB/s, but it sent 100.0 MB/s while the guest ran at the source";
    let result = Setup::new().with("migrate: { max_bandwidth: 50MB/s }\n").run().await;
    let measured = &result.record.measured;
    assert_eq!(measured.disagreements, [note]);
    let sent = measured.transferred.while_running.unwrap();
    assert!((1900.0..2000.0).contains(&sent.duration_ms), "{sent:?}");
    assert_eq!(sent.bytes, (sent.duration_ms * 1e5) as u64);
    let kept = Setup::new().with("migrate: { max_bandwidth: 100MB/s }\n").run().await;
    assert_eq!(kept.record.measured.disagreements, [""; 0]);
    // Also if the migration is given up.
    let given_up = Setup::endless().with("migrate: { max_bandwidth: 50MB/s, timeout: 5s }\n").run().await;
    assert!(given_up.record.measured.disagreements.contains(&note.into()));
}

#[tokio::test(start_paused = true)]
async fn memory_that_differs_from_what_was_written_is_corrupted() {
    let result = Setup::fault(Fault::Corruption).run().await;
    let (outcome, reason) = result.outcome();
    assert_eq!(outcome, Outcome::Corrupted);
    assert!(reason.starts_with("the guest's memory differs from what was written: "), "{reason}");
}

/// Returns the set-up of a migration that is given up after its first pass and does not react to that.
fn endless_and_not_cancellable() -> Setup {
    let script = Script { active: None, fault: Some(Fault::NoCancel), ..Script::default() };
    Setup::script(script).with("migrate: { max_passes: 1 }\n")
}

/// A time longer than any test.
const FOREVER: Duration = Duration::from_secs(1_000_000);

/// When the guest stops in [`LATE`], counted from the migrate command.
const WITH_THE_STOP: Duration = Duration::from_secs(2);

/// A migration whose switchover takes five minutes. Loading at the destination takes another five minutes.
const LATE: Script =
    Script { downtime: Duration::from_secs(300), loading: Some(Duration::from_secs(300)), ..Script::SHORT };

/// Returns the set-up of an endless migration whose source does not answer between these two times, in
/// seconds.
fn silent_from(from: u64, to: u64) -> Setup {
    let silence = (Duration::from_secs(from), Duration::from_secs(to));
    Setup::script(Script { active: None, silence, ..Script::default() })
}

/// Makes an attempt that must fail with this outcome and this reason in this phase.
async fn fails(setup: Setup, outcome: Outcome, reason: &str, phase: Phase) {
    let result = setup.run().await;
    assert_eq!(result.outcome(), (outcome, reason));
    assert_eq!(result.last_phase(), Some(phase));
    assert_eq!(result.record.measured.disagreements, Vec::<String>::new());
}

/// Defines one test per failure.
macro_rules! failures {
    ($($name:ident: $setup:expr => $outcome:ident, $reason:expr, $phase:ident;)+) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $name() {
                fails($setup, Outcome::$outcome, $reason, Phase::$phase).await;
            }
        )+
    };
}

/// Settings of post-copy that starts immediately.
const POSTCOPY: &str = "migrate: { mode: postcopy }\n";

/// Settings of post-copy that starts immediately and does not recover.
const UNRECOVERABLE: &str = "migrate: { mode: postcopy, postcopy_recovery: 0 }\n";

/// A migration through a file, which would have to be given up if the guest were running.
const FILE: &str = "migrate: { mode: file, timeout: 1s }\n";

failures! {
    a_link_that_fails_in_post_copy: Setup::fault(Fault::Postcopy).with(UNRECOVERABLE)
        => GuestLost, "the guest is lost: it moved without all of its memory, and the rest cannot follow: \
                       no route to host", Migrate;
    a_source_that_sends_nothing_in_post_copy:
        Setup::script(Script { postcopy: None, ..Script::default() }).with(UNRECOVERABLE)
        => GuestLost, "the guest is lost: it moved without all of its memory, and the rest cannot follow: \
                       nothing has been sent for 20 s in the state `postcopy-active`", Migrate;
    a_link_that_does_not_work_again: Setup::fault(Fault::Postcopy).with(POSTCOPY)
        => GuestLost, "the guest is lost: it moved without all of its memory, and the rest cannot follow: \
                       no route to host, and the migration has not recovered by its deadline in the state \
                       `postcopy-paused`", Migrate;
    a_link_that_is_not_waited_for_long_enough:
        Setup::script(Script { postcopy: None, recovering: Some(Duration::from_secs(9)), ..Script::SHORT })
            .with("migrate: { mode: postcopy, postcopy_recovery: 8s }\n")
        => GuestLost, "the guest is lost: it moved without all of its memory, and the rest cannot follow: \
                       nothing has passed the link for 5 s, and the migration has not recovered within 8 s \
                       in the state `postcopy-active`", Migrate;
    a_recovery_that_is_refused: Setup::script(Script {
        fault: Some(Fault::Recovery), postcopy: None, recovering: Some(Duration::ZERO), ..Script::SHORT
    }).with(POSTCOPY)
        => GuestLost, "the guest is lost: it moved without all of its memory, and the rest cannot follow: \
                       the port is in use", Migrate;
    memory_that_is_released_cannot_be_sent_again: Setup::fault(Fault::Postcopy)
        .with("migrate: { mode: postcopy, release_ram: true }\n")
        => GuestLost, "the guest is lost: it moved without all of its memory, and the rest cannot follow: \
                       no route to host", Migrate;
    a_guest_that_post_copy_does_not_move: Setup::fault(Fault::NoPostcopy).with(POSTCOPY)
        => Failed, "the migration failed: post-copy was started, but the guest has not stopped at the \
                    source within 20 s in the state `active`", Verify;
    a_link_that_cannot_be_shaped: Setup::new().network_fault(NetworkFault::Shaping)
        => Failed, "node compute1 is gone", Boot;
    ends_that_do_not_start: Setup::fault(Fault::Start)
        => Failed, "it does not start", Boot;
    a_capability_that_is_refused: Setup::fault(Fault::Prepare)
        => Failed, "a capability is refused", Fill;
    memory_that_cannot_be_filled: Setup::fault(Fault::Fill)
        => Failed, "the stressor could not fill its memory: out of memory", Fill;
    a_guest_that_does_not_answer_the_probe: Setup::new().network_fault(NetworkFault::Probe)
        => Failed, "node compute1 is gone", Settle;
    a_guest_that_falls_silent: Setup::fault(Fault::SilentGuest)
        => Failed, "the guest did not reach a steady dirty rate within 60 s", Settle;
    a_destination_that_cannot_listen: Setup::fault(Fault::Listen)
        => Failed, "the address is in use", Verify;
    traffic_that_cannot_be_counted: Setup::new().network_fault(NetworkFault::Counting)
        => Failed, "node compute1 is gone", Verify;
    a_migration_that_is_refused: Setup::fault(Fault::Begin)
        => Failed, "the command is refused", Verify;
    a_source_that_does_not_answer: Setup::fault(Fault::Progress)
        => Failed, "it does not answer", Verify;
    a_migration_that_fails: Setup::fault(Fault::Migration)
        => Failed, "the migration failed: the stream broke", Verify;
    a_guest_that_cannot_be_saved:
        Setup::script(Script { file: true, fault: Some(Fault::Migration), ..Script::SHORT }).with(FILE)
        => Failed, "the migration failed: the disk is full", Verify;
    a_file_that_is_not_read:
        Setup::script(Script { file: true, loading: None, cut: Duration::ZERO, ..Script::SHORT }).with(FILE)
        => Failed, "no data has been saved, loaded or handed over for 20 s in the state `loading`; the guest \
                    was stopped for 24.1 s and continues at the source", Verify;
    a_file_that_is_not_read_of_a_guest_that_does_not_continue: Setup::script(Script {
        file: true, loading: None, cut: Duration::ZERO, fault: Some(Fault::Stopped), ..Script::SHORT
    }).with(FILE)
        => GuestLost, "the guest is lost: no data has been saved, loaded or handed over for 20 s in the \
                       state `loading`", Migrate;
    a_migration_that_others_cancel: Setup::fault(Fault::CancelledByOthers)
        => Failed, "the migration failed: somebody cancelled it", Verify;
    a_guest_that_does_not_resume: Setup::script(Script { loading: None, cut: WITH_THE_STOP, ..Script::SHORT })
        => GuestLost,
        "the guest is lost: the migration completed, but the guest does not run at the destination: nothing \
         has arrived there for 20 s, and it still waits",
        Migrate;
    a_destination_that_does_not_answer: Setup::script(Script {
        loading: None, cut: WITH_THE_STOP, destination_answers: false, ..Script::SHORT
    })  => GuestLost,
        "the guest is lost: the migration completed, but the guest does not run at the destination: nothing \
         has arrived there for 20 s, and it does not answer",
        Migrate;
    a_switchover_over_a_link_that_is_cut: Setup::script(Script { cut: WITH_THE_STOP, ..LATE })
        => GuestLost,
        "the guest is lost: it is stopped for the switchover, which has made no progress for 20 s in the \
         state `device`",
        Migrate;
    a_switchover_in_which_nothing_answers: Setup::script(Script {
        cut: WITH_THE_STOP, silence: (WITH_THE_STOP, FOREVER), ..LATE
    })  => GuestLost,
        "the guest is lost: it is stopped for the switchover, which has made no progress for 20 s in the \
         state `active`, and the source does not answer",
        Migrate;
    a_source_that_does_not_complete: Setup::fault(Fault::NoCompletion)
        => Failed,
        "the migration failed: the guest runs at the destination, but the source has not completed within \
         20 s in the state `device`",
        Migrate;
    a_migration_that_cannot_be_cancelled: endless_and_not_cancellable()
        => Failed,
        "the migration failed: given up (not finished after 1 pass), but it was not cancelled within 20 s \
         in the state `active`",
        Verify;
    a_cancellation_that_takes_too_long: Setup::script(Script {
        setup: None, cancelling: Duration::from_secs(21), ..Script::default()
    }).with("migrate: { timeout: 5s }\n")
        => Failed,
        "the migration failed: given up (the deadline of 5s passed in the state `setup`), but it was not \
         cancelled within 20 s in the state `cancelling`",
        Verify;
    a_source_that_falls_silent: silent_from(1, 3600).with("migrate: { timeout: 300s }\n")
        => Failed, "the source has not answered for 60 s in the state `active`", Verify;
    a_source_that_is_silent_at_the_deadline: silent_from(1, 3600).with("migrate: { timeout: 5s }\n")
        => Failed,
        "the migration failed: given up (the deadline of 5s passed in the state `active`), but the source \
         does not answer within 20 s in the state `active`",
        Verify;
    a_guest_that_is_silent_afterwards: Setup::fault(Fault::SilentAfterwards)
        => GuestLost, "the guest is lost: the guest did not continue its work within 40 s", Observe;
    a_guest_that_is_stopped_afterwards: Setup::fault(Fault::Stopped)
        => GuestLost, "the guest is lost: it is stopped at the destination", Observe;
    ends_that_cannot_be_shut_down: Setup::fault(Fault::ShutDown)
        => Failed, "it cannot be killed", Verify;
}

/// Makes an attempt in which an end dies in this phase. The guest of a migration that fails this way is
/// verified if it still runs at the source.
async fn dies(phase: Phase, end: End) {
    let result = Setup::new().run_with(phase, |handles| Box::new(move || handles.driver.kill(end))).await;
    assert_eq!(result.outcome(), (Outcome::Failed, format!("the {} died", end.name()).as_str()));
    let is_verified = phase == Phase::Migrate && end == End::Destination;
    assert_eq!(result.last_phase(), Some(if is_verified { Phase::Verify } else { phase }));
    assert_eq!(result.record.measured.verified.is_some(), is_verified);
}

/// Makes an attempt that the user interrupts in this phase.
async fn interrupted(phase: Phase) {
    let result =
        Setup::new().run_with(phase, |handles| Box::new(move || handles.interrupt.notify_one())).await;
    assert_eq!(result.outcome(), (Outcome::Interrupted, "interrupted by the user"));
    assert_eq!(result.last_phase(), Some(phase));
}

/// Defines one test per phase and disturbance.
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
    in_boot: Boot, in_fill: Fill, in_settle: Settle, in_migrate: Migrate, in_observe: Observe,
    in_verify: Verify
}

#[tokio::test(start_paused = true)]
async fn a_disturbance_during_tear_down_does_not_change_the_outcome() {
    let result = Setup::new()
        .run_with(Phase::TearDown, |handles| {
            Box::new(move || {
                handles.driver.kill(End::Destination);
                handles.interrupt.notify_one();
            })
        })
        .await;
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_is_obeyed_while_a_tear_down_hangs() {
    for phase in [Phase::Settle, Phase::TearDown] {
        let hook = |handles: TestHandles| -> Hook { Box::new(move || handles.interrupt.notify_one()) };
        let result = Setup::fault(Fault::EndlessShutDown).run_with(phase, hook).await;
        let converged = (Outcome::Converged, "");
        let interrupted = (Outcome::Interrupted, "interrupted by the user");
        assert_eq!(result.outcome(), if phase == Phase::TearDown { converged } else { interrupted });
    }
}

fn rate(bytes: u64) -> Rate {
    Rate::Limited(ByteRate::new(bytes))
}

#[tokio::test(start_paused = true)]
async fn entries_before_the_switchover_are_carried_out_at_the_source() {
    let result = Setup::new()
        .with("timeline: [{ at: 500ms, stress: { rate: 4MB/s } }, { at: 1s, link: { rate: 400mbit } }]\n")
        .run()
        .await;
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
    let [load, link] = &result.record.measured.timeline[..] else {
        panic!("{:?}", result.record.measured.timeline)
    };
    assert_eq!((load.by, load.rate), (Some(End::Source), Some(rate(4_000_000))));
    assert_eq!((load.due_ms, load.began_ms), (500.0, 500.0));
    assert_eq!(
        (link.link.as_deref(), link.by, link.began_ms),
        (Some("kernel backend: 400mbit"), None, 1000.0)
    );
    assert_eq!(result.driver.rates(), [(End::Source, rate(16_000_000)), (End::Source, rate(4_000_000))]);
    assert_eq!(result.links, ["800mbit", "400mbit"]);
    let stretches = &result.record.measured.stress.stretches;
    assert_eq!(
        stretches.iter().map(|s| s.requested).collect::<Vec<_>>(),
        [Some(16_000_000), Some(4_000_000)]
    );
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_the_switchover_interrupts_is_completed_at_the_destination() {
    let script = Script { answer: Duration::from_millis(100), ..Script::default() };
    let setup = Setup::script(script).with("timeline: [{ at: 1950ms, stress: { rate: 4MB/s } }]\n");
    let result = setup.run().await;
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
    let [load] = &result.record.measured.timeline[..] else {
        panic!("{:?}", result.record.measured.timeline)
    };
    // The migration completes at 2060 ms, and the guest answers 100 ms later, at the destination.
    assert_eq!((load.by, load.began_ms, load.done_ms), (Some(End::Destination), 1950.0, 2160.0));
    assert_eq!(result.driver.rates(), [(End::Source, rate(16_000_000)), (End::Destination, rate(4_000_000))]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_after_the_switchover_does_not_begin() {
    let result = Setup::new().with("timeline: [{ at: 3s, link: { rate: 400mbit } }]\n").run().await;
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
    assert_eq!(result.record.measured.timeline, []);
    assert_eq!(result.links, ["800mbit"]);
}

#[tokio::test(start_paused = true)]
async fn a_migration_is_not_given_up_as_stalled_before_the_last_entry() {
    let settings = "migrate: { timeout: 60s }\ntimeline: [{ at: 30s, link: { rate: 400mbit } }]\n";
    let result = Setup::endless().with(settings).run().await;
    let (outcome, reason) = result.outcome();
    assert_eq!(outcome, Outcome::NotConverged);
    assert!(reason.starts_with("the remaining memory stopped shrinking"), "{reason}");
    assert!(result.samples.last().unwrap().at_ms > 38_000.0, "{:?}", result.samples.last());
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_moves_by_post_copy_arrives_when_its_memory_is_there() {
    let result = Setup::endless().with(POSTCOPY).run().await;
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
    assert_eq!(result.driver.actions(), [Action::StartPostcopy]);
    let measured = &result.record.measured;
    let close = |ms: Option<f64>, expected: f64| (ms.unwrap() - expected).abs() < 60.0;
    let postcopy = &measured.postcopy;
    assert!(close(postcopy.started_ms, 0.0) && close(postcopy.duration_ms, 3000.0), "{postcopy:?}");
    assert!(close(measured.total_time_ms, 3060.0), "{measured:?}");
    assert_eq!(measured.downtime_ms.qemu, Some(60.0));
    assert_eq!((postcopy.all_blocked_ms, postcopy.page_requests), (Some(120), Some(0)));
    assert_eq!(postcopy.fault_latency_us, None, "a figure that QEMU does not have is absent");
    let silent = Setup::fault(Fault::NoPostcopyFigures).with(POSTCOPY).run().await.record.measured.postcopy;
    assert!(silent.duration_ms.is_some());
    assert_eq!((silent.bytes, silent.page_requests), (None, None), "the source has not told them");
    assert!(postcopy.rate.is_some() && measured.stress.after.is_some());
    let written: u64 = postcopy.write_latencies.iter().sum();
    assert!((11_000..12_500).contains(&written), "16 MB/s for 3 s: {written} pages");
    assert!(measured.verified.is_some());
}

const SECOND: Option<Duration> = Some(Duration::from_secs(1));

/// Settings of a guest that is paused after two passes.
const PAUSED: &str = "migrate: { pause_after_passes: 2, timeout: 5s }\n";

/// A migration that does not converge while the guest runs, and whose guest is paused after two passes.
fn paused(rest: Option<Duration>, fault: Option<Fault>) -> Setup {
    let script = Script { active: None, rest, fault, ..Script::default() };
    Setup::script(script).with(PAUSED)
}

#[tokio::test(start_paused = true)]
async fn a_paused_guest_gets_the_rest_of_its_memory_and_resumes_at_the_destination() {
    let result = paused(SECOND, None).run().await;
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
    assert_eq!(result.driver.actions(), [Action::Pause, Action::Resume(End::Destination)]);
    let downtime = &result.record.measured.downtime_ms;
    // The rest takes a second.
    assert!((1000.0..1200.0).contains(&downtime.guest.unwrap()), "{downtime:?}");
    assert_eq!(downtime.qemu, None, "QEMU counts from the switchover");
}

#[tokio::test(start_paused = true)]
async fn a_paused_guest_continues_at_the_source_if_the_rest_takes_too_long() {
    let result = paused(None, None).run().await;
    assert_eq!(result.outcome().0, Outcome::NotConverged);
    assert_eq!(result.outcome().1, "the deadline of 5s passed in the state `active`");
    assert_eq!(result.driver.actions(), [Action::Pause, Action::Cancel]);
    let measured = &result.record.measured;
    assert!(measured.stress.after.unwrap() > 15.7e6, "it runs at the source: {:?}", measured.stress);
    assert_eq!(measured.verified.as_ref().unwrap().pages_bad, 0);
    assert_eq!((measured.total_time_ms, measured.downtime_ms), (None, Downtime::default()));
    // It ran for a second, and was stopped for four.
    let sent = measured.transferred.while_running.unwrap();
    assert!((900.0..=1000.0).contains(&sent.duration_ms), "{sent:?}");
}

#[tokio::test(start_paused = true)]
async fn a_paused_guest_whose_migration_fails_continues_at_the_source() {
    let result = paused(SECOND, Some(Fault::PausedMigration)).run().await;
    let reason = "the migration failed: the stream broke; the guest was stopped for 3.0 s and continues at \
                  the source";
    assert_eq!(result.outcome(), (Outcome::Failed, reason));
    assert_eq!(result.driver.actions(), [Action::Pause, Action::Resume(End::Source)]);
    assert_eq!(result.record.measured.verified.as_ref().unwrap().pages_bad, 0);
}

/// Returns a migration whose guest is paused after two passes, which is after one second, and whose rest
/// takes this long.
fn paused_for(rest: Duration) -> Script {
    Script { active: Some(Duration::from_secs(2)), rest: Some(rest), ..Script::SHORT }
}

#[tokio::test(start_paused = true)]
async fn a_paused_guest_that_switches_over_is_not_given_up() {
    // The source does not answer from before the switchover until after the deadline.
    let silence = (Duration::from_millis(1_900), Duration::from_secs(12));
    let (downtime, cut) = (Duration::from_secs(9), WITH_THE_STOP);
    let silent = Script { downtime, cut, silence, ..paused_for(Duration::from_secs(1)) };
    let result = Setup::script(silent).with(PAUSED).run().await;
    assert_eq!(result.record.outcome, Outcome::Converged, "{:?}", result.record.reason);
    assert_eq!(result.driver.actions(), [Action::Pause, Action::Resume(End::Destination)]);
}

/// The cancellation comes just before the switchover, which then takes a minute.
#[tokio::test(start_paused = true)]
async fn a_paused_guest_that_switches_over_before_the_cancellation_is_waited_for() {
    let (fault, downtime) = (Some(Fault::NoCancel), Duration::from_secs(60));
    let late = Script { downtime, fault, ..paused_for(Duration::from_millis(4_200)) };
    let result = Setup::script(late).with(PAUSED).run().await;
    assert_eq!(result.record.outcome, Outcome::Converged, "{:?}", result.record.reason);
    let actions = [Action::Pause, Action::Cancel, Action::Resume(End::Destination)];
    assert_eq!(result.driver.actions(), actions);
    assert!(result.record.measured.past_deadline_ms.unwrap() > 60_000.0);
}

#[tokio::test(start_paused = true)]
async fn no_change_begins_once_a_paused_guest_switches_over() {
    let settings = "migrate: { pause_after_passes: 2 }\ntimeline: [{ at: 1500ms, link: { rate: 500mbit } }, \
                    { at: 3s, link: { rate: 400mbit } }]\n";
    let script = Script { downtime: Duration::from_secs(4), ..paused_for(Duration::from_secs(1)) };
    let result = Setup::script(script).with(settings).run().await;
    assert_eq!(result.record.outcome, Outcome::Converged, "{:?}", result.record.reason);
    assert_eq!(result.links, ["800mbit", "500mbit"], "the rest of its memory is sent until the third second");
}

/// If the destination dies before the guest arrives, the guest has not run there: the guest is whole at the
/// source.
#[tokio::test(start_paused = true)]
async fn a_guest_continues_at_the_source_if_the_destination_dies_before_it_arrives() {
    let (death, long) = (Some(Duration::from_millis(4_500)), Duration::from_secs(9));
    let file = Script { file: true, loading: Some(long), death, ..Script::SHORT };
    let handed_over = Script { downtime: long, death, ..Script::SHORT };
    for (script, settings, stopped) in [
        (file.clone(), FILE, "was stopped for 4.5 s and "),
        // As with a fast disk, the script stops it immediately.
        (file, "migrate: { mode: file, save_live: true }\n", "was stopped for 4.5 s and "),
        (handed_over, "migrate: { mode: cpr-transfer }\n", "was stopped for 2.5 s and "),
    ] {
        let result = Setup::script(script).with(settings).run().await;
        let reason = format!("the destination died; the guest {stopped}continues at the source");
        assert_eq!(result.outcome(), (Outcome::Failed, reason.as_str()));
        assert_eq!(result.driver.actions(), [Action::Resume(End::Source)]);
        assert_eq!(result.record.measured.verified.as_ref().unwrap().pages_bad, 0);
        assert_eq!(result.record.measured.downtime_ms, Downtime::default(), "it has not moved");
    }
}

/// The guest is stopped for 2 s while it is saved, and for 3 s while it is loaded. The deadline of 1 s ends
/// neither.
#[tokio::test(start_paused = true)]
async fn a_guest_is_down_until_the_destination_has_loaded_its_file() {
    let script = Script { file: true, loading: Some(Duration::from_secs(3)), ..Script::SHORT };
    let result = Setup::script(script).with(FILE).run().await;
    let (outcome, reason) = result.outcome();
    assert_eq!(outcome, Outcome::Converged);
    assert!(reason.contains("the deadline of 1s passed, and ended 4.0 s after it"), "{reason}");
    assert_eq!(result.driver.actions(), [], "nothing is decided once the guest is stopped");
    let measured = &result.record.measured;
    let close = |ms: Option<f64>, expected: f64| (ms.unwrap() - expected).abs() < 2.0;
    let (file, downtime) = (&measured.file, measured.downtime_ms);
    assert_eq!((file.bytes, file.allocated_bytes), (Some(300_000_000), Some(200_000_000)));
    assert!(close(file.save_ms, 2000.0) && close(file.load_ms, 3000.0), "{file:?}");
    assert!(close(measured.total_time_ms, 5000.0) && close(downtime.guest, 5000.0), "{measured:?}");
    assert_eq!(measured.transferred.qemu_bytes, Some(200_000_000));
    assert_eq!(
        (downtime.qemu, measured.transferred.wire_bytes),
        (None, None),
        "what nobody measured is absent"
    );
    assert_eq!(measured.stress.during, None);
    assert!(measured.verified.is_some());
    // The source has told everything when the file is complete.
    let mut states: Vec<&str> = result.samples.iter().map(|sample| sample.status.as_str()).collect();
    states.dedup();
    assert_eq!(states, ["none", "active", "saved", "loading", "completed"]);
    assert!(result.samples.iter().any(|sample| sample.pass() > 0));
    assert_eq!(measured.iterations, [], "a guest that is stopped has no passes");
}

#[tokio::test(start_paused = true)]
async fn memory_that_is_handed_over_has_no_figures_of_a_link() {
    let result = Setup::new().with("migrate: { mode: cpr-transfer }\n").run().await;
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
    let measured = &result.record.measured;
    assert_eq!(measured.transferred.wire_bytes, None);
    assert!(measured.cpu.source_ms.is_some());
    assert_eq!((measured.cpu.source_ms_per_gb, measured.cpu.destination_ms_per_gb), (None, None));
    assert!(is_default(&measured.file));
}

#[tokio::test(start_paused = true)]
async fn passes_come_before_post_copy_and_it_is_never_cancelled() {
    let late = "migrate: { mode: postcopy, postcopy_after_passes: 2, timeout: 2s }\n";
    let result = Setup::endless().with(late).run().await;
    assert_eq!(result.driver.actions(), [Action::StartPostcopy]);
    let (outcome, reason) = result.outcome();
    assert_eq!(outcome, Outcome::Converged);
    assert!(reason.contains("had begun when the deadline of 2s passed, and ended "), "{reason}");
    assert!(result.record.measured.postcopy.started_ms.unwrap() >= 1000.0);
    assert!(result.record.measured.past_deadline_ms.unwrap() > 2000.0);
    // Before post-copy starts, the deadline counts.
    let never = "migrate: { mode: postcopy, postcopy_after_passes: 99, timeout: 2s }\n";
    let result = Setup::endless().with(never).run().await;
    assert_eq!(result.driver.actions(), [Action::Cancel]);
    assert_eq!(result.record.outcome, Outcome::NotConverged);
    assert!(is_default(&result.record.measured.postcopy));
    // A migration that completes by pre-copy has no figures of post-copy.
    let result = Setup::new().with("migrate: { mode: postcopy, postcopy_after: 30s }\n").run().await;
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
    assert!(result.driver.actions().is_empty() && is_default(&result.record.measured.postcopy));
    // Nor has one that completes by pre-copy after post-copy was asked for.
    let late = "migrate: { mode: postcopy, postcopy_after: 1s }\n";
    let result = Setup::fault(Fault::LatePostcopy).with(late).run().await;
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
    assert_eq!(result.driver.actions(), [Action::StartPostcopy]);
    let measured = &result.record.measured;
    assert!(is_default(&measured.postcopy) && measured.total_time_ms.is_some(), "{measured:?}");
    assert!(measured.obtained["total_time_ms"].to.contains("`RESUME`"), "{:?}", measured.obtained);
}

#[tokio::test(start_paused = true)]
async fn post_copy_recovers_from_a_link_that_fails_and_works_again() {
    let recovering = Some(Duration::from_secs(9));
    let reported = Script { fault: Some(Fault::Postcopy), recovering, ..Script::default() };
    let unnoticed = Script { postcopy: None, recovering, ..Script::default() };
    // The driver reports the failure after a second, and 3 s of memory are left. Otherwise memory is sent
    // until the second second, and the failure is noticed five seconds later.
    for (script, paused, total) in [(reported, 9_000.0, 13_060.0), (unnoticed, 14_000.0, 16_000.0)] {
        let result = Setup::script(script).with(POSTCOPY).run().await;
        assert_eq!(result.outcome(), (Outcome::Converged, ""));
        assert_eq!(result.driver.actions(), [Action::StartPostcopy, Action::Recover]);
        let measured = &result.record.measured;
        let postcopy = &measured.postcopy;
        assert_eq!(postcopy.recoveries, Some(1));
        let close = |ms: Option<f64>, expected: f64| (ms.unwrap() - expected).abs() < 200.0;
        assert!(close(postcopy.paused_ms, paused) && close(measured.total_time_ms, total), "{measured:?}");
        assert!(measured.verified.is_some());
    }
    // The recovery never takes longer than until the deadline.
    let late = "migrate: { mode: postcopy, postcopy_recovery: 30s, timeout: 4s }\n";
    let script = Script { fault: Some(Fault::Postcopy), recovering, ..Script::default() };
    let result = Setup::script(script).with(late).run().await;
    assert_eq!(result.record.outcome, Outcome::GuestLost);
    assert!(result.samples.last().unwrap().at_ms < 4_100.0);
    let unharmed = Setup::endless().with(POSTCOPY).run().await.record.measured.postcopy;
    assert_eq!((unharmed.recoveries, unharmed.paused_ms), (Some(0), None));
}

#[tokio::test(start_paused = true)]
async fn the_timeline_changes_the_link_in_post_copy() {
    let settings = "migrate: { mode: postcopy }\ntimeline: [{ at: 1s, link: { loss: 100% } }, { at: 2s, \
                    stress: { rate: 4MB/s } }, { at: 2500ms, link: { rate: 400mbit } }, { at: 9s, link: { \
                    rate: 300mbit } }]\n";
    let result = Setup::endless().with(settings).run().await;
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
    assert_eq!(result.links, ["800mbit", "800mbit", "400mbit"]);
    assert_eq!(result.driver.rates(), [(End::Source, rate(16_000_000))]);
    assert_eq!(result.record.measured.timeline.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn only_the_figures_of_the_aids_in_use_are_present() {
    let aids = async |settings| Setup::new().with(settings).run().await.record.measured.aids;
    let throttled = aids("migrate: { auto_converge: true }\n").await;
    assert_eq!((throttled.throttle_percent, throttled.throttled_ms), (Some(0), Some(0.0)));
    assert!(throttled.throttled_ms.unwrap().is_sign_positive(), "it is written as -0.0");
    assert!(throttled.multifd_bytes.is_none() && throttled.xbzrle_pages.is_none(), "{throttled:?}");
    // What QEMU does not report is absent, even if the aid is in use.
    assert!(is_default(&aids("migrate: { multifd: true, multifd_compression: zstd }\n").await));
    assert!(is_default(&aids("migrate: { xbzrle: true }\n").await));
    assert!(is_default(&aids("migrate: { dirty_limit: true }\n").await));
}

/// A migration whose disk is copied in three seconds, and completed in 40 ms.
fn with_disk() -> Setup {
    let (bulk, completing) = (Some(Duration::from_secs(3)), Some(Duration::from_millis(40)));
    let mirror = Some(ScriptedMirror { bulk, completing, is_counted: true });
    Setup::script(Script { mirror, ..Script::default() })
}

#[tokio::test(start_paused = true)]
async fn a_disk_is_copied_before_memory_and_completed_while_the_guest_is_stopped() {
    let result = with_disk().run().await;
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
    assert_eq!(result.driver.actions(), [Action::MigrateMemory, Action::CompleteDisk]);
    let measured = &result.record.measured;
    let transferred = &measured.transferred;
    assert_eq!(transferred.disk_bytes, Some(300_000_000));
    assert_eq!(transferred.memory_bytes, Some(200_000_000));
    assert_eq!(transferred.qemu_bytes, Some(500_000_000));
    // The client of the script does not notice the time for which the disk is completed.
    let notes = ["the guest's clock lost 100 ms, but a client got no reply for 70 ms"];
    assert_eq!(measured.disagreements, notes);
    let storage = &measured.storage;
    let close = |ms: Option<f64>, expected: f64| (ms.unwrap() - expected).abs() < 10.0;
    assert_eq!(storage.bulk_bytes, Some(300_000_000));
    assert!(close(storage.bulk_ms, 3000.0) && close(storage.memory_ms, 2000.0), "{storage:?}");
    assert!(close(storage.switchover_ms, 40.0) && close(measured.total_time_ms, 5100.0), "{measured:?}");
}

/// What nobody has counted is not part of a sum, and a counter that went back has counted nothing.
#[tokio::test(start_paused = true)]
async fn data_that_was_not_counted_is_absent() {
    let mut setup = with_disk();
    setup.script.mirror.as_mut().unwrap().is_counted = false;
    let measured = setup.run().await.record.measured;
    let transferred = &measured.transferred;
    assert_eq!((transferred.qemu_bytes, transferred.disk_bytes), (None, None));
    assert_eq!(transferred.memory_bytes, Some(200_000_000));
    assert!(measured.storage.bulk_ms.is_some() && measured.storage.bulk_bytes.is_none(), "{measured:#?}");

    let mut measured = Measured::default();
    let traffic = |sent_bytes, late| Traffic { sent_bytes, received_bytes: 0, late };
    account::link_traffic(&mut measured, traffic(7, None), None, traffic(5, Some(Lateness::default())));
    assert_eq!(
        (measured.transferred.wire_bytes, measured.link_lateness),
        (None, None),
        "nothing was delivered"
    );
    account::storage_traffic(&mut measured, Some(([7, 7], [9, 5])));
    assert_eq!(measured.transferred.storage, None);
    let second = Some(Duration::from_secs(1));
    account::cpu(&mut measured, [second, second], [None, Some(Duration::ZERO)], true);
    assert!(is_default(&measured.cpu), "{:?}", measured.cpu);
}

#[tokio::test(start_paused = true)]
async fn a_migration_can_be_given_up_in_each_phase_of_a_disk() {
    let mirror = |bulk, completing| Some(ScriptedMirror { bulk, completing, is_counted: true });
    let second = Some(Duration::from_secs(1));
    for (mirror, active, reason, actions) in [
        (mirror(None, None), second, "the deadline of 5s passed in the state `mirroring`", &[][..]),
        (
            mirror(second, None),
            None,
            "the deadline of 5s passed in the state `active`",
            &[Action::MigrateMemory],
        ),
        (
            mirror(second, None),
            second,
            "completing the copy of the disk has made no progress for 20 s",
            &[Action::MigrateMemory, Action::CompleteDisk],
        ),
    ] {
        // Without traffic that shows progress once the guest is stopped.
        let script = Script { mirror, active, cut: Duration::from_secs(2), ..Script::default() };
        let setup = Setup::script(script);
        let result = setup.with("migrate: { timeout: 5s, stall_detection: false }\n").run().await;
        assert_eq!(result.outcome(), (Outcome::NotConverged, reason));
        assert_eq!(result.driver.actions(), [actions, &[Action::Cancel]].concat(), "{reason}");
        assert_eq!(result.record.measured.total_time_ms, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_cannot_be_copied_fails_the_attempt() {
    for (fault, actions) in
        [(Fault::Mirror, &[][..]), (Fault::CompleteDisk, &[Action::MigrateMemory, Action::CompleteDisk])]
    {
        let mut setup = with_disk();
        setup.script.fault = Some(fault);
        let result = setup.run().await;
        let (outcome, reason) = result.outcome();
        assert_eq!(outcome, Outcome::Failed, "{reason}");
        assert!(reason.ends_with("the disk is full"), "{reason}");
        assert_eq!(result.driver.actions(), actions);
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_survives_a_failed_migration_is_verified_at_the_source() {
    let failed = Setup::fault(Fault::Migration).run().await;
    assert_eq!(failed.outcome(), (Outcome::Failed, "the migration failed: the stream broke"));
    assert_eq!(failed.record.measured.verified.as_ref().unwrap().pages_bad, 0);
    assert!(failed.record.measured.phases_ms.contains_key(&Phase::Verify));
}

/// How long a short migration sends.
const SHORT: Option<Duration> = Some(Duration::from_millis(1800));

/// A policy that always waits.
struct Wait;

impl Policy for Wait {
    fn decide(&mut self, _: &Progress<'_>) -> Decision {
        Decision::Wait
    }
}

/// A policy that pauses the guest at the beginning of the second pass, and then waits.
#[derive(Default)]
struct PauseInSecondPass {
    paused: bool,
}

impl Policy for PauseInSecondPass {
    fn decide(&mut self, progress: &Progress<'_>) -> Decision {
        if self.paused || progress.samples.last().map_or(0, Sample::pass) < 2 {
            return Decision::Wait;
        }
        self.paused = true;
        Decision::Pause
    }
}

/// Follows a migration that sends for this time with this policy, for at most a minute. Returns its verdict
/// and the actions that were requested from the driver.
async fn follow_with(policy: &mut dyn Policy, active: Option<Duration>) -> (Verdict, Vec<Action>) {
    let (mut driver, shared) = MockDriver::new(Script { active, ..Script::default() });
    driver.start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let samples_file = &folder.path().join("samples.jsonl");
    let timeout = Span::from_secs(60);
    let (steps, cycle, started, uses_link) = (&[][..], None, Instant::now(), true);
    let spec = MigrationSpec { steps, cycle, started, timeout, recovery: timeout, uses_link, samples_file };
    let network = MockNetwork::new(&shared, None);
    let actuator = LinkAndGuest { network: &network, driver: &driver };
    let finished = follow::migrate(&driver, policy, &spec, &actuator, &FanOut::default()).await.unwrap();
    assert!(finished.started < Instant::now());
    (finished.verdict, shared.actions())
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_waits_lets_the_migration_complete() {
    let (verdict, actions) = follow_with(&mut Wait, SHORT).await;
    assert!(matches!(verdict, Verdict::Completed(_)), "{verdict:?}");
    assert_eq!(actions, []);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_only_waits_is_ended_by_the_deadline_too() {
    let (verdict, actions) = follow_with(&mut Wait, None).await;
    assert_eq!(verdict, Verdict::GivenUp("the deadline of 60s passed in the state `active`".into()));
    assert_eq!(actions, [Action::Cancel]);
}

#[tokio::test(start_paused = true)]
async fn the_decision_of_a_policy_is_carried_out() {
    let (verdict, actions) = follow_with(&mut PauseInSecondPass::default(), None).await;
    assert!(matches!(verdict, Verdict::Completed(_)), "{verdict:?}");
    assert_eq!(actions, [Action::Pause, Action::Resume(End::Destination)]);
}

#[test]
fn the_settings_choose_the_mode() {
    let migrate = matrix::Migrate { max_passes: Some(1), ..matrix::Migrate::default() };
    let memory = Some(MemoryProgress { pass: 2, ..MemoryProgress::default() });
    let late = [Sample { memory, ..Sample::default() }];
    let progress = Progress { samples: &late, settled_ms: Some(0.0), period_ms: 0.0 };
    let decision = migrate.mode.policy(migrate.limits()).decide(&progress);
    assert_eq!(decision, Decision::GiveUp("not finished after 1 pass".into()));
}

/// Makes an attempt in which the guest's rates are these phases, and `stress.rate` afterwards. No two of its
/// measurements may disagree.
async fn with_phases(script: Script, phases: &str, more: &str) -> AttemptResult {
    let settings = format!("axes: {{ stress.phases: [[{phases}]] }}\n{more}");
    let result = Setup::script(script).with(settings.leak()).run().await;
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
    assert_eq!(result.record.measured.disagreements, Vec::<String>::new());
    result
}

#[tokio::test(start_paused = true)]
async fn a_guest_settles_and_is_observed_at_the_rate_of_a_phase_that_outlasts_the_migration() {
    let result = with_phases(Script::default(), "{ rate: 0, duration: 100s }", "").await;
    let stress = &result.record.measured.stress;
    assert_eq!(stress.requested, Some(0));
    assert_eq!((stress.before, stress.during, stress.after), (Some(0.0), Some(0.0), Some(0.0)));
    assert_eq!((result.record.measured.timeline.len(), stress.stretches.len()), (0, 0));
    assert_eq!(result.driver.rates(), [(End::Source, rate(0))]);
}

#[tokio::test(start_paused = true)]
async fn each_phase_is_requested_recorded_and_compared_by_itself() {
    let phases = "{ rate: 0, duration: 600ms }, { rate: 64MB/s, duration: 700ms }";
    let result =
        with_phases(Script::default(), phases, "timeline: [{ at: 1s, link: { rate: 400mbit } }]\n").await;
    let measured = &result.record.measured;
    let due: Vec<f64> = measured.timeline.iter().map(|change| change.due_ms).collect();
    assert_eq!(due, [600.0, 1000.0, 1300.0]);
    let requested: Vec<_> = measured.stress.stretches.iter().map(|part| part.requested).collect();
    assert_eq!(requested, [Some(0), Some(64_000_000), Some(16_000_000)]);
    assert!(measured.stress.stretches.iter().all(|part| part.achieved.is_some()), "{measured:#?}");
    assert!((15.7e6..16.3e6).contains(&measured.stress.after.unwrap()), "{measured:#?}");
    let rates: Vec<_> = result.driver.rates().into_iter().map(|(_, rate)| rate).collect();
    assert_eq!(rates, [rate(0), rate(64_000_000), rate(16_000_000)]);
}

#[tokio::test(start_paused = true)]
async fn repeated_phases_start_over_until_the_guest_stops() {
    let settings = "axes: { stress.phases: [[{ rate: 8MB/s, duration: 400ms }, { rate: 24MB/s, \
                    duration: 600ms }]], stress.repeat_phases: [true] }\n";
    let active = Some(Duration::from_millis(1900));
    let result = Setup::script(Script { active, ..Script::default() }).with(settings).run().await;
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
    let timeline = &result.record.measured.timeline;
    let changes: Vec<_> = timeline.iter().map(|change| (change.due_ms, change.rate)).collect();
    let (low, high) = (Some(rate(8_000_000)), Some(rate(24_000_000)));
    assert_eq!(changes, [(400.0, high), (1000.0, low), (1400.0, high)]);
}

#[tokio::test(start_paused = true)]
async fn a_wave_goes_up_and_down_until_the_guest_stops() {
    let settings = "axes: { stress.wave: [{ period: 1s, low: 8MB/s, high: 24MB/s }] }\n";
    let active = Some(Duration::from_millis(1900));
    let result = Setup::script(Script { active, ..Script::default() }).with(settings).run().await;
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
    let measured = &result.record.measured;
    let changes: Vec<_> = measured.timeline.iter().map(|change| (change.due_ms, change.rate)).collect();
    let (low, high) = (Some(rate(8_000_000)), Some(rate(24_000_000)));
    assert_eq!(changes, [(500.0, high), (1000.0, low), (1500.0, high)]);
    assert_eq!(measured.stress.requested, Some(8_000_000));
    let requested: Vec<_> = measured.stress.stretches.iter().map(|part| part.requested).collect();
    let (low, high) = (Some(8_000_000), Some(24_000_000));
    assert_eq!(requested, [low, high, low, high]);
}

#[tokio::test(start_paused = true)]
async fn a_load_that_never_settles_is_given_up_after_two_periods_without_progress() {
    for (period, words, earliest) in [
        (1, "the remaining memory stopped shrinking", 8_000.0),
        (20, "the remaining memory stopped shrinking", 40_000.0),
        (40, "the deadline of 60s passed", 60_000.0),
    ] {
        let settings =
            format!("axes: {{ stress.wave: [{{ period: {period}s, low: 8MB/s, high: 24MB/s }}] }}\n");
        let result = Setup::endless().with(settings.leak()).run().await;
        let (outcome, reason) = result.outcome();
        assert_eq!(outcome, Outcome::NotConverged);
        assert!(reason.starts_with(words), "{period}: {reason}");
        let ended = result.samples.last().unwrap().at_ms;
        assert!((earliest - 100.0..earliest + 20_000.0).contains(&ended), "{period}: {ended}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_phase_of_nothing_in_force_at_the_end_leaves_the_guest_idle() {
    let phases = "{ rate: 64MB/s, duration: 1s }, { rate: 0, duration: 100s }";
    let result = with_phases(Script::default(), phases, "").await;
    let stress = &result.record.measured.stress;
    assert_eq!((stress.requested, stress.after), (Some(64_000_000), Some(0.0)));
}

#[tokio::test(start_paused = true)]
async fn a_phase_that_begins_during_the_switchover_begins_at_the_destination() {
    let script = Script { answer: Duration::from_millis(100), ..Script::default() };
    let result = with_phases(script, "{ rate: 0, duration: 1950ms }", "").await;
    assert_eq!(result.driver.rates(), [(End::Source, rate(0)), (End::Destination, rate(16_000_000))]);
    assert_eq!(result.record.measured.timeline[0].by, Some(End::Destination));
}

#[tokio::test(start_paused = true)]
async fn a_migration_is_not_given_up_as_stalled_before_the_last_phase() {
    for (seconds, last) in [(30, 38_000.0), (70, 8_000.0)] {
        let settings = format!("axes: {{ stress.phases: [[{{ rate: 0, duration: {seconds}s }}]] }}\n");
        let result = Setup::endless().with(settings.leak()).run().await;
        let (outcome, reason) = result.outcome();
        assert_eq!(outcome, Outcome::NotConverged);
        assert!(reason.starts_with("the remaining memory stopped shrinking"), "{reason}");
        // A phase that would begin after the deadline does not extend the attempt.
        let ended = result.samples.last().unwrap().at_ms;
        assert!((last..last + 5_000.0).contains(&ended), "{ended}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_migration_is_given_up_at_its_deadline_in_every_state_in_which_the_guest_runs() {
    let setup = Script { setup: None, ..Script::default() };
    let late = Script { setup: Some(Duration::from_millis(4_900)), active: None, ..Script::default() };
    let slow = Script { setup: None, cancelling: Duration::from_secs(15), ..Script::default() };
    for (script, state) in [(setup, "setup"), (late, "active"), (slow, "setup")] {
        let result = Setup::script(script).with("migrate: { timeout: 5s }\n").run().await;
        let reason = format!("the deadline of 5s passed in the state `{state}`");
        assert_eq!(result.outcome(), (Outcome::NotConverged, reason.as_str()));
        assert_eq!(result.driver.actions(), [Action::Cancel]);
        assert!(result.record.measured.stress.after.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_slow_is_waited_for() {
    // Silence before the deadline, and silence across the deadline that outlasts the request to cancel.
    let result = silent_from(1, 50).with("migrate: { timeout: 60s, stall_detection: false }\n").run().await;
    let reason = "the deadline of 60s passed in the state `active`";
    assert_eq!(result.outcome(), (Outcome::NotConverged, reason));
    let result = silent_from(4, 24).with("migrate: { timeout: 5s }\n").run().await;
    let reason = "the deadline of 5s passed in the state `active`";
    assert_eq!(result.outcome(), (Outcome::NotConverged, reason));
    // The guest stops and the migration completes meanwhile.
    let silence = (Duration::from_secs(1), Duration::from_secs(40));
    let result = Setup::script(Script { silence, ..Script::default() }).run().await;
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
}

#[tokio::test(start_paused = true)]
async fn a_switchover_is_waited_for_while_data_arrives_and_recorded_as_past_its_deadline() {
    let one = Lateness { deliveries: 1, total: Span::from_millis(1), worst: Span::from_millis(1) };
    let late = Script { late: Some(one), ..LATE };
    let silent = Script { silence: (WITH_THE_STOP, Duration::from_secs(302)), ..late.clone() };
    for script in [late, silent] {
        let result = Setup::script(script).with("migrate: { timeout: 5s }\n").run().await;
        let reason = "the switchover had begun when the deadline of 5s passed, and ended 597.0 s after it";
        assert_eq!(result.outcome(), (Outcome::Converged, reason));
        assert_eq!(result.driver.actions(), []);
        let measured = &result.record.measured;
        assert_eq!(measured.total_time_ms, Some(602_000.0));
        assert_eq!(measured.past_deadline_ms, Some(597_000.0));
        // And 20 kB in each of 600 seconds.
        assert_eq!(measured.transferred.wire_bytes, Some(221_000_000));
        // The link is asked every second, and before and after; each answer holds the lateness since the
        // previous one.
        let deliveries = measured.link_lateness.unwrap().deliveries;
        assert!((500..=602).contains(&deliveries), "{deliveries}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_switchover_that_comes_before_the_cancellation_is_not_given_up() {
    let active = Some(Duration::from_millis(5_020));
    let script = Script { active, fault: Some(Fault::NoCancel), ..Script::default() };
    let result = Setup::script(script).with("migrate: { timeout: 5s }\n").run().await;
    let reason = "the switchover had begun when the deadline of 5s passed, and ended 80 ms after it";
    assert_eq!(result.outcome(), (Outcome::Converged, reason));
    assert_eq!(result.driver.actions(), [Action::Cancel]);
    assert!((59.0..=61.0).contains(&result.record.measured.downtime_ms.guest.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn patience_with_the_destination_counts_from_the_completion() {
    // Once the guest has stopped, no more data arrives, for 30 s altogether.
    let script = Script {
        downtime: Duration::from_secs(15),
        loading: Some(Duration::from_secs(15)),
        cut: WITH_THE_STOP,
        ..Script::default()
    };
    let result = Setup::script(script).run().await;
    assert_eq!(result.outcome(), (Outcome::Converged, ""));
    assert_eq!(result.record.measured.past_deadline_ms, None);
}
