//! The backend `userspace`: a link emulator for kernels without `sch_netem`.
//!
//! A link is two TUN devices, one in each network namespace, and an [`Emulator`] between them with a thread
//! for each direction. A packet meets the bottleneck first (a queue and a rate), then the delay line:
//!
//! ```text
//! near tun -> lost? -> queue -> rate -> delay, jitter -> duplicated? corrupted? -> far tun
//! ```
//!
//! Packets cross unsegmented, behind the virtio-net headers of the kernel, wherever only time matters: 64 KiB
//! of TCP are one packet that takes as long as its 45 frames would. Where single packets have a fate (loss,
//! duplication, corruption, reordering, jitter), the kernel is told to segment them before, and where they
//! are corrupted, to finish their checksums, so that the receiver notices.
//!
//! What it does not do: [`Slots`](crate::Slots). The devices carry IP, not Ethernet (14 bytes are counted for
//! its header), so they cannot be ports of a bridge. Times are as good as the scheduler: see
//! [`Statistics::late`]. A queue drops whole unsegmented packets.
//!
//! Measured on two idle cores (Linux 6.18): one TCP stream carries what the headers leave of 1, 10 and 100
//! Mbit/s within 0.1 %, of 500 and 984 Mbit/s within 0.6 %, of 5 Gbit/s between all of it and 1.5 % less;
//! without a rate 12 to 14 Gbit/s, and then the two threads take 0.8 of a core, 0.2 at 1 Gbit/s. Idle round
//! trips are 0.01 to 0.15 ms longer than asked for, 0.13 ms without a delay, half of which the two ends take
//! themselves; deliveries are late by 0.03 to 0.16 ms on average, by more where other programs want the
//! cores. A long link also needs TCP buffers as large (`net.ipv4.tcp_rmem`, `tcp_wmem` in both namespaces):
//! with the defaults a stream carries 70 MB/s at 40 ms and 33 MB/s at 80 ms, whatever the link.

mod chance;
mod forwarder;
mod lane;
mod packet;

use crate::{
    error::{Error, Result},
    netns::Namespace,
    profile::{LinkProfile, Profile, ProfileError},
    sys,
};
use forwarder::Forwarder;
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};
use units::{Bytes, Span};

/// One end of an emulated link: a TUN device, which lives as long as this does.
///
/// Its interface is plumbed like any other: [`set_up`](crate::Netlink::set_up),
/// [`add_address`](crate::Netlink::add_address). Its descriptor may come from another process.
#[derive(Debug)]
pub struct Tun(File);

impl Tun {
    /// Makes a TUN device in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] without `CAP_NET_ADMIN`; [`Error::System`] without `/dev/net/tun`, without
    /// access to it, or when the name is taken.
    pub fn open(name: &str) -> Result<Self> {
        sys::open_tun(name).map(Self).map_err(|source| {
            let doing = format!("make the TUN device {name}");
            match source.raw_os_error() {
                Some(libc::EPERM) => Error::NotPermitted { doing },
                Some(libc::EACCES) => {
                    let doing =
                        format!("{doing}: open /dev/net/tun (let everybody: chmod 0666 /dev/net/tun)");
                    Error::System { doing, source }
                }
                _ => Error::System { doing, source },
            }
        })
    }

    /// As [`Tun::open`], in another network namespace.
    ///
    /// # Errors
    ///
    /// As [`Tun::open`], and when the namespace cannot be entered.
    pub fn open_in(namespace: BorrowedFd<'_>, name: &str) -> Result<Self> {
        thread::scope(|scope| {
            let inside = || {
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)
                    .map_err(io::Error::from)
                    .map_err(Error::system("enter a network namespace"))?;
                Self::open(name)
            };
            scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl From<OwnedFd> for Tun {
    /// A descriptor that [`Tun::open`] made, perhaps in another process.
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor.into())
    }
}

impl From<Tun> for OwnedFd {
    fn from(tun: Tun) -> Self {
        tun.0.into()
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What one direction has counted. Packets are frames: an unsegmented one counts as many as it stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Frames that the sender gave us.
    pub received_packets: u64,
    /// Their bytes, counted as `rate` counts them.
    pub received_bytes: u64,
    /// Frames that the receiver got, duplicates included.
    pub delivered_packets: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// Lost on purpose.
    pub lost: u64,
    /// Dropped because the queue or the delay line was full.
    pub dropped: u64,
    /// Delivered twice.
    pub duplicated: u64,
    /// Delivered with a bit inverted.
    pub corrupted: u64,
    /// Delivered ahead of others.
    pub reordered: u64,
    /// Refused by the receiver's interface, which is down or short of memory.
    pub refused: u64,
    /// By how much delivery missed the time that was computed for it: the error of this emulator.
    pub late: Lateness,
}

/// Scheduling error: how much later than due packets were delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lateness {
    /// Deliveries counted.
    pub deliveries: u64,
    /// Their sum.
    pub total: Span,
    /// The worst.
    pub worst: Span,
}

impl Lateness {
    fn add(&mut self, nanos: u64) {
        self.deliveries += 1;
        self.total = Span::from_nanos(self.total.as_nanos().saturating_add(nanos));
        self.worst = self.worst.max(Span::from_nanos(nanos));
    }

