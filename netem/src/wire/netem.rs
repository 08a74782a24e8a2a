//! `netem`: delay, jitter, loss, duplication, corruption, reordering, slots, and a rate of its own.

use super::{
    Reader, Writer, distribution,
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
const NETEM_LOSS_GE: u16 = 2;
/// The bytes of `struct tc_netem_qopt`.
const QOPT_BYTES: usize = 24;

/// A probability and its correlation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Chance {
    /// How often.
    pub probability: Percent,
    /// How much it depends on the packet before.
    pub correlation: Percent,
}

/// Settings of a `netem`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Netem {
    /// One-way delay.
    pub delay: Span,
    /// Its variation.
    pub jitter: Span,
    /// How much the delay depends on that of the packet before.
    pub jitter_correlation: Percent,
    /// How it varies. The kernel does not tell: read back, this is always uniform.
    pub distribution: Distribution,
    /// Packets held at most.
    pub limit: u32,
    /// Independent loss.
    pub loss: Chance,
    /// Loss in bursts, instead.
    pub loss_bursts: Option<GilbertElliott>,
    /// Duplication.
    pub duplicate: Chance,
    /// Corruption.
    pub corrupt: Chance,
    /// Reordering.
    pub reorder: Chance,
    /// Every so-many-th packet is reordered; 0 without reordering.
    pub reorder_gap: u32,
    /// Serialisation packet by packet.
    pub rate: Option<BitRate>,
    /// Delivery in slots.
    pub slots: Option<Slots>,
}

/// Whether a message makes a qdisc or changes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// A new qdisc: what is not said is off.
    Create,
    /// One that is there: what is not said stays, so everything has to be said.
    Change,
}

impl Netem {
    /// The kind as the kernel names it.
    pub const KIND: &'static str = "netem";

    /// The content of `TCA_OPTIONS`: `struct tc_netem_qopt` bare, then attributes.
    pub fn encode(&self, clock: Clock, verb: Verb) -> Vec<u8> {
        let all = verb == Verb::Change;
        let mut w = Writer::default();
        let [loss, duplicate] = [self.loss, self.duplicate].map(|c| c.probability.to_kernel());
        w.words(&[
            clock.ticks(self.delay),
            self.limit,
            loss,
            self.reorder_gap,
            duplicate,
            clock.ticks(self.jitter),
        ]);

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
            // The struct holds p, r, h and 1 - k: h is the delivery while bad.
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
        if all || self.slots.is_some() {
            let slots = self.slots.unwrap_or(Slots {
                min_delay: Span::ZERO,
                max_delay: Span::ZERO,
                packets: None,
                bytes: None,
            });
            let bytes = u32::try_from(slots.bytes.map_or(0, Bytes::get)).unwrap_or(i32::MAX as u32);
            // struct tc_netem_slot: two times in ns, two counts, and the two times of a distribution.
            let mut value = Writer::default();
            value.bytes(&slots.min_delay.as_nanos().to_ne_bytes());
            value.bytes(&slots.max_delay.as_nanos().to_ne_bytes());
            value.words(&[slots.packets.unwrap_or(0), bytes, 0, 0, 0, 0]);
            w.attribute(TCA_NETEM_SLOT, &value.finish());
        }
        // A table cannot be taken back, only replaced: a change says "uniform" by a table, too.
        if self.distribution != Distribution::Uniform || (all && !self.jitter.is_zero()) {
            let table: Vec<u8> =
                distribution::table(self.distribution).into_iter().flat_map(i16::to_ne_bytes).collect();
            w.attribute(TCA_NETEM_DELAY_DIST, &table);
        }
        w.finish()
    }

    /// What the kernel dumps; `None` when it is not that.
    pub fn decode(options: &[u8], clock: Clock) -> Option<Self> {
        let mut head = Reader::new(options.get(..QOPT_BYTES)?);
        let mut next = || head.u32();
        let mut netem = Self { delay: clock.span(next()?), limit: next()?, ..Self::default() };
        netem.loss.probability = Percent::from_kernel(next()?);
        netem.reorder_gap = next()?;
        netem.duplicate.probability = Percent::from_kernel(next()?);
        netem.jitter = clock.span(next()?);
        let mut rate64 = None;
        for (kind, mut value) in Reader::new(&options[QOPT_BYTES..]) {
            let mut percent = || value.u32().map(Percent::from_kernel);
            match kind {
                TCA_NETEM_CORR => {
                    netem.jitter_correlation = percent()?;
                    netem.loss.correlation = percent()?;
                    netem.duplicate.correlation = percent()?;
                }
                TCA_NETEM_REORDER => {
                    netem.reorder = Chance { probability: percent()?, correlation: percent()? };
                }
                TCA_NETEM_CORRUPT => {
                    netem.corrupt = Chance { probability: percent()?, correlation: percent()? };
                }
                TCA_NETEM_LOSS => netem.loss_bursts = decode_loss(value),
                TCA_NETEM_RATE => {
                    let rate = u64::from(value.u32()?);
                    netem.rate = (rate > 0).then(|| bit_rate(rate));
                }
                TCA_NETEM_RATE64 => rate64 = value.u64(),
                TCA_NETEM_LATENCY64 => netem.delay = Span::from_nanos(value.u64()?),
                TCA_NETEM_JITTER64 => netem.jitter = Span::from_nanos(value.u64()?),
                TCA_NETEM_SLOT => netem.slots = decode_slots(value),
                _ => {}
            }
        }
        if let Some(rate) = rate64 {
            netem.rate = Some(bit_rate(rate));
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

fn decode_slots(mut value: Reader<'_>) -> Option<Slots> {
    // The kernel gives "no limit" back as the largest signed number.
    let count = |n: u32| (n != 0 && n != i32::MAX as u32).then_some(n);
    let slots = Slots {
        min_delay: Span::from_nanos(value.u64()?),
        max_delay: Span::from_nanos(value.u64()?),
        packets: count(value.u32()?),
        bytes: count(value.u32()?).map(|n| Bytes::new(n.into())),
    };
    (!slots.max_delay.is_zero()).then_some(slots)
}
