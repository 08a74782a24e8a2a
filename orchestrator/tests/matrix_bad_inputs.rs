//! Every way in which a matrix file can be wrong, with the exact message that its author gets.
//!
//! `matrix/bad-inputs.txt` holds the cases: a title, the file, and what is printed. After a deliberate change
//! of messages, `UPDATE_GOLDEN=1 cargo test --test matrix_bad_inputs` writes them anew; read the difference.

use std::{fmt::Write, fs, path::Path};
use testbed::matrix::File;

const TITLE: &str = "#### ";
const OUTPUT: &str = "----\n";

/// What is printed for a file, or that it is accepted.
fn output(text: &str) -> String {
    match File::parse(text, "matrix.yaml").and_then(|file| file.expand()) {
        Ok(plan) => format!("accepted: {} cells\n", plan.cells.len()),
        Err(diagnostics) => diagnostics.to_string(),
    }
}

#[test]
fn every_bad_input_gets_its_message() {
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
fn no_text_makes_the_reader_panic() {
    let whole = include_str!("../../scenarios/smoke.yaml");
    let ends: Vec<usize> = whole.char_indices().map(|(i, _)| i).collect();
    for end in ends.iter().step_by(3) {
        output(&whole[..*end]);
    }
    for (i, line) in whole.lines().enumerate() {
        for inserted in ["\t", "{", "]", "- ", ": ", "\"", "&a *a", "!x ", "é", "0"] {
            let mut lines: Vec<&str> = whole.lines().collect();
            let changed = format!("{inserted}{line}");
            lines[i] = &changed;
            output(&lines.join("\n"));
            let changed = format!("{line}{inserted}");
            lines[i] = &changed;
            output(&lines.join("\r\n"));
        }
    }
}
