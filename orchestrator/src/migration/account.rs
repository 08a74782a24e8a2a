//! Enters the results of an attempt into its record.

use super::{
    follow::{FinishedMigration, Verdict},
    load,
};
use crate::{
    driver::{PageFaults, SavedFile, control_port::TelemetrySample},
    matrix::Migrate,
    measure::{
        self,
        clock::{self, ClockReading},
        link::LinkSetting,
        round_micros,
        samples::MemoryProgress,
    },
    node::{protocol::Traffic, server::probe},
    results::record::{
        CpuMeasured, FileMeasured, LinkLateness, Measured, PostcopyMeasured, SentWhileRunning,
        StorageMeasured, StorageTraffic,
    },
};
use netem::userspace::Lateness;
use std::time::Duration;
use stressor::{
    protocol::DiskTelemetry,
    workload::{PAGE_BYTES, Rate},
};
use tokio::time::Instant;

/// The share of the dirty rate before the migration at which the workload counts as recovered.
const RECOVERED: f64 = 0.95;

/// Records how the migration link was set at the start of the attempt.
pub(super) fn link_setting(measured: &mut Measured, setting: LinkSetting) {
    measured.link = Some(setting.to_string());
    measured.link_setting = Some(setting);
}

/// Records the traffic that the source sent over the migration link between two readings of its counters, and
/// how late an emulated link delivered packets. `meanwhile` is the lateness returned by readings in between.
pub(super) fn link_traffic(
    measured: &mut Measured,
    before: Traffic,
    meanwhile: Option<Lateness>,
    after: Traffic,
) {
    measured.transferred.wire_bytes = after.sent_bytes.checked_sub(before.sent_bytes);
    let late = [meanwhile, after.late].into_iter().flatten().reduce(Lateness::merge);
    measured.link_lateness = late.filter(|late| late.deliveries > 0).map(LinkLateness::from);
}

/// Records the bytes over the links to a shared disk between two readings of their counters. Each reading has
/// the bytes of the source and those of the destination.
pub(super) fn storage_traffic(measured: &mut Measured, readings: Option<([u64; 2], [u64; 2])>) {
    measured.transferred.storage = readings.and_then(|(before, after)| {
        Some(StorageTraffic {
            source_bytes: after[0].checked_sub(before[0])?,
            destination_bytes: after[1].checked_sub(before[1])?,
        })
    });
}

/// Records the passes, the timeline, the bytes sent, the total time and QEMU's own figures of a migration
/// with these settings.
pub(super) fn migration(measured: &mut Measured, finished: &FinishedMigration, settings: &Migrate) {
    // QEMU reads the dirty bitmap of a guest that is stopped as well.
    if settings.has_passes() {
        measured.iterations = finished.passes();
    }
    measured.timeline.clone_from(&finished.applied);
    // The largest figure, not the last: QEMU clears its figures when a migration is cancelled.
    let memory = finished.samples.iter().filter_map(|sample| Some(sample.memory?.transferred_bytes)).max();
    let disk = finished.samples.iter().filter_map(|sample| sample.disk?.sent_bytes).max();
    if finished.samples.iter().any(|sample| sample.disk.is_some()) {
        measured.transferred.memory_bytes = memory;
        measured.transferred.disk_bytes = disk;
        // Memory alone is not all that was sent.
        measured.transferred.qemu_bytes = disk.map(|disk| disk.saturating_add(memory.unwrap_or(0)));
        copied_disk(&mut measured.storage, finished);
    } else {
        measured.transferred.qemu_bytes = memory;
    }
    measured.transferred.while_running = sent_while_running(finished);
    if let Some(arrived) = finished.arrived() {
        measured.total_time_ms = Some(millis(finished.started, arrived));
        measured.past_deadline_ms = finished.past_deadline.map(measure::millis);
    }
    if let Verdict::Completed(completion) = finished.verdict {
        measured.qemu = Some(completion);
        // QEMU leaves out the time for which the guest was paused before the switchover.
        let downtime = completion.downtime_ms.filter(|_| !finished.paused);
        measured.downtime_ms.qemu = downtime.map(|ms| ms as f64);
    }
}

