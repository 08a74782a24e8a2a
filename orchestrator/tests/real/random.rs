//! Random combinations of settings of a migration: each is carried out, or skipped for the reason that the
//! plan gave.
//!
//! `TESTBED_RANDOM=COUNT,SEED` makes that many, drawn from that seed; without the variable, a few are made.

use crate::common::real::{TestDir, ready, skipped};
use nix::unistd::geteuid;
use std::{collections::BTreeMap, fmt::Write, thread, time::Duration};
use testbed::{outcome::Outcome, results::record::Record};
use units::random::Random;

/// What is drawn without [`VARIABLE`]: the number of combinations, and the seed.
const FEW: (u64, u64) = (4, 15);

/// The environment variable that requests more.
const VARIABLE: &str = "TESTBED_RANDOM";

/// The settings that all combinations share. The guest dirties little memory, so a busy host does not matter.
const COMMON: &str = "
name: random
guest: { memory: 192MiB, ballast: 24MiB, accel: tcg }
stress: { rate: 1MB/s, working_set: 2MB }
link: { rate: 400mbit }
storage: { size: 32MiB, written: 8MiB }
migrate: { downtime_limit: 300ms, timeout: 60s }
include:
";

/// Groups of settings. A combination uses at most one setting of each group.
const GROUPS: &[&[&str]] = &[
    &[
        "migrate.mode: postcopy",
        "migrate.mode: postcopy, migrate.postcopy_preempt: true, migrate.postcopy_after_passes: 1",
        "migrate.mode: postcopy, migrate.postcopy_after: 500ms",
        "migrate.mode: postcopy, migrate.max_postcopy_bandwidth: 20MB/s, migrate.postcopy_at_stall: true",
        "migrate.auto_converge: true, migrate.cpu_throttle_initial: 30%, migrate.max_cpu_throttle: 80%",
        "migrate.auto_converge: true, migrate.cpu_throttle_tailslow: true",
        "migrate.dirty_limit: true, migrate.vcpu_dirty_limit: 1MiB/s",
    ],
    &[
        "migrate.multifd: true",
        "migrate.multifd: true, migrate.multifd_channels: 5",
        "migrate.multifd: true, migrate.multifd_compression: zlib, migrate.multifd_zlib_level: 0",
        "migrate.multifd: true, migrate.multifd_compression: zstd, migrate.multifd_zstd_level: 7",
        "migrate.multifd: true, migrate.multifd_compression: qpl",
        "migrate.multifd: true, migrate.zero_copy_send: true",
        "migrate.xbzrle: true, migrate.xbzrle_cache_size: 4MiB",
        "migrate.xbzrle: true",
    ],
    &["migrate.tls: true", "migrate.tls: true"],
    &["migrate.return_path: true", "migrate.return_path: true, migrate.switchover_ack: true"],
    &["migrate.release_ram: true"],
    &["migrate.zero_page_detection: none", "migrate.zero_page_detection: legacy"],
    &["migrate.max_bandwidth: 30MB/s", "migrate.avail_switchover_bandwidth: 400mbit"],
    &["migrate.announce_rounds: 0", "migrate.announce_initial: 10ms, migrate.announce_max: 20ms"],
    &[
        "storage.kind: shared",
        "storage.kind: shared, storage.format: qcow2, storage.write_rate: 1MB/s, storage.working_set: 4MB",
        "storage.kind: block",
        "storage.kind: block, storage.format: qcow2, storage.sync: top",
        "storage.kind: block, storage.write_rate: 1MB/s, storage.read_rate: 1MB/s, storage.working_set: 4MB",
    ],
    &["stress.content: increment", "stress.content: 'compressible:25%'"],
    &["stress.order: random, guest.vcpus: 2, stress.threads: 2"],
];

/// Draws one combination. The text is a mapping in YAML.
fn draw(random: &mut Random) -> String {
    let mut settings = Vec::new();
    for group in GROUPS {
        // Half of the groups that have few members are left out, and a third of the large ones.
        let choice = random.below(group.len() as u64 + group.len().div_ceil(2) as u64) as usize;
        settings.extend(group.get(choice).copied());
    }
    format!("{{ {} }}", settings.join(", "))
}

/// Returns the number of combinations, and the seed.
fn wanted() -> (u64, u64) {
    let Ok(text) = std::env::var(VARIABLE) else { return FEW };
    let numbers =
        text.split_once(',').and_then(|(count, seed)| Some((count.parse().ok()?, seed.parse().ok()?)));
    numbers.unwrap_or_else(|| panic!("{VARIABLE} is not COUNT,SEED: {text}"))
}

/// Returns what is wrong with a record, if anything is. `planned` has the reasons why cells are skipped.
fn fault(record: &Record, planned: &BTreeMap<String, String>) -> Option<String> {
    let is_intact = || {
        let memory = record.measured.verified.as_ref()?;
        let disk = record.measured.storage.verified.as_ref();
        let has_disk = record.settings.disk_load().is_some();
        let intact = memory.first_bad.is_none() && disk.is_none_or(|disk| disk.first_bad.is_none());
        (intact && disk.is_some() == has_disk).then_some(())
    };
    let fine = match record.outcome {
        Outcome::Skipped => record.reason.is_some() && planned.get(&record.cell) == record.reason.as_ref(),
        Outcome::Converged | Outcome::NotConverged => is_intact().is_some(),
        _ => false,
    };
    (!fine).then(|| format!("{}: {} {:?}\n", record.cell, record.outcome, record.reason))
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn random_combinations_are_carried_out_or_skipped_as_the_plan_says() {
    let Some(ready) = ready() else { return };
    if !geteuid().is_root() {
        return skipped("post-copy needs userfaultfd, which root alone can give QEMU").unwrap_or(());
    }
    let (count, seed) = wanted();
    let mut random = Random::new(seed);
    let mut matrix = COMMON.to_owned();
    let mut drawn = std::collections::BTreeSet::new();
    while (drawn.len() as u64) < count {
        let combination = draw(&mut random);
        if drawn.insert(combination.clone()) {
            let _ = writeln!(matrix, "  - {combination}");
        }
    }
    let dir = TestDir::new(&ready, &matrix);
    let (code, plan, complaints) = dir.run_subcommand(&["plan", "matrix.yaml", "--json"]);
    assert_eq!(code, 0, "{complaints}\n{matrix}");
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    let reason = |cell: &serde_json::Value| {
        Some((cell["id"].as_str()?.to_owned(), cell["skipped"].as_str()?.to_owned()))
    };
    let planned: BTreeMap<String, String> =
        plan["cells"].as_array().unwrap().iter().filter_map(reason).collect();
    let mut run = dir.start(&["matrix.yaml", "--out", "run"]);
    // For as long as that many migrations take.
    while run.try_ended().is_none() {
        thread::sleep(Duration::from_millis(100));
    }
    let records = dir.records();
    let faults: String = records.iter().filter_map(|record| fault(record, &planned)).collect();
    let outcomes = records.iter().fold(BTreeMap::<_, u64>::new(), |mut counts, record| {
        *counts.entry(record.outcome.as_str()).or_default() += 1;
        counts
    });
    println!("{count} combinations of seed {seed}: {outcomes:?}");
    assert!(faults.is_empty(), "{faults}\n{}", dir.shown());
    assert_eq!(records.len() as u64, count, "{}", dir.shown());
}
