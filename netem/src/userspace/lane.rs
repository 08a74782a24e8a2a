//! [`LinkModel`]: decides what happens to each packet in one direction of a link, and when.
//!
//! It only computes with the times that it is given. It does not read clocks or devices, so it can be tested
//! without them.

use super::chance::{CorrelatedEvent, Gate, Jitter, Loss};
use crate::{ethernet::MTU, profile::Profile};
use units::random::Random;

/// A time in nanoseconds since the start of the forwarder, or a duration.
pub(super) type Nanos = u64;

/// The outcome for one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PacketOutcome {
    /// Lost because of `loss` or `loss_bursts`.
    Lost,
    /// Dropped because the queue or the delay line is full.
    Dropped,
    /// Delivered, with or without a fault.
    Delivered {
        /// When the packet arrives at the other end.
        due: Nanos,
        /// Whether the packet skips the delay.
        reordered: bool,
        /// Whether the packet is delivered twice.
        duplicated: bool,
        /// Whether one bit of the packet is inverted.
        corrupted: bool,
    },
}

/// The model of one direction of a link: a bottleneck with a queue, then a delay line.
#[derive(Debug)]
pub(super) struct LinkModel {
    profile: Profile,
    bytes_per_second: Option<u64>,
    burst_nanos: Nanos,
    queue_nanos: Nanos,
    limit: usize,
    random: Random,
    loss: Loss,
    duplicate: CorrelatedEvent,
    corrupt: CorrelatedEvent,
    reorder: CorrelatedEvent,
    /// The number of packets since the last reordered one.
    since_reordered: u32,
    jitter: Jitter,
    gate: Gate,
    /// When the bottleneck will have sent all packets so far.
    idle_at: Nanos,
    /// When the latest packet that was not reordered arrives.
    last_due: Nanos,
}

impl LinkModel {
    pub(super) fn new(profile: &Profile, seed: u64) -> Self {
        let mut link = Self {
            profile: Profile::default(),
            bytes_per_second: None,
            burst_nanos: 0,
            queue_nanos: 0,
            limit: usize::MAX,
            random: Random::new(seed),
            loss: Loss::Random(CorrelatedEvent::new(profile.loss, profile.loss_correlation)),
            duplicate: CorrelatedEvent::new(profile.duplicate, profile.duplicate_correlation),
            corrupt: CorrelatedEvent::new(profile.corrupt, profile.corrupt_correlation),
            reorder: CorrelatedEvent::new(profile.reorder, profile.reorder_correlation),
            since_reordered: 0,
            jitter: Jitter::new(profile.distribution, profile.jitter_correlation),
            gate: Gate::default(),
            idle_at: 0,
            last_due: 0,
        };
        link.change(profile);
        link
    }

    /// Applies another profile, starting with the next packet. Packets in the queue or the delay line keep
    /// their times.
    pub(super) fn change(&mut self, profile: &Profile) {
        self.bytes_per_second = profile.rate.map(|r| r.to_byte_rate().get());
        // TUN devices have the MTU of Ethernet too.
        self.burst_nanos = self.nanos(profile.burst_bytes(MTU));
        self.queue_nanos = self.nanos(profile.queue_bytes());
        self.limit = profile.limit_packets() as usize;
        self.loss = match profile.loss_bursts {
            Some(model) => Loss::Bursts { model, bad: false },
            None => Loss::Random(CorrelatedEvent::new(profile.loss, profile.loss_correlation)),
        };
        self.duplicate = CorrelatedEvent::new(profile.duplicate, profile.duplicate_correlation);
        self.corrupt = CorrelatedEvent::new(profile.corrupt, profile.corrupt_correlation);
        self.reorder = CorrelatedEvent::new(profile.reorder, profile.reorder_correlation);
        self.jitter = Jitter::new(profile.distribution, profile.jitter_correlation);
        self.profile = profile.clone();
    }

    /// Decides what happens to a packet that arrives `now` and is `frame_bytes` long on the wire, while
    /// `pending` others are in the delay line.
    pub(super) fn arrive(&mut self, now: Nanos, frame_bytes: u64, pending: usize) -> PacketOutcome {
        if self.loss.happens(&mut self.random) {
            return PacketOutcome::Lost;
        }
        let backlog = self.idle_at.saturating_sub(now);
        let transmission = self.nanos(frame_bytes);
        let full =
            self.bytes_per_second.is_some() && backlog + transmission > self.queue_nanos && backlog > 0;
        if full || (self.profile.needs_delay_line() && pending >= self.limit) {
            return PacketOutcome::Dropped;
        }
        // An idle bottleneck accumulates tokens until the bucket is full.
        self.idle_at = self.idle_at.max(now.saturating_sub(self.burst_nanos)) + transmission;
        let sent = self.idle_at.max(now);

        let reordered = self.is_reordered();
        let due = if reordered {
            sent
        } else {
            let due = self.due(sent);
            self.last_due = self.last_due.max(due);
            due
        };
        PacketOutcome::Delivered {
            due,
            reordered,
            duplicated: self.duplicate.happens(&mut self.random),
            corrupted: self.corrupt.happens(&mut self.random),
        }
    }

