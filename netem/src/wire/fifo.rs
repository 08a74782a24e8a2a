//! `bfifo`: a queue limited in bytes, the leaf under an htb class.

use super::{Reader, Writer};
use serde::Serialize;
use units::Bytes;

/// Settings of a `bfifo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bfifo {
    /// How much it holds.
    pub limit: Bytes,
}

impl Bfifo {
    /// The kind as the kernel names it.
    pub const KIND: &'static str = "bfifo";

    /// `struct tc_fifo_qopt`.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.words(&[u32::try_from(self.limit.get()).unwrap_or(u32::MAX)]);
        w.finish()
    }

    /// What the kernel dumps; `None` when it is not that.
    pub fn decode(options: &[u8]) -> Option<Self> {
        Some(Self { limit: Bytes::new(Reader::new(options).u32()?.into()) })
    }
}
