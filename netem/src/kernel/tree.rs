//! From a profile to the qdiscs that enforce it, and back.
//!
//! > root: netem (delay line, only where one is needed) -> tbf, or htb with one class (rate)
//!
//! A packet is lost and delayed first and meets the bottleneck afterwards, so that the queue of the
//! bottleneck is exactly what `queue` says: it holds bytes that wait for the rate, and nothing that is merely
//! on its way.
//!
//! Our qdiscs are known by their handles, 6e60: to 6e62:, or 6e70: to 6e72:. There are two sets so that
//! one tree can replace another in a single step.

use super::qdisc::{Handle, Qdisc, Settings};
use crate::{
    profile::{Distribution, Profile, Shaper},
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
use units::{Bytes, Span};

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

/// The kernel keeps a bucket as a time, in ticks of 64 ns; iproute2 and we round it down to a microsecond
/// before.
fn within_a_tick(bytes: u64, wanted: u64, profile: &Profile) -> bool {
    let rounding = profile.rate.map_or(0, |r| r.to_byte_rate().over(Span::from_nanos(1_064)).get());
    bytes.abs_diff(wanted) <= rounding + 2
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
    use crate::{
        percent::Percent,
        profile::{GilbertElliott, Slots},
        wire::{netem::Verb, psched::Clock},
    };
    use proptest::prelude::*;
    use units::BitRate;

    /// A number of any magnitude.
    fn magnitude() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0..64u32).prop_map(|(number, shift)| number >> shift)
    }

    fn percent() -> impl Strategy<Value = Percent> {
        prop_oneof![Just(Percent::ZERO), Just(Percent::ALWAYS), any::<u32>().prop_map(Percent::from_kernel)]
    }

    /// Profiles of all kinds, many of which validate.
    fn any_profile() -> impl Strategy<Value = Profile> {
        let rate =
            prop::option::of(prop_oneof![1_000..=10_000_000_000_000_u64, magnitude()].prop_map(BitRate::new));
        let shaper = prop_oneof![Just(Shaper::Tbf), Just(Shaper::Htb), Just(Shaper::Netem)];
        let size = || prop::option::weighted(0.3, magnitude().prop_map(Bytes::new));
        let time = || {
            let nanos = prop_oneof![Just(0), 0..=240_000_000_000_u64, magnitude()];
            nanos.prop_map(Span::from_nanos)
        };
        let distribution = prop_oneof![
            Just(Distribution::Uniform),
            Just(Distribution::Normal),
            Just(Distribution::Pareto),
            Just(Distribution::ParetoNormal)
        ];
        let bursts =
            (percent(), percent(), percent(), percent()).prop_map(|(enter, leave, loss_bad, loss_good)| {
                GilbertElliott { enter, leave, loss_bad, loss_good }
            });
        let slots = (time(), time(), prop::option::of(any::<u32>()), prop::option::of(magnitude())).prop_map(
            |(min_delay, max_delay, packets, bytes)| Slots {
                min_delay: min_delay.min(max_delay),
                max_delay,
                packets,
                bytes: bytes.map(Bytes::new),
            },
        );
        let chance = || (percent(), percent());
        (
            (rate, shaper, size(), size()),
            (time(), time(), percent(), distribution),
            (chance(), prop::option::weighted(0.3, bursts), chance(), chance(), chance()),
            (prop::option::weighted(0.3, any::<u32>()), prop::option::weighted(0.3, any::<u32>())),
            prop::option::weighted(0.3, slots),
        )
            .prop_map(|(rate, delay, chances, (reorder_gap, limit), slots)| {
                let ((loss, loss_bursts, duplicate, corrupt, reorder), none) = (chances, Percent::ZERO);
                // A correlation without its chance is refused, and so would be most of what is made.
                let correlation = |(chance, correlation): (Percent, Percent)| {
                    if chance.is_zero() { none } else { correlation }
                };
                let jitter = delay.1.min(delay.0);
                let reorder = if delay.0.is_zero() { (none, none) } else { reorder };
                let loss = if loss_bursts.is_some() { (none, none) } else { loss };
                Profile {
                    rate: rate.0,
                    shaper: rate.1,
                    burst: rate.2.filter(|_| rate.0.is_some() && rate.1 != Shaper::Netem),
                    queue: rate.3.filter(|_| rate.0.is_some() && rate.1 != Shaper::Netem),
                    delay: delay.0,
                    jitter,
                    jitter_correlation: if jitter.is_zero() { none } else { delay.2 },
                    distribution: if jitter.is_zero() { Distribution::Uniform } else { delay.3 },
                    loss: loss.0,
                    loss_correlation: correlation(loss),
                    loss_bursts,
                    duplicate: duplicate.0,
                    duplicate_correlation: correlation(duplicate),
                    corrupt: corrupt.0,
                    corrupt_correlation: correlation(corrupt),
                    reorder: reorder.0,
                    reorder_correlation: correlation(reorder),
                    reorder_gap: reorder_gap.filter(|_| !reorder.0.is_zero()),
                    limit,
                    slots,
                }
            })
    }

    fn valid() -> impl Strategy<Value = Profile> {
        any_profile().prop_filter("validates", |profile| profile.validate().is_ok())
    }

    /// What the kernel would hold of settings: times in whole microseconds and ticks, rates in whole bytes,
    /// buckets to the nearest of their ticks, no distribution.
    fn held(settings: &Settings, clock: Clock) -> Settings {
        let whole = |span: Span| clock.span(clock.ticks(span));
        let rate = |rate: BitRate| BitRate::new(rate.get() / 8 * 8);
        match settings.clone() {
            Settings::Netem(netem) => Settings::Netem(Netem {
                delay: whole(netem.delay),
                jitter: whole(netem.jitter),
                rate: netem.rate.map(rate),
                distribution: Distribution::Uniform,
                ..netem
            }),
            Settings::Tbf(tbf) => Settings::Tbf(Tbf { rate: rate(tbf.rate), ..tbf }),
            Settings::HtbClass(class) => Settings::HtbClass(HtbClass { rate: rate(class.rate), ..class }),
            other => other,
        }
    }

    /// Whether two are alike but for a bucket that the kernel keeps as a time.
    fn alike(one: &Settings, other: &Settings) -> bool {
        let close = |one: Bytes, other: Bytes, rate| {
            let profile = Profile { rate: Some(rate), ..Profile::default() };
            within_a_tick(one.get(), other.get(), &profile)
        };
        match (one, other) {
            (Settings::Tbf(one), Settings::Tbf(other)) => {
                // Of a rate of more than 32 bits, the ticks are iproute2's idea; the kernel takes the bytes.
                let by_ticks = u32::try_from(one.rate.to_byte_rate().get()).is_ok();
                Tbf { burst: other.burst, ..*one } == *other
                    && (!by_ticks || close(one.burst, other.burst, one.rate))
            }
            (Settings::HtbClass(one), Settings::HtbClass(other)) => {
                HtbClass { burst: other.burst, ..*one } == *other && close(one.burst, other.burst, one.rate)
            }
            _ => one == other,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { max_global_rejects: 100_000, ..ProptestConfig::with_cases(150) })]

        #[test]
        fn no_profile_panics(profile in any_profile()) {
            drop(profile.validate());
            let text = serde_json::to_string(&profile).unwrap();
            prop_assert_eq!(serde_json::from_str::<Profile>(&text).unwrap(), profile);
        }

        #[test]
        fn what_is_sent_is_what_is_read(profile in valid(), mtu in 68..=9_000_u32, change in any::<bool>()) {
            let clock = Clock::default();
            let verb = if change { Verb::Change } else { Verb::Create };
            for Node { settings, .. } in plan(&profile, mtu, None) {
                let read = match &settings {
                    Settings::Tbf(tbf) => Tbf::decode(&tbf.encode(clock), clock).map(Settings::Tbf),
                    Settings::Htb(htb) => Htb::decode(&htb.encode()).map(Settings::Htb),
                    Settings::HtbClass(class) => {
                        HtbClass::decode(&class.encode(clock), clock).map(Settings::HtbClass)
                    }
                    Settings::Bfifo(fifo) => Bfifo::decode(&fifo.encode()).map(Settings::Bfifo),
                    Settings::Netem(netem) => {
                        Netem::decode(&netem.encode(clock, verb), clock).map(Settings::Netem)
                    }
                    Settings::Other => None,
                };
                let held = held(&settings, clock);
                prop_assert!(
                    read.as_ref().is_some_and(|read| alike(&held, read)),
                    "{settings:?}\nshould be {held:?}\nis read as {read:?}"
                );
            }
        }

        #[test]
        fn no_bytes_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            profile in valid(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let clock = Clock::default();
            let mut damaged: Vec<Vec<u8>> = plan(&profile, 1500, None)
                .iter()
                .map(|node| match &node.settings {
                    Settings::Tbf(tbf) => tbf.encode(clock),
                    Settings::HtbClass(class) => class.encode(clock),
                    Settings::Netem(netem) => netem.encode(clock, Verb::Change),
                    Settings::Htb(_) | Settings::Bfifo(_) | Settings::Other => bytes.clone(),
                })
                .collect();
            damaged.push(bytes);
            for options in &mut damaged {
                for (at, byte) in &damage {
                    // Something to damage.
                    options.push(*byte);
                    let at = at.index(options.len());
                    options[at] = *byte;
                }
                let _ = Netem::decode(options, clock);
                let _ = Tbf::decode(options, clock);
                let _ = Htb::decode(options);
                let _ = HtbClass::decode(options, clock);
                let _ = Bfifo::decode(options);
            }
        }
    }

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