    /// Inverts one random bit of a packet, if it is not empty.
    pub(super) fn corrupt(&mut self, packet: &mut [u8]) {
        if !packet.is_empty() {
            let bit = self.random.below(packet.len() as u64 * 8) as usize;
            packet[bit / 8] ^= 1 << (bit % 8);
        }
    }

    fn is_reordered(&mut self) -> bool {
        self.since_reordered = self.since_reordered.saturating_add(1);
        let reordered = !self.profile.reorder.is_zero()
            && self.since_reordered >= self.profile.reorder_gap.unwrap_or(1)
            && self.reorder.happens(&mut self.random);
        if reordered {
            self.since_reordered = 0;
        }
        reordered
    }

    /// Returns when a packet arrives if it leaves the bottleneck at `sent` and is not reordered.
    fn due(&mut self, sent: Nanos) -> Nanos {
        let (delay, jitter) = (self.profile.delay.as_nanos(), self.profile.jitter.as_nanos());
        if jitter > 0 && !self.profile.has_gate() {
            // Each packet on its own, so that the mean does not depend on how close together packets are.
            let deviation = self.jitter.next(&mut self.random) * jitter as f64;
            return sent + delay.saturating_add_signed(deviation as i64);
        }
        let due = if jitter > 0 {
            self.gate.pass(sent + delay - jitter, jitter, &mut self.random)
        } else {
            sent + delay
        };
        // A shorter delay does not reorder packets either.
        due.max(self.last_due)
    }

