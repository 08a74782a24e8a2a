use super::*;
use crate::{
    matrix::Cell,
    results::{builder::RecordBuilder, environment::Lab},
};

/// A matrix with five cells and two attempts at each.
const MATRIX: &str = "name: n\nrepeat: 2\naxes: { stress.rate: [1MB/s, 2MB/s, 3MB/s, 4MB/s, 5MB/s] }\n";

/// Returns the backend that shapes a link: the kernel if it has the modules for it, else the emulator, if
/// there is one.
fn backend(settings: &Settings, lab: &Lab) -> String {
    let has =
        |feature: &str| lab.source.features.contains(feature) && lab.destination.features.contains(feature);
    let in_kernel = has("sch_tbf") && (settings.link.delay.is_zero() || has("sch_netem"));
    match &lab.source.no_emulator {
        _ if in_kernel => "kernel".into(),
        Some(_) => "none".into(),
        None => "userspace".into(),
    }
}

fn plan(text: &str) -> Plan {
    File::parse(text, "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"))
}

fn selection(shard: &str) -> Selection {
    Selection { shard: Some(shard.into()), ..Selection::default() }
}

/// Returns a record that started this many seconds after midnight.
fn record(cell: &Cell, attempt: u32, outcome: Outcome, second: i64) -> Record {
    let mut record = RecordBuilder::start().freeze(cell, attempt, outcome, None);
    record.started_at = jiff::Timestamp::from_second(second).unwrap();
    // The measured time differs by microseconds, which would make equal records differ.
    record.measured.wall_time_ms = None;
    record
}

/// Returns a folder with a result of every attempt in the selection.
fn complete(path: &str, matrix: &str, selection: &Selection) -> Folder {
    let part = selection.of(plan(matrix)).unwrap();
    let attempts = part.attempts();
    let records = attempts.iter().map(|a| record(&part.cells[a.cell], a.number, Outcome::Converged, 0));
    Folder::new(Path::new(path), plan(matrix), selection, records.collect()).unwrap()
}

/// Returns a folder with these records: index of the cell in the matrix, attempt, outcome, second of the
/// start.
fn folder(path: &str, shard: &str, records: &[(usize, u32, Outcome, i64)]) -> Folder {
    let plan = plan(MATRIX);
    let records =
        records.iter().map(|(cell, attempt, o, second)| record(&plan.cells[*cell], *attempt, *o, *second));
    let records = records.collect();
    Folder::new(Path::new(path), plan, &selection(shard), records).unwrap()
}

fn gathered(folders: Vec<Folder>) -> Vec<Run> {
    gather(folders, backend)
}

/// Merges folders that are parts of one run.
#[track_caller]
fn merged(folders: Vec<Folder>) -> Run {
    let mut runs = gathered(folders);
    assert_eq!(runs.len(), 1, "{runs:#?}");
    runs.remove(0)
}

fn attempts(run: &Run) -> Vec<String> {
    let attempts = run.records.iter().zip(&run.origins);
    attempts
        .map(|(r, origin)| {
            let part = &run.composition.parts[*origin];
            format!("{} #{} {} {}", r.axes["stress.rate"], r.attempt, r.outcome, part.results.display())
        })
        .collect()
}

#[test]
fn all_parts_together_are_the_whole_run_in_its_order() {
    for order in ["", "order: shuffled\nseed: 7\n"] {
        let matrix = format!("{MATRIX}{order}");
        for count in 1..=7 {
            // There are five cells, and a part without a cell cannot be run.
            let numbers = 1..=5.min(count);
            let parts = numbers
                .rev()
                .map(|i| complete(&format!("p{i}"), &matrix, &selection(&format!("{i}/{count}"))));
            let run = merged(parts.collect());
            let whole = merged(vec![complete("whole", &matrix, &Selection::default())]);
            assert_eq!(run.plan, whole.plan);
            assert_eq!(run.records, whole.records);
            assert!(run.composition.is_complete(), "{:#?}", run.composition);
            assert_eq!((&run.composition.repeated, &run.composition.strange), (&vec![], &vec![]));
        }
    }
}

