//! `netem play`: an interface whose rate follows a trace.

use super::{Cli, ShapeArgs};
use crate::{
    error::{Error, Result},
    kernel::{Direction, JitterDistribution},
    netlink::Netlink,
    profile::Profile,
    trace::{Trace, TraceError},
};
use clap::Args;
use frontend::{Printer, Text};
use serde::Serialize;
use std::{
    fs::File,
    future::poll_fn,
    io::{self, Read},
    path::{Path, PathBuf},
    task::Poll,
    time::Duration,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};
use units::{BitRate, Span, numbers};

/// The largest size of a trace: more than an hour of a new rate every 10 ms.
const MAX_TRACE_BYTES: u64 = 8 << 20;

#[derive(Debug, Args)]
pub(super) struct PlayArgs {
    #[command(flatten)]
    shape: ShapeArgs,
    /// The trace file, or `-` for standard input: lines like `250ms 12mbit`, the first at 0s, and a last line
    /// like `6s end`; # starts a comment. Or a trace in Mahimahi's format.
    trace: PathBuf,
    /// Repeat the trace until interrupted.
    #[arg(long)]
    repeat: bool,
}

/// An event that is printed as one line, or with --json as one object.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum PlayEvent<'a> {
    /// A rate of the trace was applied.
    Rate {
        interface: &'a str,
        #[serde(rename = "at_ms", serialize_with = "numbers::millis")]
        at: Span,
        #[serde(rename = "rate_bits_per_s", serialize_with = "numbers::optional_bits_per_s")]
        rate: Option<BitRate>,
        in_place: bool,
    },
    /// The trace ended or was interrupted, and the previous profile was restored.
    Ended { interface: &'a str, interrupted: bool },
}

/// The player of a trace on one interface, in one direction.
struct TracePlayer<'a> {
    cli: &'a Cli,
    netlink: Netlink,
    interface: &'a str,
    direction: Direction,
    printer: Printer,
}

/// The state of an interface before the trace.
enum Previous {
    Profile(Profile),
    /// A queue that shapes nothing, see [`Netlink::count`].
    Counter,
    Nothing,
}

pub(super) async fn play(cli: &Cli, args: &PlayArgs) -> Result<()> {
    let interface = args.shape.interface.as_str();
    let from_stdin = args.trace == Path::new("-");
    let file = if from_stdin { "<stdin>".to_owned() } else { args.trace.display().to_string() };
    let error = |problem: String| Error::Trace { file: file.clone(), problem };
    if args.shape.profile.has_rate() {
        return Err(Error::Unsuitable {
            interface: interface.into(),
            problem: "--rate cannot be used here: the trace sets the rate".into(),
        });
    }
    let invalid = |e: TraceError| error(e.to_string());
    let text =
        if from_stdin { read_bounded(io::stdin()) } else { File::open(&args.trace).and_then(read_bounded) };
    let text = text.map_err(|e| error(e.to_string()))?;
    let trace: Trace = text.parse().map_err(invalid)?;
    let profiles = trace.profiles(&args.shape.profile.resolve()).map_err(invalid)?;
    let mut interruption = Interruption::listen().map_err(Error::system("listen for signals"))?;

    let printer = Printer::start().map_err(Error::system("start a thread"))?;
    let (netlink, direction) = (Netlink::open()?, args.shape.direction());
    let player = TracePlayer { cli, netlink, interface, direction, printer };
    let before = player.previous().await?;
    let (first, rest) = profiles.split_first().expect("a trace has at least one rate");
    // From here on, the previous profile has to be restored, whatever happens.
    let set = player.set(first).await?;
    let outcome = player.run((first, set), rest, trace.length(), args.repeat, &mut interruption).await;
    let restored = player.restore(&before).await;
    let ended = outcome.and_then(|interrupted| restored.map(|()| interrupted));
    let last = ended.as_ref().map_or_else(
        |_| Text::default(),
        |&interrupted| player.line(&PlayEvent::Ended { interface, interrupted }),
    );
    let written = player.printer.finish(last).map_err(Error::system("write to standard output"));
    ended.and(written)
}

