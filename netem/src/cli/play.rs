//! `netem play`: an interface whose rate follows a trace.

use super::{Cli, Shape};
use crate::{
    error::{Error, Result},
    netlink::Netlink,
    profile::Profile,
    trace::{Trace, TraceError},
};
use clap::Args;
use serde::Serialize;
use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};
use units::{BitRate, Span};

#[derive(Debug, Args)]
pub(super) struct PlayArgs {
    #[command(flatten)]
    shape: Shape,
    /// The trace: lines like `250ms 12mbit`, the first at 0s, and a last one like `6s end`; # begins a
    /// comment.
    trace: PathBuf,
    /// Begin anew whenever the trace has ended, until interrupted.
    #[arg(long)]
    repeat: bool,
}

/// One line of what is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum Event<'a> {
    /// A rate of the trace holds from now on.
    Rate { interface: &'a str, at: Span, rate: Option<BitRate>, in_place: bool },
    /// It is over, and the interface is as it was before.
    Ended { interface: &'a str, interrupted: bool },
}

/// An interface that is played on, in one direction.
struct Player<'a> {
    cli: &'a Cli,
    netlink: Netlink,
    interface: &'a str,
    ingress: bool,
}

pub(super) async fn play(cli: &Cli, args: &PlayArgs) -> Result<()> {
    let interface = args.shape.interface.as_str();
    let file = args.trace.display().to_string();
    let refuse = |problem: String| Error::Trace { file: file.clone(), problem };
    if args.shape.profile.has_rate() {
        return Err(Error::Unsuitable {
            interface: interface.into(),
            problem: "--rate means nothing here; the trace has the rates".into(),
        });
    }
    let said = |error: TraceError| refuse(error.to_string());
    let text = fs::read_to_string(&args.trace).map_err(|error| refuse(error.to_string()))?;
    let trace: Trace = text.parse().map_err(said)?;
    let profiles = trace.profiles(&args.shape.profile.resolve()).map_err(said)?;
    let listen = |kind| signal(kind).map_err(Error::system("listen for signals"));
    let mut signals = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);

    let player = Player { cli, netlink: Netlink::open()?, interface, ingress: args.shape.ingress };
    let before = player.profile().await?.unwrap_or_default();
    let (first, rest) = profiles.split_first().expect("a trace has at least one rate");
    // From here on there is something to put back.
    let set = player.set(first).await?;
    let outcome = player.follow((first, set), rest, trace.length(), args.repeat, &mut signals).await;
    let restored = player.apply(&before).await;
    let interrupted = outcome?;
    restored?;
    player.say(&Event::Ended { interface, interrupted })
}

impl Player<'_> {
    async fn profile(&self) -> Result<Option<Profile>> {
        if self.ingress {
            self.netlink.ingress_profile(self.interface).await
        } else {
            self.netlink.profile(self.interface).await
        }
    }

    /// Whether it was done in place.
    async fn apply(&self, profile: &Profile) -> Result<bool> {
        let applied = if self.ingress {
            self.netlink.apply_ingress(self.interface, profile).await
        } else {
            self.netlink.apply(self.interface, profile).await
        };
        Ok(applied?.in_place)
    }

    async fn set(&self, (at, profile): &(Span, Profile)) -> Result<Event<'_>> {
        let in_place = self.apply(profile).await?;
        Ok(Event::Rate { interface: self.interface, at: *at, rate: profile.rate, in_place })
    }

    /// Plays the trace, whose first rate has just been set, to its end or until a signal comes; which of the
    /// two it was.
    async fn follow(
        &self,
        (first, set): (&(Span, Profile), Event<'_>),
        rest: &[(Span, Profile)],
        length: Span,
        repeat: bool,
        signals: &mut (Signal, Signal),
    ) -> Result<bool> {
        let mut begun = Instant::now();
        self.say(&set)?;
        loop {
            for step in rest {
                if wait(begun + Duration::from(step.0), signals).await {
                    return Ok(true);
                }
                self.say(&self.set(step).await?)?;
            }
            begun += Duration::from(length);
            if wait(begun, signals).await {
                return Ok(true);
            }
            if !repeat {
                return Ok(false);
            }
            self.say(&self.set(first).await?)?;
        }
    }

    fn say(&self, event: &Event<'_>) -> Result<()> {
        let line = match event {
            event if self.cli.json => serde_json::to_string(event).expect("plain data"),
            Event::Rate { interface, at, rate, .. } => {
                format!("{interface}: {at} {}", rate.unwrap_or_default())
            }
            Event::Ended { interface, interrupted } => {
                let how = if *interrupted { "interrupted" } else { "ended" };
                format!("{interface}: {how}; as it was before")
            }
        };
        let mut output = io::stdout().lock();
        writeln!(output, "{line}").and_then(|()| output.flush()).map_err(Error::system("print"))
    }
}

/// Waits until then, or for a signal; whether one came.
async fn wait(until: Instant, (interrupt, terminate): &mut (Signal, Signal)) -> bool {
    tokio::select! {
        biased;
        _ = interrupt.recv() => true,
        _ = terminate.recv() => true,
        () = sleep_until(until) => false,
    }
}
