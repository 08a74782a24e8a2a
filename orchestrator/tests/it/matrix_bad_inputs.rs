//! Invalid matrix files of every kind, with the exact messages that their authors get.
//!
//! `matrix/bad-inputs.txt` holds the cases, each with a title, the matrix file and the expected output. After
//! a deliberate change of messages, `UPDATE_GOLDEN=1 cargo test --test it matrix_bad_inputs` regenerates the
//! outputs; review the diff.

use proptest::prelude::*;
use std::{fmt::Write, fs, path::Path, sync::LazyLock};
use tempfile::TempDir;
use testbed::matrix::{File, Traces};

const TITLE: &str = "#### ";
const OUTPUT: &str = "----\n";

/// The files beside a matrix to which it may refer.
pub(crate) const TRACES: [(&str, &str); 4] = [
    ("good.trace", "0s 40mbit\n2s 12mbit\n6s end\n"),
    ("load.trace", "0s 40MB/s\n2s 12MB/s\n6s end\n"),
    ("slow.trace", "0s 40mbit\n# too slow for a link\n2s 10bit\n6s end\n"),
    ("mahimahi.trace", "3\n3\n8\n5\n"),
];

/// Returns a folder with [`TRACES`].
fn folder() -> &'static Path {
    static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in TRACES {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    });
    FOLDER.path()
}

/// Returns the messages for a matrix file, or a line that says that it is accepted.
fn output(text: &str) -> String {
    let mut traces = Traces::beside(&folder().join("matrix.yaml"));
    match File::parse(text, "matrix.yaml").and_then(|file| file.expand_with(&mut traces)) {
        Ok(plan) => format!("accepted: {} cells\n", plan.cells.len()),
        Err(diagnostics) => diagnostics.to_string(),
    }
}

#[test]
fn every_invalid_file_gets_its_message() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/matrix/bad-inputs.txt");
    let golden = fs::read_to_string(&path).unwrap();
    let cases = golden.split(TITLE).skip(1).map(|case| {
        let (title, case) = case.split_once('\n').unwrap_or_else(|| panic!("a case without a file: {case}"));
        let (input, expected) = case.split_once(OUTPUT).unwrap_or_else(|| panic!("{title}: no output"));
        (title, input, expected.trim_end())
    });
    let (mut written, mut failures, mut count) = (String::new(), String::new(), 0);
    for (title, input, expected) in cases {
        count += 1;
        let output = output(input);
        let output = output.trim_end();
        assert!(!output.starts_with("accepted"), "{title}: {output}");
        if output != expected {
            let _ = write!(failures, "\n{title}\n--- expected\n{expected}\n--- printed\n{output}\n");
        }
        let _ = write!(written, "{TITLE}{title}\n{input}{OUTPUT}{output}\n\n");
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, written).unwrap();
        return;
    }
    assert!(failures.is_empty(), "{failures}");
    assert!(count >= 60, "only {count} cases: the file was cut short");
}

#[test]
fn a_file_beyond_what_any_matrix_needs_is_refused_before_it_takes_minutes() {
    let head = "name: n\nguest: { memory: 256MiB }\naxes: { stress.rate: [1MB/s, 2MB/s] }\n";
    let many = |key: &str, item: &str, count| output(&format!("{head}{key}:\n{}", item.repeat(count)));
    let refusal = many("exclude", "  - stress.rate == 1MB/s\n", 1001);
    assert!(refusal.contains("`exclude` has more than 1000 items"), "{refusal}");
    let refusal = many("expect", "  - { outcome: converged }\n", 1001);
    assert!(refusal.contains("`expect` has more than 1000 items"), "{refusal}");
    // Each error costs another reading of the list, so not all are counted.
    let refusal = many("timeline", "  - { at: 1s, speed: 3mbit }\n", 20_000);
    assert!(refusal.contains("unknown key `speed`"), "{refusal}");
    let refusal = output(&"[".repeat(200_000));
    assert!(refusal.contains("lists and mappings are nested deeper than 64"), "{refusal}");
}

