//! Tests the aids and modes of migrations with real QEMU processes: each completes, and the guest's memory is
//! as it was written; what cannot be done is skipped with the reason that the plan gave.

use crate::common::real::{TestDir, ready, signal, skipped};
use nix::{sys::signal::Signal, unistd::geteuid};
use rustix::process::{Resource, getrlimit};
use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt};
use testbed::{outcome::Outcome, results::record::PostcopyMeasured};

/// Migrations with every aid, each beside the aids that QEMU refuses together with it. The guest dirties
/// little memory, so a busy host does not matter. The link makes them long enough to count their connections.
const AIDS: &str = "
name: aids
guest: { memory: 192MiB, ballast: 32MiB, accel: tcg }
link: { rate: 600mbit }
stress: { rate: 2MB/s, working_set: 2MB }
migrate: { downtime_limit: 300ms, timeout: 60s }
include:
  - { migrate.auto_converge: true, migrate.cpu_throttle_initial: 50%, migrate.cpu_throttle_tailslow: true }
  - { migrate.xbzrle: true, migrate.xbzrle_cache_size: 16MiB }
  - { migrate.multifd: true, migrate.multifd_channels: 4 }
  - { migrate.multifd: true, migrate.multifd_compression: zlib, migrate.multifd_zlib_level: 9 }
  - { migrate.multifd: true, migrate.multifd_compression: zstd, migrate.zero_page_detection: legacy }
  - { migrate.zero_page_detection: none, migrate.release_ram: true }
  - { migrate.return_path: true, migrate.switchover_ack: true, migrate.avail_switchover_bandwidth: 1gbit }
  - { migrate.announce_rounds: 20, migrate.announce_initial: 10ms, migrate.announce_step: 1ms }
  - { migrate.multifd: true, migrate.xbzrle: true }
  - { migrate.switchover_ack: true }
  - { migrate.zero_copy_send: true }
  - { migrate.dirty_limit: true }
  - { migrate.dirty_limit: true, migrate.auto_converge: true }
  - { migrate.multifd: true, migrate.multifd_compression: lzma }
  - { migrate.multifd: true, migrate.zero_copy_send: true }
  - { migrate.transport: rdma }
  - { migrate.compress: true }
";

/// The user ID of `nobody`, an ordinary user on every system.
const NOBODY: u32 = 65_534;

/// The messages about the cells that are not migrated.
const REFUSALS: [&str; 7] = [
    "QEMU on this host refuses it: Multifd is not compatible with xbzrle",
    "requires capability 'return-path'",
    "QEMU on this host refuses it: Zero copy only available for",
    "QEMU on this host refuses it: dirty-limit requires KVM",
    "QEMU on this host refuses it: dirty-limit",
    "QEMU on this host has no `multifd-compression` of `lzma`, only none, zlib",
    "RDMA needs a device of its own, and the links of a lab are virtual",
];

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn every_aid_migrates_intact_memory_or_is_skipped_as_the_plan_says() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, AIDS);
    let (code, plan, _) = dir.run_subcommand(&["plan", "matrix.yaml", "--json"]);
    assert_eq!(code, 0, "{plan}");
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    let skipped = |cell: &serde_json::Value| {
        Some((cell["id"].as_str()?.to_owned(), cell["skipped"].as_str()?.to_owned()))
    };
    let planned: BTreeMap<String, String> =
        plan["cells"].as_array().unwrap().iter().filter_map(skipped).collect();
    let limit = getrlimit(Resource::Memlock).current;
    let zero_copy = "migrate.multifd=true,migrate.zero_copy_send=true";
    assert_eq!(planned.contains_key(zero_copy), limit.is_some_and(|limit| limit < 192 << 20), "{planned:#?}");
    for words in REFUSALS {
        assert!(planned.values().any(|reason| reason.contains(words)), "{words}: {planned:#?}");
    }

    assert_eq!(dir.run(&["matrix.yaml", "--out", "run"]), 0, "{}", dir.shown());
    let records = dir.records();
    assert_eq!(records.len(), plan["cells"].as_array().unwrap().len(), "{}", dir.shown());
    for record in records {
        let said = format!("{record:#?}");
        if let Some(reason) = planned.get(&record.cell) {
            assert_eq!((record.outcome, record.reason.as_ref()), (Outcome::Skipped, Some(reason)), "{said}");
            continue;
        }
        assert_eq!(record.outcome, Outcome::Converged, "{said}");
        let verified = record.measured.verified.as_ref().unwrap();
        assert!(verified.pages_checked > 8000 && verified.first_bad.is_none(), "{said}");
        let migrate = &record.settings.migrate;
        let connections = record.measured.aids.connection_bytes.len() as u32;
        let channels = if migrate.multifd { 1 + migrate.multifd_channels.unwrap_or(2) } else { 0 };
        assert_eq!(connections, channels, "{said}");
    }
}

