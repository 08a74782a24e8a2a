//! Tests that compare ARCHITECTURE.md with the repository.

use crate::common::{documents::root, files_below};
use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};
use syn::{
    Arm, ExprMatch, Pat, PatGuard,
    visit::{self, Visit},
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

/// Outside of the folder `mode`, every `match` that names modes also has an arm for all others: without one,
/// the patch would apply, but not compile.
#[test]
fn no_match_has_to_list_a_new_mode() {
    let mut found = ExhaustiveMatches::default();
    for folder in ["src", "tests", "benches"] {
        let folder = root().join("orchestrator").join(folder);
        for file in files_below(&folder, |path| !path.ends_with("src/mode")) {
            if file.extension().is_some_and(|extension| extension == "rs") {
                found.read(&file.display().to_string(), &fs::read_to_string(&file).unwrap());
            }
        }
    }
    assert!(found.named > 2, "only {} matches name modes", found.named);
    assert!(found.places.is_empty(), "without an arm for other modes:\n{}", found.places.join("\n"));
}

#[test]
fn a_match_that_lists_all_modes_is_found() {
    for (arms, is_found) in [
        ("Mode::File | Mode::CprTransfer => 1, Mode::Postcopy => 2, Mode::Precopy => 3", true),
        ("(Mode::File, true) => 1, (crate::mode::Mode::Precopy, _) => 2", true),
        ("Mode::File => 1, other if other == Mode::Precopy => 2", true),
        ("Mode::File => 1, _ => 2", false),
        ("Some(Mode::File) => 1, other => 2", false),
        ("(Mode::File, 1) => 1, (_, _) => 2", false),
        ("Kind::File => 1, Kind::Block => 2", false),
        ("Kind::File if mode == Mode::File => 1, Kind::File => 2", false),
    ] {
        let mut found = ExhaustiveMatches::default();
        found.read("f", &format!("fn f() {{ match x {{ {arms} }} }}"));
        assert_eq!(found.places.len(), usize::from(is_found), "{arms}");
    }
}

/// A visitor that collects each `match` that names modes and has no arm for all others.
#[derive(Default)]
struct ExhaustiveMatches {
    file: String,
    /// The number of all that name modes.
    named: usize,
    /// Those without such an arm: the file, and the patterns that name modes.
    places: Vec<String>,
}

impl ExhaustiveMatches {
    fn read(&mut self, file: &str, text: &str) {
        file.clone_into(&mut self.file);
        self.visit_file(&syn::parse_str(text).unwrap_or_else(|e| panic!("{file}: {e}")));
    }
}

impl<'ast> Visit<'ast> for ExhaustiveMatches {
    fn visit_expr_match(&mut self, found: &'ast ExprMatch) {
        let mut modes = Modes::default();
        found.arms.iter().for_each(|arm| modes.visit_pat(&arm.pat));
        if !modes.0.is_empty() {
            self.named += 1;
            if !found.arms.iter().any(|Arm { pat, .. }| takes_all(pat)) {
                self.places.push(format!("{}: {}", self.file, modes.0.join(", ")));
            }
        }
        visit::visit_expr_match(self, found);
    }
}

/// Returns whether a pattern takes every value.
fn takes_all(pattern: &Pat) -> bool {
    match pattern {
        Pat::Wild(_) => true,
        Pat::Ident(name) => name.subpat.is_none(),
        Pat::Tuple(tuple) => tuple.elems.iter().all(takes_all),
        _ => false,
    }
}

/// The modes that a pattern names, without those in its guard.
#[derive(Default)]
struct Modes(Vec<String>);

impl<'ast> Visit<'ast> for Modes {
    fn visit_pat_guard(&mut self, guarded: &'ast PatGuard) {
        self.visit_pat(&guarded.pat);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mut names = path.segments.iter().rev();
        if let (Some(variant), Some(ty)) = (names.next(), names.next())
            && ty.ident == "Mode"
        {
            self.0.push(format!("Mode::{}", variant.ident));
        }
    }
}