#[test]
fn matrices_are_compared_by_meaning_rather_than_by_text() {
    let spelled =
        "# a comment\nrepeat: 2\naxes:\n  stress.rate: [1000kB/s, 2MB/s, 3MB/s, 4MB/s, 5MB/s]\nname: n\n";
    let first = complete("p1", MATRIX, &selection("1/2"));
    merged(vec![first, complete("p2", spelled, &selection("2/2"))]);

    // `--only` and `--repeat` are compared by the attempts that they select.
    let all = |only: &str, repeat| Selection { only: Some(only.into()), repeat, shard: Some("1/2".into()) };
    let rest = |only: &str, repeat| Selection { shard: Some("2/2".into()), ..all(only, repeat) };
    merged(vec![
        complete("p1", MATRIX, &all("stress.rate < 4MB/s", Some(2))),
        complete("p2", MATRIX, &rest("stress.rate <= 3000kB/s", None)),
    ]);
    for other in [rest("stress.rate < 3MB/s", None), rest("stress.rate < 4MB/s", Some(3))] {
        let runs = gathered(vec![
            complete("p1", MATRIX, &all("stress.rate < 4MB/s", None)),
            complete("p2", MATRIX, &other),
        ]);
        assert_eq!(runs.len(), 2, "{other:?}");
    }
}

#[test]
fn a_folder_of_another_run_is_not_merged_and_the_reason_is_stated() {
    let other = MATRIX.replace("name: n\n", "name: n\nmigrate: { timeout: 30s }\n");
    let expecting = format!("{MATRIX}expect: [{{ outcome: converged }}]\n");
    for (matrix, shard, why) in [
        (other.as_str(), "2/2", "migrate.timeout: 60s -> 30s in every cell"),
        (expecting.as_str(), "2/2", "expect changed"),
        (MATRIX, "2/3", "1/2 and 2/3 have different numbers of parts"),
    ] {
        let runs = gathered(vec![
            complete("p1", MATRIX, &selection("1/2")),
            complete("p2", matrix, &selection(shard)),
        ]);
        assert_eq!(runs.len(), 2, "{why}");
        assert_eq!(runs[0].composition.separate, None);
        let reason = format!("p1 and p2 are not parts of the same run: {why}");
        assert_eq!(runs[1].composition.separate.as_ref(), Some(&reason));
    }
    // Whole runs and runs of matrices with other names are to be compared. No reason is needed for them.
    let whole = || complete("whole", MATRIX, &Selection::default());
    let renamed = complete("p2", &MATRIX.replace("name: n", "name: m"), &selection("2/2"));
    let runs = gathered(vec![whole(), complete("p1", MATRIX, &selection("1/2")), whole(), renamed]);
    assert_eq!(runs.iter().map(Run::title).collect::<Vec<_>>(), ["whole", "p1", "whole", "p2"]);
    assert!(runs.iter().all(|run| run.composition.separate.is_none()));
}

#[test]
fn runs_are_in_the_order_in_which_their_first_folders_were_named() {
    let other = MATRIX.replace("name: n", "name: m");
    let runs = gathered(vec![
        complete("b2", &other, &selection("2/2")),
        complete("a1", MATRIX, &selection("1/2")),
        complete("b1", &other, &selection("1/2")),
        complete("a2", MATRIX, &selection("2/2")),
    ]);
    assert_eq!(runs.iter().map(Run::title).collect::<Vec<_>>(), ["b2, b1", "a1, a2"]);
}

#[test]
fn parts_and_attempts_that_are_missing_are_named() {
    use Outcome::{Converged, Interrupted};
    // Of 4 parts, the first has two cells, the second and the fourth are missing, and the third was
    // interrupted.
    let first = [(0, 1, Converged, 0), (4, 1, Converged, 1), (0, 2, Converged, 2), (4, 2, Converged, 3)];
    let third = [(2, 1, Converged, 0), (2, 2, Interrupted, 1)];
    let run = merged(vec![folder("p1", "1/4", &first), folder("p3", "3/4", &third)]);
    let composition = &run.composition;
    let missing: Vec<_> =
        composition.missing_parts.iter().map(|p| (p.shard.to_string(), p.attempts)).collect();
    assert_eq!(missing, [("2/4".to_string(), 2), ("4/4".to_string(), 2)]);
    assert_eq!(composition.missing_attempts, ["stress.rate=3MBps #2"]);
    assert!(!composition.is_complete());
    assert_eq!(run.records.len(), 6, "an interrupted attempt is kept");

    // A single part is reported as a part, too.
    let alone = merged(vec![folder("p1", "1/4", &first)]);
    assert_eq!(alone.composition.missing_parts.len(), 3);
    assert_eq!(alone.composition.missing_attempts, [""; 0]);
    assert_eq!(alone.plan.cells.len(), 5);
}

