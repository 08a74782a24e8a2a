//! How commands are sent through a login shell, which may be any program and may print anything.
//!
//! `sshd` passes every command to the user's login shell as a single text. The text sent here means the same
//! in bash, dash, zsh, fish, tcsh, ksh and `busybox sh`: words in single quotes, without the characters that
//! any of them changes there. `printf` decodes the script and `/bin/sh` runs it:
//!
//! ```text
//! exec /bin/sh -c 'eval "$(printf %b "$0")"' 'echo \0047it is here\0047'
//! ```
//!
//! Start-up files such as `.bashrc` may print, and so may whatever runs after the script. Standard output and
//! standard error of the script begin after a line that consists of a random marker. If the script's output
//! is read as a whole, they also end before such a line, which contains the exit status on standard output.
//! Nothing is written to the script's standard input before the marker has arrived, so that no start-up file
//! can take it.

use crate::bounded::{OUTPUT_BYTES, too_long};
use std::{
    ffi::OsString,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    os::unix::ffi::OsStringExt,
};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// The maximum length of a text for the login shell, in bytes: Linux does not pass longer arguments to a
/// program.
pub(super) const MAX_TEXT_BYTES: usize = (128 << 10) - 1;

/// The maximum length of what start-up files print, in bytes.
pub(super) const MAX_GREETING_BYTES: usize = 256 << 10;

/// A script for a host, as a text for the login shell there.
#[derive(Debug)]
pub(super) struct RemoteScript {
    /// The line after which the script's output begins.
    pub(super) marker: String,
    /// The text for the login shell.
    pub(super) text: OsString,
}

impl RemoteScript {
    /// Encodes a script that runs until it ends, and whose output is read as a whole.
    pub(super) fn bounded(script: &str) -> Self {
        let marker = random_marker();
        let whole = format!(
            "echo >&2; echo {marker} >&2; echo; echo {marker}; (\n{script}\n); status=$?; \
             echo >&2; echo {marker} >&2; echo; echo {marker} $status; exit $status"
        );
        Self { text: encode(whole.as_bytes()), marker }
    }

    /// Encodes a script whose output is forwarded while it runs.
    pub(super) fn streaming(script: &[u8]) -> Self {
        Self::marked("echo >&2; echo MARKER >&2; echo; echo MARKER; ", script)
    }

    /// Encodes a script that runs on a terminal, where both kinds of output are the same.
    pub(super) fn on_terminal(script: &[u8]) -> Self {
        Self::marked("echo; echo MARKER; ", script)
    }

    fn marked(begin: &str, script: &[u8]) -> Self {
        let marker = random_marker();
        let whole = [begin.replace("MARKER", &marker).as_bytes(), script].concat();
        Self { text: encode(&whole), marker }
    }
}

/// Returns a word that no start-up file prints.
fn random_marker() -> String {
    format!("testbed-{:016x}", RandomState::new().build_hasher().finish())
}

/// Returns the text that makes every login shell run a script in `/bin/sh`.
fn encode(script: &[u8]) -> OsString {
    let mut text = br#"exec /bin/sh -c 'eval "$(printf %b "$0")"' '"#.to_vec();
    for &byte in script {
        match byte {
            // fish changes `\\` and `\'` in single quotes, tcsh `!` and line ends.
            b'\\' | b'\'' | b'!' | ..=0x1f | 0x7f.. => text.extend(format!("\\0{byte:03o}").bytes()),
            plain => text.push(plain),
        }
    }
    text.push(b'\'');
    OsString::from_vec(text)
}

/// Reads an output up to and including the marker, and appends what precedes the marker to `greeting`.
/// Returns whether the marker has arrived. If not, the output has ended, or has [`MAX_GREETING_BYTES`]
/// without it.
pub(super) async fn read_greeting(
    output: &mut (impl AsyncBufRead + Unpin),
    marker: &str,
    greeting: &mut Vec<u8>,
) -> bool {
    loop {
        let begin = greeting.len();
        let left = MAX_GREETING_BYTES.saturating_sub(begin) as u64;
        let read = (&mut *output).take(left).read_until(b'\n', greeting).await;
        if is_marker(&greeting[begin..], marker) {
            greeting.truncate(begin);
            return true;
        }
        if !matches!(read, Ok(1..)) {
            return false;
        }
    }
}

/// Returns whether a line consists of the marker. Terminals end lines with `\r\n`.
pub(super) fn is_marker(line: &[u8], marker: &str) -> bool {
    line.trim_ascii_end() == marker.as_bytes()
}

/// Returns the text of an output without the white space around it.
pub(super) fn shown(output: &[u8]) -> String {
    String::from_utf8_lossy(output).trim().to_owned()
}

