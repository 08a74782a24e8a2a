//! Converts a profile to the tree of qdiscs that enforces it, and back.
//!
//! > root: netem (delay line, only if needed) -> tbf, or htb with one class (rate)
//!
//! A packet passes the delay line before it reaches the bottleneck. The queue of the bottleneck therefore
//! holds only bytes that wait for the rate, never packets that are merely delayed, and its size is exactly
//! `queue`.
//!
//! The qdiscs of this crate are recognised by their handles, 6e60: to 6e62: or 6e70: to 6e72:. There are two
//! sets so that one tree can replace another in a single request. The queue of [`Netlink::count`], which
//! shapes nothing, is 6e80:.
//!
//! [`Netlink::count`]: crate::Netlink::count

use super::qdisc::{Handle, Qdisc, QdiscSettings};
use crate::{
    percent::Percent,
    profile::{Distribution, Profile, Shaper},
    wire::{
        TCA_OPTIONS,
        fifo::Bfifo,
        htb::{Htb, HtbClass},
        netem::{CorrelatedProbability, Netem},
        psched::Clock,
        tbf::Tbf,
    },
};
use rtnetlink::{
    packet_core::DefaultNla,
    packet_route::tc::{TcAttribute, TcHandle, TcMessage},
};
use std::fmt;
use units::{BitRate, Bytes, Span};

/// The first major number of each set of handles. A set consists of this number and the next two.
const HANDLE_SETS: [u16; 2] = [0x6e60, 0x6e70];
const HANDLES_PER_SET: u16 = 3;
/// The major number of the queue that only counts; see [`counter`].
pub(crate) const COUNTER: u16 = 0x6e80;
/// The minor number of an htb's only class, and of the class through which a netem or tbf leads to its child.
const CLASS: u16 = 1;
/// A single htb class does not need a quantum, but the kernel warns if it is outside 1000 to 200000 bytes.
const QUANTUM_BYTES: std::ops::RangeInclusive<u64> = 1_514..=200_000;

/// A qdisc or class that a profile requires, with its handle and its position in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QdiscSpec {
    pub(crate) parent: TcHandle,
    pub(crate) handle: TcHandle,
    pub(crate) settings: QdiscSettings,
}

impl fmt::Display for QdiscSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (handle, parent) = (Handle::from(self.handle), Handle::from(self.parent));
        write!(f, "{} {handle} parent {parent} {}", self.settings.kind(), self.settings)
    }
}

/// Returns whether a handle is in one of the sets that this crate uses.
pub(crate) fn is_ours(handle: Handle) -> bool {
    handle.major() == COUNTER || shapes(handle)
}

/// Returns whether a handle is in one of the sets that trees for profiles use.
pub(crate) fn shapes(handle: Handle) -> bool {
    HANDLE_SETS.iter().any(|set| (*set..set + HANDLES_PER_SET).contains(&handle.major()))
}

/// Returns the queue that counts what an interface sends and shapes nothing. A packet that finds it empty
/// passes immediately (`TCQ_F_CAN_BYPASS`), and its limit is never reached.
pub(crate) fn counter() -> QdiscSpec {
    QdiscSpec {
        parent: TcHandle::ROOT,
        handle: TcHandle { major: COUNTER, minor: 0 },
        settings: QdiscSettings::Bfifo(Bfifo { limit: Bytes::new(1 << 30) }),
    }
}

/// Returns the tree for a profile on an interface with this MTU, from the root down; empty if the profile is
/// empty. `avoid` is the major number of the existing root qdisc, whose set of handles is avoided.
pub(crate) fn for_profile(profile: &Profile, mtu: u32, avoid: Option<u16>) -> Vec<QdiscSpec> {
    let set = if avoid == Some(HANDLE_SETS[0]) { HANDLE_SETS[1] } else { HANDLE_SETS[0] };
    let mut majors = set..set + HANDLES_PER_SET;
    let mut parent = TcHandle::ROOT;
    let mut specs = Vec::new();
    let mut attach = |settings: QdiscSettings| {
        let handle = if matches!(settings, QdiscSettings::HtbClass(_)) {
            TcHandle { major: parent.major, minor: CLASS }
        } else {
            TcHandle { major: majors.next().expect("a tree has at most three qdiscs"), minor: 0 }
        };
        specs.push(QdiscSpec { parent, handle, settings });
        // A class is attached to its qdisc, a qdisc to the first class of its parent.
        parent = match specs.last().map(|n| &n.settings) {
            Some(QdiscSettings::Htb(_)) => handle,
            _ => TcHandle { major: handle.major, minor: CLASS },
        };
    };
    if profile.needs_delay_line() {
        attach(QdiscSettings::Netem(delay_line(profile)));
    }
    let Some(rate) = profile.rate else { return specs };
    let burst = Bytes::new(profile.burst_bytes(mtu));
    let limit = Bytes::new(profile.queue_bytes().min(u32::MAX.into()));
    match profile.shaper {
        Shaper::Tbf => attach(QdiscSettings::Tbf(Tbf { rate, burst, limit })),
        Shaper::Htb => {
            let quantum = Bytes::new(burst.get().clamp(*QUANTUM_BYTES.start(), *QUANTUM_BYTES.end()));
            attach(QdiscSettings::Htb(Htb { default_class: CLASS.into() }));
            attach(QdiscSettings::HtbClass(HtbClass { rate, burst, quantum }));
            attach(QdiscSettings::Bfifo(Bfifo { limit }));
        }
        Shaper::Netem => {}
    }
    specs
}

