//! Compressed markup, which the script puts into its place when it is needed. What many attempts have in
//! common, which is most of the markup of a small timeline, then takes hardly any space.

use data_encoding::BASE64;
use flate2::{Compression, write::DeflateEncoder};
use frontend::Text;
use maud::Markup;
use std::io::{self, Write as _};

/// The number of pieces that are compressed and unpacked together.
pub(super) const BLOCK: usize = 50;

/// The separator of pieces. It never occurs within a piece, because control characters are shown as other
/// characters.
const SEPARATOR: &str = "\u{1e}";

/// Returns pieces of markup, separated, compressed with DEFLATE, in base64.
pub(super) fn pack(pieces: &[Markup]) -> io::Result<String> {
    let pieces: Vec<String> = pieces.iter().map(|piece| Text::from(piece.0.as_str()).to_string()).collect();
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(pieces.join(SEPARATOR).as_bytes())?;
    Ok(BASE64.encode(&encoder.finish()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::DeflateDecoder;
    use maud::html;
    use std::io::Read as _;

    #[test]
    fn pieces_are_separated_whatever_they_contain() {
        let packed = pack(&[html! { p { "a\u{1e}b" } }, html! { p { "c" } }]).unwrap();
        let mut text = String::new();
        DeflateDecoder::new(&BASE64.decode(packed.as_bytes()).unwrap()[..])
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text.split(SEPARATOR).collect::<Vec<_>>(), ["<p>a␞b</p>", "<p>c</p>"]);
    }
}
