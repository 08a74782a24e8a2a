//! [`Profile`]: the effects of one direction of a link on packets.
//!
//! A profile applies to the packets that an interface sends. A symmetric link has the same profile at both of
//! its ends; [`LinkProfile`] has one for each direction. Parsing checks only the syntax.
//! [`Profile::validate`] finds settings that no link can have, such as jitter without a delay.

use crate::{ethernet::HEADER_BYTES, percent::Percent};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use units::{BitRate, Bytes, Span};

/// The effects of one direction of a link on packets. The default has no effect.
///
/// A packet first passes the delay line, where it may be lost, duplicated, corrupted, reordered and delayed.
/// It then waits in the queue of the bottleneck until the rate permits sending it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// The rate of the link. It counts Ethernet frames as the kernel's shapers do, without preamble, frame
    /// check sequence and inter-frame gap: the IP packet and 14 bytes of header. At an MTU of 1500, one TCP
    /// stream carries 1448 bytes of payload in each frame of 1514 bytes. Gigabit Ethernet needs the time of
    /// 1538 bytes for such a frame, so it corresponds to `984mbit`. Between `1kbit` and `10tbit`. Unlimited
    /// when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<BitRate>,
    /// The kernel's shaper that enforces the rate.
    #[serde(skip_serializing_if = "is_default")]
    pub shaper: Shaper,
    /// The burst size: the depth of the token bucket, which an idle link may send in one go. By default the
    /// largest of 2 ms of the rate (above 1 Gbit/s 2 ms for each Gbit/s, up to 10 ms), 80 KiB (or 6 ms of the
    /// rate, if that is less), and two frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<Bytes>,
    /// The size of the queue in front of the bottleneck. Packets that do not fit are dropped (tail drop). By
    /// default the largest of 25 ms of the rate, the bandwidth-delay product and 80 KiB, and at most
    /// `4294967295B`, the limit of the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<Bytes>,
    /// The one-way delay. At most `4min`.
    #[serde(skip_serializing_if = "is_default")]
    pub delay: Span,
    /// The variation of the delay: its standard deviation, or with the distribution `uniform` half of the
    /// width. At most the delay itself, and at most `1s` with the distribution `exponential`, `2147483647ns`
    /// with the others.
    #[serde(skip_serializing_if = "is_default")]
    pub jitter: Span,
    /// How much the delay of a packet depends on the delay of the previous packet, if each packet has its own
    /// (see `distribution`). Only with the backend `userspace`.
    #[serde(skip_serializing_if = "Percent::is_zero")]
    pub jitter_correlation: Percent,
    /// The distribution of the jitter. With the default, packets keep their order; with the others, each
    /// packet has its own delay, and packets overtake each other.
    #[serde(skip_serializing_if = "is_default")]
    pub distribution: Distribution,
    /// The fraction of packets that are lost, each independently unless `loss_correlation` is set.
    #[serde(skip_serializing_if = "Percent::is_zero")]
    pub loss: Percent,
    /// How much the loss of a packet depends on the loss of the previous packet.
    #[serde(skip_serializing_if = "Percent::is_zero")]
    pub loss_correlation: Percent,
    /// Loss in bursts according to the Gilbert-Elliott model. Replaces `loss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_bursts: Option<GilbertElliott>,
    /// The fraction of packets that arrive twice.
    #[serde(skip_serializing_if = "Percent::is_zero")]
    pub duplicate: Percent,
    /// How much the duplication of a packet depends on the duplication of the previous packet. Only with the
    /// backend `userspace`.
    #[serde(skip_serializing_if = "Percent::is_zero")]
    pub duplicate_correlation: Percent,
    /// The fraction of packets in which one random bit is inverted.
    #[serde(skip_serializing_if = "Percent::is_zero")]
    pub corrupt: Percent,
    /// How much the corruption of a packet depends on the corruption of the previous packet. Only with the
    /// backend `userspace`.
    #[serde(skip_serializing_if = "Percent::is_zero")]
    pub corrupt_correlation: Percent,
    /// The fraction of packets that skip the delay and so overtake earlier packets.
    #[serde(skip_serializing_if = "Percent::is_zero")]
    pub reorder: Percent,
    /// How much the reordering of a packet depends on the reordering of the previous packet. Only with the
    /// backend `userspace`.
    #[serde(skip_serializing_if = "Percent::is_zero")]
    pub reorder_correlation: Percent,
    /// Only every Nth packet may be reordered. When absent, 1: every packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reorder_gap: Option<u32>,
    /// The largest number of packets in the delay line. Further packets are dropped. By default the number of
    /// the smallest packets that the rate can put into it, and at least 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Delivery in time slots: packets are held and delivered together, as wireless and cable access networks
    /// do. Only with the backend `kernel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<Slots>,
}