fn delay_line(profile: &Profile) -> Netem {
    let chance = |probability, correlation| CorrelatedProbability { probability, correlation };
    Netem {
        delay: profile.delay,
        jitter: profile.jitter,
        jitter_correlation: profile.jitter_correlation,
        distribution: profile.distribution,
        limit: profile.limit_packets(),
        // sch_netem loses fewer packets than requested if it correlates the loss itself. With a model of
        // bursts it ignores these two numbers, but it keeps and reports them.
        loss: chance(profile.loss, profile.loss_correlation),
        loss_bursts: profile.loss_bursts.or_else(|| profile.correlated_loss()),
        duplicate: chance(profile.duplicate, profile.duplicate_correlation),
        corrupt: chance(profile.corrupt, profile.corrupt_correlation),
        reorder: chance(profile.reorder, profile.reorder_correlation),
        reorder_gap: if profile.reorder.is_zero() { 0 } else { profile.reorder_gap.unwrap_or(1) },
        rate: profile.rate.filter(|_| profile.shaper == Shaper::Netem),
        slots: profile.slots,
    }
}

/// Returns the profile that the qdiscs of this crate enforce on an interface with this MTU; `None` if there
/// are none.
///
/// Of jitter that does not keep the order of packets, the kernel does not report the distribution, so it is
/// uniform. `burst`, `queue` and
/// `limit` are absent if they equal their defaults, as in a profile that does not set them.
pub(crate) fn profile_of(qdiscs: &[Qdisc], mtu: u32) -> Option<Profile> {
    let ours: Vec<_> = qdiscs.iter().filter(|q| shapes(q.handle)).collect();
    if ours.is_empty() {
        return None;
    }
    let mut profile = Profile::default();
    let (mut burst, mut queue, mut limit) = (None, None, None);
    for qdisc in ours {
        match &qdisc.settings {
            QdiscSettings::Tbf(tbf) => {
                profile.rate = Some(tbf.rate);
                (burst, queue) = (Some(tbf.burst), Some(tbf.limit));
            }
            QdiscSettings::HtbClass(class) => {
                profile.rate = Some(class.rate);
                profile.shaper = Shaper::Htb;
                burst = Some(class.burst);
            }
            QdiscSettings::Bfifo(fifo) => queue = Some(fifo.limit),
            QdiscSettings::Netem(netem) => {
                read_delay_line(netem, &mut profile);
                limit = Some(netem.limit);
            }
            QdiscSettings::Htb(_) | QdiscSettings::Other => {}
        }
    }
    profile.burst = burst
        .filter(|b| !within_a_tick(b.get(), profile.burst_bytes(mtu), profile.rate))
        .map(|b| Bytes::new(roundest(b.get(), bucket_rounding(profile.rate))));
    profile.queue = queue.filter(|q| q.get() != profile.queue_bytes());
    profile.limit = limit.filter(|l| *l != profile.limit_packets());
    Some(profile)
}

/// Returns whether two bucket sizes are equal after rounding.
fn within_a_tick(bytes: u64, wanted: u64, rate: Option<BitRate>) -> bool {
    bytes.abs_diff(wanted) <= bucket_rounding(rate)
}

/// Returns the largest error with which the size of a bucket is read back. The kernel stores a bucket as a
/// time, in ticks of 64 ns; this crate rounds that time down to a microsecond first, as iproute2 does.
fn bucket_rounding(rate: Option<BitRate>) -> u64 {
    rate.map_or(0, |r| r.to_byte_rate().over(Span::from_nanos(1_064)).get()) + 2
}

