//! Reads lines, files and the output of programs up to a limit, so that endless input ends in an error and
//! not in exhausted memory.

use nix::{
    fcntl::OFlag,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use std::{
    fs::File,
    io::{self, BufRead, Read},
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::Path,
    process::{Command, Output, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// The maximum length of a line between the orchestrator and a node.
pub const NODE_LINE_BYTES: usize = 32 * MIB;

/// The maximum length of a line from QEMU's monitor or from the guest. A node forwards it within a line of
/// its own, which is up to six times as long. QEMU's longest answer, to `query-qmp-schema`, has a third of a
/// MiB.
pub const CHANNEL_LINE_BYTES: usize = 4 * MIB;

/// The maximum output of a program that is read as a whole.
pub const OUTPUT_BYTES: usize = 16 * MIB;

/// The maximum size of a file written by the user.
pub const FILE_BYTES: usize = 16 * MIB;

const MIB: usize = 1 << 20;

/// Returns the error for `what`, for example "a line", that exceeds its limit.
pub(crate) fn too_long(what: &str, limit: usize) -> io::Error {
    let limit = if limit >= MIB { format!("{} MiB", limit / MIB) } else { format!("{limit} bytes") };
    io::Error::new(io::ErrorKind::FileTooLarge, format!("{what} is longer than {limit}"))
}

/// Reads a line into `line`, replacing its content, without the line terminator. Returns false at the end of
/// the input.
///
/// # Errors
/// Those of the input, and a line of more than `limit` bytes.
pub async fn read_line(
    input: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    limit: usize,
) -> io::Result<bool> {
    line.clear();
    let read = (&mut *input).take(limit as u64 + 1).read_until(b'\n', line).await?;
    finish_line(line, read, limit)
}

/// Does the same as [`read_line`] with an input that blocks.
pub fn read_line_blocking(input: &mut impl BufRead, line: &mut Vec<u8>, limit: usize) -> io::Result<bool> {
    line.clear();
    let read = input.by_ref().take(limit as u64 + 1).read_until(b'\n', line)?;
    finish_line(line, read, limit)
}

fn finish_line(line: &mut Vec<u8>, read: usize, limit: usize) -> io::Result<bool> {
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if read > limit {
        return Err(too_long("a line", limit));
    }
    Ok(read > 0)
}

/// Reads all of a text.
///
/// # Errors
/// Those of the input, a text of more than `limit` bytes, and one that is not UTF-8.
pub fn read_text(input: impl Read, limit: usize) -> io::Result<String> {
    as_text(read_all(input, limit, "the text")?)
}

/// Opens a regular file for reading.
///
/// # Errors
/// Those of the system, and anything else than a regular file: a pipe may never get a writer.
pub fn open_file(path: &Path) -> io::Result<File> {
    regular(File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?)
}

/// Returns an open file, or an error if it is anything but a regular file. It should have been opened with
/// `O_NONBLOCK`, so that opening a pipe does not wait.
pub fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Reads all of a regular file.
///
/// # Errors
/// Those of [`open_file`], and a file of more than `limit` bytes.
pub fn read_file(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    read_all(open_file(path)?, limit, "the file")
}

/// Reads all of a regular file that has a text.
///
/// # Errors
/// Those of [`read_file`], and a text that is not UTF-8.
pub fn read_text_file(path: &Path, limit: usize) -> io::Result<String> {
    as_text(read_file(path, limit)?)
}

fn as_text(bytes: Vec<u8>) -> io::Result<String> {
    let not_text = |_| io::Error::new(io::ErrorKind::InvalidData, "stream did not contain valid UTF-8");
    String::from_utf8(bytes).map_err(not_text)
}

/// Reads all of `what`, for example "the file".
///
/// # Errors
/// Those of the input, and more than `limit` bytes.
pub fn read_all(input: impl Read, limit: usize, what: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit { Err(too_long(what, limit)) } else { Ok(bytes) }
}

/// Runs a program without input and returns its output.
///
/// # Errors
/// If it cannot be started, or if it writes more than [`OUTPUT_BYTES`], after which it is killed.
pub fn output(command: &mut Command) -> io::Result<Output> {
    run(command, None)
}

/// Does the same as [`output`] with a program that is killed after this time, with all that it has started in
/// its process group. That is an error too.
pub fn output_within(command: &mut Command, limit: Duration) -> io::Result<Output> {
    run(command.process_group(0), Some(limit))
}

fn run(command: &mut Command, limit: Option<Duration>) -> io::Result<Output> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pipes = (child.stdout.take(), child.stderr.take());
    let (Some(stdout), Some(stderr)) = pipes else { return Err(io::ErrorKind::BrokenPipe.into()) };
    // It has not been waited for, so its PID is still its own.
    let (pid, (read, all_is_read)) = (Pid::from_raw(child.id().cast_signed()), mpsc::channel::<()>());
    let is_late = move |limit: Duration| {
        let late = all_is_read.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
        if late {
            let _ = killpg(pid, Signal::SIGKILL);
        }
        late
    };
    let (stdout, stderr, late) = thread::scope(|scope| {
        let late = limit.map(|limit| scope.spawn(move || is_late(limit)));
        let stderr = scope.spawn(|| read_all(stderr, OUTPUT_BYTES, "its output"));
        let stdout = read_all(stdout, OUTPUT_BYTES, "its output");
        if stdout.is_err() {
            let _ = child.kill();
        }
        let stderr = stderr.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        drop(read);
        (stdout, stderr, late.is_some_and(|late| late.join().unwrap_or(true)))
    });
    if stderr.is_err() {
        let _ = child.kill();
    }
    let status = child.wait()?;
    if late {
        let seconds = limit.unwrap_or_default().as_secs_f64();
        let why = format!("it did not answer within {seconds:.0} s");
        return Err(io::Error::new(io::ErrorKind::TimedOut, why));
    }
    Ok(Output { status, stdout: stdout?, stderr: stderr? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_endless_line_is_an_error_and_lines_up_to_the_limit_are_not() {
        let text = b"four\n\nfive5\nlast";
        let (mut input, mut blocking, mut line) = (&text[..], &text[..], Vec::new());
        for expected in ["four", "", "five5", "last"] {
            assert!(read_line(&mut input, &mut line, 5).await.unwrap());
            assert_eq!(line, expected.as_bytes());
            assert!(read_line_blocking(&mut blocking, &mut line, 5).unwrap());
            assert_eq!(line, expected.as_bytes());
        }
        assert!(!read_line(&mut input, &mut line, 5).await.unwrap());

        let mut endless = tokio::io::BufReader::new(tokio::io::repeat(b'x'));
        let error = read_line(&mut endless, &mut line, 2 * MIB).await.unwrap_err();
        assert_eq!(error.to_string(), "a line is longer than 2 MiB");
        let mut endless = io::BufReader::new(io::repeat(b'x'));
        let error = read_line_blocking(&mut endless, &mut line, 7).unwrap_err();
        assert_eq!(error.to_string(), "a line is longer than 7 bytes");
    }

    #[test]
    fn an_endless_text_is_an_error() {
        assert_eq!(read_text(&b"1234"[..], 4).unwrap(), "1234");
        assert_eq!(
            read_text(io::repeat(b'x'), 4).unwrap_err().to_string(),
            "the text is longer than 4 bytes"
        );
        assert!(read_text(&b"\xff"[..], 4).unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn only_regular_files_up_to_the_limit_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let [pipe, file] = ["pipe", "file"].map(|name| folder.path().join(name));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [&pipe, Path::new("/dev/zero"), folder.path()] {
            let error = read_file(path, 4).unwrap_err().to_string();
            assert_eq!(error, "it is not a regular file", "{path:?}");
        }
        std::fs::write(&file, "1234").unwrap();
        assert_eq!(read_text_file(&file, 4).unwrap(), "1234");
        File::options().write(true).open(&file).unwrap().set_len(1 << 40).unwrap();
        let error = read_text_file(&file, 2 * MIB).unwrap_err().to_string();
        assert_eq!(error, "the file is longer than 2 MiB");
    }

    #[test]
    fn a_program_that_writes_or_runs_without_end_is_killed() {
        for script in ["exec cat /dev/zero", "exec cat /dev/zero >&2"] {
            let error = output(Command::new("sh").args(["-c", script])).unwrap_err();
            assert_eq!(error.to_string(), "its output is longer than 16 MiB");
        }
        // What a wrapper has started holds the pipes open, too.
        for endless in ["echo out; exec sleep 600", "sleep 600; true"] {
            let error = output_within(Command::new("sh").args(["-c", endless]), Duration::from_secs(1));
            assert_eq!(error.unwrap_err().to_string(), "it did not answer within 1 s");
        }
        let limit = Duration::from_secs(600);
        assert_eq!(output_within(&mut Command::new("true"), limit).unwrap().status.code(), Some(0));
        let small = output(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"])).unwrap();
        assert_eq!(
            (small.status.code(), &small.stdout[..], &small.stderr[..]),
            (Some(3), &b"out\n"[..], &b"err\n"[..])
        );
    }
}