#[test]
fn of_two_results_of_one_attempt_the_one_that_started_first_counts() {
    use Outcome::{Converged, Failed, Interrupted, NotConverged};
    let cut = [(0, 1, Converged, 10), (2, 1, Failed, 20), (4, 1, Interrupted, 30)];
    let again = [
        (0, 1, NotConverged, 100),
        (2, 1, Converged, 101),
        (4, 1, Converged, 102),
        (0, 2, Converged, 103),
        (2, 2, Converged, 104),
        (4, 2, Converged, 105),
    ];
    let other = || complete("p2", MATRIX, &selection("2/2"));
    // The order in which the folders are named does not matter.
    for parts in [
        vec![folder("cut", "1/2", &cut), other(), folder("again", "1/2", &again)],
        vec![folder("again", "1/2", &again), other(), folder("cut", "1/2", &cut)],
    ] {
        let run = merged(parts);
        assert!(run.composition.is_complete(), "{:#?}", run.composition);
        let mut attempts = attempts(&run);
        attempts.retain(|line| !line.ends_with("p2"));
        // An interrupted attempt is not a result, and is kept beside the repeated attempt.
        attempts.sort_unstable();
        assert_eq!(
            attempts,
            [
                "1MB/s #1 converged cut",
                "1MB/s #2 converged again",
                "3MB/s #1 failed cut",
                "3MB/s #2 converged again",
                "5MB/s #1 converged again",
                "5MB/s #1 interrupted cut",
                "5MB/s #2 converged again"
            ]
        );
        let duplicates: Vec<_> = run
            .composition
            .repeated
            .iter()
            .map(|r| {
                (
                    r.attempt.as_str(),
                    r.counts.to_str().unwrap(),
                    r.outcome,
                    r.left_out.to_str().unwrap(),
                    r.left_out_outcome,
                )
            })
            .collect();
        assert_eq!(
            duplicates,
            [
                ("stress.rate=1MBps #1", "cut", Converged, "again", NotConverged),
                ("stress.rate=3MBps #1", "cut", Failed, "again", Converged)
            ]
        );
    }
}

#[test]
fn an_attempt_that_lacked_disk_in_one_folder_counts_where_it_has_a_result() {
    let mut early = folder("full", "1/2", &[(0, 1, Outcome::Failed, 1), (2, 1, Outcome::Failed, 2)]);
    for record in &mut early.records {
        record.reason = Some("cannot write x: No space left on device (os error 28)".into());
    }
    let run = merged(vec![early, folder("again", "1/2", &[(0, 1, Outcome::Converged, 9)])]);
    assert_eq!(attempts(&run), ["1MB/s #1 converged again", "3MB/s #1 failed full"]);
    let repeated = &run.composition.repeated[0];
    assert_eq!((repeated.left_out_outcome, repeated.outcome), (Outcome::Failed, Outcome::Converged));
    assert!(run.composition.missing_attempts.contains(&"stress.rate=3MBps #1".into()));
}

#[test]
fn a_folder_that_is_named_twice_counts_once() {
    let part = || complete("p1", MATRIX, &selection("1/2"));
    let run = merged(vec![part(), part()]);
    assert_eq!(run.records.len(), 6);
    assert!(run.origins.iter().all(|origin| *origin == 0), "the folder that was named first counts");
    assert_eq!(run.composition.repeated.len(), 6);
}

