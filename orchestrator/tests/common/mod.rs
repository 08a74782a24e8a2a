//! What the tests of this crate share: golden files, a bench that needs no QEMU, and real runs.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use testbed::matrix::{File, Plan};

pub(crate) mod hosts;
pub(crate) mod mock;
pub(crate) mod real;
pub(crate) mod vagrant;

/// Compares with `tests/golden/NAME`; `UPDATE_GOLDEN=1` writes it anew. Read the difference then.
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

/// The plan of a matrix that is known to be right.
#[track_caller]
pub(crate) fn plan(text: &str) -> Plan {
    File::parse(text, "matrix.yaml").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"))
}

/// The folder of the examples.
pub(crate) fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").canonicalize().unwrap()
}

/// What a command came to, for a failed test.
pub(crate) fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n--- stdout\n{}\n--- stderr\n{}", output.status, text(&output.stdout), text(&output.stderr))
}

/// Writes a script that can be run at once.
///
/// Another process writes it. A file that a process has open for writing cannot be run, and whatever another
/// test starts at this moment would inherit a descriptor of ours.
pub(crate) fn write_script(path: &Path, text: &str) {
    let mut write = Command::new("sh");
    write.args(["-c", r#"cat >"$0" && chmod 755 "$0""#]).arg(path).stdin(Stdio::piped());
    let mut child = write.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "cannot write {}", path.display());
}
