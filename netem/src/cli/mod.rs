//! The program `netem`: its command line, and what each subcommand prints.
//!
//! Exit codes: 0 done; 1 something failed; 2 what was asked for cannot be had (a bad value, no such
//! interface, somebody else's qdisc), and the link is as it was.

mod play;
mod profile_args;

use crate::{
    error::Error,
    feature::Feature,
    kernel::{self, Applied},
    measure::{self, Measurement, Server},
    named,
    netlink::Netlink,
    profile::Profile,
    show::{Shown, inline},
};
use clap::{Args, CommandFactory, Parser, Subcommand};
use play::PlayArgs;
pub use profile_args::ProfileArgs;
use serde::Serialize;
use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
};
use units::{ByteRate, Span};

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
  netem play eth0 tunnel.txt --delay 20ms --repeat
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
    /// Let the rate of an interface follow a trace, then leave the interface as it was before.
    ///
    /// The other options are those of `apply`. SIGINT and SIGTERM end it early. With --json, one object a
    /// line.
    Play(PlayArgs),
    /// Take everything away that was applied to an interface.
    Clear {
        /// The interface.
        interface: String,
    },
    /// Measure the path to another host: goodput, round trips and loss, beside what was asked for.
    ///
    /// Run `netem measure --serve` at the far end first.
    Measure(MeasureArgs),
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

#[derive(Debug, Args)]
struct MeasureArgs {
    /// The far end's address.
    #[arg(required_unless_present = "serve", conflicts_with = "serve")]
    server: Option<IpAddr>,
    /// Be the far end, until interrupted.
    #[arg(long)]
    serve: bool,
    /// The port, by TCP and UDP.
    #[arg(long, default_value_t = 5202)]
    port: u16,
    /// How long the TCP stream runs alone, to be counted but for its first sixth; it then runs as long beside
    /// probes.
    #[arg(long, default_value = "3s", value_name = "TIME")]
    time: Span,
    /// The interface the path begins with, whose profile is printed beside.
    #[arg(long)]
    interface: Option<String>,
}

/// The command line, for man pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program: parses the arguments of this process, does what they say, prints, and gives the exit
/// code.
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
        Command::Play(args) => play::play(cli, args).await.map(|()| String::new()),
        Command::Show { interface } => show(cli, interface).await,
        Command::Clear { interface } => {
            let cleared = Netlink::open()?.clear(interface).await?;
            let text = if cleared { "cleared" } else { "nothing was applied" };
            Ok(print(cli, &serde_json::json!({ "interface": interface, "cleared": cleared }), || {
                format!("{interface}: {text}\n")
            }))
        }
        Command::Measure(args) => measure_path(cli, args).await,
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
    let shown = Shown::read(&Netlink::open()?, interface).await?;
    Ok(print(cli, &shown, || shown.to_string()))
}

/// What was asked of an interface, for comparison.
#[derive(Debug, Serialize)]
struct Asked {
    profile: Profile,
    /// What one TCP stream carries at that rate.
    tcp_payload: Option<ByteRate>,
}

#[derive(Debug, Serialize)]
struct Measured {
    asked: Option<Asked>,
    measured: Measurement,
}

async fn measure_path(cli: &Cli, args: &MeasureArgs) -> Result<String, Error> {
    let Some(server) = args.server else {
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, args.port));
        // A kernel without IPv6 has no such address.
        let server = Server::bind(address)
            .or_else(|_| Server::bind((Ipv4Addr::UNSPECIFIED, args.port).into()))
            .map_err(Error::system(format!("listen on port {}", args.port)))?;
        eprintln!("netem: measuring on port {}, until interrupted", args.port);
        server.run().map_err(Error::system("serve"))?;
        return Ok(String::new());
    };
    if !(Span::from_millis(100)..=Span::from_secs(3600)).contains(&args.time) {
        return Err(Error::Unsuitable {
            interface: server.to_string(),
            problem: format!("--time: {} is not between 100ms and 1h", args.time),
        });
    }
    let asked = match &args.interface {
        Some(name) => {
            let netlink = Netlink::open()?;
            let mtu = netlink.interface(name).await?.mtu;
            let asked = |profile| Asked { tcp_payload: measure::tcp_payload(&profile, mtu), profile };
            netlink.profile(name).await?.map(asked)
        }
        None => None,
    };
    let duration = args.time.into();
    let settings = measure::Settings { duration, warm_up: duration / 6, ..measure::Settings::default() };
    let address = SocketAddr::from((server, args.port));
    let measured = measure::measure(address, &settings).map_err(Error::system(format!(
        "measure the path to {address} (is `netem measure --serve` there?)"
    )))?;
    let measured = Measured { asked, measured };
    Ok(print(cli, &measured, || describe_measured(&measured)))
}

fn describe_measured(Measured { asked, measured }: &Measured) -> String {
    let mut text = format!("goodput   {:.2} MB/s", measured.goodput.as_mb_per_s());
    if let Some(asked) = asked {
        if let Some(payload) = asked.tcp_payload {
            let share = measured.goodput.get() as f64 / payload.get().max(1) as f64;
            write!(
                text,
                ", of {:.2} that the rate leaves for TCP: {:.1} %",
                payload.as_mb_per_s(),
                100.0 * share
            )
            .expect("writing to a string");
        }
        write!(text, "\nasked     {}", inline(&asked.profile)).expect("writing to a string");
    }
    text.push('\n');
    for (name, trips) in [("idle", &measured.idle), ("loaded", &measured.loaded)] {
        let [min, p50, p90, p99, max] = [trips.min, trips.p50, trips.p90, trips.p99, trips.max]
            .map(|t| format!("{:.3}", t.as_millis_f64()));
        writeln!(
            text,
            "{name:<9} round trip min {min} p50 {p50} p90 {p90} p99 {p99} max {max} ms; lost {} of {} there and back ({:.2} %)",
            trips.sent - trips.echoed,
            trips.sent,
            100.0 * trips.loss()
        )
        .expect("writing to a string");
    }
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
        for feature in Feature::ALL {
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
