//! [`Profile`]: what one direction of a link does to the packets that cross it.
//!
//! A profile is applied to what an interface sends. A link that is alike in both directions has the same
//! profile at each of its ends; [`LinkProfile`] holds two that differ. Parsing looks at nothing but the text;
//! [`Profile::validate`] finds what no interface could do, such as jitter without a delay.

use crate::{ethernet::HEADER_BYTES, percent::Percent};
use serde::{Deserialize, Serialize};
use units::{BitRate, Bytes, Span};

/// What one direction of a link does to packets. The default does nothing.
///
/// A packet first crosses the delay line, where it may be lost, duplicated, corrupted, reordered and delayed,
/// then waits in the queue of the bottleneck until the rate lets it out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// The rate of the link, counting whole Ethernet frames without preamble, frame check sequence and
    /// inter-frame gap (which is what the kernel's shapers count): header, payload, 14 bytes more than the IP
    /// packet. One TCP stream at an MTU of 1500 carries 1448 bytes of payload in every 1514 of these. A
    /// gigabit Ethernet sends such a frame in 1538 bytes' time, so `984mbit` is what it looks like here.
    /// Between `1kbit` and `10tbit`. Unlimited when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<BitRate>,
    /// Which shaper of the kernel enforces the rate.
    #[serde(skip_serializing_if = "is_default")]
    pub shaper: Shaper,
    /// How much may pass at once after a pause: the depth of the token bucket. By default 2 ms of the rate
    /// (above 1 Gbit/s 2 ms for each Gbit/s, up to 10 ms), and enough for one unsegmented packet of 64 KiB
    /// where that takes less than 6 ms; see [`Profile::burst_bytes`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<Bytes>,
    /// The queue in front of the bottleneck; what does not fit is dropped at its tail. By default 25 ms of
    /// the rate or the bandwidth-delay product, whichever is more; see [`Profile::queue_bytes`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<Bytes>,
    /// One-way delay. At most `4min`.
    #[serde(skip_serializing_if = "is_default")]
    pub delay: Span,
    /// How far the delay varies: half the width of a uniform distribution, the standard deviation of the
    /// others. At most the delay itself.
    #[serde(skip_serializing_if = "is_default")]
    pub jitter: Span,
    /// How much the delay of a packet depends on that of the one before.
    #[serde(skip_serializing_if = "Percent::is_zero")]
    pub jitter_correlation: Percent,
    /// How the delay varies.
    #[serde(skip_serializing_if = "is_default")]
    pub distribution: Distribution,
    /// The part of the packets that is lost, each independently unless `loss_correlation` is set.
    #[serde(skip_serializing_if = "Percent::is_zero")]
    pub loss: Percent,
    /// How much the loss of a packet depends on that of the one before.
    #[serde(skip_serializing_if = "Percent::is_zero")]
    pub loss_correlation: Percent,
    /// Loss in bursts, after the Gilbert-Elliott model, instead of `loss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_bursts: Option<GilbertElliott>,
    /// The part of the packets that arrives twice.
    #[serde(skip_serializing_if = "Percent::is_zero")]
    pub duplicate: Percent,
    /// How much the duplication of a packet depends on that of the one before.
    #[serde(skip_serializing_if = "Percent::is_zero")]
    pub duplicate_correlation: Percent,
    /// The part of the packets in which one random bit is inverted.
    #[serde(skip_serializing_if = "Percent::is_zero")]
    pub corrupt: Percent,
    /// How much the corruption of a packet depends on that of the one before.
    #[serde(skip_serializing_if = "Percent::is_zero")]
    pub corrupt_correlation: Percent,
    /// The part of the packets that skips the delay and so overtakes those before it.
    #[serde(skip_serializing_if = "Percent::is_zero")]
    pub reorder: Percent,
    /// How much the reordering of a packet depends on that of the one before.
    #[serde(skip_serializing_if = "Percent::is_zero")]
    pub reorder_correlation: Percent,
    /// Only every so-many-th packet may be reordered. 1, every packet, when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reorder_gap: Option<u32>,
    /// How many packets the delay line holds at most; further ones are dropped. By default twice what the
    /// rate can put into it, and at least 1000; see [`Profile::limit_packets`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Packets are held and delivered together, as a wireless or cable access does. Backend `kernel` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<Slots>,
}

