//! `bfifo`: a queue with a limit in bytes, used as the leaf under an htb class.

use super::{Reader, Writer};
use serde::Serialize;
use units::Bytes;

/// The settings of a `bfifo` qdisc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bfifo {
    /// The capacity of the queue; at most 2^32 - 1 bytes.
    pub limit: Bytes,
}

impl Bfifo {
    /// The kind as the kernel names it (`TCA_KIND`).
    pub const KIND: &'static str = "bfifo";

    /// Returns the content of `TCA_OPTIONS`: `struct tc_fifo_qopt`.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.words(&[u32::try_from(self.limit.get()).unwrap_or(u32::MAX)]);
        w.finish()
    }

    /// Decodes `TCA_OPTIONS` as the kernel dumps it; `None` if it is malformed.
    pub fn decode(options: &[u8]) -> Option<Self> {
        Some(Self { limit: Bytes::new(Reader::new(options).u32()?.into()) })
    }
}