/// Returns the roundest number from `bytes` to `rounding` above it: the size that was most likely requested.
/// Setting it again gives the same bucket, whereas rounding down each time would shrink it.
fn roundest(bytes: u64, rounding: u64) -> u64 {
    let decimal = (2..12).map(|zeros| 10_u64.pow(zeros));
    let binary = (10..40).map(|zeros| 1_u64 << zeros);
    let mut steps: Vec<u64> = decimal.chain(binary).collect();
    steps.sort_unstable_by(|a, b| b.cmp(a));
    let mut rounded = steps.into_iter().map(|step| bytes.next_multiple_of(step));
    rounded.find(|rounded| *rounded <= bytes + rounding).unwrap_or(bytes)
}

/// Returns a time that the kernel reports as it was requested. Requests are rounded down to a microsecond,
/// and the kernel then rounds down to a tick.
fn as_requested(stored: Span) -> Span {
    const TICK_NANOS: u64 = 64;
    let micros = stored.as_nanos().next_multiple_of(1_000);
    if micros - stored.as_nanos() < TICK_NANOS { Span::from_nanos(micros) } else { stored }
}

/// Returns the first qdisc that the kernel does not hold as requested: first the requested one, then the one
/// that the kernel holds.
pub(crate) fn difference(wanted: &[QdiscSpec], held: &[QdiscSpec], clock: Clock) -> Option<(String, String)> {
    let alike = |one: &QdiscSpec, other: &QdiscSpec| {
        let stored = as_stored(&one.settings, clock);
        one.parent == other.parent
            && one.handle == other.handle
            && equal_within_a_tick(&stored, &other.settings)
    };
    for (position, wanted) in wanted.iter().enumerate() {
        match held.get(position) {
            Some(held) if alike(wanted, held) => {}
            Some(held) if wanted.to_string() == held.to_string() => {
                return Some((format!("{wanted:?}"), format!("{held:?}")));
            }
            Some(held) => return Some((wanted.to_string(), held.to_string())),
            None => return Some((wanted.to_string(), "nothing".to_owned())),
        }
    }
    held.get(wanted.len()).map(|more| ("nothing".to_owned(), more.to_string()))
}

/// Returns the settings as the kernel stores them: times in whole microseconds and ticks, rates in whole
/// bytes per second, no distribution.
fn as_stored(settings: &QdiscSettings, clock: Clock) -> QdiscSettings {
    let whole = |span: Span| clock.span(clock.ticks(span));
    let rate = |rate: BitRate| BitRate::new(rate.get() / 8 * 8);
    match settings.clone() {
        QdiscSettings::Netem(netem) if netem.gate().is_some() => {
            // The gate is stored in nanoseconds.
            let jitter = netem.jitter.as_nanos();
            let latency = whole(Span::from_nanos(netem.delay.as_nanos() - jitter));
            let delay = Span::from_nanos(latency.as_nanos() + jitter);
            QdiscSettings::Netem(Netem { delay, rate: netem.rate.map(rate), ..netem })
        }
        QdiscSettings::Netem(netem) => {
            let jitter = whole(netem.jitter);
            let distribution = if jitter.is_zero() { Distribution::default() } else { Distribution::Uniform };
            let (delay, rate) = (whole(netem.delay), netem.rate.map(rate));
            QdiscSettings::Netem(Netem { delay, jitter, distribution, rate, ..netem })
        }
        QdiscSettings::Tbf(tbf) => QdiscSettings::Tbf(Tbf { rate: rate(tbf.rate), ..tbf }),
        QdiscSettings::HtbClass(class) => {
            QdiscSettings::HtbClass(HtbClass { rate: rate(class.rate), ..class })
        }
        other => other,
    }
}

/// Returns whether two settings are equal except for the rounding of a bucket, which is stored as a time.
fn equal_within_a_tick(one: &QdiscSettings, other: &QdiscSettings) -> bool {
    let close = |one: Bytes, other: Bytes, rate| within_a_tick(one.get(), other.get(), Some(rate));
    match (one, other) {
        (QdiscSettings::Tbf(one), QdiscSettings::Tbf(other)) => {
            Tbf { burst: other.burst, ..*one } == *other && close(one.burst, other.burst, one.rate)
        }
        (QdiscSettings::HtbClass(one), QdiscSettings::HtbClass(other)) => {
            HtbClass { burst: other.burst, ..*one } == *other && close(one.burst, other.burst, one.rate)
        }
        _ => one == other,
    }
}