/// Which shaper of the kernel enforces a rate. The backend `userspace` has its own and ignores this.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Shaper {
    /// `sch_tbf`: one token bucket and one queue, measured in bytes.
    #[default]
    Tbf,
    /// `sch_htb` with a single class: the same bucket, for kernels without tbf.
    Htb,
    /// `sch_netem`'s own rate: serialises packet by packet without a bucket; its queue is `limit`.
    Netem,
}

/// How jitter is distributed around the delay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// Evenly between delay - jitter and delay + jitter.
    #[default]
    Uniform,
    /// Normal.
    Normal,
    /// Pareto with shape 3: most packets a little early, a few very late.
    Pareto,
    /// A quarter normal, three quarters Pareto: close to what is measured on wide-area paths.
    ParetoNormal,
}

/// Loss in bursts: a channel that is either good or bad, and loses packets at a rate of its own in each state
/// (E. O. Elliott, "Estimates of error rates for codes on burst-noise channels", 1963).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct GilbertElliott {
    /// With each packet, the probability of turning from good to bad (`p`).
    pub enter: Percent,
    /// With each packet, the probability of turning from bad to good (`r`). The mean burst is 1 / `leave`
    /// packets long.
    pub leave: Percent,
    /// The loss while bad (`1-h`).
    #[serde(default = "always")]
    pub loss_bad: Percent,
    /// The loss while good (`1-k`).
    #[serde(default)]
    pub loss_good: Percent,
}

impl GilbertElliott {
    /// The part of all packets that is lost in the long run, between 0 and 1.
    pub fn mean_loss(&self) -> f64 {
        let (p, r) = (self.enter.fraction(), self.leave.fraction());
        let bad = if p + r > 0.0 { p / (p + r) } else { 0.0 };
        bad * self.loss_bad.fraction() + (1.0 - bad) * self.loss_good.fraction()
    }
}

/// Delivery in slots: packets wait for the next slot, then leave together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Slots {
    /// The shortest time between two slots.
    pub min_delay: Span,
    /// The longest time between two slots; the actual one is chosen evenly in between.
    pub max_delay: Span,
    /// At most this many packets in a slot; any number when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u32>,
    /// At most this many bytes in a slot; any number when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Bytes>,
}

/// The two directions of a link that is not alike in both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct LinkProfile {
    /// What the near end sends.
    pub forward: Profile,
    /// What the far end sends.
    pub backward: Profile,
}

impl LinkProfile {
    /// A link that is alike in both directions.
    pub fn symmetric(profile: Profile) -> Self {
        Self { forward: profile.clone(), backward: profile }
    }
}

/// A setting that no link could have: which key, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ProfileError {
    /// The key of the profile that is wrong.
    pub key: &'static str,
    /// What is wrong with its value, and what would be right.
    pub problem: String,
}

/// The largest packet TCP hands down with segmentation offload: 64 KiB of payload, and headers of up to 100
/// bytes for each of the segments it becomes at an MTU of 1500, which the kernel counts too
/// (`qdisc_pkt_len_init`).
pub(crate) const LARGEST_PACKET_BYTES: u64 = 80 * 1024;
/// An Ethernet header.
const NANOS: u128 = 1_000_000_000;

const MIN_RATE: BitRate = BitRate::new(1_000);
const MAX_RATE: BitRate = BitRate::new(10_000_000_000_000);
const MAX_DELAY: Span = Span::from_secs(240);
/// The kernel takes 0 and `i32::MAX` for any number, and counts with a signed one.
const MOST_IN_A_SLOT: u64 = i32::MAX as u64 - 1;