/// Reads the text of a trace, which may be endless.
fn read_bounded(input: impl Read) -> io::Result<String> {
    let mut text = String::new();
    input.take(MAX_TRACE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_TRACE_BYTES {
        let problem = format!("the trace is longer than {MAX_TRACE_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok(text)
}

impl TracePlayer<'_> {
    async fn previous(&self) -> Result<Previous> {
        let link = self.netlink.interface(self.interface).await?;
        let shaping = self.netlink.shaping(&link, self.direction).await?;
        if let Some(profile) = shaping.profile_of(&link, self.direction)? {
            return Ok(Previous::Profile(profile));
        }
        let counts =
            self.direction == Direction::Egress && self.netlink.sent_bytes(&link.name).await?.is_some();
        Ok(if counts { Previous::Counter } else { Previous::Nothing })
    }

    async fn restore(&self, previous: &Previous) -> Result<()> {
        match previous {
            Previous::Profile(profile) => self.apply(profile).await.map(drop),
            Previous::Counter => self.netlink.count(self.interface).await.map(drop),
            Previous::Nothing => self.apply(&Profile::default()).await.map(drop),
        }
    }

    /// Applies a profile. Returns whether it was changed in place.
    async fn apply(&self, profile: &Profile) -> Result<bool> {
        Ok(self
            .netlink
            .shape(self.interface, self.direction, profile, JitterDistribution::Requested)
            .await?
            .in_place)
    }

    async fn set(&self, (at, profile): &(Span, Profile)) -> Result<PlayEvent<'_>> {
        let in_place = self.apply(profile).await?;
        Ok(PlayEvent::Rate { interface: self.interface, at: *at, rate: profile.rate, in_place })
    }

    /// Plays the trace, whose first rate is already set, to its end or until a signal arrives. Returns
    /// whether a signal arrived.
    async fn run(
        &self,
        (first, set): (&(Span, Profile), PlayEvent<'_>),
        rest: &[(Span, Profile)],
        length: Span,
        repeat: bool,
        interruption: &mut Interruption,
    ) -> Result<bool> {
        let mut start = Instant::now();
        self.print(&set);
        loop {
            for step in rest {
                if interruption.before(start + Duration::from(step.0)).await {
                    return Ok(true);
                }
                self.print(&self.set(step).await?);
            }
            start += Duration::from(length);
            if interruption.before(start).await {
                return Ok(true);
            }
            if !repeat {
                return Ok(false);
            }
            self.print(&self.set(first).await?);
        }
    }

    /// Prints an event, without waiting for a reader.
    fn print(&self, event: &PlayEvent<'_>) {
        self.printer.print(self.line(event));
    }

    fn line(&self, event: &PlayEvent<'_>) -> Text {
        let mut line = match event {
            event if self.cli.json => Text::json(&serde_json::to_string(event).expect("plain data")),
            PlayEvent::Rate { interface, at, rate, .. } => {
                format!("{interface}: {at} {}", rate.unwrap_or_default()).into()
            }
            PlayEvent::Ended { interface, interrupted } => {
                let how = if *interrupted { "interrupted" } else { "ended" };
                format!("{interface}: {how}; previous state restored").into()
            }
        };
        line += "\n";
        line
    }
}

/// The signals that end a trace.
struct Interruption(Vec<Signal>);

impl Interruption {
    /// Catches the signals with which users and terminals end programs, except those that this process was
    /// started to ignore.
    fn listen() -> io::Result<Self> {
        let quit = Some(nix::sys::signal::Signal::SIGQUIT).filter(|quit| !frontend::is_ignored(*quit));
        let caught = frontend::termination_signals().chain(quit);
        caught.map(|caught| signal(SignalKind::from_raw(caught as i32))).collect::<io::Result<_>>().map(Self)
    }

    /// Waits until a time or until a signal arrives. Returns whether a signal arrived.
    async fn before(&mut self, until: Instant) -> bool {
        let arrival = poll_fn(|context| {
            let arrived = self.0.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
            if arrived { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::select! {
            biased;
            () = arrival => true,
            () = sleep_until(until) => false,
        }
    }
}