/// Returns what somebody else has changed in a tree of this crate so that it no longer shapes as its profile
/// says; empty if there is no such tree.
pub(crate) fn problems(present: &[Qdisc]) -> Vec<String> {
    let mut problems = Vec::new();
    if !present.iter().any(|q| q.parent == Handle::ROOT && shapes(q.handle)) {
        return problems;
    }
    for qdisc in present {
        let Qdisc { kind, handle, parent, settings, .. } = qdisc;
        if !shapes(*handle) && shapes(*parent) {
            problems.push(format!("netem did not create the {kind} qdisc ({handle}) at {parent}"));
        } else if shapes(*handle) && !is_in_place(qdisc, present) {
            problems.push(format!("netem did not create {kind} {handle} at {parent} like this"));
        }
        match settings {
            QdiscSettings::Htb(htb) if htb.default_class != u32::from(CLASS) => {
                problems.push(format!("{kind} {handle} sends packets past its class"));
            }
            QdiscSettings::Htb(_) if !has_child(present, *handle, QdiscSettings::is_htb_class) => {
                problems.push(format!("{kind} {handle} has lost its class"));
            }
            QdiscSettings::HtbClass(_) if !has_child(present, *handle, QdiscSettings::is_bfifo) => {
                problems.push(format!("class {handle} has lost its queue"));
            }
            _ => {}
        }
    }
    problems
}

fn has_child(present: &[Qdisc], parent: Handle, kind: fn(&QdiscSettings) -> bool) -> bool {
    present.iter().any(|q| q.parent == parent && kind(&q.settings))
}

/// Returns whether a qdisc with these settings may be at this position in a tree of this crate.
fn is_in_place(qdisc: &Qdisc, present: &[Qdisc]) -> bool {
    let parent = |has: fn(&QdiscSettings) -> bool| {
        present.iter().any(|q| has(&q.settings) && (q.handle == qdisc.parent))
    };
    let under_netem = || {
        let is_netem = |q: &Qdisc| matches!(q.settings, QdiscSettings::Netem(_));
        present.iter().any(|q| is_netem(q) && q.handle.major() == qdisc.parent.major())
    };
    match qdisc.settings {
        QdiscSettings::Netem(_) => qdisc.parent == Handle::ROOT,
        QdiscSettings::Tbf(_) | QdiscSettings::Htb(_) => qdisc.parent == Handle::ROOT || under_netem(),
        QdiscSettings::HtbClass(_) => {
            qdisc.handle.minor() == CLASS && parent(|s| matches!(s, QdiscSettings::Htb(_)))
        }
        QdiscSettings::Bfifo(_) => parent(QdiscSettings::is_htb_class),
        QdiscSettings::Other => false,
    }
}

fn read_delay_line(netem: &Netem, profile: &mut Profile) {
    if netem.gate().is_some() {
        // Only the time before the gate is rounded by the kernel.
        let (delay, wait) = (netem.delay.as_nanos(), netem.jitter.as_nanos());
        let latency = as_requested(Span::from_nanos(delay.saturating_sub(wait)));
        profile.delay = Span::from_nanos(latency.as_nanos() + wait);
        profile.jitter = netem.jitter;
    } else {
        profile.delay = as_requested(netem.delay);
        profile.jitter = as_requested(netem.jitter);
    }
    profile.jitter_correlation = netem.jitter_correlation;
    profile.distribution = netem.distribution;
    (profile.loss, profile.loss_correlation) = (netem.loss.probability, netem.loss.correlation);
    profile.loss_bursts = netem.loss_bursts.filter(|model| profile.correlated_loss() != Some(*model));
    if profile.loss_bursts.is_some() {
        (profile.loss, profile.loss_correlation) = (Percent::ZERO, Percent::ZERO);
    }
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

/// Builds the netlink message that creates, changes or deletes a qdisc or class.
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
    // Not TcAttribute::Options: the options of netem start with a bare struct, which that cannot express.
    message.attributes.push(TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options)));
    message
}

#[cfg(test)]
mod tests {
    use super::{super::qdisc::QdiscStatistics, *};
    use crate::{
        percent::Percent,
        profile::{GilbertElliott, Slots},
        wire::netem::Operation,
    };
    use proptest::prelude::*;