fn always() -> Percent {
    Percent::ALWAYS
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a rate in bytes per second lets through in a time, in bytes.
fn bytes_over(bytes_per_second: u64, span: Span) -> u64 {
    u64::try_from(u128::from(bytes_per_second) * u128::from(span.as_nanos()) / NANOS).unwrap_or(u64::MAX)
}

impl Profile {
    /// Whether this changes nothing about a link.
    pub fn is_empty(&self) -> bool {
        self.rate.is_none() && !self.needs_delay_line()
    }

    /// Whether anything but a rate is asked for: what the kernel needs `sch_netem` for.
    pub fn needs_delay_line(&self) -> bool {
        !self.delay.is_zero()
            || self.per_packet()
            || self.slots.is_some()
            || (self.rate.is_some() && self.shaper == Shaper::Netem)
    }

    /// Whether the fate of single packets is asked for: loss, duplication, corruption, reordering, jitter.
    /// Packets must then be segmented before they meet the link, or 64 KiB would be lost at once.
    pub fn per_packet(&self) -> bool {
        !(self.loss.is_zero()
            && self.duplicate.is_zero()
            && self.corrupt.is_zero()
            && self.reorder.is_zero()
            && self.jitter.is_zero())
            || self.loss_bursts.is_some()
    }

    /// The depth of the token bucket in bytes, on an interface of this MTU: `burst` where it is set, else
    ///
    /// > max(2 to 10 ms of the rate, min(80 KiB, 6 ms of the rate), two frames)
    ///
    /// A bucket must hold the largest packet, or the kernel segments it (tbf) or lets the rate overshoot
    /// (htb): 80 KiB is 64 KiB of payload and its headers. Below about 110 Mbit/s that would be a noticeable
    /// burst, so there packets are made smaller before. And a bucket must outlast the time until the kernel
    /// comes back after a timer, for tokens that do not fit are lost: some 50 us with high-resolution timers
    /// on an idle machine, milliseconds where all cores are busy. Measured with both cores of a 2-core
    /// machine busy: 1 ms gave a mean of 102 MB/s at `928mbit`, 2 ms and 4 ms gave 104. (The rule of
    /// tc-tbf(8), rate / HZ, is about kernels without such timers.)
    ///
    /// The bucket must outlast the sender's absences too: TCP keeps about a millisecond of data in the queue,
    /// and the more CPU time the rate takes, the longer the sender waits for its turn. So it holds 2 ms for
    /// each Gbit/s, at least 2 and at most 10: at `5gbit`, which took half of that machine's CPU time, 2 ms
    /// left 1.3 % missing and 8 ms 0.4 %.
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
            },
            Bytes::get,
        )
    }

    /// How many segments TCP may hand down as one packet on an interface of this MTU, so that the packet can
    /// be treated as one; `None` when any number may.
    pub(crate) fn segments_at_once(&self, mtu: u32) -> Option<u32> {
        if self.per_packet() {
            return Some(1);
        }
        self.rate?;
        let burst = self.burst_bytes(mtu);
        let segments = burst / (u64::from(mtu) + HEADER_BYTES);
        (burst < LARGEST_PACKET_BYTES).then(|| u32::try_from(segments).unwrap_or(u32::MAX).max(1))
    }

    /// The queue in front of the bottleneck in bytes: `queue` where it is set, else
    ///
    /// > max(rate x 25 ms, rate x 2 x delay, 80 KiB)
    ///
    /// 25 ms is what a switch with a shared buffer of a few megabytes gives a gigabit port; it bounds the
    /// delay a queue can add. Rate x 2 x delay is the bandwidth-delay product, the rule of C. Villamizar and
    /// C. Song, "High performance TCP in ANSNET" (1994): less, and a single TCP stream cannot fill the link
    /// after a loss. 80 KiB is one packet of 64 KiB: a queue that cannot hold one passes none.
    pub fn queue_bytes(&self) -> u64 {
        let rate = self.rate.map_or(0, |r| r.to_byte_rate().get());
        let round_trip = Span::from_nanos(self.delay.as_nanos().saturating_mul(2));
        self.queue.map_or_else(
            || bytes_over(rate, round_trip.max(Span::from_millis(25))).max(LARGEST_PACKET_BYTES),
            Bytes::get,
        )
    }

    /// How many packets the delay line holds: `limit` where it is set, else twice the packets of 1500 bytes
    /// that the rate (10 Gbit/s where there is none) sends within delay + jitter, and at least 1000, the
    /// kernel's own default.
    pub fn limit_packets(&self) -> u32 {
        const NO_RATE: BitRate = BitRate::new(10_000_000_000);
        self.limit.unwrap_or_else(|| {
            let rate = self.rate.unwrap_or(NO_RATE).to_byte_rate().get();
            let wait = self.delay.as_nanos().saturating_add(self.jitter.as_nanos().saturating_mul(4));
            let queued =
                if self.shaper == Shaper::Netem && self.rate.is_some() { self.queue_bytes() } else { 0 };
            let bytes = bytes_over(rate, Span::from_nanos(wait)).saturating_add(queued);
            u32::try_from(2 * (bytes / 1500)).unwrap_or(u32::MAX).max(1000)
        })
    }

    /// Finds what no link could do.
    ///
    /// # Errors
    ///
    /// The first setting that is out of range, or that needs another one which is missing.
    pub fn validate(&self) -> Result<(), ProfileError> {
        let fail = |key, problem: String| Err(ProfileError { key, problem });
        if let Some(rate) = self.rate {
            if !(MIN_RATE..=MAX_RATE).contains(&rate) {
                return fail("rate", format!("{rate} is not between {MIN_RATE} and {MAX_RATE}"));
            }
        } else {
            for (key, set) in [("burst", self.burst.is_some()), ("queue", self.queue.is_some())] {
                if set {
                    return fail(key, "means nothing without `rate`; set `rate`, or remove this".into());
                }
            }
        }
        for (key, value, min) in [("burst", self.burst, 64), ("queue", self.queue, 64)] {
            if let Some(bytes) = value.map(Bytes::get).filter(|b| *b < min || *b > u64::from(u32::MAX)) {
                return fail(key, format!("{} is not between {min}B and 4GiB", Bytes::new(bytes)));
            }
        }
        if let (Some(rate), Some(burst)) = (self.rate, self.burst)
            && burst > rate.to_byte_rate().over(MAX_DELAY)
        {
            return fail(
                "burst",
                format!("{burst} is more than {rate} sends in {MAX_DELAY}, which the kernel cannot count"),
            );
        }
        if self.shaper == Shaper::Netem && (self.burst.is_some() || self.queue.is_some()) {
            return fail(
                "shaper",
                "netem has neither `burst` nor `queue`; use `limit`, or another shaper".into(),
            );
        }
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
                return fail(key, format!("means nothing without `{needs}`; set `{needs}`, or remove this"));
            }
        }
        if self.reorder_gap == Some(0) {
            return fail("reorder_gap", "is 0; 1 lets every packet be reordered".into());
        }
        if self.loss_bursts.is_some() && !self.loss.is_zero() {
            return fail("loss_bursts", "replaces `loss`; set one of them".into());
        }
        if self.loss_bursts.is_some_and(|g| g.leave.is_zero() && !g.enter.is_zero()) {
            return fail("loss_bursts.leave", "is 0%: the channel would never recover".into());
        }
        if self.limit == Some(0) {
            return fail("limit", "is 0; nothing would pass".into());
        }
        if self.limit.is_some() && !self.needs_delay_line() {
            return fail(
                "limit",
                "counts the packets in the delay line, and there is none; `queue` limits the queue of a rate"
                    .into(),
            );
        }
        if let Some(slots) = &self.slots
            && (slots.max_delay.is_zero() || slots.min_delay > slots.max_delay)
        {
            let problem =
                format!("min_delay {} and max_delay {} are no interval", slots.min_delay, slots.max_delay);
            return fail("slots", problem);
        }
        if let Some(slots) = &self.slots {
            if slots.max_delay > MAX_DELAY {
                return fail("slots.max_delay", format!("{} is more than {MAX_DELAY}", slots.max_delay));
            }
            let counts = [
                ("slots.packets", slots.packets.map(u64::from)),
                ("slots.bytes", slots.bytes.map(Bytes::get)),
            ];
            for (key, count) in counts {
                if let Some(count) = count.filter(|count| !(1..=MOST_IN_A_SLOT).contains(count)) {
                    return fail(
                        key,
                        format!("{count} is not between 1 and {MOST_IN_A_SLOT}; leave it out for any number"),
                    );
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
