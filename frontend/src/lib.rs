//! How the programs face their users: results go to standard output, diagnostics to standard error, and
//! signals that the user wants to be ignored are left alone. Nothing else in the workspace writes to either
//! stream.
//!
//! Text may come from a file, a host or another user. [`Text`] shows its control characters, which would
//! otherwise reach the terminal as commands. A diagnostic that cannot be written is dropped, so that a full
//! device or a closed terminal does not end a program. A result that cannot be written is an error, unless
//! its reader has closed the pipe. A program that works while it prints uses a [`Printer`], so that its
//! output does not hold up or end its work.

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use std::{
    fmt,
    io::{self, Write},
    os::fd::AsFd,
};

mod printer;
mod signals;
mod sys;
mod text;

pub use printer::Printer;
pub use signals::{is_ignored, survive_size_limits, termination_signals};
pub use sys::survive;
pub use text::{Text, one_line};

/// The time for which a program that must end waits for a stream that takes no output, in milliseconds.
const PATIENCE_MS: u16 = 400;

/// Writes results to standard output.
///
/// # Errors
/// If not all of them can be written. A reader that has closed the pipe does not want more, which is not an
/// error.
pub fn print(text: impl Into<Text>) -> io::Result<()> {
    unless_closed(write(&text.into())).map_err(unwritten)
}

fn write(text: &Text) -> io::Result<()> {
    Stdout.write_all(text.as_str().as_bytes())
}

/// The standard output of this process, unbuffered. That of the standard library takes everything for written
/// if the descriptor is not open for writing.
#[derive(Debug)]
pub struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match nix::unistd::write(io::stdout(), bytes) {
                // Another program that has the file open has made it non-blocking.
                Err(Errno::EAGAIN) => drop(takes_output(io::stdout(), PollTimeout::NONE)),
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a diagnostic and a line end to standard error, immediately. Drops the diagnostic if that fails.
pub fn tell(text: impl Into<Text>) {
    let mut line = text.into();
    line += "\n";
    ask(line);
}

/// Does the same as [`tell`], but drops the diagnostic if standard error takes no output for 400 ms: for a
/// program that must go on or end.
pub fn try_tell(text: impl Into<Text>) {
    if takes_diagnostics() {
        tell(text);
    }
}

/// Waits until standard error takes output, for 400 ms at most. Returns whether it does.
pub fn takes_diagnostics() -> bool {
    takes_output(io::stderr(), PollTimeout::from(PATIENCE_MS))
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
        // Writing nothing shows whether the descriptor is open for writing.
        let written = Stdout.write(&[]).and_then(|_| message.print()).and_then(|()| io::stdout().flush());
        return unless_closed(written).map(|()| code).map_err(unwritten);
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

/// Returns whether a stream takes output before the time is over.
fn takes_output(stream: impl AsFd, limit: PollTimeout) -> bool {
    let mut watched = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
    loop {
        match poll(&mut watched, limit) {
            Err(Errno::EINTR) => {}
            // An error shows up when something is written.
            polled => return polled != Ok(0),
        }
    }
}

/// Returns no error if the reader of what was written has closed the pipe: it does not want more.
///
/// # Errors
/// If it could not be written for another reason.
pub fn unless_closed(written: io::Result<()>) -> io::Result<()> {
    written.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
}

fn unwritten(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), Unwritten(error))
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