    /// Generates numbers of every magnitude, not mostly large ones.
    fn magnitude() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0..64u32).prop_map(|(number, shift)| number >> shift)
    }

    fn percent() -> impl Strategy<Value = Percent> {
        prop_oneof![Just(Percent::ZERO), Just(Percent::ALWAYS), any::<u32>().prop_map(Percent::from_kernel)]
    }

    /// Generates arbitrary profiles, many of them valid.
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
            Just(Distribution::Exponential),
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
                // Drops a correlation without its probability: otherwise few profiles would be valid.
                let correlation = |(probability, correlation): (Percent, Percent)| {
                    if probability.is_zero() { none } else { correlation }
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
                    jitter_correlation: if jitter.is_zero() || delay.3 == Distribution::default() {
                        none
                    } else {
                        delay.2
                    },
                    distribution: if jitter.is_zero() { Distribution::default() } else { delay.3 },
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

    /// Returns whether the settings read from the sent bytes are those that the kernel stores.
    fn is_read_as(stored: &QdiscSettings, read: &QdiscSettings) -> bool {
        match (stored, read) {
            // For a rate of more than 32 bits, the kernel uses the bytes; the ticks only match iproute2.
            (QdiscSettings::Tbf(one), QdiscSettings::Tbf(other))
                if u32::try_from(one.rate.to_byte_rate().get()).is_err() =>
            {
                Tbf { burst: other.burst, ..*one } == *other
            }
            _ => equal_within_a_tick(stored, read),
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
        fn encoded_settings_decode_to_what_the_kernel_stores(
            profile in valid(),
            mtu in 68..=9_000_u32,
            change in any::<bool>(),
        ) {
            let clock = Clock::default();
            let operation = if change { Operation::Change } else { Operation::Create };
            for QdiscSpec { settings, .. } in for_profile(&profile, mtu, None) {
                let read = match &settings {
                    QdiscSettings::Tbf(tbf) => Tbf::decode(&tbf.encode(clock), clock).map(QdiscSettings::Tbf),
                    QdiscSettings::Htb(htb) => Htb::decode(&htb.encode()).map(QdiscSettings::Htb),
                    QdiscSettings::HtbClass(class) => {
                        HtbClass::decode(&class.encode(clock), clock).map(QdiscSettings::HtbClass)
                    }
                    QdiscSettings::Bfifo(fifo) => Bfifo::decode(&fifo.encode()).map(QdiscSettings::Bfifo),
                    QdiscSettings::Netem(netem) => {
                        Netem::decode(&netem.encode(clock, operation), clock).map(QdiscSettings::Netem)
                    }
                    QdiscSettings::Other => None,
                };
                let stored = as_stored(&settings, clock);
                prop_assert!(
                    read.as_ref().is_some_and(|read| is_read_as(&stored, read)),
                    "{settings:?}\nshould be {stored:?}\nis read as {read:?}"
                );
            }
        }

        #[test]
        fn decoding_damaged_bytes_does_not_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            profile in valid(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let clock = Clock::default();
            let mut damaged: Vec<Vec<u8>> = for_profile(&profile, 1500, None)
                .iter()
                .map(|spec| match &spec.settings {
                    QdiscSettings::Tbf(tbf) => tbf.encode(clock),
                    QdiscSettings::HtbClass(class) => class.encode(clock),
                    QdiscSettings::Netem(netem) => netem.encode(clock, Operation::Change),
                    QdiscSettings::Htb(_) | QdiscSettings::Bfifo(_) | QdiscSettings::Other => bytes.clone(),
                })
                .collect();
            damaged.push(bytes);
            for options in &mut damaged {
                for (at, byte) in &damage {
                    // The options may be empty: add a byte that can be damaged.
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
        for_profile(profile, 1500, None)
            .iter()
            .map(|n| format!("{} {} parent {}", n.settings.kind(), text(n.handle), text(n.parent)))
            .collect()
    }

    #[test]
    fn what_the_kernel_does_not_hold_as_requested_is_found() {
        let clock = Clock::default();
        let profile = Profile {
            rate: Some(BitRate::new(10_000_004)),
            delay: Span::from_nanos(20_000_999),
            ..Profile::default()
        };
        let wanted = for_profile(&profile, 1500, None);
        let held: Vec<_> = wanted
            .iter()
            .map(|spec| QdiscSpec { settings: as_stored(&spec.settings, clock), ..spec.clone() })
            .collect();
        assert_eq!(difference(&wanted, &held, clock), None, "{held:?}");

        let mut other = held.clone();
        let QdiscSettings::Netem(netem) = &mut other[0].settings else { panic!("{other:?}") };
        netem.delay = Span::from_millis(19);
        let (asked, became) = difference(&wanted, &other, clock).unwrap();
        assert!(asked.contains("delay 20000999ns") && became.contains("delay 19ms"), "{asked} {became}");
        let (asked, became) = difference(&wanted, &held[..1], clock).unwrap();
        assert!(asked.starts_with("tbf") && became == "nothing", "{asked} {became}");
        let (asked, became) = difference(&wanted[..1], &held, clock).unwrap();
        assert!(asked == "nothing" && became.starts_with("tbf"), "{asked} {became}");
    }

    #[test]
    fn a_bucket_is_read_back_as_it_was_most_likely_requested() {
        for (read, rounding, requested) in [
            (19_993, 8, 20_000),
            (65_530, 8, 65_536),
            (231_995, 10, 232_000),
            (12_341, 8, 12_341),
            (20_000, 0, 20_000),
        ] {
            assert_eq!(roundest(read, rounding), requested);
        }
        assert_eq!(as_requested(Span::from_nanos(24_960)), Span::from_nanos(25_000));
        assert_eq!(as_requested(Span::from_nanos(24_500)), Span::from_nanos(24_500));
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

    /// Returns the profile that is read back after the kernel has stored this one.
    fn read_back(text: &str) -> Profile {
        let (profile, clock): (Profile, _) = (serde_json::from_str(text).unwrap(), Clock::default());
        profile.validate().unwrap();
        let mut specs = for_profile(&profile, 1500, None);
        for spec in &mut specs {
            if let QdiscSettings::Netem(netem) = &mut spec.settings {
                *netem = Netem::decode(&netem.encode(clock, Operation::Create), clock).unwrap();
            }
        }
        let qdisc = |spec: QdiscSpec| Qdisc {
            kind: spec.settings.kind().into(),
            handle: spec.handle.into(),
            parent: spec.parent.into(),
            settings: spec.settings,
            statistics: QdiscStatistics::default(),
        };
        profile_of(&specs.into_iter().map(qdisc).collect::<Vec<_>>(), 1500).unwrap()
    }

    #[test]
    fn correlated_loss_is_a_channel_with_two_states_and_read_back_as_requested() {
        let text = r#"{"loss":"10%","loss_correlation":"25%"}"#;
        let profile: Profile = serde_json::from_str(text).unwrap();
        let bursts = delay_line(&profile).loss_bursts.unwrap();
        assert_eq!((bursts.enter.to_string(), bursts.leave.to_string()), ("7.5%".into(), "67.5%".into()));
        assert_eq!((bursts.loss_bad, bursts.loss_good), (Percent::ALWAYS, Percent::ZERO));
        for text in [
            text,
            r#"{"loss":"0.001%","loss_correlation":"99%"}"#,
            r#"{"loss":"33.3%","loss_correlation":"33.3%"}"#,
            r#"{"loss_bursts":{"enter":"7.5%","leave":"67.5%","loss_bad":"100%","loss_good":"0%"}}"#,
            r#"{"loss":"10%"}"#,
        ] {
            assert_eq!(read_back(text), serde_json::from_str(text).unwrap(), "{text}");
        }
    }

    #[test]
    fn jitter_that_keeps_the_order_is_a_gate_and_read_back_as_requested() {
        for text in [
            r#"{"delay":"25ms","jitter":"5ms"}"#,
            r#"{"delay":"5ms","jitter":"5ms"}"#,
            r#"{"rate":"1gbit","shaper":"netem","delay":"4min","jitter":"1s"}"#,
            r#"{"delay":"25ms","jitter":"5ms","distribution":"uniform"}"#,
        ] {
            assert_eq!(read_back(text), serde_json::from_str(text).unwrap(), "{text}");
        }
        let normal = read_back(r#"{"delay":"25ms","jitter":"5ms","distribution":"normal"}"#);
        assert_eq!(normal.distribution, Distribution::Uniform);
    }

    #[test]
    fn a_tree_avoids_the_handles_of_the_one_it_replaces() {
        let profile = Profile { delay: Span::from_millis(1), ..Profile::default() };
        let root = |avoid| for_profile(&profile, 1500, avoid)[0].handle.major;
        assert_eq!(root(None), 0x6e60);
        assert_eq!(root(Some(0x6e60)), 0x6e70);
        assert_eq!(root(Some(0x6e70)), 0x6e60);
    }
}
