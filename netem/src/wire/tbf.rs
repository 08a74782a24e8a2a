//! `tbf`: a token bucket with a queue, the default shaper.

use super::{
    Reader, Writer,
    psched::{Clock, bit_rate, needs_64_bits, ratespec},
};
use serde::Serialize;
use units::{BitRate, Bytes};

const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RTAB: u16 = 2;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;

/// The settings of a `tbf` qdisc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Tbf {
    /// The rate at which tokens arrive, rounded down to whole bytes per second.
    pub rate: BitRate,
    /// The depth of the bucket. The kernel reports it as a time in ticks, so it is read back with an error of
    /// up to the bytes that the rate sends in 64 ns.
    pub burst: Bytes,
    /// The capacity of the queue; at most 2^32 - 1 bytes.
    pub limit: Bytes,
}

impl Tbf {
    /// The kind as the kernel names it (`TCA_KIND`).
    pub const KIND: &'static str = "tbf";

    /// Returns the content of `TCA_OPTIONS`: `struct tc_tbf_qopt` (rate, peak rate, limit, bucket in ticks,
    /// MTU of the peak rate), the bucket in bytes, the rate in 64 bits if 32 are not enough, and the table of
    /// transmission times.
    pub fn encode(&self, clock: Clock) -> Vec<u8> {
        let rate = self.rate.to_byte_rate().get();
        let word = |bytes: Bytes| u32::try_from(bytes.get()).unwrap_or(u32::MAX);
        let mut parameters = Writer::default();
        ratespec(&mut parameters, rate);
        parameters.words(&[0; 3]);
        // As iproute2 does, this uses the rate clamped to 32 bits, so it is wrong for higher rates. The
        // kernel uses TCA_TBF_BURST.
        let bucket = clock.transmission_ticks(rate.min(u32::MAX.into()), self.burst.get());
        parameters.words(&[word(self.limit), bucket, 0]);

        let mut w = Writer::default();
        w.attribute(TCA_TBF_PARMS, &parameters.finish());
        w.attribute_words(TCA_TBF_BURST, &[word(self.burst)]);
        if needs_64_bits(rate) {
            w.attribute(TCA_TBF_RATE64, &rate.to_ne_bytes());
        }
        w.attribute_words(TCA_TBF_RTAB, &clock.rate_table(rate));
        w.finish()
    }

    /// Decodes `TCA_OPTIONS` as the kernel dumps it; `None` if it is malformed, or if it has a peak rate.
    pub fn decode(options: &[u8], clock: Clock) -> Option<Self> {
        let (mut rate, mut limit, mut ticks) = (None, None, None);
        let mut rate64 = None;
        for (kind, mut value) in Reader::new(options) {
            match kind {
                TCA_TBF_PARMS => {
                    value.advance(8)?;
                    rate = Some(u64::from(value.u32()?));
                    value.advance(8)?;
                    (value.u32()? == 0).then_some(())?;
                    limit = Some(value.u32()?);
                    ticks = Some(value.u32()?);
                }
                TCA_TBF_RATE64 => rate64 = value.u64(),
                _ => {}
            }
        }
        let rate = rate64.or(rate)?;
        Some(Self {
            rate: bit_rate(rate),
            burst: Bytes::new(clock.transmitted_bytes(rate, ticks?)),
            limit: Bytes::new(limit?.into()),
        })
    }
}
