//! The backend `userspace`: a link emulator for kernels without `sch_netem`.
//!
//! A link consists of two TUN devices, one in each network namespace, and an [`Emulator`] between them, which
//! has a thread for each direction. A packet first passes the bottleneck (a queue and a rate), then the delay
//! line:
//!
//! ```text
//! near tun -> lost? -> queue -> rate -> delay, jitter -> duplicated? corrupted? -> far tun
//! ```
//!
//! If a profile affects only the timing of packets, they cross the link unsegmented, after the kernel's
//! virtio-net headers: 64 KiB of TCP are one packet that takes as long as its 45 frames. If a profile has
//! effects on single packets (loss, duplication, corruption, reordering, jitter), the kernel segments them
//! first. With corruption it also completes their checksums, so that the receiver detects it.
//!
//! Limitations:
//!
//! - [`Slots`](crate::Slots) are not supported.
//! - The devices carry IP, not Ethernet (14 bytes are counted for its header), so they cannot be ports of a
//!   bridge.
//! - Timing depends on the scheduler: see [`DirectionStatistics::late`].
//! - A queue drops whole unsegmented packets.
//!
//! Accuracy, measured on two idle cores (Linux 6.18):
//!
//! - The goodput of one TCP stream is within 0.1 % of the rate less headers at 1, 10 and 100 Mbit/s, within
//!   0.6 % at 500 and 984 Mbit/s, and 0 to 1.5 % below it at 5 Gbit/s. Without a rate it is 12 to 14 Gbit/s,
//!   and the two threads then use 0.8 of a core; at 1 Gbit/s they use 0.2.
//! - Idle round trips are 0.01 to 0.15 ms longer than requested, 0.13 ms without a delay, of which the two
//!   end points take half.
//! - Deliveries are 0.03 to 0.16 ms late on average, more if other programs compete for the cores.
//!
//! A long link also needs larger TCP buffers (`net.ipv4.tcp_rmem`, `tcp_wmem` in both namespaces): with the
//! defaults, a stream carries 70 MB/s at 40 ms and 33 MB/s at 80 ms, whatever the rate of the link.

mod chance;
mod forwarder;
mod lane;
mod packet;

use crate::{
    error::{Error, Result},
    netns::{self, Namespace},
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
use units::{Bytes, Span, counted};

/// One end of an emulated link: a TUN device that exists as long as this value.
///
/// Its interface is configured like any other: [`set_up`](crate::Netlink::set_up),
/// [`add_address`](crate::Netlink::add_address). Its file descriptor may come from another process.
#[derive(Debug)]
pub struct Tun(File);

impl Tun {
    /// Creates a TUN device in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] without `CAP_NET_ADMIN`; [`Error::System`] if `/dev/net/tun` does not exist or
    /// may not be opened, or if the name is taken.
    pub fn open(name: &str) -> Result<Self> {
        sys::open_tun(name).map(Self).map_err(|source| {
            let action = format!("create the TUN device {name}");
            match source.raw_os_error() {
                Some(libc::EPERM) => Error::NotPermitted { action },
                Some(libc::EACCES) => {
                    let action =
                        format!("{action}: open /dev/net/tun (to allow all users: chmod 0666 /dev/net/tun)");
                    Error::System { action, source }
                }
                _ => Error::System { action, source },
            }
        })
    }

    /// Creates a TUN device in another network namespace.
    ///
    /// # Errors
    ///
    /// Those of [`Tun::open`], and if the namespace cannot be entered.
    pub fn open_in(namespace: BorrowedFd<'_>, name: &str) -> Result<Self> {
        let opened = netns::run_in(namespace, || Ok(Self::open(name)));
        opened.map_err(Error::system("enter a network namespace"))?
    }
}

impl From<OwnedFd> for Tun {
    /// Takes the file descriptor of a TUN device that [`Tun::open`] created, possibly in another process.
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

/// The counters of one direction since the emulator started. Packets are counted as frames: an unsegmented
/// packet counts as the number of its segments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DirectionStatistics {
    /// The frames that the emulator read from the sender's device.
    pub received_packets: u64,
    /// The bytes of these frames, counted as for `rate`: with 14 bytes of Ethernet header each.
    pub received_bytes: u64,
    /// The frames that the emulator wrote to the receiver's device, including duplicates.
    pub delivered_packets: u64,
    /// The bytes of these frames, counted as for `rate`.
    pub delivered_bytes: u64,
    /// The frames lost because of `loss` or `loss_bursts`.
    pub lost: u64,
    /// The frames dropped because the queue or the delay line was full.
    pub dropped: u64,
    /// The frames that were delivered twice.
    pub duplicated: u64,
    /// The packets that were delivered with one bit inverted.
    pub corrupted: u64,
    /// The frames that skipped the delay.
    pub reordered: u64,
    /// The frames that the receiver's interface refused because it was down or out of memory.
    pub refused: u64,
    /// How much later than computed packets were delivered: the timing error of this emulator.
    pub late: Lateness,
}

/// The timing error of the emulator: how much later than due packets were delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lateness {
    /// The number of packets delivered.
    pub deliveries: u64,
    /// The sum of the delays beyond the due times.
    pub total: Span,
    /// The longest delay beyond a due time.
    pub worst: Span,
}

impl Lateness {
    fn record(&mut self, nanos: u64) {
        self.deliveries += 1;
        self.total = Span::from_nanos(self.total.as_nanos().saturating_add(nanos));
        self.worst = self.worst.max(Span::from_nanos(nanos));
    }

