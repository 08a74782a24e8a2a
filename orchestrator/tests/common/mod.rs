//! Shared helpers of this crate's tests: golden files, a mock bench, hosts in namespaces, and real runs.
#![allow(dead_code, reason = "each test binary uses only some of these")]

use nix::fcntl::{FcntlArg, fcntl};
use std::{
    ffi::OsString,
    fs,
    io::{PipeReader, PipeWriter, Write, pipe},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};
use testbed::matrix::{File, Plan};

pub(crate) mod browser;
pub(crate) mod documents;
pub(crate) mod hosts;
pub(crate) mod labs;
pub(crate) mod mock;
pub(crate) mod netem_guest;
pub(crate) mod nfs;
pub(crate) mod real;
pub(crate) mod turn;
pub(crate) mod vagrant;
pub(crate) mod viewer;

/// Compares `text` with the file `tests/golden/NAME`. With `UPDATE_GOLDEN=1`, overwrites the file instead:
/// review the difference before committing it.
#[track_caller]
pub(crate) fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(text == expected, "{} differs\n--- expected\n{expected}\n--- found\n{text}", path.display());
}

/// Resolves a valid matrix into its plan.
#[track_caller]
pub(crate) fn plan(text: &str) -> Plan {
    File::parse(text, "matrix.yaml").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"))
}

/// Returns the absolute path of the `examples` folder.
pub(crate) fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").canonicalize().unwrap()
}

/// Formats the status and output of a command, for the message of a failed test.
pub(crate) fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n--- stdout\n{}\n--- stderr\n{}", output.status, text(&output.stdout), text(&output.stderr))
}

/// Writes an executable script that can be run immediately.
///
/// Another process writes it, because a file that is open for writing cannot be executed (ETXTBSY). If this
/// process opened it, a process that another test starts at the same moment could inherit the open
/// descriptor.
pub(crate) fn write_script(path: &Path, text: &str) {
    let mut write = Command::new("sh");
    write.args(["-c", r#"cat >"$0" && chmod 755 "$0""#]).arg(path).stdin(Stdio::piped());
    let mut child = write.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "cannot write {}", path.display());
}

/// Waits until `look` finds something, and returns it.
#[track_caller]
pub(crate) fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Returns a pipe that takes nothing more until somebody reads.
pub(crate) fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    let size = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    writer.write_all(&vec![b'x'; usize::try_from(size).unwrap()]).unwrap();
    (reader, writer)
}

/// Returns `PATH` with this folder added at the front.
pub(crate) fn path_with(folder: &Path) -> OsString {
    let others = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths([folder.to_path_buf()].into_iter().chain(std::env::split_paths(&others))).unwrap()
}

/// Returns a text with each run of spaces and line ends replaced with one space, to search for words in
/// folded text.
pub(crate) fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the files in a folder and in those folders below it that `enter` accepts.
pub(crate) fn files_below(folder: &Path, enter: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                files.push(path);
            } else if path.is_dir() && enter(&path) {
                folders.push(path);
            }
        }
    }
    files
}
