//! The wire format of qdisc options, as defined in `linux/pkt_sched.h`.
//!
//! netlink-packet-route does not know tbf, htb and netem, so this module encodes and decodes their
//! `TCA_OPTIONS`: one submodule for each kind, with an `encode` and a `decode`, based on a small writer and
//! reader of netlink attributes. The encoded bytes equal those that iproute2 6.1 sends for the same settings;
//! `tests/golden.rs` checks this. Numbers are in native byte order, as everywhere in rtnetlink.

pub mod distribution;
pub mod fifo;
pub mod htb;
pub mod netem;
pub mod psched;
pub mod tbf;

/// The attribute with the options of a qdisc or class.
pub(crate) const TCA_OPTIONS: u16 = 2;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// A writer of netlink attributes.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// Appends words without an attribute header, for the fields of a kernel struct.
    pub(crate) fn words(&mut self, words: &[u32]) -> &mut Self {
        for word in words {
            self.0.extend(word.to_ne_bytes());
        }
        self
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend(bytes);
        self
    }

    /// Appends one attribute, padded to 4 bytes. The value must not exceed 65531 bytes.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.0.extend((value.len() as u16 + 4).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn attribute_words(&mut self, kind: u16, words: &[u32]) -> &mut Self {
        let mut value = Self::default();
        value.words(words);
        self.attribute(kind, &value.0)
    }

    pub(crate) fn nested(&mut self, kind: u16, build: impl FnOnce(&mut Self)) -> &mut Self {
        let mut value = Self::default();
        build(&mut value);
        self.attribute(kind | NLA_F_NESTED, &value.0)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// A reader of numbers and attributes in a message from the kernel. Every method returns `None` past the end.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_ne_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_ne_bytes)
    }

    /// Returns the rest of the message, cut before the zero byte that ends a text.
    pub(crate) fn text(&self) -> &'a [u8] {
        self.0.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    pub(crate) fn advance(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.get(bytes..)?;
        Some(())
    }
}

impl<'a> Iterator for Reader<'a> {
    /// The type of an attribute, without flags, and its value.
    type Item = (u16, Reader<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.array()?));
        let kind = u16::from_ne_bytes(self.array()?) & NLA_TYPE_MASK;
        let value = self.0.get(..length.checked_sub(4)?)?;
        self.0 = self.0.get(value.len().next_multiple_of(4)..).unwrap_or_default();
        Some((kind, Reader(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_read_back() {
        let mut w = Writer::default();
        w.attribute(7, &[1, 2, 3]).nested(9, |w| {
            w.attribute_words(1, &[5]);
        });
        let bytes = w.finish();
        assert_eq!(bytes.len(), 8 + 4 + 8);
        let mut r = Reader::new(&bytes);
        let (kind, value) = r.next().unwrap();
        assert_eq!((kind, value.0), (7, &[1u8, 2, 3][..]));
        let (kind, mut nested) = r.next().unwrap();
        assert_eq!(kind, 9);
        assert_eq!(nested.next().unwrap().1.u32(), Some(5));
        assert!(r.next().is_none());
    }

    #[test]
    fn reading_stops_at_a_truncated_attribute() {
        for bytes in
            [&[][..], &[8], &[8, 0, 1], &[8, 0, 1, 0], &[3, 0, 1, 0], &[0, 0, 1, 0], &[9, 0, 1, 0, 1, 2]]
        {
            assert!(Reader::new(bytes).next().is_none(), "{bytes:?}");
        }
    }
}
