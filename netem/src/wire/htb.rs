//! `htb`: a hierarchy of token buckets, of which a link needs one class.

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
/// The version of the interface, and how rates become quanta where none is given (`r2q`).
const PROTOCOL: u32 = 3;
const RATE_TO_QUANTUM: u32 = 10;

/// Settings of an `htb` qdisc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Htb {
    /// The minor number of the class that unclassified packets go to.
    pub default_class: u32,
}

/// Settings of a class of it. Its ceiling equals its rate: there is nobody to borrow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct HtbClass {
    /// The rate, in whole bytes per second.
    pub rate: BitRate,
    /// The depth of the bucket. The kernel keeps it as a time in ticks.
    pub burst: Bytes,
    /// What one class may send before the next one's turn.
    pub quantum: Bytes,
}

impl Htb {
    /// The kind as the kernel names it, of the qdisc and of its classes.
    pub const KIND: &'static str = "htb";

    /// The content of `TCA_OPTIONS`: `struct tc_htb_glob`.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.attribute_words(TCA_HTB_INIT, &[PROTOCOL, RATE_TO_QUANTUM, self.default_class, 0, 0]);
        w.finish()
    }

    /// What the kernel dumps; `None` when it is not that.
    pub fn decode(options: &[u8]) -> Option<Self> {
        let (_, mut value) = Reader::new(options).find(|(kind, _)| *kind == TCA_HTB_INIT)?;
        value.advance(8)?;
        Some(Self { default_class: value.u32()? })
    }
}

impl HtbClass {
    /// The content of `TCA_OPTIONS`: `struct tc_htb_opt` (rate, ceiling, their buckets in ticks, quantum,
    /// level, priority), rates in 64 bits where 32 do not hold them, and the tables of times.
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

    /// What the kernel dumps; `None` when it is not that.
    pub fn decode(options: &[u8], clock: Clock) -> Option<Self> {
        let (mut parameters, mut rate64) = (None, None);
        for (kind, mut value) in Reader::new(options) {
            match kind {
                TCA_HTB_PARMS => {
                    value.advance(8)?;
                    let rate = u64::from(value.u32()?);
                    value.advance(12)?;
                    let bucket = value.u32()?;
                    value.advance(4)?;
                    parameters = Some((rate, bucket, value.u32()?));
                }
                TCA_HTB_RATE64 => rate64 = value.u64(),
                _ => {}
            }
        }
        let (rate, bucket, quantum) = parameters?;
        let rate = rate64.unwrap_or(rate);
        Some(Self {
            rate: bit_rate(rate),
            burst: Bytes::new(clock.transmitted_bytes(rate, bucket)),
            quantum: Bytes::new(quantum.into()),
        })
    }
}
