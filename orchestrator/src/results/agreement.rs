//! One thing measured twice: do the figures agree?
//!
//! Nothing is corrected or averaged here. What does not agree is said, and both figures stand.

use crate::{
    measure::tcp_buffers,
    results::record::{Measured, Stretch},
};
use netem::{
    Profile,
    ethernet::{FRAME_BYTES, TCP_PAYLOAD_BYTES},
};

/// The most that headers add to QEMU's stream at an Ethernet MTU of 1500 bytes.
const HEADER_SHARE: f64 = FRAME_BYTES as f64 / TCP_PAYLOAD_BYTES as f64;

/// How far the bytes on the wire may be from QEMU's count with headers added: acknowledged retransmissions
/// and the migration's own control traffic.
const WIRE_TOLERANCE: f64 = 0.03;

/// How much less than another a downtime may be that covers it, in milliseconds: the accuracy of the guest's.
const DOWNTIME_ACCURACY_MS: f64 = 10.0;

/// What the destination may need to load the device state and start the guest, in milliseconds: the guest's
/// clock stands still for it, QEMU's figure leaves it out.
const RESUME_MS: f64 = 100.0;

/// What may pass between the guest's first instruction at the destination and its first reply, in
/// milliseconds: the network has to learn where it is, and TCG has to translate all of its code anew.
const FIRST_REPLY_MS: f64 = 150.0;

/// How far the achieved rate may be from the requested one before the migration.
const BEFORE_TOLERANCE: f64 = 0.02;

/// And during it, when the guest shares the machine's CPUs with the migration.
const DURING_TOLERANCE: f64 = 0.05;

/// How long after QEMU has handed its last byte to TCP the destination may get it, in milliseconds: what
/// TCP's buffers may hold beyond the usual on a link with a delay, and the delay itself.
fn in_tcp_ms(link: &Profile) -> f64 {
    link.delay.as_millis_f64() * f64::from(2 * tcp_buffers::ROUND_TRIPS + 1)
}