/// Post-copy with a workload that pre-copy cannot move over this link, started by each of the conditions.
const POSTCOPY: &str = "
name: postcopy
guest: { memory: 192MiB, ballast: 16MiB, accel: tcg }
link: { rate: 160mbit }
stress: { rate: 24MB/s, working_set: 24MB }
migrate: { mode: postcopy, downtime_limit: 30ms, timeout: 60s }
include:
  - { migrate.postcopy_after_passes: 1 }
  - { migrate.postcopy_after_passes: 2, migrate.postcopy_preempt: true }
  - { migrate.postcopy_after: 2s, migrate.max_postcopy_bandwidth: 15MB/s, migrate.release_ram: true }
  - { migrate.mode: precopy, migrate.max_passes: 3 }
  - { migrate.multifd: true }
";

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn post_copy_moves_a_guest_that_pre_copy_cannot() {
    let Some(ready) = ready() else { return };
    if !geteuid().is_root() {
        return skipped("post-copy needs userfaultfd, which root alone can give QEMU").unwrap_or(());
    }
    let dir = TestDir::new(&ready, POSTCOPY);
    assert_eq!(dir.run(&["matrix.yaml", "--out", "run"]), 0, "{}", dir.shown());
    let [moved @ .., precopy, multifd] = &dir.records()[..] else { panic!("{}", dir.shown()) };
    assert_eq!(moved.len(), 3);
    for record in moved {
        let (measured, said) = (&record.measured, format!("{record:#?}"));
        assert_eq!(record.outcome, Outcome::Converged, "{said}");
        let verified = measured.verified.as_ref().unwrap();
        assert!(verified.pages_checked > 8000 && verified.first_bad.is_none(), "{said}");
        let postcopy = &measured.postcopy;
        assert!(postcopy.duration_ms.unwrap() > 0.0 && postcopy.bytes.unwrap() > 1_000_000, "{said}");
        assert!(postcopy.page_requests.is_some() && !postcopy.vcpus_blocked_ms.is_empty(), "{said}");
        assert!(measured.total_time_ms > postcopy.started_ms, "{said}");
        assert!(postcopy.write_latencies.iter().sum::<u64>() > 0 && postcopy.recoveries == Some(0), "{said}");
    }
    // QEMU's user has a device of its own.
    let device = fs::metadata("/dev/userfaultfd").unwrap();
    assert!(device.uid() == 0 && device.mode() & 0o777 == 0o600, "the host's device has changed: {device:?}");
    let requests: u64 = moved.iter().filter_map(|record| record.measured.postcopy.page_requests).sum();
    assert!(requests > 0, "{moved:#?}");
    assert_eq!(precopy.outcome, Outcome::NotConverged, "{precopy:#?}");
    assert_eq!(precopy.measured.postcopy, PostcopyMeasured::default());
    if multifd.outcome == Outcome::Skipped {
        let reason = multifd.reason.as_deref().unwrap();
        assert_eq!(reason, "QEMU on this host refuses it: Postcopy is not yet compatible with multifd");
    } else {
        assert_eq!(multifd.outcome, Outcome::Converged, "{multifd:#?}");
    }
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn post_copy_without_userfaultfd_is_skipped() {
    let Some(ready) = ready() else { return };
    let allowed = fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd");
    if !geteuid().is_root() || allowed.is_ok_and(|allowed| allowed.trim() != "0") {
        return skipped("it needs root, and a host whose users may not use userfaultfd").unwrap_or(());
    }
    let dir =
        TestDir::of_user(NOBODY, &ready, "name: n\nguest: { accel: tcg }\nmigrate: { mode: postcopy }\n");
    dir.run(&["matrix.yaml", "--out", "run"]);
    let records = dir.records();
    assert_eq!(dir.outcomes(), [Outcome::Skipped], "{}", dir.shown());
    let reason = records[0].reason.as_deref().unwrap();
    assert!(reason.starts_with("QEMU on this host refuses it: Postcopy is not supported"), "{reason}");
}

/// Encrypted migrations.
const TLS: &str = "
name: tls
guest: { memory: 192MiB, ballast: 32MiB, accel: tcg }
stress: { rate: 2MB/s, working_set: 2MB }
migrate: { tls: true, downtime_limit: 300ms, timeout: 60s }
include:
  - { migrate.timeout: 59s }
  - { migrate.multifd: true, migrate.multifd_channels: 3 }
  - { migrate.multifd: true, migrate.zero_copy_send: true }
";

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn encrypted_migrations_keep_memory_intact() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, TLS);
    assert_eq!(dir.run(&["matrix.yaml", "--out", "run"]), 0, "{}", dir.shown());
    let [plain, multifd, zero_copy] = &dir.records()[..] else { panic!("{}", dir.shown()) };
    for record in [plain, multifd] {
        assert_eq!(record.outcome, Outcome::Converged, "{record:#?}");
        let verified = record.measured.verified.as_ref().unwrap();
        assert!(verified.pages_checked > 8000 && verified.first_bad.is_none(), "{record:#?}");
    }
    assert_eq!(zero_copy.outcome, Outcome::Skipped, "{zero_copy:#?}");
    assert!(zero_copy.reason.as_ref().unwrap().contains("Zero copy only available for"), "{zero_copy:#?}");
}