#[test]
fn records_of_other_cells_are_named() {
    let mut part = folder("p1", "1/2", &[(0, 1, Outcome::Converged, 0)]);
    part.records[0].cell = "stress.rate=9MBps".into();
    let run = merged(vec![part, complete("p2", MATRIX, &selection("2/2"))]);
    assert_eq!(run.composition.strange, ["stress.rate=9MBps #1"]);
    assert_eq!(run.composition.missing_attempts.len(), 6);
}

#[test]
fn a_selection_that_no_run_can_be_started_with_is_refused() {
    for (only, shard, message) in [
        (None, Some("3/2"), "--shard: `3/2` is not a shard: write it like `2/3`, the second of three"),
        (None, Some("6/6"), "no cell of the matrix is left to run: check --only and --shard"),
        (Some("stress.rate > 9MB/s"), None, "no cell of the matrix is left to run: check --only and --shard"),
    ] {
        let selection = Selection { only: only.map(Into::into), shard: shard.map(Into::into), repeat: None };
        let error = Folder::new(Path::new("p"), plan(MATRIX), &selection, vec![]).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

mod environment_differences {
    use super::*;
    use crate::{
        matrix::{Accel, RunOrder},
        results::{
            environment::{Accelerator, AcceleratorChoice, Boot, Environment, Node, Privilege},
            format::FormatVersion,
        },
    };
    use environments::compare;

    fn environment() -> Environment {
        let node = Node {
            version: "0.1.0".into(),
            qemu: Some("10.0.2".into()),
            kernel: "6.18.0".into(),
            cpu_model: "Difference Engine".into(),
            cpus: 2,
            memory_bytes: 1 << 34,
            available_memory_bytes: Some(1 << 33),
            limited_by_cgroup: Some(false),
            clock: Some(jiff::Timestamp::UNIX_EPOCH),
            privilege: Privilege::Root,
            features: ["sch_tbf".to_string()].into(),
            no_emulator: None,
        };
        let choice =
            AcceleratorChoice { accelerator: Accelerator::Tcg, reason: "no KVM".into(), trial: None };
        Environment {
            format: FormatVersion::CURRENT,
            started_at: jiff::Timestamp::UNIX_EPOCH,
            version: "0.1.0".into(),
            qemu: "10.0.2".into(),
            machine_type: Some("pc-i440fx-10.0".into()),
            confinement: None,
            accelerators: [(Accel::Auto, choice)].into_iter().collect(),
            guest_kernel: "6.1.0".into(),
            guest_boot: Boot::Compressed,
            guest_digest: "0".repeat(64),
            lab: Lab { kind: "local".into(), source: node.clone(), destination: node, round_trips: None },
            order: RunOrder::AsWritten,
        }
    }

    /// Returns the differences between three parts, the second of which has a changed environment. The matrix
    /// has a rate and, in its second cell, a delay.
    fn differences(change: impl Fn(&mut Environment)) -> Vec<String> {
        let plan = plan("name: n\nlink: { rate: 1gbit }\naxes: { link.delay: [0, 5ms] }\n");
        let mut changed = environment();
        change(&mut changed);
        let part =
            |path: &str, environment| PartEnvironment { path: path.into(), environment: Ok(environment) };
        let parts = [part("p1", environment()), part("p2", changed), part("p3", environment())];
        let (differences, unknown) = compare(&plan, &parts, backend);
        assert_eq!(unknown, [""; 0]);
        differences
            .iter()
            .map(|d| {
                let values = d.values.iter().map(|(value, folders)| format!("{value} {folders:?}"));
                format!("{}: {}", d.what, values.collect::<Vec<_>>().join("; "))
            })
            .collect()
    }

    #[test]
    fn properties_that_can_affect_the_figures_are_listed_with_the_folders() {
        assert_eq!(differences(|_| ()), [""; 0]);
        assert_eq!(
            differences(|e| {
                e.started_at = jiff::Timestamp::from_second(1_000_000).unwrap();
                e.lab.source.memory_bytes = 0;
                e.lab.source.available_memory_bytes = None;
                e.lab.source.clock = None;
            }),
            [""; 0],
            "properties that cannot affect the figures"
        );
        assert_eq!(
            differences(|e| {
                e.lab.source.qemu = Some("7.2.0".into());
                e.lab.destination.qemu = Some("7.2.0".into());
            }),
            [r#"QEMU: 10.0.2 ["p1", "p3"]; 7.2.0 ["p2"]"#]
        );
        assert_eq!(
            differences(|e| {
                e.version = "0.2.0".into();
                e.guest_kernel = "6.12.0".into();
                e.guest_digest = "1".repeat(64);
            }),
            [
                r#"testbed: 0.1.0 ["p1", "p3"]; 0.2.0 ["p2"]"#,
                r#"guest kernel: 6.1.0 ["p1", "p3"]; 6.12.0 ["p2"]"#,
                r#"guest files: 000000000000 ["p1", "p3"]; 111111111111 ["p2"]"#,
            ]
        );
        assert_eq!(
            differences(|e| e.accelerators[&Accel::Auto].accelerator = Accelerator::Kvm),
            [r#"accelerator for guest.accel auto: tcg ["p1", "p3"]; kvm ["p2"]"#]
        );
        assert_eq!(
            differences(|e| e.machine_type = Some("pc-i440fx-9.2".into())),
            [r#"machine type: pc-i440fx-10.0 ["p1", "p3"]; pc-i440fx-9.2 ["p2"]"#]
        );
        assert_eq!(differences(|e| e.machine_type = None), [""; 0], "an older version recorded none");
        assert_eq!(differences(|e| e.lab.kind = "ssh".into()), [r#"lab: local ["p1", "p3"]; ssh ["p2"]"#]);
    }

    #[test]
    fn source_and_destination_are_listed_separately_if_they_differ() {
        assert_eq!(
            differences(|e| {
                e.lab.destination.kernel = "6.12.0".into();
                e.lab.destination.cpus = 4;
                e.lab.destination.privilege = Privilege::UserNamespace;
            }),
            [
                "CPU: 2 Difference Engine [\"p1\", \"p3\"]; 2 Difference Engine at the source and 4 \
                 Difference Engine at the destination [\"p2\"]",
                "host kernel: 6.18.0 [\"p1\", \"p3\"]; 6.18.0 at the source and 6.12.0 at the destination \
                 [\"p2\"]",
                "namespaces: created by root [\"p1\", \"p3\"]; created by root at the source and created \
                 by an ordinary user at the destination [\"p2\"]",
            ]
        );
    }

    #[test]
    fn link_backends_are_compared_for_the_same_cells() {
        let features = |e: &mut Environment, features: &[&str]| {
            for node in [&mut e.lab.source, &mut e.lab.destination] {
                node.features = features.iter().map(ToString::to_string).collect();
            }
        };
        assert_eq!(
            differences(|e| features(e, &["sch_tbf", "sch_netem"])),
            [r#"link backend: kernel for 1 cell and userspace for 1 cell ["p1", "p3"]; kernel ["p2"]"#]
        );
        assert_eq!(
            differences(|e| {
                features(e, &[]);
                e.lab.source.no_emulator = Some("no TUN devices".into());
            }),
            [r#"link backend: kernel for 1 cell and userspace for 1 cell ["p1", "p3"]; none ["p2"]"#]
        );
        // A feature that no cell needs does not matter.
        assert_eq!(differences(|e| features(e, &["sch_tbf", "sch_htb"])), [""; 0]);
    }

    #[test]
    fn an_accelerator_that_only_one_part_requests_is_not_a_difference() {
        assert_eq!(
            differences(|e| {
                let choice = e.accelerators[&Accel::Auto].clone();
                let choice = AcceleratorChoice { accelerator: Accelerator::Kvm, ..choice };
                e.accelerators = [(Accel::Kvm, choice)].into_iter().collect();
            }),
            [""; 0]
        );
    }

    #[test]
    fn the_reason_for_an_unknown_environment_is_listed() {
        let part = |environment| PartEnvironment { path: "p1".into(), environment };
        let (differences, unknown) = compare(
            &plan("name: n\n"),
            &[part(Ok(environment())), part(Err("p2 has no environment.json".into()))],
            backend,
        );
        assert_eq!((differences.len(), unknown), (0, vec!["p2 has no environment.json".to_string()]));
    }
}
