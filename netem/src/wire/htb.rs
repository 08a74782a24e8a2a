//! `htb`: a hierarchy of token buckets. A link needs one class of it.

use super::{
    Reader, Writer,
    psched::{Clock, bit_rate, needs_64_bits, ratespec},
};
use serde::Serialize;
use units::{BitRate, Bytes};

const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;
const TCA_HTB_CTAB: u16 = 3;
const TCA_HTB_RTAB: u16 = 4;
const TCA_HTB_RATE64: u16 = 6;
const TCA_HTB_CEIL64: u16 = 7;
/// The version of the kernel's htb interface.
const PROTOCOL: u32 = 3;
/// The divisor that derives a quantum from a rate if no quantum is given (`r2q`); iproute2's default.
const RATE_TO_QUANTUM: u32 = 10;

/// The settings of an `htb` qdisc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Htb {
    /// The minor number of the class for unclassified packets, here all packets.
    pub default_class: u32,
}

/// The settings of an `htb` class. Its ceiling equals its rate, because there is no other class from which to
/// borrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct HtbClass {
    /// The rate, rounded down to whole bytes per second.
    pub rate: BitRate,
    /// The depth of the bucket. The kernel stores it as a time in ticks.
    pub burst: Bytes,
    /// The bytes that a class may send before it is the next class's turn.
    pub quantum: Bytes,
}

impl Htb {
    /// The kind as the kernel names it (`TCA_KIND`), of the qdisc and of its classes.
    pub const KIND: &'static str = "htb";

    /// Returns the content of `TCA_OPTIONS`: `struct tc_htb_glob`.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.attribute_words(TCA_HTB_INIT, &[PROTOCOL, RATE_TO_QUANTUM, self.default_class, 0, 0]);
        w.finish()
    }

    /// Decodes `TCA_OPTIONS` as the kernel dumps it; `None` if it is malformed.
    pub fn decode(options: &[u8]) -> Option<Self> {
        let (_, mut value) = Reader::new(options).find(|(kind, _)| *kind == TCA_HTB_INIT)?;
        value.advance(8)?;
        Some(Self { default_class: value.u32()? })
    }
}

impl HtbClass {
    /// Returns the content of `TCA_OPTIONS`: `struct tc_htb_opt` (rate, ceiling, their buckets in ticks,
    /// quantum, level, priority), the rates in 64 bits if 32 are not enough, and the tables of transmission
    /// times.
    pub fn encode(&self, clock: Clock) -> Vec<u8> {
        let rate = self.rate.to_byte_rate().get();
        let bucket = clock.transmission_ticks(rate, self.burst.get());
        let quantum = u32::try_from(self.quantum.get()).unwrap_or(u32::MAX);
        let mut parameters = Writer::default();
        ratespec(&mut parameters, rate);
        ratespec(&mut parameters, rate);
        parameters.words(&[bucket, bucket, quantum, 0, 0]);

        let mut w = Writer::default();
        if needs_64_bits(rate) {
            w.attribute(TCA_HTB_RATE64, &rate.to_ne_bytes());
            w.attribute(TCA_HTB_CEIL64, &rate.to_ne_bytes());
        }
        let table = clock.rate_table(rate);
        w.attribute(TCA_HTB_PARMS, &parameters.finish());
        w.attribute_words(TCA_HTB_RTAB, &table);
        w.attribute_words(TCA_HTB_CTAB, &table);
        w.finish()
    }

    /// Decodes `TCA_OPTIONS` as the kernel dumps it; `None` if it is malformed, or if the ceiling is not the
    /// rate.
    pub fn decode(options: &[u8], clock: Clock) -> Option<Self> {
        let (mut parameters, mut rate64, mut ceil64) = (None, None, None);
        for (kind, mut value) in Reader::new(options) {
            match kind {
                TCA_HTB_PARMS => {
                    value.advance(8)?;
                    let rate = u64::from(value.u32()?);
                    value.advance(8)?;
                    let ceil = u64::from(value.u32()?);
                    let bucket = value.u32()?;
                    value.advance(4)?;
                    parameters = Some((rate, ceil, bucket, value.u32()?));
                }
                TCA_HTB_RATE64 => rate64 = value.u64(),
                TCA_HTB_CEIL64 => ceil64 = value.u64(),
                _ => {}
            }
        }
        let (rate, ceil, bucket, quantum) = parameters?;
        let rate = rate64.unwrap_or(rate);
        (ceil64.unwrap_or(ceil) == rate).then_some(())?;
        Some(Self {
            rate: bit_rate(rate),
            burst: Bytes::new(clock.transmitted_bytes(rate, bucket)),
            quantum: Bytes::new(quantum.into()),
        })
    }
}