    /// Of these deliveries and of others.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            deliveries: self.deliveries + other.deliveries,
            total: Span::from_nanos(self.total.as_nanos().saturating_add(other.total.as_nanos())),
            worst: self.worst.max(other.worst),
        }
    }

    /// On average; zero before the first.
    pub fn mean(&self) -> Span {
        Span::from_nanos(self.total.as_nanos().checked_div(self.deliveries).unwrap_or(0))
    }
}

/// What a forwarder and its owner have in common.
#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    state: Mutex<State>,
    /// Makes the forwarder look at the others.
    wake: EventFd,
}

#[derive(Debug, Default)]
struct State {
    change: Option<Profile>,
    statistics: Statistics,
    /// Since [`Emulator::take_lateness`] was last called.
    recent: Lateness,
}

impl Shared {
    fn new() -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self { stop: AtomicBool::new(false), state: Mutex::default(), wake })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_change(&self) -> Option<Profile> {
        self.state().change.take()
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn wake(&self) {
        // It fails only when the counter is full, and then the forwarder is awake anyway.
        let _ = self.wake.write(1);
    }
}

/// A link between two TUN devices. Dropping it cuts the link and removes the devices.
#[derive(Debug)]
pub struct Emulator {
    /// Forward, then backward.
    directions: Vec<(Arc<Shared>, JoinHandle<io::Result<()>>)>,
}

impl Emulator {
    /// Joins two devices. `seed` decides which packets are lost and so on: the same seed, the same decisions.
    ///
    /// # Errors
    ///
    /// [`Error::Profile`] for a profile that cannot be had here; [`Error::System`].
    pub fn start(near: Tun, far: Tun, link: &LinkProfile, seed: u64) -> Result<Self> {
        check(&link.forward)?;
        check(&link.backward)?;
        let (near, far) = (Arc::new(near.0), Arc::new(far.0));
        let start = |name, from: &Arc<File>, to: &Arc<File>, profile, seed| {
            let shared = Arc::new(Shared::new()?);
            let forwarder = Forwarder::new(from.clone(), to.clone(), shared.clone(), profile, seed)?;
            let thread = thread::Builder::new().name(String::from(name)).spawn(|| forwarder.run())?;
            io::Result::Ok((shared, thread))
        };
        let forward = start("link-forward", &near, &far, &link.forward, seed)
            .map_err(Error::system("start the link emulator"))?;
        let backward = match start("link-backward", &far, &near, &link.backward, !seed) {
            Ok(backward) => backward,
            Err(source) => {
                forward.0.stop.store(true, Ordering::Relaxed);
                forward.0.wake();
                return Err(Error::System { doing: "start the link emulator".into(), source });
            }
        };
        Ok(Self { directions: vec![forward, backward] })
    }

    /// Other profiles, from the next packet on. No packet is lost; what is under way keeps its time.
    ///
    /// # Errors
    ///
    /// [`Error::Profile`], and the link is as it was.
    pub fn change(&self, link: &LinkProfile) -> Result<()> {
        check(&link.forward)?;
        check(&link.backward)?;
        for ((shared, _), profile) in self.directions.iter().zip([&link.forward, &link.backward]) {
            shared.state().change = Some(profile.clone());
            shared.wake();
        }
        Ok(())
    }

    /// What has been counted: forward, then backward. At most a batch of packets behind.
    pub fn statistics(&self) -> [Statistics; 2] {
        [0, 1].map(|direction| self.directions[direction].0.state().statistics)
    }

    /// The scheduling error of both directions since this was last called, or since the start.
    pub fn take_lateness(&self) -> Lateness {
        let taken = self.directions.iter().map(|(shared, _)| std::mem::take(&mut shared.state().recent));
        taken.fold(Lateness::default(), Lateness::and)
    }

    /// Whether both directions still work; one ends when its device is gone.
    pub fn is_alive(&self) -> bool {
        self.directions.iter().all(|(_, thread)| !thread.is_finished())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        for (shared, _) in &self.directions {
            shared.stop.store(true, Ordering::Relaxed);
            shared.wake();
        }
        for (_, thread) in self.directions.drain(..) {
            // Why a direction ended early no longer matters.
            drop(thread.join());
        }
    }
}

/// Whether links can be emulated here: makes a TUN device in a network namespace made for it, which is gone
/// afterwards.
///
/// # Errors
///
/// As [`Tun::open`]; besides when no network namespace can be made.
pub fn supported() -> Result<()> {
    Tun::open_in(Namespace::new()?.as_fd(), "probe").map(drop)
}

/// What the emulator does with a profile, in a line: what was asked for, and the sizes that follow from it.
pub fn describe(profile: &Profile) -> String {
    let asked = serde_json::to_string(profile).unwrap_or_default();
    let queue = profile.rate.map(|_| format!(", queue {}", Bytes::new(profile.queue_bytes())));
    let limit = profile
        .needs_delay_line()
        .then(|| format!(", at most {} packets under way", profile.limit_packets()));
    format!("{asked}{}{}", queue.unwrap_or_default(), limit.unwrap_or_default())
}

/// What the emulator cannot do.
fn check(profile: &Profile) -> Result<(), ProfileError> {
    profile.validate()?;
    if profile.slots.is_some() {
        let problem = "the backend `userspace` has no slots; they take a kernel with sch_netem".into();
        return Err(ProfileError { key: "slots", problem });
    }
    Ok(())
}
