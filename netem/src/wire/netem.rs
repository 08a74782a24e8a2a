//! `netem`: delay, jitter, loss, duplication, corruption, reordering, slots, and its own rate.

use super::{
    Reader, Writer,
    distribution::{self, EXPONENTIAL_STEP},
    psched::{Clock, bit_rate, needs_64_bits},
};
use crate::{
    percent::Percent,
    profile::{Distribution, GilbertElliott, Slots},
};
use serde::Serialize;
use units::{BitRate, Bytes, Span};

const TCA_NETEM_CORR: u16 = 1;
const TCA_NETEM_DELAY_DIST: u16 = 2;
const TCA_NETEM_REORDER: u16 = 3;
const TCA_NETEM_CORRUPT: u16 = 4;
const TCA_NETEM_LOSS: u16 = 5;
const TCA_NETEM_RATE: u16 = 6;
const TCA_NETEM_RATE64: u16 = 8;
const TCA_NETEM_LATENCY64: u16 = 10;
const TCA_NETEM_JITTER64: u16 = 11;
const TCA_NETEM_SLOT: u16 = 12;
const TCA_NETEM_SLOT_DIST: u16 = 13;
const NETEM_LOSS_GE: u16 = 2;
/// The size of `struct tc_netem_qopt`, in bytes.
const QOPT_BYTES: usize = 24;

/// The probability of an event for each packet, and the correlation of successive events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CorrelatedProbability {
    /// The fraction of packets that are affected; 0 % turns the effect off.
    pub probability: Percent,
    /// How much the event depends on the event of the previous packet; 0 % makes events independent.
    pub correlation: Percent,
}

/// The settings of a `netem` qdisc.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Netem {
    /// The one-way delay (`latency`), sent in ticks of the packet scheduler.
    pub delay: Span,
    /// The variation of the delay (`jitter`), sent in ticks of the packet scheduler.
    pub jitter: Span,
    /// How much the delay of a packet depends on the delay of the previous packet.
    pub jitter_correlation: Percent,
    /// The distribution of the jitter. [`Distribution::Exponential`] is a constant latency of delay - jitter,
    /// and slots at exponentially distributed intervals. The kernel does not report which of the others it
    /// is: after decoding, it is uniform.
    pub distribution: Distribution,
    /// The largest number of packets in the delay line; further packets are dropped.
    pub limit: u32,
    /// The loss of single packets. The kernel keeps it but does not use it if `loss_bursts` is set.
    pub loss: CorrelatedProbability,
    /// Loss in bursts, which replaces `loss` (`NETEM_LOSS_GE`).
    pub loss_bursts: Option<GilbertElliott>,
    /// The packets that are sent twice.
    pub duplicate: CorrelatedProbability,
    /// The packets in which one bit is inverted.
    pub corrupt: CorrelatedProbability,
    /// The packets that skip the delay and so overtake others.
    pub reorder: CorrelatedProbability,
    /// Only every Nth packet may be reordered (`gap`); 0 without reordering.
    pub reorder_gap: u32,
    /// The rate at which packets are serialised one by one, without a token bucket.
    pub rate: Option<BitRate>,
    /// The time slots in which packets are delivered together (`struct tc_netem_slot`).
    pub slots: Option<Slots>,
}

/// The operation of a message: whether it creates a qdisc or changes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Creates a qdisc. Settings that the message omits are off.
    Create,
    /// Changes an existing qdisc. Settings that the message omits keep their values, so it contains all of
    /// them.
    Change,
    /// Changes an existing qdisc as [`Operation::Change`] does, except that it keeps the distribution of its
    /// jitter, which the kernel does not report.
    ChangeKeepingDistribution,
}

impl Netem {
    /// The kind as the kernel names it (`TCA_KIND`).
    pub const KIND: &'static str = "netem";

