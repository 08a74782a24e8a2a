//! Comparison of figures that measure the same quantity in two ways.
//!
//! Disagreements are reported, and both figures are kept. Nothing is corrected or averaged.

use crate::{
    matrix::Migrate,
    measure::tcp_buffers,
    results::record::{Measured, RateInterval, SentWhileRunning, Stress},
};
use netem::{
    Profile,
    ethernet::{FRAME_BYTES, TCP_PAYLOAD_BYTES},
};
use units::ByteRate;

/// The largest factor by which headers enlarge QEMU's stream, at an Ethernet MTU of 1500 bytes.
const HEADER_SHARE: f64 = FRAME_BYTES as f64 / TCP_PAYLOAD_BYTES as f64;

/// The share by which the bytes on the wire may differ from QEMU's count with headers: acknowledged
/// retransmissions, and the migration's own control traffic.
const WIRE_TOLERANCE: f64 = 0.03;

/// The difference between QEMU's bytes and those on the wire that is tolerated without a report, in bytes:
/// setting up and closing the connections, and data sent after QEMU's last answer.
const WIRE_FLOOR: f64 = 1e6;

/// The difference between two dirty rates that is tolerated without a report, in bytes per second: two pages
/// of 4 KiB in the tenth of a second over which the rate is measured.
const RATE_FLOOR: f64 = 1e5;

/// How far a downtime may fall short of a shorter one that it includes, in milliseconds: the accuracy of the
/// guest's downtime.
const DOWNTIME_ACCURACY_MS: f64 = 10.0;

/// The time that the destination may need to load the device state and start the guest, in milliseconds. The
/// guest's clock is stopped during this time; QEMU's downtime leaves it out.
const RESUME_MS: f64 = 100.0;

/// The time that may pass between the guest's first instruction at the destination and its first reply, in
/// milliseconds. The network has to learn the guest's new location, and TCG has to translate all of the
/// guest's code again.
const FIRST_REPLY_MS: f64 = 150.0;

/// The share by which the achieved dirty rate may differ from the requested one before the migration.
const BEFORE_TOLERANCE: f64 = 0.02;

/// The share by which the achieved dirty rate may differ from the requested one during the migration, when
/// the migration competes with the guest for the host's CPUs.
const DURING_TOLERANCE: f64 = 0.05;

/// The share by which QEMU may exceed its own bandwidth limit.
const LIMIT_TOLERANCE: f64 = 0.1;

/// The time over which QEMU averages what it sends, in seconds (`BUFFER_DELAY` in migration/options.h): it
/// may send the data of one such window in a single burst, at the beginning and at the end of the measured
/// interval.
const LIMIT_WINDOW_S: f64 = 0.1;

/// The data that QEMU may have sent before it counts it: its buffer holds 64 entries, which make 32 pages.
const LIMIT_CHUNK_BYTES: f64 = 2.0 * 32.0 * 4104.0;

/// Returns how long the last byte that QEMU has handed to TCP may take to reach the destination, in
/// milliseconds: the time to send what TCP's buffers hold, plus the delay.
fn in_tcp_ms(link: &Profile) -> f64 {
    let delay = link.delay.as_millis_f64() * f64::from(2 * tcp_buffers::ROUND_TRIPS + 1);
    let send = |rate: ByteRate| tcp_buffers::KERNEL_LIMIT as f64 * 1e3 / rate.get().max(1) as f64;
    delay.max(link.rate.map_or(0.0, |rate| send(rate.to_byte_rate())))
}

/// Returns the disagreements between the figures of one attempt over this link, one sentence each.
pub fn disagreements(measured: &Measured, link: &Profile) -> Vec<String> {
    bytes(measured, link)
        .into_iter()
        .chain(downtimes(measured, link))
        .chain(rates(&measured.stress))
        .collect()
}

/// Compares QEMU's count of the bytes that it sent with the link's.
fn bytes(measured: &Measured, link: &Profile) -> Option<String> {
    let (qemu, wire) = measured.transferred.qemu_bytes.zip(measured.transferred.wire_bytes)?;
    let expected = qemu as f64 * HEADER_SHARE;
    // If the migration was given up, the data that TCP held then was never sent.
    let most_held = tcp_buffers::bytes(link).max(tcp_buffers::KERNEL_LIMIT) as f64;
    let held = if measured.total_time_ms.is_none() { most_held } else { 0.0 };
    let tolerance = (expected * WIRE_TOLERANCE).max(WIRE_FLOOR);
    // A duplicate crosses the wire too, and a damaged packet is sent once more.
    let repeated = expected * (link.duplicate.fraction() + link.corrupt.fraction());
    let agree = (-tolerance - held..=tolerance + repeated).contains(&(wire as f64 - expected));
    (!agree).then(|| {
        format!(
            "QEMU counted {:.1} MB, which is {:.1} MB with headers, but the link counted {:.1} MB",
            qemu as f64 / 1e6,
            expected / 1e6,
            wire as f64 / 1e6,
        )
    })
}

