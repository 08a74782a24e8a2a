//! What an attempt puts into its record.

use super::{
    follow::{Followed, Verdict},
    load,
};
use crate::{
    driver::control_port::TelemetrySample,
    measure::{
        clock::{self, Reading},
        link::LinkSetting,
    },
    node::{protocol::Traffic, server::probe},
    results::record::{LinkLateness, Measured, round_micros},
};
use stressor::workload::Rate;
use tokio::time::Instant;

/// How the migration link was set at first.
pub(super) fn shaped(measured: &mut Measured, setting: LinkSetting) {
    measured.link = Some(setting.to_string());
    measured.link_setting = Some(setting);
}

/// What the migration link carried between two looks at it, and how well it was emulated.
pub(super) fn link(measured: &mut Measured, before: Traffic, after: Traffic) {
    measured.transferred.wire_bytes = Some(after.sent_bytes.saturating_sub(before.sent_bytes));
    measured.link_lateness = after.late.map(LinkLateness::from);
}

pub(super) fn migration(measured: &mut Measured, followed: &Followed) {
    measured.iterations = followed.passes();
    measured.timeline.clone_from(&followed.carried);
    // Not the last sample's: QEMU forgets its figures when a migration is cancelled.
    measured.transferred.qemu_bytes = followed.samples.iter().map(|s| s.transferred_bytes).max();
    if let Some(resumed) = followed.resumed {
        let total = resumed - followed.started;
        measured.total_time_ms = Some(round_micros(total.as_secs_f64() * 1e3));
    }
    if let Verdict::Completed(completion) = followed.verdict {
        measured.qemu = Some(completion);
        measured.downtime_ms.qemu = completion.downtime_ms.map(|ms| ms as f64);
    }
}

pub(super) fn probe(measured: &mut Measured, probe: probe::Report, followed: &Followed) {
    if followed.resumed.is_some() {
        measured.downtime_ms.client = Some(round_micros(probe.largest_gap_ns as f64 / 1e6));
    }
    measured.probe = Some(probe.into());
}

/// The rates during and after the migration, and the time the guest lost in it: by the telemetry that came in
/// at the source, and where the guest is now. It was left to dirty until it had been `observed`.
pub(super) fn load(
    measured: &mut Measured,
    source: &[TelemetrySample],
    here: &[TelemetrySample],
    followed: &Followed,
    observed: Instant,
    wanted: Rate,
) {
    let Followed { started, stopped, carried, .. } = followed;
    let since = followed.guest_runs_since();
    let during = load::between(source, *started, *stopped);
    let stress = &mut measured.stress;
    stress.during = load::rate(during);
    stress.stretches = load::stretches(during, *started, *stopped, wanted, carried);
    stress.forgone_bytes = load::forgone_bytes(during);
    stress.longest_stall_ms = load::longest_stall_ms(during);
    stress.after = load::rate(load::between(here, since, observed));
    if followed.resumed.is_some() {
        let readings = |telemetry: &[TelemetrySample]| -> Vec<Reading> {
            telemetry.iter().map(|t| Reading::new(t.seen, t.telemetry.clock_ns, *started)).collect()
        };
        let first = source.first().map_or(*started, |first| first.seen);
        let until_stop = load::between(source, first, *stopped);
        let lost =
            clock::time_lost_s(&readings(until_stop), &readings(load::between(here, since, Instant::now())));
        measured.downtime_ms.guest = lost.map(|s| round_micros(s * 1e3));
    }
}
