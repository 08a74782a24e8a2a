//! Files that the user names. `-` stands for standard input.

use crate::bounded::{FILE_BYTES, read_text};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Mutex,
};

/// The name of a file that stands for standard input.
pub const STDIN: &str = "-";

/// Reads a file of at most [`FILE_BYTES`], or standard input for [`STDIN`]. Returns its text, and its name
/// for messages.
pub fn read(path: &Path) -> (io::Result<String>, PathBuf) {
    if path == Path::new(STDIN) {
        (read_stdin(), "<stdin>".into())
    } else {
        (File::open(path).and_then(|file| read_text(file, FILE_BYTES)), path.into())
    }
}

/// Returns the text of standard input, which can be read only once. A command that needs it again gets the
/// same text.
fn read_stdin() -> io::Result<String> {
    static TEXT: Mutex<Option<String>> = Mutex::new(None);
    let mut text = TEXT.lock().unwrap();
    if text.is_none() {
        *text = Some(read_text(io::stdin(), FILE_BYTES)?);
    }
    Ok(text.clone().unwrap_or_default())
}
