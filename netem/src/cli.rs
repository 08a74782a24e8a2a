//! The program `netem`: its command line, and what each subcommand prints.
//!
//! Exit codes: 0 done; 1 something failed; 2 what was asked for cannot be had (a bad value, no such interface,
//! somebody else's qdisc), and the link is as it was.

use crate::{
    Applied, Counters, Distribution, Error, Netlink, Percent, Profile, Shaper,
    kernel::{self, Qdisc},
    named,
};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use serde::Serialize;
use std::{fmt::Write as _, process::ExitCode};
use units::{BitRate, Bytes, Span};

/// Shapes the rate, delay and loss of a network interface.
#[derive(Debug, Parser)]
#[command(name = "netem", version, disable_help_subcommand = true, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON object instead of text.
    #[arg(long, global = true)]
    json: bool,
}

const AFTER_HELP: &str = "\
A profile shapes what an interface sends; with --ingress, what it receives. Quantities carry their unit: \
940mbit, 20ms, 0.1%, 1MiB.

Examples:
  netem apply eth0 --rate 940mbit
  netem apply eth0 --profile transatlantic --loss 0.1%
  netem show eth0
  netem clear eth0";

#[derive(Debug, Subcommand)]
enum Command {
    /// Shape an interface, replacing what was applied to it before.
    Apply(Shape),
    /// Print what is in force on an interface, read back from the kernel.
    Show {
        /// The interface.
        interface: String,
    },
    /// Change what is in force while traffic flows, without losing a packet where possible.
    Change(Shape),
    /// Take everything away that was applied to an interface.
    Clear {
        /// The interface.
        interface: String,
    },
    /// Print what this kernel offers, and the profiles known by name.
    Supported,
}

#[derive(Debug, Args)]
struct Shape {
    /// The interface.
    interface: String,
    /// Shape what the interface receives, not what it sends (through an ifb).
    #[arg(long)]
    ingress: bool,
    #[command(flatten)]
    profile: ProfileArgs,
}

/// A profile on a command line: one by name, and single settings that override it.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Profile")]
struct ProfileArgs {
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
    loss_bursts: Option<crate::GilbertElliott>,
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
    slots: Option<crate::Slots>,
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

fn parse_bursts(text: &str) -> Result<crate::GilbertElliott, String> {
    let parts: Vec<Percent> = text
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map_err(|e: crate::PercentError| e.to_string())?;
    let [enter, leave, rest @ ..] = &parts[..] else {
        return Err("expected at least two percentages, like `1%,10%`".into());
    };
    let (loss_bad, loss_good) = match rest {
        [] => (Percent::ALWAYS, Percent::ZERO),
        [bad] => (*bad, Percent::ZERO),
        [bad, good] => (*bad, *good),
        _ => return Err("expected at most four percentages".into()),
    };
    Ok(crate::GilbertElliott { enter: *enter, leave: *leave, loss_bad, loss_good })
}

fn parse_slots(text: &str) -> Result<crate::Slots, String> {
    let (min, max) = text.split_once(',').unwrap_or((text, text));
    let time = |t: &str| t.parse::<Span>().map_err(|e| e.to_string());
    Ok(crate::Slots { min_delay: time(min)?, max_delay: time(max)?, packets: None, bytes: None })
}

impl ProfileArgs {
    fn resolve(&self) -> Profile {
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

/// The command line, for man pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// What `show` found.
#[derive(Debug, Serialize)]
struct Shown {
    interface: String,
    sends: Option<Profile>,
    receives: Option<Profile>,
    qdiscs: Vec<Qdisc>,
    counters: Counters,
}

/// Runs the program: parses the arguments of this process, does what they say, prints, and gives the exit code.
pub async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli).await {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("netem: {error}");
            ExitCode::from(if error.is_usage() { 2 } else { 1 })
        }
    }
}

async fn run(cli: &Cli) -> Result<String, Error> {
    match &cli.command {
        Command::Apply(shape) => shape_link(cli, shape, false).await,
        Command::Change(shape) => shape_link(cli, shape, true).await,
        Command::Show { interface } => show(cli, interface).await,
        Command::Clear { interface } => {
            let cleared = Netlink::open()?.clear(interface).await?;
            let text = if cleared { "cleared" } else { "nothing was applied" };
            Ok(print(cli, &serde_json::json!({ "interface": interface, "cleared": cleared }), || {
                format!("{interface}: {text}\n")
            }))
        }
        Command::Supported => supported(cli).await,
    }
}

