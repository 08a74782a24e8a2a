use super::*;
use crate::{
    measure::{passes::Pass, samples::Completion},
    results::record::{
        AidsMeasured, AppliedChange, CpuMeasured, DiskVerification, FileMeasured, LinkLateness, Phase,
        PostcopyMeasured, RateInterval, SentWhileRunning, StorageMeasured, StorageTraffic, Verification,
    },
};
use serde_json::{Value, json};
use std::collections::HashSet;

/// Returns measurements in which every figure is present.
fn all() -> Measured {
    let mut measured = Measured { total_time_ms: Some(1.0), ..Measured::default() };
    measured.past_deadline_ms = Some(1.0);
    measured.downtime_ms.qemu = Some(1.0);
    measured.downtime_ms.guest = Some(1.0);
    measured.downtime_ms.client = Some(1.0);
    measured.downtime_ms.client_at_least = Some(1.0);
    measured.transferred.qemu_bytes = Some(1);
    measured.transferred.memory_bytes = Some(1);
    measured.transferred.disk_bytes = Some(1);
    measured.transferred.storage = Some(StorageTraffic { source_bytes: 1, destination_bytes: 1 });
    measured.transferred.wire_bytes = Some(1);
    measured.transferred.while_running = Some(SentWhileRunning { bytes: 1, duration_ms: 1.0 });
    measured.storage = StorageMeasured {
        link_setting: None,
        bulk_ms: Some(1.0),
        bulk_bytes: Some(1),
        memory_ms: Some(1.0),
        switchover_ms: Some(1.0),
        write_rate: Some(1.0),
        read_rate: Some(1.0),
        longest_write_ms: Some(1.0),
        longest_read_ms: Some(1.0),
        server_failures: Vec::new(),
        verified: Some(DiskVerification { blocks_checked: 1, ..DiskVerification::default() }),
    };
    measured.aids = AidsMeasured {
        throttle_percent: Some(1),
        throttled_ms: Some(1.0),
        compression_ratio: Some(1.0),
        multifd_bytes: Some(1),
        connection_bytes: vec![1],
        xbzrle_deltas: Some(1),
        xbzrle_delta_bytes: Some(1),
        xbzrle_pages: Some(1),
        xbzrle_bytes: Some(1),
        xbzrle_misses: Some(1),
        xbzrle_overflows: Some(1),
    };
    measured.cpu = CpuMeasured {
        source_ms: Some(1.0),
        destination_ms: Some(1.0),
        source_ms_per_gb: Some(1.0),
        destination_ms_per_gb: Some(1.0),
    };
    measured.stress.recovered_ms = Some(1.0);
    measured.file =
        FileMeasured { bytes: Some(1), allocated_bytes: Some(1), save_ms: Some(1.0), load_ms: Some(1.0) };
    measured.postcopy = PostcopyMeasured {
        started_ms: Some(1.0),
        duration_ms: Some(1.0),
        bytes: Some(1),
        page_requests: Some(1),
        all_blocked_ms: Some(1),
        vcpus_blocked_ms: vec![1],
        fault_latency_us: Some(1.0),
        fault_latencies: vec![1],
        write_latencies: vec![1],
        rate: Some(1.0),
        recoveries: Some(1),
        paused_ms: Some(1.0),
    };
    measured.iterations.push(Pass {
        number: 1,
        started_at_ms: 0.0,
        duration_ms: 1.0,
        remaining_bytes: 0,
        sent_bytes: 0,
        dirtied_bytes: None,
        bandwidth_bytes_per_s: 0,
        throttle_percent: 0,
    });
    measured.timeline.push(AppliedChange {
        due_ms: 1.0,
        began_ms: 1.0,
        done_ms: 1.0,
        link_bits_per_s: Some(1),
        ..AppliedChange::default()
    });
    measured.stress.requested = Some(1);
    measured.stress.before = Some(1.0);
    measured.stress.during = Some(1.0);
    measured.stress.after = Some(1.0);
    measured.stress.stretches.push(RateInterval {
        from_ms: 0.0,
        to_ms: 1.0,
        requested: None,
        achieved: None,
    });
    measured.stress.forgone_bytes = Some(1);
    measured.stress.longest_stall_ms = Some(1.0);
    measured.verified = Some(Verification { pages_checked: 1, pages_bad: 0, first_bad: None });
    measured.qemu = Some(Completion { total_time_ms: Some(1), downtime_ms: Some(1), setup_time_ms: Some(1) });
    measured.link_lateness = Some(LinkLateness { deliveries: 1, late_mean_ms: 1.0, late_worst_ms: 1.0 });
    measured.phases_ms.insert(Phase::Boot, 1.0);
    measured.wall_time_ms = Some(1.0);
    measured
}

