//! [`Lane`]: what happens to each packet of one direction, and when. Pure arithmetic on times that are given
//! to it: no clock, no device, so that it is tested as such.

use super::chance::{Event, Jitter, Loss};
use crate::profile::Profile;
use units::random::Random;

/// A time in nanoseconds since some start.
pub(super) type Nanos = u64;

/// The MTU for which a bucket is sized that no profile sizes: Ethernet's, which TUN devices have as well.
const MTU: u32 = 1500;

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Lost on purpose.
    Lost,
    /// Did not fit into the queue, or into the delay line.
    Dropped,
    /// Arrives.
    Delivered {
        /// When.
        due: Nanos,
        /// Whether it skips the delay.
        reordered: bool,
        /// Whether it arrives twice.
        duplicated: bool,
        /// Whether one of its bits is inverted.
        corrupted: bool,
    },
}

/// One direction of a link: a bottleneck with a queue, then a delay line.
#[derive(Debug)]
pub(super) struct Lane {
    profile: Profile,
    bytes_per_second: Option<u64>,
    burst_nanos: Nanos,
    queue_nanos: Nanos,
    limit: usize,
    random: Random,
    loss: Loss,
    duplicate: Event,
    corrupt: Event,
    reorder: Event,
    /// Packets since the last that was reordered.
    since_reordered: u32,
    jitter: Jitter,
    /// When the bottleneck has sent everything it was given.
    idle_at: Nanos,
    /// When the last packet in order arrives.
    last_due: Nanos,
}

impl Lane {
    pub(super) fn new(profile: &Profile, seed: u64) -> Self {
        let mut lane = Self {
            profile: Profile::default(),
            bytes_per_second: None,
            burst_nanos: 0,
            queue_nanos: 0,
            limit: usize::MAX,
            random: Random::new(seed),
            loss: Loss::Random(Event::new(profile.loss, profile.loss_correlation)),
            duplicate: Event::new(profile.duplicate, profile.duplicate_correlation),
            corrupt: Event::new(profile.corrupt, profile.corrupt_correlation),
            reorder: Event::new(profile.reorder, profile.reorder_correlation),
            since_reordered: 0,
            jitter: Jitter::new(profile.distribution, profile.jitter_correlation),
            idle_at: 0,
            last_due: 0,
        };
        lane.change(profile);
        lane
    }

    /// Another profile from the next packet on. What is queued or under way keeps its time.
    pub(super) fn change(&mut self, profile: &Profile) {
        self.bytes_per_second = profile.rate.map(|r| r.to_byte_rate().get());
        self.burst_nanos = self.nanos(profile.burst_bytes(MTU));
        self.queue_nanos = self.nanos(profile.queue_bytes());
        self.limit = profile.limit_packets() as usize;
        self.loss = match profile.loss_bursts {
            Some(model) => Loss::Bursts { model, bad: false },
            None => Loss::Random(Event::new(profile.loss, profile.loss_correlation)),
        };
        self.duplicate = Event::new(profile.duplicate, profile.duplicate_correlation);
        self.corrupt = Event::new(profile.corrupt, profile.corrupt_correlation);
        self.reorder = Event::new(profile.reorder, profile.reorder_correlation);
        self.jitter = Jitter::new(profile.distribution, profile.jitter_correlation);
        self.profile = profile.clone();
    }

    /// Decides over a packet that arrives `now`, is `frame_bytes` long on the wire, and finds `held` others
    /// in the delay line.
    pub(super) fn arrive(&mut self, now: Nanos, frame_bytes: u64, held: usize) -> Fate {
        if self.loss.happens(&mut self.random) {
            return Fate::Lost;
        }
        let backlog = self.idle_at.saturating_sub(now);
        let transmission = self.nanos(frame_bytes);
        let full =
            self.bytes_per_second.is_some() && backlog + transmission > self.queue_nanos && backlog > 0;
        if full || (self.profile.needs_delay_line() && held >= self.limit) {
            return Fate::Dropped;
        }
        // An idle bottleneck saves up as much as the bucket holds.
        self.idle_at = self.idle_at.max(now.saturating_sub(self.burst_nanos)) + transmission;
        let sent = self.idle_at.max(now);

        let reordered = self.is_reordered();
        let due = if reordered {
            sent
        } else {
            // Jitter alone does not reorder: a packet waits for the one before.
            self.last_due = self.last_due.max(sent + self.delay());
            self.last_due
        };
        Fate::Delivered {
            due,
            reordered,
            duplicated: self.duplicate.happens(&mut self.random),
            corrupted: self.corrupt.happens(&mut self.random),
        }
    }

    /// Inverts a bit.
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

    fn delay(&mut self) -> Nanos {
        let delay = self.profile.delay.as_nanos();
        let jitter = self.profile.jitter.as_nanos();
        if jitter == 0 {
            return delay;
        }
        let deviation = self.jitter.next(&mut self.random) * jitter as f64;
        delay.saturating_add_signed(deviation as i64)
    }

    /// How long bytes take at the rate; no time without one.
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

    fn due(fate: Fate) -> Nanos {
        match fate {
            Fate::Delivered { due, .. } => due,
            other => panic!("{other:?}"),
        }
    }

