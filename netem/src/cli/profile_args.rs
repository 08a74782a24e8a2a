//! [`ProfileArgs`]: a profile as command-line options, for `netem` and `testbed lab shell`.

use crate::{
    kernel::JitterDistribution,
    named,
    percent::{Percent, PercentError},
    profile::{Distribution, GilbertElliott, Profile, Shaper, Slots},
};
use clap::Args;
use units::{BitRate, Bytes, Span};

/// The command-line options of a profile: a named profile, and single settings that override it.
#[derive(Debug, Default, PartialEq, Args)]
#[command(next_help_heading = "Profile")]
pub struct ProfileArgs {
    /// Start from a named profile (see `netem supported`).
    #[arg(long, value_name = "NAME", value_parser = named::ALL.iter().map(|n| n.name).collect::<Vec<_>>())]
    #[arg(ignore_case = true)]
    profile: Option<String>,
    /// Rate, counting Ethernet frames without preamble, frame check sequence and inter-frame gap.
    #[arg(long)]
    rate: Option<BitRate>,
    /// The kernel's shaper that enforces the rate.
    #[arg(long, value_enum, ignore_case = true)]
    shaper: Option<Shaper>,
    /// Burst size (depth of the token bucket); by default 2 ms of the rate or more.
    #[arg(long, value_name = "BYTES")]
    burst: Option<Bytes>,
    /// Size of the queue in front of the rate; by default the largest of 25 ms of the rate, the
    /// bandwidth-delay product, and 80 KiB.
    #[arg(long, value_name = "BYTES")]
    queue: Option<Bytes>,
    /// One-way delay, at most 4min.
    #[arg(long, value_name = "TIME")]
    delay: Option<Span>,
    /// Variation of the delay, at most the delay itself. By default, packets keep their order.
    #[arg(long, value_name = "TIME")]
    jitter: Option<Span>,
    /// How much the delay of a packet depends on the delay of the previous packet, if each packet has its
    /// own; the kernel's backend refuses it.
    #[arg(long, value_name = "PERCENT")]
    jitter_correlation: Option<Percent>,
    /// Distribution of the jitter; by default exponential, with which packets keep their order. With the
    /// others, each packet has its own delay, and packets overtake each other.
    #[arg(long, value_enum, ignore_case = true)]
    distribution: Option<Distribution>,
    /// Fraction of packets that are lost.
    #[arg(long, value_name = "PERCENT")]
    loss: Option<Percent>,
    /// How much the loss of a packet depends on the loss of the previous packet.
    #[arg(long, value_name = "PERCENT")]
    loss_correlation: Option<Percent>,
    /// Loss in bursts (Gilbert-Elliott): the probability of entering the bad state, that of leaving it, and
    /// optionally the loss in the bad state (100%) and in the good state (0%).
    #[arg(long, value_name = "ENTER,LEAVE[,BAD[,GOOD]]", value_parser = parse_bursts)]
    loss_bursts: Option<GilbertElliott>,
    /// Fraction of packets that arrive twice.
    #[arg(long, value_name = "PERCENT")]
    duplicate: Option<Percent>,
    /// How much the duplication of a packet depends on the duplication of the previous packet; the
    /// kernel's backend refuses it.
    #[arg(long, value_name = "PERCENT")]
    duplicate_correlation: Option<Percent>,
    /// Fraction of packets in which one bit is inverted.
    #[arg(long, value_name = "PERCENT")]
    corrupt: Option<Percent>,
    /// How much the corruption of a packet depends on the corruption of the previous packet; the
    /// kernel's backend refuses it.
    #[arg(long, value_name = "PERCENT")]
    corrupt_correlation: Option<Percent>,
    /// Fraction of packets that skip the delay and overtake others.
    #[arg(long, value_name = "PERCENT")]
    reorder: Option<Percent>,
    /// How much the reordering of a packet depends on the reordering of the previous packet; the
    /// kernel's backend refuses it.
    #[arg(long, value_name = "PERCENT")]
    reorder_correlation: Option<Percent>,
    /// Reorder only every Nth packet.
    #[arg(long, value_name = "N")]
    reorder_gap: Option<u32>,
    /// Largest number of packets in the delay line; further packets are dropped.
    #[arg(long, value_name = "PACKETS")]
    limit: Option<u32>,
    /// Deliver packets in time slots: the shortest and the longest time between two slots.
    #[arg(long, value_name = "MIN,MAX", value_parser = parse_slots)]
    slots: Option<Slots>,
}

fn parse_bursts(text: &str) -> Result<GilbertElliott, String> {
    let parts: Vec<Percent> =
        text.split(',').map(str::parse).collect::<Result<_, _>>().map_err(|e: PercentError| e.to_string())?;
    let [enter, leave, rest @ ..] = &parts[..] else {
        return Err("expected at least two percentages, like `1%,10%`".into());
    };
    let (loss_bad, loss_good) = match rest {
        [] => (Percent::ALWAYS, Percent::ZERO),
        [bad] => (*bad, Percent::ZERO),
        [bad, good] => (*bad, *good),
        _ => return Err("expected at most four percentages".into()),
    };
    Ok(GilbertElliott { enter: *enter, leave: *leave, loss_bad, loss_good })
}

