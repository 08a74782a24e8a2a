//! The content of the documents and the help texts: commands that work, and pages generated from the code.

use crate::common::{
    documents::{COMMANDS, Trial, in_messages, root, shown},
    files_below, shown as output_of,
};
use std::{collections::BTreeSet, fs, os::unix::fs::symlink, process::Command};
use testbed::docs::{figures, reference};

/// Every documented command is in the list that says how it is tested, and the list has no other commands.
#[test]
fn every_documented_command_is_tried_or_has_a_reason() {
    let listed: BTreeSet<String> = COMMANDS.iter().map(|(command, _)| (*command).to_string()).collect();
    assert_eq!(listed.len(), COMMANDS.len(), "a command is listed twice");
    let shown = shown();
    let unlisted: Vec<&String> = shown.difference(&listed).collect();
    let gone: Vec<&String> = listed.difference(&shown).collect();
    assert!(
        unlisted.is_empty() && gone.is_empty(),
        "not listed: {unlisted:#?}\nnot shown any more: {gone:#?}"
    );
}

/// Every command that a message names is one of the tested commands, or the beginning of one.
#[test]
fn commands_in_messages_are_tried() {
    let found = in_messages();
    // Commands that testbed itself starts, its own and Vagrant's, are named when they fail; they are not
    // advice.
    let testbed = testbed::cli::command();
    let internal: Vec<String> = testbed
        .get_subcommands()
        .filter(|command| command.is_hide_set())
        .map(|command| format!("testbed {}", command.get_name()))
        .collect();
    for (named, file) in
        found.iter().filter(|(named, _)| !internal.contains(named) && !named.starts_with("vagrant"))
    {
        // The help of every command is a golden file.
        let is_tried = named.ends_with(" --help")
            || COMMANDS.iter().any(|(command, _)| command.starts_with(named.as_str()));
        assert!(is_tried, "{file}: `{named}` is not among the commands that are tried");
    }
    assert!(found.len() > 10, "only {found:?}");
}

/// Every test that is said to test a command exists.
#[test]
fn the_tests_that_try_commands_exist() {
    for (command, trial) in COMMANDS {
        if let Trial::Test(file, name) = trial {
            let text =
                fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{command}: {file}: {e}"));
            assert!(text.contains(&format!("fn {name}()")), "{command}: {file} has no test {name}");
        }
    }
}

/// Every test named in docs/security.md exists.
#[test]
fn the_tests_of_the_security_page_exist() {
    let page = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let is_name =
        |word: &&str| word.contains('_') && word.bytes().all(|b| b == b'_' || b.is_ascii_lowercase());
    let named: BTreeSet<&str> = page.split('`').skip(1).step_by(2).filter(is_name).collect();
    let folders = ["orchestrator", "netem", "stressor"].map(|name| root().join(name));
    let sources = folders.iter().flat_map(|folder| files_below(folder, |_| true));
    let text: String = sources.filter_map(|path| fs::read_to_string(path).ok()).collect();
    // Property tests have arguments.
    let absent: Vec<&&str> = named.iter().filter(|name| !text.contains(&format!("fn {name}("))).collect();
    assert!(absent.is_empty() && named.len() > 20, "no such tests: {absent:#?}");
}

/// Each command of the three programs is one that the command line accepts.
#[test]
fn documented_commands_are_accepted() {
    let mut accepted = 0;
    for (command, _) in COMMANDS {
        let words = split(command);
        let program = match words[0].as_str() {
            "testbed" => testbed::cli::command(),
            "netem" => netem::cli::command(),
            "stressor" => stressor::cli::command(),
            _ => continue,
        };
        if let Err(error) = program.try_get_matches_from(words) {
            panic!("{command}: {error}");
        }
        accepted += 1;
    }
    assert!(accepted > 20, "only {accepted}");
}

/// Commands that need no QEMU end as the documents say.
#[test]
fn documented_commands_without_qemu_work() {
    let place = tempfile::tempdir().unwrap();
    for name in ["scenarios", "results"] {
        symlink(root().join(name), place.path().join(name)).unwrap();
    }
    let mut tried = 0;
    for (command, trial) in COMMANDS {
        let Trial::Plain(codes) = trial else { continue };
        let words = split(command);
        assert_eq!(words[0], "testbed", "{command}");
        let mut testbed = Command::new(env!("CARGO_BIN_EXE_testbed"));
        testbed.args(&words[1..]).current_dir(&place).env("TESTBED_STRESSOR", "/nonexistent");
        let output = testbed.output().unwrap();
        let code = output.status.code();
        assert!(code.is_some_and(|code| codes.contains(&code)), "{command}: {}", output_of(&output));
        assert!(!output.stdout.is_empty(), "{command}");
        tried += 1;
    }
    assert!(tried > 5, "only {tried}");
}

/// The pages generated from the code are up to date; `UPDATE_GOLDEN=1` writes them anew.
#[test]
fn generated_pages_are_up_to_date() {
    for (name, page) in [("matrix.md", reference::matrix().markdown()), ("figures.md", figures::page())] {
        let path = root().join("docs").join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &page).unwrap();
        }
        let stored = fs::read_to_string(&path).unwrap_or_default();
        assert!(stored == page, "docs/{name} differs; UPDATE_GOLDEN=1 writes it anew");
    }
}

/// The manual pages have the parts that a reader looks for, and `groff` has no complaints about them.
#[test]
fn manual_pages_are_complete() {
    let dir = tempfile::tempdir().unwrap();
    let mut testbed = Command::new(env!("CARGO_BIN_EXE_testbed"));
    assert!(testbed.arg("generate").arg(dir.path()).status().unwrap().success());
    let mut pages = 0;
    for section in ["man1", "man5"] {
        for entry in fs::read_dir(dir.path().join("share/man").join(section)).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(!name.contains("help") && !name.contains("generate"), "{name}");
            if section == "man1" {
                assert!(text.contains(".SH EXAMPLES"), "{name} has no examples");
            }
            match Command::new("groff").args(["-man", "-Tutf8", "-ww", "-z"]).arg(&path).output() {
                Ok(output) => assert!(output.stderr.is_empty(), "{name}: {}", output_of(&output)),
                Err(error) => println!("skipped: {name} through groff: {error}"),
            }
            pages += 1;
        }
    }
    let commands = ["testbed", "testbed-lab-shell", "testbed-run", "netem", "netem-play", "stressor"];
    for name in commands {
        assert!(dir.path().join(format!("share/man/man1/{name}.1")).is_file(), "{name}");
    }
    assert!(pages > commands.len());
    let bash = fs::read_to_string(dir.path().join("share/bash-completion/completions/testbed")).unwrap();
    assert!(bash.contains("local vagrant"), "`--lab` offers no words");
}

/// The README's matrix is the example of the reference, and it works.
#[test]
fn the_readme_shows_the_example_of_the_reference() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.contains(reference::EXAMPLE), "README.md shows another example");
}

/// Every linked page exists.
#[test]
fn links_between_pages_lead_somewhere() {
    let mut pages: Vec<_> = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"]
        .iter()
        .map(|name| root().join(name))
        .collect();
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    pages.extend(docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    let mut links = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            assert!(page.parent().unwrap().join(file).exists(), "{}: {target}", page.display());
            links += 1;
        }
    }
    assert!(links > 20, "only {links}");
}

/// Splits a command at its spaces, except within single quotes.
fn split(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, piece) in command.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(piece.to_owned());
        } else {
            words.extend(piece.split_whitespace().map(ToString::to_string));
        }
    }
    words
}
