//! One direction at work: a thread that reads packets from one TUN device and writes each to the other when it
//! is due.

use super::{
    Lateness, Shared, Statistics,
    lane::{Fate, Lane, Nanos},
    packet,
};
use crate::{Profile, sys};
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
            start: Instant::now(),
        })
    }

    /// Forwards until told to stop, or until a device is gone.
    pub(super) fn run(mut self) -> io::Result<()> {
        // Timers to the nanosecond instead of the usual 50 us; without it, delays are only that much longer.
        let _ = prctl::set_timerslack(1);
        while !self.shared.stopping() {
            if let Some(profile) = self.shared.take_change() {
                set_offload(&self.from, &profile)?;
                self.lane.change(&profile);
            }
            self.deliver_due();
            let read_all = self.read_batch()?;
            self.publish();
            if read_all {
                self.wait()?;
            }
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

    /// Until a packet comes, one is due, or somebody wants something.
    fn wait(&self) -> io::Result<()> {
        let mut fds = [
            PollFd::new(self.from.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN),
        ];
        let next = self.held.peek().map(|Reverse(held)| held.due.saturating_sub(self.now()));
        let timeout = next.map(|nanos| TimeSpec::from(Duration::from_nanos(nanos)));
        match ppoll(&mut fds, timeout, None) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if fds[1].any().unwrap_or(false) {
            // Only the count is in it, and everything it announces is looked at in any case.
            let _ = self.shared.wake.read();
        }
        Ok(())
    }

    /// Reads what has come, up to a batch. Whether that was all.
    fn read_batch(&mut self) -> io::Result<bool> {
        for _ in 0..BATCH {
            match (&*self.from).read(&mut self.inbox) {
                Ok(bytes) => self.accept(bytes),
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

    /// Decides over the packet in the inbox.
    fn accept(&mut self, bytes: usize) {
        let (frame_bytes, frames) = packet::on_the_wire(&self.inbox[..bytes]);
        let fate = self.lane.arrive(self.now(), frame_bytes, self.held.len());
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

/// Whole TCP packets of up to 64 KiB where only time matters; single segments where single packets have a fate;
/// finished checksums where that includes corruption, which a receiver must be able to notice.
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