/// The kernel's shaper that enforces a rate. The backend `userspace` has its own and ignores this.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Shaper {
    /// `sch_tbf`: one token bucket and one queue, measured in bytes.
    #[default]
    Tbf,
    /// `sch_htb` with a single class: the same bucket, for kernels without tbf.
    Htb,
    /// `sch_netem`'s own rate: serialises packets one by one, without a bucket. Its queue is `limit`.
    Netem,
}

/// The distribution of jitter around the delay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// In order: after delay - jitter, a packet waits for a gate that opens at random moments, on average
    /// after the jitter. So packets that follow each other closely arrive together, and at every packet rate
    /// the mean is the delay and the standard deviation the jitter.
    #[default]
    Exponential,
    /// Each packet by itself, evenly between delay - jitter and delay + jitter.
    Uniform,
    /// Each packet by itself, normal (Gaussian) with the jitter as standard deviation.
    Normal,
    /// Each packet by itself, Pareto with shape 3: most packets a little early, a few very late. The kernel's
    /// table ends at four times the jitter, so the standard deviation is 0.82 of the jitter.
    Pareto,
    /// Each packet by itself, a quarter normal and three quarters Pareto: close to what is measured on
    /// wide-area paths. The standard deviation is 0.83 of the jitter.
    #[value(alias = "pareto_normal")]
    ParetoNormal,
}

/// Loss in bursts: a channel that is in a good or a bad state, with a different loss in each
/// (E. O. Elliott, "Estimates of error rates for codes on burst-noise channels", 1963).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct GilbertElliott {
    /// The probability, with each packet, of changing from the good to the bad state (`p`).
    pub enter: Percent,
    /// The probability, with each packet, of changing from the bad to the good state (`r`). The mean length
    /// of a burst is 1 / `leave` packets.
    pub leave: Percent,
    /// The loss in the bad state (`1-h`). When absent, 100%.
    #[serde(default = "always")]
    pub loss_bad: Percent,
    /// The loss in the good state (`1-k`). When absent, 0%.
    #[serde(default)]
    pub loss_good: Percent,
}

impl GilbertElliott {
    /// Returns the channel that loses this fraction of packets, with this correlation between the losses of
    /// successive packets.
    ///
    /// With a probability p and a correlation r, a packet after a lost one is lost with the probability
    /// p + r(1 - p), and any other packet with p(1 - r). That is a channel that loses every packet in the bad
    /// state and none in the good state.
    pub fn correlated(probability: Percent, correlation: Percent) -> Self {
        let (p, change) = (probability.fraction(), correlation.complement().fraction());
        Self {
            enter: Percent::from_fraction(p * change),
            leave: Percent::from_fraction((1.0 - p) * change),
            loss_bad: Percent::ALWAYS,
            loss_good: Percent::ZERO,
        }
    }
}

