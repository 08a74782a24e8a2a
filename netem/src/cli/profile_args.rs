//! A profile as options of a command line.

use crate::{
    named,
    percent::{Percent, PercentError},
    profile::{Distribution, GilbertElliott, Profile, Shaper, Slots},
};
use clap::{Args, ValueEnum};
use units::{BitRate, Bytes, Span};

/// A profile on a command line: one by name, and single settings that override it.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Profile")]
pub struct ProfileArgs {
    /// Start from a profile known by name (see `netem supported`).
    #[arg(long, value_name = "NAME", value_parser = named::ALL.iter().map(|n| n.name).collect::<Vec<_>>())]
    profile: Option<String>,
    /// Rate, counting Ethernet frames without preamble, check sequence and gap.
    #[arg(long)]
    rate: Option<BitRate>,
    /// Which shaper of the kernel enforces the rate.
    #[arg(long, value_enum)]
    shaper: Option<ShaperArg>,
    /// What may pass at once after a pause; by default 2 ms of the rate or more.
    #[arg(long, value_name = "BYTES")]
    burst: Option<Bytes>,
    /// The queue in front of the rate; by default 25 ms of it or the bandwidth-delay product.
    #[arg(long, value_name = "BYTES")]
    queue: Option<Bytes>,
    /// One-way delay.
    #[arg(long, value_name = "TIME")]
    delay: Option<Span>,
    /// Variation of the delay.
    #[arg(long, value_name = "TIME")]
    jitter: Option<Span>,
    /// How much a packet's delay depends on that of the one before.
    #[arg(long, value_name = "PERCENT")]
    jitter_correlation: Option<Percent>,
    /// How the delay varies.
    #[arg(long, value_enum)]
    distribution: Option<DistributionArg>,
    /// Packets lost.
    #[arg(long, value_name = "PERCENT")]
    loss: Option<Percent>,
    /// How much a packet's loss depends on that of the one before.
    #[arg(long, value_name = "PERCENT")]
    loss_correlation: Option<Percent>,
    /// Loss in bursts (Gilbert-Elliott): probability of turning bad, of turning good, and optionally the loss
    /// while bad (100%) and while good (0%).
    #[arg(long, value_name = "ENTER,LEAVE[,BAD[,GOOD]]", value_parser = parse_bursts)]
    loss_bursts: Option<GilbertElliott>,
    /// Packets that arrive twice.
    #[arg(long, value_name = "PERCENT")]
    duplicate: Option<Percent>,
    /// How much a packet's duplication depends on that of the one before.
    #[arg(long, value_name = "PERCENT")]
    duplicate_correlation: Option<Percent>,
    /// Packets with one bit inverted.
    #[arg(long, value_name = "PERCENT")]
    corrupt: Option<Percent>,
    /// How much a packet's corruption depends on that of the one before.
    #[arg(long, value_name = "PERCENT")]
    corrupt_correlation: Option<Percent>,
    /// Packets that skip the delay.
    #[arg(long, value_name = "PERCENT")]
    reorder: Option<Percent>,
    /// How much a packet's reordering depends on that of the one before.
    #[arg(long, value_name = "PERCENT")]
    reorder_correlation: Option<Percent>,
    /// Reorder only every so-many-th packet.
    #[arg(long, value_name = "PACKETS")]
    reorder_gap: Option<u32>,
    /// Packets in the delay line at most.
    #[arg(long, value_name = "PACKETS")]
    limit: Option<u32>,
    /// Deliver in slots, one every so often: shortest and longest time between them.
    #[arg(long, value_name = "MIN,MAX", value_parser = parse_slots)]
    slots: Option<Slots>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ShaperArg {
    Tbf,
    Htb,
    Netem,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DistributionArg {
    Uniform,
    Normal,
    Pareto,
    ParetoNormal,
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

impl ProfileArgs {
    /// Whether a rate is among the single settings.
    pub(super) fn has_rate(&self) -> bool {
        self.rate.is_some()
    }

    /// The named profile with the given settings in place of its own.
    pub fn resolve(&self) -> Profile {
        let base = self.profile.as_deref().and_then(Profile::named).unwrap_or_default();
        Profile {
            rate: self.rate.or(base.rate),
            shaper: self.shaper.map_or(base.shaper, |s| match s {
                ShaperArg::Tbf => Shaper::Tbf,
                ShaperArg::Htb => Shaper::Htb,
                ShaperArg::Netem => Shaper::Netem,
            }),
            burst: self.burst.or(base.burst),
            queue: self.queue.or(base.queue),
            delay: self.delay.unwrap_or(base.delay),
            jitter: self.jitter.unwrap_or(base.jitter),
            jitter_correlation: self.jitter_correlation.unwrap_or(base.jitter_correlation),
            distribution: self.distribution.map_or(base.distribution, |d| match d {
                DistributionArg::Uniform => Distribution::Uniform,
                DistributionArg::Normal => Distribution::Normal,
                DistributionArg::Pareto => Distribution::Pareto,
                DistributionArg::ParetoNormal => Distribution::ParetoNormal,
            }),
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
