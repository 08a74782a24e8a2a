//! One direction at work: a thread that reads packets from one TUN device and writes each to the other when
//! it is due.

use super::{
    Lateness, Shared, Statistics,
    lane::{Fate, Lane, Nanos},
    packet,
};
use crate::{profile::Profile, sys};
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::{prctl, time::TimeSpec},
};
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    io::{self, Read, Write},
    mem,
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

/// How many packets are read before those that are due are written.
const BATCH: usize = 32;
/// How many buffers are kept for the next packets; at 64 KiB each, 16 MiB at most.
const SPARE_BUFFERS: usize = 256;

pub(super) struct Forwarder {
    from: Arc<File>,
    to: Arc<File>,
    shared: Arc<Shared>,
    lane: Lane,
    /// Packets under way, the next one on top.
    held: BinaryHeap<Reverse<Held>>,
    /// How many have come; keeps packets that are due at the same time in order.
    sequence: u64,
    /// Where packets are read to, before they are copied to a buffer of their size.
    inbox: Vec<u8>,
    spare: Vec<Vec<u8>>,
    statistics: Statistics,
    /// Since the statistics were last published.
    recent: Lateness,
    waking: Waking,
    start: Instant,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: Nanos,
    sequence: u64,
    packet: Vec<u8>,
}

impl Forwarder {
    pub(super) fn new(
        from: Arc<File>,
        to: Arc<File>,
        shared: Arc<Shared>,
        profile: &Profile,
        seed: u64,
    ) -> io::Result<Self> {
        set_offload(&from, profile)?;
        Ok(Self {
            from,
            to,
            shared,
            lane: Lane::new(profile, seed),
            held: BinaryHeap::new(),
            sequence: 0,
            inbox: vec![0; packet::LARGEST_BYTES],
            spare: Vec::new(),
            statistics: Statistics::default(),
            recent: Lateness::default(),
            waking: Waking::default(),
            start: Instant::now(),
        })
    }

    /// Forwards until told to stop, or until a device is gone.
    pub(super) fn run(mut self) -> io::Result<()> {
        // Timers to the nanosecond instead of the usual 50 us; without it, delays are only that much longer.
        let _ = prctl::set_timerslack(1);
        let mut woken_by_packet = false;
        while !self.shared.stopping() {
            if let Some(profile) = self.shared.take_change() {
                set_offload(&self.from, &profile)?;
                self.lane.change(&profile);
            }
            self.deliver_due();
            // A packet that woke this thread has been there for as long as waking takes.
            let since = if woken_by_packet { self.waking.takes() } else { 0 };
            let read_all = self.read_batch(since)?;
            self.publish();
            woken_by_packet = read_all && self.wait()?;
        }
        Ok(())
    }

    fn publish(&mut self) {
        let mut state = self.shared.state();
        state.statistics = self.statistics;
        state.recent = state.recent.and(mem::take(&mut self.recent));
    }

    fn now(&self) -> Nanos {
        self.start.elapsed().as_nanos() as Nanos
    }

