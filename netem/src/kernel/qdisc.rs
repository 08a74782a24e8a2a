//! [`Qdisc`]: a qdisc or class as the kernel reports it, with its settings and statistics.

use crate::wire::{
    fifo::Bfifo,
    htb::{Htb, HtbClass},
    netem::{Netem, Operation},
    psched::Clock,
    tbf::Tbf,
};
use rtnetlink::{
    packet_core::{DefaultNla, Emitable, Nla},
    packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption, TcStats2},
};
use serde::{Serialize, Serializer};
use std::fmt;

/// The identifier of a qdisc or class, `major:minor` in hexadecimal. The minor number of a qdisc is 0. As a
/// parent, it says where a qdisc or class is attached in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle(u32);

impl Handle {
    /// The parent of an interface's root qdisc, for what it sends (`TC_H_ROOT`).
    pub const ROOT: Self = Self(0xffff_ffff);
    /// The parent of an interface's ingress qdisc, for what it receives (`TC_H_INGRESS`).
    pub const INGRESS: Self = Self(0xffff_fff1);

    /// Returns the number of the qdisc; 0 for the default qdisc that the kernel attaches to an interface.
    pub const fn major(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Returns the number of the class within its qdisc; 0 for the qdisc itself.
    pub const fn minor(self) -> u16 {
        self.0 as u16
    }
}

impl From<TcHandle> for Handle {
    fn from(handle: TcHandle) -> Self {
        Self(handle.into())
    }
}

impl From<Handle> for TcHandle {
    fn from(handle: Handle) -> Self {
        handle.0.into()
    }
}

impl fmt::Display for Handle {
    /// Formats the handle as `tc` does: `root`, `ingress`, `6e60:` or `6e60:1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (*self, self.major(), self.minor()) {
            (Self::ROOT, ..) => f.write_str("root"),
            (Self::INGRESS, ..) => f.write_str("ingress"),
            (_, major, 0) => write!(f, "{major:x}:"),
            (_, major, minor) => write!(f, "{major:x}:{minor:x}"),
        }
    }
}

impl Serialize for Handle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A qdisc or class with its settings and statistics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Qdisc {
    /// The kind as the kernel names it (`TCA_KIND`), such as `tbf`.
    pub kind: String,
    /// The handle, which identifies it on its interface.
    pub handle: Handle,
    /// The handle of the qdisc or class to which it is attached.
    pub parent: Handle,
    /// The settings that the kernel reports (`TCA_OPTIONS`), decoded.
    pub settings: QdiscSettings,
    /// The counters since it was created.
    pub statistics: QdiscStatistics,
}

/// The settings of a qdisc or class, for the kinds that this crate creates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QdiscSettings {
    /// A token bucket, the default shaper.
    Tbf(Tbf),
    /// A hierarchy of token buckets, with one class.
    Htb(Htb),
    /// The class of an `htb`, which has the rate.
    HtbClass(HtbClass),
    /// The delay line, with every effect except a token bucket.
    Netem(Netem),
    /// The queue under an `htb` class.
    Bfifo(Bfifo),
    /// Any other kind, or options that cannot be decoded.
    Other,
}

/// The counters of a qdisc since it was created (`TCA_STATS2`). A change in place does not reset them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct QdiscStatistics {
    /// Bytes sent, as Ethernet frames without preamble, frame check sequence and inter-frame gap.
    pub sent_bytes: u64,
    /// Packets sent. An unsegmented packet counts as the number of its segments.
    pub sent_packets: u64,
    /// Packets dropped by a full queue or by simulated loss.
    pub drops: u64,
    /// How often a packet had to wait for the rate.
    pub overlimits: u64,
    /// How often the device returned a packet to the queue.
    pub requeues: u64,
    /// Bytes in the queue at the time of reading.
    pub backlog_bytes: u64,
    /// Packets in the queue at the time of reading.
    pub backlog_packets: u64,
}

impl QdiscSettings {
    /// Returns the kind as the kernel names it, such as `tbf`; the same for an `htb` and its class.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tbf(_) => Tbf::KIND,
            Self::Htb(_) | Self::HtbClass(_) => Htb::KIND,
            Self::Netem(_) => Netem::KIND,
            Self::Bfifo(_) => Bfifo::KIND,
            Self::Other => "other",
        }
    }

    pub(crate) fn is_htb_class(&self) -> bool {
        matches!(self, Self::HtbClass(_))
    }

    pub(crate) fn is_bfifo(&self) -> bool {
        matches!(self, Self::Bfifo(_))
    }

    pub(crate) fn encode(&self, clock: Clock, operation: Operation) -> Vec<u8> {
        match self {
            Self::Tbf(tbf) => tbf.encode(clock),
            Self::Htb(htb) => htb.encode(),
            Self::HtbClass(class) => class.encode(clock),
            Self::Netem(netem) => netem.encode(clock, operation),
            Self::Bfifo(fifo) => fifo.encode(),
            Self::Other => Vec::new(),
        }
    }

    fn decode(kind: &str, is_class: bool, options: &[u8], clock: Clock) -> Self {
        match (kind, is_class) {
            (Tbf::KIND, false) => Tbf::decode(options, clock).map(Self::Tbf),
            (Htb::KIND, false) => Htb::decode(options).map(Self::Htb),
            (Htb::KIND, true) => HtbClass::decode(options, clock).map(Self::HtbClass),
            (Netem::KIND, false) => Netem::decode(options, clock).map(Self::Netem),
            (Bfifo::KIND, false) => Bfifo::decode(options).map(Self::Bfifo),
            _ => None,
        }
        .unwrap_or(Self::Other)
    }
}