    /// Returns the time that `bytes` take at the rate; 0 without a rate.
    fn nanos(&self, bytes: u64) -> Nanos {
        let nanos = |rate| (u128::from(bytes) * 1_000_000_000 / u128::from(rate)) as u64;
        self.bytes_per_second.map_or(0, nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::percent::Percent;
    use units::{BitRate, Bytes, Span};

    const MILLI: Nanos = 1_000_000;

    fn due(outcome: PacketOutcome) -> Nanos {
        match outcome {
            PacketOutcome::Delivered { due, .. } => due,
            other => panic!("{other:?}"),
        }
    }

    /// Returns a profile with a rate in Mbit/s and without a bucket.
    fn mbit(rate: u64) -> Profile {
        let rate = Some(BitRate::new(rate * 1_000_000));
        Profile { rate, burst: Some(Bytes::new(0)), ..Profile::default() }
    }

    #[test]
    fn an_empty_profile_delivers_packets_at_once() {
        let mut link = LinkModel::new(&Profile::default(), 0);
        assert_eq!(due(link.arrive(5, 1514, 1_000_000)), 5);
    }

    #[test]
    fn packets_are_spaced_by_the_rate_and_delayed() {
        // 1000 bytes at 8 Mbit/s take a millisecond.
        let mut link = LinkModel::new(&Profile { delay: Span::from_millis(20), ..mbit(8) }, 0);
        for n in 1..=5 {
            assert_eq!(due(link.arrive(0, 1000, 0)), (20 + n) * MILLI);
        }
        assert_eq!(due(link.arrive(100 * MILLI, 1000, 0)), 121 * MILLI);
    }

    #[test]
    fn an_idle_link_accumulates_at_most_the_burst() {
        let mut link = LinkModel::new(&Profile { burst: Some(Bytes::new(3000)), ..mbit(8) }, 0);
        let now = 1000 * MILLI;
        let dues: Vec<_> = (0..5).map(|_| due(link.arrive(now, 1000, 0)) - now).collect();
        assert_eq!(dues, [0, 0, 0, MILLI, 2 * MILLI]);
    }

    #[test]
    fn the_default_bucket_is_that_of_the_kernel_backend() {
        let gigabit = Profile { burst: None, ..mbit(1000) };
        let mut link = LinkModel::new(&gigabit, 0);
        let now = 1000 * MILLI;
        // 2 ms of the rate: 250 kB.
        let dues: Vec<_> = (0..4).map(|_| due(link.arrive(now, 125_000, 0)) - now).collect();
        assert_eq!(dues, [0, 0, MILLI, 2 * MILLI]);
    }

    #[test]
    fn a_full_queue_drops_arriving_packets() {
        let mut link = LinkModel::new(&Profile { queue: Some(Bytes::new(10_000)), ..mbit(8) }, 0);
        let outcomes: Vec<_> = (0..12).map(|_| link.arrive(0, 1000, 0)).collect();
        assert_eq!(outcomes.iter().filter(|f| **f == PacketOutcome::Dropped).count(), 2);
        assert_eq!(outcomes[10..], [PacketOutcome::Dropped; 2]);
        // A packet that is larger than the queue passes if the queue is empty.
        assert_eq!(due(link.arrive(1000 * MILLI, 20_000, 0)), 1020 * MILLI);
    }

    #[test]
    fn a_full_delay_line_drops_arriving_packets() {
        let profile = Profile { delay: Span::from_millis(1), limit: Some(3), ..Profile::default() };
        let mut link = LinkModel::new(&profile, 0);
        assert_eq!(due(link.arrive(0, 1514, 2)), MILLI);
        assert_eq!(link.arrive(0, 1514, 3), PacketOutcome::Dropped);
    }

    /// Sends packets at this interval and returns their delays in milliseconds, and how many were overtaken.
    fn delays(profile: &str, interval: Nanos) -> (Vec<f64>, usize) {
        const PACKETS: u64 = 200_000;
        let mut link = LinkModel::new(&serde_json::from_str(profile).unwrap(), 7);
        let dues: Vec<Nanos> = (0..PACKETS).map(|n| due(link.arrive(n * interval, 1514, 0))).collect();
        let delays = (0..).zip(&dues).map(|(n, due)| (due - n * interval) as f64 / MILLI as f64);
        (delays.collect(), dues.windows(2).filter(|two| two[1] < two[0]).count())
    }

    fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (mean, variance.sqrt())
    }

    #[test]
    fn jitter_keeps_order_mean_and_deviation_at_every_packet_rate() {
        for interval in [100 * MILLI, 10 * MILLI, MILLI, 3 * MILLI / 10] {
            let (delays, overtaken) = delays(r#"{"delay":"20ms","jitter":"10ms"}"#, interval);
            assert_eq!(overtaken, 0, "{interval} ns");
            assert!(delays.iter().all(|d| *d >= 10.0));
            let (mean, deviation) = mean_and_deviation(&delays);
            // Five standard deviations of the mean of a process that is correlated over one jitter.
            let independent = (delays.len() as f64).min(delays.len() as f64 * interval as f64 / 20e6);
            let bound = 5.0 * 10.0 / independent.sqrt();
            assert!((mean - 20.0).abs() < bound, "{interval} ns: mean {mean}, bound {bound}");
            assert!((deviation - 10.0).abs() < 2.0 * bound, "{interval} ns: deviation {deviation}");
        }
    }

    #[test]
    fn jitter_of_each_packet_by_itself_keeps_the_mean_but_not_the_order() {
        // The Pareto table ends at 4, so its mean and its deviation are below 0 and 1.
        for (distribution, mean_is, standard) in
            [("uniform", 20.0, 5.0 / 3.0_f64.sqrt()), ("normal", 20.0, 5.0), ("pareto", 19.83, 4.1)]
        {
            let profile = format!(r#"{{"delay":"20ms","jitter":"5ms","distribution":"{distribution}"}}"#);
            for interval in [100 * MILLI, MILLI, 3 * MILLI / 10] {
                let (delays, overtaken) = delays(&profile, interval);
                let (mean, deviation) = mean_and_deviation(&delays);
                assert!((mean - mean_is).abs() < 0.1, "{distribution}, {interval} ns: mean {mean}");
                assert!((deviation - standard).abs() < 0.1 * standard, "{distribution}: {deviation}");
                assert_eq!(
                    overtaken > 0,
                    interval < 20 * MILLI,
                    "{distribution}, {interval} ns: {overtaken}"
                );
            }
        }
    }

    #[test]
    fn at_most_every_nth_packet_is_reordered_and_skips_the_delay() {
        let profile = Profile {
            delay: Span::from_millis(10),
            reorder: Percent::ALWAYS,
            reorder_gap: Some(4),
            ..Profile::default()
        };
        let mut link = LinkModel::new(&profile, 0);
        let dues: Vec<_> = (0..8).map(|_| due(link.arrive(0, 1514, 0)) / MILLI).collect();
        assert_eq!(dues, [10, 10, 10, 0, 10, 10, 10, 0]);
    }

    #[test]
    fn a_change_does_not_affect_queued_packets() {
        let mut link = LinkModel::new(&mbit(8), 0);
        assert_eq!(due(link.arrive(0, 1000, 0)), MILLI);
        link.change(&mbit(80));
        assert_eq!(due(link.arrive(0, 1000, 0)), MILLI + MILLI / 10);
    }

    #[test]
    fn a_probability_of_100_percent_affects_every_packet() {
        let all = Percent::ALWAYS;
        let mut link = LinkModel::new(&Profile { loss: all, ..Profile::default() }, 0);
        assert_eq!(link.arrive(0, 1514, 0), PacketOutcome::Lost);
        let faults = Profile { duplicate: all, corrupt: all, ..Profile::default() };
        let outcome = LinkModel::new(&faults, 0).arrive(0, 1514, 0);
        assert!(
            matches!(outcome, PacketOutcome::Delivered { duplicated: true, corrupted: true, .. }),
            "{outcome:?}"
        );
    }
}
