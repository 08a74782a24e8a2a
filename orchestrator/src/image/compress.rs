//! Decompresses kernels, and the kernel modules of distributions that compress them.
//!
//! The format is recognized by the first bytes, not by the name of the file.

use crate::bounded::{self, too_long};
use std::io::{self, Read};

/// The maximum memory for decompressing xz and lzma, in KiB: a file names the size of the dictionary, up to
/// 4 GiB. Linux's build uses at most 128 MiB (`scripts/xz_wrap.sh`), and `xz -9` 64 MiB.
const LZMA_MEMORY_KIB: u32 = 256 << 10;

/// A compression format that the Linux kernel's build supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Gzip,
    Xz,
    /// The format that `lzma` writes, the predecessor of xz. It has no magic bytes; [`Format::of`] compares
    /// the first bytes of its header, which are always the same.
    Lzma,
    Zstd,
    /// The legacy LZ4 format, which `lz4 -l` writes; kernels use no other LZ4 format.
    Lz4,
}

impl Format {
    /// Recognizes the format of these bytes. Returns `None` for bytes that are not compressed.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x5d, 0, 0, ..] => Some(Self::Lzma),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            [0x02, 0x21, 0x4c, 0x18, ..] => Some(Self::Lz4),
            _ => None,
        }
    }

    /// Decompresses bytes of this format.
    ///
    /// # Errors
    /// If they are damaged or truncated, or are more than `limit` bytes when decompressed.
    pub(super) fn decompress(self, bytes: &[u8], limit: usize) -> io::Result<Vec<u8>> {
        let all = |input: &mut dyn Read| bounded::read_all(input, limit, CONTENT);
        match self {
            Self::Gzip => all(&mut flate2::read::MultiGzDecoder::new(bytes)),
            Self::Xz => all(&mut lzma_rust2::XzReader::new_mem_limit(bytes, true, LZMA_MEMORY_KIB)),
            Self::Lzma => all(&mut lzma_rust2::LzmaReader::new_mem_limit(bytes, LZMA_MEMORY_KIB, None)?),
            Self::Zstd => all(&mut ruzstd::decoding::StreamingDecoder::new(bytes).map_err(io::Error::other)?),
            Self::Lz4 => lz4(bytes, limit),
        }
    }
}

/// What exceeds a limit, in messages.
const CONTENT: &str = "its content";

/// Decompresses the legacy LZ4 format: the magic bytes, then independent blocks, each preceded by its length.
fn lz4(bytes: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    /// The maximum size of a decompressed block, in bytes.
    const BLOCK: usize = 8 << 20;
    let mut plain = Vec::new();
    let mut rest = &bytes[4..];
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
        let (block, after) = usize::try_from(u32::from_le_bytes(*length))
            .ok()
            .and_then(|length| after.split_at_checked(length))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let start = plain.len();
        plain.resize(start + BLOCK, 0);
        let length =
            lz4_flex::block::decompress_into(block, &mut plain[start..]).map_err(io::Error::other)?;
        plain.truncate(start + length);
        if plain.len() > limit {
            return Err(too_long(CONTENT, limit));
        }
        rest = after;
    }
    Ok(plain)
}

/// Decompresses the content of a file. Bytes that are not compressed are returned unchanged.
///
/// # Errors
/// If the compressed bytes are damaged or truncated, or are more than `limit` bytes when decompressed.
pub(super) fn decompress(bytes: Vec<u8>, limit: usize) -> io::Result<Vec<u8>> {
    match Format::of(&bytes) {
        Some(format) => format.decompress(&bytes, limit),
        None => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{COMPRESSORS, lz4};
    use super::*;

    const LIMIT: usize = 400_000;

    fn content() -> Vec<u8> {
        (0..100_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
    }

    fn compressed(format: Format) -> Vec<u8> {
        let (_, compress) = COMPRESSORS.into_iter().find(|(candidate, _)| *candidate == format).unwrap();
        compress(&content())
    }

    #[test]
    fn each_format_is_recognized() {
        for (format, compress) in COMPRESSORS {
            let packed = compress(&content());
            assert!(packed.len() < content().len());
            assert_eq!(Format::of(&packed), Some(format));
            assert_eq!(decompress(packed, LIMIT).unwrap(), content());
        }
        assert_eq!(decompress(content(), LIMIT).unwrap(), content());
    }

    #[test]
    fn a_truncated_file_is_an_error() {
        for (format, compress) in COMPRESSORS {
            let mut packed = compress(&content());
            packed.truncate(packed.len() / 2);
            assert!(decompress(packed, LIMIT).is_err(), "{format:?}");
        }
    }

    #[test]
    fn content_beyond_the_limit_is_an_error() {
        for (format, compress) in COMPRESSORS {
            let error = decompress(compress(&content()), LIMIT - 1).unwrap_err();
            assert_eq!(error.to_string(), "its content is longer than 399999 bytes", "{format:?}");
        }
    }

    #[test]
    fn a_dictionary_beyond_the_limit_is_an_error() {
        let mut lzma = compressed(Format::Lzma);
        lzma[3..5].fill(0xff);
        let mut xz = compressed(Format::Xz);
        // The first block's header begins after 12 bytes, and ends with its CRC.
        let (start, end) = (12, 12 + 4 * usize::from(xz[12]));
        // The filter LZMA2 has one byte of properties, the size of its dictionary.
        let filter = start + xz[start..end].windows(2).position(|bytes| bytes == [0x21, 1]).unwrap();
        xz[filter + 2] = 40;
        let mut crc = flate2::Crc::new();
        crc.update(&xz[start..end]);
        xz[end..end + 4].copy_from_slice(&crc.sum().to_le_bytes());
        for packed in [lzma, xz] {
            let error = decompress(packed, LIMIT).unwrap_err();
            assert!(error.to_string().contains("memory too big"), "{error}");
        }
    }

    #[test]
    fn a_damaged_length_of_an_lz4_block_is_an_error() {
        let mut packed = lz4(&content());
        packed[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(decompress(packed, LIMIT).is_err());
        let mut packed = lz4(&content());
        packed.extend([1, 0]);
        assert!(decompress(packed, LIMIT).is_err());
    }
}