impl fmt::Display for QdiscSettings {
    /// Formats the settings with the keywords of `tc` and the units of this program.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tbf(Tbf { rate, burst, limit }) => write!(f, "rate {rate} burst {burst} limit {limit}"),
            Self::Htb(Htb { default_class }) => write!(f, "default {default_class:x}"),
            Self::HtbClass(HtbClass { rate, burst, .. }) => write!(f, "rate {rate} burst {burst}"),
            Self::Bfifo(Bfifo { limit }) => write!(f, "limit {limit}"),
            Self::Netem(netem) => describe_netem(netem, f),
            Self::Other => Ok(()),
        }
    }
}

fn describe_netem(netem: &Netem, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "limit {}", netem.limit)?;
    if !netem.delay.is_zero() {
        write!(f, " delay {}", netem.delay)?;
    }
    if !netem.jitter.is_zero() {
        write!(f, " jitter {}", netem.jitter)?;
        if netem.gate().is_some() {
            write!(f, " in order")?;
        }
        if !netem.jitter_correlation.is_zero() {
            write!(f, " correlation {}", netem.jitter_correlation)?;
        }
    }
    for (name, chance) in [
        ("loss", netem.loss),
        ("duplicate", netem.duplicate),
        ("corrupt", netem.corrupt),
        ("reorder", netem.reorder),
    ] {
        if !chance.probability.is_zero() {
            write!(f, " {name} {}", chance.probability)?;
            if !chance.correlation.is_zero() {
                write!(f, " correlation {}", chance.correlation)?;
            }
        }
    }
    if let Some(g) = &netem.loss_bursts {
        write!(f, " loss enter {} leave {} bad {} good {}", g.enter, g.leave, g.loss_bad, g.loss_good)?;
    }
    if netem.reorder_gap > 1 {
        write!(f, " gap {}", netem.reorder_gap)?;
    }
    if let Some(rate) = netem.rate {
        write!(f, " rate {rate}")?;
    }
    if let Some(slots) = &netem.slots {
        write!(f, " slots {} to {}", slots.min_delay, slots.max_delay)?;
    }
    Ok(())
}

impl fmt::Display for Qdisc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} parent {} {}", self.kind, self.handle, self.parent, self.settings)
    }
}

impl Qdisc {
    /// Decodes a message of a dump. The message of an `htb` class has the same format as that of a qdisc.
    pub(crate) fn decode(message: &TcMessage, is_class: bool, clock: Clock) -> Self {
        let mut kind = String::new();
        let mut options = Vec::new();
        let mut statistics = QdiscStatistics::default();
        for attribute in &message.attributes {
            match attribute {
                TcAttribute::Kind(name) => kind.clone_from(name),
                TcAttribute::Options(parsed) => options = raw(parsed),
                TcAttribute::Stats2(parsed) => statistics = QdiscStatistics::decode(parsed),
                _ => {}
            }
        }
        let settings = QdiscSettings::decode(&kind, is_class, &options, clock);
        let handle = Handle::from(message.header.handle);
        let mut parent = Handle::from(message.header.parent);
        if is_class && parent == Handle::ROOT {
            // The kernel reports this parent for a top-level class even if its qdisc is not at the root.
            parent = Handle(u32::from(handle.major()) << 16);
        }
        Self { kind, handle, parent, settings, statistics }
    }
}

/// Returns the bytes of `TCA_OPTIONS`. netlink-packet-route keeps the options of a kind that it does not know
/// as one unparsed attribute.
fn raw(options: &[TcOption]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let [TcOption::Other(nla)] = options {
        bytes.resize(nla.value_len(), 0);
        nla.emit_value(&mut bytes);
    }
    bytes
}

impl QdiscStatistics {
    fn decode(attributes: &[TcStats2]) -> Self {
        const TCA_STATS_PKT64: u16 = 8;
        let mut s = Self::default();
        let mut packets64 = None;
        for attribute in attributes {
            match attribute {
                TcStats2::Basic(basic) => {
                    s.sent_bytes = basic.bytes;
                    s.sent_packets = basic.packets.into();
                }
                TcStats2::Queue(queue) => {
                    s.drops = queue.drops.into();
                    s.overlimits = queue.overlimits.into();
                    s.requeues = queue.requeues.into();
                    s.backlog_bytes = queue.backlog.into();
                    s.backlog_packets = queue.qlen.into();
                }
                TcStats2::Other(nla) if nla.kind() == TCA_STATS_PKT64 => packets64 = word64(nla),
                _ => {}
            }
        }
        s.sent_packets = packets64.unwrap_or(s.sent_packets);
        s
    }
}

fn word64(nla: &DefaultNla) -> Option<u64> {
    let mut bytes = vec![0; nla.buffer_len()];
    nla.emit(&mut bytes);
    bytes.get(4..12)?.try_into().ok().map(u64::from_ne_bytes)
}