/// Collects the dotted paths of all numbers in a record.
fn numbers(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let key = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                numbers(value, &key, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| numbers(item, at, found)),
        Value::Number(_) => found.push(at.into()),
        _ => {}
    }
}

#[test]
fn every_number_of_a_record_belongs_to_one_figure_and_every_figure_is_in_a_record() {
    let value = serde_json::to_value(all()).unwrap();
    let mut found = Vec::new();
    numbers(&value, "", &mut found);
    assert!(found.len() > FIGURES.len(), "{found:?}");
    let belongs = |number: &str, figure: &Figure| {
        number.strip_prefix(figure.key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    for number in &found {
        let figures = FIGURES.iter().filter(|figure| belongs(number, figure)).count();
        assert_eq!(figures, 1, "{number} is in {figures} figures");
    }
    for figure in FIGURES {
        assert!(found.iter().any(|number| belongs(number, figure)), "no record has {}", figure.key);
        assert!((figure.value)(&all()).is_some(), "{} is in the record but has no value", figure.key);
    }
}

#[test]
fn a_figure_that_was_not_measured_has_no_value() {
    let present: Vec<&str> = FIGURES
        .iter()
        .filter(|figure| (figure.value)(&Measured::default()).is_some())
        .map(|figure| figure.key)
        .collect();
    assert!(present.is_empty(), "{present:?}");
}

#[test]
fn exactly_the_durations_have_a_provenance() {
    let keys: Vec<String> = provenance(&all(), &Settings::default()).into_keys().collect();
    let expected = [
        "total_time_ms",
        "past_deadline_ms",
        "downtime_ms.qemu",
        "downtime_ms.guest",
        "downtime_ms.client",
        "downtime_ms.client_at_least",
        "transferred.while_running",
        "storage.bulk_ms",
        "storage.memory_ms",
        "storage.switchover_ms",
        "storage.longest_write_ms",
        "storage.longest_read_ms",
        "aids.throttled_ms",
        "cpu.source_ms",
        "cpu.destination_ms",
        "postcopy.started_ms",
        "postcopy.duration_ms",
        "postcopy.all_blocked_ms",
        "postcopy.vcpus_blocked_ms",
        "postcopy.fault_latency_us",
        "postcopy.paused_ms",
        "file.save_ms",
        "file.load_ms",
        "iterations",
        "timeline",
        "stress.stretches",
        "stress.recovered_ms",
        "stress.longest_stall_ms",
        "qemu",
        "link_lateness",
        "phases_ms",
        "wall_time_ms",
    ];
    assert_eq!(keys, expected);
    assert!(provenance(&Measured::default(), &Settings::default()).is_empty());
    for figure in FIGURES.iter().filter(|figure| figure.clock.is_some() || figure.unit == Unit::Milliseconds)
    {
        let Figure { key, clock, from, to, .. } = figure;
        assert!(clock.is_some() && !from.is_empty() && !to.is_empty(), "{key}");
    }
}

fn settings(json: Value) -> Settings {
    serde_json::from_value(json).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn the_events_of_a_duration_are_those_of_the_migration() {
    let states = |json: Value, key: &str, started_ms: Option<f64>| {
        let mut measured = all();
        measured.postcopy.started_ms = started_ms;
        let Provenance { from, to, ways, .. } =
            provenance(&measured, &settings(json)).swap_remove(key).unwrap();
        format!("{from} / {to} / {}", ways.unwrap_or_default())
    };
    let migrate = "just before the orchestrator sends `migrate` to the source";
    let resume = "the orchestrator receives the event `RESUME` from the destination";
    let completed = "the orchestrator learns from the source that the migration has completed";
    let total = |json: Value| states(json, "total_time_ms", None);
    let usual = format!("{migrate} / {resume} / to the source, and from the destination");
    assert_eq!(total(json!({})), usual);
    assert_eq!(total(json!({ "migrate": { "mode": "file", "save_live": true } })), usual);
    assert_eq!(total(json!({ "migrate": { "mode": "cpr-transfer" } })), usual);

    let disk =
        "just before the orchestrator connects the source to the destination's disk, to copy the disk first";
    let block = json!({ "storage": { "kind": "block" } });
    assert_eq!(total(block.clone()), usual.replace(migrate, disk));
    assert_eq!(states(block.clone(), "timeline", None).split(" / ").next(), Some(disk));
    assert!(
        states(block, "past_deadline_ms", None).starts_with(&format!("the deadline, counted from {disk} /"))
    );

    let file = json!({ "migrate": { "mode": "file" } });
    let stop = "just before the orchestrator stops the guest, to save it";
    assert_eq!(total(file.clone()), usual.replace(migrate, stop));
    assert_eq!(states(file, "file.save_ms", None), format!("{stop} / {completed} / "));

    let postcopy = json!({ "migrate": { "mode": "postcopy" } });
    assert_eq!(total(postcopy.clone()), usual, "pre-copy completed before post-copy began");
    let moved = |key| states(postcopy.clone(), key, Some(1.0));
    assert_eq!(
        moved("total_time_ms"),
        format!("{migrate} / {completed} / to the source, and from the source")
    );
    assert!(moved("past_deadline_ms").ends_with(&format!("/ {completed} / from the source")));
}

#[test]
fn every_subject_of_expectations_has_a_figure_and_a_published_one_beside_it() {
    for subject in Subject::ALL {
        let unit = match subject {
            Subject::Transferred => Unit::Bytes,
            _ => Unit::Milliseconds,
        };
        let same: Vec<&Figure> = FIGURES.iter().filter(|f| f.expected_as.contains(&subject)).collect();
        assert!(!same.is_empty() && same.iter().all(|figure| figure.unit == unit), "{subject:?}");
        let beside: Vec<&Figure> = FIGURES.iter().filter(|f| f.published_as == Some(subject)).collect();
        // Publications do not have these figures.
        let is_published = !matches!(
            subject,
            Subject::DowntimeGuest
                | Subject::DowntimeQemu
                | Subject::StorageBulk
                | Subject::StorageMemory
                | Subject::StorageSwitchover
        );
        assert_eq!(beside.len(), usize::from(is_published), "{subject:?}");
        for figure in beside {
            assert!(figure.unit == unit && figure.table.is_some(), "{subject:?} has no column beside it");
        }
    }
}

#[test]
fn expectations_check_the_clients_downtime_rather_than_qemus() {
    let mut measured = Measured::default();
    let downtime = |measured: &Measured| interval_for(Subject::Downtime, measured);
    assert_eq!(downtime(&measured), None);
    measured.downtime_ms.guest = Some(2.0);
    assert_eq!(downtime(&measured), None);
    measured.downtime_ms.qemu = Some(1.0);
    assert_eq!(downtime(&measured), Some(Interval::exactly(1.0)));
    // Records of older versions have no lower bound.
    measured.downtime_ms.client = Some(30.0);
    assert_eq!(downtime(&measured), Some(Interval::exactly(30.0)));
    measured.downtime_ms.client_at_least = Some(20.0);
    assert_eq!(downtime(&measured), Some(Interval { least: 20.0, most: Some(30.0) }));
    // A gap that never ended is not replaced by QEMU's figure.
    measured.downtime_ms.client = None;
    assert_eq!(downtime(&measured), Some(Interval { least: 20.0, most: None }));
    let by = |subject| interval_for(subject, &measured);
    assert_eq!(by(Subject::DowntimeQemu), Some(Interval::exactly(1.0)));
    assert_eq!(by(Subject::DowntimeGuest), Some(Interval::exactly(2.0)));
    assert_eq!(by(Subject::DowntimeClient), Some(Interval { least: 20.0, most: None }));
}

#[test]
fn keys_and_columns_are_unique() {
    let mut keys = HashSet::new();
    let mut columns = HashSet::new();
    for figure in FIGURES {
        assert!(keys.insert(figure.key), "{}", figure.key);
        assert!(!figure.description.is_empty(), "{}", figure.key);
        let names = figure.table.map(|column| column.header).into_iter();
        for name in names.chain(figure.csv.map(|column| column.name).filter(|name| *name != "passes")) {
            assert!(columns.insert(name), "{name}");
        }
    }
}
