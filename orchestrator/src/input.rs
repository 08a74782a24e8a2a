//! Files that the user names. `-` stands for standard input.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Mutex,
};

/// The name of a file that stands for standard input.
pub const STDIN: &str = "-";

/// The largest size of a file: several times that of a matrix with 100,000 cells.
const MAX_BYTES: u64 = 64 << 20;

/// Reads a file, or standard input for [`STDIN`]. Returns its text, and its name for messages.
pub fn read(path: &Path) -> (io::Result<String>, PathBuf) {
    if path == Path::new(STDIN) {
        (read_stdin(), "<stdin>".into())
    } else {
        (File::open(path).and_then(read_bounded), path.into())
    }
}

/// Reads a text to its end, unless it is too large or endless.
fn read_bounded(input: impl Read) -> io::Result<String> {
    let mut text = String::new();
    input.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 64 MiB"));
    }
    Ok(text)
}

/// Returns the text of standard input, which can be read only once. A command that needs it again gets the
/// same text.
fn read_stdin() -> io::Result<String> {
    static TEXT: Mutex<Option<String>> = Mutex::new(None);
    let mut text = TEXT.lock().unwrap();
    if text.is_none() {
        *text = Some(read_bounded(io::stdin())?);
    }
    Ok(text.clone().unwrap_or_default())
}
