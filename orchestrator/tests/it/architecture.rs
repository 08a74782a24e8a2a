//! Tests that compare ARCHITECTURE.md with the repository.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

/// Each file and each path of a name that ARCHITECTURE.md mentions exists.
#[test]
fn names_of_the_tour_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let sources = ["orchestrator/src", "stressor/src", "netem/src", "."].map(|folder| root.join(folder));
    let mut checked = 0;
    for name in text.split('`').skip(1).step_by(2).filter(|name| !name.contains([' ', '\n', '!'])) {
        if name.contains('/') {
            assert!(sources.iter().any(|folder| folder.join(name).exists()), "there is no file {name}");
        } else if let Some((module, item)) = name.rsplit_once("::") {
            // For a type's method, the type is searched for.
            let (module, item) = match module.rsplit_once("::") {
                Some((module, item)) if item.starts_with(char::is_uppercase) => (module, item),
                _ if module.starts_with(char::is_uppercase) => continue,
                _ => (module, item),
            };
            let module = module.strip_prefix("stressor::").unwrap_or(module).replace("::", "/");
            let mut texts = sources.iter().flat_map(|folder| texts(&folder.join(&module)));
            assert!(texts.any(|text| text.contains(item)), "{name} is nowhere");
        } else {
            continue;
        }
        checked += 1;
    }
    assert!(checked > 30, "only {checked}");
}

/// Returns the sources of a module and of its submodules.
fn texts(module: &Path) -> Vec<String> {
    let mut texts: Vec<String> = fs::read_to_string(module.with_extension("rs")).into_iter().collect();
    for entry in fs::read_dir(module).into_iter().flatten() {
        texts.extend(self::texts(&entry.unwrap().path().with_extension("")));
    }
    texts
}

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
