//! The words and the form of all text in the repository: line widths, phrases that crept in before, and doc
//! comments that say nothing.

use crate::common::{documents::root, files_below};
use std::{fs, path::Path};

/// The widest a line may be, in characters.
const WIDTH: usize = 110;

/// The largest share of doc comments that may have four words or fewer, in percent.
const SHORT_DOCS: usize = 8;

/// Phrases of a private dialect, and what to say instead. Words are compared without case, as whole words.
const PHRASES: &[(&str, &str)] = &[
    ("mend", "fix"),
    ("mends", "fixes"),
    ("mended", "fixed"),
    ("under way", "in progress"),
    ("judgement", "verdict"),
    ("what became of", "the result of"),
    ("what becomes of", "the result of"),
    ("whatever becomes of", "whatever the result of"),
    ("as good as none", "counts as empty"),
    ("once more leaves", "press Ctrl-C again to quit"),
    ("so-many-th", "Nth"),
    ("every so often", "regularly"),
    ("be had", "be available"),
    ("such a one", "name it"),
    ("if so", "repeat the condition"),
    ("as far as", "if, or up to"),
    ("so far as", "if, or up to"),
    ("to go on from", "to start from"),
    ("how it stands", "the state of"),
    ("really shaped", "traffic-shaped"),
    ("despair", "exit"),
    ("what may pass at once", "burst size"),
    ("but for its first", "ignoring its first"),
    ("is out of sight", "is not visible"),
    ("why there is no", "an error"),
];

/// Files whose lines are data, or were written by others.
const DATA: [&str; 10] = [
    "Cargo.lock",
    "package-lock.json",
    "LICENSE-",
    "/golden",
    "/corpus/",
    "tests/formats/",
    "tests/matrix/bad-inputs.txt",
    ".jsonl",
    ".csv",
    "table.txt",
];

/// Returns the text files of the repository, with their paths below it.
fn files() -> Vec<(String, String)> {
    // Files written by cargo, git, Vagrant and runs are not part of the repository.
    let is_ours = |path: &Path| {
        !path.ends_with("target") && !path.ends_with(".git") && !path.ends_with(".vagrant") && !is_a_run(path)
    };
    let paths = files_below(&root(), is_ours).into_iter();
    let files: Vec<(String, String)> = paths
        // Other files are not text.
        .filter_map(|path| Some((fs::read_to_string(&path).ok()?, path)))
        .map(|(text, path)| (path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(), text))
        .collect();
    assert!(files.len() > 200, "only {} files", files.len());
    files
}

/// Returns whether git ignores this folder, because it has the results of somebody's run.
fn is_a_run(path: &Path) -> bool {
    path.parent() == Some(&root().join("results"))
        && !matches!(
            path.file_name().and_then(|name| name.to_str()),
            Some("instruments" | "reference" | "slurm" | "vagrant")
        )
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

fn is_data(path: &str) -> bool {
    DATA.iter().any(|part| path.contains(part)) || path.starts_with("results/") && !has_extension(path, "md")
}

#[test]
fn no_line_is_too_wide() {
    let mut wide = Vec::new();
    for (path, text) in files().iter().filter(|(path, _)| !is_data(path)) {
        for (number, line) in (1..).zip(text.lines()) {
            // A URL cannot be broken.
            if line.chars().count() > WIDTH && !line.contains("://") {
                wide.push(format!("{path}:{number}"));
            }
        }
    }
    assert!(wide.is_empty(), "wider than {WIDTH} columns:\n{}", wide.join("\n"));
}

#[test]
fn phrases_that_stop_a_reader_do_not_come_back() {
    let mut found = Vec::new();
    for (path, text) in files() {
        // This file itself contains the phrases.
        if is_data(&path) || path.ends_with("it/words.rs") {
            continue;
        }
        let text = text.to_lowercase();
        for (number, line) in (1..).zip(text.lines()) {
            for (phrase, better) in PHRASES.iter().filter(|(phrase, _)| has_words(line, phrase)) {
                found.push(format!("{path}:{number}: `{phrase}`; say: {better}"));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Returns whether a line contains these words, and not only as a part of longer words.
fn has_words(line: &str, words: &str) -> bool {
    let is_letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    line.match_indices(words).any(|(start, _)| {
        !is_letter(line[..start].chars().next_back())
            && !is_letter(line[start + words.len()..].chars().next())
    })
}

#[test]
fn few_doc_comments_say_almost_nothing() {
    let mut comments = 0;
    let mut short = Vec::new();
    for (path, text) in files().iter().filter(|(path, _)| has_extension(path, "rs")) {
        let mut lines = (1..).zip(text.lines()).peekable();
        while let Some((number, line)) = lines.next() {
            let Some((marker, first)) = doc(line) else { continue };
            let mut words = first.split_whitespace().count();
            while let Some((_, more)) =
                lines.peek().and_then(|(_, line)| doc(line)).filter(|(m, _)| *m == marker)
            {
                words += more.split_whitespace().count();
                lines.next();
            }
            comments += 1;
            if words <= 4 {
                short.push(format!("{path}:{number}: {}", line.trim()));
            }
        }
    }
    assert!(comments > 1000, "only {comments}");
    assert!(
        short.len() * 100 <= comments * SHORT_DOCS,
        "{} of {comments} doc comments have four words or fewer:\n{}",
        short.len(),
        short.join("\n")
    );
}

/// Returns the marker and the text of a line of a doc comment.
fn doc(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    ["///", "//!"]
        .into_iter()
        .find_map(|marker| Some((marker, line.strip_prefix(marker).filter(|rest| !rest.starts_with('/'))?)))
}
