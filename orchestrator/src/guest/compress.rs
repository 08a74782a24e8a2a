//! Undoes the compression that some distributions put on kernel modules.
//!
//! What a file is compressed with is read from its first bytes, not from its name.

use std::io::{self, Read};

/// The bytes a compressed file stands for; bytes that are not compressed, as they are.
///
/// # Errors
/// When the compressed bytes are damaged or cut short.
pub(super) fn decompress(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    match bytes.as_slice() {
        [0x1f, 0x8b, ..] => {
            flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut plain)?;
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            lzma_rust2::XzReader::new(bytes.as_slice(), true).read_to_end(&mut plain)?;
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            ruzstd::decoding::StreamingDecoder::new(bytes.as_slice())
                .map_err(io::Error::other)?
                .read_to_end(&mut plain)?;
        }
        _ => return Ok(bytes),
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{gzip, xz, zstd};
    use super::*;

    fn content() -> Vec<u8> {
        (0..100_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
    }

    #[test]
    fn each_format_is_recognized() {
        for packed in [gzip(&content()), xz(&content()), zstd(&content())] {
            assert!(packed.len() < content().len());
            assert_eq!(decompress(packed).unwrap(), content());
        }
        assert_eq!(decompress(content()).unwrap(), content());
    }

    #[test]
    fn a_file_cut_short_is_an_error() {
        for mut packed in [gzip(&content()), xz(&content()), zstd(&content())] {
            packed.truncate(packed.len() / 2);
            assert!(decompress(packed).is_err());
        }
    }
}
