//! [`Forwarder`]: the thread for one direction, which reads packets from one TUN device and writes each to
//! the other when it is due.

use super::{
    DirectionStatistics, ForwarderControl, Lateness,
    lane::{LinkModel, Nanos, PacketOutcome},
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

/// The largest number of packets to read before writing those that are due.
const BATCH: usize = 32;
/// The largest number of buffers kept for reuse: with up to 64 KiB each, at most 16 MiB.
const SPARE_BUFFERS: usize = 256;

pub(super) struct Forwarder {
    from: Arc<File>,
    to: Arc<File>,
    control: Arc<ForwarderControl>,
    model: LinkModel,
    /// The packets in transit, the one that is due first on top.
    pending: BinaryHeap<Reverse<PendingPacket>>,
    /// The number of packets queued so far. Orders packets that are due at the same time.
    sequence: u64,
    /// The buffer for reading a packet, which is then copied to a buffer of its size.
    read_buffer: Vec<u8>,
    spare_buffers: Vec<Vec<u8>>,
    statistics: DirectionStatistics,
    /// The lateness since the statistics were last published.
    recent: Lateness,
    wakeup: WakeupLatency,
    start: Instant,
}

/// A packet that is not due yet. The derived order compares `due` first, then `sequence`.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct PendingPacket {
    due: Nanos,
    sequence: u64,
    packet: Vec<u8>,
}

impl Forwarder {
    pub(super) fn new(
        from: Arc<File>,
        to: Arc<File>,
        control: Arc<ForwarderControl>,
        profile: &Profile,
        seed: u64,
    ) -> io::Result<Self> {
        set_offload(&from, profile)?;
        Ok(Self {
            from,
            to,
            control,
            model: LinkModel::new(profile, seed),
            pending: BinaryHeap::new(),
            sequence: 0,
            read_buffer: vec![0; packet::LARGEST_BYTES],
            spare_buffers: Vec::new(),
            statistics: DirectionStatistics::default(),
            recent: Lateness::default(),
            wakeup: WakeupLatency::default(),
            start: Instant::now(),
        })
    }

    /// Forwards packets until a stop is requested, or until a device is removed.
    pub(super) fn run(mut self) -> io::Result<()> {
        // Timers with a slack of 1 ns instead of the default 50 us. If this fails, delays are up to 50 us
        // longer.
        let _ = prctl::set_timerslack(1);
        let mut woken_by_packet = false;
        while !self.control.stopping() {
            if let Some(profile) = self.control.take_change() {
                set_offload(&self.from, &profile)?;
                self.model.change(&profile);
            }
            self.deliver_due();
            // A packet that woke this thread arrived earlier, by the wake-up latency.
            let age = if woken_by_packet { self.wakeup.average() } else { 0 };
            let read_all = self.read_batch(age)?;
            self.publish();
            woken_by_packet = read_all && self.wait()?;
        }
        Ok(())
    }

    /// Copies the statistics to the place from which [`Emulator`](super::Emulator) reads them.
    fn publish(&mut self) {
        let mut state = self.control.state();
        state.statistics = self.statistics;
        state.recent = state.recent.merge(mem::take(&mut self.recent));
    }

    fn now(&self) -> Nanos {
        self.start.elapsed().as_nanos() as Nanos
    }