    /// Until a packet comes, one is due, or somebody wants something. Whether a packet came.
    ///
    /// For a packet that is alone on the link, it comes back a little early and, asked again, at once until
    /// the packet is due: so waking does not make it late.
    fn wait(&mut self) -> io::Result<bool> {
        let mut fds = [
            PollFd::new(self.from.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN),
        ];
        let next = self.held.peek().map(|Reverse(held)| held.due);
        let wake_at = next.map(|due| if self.held.len() == 1 { self.waking.ahead_of(due) } else { due });
        let now = self.now();
        if wake_at.is_some_and(|wake_at| wake_at <= now) {
            return Ok(false);
        }
        let timeout = wake_at.map(|wake_at| TimeSpec::from(Duration::from_nanos(wake_at - now)));
        match ppoll(&mut fds, timeout, None) {
            Ok(0) => self.waking.took(self.now().saturating_sub(wake_at.unwrap_or(now))),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if fds[1].any().unwrap_or(false) {
            // Only the count is in it, and everything it announces is looked at in any case.
            let _ = self.shared.wake.read();
        }
        Ok(fds[0].any().unwrap_or(false))
    }

    /// Reads what has come, up to a batch, the first of it `since` nanoseconds ago. Whether that was all.
    fn read_batch(&mut self, since: Nanos) -> io::Result<bool> {
        for number in 0..BATCH {
            match (&*self.from).read(&mut self.inbox) {
                Ok(bytes) => self.accept(bytes, if number == 0 { since } else { 0 }),
                Err(error) => {
                    return match error.kind() {
                        io::ErrorKind::WouldBlock => Ok(true),
                        io::ErrorKind::Interrupted => Ok(false),
                        _ => Err(error),
                    };
                }
            }
        }
        Ok(false)
    }

    /// Decides over the packet in the inbox, which came `since` nanoseconds ago.
    fn accept(&mut self, bytes: usize, since: Nanos) {
        let (frame_bytes, frames) = packet::on_the_wire(&self.inbox[..bytes]);
        let fate = self.lane.arrive(self.now().saturating_sub(since), frame_bytes, self.held.len());
        let s = &mut self.statistics;
        s.received_packets += frames;
        s.received_bytes += frame_bytes;
        match fate {
            Fate::Lost => s.lost += frames,
            Fate::Dropped => s.dropped += frames,
            Fate::Delivered { due, reordered, duplicated, corrupted } => {
                s.reordered += if reordered { frames } else { 0 };
                if duplicated {
                    s.duplicated += frames;
                    self.hold(due, bytes);
                }
                if corrupted {
                    self.statistics.corrupted += 1;
                    self.lane.corrupt(&mut self.inbox[packet::HEADER_BYTES.min(bytes)..bytes]);
                }
                self.hold(due, bytes);
            }
        }
    }

    /// Keeps a copy of the packet in the inbox until it is due.
    fn hold(&mut self, due: Nanos, bytes: usize) {
        let mut packet = self.spare.pop().unwrap_or_default();
        packet.clear();
        packet.extend_from_slice(&self.inbox[..bytes]);
        self.sequence += 1;
        self.held.push(Reverse(Held { due, sequence: self.sequence, packet }));
    }

    fn deliver_due(&mut self) {
        let now = self.now();
        while self.held.peek().is_some_and(|Reverse(held)| held.due <= now) {
            let Some(Reverse(held)) = self.held.pop() else { return };
            let (frame_bytes, frames) = packet::on_the_wire(&held.packet);
            let written = (&*self.to).write(&held.packet).is_ok();
            let late = now - held.due;
            let s = &mut self.statistics;
            if written {
                s.delivered_packets += frames;
                s.delivered_bytes += frame_bytes;
                s.late.add(late);
                self.recent.add(late);
            } else {
                // The other interface is down, or has no memory for it: a loss, but not one of ours.
                s.refused += frames;
            }
            if self.spare.len() < SPARE_BUFFERS {
                self.spare.push(held.packet);
            }
        }
    }
}

/// How long this thread takes to wake up, as its own timers show: on average over the last dozen or so.
#[derive(Debug, Default)]
struct Waking {
    average: Nanos,
}

impl Waking {
    /// What is more is no waking but a wait for a CPU, which another time does not predict.
    const MOST: Nanos = 200_000;

    /// A timer came so many nanoseconds after its time.
    fn took(&mut self, nanos: Nanos) {
        self.average = (7 * self.average + nanos.min(Self::MOST)) / 8;
    }

    /// In nanoseconds.
    fn takes(&self) -> Nanos {
        self.average
    }

    /// When to wake up for something that is due then: so early that waking is over.
    fn ahead_of(&self, due: Nanos) -> Nanos {
        due.saturating_sub(2 * self.average)
    }
}

/// Whole TCP packets of up to 64 KiB where only time matters; single segments where single packets have a
/// fate; finished checksums where that includes corruption, which a receiver must be able to notice.
fn set_offload(tun: &File, profile: &Profile) -> io::Result<()> {
    let offload = if !profile.corrupt.is_zero() {
        0
    } else if profile.per_packet() {
        libc::TUN_F_CSUM
    } else {
        libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6
    };
    sys::set_tun_offload(tun.as_fd(), offload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waking_is_learnt_from_timers_and_a_busy_cpu_does_not_count_as_such() {
        let mut waking = Waking::default();
        assert_eq!((waking.takes(), waking.ahead_of(1_000_000)), (0, 1_000_000));
        (0..100).for_each(|_| waking.took(50_000));
        assert!((49_900..=50_000).contains(&waking.takes()), "{waking:?}");
        assert!((900_000..=900_200).contains(&waking.ahead_of(1_000_000)), "{waking:?}");
        (0..100).for_each(|_| waking.took(40_000_000));
        assert!(waking.takes() <= Waking::MOST, "{waking:?}");
        assert_eq!(waking.ahead_of(1_000), 0);
    }
}
