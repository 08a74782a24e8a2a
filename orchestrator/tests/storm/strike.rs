//! Strikes: the disturbances of a run, drawn from a seeded generator.

use crate::common::real::{Process, TestDir};
use netem::{Namespace, Netlink};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::File,
    os::fd::AsFd,
    time::{Duration, Instant},
};
use testbed::lab::topology::MIGRATION;
use units::random::Random;

/// A kind of strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    KillTestbed,
    KillNode,
    KillQemu,
    StopTestbed,
    StopNode,
    StopQemu,
    LinkDown,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::KillTestbed,
        Self::KillNode,
        Self::KillQemu,
        Self::StopTestbed,
        Self::StopNode,
        Self::StopQemu,
        Self::LinkDown,
    ];

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::KillTestbed => "SIGKILL to testbed",
            Self::KillNode => "SIGKILL to a node",
            Self::KillQemu => "SIGKILL to a QEMU",
            Self::StopTestbed => "SIGSTOP to testbed",
            Self::StopNode => "SIGSTOP to a node",
            Self::StopQemu => "SIGSTOP to a QEMU",
            Self::LinkDown => "link down and up",
        }
    }
}

/// A strike as drawn. Its victim is chosen when it is due, among the victims that exist then.
#[derive(Debug, Clone)]
pub(crate) struct Strike {
    pub(crate) kind: Kind,
    /// The moment, in thousandths of the length of an undisturbed run.
    permille: u64,
    /// Chooses one of the possible victims.
    pick: u64,
    /// How long a process stays stopped, or a link stays down.
    pub(crate) pause: Duration,
}

impl Strike {
    /// Draws one to three strikes, in the order of their moments. A process is stopped for `pause`, and a
    /// link is down for a random part of it.
    pub(crate) fn draw(random: &mut Random, pause: Duration) -> Vec<Self> {
        let count = [1, 1, 1, 2, 2, 3][random.below(6) as usize];
        let mut strikes: Vec<Self> = (0..count).map(|_| Self::draw_one(random, pause)).collect();
        strikes.sort_by_key(|strike| strike.permille);
        strikes
    }

    fn draw_one(random: &mut Random, pause: Duration) -> Self {
        let kind = Kind::ALL[random.below(Kind::ALL.len() as u64) as usize];
        let permille = random.below(1000);
        let pick = random.next_u64();
        let part = 1 + random.below(1000) as u32;
        let pause = if kind == Kind::LinkDown { pause * part / 1000 } else { pause };
        Self { kind, permille, pick, pause }
    }

    /// Returns the moment, counted from the start of a run. `length` is the length of an undisturbed run.
    pub(crate) fn moment(&self, length: Duration) -> Duration {
        length * self.permille as u32 / 1000
    }

    /// Strikes a run whose `testbed` has this PID. Returns the victim and how to end the strike, or `None` if
    /// there is currently no victim.
    pub(crate) fn hit(&self, testbed: i32, dir: &TestDir) -> Option<(String, Undo)> {
        let signal = match self.kind {
            Kind::KillTestbed | Kind::KillNode | Kind::KillQemu => Signal::SIGKILL,
            Kind::StopTestbed | Kind::StopNode | Kind::StopQemu => Signal::SIGSTOP,
            Kind::LinkDown => return self.link_down(dir),
        };
        let (pid, victim) = match self.kind {
            Kind::KillTestbed | Kind::StopTestbed => (testbed, "testbed".to_owned()),
            Kind::KillNode | Kind::StopNode => self.choose(dir, node_name)?,
            _ => self.choose(dir, qemu_name)?,
        };
        match kill(Pid::from_raw(pid), signal) {
            Err(Errno::ESRCH) => return None,
            sent => sent.expect("root may send signals"),
        }
        let what = format!("{} to {victim}", signal.as_str());
        Some(match signal {
            Signal::SIGSTOP => (format!("{what} for {:?}", self.pause), Undo::Continue(pid)),
            _ => (what, Undo::Nothing),
        })
    }

    /// Chooses a process of the run for which `name` returns a name.
    fn choose(&self, dir: &TestDir, name: fn(&Process) -> Option<String>) -> Option<(i32, String)> {
        let mut victims: Vec<(i32, String)> =
            dir.processes().iter().filter_map(|process| Some((process.pid, name(process)?))).collect();
        victims.sort_unstable();
        let index = self.pick % u64::try_from(victims.len()).ok().filter(|count| *count > 0)?;
        Some(victims.swap_remove(index as usize))
    }

    /// Takes down a compute node's end of the migration link.
    fn link_down(&self, dir: &TestDir) -> Option<(String, Undo)> {
        let (pid, node) =
            self.choose(dir, |process| node_name(process).filter(|name| name.starts_with("compute")))?;
        let namespace = Namespace::from(File::open(format!("/proc/{pid}/ns/net")).ok()?);
        set_link(&namespace, false).ok()?;
        Some((format!("link of {node} down for {:?}", self.pause), Undo::LinkUp(namespace)))
    }
}

/// How to end a strike.
#[derive(Debug)]
pub(crate) enum Undo {
    Nothing,
    Continue(i32),
    LinkUp(Namespace),
}

impl Undo {
    /// Ends the strike. It is not an error if the victim has ended in the meantime.
    pub(crate) fn undo(self) {
        match self {
            Self::Nothing => {}
            Self::Continue(pid) => {
                let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
            }
            Self::LinkUp(namespace) => {
                let _ = set_link(&namespace, true);
            }
        }
    }
}

/// A strike that has to be ended at a certain time.
pub(crate) struct Pending {
    pub(crate) until: Instant,
    pub(crate) undo: Undo,
}

fn set_link(namespace: &Namespace, up: bool) -> Result<(), netem::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let netlink = Netlink::open_in(namespace.as_fd())?;
        if up { netlink.set_up(MIGRATION).await } else { netlink.set_down(MIGRATION).await }
    })
}

/// Returns the name of the node that this process is part of, and whether it is the process inside the node's
/// namespaces or the outer process that waits for it.
fn node_name(process: &Process) -> Option<String> {
    let words = &process.words;
    if words.get(1)? != "node" {
        return None;
    }
    let name = words.iter().skip_while(|word| *word != "--name").nth(1)?;
    let inside = words.iter().any(|word| word == "--inside");
    Some(format!("{name} ({})", if inside { "inside" } else { "outside" }))
}

fn qemu_name(process: &Process) -> Option<String> {
    let role = ["boot", "source", "destination"].into_iter().find(|role| process.is_qemu(role))?;
    Some(format!("QEMU ({role})"))
}