/// Delivery in slots: packets wait for the next slot, then leave together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Slots {
    /// The shortest time between two slots.
    pub min_delay: Span,
    /// The longest time between two slots. The actual time is drawn uniformly from `min_delay` to
    /// `max_delay`.
    pub max_delay: Span,
    /// The largest number of packets in a slot. Unlimited when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u32>,
    /// The largest number of bytes in a slot. Unlimited when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Bytes>,
}

/// A profile for each direction of a link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct LinkProfile {
    /// The profile for packets that the near end sends.
    pub forward: Profile,
    /// The profile for packets that the far end sends.
    pub backward: Profile,
}

impl LinkProfile {
    /// Creates a link with the same profile in both directions.
    pub fn symmetric(profile: Profile) -> Self {
        Self { forward: profile.clone(), backward: profile }
    }
}

/// An invalid setting of a profile: its key, what is wrong, and how to fix it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ProfileError {
    /// The key of the setting, such as `loss_bursts.leave`.
    pub key: &'static str,
    /// What is wrong with the value, and which values are allowed.
    pub problem: String,
}

/// The size of the largest packet that TCP passes down with segmentation offload, as the kernel counts it
/// (`qdisc_pkt_len_init`): 64 KiB of payload, and up to 100 bytes of headers for each of the segments that it
/// becomes at an MTU of 1500.
pub(crate) const LARGEST_PACKET_BYTES: u64 = 80 * 1024;
const NANOS: u128 = 1_000_000_000;

pub(crate) const MIN_RATE: BitRate = BitRate::new(1_000);
const MAX_RATE: BitRate = BitRate::new(10_000_000_000_000);
/// The largest jitter at a gate. The kernel holds a standard deviation of the time between its openings of at
/// most 2^31 ns, and its table has a step of two jitters.
const MAX_GATE_JITTER: Span = Span::from_secs(1);
const MAX_DELAY: Span = Span::from_secs(240);
/// The largest jitter: `sch_netem` reduces a larger one to this without an error.
const MAX_JITTER: Span = Span::from_nanos(i32::MAX as u64);
/// The unit of delay and jitter in requests to the kernel, as in iproute2. The kernel then rounds down to a
/// tick of 64 ns.
const MIN_TIME: Span = Span::from_nanos(1_000);
/// The smallest bucket and the smallest queue: the smallest Ethernet frame, with its frame check sequence.
const MIN_BYTES: u64 = 64;
/// The largest bucket and the largest queue: the kernel counts their bytes with 32 bits.
const MAX_BYTES: u64 = u32::MAX as u64;
/// The size of the smallest Ethernet frame, without its frame check sequence.
const SMALLEST_FRAME_BYTES: u64 = 60;
/// The largest number of packets or bytes in a slot: the kernel counts with a signed 32-bit integer, and 0
/// and `i32::MAX` mean unlimited.
const MAX_PER_SLOT: u64 = i32::MAX as u64 - 1;

