//! Reads lines, files and the output of programs up to a limit, so that endless input ends in an error and
//! not in exhausted memory.

use std::{
    io::{self, BufRead, Read},
    process::{Command, Output, Stdio},
    thread,
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
    let not_text = |_| io::Error::new(io::ErrorKind::InvalidData, "stream did not contain valid UTF-8");
    String::from_utf8(read_all(input, limit, "the text")?).map_err(not_text)
}

fn read_all(input: impl Read, limit: usize, what: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit { Err(too_long(what, limit)) } else { Ok(bytes) }
}

/// Runs a program without input and returns its output.
///
/// # Errors
/// If it cannot be started, or if it writes more than [`OUTPUT_BYTES`], after which it is killed.
pub fn output(command: &mut Command) -> io::Result<Output> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pipes = (child.stdout.take(), child.stderr.take());
    let (Some(stdout), Some(stderr)) = pipes else { return Err(io::ErrorKind::BrokenPipe.into()) };
    let (stdout, stderr) = thread::scope(|scope| {
        let stderr = scope.spawn(|| read_all(stderr, OUTPUT_BYTES, "its output"));
        let stdout = read_all(stdout, OUTPUT_BYTES, "its output");
        if stdout.is_err() {
            let _ = child.kill();
        }
        (stdout, stderr.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
    });
    if stderr.is_err() {
        let _ = child.kill();
    }
    let status = child.wait()?;
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
    fn a_program_that_writes_without_end_is_killed() {
        for script in ["exec cat /dev/zero", "exec cat /dev/zero >&2"] {
            let error = output(Command::new("sh").args(["-c", script])).unwrap_err();
            assert_eq!(error.to_string(), "its output is longer than 16 MiB");
        }
        let small = output(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"])).unwrap();
        assert_eq!(
            (small.status.code(), &small.stdout[..], &small.stderr[..]),
            (Some(3), &b"out\n"[..], &b"err\n"[..])
        );
    }
}