    /// Returns the content of `TCA_OPTIONS`: `struct tc_netem_qopt` without an attribute header, then
    /// attributes.
    pub fn encode(&self, clock: Clock, operation: Operation) -> Vec<u8> {
        let all = operation != Operation::Create;
        let mut w = Writer::default();
        let gate = self.gate();
        let wait = gate.map_or(0, Span::as_nanos);
        let latency = Span::from_nanos(self.delay.as_nanos().saturating_sub(wait));
        let jitter = if gate.is_some() { Span::ZERO } else { self.jitter };
        let [loss, duplicate] = [self.loss, self.duplicate].map(|c| c.probability.to_kernel());
        w.words(&[clock.ticks(latency), self.limit, loss, self.reorder_gap, duplicate, clock.ticks(jitter)]);

        let correlations = [self.jitter_correlation, self.loss.correlation, self.duplicate.correlation];
        if all || correlations.iter().any(|c| !c.is_zero()) {
            w.attribute_words(TCA_NETEM_CORR, &correlations.map(Percent::to_kernel));
        }
        for (kind, chance) in [(TCA_NETEM_REORDER, self.reorder), (TCA_NETEM_CORRUPT, self.corrupt)] {
            if all || !chance.probability.is_zero() {
                w.attribute_words(kind, &[chance.probability.to_kernel(), chance.correlation.to_kernel()]);
            }
        }
        if let Some(model) = &self.loss_bursts {
            // The struct has p, r, h and 1 - k, where h is the probability of delivery in the bad state.
            let words = [model.enter, model.leave, model.loss_bad.complement(), model.loss_good];
            w.nested(TCA_NETEM_LOSS, |w| {
                w.attribute_words(NETEM_LOSS_GE, &words.map(Percent::to_kernel));
            });
        }
        if all || self.rate.is_some() {
            let rate = self.rate.map_or(0, |r| r.to_byte_rate().get());
            if needs_64_bits(rate) {
                w.attribute(TCA_NETEM_RATE64, &rate.to_ne_bytes());
            }
            // struct tc_netem_rate: rate, overhead of a packet, size and overhead of a cell.
            w.attribute_words(TCA_NETEM_RATE, &[u32::try_from(rate).unwrap_or(u32::MAX), 0, 0, 0]);
        }
        if all || self.slots.is_some() || gate.is_some() {
            w.attribute(TCA_NETEM_SLOT, &self.encode_slot(operation));
        }
        let table = |distribution| -> Vec<u8> {
            distribution::table(distribution).into_iter().flat_map(i16::to_ne_bytes).collect()
        };
        if gate.is_some() {
            w.attribute(TCA_NETEM_SLOT_DIST, &table(Distribution::Exponential));
        } else if all && self.slots.is_some() {
            w.attribute(TCA_NETEM_SLOT_DIST, &table(Distribution::Uniform));
        }
        // A table cannot be removed, only replaced, so a change to "uniform" needs a table as well.
        let has_table = !jitter.is_zero() && (all || self.distribution != Distribution::Uniform);
        if has_table && operation != Operation::ChangeKeepingDistribution {
            w.attribute(TCA_NETEM_DELAY_DIST, &table(self.distribution));
        }
        w.finish()
    }

    /// Returns the mean time that packets wait at a gate, if jitter keeps their order.
    pub(crate) fn gate(&self) -> Option<Span> {
        (!self.jitter.is_zero() && self.distribution == Distribution::Exponential).then_some(self.jitter)
    }

    /// Returns a `struct tc_netem_slot`: two times in ns, two counts, and the two times of a distribution.
    ///
    /// The times of the distribution are used if the qdisc has a table for it. A table cannot be removed, so
    /// a change that needs no table has to set these times and a uniform table, which has the same effect.
    fn encode_slot(&self, operation: Operation) -> Vec<u8> {
        let (times, counts, distribution) = if let Some(wait) = self.gate().map(Span::as_nanos) {
            ([0, 0], [0, 0], [wait, EXPONENTIAL_STEP.saturating_mul(wait)])
        } else if let Some(slots) = &self.slots {
            let (min, max) = (slots.min_delay.as_nanos(), slots.max_delay.as_nanos());
            let bytes = u32::try_from(slots.bytes.map_or(0, Bytes::get)).unwrap_or(i32::MAX as u32);
            let distribution = match operation {
                Operation::Create => [0, 0],
                _ => [min.midpoint(max), max.saturating_sub(min) / 2],
            };
            ([min, max], [slots.packets.unwrap_or(0), bytes], distribution)
        } else {
            Default::default()
        };
        let mut w = Writer::default();
        for time in times {
            w.bytes(&time.to_ne_bytes());
        }
        w.words(&counts);
        for time in distribution {
            w.bytes(&time.to_ne_bytes());
        }
        w.finish()
    }

