//! Runs one of the user's programs on a host, with this process's standard streams, through the login shell
//! there.
//!
//! The program's output is forwarded, without the preceding output of the login shell's start-up files. On a
//! terminal, the terminal of this process is the standard input of `ssh`. Otherwise the program gets this
//! process's standard input only once it runs, so that no start-up file reads any of it.

use super::{
    shell::{MAX_GREETING_BYTES, is_marker, shown},
    ssh::{ANSWER_LIMIT, SshHost},
};
use crate::lab::Error;
use nix::{
    sys::{
        signal::{Signal, kill},
        termios::{OutputFlags, tcgetattr},
    },
    unistd::Pid,
};
use std::{
    io::{self, BufRead, BufReader, Read, Stdout, Write},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
};

/// The maximum number of bytes to forward in one step.
const CHUNK: usize = 16 << 10;

/// A session on a host, ready to be started.
pub struct HostSession<'a> {
    pub(super) host: SshHost<'a>,
    /// The `ssh`.
    pub(super) command: Command,
    /// The line after which the program's output begins.
    pub(super) marker: String,
    /// Whether the program has a terminal, which is this process's standard input.
    pub(super) terminal: bool,
}

impl HostSession<'_> {
    /// Runs the program and forwards its output. Returns the exit status of `ssh`, which is that of the
    /// program, once it has ended.
    ///
    /// # Errors
    ///
    /// If `ssh` cannot be started, or the login shell does not run the program.
    pub fn run(self) -> Result<ExitStatus, Error> {
        let Self { host, mut command, marker, terminal } = self;
        if !terminal {
            command.stdin(Stdio::piped()).stderr(Stdio::piped());
        }
        let failed = |error| host.failed(format!("cannot run ssh: {error}"));
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(failed)?;
        let (begun, begins) = mpsc::channel();
        let stdout: Box<dyn Write + Send> =
            if terminal { Box::new(TerminalOutput(io::stdout())) } else { Box::new(io::stdout()) };
        let stdout = child.stdout.take().map(|output| pass_on(output, stdout, &marker, Some(begun)));
        let stderr = child.stderr.take().map(|output| pass_on(output, io::stderr(), &marker, None));
        let started = begins.recv_timeout(ANSWER_LIMIT);
        match started {
            Ok(()) => feed(&mut child),
            Err(RecvTimeoutError::Disconnected) => drop(child.stdin.take()),
            Err(RecvTimeoutError::Timeout) => {
                // It restores the terminal. The session on the host may continue.
                let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
                child.wait().map_err(failed)?;
                return Err(host.not_run_in_time(""));
            }
        }
        let status = child.wait().map_err(failed)?;
        let printed = [stdout, stderr]
            .map(|passing| shown(&passing.and_then(|passing| passing.join().ok()).unwrap_or_default()));
        let printed = printed.join("\n").trim().to_owned();
        host.greeted(&printed);
        match started {
            Ok(()) => Ok(status),
            Err(_) => Err(host.not_run(Some(status), &printed)),
        }
    }
}

/// Standard output for lines that end with `\r\n`, like those of a program on a terminal. When `ssh` has
/// ended, some of them may still have to be written to this process's terminal, which then adds `\r` itself.
struct TerminalOutput(Stdout);

impl Write for TerminalOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let adds = OutputFlags::OPOST | OutputFlags::ONLCR;
        if !tcgetattr(&self.0).is_ok_and(|settings| settings.output_flags.contains(adds)) {
            return self.0.write(bytes);
        }
        self.0.write_all(&without_returns(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Returns a text with `\n` for each `\r\n`.
fn without_returns(text: &[u8]) -> Vec<u8> {
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let last = lines.len() - 1;
    let line = |(index, line): (usize, &&'_ [u8])| match line.strip_suffix(b"\r") {
        Some(line) if index < last => line.to_vec(),
        _ => line.to_vec(),
    };
    lines.iter().enumerate().map(line).collect::<Vec<_>>().join(&b'\n')
}

/// Forwards what follows the marker, on a thread of its own, until the input ends or the output is no longer
/// read. Notifies `begun` when the marker has arrived. The thread returns what preceded the marker.
fn pass_on(
    input: impl Read + Send + 'static,
    mut output: impl Write + Send + 'static,
    marker: &str,
    begun: Option<Sender<()>>,
) -> JoinHandle<Vec<u8>> {
    let marker = marker.to_owned();
    thread::spawn(move || {
        let (mut input, mut greeting) = (BufReader::with_capacity(CHUNK, input), Vec::new());
        loop {
            let before = greeting.len();
            let left = MAX_GREETING_BYTES.saturating_sub(before) as u64;
            let read = input.by_ref().take(left).read_until(b'\n', &mut greeting);
            if is_marker(&greeting[before..], &marker) {
                greeting.truncate(before);
                break;
            }
            if !matches!(read, Ok(1..)) {
                return greeting;
            }
        }
        if let Some(begun) = begun {
            let _ = begun.send(());
        }
        while let Ok(bytes @ [_, ..]) = input.fill_buf() {
            let count = bytes.len();
            if output.write_all(bytes).and_then(|()| output.flush()).is_err() {
                break;
            }
            input.consume(count);
        }
        greeting
    })
}

/// Gives a program this process's standard input, on a thread that lives as long as this process. The program
/// has a terminal if its input is not a pipe.
fn feed(program: &mut Child) {
    if let Some(mut input) = program.stdin.take() {
        // It is not an error if the program stops reading.
        thread::spawn(move || io::copy(&mut io::stdin().lock(), &mut input));
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            inventory::Become,
            ssh::{Contacts, HostAccess},
        },
        *,
    };

    #[test]
    fn an_ssh_that_cannot_be_started_is_no_node_that_cannot() {
        let (become_root, contacts) = (Become::None, Contacts::default());
        let access = HostAccess { config: None, become_root, images: None, contacts };
        let (host, command) = (access.host("h1"), Command::new("/nonexistent/ssh"));
        let session = HostSession { host, command, marker: "begun".into(), terminal: false };
        assert_eq!(
            session.run().unwrap_err().to_string(),
            "cannot use host h1: cannot run ssh: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn only_returns_at_the_ends_of_lines_are_left_out() {
        assert_eq!(without_returns(b"a\r\n\r\n10 %\r20 %\nb\r"), b"a\n\n10 %\r20 %\nb\r");
        assert_eq!(without_returns(b""), b"");
    }
}
