//! The program `netem`: its command line, and the output of each subcommand.
//!
//! Exit codes: 0 success; 1 an operation failed; 2 the request is invalid (an invalid value, an interface
//! that does not exist, a qdisc that netem did not create), and the link is unchanged.

mod play;
mod profile_args;

use crate::{
    error::Error,
    feature::Feature,
    interface::printable,
    kernel::{self, Applied, Direction, JitterDistribution},
    measure::{self, Endpoint, Measurement, MeasurementSettings, Server, Session},
    named,
    netlink::Netlink,
    profile::Profile,
    show::{InterfaceState, inline},
};
use clap::{
    Args, CommandFactory, FromArgMatches, Parser, Subcommand,
    builder::{OsStringValueParser, TypedValueParser},
};
use frontend::Text;
use play::PlayArgs;
pub use profile_args::ProfileArgs;
use serde::Serialize;
use std::{
    fmt::Write as _,
    io,
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::ffi::OsStrExt,
    process::ExitCode,
};
use units::{ByteRate, Span, counted, numbers};

/// Shape the rate, delay and loss of a network interface.
#[derive(Debug, Parser)]
#[command(name = "netem", version, disable_help_subcommand = true, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
}

const AFTER_HELP: &str = "\
A profile shapes what an interface sends; with --ingress, what it receives. Quantities need a unit: \
940mbit, 20ms, 0.1%, 1MiB.

Examples:
  netem apply eth0 --rate 940mbit
  netem apply eth0 --profile transatlantic --loss 0.1%
  netem play eth0 tunnel.txt --delay 20ms --repeat
  netem show eth0
  netem clear eth0

Exit codes:
  0  success
  1  something failed
  2  bad input, or not possible here; the interface is unchanged";

const APPLY_HELP: &str = "\
Examples:
  netem apply eth0 --rate 940mbit
  netem apply eth0 --profile transatlantic --loss 0.1%
  netem apply eth0 --ingress --rate 100mbit";

const SHOW_HELP: &str = "\
Examples:
  netem show eth0
  netem show eth0 --json";

const CHANGE_HELP: &str = "\
Examples:
  netem change eth0 --rate 500mbit
  netem change eth0 --loss 0% --unset queue,burst";

const PLAY_HELP: &str = "\
Examples:
  netem play eth0 tunnel.txt --delay 20ms --repeat

Files:
  A trace has a time and a rate per line, and ends with a time and `end`:
  0s     40mbit
  2500ms 1mbit
  6s     end
  Traces of Mahimahi's mm-link are read too: a whole number per line, the time in milliseconds of a
  packet of 1500 bytes.";

const CLEAR_HELP: &str = "\
Examples:
  netem clear eth0";

const MEASURE_HELP: &str = "\
Examples:
  netem measure --serve
  netem measure --serve --listen 192.0.2.2
  netem measure 192.0.2.2";

const SUPPORTED_HELP: &str = "\
Examples:
  netem supported
  netem supported --json";

#[derive(Debug, Subcommand)]
enum Command {
    /// Shape an interface, replacing the profile that was applied to it before.
    #[command(after_help = APPLY_HELP)]
    Apply(ShapeArgs),
    /// Print the profiles, qdiscs and counters of an interface, read back from the kernel.
    #[command(after_help = SHOW_HELP)]
    Show {
        /// The name of the interface, such as eth0.
        #[arg(value_parser = name())]
        interface: String,
    },
    /// Change settings of an interface while traffic flows, without packet loss if possible.
    ///
    /// Settings that are not given stay as they are. Prints the profile before and after.
    #[command(after_help = CHANGE_HELP)]
    Change(ChangeArgs),
    /// Vary the rate of an interface according to a trace, then restore the previous profile.
    ///
    /// The trace sets the rate; the other options are those of `apply`. SIGINT, SIGTERM, SIGHUP and
    /// SIGQUIT end the trace early. With --json, prints one object per line.
    ///
    /// The trace goes on while nobody reads the output, and after the output has failed or its reader has
    /// closed the pipe. Output that cannot be written is an error at the end; a closed pipe is none.
    #[command(after_help = PLAY_HELP)]
    Play(PlayArgs),
    /// Remove everything that was applied to an interface.
    #[command(after_help = CLEAR_HELP)]
    Clear {
        /// The name of the interface, such as eth0.
        #[arg(value_parser = name())]
        interface: String,
    },
    /// Measure the path to another host: goodput, round-trip times and loss, compared with the profile.
    ///
    /// Run `netem measure --serve` on the other host first.
    #[command(after_help = MEASURE_HELP)]
    Measure(MeasureArgs),
    /// Print the features of this kernel and the named profiles.
    #[command(after_help = SUPPORTED_HELP)]
    Supported,
}