    /// Decodes `TCA_OPTIONS` as the kernel dumps it; `None` if it is malformed.
    pub fn decode(options: &[u8], clock: Clock) -> Option<Self> {
        let mut head = Reader::new(options.get(..QOPT_BYTES)?);
        let mut next = || head.u32();
        let mut netem = Self { delay: clock.span(next()?), limit: next()?, ..Self::default() };
        netem.loss.probability = Percent::from_kernel(next()?);
        netem.reorder_gap = next()?;
        netem.duplicate.probability = Percent::from_kernel(next()?);
        netem.jitter = clock.span(next()?);
        let (mut rate64, mut gate) = (None, Span::ZERO);
        for (kind, mut value) in Reader::new(&options[QOPT_BYTES..]) {
            let mut percent = || value.u32().map(Percent::from_kernel);
            match kind {
                TCA_NETEM_CORR => {
                    netem.jitter_correlation = percent()?;
                    netem.loss.correlation = percent()?;
                    netem.duplicate.correlation = percent()?;
                }
                TCA_NETEM_REORDER => {
                    netem.reorder =
                        CorrelatedProbability { probability: percent()?, correlation: percent()? };
                }
                TCA_NETEM_CORRUPT => {
                    netem.corrupt =
                        CorrelatedProbability { probability: percent()?, correlation: percent()? };
                }
                TCA_NETEM_LOSS => netem.loss_bursts = decode_loss(value),
                TCA_NETEM_RATE => {
                    let rate = u64::from(value.u32()?);
                    netem.rate = (rate > 0).then(|| bit_rate(rate));
                }
                TCA_NETEM_RATE64 => rate64 = value.u64(),
                TCA_NETEM_LATENCY64 => netem.delay = Span::from_nanos(value.u64()?),
                TCA_NETEM_JITTER64 => netem.jitter = Span::from_nanos(value.u64()?),
                TCA_NETEM_SLOT => (netem.slots, gate) = decode_slot(value)?,
                _ => {}
            }
        }
        if let Some(rate) = rate64 {
            netem.rate = Some(bit_rate(rate));
        }
        if !netem.jitter.is_zero() {
            netem.distribution = Distribution::Uniform;
        } else if !gate.is_zero() {
            netem.jitter = gate;
            netem.delay = Span::from_nanos(netem.delay.as_nanos().saturating_add(gate.as_nanos()));
        }
        Some(netem)
    }
}

fn decode_loss(mut models: Reader<'_>) -> Option<GilbertElliott> {
    let (_, mut value) = models.find(|(kind, _)| *kind == NETEM_LOSS_GE)?;
    let mut percent = || value.u32().map(Percent::from_kernel);
    Some(GilbertElliott {
        enter: percent()?,
        leave: percent()?,
        loss_bad: percent()?.complement(),
        loss_good: percent()?,
    })
}

/// Decodes a `struct tc_netem_slot`. Returns the slots if there are any, otherwise the mean time that packets
/// wait at a gate, or zero.
fn decode_slot(mut value: Reader<'_>) -> Option<(Option<Slots>, Span)> {
    // The kernel reports "no limit" as the largest signed number.
    let count = |n: u32| (n != 0 && n != i32::MAX as u32).then_some(n);
    let slots = Slots {
        min_delay: Span::from_nanos(value.u64()?),
        max_delay: Span::from_nanos(value.u64()?),
        packets: count(value.u32()?),
        bytes: count(value.u32()?).map(|n| Bytes::new(n.into())),
    };
    let wait = Span::from_nanos(value.u64()?);
    Some(if slots.max_delay.is_zero() { (None, wait) } else { (Some(slots), Span::ZERO) })
}
