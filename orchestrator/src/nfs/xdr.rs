//! The encoding of remote procedure calls: XDR (RFC 4506).

/// A message that does not have the form of its protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Garbage;

/// Reads values from a received message. It returns parts of the message without allocating.
#[derive(Debug, Clone)]
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self(message)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Garbage> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Garbage)?;
        self.0 = rest;
        Ok(taken)
    }

    /// Reads a fixed number of bytes, a multiple of four.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Garbage> {
        self.take(N)?.try_into().map_err(|_| Garbage)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Garbage> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Garbage> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn bool(&mut self) -> Result<bool, Garbage> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Garbage),
        }
    }

    /// Reads a value that may be absent.
    pub(super) fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Garbage>,
    ) -> Result<Option<T>, Garbage> {
        if self.bool()? { read(self).map(Some) } else { Ok(None) }
    }

    /// Reads a variable number of bytes, at most `most`.
    pub(super) fn opaque(&mut self, most: usize) -> Result<&'a [u8], Garbage> {
        let len = usize::try_from(self.u32()?).map_err(|_| Garbage)?;
        if len > most {
            return Err(Garbage);
        }
        let bytes = self.take(len)?;
        self.take(padding(len))?;
        Ok(bytes)
    }
}

/// Returns the number of bytes needed to reach a multiple of four.
fn padding(len: usize) -> usize {
    len.wrapping_neg() % 4
}

/// Appends values to a message.
pub(super) struct Output<'a>(pub(super) &'a mut Vec<u8>);

impl Output<'_> {
    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn bool(&mut self, value: bool) -> &mut Self {
        self.u32(value.into())
    }

    /// Appends a fixed number of bytes, a multiple of four.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends a variable number of bytes.
    pub(super) fn opaque(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(bytes.len() as u32).bytes(bytes);
        self.pad(bytes.len())
    }

    /// Appends the bytes that `fill` writes into a buffer of `most` bytes, as a variable number of bytes.
    /// `fill` returns how many it has written. If it fails, nothing is appended.
    pub(super) fn filled<E>(
        &mut self,
        most: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let start = self.0.len();
        self.0.resize(start + 4 + most, 0);
        match fill(&mut self.0[start + 4..]) {
            Ok(len) => {
                self.0[start..start + 4].copy_from_slice(&(len as u32).to_be_bytes());
                self.0.truncate(start + 4 + len);
                self.pad(len);
                Ok(len)
            }
            Err(error) => {
                self.0.truncate(start);
                Err(error)
            }
        }
    }

    fn pad(&mut self, len: usize) -> &mut Self {
        self.bytes(&[0; 3][..padding(len)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut message = Vec::new();
        let mut out = Output(&mut message);
        out.u32(7).u64(1 << 40).bool(true).opaque(b"disk5").bytes(b"abcd");
        assert_eq!(
            out.filled(100, |buffer| Ok::<_, ()>({
                buffer[..3].copy_from_slice(b"xyz");
                3
            })),
            Ok(3)
        );
        assert_eq!(out.filled(100, |_| Err("no")), Err("no"));
        assert_eq!(message.len(), 4 + 8 + 4 + 12 + 4 + 8);
        let mut input = Input::new(&message);
        assert_eq!((input.u32(), input.u64(), input.bool()), (Ok(7), Ok(1 << 40), Ok(true)));
        assert_eq!((input.opaque(5), input.array()), (Ok(&b"disk5"[..]), Ok(*b"abcd")));
        assert_eq!((input.opaque(3), input.u32()), (Ok(&b"xyz"[..]), Err(Garbage)));
    }

    #[test]
    fn a_length_that_the_message_does_not_have_is_garbage() {
        for (len, has) in [(u32::MAX, 8), (9, 8), (5, 5)] {
            let message = [&len.to_be_bytes()[..], &vec![0; has]].concat();
            assert_eq!(Input::new(&message).opaque(usize::MAX), Err(Garbage), "{len} of {has}");
        }
        assert_eq!(Input::new(&[0, 0, 0, 2]).bool(), Err(Garbage));
        assert_eq!(Input::new(&[0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]).opaque(7), Err(Garbage));
    }
}