fn parse_slots(text: &str) -> Result<Slots, String> {
    let (min, max) = text.split_once(',').unwrap_or((text, text));
    let time = |t: &str| t.parse::<Span>().map_err(|e| e.to_string());
    Ok(Slots { min_delay: time(min)?, max_delay: time(max)?, packets: None, bytes: None })
}

/// Replaces the settings that only have an effect together with one that is not set by those that are given.
fn drop_dependents(profile: &mut Profile, given: &Profile) {
    if profile.jitter.is_zero() {
        profile.jitter_correlation = given.jitter_correlation;
        profile.distribution = given.distribution;
    }
    if profile.loss.is_zero() {
        profile.loss_correlation = given.loss_correlation;
    }
    if profile.duplicate.is_zero() {
        profile.duplicate_correlation = given.duplicate_correlation;
    }
    if profile.corrupt.is_zero() {
        profile.corrupt_correlation = given.corrupt_correlation;
    }
    if profile.reorder.is_zero() {
        profile.reorder_correlation = given.reorder_correlation;
        profile.reorder_gap = given.reorder_gap;
    }
    if profile.rate.is_none() {
        (profile.shaper, profile.burst, profile.queue) = (given.shaper, given.burst, given.queue);
    }
    if !profile.needs_delay_line() {
        profile.limit = given.limit;
    }
}

impl ProfileArgs {
    /// Returns whether --rate is given. A rate of the named profile does not count.
    pub(super) fn has_rate(&self) -> bool {
        self.rate.is_some()
    }

    /// Returns whether no option is given.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the named profile, or the empty profile if none is given, overridden by the single settings.
    pub fn resolve(&self) -> Profile {
        self.over(&self.named().unwrap_or_default())
    }

    /// Returns the profile in force with the given settings changed, and where the distribution of its jitter
    /// comes from. A named profile changes the settings that it consists of, also to none. What only has an
    /// effect together with a setting that is removed is removed too.
    pub(super) fn merge(&self, in_force: Profile) -> (Profile, JitterDistribution) {
        let named = self.named();
        let mut base = in_force;
        if let Some(Profile { rate, delay, jitter, distribution, loss, .. }) = named.clone() {
            base = Profile { rate, delay, jitter, distribution, loss, ..base };
        }
        // The kernel reports the distribution only for jitter that keeps the order.
        let is_unknown = !base.jitter.is_zero() && base.distribution != Distribution::Exponential;
        if self.loss_bursts.is_some() && self.loss.is_none() {
            base.loss = Percent::ZERO;
        } else if self.loss_bursts.is_none() && (self.loss.is_some() || named.is_some()) {
            base.loss_bursts = None;
        }
        let mut merged = self.over(&base);
        drop_dependents(&mut merged, &self.over(&Profile::default()));
        let keeps_distribution = is_unknown
            && !merged.jitter.is_zero()
            && self.distribution.is_none()
            && named.is_none_or(|named| named.jitter.is_zero());
        let distribution =
            if keeps_distribution { JitterDistribution::InForce } else { JitterDistribution::Requested };
        (merged, distribution)
    }

    fn named(&self) -> Option<Profile> {
        Profile::named(&self.profile.as_ref()?.to_ascii_lowercase())
    }

    /// Returns a profile overridden by the single settings.
    fn over(&self, base: &Profile) -> Profile {
        Profile {
            rate: self.rate.or(base.rate),
            shaper: self.shaper.unwrap_or(base.shaper),
            burst: self.burst.or(base.burst),
            queue: self.queue.or(base.queue),
            delay: self.delay.unwrap_or(base.delay),
            jitter: self.jitter.unwrap_or(base.jitter),
            jitter_correlation: self.jitter_correlation.unwrap_or(base.jitter_correlation),
            distribution: self.distribution.unwrap_or(base.distribution),
            loss: self.loss.unwrap_or(base.loss),
            loss_correlation: self.loss_correlation.unwrap_or(base.loss_correlation),
            loss_bursts: self.loss_bursts.or(base.loss_bursts),
            duplicate: self.duplicate.unwrap_or(base.duplicate),
            duplicate_correlation: self.duplicate_correlation.unwrap_or(base.duplicate_correlation),
            corrupt: self.corrupt.unwrap_or(base.corrupt),
            corrupt_correlation: self.corrupt_correlation.unwrap_or(base.corrupt_correlation),
            reorder: self.reorder.unwrap_or(base.reorder),
            reorder_correlation: self.reorder_correlation.unwrap_or(base.reorder_correlation),
            reorder_gap: self.reorder_gap.or(base.reorder_gap),
            limit: self.limit.or(base.limit),
            slots: self.slots.or(base.slots),
        }
    }
}