/// Records the effect of the aids of a migration with these settings, such as compression.
pub(super) fn aids(measured: &mut Measured, finished: &FinishedMigration, settings: &Migrate) {
    let aids = &mut measured.aids;
    let samples = &finished.samples;
    // The largest figures, not the last: QEMU clears its figures when a migration is cancelled.
    let largest = |of: fn(&MemoryProgress) -> Option<u64>| {
        samples.iter().filter_map(|sample| of(sample.memory.as_ref()?)).max()
    };
    // QEMU does not tell the share for which `dirty_limit` stops the CPUs.
    if settings.auto_converge && samples.len() > 1 {
        aids.throttle_percent = samples.iter().map(|sample| sample.throttle_percent).max();
        let throttled = samples.windows(2).filter(|pair| pair[0].throttle_percent > 0);
        let times = throttled.map(|pair| pair[1].at_ms - pair[0].at_ms);
        // Not a sum: that of nothing is -0.0.
        aids.throttled_ms = Some(round_micros(times.fold(0.0, |sum, time| sum + time)));
    }
    if settings.multifd {
        aids.multifd_bytes = largest(|memory| memory.multifd_bytes);
    }
    if settings.multifd_compression.is_some() {
        let pages = largest(|memory| Some(memory.normal_pages)).map(|pages| pages * PAGE_BYTES);
        aids.compression_ratio =
            pages.zip(aids.multifd_bytes).map(|(pages, sent)| pages as f64 / sent as f64);
    }
    if settings.xbzrle {
        aids.xbzrle_pages = largest(|memory| Some(memory.xbzrle?.pages));
        aids.xbzrle_bytes = largest(|memory| Some(memory.xbzrle?.bytes));
        aids.xbzrle_misses = largest(|memory| Some(memory.xbzrle?.misses));
        aids.xbzrle_overflows = largest(|memory| Some(memory.xbzrle?.overflows));
        aids.derive_deltas();
    }
}

/// Records what each connection of a migration over several connections has sent.
pub(super) fn channels(measured: &mut Measured, mut sent: Vec<u64>) {
    sent.sort_unstable_by(|a, b| b.cmp(a));
    measured.aids.connection_bytes = sent;
}

/// Records the CPU time that source and destination used between two readings. With `sends_memory`, it is
/// also compared with what was sent.
pub(super) fn cpu(
    measured: &mut Measured,
    before: [Option<Duration>; 2],
    after: [Option<Duration>; 2],
    sends_memory: bool,
) {
    let [source, destination] = [0, 1].map(|end| {
        let used = after[end]?.checked_sub(before[end]?)?;
        Some(measure::millis(used))
    });
    let sent = measured.transferred.qemu_bytes.filter(|bytes| *bytes > 0 && sends_memory);
    let gigabytes = sent.map(|bytes| bytes as f64 / 1e9);
    let [source_ms_per_gb, destination_ms_per_gb] =
        [source, destination].map(|ms| Some(round_micros(ms? / gigabytes?)));
    measured.cpu = CpuMeasured {
        source_ms: source,
        destination_ms: destination,
        source_ms_per_gb,
        destination_ms_per_gb,
    };
}

/// Returns the time between two moments, in milliseconds.
pub(super) fn millis(from: Instant, to: Instant) -> f64 {
    measure::millis(to - from)
}