fn always() -> Percent {
    Percent::ALWAYS
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Returns the number of bytes that a rate sends in a time.
fn bytes_over(bytes_per_second: u64, span: Span) -> u64 {
    u64::try_from(u128::from(bytes_per_second) * u128::from(span.as_nanos()) / NANOS).unwrap_or(u64::MAX)
}

impl Profile {
    /// Returns whether the profile has no effect on a link.
    pub fn is_empty(&self) -> bool {
        self.rate.is_none() && !self.needs_delay_line()
    }

    /// Returns whether the profile has an effect besides a token-bucket rate, for which the kernel needs
    /// `sch_netem`.
    pub fn needs_delay_line(&self) -> bool {
        !self.delay.is_zero()
            || self.has_per_packet_effects()
            || self.slots.is_some()
            || (self.rate.is_some() && self.shaper == Shaper::Netem)
    }

    /// Returns whether the profile has effects on single packets: loss, duplication, corruption, reordering
    /// or jitter. Packets must then be segmented before they reach the link, or 64 KiB would be lost
    /// together.
    pub fn has_per_packet_effects(&self) -> bool {
        !(self.loss.is_zero()
            && self.duplicate.is_zero()
            && self.corrupt.is_zero()
            && self.reorder.is_zero()
            && self.jitter.is_zero())
            || self.loss_bursts.is_some()
    }

    /// Returns whether jitter keeps the order of packets, which then wait at a gate.
    pub(crate) fn has_gate(&self) -> bool {
        !self.jitter.is_zero() && self.distribution == Distribution::Exponential
    }

    /// Returns the channel that has the requested loss, if losses are correlated.
    pub(crate) fn correlated_loss(&self) -> Option<GilbertElliott> {
        let correlated = !(self.loss.is_zero() || self.loss_correlation.is_zero());
        correlated.then(|| GilbertElliott::correlated(self.loss, self.loss_correlation))
    }

    /// Returns the depth of the token bucket in bytes, on an interface with this MTU: `burst` if it is set,
    /// else
    ///
    /// > max(2 to 10 ms of the rate, min(80 KiB, 6 ms of the rate), two frames)
    ///
    /// and at most 2^32 - 1 bytes, the kernel's limit, which matters above 3.4 Tbit/s.
    ///
    /// Three constraints lead to this formula:
    ///
    /// - The bucket must hold the largest packet, or the kernel segments the packet (tbf) or exceeds the rate
    ///   (htb). 80 KiB is 64 KiB of payload and its headers. Below about 110 Mbit/s that would be a
    ///   noticeable burst, so there the packet size is limited instead.
    /// - The bucket must not overflow while the kernel waits for a timer, because the excess tokens are lost.
    ///   That wait is some 50 us with high-resolution timers on an idle host, and milliseconds if all cores
    ///   are busy. Measured at `928mbit` with both cores of a 2-core host busy: 1 ms gave a mean of 102 MB/s,
    ///   2 ms and 4 ms gave 104. (The rule of tc-tbf(8), rate / HZ, is for kernels without such timers.)
    /// - The bucket must not overflow while the sender waits for a CPU: TCP keeps about a millisecond of data
    ///   in the queue, and the more CPU time the rate takes, the longer the sender waits. Hence 2 ms for each
    ///   Gbit/s, at least 2 and at most 10: at `5gbit`, which took half of that host's CPU time, the goodput
    ///   was 1.3 % too low with 2 ms and 0.4 % with 8 ms.
    pub fn burst_bytes(&self, mtu: u32) -> u64 {
        let rate = self.rate.map_or(0, |r| r.to_byte_rate().get());
        let frame = u64::from(mtu) + HEADER_BYTES;
        self.burst.map_or_else(
            || {
                const NANOS_PER_GBIT: u64 = 2_000_000;
                let nanos = rate.saturating_mul(NANOS_PER_GBIT) / 125_000_000;
                let nanos = nanos.clamp(NANOS_PER_GBIT, 5 * NANOS_PER_GBIT);
                bytes_over(rate, Span::from_nanos(nanos))
                    .max(LARGEST_PACKET_BYTES.min(bytes_over(rate, Span::from_millis(6))))
                    .max(2 * frame)
                    .min(MAX_BYTES)
            },
            Bytes::get,
        )
    }

    /// Returns the largest number of segments that TCP may pass down as one packet on an interface with this
    /// MTU, so that the profile treats the packet correctly; `None` if any number is allowed.
    pub(crate) fn max_gso_segments(&self, mtu: u32) -> Option<u32> {
        if self.has_per_packet_effects() {
            return Some(1);
        }
        self.rate?;
        let burst = self.burst_bytes(mtu);
        let segments = burst / (u64::from(mtu) + HEADER_BYTES);
        (burst < LARGEST_PACKET_BYTES).then(|| u32::try_from(segments).unwrap_or(u32::MAX).max(1))
    }

    /// Returns the size of the queue in front of the bottleneck in bytes: `queue` if it is set, else
    ///
    /// > max(rate x 25 ms, rate x 2 x delay, 80 KiB)
    ///
    /// 25 ms is the queue that a switch with a shared buffer of a few megabytes has for a gigabit port; it
    /// bounds the delay that the queue can add. Rate x 2 x delay is the bandwidth-delay product: with a
    /// smaller queue, a single TCP stream cannot fill the link after a loss (C. Villamizar and C. Song, "High
    /// performance TCP in ANSNET", 1994). 80 KiB is one packet of 64 KiB with headers: a queue that cannot
    /// hold one passes none. The kernel's limit, 2^32 - 1 bytes, applies too.
    pub fn queue_bytes(&self) -> u64 {
        let rate = self.rate.map_or(0, |r| r.to_byte_rate().get());
        let round_trip = Span::from_nanos(self.delay.as_nanos().saturating_mul(2));
        self.queue.map_or_else(
            || bytes_over(rate, round_trip.max(Span::from_millis(25))).clamp(LARGEST_PACKET_BYTES, MAX_BYTES),
            Bytes::get,
        )
    }

    /// Returns the largest number of packets in the delay line: `limit` if it is set, else the number of
    /// packets that can arrive within delay + 4 x jitter, and at least 1000, the kernel's default.
    ///
    /// The rate admits that many of the smallest frames, of 60 bytes. Counted in frames of 1500 bytes, which
    /// seems natural, a limit drops small packets that the link would carry: of frames of 106 bytes at
    /// `10mbit` with a delay of 400 ms, 65 %. No more than 2 million packets a second are expected, or, at a
    /// high rate, twice the number of 1500-byte packets; without a rate, those of 10 Gbit/s.
    ///
    /// With the shaper `netem`, the queue of the rate is part of the delay line, and this limits it. Counted
    /// in small packets, it would delay large ones by seconds, so there this is twice the number of 1500-byte
    /// packets in delay line and queue.
    pub fn limit_packets(&self) -> u32 {
        const NO_RATE: BitRate = BitRate::new(10_000_000_000);
        const MOST_PER_SECOND: u64 = 2_000_000;
        self.limit.unwrap_or_else(|| {
            let rate = self.rate.unwrap_or(NO_RATE).to_byte_rate().get();
            let large = |bytes: u64| 2 * (bytes / 1500);
            let wait = Span::from_nanos(
                self.delay.as_nanos().saturating_add(self.jitter.as_nanos().saturating_mul(4)),
            );
            let packets = match self.shaper {
                Shaper::Netem if self.rate.is_some() => {
                    large(bytes_over(rate, wait).saturating_add(self.queue_bytes()))
                }
                _ if self.rate.is_none() => large(bytes_over(rate, wait)),
                _ => {
                    let per_second = (rate / SMALLEST_FRAME_BYTES).min(MOST_PER_SECOND.max(large(rate)));
                    bytes_over(per_second, wait)
                }
            };
            u32::try_from(packets).unwrap_or(u32::MAX).max(1000)
        })
    }

    /// Checks that the settings work on an interface with this MTU, besides [`Profile::validate`]: `burst`
    /// and `queue` have to hold a frame, otherwise no packet would ever pass.
    ///
    /// # Errors
    ///
    /// The first setting that is too small.
    pub fn validate_for(&self, mtu: u32) -> Result<(), ProfileError> {
        let frame = u64::from(mtu) + HEADER_BYTES;
        for (key, bytes) in [("burst", self.burst), ("queue", self.queue)] {
            if let Some(bytes) = bytes.filter(|b| b.get() < frame) {
                let problem = format!("{bytes} does not hold one frame of {frame}B (the MTU is {mtu})");
                return Err(ProfileError { key, problem });
            }
        }
        Ok(())
    }

    /// Checks the settings that do not depend on an interface.
    ///
    /// # Errors
    ///
    /// The first setting that is out of range, that conflicts with another one, or that needs another one
    /// that is not set.
    pub fn validate(&self) -> Result<(), ProfileError> {
        self.check_rate()?;
        self.check_delay()?;
        self.check_dependencies()?;
        self.check_correlations()?;
        self.check_gate()?;
        self.check_per_packet_effects()?;
        self.check_limit()?;
        self.check_slots()
    }

    fn check_rate(&self) -> Result<(), ProfileError> {
        if let Some(rate) = self.rate {
            if !(MIN_RATE..=MAX_RATE).contains(&rate) {
                return fail("rate", format!("{rate} is not between {MIN_RATE} and {MAX_RATE}"));
            }
        } else {
            for (key, set) in [("burst", self.burst.is_some()), ("queue", self.queue.is_some())] {
                if set {
                    return fail(key, "has no effect without `rate`; set `rate`, or remove this");
                }
            }
        }
        for (key, value) in [("burst", self.burst), ("queue", self.queue)] {
            if let Some(bytes) = value.filter(|bytes| !(MIN_BYTES..=MAX_BYTES).contains(&bytes.get())) {
                return fail(key, format!("{bytes} is not between {MIN_BYTES}B and {MAX_BYTES}B"));
            }
        }
        if let (Some(rate), Some(burst)) = (self.rate, self.burst)
            && burst > rate.to_byte_rate().over(MAX_DELAY)
        {
            return fail(
                "burst",
                format!("{burst} is more than {rate} sends in {MAX_DELAY}, the limit of the kernel"),
            );
        }
        if self.shaper == Shaper::Netem && (self.burst.is_some() || self.queue.is_some()) {
            return fail(
                "shaper",
                "netem supports neither `burst` nor `queue`; use `limit`, or another shaper",
            );
        }
        Ok(())
    }

    fn check_delay(&self) -> Result<(), ProfileError> {
        if self.delay > MAX_DELAY {
            return fail("delay", format!("{} is more than {MAX_DELAY}", self.delay));
        }
        if self.jitter > self.delay {
            return fail(
                "jitter",
                format!(
                    "{} is more than the delay, {}; packets cannot arrive before they are sent",
                    self.jitter, self.delay
                ),
            );
        }
        if self.jitter > MAX_JITTER {
            return fail(
                "jitter",
                format!("{} is more than {MAX_JITTER}, the limit of the kernel", self.jitter),
            );
        }
        for (key, time) in [("delay", self.delay), ("jitter", self.jitter)] {
            if !time.is_zero() && time < MIN_TIME {
                return fail(key, format!("{time} is less than {MIN_TIME}, the unit of the kernel; write 0"));
            }
        }
        Ok(())
    }

    fn check_dependencies(&self) -> Result<(), ProfileError> {
        for (key, set, needs, present) in [
            ("distribution", !is_default(&self.distribution), "jitter", !self.jitter.is_zero()),
            ("jitter_correlation", !self.jitter_correlation.is_zero(), "jitter", !self.jitter.is_zero()),
            ("loss_correlation", !self.loss_correlation.is_zero(), "loss", !self.loss.is_zero()),
            (
                "duplicate_correlation",
                !self.duplicate_correlation.is_zero(),
                "duplicate",
                !self.duplicate.is_zero(),
            ),
            ("corrupt_correlation", !self.corrupt_correlation.is_zero(), "corrupt", !self.corrupt.is_zero()),
            ("reorder_correlation", !self.reorder_correlation.is_zero(), "reorder", !self.reorder.is_zero()),
            ("reorder_gap", self.reorder_gap.is_some(), "reorder", !self.reorder.is_zero()),
            ("reorder", !self.reorder.is_zero(), "delay", !self.delay.is_zero()),
        ] {
            if set && !present {
                return fail(key, format!("has no effect without `{needs}`; set `{needs}`, or remove this"));
            }
        }
        Ok(())
    }

    fn check_correlations(&self) -> Result<(), ProfileError> {
        for (key, correlation, name, probability) in [
            ("loss_correlation", self.loss_correlation, "loss", self.loss),
            ("duplicate_correlation", self.duplicate_correlation, "duplicate", self.duplicate),
            ("corrupt_correlation", self.corrupt_correlation, "corrupt", self.corrupt),
            ("reorder_correlation", self.reorder_correlation, "reorder", self.reorder),
        ] {
            if correlation.is_zero() {
                continue;
            }
            if probability == Percent::ALWAYS {
                return fail(key, format!("has no effect if `{name}` is 100%; remove this"));
            }
            if GilbertElliott::correlated(probability, correlation).enter.is_zero() {
                return fail(
                    key,
                    format!("is {correlation}: no packet would ever be affected; `{name}` is {probability}"),
                );
            }
        }
        Ok(())
    }

    fn check_gate(&self) -> Result<(), ProfileError> {
        if !self.has_gate() {
            return Ok(());
        }
        if self.jitter > MAX_GATE_JITTER {
            return fail(
                "jitter",
                format!(
                    "{} is more than {MAX_GATE_JITTER}, the limit of the distribution `exponential`; with \
                     the others, packets overtake each other",
                    self.jitter
                ),
            );
        }
        if !self.jitter_correlation.is_zero() {
            return fail(
                "jitter_correlation",
                "has no effect with the distribution `exponential`, whose delays depend on each other by \
                 time; set another `distribution`, or remove this",
            );
        }
        if self.slots.is_some() {
            return fail(
                "slots",
                "cannot be combined with jitter of the distribution `exponential`, which holds packets too; \
                 set another `distribution`, or remove one of the two",
            );
        }
        Ok(())
    }

    fn check_per_packet_effects(&self) -> Result<(), ProfileError> {
        if self.jitter_correlation == Percent::ALWAYS {
            return fail("jitter_correlation", "is 100%: the delay would never vary");
        }
        if self.reorder_gap == Some(0) {
            return fail("reorder_gap", "is 0; 1 allows reordering every packet");
        }
        if self.loss_bursts.is_some() && !self.loss.is_zero() {
            return fail("loss_bursts", "replaces `loss`; set only one of the two");
        }
        if self.loss_bursts.is_some_and(|g| g.leave.is_zero() && !g.enter.is_zero()) {
            return fail("loss_bursts.leave", "is 0%: the channel would stay in the bad state forever");
        }
        Ok(())
    }

    fn check_limit(&self) -> Result<(), ProfileError> {
        if self.limit == Some(0) {
            return fail("limit", "is 0; nothing would pass");
        }
        if self.limit.is_some() && !self.needs_delay_line() {
            return fail(
                "limit",
                "limits the delay line, which this profile does not have; use `queue` to limit the queue of \
                 the rate",
            );
        }
        Ok(())
    }

    fn check_slots(&self) -> Result<(), ProfileError> {
        let Some(Slots { min_delay, max_delay, packets, bytes }) = self.slots else { return Ok(()) };
        if max_delay.is_zero() || min_delay > max_delay {
            return fail(
                "slots",
                format!("min_delay {min_delay} to max_delay {max_delay} is not an interval"),
            );
        }
        if max_delay > MAX_DELAY {
            return fail("slots.max_delay", format!("{max_delay} is more than {MAX_DELAY}"));
        }
        for (key, count) in
            [("slots.packets", packets.map(u64::from)), ("slots.bytes", bytes.map(Bytes::get))]
        {
            if let Some(count) = count.filter(|count| !(1..=MAX_PER_SLOT).contains(count)) {
                return fail(
                    key,
                    format!("{count} is not between 1 and {MAX_PER_SLOT}; omit it for no limit"),
                );
            }
        }
        Ok(())
    }
}

fn fail(key: &'static str, problem: impl Into<String>) -> Result<(), ProfileError> {
    Err(ProfileError { key, problem: problem.into() })
}

#[cfg(test)]
mod tests;