/// Compares the guest's downtime with that of QEMU and with that of a client.
fn downtimes(measured: &Measured, link: &Profile) -> Vec<String> {
    let downtime = &measured.downtime_ms;
    let Some(guest) = downtime.guest else { return Vec::new() };
    let mut found = Vec::new();
    if let Some(qemu) = downtime.qemu
        && !(-DOWNTIME_ACCURACY_MS..=RESUME_MS + in_tcp_ms(link)).contains(&(guest - qemu))
    {
        found.push(format!(
            "QEMU reports a downtime of {qemu:.0} ms, but the guest's clock lost {guest:.0} ms"
        ));
    }
    // A guest that waits for pages after post-copy answers no client, but its clock runs.
    let waited = measured.postcopy.vcpus_blocked_ms.iter().max().map_or(0.0, |ms| *ms as f64);
    if let (Some(client), Some(probe)) = (downtime.client, &measured.probe) {
        let interval = probe.interval_ns as f64 / 1e6;
        if !(-DOWNTIME_ACCURACY_MS - interval..=FIRST_REPLY_MS + waited + interval)
            .contains(&(client - guest))
        {
            found.push(format!(
                "the guest's clock lost {guest:.0} ms, but a client got no reply for {client:.0} ms"
            ));
        }
    }
    // Even if the gap has no end, its lower bound can contradict the guest's figure.
    if let (None, Some(client)) = (downtime.client, downtime.client_at_least)
        && client - guest > FIRST_REPLY_MS + waited
    {
        found.push(format!(
            "the guest's clock lost {guest:.0} ms, but a client got no reply for at least {client:.0} ms"
        ));
    }
    found
}

/// Compares the dirty rates that the guest achieved with the requested ones.
fn rates(stress: &Stress) -> impl Iterator<Item = String> {
    let mut rates = vec![("before the migration".into(), stress.requested, stress.before, BEFORE_TOLERANCE)];
    if stress.stretches.is_empty() {
        rates.push(("during the migration".into(), stress.requested, stress.during, DURING_TOLERANCE));
    }
    for RateInterval { from_ms, to_ms, requested, achieved } in &stress.stretches {
        let when = format!("from {:.1} s to {:.1} s of the migration", from_ms / 1e3, to_ms / 1e3);
        rates.push((when, *requested, *achieved, DURING_TOLERANCE));
    }
    rates.into_iter().filter_map(|(when, requested, achieved, tolerance)| {
        let (requested, achieved) = (requested? as f64, achieved?);
        ((achieved - requested).abs() > (requested * tolerance).max(RATE_FLOOR)).then(|| {
            format!(
                "the requested dirty rate was {:.1} MB/s, but the guest achieved {:.1} MB/s {when}",
                requested / 1e6,
                achieved / 1e6,
            )
        })
    })
}

