//! What the tests of this crate share: golden files, a bench that needs no QEMU, and real runs.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{fs, path::Path};
use testbed::matrix::{File, Plan};

pub(crate) mod hosts;
pub(crate) mod mock;
pub(crate) mod real;

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