#[test]
fn messages_about_a_long_line_are_short() {
    let rates: Vec<String> = (0..50_000).map(|i| format!("{i}xB/s")).collect();
    let text = output(&format!("name: n\naxes: {{ stress.rate: [{}] }}\n", rates.join(",")));
    assert!(text.len() < 50_000, "{} bytes for {} errors", text.len(), text.matches("error: ").count());
    let shown = text.lines().find(|line| line.contains(",49xB/s,")).unwrap();
    assert!(shown.starts_with("2 | …") && shown.ends_with('…'), "{shown}");
    // Keys and values are quoted, and so are line ends in them.
    let key = format!("\"k\\n\\nerror: {}\"", "é".repeat(9_000));
    let text = output(&format!("name: n\nlink: {{ {key}: 1 }}\n"));
    assert!(text.len() < 10_000, "{} bytes", text.len());
    assert!(text.starts_with("error: ") && text.matches("\nerror: ").count() == 0, "{text}");
}

/// Valid matrix files, which the property test damages.
const VALID: [&str; 2] =
    [include_str!("../../../scenarios/smoke.yaml"), include_str!("../../../scenarios/icclab/threshold.yaml")];

/// Generates a matrix file with a few edits: characters or lines that are inserted, removed or swapped, or
/// lines that are cut off.
fn damaged() -> impl Strategy<Value = String> {
    let pieces = vec![
        "\t",
        "{",
        "}",
        "[",
        "]",
        "- ",
        ": ",
        "\"",
        "'",
        "&a *a",
        "!x ",
        "é",
        "0",
        "-1",
        "\n",
        "\r\n",
        "#",
        "|",
        "? ",
        "...\n",
        "---\n",
        "null",
        "1e999",
        "99999999999TB",
        "100%",
        "\u{0}",
        "\u{feff}",
        "name: x\n",
    ];
    let piece = prop_oneof![prop::sample::select(pieces).prop_map(str::to_owned), "\\PC{0,4}"];
    let edit = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..5u8, piece);
    (prop::sample::select(VALID.to_vec()), prop::collection::vec(edit, 1..5)).prop_map(|(valid, edits)| {
        let mut lines: Vec<String> = valid.lines().map(|line| format!("{line}\n")).collect();
        for (line, at, kind, piece) in edits {
            let (line, of) = (line.index(lines.len()), lines.len());
            let ends: Vec<usize> = lines[line].char_indices().map(|(end, _)| end).collect();
            let column = ends.get(at.index(ends.len().max(1))).copied().unwrap_or(0);
            match kind {
                0 => lines[line].insert_str(column, &piece),
                1 => lines.swap(line, at.index(of)),
                2 if of > 1 => drop(lines.remove(line)),
                3 => lines[line].truncate(column),
                _ => lines.insert(line, piece),
            }
        }
        lines.concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_text_panics_and_every_error_has_a_position(
        text in prop_oneof![4 => damaged(), 1 => any::<String>()]
    ) {
        if let Err(diagnostics) = File::parse(&text, "matrix.yaml").and_then(|file| file.expand()) {
            prop_assert!(!diagnostics.list.is_empty(), "an error without a message\n{}", text);
            for diagnostic in &diagnostics.list {
                // An error about something missing from the file has no position, but the path of a key.
                let Some(position) = diagnostic.position else {
                    let named = !diagnostic.path.segments().is_empty();
                    prop_assert!(named, "neither position nor path: {}\n{text}", diagnostic.message);
                    continue;
                };
                let line = text.lines().nth(position.line - 1).unwrap_or_default();
                prop_assert!(position.line <= text.lines().count() + 1, "{diagnostics}\n{text}");
                prop_assert!(position.column <= line.chars().count() + 1, "{diagnostics}\n{text}");
            }
            prop_assert!(diagnostics.to_string().starts_with("error: "));
        }
    }
}