/// A guest that dirties more than the link carries, and that is paused according to these settings.
fn paused(migrate: &str) -> String {
    format!(
        "
name: paused
guest: {{ memory: 192MiB, ballast: 8MiB }}
link: {{ rate: 80mbit }}
stress: {{ rate: 40MB/s, working_set: 24MB, catch_up: burst }}
migrate: {{ downtime_limit: 100ms, {migrate} }}
"
    )
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_paused_guest_arrives_whole_and_continues() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, &paused("pause_after_passes: 1, timeout: 60s"));
    assert_eq!(dir.run(&["matrix.yaml", "--out", "run"]), 0, "{}", dir.shown());
    let record = &dir.records()[0];
    let said = format!("{record:#?}");
    assert_eq!(record.outcome, Outcome::Converged, "{said}");
    let verified = record.measured.verified.as_ref().unwrap();
    assert!(verified.pages_checked > 0 && verified.first_bad.is_none(), "{said}");
    let downtime = &record.measured.downtime_ms;
    // The working set is sent while the guest is stopped: at the link's rate, that takes longer than a
    // second.
    assert!(downtime.guest.is_some_and(|ms| ms > 1000.0) && downtime.qemu.is_none(), "{said}");
}

/// The deadline passes, or the destination is killed, while the rest is sent.
#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_paused_guest_whose_migration_ends_early_continues_at_the_source() {
    let Some(ready) = ready() else { return };
    let matrix = paused("pause_after: 1s").replace("pause_after: 1s", "pause_after: 1s, timeout: 3s");
    let dir = TestDir::new(&ready, &format!("{}repeat: 2\n", matrix.replace("8MiB", "64MiB")));
    let mut run = dir.start(&["matrix.yaml", "--out", "run"]);
    let given_up = run.wait_for("the first record", |dir| dir.records().first().cloned());
    assert_eq!(given_up.outcome, Outcome::NotConverged, "{given_up:#?}");
    run.wait_for("the second migration", |dir| dir.migrates("base.2").then_some(()));
    let destination = run.wait_for("the destination", |dir| {
        dir.processes().into_iter().find(|process| process.is_qemu("destination"))
    });
    signal(destination.pid, Signal::SIGKILL);
    assert_eq!(run.end(), 3, "{}", dir.shown());
    for record in dir.records() {
        let verified = record.measured.verified.as_ref().unwrap_or_else(|| panic!("{record:#?}"));
        assert!(verified.pages_checked > 0 && verified.first_bad.is_none(), "{record:#?}");
    }
}
