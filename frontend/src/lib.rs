//! How the programs face their users: results go to standard output, diagnostics to standard error, and
//! signals that the user wants to be ignored are left alone. Nothing else in the workspace writes to either
//! stream.
//!
//! Text may come from a file, a host or another user. [`Text`] shows its control characters, which would
//! otherwise reach the terminal as commands. A diagnostic that cannot be written is dropped, so that a full
//! device or a closed terminal does not end a program. A result that cannot be written is an error, unless
//! its reader has closed the pipe.

use std::{
    fmt,
    io::{self, Write},
};

mod signals;
mod text;

pub use signals::{is_ignored, termination_signals};
pub use text::{Text, one_line};

/// Writes results to standard output.
///
/// # Errors
/// If not all of them can be written. A reader that has closed the pipe does not want more, which is not an
/// error.
pub fn print(text: impl Into<Text>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.into().as_str().as_bytes()).and_then(|()| stdout.flush());
    unless_closed(written)
}

/// Writes a diagnostic and a line end to standard error, immediately. Drops the diagnostic if that fails.
pub fn tell(text: impl Into<Text>) {
    let mut line = text.into();
    line += "\n";
    ask(line);
}

/// Does the same as [`tell`], without the line end: for a question.
pub fn ask(text: impl Into<Text>) {
    let _ = io::stderr().lock().write_all(text.into().as_str().as_bytes());
}

/// Writes the message of a command line's parser: an error, or the requested help or version. Returns the
/// program's exit code.
///
/// # Errors
/// If the help or the version cannot be written, see [`print()`].
pub fn parser(message: &clap::Error) -> io::Result<u8> {
    let code = u8::try_from(message.exit_code()).unwrap_or(2);
    if !message.use_stderr() {
        return unless_closed(message.print().and_then(|()| io::stdout().flush())).map(|()| code);
    }
    let plain = message.render().to_string();
    let visible = Text::from(plain.as_str());
    // An argument with control characters is shown without colors.
    if visible.as_str() == plain {
        let _ = message.print();
    } else {
        ask(visible);
    }
    Ok(code)
}

fn unless_closed(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), Unwritten(error))),
        Ok(()) => Ok(()),
    }
}

/// The reason why results could not be written.
#[derive(Debug)]
struct Unwritten(io::Error);

impl fmt::Display for Unwritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot write to standard output: {}", self.0)
    }
}

impl std::error::Error for Unwritten {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}