#[derive(Debug, Args)]
struct ShapeArgs {
    /// The name of the interface, such as eth0.
    #[arg(value_parser = name())]
    interface: String,
    /// Shape what the interface receives (through an ifb) instead of what it sends.
    #[arg(long)]
    ingress: bool,
    #[command(flatten)]
    profile: ProfileArgs,
}

#[derive(Debug, Args)]
struct ChangeArgs {
    #[command(flatten)]
    shape: ShapeArgs,
    /// Remove settings, so that their defaults apply: the names of other options, like `queue,burst`.
    #[arg(long, value_name = "SETTING,...", value_delimiter = ',')]
    #[arg(value_parser = setting)]
    unset: Vec<String>,
}

/// Returns the parser of an interface's name, which need not be UTF-8.
fn name() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().map(|name| printable(name.as_bytes()))
}

/// Parses the name of a setting: the name of the option that sets it, or the key in a matrix file. Returns
/// the key.
fn setting(text: &str) -> Result<String, String> {
    let options = ProfileArgs::augment_args(clap::Command::new("profile"));
    let options = options.get_arguments().filter_map(clap::Arg::get_long);
    let names: Vec<_> = options.filter(|name| *name != "profile").collect();
    let name = text.to_ascii_lowercase().replace('_', "-");
    if names.contains(&name.as_str()) {
        return Ok(name.replace('-', "_"));
    }
    Err(format!("there is no setting `{text}`; there are {}", names.join(", ")))
}

#[derive(Debug, Args)]
struct MeasureArgs {
    /// Name or address of the host that runs `netem measure --serve`, with a port if it is not 5202. A
    /// link-local IPv6 address needs its interface, as in %eth0. Of several addresses, the first that accepts
    /// a connection is measured.
    #[arg(required_unless_present = "serve", conflicts_with = "serve")]
    server: Option<Endpoint>,
    /// Run the server, until interrupted. It answers only clients that connect over TCP, at most 16 at a
    /// time, and ends the session of one that is silent for 30s.
    #[arg(long)]
    serve: bool,
    /// Local address on which the server listens [default: every address, as clients are other hosts].
    #[arg(long, value_name = "ADDRESS", requires = "serve", conflicts_with = "server")]
    listen: Option<Endpoint>,
    /// Port of the server, for both TCP and UDP [default: 5202].
    #[arg(long)]
    port: Option<u16>,
    /// How long to measure the goodput of a TCP stream, ignoring the first sixth; the stream then runs
    /// equally long beside probes. From 100ms to 1h.
    #[arg(long, default_value = "3s", value_name = "TIME")]
    time: Span,
    /// Local interface that the path uses; its profile is printed for comparison.
    #[arg(long, value_parser = name())]
    interface: Option<String>,
}

/// Returns the definition of the command line, from which manual pages and shell completions are generated.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program under this version, with the arguments of this process: executes the subcommand and
/// prints its output or error. Returns the exit code.
pub async fn main(version: &'static str) -> ExitCode {
    frontend::survive_size_limits();
    let matches = command().version(version).try_get_matches();
    let written = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Err(message) => frontend::parser(&message),
        Ok(cli) => match run(&cli).await {
            Ok(text) => frontend::print(if cli.json { Text::json(&text) } else { text.into() }).map(|()| 0),
            Err(error) => {
                frontend::try_tell(format!("error: {error}"));
                Ok(if error.is_usage() { 2 } else { FAILED })
            }
        },
    };
    let code = written.unwrap_or_else(|error| {
        frontend::try_tell(format!("error: {error}"));
        FAILED
    });
    code.into()
}

