//! Tests that compare ARCHITECTURE.md with the repository.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

/// The patch in "To add a mode" applies to the current sources.
#[test]
fn the_patch_that_adds_a_mode_applies() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let (_, text) = text.split_once("### To add a mode").expect("no section on modes");
    let (_, text) = text.split_once("```diff\n").expect("no patch in the section");
    let (patch, _) = text.split_once("```").expect("the patch does not end");
    let git = Command::new("git")
        .args(["apply", "--check", "-"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut git = match git {
        Ok(git) => git,
        Err(error) => return println!("skipped: cannot run git: {error}"),
    };
    git.stdin.take().unwrap().write_all(patch.as_bytes()).unwrap();
    let output = git.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
