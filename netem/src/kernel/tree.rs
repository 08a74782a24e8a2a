//! From a profile to the qdiscs that enforce it, and back.
//!
//! > root: netem (delay line, only where one is needed) -> tbf, or htb with one class (rate)
//!
//! A packet is lost and delayed first and meets the bottleneck afterwards, so that the queue of the bottleneck
//! is exactly what `queue` says: it holds bytes that wait for the rate, and nothing that is merely on its way.
//!
//! Our qdiscs are known by their handles, 6e60: to 6e62:, or 6e70: to 6e72:. There are two sets so that
//! one tree can replace another in a single step.

use super::qdisc::{Handle, Qdisc, Settings};
use crate::{
    Distribution, Profile, Shaper,
    wire::{
        TCA_OPTIONS,
        fifo::Bfifo,
        htb::{Htb, HtbClass},
        netem::{Chance, Netem},
        tbf::Tbf,
    },
};
use rtnetlink::{
    packet_core::DefaultNla,
    packet_route::tc::{TcAttribute, TcHandle, TcMessage},
};
use units::Bytes;

/// The majors of the two sets of handles; a set uses this one and the next two.
const SETS: [u16; 2] = [0x6e60, 0x6e70];
const SET_SIZE: u16 = 3;
/// The one class of an htb, and the class of a netem or tbf that leads to its child.
const CLASS: u16 = 1;
/// An htb class alone takes no turns, but the kernel warns of quanta outside 1000 to 200000 bytes.
const QUANTUM_BYTES: std::ops::RangeInclusive<u64> = 1_514..=200_000;

/// A qdisc or class that a profile needs, and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) parent: TcHandle,
    pub(crate) handle: TcHandle,
    pub(crate) settings: Settings,
}

/// Whether a handle is one that only we give.
pub(crate) fn is_ours(handle: Handle) -> bool {
    SETS.iter().any(|set| (*set..set + SET_SIZE).contains(&handle.major()))
}

/// The tree for a profile on an interface of this MTU, from the root down. Empty when the profile is.
/// `avoid` is the major of the root that is there.
pub(crate) fn plan(profile: &Profile, mtu: u32, avoid: Option<u16>) -> Vec<Node> {
    let set = if avoid == Some(SETS[0]) { SETS[1] } else { SETS[0] };
    let mut majors = set..set + SET_SIZE;
    let mut parent = TcHandle::ROOT;
    let mut nodes = Vec::new();
    let mut attach = |settings: Settings| {
        let handle = if matches!(settings, Settings::HtbClass(_)) {
            TcHandle { major: parent.major, minor: CLASS }
        } else {
            TcHandle { major: majors.next().expect("a tree has at most three qdiscs"), minor: 0 }
        };
        nodes.push(Node { parent, handle, settings });
        // A class hangs below its qdisc, a qdisc below the first class of its parent.
        parent = match nodes.last().map(|n| &n.settings) {
            Some(Settings::Htb(_)) => handle,
            _ => TcHandle { major: handle.major, minor: CLASS },
        };
    };
    if profile.needs_delay_line() {
        attach(Settings::Netem(delay_line(profile)));
    }
    let Some(rate) = profile.rate else { return nodes };
    let burst = Bytes::new(profile.burst_bytes(mtu));
    let limit = Bytes::new(profile.queue_bytes().min(u32::MAX.into()));
    match profile.shaper {
        Shaper::Tbf => attach(Settings::Tbf(Tbf { rate, burst, limit })),
        Shaper::Htb => {
            let quantum = Bytes::new(burst.get().clamp(*QUANTUM_BYTES.start(), *QUANTUM_BYTES.end()));
            attach(Settings::Htb(Htb { default_class: CLASS.into() }));
            attach(Settings::HtbClass(HtbClass { rate, burst, quantum }));
            attach(Settings::Bfifo(Bfifo { limit }));
        }
        Shaper::Netem => {}
    }
    nodes
}

fn delay_line(profile: &Profile) -> Netem {
    let chance = |probability, correlation| Chance { probability, correlation };
    Netem {
        delay: profile.delay,
        jitter: profile.jitter,
        jitter_correlation: profile.jitter_correlation,
        distribution: profile.distribution,
        limit: profile.limit_packets(),
        loss: chance(profile.loss, profile.loss_correlation),
        loss_bursts: profile.loss_bursts,
        duplicate: chance(profile.duplicate, profile.duplicate_correlation),
        corrupt: chance(profile.corrupt, profile.corrupt_correlation),
        reorder: chance(profile.reorder, profile.reorder_correlation),
        reorder_gap: if profile.reorder.is_zero() { 0 } else { profile.reorder_gap.unwrap_or(1) },
        rate: profile.rate.filter(|_| profile.shaper == Shaper::Netem),
        slots: profile.slots,
    }
}