/// Records the figures that only post-copy has. `faults` are the destination's figures.
pub(super) fn postcopy(measured: &mut Measured, finished: &FinishedMigration, faults: PageFaults) {
    // An earlier sample would be about only a part of it.
    let last = finished.samples.last().and_then(|sample| sample.memory);
    let PageFaults { all_blocked_ms, vcpus_blocked_ms, mean_latency_ns, latency_distribution } = faults;
    measured.postcopy = PostcopyMeasured {
        started_ms: finished.postcopy.map(|at| millis(finished.started, at)),
        duration_ms: finished.resumed.zip(finished.arrived()).map(|(from, to)| millis(from, to)),
        bytes: last.and_then(|last| last.postcopy_bytes),
        page_requests: last.and_then(|last| last.page_requests),
        all_blocked_ms,
        vcpus_blocked_ms,
        fault_latency_us: mean_latency_ns.map(|ns| ns as f64 / 1e3),
        fault_latencies: latency_distribution,
        write_latencies: Vec::new(),
        rate: None,
        recoveries: Some(finished.recoveries.len() as u64),
        paused_ms: finished.recoveries.iter().map(|(from, to)| millis(*from, *to)).reduce(|a, b| a + b),
    };
}

/// Records the file through which the guest migrated.
pub(super) fn file(measured: &mut Measured, finished: &FinishedMigration, file: SavedFile) {
    measured.file = FileMeasured {
        bytes: Some(file.bytes),
        allocated_bytes: Some(file.allocated_bytes),
        save_ms: Some(millis(finished.started, file.at)),
        load_ms: finished.resumed.map(|resumed| millis(file.at, resumed)),
    };
}

/// Records the times of a migration that copies the disk.
fn copied_disk(storage: &mut StorageMeasured, finished: &FinishedMigration) {
    let memory_until = finished.disk_completed.map(|(from, _)| from);
    storage.bulk_ms = finished.mirrored.map(|at| millis(finished.started, at));
    storage.memory_ms = finished.mirrored.zip(memory_until).map(|(from, to)| millis(from, to));
    storage.switchover_ms = finished.disk_completed.map(|(from, to)| millis(from, to));
    storage.bulk_bytes = storage.bulk_ms.and_then(|until| {
        let last = finished.samples.iter().take_while(|sample| sample.at_ms <= until).last();
        last?.disk?.sent_bytes
    });
}

/// Records what the disk load achieved during the migration, from telemetry through the source.
fn disk_load(storage: &mut StorageMeasured, during: &[TelemetrySample]) {
    let disks: Vec<(u64, DiskTelemetry)> =
        during.iter().filter_map(|t| Some((t.telemetry.clock_ns, t.telemetry.disk?))).collect();
    let ([(from_ns, first), rest @ ..], Some((to_ns, last))) = (&disks[..], disks.last()) else { return };
    let seconds = to_ns.saturating_sub(*from_ns) as f64 / 1e9;
    let rate = |from: u64, to: u64| (seconds > 0.0).then(|| to.saturating_sub(from) as f64 / seconds);
    // The first line covers the time before it.
    let longest = |of: fn(&DiskTelemetry) -> u64| rest.iter().map(|(_, disk)| of(disk)).max();
    let longest_ms = |of| longest(of).filter(|ns| *ns > 0).map(|ns| round_micros(ns as f64 / 1e6));
    storage.write_rate = rate(first.bytes_written, last.bytes_written);
    storage.read_rate = rate(first.bytes_read, last.bytes_read);
    storage.longest_write_ms = longest_ms(|disk| disk.longest_write_ns);
    storage.longest_read_ms = longest_ms(|disk| disk.longest_read_ns);
}

/// Returns what was sent from the first sample of a pass to the last one before the guest stopped.
fn sent_while_running(finished: &FinishedMigration) -> Option<SentWhileRunning> {
    let stopped_ms = (finished.ran_until - finished.started).as_secs_f64() * 1e3;
    let running = finished.samples.iter().filter(|s| s.pass() > 0 && s.at_ms < stopped_ms);
    let mut sent = running.filter_map(|s| Some((s.at_ms, s.memory?.transferred_bytes)));
    let (first_ms, first) = sent.next()?;
    let (last_ms, last) = sent.next_back()?;
    Some(SentWhileRunning {
        bytes: last.saturating_sub(first),
        duration_ms: round_micros(last_ms - first_ms),
    })
}