/// Reads an output of a script that is [`RemoteScript::bounded`], after the first marker, up to the last one,
/// and appends it to `answer`. Returns what follows on the last marker's line: the exit status on standard
/// output, nothing on standard error. Returns `None` if the output ends without that line.
///
/// # Errors
///
/// Those of the output, and if it has more than [`OUTPUT_BYTES`].
pub(super) async fn read_answer(
    output: &mut (impl AsyncBufRead + Unpin),
    marker: &str,
    answer: &mut Vec<u8>,
) -> io::Result<Option<String>> {
    loop {
        let begin = answer.len();
        let left = (OUTPUT_BYTES + 1).saturating_sub(begin) as u64;
        let read = (&mut *output).take(left).read_until(b'\n', answer).await?;
        if let Some(rest) = answer[begin..].strip_prefix(marker.as_bytes()) {
            let rest = shown(rest);
            answer.truncate(begin);
            return Ok(Some(rest));
        }
        if answer.len() > OUTPUT_BYTES {
            return Err(too_long("its output", OUTPUT_BYTES));
        }
        if read == 0 {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::shell_line;
    use std::{
        io::{ErrorKind, Write},
        process::{Command, Stdio},
    };
    use tokio::io::BufReader;

    /// The login shells that are tested, if they are installed.
    const SHELLS: [&[&str]; 8] =
        [&["bash"], &["dash"], &["zsh"], &["fish"], &["tcsh"], &["mksh"], &["ksh93"], &["busybox", "sh"]];

    /// Returns the shells that are installed, each as a function that returns its command.
    fn installed_shells() -> Vec<impl Fn() -> Command> {
        let command = |words: &'static [&'static str]| {
            move || {
                let mut command = Command::new(words[0]);
                command.args(&words[1..]).env("HOME", "/nonexistent").current_dir("/");
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
                command
            }
        };
        let mut installed = Vec::new();
        for words in SHELLS {
            let shell = command(words);
            match shell().args(["-c", "exit 0"]).output() {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    println!("skipped: {} is not installed", words[0]);
                }
                _ => installed.push(shell),
            }
        }
        installed
    }

    #[tokio::test]
    async fn every_login_shell_passes_words_and_input_on_unchanged() {
        let words = [
            "a\\\\b",
            "it's",
            "!x",
            "!!",
            "two  spaces",
            "$HOME",
            "`id`",
            "$(id)",
            "*",
            "{a,b}",
            "~",
            "",
            "é",
            "line\nline\n",
            "\t",
            "%s%d",
            "\\n",
            "\"",
            "a;b|c&d",
            "#",
            "^a^b",
            "=ls",
            "<(id)",
            "\\",
            "'\\''",
        ];
        let args = shell_line(words);
        let script = RemoteScript::bounded(&format!(
            "for word in {args}; do printf '[%s]' \"$word\"; done; cat; echo lost >&2; exit 7"
        ));
        let expected = words.map(|word| format!("[{word}]")).concat() + "input\\\\'!\n";
        for shell in installed_shells() {
            let mut command = shell();
            let mut child = command.arg("-c").arg(&script.text).spawn().unwrap();
            child.stdin.take().unwrap().write_all(b"input\\\\'!\n").unwrap();
            let output = child.wait_with_output().unwrap();
            let read = async |mut output: &[u8]| {
                assert!(read_greeting(&mut output, &script.marker, &mut Vec::new()).await, "{command:?}");
                let mut answer = Vec::new();
                let end = read_answer(&mut output, &script.marker, &mut answer).await.unwrap();
                (end, String::from_utf8_lossy(&answer).into_owned())
            };
            let (status, answer) = read(&output.stdout).await;
            assert_eq!(answer, format!("{expected}\n"), "{command:?}");
            assert_eq!((status.as_deref(), output.status.code()), (Some("7"), Some(7)), "{command:?}");
            assert_eq!(read(&output.stderr).await, (Some(String::new()), "lost\n\n".into()), "{command:?}");
        }
    }

    #[test]
    fn a_word_of_any_bytes_and_of_100_kilobytes_arrives() {
        let mut script = b"printf %s '".to_vec();
        let long = "0123456789".repeat(10_000);
        script.extend(b"\xff\xfe\x01");
        script.extend(long.as_bytes());
        script.push(b'\'');
        let script = RemoteScript::streaming(&script);
        for shell in installed_shells() {
            let output = shell().arg("-c").arg(&script.text).output().unwrap();
            let expected = [b"\xff\xfe\x01", long.as_bytes()].concat();
            assert!(output.stdout.ends_with(&expected), "{:?}", shell());
        }
    }

    #[tokio::test]
    async fn an_output_begins_after_the_marker() {
        let read = async |text: &str| {
            let (mut output, mut greeting) = (text.as_bytes(), Vec::new());
            let marked = read_greeting(&mut output, "M", &mut greeting).await;
            (marked, shown(&greeting), String::from_utf8_lossy(output).into_owned())
        };
        let begun = |greeting: &str, rest: &str| (true, greeting.to_owned(), rest.to_owned());
        assert_eq!(read("\nM\nrest\n").await, begun("", "rest\n"));
        assert_eq!(read("Welcome\n+ echo M\n\r\nM\r\nrest").await, begun("Welcome\n+ echo M", "rest"));
        assert_eq!(read("Welcome\n").await, (false, "Welcome".into(), String::new()));
        let endless = "y\n".repeat(MAX_GREETING_BYTES);
        assert!(!read(&endless).await.0);
    }

    #[tokio::test]
    async fn what_is_printed_after_a_script_is_not_its_output() {
        let read = async |text: &str| {
            let (mut output, mut answer) = (text.as_bytes(), Vec::new());
            let end = read_answer(&mut output, "M", &mut answer).await.unwrap();
            (end, shown(&answer))
        };
        let ended = |status: &str, answer: &str| (Some(status.to_owned()), answer.to_owned());
        assert_eq!(read("answer\nM 0\nlogout\n").await, ended("0", "answer"));
        assert_eq!(read("\nM 3\n").await, ended("3", ""));
        assert_eq!(read("no space left\n\nM\nfrom .bash_logout\n").await, ended("", "no space left"));
        assert_eq!(read("answ").await, (None, "answ".into()));
        let mut endless = BufReader::new(tokio::io::repeat(b'x'));
        let error = read_answer(&mut endless, "M", &mut Vec::new()).await.unwrap_err();
        assert_eq!(error.to_string(), "its output is longer than 16 MiB");
    }
}