/// The exit code if something failed.
const FAILED: u8 = 1;

async fn run(cli: &Cli) -> Result<String, Error> {
    match &cli.command {
        Command::Apply(shape) => apply(cli, shape).await,
        Command::Change(args) => change(cli, args).await,
        Command::Play(args) => play::play(cli, args).await.map(|()| String::new()),
        Command::Show { interface } => show(cli, interface).await,
        Command::Clear { interface } => {
            let cleared = Netlink::open()?.clear(interface).await?;
            let text = if cleared { "cleared" } else { "nothing was applied" };
            Ok(rendered(cli, &serde_json::json!({ "interface": interface, "cleared": cleared }), || {
                format!("{interface}: {text}\n")
            }))
        }
        Command::Measure(args) => measure_path(cli, args).await,
        Command::Supported => supported(cli).await,
    }
}

/// Returns the output of a subcommand: `value` as JSON with --json, else `text`.
fn rendered<T: Serialize>(cli: &Cli, value: &T, text: impl FnOnce() -> String) -> String {
    if cli.json { format!("{}\n", serde_json::to_string_pretty(value).expect("plain data")) } else { text() }
}

impl ShapeArgs {
    fn direction(&self) -> Direction {
        if self.ingress { Direction::Ingress } else { Direction::Egress }
    }

    fn unsuitable(&self, problem: impl Into<String>) -> Error {
        Error::Unsuitable { interface: self.interface.clone(), problem: problem.into() }
    }
}

async fn apply(cli: &Cli, shape: &ShapeArgs) -> Result<String, Error> {
    let profile = shape.profile.resolve();
    profile.validate()?;
    if profile.is_empty() {
        let problem = "nothing to apply; give at least --rate, --delay or --profile, or use `netem clear`";
        return Err(shape.unsuitable(problem));
    }
    let netlink = Netlink::open()?;
    let applied =
        netlink.shape(&shape.interface, shape.direction(), &profile, JitterDistribution::Requested).await?;
    Ok(rendered(cli, &applied, || describe(&applied)))
}

/// The output of `netem change`.
#[derive(Debug, Serialize)]
struct ChangeReport {
    #[serde(flatten)]
    applied: Applied,
    before: Profile,
    after: Profile,
}

async fn change(cli: &Cli, ChangeArgs { shape, unset }: &ChangeArgs) -> Result<String, Error> {
    if shape.profile.is_empty() && unset.is_empty() {
        return Err(shape.unsuitable("nothing to change; give a setting, such as --rate, or --unset"));
    }
    let netlink = Netlink::open()?;
    let link = netlink.interface(&shape.interface).await?;
    let shaping = netlink.shaping(&link, shape.direction()).await?;
    let before = shaping.profile_of(&link, shape.direction())?;
    let before = before.ok_or_else(|| Error::NothingApplied { interface: link.name.clone() })?;
    let (after, distribution) = shape.profile.merge(without(&before, unset));
    if let Err(error) = after.validate() {
        let problem = format!("{error}; in force is {}", inline(&before));
        return Err(shape.unsuitable(problem));
    }
    if after.is_empty() {
        return Err(shape.unsuitable("nothing would remain; use `netem clear` to remove the profile"));
    }
    let applied = netlink.shape(&link.name, shape.direction(), &after, distribution).await?;
    let report = ChangeReport { applied, before, after };
    Ok(rendered(cli, &report, || {
        let mut text = describe(&report.applied);
        writeln!(text, "  before: {}", inline(&report.before)).expect("writing to a string");
        writeln!(text, "  after:  {}", inline(&report.after)).expect("writing to a string");
        text
    }))
}