/// The disagreements within the figures of one attempt over this link, in words.
pub fn disagreements(measured: &Measured, link: &Profile) -> Vec<String> {
    let mut found = Vec::new();
    if let (Some(qemu), Some(wire)) = (measured.transferred.qemu_bytes, measured.transferred.wire_bytes) {
        let expected = qemu as f64 * HEADER_SHARE;
        // What TCP held when the migration was given up has never left.
        let held = if measured.total_time_ms.is_none() { tcp_buffers::bytes(link) as f64 } else { 0.0 };
        let tolerance = expected * WIRE_TOLERANCE;
        if !(-tolerance - held..=tolerance).contains(&(wire as f64 - expected)) {
            found.push(format!(
                "QEMU counts {:.1} MB, which is {:.1} MB with headers; the link counts {:.1} MB",
                qemu as f64 / 1e6,
                expected / 1e6,
                wire as f64 / 1e6,
            ));
        }
    }
    let downtime = &measured.downtime_ms;
    if let (Some(qemu), Some(guest)) = (downtime.qemu, downtime.guest)
        && !(-DOWNTIME_ACCURACY_MS..=RESUME_MS + in_tcp_ms(link)).contains(&(guest - qemu))
    {
        found.push(format!("QEMU reports {qemu:.0} ms of downtime, the guest's clock lost {guest:.0} ms"));
    }
    if let (Some(guest), Some(client), Some(probe)) = (downtime.guest, downtime.client, &measured.probe) {
        let interval = probe.interval_ns as f64 / 1e6;
        if !(-DOWNTIME_ACCURACY_MS - interval..=FIRST_REPLY_MS + interval).contains(&(client - guest)) {
            found.push(format!(
                "the guest's clock lost {guest:.0} ms, a client had no answer for {client:.0} ms"
            ));
        }
    }
    let stress = &measured.stress;
    let mut rates = vec![("before the migration".into(), stress.requested, stress.before, BEFORE_TOLERANCE)];
    if stress.stretches.is_empty() {
        rates.push(("during the migration".into(), stress.requested, stress.during, DURING_TOLERANCE));
    }
    for Stretch { from_ms, to_ms, requested, achieved } in &stress.stretches {
        let when = format!("from {:.1} s to {:.1} s of the migration", from_ms / 1e3, to_ms / 1e3);
        rates.push((when, *requested, *achieved, DURING_TOLERANCE));
    }
    for (when, requested, achieved, tolerance) in rates {
        if let (Some(requested), Some(achieved)) = (requested, achieved)
            && (achieved - requested as f64).abs() > requested as f64 * tolerance
        {
            found.push(format!(
                "{:.1} MB/s were to be dirtied, {:.1} MB/s were {when}",
                requested as f64 / 1e6,
                achieved / 1e6,
            ));
        }
    }
    found
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
            largest_gap_ns: 0,
            median_gap_ns: 0,
        });
        m.stress.requested = Some(96_000_000);
        m.stress.before = Some(95_900_000.0);
        m
    }

    #[test]
    fn figures_that_agree_are_not_mentioned() {
        let link = Profile::default();
        assert_eq!(disagreements(&measured(), &link), Vec::<String>::new());
        assert_eq!(disagreements(&Measured::default(), &link), Vec::<String>::new());
    }

    #[test]
    fn what_tcp_holds_on_a_long_link_is_allowed_for() {
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
        // 60 ms by QEMU's account, 9 x 40 ms in TCP and on the link, 100 ms to resume.
        assert_eq!(count(519.0, 494_000_000, Some(5000.0)), 0);
        assert_eq!(count(521.0, 494_000_000, Some(5000.0)), 1);
        // 4 x 80 ms of 117 MB/s are 37 MB.
        assert_eq!(count(63.0, 450_000_000, Some(5000.0)), 1);
        assert_eq!(count(63.0, 450_000_000, None), 0);
        assert_eq!(count(63.0, 430_000_000, None), 1);
        assert_eq!(count(63.0, 520_000_000, None), 1);
    }

    #[test]
    fn each_pair_of_figures_is_compared() {
        let said = |change: fn(&mut Measured)| {
            let mut m = measured();
            change(&mut m);
            disagreements(&m, &Profile::default()).join("; ")
        };
        assert!(said(|m| m.transferred.wire_bytes = Some(400_000_000)).contains("the link counts 400.0 MB"));
        assert!(said(|m| m.downtime_ms.qemu = Some(100.0)).starts_with("QEMU reports 100 ms"));
        assert!(said(|m| m.downtime_ms.guest = Some(190.0)).starts_with("QEMU reports 60 ms"));
        assert!(said(|m| m.downtime_ms.client = Some(300.0)).contains("no answer for 300 ms"));
        assert!(said(|m| m.downtime_ms.client = Some(30.0)).contains("no answer for 30 ms"));
        assert!(said(|m| m.stress.before = Some(90e6)).contains("90.0 MB/s were before"));
        assert!(said(|m| m.stress.during = Some(90e6)).contains("90.0 MB/s were during"));
    }

    #[test]
    fn a_rate_that_changes_is_compared_part_by_part() {
        let part = |requested, achieved| Stretch { from_ms: 0.0, to_ms: 2e3, requested, achieved };
        let mut m = measured();
        // What the average over different rates is, says nothing.
        m.stress.during = Some(50e6);
        m.stress.stretches =
            vec![part(Some(96_000_000), Some(96e6)), part(Some(0), Some(0.0)), part(None, Some(1e9))];
        assert_eq!(disagreements(&m, &Profile::default()), Vec::<String>::new());
        m.stress.stretches[1].achieved = Some(1e6);
        assert_eq!(
            disagreements(&m, &Profile::default()),
            ["0.0 MB/s were to be dirtied, 1.0 MB/s were from 0.0 s to 2.0 s of the migration"]
        );
    }
}