    /// A rate without a bucket.
    fn mbit(rate: u64) -> Profile {
        let rate = Some(BitRate::new(rate * 1_000_000));
        Profile { rate, burst: Some(Bytes::new(0)), ..Profile::default() }
    }

    #[test]
    fn without_a_profile_packets_pass_at_once() {
        let mut lane = Lane::new(&Profile::default(), 0);
        assert_eq!(due(lane.arrive(5, 1514, 1_000_000)), 5);
    }

    #[test]
    fn packets_follow_each_other_at_the_rate_and_after_the_delay() {
        // 1000 bytes at 8 Mbit/s: a millisecond.
        let mut lane = Lane::new(&Profile { delay: Span::from_millis(20), ..mbit(8) }, 0);
        for n in 1..=5 {
            assert_eq!(due(lane.arrive(0, 1000, 0)), (20 + n) * MILLI);
        }
        assert_eq!(due(lane.arrive(100 * MILLI, 1000, 0)), 121 * MILLI);
    }

    #[test]
    fn a_pause_saves_up_the_burst_and_no_more() {
        let mut lane = Lane::new(&Profile { burst: Some(Bytes::new(3000)), ..mbit(8) }, 0);
        let now = 1000 * MILLI;
        let dues: Vec<_> = (0..5).map(|_| due(lane.arrive(now, 1000, 0)) - now).collect();
        assert_eq!(dues, [0, 0, 0, MILLI, 2 * MILLI]);
    }

    #[test]
    fn a_bucket_that_no_profile_sizes_is_the_kernels() {
        let gigabit = Profile { burst: None, ..mbit(1000) };
        let mut lane = Lane::new(&gigabit, 0);
        let now = 1000 * MILLI;
        // 2 ms of the rate: 250 kB.
        let dues: Vec<_> = (0..4).map(|_| due(lane.arrive(now, 125_000, 0)) - now).collect();
        assert_eq!(dues, [0, 0, MILLI, 2 * MILLI]);
    }

    #[test]
    fn what_does_not_fit_into_the_queue_is_dropped_at_its_tail() {
        let mut lane = Lane::new(&Profile { queue: Some(Bytes::new(10_000)), ..mbit(8) }, 0);
        let fates: Vec<_> = (0..12).map(|_| lane.arrive(0, 1000, 0)).collect();
        assert_eq!(fates.iter().filter(|f| **f == Fate::Dropped).count(), 2);
        assert_eq!(fates[10..], [Fate::Dropped; 2]);
        // One that is larger than the queue passes when nothing waits.
        assert_eq!(due(lane.arrive(1000 * MILLI, 20_000, 0)), 1020 * MILLI);
    }

    #[test]
    fn a_full_delay_line_drops() {
        let profile = Profile { delay: Span::from_millis(1), limit: Some(3), ..Profile::default() };
        let mut lane = Lane::new(&profile, 0);
        assert_eq!(due(lane.arrive(0, 1514, 2)), MILLI);
        assert_eq!(lane.arrive(0, 1514, 3), Fate::Dropped);
    }

    #[test]
    fn jitter_spreads_but_does_not_reorder() {
        let profile =
            Profile { delay: Span::from_millis(10), jitter: Span::from_millis(3), ..Profile::default() };
        let mut lane = Lane::new(&profile, 0);
        let delays: Vec<_> =
            (0..1000).map(|n| due(lane.arrive(n * 10 * MILLI, 1514, 0)) - n * 10 * MILLI).collect();
        assert!(delays.iter().all(|d| (7 * MILLI..=13 * MILLI).contains(d)));
        assert!(delays.iter().any(|d| *d < 8 * MILLI) && delays.iter().any(|d| *d > 12 * MILLI));
        let dues: Vec<_> = (0..1000).map(|n| due(lane.arrive(20_000 * MILLI + n, 1514, 0))).collect();
        assert!(dues.is_sorted());
    }

    #[test]
    fn reordered_packets_skip_the_delay_every_gap_at_most() {
        let profile = Profile {
            delay: Span::from_millis(10),
            reorder: Percent::ALWAYS,
            reorder_gap: Some(4),
            ..Profile::default()
        };
        let mut lane = Lane::new(&profile, 0);
        let dues: Vec<_> = (0..8).map(|_| due(lane.arrive(0, 1514, 0)) / MILLI).collect();
        assert_eq!(dues, [10, 10, 10, 0, 10, 10, 10, 0]);
    }

    #[test]
    fn a_change_keeps_what_is_under_way() {
        let mut lane = Lane::new(&mbit(8), 0);
        assert_eq!(due(lane.arrive(0, 1000, 0)), MILLI);
        lane.change(&mbit(80));
        assert_eq!(due(lane.arrive(0, 1000, 0)), MILLI + MILLI / 10);
    }

    #[test]
    fn certain_loss_loses_all_and_certain_faults_befall_all() {
        let all = Percent::ALWAYS;
        let mut lane = Lane::new(&Profile { loss: all, ..Profile::default() }, 0);
        assert_eq!(lane.arrive(0, 1514, 0), Fate::Lost);
        let faults = Profile { duplicate: all, corrupt: all, ..Profile::default() };
        let fate = Lane::new(&faults, 0).arrive(0, 1514, 0);
        assert!(matches!(fate, Fate::Delivered { duplicated: true, corrupted: true, .. }), "{fate:?}");
    }
}