/// Returns a profile without these settings.
fn without(profile: &Profile, unset: &[String]) -> Profile {
    let mut settings = serde_json::to_value(profile).expect("plain data");
    for key in unset {
        settings.as_object_mut().expect("a profile").remove(key);
    }
    serde_json::from_value(settings).expect("a profile with fewer settings is one")
}

fn describe(applied: &Applied) -> String {
    let how = if applied.in_place { ", changed in place" } else { "" };
    let mut text = format!("{}: backend {}{how}\n", applied.interface, applied.backend);
    for problem in &applied.repaired {
        writeln!(text, "  repaired: {problem}").expect("writing to a string");
    }
    for line in &applied.tree {
        writeln!(text, "  {line}").expect("writing to a string");
    }
    text
}

async fn show(cli: &Cli, interface: &str) -> Result<String, Error> {
    let shown = InterfaceState::read(&Netlink::open()?, interface).await?;
    Ok(rendered(cli, &shown, || shown.to_string()))
}

/// The profile of the local interface, with which a measurement is compared.
#[derive(Debug, Serialize)]
struct ConfiguredProfile {
    profile: Profile,
    /// The payload rate of one TCP stream at the profile's rate.
    #[serde(rename = "tcp_payload_bytes_per_s", serialize_with = "numbers::optional_bytes_per_s")]
    tcp_payload: Option<ByteRate>,
}

/// The output of `netem measure`.
#[derive(Debug, Serialize)]
struct MeasureReport {
    /// The address and the port of the measured server.
    server: String,
    #[serde(rename = "asked")]
    configured: Option<ConfiguredProfile>,
    measured: Measurement,
}

async fn measure_path(cli: &Cli, args: &MeasureArgs) -> Result<String, Error> {
    let Some(server) = &args.server else {
        return serve(args.listen.as_ref(), args.port).map(|()| String::new());
    };
    let unsuitable = |problem| Error::Unsuitable { interface: server.to_string(), problem };
    let port = port(Some(server), args.port)?;
    if port == 0 {
        return Err(unsuitable("--port: no server listens on port 0".into()));
    }
    if !(Span::from_millis(100)..=Span::from_secs(3600)).contains(&args.time) {
        return Err(unsuitable(format!("--time: {} is not between 100ms and 1h", args.time)));
    }
    let profile = match &args.interface {
        Some(name) => Netlink::open()?.profile(name).await?,
        None => None,
    };
    let duration = args.time.into();
    let settings = MeasurementSettings { duration, warm_up: duration / 6, ..MeasurementSettings::default() };
    let addresses = server.resolve(port)?;
    let session = Session::open(&addresses, |address, error| {
        frontend::tell(format!("note: cannot connect to {}: {error}", measure::written(address)));
    })
    .map_err(|error| {
        let hint = if error.kind() == io::ErrorKind::ConnectionRefused {
            " (is `netem measure --serve` running there?)"
        } else {
            ""
        };
        let last = addresses.last().map_or_else(String::new, |&address| measure::written(address));
        Error::system(format!("measure the path to {last}{hint}"))(error)
    })?;
    let server = measure::written(session.server());
    let measured =
        session.measure(&settings).map_err(Error::system(format!("measure the path to {server}")))?;
    let configured = profile.map(|profile| ConfiguredProfile {
        tcp_payload: measure::tcp_payload(&profile, measured.segment),
        profile,
    });
    for note in notes(&measured, &settings) {
        frontend::tell(format!("note: {note}"));
    }
    let report = MeasureReport { server, configured, measured };
    Ok(rendered(cli, &report, || describe_report(&report)))
}