fn print<T: Serialize>(cli: &Cli, value: &T, text: impl FnOnce() -> String) -> String {
    if cli.json { format!("{}\n", serde_json::to_string_pretty(value).expect("plain data")) } else { text() }
}

async fn shape_link(cli: &Cli, shape: &Shape, change: bool) -> Result<String, Error> {
    let profile = shape.profile.resolve();
    profile.validate()?;
    if profile.is_empty() {
        return Err(Error::Unsuitable {
            interface: shape.interface.clone(),
            problem: "nothing to apply; say at least --rate, --delay or --profile, or use `netem clear`"
                .into(),
        });
    }
    let netlink = Netlink::open()?;
    let interface = &shape.interface;
    if change && shape.ingress && netlink.ingress_profile(interface).await?.is_none() {
        return Err(Error::NothingApplied { interface: interface.clone() });
    }
    let applied = match (shape.ingress, change) {
        (true, _) => netlink.apply_ingress(interface, &profile).await?,
        (false, true) => netlink.change(interface, &profile).await?,
        (false, false) => netlink.apply(interface, &profile).await?,
    };
    Ok(print(cli, &applied, || describe(&applied)))
}

fn describe(applied: &Applied) -> String {
    let how = if applied.in_place { ", changed in place" } else { "" };
    let mut text = format!("{}: backend {}{how}\n", applied.interface, applied.backend);
    for line in &applied.tree {
        writeln!(text, "  {line}").expect("writing to a string");
    }
    text
}

async fn show(cli: &Cli, interface: &str) -> Result<String, Error> {
    let netlink = Netlink::open()?;
    let shown = Shown {
        interface: interface.to_owned(),
        sends: netlink.profile(interface).await?,
        receives: netlink.ingress_profile(interface).await?,
        qdiscs: netlink.show(interface).await?,
        counters: netlink.counters(interface).await?,
    };
    Ok(print(cli, &shown, || describe_shown(&shown)))
}

fn describe_shown(shown: &Shown) -> String {
    let profile = |p: &Option<Profile>| {
        p.as_ref().map_or_else(
            || "nothing applied".to_owned(),
            |p| serde_json::to_string(p).expect("plain data").replace('"', "").replace(',', ", "),
        )
    };
    let mut text = format!(
        "{}\n  sends:    {}\n  receives: {}\n",
        shown.interface,
        profile(&shown.sends),
        profile(&shown.receives)
    );
    for qdisc in &shown.qdiscs {
        let s = &qdisc.statistics;
        writeln!(
            text,
            "  {qdisc}\n    sent {} in {} packets, dropped {}, overlimits {}, waiting {} in {} packets",
            Bytes::new(s.sent_bytes),
            s.sent_packets,
            s.drops,
            s.overlimits,
            Bytes::new(s.backlog_bytes),
            s.backlog_packets
        )
        .expect("writing to a string");
    }
    let c = &shown.counters;
    writeln!(
        text,
        "  counted: sent {} in {} packets, received {} in {} packets",
        Bytes::new(c.tx_bytes),
        c.tx_packets,
        Bytes::new(c.rx_bytes),
        c.rx_packets
    )
    .expect("writing to a string");
    text
}

async fn supported(cli: &Cli) -> Result<String, Error> {
    let found = kernel::supported().await?;
    let profiles: Vec<_> = named::ALL
        .iter()
        .map(|n| serde_json::json!({ "name": n.name, "about": n.about, "profile": n.profile() }))
        .collect();
    let value = serde_json::json!({ "features": found, "profiles": profiles });
    Ok(print(cli, &value, || {
        let mut text = String::from("This kernel:\n");
        for feature in kernel::Feature::ALL {
            let state = if found.contains(&feature) { "yes" } else { "no" };
            writeln!(text, "  {feature:<12} {state:<4} {}", feature.option()).expect("writing to a string");
        }
        text.push_str("\nProfiles:\n");
        for named in named::ALL {
            writeln!(text, "  {:<14} {}", named.name, named.about).expect("writing to a string");
        }
        text
    }))
}