/// The profile that a tree of ours enforces on an interface of this MTU; `None` when there is no such tree.
///
/// What the kernel does not tell is missing: the distribution of jitter is always uniform. What equals its
/// default is absent, as it is in a profile that leaves it out.
pub(crate) fn profile_of(qdiscs: &[Qdisc], mtu: u32) -> Option<Profile> {
    let ours: Vec<_> = qdiscs.iter().filter(|q| is_ours(q.handle)).collect();
    if ours.is_empty() {
        return None;
    }
    let mut profile = Profile::default();
    let (mut burst, mut queue, mut limit) = (None, None, None);
    for qdisc in ours {
        match &qdisc.settings {
            Settings::Tbf(tbf) => {
                profile.rate = Some(tbf.rate);
                (burst, queue) = (Some(tbf.burst), Some(tbf.limit));
            }
            Settings::HtbClass(class) => {
                profile.rate = Some(class.rate);
                profile.shaper = Shaper::Htb;
                burst = Some(class.burst);
            }
            Settings::Bfifo(fifo) => queue = Some(fifo.limit),
            Settings::Netem(netem) => {
                read_delay_line(netem, &mut profile);
                limit = Some(netem.limit);
            }
            Settings::Htb(_) | Settings::Other => {}
        }
    }
    profile.burst = burst.filter(|b| !within_a_tick(b.get(), profile.burst_bytes(mtu), &profile));
    profile.queue = queue.filter(|q| q.get() != profile.queue_bytes());
    profile.limit = limit.filter(|l| *l != profile.limit_packets());
    Some(profile)
}

/// The kernel keeps a bucket as a time, in ticks; iproute2 and we round it to a microsecond before.
fn within_a_tick(bytes: u64, wanted: u64, profile: &Profile) -> bool {
    let per_micro = profile.rate.map_or(0, |r| r.to_byte_rate().get()).div_ceil(1_000_000);
    bytes.abs_diff(wanted) <= per_micro + 1
}

fn read_delay_line(netem: &Netem, profile: &mut Profile) {
    profile.delay = netem.delay;
    profile.jitter = netem.jitter;
    profile.jitter_correlation = netem.jitter_correlation;
    profile.distribution = Distribution::Uniform;
    (profile.loss, profile.loss_correlation) = (netem.loss.probability, netem.loss.correlation);
    profile.loss_bursts = netem.loss_bursts;
    (profile.duplicate, profile.duplicate_correlation) =
        (netem.duplicate.probability, netem.duplicate.correlation);
    (profile.corrupt, profile.corrupt_correlation) = (netem.corrupt.probability, netem.corrupt.correlation);
    (profile.reorder, profile.reorder_correlation) = (netem.reorder.probability, netem.reorder.correlation);
    profile.reorder_gap = (netem.reorder_gap > 1).then_some(netem.reorder_gap);
    if let Some(rate) = netem.rate {
        profile.rate = Some(rate);
        profile.shaper = Shaper::Netem;
    }
    profile.slots = netem.slots;
}

/// A message about a qdisc or class.
pub(crate) fn message(
    index: u32,
    parent: TcHandle,
    handle: TcHandle,
    kind: &str,
    options: Vec<u8>,
) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = parent;
    message.header.handle = handle;
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    // Not TcAttribute::Options: netem's begin with a bare struct, which that cannot express.
    message.attributes.push(TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options)));
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use units::{BitRate, Span};

    fn shape(profile: &Profile) -> Vec<String> {
        let text = |h: TcHandle| Handle::from(h).to_string();
        plan(profile, 1500, None)
            .iter()
            .map(|n| format!("{} {} parent {}", n.settings.kind(), text(n.handle), text(n.parent)))
            .collect()
    }

    #[test]
    fn a_rate_alone_is_one_qdisc() {
        let profile = Profile { rate: Some(BitRate::new(1_000_000_000)), ..Profile::default() };
        assert_eq!(shape(&profile), ["tbf 6e60: parent root"]);
    }

    #[test]
    fn a_delay_line_comes_before_the_rate() {
        let profile = Profile {
            rate: Some(BitRate::new(1_000_000_000)),
            delay: Span::from_millis(10),
            ..Profile::default()
        };
        assert_eq!(shape(&profile), ["netem 6e60: parent root", "tbf 6e61: parent 6e60:1"]);
        let htb = Profile { shaper: Shaper::Htb, ..profile.clone() };
        assert_eq!(
            shape(&htb),
            [
                "netem 6e60: parent root",
                "htb 6e61: parent 6e60:1",
                "htb 6e61:1 parent 6e61:",
                "bfifo 6e62: parent 6e61:1"
            ]
        );
        let own = Profile { shaper: Shaper::Netem, ..profile };
        assert_eq!(shape(&own), ["netem 6e60: parent root"]);
        assert_eq!(shape(&Profile::default()), [""; 0]);
    }

    #[test]
    fn a_tree_avoids_the_handles_of_the_one_it_replaces() {
        let profile = Profile { delay: Span::from_millis(1), ..Profile::default() };
        let root = |avoid| plan(&profile, 1500, avoid)[0].handle.major;
        assert_eq!(root(None), 0x6e60);
        assert_eq!(root(Some(0x6e60)), 0x6e70);
        assert_eq!(root(Some(0x6e70)), 0x6e60);
    }
}