/// Returns what makes the figures of a measurement doubtful.
fn notes(measured: &Measurement, settings: &MeasurementSettings) -> impl Iterator<Item = String> {
    let silent = measured.idle.echoed == 0 && measured.loaded.echoed == 0;
    let blocked = silent
        .then(|| "no probe came back, although TCP passes; a firewall may block UDP on this port".to_owned());
    let probes = settings.probe_rate();
    let crowded = (probes.get() > measured.goodput.get() / 4).then(|| {
        format!(
            "the path is so slow that the probes, {:.1} kB/s, fill it; round trips include the queue that \
             they make",
            probes.get() as f64 / 1e3
        )
    });
    blocked.into_iter().chain(crowded)
}

/// Returns the port of a server, which may be given as part of its address or with `--port`.
fn port(server: Option<&Endpoint>, option: Option<u16>) -> Result<u16, Error> {
    match (server.and_then(|server| Some((server, server.port?))), option) {
        (Some((server, port)), Some(other)) if other != port => Err(Error::Unsuitable {
            interface: server.to_string(),
            problem: format!("--port: {other} is another port; give one of the two"),
        }),
        (Some((_, port)), _) | (None, Some(port)) => Ok(port),
        (None, None) => Ok(measure::DEFAULT_PORT),
    }
}

/// Serves measurements until interrupted.
fn serve(listen: Option<&Endpoint>, option: Option<u16>) -> Result<(), Error> {
    let port = port(listen, option)?;
    let server = match listen {
        Some(listen) => {
            let addresses = listen.resolve(port)?;
            let mut servers = addresses.iter().map(|&address| {
                Server::bind(address)
                    .map_err(Error::system(format!("listen on {}", measure::written(address))))
            });
            let mut server = servers.next().expect("a resolved name has an address");
            while server.is_err()
                && let Some(next) = servers.next()
            {
                server = next;
            }
            server?
        }
        // Binding to an IPv6 address fails if the kernel lacks IPv6.
        None => Server::bind((Ipv6Addr::UNSPECIFIED, port).into())
            .or_else(|_| Server::bind((Ipv4Addr::UNSPECIFIED, port).into()))
            .map_err(Error::system(format!("listen on port {port}")))?,
    };
    let address = measure::written(server.address().map_err(Error::system("read the server's address"))?);
    frontend::tell(format!("Listening on {address}; press Ctrl-C to stop"));
    server.run().map_err(Error::system("serve"))
}

fn describe_report(MeasureReport { server, configured, measured }: &MeasureReport) -> String {
    let goodput = measured.goodput.as_mb_per_s();
    let mut text = format!("server    {server}\ngoodput   {goodput:.2} MB/s");
    if let Some(configured) = configured {
        if let Some(payload) = configured.tcp_payload {
            let share = measured.goodput.get() as f64 / payload.get().max(1) as f64;
            write!(
                text,
                ", {:.1} % of the {:.2} MB/s that are left for TCP payload",
                100.0 * share,
                payload.as_mb_per_s()
            )
            .expect("writing to a string");
        }
        write!(text, "\nprofile   {}", inline(&configured.profile)).expect("writing to a string");
    }
    text.push('\n');
    for (name, trips) in [("idle", &measured.idle), ("loaded", &measured.loaded)] {
        let [min, p50, p90, p99, max] = [trips.min, trips.p50, trips.p90, trips.p99, trips.max]
            .map(|t| format!("{:.3}", t.as_millis_f64()));
        writeln!(
            text,
            "{name:<9} round trip min {min} p50 {p50} p90 {p90} p99 {p99} max {max} ms\n          \
             lost {} of {} ({:.2} %)",
            trips.sent - trips.echoed,
            counted(trips.sent, "probe"),
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
    Ok(rendered(cli, &value, || {
        let mut text = String::from("Features of this kernel:\n");
        for feature in Feature::ALL {
            let state = if found.contains(&feature) { "yes" } else { "no" };
            writeln!(text, "  {feature:<12} {state:<4} {}", feature.option()).expect("writing to a string");
        }
        text.push_str("\nNamed profiles:\n");
        for named in named::ALL {
            writeln!(text, "  {:<14} {}", named.name, named.about).expect("writing to a string");
        }
        text
    }))
}