/// Records the probe's report, and the bounds of the client's downtime if the migration has completed.
///
/// A gap is longer than the downtime behind it by up to the time for which no request was made. A gap that is
/// still open has no upper bound.
pub(super) fn probe(measured: &mut Measured, probe: probe::ProbeReport, finished: &FinishedMigration) {
    if finished.resumed.is_some() {
        let ms = |ns: u64| round_micros(ns as f64 / 1e6);
        measured.downtime_ms.client_at_least = probe.surely_gone_ns.map(ms);
        measured.downtime_ms.client = probe.largest_gap_ns.filter(|_| probe.open_gap_ns.is_none()).map(ms);
    }
    measured.probe = Some(probe.into());
}

/// Records the dirty rates during and after the migration, and the time that the guest's clock lost during
/// it.
///
/// `source` is the telemetry received through the source, `here` the telemetry received where the guest is
/// now. The guest dirtied memory until `observed_until`; `wanted` is the rate requested at the start.
pub(super) fn stress(
    measured: &mut Measured,
    source: &[TelemetrySample],
    here: &[TelemetrySample],
    finished: &FinishedMigration,
    observed_until: Instant,
    wanted: Rate,
) {
    let FinishedMigration { started, stopped, applied, .. } = finished;
    let since = finished.guest_runs_since();
    let during = load::between(source, *started, *stopped);
    disk_load(&mut measured.storage, during);
    let stress = &mut measured.stress;
    stress.during = load::rate(during);
    stress.stretches = load::rate_intervals(during, *started, *stopped, wanted, applied);
    stress.forgone_bytes = load::forgone_bytes(during);
    stress.longest_stall_ms = load::longest_stall_ms(during);
    let undisturbed = finished.undisturbed_since();
    stress.after = load::rate(load::between(here, undisturbed, observed_until));
    if let Some(resumed) = finished.resumed {
        let afterwards = load::between(here, resumed, observed_until);
        let recovered = stress.before.and_then(|goal| load::recovered(afterwards, resumed, goal, RECOVERED));
        stress.recovered_ms = recovered.map(measure::millis);
    }
    if finished.postcopy.is_some() {
        measured.postcopy.rate = load::rate(load::between(here, since, undisturbed));
        // Page faults delay samples as well.
        let left = source.iter().rev().find(|sample| sample.received <= *stopped);
        let arrived = here.iter().find(|sample| sample.received >= undisturbed);
        if let (Some(left), Some(arrived)) = (left, arrived) {
            measured.postcopy.write_latencies = load::write_latencies(left, arrived);
        }
    }
    if finished.resumed.is_some() {
        let first = source.first().map_or(*started, |first| first.received);
        let until_stop = load::between(source, first, *stopped);
        let from_then = load::between(here, since, Instant::now());
        let lost = clock::time_lost_s(&readings(until_stop, *started), &readings(from_then, *started));
        measured.downtime_ms.guest = lost.map(|s| round_micros(s * 1e3));
    }
}

/// Returns the time that a stopped guest's clock lost, from its telemetry through the end at which it was
/// stopped and continued: at `resumed` or later.
pub(super) fn time_lost(telemetry: &[TelemetrySample], resumed: Instant) -> Option<Duration> {
    let (before, after) = telemetry.split_at(telemetry.partition_point(|sample| sample.received < resumed));
    let lost = clock::time_lost_s(&readings(before, resumed), &readings(after, resumed))?;
    Some(Duration::from_secs_f64(lost))
}

/// Returns the readings of the guest's clock in telemetry.
fn readings(telemetry: &[TelemetrySample], origin: Instant) -> Vec<ClockReading> {
    telemetry.iter().map(|t| ClockReading::new(t.received, t.telemetry.clock_ns, origin)).collect()
}