    /// Waits until a packet arrives, a packet is due, or the control wakes this thread. Returns whether a
    /// packet arrived.
    ///
    /// For a single packet in transit, it returns a little before the packet is due, and from then on returns
    /// immediately whenever it is called, until the packet is due. This busy wait keeps the wake-up latency
    /// from delaying the packet.
    fn wait(&mut self) -> io::Result<bool> {
        let mut fds = [
            PollFd::new(self.from.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.control.wake.as_fd(), PollFlags::POLLIN),
        ];
        let next = self.pending.peek().map(|Reverse(pending)| pending.due);
        let wake_at =
            next.map(|due| if self.pending.len() == 1 { self.wakeup.wake_time_for(due) } else { due });
        let now = self.now();
        if wake_at.is_some_and(|wake_at| wake_at <= now) {
            return Ok(false);
        }
        let timeout = wake_at.map(|wake_at| TimeSpec::from(Duration::from_nanos(wake_at - now)));
        match ppoll(&mut fds, timeout, None) {
            Ok(0) => self.wakeup.record(self.now().saturating_sub(wake_at.unwrap_or(now))),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if fds[1].any().unwrap_or(false) {
            // Resets the event. Its value does not matter: the run loop checks everything that it may
            // announce.
            let _ = self.control.wake.read();
        }
        Ok(fds[0].any().unwrap_or(false))
    }

    /// Reads the packets that have arrived, up to a batch. The first one arrived `age` nanoseconds ago.
    /// Returns whether no more packets are waiting.
    fn read_batch(&mut self, age: Nanos) -> io::Result<bool> {
        for number in 0..BATCH {
            match (&*self.from).read(&mut self.read_buffer) {
                Ok(bytes) => self.accept(bytes, if number == 0 { age } else { 0 }),
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

    /// Decides what happens to the packet in the read buffer, which arrived `age` nanoseconds ago, and queues
    /// it.
    fn accept(&mut self, bytes: usize, age: Nanos) {
        let (frame_bytes, frames) = packet::wire_size(&self.read_buffer[..bytes]);
        let outcome = self.model.arrive(self.now().saturating_sub(age), frame_bytes, self.pending.len());
        let s = &mut self.statistics;
        s.received_packets += frames;
        s.received_bytes += frame_bytes;
        match outcome {
            PacketOutcome::Lost => s.lost += frames,
            PacketOutcome::Dropped => s.dropped += frames,
            PacketOutcome::Delivered { due, reordered, duplicated, corrupted } => {
                s.reordered += if reordered { frames } else { 0 };
                if duplicated {
                    s.duplicated += frames;
                    self.enqueue(due, bytes);
                }
                if corrupted {
                    self.statistics.corrupted += 1;
                    self.model.corrupt(&mut self.read_buffer[packet::HEADER_BYTES.min(bytes)..bytes]);
                }
                self.enqueue(due, bytes);
            }
        }
    }

    /// Queues a copy of the packet in the read buffer until it is due.
    fn enqueue(&mut self, due: Nanos, bytes: usize) {
        let mut packet = self.spare_buffers.pop().unwrap_or_default();
        packet.clear();
        packet.extend_from_slice(&self.read_buffer[..bytes]);
        self.sequence += 1;
        self.pending.push(Reverse(PendingPacket { due, sequence: self.sequence, packet }));
    }

    /// Writes the packets that are due to the other device.
    fn deliver_due(&mut self) {
        let now = self.now();
        while self.pending.peek().is_some_and(|Reverse(pending)| pending.due <= now) {
            let Some(Reverse(pending)) = self.pending.pop() else { return };
            let (frame_bytes, frames) = packet::wire_size(&pending.packet);
            let written = (&*self.to).write(&pending.packet).is_ok();
            let late = now - pending.due;
            let s = &mut self.statistics;
            if written {
                s.delivered_packets += frames;
                s.delivered_bytes += frame_bytes;
                s.late.record(late);
                self.recent.record(late);
            } else {
                // The other interface is down or out of memory: a loss, but not a simulated one.
                s.refused += frames;
            }
            if self.spare_buffers.len() < SPARE_BUFFERS {
                self.spare_buffers.push(pending.packet);
            }
        }
    }
}

/// The time that this thread takes to wake up, as its own timers show: a moving average over about the last
/// dozen.
#[derive(Debug, Default)]
struct WakeupLatency {
    average: Nanos,
}

impl WakeupLatency {
    /// The largest latency that counts, in nanoseconds. A longer one is a wait for a CPU, which does not
    /// predict the next wake-up.
    const MAX: Nanos = 200_000;

    /// Records that a timer fired `nanos` nanoseconds late.
    fn record(&mut self, nanos: Nanos) {
        self.average = (7 * self.average + nanos.min(Self::MAX)) / 8;
    }

    /// Returns the average latency in nanoseconds.
    fn average(&self) -> Nanos {
        self.average
    }

    /// Returns the time for which to set a timer so that the thread is awake at `due`.
    fn wake_time_for(&self, due: Nanos) -> Nanos {
        due.saturating_sub(2 * self.average)
    }
}

/// Sets the offloads of a TUN device that a profile permits: unsegmented TCP packets of up to 64 KiB if the
/// profile affects only their timing, single segments if it has effects on single packets, and with
/// corruption also complete checksums, so that the receiver detects it.
fn set_offload(tun: &File, profile: &Profile) -> io::Result<()> {
    let offload = if !profile.corrupt.is_zero() {
        0
    } else if profile.has_per_packet_effects() {
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
    fn wakeup_latency_is_a_capped_average() {
        let mut wakeup = WakeupLatency::default();
        assert_eq!((wakeup.average(), wakeup.wake_time_for(1_000_000)), (0, 1_000_000));
        (0..100).for_each(|_| wakeup.record(50_000));
        assert!((49_900..=50_000).contains(&wakeup.average()), "{wakeup:?}");
        assert!((900_000..=900_200).contains(&wakeup.wake_time_for(1_000_000)), "{wakeup:?}");
        (0..100).for_each(|_| wakeup.record(40_000_000));
        assert!(wakeup.average() <= WakeupLatency::MAX, "{wakeup:?}");
        assert_eq!(wakeup.wake_time_for(1_000), 0);
    }
}
