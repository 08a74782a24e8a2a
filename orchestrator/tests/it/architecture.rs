//! What ARCHITECTURE.md shows, held against the tree.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

/// The patch that adds a mode applies to the tree as it is.
#[test]
fn the_patch_that_adds_a_mode_applies() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let (_, text) = text.split_once("### To add a mode").expect("the section is there");
    let (_, text) = text.split_once("```diff\n").expect("the patch is there");
    let (patch, _) = text.split_once("```").expect("it ends");
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