    /// Combines the lateness of two sets of deliveries.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self {
            deliveries: self.deliveries + other.deliveries,
            total: Span::from_nanos(self.total.as_nanos().saturating_add(other.total.as_nanos())),
            worst: self.worst.max(other.worst),
        }
    }

    /// Returns the mean lateness; zero if nothing was delivered.
    pub fn mean(&self) -> Span {
        Span::from_nanos(self.total.as_nanos().checked_div(self.deliveries).unwrap_or(0))
    }
}

/// The state that an [`Emulator`] shares with the thread of one direction.
#[derive(Debug)]
struct ForwarderControl {
    stop: AtomicBool,
    state: Mutex<ForwarderState>,
    /// Wakes the forwarder, which then checks the other two fields.
    wake: EventFd,
}

#[derive(Debug, Default)]
struct ForwarderState {
    /// A new profile that the forwarder has not applied yet.
    change: Option<Profile>,
    statistics: DirectionStatistics,
    /// The lateness since [`Emulator::take_lateness`] was last called.
    recent: Lateness,
}

impl ForwarderControl {
    fn new() -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self { stop: AtomicBool::new(false), state: Mutex::default(), wake })
    }

    fn state(&self) -> MutexGuard<'_, ForwarderState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_change(&self) -> Option<Profile> {
        self.state().change.take()
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn wake(&self) {
        // Fails only if the counter is full, and then the forwarder is about to wake up anyway.
        let _ = self.wake.write(1);
    }
}

/// A running link emulator between two TUN devices. Dropping it stops the link and removes the devices.
#[derive(Debug)]
pub struct Emulator {
    /// The control and the thread of each direction: forward, then backward.
    directions: Vec<(Arc<ForwarderControl>, JoinHandle<io::Result<()>>)>,
}

impl Emulator {
    /// Connects two devices. `seed` determines the random effects: with the same seed, the same packets are
    /// lost, corrupted and so on.
    ///
    /// # Errors
    ///
    /// [`Error::Profile`] if a profile is invalid or has [`Slots`](crate::Slots); [`Error::System`].
    pub fn start(near: Tun, far: Tun, link: &LinkProfile, seed: u64) -> Result<Self> {
        check(&link.forward)?;
        check(&link.backward)?;
        let (near, far) = (Arc::new(near.0), Arc::new(far.0));
        let start = |name, from: &Arc<File>, to: &Arc<File>, profile, seed| {
            let control = Arc::new(ForwarderControl::new()?);
            let forwarder = Forwarder::new(from.clone(), to.clone(), control.clone(), profile, seed)?;
            let thread = thread::Builder::new().name(String::from(name)).spawn(|| forwarder.run())?;
            io::Result::Ok((control, thread))
        };
        let forward = start("link-forward", &near, &far, &link.forward, seed)
            .map_err(Error::system("start the link emulator"))?;
        let backward = match start("link-backward", &far, &near, &link.backward, !seed) {
            Ok(backward) => backward,
            Err(source) => {
                forward.0.stop.store(true, Ordering::Relaxed);
                forward.0.wake();
                return Err(Error::System { action: "start the link emulator".into(), source });
            }
        };
        Ok(Self { directions: vec![forward, backward] })
    }

    /// Changes the profiles, starting with the next packet. No packet is lost; packets in transit keep their
    /// times.
    ///
    /// # Errors
    ///
    /// [`Error::Profile`] as in [`Emulator::start`]. The link is then unchanged.
    pub fn change(&self, link: &LinkProfile) -> Result<()> {
        check(&link.forward)?;
        check(&link.backward)?;
        for ((control, _), profile) in self.directions.iter().zip([&link.forward, &link.backward]) {
            control.state().change = Some(profile.clone());
            control.wake();
        }
        Ok(())
    }

    /// Returns the statistics of both directions: forward, then backward. They lag by at most one batch of
    /// packets.
    pub fn statistics(&self) -> [DirectionStatistics; 2] {
        [0, 1].map(|direction| self.directions[direction].0.state().statistics)
    }

    /// Returns the lateness of both directions since the last call, or since the start.
    pub fn take_lateness(&self) -> Lateness {
        let taken = self.directions.iter().map(|(control, _)| std::mem::take(&mut control.state().recent));
        taken.fold(Lateness::default(), Lateness::merge)
    }

    /// Returns whether both directions still work. A direction ends when its device is removed.
    pub fn is_alive(&self) -> bool {
        self.directions.iter().all(|(_, thread)| !thread.is_finished())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        for (control, _) in &self.directions {
            control.stop.store(true, Ordering::Relaxed);
            control.wake();
        }
        for (_, thread) in self.directions.drain(..) {
            // If a direction ended early, its error no longer matters.
            drop(thread.join());
        }
    }
}

/// Tests whether links can be emulated on this host: creates a TUN device in a temporary network namespace.
///
/// # Errors
///
/// Those of [`Tun::open`], and if no network namespace can be created.
pub fn supported() -> Result<()> {
    Tun::open_in(Namespace::new()?.as_fd(), "probe").map(drop)
}

/// Describes on one line how the emulator enforces a profile: the profile, and the sizes derived from it.
pub fn describe(profile: &Profile) -> String {
    let json = serde_json::to_string(profile).unwrap_or_default();
    let queue = profile.rate.map(|_| format!(", queue {}", Bytes::new(profile.queue_bytes())));
    let limit = profile
        .needs_delay_line()
        .then(|| format!(", at most {} in transit", counted(profile.limit_packets(), "packet")));
    format!("{json}{}{}", queue.unwrap_or_default(), limit.unwrap_or_default())
}

/// Checks that a profile is valid and that the emulator supports it.
fn check(profile: &Profile) -> Result<(), ProfileError> {
    profile.validate()?;
    if profile.slots.is_some() {
        let problem = "not supported by the backend `userspace`; slots need a kernel with sch_netem".into();
        return Err(ProfileError { key: "slots", problem });
    }
    Ok(())
}