/// Returns a sentence if QEMU sent far more than its own bandwidth limit allows while the guest ran at the
/// source. QEMU does not apply the limit to the switchover.
///
/// QEMU 10 exceeds every limit up to 1 MB/s: it sends 32 pages before it looks at the limit again, every 0.1
/// s, and so at least 1.3 MB/s.
pub fn limit_exceeded(measured: &Measured, migrate: &Migrate) -> Option<String> {
    let limit = migrate.max_bandwidth?;
    let SentWhileRunning { bytes, duration_ms } = measured.transferred.while_running?;
    let (rate, seconds) = (limit.to_byte_rate().get() as f64, duration_ms / 1e3);
    let allowed = rate * (seconds * (1.0 + LIMIT_TOLERANCE) + 2.0 * LIMIT_WINDOW_S) + LIMIT_CHUNK_BYTES;
    (seconds > 0.0 && bytes as f64 > allowed).then(|| {
        format!(
            "QEMU was told to send at most {limit}, but it sent {:.1} MB/s while the guest ran at the source",
            bytes as f64 / seconds / 1e6
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::record::Probe;
    use units::{BitRate, Span};

    fn measured() -> Measured {
        let mut m = Measured::default();
        m.transferred.qemu_bytes = Some(472_000_000);
        m.transferred.wire_bytes = Some(494_000_000);
        m.downtime_ms.qemu = Some(60.0);
        m.downtime_ms.guest = Some(63.0);
        m.downtime_ms.client = Some(75.0);
        m.probe = Some(Probe {
            interval_ns: 10_000_000,
            sent: 9,
            received: 8,
            largest_gap_ns: None,
            median_gap_ns: None,
            open_gap_ns: None,
        });
        m.stress.requested = Some(96_000_000);
        m.stress.before = Some(95_900_000.0);
        m
    }

    #[test]
    fn figures_that_agree_are_not_reported() {
        let link = Profile::default();
        assert_eq!(disagreements(&measured(), &link), Vec::<String>::new());
        assert_eq!(disagreements(&Measured::default(), &link), Vec::<String>::new());
    }

    #[test]
    fn data_held_by_tcp_on_a_link_with_a_delay_is_allowed_for() {
        let rate = Some(BitRate::new(936_000_000));
        let link = Profile { rate, delay: Span::from_millis(40), ..Profile::default() };
        let count = |guest, wire, total_time_ms| {
            let mut m = measured();
            m.downtime_ms.guest = Some(guest);
            m.downtime_ms.client = Some(guest);
            m.transferred.wire_bytes = Some(wire);
            m.total_time_ms = total_time_ms;
            disagreements(&m, &link).len()
        };
        // 60 ms as QEMU reports, 9 x 40 ms in TCP and on the link, 100 ms to resume.
        assert_eq!(count(519.0, 494_000_000, Some(5000.0)), 0);
        assert_eq!(count(521.0, 494_000_000, Some(5000.0)), 1);
        // 4 x 80 ms of 117 MB/s are 37 MB.
        assert_eq!(count(63.0, 450_000_000, Some(5000.0)), 1);
        assert_eq!(count(63.0, 450_000_000, None), 0);
        assert_eq!(count(63.0, 430_000_000, None), 1);
        assert_eq!(count(63.0, 520_000_000, None), 1);
    }

    #[test]
    fn data_held_by_tcp_on_a_slow_link_is_allowed_for() {
        let link = Profile { rate: Some(BitRate::new(20_000_000)), ..Profile::default() };
        let count = |guest, wire, total_time_ms| {
            let mut m = measured();
            m.downtime_ms.qemu = Some(50_000.0);
            m.downtime_ms.guest = Some(guest);
            m.downtime_ms.client = Some(guest);
            m.transferred.qemu_bytes = Some(20_000_000);
            m.transferred.wire_bytes = Some(wire);
            m.total_time_ms = total_time_ms;
            disagreements(&m, &link).len()
        };
        // 4 MiB at 2.5 MB/s are 1.7 s.
        assert_eq!(count(51_700.0, 20_900_000, Some(60_000.0)), 0);
        assert_eq!(count(51_900.0, 20_900_000, Some(60_000.0)), 1);
        assert_eq!(count(50_000.0, 17_000_000, None), 0);
        assert_eq!(count(50_000.0, 17_000_000, Some(60_000.0)), 1);
        assert_eq!(count(50_000.0, 15_000_000, None), 1);
    }

    #[test]
    fn differences_too_small_to_mean_anything_are_not_reported() {
        let count = |change: &dyn Fn(&mut Measured)| {
            let mut m = Measured::default();
            change(&mut m);
            disagreements(&m, &Profile::default())
        };
        // A migration that was given up before it sent anything, and a small one.
        for (qemu, wire) in [(0, 0), (0, 74), (0, 950_000), (600, 40_000), (1_000_000, 2_000_000)] {
            let found = count(&|m| {
                m.transferred.qemu_bytes = Some(qemu);
                m.transferred.wire_bytes = Some(wire);
                m.total_time_ms = Some(5e3);
            });
            assert_eq!(found, Vec::<String>::new(), "{qemu} and {wire}");
        }
        // One page too many, and a low rate that is a page short.
        for (requested, achieved) in [(0, 40_960.0), (0, 4e4), (100_000, 59_040.0), (1_000_000, 959_040.0)] {
            let found = count(&|m| {
                m.stress.requested = Some(requested);
                m.stress.before = Some(achieved);
                m.stress.during = Some(achieved);
            });
            assert_eq!(found, Vec::<String>::new(), "{requested} and {achieved}");
        }
        let wrong = count(&|m| {
            m.transferred.qemu_bytes = Some(0);
            m.transferred.wire_bytes = Some(1_100_000);
            m.stress.requested = Some(0);
            m.stress.during = Some(210_000.0);
        });
        assert_eq!(wrong.len(), 2, "{wrong:?}");
    }

    #[test]
    fn packets_that_the_link_repeats_are_allowed_for() {
        let link = |text: &str| serde_json::from_str::<Profile>(text).unwrap();
        let mut m = measured();
        m.transferred.wire_bytes = Some(541_000_000);
        assert_eq!(disagreements(&m, &Profile::default()).len(), 1);
        assert_eq!(disagreements(&m, &link(r#"{ "duplicate": "10%" }"#)), Vec::<String>::new());
        assert_eq!(disagreements(&m, &link(r#"{ "corrupt": "10%" }"#)), Vec::<String>::new());
        m.transferred.wire_bytes = Some(600_000_000);
        assert_eq!(disagreements(&m, &link(r#"{ "duplicate": "10%" }"#)).len(), 1);
    }

    #[test]
    fn what_tcp_held_when_a_migration_was_given_up_is_allowed_for_without_a_delay_too() {
        let count = |wire, total_time_ms| {
            let mut m = Measured { total_time_ms, ..Measured::default() };
            m.transferred.qemu_bytes = Some(10_000_000);
            m.transferred.wire_bytes = Some(wire);
            disagreements(&m, &Profile::default()).len()
        };
        assert_eq!(count(6_500_000, None), 0);
        assert_eq!(count(6_500_000, Some(5e3)), 1);
        assert_eq!(count(5_000_000, None), 1);
    }

    #[test]
    fn what_qemu_sent_is_compared_with_its_own_limit() {
        let found = |limit: &str, bytes, duration_ms| {
            let migrate = Migrate { max_bandwidth: Some(limit.parse().unwrap()), ..Migrate::default() };
            let mut m = measured();
            m.transferred.while_running = Some(SentWhileRunning { bytes, duration_ms });
            limit_exceeded(&m, &migrate)
        };
        // How QEMU 10 behaves at every limit up to 1 MB/s.
        for limit in ["10B/s", "100kB/s", "8mbit"] {
            let sentence = found(limit, 26_200_000, 20_000.0).unwrap();
            let expected = format!("at most {limit}, but it sent 1.3 MB/s while");
            assert!(sentence.contains(&expected), "{sentence}");
        }
        assert_eq!(found("1.2MB/s", 26_200_000, 20_000.0), None);
        // Even a migration of a few samples shows that a limit is ignored.
        assert!(found("10MB/s", 60_000_000, 600.0).is_some());
        // What a limit of 50 MB/s allows, and the bursts that QEMU sends at both ends.
        assert_eq!(found("50MB/s", 100_000_000, 2000.0), None);
        assert_eq!(found("50MB/s", 110_000_000, 2000.0), None);
        assert!(found("50MB/s", 121_000_000, 2000.0).is_some());
        assert_eq!(found("50MB/s", 10_000_000, 100.0), None);
        assert_eq!(found("50MB/s", 10_000_000, 0.0), None);
        let unlimited = measured();
        assert_eq!(limit_exceeded(&unlimited, &Migrate::default()), None);
    }

    #[test]
    fn each_pair_of_figures_is_compared() {
        let found = |change: fn(&mut Measured)| {
            let mut m = measured();
            change(&mut m);
            disagreements(&m, &Profile::default()).join("; ")
        };
        assert!(found(|m| m.transferred.wire_bytes = Some(400_000_000)).contains("link counted 400.0 MB"));
        assert!(found(|m| m.downtime_ms.qemu = Some(100.0)).contains("a downtime of 100 ms"));
        assert!(found(|m| m.downtime_ms.guest = Some(190.0)).contains("a downtime of 60 ms"));
        assert!(found(|m| m.downtime_ms.client = Some(300.0)).contains("no reply for 300 ms"));
        assert!(found(|m| m.downtime_ms.client = Some(30.0)).contains("no reply for 30 ms"));
        assert!(found(|m| m.stress.before = Some(90e6)).contains("achieved 90.0 MB/s before"));
        assert!(found(|m| m.stress.during = Some(90e6)).contains("achieved 90.0 MB/s during"));
    }

    #[test]
    fn a_rate_that_changes_is_compared_interval_by_interval() {
        let interval = |(requested, achieved)| RateInterval { from_ms: 0.0, to_ms: 2e3, requested, achieved };
        let mut m = measured();
        // An average over different rates is not compared with any of them.
        m.stress.during = Some(50e6);
        m.stress.stretches =
            [(Some(96_000_000), Some(96e6)), (Some(0), Some(0.0)), (None, Some(1e9))].map(interval).into();
        assert_eq!(disagreements(&m, &Profile::default()), Vec::<String>::new());
        m.stress.stretches[1].achieved = Some(1e6);
        assert_eq!(
            disagreements(&m, &Profile::default()),
            ["the requested dirty rate was 0.0 MB/s, but the guest achieved 1.0 MB/s from 0.0 s to 2.0 s \
              of the migration"]
        );
    }
}
